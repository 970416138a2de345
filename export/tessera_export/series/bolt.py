"""Read the facts of a Chronos-Bolt folder, and define the module that is traced.

The graph maps scaled patches to scaled quantiles. Scaling and patching stay in NumPy
(tessera_onnx.series.patching): ONNX has no operator for a mean that ignores NaN, and tracing would
freeze upstream's `if length % patch_size`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tessera_export.errors import ExportError
from tessera_onnx.models.spec_media import TimeSeries

ARCHITECTURE = "ChronosBoltModelForForecasting"
PACKAGE, EXTRA = "chronos-forecasting", "series"
SETTINGS = "chronos_config"
INPUTS = ("patches", "attention_mask")
OUTPUT = "quantiles"


def model_class() -> Any:
    """Upstream's class. Raises ImportError."""
    from chronos.chronos_bolt import ChronosBoltModelForForecasting

    return ChronosBoltModelForForecasting


def recipe(settings: dict[str, Any]) -> TimeSeries:
    """The recipe in the `chronos_config` of config.json.

    Raises ExportError for overlapping patches, KeyError for a fact that is missing.
    """
    if settings["input_patch_stride"] != settings["input_patch_size"]:
        raise ExportError("input_patch_stride differs from input_patch_size: no recipe says that")
    quantiles = tuple(map(float, settings["quantiles"]))
    return TimeSeries(
        output=OUTPUT,
        context_length=settings["context_length"],
        patch_size=settings["input_patch_size"],
        output_patch_size=settings["prediction_length"],
        prediction_length=settings["prediction_length"],
        quantiles=quantiles,
        arcsinh=False,
        time_scale=-1,
        rollout_quantiles=quantiles,
        rollout_weights="equal",
        reads=None,
        point=None,
    )


class Split(torch.autograd.Function):
    """(b, n, heads x size) to (b, heads, n, size), in the graph with constant shapes.

    Traced the usual way, half of the graph's nodes compute shapes: a quarter of the time of a
    lone series.
    """

    @staticmethod
    def forward(_ctx: Any, states: Tensor, heads: int) -> Tensor:
        """In torch."""
        return states.unflatten(-1, (heads, -1)).transpose(1, 2)

    @staticmethod
    def symbolic(g: Any, states: Any, heads: int) -> Any:
        """In the graph."""
        shape = g.op("Constant", value_t=torch.tensor([0, 0, heads, -1]))
        return g.op("Transpose", g.op("Reshape", states, shape), perm_i=[0, 2, 1, 3])


class Join(torch.autograd.Function):
    """The way back."""

    @staticmethod
    def forward(_ctx: Any, states: Tensor) -> Tensor:
        """In torch."""
        return states.transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(g: Any, states: Any) -> Any:
        """In the graph."""
        shape = g.op("Constant", value_t=torch.tensor([0, 0, -1]))
        return g.op("Reshape", g.op("Transpose", states, perm_i=[0, 2, 1, 3]), shape)


def attend(layer: Any, states: Tensor, bias: Tensor) -> Tensor:
    """T5's self-attention, which does not scale by the root of the size."""
    query: Tensor = Split.apply(layer.q(states), layer.n_heads)
    key: Tensor = Split.apply(layer.k(states), layer.n_heads)
    value: Tensor = Split.apply(layer.v(states), layer.n_heads)
    weights = torch.softmax(query @ key.transpose(2, 3) + bias, dim=-1)
    found: Tensor = layer.o(Join.apply(weights @ value))
    return found


def look(layer: Any, state: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
    """Attention of one state (b, 1, d) to a memory (b, n, d).

    Keys and values of the whole memory are not needed: the query goes through the keys' weights,
    and the values' weights come after the mean.
    """
    size, memory = layer.key_value_proj_dim, memory.unsqueeze(1)
    to_key, to_value = (
        linear.weight.view(layer.n_heads, size, -1) for linear in (layer.k, layer.v)
    )
    query: Tensor = Split.apply(layer.q(state), layer.n_heads) @ to_key
    weights = torch.softmax(query @ memory.transpose(2, 3) + bias, dim=-1)
    found: Tensor = layer.o(Join.apply(weights @ memory @ to_value.transpose(1, 2)))
    return found


class Core(nn.Module):
    """Upstream's model without scaling and patching."""

    def __init__(self, model: Any) -> None:
        """`model` is upstream's."""
        super().__init__()
        self.model = model
        self.eval()  # the tracer would put the model back into the mode of a new module, training

    def forward(self, patches: Tensor, attention_mask: Tensor) -> Tensor:
        """(b, n, 2 x patch) and int64 (b, n) to (b, quantiles, steps)."""
        model = self.model
        hidden = model.input_patch_embedding(patches)
        # Rows of the table in place of upstream's lookups: ids made by torch.full trace as floats.
        table = model.shared.weight
        mask = attention_mask.to(hidden.dtype)
        if model.chronos_config.use_reg_token:
            token = table[model.config.reg_token_id].expand(patches.shape[0], 1, -1)
            hidden = torch.cat([hidden, token], dim=1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        bias = (1 - mask)[:, None, None, :] * torch.finfo(hidden.dtype).min
        encoded = self._encode(hidden, bias)
        start = table[model.config.decoder_start_token_id].expand(patches.shape[0], 1, -1)
        forecast: Tensor = model.output_patch_embedding(self._decode(start, encoded, bias))
        settings = model.chronos_config
        return forecast.view(-1, len(settings.quantiles), settings.prediction_length)

    def _encode(self, hidden: Tensor, mask: Tensor) -> Tensor:
        encoder = self.model.encoder
        n = hidden.shape[1]
        bias = mask + encoder.block[0].layer[0].SelfAttention.compute_bias(n, n)
        for block in encoder.block:
            attention, feed_forward = block.layer
            states = attention.layer_norm(hidden)
            hidden = hidden + attend(attention.SelfAttention, states, bias)
            hidden = feed_forward(hidden)
        found: Tensor = encoder.final_layer_norm(hidden)
        return found

    def _decode(self, hidden: Tensor, encoded: Tensor, mask: Tensor) -> Tensor:
        """One step: a lone token that attends to itself is its own value."""
        decoder = self.model.decoder
        for block in decoder.block:
            own, cross, feed_forward = block.layer
            alone = own.SelfAttention
            hidden = hidden + alone.o(alone.v(own.layer_norm(hidden)))
            states = cross.layer_norm(hidden)
            hidden = hidden + look(cross.EncDecAttention, states, encoded, mask)
            hidden = feed_forward(hidden)
        found: Tensor = decoder.final_layer_norm(hidden)
        return found

    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace: no axis is 1, and one patch is masked."""
        width = 2 * self.model.chronos_config.input_patch_size
        mask = torch.ones(2, 5, dtype=torch.int64)
        mask[0, :2] = 0
        return torch.linspace(-1, 1, 2 * 5 * width).view(2, 5, width), mask


def upstream(model: Any, context: Tensor, n_patches: int, groups: Tensor) -> Tensor:
    """Upstream's quantiles for (b, t), NaN = missing: (b, quantiles, steps)."""
    del n_patches, groups
    forecast: Tensor = model(context=context).quantile_preds
    return forecast

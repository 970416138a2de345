"""Chronos-Bolt: what its folder says, and its graph between scaled patches and scaled quantiles.

Scaling and patching stay in NumPy (tessera_onnx.patching): a NaN-aware mean has no ONNX operator,
and tracing would freeze upstream's `if length % patch_size`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tessera_export.errors import ExportError
from tessera_onnx.registry import TimeSeries

ARCHITECTURE = "ChronosBoltModelForForecasting"
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
    )


class Core(nn.Module):
    """Upstream's model without scaling and patching."""

    def __init__(self, model: Any) -> None:
        """`model` is upstream's, with eager attention."""
        super().__init__()
        self.model = model
        self.eval()  # the tracer would put the model back into the mode of a new module, training

    def forward(self, patches: Tensor, attention_mask: Tensor) -> Tensor:
        """(b, n, 2 x patch) and int64 (b, n) to (b, quantiles, steps)."""
        model = self.model
        hidden = model.input_patch_embedding(patches)
        # Rows of the table in place of upstream's lookups: ids made by torch.full trace as floats.
        table = model.shared.weight
        batch = patches.shape[0]
        mask = attention_mask
        if model.chronos_config.use_reg_token:
            token = table[model.config.reg_token_id].expand(batch, 1, -1)
            hidden = torch.cat([hidden, token], dim=1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        mask = mask.to(hidden.dtype)
        encoded = model.encoder(attention_mask=mask, inputs_embeds=hidden)[0]
        start = table[model.config.decoder_start_token_id].expand(batch, 1, -1)
        decoded = model.decoder(
            inputs_embeds=start,
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            return_dict=True,
        ).last_hidden_state
        settings = model.chronos_config
        forecast: Tensor = model.output_patch_embedding(decoded)
        return forecast.view(batch, len(settings.quantiles), settings.prediction_length)

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

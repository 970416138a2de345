"""Read the facts of a Chronos-2 folder, and define the module that is traced.

The graph maps scaled patches to scaled quantiles. One encoder reads the patches of the past and of
the future; every second attention layer attends across the series of a group. The covariates of
upstream's tables are not part of the graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tessera_export.errors import ExportError
from tessera_onnx.models.spec_media import TimeSeries

ARCHITECTURE = "Chronos2Model"
PACKAGE, EXTRA = "chronos-forecasting", "series"
SETTINGS = "chronos_config"
INPUTS = ("patches", "attention_mask", "future_patches", "group_ids")
OUTPUT = "quantiles"
# The paths that upstream continues past the longest pass (chronos2/pipeline.py, predict).
PATHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def model_class() -> Any:
    """Upstream's class. Raises ImportError."""
    from chronos.chronos2 import Chronos2Model

    return Chronos2Model


def recipe(settings: dict[str, Any]) -> TimeSeries:
    """The recipe in the `chronos_config` of config.json.

    Raises ExportError for overlapping patches and for a model without the token between past and
    future, which upstream cannot run either; KeyError for a fact that is missing.
    """
    if not settings.get("use_reg_token"):
        raise ExportError("use_reg_token is not set: upstream runs no Chronos-2 without it")
    if settings["input_patch_stride"] != settings["input_patch_size"]:
        raise ExportError("input_patch_stride differs from input_patch_size: no recipe says that")
    return TimeSeries(
        output=OUTPUT,
        context_length=settings["context_length"],
        patch_size=settings["input_patch_size"],
        output_patch_size=settings["output_patch_size"],
        prediction_length=settings["max_output_patches"] * settings["output_patch_size"],
        quantiles=tuple(map(float, settings["quantiles"])),
        arcsinh=settings["use_arcsinh"],
        # Upstream takes the context length where nothing is said (chronos2/model.py, __init__).
        time_scale=settings.get("time_encoding_scale") or settings["context_length"],
        rollout_quantiles=PATHS,
        rollout_weights="mass",
        reads=None,
        point=None,
    )


class Core(nn.Module):
    """Upstream's model without scaling and patching."""

    def __init__(self, model: Any) -> None:
        """`model` is upstream's, with eager attention."""
        super().__init__()
        self.model = model
        self.eval()  # the tracer would put the model back into the mode of a new module, training

    def forward(
        self, patches: Tensor, attention_mask: Tensor, future_patches: Tensor, group_ids: Tensor
    ) -> Tensor:
        """Patches (b, n, 3 x patch) and (b, m, 3 x patch) to (b, quantiles, m x patch)."""
        model = self.model
        batch, n_future = future_patches.shape[:2]
        # The row of the table: an id made by torch.full traces as a float.
        token = model.shared.weight[model.config.reg_token_id].expand(batch, 1, -1)
        past, future = map(model.input_patch_embedding, (patches, future_patches))
        hidden = torch.cat([past, token, future], dim=1)
        ones = torch.ones_like(hidden[:, : n_future + 1, 0], dtype=torch.int64)
        encoded = model.encoder(
            inputs_embeds=hidden,
            attention_mask=torch.cat([attention_mask, ones], dim=1).to(hidden.dtype),
            group_ids=group_ids,
        )[0]
        settings = model.chronos_config
        forecast: Tensor = model.output_patch_embedding(encoded[:, -n_future:])
        levels, size = len(settings.quantiles), settings.output_patch_size
        by_level = forecast.view(batch, n_future, levels, size).transpose(1, 2)
        return by_level.reshape(batch, levels, n_future * size)

    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace: no axis is 1, one patch is masked, two of three series are a group."""
        width = 3 * self.model.chronos_config.input_patch_size
        mask = torch.ones(3, 5, dtype=torch.int64)
        mask[0, :2] = 0
        past = torch.linspace(-1, 1, 3 * 5 * width).view(3, 5, width)
        return past, mask, past[:, :2] / 2, torch.tensor([0, 0, 1])


def upstream(model: Any, context: Tensor, n_patches: int, groups: Tensor) -> Tensor:
    """Upstream's quantiles for (b, t), NaN = missing: (b, quantiles, steps)."""
    forecast: Tensor = model(
        context=context, group_ids=groups, num_output_patches=n_patches
    ).quantile_preds
    return forecast

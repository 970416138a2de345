"""Read the facts of a TinyTimeMixer folder, and define the module that is traced.

The graph maps a window of scaled values to scaled forecasts, one value a step. Scaling stays in
NumPy (tessera_onnx.series.patching). Upstream is ibm-granite/granite-tsfm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tessera_export.errors import ExportError
from tessera_onnx.models.spec_media import TimeSeries

ARCHITECTURE = "TinyTimeMixerForPrediction"
PACKAGE, EXTRA = "granite-tsfm", "ttm"
SETTINGS = ""  # the facts stand in config.json itself
INPUTS = ("past_values",)
OUTPUT = "forecast"
# What upstream's loss makes of the one value a step; the first is its default.
POINTS = {"mse": "mean", "mae": "median"}
# Values that this graph can have; the first is upstream's default (configuration_tinytimemixer.py).
COMPUTED: dict[str, tuple[Any, ...]] = {
    "scaling": ("std", True),
    "loss": tuple(POINTS),
    "mode": ("common_channel",),
    "decoder_mode": ("common_channel",),
    "enable_forecast_channel_mixing": (False,),
    "prediction_channel_indices": (None,),
    "exogenous_channel_indices": (None,),
    "categorical_vocab_size_list": (None,),
    "masked_context_length": (None,),
    "resolution_prefix_tuning": (False,),  # another input: a number for the frequency
    # Of the third release:
    "multi_quantile_head": (False,),
    "multi_scale": (False,),
    "register_tokens": (0,),
    "fft_length": (0,),
}


def model_class() -> Any:
    """Upstream's class. Raises ImportError."""
    from tsfm_public.models.tinytimemixer import TinyTimeMixerForPrediction

    return TinyTimeMixerForPrediction


def recipe(settings: dict[str, Any]) -> TimeSeries:
    """The recipe in config.json.

    Raises ExportError for a setting that this graph does not compute, KeyError for a fact that is
    missing.
    """
    chosen = {key: settings.get(key, values[0]) for key, values in COMPUTED.items()}
    for key, value in chosen.items():
        if value not in COMPUTED[key]:
            known = " or ".join(map(repr, COMPUTED[key]))
            raise ExportError(f"config.json: {key} is {value!r:.80}, only {known} is exported")
    steps = settings.get("prediction_filter_length") or settings["prediction_length"]
    return TimeSeries(
        output=OUTPUT,
        context_length=settings["context_length"],
        patch_size=settings["patch_length"],
        output_patch_size=steps,
        prediction_length=steps,
        quantiles=(),
        arcsinh=False,
        time_scale=-1,
        rollout_quantiles=(),
        rollout_weights="equal",
        reads="window",
        point="mean" if POINTS[chosen["loss"]] == "mean" else "median",
    )


class Core(nn.Module):
    """Upstream's model without scaling."""

    def __init__(self, model: Any) -> None:
        """`model` is upstream's."""
        super().__init__()
        self.model = model
        self.eval()  # the tracer would put the model back into the mode of a new module, training

    def forward(self, past_values: Tensor) -> Tensor:
        """Scaled values (b, context) to scaled forecasts (b, 1, steps)."""
        model = self.model
        patcher = model.backbone.patching
        # Upstream's unfold has no operator in ONNX; its patches do not overlap.
        patches = past_values[:, patcher.sequence_start :].view(
            -1, 1, patcher.num_patches, patcher.patch_length
        )
        hidden = model.backbone.encoder(patches, return_dict=True).last_hidden_state
        if model.use_decoder:
            hidden = model.decoder(hidden_state=hidden, patch_input=patches)[0]
        forecast: Tensor = model.head(hidden, past_values=past_values.unsqueeze(2))
        return forecast.transpose(1, 2)

    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace: two windows."""
        size = self.model.config.context_length
        return (torch.linspace(-1, 1, 2 * size).view(2, size),)


def upstream(model: Any, context: Tensor, n_patches: int, groups: Tensor) -> Tensor:
    """Upstream's forecasts for (b, t), NaN = missing: (b, 1, steps)."""
    del n_patches, groups
    observed = ~torch.isnan(context)
    forecast: Tensor = model(
        past_values=torch.nan_to_num(context)[..., None], past_observed_mask=observed[..., None]
    ).prediction_outputs
    return forecast.transpose(1, 2)

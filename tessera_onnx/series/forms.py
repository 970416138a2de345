"""Prepare series for a graph: patches, a window of scaled values, or the values as they are.

`reads` of a model's recipe names the form. Patches are those of Chronos (patching.py). A window is
what TinyTimeMixer reads (ibm-granite/granite-tsfm, TinyTimeMixerForPrediction.forward): always
`context_length` values, scaled by the root of the variance plus 1e-5, where a missing value is 0
before the scaling. A context is what the graph of TiRex reads (NX-AI/tirex, tirex_onnx.ipynb): the
values themselves, NaN where one is missing, which the graph scales.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import LoadError
from tessera_onnx.models.spec_media import TimeSeries
from tessera_onnx.runtime.session import Array, Port, select
from tessera_onnx.series import patching
from tessera_onnx.series.exact import Float


class Form(NamedTuple):
    """One form of a graph's inputs and output."""

    inputs: tuple[str, ...]  # that the graph must take
    prepare: Callable[[TimeSeries, Float], patching.Patches]
    is_whole: bool = False  # whether the graph reads context_length values of every series
    has_zeros: bool = False  # whether it reads a 0 where a value is missing
    is_raw: bool = False  # whether it reads float32 values in the units of the series
    steps_first: bool = False  # whether the output is (batch, steps, quantiles)


def _patches(recipe: TimeSeries, context: Float) -> patching.Patches:
    return patching.patches(
        context, recipe.patch_size, arcsinh=recipe.arcsinh, time_scale=recipe.time_scale
    )


def _window(_: TimeSeries, context: Float) -> patching.Patches:
    return patching.window(context)


def _unscaled(_: TimeSeries, context: Float) -> patching.Patches:
    return patching.unscaled(context)


FORMS: dict[str | None, Form] = {
    None: Form(("patches", "attention_mask"), _patches),
    "window": Form(("past_values",), _window, is_whole=True, has_zeros=True),
    "context": Form(("context",), _unscaled, is_whole=True, is_raw=True, steps_first=True),
}


def pad(recipe: TimeSeries, series: Sequence[Float]) -> Float:
    """Pad series with NaN on the left, (n, width): to whole patches, or to the whole context."""
    is_whole = FORMS[recipe.reads].is_whole
    return patching.left_pad(series, recipe.context_length if is_whole else recipe.patch_size)


def make_patches(recipe: TimeSeries, context: Float) -> patching.Patches:
    """What the graph reads of (n, width) padded values, and what scales its output back."""
    return FORMS[recipe.reads].prepare(recipe, context)


def feeds(
    recipe: TimeSeries,
    inputs: Mapping[str, Port],
    patched: patching.Patches,
    n_patches: int,
    groups: NDArray[np.int64],
) -> dict[str, Array]:
    """The inputs that a graph takes out of `known_inputs`, in its own dtypes."""
    return select(known_inputs(recipe, patched, n_patches, groups), inputs, "the graph")


def known_inputs(
    recipe: TimeSeries, patched: patching.Patches, n_patches: int, groups: NDArray[np.int64]
) -> dict[str, Array]:
    """Every input that a graph of this form may take, by name.

    `n_patches` is the number of patches to forecast, `groups` (n,) the group of each series.
    """
    if recipe.reads is not None:
        return {FORMS[recipe.reads].inputs[0]: patched.values}
    future = patching.future_patches(len(groups), n_patches, recipe.patch_size, recipe.time_scale)
    return {
        "patches": patched.values,
        "attention_mask": patched.attention,
        "future_patches": future,
        "group_ids": groups,
    }


def check_inputs(recipe: TimeSeries, inputs: Mapping[str, Port], name: str) -> None:
    """Raises LoadError for a graph that is none of this recipe."""
    wanted = FORMS[recipe.reads].inputs
    if not set(wanted) <= inputs.keys():
        raise LoadError(
            f"{name} takes the inputs {', '.join(inputs)!s:.300}: a graph that forecasts takes "
            f"{' and '.join(wanted)}"
        )
    if recipe.prediction_length > recipe.output_patch_size and "future_patches" not in inputs:
        raise LoadError(
            f"{name} has no input future_patches, so one pass forecasts {recipe.output_patch_size} "
            f"steps, not the prediction_length {recipe.prediction_length}"
        )


def output_name(recipe: TimeSeries, outputs: Collection[str], name: str) -> str:
    """The output to run. Raises LoadError for several where the recipe names none."""
    if not recipe.output and len(outputs) != 1:
        raise LoadError(
            f"{name} has the outputs {', '.join(outputs)!s:.300}, and the model's facts do not say "
            "which one is the forecast"
        )
    return recipe.output or next(iter(outputs))


def output_shape(recipe: TimeSeries) -> tuple[int, int, int]:
    """The shape of the output for one series and one output patch."""
    values, steps = len(recipe.quantiles) or 1, recipe.output_patch_size
    return (1, steps, values) if FORMS[recipe.reads].steps_first else (1, values, steps)


def unscale(recipe: TimeSeries, forecast: Array, patched: patching.Patches) -> Float:
    """Convert the graph's output to (n, quantiles, steps) in the units of the series."""
    if FORMS[recipe.reads].steps_first:
        forecast = np.swapaxes(forecast, 1, 2)
    return patching.unscale(forecast, patched, arcsinh=recipe.arcsinh)

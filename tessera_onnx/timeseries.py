"""Quantile forecasts of numeric series."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import batching, patching
from tessera_onnx.errors import ConfigError, EncodingError
from tessera_onnx.model import Model
from tessera_onnx.registry import Kind, Precision, TimeSeries
from tessera_onnx.runtime import Array
from tessera_onnx.series import is_number, read

Float = NDArray[np.float32]


class TesseraTimeSeries(Model):
    """Forecasts of series that the model has never seen.

    A context is one series, a 2-D array with a series a row, or a list of series of any lengths;
    a series is a 1-D array, a list of numbers, or a pandas or polars series of numbers. NaN (and
    a null of pandas or polars) is a missing value. The latest `context_length()` values of a
    series are read, as float32: subtract a large offset before, such as that of a time stamp.

    What upstream answers for a series without any observed value is given here too: the forecast
    of an unknown series of mean 0 and standard deviation 1. A constant series has a scale of 1e-5.
    """

    _kind: ClassVar[Kind] = "time-series"
    _recipe: TimeSeries

    def __init__(
        self,
        model_id: str | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        device: str = "auto",
        precision: Precision | None = None,
        threads: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        offline: bool | None = None,
    ) -> None:
        """Open a model; everything that can be wrong with it is wrong here.

        Args:
            model_id: id or alias; None takes the installed default of this kind.
            path: a model folder, in place of looking the id up.
            device: "auto", "cpu", "cuda", "cuda:N" or "coreml". Only "auto" may fall back.
            precision: "fp32", "fp16" or "int8"; None takes the model's best for the device.
            threads: CPU threads; None takes TESSERA_THREADS, else the affinity and cgroup quota.
            cache_dir: folder of local models; None takes TESSERA_CACHE, else the user's cache.
            offline: True fetches nothing; None lets HF_HUB_OFFLINE decide.

        Raises:
            ModelNotFound, LoadError, IntegrityError, DeviceError: the model cannot be opened.
            ConfigError: an argument cannot work with this model.
        """
        super().__init__(
            model_id,
            path=path,
            device=device,
            precision=precision,
            threads=threads,
            cache_dir=cache_dir,
            offline=offline,
        )
        recipe = self._recipe
        shape = (1, len(recipe.quantiles), recipe.output_patch_size)
        nothing = self._patches(np.full((1, recipe.patch_size), np.nan, np.float32))
        probe = feeds(recipe, self._spec.graph.inputs, nothing, 1, np.zeros(1, np.int64))
        self._session = self._open({recipe.output: shape}, probe)

    def forecast(self, context: Any, horizon: int | None = None) -> Float:
        """The median of each next step: (b, horizon) float32.

        The column of `forecast_quantiles` at the level 0.5; a single series gives b = 1.
        """
        return self.forecast_quantiles(context, horizon, [0.5])[..., 0]

    def forecast_quantiles(
        self, context: Any, horizon: int | None = None, levels: Sequence[float] | None = None
    ) -> Float:
        """Quantiles of each next step: (b, horizon, len(levels)) float32, in the order of `levels`.

        `horizon` is the model's prediction length unless given; any length is possible, and past
        the prediction length each quantile's path is continued and the paths are pooled, as
        upstream does. `levels` are those the model was trained for unless given; others are
        interpolated, and outside the trained ones the outermost values hold.

        Quantiles never cross: the values of a step are sorted, always as upstream does where it
        interpolates. Where the model's own values do not cross, which they hardly ever do in a
        trained model, trained levels are upstream's.

        Raises TypeError for what is no series of numbers, ConfigError for an empty series, for
        infinity (also values beyond float32), for a horizon below 1 and a level outside (0, 1),
        EncodingError when the graph fails.
        """
        recipe = self._recipe
        steps = _check_horizon(horizon, recipe.prediction_length)
        wanted = recipe.quantiles if levels is None else _check_levels(levels)
        series = [values[-recipe.context_length :] for values in read(context)]
        self._session.check_open()
        quantiles = np.empty((len(series), steps, len(wanted)), dtype=np.float32)
        batches = self._plan(series, steps)

        def work(picked: NDArray[np.intp]) -> None:
            try:
                found = self._rollout([series[i] for i in picked], steps, parallel=len(batches) > 1)
            except EncodingError as error:
                names = ", ".join(map(str, sorted(picked.tolist())))
                raise EncodingError(f"series {names}: {error}") from error
            by_step = np.swapaxes(found, 1, 2)
            quantiles[picked] = patching.at_levels(by_step, recipe.quantiles, wanted)

        failure = batching.run(work, batches, self._session.workers)
        if failure is not None:
            raise failure
        return quantiles

    def prediction_length(self) -> int:
        """Steps that the model forecasts in one pass, and the default horizon."""
        return self._recipe.prediction_length

    def context_length(self) -> int:
        """Latest values of a series that are read; earlier ones change nothing."""
        return self._recipe.context_length

    def quantiles(self) -> tuple[float, ...]:
        """The levels that the model was trained for."""
        return self._recipe.quantiles

    def _plan(self, series: Sequence[Float], horizon: int) -> list[NDArray[np.intp]]:
        recipe = self._recipe
        paths = len(recipe.rollout_quantiles) if horizon > recipe.prediction_length else 1
        # Two positions more than patches: the graph's own token, and the step before the end.
        return batching.plan([(len(s) // recipe.patch_size + 2) * paths for s in series])

    def _rollout(self, series: Sequence[Float], horizon: int, *, parallel: bool) -> Float:
        """The trained quantiles, (n, quantiles, horizon), as the graph orders them.

        Past one pass every path (the context and a quantile's forecast) is forecast on its own;
        the quantiles of all that are the next block, and what the paths are continued with.
        """
        recipe = self._recipe
        context = patching.left_pad(series, recipe.patch_size)
        blocks = [self._forecast(context, horizon, parallel=parallel)]
        left = horizon - blocks[0].shape[2]
        n, paths = len(series), len(recipe.rollout_quantiles)
        rows = [recipe.quantiles.index(level) for level in recipe.rollout_quantiles]
        context = np.repeat(context[:, None], paths, axis=1)
        while left > 0:
            context = np.concatenate([context, blocks[-1][:, rows]], axis=2)
            context = context[:, :, -recipe.context_length :]
            flat = context.reshape(n * paths, -1)
            samples = self._forecast(flat, left, parallel=parallel)
            blocks.append(patching.pool(samples.reshape(n, -1, samples.shape[2]), recipe.quantiles))
            left -= samples.shape[2]
        return np.concatenate(blocks, axis=2)[:, :, :horizon]

    def _forecast(self, context: Float, horizon: int, *, parallel: bool) -> Float:
        """One pass over (n, t), t whole patches: (n, quantiles, steps of that pass)."""
        recipe = self._recipe
        patched = self._patches(context)
        n_patches = -(-min(horizon, recipe.prediction_length) // recipe.output_patch_size)
        inputs = feeds(recipe, self._session.inputs, patched, n_patches, np.arange(len(context)))
        (scaled,) = self._session.run(inputs, parallel=parallel)
        quantiles = patching.unscale(scaled, patched, arcsinh=recipe.arcsinh)
        if not np.isfinite(quantiles).all():
            raise EncodingError("the forecast leaves the range of float32: scale the series down")
        return quantiles

    def _patches(self, context: Float) -> patching.Patches:
        recipe = self._recipe
        return patching.patches(
            context, recipe.patch_size, arcsinh=recipe.arcsinh, time_scale=recipe.time_scale
        )

    def __repr__(self) -> str:
        length = self._recipe.prediction_length
        return f"{type(self).__name__}(model={self._spec.id!r}, prediction_length={length})"


def feeds(
    recipe: TimeSeries,
    inputs: Sequence[str],
    patched: patching.Patches,
    n_patches: int,
    groups: NDArray[np.int64],
) -> dict[str, Array]:
    """The graph's inputs, by name: `n_patches` to forecast, `groups` (n,) that see each other."""
    known: dict[str, Array] = {"patches": patched.values, "attention_mask": patched.attention}
    if "future_patches" in inputs:
        known["future_patches"] = patching.future_patches(
            len(groups), n_patches, recipe.patch_size, recipe.time_scale
        )
    if "group_ids" in inputs:
        known["group_ids"] = groups
    return {name: known[name] for name in inputs}


def _check_horizon(horizon: int | None, default: int) -> int:
    if horizon is None:
        return default
    if isinstance(horizon, bool) or not isinstance(horizon, int | np.integer):
        raise TypeError(f"horizon must be int or None, got {type(horizon).__name__}")
    if horizon < 1:
        raise ConfigError(f"horizon must be at least 1, got {horizon}")
    return int(horizon)


def _check_levels(levels: Sequence[float]) -> tuple[float, ...]:
    if isinstance(levels, str | bytes) or not hasattr(levels, "__iter__"):
        raise TypeError(f"levels must be a list of numbers, got {type(levels).__name__}")
    checked = []
    for i, level in enumerate(levels):
        if not is_number(level):
            raise TypeError(f"levels[{i}] must be a number, got {type(level).__name__}")
        if not 0 < level < 1:
            raise ConfigError(f"levels[{i}] must lie between 0 and 1, both excluded, got {level}")
        checked.append(float(level))
    if not checked:
        raise ConfigError("levels is empty: name one level at least, or None for the trained ones")
    return tuple(checked)

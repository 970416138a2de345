"""Quantile forecasts of numeric series."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar, Literal, Unpack

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.base import Model, Options
from tessera_onnx.errors import ConfigError, EncodingError
from tessera_onnx.models.spec import Kind, TimeSeries
from tessera_onnx.runtime import batching, workers
from tessera_onnx.runtime.session import Array, Session
from tessera_onnx.series import patching
from tessera_onnx.series.exact import LARGEST, Float, is_rounded, needs_float64
from tessera_onnx.series.inputs import (
    check_extrapolate,
    check_horizon,
    check_levels,
    of_outside,
    outside,
    read_series,
    tell,
)
from tessera_onnx.series.table import names

# Pairs of series at a position that one pass may compare. A pair takes 16 bytes a head (measured),
# so this is 6 GB for the 12 heads of Chronos-2.
MOST_PAIRS = 1 << 25


class TesseraTimeSeries(Model):
    """Forecasts of series that the model has never seen.

    A context is one series, a 2-D array with a series a row, or a list of series of any lengths;
    a series is a 1-D array, a list of numbers, or a pandas or polars series of numbers. NaN (and
    a null of pandas or polars) is a missing value. The latest `context_length()` values of a
    series are read; they are centred and scaled in float64. A series of pandas whose index is times
    is sorted by them, which a ForecastWarning says.

    Forecasts are float32, and float64 where a series of the call needs it: where float32 numbers
    of its size lie further apart than 0.001 of its standard deviation (waves of 10 on a level of
    1e8), or where it is constant, beyond 2**24, and not held by float32. What came as float32 and
    was rounded by it before is told by a ForecastWarning.

    A series without any observed value has no forecast: it is NaN, and a ForecastWarning names it.
    Other series of the call are as without it, those of its group too. The scale of a constant
    series is 1e-5, as upstream's.

    An int8 graph quantizes activations a batch at a time, so there a forecast also depends a
    little on the series in the same call; fp32 and fp16 graphs have no such dependence.
    """

    _kind: ClassVar[Kind] = "time-series"
    _recipe: TimeSeries
    _session: Session

    def __init__(self, model_id: str | None = None, **options: Unpack[Options]) -> None:
        """Open a model; `options` are those of `Model`, and its errors are raised.

        Args:
            model_id: id or alias; None takes the first installed model of this kind.
            **options: path, device, precision, threads, cache_dir and offline.
        """
        super().__init__(model_id, **options)
        recipe = self._recipe
        shape = (1, len(recipe.quantiles), recipe.output_patch_size)
        nothing = self._patches(np.full((1, recipe.patch_size), np.nan))
        probe = feeds(recipe, self._spec.main_graph().inputs, nothing, 1, np.zeros(1, np.int64))
        self._session = self._open({recipe.output: shape}, probe)

    def forecast(
        self,
        context: Any,
        horizon: int | None = None,
        *,
        groups: Sequence[Any] | None = None,
        timeout: float | None = None,
        cancel: workers.Event | None = None,
    ) -> Float:
        """The median of each next step: (b, horizon), float32 or float64 as the class says.

        The column of `forecast_quantiles` at the level 0.5; a single series gives b = 1.
        """
        return self.forecast_quantiles(
            context, horizon, [0.5], groups=groups, timeout=timeout, cancel=cancel
        )[..., 0]

    def forecast_quantiles(
        self,
        context: Any,
        horizon: int | None = None,
        levels: Sequence[float] | None = None,
        *,
        groups: Sequence[Any] | None = None,
        extrapolate: Literal["tails"] | None = None,
        timeout: float | None = None,
        cancel: workers.Event | None = None,
    ) -> Float:
        """Quantiles of each next step: (b, horizon, len(levels)), in the order of `levels`.

        `horizon` is the model's prediction length unless given, at most 65536; past the prediction
        length each quantile's path is continued and the paths are pooled, as upstream does.
        `levels` are those the model was trained for unless given; others are interpolated. Outside
        the trained ones the outermost values hold, which a ForecastWarning says: an interval from
        0.025 to 0.975 covers no more than that from 0.1 to 0.9, where these are the outermost.
        `extrapolate="tails"` continues them instead, by exponential tails as steep as the two
        outermost levels are. With the model of the starter pack, intervals of 95 % then covered 93
        to 98 % of what followed in electricity, exchange rates and M4 hourly, 77 to 85 % without.

        Quantiles never cross: the values of a step are sorted, always as upstream does where it
        interpolates. Where the model's own values do not cross, which they hardly ever do in a
        trained model, trained levels are upstream's.

        `groups`, one label a series, lets a model of several series (Chronos-2) read those of one
        label together: several measurements of one thing, of about the same time. They are one
        batch, whose memory grows with the square of their number (past the prediction length, of
        all their paths). Without it each series is forecast from itself alone.

        After `timeout` seconds, or when another thread sets the event `cancel`, no further pass is
        begun and TimedOut or Cancelled is raised; the model can be used as before.

        Raises TypeError for what is no series of numbers, ConfigError for an empty series, for
        infinity (also values beyond float32), for whole numbers whose changes float64 does not
        hold, for a horizon outside 1..65536, a level outside
        (0, 1), and groups that are not one a series, too large, or that the model cannot read,
        EncodingError when the graph fails.
        """
        limit = workers.Limit(timeout, cancel)
        recipe = self._recipe
        steps = check_horizon(horizon, recipe.prediction_length)
        wanted = recipe.quantiles if levels is None else check_levels(levels)
        check_extrapolate(extrapolate)
        series = read_series(context, recipe.context_length)
        self._session.check_open()
        limit.check()
        labels = self._labels(groups, len(series))
        live = np.array([not np.isnan(values).all() for values in series], dtype=bool)
        dtype = np.float64 if any(map(needs_float64, series)) else np.float32
        quantiles = np.full((len(series), steps, len(wanted)), np.nan, dtype=dtype)
        batches = self._plan(series, labels, np.flatnonzero(live), steps)
        failure = workers.Failure()

        def work(picked: NDArray[np.intp]) -> None:
            try:
                rows = [series[i] for i in picked]
                with np.errstate(under="ignore"):  # of tiny values, which may be raised as errors
                    found = self._rollout(
                        rows,
                        labels[picked],
                        steps,
                        parallel=len(batches) > 1,
                        failure=failure,
                        limit=limit,
                    )
                    by_step = np.swapaxes(found, 1, 2)
                    values = patching.at_levels(
                        by_step, recipe.quantiles, wanted, tails=extrapolate == "tails"
                    )
                    quantiles[picked] = _in_range(values)
            except EncodingError as error:
                raise EncodingError(f"series {names(np.sort(picked).tolist())}: {error}") from error

        workers.run_batches(work, batches, self._session.workers, failure, limit)
        failure.check()
        if not live.all():
            dead = names(np.flatnonzero(~live).tolist())
            tell(f"series {dead}: none of the values that are read is known, the forecast is NaN")
        for kind, fix in (("float32", "give float64 numbers"), ("float64", "subtract an offset")):
            if rounded := [i for i, v in enumerate(series) if v.dtype == kind and is_rounded(v)]:
                tell(
                    f"series {names(rounded)}: {kind}, in which they came, rounds their changes "
                    f"away: {fix}"
                )
        if extrapolate is None and (beyond := outside(wanted, recipe.quantiles)):
            tell(of_outside(beyond, recipe.quantiles))
        return quantiles

    def forecast_frame(
        self,
        df: Any,
        *,
        id: str | None = None,  # noqa: A002 (the name of the column's role, as timestamp and target)
        timestamp: str = "timestamp",
        target: str = "target",
        horizon: int | None = None,
        levels: Sequence[float] | None = None,
        extrapolate: Literal["tails"] | None = None,
        timeout: float | None = None,
        cancel: workers.Event | None = None,
    ) -> Any:
        """Forecasts of the series in a data frame, as a frame of the same library.

        `df` is a frame of pandas, polars, PyArrow or another library with eager frames that
        narwhals reads, in long form: a row is a series' value at a time. `id` names the column
        that tells series apart, None where there is one series; `timestamp` a column of datetimes,
        dates, integers or texts that tell dates; `target` a column of numbers, where null and NaN
        are missing values. The rows of a series are sorted by time, which a ForecastWarning says
        where it changes their order; a time that comes twice in a series is an error. They have
        one step, which is inferred and must be the same for all series: months, quarters and years
        on a day or at the month's end, days, weeks, business days, or any fixed time. Steps of
        days and more keep the local time of a time zone.

        Integers such as 202412 and 20241231 are months and days where all of a column are, and go
        on as 202501. Texts are read in ISO form, in another with a year of four digits, such as
        31.12.2024, 12/31/2024, 2024Q4 and Dec 2024, and as integers, and are written in their own
        form. There is an error where days and months cannot be told apart.

        The result has `horizon` rows a series, in the order in which the series first appear: the
        id, the next timestamps in the type and time zone of `df` (integers as int64), the median
        as "forecast", and a column a level named as chronos-forecasting does, "0.1" to "0.9" by
        default, in the type of `forecast_quantiles`. Where levels lie outside the trained ones, the
        text column "outside_trained" names them, such as "0.025,0.975". The other arguments
        are those of `forecast_quantiles`.

        Without `id`, a column of texts that repeat is an error, since the rows are likely those of
        several series: name it, or leave it out of the frame.

        Raises ImportError without narwhals (the extra `frames`), TypeError for
        what is no eager frame, ConfigError for columns that are missing, of a wrong type or with
        nulls in id or timestamp, and for timestamps that repeat, are irregular or too few to tell
        their step; and what `forecast_quantiles` raises.
        """
        from tessera_onnx.series import frames

        return frames.forecast(
            df,
            functools.partial(
                self.forecast_quantiles, extrapolate=extrapolate, timeout=timeout, cancel=cancel
            ),
            check_horizon(horizon, self.prediction_length()),
            self.quantiles() if levels is None else check_levels(levels),
            self.quantiles(),
            id=id,
            timestamp=timestamp,
            target=target,
        )

    def prediction_length(self) -> int:
        """Steps that the model forecasts in one pass, and the default horizon."""
        return self._recipe.prediction_length

    def context_length(self) -> int:
        """Latest values of a series that are read; earlier ones change nothing."""
        return self._recipe.context_length

    def quantiles(self) -> tuple[float, ...]:
        """The levels that the model was trained for."""
        return self._recipe.quantiles

    def _labels(self, groups: Sequence[Any] | None, n: int) -> NDArray[np.int64]:
        """A number a series, the same for those that are read together."""
        if groups is None:
            return np.arange(n, dtype=np.int64)
        if "group_ids" not in self._session.inputs:
            raise ConfigError(f"model {self._spec.id!r} reads every series alone: leave groups out")
        # A set has no order, and a dict's is that of its keys.
        alone = not hasattr(groups, "__len__") or getattr(groups, "ndim", 1) == 0
        if alone or isinstance(groups, str | bytes | AbstractSet | Mapping):
            raise TypeError(f"groups must be a list of labels, got {type(groups).__name__}")
        if len(groups) != n:
            raise ConfigError(f"groups must hold a label a series: {len(groups)} for {n} series")
        numbers: dict[Any, int] = {}
        found = np.empty(n, dtype=np.int64)
        for i, label in enumerate(groups):
            try:
                found[i] = numbers.setdefault(label, len(numbers))
            except TypeError:  # not hashable
                kind = type(label).__name__
                raise TypeError(
                    f"groups[{i}] must be a label such as str or int, got {kind}"
                ) from None
            itself = label == label  # noqa: PLR0124 (NaN and NaT are not)
            if isinstance(itself, bool | np.bool_) and not itself:
                raise ConfigError(f"groups[{i}] is NaN or NaT, equal to no other: give it a label")
        return found

    def _plan(
        self,
        series: Sequence[Float],
        labels: NDArray[np.int64],
        live: NDArray[np.intp],
        horizon: int,
    ) -> list[NDArray[np.intp]]:
        """Batches of whole groups of the series `live`, of like size."""
        recipe = self._recipe
        paths = len(recipe.rollout_quantiles) if horizon > recipe.prediction_length else 1
        # One position more than patches, the graph's own token, and the part of a patch.
        more = 2 + -(-min(horizon, recipe.prediction_length) // recipe.output_patch_size)
        positions = np.array([len(values) // recipe.patch_size + more for values in series])
        order = live[np.argsort(labels[live], kind="stable")]
        members = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
        if not len(order):
            return []
        for rows in members:
            most = math.isqrt(MOST_PAIRS // int(positions[rows].max())) // paths
            if len(rows) > max(1, most):
                raise ConfigError(
                    f"groups: the label of series {rows[0]} is that of {len(rows)} series, whose "
                    f"memory grows with the square of their number: at most {most} as long as "
                    "these, and to this horizon, are read together"
                )
        costs = [len(rows) * int(positions[rows].max()) * paths for rows in members]
        return [
            np.concatenate([members[i] for i in picked]) for picked in batching.plan_batches(costs)
        ]

    def _rollout(
        self,
        series: Sequence[Float],
        labels: NDArray[np.int64],
        horizon: int,
        *,
        parallel: bool,
        failure: workers.Failure | None = None,
        limit: workers.Limit = workers.ENDLESS,
    ) -> Float:
        """The trained quantiles, (n, quantiles, horizon), as the graph orders them.

        Past one pass every path (the context and a quantile's forecast) is forecast on its own;
        the quantiles of all that are the next block, and what the paths are continued with. When
        `failure` says that the call is stopped, or `limit` does, it ends between two passes.
        """
        recipe = self._recipe
        context = patching.left_pad(series, recipe.patch_size)
        blocks = [self._forecast(context, labels, horizon, parallel=parallel)]
        left = horizon - blocks[0].shape[2]
        n, paths = len(series), len(recipe.rollout_quantiles)
        rows = [recipe.quantiles.index(level) for level in recipe.rollout_quantiles]
        context = np.repeat(context[:, None], paths, axis=1)
        # A path sees the paths of its group at its own level.
        labels = (labels[:, None] * paths + np.arange(paths)).ravel()
        while left > 0:
            if failure is not None and failure.stopped:
                raise EncodingError("interrupted")  # the caller raises what stopped the call
            limit.check()
            context = np.concatenate([context, blocks[-1][:, rows]], axis=2)
            context = context[:, :, -recipe.context_length :]
            flat = context.reshape(n * paths, -1)
            samples = self._forecast(flat, labels, left, parallel=parallel)
            blocks.append(self._pool(samples.reshape(n, -1, samples.shape[2])))
            left -= samples.shape[2]
        return np.concatenate(blocks, axis=2)[:, :, :horizon]

    def _pool(self, samples: Float) -> Float:
        """The trained quantiles of the forecasts of all paths, (n, paths x quantiles, steps)."""
        recipe = self._recipe
        if recipe.rollout_weights == "equal":
            return patching.pool(samples, recipe.quantiles)
        of_paths = patching.masses(recipe.rollout_quantiles)
        weights = np.outer(of_paths, patching.masses(recipe.quantiles)).ravel()
        return patching.pool_weighted(samples, weights, recipe.quantiles)

    def _forecast(
        self, context: Float, labels: NDArray[np.int64], horizon: int, *, parallel: bool
    ) -> Float:
        """One pass over (n, t), t whole patches: (n, quantiles, steps of that pass)."""
        recipe = self._recipe
        patched = self._patches(context)
        n_patches = -(-min(horizon, recipe.prediction_length) // recipe.output_patch_size)
        inputs = feeds(recipe, self._session.inputs, patched, n_patches, labels)
        (scaled,) = self._session.run(inputs, parallel=parallel)
        quantiles = patching.unscale(scaled, patched, arcsinh=recipe.arcsinh)
        return _in_range(quantiles)

    def _patches(self, context: Float) -> patching.Patches:
        recipe = self._recipe
        return patching.patches(
            context, recipe.patch_size, arcsinh=recipe.arcsinh, time_scale=recipe.time_scale
        )

    def __repr__(self) -> str:
        length = self._recipe.prediction_length
        return f"{type(self).__name__}(model={self._spec.id!r}, prediction_length={length})"


def _in_range(values: Float) -> Float:
    """The values. Raises EncodingError where one is beyond float32."""
    if not (np.abs(values) <= LARGEST).all():
        raise EncodingError("the forecast leaves the range of float32: scale the series down")
    return values


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

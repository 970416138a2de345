"""Forecast numeric series: medians, quantiles and data frames."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.base import Model, Options
from tessera_onnx.errors import ConfigError, EncodingError
from tessera_onnx.models.spec import Kind
from tessera_onnx.models.spec_media import TimeSeries
from tessera_onnx.runtime import workers
from tessera_onnx.runtime.session import Session
from tessera_onnx.series import patching
from tessera_onnx.series.exact import Float, is_rounded, needs_float64
from tessera_onnx.series.inputs import (
    Context,
    Labels,
    Levels,
    check_extrapolate,
    check_horizon,
    check_levels,
    group_numbers,
    outside,
    outside_message,
    read_series,
    tell,
)
from tessera_onnx.series.rollout import Rollout, check_inputs, check_range, feeds, make_patches
from tessera_onnx.series.table import names

Forecast = NDArray[np.float32 | np.float64]
Frame = TypeVar("Frame")


class TesseraTimeSeries(Model):
    """Zero-shot forecasts of numeric series with Chronos-Bolt or Chronos-2.

    A context is one series, a 2-D array with one series a row, or a list of series of any lengths.
    A series is a 1-D array, a list of numbers, or a series of pandas or polars. NaN, and a null of
    pandas or polars, is a missing value. The model reads the latest `context_length()` values of
    a series, centred and scaled in float64; a constant series has the scale 1e-5, as upstream. A
    series of pandas with an index of times is sorted by them, with a ForecastWarning.

    Forecasts are float32, or float64 where a series of the call needs it: where neighbouring
    float32 numbers of its size lie further apart than 0.001 of its standard deviation (waves of 10
    on a level of 1e8), or where it is a constant beyond 2**24 that float32 does not hold. A
    ForecastWarning tells of a series that was rounded by its own type before it came here.

    The forecast of a series without any known value is NaN, and a ForecastWarning names it. It
    changes nothing for the other series of the call, not even for those of its group.

    An int8 graph quantizes the activations of a whole batch, so a forecast then depends a little on
    the other series of the call. fp32 and fp16 graphs have no such dependence.
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
        nothing = make_patches(recipe, np.full((1, recipe.patch_size), np.nan))

        def wanted(session: Session) -> tuple[Any, Any]:
            check_inputs(recipe, session.inputs, session.name)
            probe = feeds(recipe, session.inputs, nothing, 1, np.zeros(1, np.int64))
            return {recipe.output: shape}, probe

        self._session = self._open(wanted)
        self._rollout = Rollout(recipe, self._session)

    def forecast(
        self,
        context: Context,
        horizon: int | None = None,
        *,
        groups: Labels | None = None,
        timeout: float | None = None,
        cancel: workers.Event | None = None,
    ) -> Forecast:
        """The median of each next step: (b, horizon), float32 or float64 as the class says.

        This is `forecast_quantiles` at the level 0.5, with its arguments and errors. A single
        series gives b = 1.
        """
        return self.forecast_quantiles(
            context, horizon, [0.5], groups=groups, timeout=timeout, cancel=cancel
        )[..., 0]

    def forecast_quantiles(
        self,
        context: Context,
        horizon: int | None = None,
        levels: Levels | None = None,
        *,
        groups: Labels | None = None,
        extrapolate: Literal["tails"] | None = None,
        timeout: float | None = None,
        cancel: workers.Event | None = None,
    ) -> Forecast:
        """Quantiles of each next step: (b, horizon, len(levels)), in the order of `levels`.

        Quantiles never cross: the values of a step are sorted. Where the graph's own values do not
        cross, which is nearly always, the trained levels equal upstream's.

        Args:
            context: one or several series, as the class says.
            horizon: steps to forecast, 1 to 65536; None takes the model's prediction length. Past
                that length each quantile's path is continued and the paths are pooled, as upstream.
            levels: probabilities in (0, 1); None takes the trained ones. Values between trained
                levels are interpolated. Outside of them the outermost trained values are repeated,
                with a ForecastWarning: an interval from 0.025 to 0.975 then covers no more than one
                from 0.1 to 0.9, where these are the outermost.
            groups: one label a series, for a model of several series (Chronos-2): series of one
                label are read together, such as several measurements of one thing over the same
                time. A group is one batch, whose memory grows with the square of its size (of the
                number of all paths, past the prediction length). None forecasts each series alone.
            extrapolate: "tails" continues the values outside the trained levels, as exponential
                tails as steep as between the two outermost levels. With the starter's model,
                intervals of 95 % then covered 93 to 98 % of what followed in electricity, exchange
                rates and M4 hourly, 77 to 85 % without.
            timeout: seconds, after which no further pass is begun and TimedOut is raised.
            cancel: an event; once another thread sets it, no further pass is begun and Cancelled
                is raised. The model can be used as before after either.

        Raises:
            TypeError: a series holds no numbers, or an argument has a wrong type.
            ConfigError: a series is empty, holds infinity or a value beyond float32, or whole
                numbers whose changes float64 does not hold; horizon or levels are out of range;
                groups do not fit the series or the model, or a group is too large.
            EncodingError: the graph fails, or the forecast leaves the range of float32.

        `index` of an error is the number of the series (or label, or level) that it is about.
        """
        limit = workers.Limit(timeout, cancel)
        recipe = self._recipe
        steps = check_horizon(horizon, recipe.prediction_length)
        wanted = recipe.quantiles if levels is None else check_levels(levels)
        check_extrapolate(extrapolate)
        series = read_series(context, recipe.context_length)
        self._session.check_open()
        limit.check()
        if groups is not None and "group_ids" not in self._session.inputs:
            raise ConfigError(f"model {self._spec.id!r} reads every series alone: leave groups out")
        labels = group_numbers(groups, len(series))
        known = np.array([not np.isnan(values).all() for values in series], dtype=bool)
        dtype = np.float64 if any(map(needs_float64, series)) else np.float32
        quantiles = np.full((len(series), steps, len(wanted)), np.nan, dtype=dtype)
        batches = self._rollout.plan(series, labels, np.flatnonzero(known), steps)
        failure = workers.Failure()

        def work(picked: NDArray[np.intp]) -> None:
            try:
                values = [series[i] for i in picked]
                with np.errstate(under="ignore"):  # of tiny values, which may be raised as errors
                    found = self._rollout.quantiles(
                        values,
                        labels[picked],
                        steps,
                        parallel=len(batches) > 1,
                        failure=failure,
                        limit=limit,
                    )
                    by_step = np.swapaxes(found, 1, 2)
                    at_levels = patching.at_levels(
                        by_step, recipe.quantiles, wanted, tails=extrapolate == "tails"
                    )
                    quantiles[picked] = check_range(at_levels)
            except EncodingError as error:
                self._session.check_open()  # that the model was closed is no fault of a series
                rows = np.sort(picked).tolist()
                raise EncodingError(f"series {names(rows)}: {error}", indices=rows) from error

        workers.run_batches(work, batches, self._session.workers, failure, limit).check()
        _warn(series, known)
        if extrapolate is None and (beyond := outside(wanted, recipe.quantiles)):
            tell(outside_message(beyond, recipe.quantiles))
        return quantiles

    def forecast_frame(
        self,
        df: Frame,
        *,
        id: str | None = None,  # noqa: A002 (the name of the column's role, as timestamp and target)
        timestamp: str = "timestamp",
        target: str = "target",
        horizon: int | None = None,
        levels: Levels | None = None,
        extrapolate: Literal["tails"] | None = None,
        timeout: float | None = None,
        cancel: workers.Event | None = None,
    ) -> Frame:
        """Forecast the series of a data frame; the result is a frame of the same library.

        `df` is in long form: each row holds the value of one series at one time. The result has
        `horizon` rows a series, in the order in which the series first appear: the id, the next
        timestamps in the type and time zone of `df` (integers as int64), the median as "forecast",
        and one column a level, named "0.1" to "0.9" by default as in chronos-forecasting. Where
        levels lie outside the trained ones, the text column "outside_trained" names them, such as
        "0.025,0.975".

        The rows of a series are sorted by time, with a ForecastWarning where that moves rows. All
        series must have the same step, which is inferred: months, quarters or years on one day of
        the month or on its last, days, weeks, business days, or any fixed time. Steps of days and
        more keep the local time of a time zone.

        Integers such as 202412 and 20241231 are months and days where the whole column is, and
        continue as 202501. Texts are read as ISO dates, as other dates with a year of four digits,
        such as 31.12.2024, 12/31/2024, 2024Q4 and Dec 2024, or as integers, and the result has
        texts of the same form. A column in which days and months cannot be told apart is an error.

        Args:
            df: a frame of pandas, polars, PyArrow or another library with eager frames that
                narwhals reads.
            id: the column that tells series apart; None where `df` holds one series. Another
                column of texts that repeat is then an error, since it hints at several series.
            timestamp: a column of datetimes, dates, integers or texts.
            target: a column of numbers; null and NaN are missing values.
            horizon: as for `forecast_quantiles`.
            levels: as for `forecast_quantiles`.
            extrapolate: as for `forecast_quantiles`.
            timeout: as for `forecast_quantiles`.
            cancel: as for `forecast_quantiles`.

        Raises:
            ImportError: narwhals is not installed (the extra `frames`).
            TypeError: `df` is no eager frame.
            ConfigError: a column is missing, has a wrong type, or has nulls in id or timestamp;
                timestamps come twice, are irregular, or too few to infer the step.

        What `forecast_quantiles` raises is raised too. `index` of an error is the row of `df`, from
        0, that it is about; for an error about a whole series, the first row of the series.
        """
        from tessera_onnx.series import frames

        found: Frame = frames.forecast(
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
        return found

    def prediction_length(self) -> int:
        """Steps that the model forecasts in one pass, and the default horizon."""
        return self._recipe.prediction_length

    def context_length(self) -> int:
        """The number of latest values of a series that the model reads."""
        return self._recipe.context_length

    def quantiles(self) -> tuple[float, ...]:
        """The levels that the model was trained for, ascending."""
        return self._recipe.quantiles

    def __repr__(self) -> str:
        length = self._recipe.prediction_length
        return f"{type(self).__name__}(model={self._spec.id!r}, prediction_length={length})"


def _warn(series: Sequence[Float], known: NDArray[np.bool_]) -> None:
    """Warn of series without any known value, and of those that their type has rounded."""
    if not known.all():
        empty = names(np.flatnonzero(~known).tolist())
        tell(f"series {empty}: all values that are read are missing, so the forecast is NaN")
    for dtype, fix in (("float32", "give float64 numbers"), ("float64", "subtract an offset")):
        if rounded := [i for i, v in enumerate(series) if v.dtype == dtype and is_rounded(v)]:
            tell(f"series {names(rounded)}: {dtype} values round their changes away: {fix}")

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
from tessera_onnx.series import forms, patching
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
from tessera_onnx.series.rollout import Rollout, check_range
from tessera_onnx.series.table import names

Forecast = NDArray[np.float32 | np.float64]
Frame = TypeVar("Frame")


class TesseraTimeSeries(Model):
    """Zero-shot forecasts of numeric series with Chronos, TinyTimeMixer or TiRex.

    A context is one series, a 2-D array with one series a row, or a list of series of any lengths.
    A series is a 1-D array, a list of numbers, or a series of pandas or polars. NaN, and a null of
    pandas or polars, is a missing value. The model reads the latest `context_length()` values of
    a series, centred and scaled in float64 (but TiRex scales in its graph); a constant series has
    upstream's scale, 1e-5 for Chronos. A series of pandas with an index of times is sorted by them,
    with a ForecastWarning.

    Forecasts are float32, or float64 where a series of the call needs it: where neighbouring
    float32 numbers of its size lie further apart than 0.001 of its standard deviation (waves of 10
    on a level of 1e8), or where it is a constant beyond 2**24 that float32 does not hold. A
    ForecastWarning tells of a series that was rounded by its own type before it came here.

    The forecast of a series without any known value is NaN, and a ForecastWarning names it. It
    changes nothing for the other series of the call, not even for those of its group.

    A model may have no quantiles: TinyTimeMixer forecasts one value a step, which `forecast` gives.
    It reads a fixed number of values, with zeros in the place of missing ones, as upstream; a
    ForecastWarning names the series for which it does. TiRex reads float32, so that a series which
    needs float64 is refused.

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
        nothing = forms.make_patches(recipe, forms.pad(recipe, [np.array([np.nan])]))

        def wanted(session: Session) -> tuple[Any, Any]:
            forms.check_inputs(recipe, session.inputs, session.name)
            probe = forms.feeds(recipe, session.inputs, nothing, 1, np.zeros(1, np.int64))
            output = forms.output_name(recipe, session.ports, session.name)
            return {output: forms.output_shape(recipe)}, probe

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

        This is `forecast_quantiles` at the level 0.5, with its arguments and errors. A model
        without quantiles gives the value that it was trained for, its mean or its median
        (`spec.time_series.point`). A single series gives b = 1.
        """
        return self._run(context, horizon, [0.5], groups=groups, timeout=timeout, cancel=cancel)[
            ..., 0
        ]

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
                groups do not fit the series or the model, or a group is too large; the model has no
                quantiles.
            EncodingError: the graph fails, or the forecast leaves the range of float32.

        `index` of an error is the number of the series (or label, or level) that it is about.
        """
        self._check_quantiles()
        wanted = self.quantiles() if levels is None else check_levels(levels)
        return self._run(
            context,
            horizon,
            wanted,
            groups=groups,
            extrapolate=extrapolate,
            timeout=timeout,
            cancel=cancel,
        )

    def _check_quantiles(self) -> None:
        """Raises ConfigError for a model that forecasts one value a step."""
        if self._recipe.point is not None:
            raise ConfigError(
                f"model {self._spec.id!r} forecasts one value a step, its {self._recipe.point}, "
                "and no quantiles: call forecast, and forecast_frame without levels, or take a "
                "model with quantiles such as chronos-bolt-tiny"
            )

    def _run(
        self,
        context: Context,
        horizon: int | None,
        wanted: Sequence[float],
        *,
        groups: Labels | None = None,
        extrapolate: Literal["tails"] | None = None,
        timeout: float | None = None,
        cancel: workers.Event | None = None,
    ) -> Forecast:
        """As `forecast_quantiles`; a model without quantiles gives its one value, (b, horizon, 1).

        `wanted` are checked levels.
        """
        limit = workers.Limit(timeout, cancel)
        recipe = self._recipe
        steps = check_horizon(horizon, recipe.prediction_length)
        check_extrapolate(extrapolate)
        series = read_series(context, recipe.context_length)
        self._session.check_open()
        limit.check()
        if groups is not None and "group_ids" not in self._session.inputs:
            raise ConfigError(f"model {self._spec.id!r} reads every series alone: leave groups out")
        labels = group_numbers(groups, len(series))
        known = np.array([not np.isnan(values).all() for values in series], dtype=bool)
        precise = list(map(needs_float64, series))
        if forms.FORMS[recipe.reads].is_raw and any(precise):
            raise ConfigError(
                f"series {precise.index(True)}: float32, which the graph of this model reads, "
                "rounds its changes away: subtract an offset before, and add it to the forecast",
                index=precise.index(True),
            )
        self._rollout.check_horizon(series, steps)
        dtype = np.float64 if any(precise) else np.float32
        columns = 1 if recipe.point is not None else len(wanted)
        quantiles = np.full((len(series), steps, columns), np.nan, dtype=dtype)
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
                    if recipe.point is None:
                        by_step = patching.at_levels(
                            by_step, recipe.quantiles, wanted, tails=extrapolate == "tails"
                        )
                    quantiles[picked] = check_range(by_step)
            except EncodingError as error:
                self._session.check_open()  # that the model was closed is no fault of a series
                rows = np.sort(picked).tolist()
                raise EncodingError(f"series {names(rows)}: {error}", indices=rows) from error

        workers.run_batches(work, batches, self._session.workers, failure, limit).check()
        _warn(series, known, recipe)
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

        What `forecast_quantiles` raises is raised too, but for a model without quantiles, which
        gives the column "forecast" alone, only where `levels` or `extrapolate` asks for them.
        `index` of an error is the row of `df`, from 0, that it is about; for an error about a whole
        series, the first row of the series.
        """
        from tessera_onnx.series import frames

        if levels is not None or extrapolate is not None:
            self._check_quantiles()

        found: Frame = frames.forecast(
            df,
            functools.partial(self._run, extrapolate=extrapolate, timeout=timeout, cancel=cancel),
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
        """The levels that the model was trained for, ascending; () if it has no quantiles."""
        return self._recipe.quantiles

    def __repr__(self) -> str:
        length = self._recipe.prediction_length
        return f"{type(self).__name__}(model={self._spec.id!r}, prediction_length={length})"


def _warn(series: Sequence[Float], known: NDArray[np.bool_], recipe: TimeSeries) -> None:
    """Warn of series without any known value, with zeros for missing ones, or rounded."""
    if not known.all():
        empty = names(np.flatnonzero(~known).tolist())
        tell(f"series {empty}: all values that are read are missing, so the forecast is NaN")
    size = recipe.context_length
    if forms.FORMS[recipe.reads].has_zeros:
        short = [i for i, v in enumerate(series) if known[i] and (~np.isnan(v)).sum() < size]
        if short:
            tell(
                f"series {names(short)}: fewer than the {size} known values that the model reads, "
                "and it reads zeros in the place of the others: give more history, and fill gaps"
            )
    for dtype, fix in (("float32", "give float64 numbers"), ("float64", "subtract an offset")):
        if rounded := [i for i, v in enumerate(series) if v.dtype == dtype and is_rounded(v)]:
            tell(f"series {names(rounded)}: {dtype} values round their changes away: {fix}")

"""Forecasts of the series in a data frame of any library that narwhals reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import frequency
from tessera_onnx.errors import ConfigError, install_hint

FORECAST = "forecast"
Quantiles = Callable[[list[NDArray[np.float64]], int, Sequence[float]], NDArray[np.float32]]


def forecast(
    df: Any,
    quantiles: Quantiles,
    horizon: int,
    levels: Sequence[float],
    *,
    id: str | None,  # noqa: A002 (the columns' names are the public method's)
    timestamp: str,
    target: str,
) -> Any:
    """What `TesseraTimeSeries.forecast_frame` documents; `quantiles` is its forecast_quantiles."""
    nw = _narwhals()
    frame = _frame(nw, df)
    names = [timestamp, target] if id is None else [id, timestamp, target]
    _check_columns(frame, names)
    if len(frame) == 0:
        raise ConfigError("the frame has no rows: there is nothing to forecast")
    codes = np.zeros(len(frame), np.int64) if id is None else _codes(frame, id)
    rows = np.argsort(codes, kind="stable")
    lengths = np.bincount(codes)
    lasts = np.cumsum(lengths) - 1

    dtype = _dtype(nw, frame[timestamp])
    times = _times(nw, frame[timestamp], timestamp, dtype)
    wall, elapsed = (stamps[rows] for stamps in times)
    try:
        step = frequency.infer(wall, elapsed, lengths)
        found = frequency.following(wall[lasts], elapsed[lasts], step, horizon).reshape(-1)
    except ConfigError as error:
        order = "" if id is None else f" (series are counted from 0 as {id!r} first names them)"
        raise ConfigError(f"column {timestamp!r}: {error}{order}") from None

    series = np.split(_numbers(nw, frame[target], target)[rows], lasts[:-1] + 1)
    values = quantiles(series, horizon, [*levels, 0.5])
    columns = {FORECAST: values[..., -1]}
    columns |= {f"{level:g}": values[..., i] for i, level in enumerate(levels)}
    if len({*names[:-1], *columns}) != len(names) + len(levels):
        raise ConfigError(
            "the columns of the result would share names: give each level once, and rename an id "
            f"or timestamp column called {FORECAST!r} or like a level"
        )
    out = frame.select(names[:-1])[np.repeat(rows[lasts], horizon)]
    backend = frame.implementation
    stamps = _stamps(nw, found, dtype, backend, wall=step.unit != "elapsed")
    out = nw.maybe_reset_index(out).with_columns(
        stamps.alias(timestamp),
        *(nw.new_series(name, v.reshape(-1), backend=backend) for name, v in columns.items()),
    )
    return out.to_native()


def _narwhals() -> Any:
    try:
        import narwhals.stable.v2 as nw
    except ImportError as error:
        raise ImportError(f"data frames need narwhals: {install_hint('frames')}") from error
    return nw


def _frame(nw: Any, df: Any) -> Any:
    try:
        return nw.from_native(df, eager_only=True)
    except nw.exceptions.DuplicateError:
        raise ConfigError("the frame has a column name twice: rename or drop one") from None
    except TypeError:
        raise TypeError(
            "df must be a data frame of pandas, polars or another library with eager frames that "
            f"narwhals reads, got {type(df).__name__}"
        ) from None


def _check_columns(frame: Any, names: list[str]) -> None:
    for argument, name in zip(("target", "timestamp", "id"), reversed(names), strict=False):
        if not isinstance(name, str):
            raise TypeError(f"{argument} must be a column name, got {type(name).__name__}")
        if name not in frame.columns:
            raise ConfigError(
                f"{argument}={name!r} is no column of the frame: it has "
                f"{', '.join(map(repr, frame.columns))}"
            )
    if len(set(names)) < len(names):
        raise ConfigError(f"id, timestamp and target must be columns of their own, got {names}")


def _codes(frame: Any, name: str) -> NDArray[np.int64]:
    """The number of each row's series, in the order in which the ids first appear."""
    _refuse_nulls(frame[name], name)
    numbers: dict[Any, int] = {}
    values = frame[name].to_list()
    try:
        return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)
    except TypeError:  # not hashable
        raise ConfigError(
            f"column {name!r} has the type {frame[name].dtype}: an id is text, a number or a date"
        ) from None


def _dtype(nw: Any, column: Any) -> Any:
    """Its type, also where narwhals (2.29) does not read pandas' name of it: America/New_York."""
    native = column.to_native()
    zone = getattr(native.dtype, "tz", None) if column.dtype == nw.Unknown else None
    return column.dtype if zone is None else nw.Datetime(native.dtype.unit, str(zone))


def _times(nw: Any, column: Any, name: str, dtype: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Local times and UTC; integers twice."""
    _refuse_nulls(column, name)
    if dtype.is_integer():
        limits = np.iinfo(np.int64)
        if column.min() < limits.min or column.max() > limits.max:
            raise ConfigError(f"column {name!r} holds integers beyond int64: subtract an offset")
        # A cast before, since NumPy has nothing for integers of 128 bits.
        steps = column.cast(nw.Int64).to_numpy().astype(np.int64)
        return steps, steps
    if dtype == nw.Date:
        days = column.dt.timestamp("ms").to_numpy().astype(np.int64).view("M8[ms]")
        return days, days
    if dtype != nw.Datetime:
        raise ConfigError(
            f"column {name!r} has the type {dtype}: timestamps are datetimes, dates or "
            "integers, convert it before"
        )
    unit = _unit(dtype)
    known = column.dtype == nw.Datetime
    instants = column if known else column.cast(nw.Datetime(dtype.time_unit, "UTC"))
    elapsed = instants.dt.timestamp(unit).to_numpy().astype(np.int64).view(f"M8[{unit}]")
    if dtype.time_zone is None:
        return elapsed, elapsed
    local = column.dt.replace_time_zone(None).dt.timestamp(unit)
    return local.to_numpy().astype(np.int64).view(f"M8[{unit}]"), elapsed


def _stamps(nw: Any, found: NDArray[Any], dtype: Any, backend: Any, *, wall: bool) -> Any:
    """A column of the type of the input's from local times, or from UTC where not `wall`."""
    if dtype.is_integer():
        return nw.new_series("", found, backend=backend)  # int64: a narrow type may end here
    if dtype != nw.Datetime or dtype.time_zone is None:
        return nw.new_series("", found, backend=backend).cast(dtype)
    zone = dtype.time_zone
    if wall:
        found = _utc(found, zone)
    column = nw.new_series("", found, nw.Datetime(_unit(dtype)), backend=backend)
    return column.dt.replace_time_zone("UTC").dt.convert_time_zone(zone).cast(dtype)


def _utc(wall: NDArray[Any], zone: str) -> NDArray[Any]:
    """UTC of local times. An hour that comes twice is the first, one that is skipped the next.

    Raises ConfigError outside the years 2 to 9998, which Python's calendar needs room around.
    """
    place = _place(zone)
    # Series that end together share their times, and Python's calendar takes 5 us a time.
    seconds, inverse = np.unique(wall.astype("M8[s]"), return_inverse=True)
    if seconds[0] < np.datetime64("0002") or seconds[-1] >= np.datetime64("9999"):
        raise ConfigError("timestamps with a time zone are forecast in the years 2 to 9998")
    instants = [
        moment.replace(tzinfo=place).astimezone(UTC).replace(tzinfo=None)
        for moment in seconds.tolist()
    ]
    return np.asarray(np.array(instants, wall.dtype)[inverse] + (wall - seconds[inverse]))


def _place(zone: str) -> Any:
    """The time zone of a name, also of a fixed offset such as UTC+01:00."""
    try:
        return ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):
        pass
    try:
        return datetime.strptime(zone.removeprefix("UTC"), "%z").tzinfo
    except ValueError:
        raise ConfigError(f"the time zone {zone!r} is not known here: convert to UTC") from None


def _numbers(nw: Any, column: Any, name: str) -> NDArray[np.float64]:
    if not column.dtype.is_numeric():
        raise ConfigError(
            f"column {name!r} has the type {column.dtype}: a target is numbers, convert it before"
        )
    return np.asarray(column.cast(nw.Float64).fill_null(float("nan")).to_numpy())


def _refuse_nulls(column: Any, name: str) -> None:
    missing = column.is_null()
    if column.dtype.is_float():  # in polars NaN is no null, and each would be an id of its own
        missing = missing | column.is_nan()
    missing = missing.to_numpy()
    if missing.any():
        raise ConfigError(
            f"column {name!r} has no value in row {missing.argmax()}: fill or drop it"
        )


def _unit(dtype: Any) -> str:
    return "ms" if dtype.time_unit == "s" else dtype.time_unit

"""Forecast the series of a data frame of any library that narwhals reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError, TesseraError, about_item, install_hint
from tessera_onnx.series import exact, frequency, inputs, table, time_numbers, timestamps

FORECAST = "forecast"
OUTSIDE = "outside_trained"
Quantiles = Callable[[list[Any], int, Sequence[float]], NDArray[Any]]


class _Times(NamedTuple):
    """A column of times."""

    wall: NDArray[Any]  # local times, or integers
    elapsed: NDArray[Any]  # the same in UTC, or the same integers
    text: time_numbers.Times | None  # for a column of texts or integers


def forecast(
    df: Any,
    quantiles: Quantiles,
    horizon: int,
    levels: Sequence[float],
    trained: Sequence[float],
    *,
    id: str | None,  # noqa: A002 (the columns' names are the public method's)
    timestamp: str,
    target: str,
) -> Any:
    """Do what `TesseraTimeSeries.forecast_frame` documents; `quantiles` makes the forecasts."""
    nw = _narwhals()
    frame = _frame(nw, df)
    names = [timestamp, target] if id is None else [id, timestamp, target]
    _check_columns(frame, names)
    if len(frame) == 0:
        raise ConfigError("the frame has no rows: there is nothing to forecast")
    codes = np.zeros(len(frame), np.int64) if id is None else _codes(frame, id)

    dtype = _dtype(nw, frame[timestamp])
    times = _times(nw, frame[timestamp], timestamp, dtype, codes)
    order, step = _order(nw, frame, times, codes, names, id=id)
    rows, lasts = order.rows, order.rows[order.lasts]
    try:
        found = frequency.following(times.wall[lasts], times.elapsed[lasts], step, horizon)
    except ConfigError as error:
        raise ConfigError(f"column {timestamp!r}: {error}") from None

    parts = np.split(rows, order.lasts[:-1] + 1)
    with _index_as_row(codes):
        numbers = _numbers(nw, frame[target], target, parts)
        values = quantiles([numbers[part] for part in parts], horizon, [*levels, 0.5])
    columns: dict[str, Any] = {FORECAST: values[..., -1].reshape(-1)}
    columns |= {f"{level:g}": values[..., i].reshape(-1) for i, level in enumerate(levels)}
    if beyond := inputs.outside(levels, trained):
        columns[OUTSIDE] = [",".join(f"{level:g}" for level in beyond)] * (len(lasts) * horizon)
    if len({*names[:-1], *columns}) != len(names) + len(levels) + (OUTSIDE in columns):
        raise ConfigError(
            "the columns of the result would share names: give each level once, and rename an id "
            f"or timestamp column called {FORECAST!r}, {OUTSIDE!r} or like a level"
        )
    out = frame.select(names[:-1])[np.repeat(lasts, horizon)]
    backend = frame.implementation
    found = found.reshape(-1)
    if times.text is not None:
        stamps = _written(nw, times.text.write(found), dtype, backend)
    else:
        stamps = _stamps(nw, found, dtype, backend, wall=step.unit != "elapsed")
    out = nw.maybe_reset_index(out).with_columns(
        stamps.alias(timestamp),
        *(nw.new_series(name, column, backend=backend) for name, column in columns.items()),
    )
    notes = [order.said()]
    if times.text is not None and times.text.note:
        notes.append(f"column {timestamp!r} {times.text.note}")
    for note in filter(None, notes):
        inputs.tell(note)
    return out.to_native()


@contextmanager
def _index_as_row(codes: NDArray[np.int64]) -> Iterator[None]:
    """Change `index` of an error from the number of a series to the first row that it has."""
    try:
        yield
    except TesseraError as error:
        first_rows = np.unique(codes, return_index=True)[1].tolist()
        error.indices = tuple(first_rows[series] for series in error.indices)
        if error.index is not None:
            error.index = first_rows[error.index]
        raise


def _order(
    nw: Any,
    frame: Any,
    times: _Times,
    codes: NDArray[np.int64],
    names: list[str],
    *,
    id: str | None,  # noqa: A002
) -> tuple[table.Order, frequency.Step]:
    """Sort the rows by series and time, and infer their step. Raises ConfigError."""
    timestamp = names[-2]
    other = None
    if id is None:
        rest = [name for name in frame.columns if name not in names]
        other = table.tells_apart((n, _texts(nw, frame[n], n)) for n in rest)
    hint = f"id={other!r}" if other is not None else "id="
    missing = f"name the column that tells series apart with {hint}"
    if id is not None:
        missing = f"id={id!r} does not tell series apart, give a column that does"
    try:
        order = table.ordered(codes, times.elapsed)
        with _index_as_row(codes):
            step = table.step_of(order, times.wall, times.elapsed)
    except table.TwiceError as error:
        raise ConfigError(
            f"column {timestamp!r}: series {codes[error.first]} has a timestamp twice, in rows "
            f"{error.first} and {error.second} of the frame: {missing}, or keep one of the rows",
            indices=(error.first, error.second),
        ) from None
    except ConfigError as error:
        counted = "" if id is None else f" (series are counted from 0 as {id!r} first names them)"
        raise ConfigError(f"column {timestamp!r}: {error}{counted}", index=error.index) from None
    if other is not None:
        raise ConfigError(
            f"column {other!r} repeats its values, as of several series: give {hint} if it tells "
            "series apart, else leave the column out of the frame"
        )
    return order, step


def _texts(nw: Any, column: Any, name: str) -> list[str]:
    """The values of a column of texts, or of integers under the name of an id; [] for others."""
    is_text = column.dtype in (nw.String, nw.Categorical, nw.Enum)
    if not is_text and not (column.dtype.is_integer() and table.is_id(name)):
        return []
    return ["" if value is None else str(value).strip() for value in column.to_list()]


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
        raise ConfigError("the frame has a column name twice: rename or drop a column") from None
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
    """Number the series of each row, in the order in which the ids first appear."""
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
    """The type of a column, also of pandas' time zones that narwhals (2.29) does not read."""
    native = column.to_native()
    zone = getattr(native.dtype, "tz", None) if column.dtype == nw.Unknown else None
    return column.dtype if zone is None else nw.Datetime(native.dtype.unit, str(zone))


def _times(nw: Any, column: Any, name: str, dtype: Any, codes: NDArray[np.int64]) -> _Times:
    _refuse_nulls(column, name)
    regular = table.regular(codes)
    try:
        if dtype in (nw.String, nw.Categorical, nw.Enum):
            text = timestamps.of_texts([str(t).strip() for t in column.to_list()], name, regular)
            return _Times(text.stamps, text.stamps, text)
        if dtype.is_integer():
            limits = np.iinfo(np.int64)
            if column.min() < limits.min or column.max() > limits.max:
                raise ConfigError(
                    f"column {name!r} holds integers beyond int64: subtract an offset"
                )
            # Cast first: NumPy has no integers of 128 bits.
            steps = column.cast(nw.Int64).to_numpy().astype(np.int64)
            text = time_numbers.of_numbers(steps, name, regular)
            return _Times(text.stamps, text.stamps, text)
    except time_numbers.NoTimeError as error:
        place = "" if error.row is None else f"row {error.row}: "
        raise ConfigError(f"column {name!r}: {place}{error.what}", index=error.row) from None
    if dtype == nw.Date:
        days = column.dt.timestamp("ms").to_numpy().astype(np.int64).view("M8[ms]")
        return _Times(days, days, None)
    if dtype != nw.Datetime:
        raise ConfigError(
            f"column {name!r} has the type {dtype}: timestamps are datetimes, dates, integers or "
            "texts, so convert it first"
        )
    unit = _unit(dtype)
    known = column.dtype == nw.Datetime
    instants = column if known else column.cast(nw.Datetime(dtype.time_unit, "UTC"))
    elapsed = instants.dt.timestamp(unit).to_numpy().astype(np.int64).view(f"M8[{unit}]")
    if dtype.time_zone is None:
        return _Times(elapsed, elapsed, None)
    local = column.dt.replace_time_zone(None).dt.timestamp(unit)
    wall = local.to_numpy().astype(np.int64).view(f"M8[{unit}]")
    return _Times(wall, elapsed, None)


def _written(nw: Any, found: list[Any], dtype: Any, backend: Any) -> Any:
    """Make a column of times in the form of the input's texts or integers."""
    if dtype.is_integer():  # int64: the next times may be too large for a smaller type
        return nw.new_series("", np.array(found, np.int64), backend=backend)
    return nw.new_series("", [str(time) for time in found], nw.String, backend=backend)


def _stamps(nw: Any, found: NDArray[Any], dtype: Any, backend: Any, *, wall: bool) -> Any:
    """Make a column of the input's type from local times, or from UTC where not `wall`."""
    if dtype != nw.Datetime or dtype.time_zone is None:
        return nw.new_series("", found, backend=backend).cast(dtype)
    zone = dtype.time_zone
    if wall:
        found = _utc(found, zone)
    column = nw.new_series("", found, nw.Datetime(_unit(dtype)), backend=backend)
    return column.dt.replace_time_zone("UTC").dt.convert_time_zone(zone).cast(dtype)


def _utc(wall: NDArray[Any], zone: str) -> NDArray[Any]:
    """Convert local times to UTC.

    Of an hour that comes twice the first is taken, in place of a skipped one the next. Raises
    ConfigError outside the years 2 to 9998: Python's calendar ends at 1 and 9999.
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
    """The time zone of a name such as Europe/Paris or UTC+01:00. Raises ConfigError."""
    try:
        return ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):
        pass
    try:
        return datetime.strptime(zone.removeprefix("UTC"), "%z").tzinfo
    except ValueError:
        raise ConfigError(f"the time zone {zone!r} is not known here: convert to UTC") from None


def _numbers(nw: Any, column: Any, name: str, parts: list[NDArray[np.intp]]) -> NDArray[Any]:
    """The values of a column, NaN where missing; `parts` are the rows of each series.

    Raises ConfigError, whose `index` is the number of a series.
    """
    if column.is_null().all():  # a column of nulls may have any type
        return np.full(len(column), np.nan)
    if not column.dtype.is_numeric():
        raise ConfigError(
            f"column {name!r} has the type {column.dtype}: a target is numbers, so convert it first"
        )
    kind = nw.Float32 if column.dtype == nw.Float32 else nw.Float64
    values = np.asarray(column.cast(kind).fill_null(float("nan")).to_numpy())
    is_large = np.max(np.abs(values), where=~np.isnan(values), initial=0) > exact.WHOLE64
    if column.dtype.is_decimal() or (column.dtype.is_integer() and is_large):
        whole = column.to_list()
        for number, part in enumerate(parts):
            known = [whole[row] for row in part if whole[row] is not None]
            with about_item(number):
                exact.check_held(known, f"column {name!r}: series {number}")
    return values


def _refuse_nulls(column: Any, name: str) -> None:
    missing = column.is_null()
    if column.dtype.is_float():  # a NaN of polars is no null, and equals no other id
        missing = missing | column.is_nan()
    missing = missing.to_numpy()
    if missing.any():
        raise ConfigError(
            f"column {name!r} has no value in row {missing.argmax()}: fill or drop it",
            index=int(missing.argmax()),
        )


def _unit(dtype: Any) -> str:
    return "ms" if dtype.time_unit == "s" else dtype.time_unit

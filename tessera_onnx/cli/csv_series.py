"""Read series from a CSV file; errors name file and line."""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.cli.csv_cells import SHOWN, Cells, some
from tessera_onnx.errors import ConfigError, FileError
from tessera_onnx.series import frequency, table, time_numbers, timestamps
from tessera_onnx.series import numbers as series_numbers
from tessera_onnx.series.frequency import Stamps, Step
from tessera_onnx.series.numbers import NoNumberError

SAMPLE = 100  # cells by which a column is taken for one of times
ROW_NAMES = {
    "", "index", "level_0", "row", "row_nr", "row_index", "rownames", "#", "no", "no.", "nr", "nr.",
}  # fmt: skip


class Series(NamedTuple):
    """Values of one target column that share an id, NaN where missing; number of that id."""

    id: str | None
    target: str
    values: NDArray[np.float64]
    group: int


class Clock(NamedTuple):
    """How the rows continue in time: the last timestamp of each group, the step to the next."""

    lasts: Stamps
    step: Step
    times: time_numbers.Times

    def following(self, horizon: int) -> list[list[Any]]:
        """The next timestamps of each group, as the file writes them."""
        found = frequency.following(self.lasts, self.lasts, self.step, horizon)
        return [self.times.write(row) for row in found]


class Table(NamedTuple):
    """The content of a file. `clock` is None where the rows have no timestamps."""

    series: list[Series]
    clock: Clock | None
    id: str | None
    timestamp: str | None
    warnings: list[str]  # rows that were sorted, columns that are not used


def read_csv(
    source: str,
    *,
    target: str | None = None,
    timestamp: str | None = None,
    id: str | None = None,  # noqa: A002
    decimal: series_numbers.Mark | None = None,
    one_series: bool = False,
) -> Table:
    """Read the series of a CSV file, gzipped or not, or of stdin for "-".

    The first line names the columns. Without `target` every column of numbers is a series. With
    `id` the rows of each of its values are a series, in the order in which the values appear.
    Without `id` a column of texts that repeat is an error, unless `one_series`. Cells listed in
    series.numbers.MISSING are missing values (NaN). `decimal` is the decimal mark; without it the
    cells tell.

    Timestamps have the forms that series.timestamps reads. Without `timestamp` the first column of
    times is taken, also if its step cannot be told. Rows are sorted by time; without timestamps
    they keep their order. The encoding is UTF-8; the separator is a comma, or a semicolon or tab
    where the first line has more of them.

    Raises FileError with the file and the line; ConfigError for a column that is not there, for
    timestamps without a regular step, and for rows that seem to be of several series. No message
    holds a cell.
    """
    cells = Cells(source)
    named = {"target": target, "timestamp": timestamp, "id": id}
    given = [cells.named(option, name) for option, name in named.items() if name is not None]
    if len(set(given)) < len(given):
        raise ConfigError("the target, the timestamp and the id must be columns of their own")
    codes, ids = _codes(cells, id)
    order, clock, warnings = table.in_file_order(codes), None, []
    time, times = (
        (timestamp, None) if timestamp is not None else _time_column(cells, id, target, codes)
    )
    other = None if id is not None or one_series else _other_id(cells, {time, target})
    if time is not None:
        times = times or _times(cells, time, codes)
        order = _order(cells, time, times, codes, hint=_hint(other), id=id)
        if order.moved:
            warnings.append(f"{cells.name}: {order.said()} (column {time!r})")
        if times.note:
            warnings.append(f"{cells.name}: column {time!r} {times.note}")
        try:
            step = table.step_of(order, times.stamps, times.stamps)
            clock = Clock(times.stamps[order.rows[order.lasts]], step, times)
        except ConfigError as error:
            message = f"{cells.name}: column {time!r}: {error}"
            if timestamp is not None:
                raise ConfigError(message, path=cells.source) from None
            warnings.append(f"steps are numbered: {message}")
    if other is not None:
        raise ConfigError(
            f"{cells.name}: column {other!r} repeats its values, as of several series: name it as "
            "--id COLUMN if it tells series apart, else say --one-series",
            path=cells.source,
        )
    parts = np.split(order.rows, order.lasts[:-1] + 1)
    reader = _Numbers(cells, parts, decimal, id=id, time=time)
    if target is not None:
        found = {target: reader.of(target)}
    else:
        found, left_out = reader.all()
        warnings += (f"a column is left out: {reason}" for reason in left_out[:SHOWN])
        if len(left_out) > SHOWN:
            warnings.append(f"{len(left_out) - SHOWN} more columns are left out")
    series = [
        Series(ids[group], name, values[rows], group)
        for name, values in found.items()
        for group, rows in enumerate(parts)
    ]
    return Table(series, clock, id, time if clock else None, warnings)


def _codes(cells: Cells, name: str | None) -> tuple[NDArray[np.int64], list[str | None]]:
    """The number of each row's series, and the ids."""
    if name is None:
        return np.zeros(cells.n_rows, np.int64), [None]
    numbers: dict[str, int] = {}
    codes = np.empty(cells.n_rows, np.int64)
    for row, cell in enumerate(cells.columns[name]):
        if not cell:
            raise cells.wrong(row, name, "no id")
        codes[row] = numbers.setdefault(cell, len(numbers))
    return codes, list(numbers)


def _time_column(
    cells: Cells,
    id: str | None,  # noqa: A002
    target: str | None,
    codes: NDArray[np.int64],
) -> tuple[str | None, time_numbers.Times | None]:
    """The column that seems to hold times, and its times where they can be read.

    A column whose times can be read comes before others, and one without repeats before that.
    """
    regular = table.regular(codes)
    names = [name for name in cells.columns if name not in (id, target)]
    if len(names) < 2 and target is None:  # the only other column holds the values
        return None, None
    first = next((name for name in names if not _is_row_name(name)), None)
    if _is_split(cells, names):
        names = [n for n in names if not any(n.lower() in p for p in time_numbers.PARTS.values())]
    columns = [(name, cells.columns[name]) for name in names]
    seeming = [n for n, column in columns if _seems_time(n, column, codes, first=n == first)]
    seeming = seeming or [n for n, column in columns if _counts(n, column, codes, first=n == first)]
    read = []
    for name in seeming:
        try:
            times = timestamps.of_texts(cells.columns[name], name, regular)
            table.ordered(codes, times.stamps)
        except time_numbers.NoTimeError:
            continue
        except table.TwiceError:
            read.append(name)
        else:
            return name, times
    return next(iter([*read, *seeming]), None), None


def _is_split(cells: Cells, names: list[str]) -> bool:
    """Whether years, and months from 1 to 12, have a column each."""
    lowered = {name.lower(): cells.columns[name] for name in names}
    years, months = (lowered.keys() & time_numbers.PARTS[part] for part in ("year", "month"))
    return bool(years) and any(
        re.fullmatch("0?[1-9]|1[0-2]", cell) for name in months for cell in lowered[name]
    )


def _seems_time(name: str, column: list[str], codes: NDArray[np.int64], *, first: bool) -> bool:
    """Whether a column that no option names holds times, not values."""
    known = [cell for cell in column if cell.lower() not in series_numbers.MISSING]
    if not known:
        return False
    if len(known) < len(column):
        codes = codes[[cell.lower() not in series_numbers.MISSING for cell in column]]
        codes = np.unique(codes, return_inverse=True)[1]
    regular = table.regular(codes)
    whole = timestamps.whole_numbers(known)
    if whole is not None:
        return time_numbers.are_like_times(whole, name, regular, first=first)
    some_cells = known[:: -(-len(known) // SAMPLE)]
    if sum(map(timestamps.seems_time, some_cells)) * 2 >= len(some_cells):
        return True
    if not time_numbers.says(name):
        return False
    is_time = name.lower() in time_numbers.TIMES | time_numbers.PARTS["year"]
    decimals = time_numbers.of_decimals(known)
    return (
        (decimals is not None and (regular(decimals.stamps) or (first and is_time)))
        or all(re.fullmatch(r"\d\d?\.\d{4}|\d{4}\.\d\d", cell) for cell in known)  # 01.1949
        # Texts under a name of a time are read as times, or an error says that they cannot be.
        or (is_time and len(name) > 1 and not any(map(series_numbers.is_number, known)))
        or (is_time and first and decimals is None and all(map(series_numbers.is_number, known)))
    )


def _counts(name: str, column: list[str], codes: NDArray[np.int64], *, first: bool) -> bool:
    """Whether a column named as times is in order, even without a regular step."""
    if not time_numbers.is_named(name):
        return False
    whole = timestamps.whole_numbers(column)
    is_count = whole is not None and table.is_count(codes, whole, first=first)
    return is_count or timestamps.falls(column)


def _times(cells: Cells, name: str, codes: NDArray[np.int64]) -> time_numbers.Times:
    try:
        return timestamps.of_texts(cells.columns[name], name, table.regular(codes))
    except time_numbers.NoTimeError as error:
        raise cells.wrong(error.row, name, error.what) from None


def _order(
    cells: Cells,
    name: str,
    times: time_numbers.Times,
    codes: NDArray[np.int64],
    *,
    hint: str,
    id: str | None,  # noqa: A002
) -> table.Order:
    try:
        return table.ordered(codes, times.stamps)
    except table.TwiceError as error:
        first, second = (cells.lines[row + 1] for row in (error.first, error.second))
        missing = f"name the column that tells series apart with {hint}"
        if id is not None:
            missing = f"--id {id!r} does not tell series apart, give a column that does"
        raise ConfigError(
            f"{cells.name}, lines {first} and {second}: column {name!r} has a time twice in one "
            f"series: {missing}, or keep one row a time",
            path=cells.source,
            line=second,
        ) from None


def _other_id(cells: Cells, known: set[str | None]) -> str | None:
    """A column that seems to tell series apart, where no id is given."""
    return table.tells_apart((n, c) for n, c in cells.columns.items() if n not in known)


def _hint(other: str | None) -> str:
    return "--id COLUMN" if other is None else f"--id COLUMN, such as {other!r}"


class _Numbers:
    """The columns of numbers of a file."""

    def __init__(
        self,
        cells: Cells,
        parts: list[NDArray[np.intp]],
        decimal: series_numbers.Mark | None,
        *,
        id: str | None,  # noqa: A002
        time: str | None,
    ) -> None:
        self.cells, self.parts, self.time = cells, parts, time
        self.known = {id, time}
        self.decimal = decimal

    @functools.cached_property
    def mark(self) -> series_numbers.Mark | None:
        """The decimal mark that the columns of the file agree on."""
        columns = self.cells.columns.items()
        return series_numbers.file_mark(
            column for name, column in columns if name not in self.known
        )

    def of(self, name: str) -> NDArray[np.float64]:
        """The values of a column, NaN where missing, in the order of the file."""
        cells = self.cells
        column = cells.columns[name]
        try:
            found = self.decimal or series_numbers.mark(column) or self.mark
            return series_numbers.read_numbers(column, found, self.parts, cells.delimiter)
        except NoNumberError as error:
            raise cells.wrong(error.row, name, error.what) from None

    def all(self) -> tuple[dict[str, NDArray[np.float64]], list[str]]:
        """Columns of numbers by name, and what is wrong with each other column."""
        found, parts, left_out = {}, {}, []
        for name in self.cells.columns:
            if name in self.known:
                continue
            try:
                values = self.of(name)
            except FileError as error:
                left_out.append(str(error))
                continue
            if np.isnan(values).all():
                left_out.append(f"column {name!r} holds no number")
            elif reason := _why_no_series(name, values, is_ordered=self.time is not None):
                left_out.append(reason)
            elif part := time_numbers.part_of_time(name, values):
                parts[name] = part, values
            else:
                found[name] = values
        if not found:  # parts of times are then the values
            found = {name: values for name, (_, values) in parts.items()}
            if not found:
                reasons = some(left_out, "; ")
                raise self.cells.error(f"has no column of numbers: {reasons}")
            return found, left_out
        names = {part: name for name, (part, _) in parts.items()}
        if self.time is None and {"year", "month"} <= names.keys():
            raise FileError(
                f"{self.cells.name}: columns {names['year']!r} and {names['month']!r} hold parts "
                "of the time: write it in one column, as 2024-01 or 2024-01-31",
                path=self.cells.source,
            )
        left_out += (f"column {name!r} holds a part of the time" for name in parts)
        return found, left_out


def _is_unnamed(name: str) -> bool:
    """Whether a column has no name, or a name that pandas makes for a column without one."""
    return not name or re.fullmatch(r"Unnamed: \d+(\.\d+|_level_\d+)*", name) is not None


def _is_row_name(name: str) -> bool:
    return _is_unnamed(name) or name.lower() in ROW_NAMES or table.is_id(name)


def _why_no_series(name: str, values: NDArray[np.float64], *, is_ordered: bool) -> str:
    """Why a column of numbers that no option names is no series; "" if it is one."""
    counted = _is_row_name(name) and table.are_row_numbers(np.sort(values))
    if counted and not is_ordered and not table.are_row_numbers(values):
        return (
            f"column {name!r} numbers the rows in another order than the file's, which is taken: "
            f"say --timestamp {name!r} to sort by it"
        )
    if _is_unnamed(name):
        return f"column {name!r} has no name, as the row numbers that pandas writes"
    if counted or (_is_row_name(name) and (values == values[0]).all()):
        return f"column {name!r} numbers the rows"
    if table.is_id(name):
        return f"column {name!r} names what the rows are of"
    return ""

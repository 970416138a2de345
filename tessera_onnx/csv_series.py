"""Series come out of CSV files; whatever is wrong names the file and the line."""

from __future__ import annotations

import csv
import io
import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import frequency, reading
from tessera_onnx.errors import ConfigError, FileError
from tessera_onnx.frequency import Stamps, Step

MISSING = {"", "na", "nan", "null"}
SEPARATORS = ",;\t"
SHOWN = 10  # columns that a message names
LARGEST = float(np.finfo(np.float32).max)
STAMP = re.compile(
    r"(\d{4}-\d\d(?:-\d\d(?:([T ])\d\d:\d\d(?::\d\d(?:\.(\d{1,6}))?)?)?)?)(Z|[+-]\d\d:?\d\d)?"
)
UNITS = {7: "M", 10: "D", 16: "m", 19: "s"}  # of a timestamp, by its length


class Series(NamedTuple):
    """Values of one target column, NaN where missing, that share an id; its place in `groups`."""

    id: str | None
    target: str
    values: NDArray[np.float64]
    group: int


class Clock(NamedTuple):
    """How the rows go on in time: the last timestamp of each group and the form to write it in."""

    lasts: Stamps
    step: Step
    unit: str | None  # None: integers
    separator: str
    offset: str

    def following(self, horizon: int) -> list[list[Any]]:
        """The next timestamps of each group, as the file writes them."""
        found = frequency.following(self.lasts, self.lasts, self.step, horizon)
        if self.unit is None:
            rows: list[list[Any]] = found.tolist()
            return rows
        texts = np.datetime_as_string(found, unit=self.unit)  # type: ignore[call-overload]
        return [[t.replace("T", self.separator) + self.offset for t in row] for row in texts]


class Table(NamedTuple):
    """What a file holds. `clock` is None where the rows have no timestamps."""

    series: list[Series]
    clock: Clock | None
    id: str | None
    timestamp: str | None
    warnings: list[str]  # why columns that nobody named are not used


class _Cells:
    """The cells of a file by column, with the line that each row ends in."""

    def __init__(self, source: str) -> None:
        self.name = reading.name(source)
        self.lines: list[int] = []
        rows = self._rows(_text(source, self.name))
        if not rows:
            raise FileError(f"{self.name} is empty: the first line must name the columns")
        header, *rows = rows
        header = [name.strip() for name in header]
        if len(set(header)) < len(header):
            raise FileError(f"{self.name}, line 1: a column name comes twice")
        while rows and not rows[-1]:
            rows.pop()
        if not rows:
            raise FileError(f"{self.name} has no rows below the column names")
        rows = [row or [""] if len(header) == 1 else row for row in rows]
        for line, row in zip(self.lines[1:], rows, strict=False):
            if len(row) != len(header):
                raise FileError(
                    f"{self.name}, line {line}: {len(row)} cells, the first line has {len(header)}"
                )
        columns = zip(*rows, strict=True)
        self.columns = {
            name: [cell.strip() for cell in column]
            for name, column in zip(header, columns, strict=True)
        }

    def _rows(self, text: str) -> list[list[str]]:
        # Without what stands in quotes, which may hold separators and ends of lines.
        quoted = r'(?<![^,;\t\r\n])"(?:[^"]|"")*"'
        first = re.sub(quoted, "", text[: 1 << 16]).partition("\n")[0]
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=max(SEPARATORS, key=first.count), strict=True
        )
        rows = []
        try:
            for row in reader:
                rows.append(row)
                self.lines.append(reader.line_num)
        except csv.Error as error:
            raise FileError(f"{self.name}, line {reader.line_num}: {error}") from None
        return rows

    def named(self, option: str, name: str) -> str:
        """The name of a column that is there."""
        if name not in self.columns:
            names = _some([repr(column) for column in self.columns], ", ")
            raise ConfigError(f"--{option} {name!r} is no column of {self.name}: it has {names}")
        return name

    def wrong(self, row: int, column: str, what: str) -> FileError:
        return FileError(f"{self.name}, line {self.lines[row + 1]}: column {column!r} holds {what}")


def read(
    source: str,
    *,
    target: str | None = None,
    timestamp: str | None = None,
    id: str | None = None,  # noqa: A002
) -> Table:
    """The series of a CSV file, or of stdin for "-": rows in time order, column names on top.

    Without `target` every column of numbers is a series. Rows with the same `id` are a series of
    their own, in the order in which the ids appear. An empty cell, NA, NaN or null is a missing
    value. Timestamps are YYYY-MM, YYYY-MM-DD, with HH:MM[:SS] and an offset behind, or integers;
    without `timestamp` the first column of dates is taken if its step can be told.
    UTF-8; commas, or semicolons or tabs where the first line has more of them.
    Raises FileError with the file and the line, ConfigError for a column that is not there and for
    timestamps without a regular step. No message holds a cell.
    """
    cells = _Cells(source)
    named = {"target": target, "timestamp": timestamp, "id": id}
    given = [cells.named(option, name) for option, name in named.items() if name is not None]
    if len(set(given)) < len(given):
        raise ConfigError("the target, the timestamp and the id must be columns of their own")
    groups, ids = _groups(cells, id)
    clock, warnings = None, []
    if timestamp is not None:
        clock = _clock(cells, timestamp, groups)
    else:
        timestamp = next((n for n, c in cells.columns.items() if n != id and _dated(c)), None)
        if timestamp is not None:
            try:
                clock = _clock(cells, timestamp, groups)
            except (ConfigError, FileError) as error:
                warnings.append(f"steps are numbered: {error}")
    if target is not None:
        found = {target: _numbers(cells, target)}
    else:
        found, left_out = _all_numbers(cells, {id, timestamp})
        warnings += (f"a column is left out: {reason}" for reason in left_out[:SHOWN])
        if len(left_out) > SHOWN:
            warnings.append(f"{len(left_out) - SHOWN} more columns are left out")
    series = [
        Series(ids[group], name, values[rows], group)
        for name, values in found.items()
        for group, rows in enumerate(groups)
    ]
    return Table(series, clock, id, timestamp if clock else None, warnings)


def _text(source: str, name: str) -> str:
    with reading.opened(source) as stream:
        content = stream.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FileError(f"{name}, line {line}: not UTF-8 text") from None


def _groups(cells: _Cells, name: str | None) -> tuple[list[NDArray[np.intp]], list[str | None]]:
    """The rows of each id, and the ids."""
    if name is None:
        return [np.arange(len(next(iter(cells.columns.values()))))], [None]
    rows: dict[str, list[int]] = {}
    for row, cell in enumerate(cells.columns[name]):
        if not cell:
            raise cells.wrong(row, name, "no id")
        rows.setdefault(cell, []).append(row)
    return [np.array(numbers) for numbers in rows.values()], list(rows)


def _clock(cells: _Cells, name: str, groups: list[NDArray[np.intp]]) -> Clock:
    column = cells.columns[name]
    if all(re.fullmatch(r"[+-]?\d{1,18}", cell) for cell in column):
        stamps, unit, separator, offset = np.array(column, np.int64), None, "", ""
    else:
        stamps, unit, separator, offset = _dates(cells, name, column)
    rows = np.concatenate(groups)
    lengths = np.array([len(group) for group in groups])
    try:
        step = frequency.infer(stamps[rows], stamps[rows], lengths)
    except ConfigError as error:
        raise ConfigError(f"{cells.name}: column {name!r}: {error}") from None
    return Clock(stamps[rows][np.cumsum(lengths) - 1], step, unit, separator, offset)


def _dates(cells: _Cells, name: str, column: list[str]) -> tuple[Stamps, str, str, str]:
    """The timestamps, and the unit, the separator and the offset of the longest one.

    Not of the last one: programs leave out zeros, such as the microseconds of a whole second.
    """
    offsets = set()
    longest = None
    texts = []
    for row, cell in enumerate(column):
        match = STAMP.fullmatch(cell)
        if match is None:
            raise cells.wrong(
                row,
                name,
                "no timestamp: expected YYYY-MM-DD, with HH:MM:SS behind, or YYYY-MM, "
                "or integers throughout",
            )
        texts.append(match[1])
        if longest is None or len(match[1]) > len(longest[1]):
            longest = match
        offsets.add(match[4] or "")
        if len(offsets) > 1:
            raise cells.wrong(row, name, "another UTC offset than the lines above: write UTC")
        try:
            np.datetime64(match[1])
        except ValueError:
            raise cells.wrong(row, name, "a date that does not exist") from None
    if longest is None:
        raise FileError(f"{cells.name} has no rows")
    unit = UNITS.get(len(longest[1]), "ms" if len(longest[3] or "") <= 3 else "us")
    return np.array(texts, "M8[us]"), unit, longest[2] or "T", longest[4] or ""


def _dated(column: list[str]) -> bool:
    return STAMP.fullmatch(column[0]) is not None


def _numbers(cells: _Cells, name: str) -> NDArray[np.float64]:
    column = cells.columns[name]
    values = np.full(len(column), np.nan)
    for row, cell in enumerate(column):
        if cell.lower() in MISSING:
            continue
        try:
            values[row] = float(cell if "_" not in cell else "")  # Python reads 1_000 as 1000
        except ValueError:
            raise cells.wrong(row, name, "no number") from None
        if abs(values[row]) > LARGEST:
            raise cells.wrong(row, name, "infinity, or a value beyond float32")
    return values


def _all_numbers(
    cells: _Cells, known: set[str | None]
) -> tuple[dict[str, NDArray[np.float64]], list[str]]:
    """Columns of numbers by name, and what is wrong with the others."""
    found, left_out = {}, []
    for name in cells.columns:
        if name in known:
            continue
        try:
            values = _numbers(cells, name)
        except FileError as error:
            left_out.append(str(error))
            continue
        if np.isnan(values).all():
            left_out.append(f"column {name!r} holds no number")
            continue
        found[name] = values
    if not found:
        raise FileError(f"{cells.name} has no column of numbers: {_some(left_out, '; ')}")
    return found, left_out


def _some(names: list[str], separator: str) -> str:
    """The first SHOWN, and how many more there are: a file may have thousands of columns."""
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return separator.join([*names[:SHOWN], *more])

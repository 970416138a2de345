"""Read the cells of a CSV file by column; errors name file and line."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable

import numpy as np

from tessera_onnx.cli import texts
from tessera_onnx.errors import ConfigError, FileError
from tessera_onnx.series import time_numbers, timestamps
from tessera_onnx.series.numbers import MISSING, is_number

SEPARATORS = "\t;,"  # the first wins where two are as many: a comma may be a decimal mark
SHOWN = 10  # columns that a message names
GZIP = b"\x1f\x8b"
LARGEST_FILE = 1 << 30  # bytes that a compressed file may have when it is whole


class Cells:
    """The cells of a file by column, and the line in which each row ends."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.name = texts.name(source)
        self.lines: list[int] = []
        rows = self._rows(_text(source, self.error))
        if not rows:
            raise self.error("is empty: the first line must name the columns")
        header, *rows = rows
        header = [name.strip() for name in header]
        wrong = _no_names(header, rows)
        if wrong:
            raise texts.at_line(source, self.lines[0], wrong)
        if len(set(header)) < len(header):
            raise texts.at_line(source, 1, "a column name comes twice")
        while rows and not rows[-1]:
            rows.pop()
        if not rows:
            raise self.error("has no rows below the column names")
        rows = [row or [""] if len(header) == 1 else row for row in rows]
        for line, row in zip(self.lines[1:], rows, strict=False):
            if len(row) != len(header):
                reason = f"{len(row)} cells, the first line has {len(header)}"
                raise texts.at_line(source, line, reason)
        self.n_rows = len(rows)
        columns = zip(*rows, strict=True)
        self.columns = {
            name: [cell.strip() for cell in column]
            for name, column in zip(header, columns, strict=True)
        }

    def _rows(self, text: str) -> list[list[str]]:
        # Without quoted cells, which may hold separators and ends of lines.
        quoted = r'(?<![^,;\t\r\n])"(?:[^"]|"")*"'
        first = re.sub(quoted, "", text[: 1 << 16]).partition("\n")[0]
        self.delimiter = max(SEPARATORS, key=first.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter, strict=True)
        rows = []
        try:
            for row in reader:
                rows.append(row)
                self.lines.append(reader.line_num)
        except csv.Error as error:
            raise texts.at_line(self.source, reader.line_num, str(error)) from None
        return rows

    def named(self, option: str, name: str) -> str:
        """The name of a column that is there."""
        if name not in self.columns:
            names = some([repr(column) for column in self.columns], ", ")
            raise ConfigError(
                f"--{option} {name!r} is no column of {self.name}: it has {names}", path=self.source
            )
        return name

    def error(self, reason: str) -> FileError:
        """An error about the file as a whole."""
        return FileError(f"{self.name} {reason}", path=self.source)

    def wrong(self, row: int | None, column: str, what: str) -> FileError:
        """An error about a cell or, without a row, about a column."""
        reason = f"column {column!r} holds {what}"
        if row is None:
            return FileError(f"{self.name}: {reason}", path=self.source)
        return texts.at_line(self.source, self.lines[row + 1], reason)


def some(names: list[str], separator: str) -> str:
    """The first SHOWN names and the number of the others: a file may have thousands of columns."""
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return separator.join([*names[:SHOWN], *more])


def _text(source: str, error: Callable[[str], FileError]) -> str:
    with texts.opened(source) as stream:
        content = stream.read()
    if content.startswith(GZIP):
        content = _unpacked(content, error)
    if b"\0" in content:
        raise error("is no CSV file of UTF-8 text: save it in that encoding")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        line = content.count(b"\n", 0, wrong.start) + 1
        raise texts.at_line(source, line, "not UTF-8 text") from None


def _unpacked(content: bytes, error: Callable[[str], FileError]) -> bytes:
    try:
        with gzip.open(io.BytesIO(content)) as stream:
            whole = stream.read(LARGEST_FILE + 1)
    except (OSError, EOFError, zlib.error):
        raise error("is no whole gzip file") from None
    if len(whole) > LARGEST_FILE:
        raise error(f"has more than {LARGEST_FILE} bytes when it is unpacked")
    return whole


def _no_names(header: list[str], rows: list[list[str]]) -> str:
    """What is wrong where the first line does not name the columns; "" where it does."""
    below = [[row[i].strip() for row in rows if i < len(row)] for i in range(len(header))]
    numbers = [bool(re.fullmatch(r"[+-]?[\d.,]*\d[\d.,]*(?:[eE][+-]?\d+)?", n)) for n in header]
    times = [timestamps.is_like_time(name) for name in header]
    missing = [name.lower() in MISSING for name in header]
    # pandas names unnamed columns 0, 1, 2 … and gives the index no name.
    counted = len(header) > 1 and header == [str(i) for i in range(len(header))]
    index = len(header) > 1 and not header[0] and all(below[0])
    is_value = [number or time for number, time in zip(numbers, times, strict=True)]
    is_row = any(is_value) and all(v or m for v, m in zip(is_value, missing, strict=True))
    is_row |= any(
        cells and all(_is_date(cell) for cell in [name, *cells])
        for name, cells in zip(header, below, strict=True)
    )
    is_row |= any(is_value) and any(
        not value and name and name in cells
        for value, name, cells in zip(is_value, header, below, strict=True)
    )
    is_row |= (
        any(numbers)
        and not any(
            not value and name and cells and all(map(_is_value, cells))
            for value, name, cells in zip(is_value, header, below, strict=True)
        )
        and all(
            _is_within(name, cells)
            for number, name, cells in zip(numbers, header, below, strict=True)
            if number
        )
    )
    if is_row and not counted and not index:
        return "it holds values, not the names of columns: add a line of names above it"
    if sum(times) > 2 or (_are_calendar(header) and not counted):
        return "times stand in place of column names: write a row a time, and a column a series"
    return ""


def _is_date(cell: str) -> bool:
    """Whether a cell is a time, also in a form that is not read, such as 12/31/24."""
    return timestamps.is_like_time(cell) or (cell[:1].isdigit() and timestamps.seems_time(cell))


def _is_value(cell: str) -> bool:
    """Whether a cell is a number, a time or a missing value."""
    missing = cell.lower() in MISSING
    return missing or is_number(cell) or timestamps.is_like_time(cell)


def _is_within(name: str, cells: list[str]) -> bool:
    """Whether a number lies among the numbers of its column."""
    known = [_float(cell) for cell in cells if is_number(cell)]
    return bool(known) and min(known) <= _float(name) <= max(known)


def _float(cell: str) -> float:
    """About the value of a number: a comma counts as a decimal point."""
    try:
        return float(cell.replace(",", "."))
    except ValueError:
        return float("nan")


def _are_calendar(names: list[str]) -> bool:
    """Whether three names or more are years, or months or days in digits, that rise."""
    numbers = np.array([int(name) for name in names if re.fullmatch(r"\d{1,18}", name)], np.int64)
    return (
        len(numbers) > 2
        and bool((np.diff(numbers) > 0).all())
        and time_numbers.are_of_calendar(numbers)
    )

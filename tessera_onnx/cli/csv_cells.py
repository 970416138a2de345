"""The cells of a CSV file by column; whatever is wrong names the file and the line."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib

import numpy as np

from tessera_onnx.cli import texts
from tessera_onnx.errors import ConfigError, FileError
from tessera_onnx.series import time_numbers, timestamps
from tessera_onnx.series.numbers import MISSING, is_number

SEPARATORS = "\t;,"  # of as many in the first line: a comma may be that of a decimal
SHOWN = 10  # columns that a message names
GZIP = b"\x1f\x8b"
LARGEST_FILE = 1 << 30  # bytes that a compressed file may have when it is whole


class Cells:
    """The cells of a file by column, with the line that each row ends in."""

    def __init__(self, source: str) -> None:
        self.name = texts.name(source)
        self.lines: list[int] = []
        rows = self._rows(_text(source, self.name))
        if not rows:
            raise FileError(f"{self.name} is empty: the first line must name the columns")
        header, *rows = rows
        header = [name.strip() for name in header]
        wrong = _no_names(header, rows)
        if wrong:
            raise FileError(f"{self.name}, line {self.lines[0]}: {wrong}")
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
        self.n_rows = len(rows)
        columns = zip(*rows, strict=True)
        self.columns = {
            name: [cell.strip() for cell in column]
            for name, column in zip(header, columns, strict=True)
        }

    def _rows(self, text: str) -> list[list[str]]:
        # Without what stands in quotes, which may hold separators and ends of lines.
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
            raise FileError(f"{self.name}, line {reader.line_num}: {error}") from None
        return rows

    def named(self, option: str, name: str) -> str:
        """The name of a column that is there."""
        if name not in self.columns:
            names = some([repr(column) for column in self.columns], ", ")
            raise ConfigError(f"--{option} {name!r} is no column of {self.name}: it has {names}")
        return name

    def wrong(self, row: int | None, column: str, what: str) -> FileError:
        """An error about a cell, or about a column as a whole."""
        line = "" if row is None else f", line {self.lines[row + 1]}"
        return FileError(f"{self.name}{line}: column {column!r} holds {what}")


def some(names: list[str], separator: str) -> str:
    """The first SHOWN, and how many more there are: a file may have thousands of columns."""
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return separator.join([*names[:SHOWN], *more])


def _text(source: str, name: str) -> str:
    with texts.opened(source) as stream:
        content = stream.read()
    if content.startswith(GZIP):
        content = _unpacked(content, name)
    if b"\0" in content:
        raise FileError(f"{name} is no CSV file of UTF-8 text: save it as one")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FileError(f"{name}, line {line}: not UTF-8 text") from None


def _unpacked(content: bytes, name: str) -> bytes:
    try:
        with gzip.open(io.BytesIO(content)) as stream:
            whole = stream.read(LARGEST_FILE + 1)
    except (OSError, EOFError, zlib.error):
        raise FileError(f"{name} is no whole gzip file") from None
    if len(whole) > LARGEST_FILE:
        raise FileError(f"{name} has more than {LARGEST_FILE} bytes when it is unpacked")
    return whole


def _no_names(header: list[str], rows: list[list[str]]) -> str:
    """What is wrong where the first line does not name the columns, else an empty text."""
    below = [[row[i].strip() for row in rows if i < len(row)] for i in range(len(header))]
    numbers = [bool(re.fullmatch(r"[+-]?[\d.,]*\d[\d.,]*(?:[eE][+-]?\d+)?", n)) for n in header]
    times = [timestamps.is_like_time(name) for name in header]
    missing = [name.lower() in MISSING for name in header]
    # pandas names columns 0, 1, 2 … where nobody did, and has no name for the index.
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
    """Whether a cell is a time, also one that is not read, such as 12/31/24."""
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
    """Nearly: of a comma, whatever it is, a point is made."""
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

"""Read the texts of a .txt, .md, .jsonl or .csv file, or of stdin."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from tessera_export.errors import ExportError

STDIN = "-"
PACKED = ".gz"
FIELD = "text"  # the key of a JSON object and the column of a table
SEPARATORS = ",;\t"


def read(source: str) -> list[str]:
    """The texts of a file that are not white space alone.

    A line of a .txt or .md file, or of stdin for "-", is a text. A line of a .jsonl file is a
    string, or an object with a string under "text". A row of a .csv file has its text in the
    column "text", which the first row names. A file that ends in .gz is unpacked. Raises
    ExportError, which names the file and the line and never holds a text.
    """
    form = ".txt" if source == STDIN else Path(source.lower().removesuffix(PACKED)).suffix
    if form not in {".txt", ".md", ".jsonl", ".csv"}:
        raise ExportError(
            "a file of texts must be a .txt, .md, .jsonl or .csv file, also with "
            f"{PACKED} after that, or {STDIN} for stdin"
        )
    where = "stdin" if source == STDIN else source
    content = _content(source)
    try:
        whole = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ExportError(f"{where}, line {line}: not UTF-8 text") from None
    if form == ".csv":
        found = _column(whole, where)
    else:
        lines = (line.removesuffix("\r") for line in whole.split("\n"))
        found = _strings(lines, where) if form == ".jsonl" else lines
    return [text for text in found if text.strip()]


def _content(source: str) -> bytes:
    """The bytes of a file, unpacked. Raises ExportError."""
    if source == STDIN:
        return sys.stdin.buffer.read()
    path = Path(source)
    try:
        if path.exists() and not path.is_file():
            raise ExportError(f"{source} cannot be read: it is not a file")
        content = path.read_bytes()
        return gzip.decompress(content) if source.lower().endswith(PACKED) else content
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise ExportError(f"{source} cannot be read: it is not a whole gzip file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ExportError(f"{source} cannot be read: {reason}") from None


def _strings(lines: Iterator[str], where: str) -> Iterator[str]:
    """The texts of JSON lines."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise ExportError(f"{where}, line {number}: not valid JSON") from None
        text = value.get(FIELD) if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise ExportError(
                f"{where}, line {number}: neither a JSON string nor an object with a string under "
                f"{FIELD!r}"
            )
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ExportError(f"{where}, line {number}: a lone surrogate is not valid Unicode")
        yield text


def _column(whole: str, where: str) -> Iterator[str]:
    """The texts of a table; the first separator with which its header has the column is its own."""
    first = whole.partition("\n")[0]
    for separator in SEPARATORS:
        header = [cell.strip() for cell in next(csv.reader([first], delimiter=separator), [])]
        if header.count(FIELD) == 1:
            break
    else:
        raise ExportError(f"{where}, line 1: no column is named {FIELD!r}")
    place, line = header.index(FIELD), 2
    rows = csv.reader(io.StringIO(whole, newline=""), delimiter=separator, strict=True)
    previous = csv.field_size_limit(len(whole) + 1)
    try:
        next(rows)
        for row in rows:
            if any(cell.strip() for cell in row):
                if len(row) != len(header):
                    raise ExportError(
                        f"{where}, line {line}: {len(row)} cells, the first line has {len(header)}"
                    )
                yield row[place]
            line = rows.line_num + 1
    except csv.Error as error:
        raise ExportError(f"{where}, line {line}: {error}") from None
    finally:
        csv.field_size_limit(previous)

"""Texts come out of files, one a line; whatever is wrong names the file and the line."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tessera_onnx.errors import FileError

STDIN = "-"
SUFFIXES = (".txt", ".jsonl")


def texts(source: str, field: str) -> Iterator[str]:
    """The texts of a .txt or .jsonl file, or of the lines of stdin for "-".

    Text i stands in line i + 1: an empty line is an empty text. A .jsonl line is a string, or an
    object that has one under `field`. UTF-8, with or without a byte order mark.
    Raises FileError with the file and the line, never with what the line holds.
    """
    _check(source)
    key = field if source.endswith(".jsonl") else None
    for number, line in enumerate(_lines(source), 1):
        try:
            yield _text(line, first=number == 1, field=key)
        except ValueError as error:
            raise FileError(f"{name(source)}, line {number}: {error}") from None


def count(source: str, field: str) -> int | None:
    """The number of texts, None for stdin and pipes, which can be read but once.

    All lines are checked, so that a bad last one shows before hours of work. Raises FileError.
    """
    _check(source)
    if source == STDIN or (Path(source).exists() and not Path(source).is_file()):
        return None
    return sum(1 for _ in texts(source, field))


def name(source: str) -> str:
    """What messages call it."""
    return "stdin" if source == STDIN else source


def by_line(message: str, source: str) -> str:
    """A message about "text 3" or "texts 3, 5" of a source as one about its lines 4 or 4, 6."""
    found = re.match(r"texts? (\d+(?:, \d+)*)", message)
    if not found:
        return f"{name(source)}: {message}"
    lines = ", ".join(str(int(index) + 1) for index in found[1].split(", "))
    plural = "s" if "," in lines else ""
    return f"{name(source)}, line{plural} {lines}{message[found.end() :]}"


def _check(source: str) -> None:
    if source == STDIN:
        return
    if os.path.isdir(source):  # noqa: PTH112 (a Path raises for what cannot be a name)
        raise FileError(f"{source} cannot be read: it is a folder")
    if not source.endswith(SUFFIXES):  # not named: it may be a text that was meant for --text
        raise FileError(f"the input must be a {' or '.join(SUFFIXES)} file, or {STDIN} for stdin")


def _lines(source: str) -> Iterator[bytes]:
    if source == STDIN:
        yield from sys.stdin.buffer
        return
    try:
        with Path(source).open("rb") as stream:
            yield from stream
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"{source} cannot be read: {reason}") from error


def _text(line: bytes, *, first: bool, field: str | None) -> str:
    """The text of one line. Raises ValueError with what is wrong."""
    try:
        text = line.decode("utf-8-sig" if first else "utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    if field is None:
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not valid JSON") from None
    if isinstance(value, dict):
        value = value.get(field)
    if not isinstance(value, str):
        expected = f"neither a JSON string nor an object with a string under {field!r}"
        raise ValueError(expected)  # noqa: TRY004 (the file's fault, not the caller's)
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("a lone surrogate, which is not valid Unicode")
    return value

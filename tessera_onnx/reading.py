"""Texts come out of files, one a line; whatever is wrong names the file and the line."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tessera_onnx.errors import EncodingError, FileError, InputTooLong

STDIN = "-"
SUFFIXES = (".txt", ".jsonl")
LONGEST = 1 << 28  # bytes of a line: what never ends would take all memory


def texts(source: str, field: str, least: int = 0) -> Iterator[str]:
    """The texts of a .txt or .jsonl file, or of the lines of stdin for "-".

    Text i stands in line i + 1: an empty line is an empty text. A .jsonl line is a string, or an
    object that has one under `field`. UTF-8, with or without a byte order mark.
    Raises FileError with the file and the line, never with what the line holds; also when they
    are fewer than `least`, which `count` gave before.
    """
    _check(source)
    key = field if source.endswith(".jsonl") else None
    number = 0
    for number, line in enumerate(_lines(source), 1):
        try:
            yield _text(line, first=number == 1, field=key)
        except ValueError as error:
            raise FileError(f"{name(source)}, line {number}: {error}") from None
    if number < least:
        raise FileError(
            f"{source} became shorter while it was read: it had {least} lines and ends after "
            f"{number}"
        )


def count(source: str, field: str) -> int | None:
    """The number of texts, None for stdin and pipes, which can be read but once.

    All lines are checked, so that a bad last one shows before hours of work. Raises FileError.
    """
    _check(source)
    if source == STDIN or (os.path.exists(source) and not os.path.isfile(source)):  # noqa: PTH110, PTH113 (a Path raises for what cannot be a name)
        return None
    return sum(1 for _ in texts(source, field))


@contextmanager
def opened(source: str) -> Iterator[BinaryIO]:
    """The bytes of a file or, for "-", of stdin. Raises FileError, also for a failing read."""
    try:
        if source == STDIN:
            yield _stdin()
        else:
            mode = os.stat(source).st_mode  # noqa: PTH116 (a Path raises for what cannot be a name)
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                raise OSError(errno.EINVAL, "it is a device")  # noqa: TRY301
            with Path(source).open("rb") as stream:
                yield stream
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"{name(source)} cannot be read: {reason}") from error


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


@contextmanager
def naming_lines(source: str | None) -> Iterator[None]:
    """Errors about texts as errors about the lines of a source, if there is one."""
    try:
        yield
    except (EncodingError, InputTooLong) as error:
        if source is None:
            raise
        raise type(error)(by_line(str(error), source)) from error


def _check(source: str) -> None:
    if source == STDIN:
        return
    if os.path.isdir(source):  # noqa: PTH112 (a Path raises for what cannot be a name)
        raise FileError(f"{source} cannot be read: it is a folder")
    if not source.endswith(SUFFIXES):  # not named: it may be a text that was meant for --text
        raise FileError(f"the input must be a {' or '.join(SUFFIXES)} file, or {STDIN} for stdin")


def _lines(source: str) -> Iterator[bytes]:
    with opened(source) as stream:
        yield from iter(lambda: stream.readline(LONGEST), b"")


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    # Where another program left it so that a read does not wait, its end would come too early.
    with suppress(AttributeError, OSError, ValueError):  # no file, or Windows
        os.set_blocking(sys.stdin.fileno(), True)
    return sys.stdin.buffer


def _text(line: bytes, *, first: bool, field: str | None) -> str:
    """The text of one line. Raises ValueError with what is wrong."""
    if len(line) == LONGEST:
        raise ValueError(f"longer than {LONGEST - 1} bytes")
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

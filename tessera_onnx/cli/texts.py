"""Read texts and their ids from .txt, .md, .jsonl and .csv files; errors name file and line."""

from __future__ import annotations

import errno
import gzip
import json
import os
import stat
import sys
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from tessera_onnx.errors import EncodingError, FileError, InputTooLong, named

STDIN = "-"
PACKED = ".gz"
LINES, OBJECTS, TABLE = (".txt", ".md"), ".jsonl", ".csv"
SUFFIXES = (*LINES, OBJECTS, TABLE)
SEPARATORS = ",;\t"
LONGEST = 1 << 28  # bytes of a line: a line that never ends would take all memory
MOST_LINES = 10  # lines that an error lists one by one
Id = str | int


class Texts:
    """The texts of a file, or of the lines of stdin for "-". A file can be iterated again.

    Each line of a .txt or .md file is a text. Each line of a .jsonl file is a string, or an object
    with a string under `field`. Each row of a .csv file has its text in the column `field`; the
    first row names the columns, and the separator is a comma, a semicolon or a tab. A file whose
    name also ends in .gz is unpacked. Lines of white space are left out and counted in `blank`.
    The encoding is UTF-8, with or without a byte order mark.

    `ids` holds, for the texts so far, the strings or whole numbers under `id_field`. Iteration
    raises FileError, with the file and the line but never the text, for a line that cannot be read,
    and for a file that has fewer texts than `count` gave before.
    """

    def __init__(self, source: str, field: str, id_field: str | None = None) -> None:
        self.source = source
        self.ids: list[Id] | None = None if id_field is None else []
        self.blank = 0
        self._form = _form(source)
        if id_field is not None and self._form in LINES:
            raise FileError(
                f"{name(source)} has no ids: give a {OBJECTS} or {TABLE} file, or leave --id-field "
                "out",
                path=source,
            )
        self._names = (field, id_field)
        self._least = 0
        # (index of a text, its line minus its index), for each text where the difference changes.
        self._moved: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[str]:
        self.blank, self._moved, number, index = 0, [], 0, 0
        if self.ids is not None:
            self.ids = []
        rows = self._rows() if self._form == TABLE else self._lines()
        for number, text, found in rows:
            if not self._moved or self._moved[-1][1] != number - index:
                self._moved.append((index, number - index))
            if self.ids is not None and found is not None:
                self.ids.append(found)
            index += 1
            yield text
        if index < self._least:
            raise FileError(
                f"{name(self.source)} became shorter while it was read: it had {self._least} texts "
                f"and ends after {index}",
                path=self.source,
            )

    def count(self) -> int | None:
        """The number of texts; None for stdin and pipes, which can be read only once.

        All lines are checked, so that a bad last line shows before hours of work.
        """
        if self.source == STDIN or (
            os.path.exists(self.source) and not os.path.isfile(self.source)  # noqa: PTH110, PTH113 (a Path raises for what cannot be a name)
        ):
            return None
        self._least = sum(1 for _ in self)
        return self._least

    def line(self, index: int) -> int:
        """The line, from 1, of the text with that index."""
        place = bisect_right(self._moved, index, key=lambda moved: moved[0]) - 1
        return index + (self._moved[place][1] if place >= 0 else 1)

    def lines(self, indices: Sequence[int]) -> str:
        """The lines of texts in words: "line 3", "lines 3, 5", "lines 3 to 70".

        Of more than MOST_LINES texts with other lines between them it is "64 of the lines 3 to 70".
        """
        numbers = sorted({self.line(index) for index in indices})
        first, last = numbers[0], numbers[-1]
        if len(numbers) == 1:
            return f"line {first}"
        if len(numbers) <= MOST_LINES:
            return f"lines {', '.join(map(str, numbers))}"
        span = f"lines {first} to {last}"
        return span if last - first + 1 == len(numbers) else f"{len(numbers)} of the {span}"

    def _lines(self) -> Iterator[tuple[int, str, Id | None]]:
        for number, line in enumerate(_lines(self.source), 1):
            try:
                text = _decoded(line, first=number == 1).removesuffix("\n").removesuffix("\r")
                if not text or text.isspace():
                    self.blank += 1
                    continue
                found = _of_json(text, *self._names) if self._form == OBJECTS else (text, None)
            except ValueError as error:
                raise at_line(self.source, number, str(error)) from None
            yield number, *found

    def _rows(self) -> Iterator[tuple[int, str, Id | None]]:
        """Rows of a table, each with the line where it begins: a text may hold ends of lines."""
        import csv

        lines, begin = _counted(self.source), 1
        previous = csv.field_size_limit(LONGEST)
        try:
            header = next(lines, None)
            if header is None:
                return
            reader, places, width = _table(header, lines, self._names)
            begin = 2  # below the names of the columns
            for row in reader:
                filled = any(cell.strip() for cell in row)
                if filled and len(row) != width:
                    raise ValueError(f"{len(row)} cells, the first line has {width}")  # noqa: TRY301
                if filled and places[1] >= 0 and not row[places[1]].strip():
                    raise ValueError(f"no id under {named(self._names[1])!r}")  # noqa: TRY301
                number, begin = begin, reader.line_num + 2
                if not filled:
                    self.blank += 1
                    continue
                yield number, row[places[0]], None if places[1] < 0 else row[places[1]]
        except (ValueError, csv.Error) as error:
            raise at_line(self.source, begin, str(error)) from None
        finally:
            csv.field_size_limit(previous)


@contextmanager
def opened(source: str) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked if it ends in .gz, or of stdin for "-".

    Raises FileError, also for a failing read.
    """
    try:
        if source == STDIN:
            yield _stdin()
        else:
            mode = os.stat(source).st_mode  # noqa: PTH116 (a Path raises for what cannot be a name)
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                raise OSError(errno.EINVAL, "it is a device")  # noqa: TRY301
            with Path(source).open("rb") as stream:
                if source.lower().endswith(PACKED):
                    with gzip.open(stream) as unpacked:
                        yield cast("BinaryIO", unpacked)
                else:
                    yield stream
    except FileError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise FileError(
            f"{name(source)} cannot be read: it is no whole gzip file", path=source
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"{name(source)} cannot be read: {reason}", path=source) from None


class Inputs(NamedTuple):
    """What `tessera encode` writes: the vectors of texts or images, and where they come from."""

    vectors: Iterator[Any]
    unit: str  # "text" or "image"
    total: int | None  # None where it is not known before the end
    role: str
    texts: Texts | None = None  # the file of the texts

    @property
    def ids(self) -> Callable[[], Sequence[Id]] | None:
        """What gives the ids of the texts read so far; None where no ids were asked for."""
        texts = self.texts
        return None if texts is None or texts.ids is None else lambda: texts.ids or []


def name(source: str) -> str:
    """The name of an input in messages."""
    return "stdin" if source == STDIN else named(source)


def at_line(source: str, line: int, reason: str) -> FileError:
    """An error about a line of a file."""
    return FileError(f"{name(source)}, line {line}: {reason}", path=source, line=line)


@contextmanager
def about_lines(texts: Texts | None) -> Iterator[None]:
    """Put file and lines before an error about texts that come from a file."""
    try:
        yield
    except (EncodingError, InputTooLong) as error:
        if texts is None or error.index is None:
            raise
        lines = texts.lines(error.indices or (error.index,))
        raise type(error)(
            f"{name(texts.source)}, {lines}: {error}",
            index=error.index,
            indices=error.indices,
            path=texts.source,
            line=texts.line(error.index),
        ) from error


def is_readable(text: str) -> bool:
    """Whether a text is the name of a file whose texts can be read."""
    return _suffix(text) is not None and os.path.isfile(text)  # noqa: PTH113 (a Path raises for what cannot be a name)


def _suffix(source: str) -> str | None:
    name = source.lower().removesuffix(PACKED)
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def _form(source: str) -> str:
    """The one of SUFFIXES that a source has; stdin has that of lines. Raises FileError."""
    if source == STDIN:
        return LINES[0]
    if os.path.isdir(source):  # noqa: PTH112 (a Path raises for what cannot be a name)
        a_model = os.path.isfile(os.path.join(source, "model.toml"))  # noqa: PTH113, PTH118
        hint = " with a model, which goes into --model" if a_model else ""
        raise FileError(f"{name(source)} cannot be read: it is a folder{hint}", path=source)
    form = _suffix(source)
    if form is None:  # not named: it may be a text that was meant for --text
        raise FileError(
            f"the input must be a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, also with "
            f"{PACKED} after that, or {STDIN} for stdin; a literal text goes into --text"
        )
    return form


def _lines(source: str) -> Iterator[bytes]:
    with opened(source) as stream:
        yield from iter(lambda: stream.readline(LONGEST), b"")


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    # Another program may have left it non-blocking: its end would then come too early.
    with suppress(AttributeError, OSError, ValueError):  # no file, or Windows
        os.set_blocking(sys.stdin.fileno(), True)
    return sys.stdin.buffer


def _counted(source: str) -> Iterator[str]:
    """The decoded lines of a table."""
    for number, line in enumerate(_lines(source), 1):
        try:
            yield _decoded(line, first=number == 1)
        except ValueError as error:
            raise at_line(source, number, str(error)) from None


def _decoded(line: bytes, *, first: bool) -> str:
    if len(line) == LONGEST:
        raise ValueError(f"longer than {LONGEST - 1} bytes")
    try:
        return line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None


def _of_json(line: str, field: str, id_field: str | None) -> tuple[str, Id | None]:
    """The text and the id of one line. Raises ValueError with what is wrong."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not valid JSON") from None
    text = value.get(field) if isinstance(value, dict) else value
    if not isinstance(text, str):
        expected = f"neither a JSON string nor an object with a string under {named(field)!r}"
        raise ValueError(expected)  # noqa: TRY004 (the file's fault, not the caller's)
    found = None
    if id_field is not None:
        found = value.get(id_field) if isinstance(value, dict) else None
        if isinstance(found, bool) or not isinstance(found, str | int):
            raise ValueError(f"no string or whole number under {named(id_field)!r}, the id")
    if any("\ud800" <= character <= "\udfff" for part in (text, str(found)) for character in part):
        raise ValueError("a lone surrogate, which is not valid Unicode")
    return text, found


def _table(
    first: str, rest: Iterator[str], names: tuple[str, str | None]
) -> tuple[Any, tuple[int, int], int]:
    """A reader of the rows below the header, the places of text and id (-1: none), the width."""
    import csv

    field, id_field = names
    for separator in SEPARATORS:
        header = [cell.strip() for cell in next(csv.reader([first], delimiter=separator), [])]
        if field in header:
            break
    else:
        raise ValueError(
            f"no column is named {named(field)!r}: give the name of the texts' column by --field"
        )
    if id_field is not None and id_field not in header:
        raise ValueError(f"no column is named {named(id_field)!r}, as --id-field says")
    if header.count(field) > 1 or (id_field is not None and header.count(id_field) > 1):
        raise ValueError("a column name comes twice")
    places = header.index(field), -1 if id_field is None else header.index(id_field)
    return csv.reader(rest, delimiter=separator, strict=True), places, len(header)

"""Read documents from files: texts, rows of tables and pages of PDFs, each with its source."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tessera_onnx.errors import ConfigError, FileError, TesseraError, install_hint
from tessera_onnx.files import check_regular, reason
from tessera_onnx.text.tokenizer import check_text

TEXTS = (".txt", ".md")
PDF = ".pdf"
Value = str | int | float | bool
Sought = Value | dt.date | dt.time
Filter = Mapping[str, Sought | Collection[Sought]]


@dataclass(frozen=True, slots=True)
class Document:
    """A text of a collection.

    `source` names it: no two documents of a collection have the same. `file` is the file that it
    was read from, "" for another origin. `fields` are facts that a search can filter by.
    """

    source: str
    text: str
    file: str = ""
    fields: Mapping[str, Value] = field(default_factory=dict)

    def sha256(self) -> str:
        """A hash of all that the collection keeps of the document."""
        content = json.dumps([self.text, self.file, sorted(self.fields.items())])
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Found:
    """A chunk that answers a query.

    `text` is the document's text from `start` to `stop`. `highlights` are the places of matching
    words in it, (start, stop) from the beginning of the chunk.
    """

    score: float
    text: str
    source: str
    number: int  # of the chunk in its document, from 0
    start: int
    stop: int
    fields: Mapping[str, Value] = field(default_factory=dict)
    highlights: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read.

    text_fields: keys or columns of the text of a row; several are joined by the end of a line.
    id_field: key or column of an id, which names a row whatever its place in the file.
    password: opens encrypted PDFs.
    """

    text_fields: Sequence[str] = ("text",)
    id_field: str | None = None
    password: str | None = None


def is_table(path: Path) -> bool:
    """Whether a file holds rows, by the ending of its name. Raises ImportError without pyarrow."""
    try:
        from tessera_onnx.batch.places import format_of
    except ImportError as error:
        raise ImportError(f"{error.name} is not installed: {install_hint('batch')}") from None

    return format_of(path.name) is not None


def checked(document: Document) -> Document:
    """A document of the caller's. Raises TypeError, TokenizationError, ConfigError."""
    if not isinstance(document, Document):
        raise TypeError(f"documents must hold Document, got {type(document).__name__}")
    for name in ("source", "text", "file"):
        check_text(getattr(document, name), name)
    for key, value in document.fields.items():
        check_text(key, "a field's name")
        if not isinstance(value, str | int | float | bool):
            raise TypeError(f"fields must be str, int, float or bool, got {type(value).__name__}")
        if isinstance(value, str):
            check_text(value, "a field")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError("a field is no finite number: leave it out")
    return document


def absolute(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Paths from the root on. Raises TypeError for one path in the place of several."""
    if isinstance(paths, str | bytes | os.PathLike) or not isinstance(paths, Iterable):
        raise TypeError("paths must be a list of paths: put one into a list, [path]")
    return [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 (resolve() follows links)


def is_inside(file: str, places: Sequence[Path]) -> bool:
    """Whether a file is one of these, or lies in one of these folders; "" is in none."""
    path = Path(file)
    return bool(file) and any(place == path or place in path.parents for place in places)


class Files(NamedTuple):
    """The files below some paths."""

    known: list[Path]
    ignored: int  # files of folders, by their ending
    unreadable: dict[Path, str]  # folders, and what is wrong with each


def find_files(places: Iterable[Path], but: Path | None) -> Files:
    """The files of files and folders, in the order of their names.

    Of a folder, files of other endings are ignored; hidden files and folders,
    and the folder `but`, are left out. Raises FileError for a path that is not there, ConfigError
    for a file of an ending that is not known.
    """
    found: dict[Path, None] = {}
    unreadable: dict[Path, str] = {}
    ignored = 0

    def note(error: OSError) -> None:
        unreadable[Path(error.filename)] = f"{error.filename} cannot be read: {reason(error)}"

    for place in places:
        if place.is_dir():
            for folder, folders, names in os.walk(place, onerror=note):
                here = Path(folder)
                folders[:] = sorted(n for n in folders if n[:1] != "." and here / n != but)
                files = [here / name for name in sorted(names) if name[:1] != "."]
                known = [each for each in files if _is_known(each)]
                found |= dict.fromkeys(known)
                ignored += len(files) - len(known)
        elif not place.exists():
            raise FileError(f"{place} is not there", path=str(place))
        elif not _is_known(place):
            raise ConfigError(
                f"{place} has an ending that is not known: give {', '.join(TEXTS)}, {PDF}, .jsonl, "
                ".parquet or .arrow"
            )
        else:
            found[place] = None
    return Files(list(found), ignored, unreadable)


def _is_known(path: Path) -> bool:
    return path.suffix.lower() in (*TEXTS, PDF) or is_table(path)


def read_documents(path: Path, reading: Reading) -> Iterator[Document | TesseraError]:
    """The documents of a file in order; an error in the place of a row that holds no text.

    Raises FileError for a file that cannot be read, or lacks a column.
    """
    if (shown := printable(path)) != str(path):
        raise FileError(f"the name of {shown} is not UTF-8: rename it", path=str(path))
    check_regular(path)
    if path.suffix.lower() in TEXTS:
        yield Document(str(path), read_text(path), str(path))
    elif path.suffix.lower() == PDF:
        from tessera_onnx.images.pdf import read_texts

        for number, text in enumerate(read_texts(path, password=reading.password), 1):
            yield Document(f"{path}#page={number}", text, str(path), {"page": number})
    elif is_table(path):
        from tessera_onnx.collection.tables import read_rows

        yield from read_rows(path, reading)


def printable(path: Path) -> str:
    """A path whose bytes that are not UTF-8 are written as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark, its ends of lines unchanged.

    Raises FileError for anything else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path} cannot be read: {reason(error)}", path=str(path)) from None
    if b"\0" in content:
        raise FileError(f"{path} is no text: it holds a zero byte", path=str(path))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(
            f"{path} is not UTF-8: {error.reason} at byte {error.start}; convert it first",
            path=str(path),
        ) from None

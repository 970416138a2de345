"""What a collection needs of the place where it is kept: a folder, or a database."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.collection.documents import Document, Filter, Value, absolute
from tessera_onnx.collection.settings import DATABASES, Settings
from tessera_onnx.collection.vectors import Models
from tessera_onnx.errors import ConfigError, TesseraError, install_hint
from tessera_onnx.models.spec import Kind
from tessera_onnx.results import Ranked, SparseVector

SEVERAL = (list, tuple, set, frozenset, range, np.ndarray)  # values of one field
SOUGHT = (str, int, float, bool, dt.date, dt.time)
Row = dict[str, Any]  # of a chunk: see store.FIELDS
Tags = Sequence[Sequence[str]]  # a row has one tag of each group


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store has of one version of a document."""

    chunks: int = 0
    is_whole: bool = False


class Snapshot(Protocol):
    """What a search reads. Rows have numbers, which hold for this snapshot."""

    def __len__(self) -> int:
        """The number of rows."""

    def nearest(self, vector: NDArray[np.float32], limit: int, tags: Tags) -> list[Ranked]:
        """The rows nearest to a dense vector, among all of them, best first."""

    def matching(self, query: SparseVector, limit: int, tags: Tags) -> list[Ranked]:
        """Rows by the dot product of sparse vectors, without those of 0, best first."""

    def maxsim(self, query: NDArray[np.float32], numbers: Sequence[int]) -> NDArray[np.float32]:
        """MaxSim of token vectors (n, dim) with rows: (len(numbers),)."""

    def rows(self, numbers: Sequence[int], columns: Sequence[str]) -> list[Row]:
        """Some columns of rows, in the order of the numbers."""


class Store(Protocol):
    """The rows of a collection, for one writer and many readers."""

    def snapshot(self) -> Snapshot:
        """The newest rows."""

    def state(self) -> tuple[dict[str, dict[str, Stored]], dict[str, str]]:
        """What is stored of each source, by its sha256; and the file of each source."""

    def check(self, document: Document) -> None:
        """Raises EncodingError for a document that the place cannot keep."""

    def write(
        self, rows: Sequence[Row], vectors: Mapping[Kind, Any], replaced: Mapping[str, str]
    ) -> None:
        """Add chunks, in order, and then remove older versions of documents.

        `vectors` are those of `Models.encode`. `replaced` has the sha256 of each source of which
        other versions are stored.
        """

    def remove(self, sources: Iterable[str], but: Mapping[str, str] | None = None) -> None:
        """Remove documents; of those in `but` the versions of another sha256 only."""

    def tidy(self) -> None:
        """Make ready for searches, once all is written."""


class Place(Protocol):
    """Where a collection is kept."""

    def settings(self) -> Settings | None:
        """The settings of the collection; None where there is none."""

    def stamp(self) -> object:
        """What changes when another collection is made in the place."""

    def missing(self) -> TesseraError:
        """The error of a place without a collection."""

    def writing(self) -> AbstractContextManager[None]:
        """Hold the lock of the only writer, where the place has such a lock."""

    def open(self, settings: Settings, models: Models, *, is_new: bool) -> Store:
        """The store; with `is_new` it is made, with these settings."""

    def close(self) -> None:
        """Close connections."""


def find_place(name: str | os.PathLike[str], store: str | None, url: str | None) -> Place:
    """The place of a collection: a folder, or a collection `name` of a database at a URL.

    Raises ConfigError for a store that is not known or has no URL, ImportError where its package
    is missing.
    """
    if store is None:
        if url is not None:
            raise ConfigError(f"url is that of a store: name it, store={' or '.join(DATABASES)}")
        try:
            from tessera_onnx.collection.folder import Folder
        except ImportError as error:
            raise ImportError(f"{error.name} is not installed: {install_hint('index')}") from None
        return Folder(absolute([name])[0])
    if store not in DATABASES:
        raise ConfigError(f"store must be {' or '.join(DATABASES)}, got {store!r}")
    if url is None:
        raise ConfigError(f"store {store!r} needs its url")
    from tessera_onnx.collection.database import Database

    return Database(store, url, str(name))


def tags_of(filters: Filter | None) -> list[list[str]]:
    """The tags of rows whose fields have these values; of a list, one of them.

    Raises TypeError for what is no such filter.
    """
    if filters is None:
        return []
    if not isinstance(filters, Mapping):
        raise TypeError(f"filter must be a dict of fields, got {type(filters).__name__}")
    groups = []
    for key, value in filters.items():
        values = list(value) if isinstance(value, SEVERAL) else [value]
        groups.append([_sought(key, each) for each in values])
    return groups


def _sought(key: Any, value: Any) -> str:
    """The tag of rows that a filter keeps. Raises TypeError."""
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(key, str) or not isinstance(value, SOUGHT):
        wrong = value if isinstance(key, str) else key
        raise TypeError(
            "filter must hold str: str, int, float, bool, date or time, or a list of these; got "
            f"{type(wrong).__name__}"
        )
    return tag(key, value.isoformat() if isinstance(value, dt.date | dt.time) else value)


def tag(key: str, value: Value) -> str:
    """A field as rows are filtered by it; numbers that are equal have one tag."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    name = key.replace("\\", r"\\").replace("=", r"\=")
    return f"{name}={str(value).lower() if isinstance(value, bool) else value}"

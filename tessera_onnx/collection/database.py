"""A collection in a database: a Qdrant collection or a table of PostgreSQL, on a server."""

from __future__ import annotations

import hashlib
import importlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.collection.documents import Document
from tessera_onnx.collection.place import Row, Stored, Tags, tag
from tessera_onnx.collection.settings import Settings, settings_of
from tessera_onnx.collection.vectors import Models
from tessera_onnx.errors import ConfigError, StoreError, TesseraError
from tessera_onnx.integrations.chunks import SETTINGS, ChunkStore
from tessera_onnx.integrations.rows import Hit, Rows, field_of
from tessera_onnx.integrations.stores import asking, shown
from tessera_onnx.models.spec import Kind
from tessera_onnx.results import Ranked, SparseVector

CLASSES = {"qdrant": "QdrantChunks", "pgvector": "PgVectorChunks"}
MOST_NAMED = 500  # sources in one request
SLACK = 16  # more rows than wanted, so that the last of equal scores are always the same


class Database:
    """The place of a collection on a server, which several machines write and read."""

    def __init__(self, kind: str, url: str, name: str) -> None:
        """Name a collection or table. Raises ImportError where the client is missing."""
        module = importlib.import_module(f"tessera_onnx.integrations.{kind}_chunks")
        self._class: type[ChunkStore] = getattr(module, CLASSES[kind])
        self._url, self._name, self._client = url, name, None
        self._lock = threading.RLock()  # a connection answers one thread at a time
        self._is_written = threading.Lock()

    @property
    def where(self) -> str:
        """The collection as messages name it."""
        return f"{self._class.label} collection {self._name!r} at {shown(self._url)}"

    @contextmanager
    def asked(self) -> Iterator[Any]:
        """The client, for one thread. Raises StoreError in the place of its errors."""
        with self._lock, asking(self.where, *self._class.errors):
            if self._client is None:
                self._client = self._class.client(self._url)
            yield self._client

    def settings(self) -> Settings | None:
        """The settings that the collection keeps.

        Raises StoreError, ConfigError for a collection that `tessera index` did not make.
        """
        with self.asked() as client:
            kept = self._class.settings(client, self._name)
        if kept is None:
            return None
        if not kept:
            raise ConfigError(f"{self.where} was not made by tessera index: choose another name")
        return settings_of(kept, self.where)

    def stamp(self) -> object:
        """A collection of a server is not watched."""
        return None

    def missing(self) -> TesseraError:
        """The error of a place without a collection."""
        return StoreError(f"{self.where} is not there: tessera index makes it")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The lock of the only writer, where the database has one. Raises StoreError."""
        if not self._is_written.acquire(blocking=False):
            raise StoreError(f"{self.where} is being written by another thread")
        try:
            with ExitStack() as stack:
                with self.asked() as client:
                    stack.enter_context(self._class.writing(client, self._name))
                yield
        finally:
            self._is_written.release()

    def open(self, settings: Settings, models: Models, *, is_new: bool) -> DatabaseStore:
        """The store. Raises StoreError, ConfigError, DimensionMismatch."""
        names: dict[Kind, str] = {}
        fields = []
        for kind, model in models.by_kind.items():
            field = field_of(model)
            names[kind] = field.name
            fields.append(replace(field, dtype="float16") if kind == "multi-vector" else field)
        with self.asked() as client:
            store = self._class(client, self._name, fields=fields)
            store.place = self._url
            store.about = {SETTINGS: settings.to_json()}
            if store.prepare() and not is_new:
                raise self.missing()
        return DatabaseStore(self, store, names)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None


class DatabaseStore:
    """The rows of a collection in a database."""

    def __init__(self, place: Database, store: ChunkStore, names: Mapping[Kind, str]) -> None:
        """`names` are those of the fields by kind."""
        self._place, self._store, self._names = place, store, names

    def snapshot(self) -> Hits:
        """What is found in the collection now; each ranking is of its own moment."""
        return Hits(self._place, self._store, self._names)

    def state(self) -> tuple[dict[str, dict[str, Stored]], dict[str, str]]:
        """What is stored of each source, by its sha256; and the file of each source."""
        found: dict[str, dict[str, Stored]] = {}
        files: dict[str, str] = {}
        with self._place.asked():
            versions = self._store.versions()
        for each in versions:
            found.setdefault(each.source, {})[each.sha256] = Stored(each.chunks, each.is_whole)
            files[each.source] = each.file
        return found, files

    def check(self, document: Document) -> None:
        """Raises EncodingError for a document that the database cannot keep."""
        tags = (tag(key, value) for key, value in document.fields.items())
        self._store.check([document.source, document.text, *tags])

    def write(
        self, rows: Sequence[Row], vectors: Mapping[Kind, Any], replaced: Mapping[str, str]
    ) -> None:
        """Add chunks, in order, and then remove older versions of documents.

        PostgreSQL does all of it in one transaction, Qdrant in several requests.
        """
        fields = {self._names[kind]: each for kind, each in vectors.items()}
        if "multi_vector" in fields:
            fields["multi_vector"] = [each.astype(np.float16) for each in fields["multi_vector"]]
        with self._place.asked(), self._store.commit():
            self._store.write(Rows([_id(row) for row in rows], fields, list(rows)))
            if replaced:
                self._store.remove_others(replaced)

    def remove(self, sources: Iterable[str], but: Mapping[str, str] | None = None) -> None:
        """Remove documents; of those in `but` the versions of another sha256 only."""
        names = list(sources)
        with self._place.asked():
            for first in range(0, len(names), MOST_NAMED):
                self._store.remove(names[first : first + MOST_NAMED])
            if but:
                self._store.remove_others(but)

    def tidy(self) -> None:
        """Make the indexes that removals and filters use."""
        with self._place.asked():
            self._store.finish()


class Hits:
    """What one search has found; a number is the place of a row among these."""

    def __init__(self, place: Database, store: ChunkStore, names: Mapping[Kind, str]) -> None:
        self._place, self._store, self._names = place, store, names
        self._numbers: dict[str, int] = {}
        self._hits: list[Hit] = []

    def __len__(self) -> int:
        with self._place.asked():
            return self._store.count()

    def nearest(self, vector: NDArray[np.float32], limit: int, tags: Tags) -> list[Ranked]:
        """The rows nearest to a dense vector, among all of them."""
        return self._ranked("dense", vector, limit, tags)

    def matching(self, query: SparseVector, limit: int, tags: Tags) -> list[Ranked]:
        """Rows by the dot product of sparse vectors, without those of 0."""
        return [row for row in self._ranked("sparse", query, limit, tags) if row.score != 0]

    def _ranked(self, kind: Kind, vector: Any, limit: int, tags: Tags) -> list[Ranked]:
        where = [("tags", group) for group in tags]
        with self._place.asked():
            hits = self._store.nearest(self._names[kind], vector, limit + SLACK, where)
        found = []
        hits.sort(key=lambda hit: (-hit.score, hit.payload["source"], hit.payload["number"]))
        for hit in hits[:limit]:
            number = self._numbers.setdefault(hit.id, len(self._hits))
            if number == len(self._hits):
                self._hits.append(hit)
            found.append(Ranked(number, hit.score))
        return found

    def maxsim(self, query: NDArray[np.float32], numbers: Sequence[int]) -> NDArray[np.float32]:
        """MaxSim of token vectors (n, dim) with rows: (len(numbers),); 0 without token vectors."""
        ids = [self._hits[number].id for number in numbers]
        with self._place.asked():
            scores = self._store.maxsim(query, ids)
        return np.array([scores.get(id_, 0.0) for id_ in ids], dtype=np.float32)

    def rows(self, numbers: Sequence[int], columns: Sequence[str]) -> list[Row]:
        """Some columns of rows, in the order of the numbers."""
        hits = (self._hits[number] for number in numbers)
        return [{name: hit.payload[name] for name in columns} for hit in hits]


def _id(row: Row) -> str:
    """The id of a chunk: the same whenever it is written."""
    key = json.dumps([row["source"], row["sha256"], row["number"]])
    return hashlib.sha256(key.encode()).hexdigest()

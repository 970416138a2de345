"""Store, the base of all stores: one collection, its models, and what is written and found."""

from __future__ import annotations

import abc
import itertools
import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, ClassVar, Self

from tessera_onnx.base import Model
from tessera_onnx.checks import check_items, check_limit
from tessera_onnx.errors import ConfigError, StoreError, TesseraError
from tessera_onnx.integrations.rows import Field, Hit, Rows, encoded, field_of
from tessera_onnx.text.tokenizer import check_text

FACTS = "tessera"  # the key below which a store keeps the facts of its fields
CANDIDATES = 100  # documents that each first stage of a search hands on
MISSING = object()
READ = 256  # texts that are encoded together


@contextmanager
def asking(where: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn the errors of a client into a StoreError that names the store."""
    caught: tuple[type[Exception], ...] = (*errors, OSError)
    try:
        yield
    except TesseraError:
        raise
    except caught as error:
        # What a message quotes may be a text of the caller; so may what the rest of it holds.
        line = re.sub(r"(['\"]).*?\1", "...", str(error).partition("\n")[0])[:200]
        said = f"{type(error).__name__}: {line}"
        raise StoreError(f"{where}: the request failed ({said})") from None


def _rows(
    ids: Iterable[object], documents: Iterable[Any], payload: Iterable[dict[str, Any]] | None
) -> Iterator[tuple[object, Any, dict[str, Any] | None]]:
    """Documents with their ids and payload. Raises TypeError, ConfigError."""
    columns: list[Iterable[Any]] = [ids, documents, *([] if payload is None else [payload])]
    for i, row in enumerate(itertools.zip_longest(*columns, fillvalue=MISSING)):
        if any(each is MISSING for each in row):
            raise ConfigError("ids, documents and payload must be as many")
        if row[0] is None:
            raise TypeError(f"ids[{i}] is None: give each document an id")
        yield row if payload is not None else (*row, None)


def shown(url: str) -> str:
    """A URL, or a connection string of PostgreSQL, without name, password and options."""
    place = url.rpartition("@")[2].partition("?")[0]
    return re.sub(r"(password\s*=\s*)('[^']*'|\S+)", r"\1...", place)


class Store(abc.ABC):
    """A collection (or table) of documents with the vectors of one or several models."""

    label: ClassVar[str]
    holds: ClassVar[Mapping[str, Container[str]]]  # field: types of its numbers
    has_idf: ClassVar[bool] = False
    errors: ClassVar[tuple[type[Exception], ...]] = ()  # of the client
    most_numbers: ClassVar[int] = 1 << 20  # of a request
    most_rows: ClassVar[int] = 1024  # that a load reads at once
    place = ""  # the URL, of a store that `connect` opened

    def __init__(
        self,
        client: Any,
        collection: str,
        models: Sequence[Model] = (),
        fields: Sequence[Field] = (),
    ) -> None:
        """Use a collection through an open client, with the models, one a kind, of its vectors.

        `fields` take the place of models where vectors come from `tessera batch`. Raises
        ConfigError for vectors that the store cannot hold.
        """
        self._client, self.collection = client, collection
        found = [*fields] or [field_of(model) for model in models]
        self.fields = {each.name: each for each in found}
        self.about: Mapping[str, str] = {}  # what a new collection keeps beside the facts
        self._is_ready = False
        self._models: dict[str, Any] = dict(zip(self.fields, models, strict=False))
        if not found or len(self.fields) < len(found):
            raise ConfigError("give a collection one model a kind, and one at the least")
        for each in found:
            if each.dtype not in self.holds.get(each.name, ()):
                raise ConfigError(f"{self.label} keeps no {each.name} vectors of {each.dtype} here")
            if each.idf and not self.has_idf:
                raise ConfigError(
                    f"{self.label} does not weigh the terms of {each.model} by their inverse "
                    "document frequency: use its own full-text search"
                )

    @classmethod
    def connect(cls, url: str, collection: str, **options: Any) -> Self:
        """Use a collection at a URL, or in a folder or file of a store that has such.

        Raises StoreError where nothing answers.
        """
        with asking(f"{cls.label} at {shown(url)}", *cls.errors):
            client = cls._open(url)
        found = cls(client, collection, **options)
        found.place = url
        return found

    @property
    def where(self) -> str:
        """The store as messages name it."""
        place = f" at {shown(self.place)}" if self.place else ""
        return f"{self.label} collection {self.collection!r}{place}"

    def prepare(self) -> bool:
        """Make the collection, True; or check that it is one of the same models, False.

        Raises StoreError where the store does not answer, ConfigError where the collection holds
        vectors of another model or none of this package, DimensionMismatch.
        """
        with asking(self.where, *self.errors):
            exists, stored = self._stored()
            if not exists:
                self._create(json.dumps([asdict(each) for each in self.fields.values()]))
                self._is_ready = True
                return True
        if stored is None:
            raise ConfigError(f"{self.where} was not made by tessera: choose another name")
        there = {each["name"]: Field(**each) for each in json.loads(stored)}
        if there.keys() != self.fields.keys():
            raise ConfigError(
                f"{self.where} holds {', '.join(there)}, not {', '.join(self.fields)}: give the "
                "same kinds of models, or choose another collection"
            )
        for name, each in there.items():
            each.check(self.fields[name], self.where)
        self.fields, self._is_ready = there, True
        return False

    def add(
        self,
        ids: Iterable[object],
        documents: Iterable[Any],
        payload: Iterable[dict[str, Any]] | None = None,
    ) -> int:
        """Encode documents and write them; the number of them. An id that is there is replaced.

        Texts (images for a model that reads images) are read as documents, 256 at a time, and
        written before the next are read. Raises TypeError for an id that is None, ConfigError
        where ids, documents and payload are not as many, and what encoding and `write` raise.
        """
        check_items(ids, "ids", "ids")
        check_items(documents, "documents", "documents")
        total = 0
        rows = _rows(ids, documents, payload)
        while part := list(itertools.islice(rows, READ)):
            texts = [text for _, text, _ in part]
            vectors = {name: encoded(model, texts) for name, model in self._models.items()}
            self.write(Rows([str(i) for i, _, _ in part], vectors, [p or {} for _, _, p in part]))
            total += len(part)
        return total

    def write(self, rows: Rows) -> None:
        """Write rows, in requests of a size that the store takes. An id that is there is replaced.

        Raises StoreError; requests before the one that failed are done.
        """
        if not self._is_ready:
            self.prepare()
        taken = self._reserved()
        for id_, payload in zip(rows.ids, rows.payload, strict=True):
            for key in taken & payload.keys():
                if str(payload[key]) != id_:
                    raise ConfigError(
                        f"a payload has the key {key!r}, which {self.label} needs: rename it"
                    )
        for part in rows.parts(self.most_numbers):
            with asking(self.where, *self.errors):
                self._write(part)

    def search(self, query: str, limit: int = 10) -> list[Hit]:
        """The `limit` best documents for a query, best first.

        Dense and sparse rankings are fused by reciprocal rank; vectors per token score the
        candidates anew by MaxSim. Raises StoreError.
        """
        check_limit(limit, "limit")
        vectors = self.query_vectors(query)
        if not self._is_ready:
            with asking(self.where, *self.errors):
                exists, _ = self._stored()
            if not exists:
                raise StoreError(f"{self.where} is not there: `add` or `tessera load` makes it")
            self.prepare()
        with asking(self.where, *self.errors):
            return self._search(vectors, limit)

    def query_vectors(self, query: str) -> dict[str, Any]:
        """The vectors of a query, by field."""
        if not self._models:
            raise ConfigError("a search needs the models: give them as models=[...]")
        check_text(query, "query")
        return {name: model.encode_query(query) for name, model in self._models.items()}

    def finish(self) -> None:  # noqa: B027 (most stores have nothing to do)
        """Make the indexes, once all rows are in."""

    @staticmethod
    @abc.abstractmethod
    def _open(url: str) -> Any:
        """A client of the store at a URL."""

    @abc.abstractmethod
    def _stored(self) -> tuple[bool, str | None]:
        """Whether the collection exists, and the facts that it was made with."""

    @abc.abstractmethod
    def _create(self, facts: str) -> None:
        """Make the collection."""

    @abc.abstractmethod
    def _write(self, rows: Rows) -> None:
        """Write rows by id."""

    @abc.abstractmethod
    def _search(self, vectors: dict[str, Any], limit: int) -> list[Hit]:
        """The best documents for the vectors of a query."""

    def _reserved(self) -> set[str]:
        """Keys of a payload that the store uses itself; of the id, with the id as value."""
        return set()

    def close(self) -> None:  # noqa: B027 (some clients have nothing to close)
        """Close a client that `connect` opened."""

    @abc.abstractmethod
    def count(self) -> int:
        """Documents in the collection."""

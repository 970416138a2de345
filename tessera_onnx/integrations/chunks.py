"""ChunkStore, the base of stores that hold the chunks of documents for `Collection`."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from tessera_onnx.integrations.rows import Hit, Where
from tessera_onnx.integrations.stores import Store

SETTINGS = "tessera_index"  # the key below which a store keeps the settings of a collection
KEYS = ("source", "file", "sha256", "last")


class Version(NamedTuple):
    """What is stored of one version of a document."""

    source: str
    file: str
    sha256: str
    chunks: int
    is_whole: bool  # its last chunk is there


class ChunkStore(Store):
    """A store of chunks; a payload has at least KEYS, and `tags`, which filters look at.

    Errors of the client pass through all methods that this class adds: the caller turns them into
    a StoreError with `asking`.
    """

    @classmethod
    def client(cls, url: str) -> Any:
        """A client of the store at a URL."""
        return cls._open(url)

    @staticmethod
    @abc.abstractmethod
    def settings(client: Any, collection: str) -> str | None:
        """SETTINGS of a collection, "" where it has none; None where there is no collection."""

    @classmethod
    @abc.abstractmethod
    def writing(cls, client: Any, collection: str) -> AbstractContextManager[None]:
        """Hold the lock of the only writer, in a store that has such a lock.

        Raises StoreError where another one holds it.
        """

    @abc.abstractmethod
    def commit(self) -> AbstractContextManager[Any]:
        """All writes inside are done or none is, in a store that has transactions."""

    def check(self, texts: Sequence[str]) -> None:
        """Raises EncodingError for texts of a document that the store cannot keep."""

    @abc.abstractmethod
    def versions(self) -> list[Version]:
        """Of each version of a document, how much is stored."""

    @abc.abstractmethod
    def remove(self, sources: Sequence[str]) -> None:
        """Remove all chunks of documents."""

    @abc.abstractmethod
    def remove_others(self, kept: Mapping[str, str]) -> None:
        """Remove the chunks of these sources that have another sha256 than the given one."""

    @abc.abstractmethod
    def nearest(self, name: str, vector: Any, limit: int, where: Where) -> list[Hit]:
        """The rows of the best scores by one field, of all rows: no approximate index is used."""

    @abc.abstractmethod
    def maxsim(self, query: Any, ids: Sequence[str]) -> dict[str, float]:
        """MaxSim of a query's token vectors with rows, by id; rows without vectors are left out."""

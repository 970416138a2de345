"""Chunks of documents in a Qdrant collection, for `Collection`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from tessera_onnx.errors import install_hint
from tessera_onnx.integrations import qdrant_config as config
from tessera_onnx.integrations.chunks import KEYS, SETTINGS, ChunkStore, Version
from tessera_onnx.integrations.qdrant import QdrantStore, metadata
from tessera_onnx.integrations.rows import Hit, Where

try:
    from qdrant_client import QdrantClient, models
except ImportError as error:
    raise ImportError(f"{error.name} is not installed: {install_hint('qdrant')}") from None

READ = 1000  # points of a page
EXACT = models.SearchParams(exact=True)


def has(key: str, values: Sequence[str]) -> models.FieldCondition:
    """The condition of points whose payload has one of the values."""
    return models.FieldCondition(key=key, match=models.MatchAny(any=list(values)))


class QdrantChunks(QdrantStore, ChunkStore):
    """A collection of chunks. Qdrant has no lock of a writer and no transactions."""

    @staticmethod
    def settings(client: QdrantClient, collection: str) -> str | None:
        """SETTINGS of a collection, "" where it has none; None where there is no collection."""
        kept = metadata(client, collection)
        return None if kept is None else kept.get(SETTINGS, "")

    @classmethod
    @contextmanager
    def writing(cls, client: QdrantClient, collection: str) -> Iterator[None]:  # noqa: ARG003
        """Hold no lock: another writer with other documents is not noticed."""
        yield

    @property
    def _is_server(self) -> bool:
        """Whether it is no folder of the client's local mode, which warns of what it ignores."""
        return "://" in self.place

    def commit(self) -> AbstractContextManager[Any]:
        """Each write stands for itself."""
        return nullcontext()

    def finish(self) -> None:
        """Make indexes of the payload, which removals and filters use."""
        if self._is_server:
            for key in ("source", "tags"):
                kind = models.PayloadSchemaType.KEYWORD
                self._client.create_payload_index(self.collection, key, kind, wait=True)

    def versions(self) -> list[Version]:
        """Of each version of a document, how much is stored."""
        found: dict[tuple[str, str, str], tuple[int, bool]] = {}
        offset: Any = None
        while True:
            points, offset = self._client.scroll(
                self.collection, limit=READ, offset=offset, with_payload=list(KEYS)
            )
            for point in points:
                source, file, sha256, is_last = ((point.payload or {})[key] for key in KEYS)
                count, is_whole = found.get((source, file, sha256), (0, False))
                found[source, file, sha256] = (count + 1, is_whole or is_last)
            if offset is None:
                return [Version(*key, *facts) for key, facts in found.items()]

    def remove(self, sources: Sequence[str]) -> None:
        """Remove all chunks of documents."""
        self._delete(models.Filter(must=[has("source", sources)]))

    def remove_others(self, kept: Mapping[str, str]) -> None:
        """Remove the chunks of these sources that have another sha256 than the given one."""
        others: list[Any] = [
            models.Filter(must=[has("source", [source])], must_not=[has("sha256", [sha256])])
            for source, sha256 in kept.items()
        ]
        self._delete(models.Filter(should=others))

    def _delete(self, which: models.Filter) -> None:
        selected = models.FilterSelector(filter=which)
        self._client.delete(self.collection, points_selector=selected, wait=True)

    def nearest(self, name: str, vector: Any, limit: int, where: Where) -> list[Hit]:
        """The rows of the best scores by one field, of all rows."""
        if name == "sparse" and not len(vector.indices):
            return []
        return self._query(name, vector, limit, [has(*each) for each in where])

    def maxsim(self, query: Any, ids: Sequence[str]) -> dict[str, float]:
        """MaxSim of a query's token vectors with rows, by id."""
        among = models.HasIdCondition(has_id=[config.point_id(each) for each in ids])
        return {hit.id: hit.score for hit in self._query("multi_vector", query, len(ids), [among])}

    def _query(self, name: str, vector: Any, limit: int, must: list[Any]) -> list[Hit]:
        found = self._client.query_points(
            self.collection,
            query=config.query_vector(vector),
            using=name,
            limit=limit,
            query_filter=models.Filter(must=must) if must else None,
            search_params=EXACT if self._is_server else None,
        )
        return self._hits(found.points, name)

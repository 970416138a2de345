"""Qdrant: collections for models of any kind, uploads, and searches that fuse and rescore."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tessera_onnx.checks import check_limit
from tessera_onnx.errors import install_hint
from tessera_onnx.integrations import qdrant_config as config
from tessera_onnx.integrations.rows import Hit, Rows
from tessera_onnx.integrations.stores import CANDIDATES, FACTS, Store, asking

try:
    from qdrant_client import AsyncQdrantClient, QdrantClient, models
    from qdrant_client.common.client_exceptions import QdrantException
    from qdrant_client.http.exceptions import ApiException
except ImportError as error:
    raise ImportError(f"{error.name} is not installed: {install_hint('qdrant')}") from None


ID = "_id"  # the key of a document's id in its payload: Qdrant's own are numbers and UUIDs


def metadata(client: QdrantClient, collection: str) -> dict[str, Any] | None:
    """What a collection keeps beside its points; None where there is no collection."""
    if not client.collection_exists(collection):
        return None
    return client.get_collection(collection).config.metadata or {}


class QdrantStore(Store):
    """A Qdrant collection of documents; their ids are kept as `_id` in the payload."""

    label = "Qdrant"
    holds: ClassVar = {
        "embedding": config.TYPES,
        "multi_vector": config.TYPES,
        "sparse": ("float32",),
    }
    has_idf = True
    # The last two are of the local mode.
    errors = (QdrantException, ApiException, ValueError, RuntimeError)
    _client: QdrantClient

    @staticmethod
    def _open(url: str) -> QdrantClient:
        if "://" not in url:  # a folder of the client's local mode
            return QdrantClient(path=url)
        key = os.environ.get("QDRANT_API_KEY")
        # The check of versions warns in a thread where the server is down, before the error.
        return QdrantClient(url=url, timeout=60, api_key=key, check_compatibility=False)

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _stored(self) -> tuple[bool, str | None]:
        kept = metadata(self._client, self.collection)
        return kept is not None, (kept or {}).get(FACTS)

    def _create(self, facts: str) -> None:
        fields = list(self.fields.values())
        self._client.create_collection(
            self.collection,
            vectors_config=config.vectors_config(fields),
            sparse_vectors_config=config.sparse_vectors_config(fields),
            metadata={FACTS: facts, **self.about},
        )

    def _reserved(self) -> set[str]:
        return {ID}

    def _write(self, rows: Rows) -> None:
        points = [
            models.PointStruct(
                id=config.point_id(id_),
                # Qdrant takes no empty vector: that of a text of stop words, say.
                vector={
                    name: config.query_vector(each[i])
                    for name, each in rows.vectors.items()
                    if np.size(each[i])
                },
                payload={**rows.payload[i], ID: id_},
            )
            for i, id_ in enumerate(rows.ids)
        ]
        self._client.upsert(self.collection, points, wait=True)

    def request(
        self, vectors: dict[str, Any], limit: int = 10, query_filter: Any = None
    ) -> dict[str, Any]:
        """The arguments of `query_points` of a client, for the vectors of `query_vectors`."""
        found = {name: config.query_vector(vector) for name, vector in vectors.items()}
        last = found.pop("multi_vector", None)
        first = [
            models.Prefetch(query=vector, using=name, limit=CANDIDATES, filter=query_filter)
            for name, vector in found.items()
        ]
        common = {"limit": limit, "with_payload": True, "query_filter": query_filter}
        fusion = models.FusionQuery(fusion=models.Fusion.RRF)
        if last is None and len(first) > 1:
            return {**common, "prefetch": first, "query": fusion}
        if last is None:
            return {**common, "query": first[0].query, "using": first[0].using}
        if len(first) > 1:
            first = [models.Prefetch(prefetch=first, query=fusion, limit=CANDIDATES)]
        return {**common, "prefetch": first or None, "query": last, "using": "multi_vector"}

    def _search(self, vectors: dict[str, Any], limit: int) -> list[Hit]:
        request = self.request(vectors, limit)
        return self._hits(self._client.query_points(self.collection, **request).points)

    async def search_async(
        self, client: AsyncQdrantClient, query: str, limit: int = 10, query_filter: Any = None
    ) -> list[Hit]:
        """As `search`, through an asynchronous client; the query is encoded in a thread."""
        check_limit(limit, "limit")
        vectors = await asyncio.to_thread(self.query_vectors, query)
        with asking(self.where, *self.errors):
            request = self.request(vectors, limit, query_filter)
            return self._hits((await client.query_points(self.collection, **request)).points)

    def _hits(self, points: Sequence[Any], name: str = "") -> list[Hit]:
        """The hits of points; `name` is the field whose scores they have, "" for all fields."""
        is_dense = name == "embedding" or self.fields.keys() == {"embedding"}
        distances = {"euclidean", "manhattan"}
        sign = -1 if is_dense and self.fields["embedding"].similarity in distances else 1
        return [Hit(p.payload.pop(ID, str(p.id)), sign * p.score, p.payload) for p in points]

    def count(self) -> int:
        """Documents in the collection."""
        with asking(self.where, *self.errors):
            return int(self._client.count(self.collection, exact=True).count)

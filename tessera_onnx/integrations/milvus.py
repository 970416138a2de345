"""Milvus: collections with dense and sparse vectors, and models as pymilvus's function objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tessera_onnx.base import Model
from tessera_onnx.errors import ConfigError, install_hint
from tessera_onnx.integrations.rows import Hit, Rows, encoded, field_of
from tessera_onnx.integrations.stores import CANDIDATES, FACTS, Store, asking

try:
    from pymilvus import AnnSearchRequest, DataType, MilvusClient, MilvusException, RRFRanker
    from pymilvus.exceptions import ConnectError
except ImportError as error:
    raise ImportError(f"{error.name} is not installed: {install_hint('milvus')}") from None

METRICS = {"cosine": "COSINE", "dot": "IP", "euclidean": "L2"}
LONGEST_ID = 512  # bytes
MOST_FOUND = 16_384  # documents that a search gives
TIMEOUT = 60.0  # seconds
NOTHING = {0: 1e-37}  # Milvus takes no empty sparse vector; this one scores next to nothing


class MilvusFunction:
    """A dense or sparse model with the methods of pymilvus's embedding functions."""

    def __init__(self, model: Model) -> None:
        """Use an open model. Raises ConfigError for vectors per token."""
        self._model: Any = model
        self._field = field_of(model)
        if self._field.name == "multi_vector":
            raise ConfigError("pymilvus's functions give one vector a text: use a dense model")

    @property
    def dim(self) -> int:
        """Number of dimensions; of sparse vectors, entries of the vocabulary."""
        return self._field.dimension

    def encode_documents(self, documents: Sequence[str]) -> list[Any]:
        """(dim,) float32 arrays of documents; of a sparse model, {index: weight}."""
        return [_value(each) for each in encoded(self._model, list(documents))]

    __call__ = encode_documents

    def encode_queries(self, queries: Sequence[str]) -> list[Any]:
        """The same of queries."""
        return [_value(each) for each in self._model.encode_query(list(queries))]


def _value(vector: Any) -> Any:
    return (vector.to_dict() or NOTHING) if hasattr(vector, "to_dict") else vector


class MilvusStore(Store):
    """A collection: `id`, a vector field for each model, and the payload as dynamic fields."""

    label = "Milvus"
    holds: ClassVar = {"embedding": ("float32",), "sparse": ("float32",)}
    errors = (MilvusException, ConnectError)
    _client: MilvusClient

    @staticmethod
    def _open(url: str) -> MilvusClient:
        return MilvusClient(url, timeout=10)  # NAME.db is a file of milvus-lite

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _stored(self) -> tuple[bool, str | None]:
        if not self._client.has_collection(self.collection, timeout=TIMEOUT):
            return False, None
        found = self._client.describe_collection(self.collection, timeout=TIMEOUT)
        self._client.load_collection(self.collection, timeout=TIMEOUT)
        return True, found.get("properties", {}).get(FACTS)

    def _create(self, facts: str) -> None:
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=True)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=LONGEST_ID)
        indexes = self._client.prepare_index_params()
        for each in self.fields.values():
            if each.name == "sparse":
                schema.add_field(each.name, DataType.SPARSE_FLOAT_VECTOR)
                indexes.add_index(each.name, "SPARSE_INVERTED_INDEX", metric_type="IP")
            else:
                schema.add_field(each.name, DataType.FLOAT_VECTOR, dim=each.dimension)
                metric = METRICS[each.similarity]
                indexes.add_index(each.name, "AUTOINDEX", metric_type=metric)
        self._client.create_collection(
            self.collection,
            schema=schema,
            index_params=indexes,
            properties={FACTS: facts},
            consistency_level="Strong",
            timeout=TIMEOUT,
        )

    def _reserved(self) -> set[str]:
        return {"id", *self.fields}

    def _write(self, rows: Rows) -> None:
        if any(len(id_.encode()) > LONGEST_ID for id_ in rows.ids):
            raise ConfigError(f"an id has more than {LONGEST_ID} bytes")
        data = [
            {**rows.payload[i], "id": id_}
            | {name: _value(each[i]) for name, each in rows.vectors.items()}
            for i, id_ in enumerate(rows.ids)
        ]
        self._client.upsert(self.collection, data, timeout=TIMEOUT)

    def _search(self, vectors: dict[str, Any], limit: int) -> list[Hit]:
        limit = min(limit, MOST_FOUND)
        common = {"limit": limit, "output_fields": ["*"], "timeout": TIMEOUT}
        if len(vectors) == 1:
            ((name, vector),) = vectors.items()
            found = self._client.search(
                self.collection, [_value(vector)], anns_field=name, **common
            )
        else:
            requests = [
                AnnSearchRequest([_value(vector)], name, {}, limit=max(CANDIDATES, limit))
                for name, vector in vectors.items()
            ]
            found = self._client.hybrid_search(self.collection, requests, RRFRanker(), **common)
        is_distance = self.fields.get("embedding") and self.fields["embedding"].similarity
        sign = -1 if len(vectors) == 1 and is_distance == "euclidean" else 1
        gone = {"id", *self.fields}
        return [
            Hit(hit["id"], sign * hit["distance"],
                {name: value for name, value in hit["entity"].items() if name not in gone})
            for hit in found[0]
        ]  # fmt: skip

    def count(self) -> int:
        """Documents in the collection."""
        with asking(self.where, *self.errors):
            found = self._client.query(
                self.collection, filter="", output_fields=["count(*)"], timeout=TIMEOUT
            )
            return int(found[0]["count(*)"])

"""Settings of Qdrant collections for models of any kind, and vectors and ids in Qdrant's form."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from tessera_onnx.errors import install_hint
from tessera_onnx.integrations.rows import Field

try:
    from qdrant_client import models
except ImportError as error:
    raise ImportError(f"{error.name} is not installed: {install_hint('qdrant')}") from None

DISTANCES = {
    "cosine": models.Distance.COSINE,
    "dot": models.Distance.DOT,
    "euclidean": models.Distance.EUCLID,
    "manhattan": models.Distance.MANHATTAN,
}
TYPES = {"float32": models.Datatype.FLOAT32, "float16": models.Datatype.FLOAT16}


def point_id(id_: str) -> str:
    """The UUID of a point for the id of a document: always the same."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, id_))


def vectors_config(fields: Sequence[Field]) -> dict[str, models.VectorParams]:
    """The settings of dense vectors and of vectors per token.

    The latter have no HNSW graph (m=0): they only score candidates anew.
    """
    found = {}
    for each in fields:
        common = {"size": each.dimension, "datatype": TYPES[each.dtype]}
        if each.name == "embedding":
            found[each.name] = models.VectorParams(distance=DISTANCES[each.similarity], **common)
        elif each.name == "multi_vector":
            maxsim = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
            found[each.name] = models.VectorParams(
                distance=models.Distance.DOT,
                hnsw_config=models.HnswConfigDiff(m=0),
                multivector_config=maxsim,
                **common,
            )
    return found


def sparse_vectors_config(fields: Sequence[Field]) -> dict[str, models.SparseVectorParams]:
    """The settings of sparse vectors: terms of BM25 are weighed by IDF, those of SPLADE are not."""
    modifiers = {True: models.Modifier.IDF, False: models.Modifier.NONE}
    sparse = [each for each in fields if each.name == "sparse"]
    return {each.name: models.SparseVectorParams(modifier=modifiers[each.idf]) for each in sparse}


def query_vector(value: Any) -> Any:
    """A vector as the client takes it."""
    if hasattr(value, "indices"):
        return models.SparseVector(**value.to_qdrant())
    return value.tolist()

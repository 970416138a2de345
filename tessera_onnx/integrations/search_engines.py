"""Weaviate and Vespa: definitions of collections as data, for any client.

`fields` are those of `rows.field_of`, one a model. Nothing here opens a connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tessera_onnx.errors import ConfigError
from tessera_onnx.integrations.rows import Field

# Name of a similarity in Weaviate and Vespa.
SIMILARITIES = {
    "cosine": ("cosine", "angular"),
    "dot": ("dot", "dotproduct"),
    "euclidean": ("l2-squared", "euclidean"),
}
WEAVIATE, VESPA = range(2)


def _similarity(field: Field, engine: int) -> str:
    if field.similarity not in SIMILARITIES:
        raise ConfigError(f"no engine here has the distance {field.similarity} of {field.model}")
    return SIMILARITIES[field.similarity][engine]


def weaviate_class(name: str, fields: Sequence[Field]) -> dict[str, Any]:
    """The definition of a collection with vectors of one's own; sparse ones are refused."""
    vectors: dict[str, Any] = {}
    for each in fields:
        if each.name == "sparse":
            raise ConfigError("Weaviate has no sparse vectors")
        config: dict[str, Any] = {"multivector": {"enabled": True}}
        if each.name == "embedding":
            config = {"distance": _similarity(each, WEAVIATE)}
        made = {"vectorizer": {"none": {}}, "vectorIndexType": "hnsw"}
        vectors[each.name] = {**made, "vectorIndexConfig": config}
    return {"class": name, "vectorConfig": vectors}


def vespa_fields(fields: Sequence[Field]) -> list[dict[str, Any]]:
    """The arguments of pyvespa's `Field`, one each. Vectors per token are stored in bfloat16."""
    found = []
    for each in fields:
        made: dict[str, Any] = {"name": each.name, "indexing": ["attribute"]}
        if each.name == "embedding":
            made["type"] = f"tensor<float>(x[{each.dimension}])"
            made["indexing"] = ["attribute", "index"]
            made["attribute"] = [f"distance-metric: {_similarity(each, VESPA)}"]
        elif each.name == "multi_vector":
            made["type"] = f"tensor<bfloat16>(token{{}}, x[{each.dimension}])"
        else:
            made["type"] = "tensor<float>(term{})"
        found.append(made)
    return found


# Rank expressions of Vespa. The query has query(tokens), tensor<float>(asked{}, x[N]), and
# query(terms), tensor<float>(term{}).
VESPA_MAXSIM = (
    "sum(reduce(sum(query(tokens) * cell_cast(attribute(multi_vector), float), x), max, token), "
    "asked)"
)
VESPA_SPARSE = "sum(query(terms) * attribute(sparse))"

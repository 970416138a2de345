"""OpenSearch and Elasticsearch: settings and requests as data, for any client.

`fields` are those of `rows.field_of`, one a model. `vectors` are {field: vector}: those of a query
for a search, those of a document for `document`. Nothing here opens a connection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tessera_onnx.errors import ConfigError
from tessera_onnx.integrations.rows import Field
from tessera_onnx.integrations.stores import CANDIDATES, FACTS

# Name of a similarity in Elasticsearch and OpenSearch. Elasticsearch's dot_product takes unit
# vectors alone.
SIMILARITIES = {
    "cosine": ("cosine", "cosinesimil"),
    "dot": ("max_inner_product", "innerproduct"),
    "euclidean": ("l2_norm", "l2"),
}
ELASTICSEARCH, OPENSEARCH = range(2)


def _similarity(field: Field, engine: int) -> str:
    if field.similarity not in SIMILARITIES:
        raise ConfigError(f"no engine here has the distance {field.similarity} of {field.model}")
    return SIMILARITIES[field.similarity][engine]


def _facts(fields: Sequence[Field]) -> dict[str, Any]:
    return {FACTS: [asdict(each) for each in fields]}


def _refuse_idf(fields: Sequence[Field], engine: str) -> None:
    for each in fields:
        if each.idf:
            raise ConfigError(f"{engine} has BM25 of its own: use that in place of {each.model}")


def document(vectors: Mapping[str, Any], payload: Mapping[str, Any] | None = None) -> Any:
    """The source of a document in Elasticsearch or OpenSearch.

    The keys of sparse vectors are vocabulary ids, because tokens may hold a dot.
    """
    return {**(payload or {}), **{name: _json(vector) for name, vector in vectors.items()}}


def _json(vector: Any) -> Any:
    if hasattr(vector, "to_dict"):
        return {str(index): weight for index, weight in vector.to_dict().items()}
    return vector.tolist()


def elasticsearch_mappings(fields: Sequence[Field]) -> dict[str, Any]:
    """The mappings of an index: dense_vector, sparse_vector and rank_vectors."""
    _refuse_idf(fields, "Elasticsearch")
    properties: dict[str, Any] = {}
    for each in fields:
        if each.name == "embedding":
            kind = {"type": "dense_vector", "similarity": _similarity(each, ELASTICSEARCH)}
            properties[each.name] = {**kind, "dims": each.dimension}
        elif each.name == "multi_vector":
            properties[each.name] = {"type": "rank_vectors", "dims": each.dimension}
        else:
            properties[each.name] = {"type": "sparse_vector"}
    return {"_meta": _facts(fields), "properties": properties}


def elasticsearch_search(vectors: Mapping[str, Any], limit: int = 10) -> dict[str, Any]:
    """The arguments of `search`: dense and sparse fused by RRF, and scored anew by MaxSim."""
    found = {name: _json(vector) for name, vector in vectors.items()}
    first: list[dict[str, Any]] = []
    if "embedding" in found:
        knn = {"field": "embedding", "query_vector": found["embedding"]}
        first.append({"knn": {**knn, "k": CANDIDATES, "num_candidates": CANDIDATES}})
    if "sparse" in found:
        weights = {"field": "sparse", "query_vector": found["sparse"]}
        first.append({"standard": {"query": {"sparse_vector": weights}}})
    retriever = first[0] if first else {"standard": {"query": {"match_all": {}}}}
    if len(first) > 1:
        retriever = {"rrf": {"retrievers": first, "rank_window_size": CANDIDATES}}
    if "multi_vector" in found:
        if not first:
            return {"query": _maxsim(found["multi_vector"]), "size": limit}
        query = {"rescore_query": _maxsim(found["multi_vector"]), "query_weight": 0}
        rescore = {"window_size": CANDIDATES, "query": query}
        retriever = {"rescorer": {"retriever": retriever, "rescore": rescore}}
    return {"retriever": retriever, "size": limit}


def _maxsim(tokens: list[list[float]]) -> dict[str, Any]:
    """MaxSim as a query; the number of tokens is added, since a score may not be negative."""
    source = "maxSimDotProduct(params.tokens, 'multi_vector') + params.tokens.length"
    script = {"source": source, "params": {"tokens": tokens}}
    return {"script_score": {"query": {"exists": {"field": "multi_vector"}}, "script": script}}


def opensearch_index(fields: Sequence[Field]) -> dict[str, Any]:
    """The body of an index: knn_vector and rank_features. Vectors per token are refused."""
    _refuse_idf(fields, "OpenSearch")
    properties: dict[str, Any] = {}
    for each in fields:
        if each.name == "multi_vector":
            raise ConfigError("OpenSearch has no field for vectors per token here")
        properties[each.name] = {"type": "rank_features"}
        if each.name == "embedding":
            method = {"name": "hnsw", "engine": "lucene"}
            method["space_type"] = _similarity(each, OPENSEARCH)
            kind = {"type": "knn_vector", "dimension": each.dimension}
            properties[each.name] = {**kind, "method": method}
    mappings = {"_meta": _facts(fields), "properties": properties}
    return {"settings": {"index": {"knn": True}}, "mappings": mappings}


# The search pipeline that fuses the parts of a hybrid query: PUT /_search/pipeline/NAME.
OPENSEARCH_RRF = {
    "phase_results_processors": [{"score-ranker-processor": {"combination": {"technique": "rrf"}}}]
}


def opensearch_search(vectors: Mapping[str, Any], limit: int = 10) -> dict[str, Any]:
    """The body of a search; of dense and sparse vectors a hybrid query, for OPENSEARCH_RRF."""
    found = {name: _json(vector) for name, vector in vectors.items()}
    queries: list[dict[str, Any]] = []
    if "embedding" in found:
        queries.append({"knn": {"embedding": {"vector": found["embedding"], "k": CANDIDATES}}})
    if "sparse" in found:
        queries.append({"neural_sparse": {"sparse": {"query_tokens": found["sparse"]}}})
    query = queries[0] if len(queries) == 1 else {"hybrid": {"queries": queries}}
    return {"query": query, "size": limit}

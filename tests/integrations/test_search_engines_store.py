"""Requests and settings against the builders and schemas of the engines' own clients. No server."""

import inspect
import json

import pytest
import store_cases as cases
from elasticsearch import Elasticsearch, dsl
from elasticsearch.dsl import query as es_query
from google.protobuf import json_format
from opensearch.protobufs.schemas import common_pb2
from vespa.package import ApplicationPackage, Document, RankProfile, Schema
from vespa.package import Field as VespaField
from weaviate.classes.config import Configure, VectorDistances
from weaviate.collections.classes.config import _CollectionConfigCreate

from tessera_onnx import ConfigError
from tessera_onnx.integrations import opensearch
from tessera_onnx.integrations import search_engines as engines
from tessera_onnx.integrations.rows import field_of

pytestmark = pytest.mark.integrations


def fields(*names):
    return [field_of(cases.model(name)) for name in names]


def asked(*names):
    return {name: cases.model(name).encode_query("who baked the bread") for name in names}


def test_elasticsearch_mappings_are_those_of_its_builder():
    made = opensearch.elasticsearch_mappings(fields("embedding", "multi_vector", "sparse"))
    wanted = dsl.Mapping()
    wanted.field("embedding", dsl.DenseVector(dims=384, similarity="cosine"))
    wanted.field("multi_vector", dsl.RankVectors(dims=384))
    wanted.field("sparse", dsl.SparseVector())
    facts = made.pop("_meta")["tessera"]
    assert made == wanted.to_dict()
    assert [each["model"] for each in facts] == ["all-minilm-l6-v2"] * 2 + ["splade-tiny"]
    assert all(len(each["sha256"]) == 64 for each in facts)
    with pytest.raises(ConfigError, match="Elasticsearch has BM25 of its own"):
        opensearch.elasticsearch_mappings(fields("bm25"))


def test_elasticsearch_queries_are_those_of_its_builder():
    vectors = asked("embedding", "sparse", "multi_vector")
    made = opensearch.elasticsearch_search(vectors)["retriever"]["rescorer"]
    knn, standard = made["retriever"]["rrf"]["retrievers"]
    query = vectors["embedding"].tolist()
    assert (
        knn
        == es_query.Knn(field="embedding", query_vector=query, k=100, num_candidates=100).to_dict()
    )
    weights = {str(i): w for i, w in vectors["sparse"].to_dict().items()}
    wanted = es_query.SparseVector(field="sparse", query_vector=weights).to_dict()
    assert standard["standard"]["query"] == wanted
    rescored = made["rescore"]["query"]["rescore_query"]
    built = es_query.ScriptScore(
        query=dsl.Q("exists", field="multi_vector"),
        script={
            "source": "maxSimDotProduct(params.tokens, 'multi_vector') + params.tokens.length",
            "params": {"tokens": vectors["multi_vector"].tolist()},
        },
    )
    assert rescored == built.to_dict()
    assert opensearch.elasticsearch_search(asked("multi_vector"))["query"] == rescored
    known = inspect.signature(Elasticsearch.search).parameters
    assert {*opensearch.elasticsearch_search(vectors)} <= {*known}


def test_a_document_is_json():
    vectors = {name: cases.vectors(name)[0] for name in ("embedding", "multi_vector", "sparse")}
    made = json.loads(json.dumps(opensearch.document(vectors, {"text": "a"})))
    assert made["text"] == "a"
    assert made["embedding"] == vectors["embedding"].tolist()
    assert {int(k): v for k, v in made["sparse"].items()} == vectors["sparse"].to_dict()


def test_opensearch_requests_fit_its_schema():
    """Its protobufs have knn and hybrid; neural_sparse is of a plugin and not in them."""
    vectors = asked("embedding", "sparse")
    body = opensearch.opensearch_search({"embedding": vectors["embedding"]})
    ((field, knn),) = body["query"]["knn"].items()
    flat = {"knn": {"field": field, **knn}}  # protobufs have no keys that are names of fields
    json_format.ParseDict(flat, common_pb2.QueryContainer())
    hybrid = opensearch.opensearch_search(vectors)["query"]["hybrid"]
    assert hybrid["queries"][0] == body["query"]
    json_format.ParseDict({"hybrid": {"queries": [flat]}}, common_pb2.QueryContainer())
    assert [next(iter(each)) for each in hybrid["queries"]] == ["knn", "neural_sparse"]
    made = opensearch.opensearch_index(fields("embedding", "sparse"))
    properties = made["mappings"]["properties"]
    method = {"name": "hnsw", "engine": "lucene", "space_type": "cosinesimil"}
    assert properties["embedding"] == {"type": "knn_vector", "dimension": 384, "method": method}
    assert properties["sparse"] == {"type": "rank_features"}
    with pytest.raises(ConfigError, match="no field for vectors per token"):
        opensearch.opensearch_index(fields("multi_vector"))


def test_a_weaviate_collection_is_that_of_its_builder():
    made = engines.weaviate_class("Documents", fields("embedding", "multi_vector"))
    hnsw = Configure.VectorIndex.hnsw(distance_metric=VectorDistances.COSINE)
    wanted = _CollectionConfigCreate(
        name="Documents",
        vector_config=[
            Configure.Vectors.self_provided(name="embedding", vector_index_config=hnsw),
            Configure.MultiVectors.self_provided(name="multi_vector"),
        ],
    )
    assert made == wanted._to_dict()
    with pytest.raises(ConfigError, match="no sparse vectors"):
        engines.weaviate_class("Documents", fields("sparse"))


def test_vespa_writes_a_schema_of_the_fields():
    made = engines.vespa_fields(fields("embedding", "multi_vector", "sparse"))
    schema = Schema("documents", Document(fields=[VespaField(**each) for each in made]))
    schema.add_rank_profile(
        RankProfile(
            "tokens",
            first_phase=engines.VESPA_SPARSE,
            second_phase=engines.VESPA_MAXSIM,
            inputs=[
                ("query(tokens)", "tensor<float>(asked{}, x[384])"),
                ("query(terms)", "tensor<float>(term{})"),
            ],
        )
    )
    text = ApplicationPackage("app", [schema]).schema.schema_to_text
    assert "field embedding type tensor<float>(x[384])" in text
    assert "distance-metric: angular" in text
    assert "field multi_vector type tensor<bfloat16>(token{}, x[384])" in text
    assert "field sparse type tensor<float>(term{})" in text

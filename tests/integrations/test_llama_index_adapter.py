"""LlamaIndex's own index, Qdrant behind it, asyncio, and what wrong arguments say."""

import asyncio
import pickle
from uuid import UUID

import numpy as np
import pytest
from framework_corpus import QUERIES, check_best, dot_scores, loop_turns, maxsim_scores, texts
from framework_page import run_section
from llama_index.core import QueryBundle, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores import VectorStoreQuery
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient
from server_process import ARTIFACTS

from tessera_onnx import LoadError, ModelNotFound, TesseraDense
from tessera_onnx.integrations.llama_index import (
    TesseraEmbedding,
    TesseraRerank,
    TesseraSparseEmbedding,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.integrations,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
]

MINILM = "all-minilm-l6-v2"
PROMPTS = {"path": str(ARTIFACTS / "prompts")}


@pytest.fixture(scope="module")
def embedding():
    return TesseraEmbedding(model_name=MINILM)


@pytest.fixture(scope="module")
def vectors(dense):
    return dense.encode_document(texts())


def nodes():
    return [TextNode(text=text, id_=str(UUID(int=i))) for i, text in enumerate(texts())]


def numbers(ids):
    return [UUID(each).int for each in ids]


def test_vectors_are_the_librarys_with_the_prompt_of_their_role(embedding, dense, vectors):
    found = embedding.get_text_embedding_batch(texts())
    np.testing.assert_allclose(found, vectors, atol=1e-6)
    prompted = TesseraEmbedding(model_kwargs=PROMPTS, embed_batch_size=2)
    with TesseraDense(**PROMPTS) as model:
        query, documents = model.encode_query("a cat"), model.encode_document(["a", "b", "c"])
    np.testing.assert_allclose(prompted.get_query_embedding("a cat"), query, atol=1e-6)
    found = prompted.get_text_embedding_batch(["a", "b", "c"])
    np.testing.assert_allclose(found, documents, atol=1e-6)
    instructed = TesseraEmbedding(
        model_kwargs=PROMPTS, query_instruction="? ", text_instruction="! "
    )
    with TesseraDense(**PROMPTS) as model:
        asked, told = (model.encode_query("a cat", prompt=word) for word in ("? ", "! "))
    np.testing.assert_allclose(instructed.get_query_embedding("a cat"), asked, atol=1e-6)
    np.testing.assert_allclose(instructed.get_text_embedding("a cat"), told, atol=1e-6)
    assert embedding.get_text_embedding_batch([]) == []
    np.testing.assert_allclose(
        embedding.get_text_embedding(""), dense.encode_document(""), atol=1e-6
    )


def test_the_index_finds_what_exact_search_finds(embedding, dense, vectors):
    index = VectorStoreIndex(nodes(), embed_model=embedding)
    retriever = index.as_retriever(similarity_top_k=10)
    for query in QUERIES:
        found = [each.node.node_id for each in retriever.retrieve(query)]
        check_best(numbers(found), vectors @ dense.encode_query(query))


def test_an_ingestion_pipeline_embeds_nodes(embedding, vectors):
    found = IngestionPipeline(transformations=[embedding]).run(nodes=nodes()[:9])
    np.testing.assert_allclose([node.embedding for node in found], vectors[:9], atol=1e-5)


def test_qdrant_finds_what_exact_search_finds_by_sparse_vectors(embedding, dense, sparse, vectors):
    made = TesseraSparseEmbedding(model_name="splade-tiny")
    store = QdrantVectorStore(
        "c",
        client=QdrantClient(":memory:"),
        enable_hybrid=True,
        sparse_doc_fn=made.sparse_doc_fn,
        sparse_query_fn=made.sparse_query_fn,
    )
    context = StorageContext.from_defaults(vector_store=store)
    VectorStoreIndex(nodes(), storage_context=context, embed_model=embedding)
    documents = sparse.encode_document(texts())
    for query in QUERIES:
        asked = VectorStoreQuery(
            query_str=query,
            query_embedding=embedding.get_query_embedding(query),
            similarity_top_k=10,
            sparse_top_k=10,
            mode=VectorStoreQueryMode.SPARSE,
        )
        scores = dot_scores(sparse.encode_query(query), documents)
        check_best(numbers(store.query(asked).ids), scores)
        asked.mode = VectorStoreQueryMode.DEFAULT
        check_best(numbers(store.query(asked).ids), vectors @ dense.encode_query(query))


def test_sparse_vectors_are_the_librarys(sparse):
    made = TesseraSparseEmbedding(model_name="splade-tiny", embed_batch_size=2)
    wanted = [vector.to_dict() for vector in sparse.encode_document(texts()[:5])]
    assert made.get_text_embedding_batch(texts()[:5]) == wanted
    assert asyncio.run(made.aget_text_embedding_batch(texts()[:5])) == wanted
    assert made.get_text_embedding(texts()[0]) == wanted[0]
    assert made.get_query_embedding("a cat") == sparse.encode_query("a cat").to_dict()
    assert made.sparse_doc_fn([]) == ([], [])


def test_reranking(multi):
    given = [NodeWithScore(node=node, score=0.5) for node in nodes()]
    options = {"path": str(ARTIFACTS / "reranker"), "on_long": "truncate"}
    rerank = TesseraRerank(model_kwargs=options, top_n=None)
    found = rerank.postprocess_nodes(given[:50], query_str=QUERIES[0])
    scores = rerank._model.score(QUERIES[0], texts()[:50])
    order = np.argsort(-scores, kind="stable")
    assert numbers(each.node.node_id for each in found) == order.tolist()
    by_maxsim = TesseraRerank(model=MINILM, top_n=10)
    found = by_maxsim.postprocess_nodes(given, QueryBundle(QUERIES[0]))
    scores = maxsim_scores(multi.encode_query(QUERIES[0]), multi.encode_document(texts()))
    check_best(numbers(each.node.node_id for each in found), scores)
    assert found[0].score == pytest.approx(scores.max(), rel=1e-5)
    assert given[numbers([found[0].node.node_id])[0]].score == 0.5
    assert by_maxsim.postprocess_nodes([], query_str="a") == []
    node = TextNode(text="a", metadata={"title": "cat"}, excluded_embed_metadata_keys=["title"])
    plain = by_maxsim.postprocess_nodes([NodeWithScore(node=node)], query_str="cat")[0].score
    node.excluded_embed_metadata_keys = []
    titled = by_maxsim.postprocess_nodes([NodeWithScore(node=node)], query_str="cat")[0].score
    assert titled > plain + 0.1


def test_stored_and_pickled(embedding):
    stored = embedding.to_dict()
    assert stored["class_name"] == "TesseraEmbedding"
    again = TesseraEmbedding.from_dict({**stored, "model_name": MINILM})
    wanted = embedding.get_query_embedding("a cat")
    assert again.get_query_embedding("a cat") == wanted
    assert pickle.loads(pickle.dumps(embedding)).get_query_embedding("a cat") == wanted
    made = TesseraSparseEmbedding(model_name="splade-tiny")
    again = pickle.loads(pickle.dumps(made))
    assert again.get_query_embedding("a cat") == made.get_query_embedding("a cat")
    rerank = TesseraRerank(model=MINILM, top_n=3)
    assert TesseraRerank.from_dict(rerank.to_dict()).top_n == 3
    given = [NodeWithScore(node=node) for node in nodes()[:9]]
    found = pickle.loads(pickle.dumps(rerank)).postprocess_nodes(given, query_str="a")
    assert found == rerank.postprocess_nodes(given, query_str="a")


def test_the_event_loop_turns_while_texts_are_encoded(embedding, vectors):
    turns, found = loop_turns(lambda: embedding.aget_text_embedding_batch(texts()))
    np.testing.assert_allclose(found, vectors, atol=1e-6)
    assert turns >= 5
    rerank = TesseraRerank(model=MINILM)
    given = [NodeWithScore(node=node) for node in nodes()]
    turns, found = loop_turns(lambda: rerank.apostprocess_nodes(given, query_str=QUERIES[0]))
    assert turns >= 5
    assert found == rerank.postprocess_nodes(given, query_str=QUERIES[0])
    one = asyncio.run(embedding.aget_query_embedding("a cat"))
    assert one == embedding.get_query_embedding("a cat")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda e: e.get_text_embedding_batch(["a", None]), TypeError, r"texts\[1\] must be str"),
        (lambda e: e.get_text_embedding(None), TypeError, "text must be str, got NoneType"),
        (lambda e: e.get_query_embedding(None), TypeError, "query must be str, got NoneType"),
        (lambda e: e.get_query_embedding(["a"]), TypeError, "query must be str, got list"),
        (lambda _: TesseraEmbedding(model_name="all-minilm"), ModelNotFound, "all-minilm-l6-v2"),
        (lambda _: TesseraEmbedding(model_name="splade-tiny"), LoadError, "is of kind sparse"),
        (lambda _: TesseraSparseEmbedding(model_name=MINILM), LoadError, "not sparse"),
        (lambda _: TesseraRerank(model="splade-tiny"), LoadError, "reranker or multi-vector"),
        (lambda _: TesseraEmbedding(modle=MINILM), ValueError, "modle"),
        (lambda _: TesseraEmbedding(model_name=MINILM, embed_batch_size=0), ValueError, "greater"),
        (lambda _: TesseraRerank(model=MINILM).postprocess_nodes([]), ValueError, "query_str"),
    ],
)
def test_wrong_arguments(embedding, call, error, message):
    with pytest.raises(error, match=message):
        call(embedding)


def test_the_snippets_of_the_page():
    run_section("LlamaIndex")

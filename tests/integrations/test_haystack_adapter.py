"""Haystack's own pipelines, stores and YAML, and what wrong arguments say."""

import inspect
import pickle

import numpy as np
import pytest
from framework_corpus import QUERIES, check_best, dot_scores, loop_turns, maxsim_scores, texts
from framework_page import run_section
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.core.errors import DeserializationError
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack_integrations.components.embedders.fastembed import (
    FastembedSparseDocumentEmbedder,
    FastembedTextEmbedder,
)
from haystack_integrations.components.retrievers.qdrant import QdrantSparseEmbeddingRetriever
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore
from server_process import ARTIFACTS

from tessera_onnx import LoadError, ModelNotFound, TesseraDense
from tessera_onnx.integrations import haystack as adapters
from tessera_onnx.integrations.haystack import (
    TesseraDocumentEmbedder,
    TesseraLateInteractionRanker,
    TesseraRanker,
    TesseraSparseDocumentEmbedder,
    TesseraSparseTextEmbedder,
    TesseraTextEmbedder,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.integrations,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

MINILM = "all-minilm-l6-v2"
PROMPTS = {"path": str(ARTIFACTS / "prompts")}
RERANKER = {"path": str(ARTIFACTS / "reranker"), "on_long": "truncate"}
HERE = ["tessera_onnx.integrations.haystack"]


@pytest.fixture(scope="module")
def vectors(dense):
    return dense.encode_document(texts())


def documents(number=1000):
    return [Document(id=str(i), content=text) for i, text in enumerate(texts()[:number])]


def filled(store, embedder):
    """The store with the documents, which a pipeline embeds and writes."""
    pipeline = Pipeline()
    pipeline.add_component("embedder", embedder)
    pipeline.add_component("writer", DocumentWriter(store))
    pipeline.connect("embedder.documents", "writer.documents")
    assert pipeline.run({"embedder": {"documents": documents()}})["writer"] == {
        "documents_written": 1000
    }
    return store


def reloaded(pipeline):
    return Pipeline.loads(pipeline.dumps(), allowed_modules=HERE)


def test_vectors_are_the_librarys_with_the_prompt_of_their_role(dense, vectors):
    found = TesseraDocumentEmbedder(MINILM).run(documents())["documents"]
    np.testing.assert_allclose([each.embedding for each in found], vectors, atol=1e-6)
    assert [each.content for each in found] == texts()
    with TesseraDense(**PROMPTS) as model:
        query, document = model.encode_query("a cat"), model.encode_document("a cat")
        affixed = model.encode_query("> a cat <")
    text, many = (
        made(model_kwargs=PROMPTS) for made in (TesseraTextEmbedder, TesseraDocumentEmbedder)
    )
    np.testing.assert_allclose(text.run("a cat")["embedding"], query, atol=1e-6)
    found = many.run([Document(content="a cat")])["documents"][0].embedding
    np.testing.assert_allclose(found, document, atol=1e-6)
    text = TesseraTextEmbedder(prefix="> ", suffix=" <", model_kwargs=PROMPTS)
    np.testing.assert_allclose(text.run("a cat")["embedding"], affixed, atol=1e-6)
    empty = TesseraTextEmbedder(MINILM).run("")["embedding"]
    np.testing.assert_allclose(empty, dense.encode_query(""), atol=1e-6)
    assert many.run([]) == {"documents": []}


def test_meta_fields_come_before_the_content(dense):
    given = [Document(content="dough", meta={"title": "Bread", "year": 1999, "none": None})]
    embedder = TesseraDocumentEmbedder(
        MINILM, "<", ">", meta_fields_to_embed=["title", "none", "gone", "year"],
        embedding_separator=" | ",
    )  # fmt: skip
    found = embedder.run(given)["documents"][0]
    wanted = dense.encode_document("<Bread | 1999 | dough>")
    np.testing.assert_allclose(found.embedding, wanted, atol=1e-6)
    assert given[0].embedding is None


def test_a_pipeline_from_yaml_finds_what_exact_search_finds(dense, vectors):
    store = filled(
        InMemoryDocumentStore(embedding_similarity_function="dot_product"),
        TesseraDocumentEmbedder(MINILM),
    )
    pipeline = reloaded(pipeline_of(TesseraTextEmbedder(MINILM)))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=10))
    pipeline.connect("first.embedding", "retriever.query_embedding")
    pipeline.warm_up()
    for query in QUERIES:
        found = pipeline.run({"first": {"text": query}})["retriever"]["documents"]
        check_best([each.id for each in found], vectors @ dense.encode_query(query))


def pipeline_of(component):
    pipeline = Pipeline()
    pipeline.add_component("first", component)
    return pipeline


def test_qdrant_finds_what_exact_search_finds_by_sparse_vectors(sparse):
    store = filled(
        QdrantDocumentStore(":memory:", use_sparse_embeddings=True, embedding_dim=4),
        TesseraSparseDocumentEmbedder("splade-tiny"),
    )
    rows = sparse.encode_document(texts())
    pipeline = Pipeline()
    pipeline.add_component("embedder", TesseraSparseTextEmbedder("splade-tiny"))
    pipeline.add_component("retriever", QdrantSparseEmbeddingRetriever(document_store=store))
    pipeline.connect("embedder.sparse_embedding", "retriever.query_sparse_embedding")
    for query in QUERIES:
        found = pipeline.run({"embedder": {"text": query}})["retriever"]["documents"]
        check_best([each.id for each in found], dot_scores(sparse.encode_query(query), rows))


def test_rankers(multi):
    ranker = TesseraRanker(top_k=50, model_kwargs=RERANKER)
    found = ranker.run(query=QUERIES[0], documents=documents(50))["documents"]
    scores = ranker.opened.score(QUERIES[0], texts()[:50])
    assert [int(each.id) for each in found] == np.argsort(-scores, kind="stable").tolist()
    assert len(ranker.run(query="a", documents=documents(50), top_k=3)["documents"]) == 3
    by_maxsim = TesseraLateInteractionRanker(MINILM)
    found = by_maxsim.run(query=QUERIES[0], documents=documents())["documents"]
    scores = maxsim_scores(multi.encode_query(QUERIES[0]), multi.encode_document(texts()))
    check_best([each.id for each in found], scores)
    assert found[0].score == pytest.approx(scores.max(), rel=1e-5)
    assert TesseraRanker(MINILM).run(query=QUERIES[0], documents=documents())["documents"] == found
    least = TesseraRanker(MINILM, score_threshold=found[3].score)
    assert least.run(query=QUERIES[0], documents=documents())["documents"] == found[:4]
    assert by_maxsim.run(query="a", documents=[]) == {"documents": []}


MADE = [
    TesseraTextEmbedder(MINILM, "a ", " b", {"threads": 1}),
    TesseraDocumentEmbedder(MINILM, meta_fields_to_embed=["title"], embedding_separator=" "),
    TesseraSparseTextEmbedder("splade-tiny", model_kwargs={"max_active_dims": 3}),
    TesseraSparseDocumentEmbedder("splade-tiny", suffix="!"),
    TesseraRanker(top_k=2, score_threshold=0.5, model_kwargs=RERANKER),
    TesseraLateInteractionRanker(MINILM, top_k=1),
]


@pytest.mark.parametrize("made", MADE, ids=lambda made: type(made).__name__)
def test_stored_and_loaded(made):
    sockets = inspect.signature(made.run).parameters
    given = {"text": "a cat", "query": "a cat", "documents": documents(5)}
    given = {name: value for name, value in given.items() if name in sockets}
    wanted = made.run(**given)
    stored = made.to_dict()
    assert stored["type"] == f"{HERE[0]}.{type(made).__name__}"
    again = type(made).from_dict(stored)
    assert again.to_dict() == stored
    again.warm_up()
    assert again.run(**given) == wanted
    assert pickle.loads(pickle.dumps(made)).run(**given) == wanted
    pipeline = pipeline_of(made)
    loaded = reloaded(pipeline)
    assert loaded.get_component("first").to_dict() == stored
    assert loaded.run({"first": given})["first"] == wanted
    with pytest.raises(DeserializationError, match="tessera_onnx"):
        Pipeline.loads(pipeline.dumps())


def test_arguments_have_the_names_of_fastembeds_components():
    for ours, theirs in (
        (TesseraTextEmbedder, FastembedTextEmbedder),
        (TesseraSparseDocumentEmbedder, FastembedSparseDocumentEmbedder),
    ):
        names = set(inspect.signature(ours.__init__).parameters)
        known = set(inspect.signature(theirs.__init__).parameters)
        assert names - known <= {"prefix", "suffix"}
        assert (
            str(inspect.signature(ours.run)).split("->")[0]
            == (str(inspect.signature(theirs.run)).split("->")[0])
        )
    for name in dir(adapters):
        if name.startswith("Tessera"):
            assert getattr(adapters, name).__doc__


def test_the_event_loop_turns_while_a_pipeline_embeds(vectors):
    pipeline = pipeline_of(TesseraDocumentEmbedder(MINILM))
    pipeline.warm_up()
    turns, found = loop_turns(lambda: pipeline.run_async({"first": {"documents": documents()}}))
    found = [each.embedding for each in found["first"]["documents"]]
    np.testing.assert_allclose(found, vectors, atol=1e-6)
    assert turns >= 5


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: TesseraTextEmbedder(MINILM).run(None), TypeError, "text must be str, got None"),
        (lambda: TesseraTextEmbedder(MINILM).run(["a"]), TypeError, "text must be str, got list"),
        (lambda: TesseraDocumentEmbedder(MINILM).run("a"), TypeError, "list of Documents"),
        (lambda: TesseraDocumentEmbedder(MINILM).run(["a"]), TypeError, "list of Documents"),
        (lambda: TesseraDocumentEmbedder(MINILM).run(None), TypeError, "list of Documents"),
        (lambda: TesseraTextEmbedder("all-minilm").warm_up(), ModelNotFound, "all-minilm-l6-v2"),
        (lambda: TesseraTextEmbedder("splade-tiny").warm_up(), LoadError, "is of kind sparse"),
        (lambda: TesseraSparseTextEmbedder(MINILM).warm_up(), LoadError, "not sparse"),
        (lambda: TesseraRanker("splade-tiny").warm_up(), LoadError, "reranker or multi-vector"),
        (lambda: TesseraLateInteractionRanker("splade-tiny").warm_up(), LoadError, "not multi"),
        (lambda: TesseraRanker(MINILM, top_k=0), ValueError, "top_k must be at least 1"),
        (lambda: TesseraRanker(MINILM).run("a", documents(2), 0), ValueError, "top_k must be"),
        (lambda: TesseraTextEmbedder(modle=MINILM), TypeError, "modle"),
        (
            lambda: TesseraTextEmbedder(MINILM, model_kwargs={"a": 1}).run("a"),
            TypeError,
            "unexpected keyword argument 'a'",
        ),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_snippets_of_the_page():
    run_section("Haystack")

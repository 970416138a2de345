"""LangChain's own test suites, its in-memory store and Qdrant, and what wrong arguments say."""

import copy
import pickle

import numpy as np
import pytest
from framework_corpus import QUERIES, check_best, dot_scores, loop_turns, maxsim_scores, texts
from framework_page import run_section
from langchain_core.documents import Document
from langchain_core.load import dumpd
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_qdrant import QdrantVectorStore, RetrievalMode
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from qdrant_client import QdrantClient, models
from server_process import ARTIFACTS

from tessera_onnx import LoadError, ModelNotFound, TesseraDense
from tessera_onnx.integrations.langchain import TesseraEmbeddings, TesseraRerank
from tessera_onnx.integrations.langchain_qdrant import TesseraSparseEmbeddings

pytestmark = [
    pytest.mark.integrations,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

MINILM = "all-minilm-l6-v2"
PROMPTS = {"path": str(ARTIFACTS / "prompts")}


for test in ("test_aembed_query", "test_aembed_documents"):
    pytest.mark.asyncio(getattr(EmbeddingsIntegrationTests, test))


class TestUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self):
        return TesseraEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": MINILM}


class TestIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self):
        return TesseraEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": MINILM}


@pytest.fixture(scope="module")
def embeddings():
    return TesseraEmbeddings(model=MINILM)


@pytest.fixture(scope="module")
def vectors(dense):
    return dense.encode_document(texts())


def test_vectors_are_the_librarys_with_the_prompt_of_their_role(embeddings, dense, vectors):
    np.testing.assert_allclose(embeddings.embed_documents(texts()), vectors, atol=1e-6)
    prompted = TesseraEmbeddings(model_kwargs=PROMPTS)
    with TesseraDense(**PROMPTS) as model:
        query, document = model.encode_query("a cat"), model.encode_document("a cat")
    assert abs(query - document).max() > 1e-3
    np.testing.assert_allclose(prompted.embed_query("a cat"), query, atol=1e-6)
    np.testing.assert_allclose(prompted.embed_documents(["a cat"]), [document], atol=1e-6)
    instructed = TesseraEmbeddings(
        model_kwargs=PROMPTS, encode_kwargs={"prompt": "! "}, query_encode_kwargs={"prompt": "? "}
    )
    with TesseraDense(**PROMPTS) as model:
        asked, told = (model.encode_query("a cat", prompt=word) for word in ("? ", "! "))
    np.testing.assert_allclose(instructed.embed_query("a cat"), asked, atol=1e-6)
    np.testing.assert_allclose(instructed.embed_documents(["a cat"]), [told], atol=1e-6)
    assert abs(asked - told).max() > 1e-3
    assert embeddings.embed_documents([]) == []
    np.testing.assert_allclose(embeddings.embed_query(""), dense.encode_query(""), atol=1e-6)


def test_the_in_memory_store_finds_what_exact_search_finds(embeddings, dense, vectors):
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document(text, id=str(i)) for i, text in enumerate(texts())])
    for query in QUERIES:
        found = store.similarity_search(query, k=10)
        check_best([each.id for each in found], vectors @ dense.encode_query(query))


def sparse_store(sparse_embeddings, modifier=None):
    client = QdrantClient(":memory:")
    config = {"sparse": models.SparseVectorParams(modifier=modifier)}
    client.create_collection("c", vectors_config={}, sparse_vectors_config=config)
    store = QdrantVectorStore(
        client,
        "c",
        retrieval_mode=RetrievalMode.SPARSE,
        sparse_embedding=sparse_embeddings,
        sparse_vector_name="sparse",
    )
    store.add_texts(texts(), [{"number": i} for i in range(len(texts()))])
    return store


def test_qdrant_finds_what_exact_search_finds_by_sparse_vectors(sparse):
    store = sparse_store(TesseraSparseEmbeddings("splade-tiny"))
    documents = sparse.encode_document(texts())
    for query in QUERIES:
        found = store.similarity_search(query, k=10)
        scores = dot_scores(sparse.encode_query(query), documents)
        check_best([each.metadata["number"] for each in found], scores)


def test_qdrant_weighs_bm25_by_its_modifier():
    """By the IDF of Qdrant, over the library's own vectors."""
    from tessera_onnx import TesseraSparse

    store = sparse_store(TesseraSparseEmbeddings("bm25"), models.Modifier.IDF)
    model = TesseraSparse("bm25")
    for query in QUERIES:
        wanted = model.rank(query, texts(), 10)
        found = store.similarity_search_with_score(query, k=10)
        assert [score for _, score in found] == pytest.approx([r.score for r in wanted], rel=1e-4)


def test_a_hybrid_store(embeddings):
    store = QdrantVectorStore.from_texts(
        texts()[:100],
        embeddings,
        [{"number": i} for i in range(100)],
        sparse_embedding=TesseraSparseEmbeddings("splade-tiny"),
        retrieval_mode=RetrievalMode.HYBRID,
        location=":memory:",
    )
    assert store.similarity_search(texts()[7], k=1)[0].metadata["number"] == 7


def test_reranking(multi):
    documents = [Document(text, id=str(i), metadata={"n": i}) for i, text in enumerate(texts())]
    options = {"path": str(ARTIFACTS / "reranker"), "on_long": "truncate"}
    rerank = TesseraRerank(model_kwargs=options, top_n=None)
    found = rerank.compress_documents(documents[:50], QUERIES[0])
    scores = rerank._model.score(QUERIES[0], texts()[:50])
    assert [each.metadata["n"] for each in found] == np.argsort(-scores, kind="stable").tolist()
    by_maxsim = TesseraRerank(model=MINILM, top_n=10)
    found = by_maxsim.compress_documents(documents, QUERIES[0])
    scores = maxsim_scores(multi.encode_query(QUERIES[0]), multi.encode_document(texts()))
    check_best([each.metadata["n"] for each in found], scores)
    assert found[0].metadata["relevance_score"] == pytest.approx(scores.max(), rel=1e-5)
    assert found[0].id == str(found[0].metadata["n"])
    assert "relevance_score" not in documents[found[0].metadata["n"]].metadata
    assert by_maxsim.compress_documents([], "a") == []


def test_copies_pickles_and_what_langchain_stores(embeddings):
    for made in (pickle.loads(pickle.dumps(embeddings)), copy.deepcopy(embeddings)):
        assert made.embed_query("a cat") == embeddings.embed_query("a cat")
        assert made.model == embeddings.model
    rerank = TesseraRerank(model=MINILM, top_n=2)
    made = pickle.loads(pickle.dumps(rerank))
    documents = [Document(text) for text in texts()[:9]]
    assert made.compress_documents(documents, "a") == rerank.compress_documents(documents, "a")
    made = pickle.loads(pickle.dumps(TesseraSparseEmbeddings("splade-tiny")))
    assert made.embed_query("a cat").indices
    assert embeddings.model_dump(exclude_defaults=True) == {"model": MINILM}
    assert TesseraEmbeddings(**embeddings.model_dump()).model == MINILM
    assert dumpd(embeddings)["id"][-1] == "TesseraEmbeddings"


def test_the_event_loop_turns_while_texts_are_encoded(embeddings, vectors):
    turns, found = loop_turns(lambda: embeddings.aembed_documents(texts()))
    np.testing.assert_allclose(found, vectors, atol=1e-6)
    assert turns >= 5
    documents = [Document(text) for text in texts()]
    rerank = TesseraRerank(model=MINILM)
    turns, found = loop_turns(lambda: rerank.acompress_documents(documents, QUERIES[0]))
    assert turns >= 5
    assert found == rerank.compress_documents(documents, QUERIES[0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda e: e.embed_documents("a"), TypeError, r"put one text into a list"),
        (lambda e: e.embed_documents(None), TypeError, r"texts must be a list"),
        (lambda e: e.embed_documents(["a", None]), TypeError, r"texts\[1\] must be str"),
        (lambda e: e.embed_query(None), TypeError, "text must be str, got NoneType"),
        (lambda e: e.embed_query(["a"]), TypeError, "text must be str, got list"),
        (lambda _: TesseraEmbeddings(model="all-minilm"), ModelNotFound, "all-minilm-l6-v2"),
        (lambda _: TesseraEmbeddings(model="splade-tiny"), LoadError, "is of kind sparse"),
        (lambda _: TesseraSparseEmbeddings(MINILM), LoadError, "not sparse"),
        (lambda _: TesseraRerank(model="splade-tiny"), LoadError, "reranker or multi-vector"),
        (lambda _: TesseraEmbeddings(model=MINILM, model_kwargs={"device": "x"}), ValueError, "x"),
        (lambda _: TesseraEmbeddings(model=MINILM, model_kwargs={"a": 1}), TypeError, "'a'"),
        (lambda _: TesseraEmbeddings(model=3), ValueError, "valid string"),
        (lambda _: TesseraEmbeddings(modle=MINILM), ValueError, "modle"),
    ],
)
def test_wrong_arguments(embeddings, call, error, message):
    with pytest.raises(error, match=message):
        call(embeddings)


def test_the_error_of_a_document_has_its_index(embeddings):
    with pytest.raises(TypeError) as caught:
        embeddings.embed_documents(["a", None])
    assert caught.value.index == 1


def test_the_snippets_of_the_page():
    run_section("LangChain")

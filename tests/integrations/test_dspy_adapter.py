"""DSPy takes a function of the library: dspy.Embedder and its retriever over it."""

import dspy
import numpy as np
import pytest
from framework_corpus import QUERIES, check_best, texts
from framework_page import run_section

pytestmark = [
    pytest.mark.slow,
    pytest.mark.integrations,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def test_vectors_are_the_librarys(dense):
    embedder = dspy.Embedder(dense.encode_batch, batch_size=300, caching=False)
    found = embedder(texts())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, dense.encode_batch(texts()), atol=1e-6)
    np.testing.assert_allclose(embedder("a cat"), dense.encode("a cat"), atol=1e-6)


def test_its_retriever_finds_what_exact_search_finds(dense):
    embedder = dspy.Embedder(dense.encode_batch, caching=False)
    retriever = dspy.retrievers.Embeddings(corpus=texts(), embedder=embedder, k=10)
    vectors = dense.encode_batch(texts())
    for query in QUERIES:
        found = [texts().index(text) for text in retriever(query).passages]
        check_best(found, vectors @ dense.encode_batch([query])[0])


def test_the_snippets_of_the_page():
    run_section("DSPy")

"""What the clients send, and how their rankings are compared with the library's scores."""

import numpy as np

ALIAS = "text-embedding-3-small"
SLASH = "sentence-transformers/all-MiniLM-L6-v2"
PROMPTS = "test-prompts"  # queries and documents have prompts; vectors may be cut to 16 or 8
RERANKER = "test-reranker"
TEXTS = ["A cat sits on the mat.", "Bücher in Köln", "cats and dogs"]
SHORT = ["two cats", "a dog"]  # in words of test-prompts
QUERY = "which animal says miau"


def check_vectors(found, wanted):
    """The same numbers up to 1e-6, in the same order."""
    assert len(found) == len(wanted)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def check_ranking(found, scores):
    """(index, score) pairs, the best first."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])[: len(found)]
    assert [index for index, _ in found] == order
    np.testing.assert_allclose([score for _, score in found], [scores[i] for i in order], rtol=1e-5)

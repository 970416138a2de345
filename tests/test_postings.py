"""Packed sparse documents against scipy and the plain dot products."""

import numpy as np
import pytest
from scipy import sparse as scipy_sparse

from tessera_onnx import ConfigError, PackedSparse, SparseVector, scoring

VOCABULARY = 50


def vectors(rng, n):
    rows = scipy_sparse.random(n, VOCABULARY, 0.2, "csr", np.float32, rng)
    rows.sort_indices()
    return rows, [
        SparseVector(rows.indices[a:b], rows.data[a:b])
        for a, b in zip(rows.indptr[:-1], rows.indptr[1:], strict=True)
    ]


def test_scores_are_scipys_and_the_lists(rng):
    matrix, documents = vectors(rng, 80)
    queries, found = vectors(rng, 10)
    pack = PackedSparse(iter(documents))
    for row, query in enumerate(found):
        expected = (matrix @ queries[row].T).toarray()[:, 0]
        np.testing.assert_allclose(pack.score(query), expected, rtol=1e-5, atol=1e-7)
        plain = scoring.sparse_scores(query, documents)
        np.testing.assert_allclose(pack.score(query), plain, rtol=1e-5, atol=1e-7)


def test_by_hand_with_entries_nobody_has():
    pack = PackedSparse([([1, 3], [2.0, 4.0]), ([], []), ([3], [1.0])])
    assert pack.score(([0, 3, 9], [5.0, 0.5, 7.0])).tolist() == [2.0, 0.0, 0.5]
    assert pack.score(([], [])).tolist() == [0, 0, 0]
    assert pack.score(([2], [1.0])).tolist() == [0, 0, 0]
    assert [row.index for row in pack.rank(([3], [1.0]), top_k=2)] == [0, 2]
    assert pack.score(([3], [1.0])).dtype == np.float32
    assert len(pack) == 3


def test_no_documents():
    pack = PackedSparse([])
    assert pack.score(([3], [1.0])).shape == (0,) and pack.rank(([3], [1.0])) == []


def test_wrong_vectors_are_named():
    with pytest.raises(ConfigError, match=r"documents\[1\]: indices must ascend"):
        PackedSparse([([1], [1.0]), ([2, 1], [1.0, 1.0])])
    with pytest.raises(TypeError, match=r"documents\[0\] must be a SparseVector"):
        PackedSparse(["a text"])
    with pytest.raises(TypeError, match="query must be a SparseVector"):
        PackedSparse([([1], [1.0])]).score("a text")
    with pytest.raises(ConfigError, match="top_k"):
        PackedSparse([([1], [1.0])]).rank(([1], [1.0]), top_k=0)


def test_the_model_ranks_packed_documents(sparse):
    texts = ["a cat sat on a mat", "the parliament passed a law", "kittens purr"]
    pack = PackedSparse(sparse.encode_iter(texts))
    plain = sparse.rank("cats", texts)
    found = sparse.rank("cats", pack)
    assert [row.index for row in found] == [row.index for row in plain]
    np.testing.assert_allclose([r.score for r in found], [r.score for r in plain], rtol=1e-2)
    assert len(sparse.rank("cats", pack, top_k=1)) == 1


def test_memory_does_not_follow_the_largest_index():
    """A table up to it would take tens of gigabytes."""
    vector = SparseVector(np.array([5, 2**31 - 2]), np.ones(2, np.float32))
    pack = PackedSparse([vector, SparseVector(np.array([5]), np.ones(1, np.float32))])
    assert pack.score(vector).tolist() == [2, 1]
    assert len(pack._starts) == 3

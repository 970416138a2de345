"""Packed sparse documents against scipy and the plain dot products."""

import numpy as np
import pytest
from scipy import sparse as scipy_sparse

from tessera_onnx import ConfigError, IntegrityError, PackedSparse, SparseVector
from tessera_onnx.vectors import scoring

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
    index = PackedSparse(iter(documents))
    for row, query in enumerate(found):
        expected = (matrix @ queries[row].T).toarray()[:, 0]
        np.testing.assert_allclose(index.score(query), expected, rtol=1e-5, atol=1e-7)
        plain = scoring.sparse_scores(query, documents)
        np.testing.assert_allclose(index.score(query), plain, rtol=1e-5, atol=1e-7)


def test_by_hand_with_entries_nobody_has():
    index = PackedSparse([([1, 3], [2.0, 4.0]), ([], []), ([3], [1.0])])
    assert index.score(([0, 3, 9], [5.0, 0.5, 7.0])).tolist() == [2.0, 0.0, 0.5]
    assert index.score(([], [])).tolist() == [0, 0, 0]
    assert index.score(([2], [1.0])).tolist() == [0, 0, 0]
    assert [row.index for row in index.rank(([3], [1.0]), top_k=2)] == [0, 2]
    assert index.score(([3], [1.0])).dtype == np.float32
    assert len(index) == 3


def test_a_stream_may_fill_one_buffer_again_and_again(rng):
    indices, values = np.empty(5, np.int32), np.empty(5, np.float32)

    def stream():
        for start in range(4):
            indices[:], values[:] = np.arange(start, start + 5), start + 1
            yield indices, values

    assert PackedSparse(stream()).score(([3], [1.0])).tolist() == [1, 2, 3, 4]


def test_idf_counts_the_documents_that_are_left():
    documents = [
        ([1, 2], [1.0, 2.0]),
        ([1], [3.0]),
        ([2], [1.0]),
        ([3], [1.0]),
        ([1, 3], [2.0] * 2),
    ]
    index = PackedSparse(documents, idf=True)
    index.remove([0, 3])
    query = ([1, 2, 3], [1.0, 1.0, 1.0])
    left = PackedSparse([documents[i] for i in (1, 2, 4)], idf=True)
    assert index.score(query)[[1, 2, 4]].tolist() == left.score(query).tolist()
    # By Lucene's formula: 1 and 3 of n = 3 documents.
    rare, common = np.log(1 + 2.5 / 1.5), np.log(1 + 1.5 / 2.5)
    expected = [3 * common, rare, 2 * common + 2 * rare]
    np.testing.assert_allclose(left.score(query), expected, rtol=1e-6)


def test_a_damaged_file_is_not_saved_as_a_whole_one(tmp_path):
    path, other = tmp_path / "index", tmp_path / "other"
    PackedSparse([([7], [1.0])] * 5).save(path)
    content, numbers = path.read_bytes(), np.arange(5, dtype=np.int32)
    assert content.count(numbers.tobytes()) == 1
    wrong = numbers * 99
    path.write_bytes(content.replace(numbers.tobytes(), wrong.tobytes()))
    with pytest.raises(IntegrityError, match="damaged"):
        PackedSparse.load(path).save(other)
    assert not other.exists()


def test_scores_beyond_float32_are_refused():
    large = ([1, 2], [3e38, -3e38])
    for ask in (PackedSparse([large]).rank, lambda query: scoring.sparse_scores(query, [large])):
        for query in (([1], [3.0]), ([1, 2], [3.0, 3.0])):
            with pytest.raises(ConfigError, match="the scores exceed float32"):
                ask(query)


def test_no_warning_of_numpy_where_values_are_tiny():
    tiny = ([1, 2], [1e-40, 1e-30])
    with np.errstate(all="raise"):
        assert PackedSparse([tiny]).score(tiny).tolist() == [0]
        assert scoring.sparse_scores(tiny, [tiny]).tolist() == [0]


@pytest.mark.parametrize("bad", [3, np.array(3.0), "a text"])
def test_what_is_no_list(bad):
    with pytest.raises(TypeError, match="documents must be a list of sparse vectors, got"):
        PackedSparse(bad)
    with pytest.raises(TypeError, match="documents must be a list of sparse vectors, got"):
        scoring.sparse_scores(([1], [1.0]), bad)


@pytest.mark.parametrize(
    ("size", "error"),
    [(9, ConfigError), (-1, ConfigError), (0, ConfigError), ("a", TypeError), (True, TypeError)],
)
def test_a_matrix_of_too_few_columns(size, error):
    """scipy would read and write beyond its memory."""
    vector = SparseVector(np.array([1, 9], np.int32), np.ones(2, np.float32))
    with pytest.raises(error, match="vocab_size must be"):
        vector.to_scipy(size)
    assert vector.to_scipy(np.int64(10)).toarray().sum() == 2
    assert SparseVector(vector.indices[:0], vector.values[:0]).to_scipy(1).shape == (1, 1)


def test_no_documents():
    index = PackedSparse([])
    assert index.score(([3], [1.0])).shape == (0,) and index.rank(([3], [1.0])) == []


def test_wrong_vectors_are_named():
    with pytest.raises(ConfigError, match=r"documents\[1\]: indices must ascend"):
        PackedSparse([([1], [1.0]), ([2, 1], [1.0, 1.0])])
    with pytest.raises(TypeError, match=r"documents\[0\] must be a SparseVector"):
        PackedSparse(["a text"])
    with pytest.raises(ConfigError, match=r"documents\[0\] must have no masked values"):
        PackedSparse([([1, 2], np.ma.masked_array([1.0, 2.0], [False, True]))])
    with pytest.raises(TypeError, match="query must be a SparseVector"):
        PackedSparse([([1], [1.0])]).score("a text")
    with pytest.raises(ConfigError, match="top_k"):
        PackedSparse([([1], [1.0])]).rank(([1], [1.0]), top_k=0)


def test_the_model_ranks_packed_documents(sparse):
    texts = ["a cat sat on a mat", "the parliament passed a law", "kittens purr"]
    index = PackedSparse(sparse.encode_iter(texts))
    plain = sparse.rank("cats", texts)
    found = sparse.rank("cats", index)
    assert [row.index for row in found] == [row.index for row in plain]
    np.testing.assert_allclose([r.score for r in found], [r.score for r in plain], rtol=1e-2)
    assert len(sparse.rank("cats", index, top_k=1)) == 1


def test_memory_does_not_follow_the_largest_index():
    """A table up to it would take tens of gigabytes."""
    vector = SparseVector(np.array([5, 2**31 - 2]), np.ones(2, np.float32))
    index = PackedSparse([vector, SparseVector(np.array([5]), np.ones(1, np.float32))])
    assert index.score(vector).tolist() == [2, 1]
    assert len(index._state.segments[0].starts) == 3

"""Search with candidates: exact scores of what a cheaper index found, in every index."""

import numpy as np
import pytest

from tessera_onnx import (
    ConfigError,
    Muvera,
    PackedDense,
    PackedSparse,
    PackedTokens,
    SparseVector,
    fuse,
)
from tessera_onnx.vectors import scoring
from tessera_onnx.vectors.pooling import l2_normalize, pool_tokens


@pytest.fixture(scope="module")
def texts():
    """Queries of 8 tokens near those of one of 300 documents each, and the documents."""
    rng = np.random.default_rng(5)
    topics = rng.normal(size=(40, 32))
    picked = [rng.integers(0, 40, rng.integers(8, 40)) for _ in range(300)]
    documents = [l2_normalize(topics[i] + rng.normal(size=(len(i), 32))) for i in picked]
    queries = [
        l2_normalize(documents[i][:8] + 0.1 * rng.normal(size=(8, 32))) for i in range(0, 300, 15)
    ]
    return queries, documents


def numbers(rankings):
    return [[row.index for row in ranking] for ranking in rankings]


def test_search_is_rank_for_each_query(texts):
    queries, documents = texts
    index = PackedTokens(documents, ids=[str(i) for i in range(300)])
    found = index.search(queries, 5)
    for query, rows in zip(queries, found, strict=True):
        alone = index.rank(query, 5)
        assert [row.index for row in rows] == [row.index for row in alone]
        assert [row.id for row in rows] == [str(row.index) for row in rows]
        np.testing.assert_allclose(
            [row.score for row in rows], [row.score for row in alone], rtol=1e-5
        )
    assert len(index.search(queries[:1])[0]) == 10
    assert len(index.search(queries[:1], None)[0]) == 300
    assert index.search([]) == []


def coarse_tokens(output):
    return lambda queries, documents: (PackedTokens(documents, output_dtype=output), queries)


def coarse_pooled(queries, documents):
    return PackedTokens([pool_tokens(rows, 3) for rows in documents]), queries


def coarse_encodings(output):
    def make(queries, documents):
        muvera = Muvera(32)
        index = PackedDense(map(muvera.encode_document, documents), output_dtype=output)
        return index, [muvera.encode_query(query) for query in queries]

    return make


COARSE = {
    "int8": coarse_tokens("int8"),
    "binary": coarse_tokens("binary"),
    "pooled": coarse_pooled,
    "muvera": coarse_encodings("float32"),
    "muvera int8": coarse_encodings("int8"),
    "muvera binary": coarse_encodings("binary"),
}


@pytest.mark.parametrize("name", COARSE)
def test_candidates_are_scored_exactly(texts, name):
    queries, documents = texts
    index = PackedTokens(documents)
    coarse, coarse_queries = COARSE[name](queries, documents)
    candidates = coarse.search(coarse_queries, 60)
    found = index.search(queries, 10, candidates=candidates)
    for query, rows, some in zip(queries, found, candidates, strict=True):
        scores = scoring.maxsim_scores(query, documents)
        chosen = sorted(row.index for row in some)
        best = [chosen[i] for i in np.argsort(-scores[chosen], kind="stable")[:10]]
        assert [row.index for row in rows] == best
        np.testing.assert_allclose([row.score for row in rows], scores[best], rtol=1e-5)
    # What the query was made of is the best, and every first search finds it.
    assert [row[0] for row in numbers(found)] == list(range(0, 300, 15))


def test_candidates_of_dense_vectors(rng):
    rows = l2_normalize(rng.normal(size=(500, 64)))
    queries = l2_normalize(rows[::50] + 0.05 * rng.normal(size=(10, 64)))
    index = PackedDense(rows)
    exact = numbers(index.search(queries, 10))
    for output in ("int8", "binary"):
        coarse = PackedDense(rows, output_dtype=output)
        found = index.search(queries, 10, candidates=coarse.search(queries, 500))
        assert numbers(found) == exact  # all are candidates
        some = coarse.search(queries, 50)
        found = numbers(index.search(queries, 10, candidates=some))
        for best, few, every in zip(found, numbers(some), exact, strict=True):
            assert best[: sum(i in few for i in every)] == [i for i in every if i in few]


def test_candidates_may_come_from_anywhere(texts):
    queries, documents = texts
    index = PackedTokens(documents, ids=[f"d{i}" for i in range(300)])
    exact = index.rank(queries[0], None, subset=[3, 5, 8])
    fused = fuse([[(5, 1.0), (3, 0.5)], [(8, 2.0), (5, 1.0)]])
    for some in ([3, 5, 8], ["d3", "d8", "d5", "d5"], np.array([8, 3, 5]), iter([5, 3, 8]), fused):
        (found,) = index.search(queries[:1], candidates=[some])
        assert found == exact
        assert [row.id for row in found] == [f"d{row.index}" for row in found]
    assert index.rank(queries[0], subset=fused) == exact
    assert index.search(queries[:2], candidates=[[], [7]])[0] == []


def test_candidates_of_sparse_vectors():
    documents = [SparseVector([1, 3], [2.0, 4.0]), SparseVector([3], [5.0]), SparseVector([2], [1])]
    index = PackedSparse(documents, ids=list("abc"))
    queries = [SparseVector([3], [1.0]), SparseVector([1, 2], [1.0, 1.0])]
    assert numbers(index.search(queries, 2)) == [[1, 0], [0, 2]]
    (first, second) = index.search(queries, candidates=[["a"], [1, 2]])
    assert (first, second) == ([(0, 4.0)], [(2, 1.0), (1, 0.0)])
    with pytest.raises(TypeError, match=r"queries\[1\]") as caught:
        index.search([queries[0], 3])
    assert caught.value.index == 1


def test_wrong_candidates(texts):
    queries, documents = texts
    index = PackedTokens(documents)
    with pytest.raises(ConfigError, match="got 1 for 2 queries"):
        index.search(queries[:2], candidates=[[1]])
    with pytest.raises(ConfigError, match=r"candidates\[1\]\[2\] is a number") as caught:
        index.search(queries[:2], candidates=[[1], [1, 2, 300]])
    assert caught.value.index == 1
    with pytest.raises(TypeError, match=r"candidates\[0\]"):
        index.search(queries[:2], candidates=index.rank(queries[0], 2))  # one ranking
    with pytest.raises(TypeError, match="list of token vectors"):
        index.search(queries[0])
    with pytest.raises(ConfigError, match="top_k"):
        index.search(queries, 0)
    index.remove([7])
    with pytest.raises(ConfigError, match="was removed"):
        index.search(queries[:1], candidates=[[7]])


def test_candidates_of_a_mapped_file(texts, tmp_path):
    queries, documents = texts
    PackedTokens(documents).save(tmp_path / "index")
    index = PackedTokens.load(tmp_path / "index")
    candidates = PackedTokens(documents, output_dtype="binary").search(queries, 30)
    exact = PackedTokens(documents).search(queries, candidates=candidates)
    assert numbers(index.search(queries, candidates=candidates)) == numbers(exact)

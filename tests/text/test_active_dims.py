"""max_active_dims of sparse vectors: what SparseEncoder of sentence-transformers keeps.

Upstream: `torch.topk(torch.abs(embeddings), k=min(max_active_dims, dim), dim=1)`, all else zero.
"""

import pickle

import numpy as np
import pytest
from artifact_tools import ARTIFACTS

from tessera_onnx import ConfigError, SparseVector, TesseraSparse
from tessera_onnx.text import heads

TEXTS = ["a cat sat on a mat", "the parliament passed a law", "kittens purr", "", "cat cat cat"]


def topk(vector, most, size):
    """Upstream's rule on the dense row: everything but the `most` largest is zero."""
    row = np.zeros(size)
    row[vector.indices] = vector.values
    kept = np.argsort(-np.abs(row), kind="stable")[:most]
    cut = np.zeros(size)
    cut[kept] = row[kept]
    return cut


def assert_cut(found, whole, most, size):
    row = np.zeros(size)
    row[found.indices] = found.values
    np.testing.assert_array_equal(row, topk(whole, most, size))
    assert len(found.values) == min(most, len(whole.values))
    assert (np.diff(found.indices) > 0).all()
    assert (found.indices.dtype, found.values.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("most", [1, 3, 10, np.int64(10), 100_000])
def test_every_method_keeps_the_heaviest(sparse, most):
    size = sparse.vocab_size()
    whole, queries = sparse.encode_batch(TEXTS), sparse.encode_query(TEXTS)
    limit = {"max_active_dims": most}
    of_documents = {
        "encode": [sparse.encode(text, **limit) for text in TEXTS],
        "encode_batch": sparse.encode_batch(iter(TEXTS), **limit),
        "encode_document, one": [sparse.encode_document(text, **limit) for text in TEXTS],
        "encode_document": sparse.encode_document(TEXTS, **limit),
        "encode_iter": list(sparse.encode_iter(iter(TEXTS), **limit)),
    }
    of_queries = {
        "encode_query, one": [sparse.encode_query(text, **limit) for text in TEXTS],
        "encode_query": sparse.encode_query(TEXTS, **limit),
        "encode_iter": list(sparse.encode_iter(TEXTS, role="query", **limit)),
    }
    for found, expected in ((of_documents, whole), (of_queries, queries)):
        for name, vectors in found.items():
            assert len(vectors) == len(TEXTS), name
            for vector, full in zip(vectors, expected, strict=True):
                np.testing.assert_allclose(  # one text alone and in a batch differ by rounding
                    np.sort(vector.values), np.sort(full.values)[-int(most) :], rtol=1e-4
                )
                if "one" not in name and name != "encode":
                    assert_cut(vector, full, most, size)
    assert len(sparse.encode(TEXTS[0]).values) > 10  # what a call asks for ends with it


def test_an_object_keeps_the_heaviest_of_documents_and_queries(sparse):
    size = sparse.vocab_size()
    with TesseraSparse("splade-tiny", max_active_dims=5) as model:
        again = pickle.loads(pickle.dumps(model))
        for one in (model, again):
            for found, whole in (
                (one.encode_batch(TEXTS), sparse.encode_batch(TEXTS)),
                (one.encode_query(TEXTS), sparse.encode_query(TEXTS)),
                (list(one.encode_iter(TEXTS)), sparse.encode_batch(TEXTS)),
                (one.encode_all(TEXTS).sparse, sparse.encode_batch(TEXTS)),
            ):
                for vector, full in zip(found, whole, strict=True):
                    assert_cut(vector, full, 5, size)
        again.close()
        assert len(model.encode(TEXTS[0]).values) == 5
        assert len(model.encode(TEXTS[0], max_active_dims=7).values) == 7  # a call goes before it
        query, document = model.encode_query("cats"), model.encode(TEXTS[0])
        expected = sum(
            weight * document.to_dict().get(entry, 0) for entry, weight in query.to_dict().items()
        )
        assert model.similarity("cats", TEXTS[0]) == pytest.approx(expected, rel=1e-5)
        (row,) = model.rank("cats", TEXTS[:1])
        assert row.score == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["splade", "m3"])
def test_other_recipes(name):
    """Heads of other shapes: test artifacts of SPLADE and of bge-m3, whose entries are tokens."""
    kind = {"path": ARTIFACTS / name}
    with TesseraSparse(**kind) as whole, TesseraSparse(**kind, max_active_dims=2) as cut:
        size = whole.vocab_size()
        for found, full in zip(cut.encode_batch(TEXTS), whole.encode_batch(TEXTS), strict=True):
            assert_cut(found, full, 2, size)
        for found, full in zip(cut.encode_query(TEXTS), whole.encode_query(TEXTS), strict=True):
            assert_cut(found, full, 2, size)
        if name == "m3":
            every, plain = cut.encode_all(TEXTS), whole.encode_all(TEXTS)
            for found, full in zip(every.sparse, plain.sparse, strict=True):
                assert_cut(found, full, 2, size)
            np.testing.assert_allclose(every.dense, plain.dense, atol=1e-6)


def test_ties_go_to_the_lower_ids():
    vector = SparseVector(
        np.array([2, 5, 7, 9, 11], np.int32), np.array([1, 3, 3, 0.5, 3], np.float32)
    )
    for most, ids in ((1, [5]), (2, [5, 7]), (3, [5, 7, 11]), (4, [2, 5, 7, 11]), (5, None)):
        found = heads.largest_weights(vector, most)
        assert found.indices.tolist() == (ids or vector.indices.tolist())
    assert (
        heads.largest_weights(SparseVector(vector.indices[:0], vector.values[:0]), 3).to_dict()
        == {}
    )


@pytest.mark.parametrize(
    ("most", "error"),
    [(0, ConfigError), (-1, ConfigError), (2.0, TypeError), (True, TypeError), ("3", TypeError)],
)
def test_what_is_no_number_of_entries(sparse, most, error):
    calls = (
        lambda: TesseraSparse("splade-tiny", max_active_dims=most),
        lambda: sparse.encode("a", max_active_dims=most),
        lambda: sparse.encode_batch(["a"], max_active_dims=most),
        lambda: sparse.encode_query("a", max_active_dims=most),
        lambda: sparse.encode_document(["a"], max_active_dims=most),
        lambda: sparse.encode_iter(["a"], max_active_dims=most),
    )
    for call in calls:
        with pytest.raises(error, match="max_active_dims must be"):
            call()


def test_similarity_of_vectors_made_earlier(sparse):
    query, document = sparse.encode_query("cats"), sparse.encode(TEXTS[0])
    weights = document.to_dict()
    expected = sum(weight * weights.get(entry, 0) for entry, weight in query.to_dict().items())
    for a in ("cats", query):
        for b in (TEXTS[0], document):
            assert sparse.similarity(a, b) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ConfigError, match="^b: index 99999 lies outside the vocabulary"):
        sparse.similarity("a", SparseVector(np.array([99999]), np.ones(1, np.float32)))
    with pytest.raises(ConfigError, match="^a: indices must ascend"):
        sparse.similarity(SparseVector(np.array([3, 1]), np.ones(2, np.float32)), "a")
    entry, weight = max(weights.items(), key=lambda item: item[1])
    pair = ([entry], [2.0])  # as `rank` takes it
    assert sparse.similarity(pair, document) == pytest.approx(2 * weight, rel=1e-6)
    with pytest.raises(TypeError, match="^a must be a SparseVector"):
        sparse.similarity([1.0], "a")

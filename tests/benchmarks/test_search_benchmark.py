"""benchmarks/search.py and long_texts.py: their metrics, their rows, and libraries that lack."""

import argparse
import sys

import numpy as np
import pytest
from benchmark_runs import BENCHMARKS, run_benchmark

sys.path.insert(0, str(BENCHMARKS))
import long_texts
import quality
import search
import search_peers

from tessera_onnx import SparseVector, TesseraDense
from tessera_onnx.results import Chunks

OPTIONS = argparse.Namespace(first=20, threads=1, slow=True, only="")


@pytest.mark.benchmark
def test_runs():
    done = run_benchmark("search.py", "--made", "600", "--made-tokens", "60", "--first", "30")
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| 6")]
    dense = {row[2]: row[3] for row in rows if row[0] == "| 600 made"}
    tokens = {row[2]: row[3] for row in rows if row[0] == "| 60 made"}
    assert float(dense["PackedDense"]) == float(tokens["PackedTokens"]) == 1
    assert float(dense["int8 → exact"]) == float(tokens["int8 → exact"]) == 1
    assert 0.3 < float(tokens["Muvera alone"]) <= float(tokens["Muvera, float32 → exact"]) <= 1
    for name, found in {**dense, **tokens}.items():
        assert found.startswith("left out: ") or 0 < float(found) <= 1, name


def test_a_library_that_lacks_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    given = search.made_dense(50)
    with pytest.raises(search_peers.LeftOut, match="`pip install faiss-cpu` is missing"):
        search_peers.PEERS["dense"]["FAISS Flat"](given, OPTIONS)


def test_recall_and_gain_by_hand():
    assert search.recall([[1, 2], [3]], [[2, 5], [3]]) == 0.75
    judged = [("q", {"a": 2, "c": 1, "lost": 1})]
    ids = ["a", "b", "c", "lost"]
    expected = quality.ndcg_at_10(np.array([0.0, 2.0, 1.0, -1.0]), ids, judged[0][1])
    assert search.ndcg([[1, 2, 0, 3]], ids, judged) == pytest.approx(expected)
    # The fourth document is not found: only its own gain is missing.
    discounts = 1 / np.log2([2, 3, 4])
    ideal = 2 * discounts[0] + discounts[1] + discounts[2]
    found = (discounts[1] + 2 * discounts[2]) / ideal
    assert search.ndcg([[1, 2, 0]], ids, judged) == pytest.approx(found)


def test_vectors_are_kept(tmp_path, rng):
    rows = [rng.normal(size=(n, 4)).astype(np.float32) for n in (1, 3, 2)]
    sparse = [SparseVector(np.arange(n, dtype=np.int32), np.ones(n, np.float32)) for n in (0, 2)]
    for kind, vectors in {
        "dense": search.Vectors(np.eye(3), np.eye(2)),
        "tokens": search.Vectors(rows, rows[:1]),
        "BM25": search.Vectors(sparse, sparse[1:]),
    }.items():
        np.savez(tmp_path / "kept.npz", **search.packed(vectors))
        with np.load(tmp_path / "kept.npz") as stored:
            again = search.unpacked(kind, dict(stored))
        for before, after in zip(vectors, again, strict=True):
            assert len(before) == len(after)
            for one, other in zip(before, after, strict=True):
                np.testing.assert_array_equal(np.array(one), np.array(other))


def test_bm25s_finds_what_packed_sparse_finds(rng):
    documents = []
    for _ in range(200):
        words = np.sort(rng.choice(300, 12, replace=False)).astype(np.int32)
        documents.append(SparseVector(words, rng.random(12).astype(np.float32) + 0.1))
    queries = [SparseVector(row.indices[:4], np.ones(4, np.float32)) for row in documents[:20]]
    given = search.Vectors(documents, queries)
    (own,) = search.sparse_ways(given, idf=True)
    ours, _ = own.build()
    theirs, size = search_peers.bm25s_index(given, OPTIONS)
    assert size > 0
    assert [ours(i) for i in range(20)] == [theirs(i) for i in range(20)]


def test_long_texts_find_the_best_chunk(tmp_path):
    rows = [Chunks(np.eye(3)[:2], np.zeros((2, 2))), Chunks(np.eye(3)[2:], np.zeros((1, 2)))]
    found = long_texts.best(np.array([[0.1, 0.9, 0.3]]), rows)
    assert found.tolist() == [[0.9, 0.3]]
    folder = long_texts.averaging_starter(tmp_path / "model")
    with TesseraDense(path=folder) as averaged, TesseraDense("all-minilm-l6-v2") as own:
        texts = ["fresh bread", "a new loaf of bread", "The bank raised its rates."]
        left, right = (model.encode_batch(texts) for model in (averaged, own))
    np.testing.assert_allclose(left @ left.T, right @ right.T, atol=0.03)

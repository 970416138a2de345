"""Ids, removed documents and subsets of both kinds of indexes, against lists scored one by one."""

import copy
import pickle
import threading

import numpy as np
import pyarrow as pa
import pytest

from tessera_onnx import ConfigError, PackedSparse, PackedTokens, Ranked, SparseVector
from tessera_onnx.search import blocks
from tessera_onnx.vectors import quantization, scoring
from tessera_onnx.vectors.pooling import l2_normalize

KINDS = ["float32", "int8", "binary", "sparse"]


def make(kind, documents=(), **options):
    if kind == "sparse":
        return PackedSparse(documents, **options)
    return PackedTokens(documents, output_dtype=kind, **options)


def load(kind, path):
    return (PackedSparse if kind == "sparse" else PackedTokens).load(path, verify=True)


def some(kind, rng, n):
    """Documents, among them empty ones."""
    if kind == "sparse":
        found = [np.flatnonzero(rng.random(40) < rng.random() / 2) for _ in range(n)]
        return [SparseVector(ids.astype("i4"), rng.random(len(ids), "f4") + 1) for ids in found]
    lengths = rng.integers(0, 30, n)
    return [l2_normalize(rng.normal(size=(int(length), 16))) for length in lengths]


def query(kind, rng):
    if kind == "sparse":
        return SparseVector(np.arange(0, 40, 3, dtype=np.int32), rng.random(14, "f4") + 1)
    return l2_normalize(rng.normal(size=(5, 16)))


def one(kind, asked, document):
    """The score of one document, by the plain functions in float64 where there is no rounding."""
    if kind == "sparse":
        return float(scoring.sparse_scores(asked, [document])[0])
    if len(document) == 0:
        return -float(len(asked))
    if kind == "binary":
        return scoring.maxsim_binary(quantization.binary(asked), quantization.binary(document))
    products = asked.astype(np.float64) @ document.astype(np.float64).T
    return float(products.max(axis=1).sum())


TOLERANCE = {"float32": 1e-5, "int8": 0.06, "binary": 1e-5, "sparse": 1e-4}


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_TOKENS", 64)
    monkeypatch.setattr(blocks, "LEAST_TOKENS", 16)
    monkeypatch.setattr(blocks, "SEGMENT_TOKENS", 200)


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False], ids=["ids", "numbers"])
@pytest.mark.parametrize("kind", KINDS)
def test_many_changes_against_a_list(kind, named, rng, small_blocks, tmp_path):
    """Add, remove, save, load and copy in any order: what is there scores as it would alone."""
    index, truth, count = make(kind), {}, 0
    for step in range(60):
        if rng.random() < 0.55 or not truth:
            more = some(kind, rng, int(rng.integers(0, 9)))
            names = [f"{step}-{i}" for i in range(len(more))] if named else None
            index.add(iter(more) if step % 2 else more, ids=names)
            truth |= {count + i: document for i, document in enumerate(more)}
            count += len(more)
        else:
            gone = rng.permutation(list(truth))[: int(rng.integers(1, 6))].tolist()
            by_id = dict(zip(index.numbers.tolist(), index.ids or [], strict=False))
            index.remove([by_id[n] if named and i % 2 else n for i, n in enumerate(gone)])
            for number in gone:
                del truth[number]
        if step % 9 == 0 and truth:
            index.save(tmp_path / "p")
            index = load(kind, tmp_path / "p")
        if step % 11 == 0:
            index = pickle.loads(pickle.dumps(copy.copy(index)))
        assert len(index) == len(truth) and index.numbers.tolist() == sorted(truth)
        assert (index.ids is not None) == (named and bool(truth))
        asked = query(kind, rng)
        scores = index.score(asked)
        assert scores.shape == (count,) and scores.dtype == np.float32
        expected = np.full(count, -np.inf)
        for number, document in truth.items():
            expected[number] = one(kind, asked, document)
        np.testing.assert_allclose(scores, expected, atol=TOLERANCE[kind])
        ranked = index.rank(asked)
        order = sorted(truth, key=lambda number: (-scores[number], number))
        assert [row.index for row in ranked] == order
        assert [row.score for row in ranked] == scores[order].tolist()
        if named and truth:
            ids = dict(zip(index.numbers.tolist(), index.ids, strict=True))
            assert [row.id for row in ranked] == [ids[number] for number in order]
        else:
            assert all(row.id is None for row in ranked)


@pytest.mark.parametrize("kind", KINDS)
def test_a_subset_ranks_as_all_of_them_do(kind, rng, small_blocks):
    documents, asked = some(kind, rng, 200), query(kind, rng)
    names = [f"d{i}" for i in range(200)]
    index = make(kind, documents, ids=names)
    index.remove(range(0, 200, 7))
    whole = {row.index: row for row in index.rank(asked)}
    for size in (1, 3, 60, 150):
        picked = rng.permutation(index.numbers)[:size]
        mixed = [names[n] if i % 2 else n for i, n in enumerate(picked)]
        mask = np.zeros(200, dtype=bool)
        mask[picked] = True
        expected = sorted((whole[n] for n in picked), key=lambda row: (-row.score, row.index))
        for subset in (mixed, [*mixed, mixed[0]], picked, set(picked.tolist()), iter(mixed), mask):
            found = index.rank(asked, subset=subset)
            assert [row.index for row in found] == [row.index for row in expected]
            assert [row.id for row in found] == [names[row.index] for row in expected]
            scores = [row.score for row in expected]
            np.testing.assert_allclose([row.score for row in found], scores, atol=1e-5)
        assert len(index.rank(asked, top_k=2, subset=mixed)) == min(2, size)
    assert index.rank(asked, subset=[]) == []
    # A mask of the caller's own list names removed documents too: they take no part.
    assert len(index.rank(asked, subset=np.ones(200, dtype=bool))) == len(index)


@pytest.mark.parametrize("kind", KINDS)
def test_what_names_no_document(kind, rng):
    documents = some(kind, rng, 5)
    index = make(kind, documents, ids=list("abcde"))
    index.remove(["b"])
    before = index.score(query(kind, rng)), index.ids
    cases = [
        (["a", "b"], ConfigError, r"\[1\] is an id that no document of this index has"),
        (["zqxjkv"], ConfigError, r"\[0\] is an id that no document of this index has"),
        ([0, 1], ConfigError, r"\[1\] is 1: that document was removed"),
        (
            [0, 5],
            ConfigError,
            r"\[1\] is a number that no document of this index has: numbers go from 0 to 4",
        ),
        ([-1], ConfigError, r"\[0\] is a number that no document"),
        ([10**30], ConfigError, r"\[0\] is a number that no document"),
        ([0.0], TypeError, r"\[0\] must be an id \(str\) or a number, got float"),
        ([True], TypeError, r"\[0\] must be an id \(str\) or a number, got bool"),
        ([None], TypeError, r"\[0\] must be an id"),
        ("a", TypeError, r" must be a list of ids \(str\) or numbers \(int\), got str"),
        (3, TypeError, " must be a list of ids"),
        ({"a": 1}, TypeError, " must be a list of ids"),
        (np.array(3), TypeError, " must be a list of ids"),
        (np.ones(4, bool), ConfigError, r" has the shape \(4,\): a boolean array needs"),
    ]
    for value, error, message in cases:
        with pytest.raises(error, match=f"^subset{message}") as raised:
            index.rank(query(kind, rng), subset=value)
        assert "zqxjkv" not in str(raised.value)
        with pytest.raises(error, match=f"^documents{message}"):
            index.remove(value)
    rest = index.ids
    assert rest == before[1] == list("acde")
    with pytest.raises(ConfigError, match="it is empty"):
        make(kind).remove([0])


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_one_a_document_and_each_another(kind, rng):
    documents = some(kind, rng, 3)
    index = make(kind, documents, ids=("a", "b", "c"))
    cases = [
        (["x", "y"], ConfigError, "ids must hold one id per document: got 2 for 3 documents"),
        (list("wxyz"), ConfigError, "ids must hold one id per document: got 4 for 3 documents"),
        (["x", "y", "x"], ConfigError, r"ids\[2\] is the same as ids\[0\]"),
        (["x", "b", "y"], ConfigError, r"ids\[1\] is in the index already"),
        (["x", 7, "y"], TypeError, r"ids\[1\] must be str, got int: pass str\(id\)"),
        (["x", None, "y"], TypeError, r"ids\[1\] must be str"),
        ("xyz", TypeError, r"ids must be a list of ids \(str\), got str"),
        ({"x", "y", "z"}, TypeError, "a set has no order"),
        ({"x": 1, "y": 2, "z": 3}, TypeError, r"ids must be a list of ids \(str\), got dict"),
        (5, TypeError, r"ids must be a list of ids \(str\)"),
        (None, ConfigError, "the documents of this index have ids: pass ids="),
    ]
    for ids, error, message in cases:
        for given in (documents, iter(documents)):
            with pytest.raises(error, match=message):
                index.add(given, ids=ids)
    assert index.ids == ["a", "b", "c"] and index.numbers.tolist() == [0, 1, 2]
    plain = make(kind, documents)
    with pytest.raises(ConfigError, match="have no ids: leave ids out"):
        plain.add(documents, ids=["x", "y", "z"])
    assert plain.ids is None and len(plain) == 3
    for each in (index, plain):
        each.add([])
        each.add([], ids=[])
        assert len(each) == 3
    index.add(documents, ids=np.array(["x", "y", "z"]))
    assert index.ids == ["a", "b", "c", "x", "y", "z"]
    assert all(type(name) is str for name in index.ids)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_numbers_may_be_arrows(kind, rng):
    documents = some(kind, rng, 3)
    index = make(kind, documents, ids=pa.chunked_array([["a"], ["b", "c"]]))
    assert index.ids == ["a", "b", "c"]
    asked = query(kind, rng)
    expected = index.rank(asked, subset=["a", "c"])
    assert index.rank(asked, subset=pa.array(["a", "c"])) == expected
    assert index.rank(asked, subset=pa.array([0, 2])) == expected
    index.remove(pa.array(["b"]))
    assert index.ids == ["a", "c"]
    with pytest.raises(TypeError, match=r"ids\[1\] must be str, got NoneType"):
        make(kind, documents, ids=pa.array(["a", None, "c"]))


@pytest.mark.parametrize("kind", KINDS)
def test_remove_all_and_begin_again(kind, rng, tmp_path):
    documents, asked = some(kind, rng, 4), query(kind, rng)
    index = make(kind, documents, ids=list("abcd"))
    index.remove(["a", "a", 0, "b"])
    index.remove([])
    assert index.ids == ["c", "d"]
    index.remove(index.ids)
    assert len(index) == 0 and index.ids is None and index.rank(asked) == []
    assert index.score(asked).tolist() == [-np.inf] * 4
    with pytest.raises(ConfigError, match="nothing to save"):
        index.save(tmp_path / "never")
    index.add(documents)  # without ids now; the numbers go on
    assert index.ids is None and index.numbers.tolist() == [4, 5, 6, 7]
    fresh = make(kind, documents)
    np.testing.assert_allclose(index.score(asked)[4:], fresh.score(asked), rtol=1e-5)
    index.remove(index.numbers)
    index.add(documents[:1], ids=["a"])  # an id that was there before
    assert index.ids == ["a"] and index.rank(asked)[0].id == "a" and index.rank(asked)[0].index == 8
    index.save(tmp_path / "p")
    again = load(kind, tmp_path / "p")
    assert again.ids == ["a"] and again.numbers.tolist() == [8]
    assert again.score(asked).tolist() == index.score(asked).tolist()
    again.add(documents[:1], ids=["b"])
    assert again.numbers.tolist() == [8, 9]


def test_an_emptied_pack_takes_other_dims():
    index = PackedTokens([np.ones((2, 4))])
    index.remove([0])
    assert index.dimension() is None and index.nbytes == 0
    index.add([np.ones((1, 3))])
    assert index.dimension() == 3 and index.score(np.ones((1, 3))).tolist() == [-np.inf, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_removed_documents_leave_the_memory(kind, rng):
    documents = some(kind, rng, 400)
    index = make(kind, documents)
    before = index.nbytes
    for i in range(360):  # one by one, so that blocks empty slowly
        index.remove([i])
    assert index.nbytes < 0.25 * before


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_changes_for_itself(kind, rng):
    documents = some(kind, rng, 3)
    first = make(kind, documents, ids=list("abc"))
    second = copy.copy(first)
    first.remove(["a"])
    first.add(documents[:1], ids=["x"])
    second.add(documents[:2], ids=["y", "z"])
    assert first.ids == ["b", "c", "x"] and second.ids == ["a", "b", "c", "y", "z"]
    asked = query(kind, rng)
    assert {row.id for row in first.rank(asked)} == set("bcx")
    assert {row.id for row in second.rank(asked)} == set("abcyz")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_threads_rank_while_one_adds_and_removes(kind, rng):
    """Each ranking is that of one moment: ids and numbers belong together."""
    documents, asked = some(kind, rng, 300), query(kind, rng)
    index = make(kind, documents[:100], ids=[f"d{i}" for i in range(100)])
    expected = make(kind, documents).score(asked)
    wrong = []
    done = threading.Event()

    def read():
        while not done.is_set():
            wrong.extend(
                row
                for row in index.rank(asked)
                if row.id != f"d{row.index}" or abs(row.score - expected[row.index]) > 1e-4
            )

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for i in range(100, 300):
        index.add([documents[i]], ids=[f"d{i}"])
        index.remove([f"d{i - 100}"])
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong and index.numbers.tolist() == list(range(200, 300))


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_is_removed_while_others_are_added(kind, rng):
    documents = some(kind, rng, 3)
    index = make(kind, documents)

    def removes():
        yield documents[0]
        index.remove([1])

    with pytest.raises(ConfigError, match="at the same time by another call"):
        index.add(removes())
    assert index.numbers.tolist() == [0, 2]


def test_a_row_is_a_pair_and_has_an_id():
    row = Ranked(3, 0.5, "a")
    index, score = row
    assert (index, score, row.id) == (3, 0.5, "a") and row == (3, 0.5) and len(row) == 2
    assert repr(row) == "Ranked(index=3, score=0.5, id='a')"
    assert repr(Ranked(3, 0.5)) == "Ranked(index=3, score=0.5)" and Ranked(3, 0.5).id is None
    for other in (pickle.loads(pickle.dumps(row)), copy.copy(row), row._replace(score=0.5)):
        assert other == row and other.id == "a" and type(other) is Ranked
    assert row._replace(index=9) == (9, 0.5) and row._replace(index=9).id == "a"


def test_the_models_rankings_bring_ids_and_leave_out_what_is_gone(multi, sparse):
    texts = ["a cat sat on a mat", "the parliament passed a law", "kittens purr"]
    for model, index in (
        (multi, PackedTokens(multi.encode_iter(texts), ids=["mat", "law", "purr"])),
        (sparse, PackedSparse(sparse.encode_iter(texts), ids=["mat", "law", "purr"])),
    ):
        plain = model.rank("cats", texts)
        found = model.rank("cats", index)
        assert [row.index for row in found] == [row.index for row in plain]
        assert [row.id for row in found] == [("mat", "law", "purr")[row.index] for row in plain]
        index.remove(["law"])
        left = [row for row in plain if row.index != 1]
        assert [row.index for row in model.rank("cats", index)] == [row.index for row in left]
        scores = [row.score for row in model.rank("cats", index)]
        np.testing.assert_allclose(scores, [row.score for row in left], rtol=1e-2)

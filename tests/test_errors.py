"""Errors carry the index of the item that they are about, or the indices of a batch's items.

In every call the item in the middle is wrong. Programs read the attribute and never the message.
"""

import json
import pickle

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, copy, relist, replace
from faults import graphs

from tessera_onnx import (
    BinaryTokens,
    EncodingError,
    InputTooLong,
    PackedSparse,
    PackedTokens,
    SparseVector,
    TesseraDense,
    TesseraError,
    TesseraMultiVector,
    TesseraSparse,
    TesseraVision,
    TokenizationError,
)
from tessera_onnx.errors import about_item
from tessera_onnx.vectors import scoring

GRAPH = "model.fp32.onnx"
BAD = 3
N = 6
TEXT_KINDS = {
    "dense": (TesseraDense, "prompts"),
    "multi-vector": (TesseraMultiVector, "colbert"),
    "sparse": (TesseraSparse, "splade"),
}
CALLS = {
    "encode_batch": lambda m, texts: m.encode_batch(texts),
    "encode_iter": lambda m, texts: list(m.encode_iter(iter(texts))),
    "encode_query": lambda m, texts: m.encode_query(texts),
    "encode_document": lambda m, texts: m.encode_document(texts),
    "encode_all": lambda m, texts: m.encode_all(texts),
    "rank": lambda m, texts: m.rank("cat", texts),
}
COUNT = {"token_count": lambda m, texts: m.token_count(texts)}


def several(good, bad):
    """A list of good items but for one."""
    return [good] * BAD + [bad] + [good] * (N - BAD - 1)


def error_of(call, *kinds):
    """The error of a call, which pickling does not change."""
    with pytest.raises(kinds) as raised:
        call()
    error = raised.value
    again = pickle.loads(pickle.dumps(error))
    names = ("index", "indices", "path", "line") if isinstance(error, TesseraError) else ("index",)
    assert type(again) is type(error) and str(again) == str(error)
    assert [getattr(again, name) for name in names] == [getattr(error, name) for name in names]
    return error


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_a_wrong_text_in_the_middle(kind):
    cls, name = TEXT_KINDS[kind]
    with cls(path=ARTIFACTS / name, threads=1, on_long="error") as model:
        for call in (CALLS | COUNT).values():
            texts = several("the cat", "secret\ud800")
            assert error_of(lambda c=call, t=texts: c(model, t), TokenizationError).index == BAD
            texts = several("the cat", 7)
            assert error_of(lambda c=call, t=texts: c(model, t), TypeError).index == BAD
        for named, call in CALLS.items():
            if kind == "multi-vector" and named == "encode_query":
                continue  # its queries are longer than this before they are cut
            texts = several("the cat", "cat " * 900)
            assert error_of(lambda c=call, t=texts: c(model, t), InputTooLong).index == BAD, named


def test_one_text_has_no_index():
    """So that the error of a query is never taken for that of a document."""
    with TesseraDense(path=ARTIFACTS / "prompts", on_long="error") as model:
        for call in (model.encode, model.encode_query, lambda text: model.rank(text, ["a", "b"])):
            for text in ("secret\ud800", "cat " * 900):
                error = error_of(lambda c=call, t=text: c(t), TokenizationError, InputTooLong)
                assert (error.index, error.indices) == (None, ())


def overflowing(folder):
    """A graph whose output is float16, and infinite for a long text."""
    begun = graphs.summing(half=False).replace(b"sentence_embedding", b"sentence_beginning")
    end = graphs.node("Cast", ["sentence_beginning"], "sentence_embedding", to=graphs.FLOAT16)
    edit = replace((f'fp32 = "{GRAPH}"\nfp16 = ""', f'fp32 = "{GRAPH}"\nfp16 = "{GRAPH}"'))
    content = graphs.model(begun + end, dtype=graphs.FLOAT16)
    relist(copy("prompts", folder, edit), GRAPH, content)
    return folder


@pytest.mark.parametrize("threads", [1, 2])
def test_a_graph_that_fails_on_one_text_of_a_batch(tmp_path, threads):
    long = "search " * 60
    folder = overflowing(tmp_path / "m")
    options = {"precision": "fp16", "threads": threads, "on_long": "truncate"}
    with TesseraDense(path=folder, **options) as model:
        for call in CALLS.values():
            error = error_of(lambda c=call: c(model, several("cat", long)), EncodingError)
            assert (error.index, error.indices) == (BAD, ())
        texts = ["cat"] * 5000 + [long] + ["cat"] * 9
        assert error_of(lambda: model.encode_batch(texts), EncodingError).index == 5000
        assert error_of(lambda: list(model.encode_iter(texts)), EncodingError).index == 5000
        assert error_of(lambda: model.encode(long), EncodingError).index is None


def test_a_tokenizer_that_fails_on_a_batch_names_all_of_its_texts(tmp_path):
    """Which text is at fault is not known. The window of a stream has the true numbers."""
    folder = copy("states", tmp_path / "m")
    content = json.loads((folder / "tokenizer.json").read_text())
    special = {token["content"]: token["id"] for token in content["added_tokens"]}
    vocabulary = {**special, "cat": 7}
    content["model"] = {"type": "WordLevel", "unk_token": "?", "vocab": vocabulary}
    relist(folder, "tokenizer.json", json.dumps(content).encode())
    texts = ["cat"] * 4096 + several("cat", "zebra")
    with TesseraDense(path=folder, threads=1) as model:
        for call in (CALLS | COUNT).values():
            error = error_of(lambda c=call: c(model, texts), TokenizationError)
            assert error.indices == tuple(range(4096, 4096 + N)) and error.index == 4096


def test_a_closed_model_is_no_fault_of_a_text():
    model = TesseraDense(path=ARTIFACTS / "prompts")
    model.close()
    error = error_of(lambda: model.encode_batch(["cat"] * 9), EncodingError)
    assert (error.index, error.indices) == (None, ())


def test_a_wrong_image_in_the_middle():
    image = np.full((40, 40, 3), 200, np.uint8)
    with TesseraVision(path=ARTIFACTS / "clip", threads=2) as model:
        for bad, kind in ((b"no image", EncodingError), (np.zeros((3, 3, 7), np.uint8), Exception)):
            images = several(image, bad)
            assert error_of(lambda i=images: model.encode_documents(i), kind).index == BAD
            assert error_of(lambda i=images: list(model.encode_iter(i)), kind).index == BAD
            assert error_of(lambda i=images: model.score("cat", i), kind).index == BAD
            assert error_of(lambda i=images: model.rank("cat", i), kind).index == BAD
        for call in (model.encode_documents, lambda i: model.score("cat", i)):
            assert error_of(lambda c=call: c(several(image, 7)), TypeError).index == BAD
        vectors = model.encode_document(image)
        wrong = [image, vectors, image, np.zeros((1, 3), np.float32), image]
        assert error_of(lambda: model.score("cat", wrong), TesseraError).index == BAD
        wrong = [vectors, image, vectors, b"no image", image]
        assert error_of(lambda: model.score("cat", wrong), TesseraError).index == BAD
        assert error_of(lambda: model.encode_query(several("cat", 7)), TypeError).index == BAD


ROWS = np.eye(4, 8, dtype=np.float32)
NAN = ROWS * np.nan
SPARSE = SparseVector(np.array([1, 4], np.int32), np.array([0.5, 2], np.float32))
UNSORTED = SparseVector(np.array([4, 1], np.int32), np.array([0.5, 2], np.float32))


@pytest.mark.parametrize("bad", [NAN, ROWS[:, :3], ROWS[0], "cat", []])
def test_wrong_token_vectors_in_the_middle(bad):
    documents = several(ROWS, bad)
    for call in (
        lambda: scoring.maxsim_scores(ROWS, documents),
        lambda: scoring.maxsim_matrix([ROWS], documents),
        lambda: PackedTokens(documents),
        lambda: PackedTokens([ROWS]).add(iter(documents)),
        lambda: PackedTokens([ROWS]).score_batch(documents),
    ):
        assert error_of(call, TesseraError, TypeError).index == BAD
    if np.shape(bad) != (4, 3):  # two queries that differ are both at fault
        error = error_of(lambda: scoring.maxsim_matrix(documents, [ROWS]), TesseraError, TypeError)
        assert error.index == BAD


def test_wrong_bits_in_the_middle():
    bits = BinaryTokens(np.full((4, 1), 255, np.uint8), 8)
    for documents in (several(ROWS, bits), several(ROWS, np.full_like(ROWS, np.inf))):
        assert error_of(lambda d=documents: PackedTokens(d), TesseraError).index == BAD


def test_wrong_vectors_in_the_middle():
    for bad in (ROWS[0, :3], ROWS[0] * np.nan, ROWS, "cat"):
        documents = several(ROWS[0], bad)
        error = error_of(
            lambda d=documents: scoring.dense_scores(ROWS[0], d), TesseraError, TypeError
        )
        assert error.index == BAD
    for bad in (UNSORTED, "cat", (np.array([1]), np.array([np.nan]))):
        documents = several(SPARSE, bad)
        for call in (
            lambda d=documents: scoring.sparse_scores(SPARSE, d),
            lambda d=documents: PackedSparse(d),
        ):
            assert error_of(call, TesseraError, TypeError).index == BAD


@pytest.mark.parametrize("cls", [PackedTokens, PackedSparse])
def test_wrong_ids_in_the_middle(cls):
    item = ROWS if cls is PackedTokens else SPARSE
    pack = cls([item] * N, ids=[f"id {i}" for i in range(N)])
    for bad in (7, "id 1", "new 0"):
        ids = [f"new {i}" for i in range(N)]
        ids[BAD] = bad
        assert (
            error_of(lambda i=ids: pack.add([item] * N, ids=i), TesseraError, TypeError).index
            == BAD
        )
    for bad in ("unknown", 99, 0.5):
        names = several("id 1", bad)
        assert error_of(lambda n=names: pack.remove(n), TesseraError, TypeError).index == BAD
        error = error_of(lambda n=names: pack.rank(item, subset=n), TesseraError, TypeError)
        assert error.index == BAD
    pack.remove([2])
    assert error_of(lambda: pack.remove(several(1, 2)), TesseraError).index == BAD


def test_an_inner_index_stays():
    with pytest.raises(EncodingError) as raised, about_item(9), about_item(None):
        with about_item(4):
            raise EncodingError("it failed")
    assert raised.value.index == 4
    with pytest.raises(KeyError) as raised, about_item(9):
        raise KeyError("the caller's own")
    assert not hasattr(raised.value, "index")

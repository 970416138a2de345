"""What is given in the place of texts or vectors is named, with what to give instead.

That it is refused by every method, and that every column and array of texts is read, is in
faults/cases_text.py.
"""

import collections
import io
import types
from typing import NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from artifact_tools import ARTIFACTS

from tessera_onnx import (
    BinaryTokens,
    ConfigError,
    Int8Vectors,
    PackedSparse,
    PackedTokens,
    SparseVector,
    TesseraDense,
    TesseraMultiVector,
    TesseraSparse,
    TesseraVision,
    checks,
    maxsim,
)
from tessera_onnx.vectors import pooling, quantization, scoring

SECRET = "zqxjkv"
FRAME = pd.DataFrame({"text": [SECRET, "b"], "n": [1, 2]})


class Row(NamedTuple):
    id: str
    text: str


@pytest.fixture(scope="module")
def models():
    opened = {
        "dense": TesseraDense(path=ARTIFACTS / "prompts"),
        "multi": TesseraMultiVector(path=ARTIFACTS / "colbert"),
        "sparse": TesseraSparse(path=ARTIFACTS / "splade"),
        "vision": TesseraVision(path=ARTIFACTS / "colqwen2"),
    }
    yield types.SimpleNamespace(**opened)
    for model in opened.values():
        model.close()


def refusal(call, *arguments):
    with pytest.raises(TypeError) as caught:
        found = call(*arguments)
        if hasattr(found, "__next__"):
            list(found)
    message = str(caught.value)
    assert SECRET not in message
    assert "dtype <U" not in message
    return message


@pytest.mark.parametrize(
    ("container", "fix"),
    [
        (FRAME, 'frame["text"]'),
        (FRAME[["text"]], 'frame["text"]'),
        (pl.from_pandas(FRAME), 'frame["text"]'),
        (pa.Table.from_pandas(FRAME), 'frame["text"]'),
        ({"a": SECRET}, "list(d.values())"),
        (types.MappingProxyType({"a": SECRET}), "list(d.values())"),
        (collections.ChainMap({"a": SECRET}), "list(d.values())"),
        ({SECRET, "a"}, "a set has no order"),
        (frozenset([SECRET]), "a set has no order"),
        (dict.fromkeys([SECRET]).keys() | {"a"}, "a set has no order"),
        (io.StringIO(SECRET), 'line.rstrip("\\n")'),
        (np.array([[SECRET, "b"]]), "array[:, 0]"),
        (np.array([(SECRET, "b")], dtype=[("id", "U9"), ("text", "U9")]), 'array["text"]'),
        (np.array(SECRET), "[item]"),
        (Row(SECRET, "b"), "[item]"),
        (SECRET.encode(), "[item]"),
        (pa.scalar(None, pa.string()), "fill or drop"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_wrong_container_is_named_with_its_fix(models, container, fix):
    for model in (models.dense, models.multi, models.sparse):
        for call in (
            model.encode_batch, model.encode_iter, model.encode_query, model.encode_document,
            model.encode_all, model.token_count, lambda c, m=model: m.rank("a", c),
        ):  # fmt: skip
            message = refusal(call, container)
            assert fix in message
            assert f"got {type(container).__name__}" in message
    assert fix in refusal(models.multi.score, "a", container)
    assert fix in refusal(models.vision.encode_query, container)


def test_frames_of_other_libraries_go_by_their_columns():
    """Hugging Face's datasets and others that this suite does not install."""

    class Dataset:
        column_names = ("text",)

        def __iter__(self):
            return iter([{"text": SECRET}])

    class Group:  # h5py's, and messages of email, which are no Mapping
        def keys(self):
            return [SECRET]

        def values(self):
            return [1]

        def __iter__(self):
            return iter(self.keys())

    for container, fix in ((Dataset(), 'frame["text"]'), (Group(), "list(d.values())")):
        assert fix in refusal(checks.check_items, container, "texts", "str")


def test_a_series_whose_labels_look_like_methods_is_a_list_of_texts(models):
    labels = ["columns", "keys", "readline", "column_names"]
    series = pd.Series(["a", "b", "c", "d"], index=labels)
    expected = models.dense.encode_batch(["a", "b", "c", "d"])
    np.testing.assert_array_equal(models.dense.encode_batch(series), expected)


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        (["a", None], r"texts\[1\] must be str, got NoneType: fill or drop missing values"),
        (["a", np.nan], r"texts\[1\] must be str, got float: fill or drop"),
        (pd.Series(["a", pd.NA], dtype="string"), r"texts\[1\] must be str, got NAType: fill"),
        (pa.array(["a", None]), r"texts\[1\] must be str, got StringScalar: fill or drop"),
        (["a", b"b"], r"texts\[1\] must be str, got bytes: decode it"),
        ([{"text": SECRET}], r'texts\[0\] must be str, got dict: .* item\["text"\]'),
        ([["a"], ["b"]], r"texts\[0\] must be str, got list: give one text in each place"),
        ([FRAME], r'texts\[0\] must be str, got DataFrame: .* frame\["text"\]'),
    ],
)
def test_every_wrong_item_is_named_with_its_fix(models, texts, match):
    for model in (models.dense, models.multi, models.sparse):
        with pytest.raises(TypeError, match=match):
            model.encode_batch(texts)


@pytest.mark.parametrize("text", [pa.scalar("cat sat"), np.str_("cat sat")], ids=["Arrow", "NumPy"])
def test_a_scalar_is_one_text(models, text):
    for model in (models.dense, models.multi, models.sparse):
        for name in ("encode", "encode_query", "encode_document"):
            found, expected = (getattr(model, name)(t) for t in (text, "cat sat"))
            np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
        assert model.similarity(text, text) == model.similarity("cat sat", "cat sat")
        assert model.rank(text, [text, "dog"]) == model.rank("cat sat", ["cat sat", "dog"])
    assert models.multi.tokens(text) == models.multi.tokens("cat sat")
    assert models.multi.explain(text, text) == models.multi.explain("cat sat", "cat sat")
    query = models.vision.encode_query("cat sat")
    np.testing.assert_array_equal(models.vision.encode_query(text), query)
    assert models.vision.query_tokens(text) == models.vision.query_tokens("cat sat")
    documents = [query, query[:1]]
    assert models.vision.rank(text, documents) == models.vision.rank(query, documents)


# ---------------------------------------------------------------- one for several, and the reverse


def test_a_list_where_one_text_is_due_names_what_takes_it(models):
    wanted = [SECRET, "b"]
    for several in (wanted, tuple(wanted), np.array(wanted), pd.Series(wanted), iter(wanted)):
        for model in (models.dense, models.multi, models.sparse):
            assert "`encode_batch`" in refusal(model.encode, several)
            assert "`rank`" in refusal(model.similarity, several, "a")
            assert "`rank`" in refusal(model.similarity, "a", several)
        assert "`encode_batch`" in refusal(models.multi.encode_quantized, several)
        assert "one text at a time" in refusal(models.multi.tokens, several)
        assert "one text at a time" in refusal(models.multi.explain, "a", several)
        assert "one text at a time" in refusal(models.vision.query_tokens, several)
    images = [np.zeros((9, 9, 3), np.uint8)] * 2
    assert "`encode_documents`" in refusal(models.vision.encode_document, images)
    for query in (wanted, np.array(wanted), None, {"a": 1}):
        for call in (models.vision.rank, models.vision.score):
            assert "one query at a time" in refusal(call, query, images)
        assert "one query" in refusal(models.vision.search, query, images[0])
        assert "one query" in refusal(models.vision.similarity_map, query, images[0])


def test_images_in_a_wrong_container(models):
    image = np.zeros((9, 9, 3), np.uint8)
    frame = pd.DataFrame({SECRET: ["a.png"]})
    calls = (
        models.vision.encode_documents,
        models.vision.encode_iter,
        lambda images: models.vision.score("a", images),
        lambda images: models.vision.rank("a", images),
    )
    for call in calls:
        for wrong in ({SECRET: image}, {SECRET}, frame):
            assert "pass its values, or the column of images, as a list" in refusal(call, wrong)


def test_several_texts_for_a_query(models):
    for wrong in ([SECRET, "b"], np.array([SECRET, "b"]), pd.Series([SECRET, "b"])):
        for call in (models.dense.rank, models.multi.rank, models.multi.score):
            assert "one text's vectors" in refusal(call, wrong, ["a"])
        assert "of text" in refusal(models.sparse.rank, wrong, ["a"])


# ---------------------------------------------------------------- text for vectors


def test_text_where_vectors_are_due_is_called_text(models):
    tokens, sparse = models.multi.encode("a b"), models.sparse.encode("a b")
    calls = [
        lambda t: maxsim(t, tokens),
        lambda t: maxsim(tokens, t),
        lambda t: scoring.maxsim_scores(t, [tokens]),
        lambda t: scoring.maxsim_scores(tokens, [tokens, t]),
        lambda t: scoring.maxsim_matrix([t], [tokens]),
        lambda t: scoring.dense_scores(t, tokens),
        lambda t: scoring.dense_scores(tokens[0], [t]),
        lambda t: scoring.cosine(t, tokens[0]),
        lambda t: scoring.sparse_scores(t, [sparse]),
        lambda t: scoring.sparse_scores(sparse, [t]),
        models.sparse.explain,
        models.multi.quantize,
        quantization.int8,
        quantization.binary,
        pooling.l2_normalize,
        lambda t: pooling.pool_tokens(t, 2),
        lambda t: PackedSparse([sparse]).rank(t),
        lambda t: PackedSparse([sparse, t]),
    ]
    for output in ("float32", "int8", "binary"):
        pack = PackedTokens([tokens], output_dtype=output)
        calls += [pack.rank, pack.score, lambda t, p=pack: p.score_batch([t])]
        calls += [lambda t, p=pack: p.add([t])]
    wrong = (SECRET, "ab", [SECRET, "b"], [[SECRET]], np.array([SECRET, "b"]), SECRET.encode(),
             np.array([[SECRET]], object), pa.scalar(SECRET), pd.Series([SECRET, "b"]))  # fmt: skip
    for number, call in enumerate(calls):
        for value in wrong:
            assert "text" in refusal(call, value), number
    with pytest.raises(TypeError, match="b must be BinaryTokens, got str"):
        quantization.hamming(quantization.binary(tokens), SECRET)
    with pytest.raises(
        TypeError, match='query must be BinaryTokens, got str: output_dtype="binary"'
    ):
        models.multi.similarity_quantized(SECRET, SECRET)


def test_a_sparse_vector_where_rows_are_due_is_refused(models):
    """Its indices and values would pass for two rows of numbers."""
    sparse = SparseVector(np.arange(8, dtype=np.int32), np.ones(8, np.float32))
    tokens = np.eye(8, dtype=np.float32)
    calls = [
        lambda v: maxsim(v, tokens),
        lambda v: maxsim(tokens, v),
        lambda v: scoring.maxsim_matrix([v], [tokens]),
        lambda v: scoring.dense_scores(tokens[0], [v]),
        lambda v: scoring.cosine(v, tokens[0]),
        lambda v: models.dense.similarity("a", v),
        lambda v: models.dense.rank(v, ["a"]),
        lambda v: models.multi.similarity(v, "a"),
        lambda v: models.multi.rank("a", [v]),
        models.multi.quantize,
        quantization.int8,
        lambda v: PackedTokens([v]),
        lambda v: PackedTokens([v], output_dtype="binary"),
        PackedTokens([tokens]).score,
    ]
    for number, call in enumerate(calls):
        assert "got SparseVector" in refusal(call, sparse), number


def test_vectors_of_another_kind_are_no_texts(models):
    """`similarity` takes lists of numbers as `rank` does, and names what it takes of vectors."""
    vector, tokens = models.dense.encode("a b"), models.multi.encode("a b")
    for form in (vector.tolist(), tuple(vector.tolist()), pa.array(vector), pd.Series(vector)):
        expected = models.dense.similarity(vector, "a")
        assert models.dense.similarity(form, "a") == pytest.approx(expected, abs=1e-6)
    expected = models.multi.similarity("a", tokens)
    assert models.multi.similarity("a", tokens.tolist()) == pytest.approx(expected, abs=1e-6)
    pair = tuple(models.sparse.encode("a b"))
    expected = models.sparse.similarity("a", models.sparse.encode("a b"))
    assert models.sparse.similarity("a", pair) == pytest.approx(expected, abs=1e-6)
    for wrong in (vector, vector.tolist(), tokens):
        message = refusal(models.sparse.similarity, wrong, "a")
        assert "a must be a SparseVector or (indices, values)" in message
    with pytest.raises(ConfigError, match=r"shape \(n, dim\), got .*put one vector into a list"):
        models.dense.rank("a", vector)
    frame = pd.DataFrame({"text": ["a"], "n": [1]})
    assert "got DataFrame" in refusal(models.sparse.rank, frame, ["a"])


def test_one_document_where_several_are_due(models):
    tokens, sparse = models.multi.encode("a b"), models.sparse.encode("a b")
    pack = PackedTokens([tokens])
    for call in (pack.add, PackedTokens, lambda d: models.multi.rank("a", d),
                 lambda d: scoring.maxsim_scores(tokens, d)):  # fmt: skip
        assert "got one array of shape" in refusal(call, tokens)
    for call in (PackedSparse, lambda d: models.sparse.rank("a", d),
                 lambda d: scoring.sparse_scores(sparse, d)):  # fmt: skip
        assert "got SparseVector: its fields" in refusal(call, sparse)


def test_a_table_of_weights_is_no_sparse_vector(models):
    """Two keys, or the two names of Qdrant's form, would pass for indices and values."""
    vector = SparseVector(np.array([1, 5], np.int32), np.array([1, 2], np.float32))
    pack = PackedSparse([vector])
    for wrong in (vector.to_dict(), vector.to_qdrant(), {1, 5}):
        for call in (pack.score, pack.rank, models.sparse.explain, lambda v: PackedSparse([v]),
                     lambda v: models.sparse.rank(v, [vector])):  # fmt: skip
            assert "SparseVector(indices, values)" in refusal(call, wrong)
    message = refusal(models.sparse.rank, "a", [vector.to_dict()])
    assert "documents[0] must be a SparseVector" in message


def test_rank_takes_lists_of_vectors(models):
    texts = ["the cat sat", "dog", "the mat"]
    vectors = models.dense.encode_batch(texts)
    expected = [(item.index, pytest.approx(item.score, abs=1e-6))
                for item in models.dense.rank("cat", vectors)]  # fmt: skip
    scores = vectors.astype(np.float64) @ models.dense.encode_query("cat").astype(np.float64)
    assert [index for index, _ in expected] == np.argsort(-scores).tolist()
    for documents in (
        vectors.tolist(), list(vectors), tuple(vectors), (row for row in vectors),
        pd.Series(list(vectors)), pa.array(vectors.tolist()), pl.Series(vectors.tolist()),
        vectors.astype(np.float64), [vectors[0], vectors[1].tolist(), tuple(vectors[2])],
    ):  # fmt: skip
        assert models.dense.rank("cat", documents) == expected
    query = models.dense.encode_query("cat")
    for form in (query.tolist(), tuple(query), pa.scalar(query.tolist()), pd.Series(query)):
        assert models.dense.rank(form, vectors) == expected
    tokens = models.multi.encode_batch(texts)
    plain = models.multi.rank("cat", tokens)
    assert models.multi.rank("cat", [each.tolist() for each in tokens]) == plain
    assert models.multi.rank("cat", pa.array([each.tolist() for each in tokens])) == plain


@pytest.mark.parametrize(
    ("documents", "error", "match"),
    [
        (
            [[1.0] * 32, "a"],
            TypeError,
            r"documents\[1\] must be a numeric array \(dim,\), got a te",
        ),
        (["a", [1.0] * 32], TypeError, r"texts\[1\] must be str, got list"),
        ([None, [1.0] * 32], TypeError, r"documents\[0\] must be a numeric array .*got NoneType"),
        ([None, "a"], TypeError, r"texts\[0\] must be str, got NoneType"),
        ([[1.0] * 32, [1.0] * 31], ValueError, r"documents\[1\] has 31 dims, the query 32"),
        ([[1.0] * 32, [[1.0] * 32]], ValueError, r"documents\[1\] must be one vector"),
        ([[1.0] * 32, [np.nan] * 32], ValueError, r"documents\[1\] holds NaN"),
        ([1.0, 2.0], TypeError, r"texts\[0\] must be str, got float"),
        ([Row("a", "b")], TypeError, r"texts\[0\] must be str, got Row"),
        (FRAME.drop(columns="text"), TypeError, r"frame.to_numpy\(\) for rows of numbers"),
    ],
)
def test_lists_that_rank_refuses(models, documents, error, match):
    with pytest.raises(error, match=match):
        models.dense.rank("cat", documents)


def test_what_counts_as_texts_among_documents():
    vector = np.ones(3)
    codes = Int8Vectors(np.ones((1, 3), np.int8), np.ones(1, np.float32), np.zeros(1, np.float32))
    bits = BinaryTokens(np.zeros((1, 1), np.uint8), 8)
    sparse = SparseVector(np.array([1]), np.array([1.0]))
    for item in (vector, vector.tolist(), [vector], codes, bits, sparse, ([1], [2.0]), {3: 0.5}):
        assert not checks.are_texts([item])
        assert not checks.are_texts([None, item, "a"])
    for item in ("a", np.str_("a"), [["a"]], {"text": "a"}, Row("a", "b"), b"a", 3, FRAME):
        assert checks.are_texts([item])

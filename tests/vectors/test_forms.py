"""Int8Vectors and BinaryTokens where texts and float vectors have a score, and in streams."""

import numpy as np
import pytest
from artifact_tools import ARTIFACTS

from tessera_onnx import (
    BinaryTokens,
    ConfigError,
    DimensionMismatch,
    EncodingError,
    Int8Vectors,
    PackedTokens,
    TesseraMultiVector,
    TesseraVision,
    maxsim,
)
from tessera_onnx.vectors import quantization, scoring
from tessera_onnx.vectors.pooling import l2_normalize

TEXTS = ["a cat sat on a mat", "the parliament passed a law", "kittens purr", ""]
QUERY = "felines"
FORMS = ["int8", "binary"]
COLOURS = np.random.default_rng(3).integers(0, 256, (64, 192, 3), np.uint8)


def floats(coded):
    """The vectors that codes stand for, by hand."""
    if isinstance(coded, Int8Vectors):
        return coded.codes.astype(np.float64) * coded.scale + coded.offset
    signs = np.unpackbits(coded.bits, axis=-1)[..., : coded.dim] * 2.0 - 1
    return signs / np.sqrt(coded.dim)


def maxsim64(query, document):
    products = np.asarray(query, np.float64) @ np.asarray(document, np.float64).T
    return products.max(axis=1).sum()


def pairs(ranking):
    return [row.index for row in ranking], [row.score for row in ranking]


def ranked(scores):
    order = np.argsort(-np.asarray(scores), kind="stable")
    return order.tolist(), np.asarray(scores)[order]


def check(found, scores, tolerance=2e-6):
    order, values = pairs(found)
    expected_order, expected = ranked(scores)
    assert order == expected_order
    np.testing.assert_allclose(values, expected, atol=tolerance)


@pytest.mark.parametrize("output", FORMS)
def test_dense_rank(dense, output):
    coded = dense.encode_batch(TEXTS, output_dtype=output)
    query = dense.encode_query(QUERY)
    scores = floats(coded) @ query
    check(dense.rank(QUERY, coded), scores)
    check(dense.rank(query, coded, top_k=9), scores)
    check(dense.rank(QUERY, list(dense.encode_iter(TEXTS, output_dtype=output))), scores)
    small = dense.encode_query(QUERY, output_dtype=output)
    check(dense.rank(small, coded), floats(coded) @ floats(small))
    check(dense.rank(small, TEXTS), dense.encode_batch(TEXTS) @ floats(small))
    check(dense.rank(small, dense.encode_batch(TEXTS)), dense.encode_batch(TEXTS) @ floats(small))
    if output == "binary":  # bits against bits: 1 - 2 x Hamming distance / dim
        distances = quantization.hamming(small, coded)[0]
        check(dense.rank(small, coded), 1 - 2 * distances / 384)
    assert len(dense.rank(QUERY, coded, top_k=2)) == 2


def test_dense_rank_of_codes_with_ranges(dense):
    """A scale a dimension, as vector databases have it."""
    vectors = dense.encode_batch(TEXTS)
    coded = quantization.int8(vectors, np.stack([vectors.min(0), vectors.max(0)]))
    check(dense.rank(QUERY, coded), floats(coded) @ dense.encode_query(QUERY))


@pytest.mark.parametrize("output", FORMS)
def test_dense_similarity(dense, output):
    query, document = dense.encode_query(QUERY), dense.encode(TEXTS[2])
    left = dense.encode_query(QUERY, output_dtype=output)
    right = dense.encode_document(TEXTS[2], output_dtype=output)

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    for a, b, expected in (
        (left, right, cosine(floats(left), floats(right))),
        (QUERY, right, cosine(query, floats(right))),
        (left, TEXTS[2], cosine(floats(left), document)),
        (query, right, cosine(query, floats(right))),
        (query.astype(np.float64), TEXTS[2], cosine(query, document)),
    ):
        assert dense.similarity(a, b) == pytest.approx(expected, abs=2e-6)
    assert dense.similarity(right, right) <= 1


@pytest.mark.parametrize("output", FORMS)
def test_multi_vector_rank_score_and_similarity(multi, output):
    documents, query = multi.encode_batch(TEXTS), multi.encode_query(QUERY)
    coded = multi.encode_batch(TEXTS, output_dtype=output)
    small = multi.encode_query(QUERY, output_dtype=output)
    mixed = [coded[0], documents[1], coded[2], coded[3]]
    for left, rows in ((query, coded), (small, coded), (small, documents), (query, mixed)):
        a = left if isinstance(left, np.ndarray) else floats(left)
        scores = [maxsim64(a, b if isinstance(b, np.ndarray) else floats(b)) for b in rows]
        np.testing.assert_allclose(multi.score(left, rows), scores, atol=1e-5)
        check(multi.rank(left, rows), scores, 1e-5)
        for row, score in zip(rows, scores, strict=True):
            assert multi.similarity(left, row) == pytest.approx(score, abs=1e-5)
            assert maxsim(left, row) == pytest.approx(score, abs=1e-5)
    check(multi.rank(QUERY, coded), multi.score(query, coded), 1e-5)
    scores = [maxsim64(floats(small), rows) for rows in documents]
    check(multi.rank(small, TEXTS), scores, 1e-5)
    assert multi.similarity(small, TEXTS[0]) == pytest.approx(scores[0], abs=1e-5)
    expected = maxsim64(query, floats(coded[0]))
    assert multi.similarity(QUERY, coded[0]) == pytest.approx(expected, abs=1e-5)
    if output == "binary":
        bits = [multi.similarity_quantized(small, rows) for rows in coded]
        np.testing.assert_allclose(multi.score(small, coded), bits, atol=1e-4)


@pytest.mark.parametrize("output", FORMS)
def test_a_recipe_that_averages(output, rng):
    with TesseraMultiVector(path=ARTIFACTS / "m3") as model:
        query = model.encode_query(QUERY, output_dtype=output)
        documents = model.encode_batch(TEXTS[:3], output_dtype=output)
        scores = [maxsim64(floats(query), floats(rows)) / len(query) for rows in documents]
        check(model.rank(query, documents), scores)
        assert model.similarity(query, documents[1]) == pytest.approx(scores[1], abs=2e-6)
        exact, vectors = model.encode_query(QUERY), model.encode_batch(TEXTS[:3])
        pack = PackedTokens(vectors, ids=["a", "b", "c"])
        found = model.rank(QUERY, pack)
        scores = [maxsim64(exact, rows) / len(exact) for rows in vectors]
        check(found, scores)
        assert [row.id for row in found] == ["abc"[row.index] for row in found]
        pack.remove(["b"])
        assert [row.id for row in model.rank(QUERY, pack)] == [r.id for r in found if r.id != "b"]


@pytest.mark.parametrize("output", FORMS)
def test_vision_rank(output):
    with TesseraVision(path=ARTIFACTS / "colpali") as model:
        images = [COLOURS, np.full((40, 60, 3), 255, np.uint8)]
        coded = model.encode_documents(images, output_dtype=output)
        assert [len(each) for each in coded] == [len(model.encode_document(i)) for i in images]
        query = model.encode_query("cat")
        small = model.encode_query("cat", output_dtype=output)
        for left, a in (("cat", query), (query, query), (small, floats(small))):
            scores = [maxsim64(a, floats(rows)) for rows in coded]
            np.testing.assert_allclose(model.score(left, coded), scores, atol=1e-4)
            assert pairs(model.rank(left, coded))[0] == ranked(scores)[0]
            assert model.search(left, coded[0]) == pytest.approx(scores[0], abs=1e-4)
        streamed = list(model.encode_iter(iter(images), output_dtype=output))
        for one, other in zip(streamed, coded, strict=True):
            np.testing.assert_array_equal(floats(one), floats(other))
        pack = PackedTokens(model.encode_iter(images), ids=["colours", "white"])
        found = model.rank("cat", pack)
        assert pairs(found)[0] == pairs(model.rank("cat", images))[0]
        assert [row.id for row in found] == [["colours", "white"][row.index] for row in found]
        pack.remove(["white"])
        assert [row.id for row in model.rank("cat", pack)] == ["colours"]


@pytest.mark.parametrize("output", ["float32", "int8", "binary"])
def test_packs_of_coded_vectors(multi, output):
    """int8 codes as documents and queries of every form; sign bits as before in binary packs."""
    coded = multi.encode_batch(TEXTS, output_dtype="int8")
    query = multi.encode_query(QUERY, output_dtype="int8")
    plain = PackedTokens([each.dequantize() for each in coded], output_dtype=output)
    for pack in (
        PackedTokens(coded, output_dtype=output),
        PackedTokens(iter(coded), output_dtype=output),
    ):
        np.testing.assert_array_equal(pack.score(query), plain.score(query.dequantize()))
        np.testing.assert_array_equal(
            pack.score_batch([query] * 2), plain.score_batch([query.dequantize()] * 2)
        )
        assert pack.rank(query) == plain.rank(query.dequantize())


@pytest.mark.parametrize("output", ["float32", "int8", "binary"])
def test_streams_of_every_form_are_the_batch(dense, multi, output):
    texts = [*TEXTS, "a longer text " * 20] * 3
    whole = dense.encode_batch(texts, output_dtype=output)
    found = list(dense.encode_iter(iter(texts), output_dtype=output))
    assert len(found) == len(whole)
    for i, each in enumerate(found):
        if output == "float32":
            np.testing.assert_array_equal(each, whole[i])
        elif output == "int8":
            assert isinstance(each, Int8Vectors) and each.codes.dtype == np.int8
            np.testing.assert_array_equal(each.codes, whole.codes[i])
            np.testing.assert_array_equal(each.scale, whole.scale[i])
        else:
            assert isinstance(each, BinaryTokens) and each.dim == 384
            np.testing.assert_array_equal(each.bits, whole.bits[i])
    queries = list(dense.encode_iter(TEXTS, role="query", output_dtype=output))
    expected = dense.encode_query(TEXTS, output_dtype=output)
    for i, each in enumerate(queries):
        one = expected[i] if output == "float32" else floats(expected)[i]
        np.testing.assert_array_equal(each if output == "float32" else floats(each), one)
    for pool_factor in (1, 2):
        options = {"output_dtype": output, "pool_factor": pool_factor}
        whole = multi.encode_batch(texts, **options)
        streamed = list(multi.encode_iter(iter(texts), **options))
        assert [type(each) for each in streamed] == [type(each) for each in whole]
        for one, other in zip(streamed, whole, strict=True):
            as_floats = (lambda x: x) if output == "float32" else floats
            np.testing.assert_array_equal(as_floats(one), as_floats(other))


def test_a_stream_of_codes_ends_as_a_stream_of_floats_does(dense, multi):
    """Wrong arguments now, not at the first result; everything before a bad text is handed out."""
    for model in (dense, multi):
        with pytest.raises(ConfigError, match="output_dtype must be"):
            model.encode_iter(TEXTS, output_dtype="uint8")
        with pytest.raises(TypeError, match="texts must be a list"):
            model.encode_iter("a text", output_dtype="int8")
        stream = model.encode_iter(["a", "b", 3, "c"], output_dtype="int8")
        assert all(isinstance(next(stream), Int8Vectors) for _ in range(2))
        with pytest.raises(TypeError, match=r"texts\[2\] must be str, got int"):
            next(stream)
    with pytest.raises(ConfigError, match="pool_factor"):
        multi.encode_iter(TEXTS, pool_factor=0)


ROW = np.ones(384, np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.similarity(quantization.int8(ROW[:9]), "a"), DimensionMismatch, "^a has 9"),
        (lambda m: m.similarity("a", quantization.binary([ROW])), ConfigError, "^b must be one"),
        (lambda m: m.similarity("a", np.stack([ROW, ROW])), ConfigError, "^b must be one vector"),
        (lambda m: m.similarity(3, "a"), TypeError, "^a must be"),
        (lambda m: m.similarity("a", ROW * np.nan), ConfigError, "^b holds NaN"),
        (lambda m: m.rank("a", quantization.int8(ROW)), ConfigError, "^documents must have shape"),
        (lambda m: m.rank("a", quantization.int8([ROW[:9]])), DimensionMismatch, "9 dims"),
        (lambda m: m.rank(quantization.int8([ROW]), ROW[None]), ConfigError, "query must be one"),
        (
            lambda m: m.rank("a", [quantization.int8(ROW), quantization.int8([ROW])]),
            ConfigError,
            r"documents\[1\] must be one vector",
        ),
        (
            lambda m: m.rank("a", [quantization.int8(ROW), "a text"]),
            TypeError,
            r"documents\[1\] must be a numeric array \(dim,\), got a text",
        ),
        (
            lambda m: m.rank("a", BinaryTokens(np.full((1, 48), 255, np.uint8), 380)),
            ConfigError,
            "documents has bits after its 380 dimensions",
        ),
        (
            lambda m: m.rank("a", Int8Vectors(np.ones((2, 384), "i8"), ROW, ROW)),
            TypeError,
            "documents must hold an array of int8 codes",
        ),
    ],
)
def test_wrong_codes_are_named(dense, call, error, message):
    with pytest.raises(error, match=message):
        call(dense)


@pytest.mark.slow
@pytest.mark.parametrize("numpy", [False, True], ids=["onnxruntime", "numpy"])
@pytest.mark.parametrize("output", ["float32", "int8", "binary"])
def test_scores_of_unit_vectors_stay_within_their_bounds(output, numpy, rng, monkeypatch):
    from tessera_onnx.search import kernels

    if numpy:
        monkeypatch.setattr(kernels, "_session", lambda *_: None)
    beyond = 0
    for dim in (3, 13, 49, 128):
        documents = [l2_normalize(rng.normal(size=(n, dim))) for n in range(1, 60)]
        documents += [-rows[:1] for rows in documents]
        pack = PackedTokens(documents, output_dtype=output)
        with pytest.MonkeyPatch.context() as context:
            context.setattr(kernels, "clip_scores", lambda *_: None)
            free = pack.score_batch(documents)
        scores = pack.score_batch(documents)
        n = np.array([[len(rows)] for rows in documents])
        assert (np.abs(scores) <= n).all()
        inside = np.abs(free) <= n
        np.testing.assert_array_equal(scores[inside], free[inside])
        beyond += int((~inside).sum())
        for i in (0, 30, 70):
            assert max(row.score for row in pack.rank(documents[i])) <= len(documents[i])
    assert beyond > 0 or output == "binary"  # so that there was something to keep


@pytest.mark.parametrize("output", ["float32", "int8"])
def test_scores_of_other_vectors_are_not_cut(output, rng):
    unit = l2_normalize(rng.normal(size=(4, 16)))
    for query, document in ((unit, unit * 1.5), (unit * 1.5, unit), (unit * 3, unit * 3)):
        pack = PackedTokens([document, unit, -document], output_dtype=output)
        expected = scoring.maxsim_scores(query, [document, unit, -document])
        found = pack.score(query)
        np.testing.assert_allclose(found, expected, rtol=0.03, atol=0.05)
        assert found[0] > 4


def test_a_closed_model_still_ranks_vectors_but_no_text(dense):
    from tessera_onnx import TesseraDense

    with TesseraDense("all-minilm-l6-v2") as model:
        coded = model.encode_batch(TEXTS, output_dtype="int8")
    assert model.similarity(quantization.int8(ROW), quantization.int8(ROW)) == pytest.approx(1)
    assert len(model.rank(coded.dequantize()[0], coded)) == 4
    with pytest.raises(EncodingError, match="closed"):
        model.rank("a text", coded)

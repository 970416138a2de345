"""Scores of unit vectors lie within their bounds, and those of other vectors are left alone."""

import math

import numpy as np
import pytest
from artifact_tools import ARTIFACTS

from tessera_onnx import PackedTokens, TesseraMultiVector, TesseraVision, maxsim
from tessera_onnx.images import similarity_map
from tessera_onnx.vectors import bounds, explain, forms, quantization, scoring
from tessera_onnx.vectors.pooling import l2_normalize

WORDS = ["river", "flood", "bread", "yeast", "bank", "tax", "school", "rain", "bridge", "loaf"]
TEXTS = [" ".join(WORDS[i % 10 :: 1 + i % 4]) for i in range(52)]


@pytest.fixture
def unit(rng):
    """Vectors of which float32 has some more than 1 like themselves."""
    vectors = l2_normalize(rng.normal(size=(3000, 384)))
    raw = np.array([float(vector @ vector) for vector in vectors])
    assert (raw > 1).any()
    return vectors


def exact(query, document):
    """MaxSim in float64."""
    products = np.asarray(query, np.float64) @ np.asarray(document, np.float64).T
    return float(products.max(axis=1).sum())


def test_cosine_never_leaves_its_bounds(unit, rng):
    for vector in (*unit[:500], *rng.normal(size=(500, 33)), *(rng.normal(size=(99, 7)) * 1e30)):
        for other, expected in ((vector, 0.0), (-vector, math.pi), (3 * vector, 0.0)):
            assert math.acos(scoring.cosine(vector, other)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_dot_products_of_unit_vectors(unit, dtype):
    vectors = unit[:1500].astype(dtype)
    for sign in (1, -1):
        scores = np.array([scoring.dense_scores(v, sign * vectors[i : i + 2])[0]
                           for i, v in enumerate(vectors)])  # fmt: skip
        np.testing.assert_allclose(scores, sign, atol=1e-3 if dtype == np.float16 else 1e-6)
        assert np.abs(scores).max() <= 1
    everything = scoring.dense_scores(vectors[0], vectors)
    expected = vectors.astype(np.float64) @ vectors[0].astype(np.float64)
    np.testing.assert_allclose(everything, expected, atol=1e-3 if dtype == np.float16 else 1e-6)
    assert scoring.dense_scores(list(vectors[0]), list(vectors)).max() <= 1


@pytest.mark.parametrize("factor", [1.0005, 1.001, 1.1, 0.5, 3, 1e10])
def test_dot_products_of_other_vectors_are_left_alone(unit, factor):
    longer = (unit[:300] * np.float32(factor)).astype(np.float32)
    for rows, query in ((longer, unit[0]), (unit[:300], longer[0]), (longer, longer[0])):
        np.testing.assert_array_equal(scoring.dense_scores(query, rows), rows @ query)
    token = longer[:1]
    for query, document in ((token, unit[:5]), (unit[:1], longer[:5]), (token, longer[:5])):
        assert maxsim(query, document) == (query @ document.T).max()
    mixed = np.concatenate([unit[:1], longer[1:2]])
    assert maxsim(mixed, mixed) == pytest.approx(exact(mixed, mixed), rel=1e-6)


def test_maxsim_of_unit_rows_never_leaves_its_bounds(unit):
    raw = []
    for start in range(0, 3000, 6):
        query = unit[start : start + 1 + start % 5]
        raw.append(float((query @ query.T).max(axis=1).sum()) - len(query))
        for document in (query, np.concatenate([unit[:9], query, query])):
            score = maxsim(query, document)
            assert score <= len(query)
            assert score == pytest.approx(len(query), abs=1e-5)
        assert maxsim(query[:1], -query[:1]) == pytest.approx(-1, abs=1e-6)
        assert maxsim(query[:1], -query[:1]) >= -1
    assert max(raw) > 0  # without the bound some would be above it


def test_a_matrix_of_maxsims_in_blocks(unit, monkeypatch):
    queries = [unit[i : i + 1 + i % 4] for i in range(0, 400, 4)]
    documents = [*queries, *(3 * query for query in queries[:5])]
    for block in (7, scoring.BLOCK_TOKENS):
        monkeypatch.setattr(scoring, "BLOCK_TOKENS", block)
        scores = scoring.maxsim_matrix(queries, documents)
        expected = [[exact(query, document) for document in documents] for query in queries]
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        most = np.array([len(query) for query in queries])
        assert (np.abs(scores[:, :100]) <= most[:, None]).all()
        assert (np.diag(scores[:, 100:]) > 2.9 * most[:5]).all()


def test_the_terms_of_an_explanation(unit):
    names = [str(i) for i in range(600)]
    found = explain.matches(unit[:600], unit[:600], names, names)
    assert [match.document_token for match in found] == names
    assert max(match.score for match in found) <= 1
    longer = explain.matches(unit[:9] * 2, unit[:9], names, names)
    assert min(match.score for match in longer) > 1.9


def test_a_map_of_cells(unit):
    cells = np.arange(600).reshape(20, 30)
    found = similarity_map.cell_map(unit[:600], unit[:600], cells)
    assert np.abs(found).max() <= 1
    np.testing.assert_allclose(found.reshape(600, 600), unit[:600] @ unit[:600].T, atol=1e-6)
    assert similarity_map.cell_map(unit[:1] * 2, unit[:600], cells).max() > 1.9


def test_an_infinite_score_is_no_rounding():
    products = np.array([[np.inf, np.nan, 2.0]], dtype=np.float32)
    bounds.limit(products, np.ones((1, 1)), np.ones((3, 1)))
    np.testing.assert_array_equal(products, [[np.inf, np.nan, 2.0]])


# ---------------------------------------------------------------- the classes


@pytest.mark.slow
def test_dense_scores_of_texts(dense):
    vectors = dense.encode_batch(TEXTS)
    raw = [float(vector @ vector) for vector in vectors]
    assert max(raw) > 1
    for i, text in enumerate(TEXTS):
        best = dense.similarity(text, text)
        assert math.acos(best) == pytest.approx(0, abs=1e-3)
        for ranked in (dense.rank(text, TEXTS), dense.rank(vectors[i], vectors)):
            scores = {item.index: item.score for item in ranked}
            assert scores[i] == pytest.approx(1, abs=1e-6)
            assert max(scores.values()) <= 1
    assert dense.rank(2 * vectors[0], vectors)[0].score == pytest.approx(2, abs=1e-5)


@pytest.mark.slow
def test_multi_vector_scores_of_texts(multi):
    documents = multi.encode_batch(TEXTS)
    for i, text in enumerate(TEXTS):
        query = documents[i]
        scores = multi.score(query, documents)
        assert (np.abs(scores) <= len(query)).all()
        assert scores[i] == pytest.approx(len(query), abs=1e-4)
        assert multi.rank(query, documents)[0].score <= len(query)
        bits = multi.quantize(query)
        assert multi.similarity_quantized(bits, bits) == len(query)
        assert multi.similarity(text, text) <= len(multi.encode_query(text))
        for match in multi.explain(text, text):
            assert abs(match.score) <= 1


def test_a_mean_of_tokens_lies_in_one():
    """bge-m3 divides MaxSim by the number of query tokens."""
    with TesseraMultiVector(path=ARTIFACTS / "m3", on_long="truncate") as model:
        documents = model.encode_batch(TEXTS)
        scores = np.array([model.score(each, documents) for each in documents])
        np.testing.assert_allclose(np.diag(scores), 1, atol=1e-5)
        assert np.abs(scores).max() <= 1


@pytest.mark.parametrize("output", ["float32", "int8", "binary"])
def test_scores_of_images(output):
    """A page as its own query, in each form in which its vectors are kept."""
    rng = np.random.default_rng(3)
    images = list(rng.integers(0, 256, size=(9, 40, 40, 3), dtype=np.uint8))
    with TesseraVision(path=ARTIFACTS / "colqwen2") as model:
        plain = model.encode_documents(images)
        kept = [quantization.convert(vectors, output) for vectors in plain]
        for query in plain:
            scores = model.score(query, kept)
            floats = [forms.floats(each, model.embedding_dim(), "x") for each in kept]
            expected = [exact(query, document) for document in floats]
            np.testing.assert_allclose(scores, np.minimum(expected, len(query)), atol=1e-4)
            assert (np.abs(scores) <= len(query)).all()
        for query in kept:
            assert (np.abs(model.score(query, kept)) <= len(query)).all()
            assert model.rank(query, kept)[0].score <= len(query)
            assert model.search(query, images[0]) <= len(query)


def test_int8_codes_of_unit_rows_keep_their_bounds_and_others_do_not(unit):
    """Codes may stand for a unit vector where their rounding allows it."""

    def score(query, codes):
        rows = codes.dequantize()
        scores = scoring.maxsim_scores(query, [rows])[None]
        bounds.limit_sums(scores, [query], [rows], ([codes], [codes]))
        return float(scores[0, 0])

    over = 0
    for i in range(0, 300, 3):
        codes = quantization.int8(unit[i : i + 3])
        rows = codes.dequantize()
        over += exact(rows, rows) > 3
        assert score(rows, codes) <= 3
        assert score(rows, codes) == pytest.approx(min(3, exact(rows, rows)), abs=1e-5)
    assert over  # some would be above
    longer = quantization.int8(2 * unit[:3])
    assert score(unit[:3], longer) == pytest.approx(6, abs=0.05)


@pytest.mark.parametrize("output", ["float32", "int8"])
def test_coded_queries_keep_their_bounds_in_packs_and_others_do_not(unit, output):
    """What rounding to codes adds to a query's length is no part of its score."""
    rows = [unit[i : i + 3] for i in range(0, 300, 3)]
    pack = PackedTokens(rows, output_dtype=output)
    queries = [quantization.int8(each) for each in rows]
    exactly = [exact(query.dequantize(), row) for query, row in zip(queries, rows, strict=True)]
    assert max(exactly) > 3  # some would be above
    together = pack.score_batch(queries).diagonal()
    for i, query in enumerate(queries):
        alone = [pack.score(query)[i], pack.rank(query, subset=[i])[0].score, together[i]]
        assert alone == pytest.approx(
            [min(3, exactly[i])] * 3, abs=2e-2 if output == "int8" else 1e-5
        )
        assert max(alone) <= 3
    longer = quantization.int8(2 * rows[0])
    assert pack.score(longer)[0] == pytest.approx(6, abs=0.1)

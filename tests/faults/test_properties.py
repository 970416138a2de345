"""Laws that hold for every input, tried on many: against float64, and against themselves."""

import warnings

import numpy as np
import pytest
from artifact_tools import ARTIFACTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import MODELS, Reference, plain

from tessera_onnx import TesseraTimeSeries, TruncationWarning, maxsim
from tessera_onnx.results import SparseVector
from tessera_onnx.vectors import pooling, quantization, scoring

pytestmark = pytest.mark.filterwarnings("ignore::tessera_onnx.TruncationWarning")
lawful = settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
few = settings(lawful, max_examples=15)


@st.composite
def matrices(draw, dim=None, most=24, scale=1.0):
    """(n, dim) float32; exact zeros, equal rows and both signs among them."""
    n = draw(st.integers(1, most))
    dim = dim or draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    rows = rng.normal(size=(n, dim)) * scale
    if draw(st.booleans()):
        rows[rng.integers(n)] = rows[0]
    if draw(st.booleans()):
        rows[:, rng.integers(dim)] = 0
    if draw(st.booleans()):
        rows = -np.abs(rows)
    return rows.astype(np.float32)


def exact(query, document):
    q, d = query.astype(np.float64), document.astype(np.float64)
    return float((q @ d.T).max(axis=1).sum())


# ---------------------------------------------------------------- MaxSim


@lawful
@given(st.data())
def test_maxsim_never_changes_with_what_it_is_packed_with(data):
    """Alone, among others in any order, in blocks of any size, with the rows of each shuffled."""
    query = data.draw(matrices(dim=6))
    documents = data.draw(st.lists(matrices(dim=6), min_size=1, max_size=9))
    order = data.draw(st.permutations(range(len(documents))))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    expected = np.array([exact(query, document) for document in documents])
    shuffled = [documents[i][rng.permutation(len(documents[i]))] for i in order]
    with pytest.MonkeyPatch().context() as context:
        context.setattr(scoring, "BLOCK_TOKENS", data.draw(st.integers(1, 60)))
        found = scoring.maxsim_scores(query[::-1], shuffled)
    np.testing.assert_allclose(found, expected[list(order)], rtol=1e-5, atol=1e-4)


@lawful
@given(matrices(dim=5), matrices(dim=5), matrices(dim=5))
def test_maxsim_of_more_query_rows_adds_and_of_more_document_rows_never_falls(a, b, document):
    whole = maxsim(np.concatenate([a, b]), document)
    assert whole == pytest.approx(maxsim(a, document) + maxsim(b, document), rel=1e-4, abs=1e-3)
    assert maxsim(a, np.concatenate([document, b])) >= maxsim(a, document) - 1e-4


# ---------------------------------------------------------------- pooling


@lawful
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 30), st.integers(0, 2**31))
def test_splade_equals_log1p_relu_of_every_token(b, n, vocab, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=6, size=(b, n, vocab)).astype(np.float32)
    mask = rng.random((b, n)) < 0.7
    naive = np.zeros((b, vocab))
    for row in range(b):
        for token in np.flatnonzero(mask[row]):
            each = np.log1p(np.maximum(logits[row, token].astype(np.float64), 0))
            naive[row] = np.maximum(naive[row], each)
    ours = pooling.activate(pooling.splade(logits, mask), "log1p")
    np.testing.assert_allclose(ours, naive, atol=1e-5)


@lawful
@given(matrices(), st.integers(-37, 37))
def test_unit_vectors_keep_their_direction_at_any_scale(rows, exponent):
    scaled = rows * np.float32(10.0) ** exponent if -6 < exponent < 37 else rows
    truth = scaled.astype(np.float64)
    norms = np.linalg.norm(truth, axis=1, keepdims=True)
    expected = np.divide(truth, norms, out=np.zeros_like(truth), where=norms > 0)
    clear = norms[:, 0] > 1e-9  # the floor of the norm is 1e-12
    np.testing.assert_allclose(pooling.l2_normalize(scaled)[clear], expected[clear], atol=1e-5)


# ---------------------------------------------------------------- quantization


@lawful
@given(matrices(), st.sampled_from([1e-20, 1e-3, 1.0, 1e6, 1e30]))
def test_int8_is_within_half_a_step_at_any_scale(rows, scale):
    rows = rows * np.float32(scale)
    found = quantization.int8(rows)
    steps = np.abs(rows).max(axis=1, keepdims=True).astype(np.float64) / 127
    error = np.abs(found.dequantize().astype(np.float64) - rows)
    assert (error <= 0.5001 * steps + 1e-37).all()
    low, high = rows.min(axis=0), rows.max(axis=0)
    ranged = quantization.int8(rows, np.stack([low, high]))
    steps = (high.astype(np.float64) - low) / 255
    error = np.abs(ranged.dequantize().astype(np.float64) - rows)
    assert (error <= 0.51 * steps + 1e-5 * np.abs(rows).max(axis=0)).all()


@lawful
@given(matrices(), st.sampled_from(["C", "F", "reversed", "sliced", "float64", "big endian"]))
def test_bits_are_the_signs_in_any_layout(rows, layout):
    laid = {
        "C": rows,
        "F": np.asfortranarray(rows),
        "reversed": np.ascontiguousarray(rows[::-1])[::-1],
        "sliced": np.repeat(rows, 3, axis=1)[:, ::3],
        "float64": rows.astype(np.float64),
        "big endian": rows.astype(">f4"),
    }[layout]
    found = quantization.binary(laid)
    np.testing.assert_array_equal(found.unpack(), np.where(rows > 0, 1, -1))
    spare = -rows.shape[1] % 8
    assert not (found.bits[:, -1] & (2**spare - 1)).any()


@lawful
@given(matrices(), st.data())
def test_a_cut_vector_is_the_unit_vector_of_its_first_components(rows, data):
    size = data.draw(st.integers(1, rows.shape[1]))
    expected = rows[:, :size].astype(np.float64)
    norms = np.linalg.norm(expected, axis=1, keepdims=True)
    expected = np.divide(expected, norms, out=np.zeros_like(expected), where=norms > 0)
    np.testing.assert_allclose(quantization.matryoshka(rows, size), expected, atol=1e-6)
    again = quantization.matryoshka(quantization.matryoshka(rows, rows.shape[1]), size)
    np.testing.assert_allclose(again, expected, atol=1e-5)


@lawful
@given(st.lists(st.dictionaries(st.integers(0, 300), st.floats(0.01, 9)), max_size=6), st.data())
def test_sparse_scores_are_symmetric_and_do_not_see_their_neighbours(tables, data):
    vectors = [
        SparseVector(
            np.array(sorted(table), dtype=np.int32),
            np.array([table[i] for i in sorted(table)], dtype=np.float32),
        )
        for table in tables
    ]
    if not vectors:
        return
    query = vectors[data.draw(st.integers(0, len(vectors) - 1))]
    found = scoring.sparse_scores(query, vectors)
    for score, vector in zip(found, vectors, strict=True):
        np.testing.assert_allclose(score, scoring.sparse_scores(vector, [query])[0], rtol=1e-5)


# ---------------------------------------------------------------- texts

REFERENCES = {kind: Reference(kind) for kind in MODELS}
PIECES = [
    "cat",
    "search",
    "the",
    "?",
    "[MASK]",
    "zyx",
    "\u4f60",
    "a\u0301",
    "\x00",
    "\ufeff",
    "x" * 120,
]


@pytest.fixture(scope="module")
def models():
    from cases_text import open_kind

    opened = {kind: open_kind(kind, threads=2) for kind in MODELS}
    yield opened
    for model in opened.values():
        model.close()


@few
@given(data=st.data())
def test_a_batch_is_its_texts_in_any_order(models, data):
    texts = data.draw(
        st.lists(st.lists(st.sampled_from(PIECES), max_size=60).map(" ".join), max_size=30)
    )
    order = data.draw(st.permutations(range(len(texts))))
    for kind, model in models.items():
        width = model.vocab_size() if kind == "sparse" else 0
        found = model.encode_batch([texts[i] for i in order])
        for i, vector in zip(order, found, strict=True):
            expected = REFERENCES[kind].vector(texts[i], "document")
            np.testing.assert_allclose(plain(vector, width), expected, atol=1e-5)


@few
@given(data=st.data())
def test_lengths_around_the_limit_of_any_words(models, data):
    """One token below, at and above: the same tokens as tokenizers' own truncation leaves."""
    words = data.draw(st.lists(st.sampled_from(PIECES[:6]), min_size=45, max_size=70))
    for kind, model in models.items():
        limit = REFERENCES[kind].recipe.document.max_length
        for n in range(len(words)):
            text = " ".join(words[:n])
            count = REFERENCES[kind].tokens(text, "document")
            if limit - 2 <= count <= limit + 2:
                assert model.token_count([text])[0] == count
                width = model.vocab_size() if kind == "sparse" else 0
                expected = REFERENCES[kind].vector(text, "document")
                np.testing.assert_allclose(plain(model.encode(text), width), expected, atol=1e-5)


@few
@given(data=st.data())
def test_a_text_of_exactly_as_many_tokens_as_are_read(models, data):
    """The limit less one, the limit and one more: no cut, no cut, the cut of the last word."""
    for kind, model in models.items():
        for role in ("query", "document"):
            reference = REFERENCES[kind]
            facts = getattr(reference.recipe, role)
            words = [word for word in PIECES[:6] if len(word) < 9 and _single(kind, word, role)]
            room = facts.max_length - reference.tokens("", role)
            drawn = data.draw(
                st.lists(st.sampled_from(words), min_size=room + 1, max_size=room + 1)
            )
            encode = getattr(model, f"encode_{role}")
            for more in (-1, 0, 1):
                text = " ".join(drawn[: room + more])
                assert model.token_count([text], role=role)[0] == facts.max_length + more
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always")
                    found = encode(text)
                assert [warning.category for warning in said] == [TruncationWarning] * (more > 0)
                width = model.vocab_size() if kind == "sparse" else 0
                expected = reference.vector(" ".join(drawn[: room + min(more, 0)]), role)
                np.testing.assert_allclose(plain(found, width), expected, atol=1e-5)


def _single(kind, word, role):
    """Whether a word is one token."""
    return REFERENCES[kind].tokens(word, role) == REFERENCES[kind].tokens("", role) + 1


def test_ten_thousand_texts_of_mixed_lengths_in_their_order(models):
    """Doubles among them; every hundredth compared with the reference, all with another order."""
    rng = np.random.default_rng(3)
    texts = [" ".join(rng.choice(PIECES[:6], rng.integers(0, 60))) for _ in range(5_000)] * 2
    order = rng.permutation(len(texts))
    model = models["dense"]
    found = model.encode_batch(texts)
    assert found.shape[0] == 10_000
    for i in range(0, len(texts), 100):
        expected = REFERENCES["dense"].vector(texts[i], "document")
        np.testing.assert_allclose(found[i], expected, atol=1e-5)
    again = model.encode_batch([texts[i] for i in order])
    np.testing.assert_allclose(again, found[order], atol=1e-5)


# ---------------------------------------------------------------- series


@pytest.fixture(scope="module")
def forecasters():
    opened = [TesseraTimeSeries(path=ARTIFACTS / name, threads=1) for name in ("bolt", "chronos2")]
    yield opened
    for model in opened:
        model.close()


@few
@given(
    values=st.lists(st.floats(-9, 9).map(lambda v: round(v, 3)), min_size=3, max_size=80),
    shift=st.floats(-50, 50),
    exponent=st.integers(-9, 9),
    horizon=st.sampled_from([1, 20, 70]),
)
def test_forecasts_shift_and_scale_with_their_series(forecasters, values, shift, exponent, horizon):
    series = np.array(values)
    if series.std() < 0.1:
        return  # the scale of a constant is a convention, not that of the series
    factor = 2.0**exponent  # exact in float32
    for model in forecasters:
        base = model.forecast_quantiles(series, horizon).astype(np.float64)
        moved = model.forecast_quantiles((series + shift) * factor, horizon).astype(np.float64)
        size = np.abs(base - series.mean()).max() + abs(shift) + np.abs(series).max()
        np.testing.assert_allclose(moved / factor - shift, base, atol=2e-3 * size)
        assert (np.diff(base, axis=2) >= 0).all()


@few
@given(data=st.data())
@pytest.mark.filterwarnings("ignore::tessera_onnx.ForecastWarning")  # of one without a value
def test_a_series_forecast_does_not_see_its_neighbours(forecasters, data):
    lengths = data.draw(st.lists(st.integers(1, 300), min_size=1, max_size=8))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    series = [np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)) for n in lengths]
    order = data.draw(st.permutations(range(len(series))))
    for model in forecasters:
        found = model.forecast_quantiles([series[i] for i in order], 24)
        for i, rows in zip(order, found, strict=True):
            alone = model.forecast_quantiles(series[i], 24)[0]
            scale = np.abs(alone).max() + 1
            np.testing.assert_allclose(rows / scale, alone / scale, atol=1e-4)

"""Scores against float64 double loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera_onnx import maxsim
from tessera_onnx.errors import ConfigError, DimensionMismatch
from tessera_onnx.results import BinaryTokens, SparseVector
from tessera_onnx.vectors import quantization, scoring
from tessera_onnx.vectors.pooling import l2_normalize


def naive_maxsim(query, document):
    total = 0.0
    for q in np.asarray(query, dtype=np.float64):
        total += max(float(q @ d) for d in np.asarray(document, dtype=np.float64))
    return total


@st.composite
def token_arrays(draw, dim, least=1):
    n = draw(st.integers(least, 30))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    return l2_normalize(rng.normal(size=(n, dim)))


@given(token_arrays(8), st.lists(token_arrays(8), min_size=1, max_size=12))
def test_maxsim_equals_the_double_loop(query, documents):
    expected = [naive_maxsim(query, document) for document in documents]
    np.testing.assert_allclose(scoring.maxsim_scores(query, documents), expected, atol=1e-5)


@settings(max_examples=30)
@given(token_arrays(4), st.lists(token_arrays(4), min_size=1, max_size=12), st.integers(1, 40))
def test_blocks_never_change_a_score(query, documents, block):
    whole = scoring.maxsim_scores(query, documents)
    alone = [maxsim(query, document) for document in documents]
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(scoring, "BLOCK_TOKENS", block)
        np.testing.assert_allclose(scoring.maxsim_scores(query, documents), whole, atol=1e-5)
    np.testing.assert_allclose(alone, whole, atol=1e-5)


@settings(max_examples=30)
@given(
    st.lists(token_arrays(4), min_size=1, max_size=5),
    st.lists(token_arrays(4), min_size=1, max_size=8),
    st.integers(1, 300),
)
def test_maxsim_matrix_equals_the_double_loop(queries, documents, pairs):
    expected = [[naive_maxsim(query, document) for document in documents] for query in queries]
    with pytest.MonkeyPatch().context() as context:
        context.setattr(scoring, "BLOCK_PAIRS", pairs)
        found = scoring.maxsim_matrix(queries, documents)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_maxsim_matrix_edges():
    assert scoring.maxsim_matrix([], [[[1.0]]]).shape == (0, 1)
    assert scoring.maxsim_matrix([[[1.0]]], []).shape == (1, 0)
    with pytest.raises(DimensionMismatch, match="all queries must have the same number"):
        scoring.maxsim_matrix([[[1.0]], [[1.0, 0.0]]], [])
    with pytest.raises(ConfigError, match=r"queries\[1\] has no tokens"):
        scoring.maxsim_matrix([[[1.0]], np.empty((0, 1))], [])


def test_all_negative_similarities_are_not_lifted_to_zero():
    assert maxsim([[1.0, 0.0]], [[-1.0, 0.0], [-0.6, -0.8]]) == pytest.approx(-0.6)


@given(token_arrays(6, least=2))
def test_token_order_does_not_matter(tokens):
    assert maxsim(tokens, tokens[::-1]) == pytest.approx(maxsim(tokens, tokens), abs=1e-5)
    assert maxsim(tokens, tokens) == pytest.approx(len(tokens), abs=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32, ">f4"])
def test_maxsim_reads_any_numeric_layout(dtype):
    query = np.asfortranarray(np.array([[1, 0], [0, 1]], dtype=dtype))
    document = np.array([[1, 0], [0, 2], [1, 1]], dtype=dtype)[::-1]
    document.setflags(write=False)
    assert maxsim(query, document) == pytest.approx(1 + 2)


@pytest.mark.parametrize(
    ("query", "document", "error", "match"),
    [
        ([[1.0, 0.0]], [[1.0, 0.0, 0.0]], DimensionMismatch, r"documents\[0\] has 3 dims"),
        ([1.0, 0.0], [[1.0, 0.0]], ConfigError, "query must have shape"),
        (np.empty((0, 2)), [[1.0, 0.0]], ConfigError, "query has no tokens"),
        ([[1.0, 0.0]], np.empty((0, 2)), ConfigError, r"documents\[0\] has no tokens"),
        ([[1.0, np.nan]], [[1.0, 0.0]], ConfigError, "query holds NaN"),
        ([[1.0, 0.0]], [[np.inf, 0.0]], ConfigError, r"documents\[0\] holds NaN or infinity"),
        ([["a"]], [[1.0]], TypeError, "query must be a numeric array"),
        ([[1.0]], np.ma.masked_equal([[5.0]], 5), ConfigError, r"documents\[0\] must have no mask"),
    ],
)
def test_maxsim_refuses(query, document, error, match):
    with pytest.raises(error, match=match):
        maxsim(query, document)


def test_no_warning_of_numpy_where_vectors_are_tiny():
    """As np.seterr(all="raise") has it, in which a program looks for errors of its own."""
    tiny = np.full((2, 3), 1e-30)
    with np.errstate(all="raise"):
        assert maxsim(tiny, tiny * 1e-12) == 0
        assert scoring.dense_scores(tiny[0], tiny).tolist() == [0, 0]


def test_maxsim_of_no_documents():
    assert scoring.maxsim_scores([[1.0]], []).shape == (0,)


def test_cosine():
    assert scoring.cosine([3.0, 4.0], [4.0, 3.0]) == pytest.approx(24 / 25)
    assert scoring.cosine([0.0, 0.0], [4.0, 3.0]) == 0.0
    for size in (3e38, 1e-38):  # whose squares no float32 holds
        assert scoring.cosine([size, size], [size, 0.0]) == pytest.approx(0.5**0.5)
    with pytest.raises(DimensionMismatch):
        scoring.cosine([1.0], [1.0, 2.0])


@st.composite
def sparse_vectors(draw, step=1):
    indices = [step * i for i in sorted(draw(st.sets(st.integers(0, 60), max_size=12)))]
    values = draw(st.lists(st.floats(0.01, 5), min_size=len(indices), max_size=len(indices)))
    return SparseVector(np.array(indices, np.int32), np.array(values, np.float32))


@pytest.mark.parametrize("step", [1, 35_000_000])  # of a vocabulary, and hashes of words
@given(data=st.data())
def test_sparse_scores_equal_dict_products(step, data):
    query, *documents = data.draw(st.lists(sparse_vectors(step), min_size=1, max_size=9))
    table = query.to_dict()
    expected = [sum(table.get(i, 0.0) * w for i, w in d.to_dict().items()) for d in documents]
    np.testing.assert_allclose(scoring.sparse_scores(query, documents), expected, rtol=1e-5)


@given(token_arrays(13), token_arrays(13))
def test_binary_maxsim_equals_maxsim_of_signs(query, document):
    a, b = quantization.binary(query), quantization.binary(document)
    signs = naive_maxsim(a.unpack(), b.unpack()) / 13
    assert scoring.maxsim_binary(a, b) == pytest.approx(signs, abs=1e-5)


def test_binary_maxsim_refuses():
    a = quantization.binary(np.ones((2, 8)))
    with pytest.raises(DimensionMismatch, match="8 and 16"):
        scoring.maxsim_binary(a, quantization.binary(np.ones((2, 16))))
    with pytest.raises(ConfigError, match="n at least 1"):
        scoring.maxsim_binary(a, BinaryTokens(np.empty((0, 1), np.uint8), 8))
    with pytest.raises(ConfigError, match="document has bits after its 5 dimensions"):
        scoring.maxsim_binary(a, BinaryTokens(np.full((1, 1), 0b1111_1100, np.uint8), 5))
    with pytest.raises(TypeError, match="document must be BinaryTokens"):
        scoring.maxsim_binary(a, np.ones((2, 8)))

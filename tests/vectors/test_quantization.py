"""Codes against hand-computed bytes and the bounds that the docstrings promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tessera_onnx.errors import (
    ConfigError,
    DimensionMismatch,
    QuantizationError,
    UnsupportedDimension,
)
from tessera_onnx.results import BinaryTokens
from tessera_onnx.vectors import quantization

finite = st.floats(-1e6, 1e6, width=32)
matrices = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=20), elements=finite
)


def test_binary_bytes_by_hand():
    # > 0 is 1, zero is 0, most significant bit first, unused low bits 0.
    codes = quantization.binary([[1.0, -1.0, 0.0, 2.0, -3.0, 4.0, 5.0, -6.0, 7.0]])
    assert codes.bits.tolist() == [[0b10010110, 0b10000000]]
    assert codes.dim == 9


@given(matrices)
def test_binary_round_trip_for_every_dimension_and_memory_order(vectors):
    expected = np.where(vectors > 0, 1, -1)
    np.testing.assert_array_equal(quantization.binary(vectors).unpack(), expected)
    fortran = np.asfortranarray(vectors)
    np.testing.assert_array_equal(quantization.binary(fortran).unpack(), expected)
    np.testing.assert_array_equal(quantization.binary(vectors[::-1]).unpack(), expected[::-1])


@given(matrices)
def test_int8_error_is_within_half_a_step(vectors):
    codes = quantization.int8(vectors)
    assert codes.codes.dtype == np.int8
    bound = codes.scale * 0.5 * (1 + 1e-3) + 1e-30
    assert (np.abs(codes.dequantize() - vectors) <= bound).all()


def test_int8_codes_do_not_depend_on_other_rows(rng):
    vectors = rng.normal(size=(5, 16)).astype(np.float32)
    alone = quantization.int8(vectors[2])
    np.testing.assert_array_equal(quantization.int8(vectors).codes[2], alone.codes)


def test_int8_with_ranges_and_a_constant_column():
    ranges = np.array([[-1.0, 3.0], [1.0, 3.0]])
    codes = quantization.int8([[-1.0, 3.0], [1.0, 3.0], [9.0, 3.0]], ranges)
    assert codes.codes[:, 0].tolist() == [-128, 127, 127]
    np.testing.assert_allclose(codes.dequantize()[:2, 0], [-1, 1], atol=0.005)
    np.testing.assert_array_equal(codes.dequantize()[:, 1], 3.0)


@pytest.mark.parametrize(
    ("vectors", "ranges"),
    [
        ([[np.nan, 1.0]], None),
        ([[np.inf, 1.0]], None),
        (np.empty((2, 0)), None),
        ([[1.0, 2.0]], [[0.0], [1.0]]),
        ([[1.0]], [[1.0], [0.0]]),
    ],
)
def test_int8_refuses(vectors, ranges):
    with pytest.raises(QuantizationError):
        quantization.int8(vectors, ranges)


def test_masked_values_have_no_code():
    masked = np.ma.masked_equal([[1.0, 5.0]], 5)
    with pytest.raises(ConfigError, match="vectors must have no masked values"):
        quantization.binary(masked)
    with pytest.raises(ConfigError, match="ranges must have no masked values"):
        quantization.int8([[1.0, 2.0]], np.ma.masked_equal([[0.0, 0.0], [5.0, 1.0]], 5))
    assert quantization.binary(masked[:, :1]).unpack().tolist() == [[1]]


@pytest.mark.parametrize("value", [1e-42, 1e-60])
def test_no_warning_of_numpy_where_vectors_are_tiny(value):
    with np.errstate(all="raise"):
        codes = quantization.int8([[value, -value]])
        quantization.int8([[value, -value]], [[0.0, 0.0], [value, 1.0]])
        assert np.abs(codes.dequantize()).max() < 1e-37


def test_non_numeric_is_a_type_error():
    with pytest.raises(TypeError, match="numeric"):
        quantization.binary(np.array(["a"]))


def test_hamming_by_hand():
    a = quantization.binary([[1, 1, -1], [-1, -1, -1]])
    b = quantization.binary([[1, -1, -1], [1, 1, 1]])
    assert quantization.hamming(a, b).tolist() == [[1, 1], [1, 3]]
    with pytest.raises(DimensionMismatch):
        quantization.hamming(a, quantization.binary([[1.0] * 4]))
    with pytest.raises(ConfigError, match="b has bits after its 3 dimensions"):
        quantization.hamming(a, BinaryTokens(np.full(1, 0xF0, np.uint8), 3))


def test_matryoshka_cuts_then_normalises():
    vector = np.array([[3.0, 4.0, 12.0]], dtype=np.float32) / 13
    np.testing.assert_allclose(quantization.matryoshka(vector, 2), [[0.6, 0.8]], atol=1e-6)


def test_matryoshka_with_layer_norm_first():
    # nomic's rule: the layer norm sees the full vector.
    vector = np.array([1.0, 2.0, 3.0, 6.0])
    normed = (vector - 3) / np.sqrt(vector.var() + 1e-5)
    expected = normed[:2] / np.linalg.norm(normed[:2])
    np.testing.assert_allclose(
        quantization.matryoshka(vector, 2, layer_norm=True), expected, atol=1e-6
    )


@pytest.mark.parametrize("dimension", [0, -1, 3, 999])
def test_unsupported_dimensions_name_the_supported(dimension):
    with pytest.raises(UnsupportedDimension, match="8, 4, 2"):
        quantization.check_dimension(dimension, 8, (4, 2), "m")


def test_dimension_types():
    assert quantization.check_dimension(None, 8, (), "m") == 8
    assert quantization.check_dimension(8, 8, (), "m") == 8
    with pytest.raises(TypeError, match="dimension must be int"):
        quantization.check_dimension("8", 8, (), "m")


def test_unknown_output():
    with pytest.raises(ConfigError, match="output_dtype must be"):
        quantization.convert(np.ones(2, np.float32), "uint8")

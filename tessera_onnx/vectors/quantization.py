"""Make vectors smaller: sign bits, int8 codes, fewer dimensions (Matryoshka). Pure NumPy."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tessera_onnx.checks import holds_text, plain
from tessera_onnx.errors import (
    ConfigError,
    DimensionMismatch,
    QuantizationError,
    UnsupportedDimension,
    shown,
)
from tessera_onnx.results import BinaryTokens, Int8Vectors, SparseVector, check_binary, check_int8
from tessera_onnx.vectors import pooling

OutputDtype = Literal["float32", "int8", "binary"]


def check_unmasked(value: Any, name: str) -> None:
    """Raises ConfigError for a NumPy masked array in which a value is masked."""
    if np.ma.is_masked(value):
        raise ConfigError(f"{name} must have no masked values: fill or drop them")


def _finite(vectors: ArrayLike, name: str = "vectors") -> NDArray[np.float32]:
    check_unmasked(vectors, name)
    if isinstance(vectors, SparseVector):  # NumPy would read indices and values as two rows
        raise TypeError(f"{name} must be numeric rows, got SparseVector, which is not quantized")
    try:
        array = np.asarray(plain(vectors))
    except ValueError as error:
        raise QuantizationError(f"{name} must be a rectangular array") from error
    if array.dtype.kind not in "fiu":
        text = holds_text(vectors) or holds_text(array)
        found = "text: encode it first" if text else f"dtype {array.dtype}"
        raise TypeError(f"{name} must be numeric, got {found}")
    with np.errstate(over="ignore", under="ignore"):  # numbers beyond float32 become infinity
        array = array.astype(np.float32)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise QuantizationError(f"{name} need at least one dimension, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise QuantizationError(f"{name} hold NaN or infinity, which cannot be quantized")
    return array


def floats(value: Any, name: str) -> Any:
    """Int8Vectors and BinaryTokens as float32 vectors; any other value unchanged.

    They hold one vector (dim,) or several (n, dim). Int8Vectors are dequantized. Bits become +1 and
    -1 divided by the root of dim, which are unit vectors: scores are then on the scale of float
    vectors, and a float query can be compared with bits. Raises TypeError and ConfigError for parts
    that do not fit each other. Messages begin with `name`.
    """
    if isinstance(value, Int8Vectors):
        check_int8(value, name)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            return value.dequantize()
    if isinstance(value, BinaryTokens):
        single = isinstance(value.bits, np.ndarray) and value.bits.ndim == 1
        check_binary(BinaryTokens(value.bits[None], value.dim) if single else value, name, least=0)
        return value.unpack() / np.float32(np.sqrt(value.dim))
    return value


def binary(vectors: ArrayLike) -> BinaryTokens:
    """Sign bits of vectors (..., dim): 1 where a component is above 0, so 0 gives 0.

    Raises QuantizationError for NaN, infinity or dim 0, TypeError for values that are not numbers.
    """
    array = _finite(vectors)
    return BinaryTokens(np.packbits(array > 0, axis=-1), array.shape[-1])


@np.errstate(under="ignore")
def int8(vectors: ArrayLike, ranges: ArrayLike | None = None) -> Int8Vectors:
    """int8 codes of vectors (..., dim).

    Without `ranges`, each vector has its own scale max|x| / 127 and offset 0, so its codes do not
    depend on other vectors; a zero vector gives zeros. `ranges` (2, dim) are the lowest and highest
    values of each dimension over a sample: all vectors then share one scale per dimension, as
    vector databases expect. Values outside the range are clipped, and a constant dimension is kept
    exactly. Raises QuantizationError for NaN, infinity, dim 0, or `ranges` of another shape or
    order, TypeError for values that are not numbers.
    """
    array = _finite(vectors)
    if ranges is None:
        peak = np.abs(array).max(axis=-1, keepdims=True)
        scale = np.asarray(np.where(peak > 0, peak, 1) / 127, dtype=np.float32)
        # The scale of a subnormal peak may round to zero.
        scale = np.maximum(scale, np.finfo(np.float32).tiny)
        offset = np.zeros_like(scale)
    else:
        low, high = _ranges(ranges, array.shape[-1])
        scale = np.asarray(np.where(high > low, high - low, 1) / 255, dtype=np.float32)
        offset = np.asarray(np.where(high > low, low + 128 * scale, low), dtype=np.float32)
    codes = np.clip(np.rint((array - offset) / scale), -128, 127).astype(np.int8)
    return Int8Vectors(codes, scale, offset)


def _ranges(ranges: ArrayLike, dim: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    array = _finite(ranges, "ranges")
    if array.shape != (2, dim):
        raise QuantizationError(f"ranges must have shape (2, {dim}), got {array.shape}")
    if (array[0] > array[1]).any():
        raise QuantizationError("ranges must hold the lowest values first, then the highest")
    return array[0], array[1]


def hamming(a: BinaryTokens, b: BinaryTokens) -> NDArray[np.int64]:
    """Hamming distances between n vectors `a` and m vectors `b`: (n, m) int64, in [0, dim].

    Raises DimensionMismatch when the dimensions differ, and the errors of `results.check_binary`.
    """
    for name, each in (("a", a), ("b", b)):
        if not isinstance(each, BinaryTokens):
            raise TypeError(f"{name} must be BinaryTokens, got {type(each).__name__}")
    a, b = (BinaryTokens(np.atleast_2d(each.bits), each.dim) for each in (a, b))
    check_binary(a, "a", least=0)
    check_binary(b, "b", least=0)
    if a.dim != b.dim:
        raise DimensionMismatch(f"the vectors have {a.dim} and {b.dim} dims")
    # One row at a time: all at once would take n x m x bytes of memory.
    counts = [np.bitwise_count(row ^ b.bits).sum(axis=1, dtype=np.int64) for row in a.bits]
    return np.array(counts, dtype=np.int64).reshape(len(a), len(b))


def matryoshka(
    vectors: NDArray[Any], dimension: int, *, layer_norm: bool = False
) -> NDArray[np.float32]:
    """Cut vectors (..., dim) to their first `dimension` components and L2-normalise these, float32.

    `layer_norm` applies a layer norm to the full vector first, as nomic-embed-text-v1.5 does. A
    zero vector stays zero. Matryoshka representation learning, arXiv:2205.13147.
    """
    if layer_norm:
        vectors = pooling.layer_norm(vectors)
    return pooling.l2_normalize(vectors[..., :dimension])


def check_dimension(
    dimension: int | None, full: int, allowed: tuple[int, ...], model_id: str
) -> int:
    """`dimension` if vectors of the model can be cut to it; `full` for None.

    Raises TypeError unless it is an integer, UnsupportedDimension if it is not in `allowed`.
    """
    if dimension is None:
        return full
    if isinstance(dimension, bool) or not isinstance(dimension, int):
        raise TypeError(f"dimension must be int or None, got {type(dimension).__name__}")
    if dimension != full and dimension not in allowed:
        sizes = ", ".join(str(size) for size in sorted({full, *allowed}, reverse=True))
        raise UnsupportedDimension(f"model {model_id!r} gives {sizes} dimensions, not {dimension}")
    return dimension


def convert(
    vectors: NDArray[np.float32], output_dtype: OutputDtype
) -> NDArray[np.float32] | Int8Vectors | BinaryTokens:
    """Convert float vectors (n, dim) or (dim,) to `output_dtype`; "float32" gives them unchanged.

    Raises ConfigError for an unknown `output_dtype`, QuantizationError for NaN or infinity in
    "int8" and "binary".
    """
    check_output(output_dtype)
    if output_dtype == "float32":
        return vectors
    return int8(vectors) if output_dtype == "int8" else binary(vectors)


def check_output(output_dtype: OutputDtype) -> None:
    """Check `output_dtype` before any text is encoded. Raises ConfigError for an unknown one."""
    if output_dtype not in get_args(OutputDtype):
        raise ConfigError(
            f'output_dtype must be "float32", "int8" or "binary", got {shown(output_dtype)}'
        )

"""Vectors in any form as float rows, and where on an image they answer a query. Pure NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError, DimensionMismatch
from tessera_onnx.results import BinaryTokens, Int8Vectors, check_binary, check_int8

Float = NDArray[np.float32]


def is_vectors(value: Any) -> bool:
    """Whether it is vectors made earlier, not an image, whose array would be uint8."""
    if isinstance(value, np.ndarray):
        return bool(value.dtype.kind == "f")
    return isinstance(value, Int8Vectors | BinaryTokens)


def floats(value: Any, dim: int, name: str) -> Float:
    """Vectors of any form as (n, dim) float32.

    Bits become +1 and -1 over the root of dim, unit vectors as those that they stand for: a float
    query against bits keeps more of the order than bits against bits, and one scale serves all.
    Raises TypeError for what is_vectors denies, ConfigError for another rank, parts that do not fit
    each other, NaN or infinity, DimensionMismatch for other dims.
    """
    if not is_vectors(value):
        raise TypeError(
            f"{name} must be a float array (n, dim), Int8Vectors or BinaryTokens, "
            f"got {type(value).__name__}"
        )
    if np.ma.is_masked(value):
        raise ConfigError(f"{name} must have no masked values: fill or drop them")
    if isinstance(value, Int8Vectors):
        check_int8(value, name)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            value = value.dequantize()
    elif isinstance(value, BinaryTokens):
        check_binary(value, name, least=0)
        value = value.unpack() / np.float32(np.sqrt(value.dim))
    if value.ndim != 2:
        raise ConfigError(f"{name} must have shape (n, {dim}), got {value.shape}")
    if value.shape[1] != dim:
        raise DimensionMismatch(f"{name} has {value.shape[1]} dims, the model gives {dim}")
    with np.errstate(over="ignore", under="ignore"):  # of float64: infinite, and so refused
        found: Float = np.asarray(value, dtype=np.float32)
    if not np.isfinite(found).all():
        raise ConfigError(f"{name} holds NaN or infinity, or numbers beyond float32")
    return found


def cell_map(query: Float, vectors: Float, cells: NDArray[np.int64]) -> Float:
    """Dot products of each query row with the vector of each cell: (n, rows, cols) float32.

    query (n, dim), vectors (m, dim), cells (rows, cols) rows of `vectors`; NaN where a cell is -1.
    Of cells (layers, rows, cols) the highest of all layers counts.
    """
    products = np.full((len(query), len(vectors) + 1), np.nan, dtype=np.float32)
    products[:, :-1] = query @ vectors.T
    found: Float = products[:, cells]
    return found if cells.ndim == 2 else np.fmax.reduce(found, axis=1)

"""Convert vectors of any type to float rows, and tell vectors from images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError, DimensionMismatch
from tessera_onnx.results import BinaryTokens, Int8Vectors
from tessera_onnx.vectors import quantization

Float = NDArray[np.float32]


def is_vectors(value: Any) -> bool:
    """Whether a value is vectors and not an image: a float array, Int8Vectors or BinaryTokens.

    Images are arrays of uint8.
    """
    if isinstance(value, np.ndarray):
        return bool(value.dtype.kind == "f")
    return isinstance(value, Int8Vectors | BinaryTokens)


def floats(value: Any, dim: int, name: str) -> Float:
    """Convert vectors of any type to (n, dim) float32; n may be 0.

    Int8Vectors and BinaryTokens are converted by `quantization.floats`. Raises TypeError for values
    that are not vectors, ConfigError for another rank, parts that do not fit each other, NaN or
    infinity, DimensionMismatch for another dim. Messages begin with `name`.
    """
    if not is_vectors(value):
        raise TypeError(
            f"{name} must be a float array (n, dim), Int8Vectors or BinaryTokens, "
            f"got {type(value).__name__}"
        )
    if np.ma.is_masked(value):
        raise ConfigError(f"{name} must have no masked values: fill or drop them")
    value = quantization.floats(value, name)
    if value.ndim != 2:
        raise ConfigError(f"{name} must have shape (n, {dim}), got {value.shape}")
    if value.shape[1] != dim:
        raise DimensionMismatch(f"{name} has {value.shape[1]} dims, the model gives {dim}")
    with np.errstate(over="ignore", under="ignore"):  # a float64 beyond float32 becomes infinity
        found: Float = np.asarray(value, dtype=np.float32)
    if not np.isfinite(found).all():
        raise ConfigError(f"{name} holds NaN or infinity, or numbers beyond float32")
    return found

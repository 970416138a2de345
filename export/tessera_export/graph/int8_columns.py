"""Quantize a matrix to int8 columns whose products are the same numbers on every processor.

x86 processors with AVX2 or AVX-512 but without VNNI multiply unsigned by signed bytes two rows at a
time and add the two products in 16 bits, which saturate. With activations up to 255, the weights of
two neighbouring rows may therefore not exceed 128 together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PAIR = 127  # one below the limit: rounding may add a half to each of the two


def columns(matrix: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes (k, n) and scales (n,) of a matrix (k, n): codes * scales is near the matrix."""
    size = np.abs(matrix)
    size = np.concatenate([size, np.zeros((len(size) % 2, size.shape[1]), np.float32)])
    largest = (size[::2] + size[1::2]).max(axis=0)
    scales = np.maximum(largest / PAIR, 1e-12).astype(np.float32)
    return np.round(matrix / scales).astype(np.int8), scales

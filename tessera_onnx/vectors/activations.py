"""The activation functions of dense layers, in NumPy; each as torch.nn defines it by default."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

# Chebyshev-like coefficients of erfc (W. H. Press et al., Numerical Recipes, section 6.2: erfcc),
# whose relative error is below 1.2e-7 everywhere.
ERFC = (
    -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398,
    1.48851587, -0.82215223, 0.17087277,
)  # fmt: skip


def erf(values: Float) -> Float:
    """The error function, (...) float32, within 2e-7."""
    size = np.abs(values.astype(np.float64))
    t = 1 / (1 + size / 2)
    rest = t * np.exp(-size * size + np.polynomial.polynomial.polyval(t, ERFC))
    return np.asarray(np.copysign(1 - rest, values), np.float32)


def sigmoid(values: Float) -> Float:
    """1 / (1 + exp(-x)), (...) float32, without overflow and exact also near 0."""
    with np.errstate(under="ignore"):
        small = np.exp(-np.abs(values))
        return np.asarray(np.where(values < 0, small, 1) / (1 + small), np.float32)


ACTIVATIONS: dict[str, Callable[[Float], Float]] = {
    "identity": lambda values: values,
    "tanh": lambda values: np.asarray(np.tanh(values), np.float32),
    "relu": lambda values: np.maximum(values, np.float32(0)),
    "gelu": lambda values: values * np.float32(0.5) * (1 + erf(values / np.float32(np.sqrt(2)))),
    "silu": lambda values: values * sigmoid(values),
    "sigmoid": sigmoid,
}

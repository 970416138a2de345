"""Which numbers float32 and float64 hold well enough for the form of a series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError

Float = NDArray[Any]  # float32 or float64
LARGEST = float(np.finfo(np.float32).max)
# The distance between two neighbouring numbers of a type must be at most this part of a series'
# standard deviation, else the type rounds the series' form away.
FINEST = 1e-3
COARSE = 0.1  # and past this part a series that came in that type has lost its form already
WHOLE32, WHOLE64 = 1 << 24, 1 << 53  # up to these a float holds every whole number


def is_rounded(values: Float) -> bool:
    """Whether a series came as floats that hold its changes in a few steps: float32 of 1e8 + 8.

    Numbers of float64 are looked at beyond 2**53 only: smaller ones may be a constant with noise.
    """
    if values.dtype == np.float32:
        return needs_float64(values, COARSE)
    most = np.max(np.abs(values), where=~np.isnan(values), initial=0)
    if most <= WHOLE64:
        return False
    spread = np.nanstd(values - most)
    return bool(spread > 0 and np.spacing(most) > COARSE * spread)


def needs_float64(values: Float, finest: float = FINEST) -> bool:
    """Whether float32 would round the form of a series away: waves of 10 on a level of 1e8.

    A constant needs it where it is a number beyond 2**24 that float32 does not hold.
    """
    known = values[~np.isnan(values)].astype(np.float64)
    if not len(known):
        return False
    level = np.abs(known).max()
    with np.errstate(under="ignore", over="ignore"):
        # Over the level: the squares of tiny numbers are 0.
        spread = level * ((known - known[0]) / (level or 1)).std()
        if spread == 0:
            return bool(level > WHOLE32 and np.float32(level) != level)
        return bool(np.spacing(np.float32(level)) > finest * spread)


def check_held(known: Sequence[Any], name: str) -> None:
    """Raises ConfigError for ints or decimals whose changes float64 does not hold."""
    known = [value for value in known if value == value]  # noqa: PLR0124 (Decimal("NaN") is not)
    if not known:
        return
    first = known[0]
    spread = np.array([float(value - first) for value in known]).std()
    level = max(map(abs, known))
    lost = float(first) != first if spread == 0 else np.spacing(float(level)) > FINEST * spread
    if lost and (spread or isinstance(first, int)):  # a constant of 0.1 is near enough
        raise ConfigError(
            f"{name} holds numbers so large that float64 rounds their changes away: subtract an "
            "offset before, and add it to the forecast"
        )

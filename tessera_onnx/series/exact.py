"""Decide whether float32 and float64 hold the numbers of a series exactly enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError

Float = NDArray[Any]  # float32 or float64
LARGEST = float(np.finfo(np.float32).max)
# Neighbouring numbers of a type may lie this part of the series' standard deviation apart; with a
# larger distance the type rounds the changes of the series away.
FINEST = 1e-3
COARSE = 0.1  # with this distance the changes of a series of that type are already lost
WHOLE32, WHOLE64 = 1 << 24, 1 << 53  # float32 and float64 hold every whole number up to these


def is_rounded(values: Float) -> bool:
    """Whether the type of a series has rounded its changes away: float32 of 1e8 + 8.

    float64 is checked beyond 2**53 only: smaller numbers may be a constant with noise.
    """
    if values.dtype == np.float32:
        return needs_float64(values, COARSE)
    most = np.max(np.abs(values), where=~np.isnan(values), initial=0)
    if most <= WHOLE64:
        return False
    spread = np.nanstd(values - most)
    return bool(spread > 0 and np.spacing(most) > COARSE * spread)


def needs_float64(values: Float, finest: float = FINEST) -> bool:
    """Whether float32 would round the changes of a series away: waves of 10 on a level of 1e8.

    A constant needs float64 if it is beyond 2**24 and float32 does not hold it.
    """
    known = values[~np.isnan(values)].astype(np.float64)
    if not len(known):
        return False
    level = np.abs(known).max()
    with np.errstate(under="ignore", over="ignore"):
        # Divided by the level, since the squares of tiny numbers are 0.
        spread = level * ((known - known[0]) / (level or 1)).std()
        if spread == 0:
            return bool(level > WHOLE32 and np.float32(level) != level)
        return bool(np.spacing(np.float32(level)) > finest * spread)


def check_held(known: Sequence[Any], name: str) -> None:
    """Raises ConfigError for ints or decimals whose changes float64 rounds away."""
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

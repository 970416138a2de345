"""What callers of a forecast hand over, checked; no library of tables is imported."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError, is_single

Float = NDArray[np.float32]
MAX_HORIZON = 1 << 16  # more is a mistake, and could take all memory before it shows


def read(context: Any) -> list[Float]:
    """The series of a context, each 1-D float32 with NaN for what is missing.

    A context is a series, a 2-D array with a series a row, or a list of series; a series is what
    NumPy, pandas or polars hold in one dimension, or a list of numbers. Raises TypeError for what
    is no number, ConfigError for an empty series and for infinity; both name the series.
    """
    if isinstance(context, list | tuple) and not (context and _is_number(context[0])):
        return [_one(item, f"context[{i}]", i) for i, item in enumerate(context)]
    if isinstance(context, np.ndarray) and context.ndim == 2:
        return [_one(row, "context", i) for i, row in enumerate(context)]
    return [_one(context, "context", 0)]


def _one(item: Any, name: str, index: int) -> Float:
    values = _array(item)
    if values is None or values.dtype.kind not in "iuf":
        kind = type(item).__name__ if values is None else f"an array of {values.dtype}"
        raise TypeError(
            f"{name} must be a series of numbers (NaN where one is missing), got {kind}"
        )
    if values.ndim != 1:
        raise ConfigError(f"{name} must have one dimension, got {values.ndim}: a list of series?")
    if not len(values):
        raise ConfigError(
            f"series {index} is empty: give one value at least, NaN for a missing one"
        )
    with np.errstate(over="ignore", under="ignore"):
        series = np.asarray(values, dtype=np.float32)
    if np.isinf(series).any():
        raise ConfigError(
            f"series {index} holds infinity, or a value beyond float32; NaN is a missing value"
        )
    return series


def _array(item: Any) -> NDArray[Any] | None:
    """`item` as an array, by the names that NumPy, pandas and polars share; None for no array."""
    if isinstance(item, np.ma.MaskedArray):
        numeric = item.dtype.kind in "iuf"
        return np.ma.filled(item.astype(np.float64), np.nan) if numeric else item.data
    if hasattr(item, "to_numpy") and not hasattr(item, "columns"):
        # A nullable type of pandas gives objects unless told what stands for NA. The types of
        # polars have no `kind`, and its nulls are NaN already.
        if getattr(getattr(item, "dtype", None), "kind", "") in tuple("iuf"):
            return np.asarray(item.to_numpy(dtype=np.float64, na_value=np.nan))
        # Not item.to_numpy(): PyArrow's refuses nulls.
        return np.asarray(item)
    if isinstance(item, list | tuple | np.ndarray) or hasattr(item, "__array__"):
        try:
            return np.asarray(item)
        except ValueError:  # lists within a list, of different lengths
            return None
    return None


def check_horizon(horizon: int | None, default: int) -> int:
    """The steps to forecast.

    Raises TypeError for no whole number, ConfigError for one outside 1..MAX_HORIZON.
    """
    if horizon is None:
        return default
    if isinstance(horizon, bool) or not isinstance(horizon, int | np.integer):
        raise TypeError(f"horizon must be int or None, got {type(horizon).__name__}")
    if horizon < 1:
        raise ConfigError(f"horizon must be at least 1, got {horizon}")
    if horizon > MAX_HORIZON:
        raise ConfigError(f"horizon must be at most {MAX_HORIZON}")
    return int(horizon)


def check_levels(levels: Sequence[float]) -> tuple[float, ...]:
    """Levels in the order given; unsorted and repeated ones are a caller's right.

    Raises TypeError for what is no list of numbers, ConfigError for none or one outside (0, 1).
    """
    # A set has no order, and a dict's is that of its keys.
    if is_single(levels) or isinstance(levels, str | bytes | AbstractSet | Mapping):
        raise TypeError(f"levels must be a list of numbers, got {type(levels).__name__}")
    checked = []
    for i, level in enumerate(levels):
        if not _is_number(level):
            raise TypeError(f"levels[{i}] must be a number, got {type(level).__name__}")
        if not 0 < level < 1:
            raise ConfigError(f"levels[{i}] must lie between 0 and 1, both excluded, got {level}")
        checked.append(float(level))
    if not checked:
        raise ConfigError("levels is empty: name one level at least, or None for the trained ones")
    return tuple(checked)


def _is_number(value: Any) -> bool:
    """Whether `value` is one number: of Python or NumPy, no bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)

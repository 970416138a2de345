"""Check the arguments of a forecast, and read series from NumPy, lists, pandas and polars.

No library of tables is imported: their series are known by their methods.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import errors
from tessera_onnx.checks import is_single
from tessera_onnx.errors import ConfigError, ForecastWarning, about_item
from tessera_onnx.series import table
from tessera_onnx.series.exact import LARGEST, WHOLE64, check_held

Float = NDArray[Any]  # float32 or float64
MAX_HORIZON = 1 << 16  # a larger horizon is a mistake that could take all memory
NEAR = 1e-9  # levels that differ by less are the same: 0.9 and 1 - 0.1


class Column(Protocol):
    """A series of pandas, polars or PyArrow."""

    def to_numpy(self, *args: Any, **kwargs: Any) -> Any:
        """Its values as an array."""


Series: TypeAlias = Sequence[float | Decimal] | NDArray[Any] | Column
Context: TypeAlias = Series | Sequence[Series]
Labels: TypeAlias = Sequence[Hashable] | NDArray[Any] | Column
Levels: TypeAlias = Sequence[float] | NDArray[Any]


def read_series(context: Any, latest: int) -> list[Float]:
    """Read the `latest` values of each series of a context: 1-D arrays, NaN where one is missing.

    float32 stays float32, everything else becomes float64. A context is a series, a 2-D array with
    a series a row, or a list of series; a series is what NumPy, pandas or polars hold in one
    dimension, or a list of numbers. A series of pandas with an index of times is sorted by them,
    with a ForecastWarning.

    Raises TypeError for what is no number, ConfigError for an empty series, for infinity, and for
    whole numbers and decimals whose changes float64 does not hold; `index` is the series.
    """
    if isinstance(context, list | tuple) and not (context and _is_number(context[0])):
        items = [(item, f"context[{i}]") for i, item in enumerate(context)]
    elif isinstance(context, np.ndarray) and context.ndim == 2:
        items = [(row, "context") for row in context]
    else:
        items = [(context, "context")]
    moved = []
    for i, (item, name) in enumerate(items):
        with about_item(i):
            order = _order(item, i)
        if order is not None:
            moved.append(i)
            items[i] = item.iloc[order], name
    found = []
    for i, (item, name) in enumerate(items):
        with about_item(i):
            found.append(_read_one(item, name, i, latest))
    if moved:
        tell(table.moved_message(moved))
    return found


def tell(message: str) -> None:
    """Raise a ForecastWarning at the line that called this package."""
    errors.tell(message, ForecastWarning)


def _order(item: Any, number: int) -> NDArray[np.intp] | None:
    """The order that sorts a series of pandas by the times of its index.

    None where they ascend already, and for an index without times. Raises ConfigError where a time
    comes twice or is missing.
    """
    index: Any = getattr(item, "index", None)
    if not hasattr(item, "sort_index") or hasattr(item, "columns") or not hasattr(index, "nlevels"):
        return None
    levels = [index.get_level_values(level) for level in range(index.nlevels)]
    times = next((found for found in map(_times, levels) if found is not None), None)
    if times is None:
        return None
    if (times != times).any() or len(np.unique(times)) < len(times):  # noqa: PLR0124 (NaT)
        raise ConfigError(
            f"series {number} has a time twice in its index, or a missing time: give several "
            "series as a list, or drop the row"
        )
    order = np.argsort(times)
    return order if (np.diff(order) < 0).any() else None


def _times(index: Any) -> NDArray[Any] | None:
    """The times of an index of pandas, also of texts and of integers such as 202401.

    None where it holds no times.
    """
    if hasattr(index, "freq"):
        return np.asarray(index.asi8).view("m8[ns]")
    kind = index.inferred_type
    if kind in {"date", "datetime"}:  # objects, which may have time zones: their ranks
        if index.hasnans:
            return np.array(["NaT"], "M8[us]")
        return np.unique(index.to_numpy(), return_inverse=True)[1]
    if kind not in {"string", "integer"} or (kind == "integer" and index.is_monotonic_increasing):
        return None
    return table.of_labels([str(label).strip() for label in index], str(index.name or ""))


def _read_one(item: Any, name: str, index: int, latest: int) -> Float:
    """Read one series; `name` is its place in the context, as messages say it."""
    if hasattr(item, "columns"):
        raise ConfigError(
            f"{name} must have one dimension, got 2, those of a {type(item).__name__}: call "
            "forecast_frame, or give a list of its columns"
        )
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
            f"series {index} is empty: give at least one value, NaN for a missing one"
        )
    is_small = values.dtype.kind == "f" and values.dtype.itemsize <= 4
    with np.errstate(over="ignore", under="ignore"):
        series = np.asarray(values, dtype=np.float32 if is_small else np.float64)
    most = np.max(np.abs(series), where=~np.isnan(series), initial=0)
    if most > LARGEST:
        raise ConfigError(
            f"series {index} holds infinity, or a value beyond float32; NaN is a missing value"
        )
    exact = _exact(item, most)
    if exact is not None:
        check_held(exact[-latest:], f"series {index}")
    return series[-latest:]


def _array(item: Any) -> NDArray[Any] | None:
    """A series of NumPy, pandas or polars, or a list, as an array; None for anything else."""
    if isinstance(item, np.ma.MaskedArray):
        numeric = item.dtype.kind in "iuf"
        return np.ma.filled(item.astype(np.float64), np.nan) if numeric else item.data
    is_column = hasattr(item, "to_numpy") and not hasattr(item, "columns")
    # A nullable type of pandas gives objects unless told what stands for NA. The types of
    # polars have no `kind`, and its nulls are NaN already.
    kind = getattr(item, "dtype", None) if is_column else None
    if getattr(kind, "kind", "") in tuple("iuf"):
        is_small = kind.kind == "f" and kind.itemsize <= 4  # type: ignore[union-attr]
        dtype = np.float32 if is_small else np.float64
        return np.asarray(item.to_numpy(dtype=dtype, na_value=np.nan))
    if is_column or isinstance(item, list | tuple | np.ndarray) or hasattr(item, "__array__"):
        try:
            # Not item.to_numpy(): PyArrow's refuses nulls.
            found = np.asarray(item)
        except ValueError:  # lists within a list, of different lengths
            return None
        return _decimals(found, nulls=is_column) if found.dtype == object else found
    return None


def _decimals(values: NDArray[Any], *, nulls: bool) -> NDArray[Any]:
    """Convert an object array of decimals to float64; other object arrays stay as they are.

    With `nulls` None becomes NaN.
    """
    items = values.ravel().tolist()
    known = [item for item in items if not (nulls and item is None)]
    is_decimal = any(isinstance(item, Decimal) for item in known)
    if not is_decimal or not all(isinstance(v, Decimal) or _is_number(v) for v in known):
        return values
    floats = [math.nan if item is None else float(item) for item in items]
    return np.array(floats).reshape(values.shape)


def _exact(item: Any, most: float) -> list[Any] | None:
    """The values as Python numbers, where float64 may round them: decimals and large integers.

    None for all others. Missing values are left out.
    """
    if isinstance(item, np.ma.MaskedArray):
        item = item.compressed()
    for name in ("dropna", "drop_nulls", "drop_null"):  # pandas, polars, PyArrow
        if most > WHOLE64 and hasattr(item, name):
            item = getattr(item, name)()
            break
    values = item if isinstance(item, list | tuple) else np.asarray(item)
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "iuO" or (values.dtype.kind != "O" and most <= WHOLE64):
            return None
        values = values.tolist()
    elif most <= WHOLE64 and not any(isinstance(value, Decimal) for value in values):
        return None
    known = [value for value in values if value is not None]
    return known if all(isinstance(value, int | Decimal) for value in known) else None


def check_horizon(horizon: int | None, default: int) -> int:
    """The number of steps to forecast, `default` for None.

    Raises TypeError unless it is a whole number, ConfigError outside 1..MAX_HORIZON.
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


def check_levels(levels: Levels) -> tuple[float, ...]:
    """The levels in the order given; they may be unsorted and repeat.

    Raises TypeError unless they are a list of numbers, ConfigError for an empty list and for a
    level outside (0, 1), whose place is the error's `index`.
    """
    # A set has no order, and iterating over a dict gives its keys.
    if is_single(levels) or isinstance(levels, str | bytes | AbstractSet | Mapping):
        raise TypeError(f"levels must be a list of numbers, got {type(levels).__name__}")
    checked = []
    for i, level in enumerate(levels):
        with about_item(i):
            if not _is_number(level):
                raise TypeError(f"levels[{i}] must be a number, got {type(level).__name__}")
            if not 0 < level < 1:
                raise ConfigError(
                    f"levels[{i}] must lie between 0 and 1, both excluded, got {level}"
                )
        checked.append(float(level))
    if not checked:
        raise ConfigError("levels is empty: give at least one level, or None for the trained ones")
    return tuple(checked)


def group_numbers(groups: Labels | None, n: int) -> NDArray[np.int64]:
    """Number the groups of n series in the order of their first label; for None each is its own.

    Raises TypeError unless `groups` is a list of labels, ConfigError for another number of labels
    and for a label that is NaN or NaT, which equals no other; `index` is the place of the label.
    """
    if groups is None:
        return np.arange(n, dtype=np.int64)
    # A set has no order, and iterating over a dict gives its keys.
    labels: Any = groups
    alone = not hasattr(labels, "__len__") or getattr(labels, "ndim", 1) == 0
    if alone or isinstance(labels, str | bytes | AbstractSet | Mapping):
        raise TypeError(f"groups must be a list of labels, got {type(labels).__name__}")
    if len(labels) != n:
        raise ConfigError(f"groups must hold one label a series: {len(labels)} for {n} series")
    numbers: dict[Any, int] = {}
    found = np.empty(n, dtype=np.int64)
    for i, label in enumerate(labels):
        with about_item(i):
            try:
                found[i] = numbers.setdefault(label, len(numbers))
            except TypeError:  # not hashable
                kind = type(label).__name__
                raise TypeError(
                    f"groups[{i}] must be a label such as str or int, got {kind}"
                ) from None
            itself = label == label  # noqa: PLR0124 (NaN and NaT are not)
            if isinstance(itself, bool | np.bool_) and not itself:
                raise ConfigError(f"groups[{i}] is NaN or NaT, equal to no other: give it a label")
    return found


def check_extrapolate(extrapolate: object) -> None:
    """Raises ConfigError unless it is "tails" or None."""
    if extrapolate is not None and extrapolate != "tails":
        raise ConfigError('extrapolate must be "tails" or None')


def _is_number(value: Any) -> bool:
    """Whether it is one number of Python or NumPy, or a decimal; a bool is none."""
    return isinstance(value, numbers.Real | Decimal) and not isinstance(value, bool | np.bool_)


def outside(levels: Sequence[float], trained: Sequence[float]) -> list[float]:
    """The levels below the lowest trained level or above the highest; none without trained ones."""
    if not trained:
        return []
    return [v for v in levels if not trained[0] - NEAR <= v <= trained[-1] + NEAR]


def outside_message(levels: Sequence[float], trained: Sequence[float]) -> str:
    """The warning about levels outside the trained ones."""
    names = ", ".join(f"{level:g}" for level in levels)
    return (
        f"levels {names} lie outside the trained ones, {trained[0]:g} to {trained[-1]:g}: their "
        "values are the outermost trained quantiles, so that an interval between them covers less "
        'than it says; extrapolate="tails" continues them'
    )

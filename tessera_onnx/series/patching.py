"""Turn series into the patches that a graph reads, and its output into quantiles: pure NumPy.

The recipe is that of Chronos-Bolt and Chronos-2 (amazon-science/chronos-forecasting,
chronos_bolt.py and chronos2/): scaling, patches aligned to the end of a series, a channel of
observed values, and the pooling of paths beyond the horizon of one pass. TinyTimeMixer reads a
window in place of patches, TiRex the values themselves (forms.py). Values in the units of a
series are float64, where upstream has float32: a constant series then stays exactly constant, and
small waves on a high level are not rounded away before they are scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Array = NDArray[Any]

CONSTANT = 1e-5  # the scale of a series that never changes
EPSILON = 1e-5  # of TinyTimeMixer: what is added to the variance of a window


class Patches(NamedTuple):
    """The inputs of the graph, and what scales its output back."""

    values: NDArray[np.float32]  # (n, patches, channels x patch_size), or (n, t)
    attention: NDArray[np.int64]  # (n, patches or t), 1 = at least one value is observed
    loc: NDArray[np.float64]  # (n, 1), the mean of each series
    scale: NDArray[np.float64]  # (n, 1), its standard deviation


def left_pad(series: Sequence[Array], multiple: int) -> Float:
    """Pad series with NaN on the left: (n, width) float64, width a multiple of `multiple`."""
    lengths = np.array([len(values) for values in series])
    width = -(-int(lengths.max()) // multiple) * multiple
    padded = np.full((len(series), width), np.nan)
    padded[np.arange(width) >= width - lengths[:, None]] = np.concatenate(series)
    return padded


def standardise(context: Array) -> tuple[Float, Float, Float]:
    """Mean and population standard deviation of (n, t), each (n, 1), and the values minus the mean.

    Only observed values count; a missing one has the deviation 0. A series without any has mean 0
    and scale 1; the scale of a constant series is 1e-5.

    The first observed value is subtracted before the mean, because sums on a high level are
    rounded. Deviations are divided by a power of two, because squares of tiny numbers are 0.
    """
    loc, scale, deviation = _moments(context)
    scale[scale == 0] = CONSTANT
    scale[np.isnan(context).all(axis=1)] = 1
    return loc, scale, deviation


def _moments(context: Array) -> tuple[Float, Float, Float]:
    """As `standardise`, with the scale 0 for a constant series and for one without any value."""
    observed = ~np.isnan(context)
    count = np.maximum(observed.sum(axis=1, keepdims=True), 1)
    values = np.where(observed, context, 0).astype(np.float64)
    first = np.take_along_axis(values, observed.argmax(axis=1)[:, None], axis=1)
    rest = np.where(observed, values - first, 0)
    middle = rest.sum(axis=1, keepdims=True) / count
    deviation = np.where(observed, rest - middle, 0)
    _, power = np.frexp(np.abs(deviation).max(axis=1, keepdims=True))
    squares = np.square(np.ldexp(deviation, -power)).sum(axis=1, keepdims=True)
    return first + middle, np.ldexp(np.sqrt(squares / count), power), deviation


def patches(context: Array, size: int, *, arcsinh: bool, time_scale: int) -> Patches:
    """Scale series (n, t), NaN = missing, and cut them into patches; t is a multiple of `size`.

    The channels of a patch follow one another: the time until the end of the series divided by
    `time_scale` (left out for -1), the values with 0 for missing ones, and 1 where observed.
    """
    n, width = context.shape
    observed = ~np.isnan(context)
    loc, scale, deviation = standardise(context)
    scaled = deviation / scale
    if arcsinh:
        scaled = np.arcsinh(scaled)
    shape = (n, width // size, size)
    channels = [np.where(observed, scaled, 0).reshape(shape), observed.reshape(shape)]
    if time_scale != -1:
        channels.insert(0, _times(np.arange(-width, 0), shape, time_scale))
    attention = np.asarray(observed.reshape(shape).any(axis=2), dtype=np.int64)
    return Patches(np.concatenate(channels, axis=2, dtype=np.float32), attention, loc, scale)


def window(context: Array) -> Patches:
    """Scale series (n, t) as TinyTimeMixer does: by the root of the variance plus EPSILON.

    Only observed values count for mean and variance. A missing value is 0 before the scaling, and
    so it is minus the mean in units of the scale, as upstream's values under past_observed_mask.
    """
    observed = ~np.isnan(context)
    loc, deviation_scale, deviation = _moments(context)
    scale = np.hypot(deviation_scale, np.sqrt(EPSILON))
    with np.errstate(over="ignore"):  # the caller looks for infinity in the forecast
        values = (np.where(observed, deviation, -loc) / scale).astype(np.float32)
    return Patches(values, observed.astype(np.int64), loc, scale)


def unscaled(context: Array) -> Patches:
    """Series (n, t) as they are, NaN = missing, for a graph that scales them itself."""
    nothing = np.zeros((len(context), 1))
    attention = (~np.isnan(context)).astype(np.int64)
    return Patches(context.astype(np.float32), attention, nothing, nothing + 1)


def future_patches(n: int, n_patches: int, size: int, time_scale: int) -> NDArray[np.float32]:
    """Patches of the steps to forecast: (n, n_patches, 3 x size), with times and no values."""
    shape = (n, n_patches, size)
    times = _times(np.arange(n_patches * size), shape, time_scale)
    nothing = np.zeros((n, n_patches, 2 * size))
    return np.concatenate([times, nothing], axis=2, dtype=np.float32)


def _times(steps: Array, shape: tuple[int, int, int], time_scale: int) -> Array:
    return np.broadcast_to((steps / time_scale).reshape(shape[1:]), shape)


def unscale(forecast: Array, patched: Patches, *, arcsinh: bool) -> Float:
    """Convert the graph's output (n, quantiles, steps) to the units of the series."""
    values = forecast.astype(np.float64)
    if arcsinh:
        values = np.sinh(values)
    with np.errstate(over="ignore"):  # the caller looks for infinity
        found: Float = values * patched.scale[:, None] + patched.loc[:, None]
    return found


def at_levels(
    values: Array, known: Sequence[float], levels: Sequence[float], *, tails: bool = False
) -> Float:
    """Interpolate quantiles (..., known) at the rising levels `known` to `levels`: (..., levels).

    Values that cross are sorted first. Between two levels the value is linear; outside of them the
    outermost values are repeated. Where values do not cross, this equals upstream. Where they do,
    upstream leaves trained levels unsorted and sorts other levels only after it has repeated the
    outermost, so that its value at a level depends on the other levels of the call.

    With `tails`, values outside the levels continue: the logarithm of the probability is linear in
    the value, as between the two outermost levels, which is an exponential tail.
    """
    grid = np.array([0.0, *known, 1.0])
    upper = np.clip(np.searchsorted(grid, levels, side="right"), 1, len(grid) - 1)
    weight = (np.asarray(levels) - grid[upper - 1]) / (grid[upper] - grid[upper - 1])
    risen = np.sort(values, axis=-1)
    padded = np.concatenate([risen[..., :1], risen, risen[..., -1:]], axis=-1, dtype=np.float64)
    low, high = padded[..., upper - 1], padded[..., upper]
    found: Float = low + weight * (high - low)
    if tails and len(known) > 1:
        asked = np.asarray(levels, dtype=np.float64)
        for out, edge, inner, near, far in (
            (asked < known[0], 0, 1, known[0], known[1]),
            (asked > known[-1], -1, -2, 1 - known[-1], 1 - known[-2]),
        ):
            rest = asked[out] if edge == 0 else 1 - asked[out]
            reach = np.log(near / rest) / np.log(far / near)
            outermost = risen[..., [edge]].astype(np.float64)
            found[..., out] = outermost + reach * (outermost - risen[..., [inner]])
    return found


def pool(samples: Array, levels: Sequence[float]) -> Float:
    """Quantiles of equally likely samples over axis 1: (n, k, steps) to (n, levels, steps)."""
    ordered = np.sort(samples, axis=1)  # np.quantile takes fifty times as long
    place = np.asarray(levels) * (samples.shape[1] - 1)
    lower = np.floor(place).astype(np.intp)
    low = ordered[:, lower].astype(np.float64)
    high = ordered[:, np.minimum(lower + 1, samples.shape[1] - 1)]
    found: Float = low + (place - lower)[:, None] * (high - low)
    return found


def pool_weighted(samples: Array, weights: Array, levels: Sequence[float]) -> Float:
    """The same for samples with weights (k,).

    A sample is the quantile at the sum of the weights up to its own; between samples the value is
    linear.
    """
    order = np.argsort(samples, axis=1)
    values = np.take_along_axis(samples, order, axis=1).astype(np.float64)
    reached = np.cumsum((weights / weights.sum())[order], axis=1)
    start, end = np.zeros_like(reached[:, :1]), np.ones_like(reached[:, :1])
    reached = np.concatenate([start, reached, end], axis=1)
    values = np.concatenate([values[:, :1], values, values[:, -1:]], axis=1)
    found = np.empty((samples.shape[0], len(levels), samples.shape[2]))
    for i, level in enumerate(levels):
        upper = (reached[:, :-1] <= level).sum(axis=1, keepdims=True)
        low, high = (np.take_along_axis(reached, at, axis=1) for at in (upper - 1, upper))
        below, above = (np.take_along_axis(values, at, axis=1) for at in (upper - 1, upper))
        weight = (level - low) / (high - low)
        found[:, i] = (below + weight * (above - below))[:, 0]
    return found


def masses(levels: Sequence[float]) -> NDArray[np.float64]:
    """The probability mass of each rising level: half way to its neighbours; the sum is 1."""
    edges = np.array([0.0, *levels, 1.0])
    widths = edges[2:] - edges[:-2]
    found: Array = widths / widths.sum()
    return found

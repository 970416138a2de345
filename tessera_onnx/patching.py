"""Series become patches for the graph, and what it says becomes quantiles: pure NumPy.

The recipe is that of Chronos-Bolt and Chronos-2 (amazon-science/chronos-forecasting,
chronos_bolt.py and chronos2/): scaling, patches aligned to the end of a series, the channel of
observed values, the roll-out past the horizon of one pass. Only the sums run in float64 where
upstream's run in float32, so that a constant series is exactly constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Array = NDArray[Any]

CONSTANT = 1e-5  # the scale of a series that never changes


class Patches(NamedTuple):
    """What the graph reads, and what turns its answer back."""

    values: Float  # (n, patches, channels x patch_size)
    attention: NDArray[np.int64]  # (n, patches), 1 = at least one value is observed
    loc: NDArray[np.float64]  # (n, 1)
    scale: NDArray[np.float64]  # (n, 1)


def left_pad(series: Sequence[Float], multiple: int) -> Float:
    """Ragged series as (n, width) float32, NaN before each; width is a multiple of `multiple`."""
    lengths = np.array([len(values) for values in series])
    width = -(-int(lengths.max()) // multiple) * multiple
    padded = np.full((len(series), width), np.nan, dtype=np.float32)
    padded[np.arange(width) >= width - lengths[:, None]] = np.concatenate(series)
    return padded


def location_and_scale(context: Float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and population standard deviation of the observed values of (n, t), each (n, 1).

    0 and 1 for a series with no observed value; the scale of a constant one is 1e-5.
    """
    observed = ~np.isnan(context)
    count = np.maximum(observed.sum(axis=1, keepdims=True), 1)
    values = np.where(observed, context, 0).astype(np.float64)
    loc = values.sum(axis=1, keepdims=True) / count
    deviation = np.where(observed, values - loc, 0)
    scale = np.sqrt(np.square(deviation).sum(axis=1, keepdims=True) / count)
    scale[scale == 0] = CONSTANT
    scale[~observed.any(axis=1)] = 1
    return loc, scale


def patches(context: Float, size: int, *, arcsinh: bool, time_scale: int) -> Patches:
    """Scaled patches of (n, t) float32, NaN = missing, t a multiple of `size`.

    The channels of a patch follow one another: the time up to the end of the series over
    `time_scale` (left out when that is -1), the values with 0 for missing ones, 1 where observed.
    """
    n, width = context.shape
    observed = ~np.isnan(context)
    loc, scale = location_and_scale(context)
    scaled = (context - loc) / scale
    if arcsinh:
        scaled = np.arcsinh(scaled)
    shape = (n, width // size, size)
    channels = [np.where(observed, scaled, 0).reshape(shape), observed.reshape(shape)]
    if time_scale != -1:
        channels.insert(0, _times(np.arange(-width, 0), shape, time_scale))
    attention = np.asarray(observed.reshape(shape).any(axis=2), dtype=np.int64)
    return Patches(np.concatenate(channels, axis=2, dtype=np.float32), attention, loc, scale)


def future_patches(n: int, n_patches: int, size: int, time_scale: int) -> Float:
    """Patches of the steps to forecast, (n, n_patches, 3 x size): the time, nothing observed."""
    shape = (n, n_patches, size)
    times = _times(np.arange(n_patches * size), shape, time_scale)
    nothing = np.zeros((n, n_patches, 2 * size))
    return np.concatenate([times, nothing], axis=2, dtype=np.float32)


def _times(steps: Array, shape: tuple[int, int, int], time_scale: int) -> Array:
    return np.broadcast_to((steps / time_scale).reshape(shape[1:]), shape)


def unscale(forecast: Float, patched: Patches, *, arcsinh: bool) -> Float:
    """The graph's (n, quantiles, steps) in the units of the series, float32."""
    values = forecast.astype(np.float64)
    if arcsinh:
        values = np.sinh(values)
    with np.errstate(over="ignore"):  # the caller looks for infinity
        return (values * patched.scale[:, None] + patched.loc[:, None]).astype(np.float32)


def at_levels(values: Float, known: Sequence[float], levels: Sequence[float]) -> Float:
    """Quantiles at `levels` from those at the rising levels `known`: (..., known) to (..., levels).

    As upstream: the outermost values are repeated for the levels 0 and 1, all are sorted, and
    between two levels the value is linear. Upstream does so only when a level is asked for that
    the model was not trained for, and else hands out values that may cross.
    """
    grid = np.array([0.0, *known, 1.0])
    upper = np.clip(np.searchsorted(grid, levels, side="right"), 1, len(grid) - 1)
    weight = (np.asarray(levels) - grid[upper - 1]) / (grid[upper] - grid[upper - 1])
    padded = np.concatenate([values[..., :1], values, values[..., -1:]], axis=-1, dtype=np.float64)
    padded.sort(axis=-1)
    low, high = padded[..., upper - 1], padded[..., upper]
    found: Array = low + weight * (high - low)
    return found.astype(np.float32)


def pool(samples: Float, levels: Sequence[float]) -> Float:
    """Quantiles over axis 1 of equally likely samples: (n, k, steps) to (n, levels, steps)."""
    found: Array = np.quantile(samples, levels, axis=1)
    return np.moveaxis(found, 0, 1).astype(np.float32)


def pool_weighted(samples: Float, weights: Array, levels: Sequence[float]) -> Float:
    """The same for samples of different weight, (k,).

    A sample stands at the sum of the weights up to its own, and values are linear in between.
    """
    order = np.argsort(samples, axis=1)
    values = np.take_along_axis(samples, order, axis=1).astype(np.float64)
    reached = np.cumsum((weights / weights.sum())[order], axis=1)
    start, end = np.zeros_like(reached[:, :1]), np.ones_like(reached[:, :1])
    reached = np.concatenate([start, reached, end], axis=1)
    values = np.concatenate([values[:, :1], values, values[:, -1:]], axis=1)
    found = np.empty((samples.shape[0], len(levels), samples.shape[2]), dtype=np.float32)
    for i, level in enumerate(levels):
        upper = (reached[:, :-1] <= level).sum(axis=1, keepdims=True)
        low, high = (np.take_along_axis(reached, at, axis=1) for at in (upper - 1, upper))
        below, above = (np.take_along_axis(values, at, axis=1) for at in (upper - 1, upper))
        weight = (level - low) / (high - low)
        found[:, i] = (below + weight * (above - below))[:, 0]
    return found


def masses(levels: Sequence[float]) -> NDArray[np.float64]:
    """The probability that each rising level stands for: half way to its neighbours, sum 1."""
    edges = np.array([0.0, *levels, 1.0])
    widths = edges[2:] - edges[:-2]
    found: Array = widths / widths.sum()
    return found

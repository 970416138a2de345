"""Generate synthetic time series to train a forecaster on: seasons, trends, walks, counts, gaps.

No real series is used. Each block has its own NumPy generator, so block i of a seed is the same in
any order and on any machine with the same NumPy version.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tessera_export.training import draws
from tessera_export.training.draws import Float64

Float32 = NDArray[np.float32]
Family = Callable[[np.random.Generator, int, int], Float64]

LENGTH = 1536
BLOCK = 256  # rows that share a family and a length
# Short rows hold a whole trend or a whole life in a few periods, as monthly records do.
SPANS = ((192, 0.2), (320, 0.15), (640, 0.15), (LENGTH, 0.5))


def block(seed: int, index: int) -> Float32:
    """Block `index` of a seed: (256, 1536) float32; short rows begin with NaN, gaps are NaN."""
    rng = np.random.default_rng([seed, index])
    spans, odds = zip(*SPANS, strict=True)
    length = int(rng.choice(spans, p=odds))
    families, weights = zip(*FAMILIES, strict=True)
    family = families[rng.choice(len(families), p=np.array(weights) / sum(weights))]
    values = _damage(rng, draws.unit(family(rng, BLOCK, length)))
    rows = np.full((BLOCK, LENGTH), np.nan, dtype=np.float32)
    rows[:, LENGTH - length :] = values
    return rows


def series(seed: int, count: int) -> Float32:
    """`count` series of a seed, (count, 1536) float32: the blocks from 0 on, cut to the count."""
    out = np.empty((count, LENGTH), dtype=np.float32)
    for start in range(0, count, BLOCK):
        out[start : start + BLOCK] = block(seed, start // BLOCK)[: count - start]
    return out


def structural(rng: np.random.Generator, n: int, length: int) -> Float64:
    """Trend, one or two seasons and noise, added or multiplied."""
    first, second = draws.periods(rng, n, length)
    season = draws.season(rng, n, length, first)
    other = draws.season(rng, n, length, np.maximum(second, 2.0)) * (second > 0)[:, None]
    weight = draws.uniform(rng, n, 0.1, 1.5)
    crossed = (rng.random(n) < 0.3)[:, None]
    season = np.where(crossed, season * (1 + 0.5 * weight * other), season + weight * other)
    changing = draws.sometimes(rng, n, 0.4) * rng.uniform(0, 0.5, (n, 1))
    season *= 1 + changing * draws.smooth(rng, n, length, draws.uniform(rng, n, 0.05, 1.0) * length)
    total = draws.unit(season) + draws.sometimes(rng, n, 0.75) * draws.log_uniform(
        rng, n, 0.05, 5
    ) * draws.trend(rng, n, length)
    total += draws.log_uniform(rng, n, 0.01, 2) * draws.noise(rng, n, length)
    return draws.perhaps_exp(rng, total, 0.45)


def daily(rng: np.random.Generator, n: int, length: int) -> Float64:
    """Days of a common shape whose size, level and shape change from day to day and at weekends."""
    period = rng.choice([24, 48, 96, 144, 288, 12], n, p=[0.7, 0.08, 0.1, 0.04, 0.03, 0.05])
    time = np.arange(length) + rng.integers(0, 7 * period)[:, None]
    day = time // period[:, None]
    work = draws.season(rng, n, length, period.astype(float))
    rest = draws.season(rng, n, length, period.astype(float))
    alike = draws.uniform(rng, n, 0.0, 1.0)
    rest = draws.uniform(rng, n, 0.2, 1.2) * (alike * work + (1 - alike) * rest)
    rest -= rng.uniform(-0.5, 1.5, (n, 1))
    free = np.where(rng.random(n) < 0.8, 5, 6)[:, None]
    weekend = (day % 7 >= free) & (rng.random(n) < 0.65)[:, None]
    weekly = draws.noise(rng, n, 7)[np.arange(n)[:, None], day % 7]
    days = int(day.max()) + 2
    pick = (np.arange(n)[:, None], day - day.min(axis=1, keepdims=True))
    size = draws.noise(rng, n, days)[pick]
    level = draws.noise(rng, n, days)[pick]
    values = np.where(weekend, rest, work)
    values *= 1 + draws.sometimes(rng, n, 0.7) * draws.log_uniform(rng, n, 0.03, 0.6) * size
    values += draws.sometimes(rng, n, 0.5) * draws.log_uniform(rng, n, 0.03, 1.0) * level
    values += draws.sometimes(rng, n, 0.4) * draws.log_uniform(rng, n, 0.05, 0.7) * weekly
    slow = draws.smooth(rng, n, length, draws.uniform(rng, n, 2, 20) * period[:, None])
    values += draws.sometimes(rng, n, 0.7) * draws.log_uniform(rng, n, 0.05, 3) * slow
    values += (
        draws.sometimes(rng, n, 0.3)
        * draws.log_uniform(rng, n, 0.05, 3)
        * draws.trend(rng, n, length)
    )
    values += draws.log_uniform(rng, n, 0.02, 1.0) * draws.noise(rng, n, length)
    return draws.perhaps_exp(rng, values, 0.4)


def processes(rng: np.random.Generator, n: int, length: int) -> Float64:
    """Gaussian processes with composed kernels, drawn through their spectral densities."""
    total = draws.stationary(rng, n, length)
    for _ in range(int(rng.integers(0, 3))):
        second = draws.stationary(rng, n, length)
        multiply = (rng.random(n) < 0.4)[:, None]
        size = draws.log_uniform(rng, n, 0.1, 2)
        total = np.where(multiply, total * (1 + size * second), total + size * second)
    total += (
        draws.sometimes(rng, n, 0.35)
        * draws.log_uniform(rng, n, 0.2, 5)
        * draws.trend(rng, n, length)
    )
    total += (
        draws.sometimes(rng, n, 0.7)
        * draws.log_uniform(rng, n, 0.01, 1)
        * rng.standard_normal((n, length))
    )
    return draws.perhaps_exp(rng, total, 0.2)


def walks(rng: np.random.Generator, n: int, length: int) -> Float64:
    """Random walks with clustered, heavy-tailed steps; some drift, some revert to a mean."""
    steps = draws.tails(rng, n, length)
    swing = draws.noise(rng, n, length, low=0.9)
    steps *= np.exp(draws.sometimes(rng, n, 0.6) * rng.uniform(0.1, 1.0, (n, 1)) * swing)
    steps += draws.sometimes(rng, n, 0.25) * rng.normal(0, 0.08, (n, 1))
    steps *= 1 - draws.sometimes(rng, n, 0.1) * (
        rng.random((n, length)) < rng.uniform(0.2, 0.9, (n, 1))
    )
    revert = np.where(rng.random(n) < 0.3, 1 - 1 / rng.uniform(10, 400, n), 1.0)
    total = draws.recursion(steps, revert)
    total += (
        draws.sometimes(rng, n, 0.25)
        * draws.log_uniform(rng, n, 0.1, 3)
        * rng.standard_normal((n, length))
    )
    return draws.perhaps_exp(rng, total, 0.3)


def autoregressions(rng: np.random.Generator, n: int, length: int) -> Float64:
    """ARMA with random stable roots, complex pairs among them, perhaps integrated once."""
    values = draws.tails(rng, n, length + 200)
    values[:, 1:] += rng.uniform(-0.9, 0.9, (n, 1)) * values[:, :-1]
    for _ in range(int(rng.integers(1, 3))):  # each pass multiplies in a pair of roots
        radius = 1 - draws.log_uniform(rng, n, 0.003, 0.8)[:, 0]
        angle = 2 * np.pi / np.exp(rng.uniform(np.log(3), np.log(150), n))
        complex_pair = rng.random(n) < 0.7
        other = rng.uniform(-0.9, 0.95, n)
        one = np.where(complex_pair, 2 * radius * np.cos(angle), radius + other)
        two = np.where(complex_pair, -(radius**2), -radius * other)
        values = draws.unit(draws.recursion(values, one, two))
    values = values[:, 200:]
    whole = draws.unit(np.cumsum(values, axis=1))
    values = np.where((rng.random(n) < 0.15)[:, None], whole, values)
    values += (
        draws.sometimes(rng, n, 0.2)
        * draws.log_uniform(rng, n, 0.2, 4)
        * draws.trend(rng, n, length)
    )
    return draws.perhaps_exp(rng, values, 0.25)


def smoothing(rng: np.random.Generator, n: int, length: int) -> Float64:
    """Innovations state space: level, damped slope and season that learn from their errors."""
    first, _ = draws.periods(rng, n, length)
    period = np.maximum(np.round(first), 1).astype(int)
    table = (
        draws.noise(rng, n, int(period.max()))
        * draws.sometimes(rng, n, 0.8)
        * draws.log_uniform(rng, n, 0.3, 20)
    )
    alpha = np.where(rng.random(n) < 0.2, 1.0, rng.beta(1, 2, n))
    beta = rng.beta(1, 20, n) * (rng.random(n) < 0.5)
    gamma = rng.beta(1, 8, n) * (rng.random(n) < 0.6)
    damping = rng.uniform(0.85, 1.0, n)
    level, slope = np.zeros(n), rng.normal(0, 0.05, n) * (rng.random(n) < 0.4)
    errors = draws.tails(rng, n, length)
    rows, out = np.arange(n), np.empty((n, length))
    for step in range(length):
        place = step % period
        error = errors[:, step]
        slope = damping * slope
        out[:, step] = level + slope + table[rows, place] + error
        level = level + slope + alpha * error
        slope = slope + beta * alpha * error
        table[rows, place] += gamma * error
    return draws.perhaps_exp(rng, out, 0.35)


def cycles(rng: np.random.Generator, n: int, length: int) -> Float64:
    """Skewed cycles of uneven length and height that touch a floor, as sunspot counts do."""
    period = np.minimum(draws.log_uniform(rng, n, 8, 250), length / 3)
    pace = np.exp(rng.uniform(0, 0.3, (n, 1)) * draws.smooth(rng, n, length, period))
    phase = np.cumsum(pace / period, axis=1) + rng.random((n, 1))
    number = phase.astype(int)
    heights = np.exp(rng.uniform(0, 0.5, (n, 1)) * draws.noise(rng, n, int(number.max()) + 1))
    height = heights[np.arange(n)[:, None], number]
    within = phase - number
    rise, fall = draws.log_uniform(rng, n, 0.7, 4), draws.log_uniform(rng, n, 0.7, 6)
    peak = (rise / (rise + fall)) ** rise * (fall / (rise + fall)) ** fall
    values = height * within**rise * (1 - within) ** fall / peak
    spread = np.where((rng.random(n) < 0.7)[:, None], np.sqrt(np.abs(values) + 0.003), 1.0)
    values += draws.log_uniform(rng, n, 0.01, 0.4) * spread * draws.noise(rng, n, length)
    floored: Float64 = np.where((rng.random(n) < 0.7)[:, None], np.maximum(values, 0), values)
    return floored


def counts(rng: np.random.Generator, n: int, length: int) -> Float64:
    """Counts: seasonal or drifting rates, overdispersed, often mostly zero."""
    first, second = draws.periods(rng, n, length)
    rate = (
        draws.log_uniform(rng, n, 0.3, 1.5)
        * draws.season(rng, n, length, first)
        * draws.sometimes(rng, n, 0.7)
    )
    rate += 0.5 * draws.season(rng, n, length, np.maximum(second, 2.0)) * (second > 0)[:, None]
    drift = draws.smooth(rng, n, length, draws.uniform(rng, n, 0.05, 1) * length)
    rate += draws.sometimes(rng, n, 0.6) * draws.log_uniform(rng, n, 0.1, 1) * drift
    rate = np.exp(np.clip(rate + np.log(draws.log_uniform(rng, n, 0.05, 100)), -8, 8))
    gamma_shape = draws.log_uniform(rng, n, 0.5, 50)
    rate *= np.where(
        draws.sometimes(rng, n, 0.5) > 0, rng.gamma(gamma_shape, 1 / gamma_shape, (n, length)), 1
    )
    values = rng.poisson(np.minimum(rate, 1e6)).astype(float)
    demand = rng.random((n, length)) < rng.uniform(0.05, 0.6, (n, 1))
    return np.where((rng.random(n) < 0.3)[:, None], values * demand, values)


def shapes(rng: np.random.Generator, n: int, length: int) -> Float64:
    """Nearly exact patterns: repeated tables, steps, regular pulses, ramps, constants."""
    first, _ = draws.periods(rng, n, length)
    period = np.maximum(np.round(first), 2)[:, None]
    time = np.arange(length) + rng.integers(0, 1000, (n, 1))
    within = time % period / period
    repeated = draws.season(rng, n, length, period[:, 0])
    edge = rng.uniform(0.05, 0.95, (n, 1))
    pulse = (within < edge).astype(float)
    ramp = np.where(within < edge, within / edge, (1 - within) / (1 - edge))
    steps = np.cumsum(
        rng.standard_normal((n, length))
        * (rng.random((n, length)) < draws.log_uniform(rng, n, 0.002, 0.03)),
        1,
    )
    single = (time % period < 1).astype(float)
    kind = rng.choice(6, (n, 1), p=[0.3, 0.15, 0.15, 0.2, 0.12, 0.08])
    values = np.choose(kind, [repeated, pulse, ramp, steps, single, np.zeros((n, length))])
    values += (
        draws.sometimes(rng, n, 0.4)
        * draws.log_uniform(rng, n, 0.1, 3)
        * draws.trend(rng, n, length)
    )
    return values + draws.sometimes(rng, n, 0.7) * draws.log_uniform(
        rng, n, 0.003, 0.3
    ) * draws.noise(rng, n, length)


FAMILIES: tuple[tuple[Family, float], ...] = (
    (structural, 0.24),
    (daily, 0.24),
    (processes, 0.12),
    (walks, 0.11),
    (autoregressions, 0.06),
    (smoothing, 0.10),
    (cycles, 0.05),
    (counts, 0.04),
    (shapes, 0.04),
)


def _damage(rng: np.random.Generator, values: Float64) -> Float64:
    """Level shifts, outliers, rounding, floors and gaps, each in a few of the rows."""
    n, length = values.shape
    shift = rng.normal(0, 1.5, (n, length)) * (rng.random((n, length)) < 1.5 / length)
    values = values + draws.sometimes(rng, n, 0.1) * np.cumsum(shift, axis=1)
    odd = rng.random((n, length)) < draws.log_uniform(rng, n, 0.0005, 0.02)
    values += draws.sometimes(rng, n, 0.08) * odd * rng.standard_t(3, (n, length)) * 3
    grain = draws.log_uniform(rng, n, 0.01, 0.5)
    coarse = np.round(values / grain) * grain
    values = np.where(rng.random((n, 1)) < 0.12, coarse, values)
    floor = np.quantile(values, 0.3, axis=1, keepdims=True) * rng.random((n, 1))
    values = np.where(rng.random((n, 1)) < 0.04, np.maximum(values, floor), values)
    lost = rng.random((n, length)) < draws.log_uniform(rng, n, 0.005, 0.3)
    gap = draws.smooth(rng, n, length, draws.log_uniform(rng, n, 3, 40)) > rng.uniform(
        1.2, 2.5, (n, 1)
    )
    lost = np.where(rng.random((n, 1)) < 0.5, lost, gap)
    return np.where(lost & (rng.random((n, 1)) < 0.08), np.nan, values)

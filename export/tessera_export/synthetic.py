"""Made-up time series to train a forecaster on: seasons, trends, walks, cycles, counts, gaps.

Every row is new and no real series is involved. All randomness comes from a NumPy generator per
block, so that block i of a seed is the same in any order and on any machine of one NumPy version.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]
Family = Callable[[np.random.Generator, int, int], Float64]

LENGTH = 1536
BLOCK = 256  # rows that share a family and a length
# Short rows hold a whole trend or a whole life in a few periods, as monthly records do.
SPANS = ((192, 0.2), (320, 0.15), (640, 0.15), (LENGTH, 0.5))
# (period, longer period or 0, weight): how things are sampled in the world.
CALENDAR = (
    (24.0, 168.0, 8.0),  # hours
    (24.0, 0.0, 3.0),
    (48.0, 336.0, 1.5),  # half-hours
    (96.0, 672.0, 1.5),  # quarters
    (144.0, 0.0, 0.7),  # ten minutes
    (288.0, 0.0, 0.5),  # five minutes
    (60.0, 0.0, 0.7),  # minutes
    (7.0, 365.25, 1.5),  # days
    (7.0, 30.44, 1.0),
    (7.0, 0.0, 2.5),
    (5.0, 0.0, 0.7),  # working days
    (365.25, 0.0, 0.5),
    (52.18, 0.0, 1.5),  # weeks
    (12.0, 0.0, 7.0),  # months
    (12.0, 132.0, 0.7),
    (4.0, 0.0, 2.5),  # quarters of a year
)
HARMONICS = 10


def block(seed: int, index: int) -> Float32:
    """Block `index` of a seed: (256, 1536) float32; short rows begin with NaN, gaps are NaN."""
    rng = np.random.default_rng([seed, index])
    spans, odds = zip(*SPANS, strict=True)
    length = int(rng.choice(spans, p=odds))
    families, weights = zip(*FAMILIES, strict=True)
    family = families[rng.choice(len(families), p=np.array(weights) / sum(weights))]
    values = _damage(rng, _unit(family(rng, BLOCK, length)))
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
    first, second = _periods(rng, n, length)
    season = _season(rng, n, length, first)
    other = _season(rng, n, length, np.maximum(second, 2.0)) * (second > 0)[:, None]
    weight = _between(rng, n, 0.1, 1.5)
    crossed = (rng.random(n) < 0.3)[:, None]
    season = np.where(crossed, season * (1 + 0.5 * weight * other), season + weight * other)
    changing = _sometimes(rng, n, 0.4) * rng.uniform(0, 0.5, (n, 1))
    season *= 1 + changing * _smooth(rng, n, length, _between(rng, n, 0.05, 1.0) * length)
    total = _unit(season) + _sometimes(rng, n, 0.75) * _log(rng, n, 0.05, 5) * _trend(
        rng, n, length
    )
    total += _log(rng, n, 0.01, 2) * _noise(rng, n, length)
    return _perhaps_exp(rng, total, 0.45)


def daily(rng: np.random.Generator, n: int, length: int) -> Float64:
    """Days of a common shape whose size, level and shape change from day to day and at weekends."""
    period = rng.choice([24, 48, 96, 144, 288, 12], n, p=[0.7, 0.08, 0.1, 0.04, 0.03, 0.05])
    time = np.arange(length) + rng.integers(0, 7 * period)[:, None]
    day = time // period[:, None]
    work = _season(rng, n, length, period.astype(float))
    rest = _season(rng, n, length, period.astype(float))
    alike = _between(rng, n, 0.0, 1.0)
    rest = _between(rng, n, 0.2, 1.2) * (alike * work + (1 - alike) * rest)
    rest -= rng.uniform(-0.5, 1.5, (n, 1))
    free = np.where(rng.random(n) < 0.8, 5, 6)[:, None]
    weekend = (day % 7 >= free) & (rng.random(n) < 0.65)[:, None]
    weekly = _table(rng, n, 7)[np.arange(n)[:, None], day % 7]
    days = int(day.max()) + 2
    pick = (np.arange(n)[:, None], day - day.min(axis=1, keepdims=True))
    size = _noise(rng, n, days)[pick]
    level = _noise(rng, n, days)[pick]
    values = np.where(weekend, rest, work)
    values *= 1 + _sometimes(rng, n, 0.7) * _log(rng, n, 0.03, 0.6) * size
    values += _sometimes(rng, n, 0.5) * _log(rng, n, 0.03, 1.0) * level
    values += _sometimes(rng, n, 0.4) * _log(rng, n, 0.05, 0.7) * weekly
    slow = _smooth(rng, n, length, _between(rng, n, 2, 20) * period[:, None])
    values += _sometimes(rng, n, 0.7) * _log(rng, n, 0.05, 3) * slow
    values += _sometimes(rng, n, 0.3) * _log(rng, n, 0.05, 3) * _trend(rng, n, length)
    values += _log(rng, n, 0.02, 1.0) * _noise(rng, n, length)
    return _perhaps_exp(rng, values, 0.4)


def processes(rng: np.random.Generator, n: int, length: int) -> Float64:
    """Gaussian processes with composed kernels, drawn through their spectral densities."""
    total = _kernel_draw(rng, n, length)
    for _ in range(int(rng.integers(0, 3))):
        second = _kernel_draw(rng, n, length)
        multiply = (rng.random(n) < 0.4)[:, None]
        size = _log(rng, n, 0.1, 2)
        total = np.where(multiply, total * (1 + size * second), total + size * second)
    total += _sometimes(rng, n, 0.35) * _log(rng, n, 0.2, 5) * _trend(rng, n, length)
    total += _sometimes(rng, n, 0.7) * _log(rng, n, 0.01, 1) * rng.standard_normal((n, length))
    return _perhaps_exp(rng, total, 0.2)


def walks(rng: np.random.Generator, n: int, length: int) -> Float64:
    """Random walks with clustered, heavy-tailed steps; some drift, some revert to a mean."""
    steps = _tails(rng, n, length)
    swing = _noise(rng, n, length, low=0.9)
    steps *= np.exp(_sometimes(rng, n, 0.6) * rng.uniform(0.1, 1.0, (n, 1)) * swing)
    steps += _sometimes(rng, n, 0.25) * rng.normal(0, 0.08, (n, 1))
    steps *= 1 - _sometimes(rng, n, 0.1) * (rng.random((n, length)) < rng.uniform(0.2, 0.9, (n, 1)))
    revert = np.where(rng.random(n) < 0.3, 1 - 1 / rng.uniform(10, 400, n), 1.0)
    total = _recursion(steps, revert)
    total += _sometimes(rng, n, 0.25) * _log(rng, n, 0.1, 3) * rng.standard_normal((n, length))
    return _perhaps_exp(rng, total, 0.3)


def autoregressions(rng: np.random.Generator, n: int, length: int) -> Float64:
    """ARMA with random stable roots, complex pairs among them, perhaps integrated once."""
    values = _tails(rng, n, length + 200)
    values[:, 1:] += rng.uniform(-0.9, 0.9, (n, 1)) * values[:, :-1]
    for _ in range(int(rng.integers(1, 3))):  # each pass multiplies in a pair of roots
        radius = 1 - _log(rng, n, 0.003, 0.8)[:, 0]
        angle = 2 * np.pi / np.exp(rng.uniform(np.log(3), np.log(150), n))
        complex_pair = rng.random(n) < 0.7
        other = rng.uniform(-0.9, 0.95, n)
        one = np.where(complex_pair, 2 * radius * np.cos(angle), radius + other)
        two = np.where(complex_pair, -(radius**2), -radius * other)
        values = _unit(_recursion(values, one, two))
    values = values[:, 200:]
    whole = _unit(np.cumsum(values, axis=1))
    values = np.where((rng.random(n) < 0.15)[:, None], whole, values)
    values += _sometimes(rng, n, 0.2) * _log(rng, n, 0.2, 4) * _trend(rng, n, length)
    return _perhaps_exp(rng, values, 0.25)


def smoothing(rng: np.random.Generator, n: int, length: int) -> Float64:
    """Innovations state space: level, damped slope and season that learn from their errors."""
    first, _ = _periods(rng, n, length)
    period = np.maximum(np.round(first), 1).astype(int)
    table = _table(rng, n, int(period.max())) * _sometimes(rng, n, 0.8) * _log(rng, n, 0.3, 20)
    alpha = np.where(rng.random(n) < 0.2, 1.0, rng.beta(1, 2, n))
    beta = rng.beta(1, 20, n) * (rng.random(n) < 0.5)
    gamma = rng.beta(1, 8, n) * (rng.random(n) < 0.6)
    damping = rng.uniform(0.85, 1.0, n)
    level, slope = np.zeros(n), rng.normal(0, 0.05, n) * (rng.random(n) < 0.4)
    errors = _tails(rng, n, length)
    rows, out = np.arange(n), np.empty((n, length))
    for step in range(length):
        place = step % period
        error = errors[:, step]
        slope = damping * slope
        out[:, step] = level + slope + table[rows, place] + error
        level = level + slope + alpha * error
        slope = slope + beta * alpha * error
        table[rows, place] += gamma * error
    return _perhaps_exp(rng, out, 0.35)


def cycles(rng: np.random.Generator, n: int, length: int) -> Float64:
    """Skewed cycles of uneven length and height that touch a floor, as sunspot counts do."""
    period = np.minimum(_log(rng, n, 8, 250), length / 3)
    pace = np.exp(rng.uniform(0, 0.3, (n, 1)) * _smooth(rng, n, length, period))
    phase = np.cumsum(pace / period, axis=1) + rng.random((n, 1))
    number = phase.astype(int)
    heights = np.exp(rng.uniform(0, 0.5, (n, 1)) * _noise(rng, n, int(number.max()) + 1))
    height = heights[np.arange(n)[:, None], number]
    within = phase - number
    rise, fall = _log(rng, n, 0.7, 4), _log(rng, n, 0.7, 6)
    peak = (rise / (rise + fall)) ** rise * (fall / (rise + fall)) ** fall
    values = height * within**rise * (1 - within) ** fall / peak
    spread = np.where((rng.random(n) < 0.7)[:, None], np.sqrt(np.abs(values) + 0.003), 1.0)
    values += _log(rng, n, 0.01, 0.4) * spread * _noise(rng, n, length)
    return np.where((rng.random(n) < 0.7)[:, None], np.maximum(values, 0), values)


def counts(rng: np.random.Generator, n: int, length: int) -> Float64:
    """Counts: seasonal or drifting rates, overdispersed, often mostly zero."""
    first, second = _periods(rng, n, length)
    rate = _log(rng, n, 0.3, 1.5) * _season(rng, n, length, first) * _sometimes(rng, n, 0.7)
    rate += 0.5 * _season(rng, n, length, np.maximum(second, 2.0)) * (second > 0)[:, None]
    drift = _smooth(rng, n, length, _between(rng, n, 0.05, 1) * length)
    rate += _sometimes(rng, n, 0.6) * _log(rng, n, 0.1, 1) * drift
    rate = np.exp(np.clip(rate + np.log(_log(rng, n, 0.05, 100)), -8, 8))
    gamma_shape = _log(rng, n, 0.5, 50)
    rate *= np.where(
        _sometimes(rng, n, 0.5) > 0, rng.gamma(gamma_shape, 1 / gamma_shape, (n, length)), 1
    )
    values = rng.poisson(np.minimum(rate, 1e6)).astype(float)
    demand = rng.random((n, length)) < rng.uniform(0.05, 0.6, (n, 1))
    return np.where((rng.random(n) < 0.3)[:, None], values * demand, values)


def shapes(rng: np.random.Generator, n: int, length: int) -> Float64:
    """Nearly exact patterns: repeated tables, steps, regular pulses, ramps, constants."""
    first, _ = _periods(rng, n, length)
    period = np.maximum(np.round(first), 2)[:, None]
    time = np.arange(length) + rng.integers(0, 1000, (n, 1))
    within = time % period / period
    repeated = _season(rng, n, length, period[:, 0])
    edge = rng.uniform(0.05, 0.95, (n, 1))
    pulse = (within < edge).astype(float)
    ramp = np.where(within < edge, within / edge, (1 - within) / (1 - edge))
    steps = np.cumsum(
        rng.standard_normal((n, length)) * (rng.random((n, length)) < _log(rng, n, 0.002, 0.03)), 1
    )
    single = (time % period < 1).astype(float)
    kind = rng.choice(6, (n, 1), p=[0.3, 0.15, 0.15, 0.2, 0.12, 0.08])
    values = np.choose(kind, [repeated, pulse, ramp, steps, single, np.zeros((n, length))])
    values += _sometimes(rng, n, 0.4) * _log(rng, n, 0.1, 3) * _trend(rng, n, length)
    return values + _sometimes(rng, n, 0.7) * _log(rng, n, 0.003, 0.3) * _noise(rng, n, length)


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
    values = values + _sometimes(rng, n, 0.1) * np.cumsum(shift, axis=1)
    odd = rng.random((n, length)) < _log(rng, n, 0.0005, 0.02)
    values += _sometimes(rng, n, 0.08) * odd * rng.standard_t(3, (n, length)) * 3
    grain = _log(rng, n, 0.01, 0.5)
    coarse = np.round(values / grain) * grain
    values = np.where(rng.random((n, 1)) < 0.12, coarse, values)
    floor = np.quantile(values, 0.3, axis=1, keepdims=True) * rng.random((n, 1))
    values = np.where(rng.random((n, 1)) < 0.04, np.maximum(values, floor), values)
    lost = rng.random((n, length)) < _log(rng, n, 0.005, 0.3)
    gap = _smooth(rng, n, length, _log(rng, n, 3, 40)) > rng.uniform(1.2, 2.5, (n, 1))
    lost = np.where(rng.random((n, 1)) < 0.5, lost, gap)
    return np.where(lost & (rng.random((n, 1)) < 0.08), np.nan, values)


def _periods(rng: np.random.Generator, n: int, length: int) -> tuple[Float64, Float64]:
    """A period per row and a longer one, 0 for none; neither above a third of the length."""
    first, second, weight = (np.array(column) for column in zip(*CALENDAR, strict=True))
    weight = np.where(first <= length / 3, weight, 0)
    chosen = rng.choice(len(CALENDAR), n, p=weight / weight.sum())
    one = np.where(
        rng.random(n) < 0.15, _log(rng, n, 2.5, min(400, length / 3))[:, 0], first[chosen]
    )
    two = np.where(second[chosen] <= length / 2, second[chosen], 0)
    return one, np.where(one == first[chosen], two, 0)


def _season(rng: np.random.Generator, n: int, length: int, period: Float64) -> Float64:
    """A periodic row per period, of mean 0 and deviation 1: smooth, peaked, cut, square or free."""
    time = np.arange(length) + rng.integers(0, 2000, (n, 1))
    turn = np.exp(2j * np.pi * (time / period[:, None]))
    decay = rng.uniform(0.3, 2.5, (n, 1))
    values, power = np.zeros((n, length)), np.ones((n, length), dtype=complex)
    for order in range(1, HARMONICS + 1):
        power = power * turn
        size = rng.standard_normal((2, n, 1)) * order**-decay * (order <= period[:, None] / 2)
        values += size[0] * power.real + size[1] * power.imag
    values = _unit(values)
    kind = rng.choice(5, n, p=[0.4, 0.17, 0.15, 0.08, 0.2])
    for which, change in enumerate((_peaked, _cut, _square), start=1):
        rows = kind == which
        values[rows] = change(rng, values[rows])
    rows = np.flatnonzero((kind == 4) & (period <= 400))
    whole = np.maximum(np.round(period[rows]), 2).astype(int)
    if len(rows):
        table = _table(rng, len(rows), int(whole.max()))
        values[rows] = table[np.arange(len(rows))[:, None], time[rows] % whole[:, None]]
    return _unit(values)


def _peaked(rng: np.random.Generator, values: Float64) -> Float64:
    return np.exp(rng.uniform(0.5, 2, (len(values), 1)) * values)


def _cut(rng: np.random.Generator, values: Float64) -> Float64:
    return np.maximum(values, rng.uniform(-1, 0.8, (len(values), 1)))


def _square(rng: np.random.Generator, values: Float64) -> Float64:
    return np.tanh(rng.uniform(2, 8, (len(values), 1)) * values)


def _table(rng: np.random.Generator, n: int, size: int) -> Float64:
    """Free values for the steps of a period, more or less smooth from step to step."""
    return _noise(rng, n, size)


def _trend(rng: np.random.Generator, n: int, length: int) -> Float64:
    """Lines, bent lines, growth that saturates, and smooth wandering; deviation 1."""
    time = np.linspace(0, 1, length)
    sign = rng.choice([-1.0, 1.0], (n, 1), p=[0.35, 0.65])
    bend = np.maximum(time - rng.uniform(0.2, 0.9, (n, 1)), 0) * rng.normal(0, 2, (n, 1))
    grown = 1 / (1 + np.exp(-_log(rng, n, 4, 20) * (time - rng.uniform(0.1, 0.9, (n, 1)))))
    wander = _smooth(rng, n, length, _between(rng, n, 0.1, 0.8) * length)
    kind = rng.choice(5, (n, 1), p=[0.35, 0.2, 0.1, 0.2, 0.15])
    power = sign * time ** _log(rng, n, 0.5, 2)
    line = np.broadcast_to(sign * time, (n, length))
    return _unit(np.choose(kind, [line, sign * time + bend, sign * grown, wander, power]))


def _noise(rng: np.random.Generator, n: int, length: int, low: float = 0.0) -> Float64:
    """White or first-order noise of deviation about 1, some of it with heavy tails."""
    memory = np.where(rng.random(n) < 0.6, rng.uniform(low, 0.99, n), low)
    start = min(200, 2 * length)
    steps = _tails(rng, n, length + start) * np.sqrt(1 - memory**2)[:, None]
    return _recursion(steps, memory)[:, start:]


def _tails(rng: np.random.Generator, n: int, length: int) -> Float64:
    """Independent values of deviation about 1, a third of the rows with Student's tails."""
    values = rng.standard_normal((n, length))
    rows = rng.random(n) < 0.3
    freedom = rng.uniform(3, 8, (int(rows.sum()), 1))
    spread = np.sqrt(rng.chisquare(freedom, (len(freedom), length)) / (freedom - 2))
    values[rows] /= np.maximum(spread, 0.1)
    return values


def _recursion(steps: Float64, one: Float64, two: Float64 | None = None) -> Float64:
    """y[t] = one y[t-1] + two y[t-2] + steps[t], along the last axis."""
    out = np.empty(steps.shape[::-1])
    last, before = np.zeros(len(steps)), np.zeros(len(steps))
    for place, step in enumerate(np.ascontiguousarray(steps.T)):
        value = one * last + step if two is None else one * last + two * before + step
        out[place] = value
        last, before = value, last
    return np.ascontiguousarray(out.T)


def _kernel_draw(rng: np.random.Generator, n: int, length: int) -> Float64:
    """One stationary draw per row: smooth, rough (power law), or periodic with loose phase."""
    frequency = np.fft.rfftfreq(2 * length)
    power = np.maximum(frequency, 0.5 / length) ** -rng.uniform(0.3, 2, (n, 1))
    scale = _log(rng, n, 3, length)
    smooth = np.exp(-2 * (np.pi * frequency * scale) ** 2 / 2)
    matern = (1 + (frequency * scale * 2) ** 2) ** -rng.uniform(0.5, 1.5, (n, 1))
    first, _ = _periods(rng, n, length)
    loose = 1 / _log(rng, n, length / 8, 8 * length)
    decay = rng.uniform(0.5, 2, (n, 1))
    lines = np.zeros((n, len(frequency)))
    for order in range(1, 7):
        place = order / first[:, None]
        size = rng.standard_normal((n, 1)) * order**-decay * (place <= 0.5)
        lines += size * np.exp(-(((frequency - place) / loose) ** 2) / 2)
    kind = rng.choice(4, (n, 1), p=[0.2, 0.2, 0.2, 0.4])
    return _coloured(rng, length, np.choose(kind, [power, smooth, matern, lines]))


def _smooth(rng: np.random.Generator, n: int, length: int, scale: Float64) -> Float64:
    """A smooth curve per row, deviation about 1, that changes over `scale` (n, 1) steps."""
    frequency = np.fft.rfftfreq(2 * length)
    return _coloured(rng, length, np.exp(-((np.pi * frequency * scale) ** 2)))[:n]


def _coloured(rng: np.random.Generator, length: int, amplitude: Float64) -> Float64:
    """Gaussian rows with that amplitude at the frequencies of twice the length (n, length + 1)."""
    phase = rng.standard_normal((2, *amplitude.shape))
    drawn = np.fft.irfft((phase[0] + 1j * phase[1]) * amplitude, axis=1)[:, :length]
    power = np.sqrt((amplitude**2).sum(axis=1, keepdims=True))
    scaled: Float64 = drawn * (length / np.maximum(power, 1e-12))
    return scaled


def _perhaps_exp(rng: np.random.Generator, values: Float64, share: float) -> Float64:
    """The exponential of a share of the rows: seasons and noise then grow with the level."""
    grown = np.exp(_log(rng, len(values), 0.05, 1.2) * np.clip(_unit(values), -6, 6))
    return np.where((rng.random(len(values)) < share)[:, None], grown, values)


def _unit(values: Float64) -> Float64:
    """Rows with mean 0 and deviation 1; a constant row becomes 0."""
    centred = values - values.mean(axis=1, keepdims=True)
    scaled: Float64 = centred / np.maximum(centred.std(axis=1, keepdims=True), 1e-9)
    return scaled


def _log(rng: np.random.Generator, n: int, low: float, high: float) -> Float64:
    """Log-uniform (n, 1)."""
    return np.exp(rng.uniform(np.log(low), np.log(high), (n, 1)))


def _between(rng: np.random.Generator, n: int, low: float, high: float) -> Float64:
    """Uniform (n, 1)."""
    return rng.uniform(low, high, (n, 1))


def _sometimes(rng: np.random.Generator, n: int, share: float) -> Float64:
    """1 in a share of the rows, else 0: (n, 1)."""
    return (rng.random((n, 1)) < share).astype(float)

"""Draw the random parts of synthetic time series, as arrays (n, length) with one row a series."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

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


def periods(rng: np.random.Generator, n: int, length: int) -> tuple[Float64, Float64]:
    """A period per row and a longer one, 0 for none; neither above a third of the length."""
    first, second, weight = (np.array(column) for column in zip(*CALENDAR, strict=True))
    weight = np.where(first <= length / 3, weight, 0)
    chosen = rng.choice(len(CALENDAR), n, p=weight / weight.sum())
    one = np.where(
        rng.random(n) < 0.15, log_uniform(rng, n, 2.5, min(400, length / 3))[:, 0], first[chosen]
    )
    two = np.where(second[chosen] <= length / 2, second[chosen], 0)
    return one, np.where(one == first[chosen], two, 0)


def season(rng: np.random.Generator, n: int, length: int, period: Float64) -> Float64:
    """A periodic row per period, of mean 0 and deviation 1: smooth, peaked, cut, square or free."""
    time = np.arange(length) + rng.integers(0, 2000, (n, 1))
    turn = np.exp(2j * np.pi * (time / period[:, None]))
    decay = rng.uniform(0.3, 2.5, (n, 1))
    values, power = np.zeros((n, length)), np.ones((n, length), dtype=complex)
    for order in range(1, HARMONICS + 1):
        power = power * turn
        size = rng.standard_normal((2, n, 1)) * order**-decay * (order <= period[:, None] / 2)
        values += size[0] * power.real + size[1] * power.imag
    values = unit(values)
    kind = rng.choice(5, n, p=[0.4, 0.17, 0.15, 0.08, 0.2])
    for which, change in enumerate((_peaked, _cut, _square), start=1):
        rows = kind == which
        values[rows] = change(rng, values[rows])
    rows = np.flatnonzero((kind == 4) & (period <= 400))
    whole = np.maximum(np.round(period[rows]), 2).astype(int)
    if len(rows):
        table = noise(rng, len(rows), int(whole.max()))
        values[rows] = table[np.arange(len(rows))[:, None], time[rows] % whole[:, None]]
    return unit(values)


def _peaked(rng: np.random.Generator, values: Float64) -> Float64:
    return np.exp(rng.uniform(0.5, 2, (len(values), 1)) * values)


def _cut(rng: np.random.Generator, values: Float64) -> Float64:
    return np.maximum(values, rng.uniform(-1, 0.8, (len(values), 1)))


def _square(rng: np.random.Generator, values: Float64) -> Float64:
    return np.tanh(rng.uniform(2, 8, (len(values), 1)) * values)


def trend(rng: np.random.Generator, n: int, length: int) -> Float64:
    """Lines, bent lines, growth that saturates, and smooth wandering; deviation 1."""
    time = np.linspace(0, 1, length)
    sign = rng.choice([-1.0, 1.0], (n, 1), p=[0.35, 0.65])
    bend = np.maximum(time - rng.uniform(0.2, 0.9, (n, 1)), 0) * rng.normal(0, 2, (n, 1))
    grown = 1 / (1 + np.exp(-log_uniform(rng, n, 4, 20) * (time - rng.uniform(0.1, 0.9, (n, 1)))))
    wander = smooth(rng, n, length, uniform(rng, n, 0.1, 0.8) * length)
    kind = rng.choice(5, (n, 1), p=[0.35, 0.2, 0.1, 0.2, 0.15])
    power = sign * time ** log_uniform(rng, n, 0.5, 2)
    line = np.broadcast_to(sign * time, (n, length))
    return unit(np.choose(kind, [line, sign * time + bend, sign * grown, wander, power]))


def noise(rng: np.random.Generator, n: int, length: int, low: float = 0.0) -> Float64:
    """White or first-order noise of deviation about 1, some of it with heavy tails."""
    memory = np.where(rng.random(n) < 0.6, rng.uniform(low, 0.99, n), low)
    start = min(200, 2 * length)
    steps = tails(rng, n, length + start) * np.sqrt(1 - memory**2)[:, None]
    return recursion(steps, memory)[:, start:]


def tails(rng: np.random.Generator, n: int, length: int) -> Float64:
    """Independent values of deviation about 1, a third of the rows with Student's tails."""
    values = rng.standard_normal((n, length))
    rows = rng.random(n) < 0.3
    freedom = rng.uniform(3, 8, (int(rows.sum()), 1))
    spread = np.sqrt(rng.chisquare(freedom, (len(freedom), length)) / (freedom - 2))
    values[rows] /= np.maximum(spread, 0.1)
    return values


def recursion(steps: Float64, one: Float64, two: Float64 | None = None) -> Float64:
    """y[t] = one y[t-1] + two y[t-2] + steps[t], along the last axis."""
    out = np.empty(steps.shape[::-1])
    last, before = np.zeros(len(steps)), np.zeros(len(steps))
    for place, step in enumerate(np.ascontiguousarray(steps.T)):
        value = one * last + step if two is None else one * last + two * before + step
        out[place] = value
        last, before = value, last
    return np.ascontiguousarray(out.T)


def stationary(rng: np.random.Generator, n: int, length: int) -> Float64:
    """One stationary draw per row: smooth, rough (power law), or periodic with loose phase."""
    frequency = np.fft.rfftfreq(2 * length)
    power = np.maximum(frequency, 0.5 / length) ** -rng.uniform(0.3, 2, (n, 1))
    scale = log_uniform(rng, n, 3, length)
    smooth = np.exp(-2 * (np.pi * frequency * scale) ** 2 / 2)
    matern = (1 + (frequency * scale * 2) ** 2) ** -rng.uniform(0.5, 1.5, (n, 1))
    first, _ = periods(rng, n, length)
    loose = 1 / log_uniform(rng, n, length / 8, 8 * length)
    decay = rng.uniform(0.5, 2, (n, 1))
    lines = np.zeros((n, len(frequency)))
    for order in range(1, 7):
        place = order / first[:, None]
        size = rng.standard_normal((n, 1)) * order**-decay * (place <= 0.5)
        lines += size * np.exp(-(((frequency - place) / loose) ** 2) / 2)
    kind = rng.choice(4, (n, 1), p=[0.2, 0.2, 0.2, 0.4])
    return _coloured(rng, length, np.choose(kind, [power, smooth, matern, lines]))


def smooth(rng: np.random.Generator, n: int, length: int, scale: Float64) -> Float64:
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


def perhaps_exp(rng: np.random.Generator, values: Float64, share: float) -> Float64:
    """The exponential of a share of the rows: seasons and noise then grow with the level."""
    grown = np.exp(log_uniform(rng, len(values), 0.05, 1.2) * np.clip(unit(values), -6, 6))
    return np.where((rng.random(len(values)) < share)[:, None], grown, values)


def unit(values: Float64) -> Float64:
    """Rows with mean 0 and deviation 1; a constant row becomes 0."""
    centred = values - values.mean(axis=1, keepdims=True)
    scaled: Float64 = centred / np.maximum(centred.std(axis=1, keepdims=True), 1e-9)
    return scaled


def log_uniform(rng: np.random.Generator, n: int, low: float, high: float) -> Float64:
    """Log-uniform (n, 1)."""
    return np.exp(rng.uniform(np.log(low), np.log(high), (n, 1)))


def uniform(rng: np.random.Generator, n: int, low: float, high: float) -> Float64:
    """Uniform (n, 1)."""
    return rng.uniform(low, high, (n, 1))


def sometimes(rng: np.random.Generator, n: int, share: float) -> Float64:
    """1 in a share of the rows, else 0: (n, 1)."""
    return (rng.random((n, 1)) < share).astype(float)

"""Measure how far a graph's results are from torch's, and raise where a limit is missed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tessera_export.errors import ExportError
from tessera_onnx.models.spec import Parity, Precision

Array = NDArray[Any]
Metric = Literal[
    "max_abs", "max_relative", "min_cosine", "min_text_cosine", "mean_cosine",
    "max_of_range", "rank_correlation",
]  # fmt: skip
Shape = Literal["pooled", "tokens", "sparse", "scores"]

# The README lists these limits under "Parity".
LIMITS: dict[tuple[Precision, Shape], dict[Metric, float]] = {
    ("fp32", "pooled"): {"max_abs": 1e-5},
    ("fp32", "tokens"): {"max_relative": 1e-4},
    ("fp32", "sparse"): {"max_relative": 1e-4},
    ("fp32", "scores"): {"max_abs": 1e-4},
    ("fp16", "pooled"): {"min_cosine": 0.9999},
    ("fp16", "tokens"): {"min_cosine": 0.9999},
    ("fp16", "sparse"): {"min_cosine": 0.9999},
    ("fp16", "scores"): {"max_of_range": 0.01, "rank_correlation": 0.999},
    ("int8", "pooled"): {"min_cosine": 0.95, "mean_cosine": 0.98},
    ("int8", "tokens"): {"min_text_cosine": 0.95, "mean_cosine": 0.97},
    ("int8", "sparse"): {"min_cosine": 0.95, "mean_cosine": 0.98},
    ("int8", "scores"): {"max_of_range": 0.2, "rank_correlation": 0.95},
    ("int4", "pooled"): {"min_cosine": 0.75, "mean_cosine": 0.9},
    ("int4", "tokens"): {"min_text_cosine": 0.75, "mean_cosine": 0.9},
    ("int4", "sparse"): {"min_cosine": 0.75, "mean_cosine": 0.9},
    ("int4", "scores"): {"max_of_range": 0.4, "rank_correlation": 0.9},
}
BATCHES = (1, 7, 2, 5, 3)  # sizes that were not traced, over texts in mixed order


def batches(count: int, sizes: Sequence[int] = BATCHES) -> Iterator[list[int]]:
    """All indices in a fixed mixed order, in batches of changing size: they pad each other."""
    order = np.random.default_rng(0).permutation(count).tolist()
    start, number = 0, 0
    while start < count:
        size = sizes[number % len(sizes)]
        yield order[start : start + size]
        start, number = start + size, number + 1


def figure(precision: Precision, output: str, metric: Metric, value: float, limit: float) -> Parity:
    """The row of the report. Raises ExportError when the limit is missed."""
    if not is_met(metric, value, limit):
        sign = "at least" if _grows(metric) else "at most"
        hint = "; leave int4 out, small models lose too much in it" if precision == "int4" else ""
        raise ExportError(
            f"output {output!r} in {precision} has {metric} {value:.6g} against torch, "
            f"it must be {sign} {limit:g}: nothing was written{hint}"
        )
    return Parity(precision, output, metric, rounded(metric, value), limit)


def is_met(metric: Metric, value: float, limit: float) -> bool:
    """Whether a figure keeps its limit; NaN keeps none."""
    return value >= limit if _grows(metric) else value <= limit


def measure(metric: Metric, pairs: Sequence[tuple[Array, Array]]) -> float:
    """`max_relative` is the largest difference over the vector's largest value (its scale), where
    a unit vector's scale is 1: a weight near 0 would otherwise divide rounding by almost nothing.
    `min_text_cosine` is the least mean over the rows of a text: what its MaxSim rests on.
    `max_of_range` is the largest difference of scores (n, 1) over the range of the true ones, and
    `rank_correlation` is Spearman's, of one array of scores.
    """
    if metric in ("max_of_range", "rank_correlation"):
        ((ours, truth),) = pairs
        if metric == "rank_correlation":
            return float(np.corrcoef(_ranks(ours[:, 0]), _ranks(truth[:, 0]))[0, 1])
        return float(np.abs(ours - truth).max() / max(np.ptp(truth), 1e-12))
    if metric == "max_abs":
        return _worst(np.abs(ours - truth) for ours, truth in pairs)
    if metric == "max_relative":
        return _worst(np.abs(ours - truth).max(axis=-1) / _scale(truth) for ours, truth in pairs)
    cosines = [_cosine(ours, truth) for ours, truth in pairs]
    if metric == "min_text_cosine":
        return float(np.min([rows.mean() for rows in cosines]))
    rows = np.concatenate(cosines)
    return float(rows.min() if metric == "min_cosine" else rows.mean())


def _grows(metric: Metric) -> bool:
    """Whether more of it is better."""
    return metric.endswith(("cosine", "correlation"))


def _ranks(scores: Array) -> Array:
    """The place of each score from 0, the mean place of those that are equal."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts + 1) / 2)[inverse])


def _worst(differences: Iterable[Array]) -> float:
    """The largest of all, NaN where there is one: max() would pass over it."""
    return float(np.max([values.max() for values in differences]))


def _scale(rows: Array) -> Array:
    norms = np.linalg.norm(rows, axis=-1)
    peaks = np.abs(rows).max(axis=-1)
    return np.where(np.abs(norms - 1) < 1e-6, 1.0, np.maximum(peaks, 1e-6))


def _cosine(ours: Array, truth: Array) -> Array:
    a, b = ours.astype(np.float64), truth.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    both_zero = ~a.any(axis=-1) & ~b.any(axis=-1)  # an empty sparse vector is an answer
    return np.where(both_zero, 1.0, (a * b).sum(axis=-1) / np.maximum(norms, 1e-30))


def rounded(metric: Metric, value: float) -> float:
    """Enough digits to compare, few enough to be the same on most machines."""
    return round(value, 6) if _grows(metric) else float(f"{value:.2g}")

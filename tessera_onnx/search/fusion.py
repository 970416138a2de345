"""Merge the rankings of several models, such as a dense and a sparse one, into one ranking."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import checks
from tessera_onnx.errors import ConfigError, about_item, shown
from tessera_onnx.results import Ranked

FusionMethod = Literal["rrf", "dbsf", "relative"]
Scores = NDArray[np.float64]


def fuse(
    rankings: Iterable[Iterable[tuple[int, float]]],
    method: FusionMethod = "rrf",
    k: int = 60,
) -> list[Ranked]:
    """Merge rankings of the same documents into one, best first.

    A document's new score is the sum of what each ranking gives it; a ranking that lacks the
    document gives 0. Documents of equal scores keep the order in which the rankings first name
    them. A ranking lists (index, score), best first, as `rank` returns it; ids are kept.

    Args:
        rankings: one ranking a model. An empty one changes nothing; no rankings give [].
        method: what a ranking gives a document.
            "rrf" (reciprocal rank fusion; Cormack, Clarke, Büttcher, SIGIR 2009): 1 / (k + rank),
            the rank counted from 1. Scores are not read.
            "dbsf" (distribution-based score fusion, as Qdrant 1.11 computes it):
            (score - low) / (high - low), low and high being 3 standard deviations (of a sample,
            n - 1) below and above the mean of the ranking's scores; 0.5 if all scores are equal.
            "relative" (relative score fusion, as Weaviate computes it with equal weights of 1):
            (score - least) / (greatest - least) of the ranking's scores; 1 if all are equal.
        k: of "rrf" only, 0 or more: the greater, the less the first ranks count.

    Raises:
        TypeError: a ranking is no list of (index, score), or `k` is no int. `error.index` is the
            number of the ranking.
        ConfigError: `method` or `k` has another value; a ranking names a document twice, has a
            negative index or, unless "rrf", a score that is not finite; two rankings give one
            document two ids.
    """
    if method not in get_args(FusionMethod):
        raise ConfigError(f"method must be rrf, dbsf or relative, got {shown(method)}")
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise TypeError(f"k must be int, got {type(k).__name__}")
    if k < 0:
        raise ConfigError(f"k must be 0 or more, got {k}")
    checks.check_items(rankings, "rankings", "rankings")
    parts: dict[int, list[float]] = {}
    ids: dict[int, str] = {}
    for number, ranking in enumerate(rankings):
        with about_item(number):
            rows = _checked(ranking, f"rankings[{number}]")
            _join_ids(ids, rows, f"rankings[{number}]")
            scores = np.array([row.score for row in rows], dtype=np.float64)
            if method != "rrf" and not np.isfinite(scores).all():
                raise ConfigError(
                    f'rankings[{number}] has a score that is not finite, which only "rrf" takes'
                )
        for row, share in zip(rows, _shares(scores, method, int(k)).tolist(), strict=True):
            parts.setdefault(row.index, []).append(share)
    # fsum: the sum, and so a tie, does not depend on the order of the rankings.
    sums = {index: math.fsum(shares) for index, shares in parts.items()}
    order = sorted(sums, key=lambda index: -sums[index])
    return [Ranked(index, sums[index], ids.get(index)) for index in order]


def _shares(scores: Scores, method: FusionMethod, k: int) -> Scores:
    """What one ranking gives to each of its documents."""
    if method == "rrf":
        return 1 / (k + np.arange(1, len(scores) + 1, dtype=np.float64))
    if not len(scores):
        return scores
    # A power of two makes the numbers small without rounding them, so no square overflows.
    scores = np.ldexp(scores, -int(np.frexp(np.abs(scores).max())[1]))
    above = scores - scores.min()
    greatest = above.max()
    if greatest == 0:
        return np.full(len(scores), 0.5 if method == "dbsf" else 1.0)
    above /= greatest
    if method == "relative":
        return np.asarray(above)
    return np.asarray((above - above.mean()) / (6 * above.std(ddof=1)) + 0.5)


def _checked(ranking: Any, name: str) -> list[Ranked]:
    """The rows of a ranking. Messages begin with `name`."""
    if isinstance(ranking, Ranked):
        raise TypeError(f"{name} is one row of a ranking: put a single ranking into a list")
    checks.check_items(ranking, name, "(index, score)")
    rows = []
    for row in ranking:
        if not isinstance(row, tuple | list) or len(row) != 2:
            raise TypeError(f"{name} must hold pairs (index, score), got {type(row).__name__}")
        index, score = row
        if isinstance(index, bool) or not isinstance(index, int | np.integer):
            raise TypeError(f"{name}: an index must be int, got {type(index).__name__}")
        if isinstance(score, bool) or not isinstance(score, int | float | np.number):
            raise TypeError(f"{name}: a score must be a number, got {type(score).__name__}")
        if index < 0:
            raise ConfigError(f"{name} has the index {index}: indexes count from 0")
        rows.append(Ranked(int(index), float(score), getattr(row, "id", None)))
    if len({row.index for row in rows}) != len(rows):
        raise ConfigError(f"{name} names a document twice: give each document once")
    return rows


def _join_ids(ids: dict[int, str], rows: Sequence[Ranked], name: str) -> None:
    """Add the ids of the rows. Raises ConfigError where a document has another id already."""
    for row in rows:
        if row.id is not None and ids.setdefault(row.index, row.id) != row.id:
            raise ConfigError(
                f"{name} gives document {row.index} another id than an earlier ranking: "
                "rankings must be of the same documents in the same order"
            )

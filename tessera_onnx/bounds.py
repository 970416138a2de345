"""Scores of unit vectors never leave their bounds by rounding: [-1, 1], or [-n, n] for a MaxSim.

A dot product of float32 unit vectors may be 1.0000002, of which math.acos fails. Only scores that
leave the bounds by no more than rounding are looked at, and only those of unit vectors are
clipped: dot products of other vectors stay what they are. That costs a comparison a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A norm so near to 1 is that of a unit vector, also of one that was kept in float16.
UNIT = 2e-4
SLACK = 3 * UNIT  # more than a dot product of two such vectors has above 1


def are_unit(vectors: NDArray[Any], slack: float = 0.0) -> NDArray[np.bool_]:
    """Which rows of (n, dim) have the norm 1, within `slack` more than rounding: (n,)."""
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    return np.asarray(np.abs(norms - 1) <= UNIT + slack)


def limit(
    products: NDArray[np.float32],
    left: NDArray[Any],
    right: NDArray[Any],
    slack: float = 0.0,
) -> None:
    """Clip the dot products (n, m) of unit rows of left (n, dim) and right (m, dim), in place.

    `slack` is what the norms of left may lie from 1 beside rounding, such as those of int8 codes.
    """
    sizes = np.abs(products)
    rows, columns = np.nonzero((sizes > 1) & (sizes <= 1 + SLACK + slack))
    if len(rows):
        unit = are_unit(left[rows], slack) & are_unit(right[columns])
        rows, columns = rows[unit], columns[unit]
        products[rows, columns] = np.sign(products[rows, columns])


def limit_sums(
    scores: NDArray[np.float32],
    queries: Sequence[NDArray[Any]],
    documents: Sequence[NDArray[Any]],
    slacks: tuple[float, float] = (0.0, 0.0),
) -> None:
    """Clip the MaxSims (n, m) of queries with documents whose rows are all unit, in place.

    `slacks` are those of `limit` for the rows of the queries and of the documents.
    """
    of_query, of_document = slacks
    most = np.array([len(query) for query in queries], dtype=np.float32)[:, None]
    sizes = np.abs(scores)
    found = np.argwhere((sizes > most) & (sizes <= most * (1 + SLACK + 2 * sum(slacks))))
    unit = {int(i): bool(are_unit(queries[i], of_query).all()) for i in np.unique(found[:, 0])}
    for i, j in found:
        if unit[int(i)] and are_unit(documents[j], of_document).all():
            scores[i, j] = np.copysign(most[i, 0], scores[i, j])

"""Clip scores of unit vectors to their bounds: [-1, 1] for a cosine, [-n, n] for a MaxSim.

By rounding, the dot product of two float32 unit vectors may be 1.0000002, for which math.acos
fails. Only scores that exceed the bounds by no more than rounding are clipped, and only if the
vectors are unit vectors; other dot products do not change. This costs one comparison per score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.results import Int8Vectors

UNIT = 2e-4  # a norm so close to 1 is that of a unit vector, also of one kept in float16
MOST = 0.05  # more than rounding adds to a score of 1, also with int8 codes


def rounding(vectors: Any) -> float:
    """The largest distance between a vector and the one that was quantized to it.

    Of Int8Vectors that is half a step in each component, of a list the largest of its items; 0 for
    all other types.
    """
    if isinstance(vectors, list | tuple):
        codes = (each for each in vectors if isinstance(each, Int8Vectors))
        return max(map(rounding, codes), default=0.0)
    if not isinstance(vectors, Int8Vectors):
        return 0.0
    steps = np.broadcast_to(vectors.scale, vectors.codes.shape).astype(np.float64)
    return 0.5 * float(np.sqrt(np.square(steps).sum(axis=-1)).max(initial=0))


def are_unit(vectors: NDArray[Any], slack: float = 0.0) -> NDArray[np.bool_]:
    """Whether the norm of each row (n, dim) is 1 within float rounding plus `slack`: (n,) bool."""
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    return np.asarray(np.abs(norms - 1) <= UNIT + slack)


def limit(
    products: NDArray[np.float32],
    left: NDArray[Any],
    right: NDArray[Any],
    given: tuple[Any, Any] = (None, None),
) -> None:
    """Clip the dot products (n, m) of unit rows of left (n, dim) and right (m, dim), in place.

    `given` are the two as the caller gave them, where they are not float arrays.
    """
    sizes = np.abs(products)
    rows, columns = np.nonzero((sizes > 1) & (sizes <= 1 + MOST))
    if len(rows):
        unit = are_unit(left[rows], rounding(given[0]))
        unit &= are_unit(right[columns], rounding(given[1]))
        rows, columns = rows[unit], columns[unit]
        products[rows, columns] = np.sign(products[rows, columns])


def limit_sums(
    scores: NDArray[np.float32],
    queries: Sequence[NDArray[Any]],
    documents: Sequence[NDArray[Any]],
    given: tuple[Sequence[Any], Sequence[Any]] | None = None,
) -> None:
    """Clip MaxSim scores (n, m) of queries and documents whose rows all are unit, in place.

    `given` are the queries and the documents as the caller gave them.
    """
    of_queries, of_documents = given or (queries, documents)
    most = np.array([len(query) for query in queries], dtype=np.float32)[:, None]
    sizes = np.abs(scores)
    found = np.argwhere((sizes > most) & (sizes <= most * (1 + MOST)))
    unit = {i: are_unit(queries[i], rounding(of_queries[i])).all() for i in np.unique(found[:, 0])}
    for i, j in found:
        if unit[i] and are_unit(documents[j], rounding(of_documents[j])).all():
            scores[i, j] = np.copysign(most[i, 0], scores[i, j])

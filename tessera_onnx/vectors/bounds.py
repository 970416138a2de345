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

from tessera_onnx.results import Int8Vectors

# A norm so near to 1 is that of a unit vector, also of one that was kept in float16.
UNIT = 2e-4
MOST = 0.05  # more than rounding adds to a score of 1, that of int8 codes included


def rounding(form: Any) -> float:
    """How far rows may lie from those that they were made of, by the form in which they are kept.

    Half a step in each component of Int8Vectors, whose codes may so stand for unit vectors, the
    most of a list of them; 0 for all other forms.
    """
    if isinstance(form, list | tuple):
        return max((rounding(each) for each in form if isinstance(each, Int8Vectors)), default=0.0)
    if not isinstance(form, Int8Vectors):
        return 0.0
    steps = np.broadcast_to(form.scale, form.codes.shape).astype(np.float64)
    return 0.5 * float(np.sqrt(np.square(steps).sum(axis=-1)).max(initial=0))


def are_unit(vectors: NDArray[Any], slack: float = 0.0) -> NDArray[np.bool_]:
    """Which rows of (n, dim) have the norm 1, within `slack` more than float rounding: (n,)."""
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    return np.asarray(np.abs(norms - 1) <= UNIT + slack)


def limit(
    products: NDArray[np.float32],
    left: NDArray[Any],
    right: NDArray[Any],
    forms: tuple[Any, Any] = (None, None),
) -> None:
    """Clip the dot products (n, m) of unit rows of left (n, dim) and right (m, dim), in place.

    `forms` are those in which the two were given, where they are not float arrays.
    """
    sizes = np.abs(products)
    rows, columns = np.nonzero((sizes > 1) & (sizes <= 1 + MOST))
    if len(rows):
        unit = are_unit(left[rows], rounding(forms[0]))
        unit &= are_unit(right[columns], rounding(forms[1]))
        rows, columns = rows[unit], columns[unit]
        products[rows, columns] = np.sign(products[rows, columns])


def limit_sums(
    scores: NDArray[np.float32],
    queries: Sequence[NDArray[Any]],
    documents: Sequence[NDArray[Any]],
    forms: tuple[Sequence[Any], Sequence[Any]] | None = None,
) -> None:
    """Clip the MaxSims (n, m) of queries with documents whose rows are all unit, in place.

    `forms` are those in which each query and each document was given.
    """
    of_queries, of_documents = forms or (queries, documents)
    most = np.array([len(query) for query in queries], dtype=np.float32)[:, None]
    sizes = np.abs(scores)
    found = np.argwhere((sizes > most) & (sizes <= most * (1 + MOST)))
    unit = {i: are_unit(queries[i], rounding(of_queries[i])).all() for i in np.unique(found[:, 0])}
    for i, j in found:
        if unit[i] and are_unit(documents[j], rounding(of_documents[j])).all():
            scores[i, j] = np.copysign(most[i, 0], scores[i, j])

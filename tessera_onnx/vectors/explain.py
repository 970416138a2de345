"""Explain scores: which document token answers a query token, which entries weigh most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import check_top_k
from tessera_onnx.results import SparseVector
from tessera_onnx.vectors import bounds


class Match(NamedTuple):
    """A query token, the document token with the largest dot product, and that product."""

    query_token: str
    document_token: str
    score: float


def matches(
    query: NDArray[np.float32],
    document: NDArray[np.float32],
    query_tokens: Sequence[str],
    document_tokens: Sequence[str],
) -> list[Match]:
    """The terms of a MaxSim sum, one per query row, in the order of the query.

    query (n, dim) and document (m, dim) float32, m at least 1, with the n and m strings of their
    tokens. Scores of unit rows lie in [-1, 1].
    """
    similarities = query @ document.T
    bounds.limit(similarities, query, document)
    best = similarities.argmax(axis=1)
    return [
        Match(query_tokens[i], document_tokens[j], float(similarities[i, j]))
        for i, j in enumerate(best)
    ]


def weights(
    vector: SparseVector, token: Callable[[int], str], top_k: int | None
) -> list[tuple[str, float]]:
    """List (token, weight) of the `top_k` largest weights, largest first, equal ones by id.

    None lists all; a vector without entries gives [].
    """
    indices, values = vector
    order = np.argsort(-values, kind="stable")[: check_top_k(top_k, len(values))]
    return [(token(int(indices[i])), float(values[i])) for i in order]

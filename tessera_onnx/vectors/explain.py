"""Why a score is what it is: pure NumPy over what the models give back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import check_top_k
from tessera_onnx.results import SparseVector
from tessera_onnx.vectors import bounds


class Match(NamedTuple):
    """One query token, the document token that answers it best, and their dot product."""

    query_token: str
    document_token: str
    score: float


def matches(
    query: NDArray[np.float32],
    document: NDArray[np.float32],
    query_tokens: Sequence[str],
    document_tokens: Sequence[str],
) -> list[Match]:
    """The terms of a MaxSim sum, one a query row, in query order.

    query (n, dim), document (m, dim) with their tokens' strings. Those of unit rows lie in [-1, 1].
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
    """(token, weight) of the heaviest entries, falling; ties by vocabulary id."""
    indices, values = vector
    order = np.argsort(-values, kind="stable")[: check_top_k(top_k, len(values))]
    return [(token(int(indices[i])), float(values[i])) for i in order]

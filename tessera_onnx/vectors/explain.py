"""Explain scores: which document token answers a query token, which entries or words weigh most."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
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
    rows, scores = best_rows(query, document)
    return [
        Match(query_tokens[i], document_tokens[row], float(scores[i])) for i, row in enumerate(rows)
    ]


def best_rows(
    query: NDArray[np.float32], document: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The document row of the largest product of each query row, and that product: (n,) each.

    query (n, dim) and document (m, dim) float32, m at least 1. Of equal products the first counts.
    """
    similarities = query @ document.T
    bounds.limit(similarities, query, document)
    best = similarities.argmax(axis=1)
    return best, np.take_along_axis(similarities, best[:, None], axis=1)[:, 0]


def weights(
    vector: SparseVector, token: Callable[[int], str], top_k: int | None
) -> list[tuple[str, float]]:
    """List (token, weight) of the `top_k` largest weights, largest first, equal ones by id.

    None lists all; a vector without entries gives [].
    """
    indices, values = vector
    order = np.argsort(-values, kind="stable")[: check_top_k(top_k, len(values))]
    return [(token(int(indices[i])), float(values[i])) for i in order]


def without_each_word(text: str) -> tuple[list[str], Iterator[str]]:
    """The words of a text, which white space separates, and the text without each of them.

    The texts are made one by one: together they have the square of its size. The space behind a
    word goes with it, before the last word the space before it.
    """
    words = list(re.finditer(r"\S+", text))

    def texts() -> Iterator[str]:
        for word, following in itertools.pairwise(words):
            yield text[: word.start()] + text[following.start() :]
        if words:
            yield text[: words[-1].start()].rstrip()

    return [word.group() for word in words], texts()

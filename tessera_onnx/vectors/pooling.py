"""From token states to vectors: pure NumPy, float32 in and out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import holds_text
from tessera_onnx.errors import ConfigError

Array = NDArray[Any]
Float = NDArray[np.float32]


def _floats(vectors: Array) -> Float:
    """`vectors` as float32. Raises TypeError for text, which NumPy's own error would repeat."""
    if holds_text(vectors):
        raise TypeError("vectors must be numbers, got text: encode it first")
    return np.asarray(vectors, dtype=np.float32)


def l2_normalize(vectors: Array) -> Float:
    """Unit vectors along the last axis. A zero vector stays zero (the norm's floor is 1e-12)."""
    vectors = _floats(vectors)
    with np.errstate(over="ignore"):
        norms = np.sqrt(np.einsum("...i,...i->...", vectors, vectors))
    if np.isinf(norms).any():  # components beyond 1e19, whose squares leave float32
        norms = np.sqrt(np.einsum("...i,...i->...", vectors, vectors, dtype=np.float64))
    return np.asarray(vectors / np.maximum(norms, np.float32(1e-12))[..., None], np.float32)


def mean(states: Array, mask: Array) -> Float:
    """Mean over real tokens. states (b, n, dim), mask (b, n), 1 = real; result (b, dim).

    A row without a real token gives zeros. sentence-transformers' mean pooling, in which padding
    has no share.
    """
    weights = np.asarray(mask, dtype=np.float32)
    sums = np.matmul(weights[:, None, :], np.asarray(states, dtype=np.float32))[:, 0]
    return np.asarray(sums / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9), np.float32)


def cls(states: Array, _: Array) -> Float:
    """The first token's state. states (b, n, dim) right padded; result (b, dim)."""
    return np.array(states[:, 0], dtype=np.float32)


def last(states: Array, mask: Array) -> Float:
    """The state of each row's last real token. states (b, n, dim), mask (b, n)."""
    positions = np.asarray(mask).shape[1] - 1 - np.argmax(np.asarray(mask)[:, ::-1] != 0, axis=1)
    return np.array(states[np.arange(len(states)), positions], dtype=np.float32)


POOLINGS = {"mean": mean, "cls": cls, "last": last}


def layer_norm(vectors: Array) -> Float:
    """Zero mean and unit variance along the last axis, no weights, eps 1e-5 (nomic v1.5)."""
    vectors = _floats(vectors)
    centred = vectors - vectors.mean(axis=-1, keepdims=True)
    return np.asarray(
        centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 1e-5), np.float32
    )


def splade(logits: Array, mask: Array) -> Float:
    """Pooled logits: masked maximum over tokens. logits (b, n, vocab), mask (b, n) -> (b, vocab).

    The maximum comes first: relu and log1p are monotone, so `activate` after it gives the same
    weights as the paper's log1p(relu) on every token (SPLADE, arXiv:2107.05720) without an array
    of the size of the logits. A row without a real token gives -inf.
    """
    pooled = np.full((logits.shape[0], logits.shape[2]), -np.inf, dtype=np.float32)
    # A row at a time, each over its real tokens alone: no masked copy of the logits.
    for row, (states, real) in enumerate(zip(logits, np.asarray(mask, dtype=bool), strict=True)):
        count = int(real.sum())
        if count:
            contiguous = real[:count].all()  # right padding: a slice copies nothing
            pooled[row] = (states[:count] if contiguous else states[real]).max(axis=0)
    return pooled


def largest(weights: Array, ids: Array) -> tuple[Array, Float]:
    """The distinct ids of a text's tokens, rising, and the largest weight that each of them has.

    weights (n,), ids (n,); both results have as many entries as there are distinct ids (bge-m3).
    """
    entries, places = np.unique(ids, return_inverse=True)
    found = np.full(len(entries), -np.inf, dtype=np.float32)
    np.maximum.at(found, places, np.asarray(weights, dtype=np.float32))
    return entries, found


def activate(pooled: Array, activation: str) -> Float:
    """relu(x) for "relu", log1p of it for "log1p", and that twice for "log1p-log1p".

    bge-m3, SPLADE, and the third generation of OpenSearch's models.
    """
    weights = np.maximum(np.asarray(pooled, dtype=np.float32), 0)
    for _ in range(("relu", "log1p", "log1p-log1p").index(activation)):
        weights = np.log1p(weights)
    return weights


def pool_tokens(tokens: Array, factor: int, *, fixed: int = 1) -> Float:
    """Hierarchical pooling: (n, dim) unit rows to (fixed + (n - fixed) // factor, dim) unit rows.

    Rows are merged by Ward's criterion until one in `factor` is left; a cluster becomes its mean,
    normalised; clusters keep the order of their first token. The first `fixed` rows are never
    merged: [CLS] of a text, as in PyLate (arXiv:2409.14683), none of a page (arXiv:2407.01449).
    Factor 1 gives the rows unchanged.
    Raises ConfigError for a factor below 1.
    """
    if factor < 1:
        raise ConfigError(f"pool_factor must be at least 1, got {factor}")
    tokens = _floats(tokens)
    rest = tokens[fixed:]
    if factor == 1 or len(rest) < 2:
        return tokens.copy()
    labels = _ward(rest, max(1, len(rest) // factor))
    members = np.zeros((labels.max() + 1, len(rest)), dtype=np.float32)
    members[labels, np.arange(len(rest))] = 1
    means = (members @ rest) / members.sum(axis=1, keepdims=True)
    return np.concatenate([tokens[:fixed], l2_normalize(means)])


def _ward(points: Float, n_clusters: int) -> NDArray[np.intp]:
    """Cluster number of each row, numbered by first member. Lance-Williams update, O(n^3)."""
    n = len(points)
    sizes = np.ones(n)
    products = points.astype(np.float64) @ points.astype(np.float64).T
    squares = np.diag(products)
    distance = squares[:, None] + squares[None, :] - 2 * products  # squared Euclidean
    np.fill_diagonal(distance, np.inf)
    labels = np.arange(n)
    for _ in range(n - n_clusters):
        a, b = divmod(int(np.argmin(distance)), n)
        total = sizes[a] + sizes[b] + sizes
        merged = (
            (sizes[a] + sizes) * distance[a]
            + (sizes[b] + sizes) * distance[b]
            - sizes * distance[a, b]
        ) / total
        merged[[a, b]] = np.inf
        distance[a], distance[:, a] = merged, merged
        distance[b], distance[:, b] = np.inf, np.inf
        sizes[a] += sizes[b]
        labels[labels == b] = a
    _, first, numbers = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.intp)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[numbers]

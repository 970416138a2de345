"""Pool token states to vectors: CLS, mean, last token, SPLADE, Ward clusters. Pure NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import holds_text
from tessera_onnx.errors import ConfigError

Array = NDArray[Any]
Float = NDArray[np.float32]


def _floats(vectors: Array) -> Float:
    """`vectors` as float32. Raises TypeError for text, which NumPy's own message would quote."""
    if holds_text(vectors):
        raise TypeError("vectors must be numbers, got text: encode it first")
    return np.asarray(vectors, dtype=np.float32)


def l2_normalize(vectors: Array) -> Float:
    """Divide vectors (..., dim) by their L2 norm: (..., dim) float32.

    A zero vector stays zero, since norms below 1e-12 count as 1e-12; NaN gives NaN. Raises
    TypeError for text.
    """
    vectors = _floats(vectors)
    with np.errstate(over="ignore"):
        norms = np.sqrt(np.einsum("...i,...i->...", vectors, vectors))
    if np.isinf(norms).any():  # components above 1e19, whose squares exceed float32
        norms = np.sqrt(np.einsum("...i,...i->...", vectors, vectors, dtype=np.float64))
    return np.asarray(vectors / np.maximum(norms, np.float32(1e-12))[..., None], np.float32)


def mean(states: Array, mask: Array) -> Float:
    """Mean of the states of real tokens: states (b, n, dim), mask (b, n), 1 = real -> (b, dim).

    A text without real tokens gives zeros. The result is float32 and does not depend on padding.
    Mean pooling of sentence-transformers.
    """
    weights = np.asarray(mask, dtype=np.float32)
    sums = np.matmul(weights[:, None, :], np.asarray(states, dtype=np.float32))[:, 0]
    return np.asarray(sums / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9), np.float32)


def cls(states: Array, _: Array) -> Float:
    """The state of the first token: states (b, n, dim), right padded -> (b, dim) float32."""
    return np.array(states[:, 0], dtype=np.float32)


def last(states: Array, mask: Array) -> Float:
    """The state of the last real token: states (b, n, dim), mask (b, n) -> (b, dim) float32.

    A text without real tokens gives the state of its last position.
    """
    positions = np.asarray(mask).shape[1] - 1 - np.argmax(np.asarray(mask)[:, ::-1] != 0, axis=1)
    return np.array(states[np.arange(len(states)), positions], dtype=np.float32)


def largest_state(states: Array, mask: Array) -> Float:
    """The largest value of each feature over real tokens: states (b, n, dim) -> (b, dim) float32.

    A text without real tokens gives -inf. Max pooling of sentence-transformers.
    """
    real = np.asarray(mask, dtype=bool)[:, :, None]
    return np.asarray(np.where(real, states, -np.inf).max(axis=1), np.float32)


def mean_sqrt_length(states: Array, mask: Array) -> Float:
    """The sum over real tokens divided by the root of their number: (b, n, dim) -> (b, dim)."""
    counts = np.asarray(mask, dtype=np.float32).sum(axis=1, keepdims=True)
    return np.asarray(mean(states, mask) * np.sqrt(np.maximum(counts, 1e-9)), np.float32)


def weighted_mean(states: Array, mask: Array) -> Float:
    """The mean over real tokens with the weights 1, 2, 3, … of their positions (SGPT).

    states (b, n, dim), right padded -> (b, dim) float32.
    """
    weights = np.asarray(mask, dtype=np.float32) * np.arange(1, np.shape(mask)[1] + 1)
    return mean(states, weights)


POOLINGS = {
    "mean": mean, "cls": cls, "last": last, "max": largest_state,
    "mean_sqrt_len_tokens": mean_sqrt_length, "weightedmean": weighted_mean,
}  # fmt: skip


def layer_norm(vectors: Array) -> Float:
    """Normalise vectors (..., dim) to mean 0 and variance 1: (..., dim) float32.

    Without weights and with eps 1e-5, so a constant vector gives zeros. nomic-embed-text-v1.5.
    """
    vectors = _floats(vectors)
    centred = vectors - vectors.mean(axis=-1, keepdims=True)
    return np.asarray(
        centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 1e-5), np.float32
    )


def splade(logits: Array, mask: Array) -> Float:
    """Maximum over real tokens: logits (b, n, vocab), mask (b, n), 1 = real -> (b, vocab) float32.

    `activate` is applied after the maximum. Because relu and log1p are monotone, this gives the
    weights of the paper, which applies them to every token (SPLADE, arXiv:2107.05720), without
    another array of the size of the logits. A text without real tokens gives -inf.
    """
    pooled = np.full((logits.shape[0], logits.shape[2]), -np.inf, dtype=np.float32)
    # One text at a time, over its real tokens only, without a masked copy of the logits.
    for row, (states, real) in enumerate(zip(logits, np.asarray(mask, dtype=bool), strict=True)):
        count = int(real.sum())
        if count:
            contiguous = real[:count].all()  # right padding: a slice copies nothing
            pooled[row] = (states[:count] if contiguous else states[real]).max(axis=0)
    return pooled


def largest(weights: Array, ids: Array) -> tuple[Array, Float]:
    """The largest weight of each distinct token of a text, as in bge-m3.

    weights (n,), ids (n,) -> (ids (k,) ascending, weights (k,) float32) for k distinct ids.
    """
    entries, places = np.unique(ids, return_inverse=True)
    found = np.full(len(entries), -np.inf, dtype=np.float32)
    np.maximum.at(found, places, np.asarray(weights, dtype=np.float32))
    return entries, found


def activate(pooled: Array, activation: str) -> Float:
    """Turn pooled logits of any shape into weights, at least 0, float32.

    "relu": relu(x), as in bge-m3; "log1p": log1p(relu(x)), as in SPLADE; "log1p-log1p":
    log1p(log1p(relu(x))), as in the v3 models of OpenSearch. -inf gives 0, NaN gives NaN.
    """
    weights = np.maximum(np.asarray(pooled, dtype=np.float32), 0)
    for _ in range(("relu", "log1p", "log1p-log1p").index(activation)):
        weights = np.log1p(weights)
    return weights


def pool_tokens(tokens: Array, factor: int, *, fixed: int = 1) -> Float:
    """Token pooling: n unit rows (n, dim) become about n / factor unit rows, float32.

    The first `fixed` rows stay; the others are clustered by Ward's criterion into
    max(1, (n - fixed) // factor) clusters, each replaced by its normalised mean. Clusters keep the
    order of their first rows. `fixed` is 1 for texts ([CLS], as in PyLate, arXiv:2409.14683) and 0
    for pages (arXiv:2407.01449). Factor 1 gives a copy. Raises ConfigError for a factor below 1,
    TypeError for text.
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
    """The cluster of each row: (n,), numbered by first member. Lance-Williams update, O(n^3)."""
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

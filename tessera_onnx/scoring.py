"""Scores between vectors: cosine, sparse dot product and MaxSim. Pure NumPy, float32 sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tessera_onnx import quantization
from tessera_onnx.errors import ConfigError, DimensionMismatch
from tessera_onnx.results import BinaryTokens, SparseVector

Float = NDArray[np.float32]

# Document tokens a product: the (tokens, query tokens) block stays in the processor's cache.
BLOCK_TOKENS = 4096


def _matrix(name: str, value: ArrayLike) -> Float:
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be a numeric array, got dtype {array.dtype}")
    if array.ndim != 2:
        raise ConfigError(f"{name} must have shape (n_tokens, dim), got {array.shape}")
    if 0 in array.shape:
        raise ConfigError(f"{name} has no tokens or no dimensions: shape {array.shape}")
    array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise ConfigError(f"{name} holds NaN or infinity")
    return array


def maxsim(query: ArrayLike, document: ArrayLike) -> float:
    """Sum over query rows of the largest dot product with any document row.

    query (n, dim), document (m, dim), any numeric dtype, read as float32; with unit rows the
    result lies in [-n, n]. Only real tokens may be passed: a zero row would win over negative
    similarities. Raises DimensionMismatch when the dims differ, ConfigError for a wrong rank, no
    rows, NaN or infinity. ColBERT, arXiv:2004.12832.
    """
    return float(maxsim_scores(query, [document])[0])


def maxsim_scores(query: ArrayLike, documents: Sequence[ArrayLike]) -> Float:
    """MaxSim of one query (n, dim) with each document (m_i, dim): (len(documents),) float32.

    The documents' tokens are joined into blocks of some thousand rows: one matrix product and one
    segmented maximum a block, no loop over documents. Raises as `maxsim`, naming the document.
    """
    left = _matrix("query", query)
    scores = np.empty(len(documents), dtype=np.float32)
    for start, block in _blocks(documents, left.shape[1]):
        lengths = [len(rows) for rows in block]
        rows = block[0] if len(block) == 1 else np.concatenate(block)
        similarities = rows @ left.T
        starts = np.cumsum([0, *lengths[:-1]])
        best = np.maximum.reduceat(similarities, starts, axis=0)
        scores[start : start + len(block)] = best.sum(axis=1)
    return scores


def _blocks(documents: Sequence[ArrayLike], dim: int) -> Iterator[tuple[int, list[Float]]]:
    block: list[Float] = []
    tokens = start = 0
    for i, document in enumerate(documents):
        rows = _matrix(f"documents[{i}]", document)
        if rows.shape[1] != dim:
            raise DimensionMismatch(f"documents[{i}] has {rows.shape[1]} dims, the query {dim}")
        if block and tokens + len(rows) > BLOCK_TOKENS:
            yield start, block
            block, tokens, start = [], 0, i
        block.append(rows)
        tokens += len(rows)
    if block:
        yield start, block


def maxsim_binary(query: BinaryTokens, document: BinaryTokens) -> float:
    """MaxSim of sign bits: a pair's similarity is 1 - 2 x Hamming distance / dim, in [-1, 1].

    That is the cosine of the +1/-1 vectors, so the result lies in [-n, n]. Raises
    DimensionMismatch when the dims differ, ConfigError when either has no rows.
    """
    for name, tokens in (("query", query), ("document", document)):
        if not isinstance(tokens, BinaryTokens):
            raise TypeError(f"{name} must be BinaryTokens, got {type(tokens).__name__}")
        if tokens.bits.ndim != 2 or len(tokens) == 0:
            raise ConfigError(f"{name} must hold at least one token, got {tokens.bits.shape}")
    nearest = quantization.hamming(query, document).min(axis=1)
    return float((1 - 2 * nearest / query.dim).sum())


def cosine(a: ArrayLike, b: ArrayLike) -> float:
    """Cosine of two vectors (dim,), in [-1, 1]; 0 when either is zero.

    Raises DimensionMismatch when the shapes differ.
    """
    left, right = _matrix("a", np.atleast_2d(a)), _matrix("b", np.atleast_2d(b))
    if left.shape != right.shape:
        raise DimensionMismatch(f"vectors of shape {np.shape(a)} and {np.shape(b)}")
    norms = float(np.linalg.norm(left)) * float(np.linalg.norm(right))
    return float(left.ravel() @ right.ravel()) / norms if norms > 0 else 0.0


def dense_scores(query: ArrayLike, documents: ArrayLike) -> Float:
    """Dot products of one vector (dim,) with the rows of (n, dim): (n,) float32."""
    left = _matrix("query", np.atleast_2d(query))
    array = np.asarray(documents)
    if array.size == 0:
        return np.empty(0, dtype=np.float32)
    right = _matrix("documents", array)
    if right.shape[1] != left.shape[1]:
        raise DimensionMismatch(f"documents have {right.shape[1]} dims, query {left.shape[1]}")
    return np.asarray(right @ left[0], dtype=np.float32)


def sparse_scores(query: SparseVector, documents: Sequence[SparseVector]) -> Float:
    """Dot products of one sparse vector with each of the others: (len(documents),) float32.

    A vector without entries scores 0 with everything.
    """
    vectors = [query, *documents]
    size = 1 + max((int(v.indices[-1]) for v in vectors if len(v.indices)), default=0)
    table = np.zeros(size, dtype=np.float32)
    table[query.indices] = query.values
    lengths = np.array([len(v.indices) for v in documents], dtype=np.int64)
    scores = np.zeros(len(documents), dtype=np.float32)
    filled = np.flatnonzero(lengths)
    if len(filled):
        products = table[np.concatenate([v.indices for v in documents])] * np.concatenate(
            [v.values for v in documents]
        )
        starts = np.cumsum(np.concatenate([[0], lengths[filled][:-1]]))
        scores[filled] = np.add.reduceat(products, starts)
    return scores


def as_list(documents: Any) -> list[Any]:
    """Documents as a list. Raises TypeError for one text where several are due."""
    if isinstance(documents, str | bytes) or not hasattr(documents, "__iter__"):
        raise TypeError(
            f"documents must be a list of texts or vectors, got {type(documents).__name__}"
        )
    return list(documents)

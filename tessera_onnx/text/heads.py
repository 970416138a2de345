"""Turn the outputs of a graph into results, one per text: pooling, SPLADE, skipped tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError
from tessera_onnx.models.spec import Dense, ModelSpec, MultiVector, Sparse, TokenRole
from tessera_onnx.results import BinaryTokens, Int8Vectors, SparseVector
from tessera_onnx.runtime.session import Array
from tessera_onnx.text.modules import Step
from tessera_onnx.text.tokenizer import Batch, Head
from tessera_onnx.vectors import pooling, quantization
from tessera_onnx.vectors.quantization import OutputDtype

Float = NDArray[np.float32]


def dense_head(recipe: Dense, dimension: int, modules: Step | None) -> Head:
    """The head for one vector (dimension,) float32 per text.

    Token states are pooled unless the graph does so. The steps of `modules` follow, or L2 without
    any; a cut to `dimension` ends with L2.
    """

    def apply(outputs: list[Array], batch: Batch) -> Float:
        states = outputs[0]
        if recipe.pooling != "graph":
            poolings = (recipe.pooling, *(recipe.further_poolings or ()))
            parts = [pooling.POOLINGS[name](states, batch.attention) for name in poolings]
            states = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return finish_dense(states, recipe, dimension, modules)

    return Head((recipe.output,), apply, dimension)


def finish_dense(states: Array, recipe: Dense, dimension: int, modules: Step | None) -> Float:
    """The steps after pooling: states (n, width) to vectors (n, dimension), as in `dense_head`."""
    if modules is not None:
        states = modules(np.asarray(states, np.float32))
    if dimension == recipe.dimension:
        return states if modules is not None else pooling.l2_normalize(states)
    return quantization.matryoshka(states, dimension, layer_norm=recipe.matryoshka_layer_norm)


def multi_vector_head(
    recipe: MultiVector, dimension: int, role: TokenRole, modules: Step | None
) -> Head:
    """The head for unit token vectors (n_tokens, dimension) float32 of each text (ColBERT)."""

    def apply(outputs: list[Array], batch: Batch) -> list[Float]:
        kept = kept_tokens(batch, recipe, role)
        states = outputs[0][kept[:, 1:] if recipe.drop_first else kept]
        if modules is not None:
            states = modules(np.asarray(states, np.float32))
        if dimension == recipe.dimension:
            vectors = pooling.l2_normalize(states)
        else:
            vectors = quantization.matryoshka(states, dimension)
        ends = np.cumsum(kept.sum(axis=1))
        # Copies, since a slice keeps the vectors of the whole batch in memory.
        return [part.copy() for part in np.split(vectors, ends[:-1])]

    return Head((recipe.output,), apply)


def states_head(
    recipe: Dense | MultiVector | Sparse, spec: ModelSpec, dimension: int | None
) -> Head:
    """The head for the states (n_tokens, width) float32 of each text, before any pooling.

    Raises ConfigError for a model that pools none, and for a `dimension` to cut them to.
    """
    if dimension is not None:
        raise ConfigError("states of tokens are not cut to a dimension: leave it out")
    if not isinstance(recipe, Dense) or recipe.pooling == "graph" or spec.static is not None:
        raise ConfigError(f"model {spec.id!r} gives no states of tokens")

    def apply(outputs: list[Array], batch: Batch) -> list[Float]:
        rows = zip(outputs[0], batch.lengths, strict=True)
        return [np.array(states[:n], np.float32) for states, n in rows]

    return Head((recipe.output,), apply)


def kept_tokens(batch: Batch, recipe: MultiVector, role: TokenRole) -> NDArray[np.bool_]:
    """Which tokens get a vector: (b, n) bool, False for padding and skipped tokens.

    A text of skipped tokens only keeps them all, so every text has at least one vector.
    """
    real = np.arange(batch.ids.shape[1]) < batch.lengths[:, None]
    if recipe.drop_first:
        real[:, 0] = False
    kept = real & ~np.isin(batch.ids, role.skip_ids) if role.skip_ids else real
    empty = ~kept.any(axis=1)
    kept[empty] = real[empty]
    return kept


def sparse_head(recipe: Sparse) -> Head:
    """The head for one SparseVector per text, from weights that the graph computes."""

    def pooled(outputs: list[Array], batch: Batch) -> list[SparseVector]:
        weights = outputs[0]
        if recipe.head == "logits":
            weights = pooling.splade(weights, batch.attention)
            weights = pooling.activate(weights, recipe.activation)
        weights[:, list(recipe.zero_ids)] = 0
        return [_to_sparse(row) for row in weights]

    def by_token(outputs: list[Array], batch: Batch) -> list[SparseVector]:
        # Without a row of the whole vocabulary, which for bge-m3 is a megabyte.
        vectors = []
        for row, ids, real in zip(outputs[0], batch.ids, batch.attention != 0, strict=True):
            entries, weights = pooling.largest(row[real, 0], ids[real])
            weights = pooling.activate(weights, recipe.activation)
            kept = (weights > 0) & ~np.isin(entries, recipe.zero_ids)
            kept &= entries < recipe.vocab_size
            vectors.append(SparseVector(entries[kept].astype(np.int32), weights[kept]))
        return vectors

    return Head((recipe.output,), by_token if recipe.head == "tokens" else pooled)


def lookup_head(table: Float) -> Head:
    """The head for sparse queries without inference: `table` (vocab,) has the weight of each token.

    A token that occurs several times counts once.
    """

    def apply(_: list[Array], batch: Batch) -> list[SparseVector]:
        vectors = []
        for ids, length in zip(batch.ids, batch.lengths, strict=True):
            distinct = np.unique(ids[:length])
            distinct = distinct[distinct < len(table)]
            weights = np.zeros_like(table)
            weights[distinct] = table[distinct]
            vectors.append(_to_sparse(weights))
        return vectors

    return Head((), apply)


def limited_head(head: Head, most: int) -> Head:
    """The sparse head `head`, whose vectors keep only their `most` largest weights."""

    def apply(outputs: list[Array], batch: Batch) -> list[SparseVector]:
        return [largest_weights(vector, most) for vector in head.apply(outputs, batch)]

    return Head(head.outputs, apply)


def largest_weights(vector: SparseVector, most: int) -> SparseVector:
    """The vector with only its `most` largest weights; among equal weights lower ids are kept.

    Weights below 0, which miniCOIL has, count by their magnitude.

    As SparseEncoder.encode(max_active_dims=) of sentence-transformers, which does not define ties.
    """
    if len(vector.values) <= most:
        return vector
    kept = np.sort(np.argsort(-np.abs(vector.values), kind="stable")[:most])
    return SparseVector(vector.indices[kept], vector.values[kept])


def check_output(output_dtype: OutputDtype, pool_factor: int) -> None:
    """Check these arguments before any text is encoded. Raises TypeError or ConfigError."""
    quantization.check_output(output_dtype)
    if isinstance(pool_factor, bool) or not isinstance(pool_factor, int):
        raise TypeError(f"pool_factor must be int, got {type(pool_factor).__name__}")
    if pool_factor < 1:
        raise ConfigError(f"pool_factor must be at least 1, got {pool_factor}")


def convert_tokens(
    tokens: Float, output_dtype: OutputDtype, pool_factor: int, *, fixed: int = 1
) -> Float | Int8Vectors | BinaryTokens:
    """Pool token or patch vectors (n, dim) and convert them to `output_dtype`.

    The first `fixed` rows are never pooled; see `pooling.pool_tokens`.
    """
    if pool_factor > 1:
        tokens = pooling.pool_tokens(tokens, pool_factor, fixed=fixed)
    return quantization.convert(tokens, output_dtype)


def combine(heads: Sequence[Head]) -> Head:
    """The head that gives each text a tuple: the results of `heads` from one run of the graph."""
    names = tuple(dict.fromkeys(name for head in heads for name in head.outputs))

    def apply(outputs: list[Array], batch: Batch) -> list[tuple[Any, ...]]:
        found = dict(zip(names, outputs, strict=True))
        results = [head.apply([found[name] for name in head.outputs], batch) for head in heads]
        return list(zip(*results, strict=True))

    return Head(names, apply)


def output_shape(recipe: Dense | MultiVector | Sparse, n_tokens: int) -> tuple[int | None, ...]:
    """The shape that the graph's output must have for one text of `n_tokens` tokens (None = any).

    With further poolings or modules, these tell the size of the states.
    """
    free = not isinstance(recipe, Sparse) and bool(recipe.modules)
    if isinstance(recipe, MultiVector):
        return (1, n_tokens - recipe.drop_first, None if free else recipe.dimension)
    if isinstance(recipe, Sparse):
        if recipe.head == "attention":
            return (1, None, n_tokens, n_tokens)
        if recipe.head == "states":
            return (1, n_tokens, None)
        entries = recipe.vocab_size if recipe.head != "tokens" else 1
        return (1, entries) if recipe.head == "graph" else (1, n_tokens, entries)
    width = None if free else recipe.dimension // (1 + len(recipe.further_poolings or ()))
    return (1, width) if recipe.pooling == "graph" else (1, n_tokens, width)


def _to_sparse(weights: Float) -> SparseVector:
    """The entries above 0 of a row (vocab,)."""
    indices = np.flatnonzero(weights > 0)
    return SparseVector(indices.astype(np.int32), weights[indices])

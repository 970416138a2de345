"""From the graph's outputs for a batch to a result a text: the last step of each text kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError
from tessera_onnx.models.spec import Dense, MultiVector, Sparse, TokenRole
from tessera_onnx.results import SparseVector
from tessera_onnx.runtime.session import Array
from tessera_onnx.text.tokenizer import Batch, Head
from tessera_onnx.vectors import pooling, quantization
from tessera_onnx.vectors.quantization import OutputDtype

Float = NDArray[np.float32]


def dense(recipe: Dense, dimension: int) -> Head:
    """Unit vectors, one a text, cut to `dimension`."""

    def apply(outputs: list[Array], batch: Batch) -> Float:
        states = outputs[0]
        if recipe.pooling != "graph":
            states = pooling.POOLINGS[recipe.pooling](states, batch.attention)
        if dimension == recipe.dimension:
            return pooling.l2_normalize(states)
        return quantization.matryoshka(states, dimension, layer_norm=recipe.matryoshka_layer_norm)

    return Head((recipe.output,), apply, dimension)


def multi_vector(recipe: MultiVector, dimension: int, role: TokenRole) -> Head:
    """Unit token vectors, (n_tokens, dimension) a text."""

    def apply(outputs: list[Array], batch: Batch) -> list[Float]:
        kept = kept_tokens(batch, recipe, role)
        states = outputs[0][kept[:, 1:] if recipe.drop_first else kept]
        if dimension == recipe.dimension:
            vectors = pooling.l2_normalize(states)
        else:
            vectors = quantization.matryoshka(states, dimension)
        ends = np.cumsum(kept.sum(axis=1))
        # Copies: a slice would keep the vectors of the whole batch alive.
        return [part.copy() for part in np.split(vectors, ends[:-1])]

    return Head((recipe.output,), apply)


def kept_tokens(batch: Batch, recipe: MultiVector, role: TokenRole) -> NDArray[np.bool_]:
    """Positions that get a row: (b, n) bool. Every text keeps at least one."""
    real = np.arange(batch.ids.shape[1]) < batch.lengths[:, None]
    if recipe.drop_first:
        real[:, 0] = False
    kept = real & ~np.isin(batch.ids, role.skip_ids) if role.skip_ids else real
    empty = ~kept.any(axis=1)
    kept[empty] = real[empty]
    return kept


def sparse(recipe: Sparse) -> Head:
    """SparseVectors, one a text."""

    def pooled(outputs: list[Array], batch: Batch) -> list[SparseVector]:
        weights = outputs[0]
        if recipe.head == "logits":
            weights = pooling.splade(weights, batch.attention)
            weights = pooling.activate(weights, recipe.activation)
        weights[:, list(recipe.zero_ids)] = 0
        return [_sparse(row) for row in weights]

    def by_token(outputs: list[Array], batch: Batch) -> list[SparseVector]:
        # Token by token: a row of bge-m3's whole vocabulary would be a megabyte.
        vectors = []
        for row, ids, real in zip(outputs[0], batch.ids, batch.attention != 0, strict=True):
            entries, weights = pooling.largest(row[real, 0], ids[real])
            weights = pooling.activate(weights, recipe.activation)
            kept = (weights > 0) & ~np.isin(entries, recipe.zero_ids)
            kept &= entries < recipe.vocab_size
            vectors.append(SparseVector(entries[kept].astype(np.int32), weights[kept]))
        return vectors

    return Head((recipe.output,), by_token if recipe.head == "tokens" else pooled)


def lookup(table: Float) -> Head:
    """SparseVectors without inference: each distinct token once, weighed by `table` (vocab,)."""

    def apply(_: list[Array], batch: Batch) -> list[SparseVector]:
        vectors = []
        for ids, length in zip(batch.ids, batch.lengths, strict=True):
            distinct = np.unique(ids[:length])
            distinct = distinct[distinct < len(table)]
            weights = np.zeros_like(table)
            weights[distinct] = table[distinct]
            vectors.append(_sparse(weights))
        return vectors

    return Head((), apply)


def limited(head: Head, most: int) -> Head:
    """The same head, whose SparseVectors keep their `most` heaviest entries."""

    def apply(outputs: list[Array], batch: Batch) -> list[SparseVector]:
        return [heaviest(vector, most) for vector in head.apply(outputs, batch)]

    return Head(head.outputs, apply)


def heaviest(vector: SparseVector, most: int) -> SparseVector:
    """The `most` heaviest entries, those of lower ids among equal weights, in order of their ids.

    SparseEncoder.encode(max_active_dims=) of sentence-transformers, which leaves ties to chance.
    """
    if len(vector.values) <= most:
        return vector
    kept = np.sort(np.argsort(-vector.values, kind="stable")[:most])
    return SparseVector(vector.indices[kept], vector.values[kept])


def check_output(output_dtype: OutputDtype, pool_factor: int) -> None:
    """Raises before anything is encoded."""
    quantization.check_output(output_dtype)
    if isinstance(pool_factor, bool) or not isinstance(pool_factor, int):
        raise TypeError(f"pool_factor must be int, got {type(pool_factor).__name__}")
    if pool_factor < 1:
        raise ConfigError(f"pool_factor must be at least 1, got {pool_factor}")


def convert_tokens(
    tokens: Float, output_dtype: OutputDtype, pool_factor: int, *, fixed: int = 1
) -> Any:
    """Token or patch vectors (n, dim) pooled but for the first `fixed`, in the form asked for."""
    if pool_factor > 1:
        tokens = pooling.pool_tokens(tokens, pool_factor, fixed=fixed)
    return quantization.convert(tokens, output_dtype)


def combine(heads: Sequence[Head]) -> Head:
    """The results of several heads from one run of the graph: a tuple a text."""
    names = tuple(dict.fromkeys(name for head in heads for name in head.outputs))

    def apply(outputs: list[Array], batch: Batch) -> list[tuple[Any, ...]]:
        found = dict(zip(names, outputs, strict=True))
        results = [head.apply([found[name] for name in head.outputs], batch) for head in heads]
        return list(zip(*results, strict=True))

    return Head(names, apply)


def shape(recipe: Dense | MultiVector | Sparse, n_tokens: int) -> tuple[int, ...]:
    """What the recipe's output must look like for one text of `n_tokens` tokens."""
    if isinstance(recipe, MultiVector):
        return (1, n_tokens - recipe.drop_first, recipe.dimension)
    if isinstance(recipe, Sparse):
        width = recipe.vocab_size if recipe.head != "tokens" else 1
        return (1, width) if recipe.head == "graph" else (1, n_tokens, width)
    return (1, recipe.dimension) if recipe.pooling == "graph" else (1, n_tokens, recipe.dimension)


def _sparse(weights: Float) -> SparseVector:
    indices = np.flatnonzero(weights > 0)
    return SparseVector(indices.astype(np.int32), weights[indices])

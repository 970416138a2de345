"""Score vectors: cosine, dot product, sparse dot product, MaxSim. Pure NumPy, float32 sums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import TEXTS, are_texts, check_items, holds_text, is_text, plain
from tessera_onnx.errors import ConfigError, DimensionMismatch, about_item
from tessera_onnx.results import BinaryTokens, SparseVector, Vectors, check_binary
from tessera_onnx.vectors import bounds, pooling, quantization

Float = NDArray[np.float32]

# Most document tokens and pairs of one product, so that its result stays in the cache.
BLOCK_TOKENS = 4096
BLOCK_PAIRS = 1 << 22
LARGEST_TABLE = 1 << 20  # of the weights of a sparse query; the ids of words go to 2^31


def matrix(name: str, value: Vectors, least: int = 1, axes: str = "n_tokens, dim") -> Float:
    """Convert token vectors of any type to (n, dim) float32 in C order, n at least `least`.

    Int8Vectors and BinaryTokens are converted by `quantization.floats`. Raises TypeError for values
    that are not numbers, ConfigError for another rank, fewer rows, dim 0, NaN or infinity. Messages
    begin with `name` and give the shape as `axes`.
    """
    array = _array(name, value, axes)
    _check_numbers(name, value, array, axes)
    if array.ndim != 2:
        one = ": put one vector into a list" if axes == "n, dim" and array.ndim == 1 else ""
        raise ConfigError(f"{name} must have shape ({axes}), got {array.shape}{one}")
    if len(array) < least or array.shape[1] == 0:
        raise ConfigError(f"{name} has no tokens or no dimensions: shape {array.shape}")
    return _finite(name, array)


def vector(name: str, value: Vectors) -> Float:
    """Convert one vector of any type to (dim,) float32. Raises the errors of `matrix`."""
    array = _array(name, value, "dim,")
    _check_numbers(name, value, array, "dim,")
    if array.ndim != 1 or not len(array):
        raise ConfigError(f"{name} must be one vector (dim,), got shape {array.shape}")
    return _finite(name, array)


def are_vectors(value: Any) -> bool:
    """Whether a value is vectors (an array, list, Int8Vectors, BinaryTokens) and not text."""
    return not are_texts([value])


def _array(name: str, value: Any, axes: str) -> NDArray[Any]:
    """Convert vectors of any type to an array. Raises ConfigError when rows differ in length."""
    if type(value) is np.ndarray:
        return value
    quantization.check_unmasked(value, name)
    value = plain(quantization.floats(value, name))
    try:
        return np.asarray(value)
    except ValueError as error:
        wanted = f"a rectangular array ({axes})"
        if axes == "dim,":
            wanted = "one vector (dim,), got rows of several lengths"
        raise ConfigError(f"{name} must be {wanted}") from error


def _check_numbers(name: str, value: Any, array: NDArray[Any], axes: str) -> None:
    """Raises TypeError unless `array`, which was made of `value`, holds numbers of vectors.

    A sparse vector is refused, since NumPy reads its indices and values as two rows.
    """
    sparse = isinstance(value, SparseVector)
    if array.dtype.kind in "fiub" and not sparse:
        return
    if sparse:
        found = "SparseVector: TesseraSparse and PackedSparse score those"
    elif holds_text(value) or holds_text(array):
        one = is_text(value) or isinstance(value, bytes)
        found = "a text: give the vectors that `encode_query` or `encode_batch` makes of it"
        if not one:
            found = (
                "a list or array of texts: give one text's vectors, as `encode_query` makes them"
            )
    elif array.dtype.names:
        found = "records: give one field of it"
    else:
        found = type(value).__name__ if array.dtype == object else f"dtype {array.dtype}"
    raise TypeError(f"{name} must be a numeric array ({axes}), got {found}")


def _finite(name: str, array: NDArray[Any]) -> Float:
    with np.errstate(over="ignore", under="ignore"):  # numbers beyond float32 become infinity
        array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise ConfigError(f"{name} holds NaN or infinity")
    return array


def check_scores(scores: Float) -> Float:
    """The scores of finite vectors. Raises ConfigError when they exceed float32."""
    if not np.isfinite(scores).all():
        raise ConfigError("the scores exceed float32: normalise the vectors, or scale them down")
    return scores


def check_several(items: Any, name: str, expected: str) -> None:
    """Raises TypeError for a single item, or for a container that `checks.check_items` refuses.

    `expected` says in the message what the items are.
    """
    check_items(items, name, expected)
    if expected.endswith("token vectors") and isinstance(items, np.ndarray) and items.ndim == 2:
        raise TypeError(
            f"{name} must be a list of {expected}, got one array of shape {items.shape}: put it "
            "into a list"
        )


def maxsim(query: Vectors, document: Vectors) -> float:
    """MaxSim of a query and a document: the sum over query rows of the largest dot product.

    query (n, dim) and document (m, dim) of any numeric dtype, computed in float32; the result of
    unit rows lies in [-n, n]. Pass no padding: a zero row wins over rows with a negative product.
    Raises DimensionMismatch when the dims differ, ConfigError for another rank, no rows, NaN or
    infinity, or a result beyond float32, TypeError for text. ColBERT, arXiv:2004.12832.
    """
    return float(maxsim_scores(query, [document])[0])


def maxsim_scores(query: Vectors, documents: Sequence[Vectors]) -> Float:
    """MaxSim of one query (n, dim) with each document (m_i, dim): (len(documents),) float32.

    Raises the errors of `maxsim`, naming the document.
    """
    check_several(documents, "documents", "token vectors")
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        scores: Float = _maxsim([matrix("query", query)], [query], list(documents))[0]
    return check_scores(scores)


def maxsim_matrix(queries: Sequence[Vectors], documents: Sequence[Vectors]) -> Float:
    """MaxSim of each query with each document: (len(queries), len(documents)) float32.

    The documents are read once for all queries. Raises the errors of `maxsim`, naming the item.
    """
    check_several(queries, "queries", "token vectors")
    check_several(documents, "documents", "token vectors")
    matrices = []
    for i, query in enumerate(queries):
        with about_item(i):
            matrices.append(matrix(f"queries[{i}]", query))
    if any(rows.shape[1] != matrices[0].shape[1] for rows in matrices):
        raise DimensionMismatch("all queries must have the same number of dims")
    several = list(documents)
    if not matrices:
        return np.empty((0, len(several)), dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return check_scores(_maxsim(matrices, queries, several))


def _maxsim(
    queries: Sequence[Float], given: Sequence[Vectors], documents: Sequence[Vectors]
) -> Float:
    """MaxSim (queries, documents): for each block of documents one product and two reductions.

    `given` are the queries as the caller gave them.
    """
    tokens = np.concatenate(queries) if len(queries) > 1 else queries[0]
    starts = np.cumsum([0, *(len(query) for query in queries[:-1])])
    size = max(1, min(BLOCK_TOKENS, BLOCK_PAIRS // len(tokens)))
    scores = np.empty((len(queries), len(documents)), dtype=np.float32)
    for first, block in _blocks(documents, tokens.shape[1], size):
        rows = np.concatenate(block) if len(block) > 1 else block[0]
        ends = np.cumsum([len(document) for document in block])
        similarities = rows @ tokens.T
        best = np.maximum.reduceat(similarities, np.concatenate([[0], ends[:-1]]), axis=0)
        found = np.add.reduceat(best, starts, axis=1).T
        end = first + len(block)
        bounds.limit_sums(found, queries, block, (given, documents[first:end]))
        scores[:, first:end] = found
    return scores


def _blocks(documents: Sequence[Vectors], dim: int, size: int) -> Iterator[tuple[int, list[Float]]]:
    """Blocks of about `size` document tokens: (index of the first document, documents)."""
    block: list[Float] = []
    tokens = start = 0
    for i, document in enumerate(documents):
        with about_item(i):
            rows = matrix(f"documents[{i}]", document)
            if rows.shape[1] != dim:
                raise DimensionMismatch(f"documents[{i}] has {rows.shape[1]} dims, the query {dim}")
        if block and tokens + len(rows) > size:
            yield start, block
            block, tokens, start = [], 0, i
        block.append(rows)
        tokens += len(rows)
    if block:
        yield start, block


def maxsim_binary(query: BinaryTokens, document: BinaryTokens) -> float:
    """MaxSim of sign bits, with 1 - 2 x Hamming distance / dim as the similarity of a pair.

    That is the cosine of the vectors of +1 and -1, so the result of n query rows lies in [-n, n].
    Raises DimensionMismatch when the dims differ, ConfigError when either has no rows, TypeError
    for other types than BinaryTokens.
    """
    for name, tokens in (("query", query), ("document", document)):
        check_binary(tokens, name)
    nearest = quantization.hamming(query, document).min(axis=1)
    return float((1 - 2 * nearest / query.dim).sum())


def cosine(a: Vectors, b: Vectors) -> float:
    """Cosine similarity of two vectors (dim,), in [-1, 1]; 0 when either is zero.

    Raises DimensionMismatch when the dims differ, ConfigError for another rank, NaN or infinity,
    TypeError for values that are not numbers.
    """
    left, right = vector("a", a), vector("b", b)
    if left.shape != right.shape:
        raise DimensionMismatch(f"the vectors have {len(left)} and {len(right)} dims")
    # In float64, which holds the square of every float32.
    first, second = left.astype(np.float64), right.astype(np.float64)
    norms = float(np.linalg.norm(first)) * float(np.linalg.norm(second))
    # By rounding, the cosine of a vector with itself may be above 1.
    return min(1.0, max(-1.0, float(first @ second) / norms)) if norms > 0 else 0.0


def dense_scores(query: Any, documents: Any, similarity: str = "dot") -> Float:
    """Scores of one vector (dim,) with n others: (n,) float32, the higher the more alike.

    `similarity` is "dot", in [-1, 1] for unit vectors; "cosine"; or "euclidean" or "manhattan",
    whose distances are negated (sentence_transformers.util.SimilarityFunction). `documents` is an
    array (n, dim) or a list of n vectors; n may be 0. Both may be Int8Vectors or BinaryTokens,
    which are converted by `quantization.floats`. Raises DimensionMismatch when the dims differ,
    ConfigError for another rank, NaN, infinity or scores beyond float32, TypeError for values that
    are not numbers.
    """
    left = vector("query", query)
    if isinstance(documents, list | tuple):
        rows = []
        for i, document in enumerate(documents):
            with about_item(i):
                row = vector(f"documents[{i}]", document)
                if len(row) != len(left):
                    raise DimensionMismatch(
                        f"documents[{i}] has {len(row)} dims, the query {len(left)}"
                    )
            rows.append(row)
        right = np.stack(rows) if rows else np.empty((0, len(left)), np.float32)
    else:
        right = matrix("documents", documents, least=0, axes="n, dim")
        if right.shape[1] != len(left):
            raise DimensionMismatch(f"documents have {right.shape[1]} dims, the query {len(left)}")
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if similarity == "euclidean":
            return check_scores(-np.sqrt(np.square(right - left).sum(axis=1)))
        if similarity == "manhattan":
            return check_scores(-np.abs(right - left).sum(axis=1))
        if similarity == "cosine":
            left, right = pooling.l2_normalize(left), pooling.l2_normalize(right)
        scores = right @ left
        bounds.limit(scores[:, None], right, left[None], (documents, query))
        return check_scores(scores)


def check_sparse(vector: Any, name: str, size: int = 1 << 31) -> SparseVector:
    """Convert a pair (indices, values) to a SparseVector of int32 and float32; both may be empty.

    Raises TypeError for anything else, ConfigError for indices that do not ascend or lie outside
    0..size - 1, for another number of values, and for NaN or infinity. Messages begin with `name`.
    """
    wrong = f"{name} must be a SparseVector or (indices, values), got {type(vector).__name__}"
    if holds_text(vector):
        raise TypeError(f"{wrong} of text: give what `encode_query` or `encode_batch` makes of it")
    if isinstance(vector, Mapping | AbstractSet):  # a dict of two keys would unpack as a pair
        raise TypeError(f"{wrong}: give SparseVector(indices, values)")
    try:
        pair = tuple(vector)
        indices, values = (np.asarray(part) for part in pair)
    except (TypeError, ValueError):
        raise TypeError(wrong) from None
    for part in pair:
        quantization.check_unmasked(part, name)
    if not (indices.ndim and values.ndim):  # such as the names of two columns of a data frame
        raise TypeError(wrong)
    if indices.ndim != 1 or indices.shape != values.shape:
        raise ConfigError(f"{name} has indices {indices.shape} and values {values.shape}")
    if len(indices) and (indices.dtype.kind not in "iu" or values.dtype.kind not in "fiu"):
        raise TypeError(f"{name} must hold whole indices and numeric values")
    if len(indices) and (indices[0] < 0 or (indices[1:] <= indices[:-1]).any()):
        raise ConfigError(f"{name}: indices must ascend and be at least 0")
    if len(indices) and indices[-1] >= size:  # int32 would change it to another index
        raise ConfigError(f"{name}: index {indices[-1]} lies outside the vocabulary of {size}")
    # Copies, since a stream may reuse one buffer for all its vectors.
    return SparseVector(indices.astype(np.int32), _finite(name, values).copy())


def check_sparse_documents(documents: Any, size: int = 1 << 31) -> list[SparseVector]:
    """Each document as a SparseVector. Raises as `check_sparse`, with the document's index."""
    checked = []
    for i, document in enumerate(documents):
        with about_item(i):
            checked.append(check_sparse(document, f"documents[{i}]", size))
    return checked


def sparse_scores(
    query: SparseVector, documents: Sequence[SparseVector], size: int = 1 << 31
) -> Float:
    """Dot products of one sparse vector with each document: (len(documents),) float32.

    A vector without entries scores 0. Indices lie in 0..size - 1. Raises the errors of
    `check_sparse`, and ConfigError for scores beyond float32.
    """
    query = check_sparse(query, "query", size)
    check_several(documents, "documents", "sparse vectors")
    checked = check_sparse_documents(documents, size)
    scores = np.zeros(len(checked), dtype=np.float32)
    lengths = np.array([len(vector.indices) for vector in checked], dtype=np.int64)
    filled = np.flatnonzero(lengths)
    if len(filled) and len(query.indices):
        indices = np.concatenate([vector.indices for vector in checked])
        weights = _weights_of(query, indices)
        values = np.concatenate([vector.values for vector in checked])
        starts = np.cumsum(np.concatenate([[0], lengths[filled][:-1]]))
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            scores[filled] = np.add.reduceat(weights * values, starts)
    return check_scores(scores)


def _weights_of(query: SparseVector, indices: NDArray[np.int32]) -> Float:
    """The query's weight of each index, 0 for one that it lacks; the query has entries."""
    beyond = int(query.indices[-1]) + 1
    if beyond <= LARGEST_TABLE:  # twice as fast as a search
        table = np.zeros(beyond + 1, dtype=np.float32)  # the last: all ids above the query's
        table[query.indices] = query.values
        return table[np.minimum(indices, beyond)]
    places = np.minimum(np.searchsorted(query.indices, indices), len(query.indices) - 1)
    found = query.indices[places] == indices
    return np.where(found, query.values[places], np.float32(0))


def as_list(documents: Any, expected: str = "texts or vectors") -> list[Any]:
    """Texts or vectors as a list, with Arrow scalars as their Python values.

    Raises TypeError for a single text, or for a container that `checks.check_items` refuses.
    """
    texts = isinstance(documents, np.ndarray) and holds_text(documents)
    check_several(documents, "documents", TEXTS if texts else expected)
    return [plain(document) for document in documents]

"""PackedDense: an index of dense vectors that is searched by exact dot product."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError, DimensionMismatch, about_item
from tessera_onnx.results import BinaryTokens, Int8Vectors, Vectors, check_binary
from tessera_onnx.search import block_file, blocks
from tessera_onnx.search.vector_index import State, VectorIndex
from tessera_onnx.vectors import quantization, scoring
from tessera_onnx.vectors.quantization import OutputDtype


class PackedDense(VectorIndex):
    """An index of dense vectors, searched exhaustively by dot product.

    >>> index = PackedDense(model.encode_iter(texts))
    >>> index.search(model.encode_query(["a question"]), top_k=10)

    The smaller forms take less memory and time, and find candidates for the exact one:

    >>> coarse = PackedDense(model.encode_iter(texts), output_dtype="binary")
    >>> index.search(queries, candidates=coarse.search(queries, 100))

    float32 gives the dot products, which are cosines for unit vectors. int8 takes a quarter of the
    memory; document components are rounded to 8 bits, query components to 7. binary takes a
    thirty-second; a score is 1 - 2 x Hamming distance / dim, the cosine of the vectors of +1 and
    -1. Numbers, ids and threads are as in PackedTokens, of which this is the case of one vector per
    document.
    """

    _FORMAT = block_file.DENSE

    def __init__(
        self,
        documents: Iterable[Vectors] | Vectors = (),
        *,
        ids: Iterable[str] | None = None,
        output_dtype: OutputDtype = "float32",
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        """Build an index of documents: an array (n, dim), or an iterable of vectors (dim,).

        An array, Int8Vectors or BinaryTokens of n vectors is the fastest. Int8Vectors are
        dequantized; BinaryTokens need output_dtype="binary". The other arguments and the errors are
        those of PackedTokens.
        """
        self._open(output_dtype, device, threads)
        self.add(documents, ids=ids)

    def add(
        self, documents: Iterable[Vectors] | Vectors, *, ids: Iterable[str] | None = None
    ) -> None:
        """Add documents, in the forms of the constructor; their numbers follow those in the index.

        `ids` holds one str per document if the documents in the index have ids, and is None
        otherwise. Raises TypeError or ConfigError naming the document or id, ConfigError for NaN or
        infinity, DimensionMismatch for another dim, ConfigError when another call changed the index
        meanwhile. After an error nothing is added.
        """
        before = self._state
        dim, segments, current = before
        if not isinstance(documents, Int8Vectors | BinaryTokens):
            scoring.check_several(documents, "documents", "vectors")
        new_ids = current.check(ids, documents)
        kept = [block for segment in segments for block in segment]
        count = 0
        for rows in _chunks(documents, self._output_dtype, dim):
            dim = rows.dim if isinstance(rows, BinaryTokens) else rows.shape[1]
            block = _block(rows, self._output_dtype, current.count + count)
            count += len(rows)
            # Each merge makes a block half as large again, so there are few merges.
            while kept and _are_small(kept[-1], block):
                block = blocks.join(kept.pop(), block)
            kept.append(block)
        after = (tuple(kept),) if kept else ()
        self._replace_state(before, lambda: State(dim, after, current.added(count, new_ids)))

    def _items(self, items: Any, name: str) -> list[Any]:
        if isinstance(items, Int8Vectors | BinaryTokens):
            return _split(items, name)
        scoring.check_several(items, name, "vectors")
        return list(items)

    def _rows(self, query: Any, name: str) -> Any:
        if isinstance(query, BinaryTokens) and self._output_dtype == "binary":
            single = isinstance(query.bits, np.ndarray) and query.bits.ndim == 1
            return BinaryTokens(query.bits[None], query.dim) if single else query
        return scoring.vector(name, query)[None]


def _are_small(left: blocks.Block, right: blocks.Block) -> bool:
    n, more = len(left.numbers), len(right.numbers)
    return n <= 2 * more and n + more <= blocks.BLOCK_TOKENS


def _split(vectors: Int8Vectors | BinaryTokens, name: str) -> list[Any]:
    """Each of n quantized vectors."""
    if isinstance(vectors, BinaryTokens):
        check_binary(vectors, name, least=0)
        return [BinaryTokens(row, vectors.dim) for row in vectors.bits]
    return list(scoring.matrix(name, vectors, least=0, axes="n, dim"))


def _chunks(
    documents: Any, output_dtype: OutputDtype, dim: int | None
) -> Iterator[NDArray[np.float32] | BinaryTokens]:
    """The documents as arrays (n, dim) float32 or BinaryTokens, each of one block at most.

    `dim` is that of the documents in the index, if any.
    """
    size = blocks.BLOCK_TOKENS
    whole: Any = documents
    if isinstance(documents, BinaryTokens):
        if output_dtype != "binary":
            raise ConfigError(
                f"documents hold sign bits, the index is {output_dtype}: pass float vectors"
            )
        check_binary(documents, "documents", least=0)
        _check_dim(documents.dim, dim, "documents have")
        for start in range(0, len(documents), size):
            yield BinaryTokens(documents.bits[start : start + size], documents.dim)
        return
    if isinstance(documents, Int8Vectors):
        whole = scoring.matrix("documents", documents, least=0, axes="n, dim")
    if isinstance(whole, np.ndarray) and whole.dtype.kind in "fiub" and whole.ndim == 2:
        _check_dim(whole.shape[1], dim, "documents have")
        for start in range(0, len(whole), size):
            yield _checked(whole[start : start + size], start)
        return
    yield from _stacked(documents, output_dtype, dim, size)


def _checked(rows: NDArray[Any], first: int) -> NDArray[np.float32]:
    """Rows as float32. Raises as `scoring.vector`, with the number of the document."""
    with np.errstate(over="ignore", invalid="ignore"):
        whole = np.isfinite(rows.astype(np.float32)).all(axis=1)
    if np.ma.is_masked(rows) or not whole.all() or not rows.shape[1]:
        for i, row in enumerate(rows):
            with about_item(first + i):
                scoring.vector(f"documents[{first + i}]", row)
    return np.ascontiguousarray(rows, np.float32)


def _stacked(
    documents: Iterable[Any], output_dtype: OutputDtype, dim: int | None, size: int
) -> Iterator[NDArray[np.float32] | BinaryTokens]:
    """Single vectors of a stream, joined to arrays of `size`."""
    rows: list[Any] = []

    def joined() -> NDArray[np.float32] | BinaryTokens:
        return (
            np.stack(rows) if output_dtype != "binary" else BinaryTokens(np.stack(rows), dim or 0)
        )

    for i, document in enumerate(documents):
        with about_item(i):
            row, found = _one(document, output_dtype, f"documents[{i}]")
            _check_dim(found, dim, f"documents[{i}] has", "those before it")
        dim = found
        rows.append(row)
        if len(rows) == size:
            yield joined()
            rows.clear()
    if rows:
        yield joined()


def _one(document: Any, output_dtype: OutputDtype, name: str) -> tuple[NDArray[Any], int]:
    """One vector as float32 (dim,) or, for "binary", as bits (bytes,); with its dim."""
    if not isinstance(document, BinaryTokens):
        row = scoring.vector(name, document)
        if output_dtype == "binary":
            return quantization.binary(row).bits, len(row)
        return row.copy(), len(row)  # a stream may reuse one buffer for all its vectors
    if output_dtype != "binary":
        raise ConfigError(f"{name} holds sign bits, the index is {output_dtype}: pass floats")
    single = isinstance(document.bits, np.ndarray) and document.bits.ndim == 1
    if not single:
        raise ConfigError(f"{name} must hold the bits of one vector (bytes,)")
    check_binary(BinaryTokens(document.bits[None], document.dim), name)
    return document.bits.copy(), document.dim


def _check_dim(found: int, dim: int | None, subject: str, others: str = "those before") -> None:
    if dim not in (None, found):
        raise DimensionMismatch(f"{subject} {found} dims, {others} {dim}")


def _block(
    rows: NDArray[np.float32] | BinaryTokens, output_dtype: OutputDtype, first: int
) -> blocks.Block:
    """A block of documents of one token each, numbered from `first`."""
    n = len(rows)
    numbers = np.arange(first, first + n)
    tokens: NDArray[Any]
    scales = np.ones(n, np.float32)
    if output_dtype == "binary":
        bits = rows if isinstance(rows, BinaryTokens) else quantization.binary(rows)
        tokens = np.ascontiguousarray(blocks.bit_words(bits).T[:, :, None])
    elif output_dtype == "int8":
        tokens, scales = blocks.byte_codes(np.asarray(rows)[:, None, :])
    else:
        tokens = np.array(rows, np.float32)[:, None, :]  # a copy: the caller may change the array
    return blocks.Block(tokens, np.ones(n, np.int64), numbers, scales)

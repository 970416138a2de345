"""VectorIndex: what the indexes of dense and of token vectors share, once documents are blocks."""

from __future__ import annotations

import abc
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import check_top_k
from tessera_onnx.errors import ConfigError, DimensionMismatch, about_item
from tessera_onnx.results import BinaryTokens, Ranked, Vectors, check_binary, ranking
from tessera_onnx.runtime import cpu
from tessera_onnx.search import block_file, blocks, kernels
from tessera_onnx.search.blocks import Block
from tessera_onnx.search.document_ids import DocumentIds, DocumentIndex, Numbers
from tessera_onnx.search.index_file import Format
from tessera_onnx.vectors import quantization, scoring
from tessera_onnx.vectors.quantization import OutputDtype

Float = NDArray[np.float32]
Segment = tuple[Block, ...]  # blocks of documents that were sorted by length together
SCORES = 1 << 24  # of one product of several queries: 64 MB


class State(NamedTuple):
    """The documents of an index at one time."""

    dim: int | None
    segments: tuple[Segment, ...]
    ids: DocumentIds


class VectorIndex(DocumentIndex):
    """The base class of PackedTokens and PackedDense, which differ in the vectors that they take.

    A query is (n_tokens, dim) for PackedTokens and (dim,) for PackedDense.
    """

    _FORMAT: ClassVar[Format]  # of its files

    _output_dtype: OutputDtype
    _device: str
    _threads: int
    _state: State

    def _open(self, output_dtype: OutputDtype, device: str, threads: int | None) -> None:
        """Check and keep the options of the constructor, and begin without documents."""
        quantization.check_output(output_dtype)
        kernels.check_device(output_dtype, device)
        self._output_dtype = output_dtype
        self._device = device
        self._threads = cpu.cpu_threads(threads)
        self._state = State(None, (), DocumentIds())

    @abc.abstractmethod
    def add(self, documents: Any, *, ids: Iterable[str] | None = None) -> None:
        """Add documents; their numbers follow those in the index."""

    def remove(self, documents: Iterable[str | int]) -> None:
        """Remove documents, each named by its id or number; the others keep their numbers.

        A boolean array with one value per number names the documents at which it is True. Naming a
        document twice is allowed. Raises TypeError or ConfigError naming an item that is no
        document of this index, and ConfigError when another call changed the index meanwhile. After
        an error nothing is removed.
        """
        before = self._state
        numbers = before.ids.find(documents, "documents")
        removed = np.zeros(before.ids.count, dtype=bool)
        removed[numbers] = True
        left = (tuple(blocks.remove_documents(each, removed)) for each in before.segments)
        segments = tuple(segment for segment in left if segment)
        dim = before.dim if segments else None
        self._replace_state(before, lambda: State(dim, segments, before.ids.without(numbers)))

    def score(self, query: Vectors) -> Float:
        """The scores of one query with each document: (count,) float32.

        scores[i] is that of the document with number i; a removed document scores -inf. `count` is
        how many documents were ever added. Raises the errors of `score_batch`.
        """
        state = self._state
        scores: Float = self._scores(state, [self._query(state, query, "query")], [query])[0]
        return scores

    def score_batch(self, queries: Sequence[Vectors]) -> Float:
        """The scores of each query with each document: (len(queries), count) float32.

        Each block is read once for all queries. Raises TypeError or ConfigError naming a query that
        is not an array of numbers of the right rank, has no rows, NaN or infinity,
        DimensionMismatch for another dim than that of the documents, EncodingError when ONNX
        Runtime fails.
        """
        state, given = self._state, self._items(queries, "queries")
        return self._scores(state, self._queries(state, given), given)

    def rank(
        self,
        query: Vectors,
        top_k: int | None = None,
        *,
        subset: Iterable[str | int | Ranked] | None = None,
    ) -> list[Ranked]:
        """Rank documents by their score with one query, highest first: the `top_k` best, or all.

        `subset` names the documents to rank, in the forms of `remove` or as rows of a ranking; the
        others are not scored. Each row has the document's number as `index`, its `score` and its
        `id`. Raises the errors of `score_batch`.
        """
        check_top_k(top_k, 0)
        state = self._state
        checked = self._query(state, query, "query")
        numbers = None if subset is None else state.ids.find(subset, "subset")
        return self._ranked(state, (checked, query), top_k, numbers)

    def _search_all(self, queries: list[Any], top_k: int | None) -> list[list[Ranked]]:
        state = self._state
        found = self._queries(state, queries)
        step = max(1, SCORES // max(1, state.ids.count))
        numbers, names = state.ids.live(), state.ids.names()
        rankings: list[list[Ranked]] = []
        for first in range(0, len(found), step):
            part = slice(first, first + step)
            scores = self._scores(state, found[part], queries[part])
            rankings += [ranking(row, top_k, numbers, names) for row in scores]
        return rankings

    def _search_some(
        self, query: Any, top_k: int | None, candidates: Any, number: int
    ) -> list[Ranked]:
        state = self._state
        numbers = state.ids.find(candidates, f"candidates[{number}]")
        checked = self._query(state, query, f"queries[{number}]")
        return self._ranked(state, (checked, query), top_k, numbers)

    def _ranked(
        self,
        state: State,
        query: tuple[NDArray[Any], Any],
        top_k: int | None,
        subset: Numbers | None,
    ) -> list[Ranked]:
        """The ranking of the `subset`, or of all documents.

        `query` is as `_query` makes it, and as the caller gave it.
        """
        scores = self._scores(state, [query[0]], [query[1]], subset)[0]
        numbers = state.ids.live() if subset is None else subset
        return ranking(scores, top_k, numbers, state.ids.names())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index, with ids and numbers, to one file of .npy arrays; no pickle.

        The file is written whole or not at all. Raises ConfigError for an empty index, FileError
        when the file cannot be written.
        """
        dim, segments, ids = self._state
        if dim is None:
            raise ConfigError("this index holds no documents: there is nothing to save")
        block_file.write_index(
            Path(path), self._FORMAT, _flat(segments), self._output_dtype, dim, ids=ids
        )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        verify: bool = False,
        device: str = "cpu",
        threads: int | None = None,
    ) -> Self:
        """Open a file that `save` wrote; its vectors are memory-mapped.

        Sizes and the checksum of all but the vectors are checked; `verify` reads the vectors too,
        for their checksum. `device` and `threads` are those of the constructor. Raises FileError
        when the file cannot be read, IntegrityError when it is damaged, LoadError when it is
        another kind of file or of a later version.
        """
        found, output, dim, ids = block_file.read_index(Path(path), cls._FORMAT, verify=verify)
        index = object.__new__(cls)
        index._open(output, device, threads)
        index._state = State(dim, (tuple(found),), ids)
        return index

    @property
    def output_dtype(self) -> OutputDtype:
        """How the documents are stored: "float32", "int8" or "binary"."""
        return self._output_dtype

    @property
    def nbytes(self) -> int:
        """Size of all blocks in bytes, with padding."""
        return sum(block.tokens.nbytes for block in _flat(self._state.segments))

    def dimension(self) -> int | None:
        """Number of dimensions of a vector; None while the index is empty."""
        dim: int | None = self._state.dim
        return dim

    def __repr__(self) -> str:
        name, dim = type(self).__name__, self._state.dim
        return f"{name}({len(self)} documents, dimension={dim}, {self._output_dtype})"

    def _queries(self, state: State, queries: list[Any]) -> list[NDArray[Any]]:
        """Several queries as `_query` makes them."""
        found = []
        for i, query in enumerate(queries):
            with about_item(i):
                found.append(self._query(state, query, f"queries[{i}]"))
        return found

    @abc.abstractmethod
    def _rows(self, query: Any, name: str) -> Any:
        """The vectors of a query, (n, dim) float32 or BinaryTokens, checked."""

    def _query(self, state: State, query: Any, name: str) -> NDArray[Any]:
        """A query in the form of the kernels: (n, dim) float32, or (n, words) of sign bits."""
        rows = self._rows(query, name)
        if self._output_dtype == "binary":
            bits = rows if isinstance(rows, BinaryTokens) else quantization.binary(rows)
            check_binary(bits, name)
            _check_dim(state, bits.dim, name)
            return blocks.bit_words(bits)
        if isinstance(rows, BinaryTokens):
            raise ConfigError(
                f"{name} holds sign bits, the index is {self._output_dtype}: pass floats"
            )
        _check_dim(state, rows.shape[1], name)
        return np.asarray(rows)

    def _scores(
        self,
        state: State,
        queries: Sequence[NDArray[Any]],
        given: Sequence[Any],
        numbers: Numbers | None = None,
    ) -> Float:
        """Scores (queries, count); with `numbers`, only those of these documents are right.

        `given` are the queries as the caller gave them.
        """
        count = state.ids.count
        found = _flat(state.segments)
        removed = ~state.ids.mask()
        if numbers is not None:
            wanted = np.zeros(count, dtype=bool)
            wanted[numbers] = True
            found = blocks.select_documents(found, wanted)
        if state.dim is None or not queries or not found:
            scores = np.zeros((len(queries), count), dtype=np.float32)
            scores[:, removed] = -np.inf
            return scores
        kernel, workers = kernels.choose_kernel(
            self._output_dtype, state.dim, self._device, self._threads
        )
        tiles = kernels.query_tiles(queries, self._output_dtype, state.dim)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            scores = kernels.score_blocks(found, tiles, kernel, (len(queries), count), workers)
        scoring.check_scores(scores)
        kernels.clip_scores(scores, found, queries, self._output_dtype, given)
        for block in found:
            blank = block.numbers[block.lengths == 0]
            if len(blank):
                scores[:, blank] = [[-len(query)] for query in queries]
        scores[:, removed] = -np.inf
        return scores


def _check_dim(state: State, found: int, name: str) -> None:
    if state.dim not in (None, found):
        raise DimensionMismatch(f"{name} has {found} dims, the documents {state.dim}")


def _flat(segments: Sequence[Segment]) -> list[Block]:
    return [block for segment in segments for block in segment]

"""PackedTokens: an index of token vectors that is searched by exact MaxSim."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import check_top_k
from tessera_onnx.errors import ConfigError, DimensionMismatch, about_item
from tessera_onnx.results import BinaryTokens, Ranked, Vectors, check_binary, ranking
from tessera_onnx.runtime import cpu
from tessera_onnx.search import blocks, kernels
from tessera_onnx.search.blocks import Block
from tessera_onnx.search.document_ids import DocumentIds, DocumentIndex, Numbers
from tessera_onnx.vectors import quantization, scoring
from tessera_onnx.vectors.quantization import OutputDtype

Float = NDArray[np.float32]
Segment = tuple[Block, ...]  # blocks of documents that were sorted by length together


class _State(NamedTuple):
    dim: int | None
    segments: tuple[Segment, ...]
    ids: DocumentIds


class PackedTokens(DocumentIndex):
    """An index of the token vectors of documents, searched exhaustively by MaxSim (ColBERT).

    >>> index = PackedTokens(model.encode_iter(texts))
    >>> index.rank(model.encode_query("a question"), top_k=10)

    Documents are numbered in the order in which they are added, and keep their numbers when others
    are removed. Either all documents have ids or none has. Where a document is named, a str is an
    id and an int is a number.

    float32 gives the scores of `scoring.maxsim_scores`. int8 takes a quarter of the memory and
    about half of the time; document components are rounded to 8 bits, query components to 7. binary
    takes a thirty-second of the memory and gives the scores of `scoring.maxsim_binary`. Scores of
    unit vectors lie in [-n, n] for n query tokens. A document without tokens, such as a blank page,
    scores -n. Several threads may score at the same time, also while one adds or removes documents.
    """

    def __init__(
        self,
        documents: Iterable[Vectors] = (),
        *,
        ids: Iterable[str] | None = None,
        output_dtype: OutputDtype = "float32",
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        """Build an index of documents, each (n_tokens, dim) of any numeric dtype.

        n_tokens may be 0. Int8Vectors are dequantized; BinaryTokens need output_dtype="binary".
        `ids` holds one str per document, all different. `device` is "cpu", "auto" or a GPU such as
        "cuda:0", to which float32 blocks are copied at each call. `threads` is the number of CPU
        threads; None takes TESSERA_THREADS, else the affinity and cgroup quota. Raises the errors
        of `add`, and ConfigError for an unknown `output_dtype` or for "int8" and "binary" on a GPU.
        """
        quantization.check_output(output_dtype)
        kernels.check_device(output_dtype, device)
        self._output_dtype: OutputDtype = output_dtype
        self._device = device
        self._threads = cpu.cpu_threads(threads)
        self._state = _State(None, (), DocumentIds())
        self.add(documents, ids=ids)

    def add(self, documents: Iterable[Vectors], *, ids: Iterable[str] | None = None) -> None:
        """Add documents; their numbers follow those in the index.

        `ids` holds one str per document if the documents in the index have ids, and is None
        otherwise. Small additions are merged, so a document is copied a few times at most. Raises
        TypeError or ConfigError naming the document or id, ConfigError for NaN or infinity,
        DimensionMismatch for another dim, ConfigError when another call changed the index
        meanwhile. After an error nothing is added.
        """
        scoring.check_several(documents, "documents", "token vectors")
        before = self._state
        dim, segments, current = before
        new_ids = current.check(ids, documents)
        kept = list(segments)
        count = 0
        for found, found_dim in blocks.store_documents(
            documents, self._output_dtype, current.count, dim
        ):
            stored, dim = found, found_dim
            count += len(stored)
            # Each merge at least doubles the segment of a document, so there are few merges.
            while kept and _tokens(kept[-1]) <= min(2 * _total(stored), blocks.SEGMENT_TOKENS // 2):
                stored = [each for block in kept.pop() for each in block.documents()] + stored
            kept.append(tuple(blocks.build_blocks(stored)))
        self._replace_state(before, lambda: _State(dim, tuple(kept), current.added(count, new_ids)))

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
        self._replace_state(before, lambda: _State(dim, segments, before.ids.without(numbers)))

    def score(self, query: Vectors) -> Float:
        """MaxSim of one query (n, dim) with each document: (count,) float32.

        scores[i] is that of the document with number i; a removed document scores -inf. `count` is
        how many documents were ever added. Raises the errors of `score_batch`.
        """
        state = self._state
        scores: Float = self._scores(state, [self._query(state, query, "query")], [query])[0]
        return scores

    def score_batch(self, queries: Sequence[Vectors]) -> Float:
        """MaxSim of each query with each document: (len(queries), count) float32, as in `score`.

        Each block is read once for all queries. Raises TypeError or ConfigError naming a query that
        is not an (n, dim) array, has no rows, NaN or infinity, DimensionMismatch for another dim
        than that of the documents, EncodingError when ONNX Runtime fails.
        """
        scoring.check_several(queries, "queries", "token vectors")
        state, given = self._state, list(queries)
        found = []
        for i, query in enumerate(given):
            with about_item(i):
                found.append(self._query(state, query, f"queries[{i}]"))
        return self._scores(state, found, given)

    def rank(
        self,
        query: Vectors,
        top_k: int | None = None,
        *,
        subset: Iterable[str | int] | None = None,
    ) -> list[Ranked]:
        """Rank documents by MaxSim with one query (n, dim): the `top_k` best, or all.

        `subset` names the documents to rank, in the forms of `remove`; the others are not scored.
        Each row has the document's number as `index`, its `score` and its `id`. Raises the errors
        of `score_batch`.
        """
        check_top_k(top_k, 0)
        state = self._state
        tokens = self._query(state, query, "query")
        ids = state.ids
        if subset is None:
            numbers, scores = ids.live(), self._scores(state, [tokens], [query])[0]
        else:
            numbers = ids.find(subset, "subset")
            scores = self._scores(state, [tokens], [query], numbers)[0]
        return ranking(scores, top_k, numbers, ids.by_number if ids.has_ids else ())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index, with ids and numbers, to one file of .npy arrays; no pickle.

        The file is written whole or not at all. Raises ConfigError for an empty index, FileError
        when the file cannot be written.
        """
        from tessera_onnx.search import token_file

        dim, segments, ids = self._state
        if dim is None:
            raise ConfigError("this index holds no documents: there is nothing to save")
        token_file.write_index(Path(path), _flat(segments), self._output_dtype, dim, ids)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        verify: bool = False,
        device: str = "cpu",
        threads: int | None = None,
    ) -> Self:
        """Open a file that `save` wrote; its tokens are memory-mapped.

        Sizes and the checksum of all but the tokens are checked; `verify` reads the tokens too, for
        their checksum. `device` and `threads` are those of the constructor. Raises FileError when
        the file cannot be read, IntegrityError when it is damaged, LoadError when it is another
        kind of file or of a later version.
        """
        from tessera_onnx.search import token_file

        found, output, dim, ids = token_file.read_index(Path(path), verify=verify)
        index = cls(output_dtype=output, device=device, threads=threads)
        index._state = _State(dim, (tuple(found),), ids)
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
        """Number of dimensions of a token vector; None while the index is empty."""
        dim: int | None = self._state.dim
        return dim

    def __repr__(self) -> str:
        dim = self._state.dim
        return f"PackedTokens({len(self)} documents, dimension={dim}, {self._output_dtype})"

    def _query(self, state: _State, query: Any, name: str) -> NDArray[Any]:
        if self._output_dtype == "binary":
            bits = query
            if not isinstance(query, BinaryTokens):
                bits = quantization.binary(scoring.matrix(name, query))
            check_binary(bits, name)
            _check_dim(state, bits.dim, name)
            return blocks.bit_words(bits)
        if isinstance(query, BinaryTokens):
            raise ConfigError(
                f"{name} holds sign bits, the index is {self._output_dtype}: pass floats"
            )
        tokens = scoring.matrix(name, query)
        _check_dim(state, tokens.shape[1], name)
        return tokens

    def _scores(
        self,
        state: _State,
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


def _check_dim(state: _State, found: int, name: str) -> None:
    if state.dim not in (None, found):
        raise DimensionMismatch(f"{name} has {found} dims, the documents {state.dim}")


def _flat(segments: Sequence[Segment]) -> list[Block]:
    return [block for segment in segments for block in segment]


def _tokens(segment: Segment) -> int:
    return sum(int(block.lengths.sum()) for block in segment)


def _total(documents: Sequence[blocks.StoredDocument]) -> int:
    return sum(len(document.tokens) for document in documents)

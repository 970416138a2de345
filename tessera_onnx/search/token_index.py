"""Many documents packed once and scored often: MaxSim at the speed of the matrix product."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import check_top_k
from tessera_onnx.errors import ConfigError, DimensionMismatch
from tessera_onnx.results import BinaryTokens, Ranked, Vectors, check_binary, ranking
from tessera_onnx.runtime import cpu
from tessera_onnx.search import blocks, kernels
from tessera_onnx.search.blocks import Block
from tessera_onnx.search.numbering import Numbering, Numbers, Pack
from tessera_onnx.vectors import quantization, scoring
from tessera_onnx.vectors.quantization import OutputDtype

Float = NDArray[np.float32]
Segment = tuple[Block, ...]  # documents that were sorted by length together


class _State(NamedTuple):
    dim: int | None
    segments: tuple[Segment, ...]
    numbering: Numbering


class PackedTokens(Pack):
    """Documents' token vectors in the layout that MaxSim reads fastest.

    >>> pack = PackedTokens(model.encode_iter(texts))
    >>> pack.rank(model.encode_query("a question"), top_k=10)

    Documents keep the numbers of the order in which they came, also when others are removed, and
    have ids where they were given some: then all of them do. Wherever a document is named, a str is
    an id and an int a number. In float32 the scores are those of
    `scoring.maxsim_scores`. int8 takes a quarter of the memory and about half of the time, with
    scores rounded to 8 bits a component (7 of the query's); binary takes a thirty-second, with
    those of `scoring.maxsim_binary`. Unit vectors score within [-n, n] in each form, for n query
    tokens. A document without a token, such as a blank page, scores -n, as TesseraVision has it.
    Several threads may score at the same time, also
    while one of them adds documents.
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
        """Pack documents, each (n_tokens, dim) of any numeric dtype; n_tokens may be 0.

        Int8Vectors are taken as the floats that they stand for, and BinaryTokens by `output_dtype`
        "binary". `ids` holds a str a document, each another. `device` is "cpu", "auto" or a GPU
        such as "cuda:0", to which float32 blocks are copied at each call; `threads` as for a model.
        Raises as `add`, ConfigError for an unknown form, or a device that has no products of it.
        """
        quantization.check_output(output_dtype)
        kernels.check_device(output_dtype, device)
        self._output: OutputDtype = output_dtype
        self._device = device
        self._threads = cpu.cpu_threads(threads)
        self._state = _State(None, (), Numbering())
        self.add(documents, ids=ids)

    def add(self, documents: Iterable[Vectors], *, ids: Iterable[str] | None = None) -> None:
        """Pack further documents; their numbers follow those that are there.

        `ids` has a str for each of them where the documents that are there have ids, else not.
        Small additions are merged, so that a document is copied a few times at most. Raises
        TypeError or ConfigError naming the document or id, DimensionMismatch when its dim is
        another, and ConfigError when another call changed the pack meanwhile; then nothing is
        added.
        """
        scoring.check_several(documents, "documents", "token vectors")
        before = self._state
        dim, segments, numbering = before
        known = numbering.check(ids, documents)
        kept = list(segments)
        count = 0
        for found, found_dim in blocks.read_blocks(documents, self._output, numbering.count, dim):
            rows, dim = found, found_dim
            count += len(rows)
            # As a binary counter carries: each merge at least doubles what a document lies in.
            while kept and _tokens(kept[-1]) <= min(2 * _rows(rows), blocks.SEGMENT_TOKENS // 2):
                rows = [row for block in kept.pop() for row in block.unpack()] + rows
            kept.append(tuple(blocks.pack(rows)))
        self._to(before, lambda: _State(dim, tuple(kept), numbering.added(count, known)))

    def remove(self, documents: Iterable[str | int]) -> None:
        """Remove documents, each named by its id or its number; the others keep their numbers.

        A boolean array with a value a number will do too; to name a document twice is to name it
        once. Raises TypeError or ConfigError naming an item that is no document of this pack, and
        ConfigError when another call changed the pack meanwhile; then nothing is removed.
        """
        before = self._state
        numbers = before.numbering.find(documents, "documents")
        gone = np.zeros(before.numbering.count, dtype=bool)
        gone[numbers] = True
        left = (tuple(blocks.without(segment, gone)) for segment in before.segments)
        segments = tuple(segment for segment in left if segment)
        dim = before.dim if segments else None
        self._to(before, lambda: _State(dim, segments, before.numbering.without(numbers)))

    def score(self, query: Vectors) -> Float:
        """MaxSim of one query (n, dim) with each document: (len(self),) float32.

        The place of a score is its document's number; after `remove` the array keeps its length,
        and -inf stands in the place of a document that is gone. Raises as `score_batch`, and
        EncodingError when ONNX Runtime fails.
        """
        state = self._state
        scores: Float = self._scores(state, [self._query(state, query, "query")], [query])[0]
        return scores

    def score_batch(self, queries: Sequence[Vectors]) -> Float:
        """MaxSim of each query with each document: (len(queries), len(self)) float32.

        A block is read once for all queries; -inf stands where `score` has it. Raises TypeError or
        ConfigError naming a query that is no (n, dim) array, DimensionMismatch when its dim is
        another than the documents'.
        """
        scoring.check_several(queries, "queries", "token vectors")
        state, forms = self._state, list(queries)
        found = [self._query(state, query, f"queries[{i}]") for i, query in enumerate(forms)]
        return self._scores(state, found, forms)

    def rank(
        self,
        query: Vectors,
        top_k: int | None = None,
        *,
        subset: Iterable[str | int] | None = None,
    ) -> list[Ranked]:
        """Documents by falling MaxSim: (index, score) and `.id`, the first `top_k` or all.

        `subset` names those that take part, as `remove` does; the others are not scored.
        """
        check_top_k(top_k, 0)
        state = self._state
        tokens = self._query(state, query, "query")
        numbering = state.numbering
        if subset is None:
            numbers, scores = numbering.live(), self._scores(state, [tokens], [query])[0]
        else:
            numbers = numbering.find(subset, "subset")
            scores = self._scores(state, [tokens], [query], numbers)[0]
        return ranking(scores, top_k, numbers, numbering.names if numbering.named else ())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the pack to one file, whole or not at all: .npy arrays after each other, no pickle.

        Ids and numbers go with it. Raises ConfigError for an empty pack, FileError when the file
        cannot be written.
        """
        from tessera_onnx.search import token_file

        dim, segments, numbering = self._state
        if dim is None:
            raise ConfigError("this pack holds no documents: there is nothing to save")
        token_file.write_index(Path(path), _flat(segments), self._output, dim, numbering)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        verify: bool = False,
        device: str = "cpu",
        threads: int | None = None,
    ) -> Self:
        """The pack that `save` wrote, its tokens mapped from the file and not read.

        Sizes are checked before anything is allocated, the index by its checksum; `verify` reads
        the tokens too and compares theirs. Raises FileError when the file cannot be read,
        IntegrityError when it is damaged, LoadError when it is no such file.
        """
        from tessera_onnx.search import token_file

        found, output, dim, numbering = token_file.read_index(Path(path), verify=verify)
        pack = cls(output_dtype=output, device=device, threads=threads)
        pack._state = _State(dim, (tuple(found),), numbering)
        return pack

    @property
    def output(self) -> OutputDtype:
        """The form of the documents: "float32", "int8" or "binary"."""
        return self._output

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, padding included."""
        return sum(block.tokens.nbytes for block in _flat(self._state.segments))

    def dimension(self) -> int | None:
        """Components of a token vector, None while there is no document."""
        dim: int | None = self._state.dim
        return dim

    def __repr__(self) -> str:
        return f"PackedTokens({len(self)} documents, dimension={self._state.dim}, {self._output})"

    def _query(self, state: _State, query: Any, name: str) -> NDArray[Any]:
        if self._output == "binary":
            bits = query
            if not isinstance(query, BinaryTokens):
                bits = quantization.binary(scoring.matrix(name, query))
            check_binary(bits, name)
            _check_dim(state, bits.dim, name)
            return blocks.words(bits)
        if isinstance(query, BinaryTokens):
            raise ConfigError(f"{name} holds sign bits, the pack is {self._output}: pass floats")
        tokens = scoring.matrix(name, query)
        _check_dim(state, tokens.shape[1], name)
        return tokens

    def _scores(
        self,
        state: _State,
        queries: Sequence[NDArray[Any]],
        forms: Sequence[Any],
        numbers: Numbers | None = None,
    ) -> Float:
        """By number; those of `numbers` alone are asked for, and right.

        `forms` are those in which the queries were given.
        """
        count = state.numbering.count
        packed = _flat(state.segments)
        gone = ~state.numbering.mask()
        if numbers is not None:
            wanted = np.zeros(count, dtype=bool)
            wanted[numbers] = True
            packed = blocks.among(packed, wanted)
        if state.dim is None or not queries or not packed:
            scores = np.zeros((len(queries), count), dtype=np.float32)
            scores[:, gone] = -np.inf
            return scores
        kernel, workers = kernels.kernel(self._output, state.dim, self._device, self._threads)
        parts = kernels.parts(queries, self._output, state.dim)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            scores = kernels.score(packed, parts, kernel, (len(queries), count), workers)
        scoring.check_scores(scores)
        kernels.keep_bounds(scores, packed, queries, self._output, forms)
        for block in packed:
            blank = block.places[block.lengths == 0]
            if len(blank):
                scores[:, blank] = [[-len(query)] for query in queries]
        scores[:, gone] = -np.inf
        return scores


def _check_dim(state: _State, found: int, name: str) -> None:
    if state.dim not in (None, found):
        raise DimensionMismatch(f"{name} has {found} dims, the documents {state.dim}")


def _flat(segments: Sequence[Segment]) -> list[Block]:
    return [block for segment in segments for block in segment]


def _tokens(segment: Segment) -> int:
    return sum(int(block.lengths.sum()) for block in segment)


def _rows(documents: Sequence[blocks.Rows]) -> int:
    return sum(len(document.tokens) for document in documents)

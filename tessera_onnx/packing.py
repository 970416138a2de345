"""Many documents packed once and scored often: MaxSim at the speed of the matrix product."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tessera_onnx import blocks, kernels, processor, quantization, scoring
from tessera_onnx.blocks import Block
from tessera_onnx.errors import ConfigError, DimensionMismatch
from tessera_onnx.quantization import Output
from tessera_onnx.results import BinaryTokens, Ranked, check_binary, check_top_k, ranking

Float = NDArray[np.float32]
Segment = tuple[Block, ...]  # documents that were sorted by length together
_REPLACING = threading.Lock()  # for an instant, and of no pack: a lock cannot be pickled


class PackedTokens:
    """Documents' token vectors in the layout that MaxSim reads fastest.

    >>> pack = PackedTokens(model.encode_iter(texts))
    >>> pack.rank(model.encode_query("a question"), top_k=10)

    Documents keep the numbers of the order in which they came. In float32 the scores are those of
    `scoring.maxsim_scores`. int8 takes a quarter of the memory and about half of the time, with
    scores rounded to 8 bits a component (7 of the query's); binary takes a thirty-second, with
    those of `scoring.maxsim_binary`. A document without a token, such as a blank page, scores -n
    for n query tokens, as TesseraVision has it. Several threads may score at the same time, also
    while one of them adds documents.
    """

    def __init__(
        self,
        documents: Iterable[ArrayLike | BinaryTokens] = (),
        *,
        output: Output = "float32",
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        """Pack documents, each (n_tokens, dim) of any numeric dtype; n_tokens may be 0.

        `output` "binary" also takes BinaryTokens. `device` is "cpu", "auto" or a GPU such as
        "cuda:0", to which float32 blocks are copied at each call; `threads` as for a model.
        Raises as `add`, ConfigError for an unknown form, or a device that has no products of it.
        """
        quantization.check_output(output)
        kernels.check_device(output, device)
        self._output: Output = output
        self._device = device
        self._threads = processor.cpu_threads(threads)
        # Replaced as one, never changed: a thread that scores keeps what it began with.
        self._state: tuple[int | None, tuple[Segment, ...]] = (None, ())
        self.add(documents)

    def add(self, documents: Iterable[ArrayLike | BinaryTokens]) -> None:
        """Pack further documents; their numbers follow those that are there.

        Small additions are merged, so that a document is copied a few times at most. Raises
        TypeError or ConfigError naming the document, DimensionMismatch when its dim is another,
        and ConfigError when another call added documents meanwhile; then nothing is added.
        """
        scoring.check_several(documents, "documents", "token vectors")
        before = self._state
        dim, segments = before
        first = sum(len(block.places) for segment in segments for block in segment)
        kept = list(segments)
        for found, found_dim in blocks.read(documents, self._output, first, dim):
            rows, dim = found, found_dim
            # As a binary counter carries: each merge at least doubles what a document lies in.
            while kept and _tokens(kept[-1]) <= min(2 * _rows(rows), blocks.SEGMENT_TOKENS // 2):
                rows = [row for block in kept.pop() for row in block.unpack()] + rows
            kept.append(tuple(blocks.pack(rows)))
        with _REPLACING:
            if self._state is before:
                self._state = (dim, tuple(kept))
                return
        raise ConfigError(
            "documents were added at the same time by another call: add one after the other"
        )

    def score(self, query: ArrayLike | BinaryTokens) -> Float:
        """MaxSim of one query (n, dim) with each document: (len(self),) float32.

        Raises as `score_batch`, and EncodingError when ONNX Runtime fails.
        """
        scores: Float = self._scores([self._query(query, "query")])[0]
        return scores

    def score_batch(self, queries: Sequence[ArrayLike] | Sequence[BinaryTokens]) -> Float:
        """MaxSim of each query with each document: (len(queries), len(self)) float32.

        A block is read once for all queries. Raises TypeError or ConfigError naming a query that
        is no (n, dim) array, DimensionMismatch when its dim is another than the documents'.
        """
        scoring.check_several(queries, "queries", "token vectors")
        return self._scores([self._query(q, f"queries[{i}]") for i, q in enumerate(queries)])

    def rank(self, query: ArrayLike | BinaryTokens, top_k: int | None = None) -> list[Ranked]:
        """Documents by falling MaxSim: (index, score), the first `top_k` or all."""
        check_top_k(top_k, 0)
        return ranking(self.score(query), top_k)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the pack to one file, whole or not at all: .npy arrays after each other, no pickle.

        Raises ConfigError for an empty pack, FileError when the file cannot be written.
        """
        from tessera_onnx import pack_file

        dim, segments = self._state
        if dim is None:
            raise ConfigError("this pack holds no documents: there is nothing to save")
        pack_file.write(Path(path), _flat(segments), self._output, dim)

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
        from tessera_onnx import pack_file

        found, output, dim = pack_file.read(Path(path), verify=verify)
        pack = cls(output=output, device=device, threads=threads)
        pack._state = (dim, (tuple(found),))
        return pack

    @property
    def output(self) -> Output:
        """The form of the documents: "float32", "int8" or "binary"."""
        return self._output

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, padding included."""
        return sum(block.tokens.nbytes for block in _flat(self._state[1]))

    def dimension(self) -> int | None:
        """Components of a token vector, None before the first document."""
        return self._state[0]

    def __len__(self) -> int:
        return sum(len(block.places) for block in _flat(self._state[1]))

    def __repr__(self) -> str:
        return f"PackedTokens({len(self)} documents, dimension={self._state[0]}, {self._output})"

    def _query(self, query: Any, name: str) -> NDArray[Any]:
        if self._output == "binary":
            bits = query
            if not isinstance(query, BinaryTokens):
                bits = quantization.binary(scoring.matrix(name, query))
            check_binary(bits, name)
            self._check_dim(bits.dim, name)
            return blocks.words(bits)
        if isinstance(query, BinaryTokens):
            raise ConfigError(f"{name} holds sign bits, the pack is {self._output}: pass floats")
        tokens = scoring.matrix(name, query)
        self._check_dim(tokens.shape[1], name)
        return tokens

    def _check_dim(self, found: int, name: str) -> None:
        dim = self._state[0]
        if dim not in (None, found):
            raise DimensionMismatch(f"{name} has {found} dims, the documents {dim}")

    def _scores(self, queries: Sequence[NDArray[Any]]) -> Float:
        dim, segments = self._state
        packed = _flat(segments)
        if dim is None or not queries:
            count = sum(len(block.places) for block in packed)
            return np.zeros((len(queries), count), dtype=np.float32)
        kernel, workers = kernels.kernel(self._output, dim, self._device, self._threads)
        parts = kernels.parts(queries, self._output, dim)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            scores = kernels.score(packed, parts, kernel, len(queries), workers)
        scoring.check_scores(scores)
        for block in packed:
            blank = block.places[block.lengths == 0]
            if len(blank):
                scores[:, blank] = [[-len(query)] for query in queries]
        return scores


def _flat(segments: Sequence[Segment]) -> list[Block]:
    return [block for segment in segments for block in segment]


def _tokens(segment: Segment) -> int:
    return sum(int(block.lengths.sum()) for block in segment)


def _rows(documents: Sequence[blocks.Rows]) -> int:
    return sum(len(document.tokens) for document in documents)

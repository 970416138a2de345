"""PackedTokens: an index of token vectors that is searched by exact MaxSim."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tessera_onnx.results import BinaryTokens, Vectors
from tessera_onnx.search import block_file, blocks
from tessera_onnx.search.vector_index import Segment, State, VectorIndex
from tessera_onnx.vectors import scoring
from tessera_onnx.vectors.quantization import OutputDtype


class PackedTokens(VectorIndex):
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

    _FORMAT = block_file.TOKENS

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
        self._open(output_dtype, device, threads)
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
        self._replace_state(before, lambda: State(dim, tuple(kept), current.added(count, new_ids)))

    def _items(self, items: Any, name: str) -> list[Any]:
        scoring.check_several(items, name, "token vectors")
        return list(items)

    def _rows(self, query: Any, name: str) -> Any:
        return query if isinstance(query, BinaryTokens) else scoring.matrix(name, query)


def _tokens(segment: Segment) -> int:
    return sum(int(block.lengths.sum()) for block in segment)


def _total(documents: Sequence[blocks.StoredDocument]) -> int:
    return sum(len(document.tokens) for document in documents)

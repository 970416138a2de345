"""Many sparse vectors packed once and scored often: for each vocabulary entry, who has it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import scoring
from tessera_onnx.results import Ranked, SparseVector, check_top_k, ranking

Float = NDArray[np.float32]


class PackedSparse:
    """Sparse documents by vocabulary entry (an inverted index).

    A query reads the entries that it has itself, and nothing of the rest: measured on 5,000
    documents of 150 entries, 90 times as fast as a list of them. Scores are those of
    `scoring.sparse_scores`.
    """

    def __init__(self, documents: Iterable[SparseVector]) -> None:
        """Pack documents, such as `model.encode_iter(texts)` gives.

        Raises TypeError or ConfigError as `scoring.check_sparse`, naming the document.
        """
        scoring.check_several(documents, "documents", "sparse vectors")
        found = [scoring.check_sparse(each, f"documents[{i}]") for i, each in enumerate(documents)]
        lengths = [len(vector.indices) for vector in found]
        self._count = len(found)
        entries = np.concatenate([np.empty(0, np.int32), *(vector.indices for vector in found)])
        values = np.concatenate([np.empty(0, np.float32), *(vector.values for vector in found)])
        order = np.argsort(entries, kind="stable")
        self._documents = np.repeat(np.arange(len(found), dtype=np.int32), lengths)[order]
        self._values = values[order]
        # The documents of _entries[i]: _documents[_starts[i]:_starts[i + 1]]. Only entries that
        # occur are listed: hashed ones lie anywhere below 2^31.
        self._entries, counts = np.unique(entries, return_counts=True)
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    def score(self, query: SparseVector) -> Float:
        """Dot product of one query with each document: (len(self),) float32.

        Raises as `scoring.check_sparse`, ConfigError for scores beyond float32.
        """
        query = scoring.check_sparse(query, "query")
        # Of an entry that no document has, both are the same place: no documents.
        starts = self._starts[np.searchsorted(self._entries, query.indices)]
        ends = self._starts[np.searchsorted(self._entries, query.indices, side="right")]
        parts = list(zip(starts.tolist(), ends.tolist(), strict=True))
        if not parts:
            return np.zeros(self._count, dtype=np.float32)
        documents = np.concatenate([self._documents[start:end] for start, end in parts])
        products = np.concatenate([self._values[start:end] for start, end in parts])
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            products *= np.repeat(query.values, ends - starts)
            sums = np.bincount(documents, weights=products, minlength=self._count)
            return scoring.check_scores(np.asarray(sums, dtype=np.float32))

    def rank(self, query: SparseVector, top_k: int | None = None) -> list[Ranked]:
        """Documents by falling dot product: (index, score), the first `top_k` or all."""
        check_top_k(top_k, 0)
        return ranking(self.score(query), top_k)

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"PackedSparse({self._count} documents, {len(self._values)} entries)"

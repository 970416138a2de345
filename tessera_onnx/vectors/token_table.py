"""Average rows of a table of token vectors: the vectors of texts in models without a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.vectors import tensors

Float = NDArray[np.float32]
Ids = NDArray[np.int64]

# Rows that are gathered at a time. They stay in the processor's cache until they are added up:
# 256 to 4,096 rows of 256 numbers were equally fast, all at once was slower by 10 %.
BLOCK = 1024
LONGEST = 1024  # tokens that are added up in float32; longer texts in float64


@dataclass(frozen=True, slots=True)
class TokenTable:
    """rows (n, width) of the dtype `code`; weights (ids,) float32 and mapping (ids,), or None."""

    rows: NDArray[Any]
    code: str
    weights: Float | None
    mapping: NDArray[Any] | None

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return int(self.rows.shape[1])

    @property
    def n_ids(self) -> int:
        """Token ids that have a row and a weight: 0 to n_ids - 1."""
        sizes = [len(self.rows) if self.mapping is None else len(self.mapping)]
        return min(sizes if self.weights is None else [*sizes, len(self.weights)])

    def means(self, ids: Ids, counts: Ids) -> Float:
        """The mean of weight x row over the ids of each text: (n, width) float32.

        `ids` holds the texts' ids one after the other, `counts` (n,) their numbers; a text without
        ids gives zeros. A text's mean does not depend on the other texts: its rows are added in the
        order of its ids. NumPy's add.reduceat, which would take texts of several lengths at once,
        needed 2 to 3 times as long as one sum for all texts of a length.
        """
        # A number that is not finite is no warning here: the caller sees it in the mean.
        with np.errstate(invalid="ignore", over="ignore"):
            return self._means(ids, counts)

    def _means(self, ids: Ids, counts: Ids) -> Float:
        if len(counts) == 1 and 0 < len(ids) <= LONGEST:  # a search waits for this
            return np.asarray(self._sums(ids[None]) / np.float32(len(ids)))
        found = np.zeros((len(counts), self.width), np.float32)
        starts = np.cumsum(counts) - counts
        order = np.argsort(counts, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(counts[order])) + 1):
            length = int(counts[rows[0]]) if len(rows) else 0
            if length > LONGEST:
                for row in rows:
                    found[row] = self._long(ids[starts[row] : starts[row] + length]) / length
                continue
            step = max(1, BLOCK // max(1, length))
            for first in range(0, len(rows) if length else 0, step):
                some = rows[first : first + step]
                places = starts[some][:, None] + np.arange(length)
                found[some] = self._sums(ids[places]) / np.float32(length)
        return found

    def _long(self, ids: Ids) -> NDArray[np.float64]:
        parts = [
            self._sums(ids[None, i : i + BLOCK], np.float64)[0] for i in range(0, len(ids), BLOCK)
        ]
        return np.asarray(np.sum(parts, axis=0))

    def _sums(self, ids: Ids, dtype: type[np.floating[Any]] = np.float32) -> NDArray[Any]:
        """The sum of weight x row over the ids of each text: ids (n, length) -> (n, width).

        Of the ways that do not start threads of their own (as BLAS does), take and einsum were the
        fastest: half the time of indexing, a product and a sum, for int8 rows of 64 numbers.
        """
        places = ids if self.mapping is None else np.take(self.mapping, ids)
        vectors = tensors.floats(np.take(self.rows, places, axis=0), self.code)
        if self.weights is None:
            return np.asarray(vectors.sum(axis=1, dtype=dtype))
        weights = np.take(self.weights, ids)
        return np.asarray(np.einsum("nl,nlw->nw", weights, vectors, dtype=dtype))

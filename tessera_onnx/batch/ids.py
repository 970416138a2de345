"""Find ids that occur more than once among the rows of a job, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

MOST_IDS = 1 << 22  # ids that are remembered, 16 bytes each
FRESH = 1 << 16  # of them not sorted yet


class SeenIds:
    """The ids of rows so far, by their 64-bit hash, and the place where each was first seen.

    Two different ids among four million have an equal hash with a probability below one in a
    million. Ids after the first `MOST_IDS` are compared with these, and not remembered.
    """

    def __init__(self) -> None:
        self._hashes = np.empty(0, np.int64)  # ascending
        self._places = np.empty(0, np.int64)
        self._fresh: dict[int, int] = {}
        self.is_full = False  # whether ids were not remembered

    def repeated(self, column: pa.ChunkedArray, first: int) -> Iterator[tuple[int, int]]:
        """Each row of a column whose id was seen before, and the place of the earlier row.

        The place of the column's row 0 is `first`. Nulls are no ids.
        """
        values = column.to_pylist()
        # Of whole numbers, -1 and -2 have the same hash in Python; their words have not.
        hashes = [hash(value if isinstance(value, str) else repr(value)) for value in values]
        known = np.searchsorted(self._hashes, hashes)
        known[known == len(self._hashes)] = 0
        is_old = self._hashes[known] == hashes if len(self._hashes) else np.zeros(len(values), bool)
        for row, (value, number) in enumerate(zip(values, hashes, strict=True)):
            if value is None:
                continue
            if is_old[row]:
                yield row, int(self._places[known[row]])
            elif number in self._fresh:
                yield row, self._fresh[number]
            elif len(self._hashes) + len(self._fresh) < MOST_IDS:
                self._fresh[number] = first + row
            else:
                self.is_full = True
        if len(self._fresh) >= FRESH:
            self._sort()

    def _sort(self) -> None:
        hashes = np.concatenate([self._hashes, np.fromiter(self._fresh, np.int64)])
        places = np.concatenate([self._places, np.fromiter(self._fresh.values(), np.int64)])
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._places, self._fresh = hashes[order], places[order], {}

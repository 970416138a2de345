"""Posting lists of sparse vectors: build, merge, cut and multiply them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import IntegrityError
from tessera_onnx.results import SparseVector

Float = NDArray[np.float32]


class Postings(NamedTuple):
    """The posting lists of an inverted index: for each vocabulary entry its documents and weights.

    The documents of entries[i] are documents[starts[i]:starts[i + 1]]. Only entries that occur are
    listed, since hashed vocabularies have up to 2^31 entries.
    """

    entries: NDArray[np.int32]  # (k,) ascending
    starts: NDArray[np.int64]  # (k + 1,)
    documents: NDArray[np.int32]  # (n,) numbers of documents
    values: Float  # (n,) weights


def products_with(segment: Postings, query: SparseVector) -> tuple[NDArray[np.int32], Float]:
    """The documents of the query's posting lists, and the products to add to their scores."""
    starts, ends = _places(segment, query)
    parts = [slice(*pair) for pair in zip(starts.tolist(), ends.tolist(), strict=True)]
    documents = np.concatenate([segment.documents[:0], *(segment.documents[p] for p in parts)])
    products = np.concatenate([segment.values[:0], *(segment.values[p] for p in parts)])
    products *= np.repeat(query.values, ends - starts)
    return documents, products


def frequencies(segment: Postings, query: SparseVector) -> NDArray[np.int64]:
    """In how many documents each of the query's entries occurs: (k,)."""
    starts, ends = _places(segment, query)
    return ends - starts


def _places(segment: Postings, query: SparseVector) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the posting list of each of the query's entries starts and ends.

    An entry that no document has starts and ends at the same position: an empty list.
    """
    first = np.searchsorted(segment.entries, query.indices)
    behind = np.searchsorted(segment.entries, query.indices, side="right")
    return segment.starts[first], segment.starts[behind]


def invert(vectors: Sequence[SparseVector], first: int) -> Postings:
    """Posting lists of sparse vectors, which are numbered from `first`."""
    numbers = np.arange(first, first + len(vectors), dtype=np.int32)
    entries = np.concatenate([np.empty(0, np.int32), *(vector.indices for vector in vectors)])
    values = np.concatenate([np.empty(0, np.float32), *(vector.values for vector in vectors)])
    documents = np.repeat(numbers, [len(vector.indices) for vector in vectors])
    return _sorted(entries, documents, values)


def merge(first: Postings, then: Postings) -> Postings:
    """The postings of both."""
    return _sorted(
        np.concatenate([_spread(first), _spread(then)]),
        np.concatenate([first.documents, then.documents]),
        np.concatenate([first.values, then.values]),
    )


def without(segment: Postings, removed: NDArray[np.bool_]) -> Postings:
    """The postings without the documents whose numbers are True in `removed`."""
    check_numbers(segment.documents, len(removed))
    stay = ~removed[segment.documents]
    if stay.all():
        return segment
    return _sorted(_spread(segment)[stay], segment.documents[stay], segment.values[stay])


def check_numbers(documents: NDArray[np.int32], count: int) -> None:
    """Raises IntegrityError for a number that no document has: `load` does not read them."""
    if len(documents) and not (documents.min() >= 0 and documents.max() < count):
        raise IntegrityError("the file of this index is damaged: build and save the index again")


def _spread(segment: Postings) -> NDArray[np.int32]:
    """The vocabulary entry of each posting."""
    return np.repeat(segment.entries, np.diff(segment.starts))


def _sorted(entries: NDArray[np.int32], documents: NDArray[np.int32], values: Float) -> Postings:
    order = np.argsort(entries, kind="stable")
    found, counts = np.unique(entries, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return Postings(found, starts, documents[order], values[order])

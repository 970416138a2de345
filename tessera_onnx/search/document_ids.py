"""Numbers and ids of the documents in an index: give them, look them up, remove them.

Documents are numbered 0, 1, 2, ... in the order in which they are added. A number is never used
again: removing a document leaves a gap, so a number keeps pointing to the same place of the
caller's own list. An id is a str and a number is an int, so the two cannot be confused.
"""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import check_items, check_top_k, plain
from tessera_onnx.errors import ConfigError, TesseraError, about_item
from tessera_onnx.results import Ranked

Numbers = NDArray[np.int64]
Ids = list[str] | None
_REPLACING = threading.Lock()  # of all indexes, held for an instant; a lock cannot be pickled


def _none() -> Numbers:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class DocumentIds:
    """The numbers and ids of an index at one time.

    A change makes a new object, but all objects of an index share `by_number` and `number_of`. A
    thread that scores can therefore keep using an older object while another thread adds or
    removes: entries of `by_number` stay, and a number from `number_of` that is not below `count`
    belongs to a document that was added later.
    """

    count: int = 0  # numbers given so far
    removed: Numbers = field(default_factory=_none)  # ascending
    has_ids: bool = False  # of all documents in the index, or of none
    by_number: list[str | None] = field(default_factory=list)  # the id of each number
    number_of: dict[str, int] = field(default_factory=dict)  # of the documents in the index

    def __len__(self) -> int:
        return self.count - len(self.removed)

    def live(self) -> Numbers:
        """The numbers of the documents in the index, ascending."""
        return np.flatnonzero(self.mask())

    def mask(self) -> NDArray[np.bool_]:
        """Whether the document of each number is in the index: (count,) bool."""
        mask = np.ones(self.count, dtype=bool)
        mask[self.removed] = False
        return mask

    def ids(self) -> Ids:
        """The ids of the documents in the index, by ascending number; None if they have none."""
        if not self.has_ids:
            return None
        return [name for number in self.live() if (name := self.by_number[number]) is not None]

    def names(self) -> Sequence[str | None]:
        """The id of each number, as `results.ranking` takes it; empty if there are none."""
        return self.by_number if self.has_ids else ()

    def check(self, ids: Any, documents: Any) -> Ids:
        """Check the ids of documents that will be added, before the documents are read.

        Raises TypeError unless they are several str, ConfigError for an id that occurs twice or is
        in the index already, and when there are not as many ids as documents.
        """
        if ids is None:
            if self.has_ids and (not hasattr(documents, "__len__") or len(documents)):
                raise ConfigError(
                    "the documents of this index have ids: pass ids=, one per document"
                )
            return None
        check_items(ids, "ids", "ids (str)")
        found: dict[str, int] = {}
        for i, name in enumerate(map(plain, ids)):
            with about_item(i):
                if not isinstance(name, str):
                    kind = type(name).__name__
                    raise TypeError(f"ids[{i}] must be str, got {kind}: pass str(id)")
                if name in self.number_of:
                    raise ConfigError(f"ids[{i}] is in the index already: remove it first")
                if found.setdefault(str(name), i) != i:
                    raise ConfigError(
                        f"ids[{i}] is the same as ids[{found[name]}]: give each document another id"
                    )
        if found and len(self) and not self.has_ids:
            raise ConfigError(
                "the documents of this index have no ids: leave ids out, or build a new index"
            )
        if hasattr(documents, "__len__"):
            _check_count(len(found), len(documents))
        return list(found)

    def added(self, n: int, ids: Ids) -> DocumentIds:
        """The object with `n` more documents. Raises ConfigError unless each has an id."""
        if ids is not None:
            _check_count(len(ids), n)
            self.by_number.extend([None] * (self.count - len(self.by_number)))
            self.by_number[self.count :] = ids
            self.number_of.update(zip(ids, range(self.count, self.count + n), strict=True))
        elif n and self.has_ids:  # a stream, whose length was not known before
            raise ConfigError("the documents of this index have ids: pass ids=, one per document")
        return replace(self, count=self.count + n, has_ids=self.has_ids or bool(ids))

    def without(self, numbers: Numbers) -> DocumentIds:
        """The object without some of its documents."""
        for number in numbers.tolist() if self.has_ids else ():
            self.number_of.pop(self.by_number[number] or "", None)
        left = replace(self, removed=np.union1d(self.removed, numbers))
        return left if len(left) else replace(left, has_ids=False)

    def find(self, documents: Any, name: str) -> Numbers:
        """The numbers of the documents that are named by id or number, each once, ascending.

        A row of a ranking names its document by its number. A boolean array (count,) names the
        documents of the numbers at which it is True, and ignores removed ones. Raises TypeError
        unless the items are str, int or such rows, ConfigError for an id or number that no document
        of the index has.
        """
        if not isinstance(documents, AbstractSet):  # whose order does not matter here
            check_items(documents, name, "ids (str) or numbers (int)")
        if isinstance(documents, np.ndarray) and documents.dtype == bool:
            if documents.shape != (self.count,):
                raise ConfigError(
                    f"{name} has the shape {documents.shape}: a boolean array needs one value per "
                    f"number, ({self.count},)"
                )
            return np.flatnonzero(documents & self.mask())
        found = []
        for i, item in enumerate(documents):
            try:
                found.append(self._number(item, name, i))
            except (TesseraError, TypeError) as error:  # about_item takes longer than the rest
                error.index = i  # type: ignore[union-attr]
                raise
        numbers = np.array(found, dtype=np.int64)
        gone = np.isin(numbers, self.removed)
        if gone.any():
            i = int(gone.argmax())
            raise ConfigError(f"{name}[{i}] is {numbers[i]}: that document was removed", index=i)
        return np.unique(numbers)

    def _number(self, item: Any, name: str, i: int) -> int:
        """The number of the document that `name[i]` names."""
        item = item.index if isinstance(item, Ranked) else plain(item)
        if isinstance(item, str):
            number = self.number_of.get(item, self.count)
            if number >= self.count:  # unknown, or added later
                raise ConfigError(f"{name}[{i}] is an id that no document of this index has")
            return number
        if isinstance(item, bool) or not isinstance(item, int | np.integer):
            kind = type(item).__name__
            raise TypeError(f"{name}[{i}] must be an id (str) or a number, got {kind}")
        if not 0 <= item < self.count:
            known = f"numbers go from 0 to {self.count - 1}" if self.count else "it is empty"
            raise ConfigError(
                f"{name}[{i}] is a number that no document of this index has: {known}"
            )
        return int(item)


class DocumentIndex(abc.ABC):
    """The base class of PackedTokens, PackedDense and PackedSparse.

    The state of an index is a tuple that is replaced and never changed, so a thread that scores
    keeps the documents that it began with while another thread adds or removes some.
    """

    _state: Any  # a NamedTuple with a field `ids`: DocumentIds

    def _replace_state(self, before: Any, after: Callable[[], Any]) -> None:
        """Replace the state `before`. Raises ConfigError if another call has replaced it."""
        with _REPLACING:
            if self._state is before:
                self._state = after()
                return
        raise ConfigError(
            "documents were added or removed at the same time by another call: make one call after "
            "the other"
        )

    def search(
        self,
        queries: Iterable[Any],
        top_k: int | None = 10,
        *,
        candidates: Iterable[Iterable[str | int | Ranked]] | None = None,
    ) -> list[list[Ranked]]:
        """Rank documents for each of several queries: the `top_k` best, or all for None.

        `candidates` holds for each query the documents to score, as ids, numbers or rows of a
        ranking: what another index's `search` found in a cheaper form of the same documents, or
        `fuse`, or a program of your own. Their scores are exact, and a document that is no
        candidate is not found. Without `candidates` every document is scored. An empty list of
        candidates gives []. Raises the errors of `rank`; `error.index` is the number of the query.
        """
        check_top_k(top_k, 0)
        given = self._items(queries, "queries")
        if candidates is None:
            return self._search_all(given, top_k)
        check_items(candidates, "candidates", "lists of documents, one per query")
        lists = list(candidates)
        if len(lists) != len(given):
            raise ConfigError(
                f"candidates must hold one list of documents per query: got {len(lists)} for "
                f"{len(given)} queries"
            )
        found = []
        for i, (query, some) in enumerate(zip(given, lists, strict=True)):
            try:
                found.append(self._search_some(query, top_k, some, i))
            except (TesseraError, TypeError) as error:
                error.index = i  # type: ignore[union-attr]
                raise
        return found

    @abc.abstractmethod
    def _items(self, items: Any, name: str) -> list[Any]:
        """The queries of a call. Raises TypeError for a single one."""

    @abc.abstractmethod
    def _search_all(self, queries: list[Any], top_k: int | None) -> list[list[Ranked]]:
        """The ranking of all documents for each query."""

    @abc.abstractmethod
    def _search_some(
        self, query: Any, top_k: int | None, candidates: Any, number: int
    ) -> list[Ranked]:
        """The ranking of the candidates for the query of this number."""

    @property
    def ids(self) -> list[str] | None:
        """The ids of the documents, in the order of `numbers`; None if they have none."""
        found: Ids = self._state.ids.ids()
        return found

    @property
    def numbers(self) -> Numbers:
        """The numbers of the documents, ascending: 0, 1, ... if none was removed.

        `index` of a ranked document is such a number, and so is a position in a result of `score`.
        """
        found: Numbers = self._state.ids.live()
        return found

    def __len__(self) -> int:
        return len(self._state.ids)

    def __copy__(self) -> Self:
        """An index of the same documents; changes of one do not change the other."""
        found = object.__new__(type(self))
        found.__dict__.update(self.__dict__)
        ids = self._state.ids
        own = replace(ids, by_number=list(ids.by_number), number_of=dict(ids.number_of))
        found._state = self._state._replace(ids=own)
        return found


def restored(count: int, removed: Numbers, ids: Any) -> DocumentIds:
    """The numbers and ids that a file holds; `ids` are by ascending number.

    Raises TypeError unless `ids` is a list of str, ValueError unless each document has its own id.
    """
    if ids is None:
        return DocumentIds(count, removed)
    state = DocumentIds(count, removed, has_ids=True)
    if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
        raise TypeError("ids must be a list of str")
    live = state.live().tolist()
    state.number_of.update(zip(ids, live, strict=True))
    if len(state.number_of) != len(live):
        raise ValueError("an id occurs twice")
    state.by_number.extend([None] * count)
    for name, number in state.number_of.items():
        state.by_number[number] = name
    return state


def _check_count(n_ids: int, n_documents: int) -> None:
    if n_ids != n_documents:
        raise ConfigError(
            f"ids must hold one id per document: got {n_ids} for {n_documents} documents"
        )

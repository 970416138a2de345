"""The numbers and ids of the documents in a pack: which are there, and which a caller names.

A document has its number for ever, in the order in which documents came: a removed one leaves a
gap, so that a number keeps pointing to the same place of the caller's own list. An id is a str
and a number an int, so that neither is ever taken for the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import check_items, plain
from tessera_onnx.errors import ConfigError, about_item

Numbers = NDArray[np.int64]
Ids = list[str] | None
_REPLACING = threading.Lock()  # for an instant, and of no pack: a lock cannot be pickled


def _none() -> Numbers:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Numbering:
    """One state of it. `names` and `places` are shared by all states of a pack and only grow.

    So a thread that scores may go on with an older state while another adds or removes: what stood
    in `names` stays, and a number that an older state does not have is none of its documents.
    """

    count: int = 0  # numbers given so far
    removed: Numbers = field(default_factory=_none)  # ascending
    named: bool = False  # whether the documents that are there have ids: all or none
    names: list[str | None] = field(default_factory=list)  # by number
    places: dict[str, int] = field(default_factory=dict)  # of the documents that are there

    def __len__(self) -> int:
        return self.count - len(self.removed)

    def live(self) -> Numbers:
        """The numbers of the documents that are there, ascending."""
        return np.flatnonzero(self.mask())

    def mask(self) -> NDArray[np.bool_]:
        """For each number whether its document is there."""
        mask = np.ones(self.count, dtype=bool)
        mask[self.removed] = False
        return mask

    def ids(self) -> Ids:
        """The ids of the documents that are there, by ascending number; None without ids."""
        if not self.named:
            return None
        return [name for number in self.live() if (name := self.names[number]) is not None]

    def check(self, ids: Any, documents: Any) -> Ids:
        """The ids of documents to be added, checked before the documents are read.

        Raises TypeError for what is no list of str, ConfigError for ids that occur twice, that are
        there already or that are not one a document.
        """
        if ids is None:
            if self.named and (not hasattr(documents, "__len__") or len(documents)):
                raise ConfigError("this pack's documents have ids: pass ids=, one a document")
            return None
        check_items(ids, "ids", "ids (str)")
        found: dict[str, int] = {}
        for i, name in enumerate(map(plain, ids)):
            with about_item(i):
                if not isinstance(name, str):
                    kind = type(name).__name__
                    raise TypeError(f"ids[{i}] must be str, got {kind}: pass str(id)")
                if name in self.places:
                    raise ConfigError(f"ids[{i}] is in the pack already: remove it first")
                if found.setdefault(str(name), i) != i:
                    raise ConfigError(f"ids[{i}] is ids[{found[name]}] again: each must be another")
        if found and len(self) and not self.named:
            raise ConfigError("this pack's documents have no ids: leave ids out, or pack anew")
        if hasattr(documents, "__len__"):
            _check_count(len(found), len(documents))
        return list(found)

    def added(self, n: int, ids: Ids) -> Numbering:
        """The next state, with `n` more documents. Raises ConfigError unless ids are one each."""
        if ids is not None:
            _check_count(len(ids), n)
            self.names.extend([None] * (self.count - len(self.names)))
            self.names[self.count :] = ids
            self.places.update(zip(ids, range(self.count, self.count + n), strict=True))
        elif n and self.named:  # a stream, whose length was not known before
            raise ConfigError("this pack's documents have ids: pass ids=, one a document")
        return replace(self, count=self.count + n, named=self.named or bool(ids))

    def without(self, numbers: Numbers) -> Numbering:
        """The next state, without documents that are there."""
        for number in numbers.tolist() if self.named else ():
            self.places.pop(self.names[number] or "", None)
        left = replace(self, removed=np.union1d(self.removed, numbers))
        return left if len(left) else replace(left, named=False)

    def find(self, documents: Any, name: str) -> Numbers:
        """The numbers of the documents named by id or number, each once, ascending.

        A boolean array with a value a number names those that are there. Raises TypeError for
        what is no list of str and int, ConfigError for an id or number that no document has.
        """
        if not isinstance(documents, AbstractSet):  # whose order does not matter here
            check_items(documents, name, "ids (str) or numbers (int)")
        if isinstance(documents, np.ndarray) and documents.dtype == bool:
            if documents.shape != (self.count,):
                raise ConfigError(
                    f"{name} has the shape {documents.shape}: a boolean array needs a value a "
                    f"number, ({self.count},)"
                )
            return np.flatnonzero(documents & self.mask())
        found = []
        for i, item in enumerate(map(plain, documents)):
            with about_item(i):
                found.append(self._number(item, f"{name}[{i}]"))
        numbers = np.array(found, dtype=np.int64)
        gone = np.isin(numbers, self.removed)
        if gone.any():
            i = int(gone.argmax())
            raise ConfigError(f"{name}[{i}] is {numbers[i]}: that document was removed", index=i)
        return np.unique(numbers)

    def _number(self, item: Any, name: str) -> int:
        if isinstance(item, str):
            number = self.places.get(item, self.count)
            if number >= self.count:  # or of a later state
                raise ConfigError(f"{name} is an id that no document of this pack has")
            return number
        if isinstance(item, bool) or not isinstance(item, int | np.integer):
            raise TypeError(f"{name} must be an id (str) or a number, got {type(item).__name__}")
        if not 0 <= item < self.count:
            last = f"they go from 0 to {self.count - 1}" if self.count else "it holds none"
            raise ConfigError(f"{name} is no number of this pack's documents: {last}")
        return int(item)


class Pack:
    """What packs of every kind share: a state that is replaced as one, and never changed.

    So a thread that scores keeps what it began with while another adds or removes.
    """

    _state: Any  # with .numbering

    def _to(self, before: Any, after: Callable[[], Any]) -> None:
        """Replace the state. Raises ConfigError where another call has done so since `before`."""
        with _REPLACING:
            if self._state is before:
                self._state = after()
                return
        raise ConfigError(
            "documents were added or removed at the same time by another call: make one call after "
            "the other"
        )

    @property
    def ids(self) -> list[str] | None:
        """The ids of the documents that are there, in the order of `numbers`; None without ids."""
        found: Ids = self._state.numbering.ids()
        return found

    @property
    def numbers(self) -> Numbers:
        """The numbers of the documents that are there, ascending: 0, 1, … where none was removed.

        A ranking's `index` is one of them, and its place in the result of `score`.
        """
        found: Numbers = self._state.numbering.live()
        return found

    def __len__(self) -> int:
        return len(self._state.numbering)

    def __copy__(self) -> Self:
        """A pack of the same documents, which changes for itself."""
        found = object.__new__(type(self))
        found.__dict__.update(self.__dict__)
        numbering = self._state.numbering
        own = replace(numbering, names=list(numbering.names), places=dict(numbering.places))
        found._state = self._state._replace(numbering=own)
        return found


def restored(count: int, removed: Numbers, ids: Any) -> Numbering:
    """The state that a file says; `ids` by ascending number. Raises ValueError when it cannot be.

    Raises TypeError for ids that are no list of str.
    """
    if ids is None:
        return Numbering(count, removed)
    state = Numbering(count, removed, named=True)
    if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
        raise TypeError("ids must be a list of str")
    live = state.live().tolist()
    state.places.update(zip(ids, live, strict=True))
    if len(state.places) != len(live):
        raise ValueError("an id occurs twice")
    state.names.extend([None] * count)
    for name, number in state.places.items():
        state.names[number] = name
    return state


def _check_count(n_ids: int, n_documents: int) -> None:
    if n_ids != n_documents:
        raise ConfigError(f"ids must hold an id a document: {n_ids} for {n_documents} documents")

"""What a collection holds open: the connection to its place, its models and rerankers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tessera_onnx.collection.place import Place
from tessera_onnx.collection.settings import Wanted

if TYPE_CHECKING:
    from tessera_onnx.collection.indexing import Report, Writer
    from tessera_onnx.collection.opening import Parts


class Resources:
    """They are opened when they are first used; any thread may use them."""

    def __init__(self, find: Callable[[], Place], wanted: Wanted) -> None:
        """`find` gives the place."""
        self._find, self._wanted = find, wanted
        self._lock = threading.RLock()
        self._place: Place | None = None
        self._parts: Parts | None = None
        self._stamp: object = None  # of the collection that is open
        self._rerankers: dict[str, Any] = {}

    def place(self) -> Place:
        """The place of the collection. Raises what `find_place` raises."""
        with self._lock:
            self._place = self._place or self._find()
            return self._place

    def parts(self, *, create: bool = False) -> Parts:
        """The collection; with `create` it is made where there is none. See `open_parts`."""
        place = self.place()
        from tessera_onnx.collection import opening

        with self._lock:
            if self._parts is None or place.stamp() != self._stamp:
                self._parts = opening.open_parts(place, self._wanted, create=create)
                self._stamp = place.stamp()
            return self._parts

    @contextmanager
    def writer(self, tell: Callable[[Report], None]) -> Iterator[Writer]:
        """A writer, with the lock of the place; what it wrote is tidied up in the end."""
        with self.place().writing():
            opened = self.parts(create=True)
            from tessera_onnx.collection.indexing import Writer

            yield Writer(opened, tell)
            opened.store.tidy()

    def reranker(self, name: str) -> Any:
        """A reranker by its id or folder. See `open_reranker`."""
        from tessera_onnx.collection import opening

        with self._lock:
            if name not in self._rerankers:
                self._rerankers[name] = opening.open_reranker(name, self._wanted.threads)
            return self._rerankers[name]

    def close(self) -> None:
        """Close all of it; a later call opens it again."""
        with self._lock:
            if self._parts is not None:
                self._parts.models.close()
            if self._place is not None:
                self._place.close()
            for model in self._rerankers.values():
                model.close()
            self._parts, self._rerankers = None, {}

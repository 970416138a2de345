"""A collection in a folder: collection.json, the lock of its writer, and a table of LanceDB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tessera_onnx.collection import lock
from tessera_onnx.collection.arrow import fields
from tessera_onnx.collection.settings import Settings, read_settings, stamp
from tessera_onnx.collection.store import LanceTable
from tessera_onnx.collection.vectors import Models, similarity_of
from tessera_onnx.errors import FileError, TesseraError


class Folder:
    """The place of a collection that one machine writes."""

    def __init__(self, folder: Path) -> None:
        """Name a folder."""
        self._folder = folder
        self._is_locked = False

    def settings(self) -> Settings | None:
        """The content of collection.json. Raises FileError."""
        return read_settings(self._folder)

    def stamp(self) -> object:
        """That of collection.json."""
        return stamp(self._folder)

    def missing(self) -> TesseraError:
        """The error of a folder without a collection."""
        what = f"{self._folder} holds no collection: tessera index makes one"
        return FileError(what, path=str(self._folder))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock of the folder. Raises FileError."""
        with lock.writing(self._folder):
            self._is_locked = True
            try:
                yield
            finally:
                self._is_locked = False

    def open(self, settings: Settings, models: Models, *, is_new: bool) -> LanceTable:
        """The table, which only a writer makes. Raises FileError."""
        if is_new:
            settings.write(self._folder)
        sparse = models.by_kind.get("sparse")
        return LanceTable(
            self._folder,
            fields(models),
            similarity=similarity_of(models.by_kind["dense"]) or "cosine",
            idf=sparse is not None and sparse.spec.hashes_words(),
            create=self._is_locked,
        )

    def close(self) -> None:
        """Nothing is held open."""

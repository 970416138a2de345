"""The lock of the only writer of a collection; it is free again when its process has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from tessera_onnx.collection.settings import NAME
from tessera_onnx.errors import FileError
from tessera_onnx.files import reason

LOCK = "writer.lock"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is made if need be.

    Where no collection has come into being, no folder stays. Raises FileError where another process
    holds the lock, or the folder cannot be written or holds files of somebody else.
    """
    lock = filelock.FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_free(folder)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise FileError(
            f"{folder} is being written by another process: wait until it has ended"
        ) from None
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{folder} cannot be written: {reason(error)}") from None
    try:
        for path in folder.glob(".tessera-*.tmp"):  # of a writer that was killed
            path.unlink()
        yield
    finally:
        is_made = (folder / NAME).exists()
        lock.release()
        if not is_made:
            with suppress(OSError):  # it holds something else, such as a hidden file
                (folder / LOCK).unlink(missing_ok=True)
                folder.rmdir()


def _check_free(folder: Path) -> None:
    """Raises FileError where a folder without a collection holds files."""
    names = {path.name for path in folder.iterdir() if path.name[:1] != "."}
    if NAME not in names and names - {LOCK}:
        raise FileError(f"{folder} holds files that are no collection: name a new folder")

"""Write a file or a folder whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tessera_onnx.errors import FileError, named


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary stream whose content becomes `path` when the block ends without an exception.

    The content is written to a temporary file in the same folder, synced, and renamed. After any
    exception, also an interrupt, the temporary file is removed and `path` is unchanged. A link
    stays a link, and a file keeps its permissions. Raises FileError when the file cannot be
    written. If only the renaming fails, the temporary file stays and the message names it.
    """
    try:
        target = Path(os.path.realpath(path))  # resolve() raises for a ring of links
    except (OSError, ValueError) as error:  # the working directory is gone; a NUL
        raise FileError(f"{named(path)} cannot be written: {reason(error)}") from None
    temporary = target.parent / f".tessera-{secrets.token_hex(8)}.tmp"
    is_result = False
    try:
        mode = _permissions(target)  # fails before hours of work, not after them
        with temporary.open("xb") as stream:
            if mode is not None and hasattr(os, "fchmod"):
                with suppress(OSError):  # a file system without permissions
                    os.fchmod(stream.fileno(), mode)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        try:
            temporary.replace(target)
        except OSError as error:
            is_result = True
            raise FileError(
                f"{named(path)} cannot be written: {reason(error)}; the result is in {temporary}"
            ) from None
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{named(path)} cannot be written: {reason(error)}") from None
    finally:
        if not is_result:
            with suppress(OSError):  # usually it was renamed; or the folder does not exist
                temporary.unlink()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder that becomes `path` when the block ends without an exception.

    It lies beside `path` until then, and is removed after any exception. Raises FileError when
    `path` is a file or a folder that holds something, and when it cannot be written.
    """
    import shutil

    temporary = path.parent / f".tessera-{secrets.token_hex(8)}.tmp"
    try:
        filled = os.path.lexists(path) and (not path.is_dir() or any(path.iterdir()))
        if not filled:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise FileError(f"{named(path)} cannot be written: {reason(error)}") from None
    if filled:
        what = "is not empty" if path.is_dir() else "is a file"
        raise FileError(f"{named(path)} {what}: name a new folder", path=str(path))
    try:
        yield temporary
        try:
            if path.is_dir():
                path.rmdir()  # it is empty; Windows does not rename over it
            temporary.rename(path)
        except OSError as error:
            raise FileError(f"{named(path)} cannot be written: {reason(error)}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # usually it was renamed


def check_regular(path: Path) -> None:
    """Raises FileError unless a regular file is there: a pipe or a device might never end."""
    try:
        found = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise FileError(f"{named(path)} cannot be read: {reason(error)}", path=str(path)) from None
    if not stat.S_ISREG(found):
        what = "a folder" if stat.S_ISDIR(found) else "a pipe or a device, not a regular file"
        raise FileError(f"{named(path)} cannot be read: it is {what}", path=str(path))


def _permissions(target: Path) -> int | None:
    """The permissions of an existing file; None without one. Raises OSError for other things."""
    try:
        found = target.stat().st_mode
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ELOOP}:  # no such file, or a ring of links
            return None
        raise
    if stat.S_ISDIR(found):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(found):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a regular file")
    return found & 0o777


def reason(error: Exception) -> object:
    """The system's reason for a failure, without the file's name."""
    return getattr(error, "strerror", None) or error

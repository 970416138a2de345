"""Write a file whole or not at all."""

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

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

    It goes to a temporary file in the same folder, which is synced and then takes the name; after
    any exception, an interrupt too, it is removed and `path` is as it was. A link stays a link,
    and a file keeps its permissions. Raises FileError when the file cannot be written; where the
    name alone cannot be taken in the end, the temporary file stays and the message names it.
    """
    try:
        target = Path(os.path.realpath(path))  # resolve() raises for a ring of links
    except (OSError, ValueError) as error:  # the working directory is gone; a NUL
        raise FileError(f"{named(path)} cannot be written: {reason(error)}") from None
    temporary = target.parent / f".tessera-{secrets.token_hex(8)}.tmp"
    is_result = False
    try:
        mode = _permissions(target)  # before hours of work, not when the name is taken
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
            with suppress(OSError):  # the usual case: it took the name; or there is no folder
                temporary.unlink()


def _permissions(target: Path) -> int | None:
    """Those of the file that is there. Raises OSError for what no file may take the place of."""
    try:
        found = target.stat().st_mode
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ELOOP}:  # not there, or a ring of links
            return None
        raise
    if stat.S_ISDIR(found):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(found):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a regular file")
    return found & 0o777


def reason(error: Exception) -> object:
    """What the system says of a failure, without the file's name."""
    return getattr(error, "strerror", None) or error

"""Accept images and PDFs in every form that callers have, and name them in messages.

A message never holds the content of a source, nor a name that may be content.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
import stat
import threading
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError, EncodingError, FileError

if typing.TYPE_CHECKING:
    from PIL import Image

# Beside these: an open binary file, the dict {"bytes": ..., "path": ...} of Hugging Face's datasets
# and a str that is a data: URI.
Source: typing.TypeAlias = (
    "str | os.PathLike[str] | bytes | BinaryIO | Mapping[str, Any] | Image.Image"
    " | NDArray[np.uint8] | NDArray[np.uint16]"
)
FORMS = "a path, the bytes of a file, an open binary file, a data: URI"
IMAGES = f"{FORMS}, a PIL image or a uint8 array"

MOST_BYTES = 1 << 30  # of an open file, which need not end
CHUNK = 1 << 20
DATA_URI = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
# A message names a path that does not exist only if it has one of these endings: anything else may
# be a text, a key or base64 that was meant for another argument.
ENDINGS = re.compile(
    r".*\.(avif|bmp|csv|docx|eps|gif|gz|heic|heif|html|ico|j2c|j2k|jfif|jp2|jpe|jpeg|jpf|jpg|jpx|json"
    r"|jsonl|md|npy|npz|pbm|pdf|pgm|png|pnm|ppm|pptx|ps|svg|tif|tiff|toml|txt|webp|xlsx|zip)",
    re.IGNORECASE,
)
LONGEST_NAME = 255

# A PIL image reads its file when its pixels are first used, and two threads that do so at the same
# time break each other's reading. It is not known here whether threads share an image or an open
# file, so only one thread reads at a time. PDFium may run on one thread of the process only.
LOCKS = {"pil": threading.RLock(), "pdfium": threading.RLock(), "files": threading.RLock()}


def _renew_locks() -> None:
    for name in LOCKS:
        LOCKS[name] = threading.RLock()


if hasattr(os, "register_at_fork"):  # a lock that another thread holds stays locked in a fork
    os.register_at_fork(after_in_child=_renew_locks)


def is_source(value: object) -> bool:
    """Whether it has a type that can hold an image; nothing is read."""
    from PIL import Image

    known = (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, Image.Image)
    return isinstance(value, known) or _is_record(value) or _is_open(value) or _is_scalar(value)


def is_shared(value: object) -> bool:
    """Whether the caller may change it, or read from it, while a stream is encoded."""
    return not isinstance(value, str | os.PathLike | bytes)


def resolved(source: Any, where: str) -> Any:
    """A source as a path or the bytes of a file; PIL images and arrays stay as they are.

    An open file is read from its beginning, a data: URI is decoded, and of {"bytes": ..., "path":
    ...} the bytes are taken where they are not None, else the path. Raises EncodingError for what
    cannot be read, ConfigError for a closed file or a dict with neither bytes nor path.
    """
    if _is_scalar(source):
        source = source.as_py()
    if _is_record(source):
        held = source.get("bytes")
        held = source.get("path") if held is None else held
        if held is None:
            raise ConfigError(f"{where} is a dict whose bytes and path are both None")
        if not isinstance(held, str | os.PathLike | bytes | bytearray | memoryview):
            raise TypeError(
                f"{where} is a dict whose bytes or path is of type {type(held).__name__}"
            )
        source = held
    if isinstance(source, str):
        found = DATA_URI.match(source)
        return _decoded(source, found, where) if found else source
    if isinstance(source, memoryview):
        try:
            return bytes(source)
        except ValueError as error:
            raise ConfigError(
                f"{where} is a memoryview that was released: pass its bytes"
            ) from error
    return _read(source, where) if _is_open(source) else source


def named(path: str | os.PathLike[str]) -> str:
    """The name of a file for a message: in full if it seems to be a path, else its length."""
    name = os.fsdecode(path)
    looks_so = len(name) <= LONGEST_NAME and bool(ENDINGS.fullmatch(name))
    folder, last = os.path.split(name)
    if not looks_so and folder and len(last) <= 64 and not re.search(r"\s", last):
        looks_so = _exists(folder) and folder != os.sep
    if name.isprintable() and name and (looks_so or _exists(name)):
        return name
    return f"a name of {len(name)} characters"


def error_path(path: str | os.PathLike[str]) -> str | None:
    """The path for an error's attribute; None where it may be no path but content."""
    name = os.fsdecode(path)
    return name if named(path) == name else None


def is_data(source: str | os.PathLike[str]) -> bool:
    """Whether it is a data: URI, which holds the file itself."""
    return isinstance(source, str) and DATA_URI.match(source) is not None


def label(name: str) -> str:
    """The name of an input in results of the command: its path, or the start of a data: URI."""
    found = DATA_URI.match(name)
    return f"{found[0]:.60}... ({len(name)} characters)" if found else name


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a regular file for reading. Raises FileError for anything else and for an empty file.

    A pipe or a device is refused because it might never end.
    """
    name, place = named(path), error_path(path)
    try:
        status = os.stat(path)  # noqa: PTH116 (a Path raises for what cannot be a name)
        usable = stat.S_ISREG(status.st_mode) and status.st_size > 0
        stream = Path(path).open("rb") if usable else None  # noqa: SIM115 (closed below)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"{name} cannot be read: {reason}{_hint(path)}", path=place) from None
    if stream is None:
        reason = "it is a pipe or a device, not a regular file"
        reason = "it is a folder" if stat.S_ISDIR(status.st_mode) else reason
        reason = "it is empty" if stat.S_ISREG(status.st_mode) else reason
        raise FileError(f"{name} cannot be read: {reason}", path=place)
    with stream:
        try:
            yield stream
        except FileError:
            raise
        except OSError as error:  # a disk that fails
            raise FileError(f"{name} cannot be read: {error.strerror}", path=place) from error


def _hint(path: str | os.PathLike[str]) -> str:
    name = os.fsdecode(path)
    if "://" in name[:16]:
        return ": addresses are not fetched, download it first"
    if len(name) > LONGEST_NAME and re.fullmatch(r"[\w+/=\r\n-]+", name):
        return ": decode base64 first, or write data:image/png;base64, before it"
    return ""


def _exists(name: str) -> bool:
    try:
        return os.path.lexists(name)
    except ValueError:  # a NUL, or a lone surrogate
        return False


def _is_record(value: object) -> bool:
    """Whether it is an undecoded image of Hugging Face's datasets: {"bytes": ..., "path": ...}."""
    return isinstance(value, Mapping) and bool(value) and set(value) <= {"bytes", "path"}


def _is_open(value: object) -> bool:
    return callable(getattr(value, "read", None)) and not isinstance(value, type | os.PathLike)


def _is_scalar(value: object) -> bool:
    """Whether it is a scalar of an Arrow array."""
    return callable(getattr(value, "as_py", None)) and not isinstance(value, type)


def _decoded(uri: str, head: re.Match[str], where: str) -> bytes:
    content = unquote_to_bytes(uri[head.end() :])
    if not head[2].lower().endswith(";base64"):
        return content
    content = b"".join(content.split())
    try:
        return base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)
    except binascii.Error:
        raise EncodingError(
            f"{where} is a data: URI of {len(uri)} characters whose base64 is damaged"
        ) from None


def _read(stream: Any, where: str) -> bytes:
    if getattr(stream, "closed", False) is True:
        raise ConfigError(f"{where} is a file that was closed: open it again, or pass its path")
    try:
        if not (callable(getattr(stream, "seekable", None)) and stream.seekable()):
            return _to_its_end(stream, where)
        with LOCKS["files"]:
            stream.seek(0)
            return _to_its_end(stream, where)
    except OSError as error:  # also for a file that is open for writing only
        reason = error.strerror or "it is not open for reading"
        raise EncodingError(f"{where} cannot be read: {reason}") from error
    except UnicodeDecodeError:
        raise TypeError(f'{where} is a file open as text: open it with mode "rb"') from None


def _to_its_end(stream: Any, where: str) -> bytes:
    content = bytearray()
    while chunk := stream.read(CHUNK):
        if not isinstance(chunk, bytes | bytearray):
            raise TypeError(f'{where} is a file open as text: open it with mode "rb"')
        content += chunk
        if len(content) > MOST_BYTES:
            raise EncodingError(
                f"{where} is an open file of more than {MOST_BYTES} bytes: pass its path"
            )
    return bytes(content)

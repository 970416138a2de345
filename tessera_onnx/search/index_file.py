"""A file of .npy arrays after each other, of which the last ones can be mapped, not read.

In order, each readable by np.load from where the one before it ends: a header (JSON as bytes), the
arrays of the index, and the flat arrays of the content.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import files
from tessera_onnx.errors import FileError, IntegrityError, LoadError, named
from tessera_onnx.search import numbering
from tessera_onnx.search.numbering import Numbering, Numbers

HEADER_BYTES = 512  # filled with spaces, which keeps all that follows aligned
ALIGNED = 64
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of these files."""

    name: str  # in the header
    what: str  # "pack of tokens"
    writer: str
    counts: Mapping[int, tuple[str, ...]]  # by version, the header's whole numbers


@dataclass(frozen=True, slots=True)
class Content:
    """A flat array that is mapped: its parts one after the other."""

    dtype: np.dtype[Any]
    parts: Sequence[NDArray[Any]]

    @property
    def size(self) -> int:
        """Elements of all parts."""
        return sum(part.size for part in self.parts)


def write(
    path: Path,
    kind: Format,
    facts: Mapping[str, Any],
    index: Sequence[NDArray[Any]],
    content: Sequence[Content],
) -> None:
    """`facts` holds what `kind` lists, and the checksum of the index as index_crc32.

    Raises FileError when the file cannot be written; then what was there is still there.
    """
    known = {"format": kind.name, **facts}
    header = np.frombuffer(json.dumps(known).ljust(HEADER_BYTES).encode(), dtype=np.uint8)
    with files.replacing(path) as stream:
        for array in (header, *index):
            np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)
        for each in content:
            descr = {"descr": each.dtype.str, "fortran_order": False, "shape": (each.size,)}
            np.lib.format.write_array_header_1_0(stream, descr)
            for part in each.parts:
                stream.write(_bytes(part))


def opened(path: Path, parse: Callable[[BinaryIO], T]) -> T:
    """What `parse` makes of the file. Raises FileError when there is no such file, or a pipe."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"{named(path)} cannot be read: {reason}") from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # it might never end
        raise FileError(
            f"{named(path)} cannot be read: it is a pipe or a device, not a regular file"
        )
    try:
        with path.open("rb") as stream:
            return parse(stream)
    except LoadError:
        raise
    except OSError as error:
        raise FileError(f"{named(path)} cannot be read: {error.strerror or error}") from error


def header(stream: BinaryIO, path: Path, kind: Format) -> dict[str, Any]:
    """The facts, each of the right type and no larger than the file has room for.

    Raises LoadError for another kind of file or a later version, IntegrityError for a wrong fact.
    """
    wrong = f"{named(path)} is no {kind.what}: {kind.writer} writes one"
    try:
        content = array(stream, path, "header", np.dtype(np.uint8), (HEADER_BYTES,))
        facts = json.loads(content.tobytes())
    except (IntegrityError, ValueError, RecursionError) as error:
        raise LoadError(wrong) from error
    if not isinstance(facts, dict) or facts.get("format") != kind.name:
        raise LoadError(wrong)
    version = facts.get("version")
    if type(version) is not int or version not in kind.counts:
        raise LoadError(
            f"{named(path)} is a {kind.what} of another version: this tessera-onnx reads up to "
            f"{max(kind.counts)}"
        )
    numbers = [facts.get(name) for name in ("index_crc32", *kind.counts[version])]
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
        raise IntegrityError(f"{named(path)} is damaged: its header has a missing or wrong field")
    return facts


def index(
    stream: BinaryIO,
    path: Path,
    facts: Mapping[str, Any],
    arrays: Iterable[tuple[str, str, tuple[int, ...]]],
) -> list[NDArray[Any]]:
    """The arrays of the index, each (name, dtype, shape). Raises IntegrityError."""
    found = [array(stream, path, name, np.dtype(kind), shape) for name, kind, shape in arrays]
    if crc(found) != facts["index_crc32"]:
        raise IntegrityError(
            f"{named(path)} is damaged: its index has another checksum than it says"
        )
    return found


def mapped(
    stream: BinaryIO,
    path: Path,
    arrays: Sequence[tuple[str, np.dtype[Any], int]],
    checksum: int | None,
) -> list[NDArray[Any]]:
    """The rest of the file, each (name, dtype, elements), mapped; read once for a checksum.

    Raises IntegrityError when the file has another size, or the content another checksum.
    """
    size = os.fstat(stream.fileno()).st_size
    starts = []
    for name, kind, count in arrays:
        expect(stream, path, name, kind, (count,))
        starts.append(stream.tell())
        due = starts[-1] + count * kind.itemsize
        if size < due or (len(starts) == len(arrays) and size > due):
            raise IntegrityError(
                f"{named(path)} is damaged: it has {size} bytes and should have {due}"
                + (" at least" if len(starts) < len(arrays) else "")
            )
        stream.seek(due)
    found = [
        np.memmap(stream, dtype=kind, mode="r", offset=start, shape=(count,)).view(np.ndarray)
        if count  # nothing cannot be mapped
        else np.empty(0, dtype=kind)
        for (_, kind, count), start in zip(arrays, starts, strict=True)
    ]
    if checksum is not None and crc(found) != checksum:
        names = " and ".join(name for name, _, _ in arrays)
        raise IntegrityError(
            f"{named(path)} is damaged: its {names} have another checksum than it says"
        )
    return found


def expect(
    stream: BinaryIO, path: Path, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> None:
    """Read the .npy header of an array and compare it. Raises IntegrityError."""
    # Not parsed by NumPy, which mends a header and warns: the filters of warnings are everybody's.
    wanted = io.BytesIO()
    facts = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(wanted, facts)
    beginning = stream.read(10)  # magic, version, size of the rest
    rest = stream.read(int.from_bytes(beginning[8:], "little"))
    if beginning[:8] != wanted.getvalue()[:8]:
        raise IntegrityError(f"{named(path)} is damaged: its {name} are no .npy array")
    if rest.split() != wanted.getvalue()[10:].split():  # NumPy's versions pad it otherwise
        raise IntegrityError(f"{named(path)} is damaged: its {name} have another shape or type")


def array(
    stream: BinaryIO, path: Path, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Read a small array, after a look whether the file has so many bytes."""
    expect(stream, path, name, dtype, shape)
    size = math.prod(shape) * dtype.itemsize
    if size > os.fstat(stream.fileno()).st_size - stream.tell():
        raise IntegrityError(f"{named(path)} is damaged: it ends within its {name}")
    return np.frombuffer(stream.read(size), dtype=dtype).reshape(shape)


def pack_ids(state: Numbering) -> NDArray[np.uint8]:
    """The ids of the documents that are there as JSON, by number; empty without ids."""
    ids = state.ids()
    if ids is None:
        return np.empty(0, dtype=np.uint8)
    content = json.dumps(ids)
    filled = content.ljust(-(-len(content) // ALIGNED) * ALIGNED)
    return np.frombuffer(filled.encode(), dtype=np.uint8)


def unpack_ids(
    path: Path, count: int, removed: Numbers, content: NDArray[np.uint8] | None
) -> Numbering:
    """The numbering of a file. Raises IntegrityError where ids and numbers contradict each other.

    `removed` are numbers below `count`, ascending.
    """
    try:
        ids = None
        if content is not None and len(content):
            ids = json.loads(content.tobytes())
        return numbering.restored(count, removed.astype(np.int64), ids)
    except (TypeError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{named(path)} is damaged: its ids contradict its index") from error


def crc(arrays: Iterable[NDArray[Any]]) -> int:
    """A checksum of them all, in order."""
    found = 0
    for each in arrays:
        found = zlib.crc32(_bytes(each), found)
    return found


def _bytes(content: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(content).reshape(-1).view(np.uint8).data

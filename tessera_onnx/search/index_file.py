"""Write and read the files of PackedTokens and PackedSparse; the vectors are memory-mapped.

A file is a sequence of .npy arrays: a header (JSON as bytes), small arrays that describe the
documents, and the flat arrays of the vectors. np.load reads each one where the one before it ends.
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
from tessera_onnx.search import document_ids
from tessera_onnx.search.document_ids import DocumentIds, Numbers

HEADER_BYTES = 512  # filled with spaces, which keeps all that follows aligned
ALIGNED = 64
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Format:
    """The format of one class's files."""

    name: str  # in the header: unchanged, so that files written before can be read
    what: str  # in messages
    writer: str  # the method that writes it
    counts: Mapping[int, tuple[str, ...]]  # for each version, the integers in the header


@dataclass(frozen=True, slots=True)
class Content:
    """A flat array that will be mapped, written as its parts one after the other."""

    dtype: np.dtype[Any]
    parts: Sequence[NDArray[Any]]

    @property
    def size(self) -> int:
        """Number of elements of all parts."""
        return sum(part.size for part in self.parts)


def write(
    path: Path,
    kind: Format,
    facts: Mapping[str, Any],
    index: Sequence[NDArray[Any]],
    content: Sequence[Content],
) -> None:
    """Write a file whole or not at all: the header `facts`, then `index`, then `content`.

    `facts` holds the integers that `kind` lists, and the checksum of `index` as index_crc32. Raises
    FileError when the file cannot be written; an older file is then unchanged.
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


def parse_file(path: Path, parse: Callable[[BinaryIO], T]) -> T:
    """Open a regular file and parse it. Raises FileError when it cannot be read or is a pipe."""
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


def read_header(stream: BinaryIO, path: Path, kind: Format) -> dict[str, Any]:
    """Read the header; its integers are at least 0 and fit into int64.

    Raises LoadError for another kind of file or a later version, IntegrityError for a wrong header.
    """
    wrong = f"{named(path)} is not an {kind.what}: write one with {kind.writer}"
    try:
        content = read_array(stream, path, "header", np.dtype(np.uint8), (HEADER_BYTES,))
        facts = json.loads(content.tobytes())
    except (IntegrityError, ValueError, RecursionError) as error:
        raise LoadError(wrong) from error
    if not isinstance(facts, dict) or facts.get("format") != kind.name:
        raise LoadError(wrong)
    version = facts.get("version")
    if type(version) is not int or version not in kind.counts:
        raise LoadError(
            f"{named(path)} is an {kind.what} of another version: this tessera-onnx reads versions "
            f"up to {max(kind.counts)}"
        )
    numbers = [facts.get(name) for name in ("index_crc32", *kind.counts[version])]
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
        raise IntegrityError(f"{named(path)} is damaged: its header has a missing or wrong field")
    return facts


def read_arrays(
    stream: BinaryIO,
    path: Path,
    facts: Mapping[str, Any],
    arrays: Iterable[tuple[str, str, tuple[int, ...]]],
) -> list[NDArray[Any]]:
    """Read the arrays before the vectors, each given as (name, dtype, shape).

    Raises IntegrityError for other arrays or another checksum.
    """
    found = [read_array(stream, path, name, np.dtype(kind), shape) for name, kind, shape in arrays]
    if crc(found) != facts["index_crc32"]:
        raise IntegrityError(f"{named(path)} is damaged: the checksum of its index is wrong")
    return found


def map_arrays(
    stream: BinaryIO,
    path: Path,
    arrays: Sequence[tuple[str, np.dtype[Any], int]],
    checksum: int | None,
) -> list[NDArray[Any]]:
    """Map the vectors, each array given as (name, dtype, elements); read them for a checksum.

    Raises IntegrityError when the file has another size or the vectors another checksum.
    """
    size = os.fstat(stream.fileno()).st_size
    starts = []
    for name, kind, count in arrays:
        check_array(stream, path, name, kind, (count,))
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
        if count  # an empty array cannot be mapped
        else np.empty(0, dtype=kind)
        for (_, kind, count), start in zip(arrays, starts, strict=True)
    ]
    if checksum is not None and crc(found) != checksum:
        names = " and ".join(name for name, _, _ in arrays)
        raise IntegrityError(f"{named(path)} is damaged: the checksum of its {names} is wrong")
    return found


def check_array(
    stream: BinaryIO, path: Path, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> None:
    """Read the .npy header of an array. Raises IntegrityError unless it is the expected one."""
    # Compared as bytes: NumPy's parser repairs some headers and warns.
    wanted = io.BytesIO()
    facts = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(wanted, facts)
    beginning = stream.read(10)  # magic, version, size of the rest
    rest = stream.read(int.from_bytes(beginning[8:], "little"))
    if beginning[:8] != wanted.getvalue()[:8]:
        raise IntegrityError(f"{named(path)} is damaged: its {name} are not a .npy array")
    if rest.split() != wanted.getvalue()[10:].split():  # versions of NumPy pad it differently
        raise IntegrityError(f"{named(path)} is damaged: its {name} have another shape or type")


def read_array(
    stream: BinaryIO, path: Path, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Read a small array. Raises IntegrityError when the file has fewer bytes."""
    check_array(stream, path, name, dtype, shape)
    size = math.prod(shape) * dtype.itemsize
    if size > os.fstat(stream.fileno()).st_size - stream.tell():
        raise IntegrityError(f"{named(path)} is damaged: it ends within its {name}")
    return np.frombuffer(stream.read(size), dtype=dtype).reshape(shape)


def ids_to_bytes(documents: DocumentIds) -> NDArray[np.uint8]:
    """The ids of the documents, by number, as a JSON list in bytes; empty if they have none."""
    ids = documents.ids()
    if ids is None:
        return np.empty(0, dtype=np.uint8)
    content = json.dumps(ids)
    filled = content.ljust(-(-len(content) // ALIGNED) * ALIGNED)
    return np.frombuffer(filled.encode(), dtype=np.uint8)


def ids_from_bytes(
    path: Path, count: int, removed: Numbers, content: NDArray[np.uint8] | None
) -> DocumentIds:
    """The numbers and ids in a file; `removed` are numbers below `count`, ascending.

    Raises IntegrityError unless there is one id per document.
    """
    try:
        ids = None
        if content is not None and len(content):
            ids = json.loads(content.tobytes())
        return document_ids.restored(count, removed.astype(np.int64), ids)
    except (TypeError, ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{named(path)} is damaged: its ids do not fit its documents"
        ) from error


def crc(arrays: Iterable[NDArray[Any]]) -> int:
    """The CRC-32 of the bytes of all arrays, in order."""
    found = 0
    for each in arrays:
        found = zlib.crc32(_bytes(each), found)
    return found


def _bytes(content: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(content).reshape(-1).view(np.uint8).data

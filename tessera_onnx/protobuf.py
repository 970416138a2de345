"""Read and write the fields of protobuf messages, the format of ONNX files.

The runtime reads a few fields of a graph and leaves the rest to ONNX Runtime, so it does not need
the packages protobuf and onnx.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator

Buffer = bytes | mmap.mmap

# Field numbers of onnx.proto3: of a model, of its graph, and of a tensor.
GRAPH, INITIALIZER, EXTERNAL_DATA = 7, 5, 13
ENTRY_KEY, ENTRY_VALUE = 1, 2  # of an entry of EXTERNAL_DATA
LOCATION = b"location"  # the key of the entry that names a file


def message(field: int, content: bytes) -> bytes:
    """The encoding of a field that holds bytes."""
    return number(field << 3 | 2) + number(len(content)) + content


def number(value: int) -> bytes:
    """The encoding of a whole number (varint)."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def fields(
    graph: Buffer, start: int, end: int, wanted: int | None = None
) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of the fields that hold bytes: all, or those of the number `wanted`."""
    for field, tag, begin, to in whole(graph, start, end):
        if graph[tag] & 7 == 2 and wanted in (None, field):
            yield field, begin, to


def whole(graph: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, start of the tag, start and end of the content) of each field of a message.

    Raises ValueError when the bytes are no protobuf message.
    """
    while start < end:
        at = start
        tag, start = graph[at], at + 1
        if tag >= 0x80:  # most numbers are of one byte, and need no call
            tag, start = varint(graph, at, end)
        wire = tag & 7
        if wire == 0:
            _, to = varint(graph, start, end)
        elif wire == 2:
            if start < end and graph[start] < 0x80:
                size, start = graph[start], start + 1
            else:
                size, start = varint(graph, start, end)
            to = start + size
        elif wire in (1, 5):
            to = start + (8 if wire == 1 else 4)
        else:
            raise ValueError(f"wire type {wire}")
        if to > end:
            raise ValueError("a field ends outside its message")
        yield tag >> 3, at, start, to
        start = to


def varint(graph: Buffer, start: int, end: int) -> tuple[int, int]:
    """The whole number (varint) at `start`, and its end. Raises ValueError if it has none."""
    value = 0
    for shift in range(10):
        if start + shift >= end:
            break
        byte = graph[start + shift]
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, start + shift + 1
    raise ValueError("a number does not end")


def location(graph: Buffer, start: int, end: int) -> Iterator[str]:
    """The name of the file that holds the bytes of the tensor at `start`, if they lie outside.

    Raises ValueError when the bytes are no tensor.
    """
    for _, entry, entry_end in fields(graph, start, end, EXTERNAL_DATA):
        pair = {number: graph[at:to] for number, at, to in fields(graph, entry, entry_end)}
        if pair.get(ENTRY_KEY) == LOCATION:
            # UnicodeDecodeError is a ValueError
            yield pair.get(ENTRY_VALUE, b"").decode()


def is_plain_name(name: str) -> bool:
    """Whether it is a name of a file in the same folder: no path, and no sign of a shell."""
    return re.fullmatch(r"[\w.+-]+", name) is not None and name not in (".", "..")

"""Read and write the fields of protobuf messages, the format of ONNX files.

The runtime reads a few fields of a graph and leaves the rest to ONNX Runtime, so it does not need
the packages protobuf and onnx.
"""

from __future__ import annotations

from collections.abc import Iterator


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
    graph: bytes, start: int, end: int, wanted: int | None = None
) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of the fields that hold bytes: all, or those of the number `wanted`."""
    for field, tag, begin, to in whole(graph, start, end):
        if graph[tag] & 7 == 2 and wanted in (None, field):
            yield field, begin, to


def whole(graph: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
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


def varint(graph: bytes, start: int, end: int) -> tuple[int, int]:
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

"""Weights that a graph keeps in files beside it: which files, and that it names no other.

ONNX Runtime opens every file that a graph names, also for a graph in memory, and then relative to
the working directory and out of it (seen with 1.32: "w.bin" and, for some tensors, "../w.bin"). So
the names are read here, before ONNX Runtime sees the graph.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tessera_onnx.errors import IntegrityError

KEY = b"location"
# The key as protobuf writes it, after its length 8, which a hostile file may write in more bytes.
WRITTEN = re.compile(rb"(?:\x08|\x88\x80*\x00)location")
# Field numbers of onnx.proto3.
GRAPH, INITIALIZER, EXTERNAL_DATA, ENTRY_KEY, ENTRY_VALUE = 7, 5, 13, 1, 2


def locations(graph: bytes, name: str) -> list[str]:
    """Names of the files beside the graph `name` that hold weights of it, sorted; mostly [].

    Raises IntegrityError for anything but the plain name of a file in the graph's folder, and for
    data outside that is not a weight of the main graph: those ONNX Runtime cannot take from memory.
    """
    if KEY not in graph:  # whatever names a file writes this word
        return []
    try:
        found = list(_named(graph))
    except ValueError as error:
        raise IntegrityError(f"{name} is not a readable ONNX graph: {error}") from None
    if len(found) != len(WRITTEN.findall(graph)):
        raise IntegrityError(f"{name} keeps data in other files that are not weights of its graph")
    for location in found:
        if not re.fullmatch(r"[\w.+-]+", location) or location in (".", ".."):
            raise IntegrityError(
                f"{name} names the data file {location!r}, which is no file of the same folder"
            )
    return sorted(set(found))


def _named(graph: bytes) -> Iterator[str]:
    """The locations of the main graph's weights, repeated as often as they are written."""
    for _, start, end in _fields(graph, 0, len(graph), GRAPH):
        for _, weight, weight_end in _fields(graph, start, end, INITIALIZER):
            for _, entry, entry_end in _fields(graph, weight, weight_end, EXTERNAL_DATA):
                pair = {number: graph[at:to] for number, at, to in _fields(graph, entry, entry_end)}
                if pair.get(ENTRY_KEY) == KEY:
                    # UnicodeDecodeError is a ValueError
                    yield pair.get(ENTRY_VALUE, b"").decode()


def _fields(
    graph: bytes, start: int, end: int, wanted: int | None = None
) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of a message's fields of bytes, `wanted` ones or all.

    Raises ValueError where the bytes are no protobuf message.
    """
    while start < end:
        tag, start = _varint(graph, start, end)
        wire = tag & 7
        size = 0
        if wire == 0:
            _, start = _varint(graph, start, end)
        elif wire == 2:
            size, start = _varint(graph, start, end)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if start + size > end:
            raise ValueError("a field ends outside its message")
        if wire == 2 and wanted in (None, tag >> 3):
            yield tag >> 3, start, start + size
        start += size


def _varint(graph: bytes, start: int, end: int) -> tuple[int, int]:
    value = 0
    for shift, at in enumerate(range(start, min(start + 10, end))):
        value |= (graph[at] & 0x7F) << (7 * shift)
        if graph[at] < 0x80:
            return value, at + 1
    raise ValueError("a number does not end")

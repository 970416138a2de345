"""Weights that a graph keeps in files beside it: which files, and that it names no other.

ONNX Runtime opens every file that a graph names, also for a graph in memory, and then relative to
the working directory and out of it (seen with 1.32: "w.bin" and, for some tensors, "../w.bin"). So
the names are read here, before ONNX Runtime sees the graph.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tessera_onnx.errors import IntegrityError
from tessera_onnx.runtime import protobuf

KEY = b"location"
# The key as protobuf writes it, after its length 8, which a hostile file may write in more bytes.
WRITTEN = re.compile(rb"(?:\x08|\x88\x80*\x00)location")
# Field numbers of onnx.proto3.
GRAPH, INITIALIZER, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 7, 5, 9, 13, 14
ENTRY_KEY, ENTRY_VALUE = 1, 2
LARGE = 1 << 16  # bytes of a weight that is worth taking out
FIELDS = 100  # of a tensor beside its bytes: its name, type and sizes are a dozen


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


def without_weights(graph: bytes, location: str) -> bytes:
    """The graph with each large weight replaced by its place in `graph`, as the file `location`.

    ONNX Runtime parses a graph into one copy and makes its weights of it, a second: what is given
    to it beside the graph is copied once, and the graph opens in half the time. Raises ValueError
    where the bytes are no protobuf message.
    """
    parts: list[bytes | memoryview] = []
    for number, tag, start, end in protobuf.whole(graph, 0, len(graph)):
        if number == GRAPH:
            inner: list[bytes | memoryview] = []
            for field, field_tag, begin, to in protobuf.whole(graph, start, end):
                large = field == INITIALIZER and to - begin >= LARGE
                weight = _placed(graph, begin, to, location) if large else None
                whole = memoryview(graph)[field_tag:to]
                inner.append(whole if weight is None else protobuf.message(INITIALIZER, weight))
            parts.append(protobuf.message(GRAPH, b"".join(inner)))
        else:
            parts.append(memoryview(graph)[tag:end])
    return b"".join(parts)


def _placed(graph: bytes, start: int, end: int, location: str) -> bytes | None:
    """A tensor that is said to lie in `location` where `graph` holds it; None without raw bytes."""
    kept: list[bytes] = []
    place: tuple[int, int] | None = None
    for number, tag, begin, to in protobuf.whole(graph, start, end):
        if number == RAW_DATA:
            place = begin, to - begin
        else:
            kept.append(graph[tag:to])
        if len(kept) > FIELDS:  # numbers one by one, or worse
            return None
    if place is None:
        return None
    pairs = {KEY: location, b"offset": str(place[0]), b"length": str(place[1])}
    entries = [
        protobuf.message(ENTRY_KEY, key) + protobuf.message(ENTRY_VALUE, value.encode())
        for key, value in pairs.items()
    ]
    entries = [protobuf.message(EXTERNAL_DATA, entry) for entry in entries]
    return b"".join(kept + entries) + protobuf.number(DATA_LOCATION << 3) + protobuf.number(1)


def _named(graph: bytes) -> Iterator[str]:
    """The locations of the main graph's weights, repeated as often as they are written."""
    for _, start, end in protobuf.fields(graph, 0, len(graph), GRAPH):
        for _, weight, weight_end in protobuf.fields(graph, start, end, INITIALIZER):
            for _, entry, entry_end in protobuf.fields(graph, weight, weight_end, EXTERNAL_DATA):
                pair = {
                    number: graph[at:to]
                    for number, at, to in protobuf.fields(graph, entry, entry_end)
                }
                if pair.get(ENTRY_KEY) == KEY:
                    # UnicodeDecodeError is a ValueError
                    yield pair.get(ENTRY_VALUE, b"").decode()

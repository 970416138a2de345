"""Find the files beside a graph that hold its weights, and refuse a graph that names others.

ONNX Runtime opens every file that a graph names, even when it gets the graph from memory. It then
looks in the working directory, and for some tensors outside of it (1.32 opened "w.bin" and
"../w.bin"). So the names are checked here before ONNX Runtime sees the graph.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tessera_onnx import protobuf
from tessera_onnx.errors import IntegrityError
from tessera_onnx.protobuf import (
    ENTRY_KEY,
    ENTRY_VALUE,
    EXTERNAL_DATA,
    GRAPH,
    INITIALIZER,
    LOCATION,
)

# The key after its length, 8, as protobuf writes it. A hostile file may write the length longer.
WRITTEN = re.compile(rb"(?:\x08|\x88\x80*\x00)location")
RAW_DATA, DATA_LOCATION = 9, 14  # field numbers of a tensor
LARGE = 1 << 16  # bytes; smaller weights stay in the graph
FIELDS = 100  # limit on a tensor's fields besides its bytes; name, type and sizes are a dozen


def locations(graph: bytes, name: str) -> list[str]:
    """Names of the files that hold weights of the graph `name`, sorted; [] for most graphs.

    Raises IntegrityError for a name that is no plain name of a file in the graph's folder, and for
    outside data that is no weight of the main graph: ONNX Runtime cannot take it from memory.
    """
    if LOCATION not in graph:  # every reference to a file holds this word
        return []
    try:
        found = list(_named(graph))
    except ValueError as error:
        raise IntegrityError(f"{name} is not a readable ONNX graph: {error}") from None
    if len(found) != len(WRITTEN.findall(graph)):
        raise IntegrityError(f"{name} keeps data in other files that are not weights of its graph")
    for location in found:
        if not protobuf.is_plain_name(location):
            raise IntegrityError(
                f"{name} names the data file {location!r}, which is no file of the same folder"
            )
    return sorted(set(found))


def without_weights(graph: bytes, location: str) -> bytes:
    """The graph with its large weights replaced by references into `graph`, as a file `location`.

    ONNX Runtime copies the weights in a graph twice, when it parses the graph and when it creates
    the weights. It copies weights from a file once, so the graph opens in half the time. Raises
    ValueError when the bytes are no protobuf message.
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
    """The tensor as a reference to its bytes in `graph`; None if it has no raw bytes."""
    kept: list[bytes] = []
    place: tuple[int, int] | None = None
    for number, tag, begin, to in protobuf.whole(graph, start, end):
        if number == RAW_DATA:
            place = begin, to - begin
        else:
            kept.append(graph[tag:to])
        if len(kept) > FIELDS:  # its numbers are fields of their own, or the file is hostile
            return None
    if place is None:
        return None
    pairs = {LOCATION: location, b"offset": str(place[0]), b"length": str(place[1])}
    entries = [
        protobuf.message(ENTRY_KEY, key) + protobuf.message(ENTRY_VALUE, value.encode())
        for key, value in pairs.items()
    ]
    entries = [protobuf.message(EXTERNAL_DATA, entry) for entry in entries]
    return b"".join(kept + entries) + protobuf.number(DATA_LOCATION << 3) + protobuf.number(1)


def _named(graph: bytes) -> Iterator[str]:
    """The location of each outside weight of the main graph."""
    for _, start, end in protobuf.fields(graph, 0, len(graph), GRAPH):
        for _, weight, weight_end in protobuf.fields(graph, start, end, INITIALIZER):
            yield from protobuf.location(graph, weight, weight_end)

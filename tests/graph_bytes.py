"""Write ONNX graphs a field at a time, since the tests of the runtime know no onnx."""

from __future__ import annotations

from tessera_onnx import protobuf

NAME, RAW, EXTERNAL_DATA, DATA_LOCATION = 8, 9, 13, 14  # of TensorProto


def number(value):
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def field(key, content):
    return number(key << 3 | 2) + number(len(content)) + content


def entry(key, value):
    return field(EXTERNAL_DATA, field(1, key) + field(2, value))


def parts(message):
    """(number, content, bytes as they stand) of each field; content None where it is a number."""
    at = 0
    for key, start, end in protobuf.fields(message, 0, len(message)):
        head = start - len(number(end - start)) - len(number(key << 3 | 2))
        if head > at:
            yield None, None, message[at:head]
        yield key, message[start:end], message[head:end]
        at = end
    yield None, None, message[at:]


def outside(graph, locate):
    """The graph with its raw tensors moved out; `locate(offset)` names the file of each."""
    data = bytearray()

    def tensor(message):
        raw = b"".join(content for key, content, _ in parts(message) if key == RAW)
        kept = b"".join(whole for key, _, whole in parts(message) if key != RAW)
        if len(raw) < 64:
            return message
        offset = len(data)
        data.extend(raw)
        entries = entry(b"location", locate(offset)) + entry(b"offset", str(offset).encode())
        entries += entry(b"length", str(len(raw)).encode())
        return kept + entries + number(DATA_LOCATION << 3) + number(1)

    def inner(message):
        return b"".join(
            field(5, tensor(content)) if key == protobuf.INITIALIZER else whole
            for key, content, whole in parts(message)
        )

    return b"".join(
        field(7, inner(content)) if key == protobuf.GRAPH else whole
        for key, content, whole in parts(graph)
    ), bytes(data)

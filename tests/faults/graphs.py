"""ONNX graphs written by hand, a field at a time, since the runtime's tests know no onnx.

Each is a whole model for the small dense artifact: input_ids and attention_mask (batch, n) int64
to sentence_embedding (batch, 32). Field numbers are those of onnx.proto3.
"""

from __future__ import annotations

from typing import Any

import numpy as np

FLOAT, INT64, FLOAT16 = 1, 7, 10
DIM = 32


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def field(key: int, content: bytes | str) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return varint(key << 3 | 2) + varint(len(content)) + content


def number(key: int, value: int) -> bytes:
    return varint(key << 3) + varint(value)


def tensor(name: str, dtype: int, dims: list[int], raw: bytes, extra: bytes = b"") -> bytes:
    sizes = b"".join(number(1, dim) for dim in dims)
    return sizes + number(2, dtype) + field(8, name) + field(9, raw) + extra


def constant(name: str, array: np.ndarray) -> bytes:
    """A field `initializer`."""
    kind = {"f": FLOAT, "i": INT64}[array.dtype.kind]
    return field(5, tensor(name, kind, list(array.shape), array.tobytes()))


def attribute(name: str, value: Any) -> bytes:
    if isinstance(value, int):
        return field(5, field(1, name) + number(3, value) + number(20, 2))
    if isinstance(value, str):
        return field(5, field(1, name) + field(4, value) + number(20, 3))
    return field(5, field(1, name) + field(6, value) + number(20, 5))  # a graph


def node(op: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> bytes:
    names = b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, op)
    given = b"".join(attribute(name, value) for name, value in attributes.items())
    return field(1, names + given + (field(7, domain) if domain else b""))


def value(name: str, dtype: int, dims: list[str | int]) -> bytes:
    sizes = b"".join(
        field(1, number(1, dim) if isinstance(dim, int) else field(2, dim)) for dim in dims
    )
    return field(1, name) + field(2, field(1, number(1, dtype) + field(2, sizes)))


def model(body: bytes, output: list[str | int] | None = None, dtype: int = FLOAT) -> bytes:
    """A model of that body, which ends in "sentence_embedding"."""
    ends = b"".join(
        field(11, value(name, INT64, ["batch", "n"])) for name in ("input_ids", "attention_mask")
    )
    ends += field(12, value("sentence_embedding", dtype, output or ["batch", DIM]))
    imports = b"".join(
        field(8, (field(1, domain) if domain else b"") + number(2, version))
        for domain, version in (("", 17), ("com.microsoft", 1), ("evil", 1))
    )
    return number(1, 8) + field(7, body + field(2, "g") + ends) + imports


def summing(half: bool) -> bytes:
    """The sum of 32 times the ids, in every component: past 65,504 it leaves float16."""
    kind = FLOAT16 if half else FLOAT
    return (
        constant("axis", np.array([1]))
        + constant("times", np.array(32))
        + constant("row", np.linspace(1, 2, DIM, dtype=np.float32)[None])
        + node("Mul", ["input_ids", "attention_mask"], "real")
        + node("Mul", ["real", "times"], "large")
        + node("Cast", ["large"], "halves", to=kind)
        + node("ReduceSum", ["halves", "axis"], "sum", keepdims=1)
        + node("Cast", ["sum"], "wide", to=FLOAT)
        + node("Mul", ["wide", "row"], "sentence_embedding")
    )


def picking(indices: list[int]) -> bytes:
    """A reranker whose columns are the ids at some positions of the sequence."""
    body = (
        constant("where", np.array(indices))
        + node("Mul", ["input_ids", "attention_mask"], "real")
        + node("Gather", ["real", "where"], "picked", axis=1)
        + node("Cast", ["picked"], "sentence_embedding", to=FLOAT)
    )
    return model(body, ["batch", len(indices)])


def loop_forever() -> bytes:
    """A Loop whose condition stays true and whose trip count is the largest there is."""
    inner = node("Identity", ["keep"], "keep_out") + node("Identity", ["x"], "x_out")
    inner += field(2, "body")
    inner += field(11, value("step", INT64, [])) + field(11, value("keep", 9, []))
    inner += field(11, value("x", FLOAT, ["b", DIM]))
    inner += field(12, value("keep_out", 9, [])) + field(12, value("x_out", FLOAT, ["b", DIM]))
    true = field(5, tensor("true", 9, [], b"\1"))
    most = constant("most", np.array(2**62))
    start = summing(half=False).replace(b"sentence_embedding", b"sentence_beginning")
    return (
        start
        + true
        + most
        + node("Loop", ["most", "true", "sentence_beginning"], "sentence_embedding", body=inner)
    )

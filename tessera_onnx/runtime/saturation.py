"""Find the products of an int8 graph that are wrong on processors without VNNI.

x86 processors with AVX2 or AVX-512 but without VNNI multiply unsigned by signed bytes two at a time
and add both products in 16 bits. An activation is at most 255, so the sum saturates when two
neighbouring weights of one sign add up to more than 128. ONNX Runtime's quantization guide
describes this ("reduce_range"), but ONNX Runtime does not detect it: this module reads the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import protobuf

Weights = NDArray[np.int8]
LIMIT = 128  # 255 * 128 fits into 16 bits, 255 * 129 does not
# Operators of integer products, and which of their inputs is the weight.
OPERATORS = {
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
    "QAttention": 1,
    "QLinearMatMul": 3,
    "QGemm": 3,
    "ConvInteger": 1,
    "QLinearConv": 3,
}
# ONNX Runtime turns these into integer products when both inputs come from DequantizeLinear.
FUSED = {"MatMul": 1, "Gemm": 1, "Conv": 1}
# Operators that may stand between a stored weight and the product.
PASSING = {"Identity", "Split", "Slice", "Reshape", "Transpose"}
INT8 = 3  # TensorProto.DataType
# Field numbers of onnx.proto3.
GRAPH, NODE, INITIALIZER = 7, 1, 5
INPUT, OUTPUT, NAME, OP_TYPE, ATTRIBUTE = 1, 2, 3, 4, 5
DIMS, DATA_TYPE, INT32_DATA, TENSOR_NAME, RAW_DATA, EXTERNAL_DATA = 1, 2, 5, 8, 9, 13


@dataclass(slots=True)
class Node:
    """An operator: its name, type, inputs and outputs, and whether it transposes a weight."""

    name: str = ""
    kind: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    transposes: bool = False


def products(graph: bytes, read_beside: Callable[[str], bytes] | None = None) -> list[str]:
    """Names of the products of a graph that can saturate, in the graph's order.

    `read_beside` gives the content of a file that holds weights of the graph; without it, those
    weights are skipped. Weights in subgraphs are not checked. [] for bytes that are no graph.
    """
    try:
        nodes, tensors = _read(graph)
        makers = {output: node for node in nodes for output in node.outputs}
        found: list[str] = []
        verdicts: dict[tuple[str, bool, bool], bool] = {}
        for node in nodes:
            stored = _stored(node, makers)
            if stored is None or stored[0] not in tensors:
                continue
            key = (*stored, "Conv" in node.kind)
            if key not in verdicts:
                weight = _tensor(graph, *tensors[stored[0]], read_beside)
                verdicts[key] = weight is not None and _leaves_16_bits(weight, *key[1:])
            if verdicts[key]:
                found.append(node.name or node.outputs[0])
    except (ValueError, IndexError):
        return []
    return found


def _stored(node: Node, makers: dict[str, Node]) -> tuple[str, bool] | None:
    """The stored weight of an integer product, and whether its last two axes are swapped."""
    place = OPERATORS.get(node.kind, FUSED.get(node.kind))
    if place is None or place >= len(node.inputs):
        return None
    name, swapped = node.inputs[place], node.transposes
    if node.kind in FUSED:
        activation, weight = makers.get(node.inputs[0]), makers.get(name)
        if activation is None or weight is None:
            return None
        if {activation.kind, weight.kind} != {"DequantizeLinear"}:
            return None
        name = weight.inputs[0]
    for _ in range(8):  # more steps than any known graph has
        maker = makers.get(name)
        if maker is None or maker.kind not in PASSING:
            break
        name, swapped = maker.inputs[0], swapped != maker.transposes
    return name, swapped


def _leaves_16_bits(weight: Weights, swapped: bool, convolution: bool) -> bool:  # noqa: FBT001
    """Whether two neighbouring weights of a column, of one sign, add up to more than the limit."""
    if weight.ndim < 2:
        return False
    signed = weight.astype(np.int16)
    if convolution:  # (channels, ...): ONNX Runtime reorders them, so any two may be neighbours
        flat = np.sort(signed.reshape(len(signed), -1), axis=1)
        ends = flat[:, -2:].clip(min=0).sum(axis=1), -flat[:, :2].clip(max=0).sum(axis=1)
        return bool(max(end.max() for end in ends) > LIMIT)
    signed = signed.swapaxes(-1, -2) if swapped else signed
    even = signed[..., : signed.shape[-2] // 2 * 2, :]
    for part in (even.clip(min=0), -even.clip(max=0)):
        if (part[..., ::2, :] + part[..., 1::2, :]).max(initial=0) > LIMIT:
            return True
    return False


def _read(graph: bytes) -> tuple[list[Node], dict[str, tuple[int, int]]]:
    """The nodes of the main graph, and the start and end of each of its tensors."""
    nodes, tensors = [], {}
    for _, start, end in protobuf.fields(graph, 0, len(graph), GRAPH):
        for number, begin, to in protobuf.fields(graph, start, end):
            if number == NODE:
                nodes.append(_node(graph, begin, to))
            elif number == INITIALIZER:
                for _, at, until in protobuf.fields(graph, begin, to, TENSOR_NAME):
                    tensors[graph[at:until].decode()] = begin, to
    return nodes, tensors


def _node(graph: bytes, start: int, end: int) -> Node:
    node = Node()
    for number, begin, to in protobuf.fields(graph, start, end):
        if number in (INPUT, OUTPUT):
            (node.inputs if number == INPUT else node.outputs).append(graph[begin:to].decode())
        elif number == NAME:
            node.name = graph[begin:to].decode()
        elif number == OP_TYPE:
            node.kind = graph[begin:to].decode()
        elif number == ATTRIBUTE and b"transB" in graph[begin:to]:
            node.transposes = b"\x18\x01" in graph[begin:to]  # its field i is 1
    if node.kind == "Transpose":
        node.transposes = True
    return node


def _tensor(
    graph: bytes, start: int, end: int, read_beside: Callable[[str], bytes] | None
) -> Weights | None:
    """The values of a tensor of signed bytes; None for other types, and if they cannot be read."""
    dims: list[int] = []
    outside: dict[str, str] = {}
    content: bytes | None = None
    for key, tag, begin, to in protobuf.whole(graph, start, end):
        packed = graph[tag] & 7 == 2
        if key == DIMS:
            dims += _varints(graph, begin, to)
        elif key == DATA_TYPE and protobuf.varint(graph, begin, to)[0] != INT8:
            return None
        elif key == RAW_DATA:
            content = graph[begin:to]
        elif key == INT32_DATA and packed:
            content = _low_bytes(graph[begin:to])
        elif key == EXTERNAL_DATA:
            pair = {n: graph[a:b].decode() for n, a, b in protobuf.fields(graph, begin, to)}
            outside[pair.get(1, "")] = pair.get(2, "")
    if "location" in outside and read_beside is not None:
        offset = int(outside.get("offset", 0))
        whole = memoryview(read_beside(outside["location"]))[offset:]
        content = bytes(whole[: int(outside.get("length", len(whole)))])
    return None if content is None else np.frombuffer(content, np.int8).reshape(dims)


def _varints(graph: bytes, start: int, end: int) -> Iterator[int]:
    while start < end:
        value, start = protobuf.varint(graph, start, end)
        yield value


def _low_bytes(packed: bytes) -> bytes:
    """The lowest byte of each number in a packed field."""
    codes = np.frombuffer(packed, np.uint8)
    last = np.flatnonzero(codes < 0x80)
    first = np.concatenate([[0], last[:-1] + 1]).astype(np.int64)
    second = codes[np.minimum(first + 1, last)] * (last > first)
    low: bytes = ((codes[first] & 0x7F) | (second & 1) << 7).astype(np.uint8).tobytes()
    return low

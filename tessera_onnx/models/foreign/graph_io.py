"""Read the inputs and outputs of an ONNX file without ONNX Runtime and without its weights.

The file is mapped, and weights are stepped over, so a graph of gigabytes is read in milliseconds.
Field numbers are those of onnx.proto3 (github.com/onnx/onnx).
"""

from __future__ import annotations

import math
import mmap
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tessera_onnx import protobuf
from tessera_onnx.errors import LoadError, named
from tessera_onnx.models.spec import Precision
from tessera_onnx.protobuf import Buffer

# Limits for hostile files. The largest known graphs have some 30,000 nodes and 2,000 weights.
MAX_FIELDS = 1 << 20
MAX_PORTS = 4096
MAX_NAME = 1024  # bytes of a name
MAX_AXES = 8
LARGE = 1 << 12  # numbers; smaller tensors do not tell the precision
PACKED = 3  # axes of the weights of a MatMulNBits: columns, blocks, bytes of a block
POINTER = b"version https://git-lfs.github.com/spec/"

# Field numbers: of a model (with GRAPH), of a graph, of a value, of a type, of a tensor.
OPSET_IMPORT = 8
NODE, INPUT, OUTPUT, SPARSE_INITIALIZER = 1, 11, 12, 15
OP_TYPE, ATTRIBUTE, ATTRIBUTE_NAME, ATTRIBUTE_INT = 4, 5, 1, 3
SPARSE_VALUES = 1
VALUE_NAME, VALUE_TYPE = 1, 2
TENSOR_TYPE, ELEMENT_TYPE, SHAPE = 1, 1, 2
DIM, DIM_VALUE, DIM_PARAM = 1, 1, 2
TENSOR_DIMS, TENSOR_DATA_TYPE, TENSOR_NAME = 1, 2, 8
DOMAIN, VERSION = 1, 2
# TensorProto.DataType, from 0.
TYPES = (
    *("", "float", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool"),
    *("float16", "double", "uint32", "uint64", "complex64", "complex128", "bfloat16"),
    *("float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "uint4", "int4"),
    *("float4e2m1", "float8e8m0", "uint2", "int2"),
)
SMALL_TYPES = {kind for kind in TYPES if kind.endswith(("int8", "int4", "int2", "e2m1"))}
SMALL_TYPES |= {kind for kind in TYPES if kind.startswith("float8")}
HALF_TYPES = {"float16", "bfloat16"}
FOUR_BITS, LOW_BITS = {"uint4", "int4"}, 4


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a graph.

    `type` is the element type: "int64", "int32", "float", "float16", …; "" for what is no tensor.
    `dims` has a number for a fixed size, a name for a variable one, and None for one that the file
    leaves open. It is () also where the file tells no shape at all.
    """

    name: str
    type: str
    dims: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True)
class GraphIO:
    """What an ONNX file tells without its weights.

    `inputs` are those that a caller has to give: an initializer that is listed among the inputs, as
    all are in files of IR versions below 4, has its value in the file. `locations` are the names of
    the files beside it that hold weights, sorted. `precision` is that of the weights: "int4" with
    any of 4 bits (tensors, or packed for MatMulNBits), else "int8" with any large tensor of at most
    8 bits, else "fp16" with any of 16 bits. `opsets` has the version of each operator domain; "" is
    ONNX's own.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    locations: tuple[str, ...]
    precision: Precision
    opsets: dict[str, int]


def read(path: Path) -> GraphIO:
    """Read an ONNX file.

    Raises LoadError for a file that is missing, no regular file, empty, no ONNX graph, or beyond
    the limits above, and for weights in a file that is not in the same folder.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait for its writer
            raise _error(path, "is no regular file")
        with path.open("rb") as stream:
            if not os.fstat(stream.fileno()).st_size:
                raise _error(path, "is empty: download or export it again")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return parse(content, path)
    except OSError as error:
        raise _error(path, f"cannot be read: {error.strerror or error}") from None


def parse(graph: Buffer, path: Path) -> GraphIO:
    """As `read`, for the content of the file `path`."""
    if graph[: len(POINTER)] == POINTER:
        raise _error(path, "is a pointer of Git LFS: run `git lfs pull` in its folder")
    found = _Reader(graph)
    try:
        found.model()
        packed = found.packed and any(found.bits(*place) == LOW_BITS for place in found.nodes)
    except ValueError as error:
        raise _error(path, f"is no ONNX file that can be read: {error}") from None
    for location in found.locations:
        if not protobuf.is_plain_name(location):
            raise _error(
                path,
                f"names the data file {location!r:.100}, which is no file of the same folder: "
                "export the model again",
            )
    types = found.types
    low: Precision = "int8" if types & SMALL_TYPES else "fp16"
    if packed or types & FOUR_BITS:
        low = "int4"
    return GraphIO(
        tuple(port for port in found.inputs if port.name not in found.weights),
        tuple(found.outputs),
        tuple(sorted(found.locations)),
        low if types & (SMALL_TYPES | HALF_TYPES) else "fp32",
        found.opsets,
    )


def _error(path: Path, what: str) -> LoadError:
    return LoadError(f"{named(path)} {what}", path=str(path))


class _Reader:
    """Reads the parts of a model and counts them, so that a hostile file cannot keep it busy."""

    def __init__(self, graph: Buffer) -> None:
        self.bytes = graph
        self.left = MAX_FIELDS
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []
        self.weights: set[str] = set()  # their names
        self.types: set[str] = set()  # of large weights
        self.locations: set[str] = set()
        self.opsets: dict[str, int] = {}
        self.nodes: list[tuple[int, int]] = []  # (start, end)
        self.packed = False  # whether a weight may be one of MatMulNBits

    def model(self) -> None:
        """Read the whole model. Raises ValueError when the bytes are none."""
        for number, wire, start, end in self.fields(0, len(self.bytes)):
            if number == OPSET_IMPORT and wire == 2:
                self.opset(start, end)
            elif number == protobuf.GRAPH and wire == 2:
                self.graph(start, end)
        if not self.outputs:
            raise ValueError("it has no graph with an output")

    def graph(self, start: int, end: int) -> None:
        for number, wire, begin, to in self.fields(start, end):
            if wire != 2:
                continue
            if number == INPUT:
                self.inputs.append(self.port(begin, to))
            elif number == OUTPUT:
                self.outputs.append(self.port(begin, to))
            elif number == NODE:
                self.nodes.append((begin, to))
            elif number == protobuf.INITIALIZER:
                self.tensor(begin, to)
            elif number == SPARSE_INITIALIZER:
                for values, values_end in self.messages(begin, to, SPARSE_VALUES):
                    self.tensor(values, values_end)
        if max(len(self.inputs), len(self.outputs)) > MAX_PORTS:
            raise ValueError(f"it has more than {MAX_PORTS:,} inputs or outputs")

    def bits(self, start: int, end: int) -> int:
        """The bits of a weight of the node, if it is a MatMulNBits; 0 for another node."""
        kind, attributes = "", []
        for number, wire, begin, to in self.fields(start, end):
            if number == OP_TYPE and wire == 2:
                kind = self.text(begin, to)
            elif number == ATTRIBUTE and wire == 2:
                attributes.append((begin, to))
        if kind != "MatMulNBits":
            return 0
        for begin, to in attributes:
            name, value = "", 0
            for number, wire, at, until in self.fields(begin, to):
                if number == ATTRIBUTE_NAME and wire == 2:
                    name = self.text(at, until)
                elif number == ATTRIBUTE_INT and wire == 0:
                    value = self.number(at, until)
            if name == "bits":
                return value
        return LOW_BITS  # the operator's default

    def opset(self, start: int, end: int) -> None:
        domain, version = "", 0
        for number, wire, begin, to in self.fields(start, end):
            if number == DOMAIN and wire == 2:
                domain = self.text(begin, to)
            elif number == VERSION and wire == 0:
                version = self.number(begin, to)
        self.opsets[domain] = version

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """(number, wire type, start, end) of each field of a message."""
        for number, tag, begin, to in protobuf.whole(self.bytes, start, end):
            self.count()
            yield number, self.bytes[tag] & 7, begin, to

    def count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"it has more than {MAX_FIELDS:,} parts")

    def messages(self, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
        """(start, end) of each field of that number that holds bytes."""
        for number, wire, begin, to in self.fields(start, end):
            if number == wanted and wire == 2:
                yield begin, to

    def text(self, start: int, end: int) -> str:
        if end - start > MAX_NAME:
            raise ValueError(f"a name has {end - start:,} bytes")
        return self.bytes[start:end].decode()

    def number(self, start: int, end: int) -> int:
        value = protobuf.varint(self.bytes, start, end)[0]
        return value - (1 << 64) if value >> 63 else value  # int64 in two's complement

    def type(self, start: int, end: int) -> str:
        number = self.number(start, end)
        return TYPES[number] if 0 <= number < len(TYPES) else ""

    def port(self, start: int, end: int) -> Port:
        name, kind, dims = "", "", []
        for number, wire, begin, to in self.fields(start, end):
            if number == VALUE_NAME and wire == 2:
                name = self.text(begin, to)
            elif number == VALUE_TYPE and wire == 2:
                for tensor, tensor_end in self.messages(begin, to, TENSOR_TYPE):
                    for part, part_wire, at, until in self.fields(tensor, tensor_end):
                        if part == ELEMENT_TYPE and part_wire == 0:
                            kind = self.type(at, until)
                        elif part == SHAPE and part_wire == 2:
                            dims = [self.dim(*place) for place in self.messages(at, until, DIM)]
        return Port(name, kind, tuple(dims))

    def dim(self, start: int, end: int) -> int | str | None:
        size: int | str | None = None
        for number, wire, begin, to in self.fields(start, end):
            if number == DIM_VALUE and wire == 0:
                size = self.number(begin, to)
            elif number == DIM_PARAM and wire == 2:
                size = self.text(begin, to) or None
        # Tools write 0 or -1 for a size that is open.
        return None if isinstance(size, int) and size < 1 else size

    def tensor(self, start: int, end: int) -> None:
        """Note the name, type, size and file of a weight."""
        kind = ""
        dims: list[int] = []
        for number, wire, begin, to in self.fields(start, end):
            if number == TENSOR_NAME and wire == 2:
                self.weights.add(self.text(begin, to))
            elif number == TENSOR_DATA_TYPE and wire == 0:
                kind = self.type(begin, to)
            elif number == TENSOR_DIMS:
                dims += self.numbers(begin, to)
            elif number == protobuf.EXTERNAL_DATA and wire == 2:
                self.locations.update(self.location(begin, to))
        if len(dims) > 1 and math.prod(dims[:MAX_AXES]) >= LARGE:
            self.types.add(kind)
            self.packed |= kind == "uint8" and len(dims) == PACKED

    def numbers(self, start: int, end: int) -> Iterator[int]:
        """Numbers that are packed into a field; a field that is not packed holds one."""
        while start < end:
            value, start = protobuf.varint(self.bytes, start, end)
            self.count()
            yield value

    def location(self, start: int, end: int) -> list[str]:
        """The file that an entry of a weight's outside data names; [] for other entries."""
        pair = {}
        for number, wire, begin, to in self.fields(start, end):
            if number in (protobuf.ENTRY_KEY, protobuf.ENTRY_VALUE) and wire == 2:
                pair[number] = self.text(begin, to)
        key, value = (pair.get(part, "") for part in (protobuf.ENTRY_KEY, protobuf.ENTRY_VALUE))
        return [value] if key == protobuf.LOCATION.decode() else []

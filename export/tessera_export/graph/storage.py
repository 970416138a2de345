"""Save ONNX files with deterministic bytes, large weights in a second file, and open them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime
from onnx import TensorProto

from tessera_export.errors import ExportError
from tessera_onnx.runtime import saturation
from tessera_onnx.runtime.graph import open_graph

# Bytes of weights that one file holds: protobuf ends at 2 GiB, and the nodes need room.
INLINE = 1_900_000_000
SMALL = 1024  # bytes; shapes and scalars stay in the graph, where shape inference reads them
ALIGNMENT = 4096  # a page, so that other loaders may map the file


def save(model: onnx.ModelProto, path: Path) -> list[str]:
    """Write deterministic bytes; the names of the files made, the graph's first.

    Above INLINE the large weights go to `path` + "_data", and the graph names that file.
    """
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= INLINE:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return [path.name]
    data = path.with_name(f"{path.name}_data")
    with data.open("wb") as stream, contextlib.ExitStack() as restored:
        for tensor in model.graph.initializer:
            if len(tensor.raw_data) >= SMALL:
                stream.write(bytes(-stream.tell() % ALIGNMENT))
                stream.write(restored.enter_context(_outside(tensor, data.name, stream.tell())))
        path.write_bytes(model.SerializeToString(deterministic=True))
    return [path.name, data.name]


@contextlib.contextmanager
def _outside(tensor: TensorProto, location: str, offset: int) -> Iterator[bytes]:
    """While it lasts, the tensor says where its bytes lie; what it gives are the bytes."""
    content = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    facts = {"location": location, "offset": str(offset), "length": str(len(content))}
    for key, value in facts.items():
        tensor.external_data.add(key=key, value=value)
    try:
        yield content
    finally:
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")
        tensor.raw_data = content


def session(path: Path) -> onnxruntime.InferenceSession:
    """The session that the runtime would make on a CPU; one thread, since torch runs beside it.

    Raises ExportError for an int8 graph that gives other numbers on some processors.
    """

    def read_beside(name: str) -> bytes:
        return (path.parent / name).read_bytes()

    graph = path.read_bytes()
    found = saturation.products(graph, read_beside)
    if found:
        raise ExportError(
            f"{len(found)} int8 products of {path.name}, {found[0]!r} first, can exceed the 16-bit "
            "sums of processors without VNNI: nothing was written"
        )
    return open_graph(path.name, graph, "cpu", 1, lambda _, name: read_beside(name))

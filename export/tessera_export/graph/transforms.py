"""Rewrite a traced graph: strip descriptions, tie weights, store weights in fp16."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tessera_export.errors import ExportError

LARGE = 4096  # elements; below that half precision saves nothing and biases lose digits


def strip(model: onnx.ModelProto) -> None:
    """Drop build paths, stack traces and descriptions, in place."""
    del model.metadata_props[:]
    model.doc_string = ""
    model.graph.doc_string = ""
    model.graph.name = "tessera"
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    graph = model.graph
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        item.doc_string = ""
        del item.metadata_props[:]
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]


def tie(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which a matrix that is another one transposed is made from it at load time.

    The tracer writes the decoder of a masked language model beside the embedding it is tied to.
    """
    tied = onnx.ModelProto()
    tied.CopyFrom(model)
    graph = tied.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for copy, source in ties(model).items():
        graph.node.insert(0, _transpose(source, copy))
        graph.initializer.remove(tensors[copy])
    return tied


def ties(model: onnx.ModelProto) -> dict[str, str]:
    """Names of the matrices that are embedding tables transposed, each with its table's name."""
    by_shape: dict[tuple[int, ...], list[TensorProto]] = {}
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 2 and np.prod(tensor.dims) >= LARGE:
            by_shape.setdefault(tuple(tensor.dims), []).append(tensor)
    found: dict[str, str] = {}
    for shape, tables in by_shape.items():
        if shape[0] <= shape[1]:
            continue  # an embedding has more rows than columns
        for table in tables:
            rows = numpy_helper.to_array(table)
            for copy in by_shape.get(shape[::-1], []):
                if np.array_equal(rows.T, numpy_helper.to_array(copy)):
                    found.setdefault(copy.name, table.name)
    return found


def _transpose(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Transpose", [source], [target], f"tie_{target}", perm=[1, 0])


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose large matrices are stored in fp16 and cast to fp32 at load: half the file.

    Arithmetic stays fp32. A tensor with a value beyond fp16's range is left as it is.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < LARGE:
            continue
        values = numpy_helper.to_array(tensor)
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_fp16"))
        casts.append(
            helper.make_node("Cast", [tensor.name], [name], f"cast_{name}", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return result


def named(model: onnx.ModelProto, patterns: Sequence[str]) -> list[str]:
    """Names of the nodes that match a pattern. Raises ExportError for one that names no node."""
    names = [node.name for node in model.graph.node]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ExportError(f"no node of the graph is named {pattern!r}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, p) for p in patterns)]

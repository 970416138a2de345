"""Quantize the embedding tables of a graph to int8, with one scale for each row."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tessera_export.graph import int8_columns

Array = NDArray[Any]
LARGE = 4096  # elements; smaller matrices and tables stay as they are


def lookups(
    graph: onnx.GraphProto,
    values: Mapping[str, Array],
    kept: Container[str],
    paired: Container[str | None],
) -> dict[str, list[onnx.NodeProto]]:
    """The nodes in place of each lookup, by its output, but of the lookups named in `kept`.

    `values` are the constants of the graph. `paired` names tables that are SPLADE's head transposed
    (see `_lookup`).
    """
    return {
        node.output[0]: _lookup(graph, node, values[node.input[0]], paired=node.input[0] in paired)
        for node in list(graph.node)
        if node.op_type == "Gather"
        and all(item.i == 0 for item in node.attribute)  # of rows
        and node.name not in kept
        and node.input[0] in values
        and values[node.input[0]].dtype == np.float32
        and values[node.input[0]].ndim == 2
        and values[node.input[0]].size >= LARGE
    }


def replace(
    graph: onnx.GraphProto,
    made: Mapping[str, Collection[onnx.NodeProto]],
    dropped: Container[str] = (),
) -> None:
    """Put the nodes of `made` where the outputs that they are filed under were made, in place.

    `dropped` are outputs whose nodes go. Constants without a user go too, and each stays once.
    """
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.output[0] in made:
            nodes += made[node.output[0]]
        elif node.output[0] not in dropped:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    tensors = {t.name: t for t in graph.initializer if t.name in used}  # a shared matrix once
    del graph.initializer[:]
    graph.initializer.extend(tensors.values())


def _lookup(
    graph: onnx.GraphProto, node: onnx.NodeProto, table: Array, *, paired: bool
) -> list[onnx.NodeProto]:
    """Nodes that look up int8 rows, each with a scale of its own; `paired` gives a head's columns.

    A table that is SPLADE's head transposed then has the same codes, and the file holds them once.
    """
    if paired:
        columns, by_column = int8_columns.columns(table.T)
        codes, scales = columns.T, by_column[:, None]
    else:
        scales = np.maximum(np.abs(table).max(axis=1, keepdims=True) / 127, 1e-12)
        scales = scales.astype(np.float32)
        codes = np.round(table / scales).astype(np.int8)
    name, ids, target = node.input[0], node.input[1], node.output[0]
    for constant, value in ((f"{name}_s8", codes), (f"{name}_scale", scales)):
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), constant))
    return [
        helper.make_node("Gather", [f"{name}_s8", ids], [f"{target}_s8"]),
        helper.make_node("Cast", [f"{target}_s8"], [f"{target}_whole"], to=TensorProto.FLOAT),
        helper.make_node("Gather", [f"{name}_scale", ids], [f"{target}_scale"]),
        helper.make_node("Mul", [f"{target}_whole", f"{target}_scale"], [target]),
    ]

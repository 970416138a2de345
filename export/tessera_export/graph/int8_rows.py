"""Build int8 products whose activations have one scale a row, computed while the graph runs.

A fixed scale must cover the largest value that any text gives, so ordinary tokens lose precision.
The second product of a feed-forward block loses most. Here each row (a token) has its own scale,
and a few channels stay in fp32: those with single weights far larger than the rest of their column,
and those with the largest activations (the decomposition of LLM.int8, arXiv:2208.07339). Without
these fp32 channels all-mpnet-base-v2 falls to a cosine of 0.957 on repeated words; with them it
stays above 0.982.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tessera_export.graph import int8_columns

Array = NDArray[Any]
Float = NDArray[np.float32]

EXACT = 8  # channels by their weights, and as many by their activations; 2 and 4 gave less
CHANNELS = 32  # at most one in so many, of each sort
PREFIX = "rows"  # of the constants that all products share


def exact_channels(matrix: Float, peaks: Float | None) -> NDArray[np.int64]:
    """The channels that stay fp32, in order, of a matrix (k, n) of all products of one source.

    `peaks` (k,) are the largest sizes that were measured of the channels, None without any.
    """
    count = min(EXACT, len(matrix) // CHANNELS)
    spread = np.maximum(matrix.std(axis=0), np.finfo(np.float32).tiny)
    orders = [np.argsort(-(np.abs(matrix) / spread).max(axis=1), kind="stable")]
    if peaks is not None:
        orders.append(np.argsort(-peaks, kind="stable"))
    return np.unique(np.concatenate([order[:count] for order in orders])).astype(np.int64)


def quantized(graph: onnx.GraphProto, source: str, exact: Array, width: int) -> list[Any]:
    """Nodes that make `{source}_row_u8` (rows, width) of an activation, and what products need."""
    for name, value in {
        "axis": np.array([1], np.int64),
        "largest": np.array(127, np.float32),
        "tiny": np.array(1e-12, np.float32),  # a row of zeros
        "zero": np.array(128, np.uint8),
        f"of_{width}": np.array([-1, width], np.int64),
    }.items():
        _add(graph, f"{PREFIX}_{name}", value)
    axis, name = f"{PREFIX}_axis", f"{source}_row"
    nodes, rest = [], source
    if len(exact):
        keep = np.ones(width, np.float32)
        keep[exact] = 0
        rest = f"{name}_rest"
        _add(graph, f"{name}_keep", keep)
        _add(graph, f"{name}_exact", exact)
        nodes += [
            helper.make_node("Mul", [source, f"{name}_keep"], [rest]),
            helper.make_node("Gather", [source, f"{name}_exact"], [f"{name}_few"], axis=-1),
        ]
    flat, zeros = f"{name}_flat", f"{name}_zeros"
    node = helper.make_node
    return [
        *nodes,
        node("Shape", [source], [f"{name}_before"], start=0, end=-1),
        node("Reshape", [rest, f"{PREFIX}_of_{width}"], [flat]),
        node("Abs", [flat], [f"{name}_sizes"]),
        node("ReduceMax", [f"{name}_sizes", axis], [f"{name}_peaks"], keepdims=0),
        node("Div", [f"{name}_peaks", f"{PREFIX}_largest"], [f"{name}_ratios"]),
        node("Max", [f"{name}_ratios", f"{PREFIX}_tiny"], [f"{name}_scales"]),
        node("Shape", [f"{name}_scales"], [f"{name}_count"]),
        node("Expand", [f"{PREFIX}_zero", f"{name}_count"], [zeros]),
        node("QuantizeLinear", [flat, f"{name}_scales", zeros], [f"{name}_u8"], axis=0),
        node("Unsqueeze", [f"{name}_scales", axis], [f"{name}_column"]),
    ]


def product(
    graph: onnx.GraphProto,
    source: str,
    matrix: Float,
    exact: Array,
    *,
    bias: str,
    target: str,
    name: str,
) -> list[Any]:
    """Nodes that make `target` of what `quantized` made: the product with a matrix (k, n)."""
    rest = matrix.copy()
    rest[exact] = 0
    codes, scales = int8_columns.columns(rest)
    _add(graph, f"{target}_weight_s8", codes)
    _add(graph, f"{target}_weight_scale", scales)
    _add(graph, f"{PREFIX}_to_{matrix.shape[1]}", np.array([matrix.shape[1]], np.int64))
    row = f"{source}_row"
    parts = [f"{row}_u8", f"{target}_weight_s8", f"{PREFIX}_zero"]
    node = helper.make_node
    nodes = [
        node("MatMulInteger", parts, [f"{target}_whole"], name),
        node("Cast", [f"{target}_whole"], [f"{target}_float"], to=TensorProto.FLOAT),
        node("Mul", [f"{target}_float", f"{target}_weight_scale"], [f"{target}_scaled"]),
        node("Mul", [f"{target}_scaled", f"{row}_column"], [f"{target}_rows"]),
        node(
            "Concat",
            [f"{row}_before", f"{PREFIX}_to_{matrix.shape[1]}"],
            [f"{target}_shape"],
            axis=0,
        ),
        node("Reshape", [f"{target}_rows", f"{target}_shape"], [f"{target}_int8"]),
    ]
    sums: Sequence[str] = [bias] if bias else []
    if len(exact):
        _add(graph, f"{target}_weight_exact", matrix[exact])
        nodes.append(node("MatMul", [f"{row}_few", f"{target}_weight_exact"], [f"{target}_few"]))
        sums = [f"{target}_few", *sums]
    made = f"{target}_int8"
    for number, other in enumerate(sums):
        nodes.append(node("Add", [made, other], [f"{target}_sum_{number}"]))
        made = f"{target}_sum_{number}"
    nodes[-1].output[0] = target
    return nodes


def _add(graph: onnx.GraphProto, name: str, value: Array) -> None:
    """Add a constant, once."""
    if all(tensor.name != name for tensor in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))

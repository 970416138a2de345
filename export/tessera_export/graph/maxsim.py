"""Build the graphs that compute MaxSim scores: python -m tessera_export.graph.maxsim [FOLDER]

tessera_onnx ships these graphs, since it does not depend on onnx and cannot build them. A test
builds them again and compares the bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
from onnx import TensorProto, helper

import tessera_onnx

OPSET = 18
IR_VERSION = 9  # older than the oldest onnxruntime that tessera-onnx takes


def graphs() -> dict[str, bytes]:
    """File name to content.

    Inputs: documents (d, length, dim) float32 or uint8 with zero point 128, query (dim, t) float32
    or int8, share (t, q) float32: how much a query token's maximum counts for each of q queries.
    Output: scores (d, q) float32.
    """
    product = helper.make_node("MatMul", ["documents", "query"], ["products"])
    exact = [product, _maximum("maxima"), _sum()]
    product = helper.make_node("MatMulInteger", ["documents", "query", "zero"], ["products"])
    # The maximum of the integers: a scale a document and a scale a query token come after it.
    cast = helper.make_node("Cast", ["counts"], ["maxima"], to=TensorProto.FLOAT)
    rounded = [product, _maximum("counts"), cast, _sum()]
    return {
        "maxsim.fp32.onnx": _graph(exact, TensorProto.FLOAT, TensorProto.FLOAT),
        "maxsim.int8.onnx": _graph(rounded, TensorProto.UINT8, TensorProto.INT8),
    }


def _maximum(output: str) -> onnx.NodeProto:
    return helper.make_node("ReduceMax", ["products", "axes"], [output], keepdims=0)


def _sum() -> onnx.NodeProto:
    return helper.make_node("MatMul", ["maxima", "share"], ["scores"])


def _graph(nodes: list[onnx.NodeProto], documents: int, query: int) -> bytes:
    weights = [helper.make_tensor("axes", TensorProto.INT64, [1], [1])]
    if documents == TensorProto.UINT8:
        weights.append(helper.make_tensor("zero", TensorProto.UINT8, [], [128]))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "maxsim",
        [
            value("documents", documents, ["d", "length", "dim"]),
            value("query", query, ["dim", "t"]),
            value("share", TensorProto.FLOAT, ["t", "q"]),
        ],
        [value("scores", TensorProto.FLOAT, ["d", "q"])],
        weights,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(tessera_onnx.__file__).parent)
    for name, content in graphs().items():
        (folder / name).write_bytes(content)
        print(f"{folder / name}: {len(content)} bytes")

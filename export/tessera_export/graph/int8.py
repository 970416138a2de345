"""Quantize a graph to int8: matrices by column, embedding tables by row, activations in two ways.

With one scale for a whole batch, a text's vector would depend on the other texts of the batch, and
a channel with large values would take precision from all other channels. Two ways avoid both.
*Fixed*: the scale of a product's input is a constant that is measured once, on texts that every
machine has; channels with large values are scaled down before the product, and their weights are
scaled up (SmoothQuant, arXiv:2211.10438). *By row*: each token has its own scale, which the graph
computes while it runs (int8_rows.py). Fixed scales are faster; scales by row are more exact and
need no texts. No product can saturate (int8_columns.py), so a graph gives the same numbers on every
processor.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tessera_export.errors import ExportError
from tessera_export.graph import (
    int8_columns,
    int8_rows,
    int8_tables,
    splade_head,
    storage,
    transforms,
)

Array = NDArray[Any]
Float = NDArray[np.float32]

# Channels that are narrowed: to the peak of the widest but these. 3, 8, 50 and 100 gave less.
WIDE = 30
DOMAIN = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Product:
    """A product of an activation and a matrix (k, n), and the bias that is added to it."""

    node: onnx.NodeProto
    source: str
    weight: str
    bias: str  # "" = none
    target: str
    transposed: bool = False  # the file holds (n, k)


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest and the largest value of each channel, (k,)."""

    low: Float
    high: Float


def quantize(
    model: onnx.ModelProto,
    inputs: Iterable[Mapping[str, Array]] = (),
    exclude: Sequence[str] = (),
    *,
    careful: bool = False,
) -> onnx.ModelProto:
    """The int8 graph of an fp32 one.

    `inputs` are feeds without padding that fixed scales are measured on. Products that make a wide
    activation narrow have scales by row, all products do where nothing was measured or `careful`
    asks for it. SPLADE's head has scales of its own, see splade_head. `exclude` holds patterns
    (fnmatch) of node names that stay fp32. Raises ExportError for a pattern that names no node, and
    for activations that are no numbers.
    """
    kept = set(transforms.named(model, exclude))
    head = splade_head.find(model)
    exact = head is not None and head.product.name in kept
    result = splade_head.sliced(model) if exact else splade_head.int8(model)
    graph = result.graph
    products = [product for product in _products(graph) if product.node.name not in kept]
    feeds = list(inputs)
    sources = list(dict.fromkeys(product.source for product in products))
    ranges = _measure(model, sources, feeds) if feeds else {}
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made: dict[str, list[onnx.NodeProto]] = {}
    for source in sources:
        users = [product for product in products if product.source == source]
        found = [values[product.weight] for product in users]
        matrices = [m.T if p.transposed else m for p, m in zip(users, found, strict=True)]
        narrows = all(len(matrix) > matrix.shape[1] for matrix in matrices)
        if careful or not feeds or narrows:
            made |= _by_row(graph, users, matrices, ranges.get(source))
        else:
            made |= _fixed(graph, users, matrices, ranges[source])
    replaced = {product.target for product in products}
    shared = set() if exact or head is None else {transforms.ties(model).get(head.weight)}
    made |= int8_tables.lookups(graph, values, kept, shared)
    int8_tables.replace(graph, made, replaced)
    if DOMAIN not in {each.domain for each in result.opset_import}:
        result.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return transforms.tie(result)  # a decoder that is still the embedding's rows


def _by_row(
    graph: onnx.GraphProto,
    users: Sequence[Product],
    matrices: Sequence[Float],
    measured: Range | None,
) -> dict[str, list[onnx.NodeProto]]:
    """The nodes in place of the products of one source, by the output of each."""
    source = users[0].source
    peaks = None if measured is None else np.maximum(measured.high, -measured.low)
    exact = int8_rows.exact_channels(np.concatenate(matrices, axis=1), peaks)
    nodes = int8_rows.quantized(graph, source, exact, len(matrices[0]))
    made = {}
    for user, matrix in zip(users, matrices, strict=True):
        nodes += int8_rows.product(
            graph,
            source,
            matrix,
            exact,
            bias=user.bias,
            target=user.target,
            name=user.node.name,
        )
        made[user.node.output[0]], nodes = nodes, []
    return made


def _fixed(
    graph: onnx.GraphProto, users: Sequence[Product], matrices: Sequence[Float], measured: Range
) -> dict[str, list[onnx.NodeProto]]:
    """The same with a constant scale."""
    narrow, scale, zero = _scales(measured)
    nodes = _quantized(graph, users[0].source, narrow, scale, zero)
    made = {}
    for user, matrix in zip(users, matrices, strict=True):
        nodes.append(_product(graph, user, matrix / narrow[:, None]))
        made[user.node.output[0]], nodes = nodes, []
    return made


def _products(graph: onnx.GraphProto) -> list[Product]:
    """The products by a matrix of the file, each with the addition of a bias after it, if any."""
    matrices = {
        t.name: tuple(t.dims)
        for t in graph.initializer
        if len(t.dims) == 2 and t.data_type == TensorProto.FLOAT
        if np.prod(t.dims) >= int8_tables.LARGE
    }
    vectors = {t.name: t.dims[0] for t in graph.initializer if len(t.dims) == 1}
    users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    outputs = {item.name for item in graph.output}
    found = []
    for node in graph.node:
        if node.op_type == "Gemm" and node.input[1] in matrices:  # a layer after the pooling
            found += _gemm(node, matrices[node.input[1]], vectors)
        if node.op_type != "MatMul" or node.input[1] not in matrices:
            continue
        bias, target = "", node.output[0]
        after = users[target]
        if len(after) == 1 and after[0].op_type == "Add" and target not in outputs:
            other = [name for name in after[0].input if name != target]
            # One number for all columns is no bias to MatMulIntegerToFloat.
            if len(other) == 1 and vectors.get(other[0]) == matrices[node.input[1]][1]:
                bias, target = other[0], after[0].output[0]
        found.append(Product(node, *node.input[:2], bias, target))
    return found


def _gemm(
    node: onnx.NodeProto, shape: tuple[int, ...], vectors: Mapping[str, int]
) -> list[Product]:
    """The product that a plain Gemm is: no factors, no transposed input, a bias of the file."""
    options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    transposed = bool(options.pop("transB", 0))
    bias = node.input[2] if len(node.input) > 2 else ""
    plain = all(value == float(name in {"alpha", "beta"}) for name, value in options.items())
    if not plain or (bias and vectors.get(bias) != shape[0 if transposed else 1]):
        return []
    return [Product(node, *node.input[:2], bias, node.output[0], transposed)]


def _measure(
    model: onnx.ModelProto, names: Sequence[str], inputs: Iterable[Mapping[str, Array]]
) -> dict[str, Range]:
    """The range of every channel of the named activations over all inputs."""
    if not names:  # asked for no output, ONNX Runtime gives all
        return {}
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    present = {item.name for item in model.graph.output}
    for name in names:
        if name not in present:
            item = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            probed.graph.output.append(item)
    with tempfile.TemporaryDirectory(prefix="tessera-export-") as folder:
        path = Path(folder, "probed.onnx")
        storage.save(probed, path)
        session = storage.session(path)
    wanted = [item.name for item in session.get_inputs()]
    found: dict[str, Range] = {}
    for feed in inputs:
        results = session.run(list(names), {name: feed[name] for name in wanted})
        for name, value in zip(names, results, strict=True):
            rows = value.reshape(-1, value.shape[-1])
            low, high = rows.min(axis=0), rows.max(axis=0)
            if name in found:
                low = np.minimum(low, found[name].low)
                high = np.maximum(high, found[name].high)
            found[name] = Range(low, high)
    if not all(np.isfinite([each.low, each.high]).all() for each in found.values()):
        raise ExportError("int8 cannot be calibrated: an activation is infinite or not a number")
    return found


def _scales(measured: Range) -> tuple[Float, np.float32, np.uint8]:
    """What each channel is multiplied by, and the scale and the zero point of all of them.

    Rounded to eighths of an octave and three digits: another machine's last digits change little.
    """
    peaks = np.maximum(np.maximum(measured.high, -measured.low), 1e-6)
    common = np.sort(peaks)[-min(WIDE, len(peaks))]
    narrow = np.exp2(np.round(8 * np.log2(np.minimum(1, common / peaks))) / 8).astype(np.float32)
    low = min(0.0, float((measured.low * narrow).min()))
    high = max(0.0, float((measured.high * narrow).max()), 1e-6)
    scale = float(f"{(high - low) / 255:.3g}")
    return narrow, np.float32(scale), np.uint8(np.clip(np.round(-low / scale), 0, 255))


def _quantized(
    graph: onnx.GraphProto, source: str, narrow: Float, scale: np.float32, zero: np.uint8
) -> list[onnx.NodeProto]:
    """Nodes that make the 8-bit `{source}_u8` of an activation."""
    nodes, wide = [], source
    if (narrow < 1).any():
        wide = f"{source}_narrowed"
        _add(graph, f"{source}_narrow", narrow)
        nodes.append(helper.make_node("Mul", [source, f"{source}_narrow"], [wide]))
    _add(graph, f"{source}_u8_scale", np.asarray(scale))
    _add(graph, f"{source}_u8_zero", np.asarray(zero))
    parts = [wide, f"{source}_u8_scale", f"{source}_u8_zero"]
    return [*nodes, helper.make_node("QuantizeLinear", parts, [f"{source}_u8"])]


def _product(graph: onnx.GraphProto, product: Product, weight: Float) -> onnx.NodeProto:
    """The product of 8-bit numbers, with its scales and its bias in one node.

    ONNX's own operators for it are fused to this one only when the scale is found at run time.
    """
    columns, scales = int8_columns.columns(weight)
    name = f"{product.node.output[0]}_weight"
    _add(graph, f"{name}_s8", columns)
    _add(graph, f"{name}_scale", scales)
    _add(graph, f"{name}_zero", np.zeros(len(scales), np.int8))
    source = product.source
    parts = [f"{source}_u8", f"{name}_s8", f"{source}_u8_scale", f"{name}_scale"]
    parts += [f"{source}_u8_zero", f"{name}_zero", product.bias]
    return helper.make_node(
        "MatMulIntegerToFloat",
        parts if product.bias else parts[:-1],
        [product.target],
        product.node.name,
        domain=DOMAIN,
    )


def _add(graph: onnx.GraphProto, name: str, value: Array) -> None:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))

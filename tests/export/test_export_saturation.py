"""The runtime's reader of int8 weights, on graphs that ONNX Runtime's own tools and hands make."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from tessera_export.errors import ExportError
from tessera_export.graph import storage
from tessera_onnx.runtime import saturation

pytestmark = pytest.mark.export
WIDTH, COLUMNS = 64, 96


def graph(nodes, tensors, shapes=((None, WIDTH), (None, COLUMNS)), kind=TensorProto.FLOAT):
    values = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, shape in zip("xy", shapes, strict=True)
    ]
    stored = [
        each if isinstance(each, TensorProto) else numpy_helper.from_array(each, name)
        for name, each in tensors.items()
    ]
    made = helper.make_graph(nodes, "g", values[:1], values[1:], stored)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10)


def found(model):
    return saturation.products(model.SerializeToString())


@pytest.fixture
def matrix():
    return np.random.default_rng(0).normal(size=(WIDTH, COLUMNS)).astype(np.float32)


@pytest.fixture
def fp32(matrix, tmp_path):
    model = graph([helper.make_node("MatMul", ["x", "w"], ["y"], "product")], {"w": matrix})
    onnx.save(model, tmp_path / "fp32.onnx")
    return tmp_path / "fp32.onnx"


class Samples(CalibrationDataReader):
    def __init__(self):
        rng = np.random.default_rng(1)
        self.rows = iter([{"x": rng.normal(size=(4, WIDTH)).astype(np.float32)} for _ in range(8)])

    def get_next(self):
        return next(self.rows, None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"weight_type": QuantType.QInt8}, True),
        ({"weight_type": QuantType.QInt8, "per_channel": True}, True),
        ({"weight_type": QuantType.QUInt8}, False),
        ({"weight_type": QuantType.QInt8, "reduce_range": True}, False),
    ],
)
@pytest.mark.parametrize("way", ["dynamic", "operators", "qdq"])
def test_what_onnx_runtimes_tools_make(fp32, tmp_path, way, options, expected):
    """Seven bits ("reduce_range") and unsigned weights are the tools' own two cures."""
    target = tmp_path / "int8.onnx"
    if way == "dynamic":
        quantize_dynamic(fp32, target, **options)
    else:
        form = QuantFormat.QDQ if way == "qdq" else QuantFormat.QOperator
        activations = {"activation_type": QuantType.QUInt8}
        quantize_static(fp32, target, Samples(), quant_format=form, **activations, **options)
    assert bool(saturation.products(target.read_bytes())) is expected
    assert saturation.products(fp32.read_bytes()) == []


def whole(codes, op="MatMulInteger", **attributes):
    names = ["u", "w"]
    nodes = [
        helper.make_node("Cast", ["x"], ["u"], to=TensorProto.UINT8),
        helper.make_node(op, names, ["i"], "product", **attributes),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]
    return graph(nodes, {"w": codes})


def codes(first, second, row=10):
    values = np.zeros((WIDTH, COLUMNS), np.int8)
    values[row : row + 2, 7] = first, second
    return values


@pytest.mark.parametrize(
    ("first", "second", "row", "expected"),
    [
        (64, 64, 10, False),  # 255 * 128 fits into 16 bits
        (64, 65, 10, True),
        (-64, -64, 10, False),
        (-64, -65, 10, True),
        (127, -128, 10, False),  # of unlike signs
        (127, 1, 10, False),
        (127, 2, 10, True),
        (127, 127, 11, False),  # rows 11 and 12 belong to two pairs
    ],
)
def test_the_limit_by_hand(first, second, row, expected):
    values = codes(first, second, row)
    assert found(whole(values)) == (["product"] if expected else [])
    x = np.full((1, WIDTH), 255)
    pairs = x[:, ::2, None] * values[None, ::2].astype(int)
    pairs = pairs + x[:, 1::2, None] * values[None, 1::2].astype(int)
    assert expected is bool((np.abs(pairs + 0.5) > 32768).any())


def test_weights_in_every_form():
    bad = codes(100, 100)
    small = helper.make_tensor("w", TensorProto.INT8, bad.shape, bad.flatten().tolist())
    assert not small.raw_data  # numbers one by one
    assert found(whole(small)) == ["product"]
    assert (
        found(
            whole(
                helper.make_tensor("w", TensorProto.INT8, [4, 2], [-1, -100, 3, 0, 2, -100, 5, 0])
            )
        )
        == []
    )
    nodes = [
        helper.make_node("Cast", ["x"], ["u"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["t"], ["w"], perm=[1, 0]),
        helper.make_node("Split", ["w", "sizes"], ["left", "right"], axis=1),
        helper.make_node("MatMulInteger", ["u", "left"], ["i"], "left"),
        helper.make_node("MatMulInteger", ["u", "right"], ["j"], "right"),
        helper.make_node("Concat", ["i", "j"], ["c"], axis=1),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    tensors = {"t": np.ascontiguousarray(bad.T), "sizes": np.array([48, 48])}
    assert found(graph(nodes, tensors)) == ["left", "right"]  # of one stored matrix
    tensors["t"] = np.ascontiguousarray(codes(100, 100, 11).T)
    assert found(graph(nodes, tensors)) == []


def test_convolutions(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, 3, 3, 3)).astype(np.float32)
    shapes = ((1, 3, 12, 12), (1, 8, 10, 10))
    model = graph([helper.make_node("Conv", ["x", "w"], ["y"], "conv")], {"w": weight}, shapes)
    onnx.save(model, tmp_path / "fp32.onnx")
    for reduced, expected in ((False, True), (True, False)):
        target = tmp_path / f"{reduced}.onnx"
        options = {"weight_type": QuantType.QInt8, "reduce_range": reduced}
        quantize_dynamic(tmp_path / "fp32.onnx", target, op_types_to_quantize=["Conv"], **options)
        assert bool(saturation.products(target.read_bytes())) is expected


def test_weights_beside_the_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "INLINE", 100)
    model = whole(codes(100, 100))
    names = storage.save(model, tmp_path / "g.onnx")
    assert len(names) == 2
    content = (tmp_path / "g.onnx").read_bytes()
    assert saturation.products(content) == []  # nobody gave the file
    assert saturation.products(content, lambda name: (tmp_path / name).read_bytes()) == ["product"]


def test_the_gate_refuses_such_a_graph(tmp_path):
    storage.save(whole(codes(100, 100)), tmp_path / "bad.onnx")
    with pytest.raises(ExportError, match="1 int8 products of bad.onnx, 'product' first"):
        storage.session(tmp_path / "bad.onnx")
    storage.save(whole(codes(60, 60)), tmp_path / "good.onnx")
    storage.session(tmp_path / "good.onnx")


@pytest.mark.parametrize("content", [b"", b"\xff" * 50, b"MatMulInteger", b"\x3a\x05\x0a\x03abc"])
def test_bytes_that_are_no_graph(content):
    assert saturation.products(content) == []

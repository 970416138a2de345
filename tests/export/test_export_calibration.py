"""int8 with constant scales: against the fp32 graph, by hand, and text by text."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tessera_export import calibration, folder, graph, measured, wrappers
from tessera_export.errors import ExportError

pytestmark = pytest.mark.export
WIDTH, COLUMNS = 64, 96


def run(model, feeds):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, feeds)[0]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def product(rng):
    """x (b, n, 64) @ matrix + bias, as a tracer writes a linear layer."""
    values = {
        "matrix": rng.normal(size=(WIDTH, COLUMNS)).astype(np.float32),
        "bias": rng.normal(size=COLUMNS).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "matrix"], ["xm"], "/linear/MatMul"),
        helper.make_node("Add", ["bias", "xm"], ["y"], "/linear/Add"),
    ]
    shapes = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "n", WIDTH]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "n", COLUMNS]),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in values.items()]
    made = helper.make_graph(nodes, "g", shapes[:1], shapes[1:], tensors)
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ), values


def test_a_wide_channel_leaves_the_digits_of_the_others(product, rng):
    """One channel ten times as wide: a scale for all of them gives the others 25 steps."""
    model, values = product
    x = rng.normal(size=(50, 7, WIDTH)).astype(np.float32)
    x[..., 5] *= 10
    found = run(calibration.quantize(model, [{"x": row[None]} for row in x]), {"x": x})
    expected = x @ values["matrix"] + values["bias"]
    error = np.abs(found - expected).std() / expected.std()
    dynamic = run(graph.quantize(model), {"x": x})
    assert error < 0.02
    assert error < 0.6 * np.abs(dynamic - expected).std() / expected.std()


def test_a_row_does_not_depend_on_its_neighbours(product, rng):
    model, _ = product
    x = rng.normal(size=(4, 3, WIDTH)).astype(np.float32)
    int8 = calibration.quantize(model, [{"x": x}])
    alone = run(int8, {"x": x[:1]})
    neighbour = np.concatenate([x[:1], 30 * x[1:]])  # beyond what was measured: cut, for itself
    np.testing.assert_array_equal(run(int8, {"x": neighbour})[:1], alone)


def test_the_numbers_by_hand(product):
    """x = 1 in channel 0 alone, measured as 0..2: step 2/255, so 1 becomes 127 or 128 steps."""
    model, values = product
    x = np.zeros((1, 1, WIDTH), np.float32)
    x[0, 0, 0] = 1
    int8 = calibration.quantize(model, [{"x": 2 * np.ones((1, 1, WIDTH), np.float32)}])
    matrix = values["matrix"]
    sizes = np.abs(matrix)
    steps = (sizes[::2] + sizes[1::2]).max(axis=0) / 127
    scale = float(f"{2 / 255:.3g}")
    expected = round(1 / scale) * scale * np.round(matrix[0] / steps) * steps + values["bias"]
    np.testing.assert_allclose(run(int8, {"x": x})[0, 0], expected, rtol=1e-5, atol=1e-6)


def test_no_pair_of_weights_overflows_16_bits(product, rng):
    """AVX2 adds u8 x s8 of two neighbouring rows in 16 bits: 255 x 128 fits, no more."""
    model, _ = product
    x = rng.normal(size=(4, 3, WIDTH)).astype(np.float32)
    int8 = calibration.quantize(model, [{"x": x}])
    (columns,) = (
        numpy_helper.to_array(t).astype(int) for t in int8.graph.initializer if t.name[-3:] == "_s8"
    )
    assert columns.shape == (WIDTH, COLUMNS)
    assert (np.abs(columns[::2]) + np.abs(columns[1::2])).max() <= 128
    assert np.abs(columns).max() > 60


def test_excluded_nodes_stay_fp32(product, rng):
    model, values = product
    x = rng.normal(size=(1, 3, WIDTH)).astype(np.float32)
    kept = calibration.quantize(model, [], ["/linear/*"])
    np.testing.assert_allclose(
        run(kept, {"x": x}), x @ values["matrix"] + values["bias"], rtol=1e-5, atol=1e-5
    )
    with pytest.raises(ExportError, match="no node of the graph is named 'nothing'"):
        calibration.quantize(model, [], ["nothing"])


def test_an_excluded_lookup_stays_fp32(rng):
    table = rng.normal(size=(200, WIDTH)).astype(np.float32)
    ids = rng.integers(0, 200, (2, 3))
    made = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["y"], "/embeddings/Gather")],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["b", "n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "n", WIDTH])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    kept = run(calibration.quantize(model, [{"ids": ids}], ["/embeddings/*"]), {"ids": ids})
    np.testing.assert_array_equal(kept, table[ids])
    rounded = run(calibration.quantize(model, [{"ids": ids}]), {"ids": ids})  # and no product
    steps = np.abs(table).max(axis=1)[ids][..., None] / 127
    error = np.abs(rounded - table[ids])
    assert error.max() > 0
    assert (error <= 0.51 * steps).all()


def test_one_number_for_all_columns_is_added_apart(product, rng):
    model, values = product
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.float32([0.5]), "bias"))
    x = rng.normal(size=(2, 3, WIDTH)).astype(np.float32)
    found = run(calibration.quantize(model, [{"x": x}]), {"x": x})
    np.testing.assert_allclose(found, x @ values["matrix"] + 0.5, atol=0.6)


def test_a_graph_with_operators_of_onnx_runtime(product):
    """Their domain is imported once."""
    model, _ = product
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    int8 = calibration.quantize(model, [{"x": np.ones((1, 1, WIDTH), np.float32)}])
    assert [each.domain for each in int8.opset_import].count("com.microsoft") == 1


def test_a_whole_encoder(make, dense_files, bert):
    """Closer to fp32 than dynamic int8, a quarter of the size, the same bytes every time."""
    facts = folder.read(make("model", bert, dense_files("mean")), ["dense"])
    traced = graph.trace(wrappers.Wrapper(wrappers.load_model(facts, "eager"), facts))
    feeds = measured.feeds(facts, measured.built_in(facts))
    assert len(feeds) > 200
    int8 = calibration.quantize(traced, feeds)
    again = calibration.quantize(traced, feeds)
    assert int8.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    onnx.checker.check_model(int8)
    assert int8.ByteSize() < 0.3 * traced.ByteSize()
    kinds = {node.op_type for node in int8.graph.node}
    assert "MatMulIntegerToFloat" in kinds
    assert "DynamicQuantizeLinear" not in kinds

    def vectors(model):
        session = onnxruntime.InferenceSession(model.SerializeToString())
        names = [item.name for item in session.get_inputs()]
        return [session.run(None, {n: feed[n] for n in names})[0][0] for feed in feeds[:20]]

    truths = vectors(traced)

    def worst(model):
        return min(float(a @ b) for a, b in zip(vectors(model), truths, strict=True))

    assert worst(int8) > 0.998
    assert worst(int8) >= worst(graph.quantize(traced))

"""The sliced head against the graph as it was traced, which tests/export holds to upstream."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tessera_export.graph import int8, splade_head
from tessera_export.texts import folder, tracing
from tessera_export.texts.torch_modules import Wrapper, load_model
from tessera_onnx.runtime.graph import open_graph

pytestmark = pytest.mark.export


@pytest.fixture(scope="module")
def traced(splade):
    facts = folder.read(splade, ["sparse"], folder.Overrides(max_length=128))
    return tracing.trace(Wrapper(load_model(facts, "eager"), facts))


def run(model, feeds):
    session = open_graph("g", model.SerializeToString(), "cpu", 1)
    return session.run(None, feeds)[0]


def feeds(shape, rng):
    ids = rng.integers(1000, 20000, shape)
    mask = np.ones_like(ids)
    for row in range(1, shape[0]):
        mask[row, max(1, shape[1] - 3 * row) :] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (1, 17), (2, 1), (3, 12), (4, 33)])
def test_slices_are_exact(traced, rng, shape):
    given = feeds(shape, rng)
    expected = run(traced, given)
    np.testing.assert_allclose(run(splade_head.sliced(traced), given), expected, atol=1e-6)
    found = run(int8.quantize(traced), given)
    cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1)
    assert (cosine / np.linalg.norm(expected, axis=1) > 0.95).all()


def test_an_int8_text_is_alone_in_its_batch(traced, rng):
    """With an fp32 encoder: the head's scale is the text's own."""
    model = int8.quantize(
        traced, (), ["/model/bert/encoder/*", "/model/cls/predictions/transform/*"]
    )
    given = feeds((4, 21), rng)
    together = run(model, given)
    for row in range(4):
        length = int(given["attention_mask"][row].sum())
        alone = run(model, {name: part[row : row + 1, :length] for name, part in given.items()})
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)


def test_nothing_of_the_vocabularys_width_and_the_tokens_is_made(traced):
    for model in (splade_head.sliced(traced), int8.quantize(traced)):
        widest = max(
            int(numpy_helper.to_array(tensor).max())
            for tensor in model.graph.initializer
            if tensor.name == "vocabulary_sizes"
        )
        assert widest <= splade_head.COLUMNS
        products = [n for n in model.graph.node if n.name.startswith("vocabulary_product")]
        assert len(products) == -(-30522 // splade_head.COLUMNS)
        assert splade_head.find(model) is None


def test_an_excluded_decoder_stays_fp32_and_is_sliced(traced, rng):
    product = splade_head.find(traced).product.name
    model = int8.quantize(
        traced, (), [product, "/model/bert/*", "/model/cls/predictions/transform/*"]
    )
    kinds = [n.op_type for n in model.graph.node if n.name.startswith("vocabulary_product")]
    assert set(kinds) == {"MatMul"}


def tiny(bias=True, axis=1, keepdims=0):
    """Maximum of states @ weight (+ bias) over an axis."""
    rng = np.random.default_rng(0)
    tensors = {"w": rng.normal(size=(4, 700)).astype(np.float32), "axes": np.array([axis])}
    nodes = [helper.make_node("MatMul", ["states", "w"], ["logits"], "decoder")]
    last = "logits"
    if bias:
        tensors["b"] = rng.normal(size=700).astype(np.float32)
        nodes.append(helper.make_node("Add", ["logits", "b"], ["biased"]))
        last = "biased"
    nodes.append(helper.make_node("ReduceMax", [last, "axes"], ["out"], keepdims=keepdims))
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "g",
        [value("states", TensorProto.FLOAT, ["b", "n", 4])],
        [value("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("bias", [True, False])
def test_a_head_by_hand(bias, rng):
    model = tiny(bias)
    states = rng.normal(size=(3, 5, 4)).astype(np.float32)
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    expected = (states @ weights["w"]).max(axis=1) + (weights["b"] if bias else 0)
    found = run(splade_head.sliced(model), {"states": states})
    np.testing.assert_allclose(found, expected, atol=1e-5)
    rounded = run(splade_head.int8(model), {"states": states})
    # A code is off by half a step at most, of the weights and of the states, in 4 products.
    pair = np.abs(weights["w"])[::2] + np.abs(weights["w"])[1::2]
    step = pair.max(axis=0) * np.abs(states).max(axis=(1, 2))[:, None] / 127
    assert (np.abs(rounded - expected) <= 4 * 1.02 * step).all()


@pytest.mark.parametrize("options", [{"axis": 2}, {"keepdims": 1}])
def test_another_maximum_is_no_head(options):
    model = tiny(**options)
    assert splade_head.find(model) is None
    assert splade_head.sliced(model) == splade_head.int8(model) == model


def test_zero_states_give_the_bias():
    model = tiny()
    (bias,) = (numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "b")
    found = run(splade_head.int8(model), {"states": np.zeros((2, 3, 4), np.float32)})
    np.testing.assert_array_equal(found, [bias, bias])

import numpy as np
import onnx
import pytest

import tessera_onnx
from tessera_export import artifact
from tessera_export.errors import ExportError
from tessera_export.graph import int8, storage, transforms
from tessera_export.texts import encoder, folder, torch_modules, tracing
from tessera_onnx import IntegrityError
from tessera_onnx.models.spec import PRECISIONS

pytestmark = pytest.mark.export


@pytest.fixture
def facts(make, dense_files, bert):
    return folder.read(make("model", bert, dense_files("mean")), ["dense"])


@pytest.fixture
def traced(facts):
    return tracing.trace(torch_modules.Wrapper(torch_modules.load_model(facts, "eager"), facts))


def test_the_same_bytes_every_time(facts, tmp_path):
    for name in ("one", "two"):
        encoder.export(facts, tmp_path / name, artifact.Origin("test"), ("fp32", "fp16", "int8"))
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == 5
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "one", "two"]
    for name in ("model.fp32.onnx", "model.fp16.onnx", "model.int8.onnx"):
        content = (tmp_path / "one" / name).read_bytes()
        assert str(tmp_path).encode() not in content
        assert b"/tmp/" not in content
        assert b"site-packages" not in content


def test_inputs_outputs_and_dimension_names(traced):
    def shape(value):
        return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]

    inputs = {value.name: shape(value) for value in traced.graph.input}
    assert inputs == {name: ["batch", "sequence"] for name in ("input_ids", "attention_mask")}
    (output,) = traced.graph.output
    assert (output.name, shape(output)[0]) == ("sentence_embedding", "batch")
    assert [entry.version for entry in traced.opset_import if not entry.domain] == [18]
    assert not traced.metadata_props
    assert not any(node.doc_string or node.metadata_props for node in traced.graph.node)


def test_half_stores_only_large_matrices(traced):
    stored = transforms.half(traced)
    kinds = {t.name: (t.data_type, np.prod(t.dims)) for t in stored.graph.initializer}
    for kind, size in kinds.values():
        if kind == onnx.TensorProto.FLOAT:
            assert size < transforms.LARGE
    assert stored.ByteSize() < 0.55 * traced.ByteSize()
    assert all(t.data_type != onnx.TensorProto.FLOAT16 for t in traced.graph.initializer)


def test_half_leaves_values_beyond_its_range(traced):
    tensor = max(traced.graph.initializer, key=lambda t: np.prod(t.dims))
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0, 0] = 1e6
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    stored = {t.name: t for t in transforms.half(traced).graph.initializer}
    assert stored[tensor.name].data_type == onnx.TensorProto.FLOAT


def test_excluded_nodes_stay_fp32(traced):
    name = next(n.name for n in traced.graph.node if n.op_type == "Gather" and "word" in n.name)
    everything = int8.quantize(traced)
    without = int8.quantize(traced, (), ["*word_embeddings*"])
    assert everything.ByteSize() < 0.35 * traced.ByteSize()
    assert without.ByteSize() > 0.9 * 30522 * 64 * 4
    assert name in {node.name for node in without.graph.node}
    with pytest.raises(ExportError, match="no node of the graph is named 'nothing'"):
        int8.quantize(traced, (), ["nothing"])


@pytest.mark.slow
def test_weights_in_a_second_file(facts, tmp_path, monkeypatch):
    """What a model above 2 GB becomes, shown on a small one: the same graphs, twice the same."""
    encoder.export(facts, tmp_path / "one", artifact.Origin("test"), PRECISIONS)
    monkeypatch.setattr(storage, "INLINE", 10_000)
    spec = encoder.export(facts, tmp_path / "two", artifact.Origin("test"), PRECISIONS)
    names = [f"model.{precision}.onnx" for precision in PRECISIONS]
    expected = [name for graph in names for name in (graph, f"{graph}_data")]
    assert [file.name for file in spec.files] == [*expected, "tokenizer.json"]
    for name in names:
        assert (tmp_path / "two" / name).stat().st_size < 150_000
        one, two = (onnx.load(tmp_path / place / name).graph for place in ("one", "two"))
        assert list(one.node) == list(two.node)
        for a, b in zip(one.initializer, two.initializer, strict=True):
            assert (a.name, a.raw_data) == (b.name, b.raw_data)
    again = encoder.export(facts, tmp_path / "again", artifact.Origin("test"), PRECISIONS)
    assert again.files == spec.files
    for precision in PRECISIONS:
        options = {"precision": precision, "threads": 1}
        with (
            tessera_onnx.TesseraDense(path=tmp_path / "one", **options) as one,
            tessera_onnx.TesseraDense(path=tmp_path / "two", **options) as two,
        ):
            assert np.array_equal(one.encode("a ship's bell"), two.encode("a ship's bell"))


def test_the_runtime_refuses_data_that_it_cannot_hand_over(tmp_path):
    """Tensors outside the graph but not among its weights, which ONNX Runtime would open itself."""
    helper, tensor = onnx.helper, onnx.TensorProto(name="w", data_type=1, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    value = helper.make_tensor_value_info
    flag = onnx.numpy_helper.from_array(np.array(True), "flag")
    branch = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])], "b", [], [value("y", 1, [4])], [tensor]
    )
    function = helper.make_function(
        "own", "F", ["x"], ["y"],
        [helper.make_node("Constant", [], ["y"], value=tensor)], [helper.make_opsetid("", 18)],
    )  # fmt: skip
    sparse = onnx.SparseTensorProto(values=tensor, dims=[4])
    nodes = {
        "subgraph": helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch),
        "constant": helper.make_node("Constant", [], ["y"], value=tensor),
        "function": helper.make_node("F", ["flag"], ["y"], domain="own"),
        "sparse": helper.make_node("Identity", ["w"], ["y"]),
    }
    for name, node in nodes.items():
        graph = helper.make_graph([node], "g", [], [value("y", 1, [4])], [flag])
        if name == "sparse":
            graph.sparse_initializer.append(sparse)
        model = helper.make_model(graph, functions=[function] if name == "function" else [])
        onnx.save(model, tmp_path / f"{name}.onnx")
        with pytest.raises(IntegrityError, match="not weights of its graph"):
            storage.session(tmp_path / f"{name}.onnx")

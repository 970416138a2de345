import numpy as np
import onnx
import pytest

from tessera_export import artifact, folder, graph, wrappers
from tessera_export.errors import ExportError

pytestmark = pytest.mark.export


@pytest.fixture
def facts(make, dense_files, bert):
    return folder.read(make("model", bert, dense_files("mean")), ["dense"])


@pytest.fixture
def traced(facts):
    return graph.trace(wrappers.Wrapper(wrappers.load_model(facts, "eager"), facts))


def test_the_same_bytes_every_time(facts, tmp_path):
    for name in ("one", "two"):
        artifact.export(facts, tmp_path / name, artifact.Origin("test"), ("fp32", "fp16", "int8"))
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
    stored = graph.half(traced)
    kinds = {t.name: (t.data_type, np.prod(t.dims)) for t in stored.graph.initializer}
    for kind, size in kinds.values():
        if kind == onnx.TensorProto.FLOAT:
            assert size < graph.LARGE
    assert stored.ByteSize() < 0.55 * traced.ByteSize()
    assert all(t.data_type != onnx.TensorProto.FLOAT16 for t in traced.graph.initializer)


def test_half_leaves_values_beyond_its_range(traced):
    tensor = max(traced.graph.initializer, key=lambda t: np.prod(t.dims))
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0, 0] = 1e6
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    stored = {t.name: t for t in graph.half(traced).graph.initializer}
    assert stored[tensor.name].data_type == onnx.TensorProto.FLOAT


def test_excluded_nodes_stay_fp32(traced):
    name = next(n.name for n in traced.graph.node if n.op_type == "Gather" and "word" in n.name)
    everything = graph.quantize(traced)
    without = graph.quantize(traced, ["*word_embeddings*"])
    assert everything.ByteSize() < 0.35 * traced.ByteSize()
    assert without.ByteSize() > 0.9 * 30522 * 64 * 4
    assert name in {node.name for node in without.graph.node}
    with pytest.raises(ExportError, match="no node of the graph is named 'nothing'"):
        graph.quantize(traced, ["nothing"])

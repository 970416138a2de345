"""int4 graphs: against the fp32 graph and by hand, text by text, in each kind that has products."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from architectures import small
from onnx import TensorProto, helper, numpy_helper

from tessera_export import artifact
from tessera_export.graph import int4
from tessera_export.texts import encoder, folder
from tessera_onnx import LoadError, TesseraDense, TesseraSparse
from tessera_onnx.models.foreign import graph_io

pytestmark = pytest.mark.export
WIDTH, COLUMNS = 88, 96  # the last block of a column has 24 weights


def graph(matrix, users=("y",)):
    """Each of `users` is x (b, n, k) @ matrix, as a tracer writes two layers that share it."""
    nodes = [helper.make_node("MatMul", ["x", "matrix"], [name], f"/{name}") for name in users]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "n", len(matrix)])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", "n", matrix.shape[1]])
        for name in users
    ]
    made = helper.make_graph(nodes, "g", [x], outputs, [numpy_helper.from_array(matrix, "matrix")])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model, feeds):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)


def by_hand(matrix):
    """The matrix with 16 steps for each 32 weights of a column, 0 among them."""
    found = np.zeros_like(matrix)
    for start in range(0, len(matrix), int4.BLOCK):
        block = matrix[start : start + int4.BLOCK]
        low = np.minimum(block.min(axis=0), 0)
        step = (np.maximum(block.max(axis=0), 0) - low) / 15
        zero = np.clip(np.rint(-low / step), 0, 15)
        codes = np.clip(np.rint(block / step + zero), 0, 15)
        found[start : start + int4.BLOCK] = (codes - zero) * step
    return found


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_blocks_by_hand(rng):
    matrix = rng.normal(size=(WIDTH, COLUMNS)).astype(np.float32)
    matrix[:, 7] = np.abs(matrix[:, 7])  # without a negative weight, 0 is the lowest step
    made = int4.quantize(graph(matrix))
    (found,) = run(made, {"x": np.eye(WIDTH, dtype=np.float32)[None]})
    # A row of one 1 is exact in int8 too, so what is left is the rounding of a half.
    step = np.ptp(matrix) / 15
    difference = np.abs(found[0] - by_hand(matrix))
    assert np.quantile(difference, 0.99) < 1e-4
    assert difference.max() < 1.01 * step
    error = np.abs(found[0] - matrix).std() / matrix.std()
    assert 0.03 < error < 0.1


def test_a_shared_matrix_is_there_once_and_small_ones_stay(rng):
    matrix = rng.normal(size=(WIDTH, COLUMNS)).astype(np.float32)
    made = int4.quantize(graph(matrix, ("y", "z")))
    assert [node.op_type for node in made.graph.node] == ["MatMulNBits"] * 2
    assert len({t.name for t in made.graph.initializer}) == len(made.graph.initializer) == 3
    y, z = run(made, {"x": rng.normal(size=(2, 3, WIDTH)).astype(np.float32)})
    np.testing.assert_array_equal(y, z)
    little = int4.quantize(graph(matrix[:32, :8]))
    assert [node.op_type for node in little.graph.node] == ["MatMul"]


def test_a_row_does_not_depend_on_its_neighbours(rng):
    made = int4.quantize(graph(rng.normal(size=(WIDTH, COLUMNS)).astype(np.float32)))
    x = rng.normal(size=(4, 3, WIDTH)).astype(np.float32)
    (alone,) = run(made, {"x": x[:1]})
    (beside,) = run(made, {"x": np.concatenate([x[:1], 30 * x[1:]])})
    np.testing.assert_allclose(beside[:1], alone, rtol=1e-5, atol=1e-5)


def test_the_quantizer_leaves_the_logs_of_the_process_alone(rng):
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    int4.quantize(graph(rng.normal(size=(WIDTH, COLUMNS)).astype(np.float32)))
    assert (root.level, list(root.handlers)) == before


@pytest.fixture(scope="module")
def minilm_artifact(minilm, tmp_path_factory):
    place = tmp_path_factory.mktemp("int4") / "artifact"
    facts = folder.read(minilm, ["dense"])
    encoder.export(facts, place, artifact.Origin("all-minilm-l6-v2"), ("fp32", "int4"))
    return place


@pytest.mark.slow
def test_minilm(minilm_artifact, texts):
    """Trained weights: near to fp32, a fifth of its file, recorded, and no neighbour counts."""
    with (
        TesseraDense(path=minilm_artifact, precision="int4", on_long="truncate") as model,
        TesseraDense(path=minilm_artifact, on_long="truncate") as usual,
    ):
        assert (model.precision, usual.precision) == ("int4", "fp32")
        together, truth = model.encode_batch(texts), usual.encode_batch(texts)
        alone = [model.encode(text) for text in texts]
        spec = model.spec
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    assert (np.stack(together) * np.stack(truth)).sum(axis=1).min() > 0.85
    rows = {row.metric: row for row in spec.export.parity if row.precision == "int4"}
    assert rows["min_cosine"].value >= rows["min_cosine"].limit == 0.75
    assert rows["mean_cosine"].value >= rows["mean_cosine"].limit == 0.9
    sizes = {file.name: file.size for file in spec.files}
    assert sizes["model.int4.onnx"] < 0.22 * sizes["model.fp32.onnx"]
    assert graph_io.read(minilm_artifact / "model.int4.onnx").precision == "int4"


@pytest.mark.slow
def test_a_folder_with_a_graph_named_q4(minilm_artifact, minilm, tmp_path, texts):
    """transformers.js names it so: it runs if somebody asks for it, and never by itself."""
    place = tmp_path / "theirs"
    shutil.copytree(minilm, place, ignore=shutil.ignore_patterns("*.safetensors", "*.onnx*"))
    (place / "onnx").mkdir(exist_ok=True)
    shutil.copy(minilm_artifact / "model.fp32.onnx", place / "onnx" / "model.onnx")
    shutil.copy(minilm_artifact / "model.int4.onnx", place / "onnx" / "model_q4.onnx")
    with TesseraDense(path=minilm_artifact, precision="int4", on_long="truncate") as model:
        expected = model.encode_batch(texts)
    for options in ({"precision": "int4"}, {"file": "model_q4.onnx"}):
        with TesseraDense(path=place, on_long="truncate", **options) as model:
            assert model.precision == "int4"
            np.testing.assert_array_equal(model.encode_batch(texts), expected)
    with TesseraDense(path=place) as model:
        assert model.precision == "fp32"
    (place / "onnx" / "model.onnx").unlink()
    with pytest.raises(LoadError, match=r"name one with file=: onnx/model_q4.onnx \(4-bit"):
        TesseraDense(path=place)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode"),
    [("bert", "cls"), ("modernbert", "mean"), ("qwen3", "lasttoken"), ("gemma3", "mean")],
)
def test_dense(make, dense_files, exported, texts, name, mode):
    place = make(name, small(name), dense_files(mode))
    made = exported(place, "dense", precisions=("fp32", "int4"))
    with (
        TesseraDense(path=made.place, precision="int4", on_long="truncate") as model,
        TesseraDense(path=made.place, precision="fp32", on_long="truncate") as usual,
    ):
        together, truth = model.encode_batch(texts), usual.encode_batch(texts)
        alone = [model.encode(text) for text in texts]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    assert (np.stack(together) * np.stack(truth)).sum(axis=1).min() > 0.9


@pytest.mark.slow
def test_sparse(splade, exported, texts):
    made = exported(splade, "sparse", precisions=("fp32", "int4"))
    with TesseraSparse(path=made.place, precision="int4", on_long="truncate") as model:
        together = model.encode_batch(texts)
        alone = [model.encode(text) for text in texts]
    for ours, own in zip(together, alone, strict=True):
        np.testing.assert_array_equal(ours.indices, own.indices)
        np.testing.assert_allclose(ours.values, own.values, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_benchmark_of_decoders():
    """On one layer of the true width: the files shrink, and the errors grow, in the known order."""
    script = Path(__file__).parents[2] / "benchmarks" / "decoder_precisions.py"
    size = ("--layers", "1", "--words", "1500", "--rounds", "1")
    done = subprocess.run(
        [sys.executable, script, *size], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    _, *lines = done.stdout.splitlines()
    rows = {cells[1].strip(): cells[2:] for cells in (line.split("|") for line in lines[2:])}
    assert list(rows) == ["fp32", "fp16", "dynamic int8", "int8", "weight-only int8", "int4"]
    sizes = [float(cells[0]) for cells in rows.values()]
    assert sizes[0] > 1.9 * sizes[1] > 1.9 * 1.7 * sizes[3] > 1.9 * 1.7 * 1.3 * sizes[5]
    least = {name: float(cells[5].split("/")[1]) for name, cells in rows.items()}
    assert least["fp32"] == 1 >= least["fp16"] > 0.9999
    assert least["fp16"] >= least["weight-only int8"] > least["int4"] > 0.9

"""Graphs of folders against the weights beside them, through sentence-transformers."""

import importlib.metadata
import json
import re
import shutil

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from test_export_m3 import place as m3_place  # noqa: F401 (a fixture)
from test_export_multi_vector import stanford  # noqa: F401 (a fixture)

from tessera_export import cli
from tessera_export.errors import ExportError
from tessera_export.graph import tracing
from tessera_export.texts import verify

pytestmark = pytest.mark.export


def run(*args):
    return CliRunner().invoke(cli.main, ["verify", *map(str, args)])


def with_graphs(place, running, **names):
    """The folder with graphs that the exporter made, under other people's names."""
    (place / "onnx").mkdir(exist_ok=True)
    for precision, name in names.items():
        shutil.copy(running.place / f"model.{precision}.onnx", place / "onnx" / name)
    return place


@pytest.fixture
def dense_place(make, dense_files, bert, exported):
    place = make("dense", bert, dense_files("mean", prompts={"query": "ask: ", "document": ""}))
    running = exported(place, "dense", precisions=("fp32", "int8"))
    return with_graphs(place, running, fp32="model.onnx", int8="model_quantized.onnx")


def test_a_folder_and_its_graphs(dense_place):
    result = run(dense_place)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert len(lines) == 4
    assert all(line.endswith("within the limits") for line in lines)
    fp32 = [line for line in lines if line.startswith("onnx/model.onnx  dense  ")]
    assert len(fp32) == 2
    assert all("(limit 1e-05)" in line for line in fp32)
    (line,) = run(dense_place, "--file", "model_quantized.onnx").output.splitlines()[:1]
    assert "min_cosine" in line
    assert "(limit 0.95)" in line
    assert float(re.search(r"max_abs (\S+)", line)[1]) > 1e-4


def test_the_graph_of_other_weights_differs(dense_place):
    path = dense_place / "model.safetensors"
    from safetensors.torch import load_file

    tensors = load_file(path)
    torch.manual_seed(9)
    name = "encoder.layer.1.output.dense.weight"
    tensors[name] = tensors[name] + 0.01 * torch.randn_like(tensors[name])
    save_file(tensors, path, metadata={"format": "pt"})
    result = run(dense_place, "--file", "model.onnx")
    assert result.exit_code == 1
    assert result.output.count("DIFFERS") == 2
    assert "Error: not the model of the weights beside it: onnx/model.onnx" in result.output


def test_a_tokenizer_that_upstream_reads_otherwise(dense_place):
    """A graph that is right is not enough: the texts must become the same ids."""
    path = dense_place / "sentence_bert_config.json"
    assert all(row.is_near() for row in verify.verify(dense_place, file="model.onnx"))
    path.write_text(json.dumps({"max_seq_length": 20}))
    assert all(row.is_near() for row in verify.verify(dense_place, file="model.onnx"))


def test_poolings_and_dense_modules(make, dense_files, bert, exported):
    layer = {"in_features": 64, "out_features": 32, "bias": True,
             "activation_function": "torch.nn.modules.activation.Tanh"}  # fmt: skip
    place = make("layers", bert, dense_files("cls", dense=[layer]))
    torch.manual_seed(2)
    tensors = {"linear.weight": torch.randn(32, 64), "linear.bias": torch.randn(32)}
    save_file(tensors, place / "2_Dense/model.safetensors")
    with_graphs(place, exported(place, "dense"), fp32="model.onnx")
    found = verify.verify(place)
    assert [row.role for row in found] == ["query", "document"]
    assert all(row.is_near() and row.max_abs < 1e-5 for row in found)


def renamed(path, names):
    """The graph with other names of its outputs."""
    graph = onnx.load(path)
    for node in graph.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
        node.input[:] = [names.get(name, name) for name in node.input]
    for item in graph.graph.output:
        item.name = names.get(item.name, item.name)
    onnx.save(graph, path)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_an_encoder_without_modules(make, bert, pooling, tmp_path):
    """The graph gives states, and the caller says how they are pooled."""
    place = make("plain", bert)
    ids = torch.ones((2, 5), dtype=torch.int64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    bert.set_attn_implementation("eager")
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    with tracing.quiet():
        torch.onnx.export(
            bert,
            (ids, mask),
            place / "model.onnx",
            input_names=["input_ids", "attention_mask"],
            output_names=["last_hidden_state"],
            dynamic_shapes=(free, free),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert run(place).exit_code == 1
    result = run(place, "--pooling", pooling)
    assert result.exit_code == 0, result.output
    assert result.output.count("within the limits") == 2


def test_a_graph_that_pools_and_nothing_that_says_how(make, bert, exported, dense_files):
    running = exported(make("listed", bert, dense_files("cls")), "dense")
    place = with_graphs(make("plain", bert), running, fp32="model.onnx")
    with pytest.raises(ExportError, match="does not say which pooling its graph does"):
        verify.verify(place)
    found = verify.verify(place, pooling="cls")
    assert all(row.is_near() and row.max_abs < 1e-5 for row in found)
    assert not any(row.is_near() for row in verify.verify(place, pooling="mean"))


def test_token_vectors(stanford, exported):  # noqa: F811
    place = stanford()
    with_graphs(place, exported(place, "multi-vector"), fp32="model.onnx")
    found = verify.verify(place)
    assert [(row.kind, row.role) for row in found] == [
        ("multi-vector", "query"),
        ("multi-vector", "document"),
    ]
    assert all(row.is_near() for row in found), found
    metadata = json.loads((place / "artifact.metadata").read_text())
    (place / "artifact.metadata").write_text(json.dumps(metadata | {"mask_punctuation": False}))
    assert all(row.is_near() for row in verify.verify(place))


@pytest.mark.slow
def test_sparse_vectors(splade, tmp_path, exported):
    place = tmp_path / "splade"
    shutil.copytree(splade, place)
    with_graphs(place, exported(place, "sparse"), fp32="model.onnx")
    found = verify.verify(place)
    assert [row.kind for row in found] == ["sparse", "sparse"]
    assert all(row.is_near() and row.min_cosine > 0.99999 for row in found), found


def test_all_kinds_of_m3(m3_place, exported):  # noqa: F811
    kinds = ("dense", "multi-vector", "sparse")
    with_graphs(m3_place, exported(m3_place, *kinds), fp32="model.onnx")
    names = ("sentence_embedding", "token_embeddings", "token_weights")
    theirs = ("dense_vecs", "colbert_vecs", "sparse_vecs")  # as FlagEmbedding calls them
    renamed(m3_place / "onnx/model.onnx", dict(zip(names, theirs, strict=True)))
    (m3_place / "modules.json").unlink()
    found = verify.verify(m3_place)
    assert sorted(row.kind for row in found) == sorted(2 * kinds)
    assert all(row.is_near() for row in found), found


def test_vectors_that_cannot_be_compared_are_a_fault():
    row = verify.Comparison("model.onnx", "multi-vector", "query", np.inf, -1.0, (), "text 0 …")
    assert not row.is_near()
    assert row.line() == "model.onnx  multi-vector  query  text 0 …: DIFFERS"


def test_what_is_missing(dense_place, monkeypatch):
    (dense_place / "onnx/model.onnx").unlink()
    (dense_place / "onnx/model_quantized.onnx").unlink()
    result = run(dense_place)
    assert result.exit_code == 1
    assert "has no ONNX file" in result.output
    for path in dense_place.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ExportError, match="holds no weights for torch"):
        verify.check(dense_place)

    def absent(_):
        raise importlib.metadata.PackageNotFoundError

    (dense_place / "model.safetensors").touch()
    monkeypatch.setattr(verify.metadata, "version", absent)
    with pytest.raises(ExportError, match=r'pip install "./export\[verify\]"'):
        verify.check(dense_place)
    monkeypatch.setattr(verify.metadata, "version", lambda _: "5.1.0")
    with pytest.raises(ExportError, match=r"needs sentence-transformers 6, found 5\.1\.0"):
        verify.check(dense_place)

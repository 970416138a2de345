"""`tessera adopt` and `tessera info` on a folder of sentence-transformers' layout."""

import json
import shutil

import hub_layouts
import hub_server
import numpy as np
import pytest
from artifact_tools import ARTIFACTS, TEXTS, golden
from command import run, run_json

from tessera_onnx import Tessera, TesseraDense
from tessera_onnx.models.artifact import open_folder

FILES = {
    "config.json": {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": 32,
        "vocab_size": 128,
        "max_position_embeddings": 64,
    },
    "modules.json": [
        {"idx": index, "name": str(index), "path": f"{index}_{name}" if index else "",
         "type": f"sentence_transformers.models.{name}"}
        for index, name in enumerate(["Transformer", "Pooling", "Normalize"])
    ],
    "1_Pooling/config.json": {"embedding_dimension": 32, "pooling_mode": "mean"},
    "sentence_bert_config.json": {"max_seq_length": 40, "do_lower_case": False},
    "tokenizer_config.json": {"pad_token": "[PAD]", "mask_token": "[MASK]"},
}  # fmt: skip
README = "---\nlicense: mit\n---\n# A model\n"


@pytest.fixture
def folder(tmp_path):
    """The test artifact `states` as sentence-transformers lays it out."""
    place = tmp_path / "My Model"
    (place / "onnx").mkdir(parents=True)
    shutil.copy(ARTIFACTS / "states" / "model.onnx", place / "onnx" / "model.onnx")
    shutil.copy(ARTIFACTS / "states" / "tokenizer.json", place)
    for name, content in FILES.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(json.dumps(content))
    (place / "README.md").write_text(README)
    return place


def test_an_artifact_gives_the_same_vectors_as_its_folder(folder, tmp_path):
    place = tmp_path / "artifact"
    result = run("adopt", folder, "-o", place)
    assert result.stdout.startswith("my-model: dense; fp32; 2 files, ")
    assert "  licence mit" in result.stdout
    spec = open_folder(place).spec
    assert (spec.id, spec.licence, spec.dense.pooling) == ("my-model", "mit", "mean")
    assert spec.dense.output == "last_hidden_state"  # which the graph told
    assert [file.name for file in spec.files] == ["onnx/model.onnx", "tokenizer.json"]
    options = {"device": "cpu", "on_long": "truncate"}
    with Tessera(path=folder, **options) as before, TesseraDense(path=place, **options) as after:
        vectors = after.encode_batch(TEXTS)
        np.testing.assert_array_equal(before.encode_batch(TEXTS), vectors)
    assert np.abs(vectors - golden("states")["mean"]).max() < 1e-5  # sentence-transformers


def test_options(folder, tmp_path):
    shutil.copy(folder / "onnx/model.onnx", folder / "onnx/model_O2.onnx")
    report = run_json(
        "adopt", folder, "--output", tmp_path / "a", "--file", "model_O2.onnx", "--link",
        "--id", "other", "--licence", "apache-2.0",
    )  # fmt: skip
    assert (report["model"], report["licence"]) == ("other", "apache-2.0")
    assert [file["name"] for file in report["files"]] == ["onnx/model_O2.onnx", "tokenizer.json"]
    assert report["precisions"] == ["fp32"]
    (folder / "modules.json").unlink()
    failed = run("adopt", folder, "-o", tmp_path / "b", code=1)
    assert "pooling" in failed.stderr
    shutil.rmtree(folder / "1_Pooling")
    failed = run("adopt", folder, "-o", tmp_path / "b", code=1)
    assert "Give --pooling=" in failed.stderr
    run("adopt", folder, "-o", tmp_path / "b", "--pooling", "cls")
    assert open_folder(tmp_path / "b").spec.dense.pooling == "cls"


def test_what_cannot_be_adopted_leaves_nothing(folder, tmp_path):
    place = tmp_path / "artifact"
    (place / "deep").mkdir(parents=True)
    assert "is not empty" in run("adopt", folder, "-o", place, code=1).stderr
    shutil.rmtree(place)
    assert "no ONNX file of" in run(
        "adopt", folder, "-o", place, "--file", "model_O9.onnx", code=1
    ).stderr  # fmt: skip
    (folder / "onnx/model.onnx").write_bytes(b"no graph")
    assert "is no ONNX file" in run("adopt", folder, "-o", place, code=1).stderr
    assert not place.exists()
    assert "no model is named" in run("adopt", tmp_path / "nowhere", "-o", place, code=1).stderr


def test_info_shows_the_source_of_each_fact(folder):
    lines = run("info", folder).stdout.splitlines()
    facts = {line.split()[0]: line for line in lines}
    assert facts["dense.pooling"].endswith("mean  (from 1_Pooling/config.json: pooling_mode)")
    assert facts["dense.query.max_length"].endswith("sentence_bert_config.json: max_seq_length)")
    assert facts["graph.fp32"].split()[1] == "onnx/model.onnx"
    found = run_json("info", folder)
    assert found["sources"]["dense.pooling"] == "1_Pooling/config.json: pooling_mode"
    assert found["files"][0]["size"] == (folder / "onnx/model.onnx").stat().st_size
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in run("info", folder, code=1).stderr


def test_a_repository_that_was_fetched_before(tmp_path, monkeypatch):
    """With weights beside the graph, under names of their own, and a graph that is not here."""
    moved, data = hub_layouts.weights_outside("model.onnx_data", "Constant_7_attr__value")
    graphs = {"onnx/model.onnx": moved, "onnx/model_fp16.onnx": hub_layouts.graph(note="another")}
    files = hub_layouts.sentence_transformers(graphs)
    files |= {f"onnx/{name}": content for name, content in data.items()}
    server = hub_server.Hub({"Owner/My-Model": files})
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path / "cache"))
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name)
    place = tmp_path / "artifact"
    assert "is not on this machine" in run("adopt", "Owner/My-Model", "-o", place, code=1).stderr
    run("pull", "Owner/My-Model")
    server.close()
    assert "2 files" not in run("adopt", "Owner/My-Model", "-o", place).stdout
    spec = open_folder(place).spec
    assert (spec.id, spec.source, spec.hub) == ("my-model", "Owner/My-Model", None)
    assert (spec.revision, spec.graph.precisions()) == (hub_server.COMMIT, ["fp32"])
    assert {file.name for file in spec.files} == {
        "onnx/model.onnx",
        "onnx/model.onnx_data",
        "onnx/Constant_7_attr__value",
        "tokenizer.json",
    }
    assert not any(path.is_symlink() for path in place.rglob("*"))
    with TesseraDense(path=place, on_long="truncate") as model:
        vectors = model.encode_batch(TEXTS)
    np.testing.assert_allclose(vectors, golden("states")["mean"], atol=1e-5)

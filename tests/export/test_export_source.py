"""Ids of the catalogue, and models whose architecture is code in their repository."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from tessera_export import source
from tessera_export.cli import main
from tessera_export.errors import ExportError
from tessera_export.texts import folder
from tessera_onnx import TesseraDense
from tessera_onnx.models import catalogue
from tessera_onnx.models.spec import Role, Task

pytestmark = pytest.mark.export


def entry(name):
    return next(spec for spec in catalogue.catalogue() if spec.id == name)


@pytest.mark.slow
def test_an_id_of_the_catalogue_needs_no_more(minilm, tmp_path):
    """The hub's cache as a download leaves it, and no network: huggingface_hub finds it there."""
    known = entry("all-minilm-l6-v2")
    snapshot = tmp_path / "hub" / "models--sentence-transformers--all-MiniLM-L6-v2" / "snapshots"
    shutil.copytree(minilm, snapshot / known.revision)
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tessera_export", known.aliases[0], "--precision", "fp32"]
    done = subprocess.run(
        [*command, "--output", "made"],
        check=False, capture_output=True, text=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Next: TesseraDense(path='made')" in done.stdout
    assert "tessera-export pack made --name NAME" in done.stdout
    (spec,) = catalogue.read_catalogue(tmp_path / "made" / "model.toml")
    assert (spec.id, spec.aliases, spec.licence) == (known.id, known.aliases, "apache-2.0")
    assert (spec.kinds, spec.revision, spec.unverified) == (("dense",), known.revision, ())
    with TesseraDense(path=tmp_path / "made") as model:
        assert model.dimension() == 384

    environment["HF_HUB_CACHE"] = str(tmp_path / "empty")
    command = [sys.executable, "-m", "tessera_export", "bge-small-en-v1.5", "--output", "other"]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: 'bge-small-en-v1.5' is no folder and cannot be downloa")
    assert not (tmp_path / "other").exists()


class Harm:
    def __reduce__(self):
        return Path.touch, (Path("harm"),)


def test_weights_that_are_pickles_alone_are_read_as_tensors(
    make, dense_files, bert, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    place = make("model", bert, dense_files("mean"))
    options = ["--kind", "dense", "--precision", "fp32", "--output"]
    assert CliRunner().invoke(main, [str(place), *options, "a"]).exit_code == 0
    (place / "model.safetensors").unlink()
    state = bert.state_dict()
    names = sorted(state)
    shards = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
    for file, part in shards.items():
        torch.save({name: state[name] for name in part}, place / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (place / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    done = CliRunner().invoke(main, [str(place), *options, "b"])
    assert done.exit_code == 0, done.output
    assert Path("b/model.fp32.onnx").read_bytes() == Path("a/model.fp32.onnx").read_bytes()
    assert sorted(path.name for path in place.glob("*.safetensors")) == []

    torch.save({"weight": Harm()}, place / "pytorch_model-1.bin")
    done = CliRunner().invoke(main, [str(place), *options, "c"])
    assert done.exit_code == 1
    assert "is not a file of tensors alone" in done.output
    assert not Path("harm").exists()
    assert not Path("c").exists()


def test_the_catalogue_completes_a_folder(make, dense_files, bert):
    place = make("model", bert, dense_files("mean"))
    known = entry("nomic-embed-text-v1.5")
    short = Role("search_query: ", 60)
    dense = replace(
        known.dense, matryoshka=(32,), query=short, document=replace(short, prompt="search: "),
        tasks=(Task("clustering", "clustering: "),), pooling="cls",
    )  # fmt: skip
    known = replace(known, dense=dense, unverified=())
    found = source.Source(place, known.source, known.revision, known)
    facts = source.read(found, (), folder.Overrides())
    assert facts.pooling == "cls"
    assert (facts.dense.query, facts.dense.document) == (short, dense.document)
    assert (facts.dense.matryoshka, facts.dense.matryoshka_layer_norm) == ((32,), True)
    assert facts.dense.tasks == dense.tasks
    # The caller is above the catalogue, and what nobody could check is left to the folder.
    doubtful = replace(known, unverified=("dense.pooling", "dense.query", "dense.matryoshka"))
    found = replace(found, entry=doubtful)
    facts = source.read(found, ("dense",), folder.Overrides(document_prompt="mine: "))
    assert (facts.pooling, facts.dense.matryoshka) == ("mean", ())
    assert (facts.dense.query.prompt, facts.dense.document.prompt) == ("", "mine: ")


def test_the_catalogue_says_how_queries_are_weighed(splade, tmp_path):
    place = tmp_path / "splade"
    shutil.copytree(splade, place)
    known = entry("opensearch-neural-sparse-encoding-doc-v3-gte")
    sparse = replace(known.sparse, query=Role("", 60), document=Role("", 64))
    known = replace(known, sparse=sparse, unverified=())
    found = source.Source(place, known.source, known.revision, known)
    with pytest.raises(ExportError, match=r"idf.json cannot be read"):
        source.read(found, (), folder.Overrides())
    (place / "idf.json").write_text('{"hello": 2.5}')
    facts = source.read(found, (), folder.Overrides())
    assert (facts.sparse.query_weights, facts.idf) == ("idf", '{"hello": 2.5}')
    assert facts.sparse.activation == "log1p-log1p"
    assert facts.sparse.zero_ids == sparse.zero_ids
    assert facts.sparse.document.max_length == 64


CODE = """
import torch
from transformers import PreTrainedModel, PretrainedConfig
from transformers.modeling_outputs import BaseModelOutput

class OwnConfig(PretrainedConfig):
    model_type = "own-architecture"
    def __init__(self, hidden_size=64, max_position_embeddings=130, **kwargs):
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        self.max_position_embeddings = max_position_embeddings

class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        self.words = torch.nn.Embedding(30522, config.hidden_size)
        self.mixed = torch.nn.Linear(config.hidden_size, config.hidden_size)
        self.post_init()
    def forward(self, input_ids, attention_mask=None, **kwargs):
        x = torch.tanh(self.mixed(self.words(input_ids)))
        return BaseModelOutput(last_hidden_state=x)
"""


def test_code_of_the_repository_runs_only_when_trusted(make, dense_files, bert, exported, texts):
    place = make("own", bert, dense_files("mean"))
    (place / "own.py").write_text(CODE)
    names = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    config = {"model_type": "own-architecture", "auto_map": names}
    config |= {"hidden_size": 64, "max_position_embeddings": 130}
    (place / "config.json").write_text(json.dumps(config))
    weights = {"words.weight": bert.embeddings.word_embeddings.weight}
    layer = bert.encoder.layer[0].attention.self.query
    weights |= {"mixed.weight": layer.weight, "mixed.bias": layer.bias}
    tensors = {name: tensor.detach().clone() for name, tensor in weights.items()}
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match="read that code, and if you trust it"):
        exported(place, "dense", name="refused")
    overrides = folder.Overrides(trust_remote_code=True)
    # Code of another repository, which transformers would take from the hub or its cache.
    for file, names in (
        ("config.json", {"AutoModel": "other/code--own.OwnModel"}),
        ("tokenizer_config.json", {"AutoTokenizer": [None, "other/code--own.OwnTokenizer"]}),
    ):
        before = (place / file).read_text()
        (place / file).write_text(json.dumps(json.loads(before) | {"auto_map": names}))
        with pytest.raises(ExportError, match="from another repository, other/code, which"):
            folder.read(place, ["dense"], overrides)
        assert folder.read(place, ["dense"]).trust_remote_code is False
        (place / file).write_text(before)
    running = exported(place, "dense", overrides=overrides)
    ours, _ = running.run(texts, running.spec.dense.document, "sentence_embedding")
    words = tensors["words.weight"].numpy()
    for vector, sample in zip(ours, texts, strict=True):
        ids = running.ids(sample, running.spec.dense.document)
        matrix, bias = tensors["mixed.weight"].numpy(), tensors["mixed.bias"].numpy()
        pooled = np.tanh(words[ids] @ matrix.T + bias).mean(0)
        assert np.abs(vector - pooled / np.linalg.norm(pooled)).max() <= 1e-5
    assert [path.name for path in Path(running.place).glob("*.py")] == []

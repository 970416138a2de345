"""A reranker's repository of the hub, served by a real HTTP server on loopback."""

import json
import shutil

import hub_server
import numpy as np
import pytest
from artifact_tools import ARTIFACTS, TEXTS, golden
from click.testing import CliRunner

from tessera_onnx import LoadError, ModelNotFound, Tessera, TesseraDense, TesseraReranker
from tessera_onnx.cli.main import main

NAME = "cross-encoder/ms-marco-electra-base"
pytestmark = pytest.mark.filterwarnings("ignore::tessera_onnx.TruncationWarning")
HEAD = "somebody/ettin-reranker-small"


@pytest.fixture
def server(tmp_path, monkeypatch):
    place = tmp_path / "files"
    (place / "onnx").mkdir(parents=True)
    shutil.copy(ARTIFACTS / "reranker" / "model.fp32.onnx", place / "onnx" / "model.onnx")
    shutil.copy(ARTIFACTS / "reranker" / "tokenizer.json", place)
    config = {
        "architectures": ["BertForSequenceClassification"], "model_type": "bert",
        "hidden_size": 32, "max_position_embeddings": 64, "vocab_size": 128, "type_vocab_size": 2,
        "pad_token_id": 0, "id2label": {"0": "LABEL_0"},
        "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
    }  # fmt: skip
    tokenizer = {"model_max_length": 512, "pad_token": "[PAD]", "tokenizer_class": "BertTokenizer"}
    (place / "config.json").write_text(json.dumps(config))
    (place / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    head = tmp_path / "head"
    shutil.copytree(ARTIFACTS / "reranker_head", head)
    shutil.copy(ARTIFACTS / "states" / "model.onnx", head)
    listwise = tmp_path / "listwise"
    shutil.copytree(place, listwise)
    config["architectures"] = ["JinaForRanking"]
    (listwise / "config.json").write_text(json.dumps(config))
    server = hub_server.Hub(
        {
            NAME: hub_server.folder(place),
            HEAD: hub_server.folder(head),
            "jinaai/jina-reranker-v3": hub_server.folder(listwise),
        }
    )
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path / "cache"))
    yield server
    server.close()


def test_a_repository_opens(server):
    with TesseraReranker(NAME) as model, Tessera(NAME) as same:
        assert type(same) is TesseraReranker
        assert (model.model(), model.activation()) == (NAME, "identity")
        scores = model.score(TEXTS[0], TEXTS)
        np.testing.assert_allclose(scores, golden("reranker")["raw"][0], atol=1e-5)
    with TesseraReranker(NAME, offline=True) as model:
        np.testing.assert_array_equal(model.score(TEXTS[0], TEXTS), scores)


def test_modules_of_a_repository_are_fetched(server):
    with TesseraReranker(HEAD) as model:
        scores = model.score(TEXTS[0], TEXTS)
    np.testing.assert_allclose(scores, golden("reranker_head")["raw"][0], atol=1e-4)


def test_another_kind_is_not_asked_of_the_hub(server):
    with pytest.raises(ModelNotFound, match="is by its name a reranker .* TesseraReranker and"):
        TesseraDense(NAME)
    assert server.requests == []


def test_what_is_not_computed_is_refused_after_its_small_files(server):
    with pytest.raises(LoadError, match="JinaForRanking. of a sort that is not computed here"):
        TesseraReranker("jinaai/jina-reranker-v3")


def test_pull_fetches_it(server):
    done = CliRunner().invoke(main, ["pull", NAME], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    with TesseraReranker(NAME, offline=True) as model:
        assert model.score("cat", ["dog"]).shape == (1,)


def test_info_shows_where_each_fact_comes_from(server):
    done = CliRunner().invoke(main, ["info", NAME], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "config.json: sbert_ce_default_activation_function" in done.stdout
    assert "onnx/model.onnx" in done.stdout

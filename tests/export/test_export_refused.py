"""What is no model to export is named by what it is, for every kind, and without torch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from architectures import small
from click.testing import CliRunner
from conftest import SMALL
from safetensors.torch import save_file
from sentence_transformers import CrossEncoder

from tessera_export import cli, errors, refused, source
from tessera_export.errors import ExportError
from tessera_export.images import vision
from tessera_export.series import timeseries
from tessera_export.texts import folder, optimum
from tessera_onnx.models.spec import Role

pytestmark = pytest.mark.export

KINDS = ("dense", "multi-vector", "sparse", "time-series", "vision")
TINY = SMALL | {"num_hidden_layers": 1, "max_position_embeddings": 64}


def run(*args):
    return CliRunner().invoke(cli.main, [str(arg) for arg in args])


def refusal(tmp_path, *args):
    """The one sentence of a refused export, which writes nothing."""
    result = run(*args, "--precision", "fp32", "--output", tmp_path / "out")
    assert result.exit_code == 1, result.output
    assert result.output.startswith("Error: ")
    assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
    return result.output


def bert(head, **changes):
    torch.manual_seed(0)
    return getattr(transformers, f"Bert{head}")(transformers.BertConfig(**TINY, **changes))


RERANKERS = {
    "bert": lambda: bert("ForSequenceClassification", num_labels=1),
    "three classes": lambda: bert("ForSequenceClassification", num_labels=3),
    "roberta": lambda: small("roberta", "ForSequenceClassification"),
    "distilbert": lambda: small("distilbert", "ForSequenceClassification"),
    "modernbert": lambda: small("modernbert", "ForSequenceClassification"),
    "qwen3": lambda: small("qwen3", "ForSequenceClassification"),
}


@pytest.mark.parametrize("name", RERANKERS)
def test_rerankers_of_any_architecture(make, tmp_path, name):
    place = make("model", RERANKERS[name]())
    ways = [(), *(("--kind", kind) for kind in KINDS), ("--kind", "dense", "--pooling", "cls"),
            ("--kind", "dense", "--kind", "sparse")]  # fmt: skip
    for options in ways:
        message = refusal(tmp_path, place, *options)
        assert "is a reranker or another classifier (" in message, (name, options)
        assert "ForSequenceClassification" in message
        assert "--pooling" not in message
    for kind in ("dense", "multi-vector", "sparse"):
        with pytest.raises(ExportError, match="reranker"):
            folder.read(place, [kind], folder.Overrides(pooling="mean"))
    with pytest.raises(ExportError, match="reranker"):
        timeseries.read(place)
    with pytest.raises(ExportError, match="reranker"):
        vision.read(place)


def test_a_head_that_the_configuration_does_not_name(make, tmp_path):
    for name in ("bert", "qwen3"):
        place = make(name, RERANKERS[name]())
        path = place / "config.json"
        config = json.loads(path.read_text())
        for architectures in (None, [], ["BertModel"]):
            path.write_text(json.dumps(config | {"architectures": architectures}))
            message = refusal(tmp_path, place, "--kind", "dense", "--pooling", "cls")
            assert "reranker" in message
            assert ("score.weight" if name == "qwen3" else "classifier.bias") in message


def test_cross_encoders_of_sentence_transformers(make, tmp_path):
    saved = tmp_path / "saved"
    place = make("model", RERANKERS["bert"]())
    CrossEncoder(str(place), device="cpu").save_pretrained(str(saved))
    for kind in KINDS:
        assert "CrossEncoder" in refusal(tmp_path, saved, "--kind", kind)
    (saved / "config_sentence_transformers.json").unlink()  # the task of the module says it too
    assert "CrossEncoder" in refusal(tmp_path, saved, "--kind", "dense", "--pooling", "mean")


def test_language_models_that_rerank_by_yes_and_no(make, tmp_path):
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{name}"}
        for i, (path, name) in enumerate(
            [("", "base.modules.transformer.Transformer"),
             ("1_LogitScore", "cross_encoder.modules.logit_score.LogitScore")]
        )
    ]  # fmt: skip
    scores = {"true_token_id": 2748, "false_token_id": 2053}
    files = {"modules.json": modules, "1_LogitScore/config.json": scores}
    place = make("yes-no", small("qwen3", "ForCausalLM"), files)
    for kind in KINDS:
        assert "LogitScore" in refusal(tmp_path, place, "--kind", kind, "--query-prompt", "q")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: bert("ForTokenClassification"), "marks the tokens of a text"),
        (lambda: bert("ForQuestionAnswering"), "finds the answer to a question"),
        (lambda: bert("ForMultipleChoice"), "picks one of several answers"),
        (lambda: bert("ForNextSentencePrediction"), "tells whether a sentence follows"),
    ],
)
def test_other_heads(make, tmp_path, model, words):
    place = make("model", model())
    for kind in KINDS:
        assert words in refusal(tmp_path, place, "--kind", kind)
    assert words in refusal(tmp_path, place, "--kind", "dense", "--pooling", "cls")


def test_models_that_write_text(make, dense_files, tmp_path):
    bare = make("bare", small("qwen3", "ForCausalLM"))
    for options in ((), *(("--kind", kind) for kind in ("dense", "multi-vector", "sparse"))):
        message = refusal(tmp_path, bare, *options)
        assert "is a model that writes text (Qwen3ForCausalLM), or a reranker" in message
    assert "modules.json" in refusal(tmp_path, bare, "--kind", "dense", "--pooling", "last")
    # The same weights, of which modules.json says how they embed: Qwen3-Embedding's folder.
    declared = make("declared", small("qwen3", "ForCausalLM"), dense_files("lasttoken"))
    assert folder.read(declared, ["dense"]).pooling == "last"


def test_what_the_authors_declare_an_embedder_is_one(make, dense_files):
    """A classifier's class in config.json is only where the encoder came from."""
    place = make("model", bert("Model"), dense_files("mean", max_length=60))
    path = place / "config.json"
    config = json.loads(path.read_text()) | {"architectures": ["BertForSequenceClassification"]}
    path.write_text(json.dumps(config))
    assert folder.read(place, ["dense"]).pooling == "mean"
    encoder = {"path": "", "type": "a.Transformer"}
    for name in ("Dense", "SpladePooling"):  # PyLate's layout, a SPLADE model's
        after = {"path": f"1_{name}", "type": f"a.{name}"}
        (place / "modules.json").write_text(json.dumps([encoder, after]))
        refused.check(place, ["multi-vector"])
    (place / "modules.json").write_text(json.dumps([encoder]))
    with pytest.raises(ExportError, match="reranker"):
        refused.check(place, ["multi-vector"])


def test_tables_of_token_vectors(tmp_path):
    place = tmp_path / "static"
    (place / "0_StaticEmbedding").mkdir(parents=True)
    module = {"idx": 0, "name": "0", "path": "0_StaticEmbedding",
              "type": "sentence_transformers.models.StaticEmbedding"}  # fmt: skip
    (place / "modules.json").write_text(json.dumps([module]))
    other = tmp_path / "model2vec"
    other.mkdir()
    config = {"model_type": "model2vec", "architectures": ["StaticModel"], "hidden_dim": 256}
    (other / "config.json").write_text(json.dumps(config))
    for folder_, name in ((place, "StaticEmbedding"), (other, "model2vec")):
        save_file({"embedding.weight": torch.zeros(9, 4)}, folder_ / "model.safetensors")
        for options in ((), *(("--kind", kind) for kind in KINDS)):
            message = refusal(tmp_path, folder_, *options)
            assert f"a table of token vectors ({name})" in message


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_are_no_folder(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "bge-small").mkdir(parents=True)
    (tmp_path / "file.safetensors").write_text("")
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("it was downloaded")
    )
    for name, words in (
        ("./models/bge-smal", "is it 'models/bge-small'?"),
        (str(tmp_path / "models" / "bge-smal"), "bge-small'?"),
        ("models/bge-small/deep/er", "there is no folder 'models/bge-small/deep/er'"),
        ("../nowhere/", "there is no folder '../nowhere/'"),
        ("~/model", "there is no folder '~/model'"),
        ("file.safetensors", "is a file: give the folder that holds it"),
        ("", "no model is named"),
        ("  ", "no model is named"),
        ("word " * 5000, "a name of 25000 characters"),
        ("x" * 5000, "a name of 5000 characters"),
        ("a\0b", "there is no folder 'a\\x00b'"),
        ("models", "it has no config.json"),
    ):
        assert words in refusal(tmp_path, name, "--kind", kind)
        assert words in refusal(tmp_path, name)


def test_a_repository_that_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "bge-small").mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refusal(tmp_path, "models/bge-smal", "--kind", "dense")
    assert "is no folder and cannot be downloaded" in message
    assert "is it 'models/bge-small'?" in message
    assert "is it 'bge-small-en-v1.5'?" in refusal(tmp_path, "bge-smal-en-v1.5", "--kind", "dense")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing)
    assert "cannot be downloaded: OSError" in refusal(tmp_path, "a/b", "--kind", "dense")


def failing(*_args, **_options):
    raise OSError


@pytest.mark.parametrize(
    "name",
    ["cross-encoder/ms-marco-electra-base", "BAAI/bge-reranker-v2-m3", "Qwen/Qwen3-Reranker-0.6B",
     "jinaai/jina-reranker-v3", "bge-reranker-base"],
)  # fmt: skip
def test_rerankers_of_the_hub_by_name(tmp_path, monkeypatch, name):
    """The catalogue's too, of which no kind need be given: they are of the kind reranker."""
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("it was downloaded")
    )
    unknown = [()] if source.known(name) is None else []
    for options in (*unknown, *(("--kind", kind) for kind in KINDS)):
        assert "is a reranker or another classifier (by its name)" in refusal(
            tmp_path, name, *options
        )


def test_the_weights_of_a_repository_that_is_refused_are_not_fetched(make, monkeypatch):
    place = make("model", RERANKERS["bert"]())
    asked = []

    def download(_name, *, revision, allow_patterns):
        asked.append(allow_patterns)
        return str(place)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ExportError, match="reranker"):
        source.locate("somebody/some-model", None, None, code=False, kinds=("dense",))
    assert asked == [["*.json"]]


ADAPTER = {"base_model_name_or_path": "org/base", "peft_type": "LORA", "task_type": None}


@pytest.mark.parametrize("kind", [*KINDS, ""])
def test_adapters_get_the_steps_that_merge_them(make, dense_files, tmp_path, kind):
    options = ("--kind", kind) if kind else ()
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "adapter_config.json").write_text(json.dumps(ADAPTER))
    beside = make("beside", bert("Model"), dense_files("mean", max_length=60))
    (beside / "adapter_config.json").write_text(json.dumps(ADAPTER))
    for place in (alone, beside):
        message = refusal(tmp_path, place, *options)
        assert (
            "LoRA adapter: load it on its base model 'org/base' with peft, call merge_and"
            in message
        )
        assert "save_pretrained('MERGED')" in message
        assert f"{str(place)!r}" in message
        called = {"time-series": "Chronos2Pipeline", "sparse": "AutoModelForMaskedLM"}
        assert called.get(kind, "AutoModel.from_pretrained('org/base')") in message
    deep = tmp_path / "deep"
    (deep / "0_Transformer").mkdir(parents=True)
    module = {
        "idx": 0,
        "name": "0",
        "path": "0_Transformer",
        "type": "sentence_transformers.models.Transformer",
    }
    (deep / "modules.json").write_text(json.dumps([module]))
    (deep / "0_Transformer/adapter_config.json").write_text(json.dumps(ADAPTER))
    assert "is a LoRA adapter" in refusal(tmp_path, deep, *options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft's, about transformers
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_the_steps_that_merge_an_adapter_do(make, dense_files, exported, tmp_path, kind):
    peft = pytest.importorskip("peft", reason="no dependency: the message says to install it")
    base = make("base", small("bert", "Model" if kind == "dense" else "ForMaskedLM"),
                dense_files("mean") if kind == "dense" else {})  # fmt: skip
    factory = transformers.AutoModel if kind == "dense" else transformers.AutoModelForMaskedLM
    settings = peft.LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False)
    adapted = peft.get_peft_model(factory.from_pretrained(base), settings).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    message = refusal(tmp_path, tmp_path / "adapter", "--kind", kind)
    code = message.split("`pip install peft`, `")[1].split("`")[0]
    merged = tmp_path / "merged"
    subprocess.run([sys.executable, "-c", code.replace("'MERGED'", repr(str(merged)))], check=True)
    if kind == "dense":
        for name in ("modules.json", "sentence_bert_config.json", "1_Pooling"):
            copy = shutil.copytree if (base / name).is_dir() else shutil.copy
            copy(base / name, merged / name)
    running = exported(merged, kind)
    text, role = "A ship's bell rang twice.", Role("", 100)
    ids = torch.tensor([running.ids(text, role)])
    ours, _ = running.run([text], role, running.spec.text_recipes()[kind].output)
    with torch.no_grad():
        found = adapted(input_ids=ids)
    if kind == "dense":
        truth = torch.nn.functional.normalize(found.last_hidden_state[0].mean(0), dim=-1)
    else:
        truth = torch.log1p(torch.relu(found.logits[0].amax(0)))
    assert np.abs(ours[0] - truth.numpy()).max() <= 1e-4


def test_messages_tell_how_to_install_what_no_index_has():
    """By name from the package index there is neither tessera-onnx-export nor an extra of it."""
    for path in Path(cli.__file__).parent.rglob("*.py"):
        assert "tessera-onnx-export[" not in path.read_text(), path.name
    assert errors.install("series") == (
        'run `pip install "./export[series]"` in the checkout of tessera-onnx'
    )


def test_adapters_that_no_steps_merge(tmp_path):
    for changes, words in (
        ({"task_type": "SEQ_CLS"}, "is a reranker or another classifier"),
        ({"peft_type": "PROMPT_TUNING"}, "cannot be merged into weights"),
        ({"base_model_name_or_path": "a\nb" * 200}, "its base model 'a\\nba\\nb"),
        ({"base_model_name_or_path": None}, "its base model 'BASE'"),
        ({"auto_mapping": {"base_model_class": "A;b", "parent_library": "os"}}, "import AutoModel"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(ADAPTER | changes))
        with pytest.raises(ExportError) as caught:
            refused.check(tmp_path, ["dense"])
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_series_that_are_known():
    assert set(refused.FORECASTERS) == set(timeseries.FAMILIES)


def test_optimum_is_missing(make, dense_files, tmp_path, monkeypatch):
    def absent(_name):
        raise optimum.metadata.PackageNotFoundError

    monkeypatch.setattr(optimum.metadata, "version", absent)
    place = make("model", bert("Model"), dense_files("mean", max_length=60))
    message = refusal(tmp_path, place, "--kind", "dense", "--backend", "optimum")
    assert 'run `pip install "./export[optimum]"` in the checkout of tessera-onnx' in message
    with pytest.raises(ExportError, match="needs optimum-onnx, which is not installed"):
        optimum.adapt(folder.read(place, ["dense"]))


PROBE = """
import sys
from click.testing import CliRunner
from tessera_export.cli import main
result = CliRunner().invoke(main, sys.argv[1:])
assert result.exit_code in (1, 2), result.output
assert "Traceback" not in result.output and "Error: " in result.output, result.output
heavy = [name for name in ("torch", "transformers", "onnx", "onnxruntime") if name in sys.modules]
print(result.output.strip().splitlines()[-1], heavy)
sys.exit(bool(heavy))
"""


@pytest.mark.slow
def test_a_failing_check_imports_no_torch(make, dense_files, tmp_path):
    good = make("good", bert("Model"), dense_files("mean", max_length=60))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("x")
    (tmp_path / "empty.txt").write_text("\n")
    damaged = {}
    for name, file, content in (
        ("config", "config.json", "{"),
        ("weights", "model.safetensors", "no weights"),
        ("tokenizer", "tokenizer.json", "{}"),
        ("modules", "modules.json", "[1]"),
        ("pooling", "1_Pooling/config.json", "{}"),
        ("prompts", "config_sentence_transformers.json", '{"default_prompt_name": "x"}'),
    ):
        damaged[name] = make(name, bert("Model"), dense_files("mean", max_length=60))
        (damaged[name] / file).write_text(content)
    dense, out = ("--kind", "dense"), ("--output", tmp_path / "out")
    calls = [(place, *dense, *out) for place in damaged.values()]
    calls += [(damaged["weights"], "--kind", kind, *out) for kind in KINDS]
    calls += [(make("reranker", RERANKERS["bert"]()), "--kind", kind, *out) for kind in KINDS]
    calls += [
        (good, *dense, *out, "--max-length", "65"),
        (good, "--kind", "sparse", *out),
        (good, "--kind", "multi-vector", *out),
        (good, "--kind", "time-series", *out),
        (good, "--kind", "vision", *out),
        (good, *dense, *out, "--id", "Not An Id"),
        (good, *dense, *out, "--calibrate", tmp_path / "empty.txt"),
        (good, *dense, *out, "--backend", "optimum", "--int8-exclude", "x"),
        (good, *dense, "--output", tmp_path / "full"),
        (good, *dense, "--output", tmp_path / "full/file"),
        (tmp_path / "nowhere", *dense, *out),
        (good, *out),
    ]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    running = [
        subprocess.run(
            [sys.executable, "-c", PROBE, *map(str, call)],
            check=False, capture_output=True, text=True, env=environment, cwd=Path.cwd(),
        )
        for call in calls
    ]  # fmt: skip
    failed = [done.stdout + done.stderr for done in running if done.returncode]
    assert failed == []
    assert np.all([done.stdout for done in running])

"""`tessera verify-catalogue` against the loopback hub: a right repository and wrong ones."""

import dataclasses
import hashlib
import json
import subprocess

import hub_server
import pytest
from artifact_tools import ARTIFACTS
from click.testing import CliRunner

from tessera_onnx.cli.main import main
from tessera_onnx.models import catalogue, pins
from tessera_onnx.models.spec import UNPINNED, File, Hub

ONNX, WEIGHTS = "tests/model-onnx", "tests/model"
STATES = hub_server.folder(ARTIFACTS / "states")
GRAPH, TOKENIZER = "onnx/model.onnx", "tokenizer.json"
ONNX_FILES = {GRAPH: STATES["model.onnx"], TOKENIZER: STATES[TOKENIZER]}
CARD = b"---\nlicense: apache-2.0\n---\n"
OTHER_COMMIT = "f" * 40


def folder_of(**changed):
    """A folder of sentence-transformers, whose facts are those of ENTRY."""
    facts = {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {
                "idx": 1,
                "name": "1",
                "path": "1_Pooling",
                "type": "sentence_transformers.models.Pooling",
            },
            {
                "idx": 2,
                "name": "2",
                "path": "2_Normalize",
                "type": "sentence_transformers.models.Normalize",
            },
        ],
        "config.json": {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_size": 32,
            "max_position_embeddings": 64,
        },
        "sentence_bert_config.json": {"max_seq_length": 40, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {"query": "query: ", "document": ""}},
        "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
        "tokenizer_config.json": {"pad_token": "[PAD]", "mask_token": "[MASK]"},
        **changed,
    }
    files = {name: json.dumps(table).encode() for name, table in facts.items()}
    return {**files, TOKENIZER: STATES[TOKENIZER], "README.md": CARD}


def pinned(name, content):
    return File(name, hashlib.sha256(content).hexdigest(), len(content))


STATES_SPEC = catalogue.read_catalogue(ARTIFACTS / "states" / "model.toml")[0]
ENTRY = dataclasses.replace(
    STATES_SPEC,
    id="wanted",
    aliases=("wanted-alias",),
    source=WEIGHTS,
    revision=hub_server.COMMIT,
    hub=Hub(ONNX, hub_server.COMMIT, ("2 public pins",)),
    files=tuple(pinned(name, content) for name, content in ONNX_FILES.items()),
    graph=dataclasses.replace(STATES_SPEC.graph, fp32=GRAPH),
    dense=dataclasses.replace(
        STATES_SPEC.dense,
        output="",
        query=dataclasses.replace(STATES_SPEC.dense.query, prompt="query: "),
    ),
)
# Inline tables and one-line lists with comments, as in the shipped catalogue.
HEAD = "# A comment above.\nschema = 1\n\n"


@pytest.fixture
def server():
    server = hub_server.Hub({ONNX: dict(ONNX_FILES), WEIGHTS: folder_of()})
    yield server
    server.close()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, server):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write(here, *specs):
    """The catalogue; its comment shows that a patch leaves all else alone."""
    path = here / "catalogue.toml"
    text = "".join(pins.toml(spec).partition("schema = 1\n")[2] for spec in specs)
    path.write_text(HEAD + text)
    return path


def run(path, *args, code=0):
    found = CliRunner().invoke(main, ["verify-catalogue", "--catalogue", str(path), *args])
    assert found.exit_code == code, (found.exit_code, found.stdout, found.stderr)
    return found.stdout


def findings(path, *args, code=0):
    report = json.loads(run(path, "--json", *args, code=code))
    return {".".join(f["key"]): f["status"] for f in report["findings"]}, report


def apply(path, patch):
    """By the program that people use."""
    subprocess.run(
        ["patch", "-p1"], input=patch.encode(), cwd=path.parent, check=True, capture_output=True
    )


def test_a_right_entry_agrees_and_no_graph_is_fetched(here, server):
    path = write(here, ENTRY)
    found, report = findings(path)
    assert found == {}
    assert report["patch"] == ""
    assert "1 model: 1 agrees with the hub" in run(path, "wanted-alias")
    lists = [
        request.path for request in server.seen("hub", "GET") if "/api/models/" in request.path
    ]
    assert sorted({name.partition("?")[0] for name in lists}) == [
        f"/api/models/{name}/revision/{hub_server.COMMIT}" for name in (ONNX, WEIGHTS)
    ]
    assert len(lists) == 4  # one list a repository and run
    assert server.seen("storage") == []


def test_other_files_differ_and_the_patch_is_right(here, server):
    """The weights of another model, a size that is wrong, weights beside the graph."""
    server.repositories[ONNX][GRAPH] = STATES["model.onnx"] + b"x" * 100
    server.repositories[ONNX][f"{GRAPH}_data"] = b"x" * 20_000
    sizes = tuple(dataclasses.replace(file, size=file.size + 1) for file in ENTRY.files)
    path = write(here, dataclasses.replace(ENTRY, files=sizes))
    found, report = findings(path, code=1)
    assert found == dict.fromkeys(
        [
            f"files.{GRAPH}.sha256",
            f"files.{GRAPH}.size",
            f"files.{TOKENIZER}.size",
            f"files.{GRAPH}_data",
        ],
        "differs",
    )
    shown = run(path, code=1)
    assert hashlib.sha256(server.repositories[ONNX][GRAPH]).hexdigest() in shown
    assert "weights of a graph" in shown
    apply(path, report["patch"])
    assert path.read_text().startswith(HEAD)
    assert findings(path)[0] == {}
    (spec,) = catalogue.read_catalogue(path)
    assert spec.file(f"{GRAPH}_data").size == 20_000


def test_a_file_that_is_not_there_is_named(here, server):
    del server.repositories[ONNX][TOKENIZER]
    path = write(here, ENTRY)
    assert findings(path, code=1)[0] == {f"files.{TOKENIZER}": "differs"}
    assert "no such file" in run(path, code=1)


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        (dataclasses.replace(ENTRY, hub=Hub("tests/gone", UNPINNED)), "hub.repository"),
        (dataclasses.replace(ENTRY, hub=Hub(ONNX, OTHER_COMMIT)), "hub.repository"),
        (dataclasses.replace(ENTRY, source="tests/gone"), "source"),
        (dataclasses.replace(ENTRY, revision=OTHER_COMMIT), "source"),
    ],
    ids=["repository", "revision", "weights", "revision of the weights"],
)
def test_a_repository_or_revision_that_is_not_there(here, spec, key):
    found, report = findings(write(here, spec), code=1)
    assert found == {key: "differs"}
    assert "the hub has no repo" in str(report) or "has no revision" in str(report)


def test_a_renamed_repository_is_patched(here, server):
    server.renamed["tests/old"] = ONNX
    path = write(here, dataclasses.replace(ENTRY, hub=Hub("tests/old", hub_server.COMMIT)))
    found, report = findings(path, code=1)
    assert found == {"hub.repository": "differs"}
    apply(path, report["patch"])
    assert findings(path)[0] == {}


def test_other_facts_in_the_configuration_files_are_named_and_patched(here, server):
    server.repositories[WEIGHTS] = folder_of(
        **{
            "1_Pooling/config.json": {
                "word_embedding_dimension": 32,
                "pooling_mode_cls_token": True,
                "pooling_mode_mean_tokens": False,
            },
            "sentence_bert_config.json": {"max_seq_length": 20, "do_lower_case": False},
            "config_sentence_transformers.json": {
                "prompts": {"query": 'A "quoted" \\ query:\n', "document": "passage: "}
            },
        }
    )
    wrong = dataclasses.replace(
        ENTRY, text=dataclasses.replace(ENTRY.text, prefix_ids=(7,), max_positions=60)
    )
    path = write(here, wrong)
    found, report = findings(path, code=1)
    assert found == dict.fromkeys(
        [
            "dense.pooling",
            "dense.query.prompt",
            "dense.document.prompt",
            "dense.query.max_length",
            "dense.document.max_length",
            "text.prefix_ids",
            "text.max_positions",
        ],
        "differs",
    )
    shown = run(path, code=1)
    assert "1_Pooling/config.json" in shown
    assert "sentence_bert_config.json" in shown
    apply(path, report["patch"])
    assert findings(path)[0] == {}


def test_what_a_catalogue_leaves_open_is_no_difference_and_is_filled_in(here):
    loose = dataclasses.replace(
        ENTRY,
        revision=UNPINNED,
        hub=Hub(ONNX, UNPINNED),
        files=tuple(File(file.name, UNPINNED, -1) for file in ENTRY.files),
    )
    path = write(here, loose)
    found, report = findings(path)
    assert set(found.values()) == {"unpinned"}
    assert "1 leaves pins open" in run(path)
    apply(path, report["patch"])
    expected = dataclasses.replace(ENTRY, hub=Hub(ONNX, hub_server.COMMIT))
    assert catalogue.read_catalogue(path) == (expected,)


def test_configuration_that_cannot_be_read_is_told_and_no_difference(here, server):
    """Weights with code of their own, for instance: revision, files and hashes are compared."""
    server.repositories[WEIGHTS] = folder_of(
        **{"modules.json": [{"idx": 0, "name": "0", "path": "", "type": "custom_st.Transformer"}]}
    )
    path = write(here, ENTRY)
    assert findings(path)[0] == {"dense": "unread"}
    assert "custom_st.Transformer" in run(path)


def test_a_hub_that_cannot_be_asked_is_no_agreement(here, server):
    server.status = lambda request: (403, {"X-Error-Code": "GatedRepo"})
    path = write(here, ENTRY)
    assert set(findings(path, code=1)[0].values()) == {"failed"}
    assert "0 differ, 1 could not be compared" in run(path, code=1)


def test_one_of_several_entries_and_unknown_ones(here, server):
    wrong = dataclasses.replace(ENTRY, id="other", aliases=(), hub=Hub("tests/gone", UNPINNED))
    path = write(here, ENTRY, wrong)
    assert findings(path, "wanted")[0] == {}
    assert findings(path, "other", code=1)[0] == {"hub.repository": "differs"}
    shown = CliRunner().invoke(main, ["verify-catalogue", "--catalogue", str(path), "nothing"])
    assert shown.exit_code == 1
    assert "has no model 'nothing'" in shown.stderr


def test_offline_it_is_one_sentence(here, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shown = CliRunner().invoke(main, ["verify-catalogue"])
    assert shown.exit_code == 1
    assert "HF_HUB_OFFLINE forbids" in shown.stderr


def test_a_reranker_and_a_model_without_a_graph_are_compared_too(here, monkeypatch):
    """By their own facts: the reranker's activation, and the table, which no graph holds."""
    pairs = catalogue.read_catalogue(ARTIFACTS / "reranker" / "model.toml")[0]
    config = {
        "architectures": ["BertForSequenceClassification"], "model_type": "bert",
        "hidden_size": 32, "max_position_embeddings": 64, "vocab_size": 128, "type_vocab_size": 2,
        "pad_token_id": 0, "id2label": {"0": "LABEL_0"},
        "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
    }  # fmt: skip
    tokenizer = {"model_max_length": 64, "pad_token": "[PAD]", "tokenizer_class": "BertTokenizer"}
    files = {
        **hub_server.folder(ARTIFACTS / "reranker"),
        "config.json": json.dumps(config).encode(),
        "tokenizer_config.json": json.dumps(tokenizer).encode(),
    }
    table = catalogue.read_catalogue(ARTIFACTS / "static" / "model.toml")[0]
    tables = {**hub_server.folder(ARTIFACTS / "static"), "config.json": b'{"normalize": true}'}
    server = hub_server.Hub({"some/pairs": files, "some/table": tables})
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    specs = [
        dataclasses.replace(
            spec,
            source=name,
            revision=hub_server.COMMIT,
            hub=Hub(name, hub_server.COMMIT, ("2 public pins",)),
            export=None,
        )
        for spec, name in ((pairs, "some/pairs"), (table, "some/table"))
    ]
    found = findings(write(here, *specs), code=1)[1]["findings"]
    server.close()
    assert [(f["model"], ".".join(f["key"]), f["value"]) for f in found] == [
        ("test-reranker", "reranker.activation", "identity"),
        ("test-static", "dense.document.max_length", 512),
    ]

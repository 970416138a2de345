"""Any repository of the hub: real names and layouts, served by a real HTTP server on loopback.

What comes out of each test is a model that gives upstream's vectors, or one clear sentence.
"""

import dataclasses
import hashlib
import json
import logging
import pickle
import shutil
import subprocess
import sys
import typing
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hub_server
import numpy as np
import pytest
from artifact_tools import ARTIFACTS, HANG, TEXTS, golden
from click.testing import CliRunner
from graph_bytes import field
from hub_layouts import (
    DOC_STRING,
    GRAPHS,
    UNUSED,
    dense_module,
    encoder,
    graph,
    sentence_transformers,
    weights_outside,
    written,
)
from hub_server import COMMIT

from tessera_onnx import (
    ConfigError,
    FileError,
    IntegrityError,
    LoadError,
    ModelNotFound,
    Tessera,
    TesseraDense,
    TesseraSparse,
    list_models,
)
from tessera_onnx.cli.main import main
from tessera_onnx.models import catalogue, hub, resolve
from tessera_onnx.models.foreign import graphs, repository
from tessera_onnx.models.spec import UNPINNED, Hub
from tessera_onnx.runtime import cpu

NAME = "sentence-transformers/msmarco-MiniLM-L6-cos-v5"  # in no catalogue
ALIAS = "sentence-transformers/all-MiniLM-L6-v2"  # of the catalogue
GRAPH = "onnx/model.onnx"
SMALL = {
    *("README.md", "config.json", "config_sentence_transformers.json", "modules.json"),
    *("sentence_bert_config.json", "special_tokens_map.json", "tokenizer.json"),
    *("tokenizer_config.json", "1_Pooling/config.json"),
}
TOKEN = "hf_zqxjkvzqxjkv"
OTHER = "f" * 40


@pytest.fixture
def server():
    files = sentence_transformers({name: graph(note=name) for name in GRAPHS})
    server = hub_server.Hub({NAME: files, ALIAS: dict(files)})
    yield server
    server.close()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, server):
    """An empty hub cache, an empty local cache, the server as the hub, no token."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def works(model_id=NAME, **options):
    """Whether the model opens and gives upstream's vectors of the mean of the states."""
    with TesseraDense(model_id, on_long="truncate", **options) as model:
        found = model.encode_batch(TEXTS)
    np.testing.assert_allclose(found, golden("states")["mean"], atol=1e-5)
    return True


def asked(server):
    """How often each file, or the list of files, was asked for; other requests are not ours."""
    names = Counter()
    for request in server.seen("hub"):
        path = request.path.partition("?")[0].split("/")
        if path[1:3] == ["api", "models"]:
            names["the list"] += 1
        elif "resolve" in path and request.method == "GET":
            names["/".join(path[5:])] += 1
    names.update(request.path.split("//")[-1] for request in server.seen("storage", "GET"))
    return names


def run(*args, code=0):
    result = CliRunner().invoke(main, list(args), catch_exceptions=False)
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
    return result


def record(here, name=NAME):
    return here / "cache" / "hub" / name.replace("/", "--")


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


# ---------------------------------------------------------------- the good way


def test_small_files_come_first_and_then_the_graph_in_use_alone(server):
    with TesseraDense(NAME) as model:
        assert model.model() == NAME
        assert model.spec.hub == Hub(NAME, COMMIT)
        assert model.spec.licence == "apache-2.0"
    assert asked(server) == Counter({"the list", *SMALL, GRAPH})
    order = [request.path for request in server.seen("", "GET")]
    assert "/api/models/" in next(path for path in order if "agent" not in path)
    assert order[-1].endswith(GRAPH)
    content = server.repositories[NAME]
    sent = sum(size for path, size in server.sent.items() if "/api/" not in path)
    assert sent == sum(len(content[name]) for name in {*SMALL, GRAPH})
    assert not set(UNUSED) & set(asked(server))


def test_the_second_time_asks_nothing(server, here):
    assert works()
    before = len(server.requests)
    assert works()
    assert works(offline=True)
    with Tessera(NAME) as model, pickle.loads(pickle.dumps(model)) as twin:
        assert twin.model() == NAME
    assert len(server.requests) == before
    server.close()
    assert works()
    assert str(here) not in (record(here) / "model.toml").read_text()


def test_a_recorded_repository_works_with_sockets_blocked(server, monkeypatch):
    assert works()
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise AssertionError('a socket was made')\n"
        "socket.socket = socket.create_connection = socket.getaddrinfo = refuse\n"
        f"from tessera_onnx import TesseraDense\nprint(TesseraDense({NAME!r}).encode('cat').shape)"
    )
    for value in ("0", "1"):
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=HANG
        )
        assert done.stdout == "(32,)\n", done.stderr


def test_every_file_is_recorded_with_its_sha256(server, here):
    assert works()
    (spec,) = catalogue.read_catalogue(record(here) / "model.toml")
    content = server.repositories[NAME]
    assert spec.id == spec.source == NAME
    assert spec.revision == spec.hub.revision == COMMIT
    assert {GRAPH, "tokenizer.json"} <= {file.name for file in spec.files}
    for file in spec.files:
        assert file.sha256 == hashlib.sha256(content[file.name]).hexdigest()
        assert file.size == len(content[file.name])


def test_a_precision_is_fetched_when_it_is_used(server):
    assert works()
    before = asked(server)
    with TesseraDense(NAME, precision="int8") as model:
        assert model.precision == "int8"
    (extra,) = asked(server) - before
    assert "qint8" in extra or "quint8" in extra


def test_a_precision_that_is_asked_for_first_is_fetched_alone(server):
    quantized = [name for name in GRAPHS if "int8" in name]
    for name in quantized:
        content = resolve.resolve("splade-tiny").read("model.int8.onnx")
        server.repositories[NAME][name] = content + field(DOC_STRING, name.encode())
    with pytest.raises(LoadError):  # it is the graph of another model
        TesseraDense(NAME, precision="int8")
    (fetched,) = [name for name in asked(server) if name.endswith(".onnx")]
    assert fetched in quantized
    before = len(server.requests)
    found = resolve.resolve(NAME, precision="int8", processor=cpu.byte_products(), offline=True)
    assert found.spec.graph.int8 == fetched
    assert len(server.requests) == before
    assert works()


def test_a_record_of_another_processor_is_read_again(server):
    """The int8 graph that fits one processor is wrong or slow on another."""
    chosen = {}
    for processor in typing.get_args(graphs.Processor):
        found = resolve.resolve(NAME, processor=processor)
        chosen[processor] = found.spec.graph.int8
    assert len(set(chosen.values())) > 1
    assert asked(server)["the list"] == asked(server)[GRAPH] == 1


def test_what_the_graph_tells_is_read_when_it_is_here(server):
    """A graph that pools, and a tokenizer: no file says how large the vectors are."""
    files = {"model.onnx": graph("prompts")}
    parts = encoder("prompts")
    files |= {name: parts[name] for name in ("tokenizer.json", "tokenizer_config.json")}
    server.repositories["owner/pair"] = files
    with TesseraDense("owner/pair", on_long="truncate", max_length=40) as model:
        assert model.dimension() == 32
        found = model.encode_batch([f"passage: {text}" for text in TEXTS])
    np.testing.assert_allclose(found, golden("prompts")["document"], atol=1e-5)
    assert "model.onnx: output sentence_embedding" in run("info", "owner/pair").stdout


def test_a_file_may_be_named(server):
    assert works(file="onnx/model_O3.onnx")
    assert asked(server)["onnx/model_O3.onnx"] == 1
    assert GRAPH not in asked(server)
    before = len(server.requests)
    assert works(file="onnx/model_O3.onnx", offline=True)
    assert len(server.requests) == before
    assert works()  # the list of files is recorded, and the small files are here
    assert asked(server)["the list"] == 1
    with pytest.raises((LoadError, ConfigError), match="onnx/model_O5"):
        TesseraDense(NAME, file="onnx/model_O5.onnx")


def test_a_file_of_a_repository_whose_name_is_an_alias(server):
    """The catalogue describes its own graph; another graph is read by the repository's files."""
    assert works(ALIAS, file="onnx/model_O1.onnx")
    assert works(f"{ALIAS}@main")
    with pytest.raises(ConfigError, match="says every fact: leave file out"):
        TesseraDense("all-minilm-l6-v2", file="onnx/model_O1.onnx")


@pytest.mark.parametrize(
    ("names", "where"),
    [
        (["model.onnx_data"], ""),
        (["model.onnx.data"], "onnx/"),
        (["weights.bin", "Constant_7_attr__value"], "onnx/"),
    ],
)
def test_weights_beside_the_graph_have_any_name(server, names, where):
    moved, data = weights_outside(*names)
    graphs = {f"{where}model.onnx": moved, f"{where}other_data": b"\0" * 60_000}
    graphs |= {f"{where}{name}": content for name, content in data.items()}
    server.repositories[NAME] = sentence_transformers(graphs)
    assert works()
    assert {f"{where}{name}" for name in names} <= set(asked(server))
    assert f"{where}other_data" not in asked(server)
    before = len(server.requests)
    assert works(offline=True)
    assert NAME in list_models(installed=True)
    assert len(server.requests) == before
    for name in names:  # without them the model is not here
        (hub.snapshot(Hub(NAME, COMMIT)) / where / name).unlink()
    assert NAME not in list_models(installed=True)
    with pytest.raises(ModelNotFound, match=f"tessera pull {NAME}"):
        TesseraDense(NAME, offline=True)
    run("pull", NAME)
    assert works(offline=True)


def test_a_file_beside_the_graph_that_is_no_part_of_it_is_never_fetched(server):
    graphs = {GRAPH: graph(), f"{GRAPH}_data": b"\0" * 60_000}  # left by an earlier export
    server.repositories[NAME] = sentence_transformers(graphs)
    assert works()
    run("pull", NAME)
    assert NAME in list_models(installed=True)
    assert f"{GRAPH}_data" not in asked(server)


def test_a_dense_module_is_fetched_with_the_graph(server):
    modules = (("2_Dense", "Dense"), ("3_Normalize", "Normalize"))
    server.repositories[NAME] = {**sentence_transformers(more=modules), **dense_module()}
    assert works()
    assert asked(server)["2_Dense/model.safetensors"] == 1
    assert "2_Dense/pytorch_model.bin" not in asked(server)
    before = len(server.requests)
    assert works(offline=True)
    assert len(server.requests) == before


def test_a_plain_encoder_needs_a_pooling(server):
    """As transformers.js has them: no file says how vectors are made of states."""
    graphs = {name: graph(note=name) for name in (GRAPH, "onnx/model_quantized.onnx")}
    settings = written({"per_channel": True, "reduce_range": True})
    files = {**encoder(), **graphs, "quantize_config.json": settings}
    server.repositories["Xenova/any-model"] = files
    # Whether the graph pools is known when it is here.
    with pytest.raises(LoadError, match="pooling|no output for this kind"):
        TesseraDense("Xenova/any-model")
    assert works("Xenova/any-model", pooling="mean", max_length=40)
    before = len(server.requests)
    assert works("Xenova/any-model", pooling="mean", max_length=40, offline=True)
    shown = run("encode", "-m", "Xenova/any-model", "--pooling", "cls", "--text", "cat", "--json")
    assert len(json.loads(shown.stdout)["vector"]) == 32
    assert len(server.requests) == before
    with TesseraDense("Xenova/any-model", pooling="mean", precision="int8") as model:
        assert model.precision == "int8"


def test_a_sparse_repository(server):
    kind = "sentence_transformers.sparse_encoder.models"
    modules = [("", "MLMTransformer"), ("1_SpladePooling", "SpladePooling")]
    files = encoder("splade", architectures=["BertForMaskedLM"])
    files["modules.json"] = written(
        [
            {"idx": i, "name": str(i), "path": path, "type": f"{kind}.{name}"}
            for i, (path, name) in enumerate(modules)
        ]
    )
    files["1_SpladePooling/config.json"] = written(
        {"pooling_strategy": "max", "activation_function": "relu"}
    )
    files["sentence_bert_config.json"] = written({"max_seq_length": 40, "do_lower_case": False})
    server.repositories["naver/splade-any"] = {**files, GRAPH: graph("splade")}
    with Tessera("naver/splade-any", on_long="truncate") as model:
        found = [model.encode(text).to_dict() for text in TEXTS]
    expected = golden("splade")["document"]
    for vector, row in zip(found, expected, strict=True):
        np.testing.assert_allclose([vector.get(i, 0.0) for i in range(len(row))], row, atol=1e-5)
    before = len(server.requests)
    with TesseraSparse("naver/splade-any", offline=True) as model:
        assert model.vocab_size() == 128
    with pytest.raises(LoadError, match="sparse"):
        TesseraDense("naver/splade-any", offline=True)
    assert len(server.requests) == before


def test_several_threads_open_one_repository(server):
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: works(), range(4)))
    assert works(offline=True)


def test_a_local_cache_that_cannot_be_written(here, monkeypatch):
    (here / "file").write_text("")
    monkeypatch.setenv("TESSERA_CACHE", str(here / "file"))
    with pytest.raises(FileError, match="set TESSERA_CACHE to a folder that can"):
        TesseraDense(NAME)


def test_small_weights_beside_the_graph_are_compared_with_gits_hash(server):
    moved, data = weights_outside("model.onnx_data")
    server.large = 1 << 30
    graphs = {"model.onnx": moved, **data}
    server.repositories[NAME] = sentence_transformers(graphs)
    assert works()
    server.content = lambda request, content: (
        flip(content) if request.path.endswith("_data") else content
    )
    shutil.rmtree(hub.cache_folder())
    with pytest.raises(
        IntegrityError, match=r"model.onnx_data.* (arrived damaged twice|has sha256)"
    ):
        TesseraDense(NAME)


def test_a_snapshot_of_the_hub_cache_opens_as_a_folder(server):
    """It consists of links into blobs, and holds what was fetched alone."""
    assert works()
    folder = hub.snapshot(Hub(NAME, COMMIT))
    assert (folder / GRAPH).is_symlink()
    before = len(server.requests)
    assert works(None, path=folder)
    assert works(str(folder))
    assert len(server.requests) == before


def test_what_another_tool_fetched_opens_offline(server, here):
    """Each file is compared with the name of its blob, which is its hash."""
    from huggingface_hub import hf_hub_download

    for name in {*SMALL, GRAPH}:
        hf_hub_download(NAME, name, cache_dir=hub.cache_folder(), endpoint=server.url)
    before = len(server.requests)
    assert works(offline=True)
    assert works(f"{NAME}@main", offline=True)
    assert works(f"{NAME}@{COMMIT}", offline=True)
    assert len(server.requests) == before
    assert not record(here).exists()
    with pytest.raises(ModelNotFound, match=f"{NAME}@v1 is not on this machine"):
        TesseraDense(f"{NAME}@v1", offline=True)
    blob = (hub.snapshot(Hub(NAME, COMMIT)) / GRAPH).resolve()
    blob.write_bytes(flip(blob.read_bytes()))
    with pytest.raises(IntegrityError, match="has sha256"):
        TesseraDense(NAME, offline=True)
    assert works()  # the whole list is asked for where there is a network
    assert record(here).exists()


def test_a_part_that_another_tool_fetched(server, here):
    from huggingface_hub import hf_hub_download

    def fetch(*names):
        for name in names:
            hf_hub_download(NAME, name, cache_dir=hub.cache_folder(), endpoint=server.url)

    int8 = "onnx/model_qint8_avx512_vnni.onnx"
    starter = resolve.resolve("splade-tiny")
    server.repositories[NAME][int8] = starter.read("model.int8.onnx")
    fetch(*SMALL - {"tokenizer.json"})
    with pytest.raises(ModelNotFound, match=f"run `tessera pull {NAME}` where .*; no folder"):
        TesseraDense(NAME, offline=True)
    fetch(int8)
    with pytest.raises(ModelNotFound, match=r"of the files in the hub cache: .*tokenizer\.json"):
        TesseraDense(NAME, offline=True)
    fetch("tokenizer.json")
    with pytest.raises(ModelNotFound, match="the hub cache has no fp32 graph: name another"):
        TesseraDense(NAME, offline=True)
    assert resolve.resolve(NAME, offline=True, file=int8).spec.graph.int8 == int8
    before = len(server.requests)
    blob = (hub.snapshot(Hub(NAME, COMMIT)) / "modules.json").resolve()
    blob.write_bytes(b"[]")
    with pytest.raises(IntegrityError, match="'modules.json' .* is damaged, and offline=True"):
        TesseraDense(NAME, offline=True, file=int8)
    assert len(server.requests) == before


# ---------------------------------------------------------------- revisions and names


def test_a_branch_is_recorded_as_its_commit(server, here):
    server.branches = {"v1.0": OTHER, "refs/pr/1": "e" * 40}
    for revision, commit in (("v1.0", OTHER), ("refs/pr/1", "e" * 40), ("main", COMMIT)):
        with TesseraDense(f"{NAME}@{revision}") as model:
            assert model.model() == f"{NAME}@{revision}"
            assert model.spec.hub.revision == commit
        before = len(server.requests)
        assert works(f"{NAME}@{revision}", offline=True)
        assert len(server.requests) == before
    assert works(f"{NAME}@{OTHER}")
    assert f"{NAME}@v1.0" in list_models(installed=True)
    with pytest.raises(ModelNotFound, match="has no revision v9 on the hub"):
        TesseraDense(f"{NAME}@v9")


def test_a_commit_stays_until_a_newer_one_is_asked_for(server):
    assert works()
    server.commit = OTHER
    files = server.repositories[NAME]
    server.repositories[NAME] = {**files, "1_Pooling/config.json": files["1_Pooling/config.json"]}
    with TesseraDense(NAME) as model:
        assert model.spec.hub.revision == COMMIT
    run("pull", NAME, "--force")
    with TesseraDense(NAME, offline=True) as model:
        assert model.spec.hub.revision == OTHER


def test_a_renamed_repository_is_followed_and_said(server, caplog):
    server.renamed["old-owner/old-name"] = NAME
    assert works("old-owner/old-name")
    assert f"old-owner/old-name is named {NAME} now: use that name" in caplog.text
    caplog.clear()
    before = len(server.requests)
    assert works("old-owner/old-name", offline=True)
    assert works(NAME, offline=True)
    assert len(server.requests) == before
    assert list_models(installed=True).count(NAME) == 1
    assert caplog.text == ""


def test_what_names_a_repository():
    choice = repository.choice
    assert choice(NAME).id == NAME
    assert choice(f"{NAME}@v1.0/x").revision == "v1.0/x"
    wrong = (
        "name",
        "",
        "a/b/c",
        "./a",
        "../a/b",
        "a/../b",
        "~/a",
        "/a/b",
        "a\\b",
        "C:/x",
        "a/b.git",
    )
    for name in (
        *wrong,
        "a--b/c",
        "a/b@",
        "a/b@..",
        "a/b@-x/../..",
        "-a/b",
        "a/b.",
        "é/b",
        "a/b c",
    ):
        found = choice(name)
        assert found is None, name
    places = {choice(f"{NAME}{end}").base(Path("c")) for end in ("", "@a/b", "@a", "@a/c")}
    assert len(places) == 4


def test_the_id_of_a_repository_needs_its_table(server, here):
    assert works()
    text = (record(here) / "model.toml").read_text()
    text = text.replace(f'repository = "{NAME}"', 'repository = "another/name"')
    with pytest.raises(LoadError, match="an id is lower-case letters"):
        catalogue.parse(text, "it")


# ---------------------------------------------------------------- offline, unknown, refused by name


def test_offline_an_unknown_repository_says_what_to_do(server, monkeypatch):
    for options in ({"offline": True}, {}):
        if not options:
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(ModelNotFound, match=f"run `tessera pull {NAME}` where there is a net"):
            TesseraDense(NAME, **options)
    assert server.requests == []


def test_a_repository_that_the_hub_does_not_have(server):
    with pytest.raises(ModelNotFound, match="no repository nobody/nothing for you .*no folder of"):
        TesseraDense("nobody/nothing")
    with pytest.raises(ModelNotFound, match="did you mean BAAI/bge-small-en-v1.5"):
        TesseraDense("BAAI/bge-smal-en-v1.5")
    before = len(server.requests)
    with pytest.raises(ModelNotFound, match="did you mean .*bge-small-en-v1.5"):
        TesseraDense("bge-smal-en-v1.5")
    assert len(server.requests) == before


@pytest.mark.parametrize("name", ["BAAI/bge-reranker-large", "cross-encoder/ms-marco-electra-base"])
def test_a_reranker_gives_no_vectors_by_its_name_before_any_request(server, name):
    for options in ({}, {"file": GRAPH}):
        with pytest.raises(ModelNotFound, match="by its name a reranker"):
            TesseraDense(name, **options)
    assert server.requests == []


# ---------------------------------------------------------------- repositories that are refused


def without(*names):
    return {name: c for name, c in sentence_transformers().items() if name not in names}


def test_a_repository_without_a_graph_names_the_export(server):
    server.repositories[NAME] = without(GRAPH)
    command = f"`tessera-export {NAME} --kind dense --output DIR`"
    with pytest.raises(LoadError, match="has no ONNX file: run .*, then open the folder") as caught:
        TesseraDense(NAME)
    assert command in str(caught.value)
    with pytest.raises(LoadError, match="--kind KIND"):
        Tessera(NAME)
    assert set(asked(server)) == {"the list"}


def test_a_lora_repository_is_named(server):
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"\0" * 20_000}
    server.repositories[NAME] = files
    with pytest.raises(LoadError, match="is a LoRA adapter and has no ONNX file: merge it into"):
        TesseraDense(NAME)
    assert set(asked(server)) == {"the list"}


@pytest.mark.parametrize("missing", ["tokenizer.json", "1_Pooling/config.json"])
def test_half_of_the_files(server, here, missing):
    server.repositories[NAME] = without(missing)
    with pytest.raises(LoadError, match=missing):
        TesseraDense(NAME)
    assert GRAPH not in asked(server)
    assert not record(here).exists()
    server.repositories[NAME] = sentence_transformers()  # the author adds it
    server.commit = OTHER
    assert works()


def test_code_of_the_repository_is_refused(server):
    files = sentence_transformers()
    modules = json.loads(files["modules.json"])
    modules[0]["type"] = "custom_st.Transformer"
    server.repositories[NAME] = {**files, "modules.json": written(modules), "custom_st.py": b"1/0"}
    with pytest.raises(LoadError, match=r"modules\.json.*custom_st"):
        TesseraDense(NAME)
    assert "custom_st.py" not in asked(server)
    assert GRAPH not in asked(server)


def test_weights_that_the_repository_lacks_are_told_before_the_rest_is_fetched(server):
    moved, data = weights_outside("model.onnx_data", "model.onnx_data_1")
    graphs = {"onnx/model.onnx": moved, "onnx/model.onnx_data": data["model.onnx_data"]}
    server.repositories[NAME] = sentence_transformers(graphs)
    with pytest.raises(
        LoadError, match=r"keeps weights in model.onnx_data_1, which the repository"
    ):
        TesseraDense(NAME)
    assert asked(server)[GRAPH] == 1
    assert "onnx/model.onnx_data" not in asked(server)
    assert "weights in onnx/model.onnx_data_1" in run("pull", NAME, code=1).stderr
    assert "onnx/model.onnx_data" not in asked(server)


def test_another_kind_than_the_files_say(server):
    with pytest.raises(LoadError):
        TesseraSparse(NAME)
    assert GRAPH not in asked(server)


def test_a_repository_with_too_many_files(server, monkeypatch):
    monkeypatch.setattr(hub, "MAX_FILES", 5)
    with pytest.raises(LoadError, match="has more than 5 files"):
        TesseraDense(NAME)


def test_files_that_are_too_large_or_describe_nothing_are_not_fetched(server):
    files = server.repositories[NAME]
    extra = {
        "huge.json": b" " * (repository.MAX_SMALL + 1),
        "checkpoint-500/trainer_state.json": b"{}",
        "openvino/config.json": b"{}",
        ".cache/x.json": b"{}",
        "vocab.json": b"{}",
        "model.safetensors.index.json": b"{}",
        "a/b/c/d.json": b"{}",
        "onnx/tokenizer.json": b"{}",
        "train.py": b"raise SystemExit",
    }
    files.update(extra)
    assert works()
    assert not set(extra) & set(asked(server))
    many = {f"eval_{i:03}.json": b"{}" for i in range(500)}
    listing = hub.Listing(NAME, COMMIT, {n: hub.Remote(COMMIT, "a" * 40, 2) for n in many})
    assert len(repository.small(listing)) <= repository.MAX_SMALL_FILES


# ---------------------------------------------------------------- access


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository(server, monkeypatch, status):
    """Its list of files is public, the files are not."""
    server.tokens, server.gated = {TOKEN}, status
    with pytest.raises(LoadError, match=rf"is gated \({status}\): accept its licence at .*{NAME}"):
        TesseraDense(NAME)
    shown = run("info", NAME, code=1)
    assert "is gated" in shown.stderr
    assert GRAPH in shown.stdout
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert works()
    assert {request.authorization for request in server.seen("storage")} == {None}


def test_a_private_repository(server, monkeypatch):
    server.tokens, server.private = {TOKEN}, True
    with pytest.raises(ModelNotFound, match="a private one needs a token with access in HF_TOKEN"):
        TesseraDense(NAME)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert works()


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("name", [GRAPH, "tokenizer.json", "modules.json"])
def test_a_wrong_hash_is_never_used(server, here, name):
    """Neither a file in which a bit was changed, nor a graph of another model."""
    other = {GRAPH: graph("siglip")}
    for damaged in (flip, lambda content: other.get(name, b"{}")):
        server.content = lambda request, content, damaged=damaged: (
            damaged(content) if request.path.endswith(name) else content
        )
        with pytest.raises(LoadError, match="arrived damaged twice|has .*, expected|cannot be fet"):
            TesseraDense(NAME)
        server.content = lambda _, content: content
        assert works()
        shutil.rmtree(hub.cache_folder())
        shutil.rmtree(record(here))


def test_a_truncated_file(server):
    server.content = lambda request, content: (
        content[:-1000] if request.path.endswith(GRAPH) else content
    )
    with pytest.raises(LoadError, match=f"{GRAPH}' of {NAME} cannot be fetched|expected"):
        TesseraDense(NAME)
    server.content = lambda _, content: content
    assert works()


@pytest.mark.parametrize("name", [GRAPH, "tokenizer.json"])
def test_another_file_in_the_cache_is_replaced(server, name, caplog):
    assert works()
    blob = (hub.snapshot(Hub(NAME, COMMIT)) / name).resolve()
    blob.write_bytes(graph("splade"))
    with pytest.raises(IntegrityError, match=f"{name} has .*tessera pull {NAME} --force"):
        TesseraDense(NAME, offline=True)
    assert works()
    assert "fetching it now" in caplog.text


@pytest.mark.parametrize("name", ["model.toml", "sources.json", "listing.json"])
@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\xff", b'{"files": 3}', b"schema = 1\nmodel = []"]
)
def test_a_damaged_record_is_written_again(server, here, name, content):
    assert works()
    path = record(here) / name
    good = path.read_bytes()
    path.write_bytes(content)
    assert works()
    assert path.read_bytes() == good


def test_a_record_of_another_version_is_read_again(server, here):
    """A newer version may read the same files differently; they are here, so no request is made."""
    assert works()
    noted = record(here) / "sources.json"
    value = json.loads(noted.read_text())
    noted.write_text(json.dumps({**value, "version": "0.0.0"}))
    description = record(here) / "model.toml"
    description.write_text(description.read_text().replace('pooling = "mean"', 'pooling = "cls"'))
    before = len(server.requests)
    assert works(offline=True)
    assert len(server.requests) == before
    assert json.loads(noted.read_text()) == value


@pytest.mark.parametrize(
    "change",
    [
        lambda answer: [],
        lambda answer: "no hub",
        lambda answer: {},
        lambda answer: {**answer, "sha": "main"},
        lambda answer: {**answer, "id": "../../evil"},
        lambda answer: {**answer, "siblings": [{"rfilename": "x.onnx"}]},
        lambda answer: {**answer, "siblings": [{"rfilename": "x.onnx", "size": 1, "blobId": "x"}]},
        lambda answer: {
            **answer,
            "siblings": [{"rfilename": "x", "size": -1, "blobId": "a" * 40}],
        },
    ],
)
def test_an_answer_that_is_no_list(server, here, change):
    server.listed = change
    with pytest.raises(LoadError, match="check HF_ENDPOINT") as caught:
        TesseraDense(NAME)
    assert len(str(caught.value)) < 500
    assert not record(here).exists()


def test_names_that_leave_the_folder_are_left_out(server, here):
    def change(answer):
        evil = [
            {"rfilename": name, "size": 2, "blobId": "a" * 40}
            for name in ("../evil.json", "/evil.json", "a/../../evil.json", "C:\\evil.json")
        ]
        return {**answer, "siblings": [*evil, *answer["siblings"]]}

    server.listed = change
    assert works()
    assert not list(here.rglob("*evil*"))
    assert not any("evil" in request.path for request in server.requests)


def test_another_commit_than_the_one_asked_for(server):
    server.listed = lambda answer: {**answer, "sha": OTHER}
    with pytest.raises(LoadError, match=f"answers with the revision '{OTHER}'"):
        TesseraDense(f"{NAME}@{COMMIT}")


# ---------------------------------------------------------------- the command


def test_info_describes_a_repository_before_the_download(server):
    shown = run("info", NAME).stdout
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert "(from 1_Pooling/config.json: " in lines["dense.pooling"]
    assert lines["where"] == "not downloaded"
    for name in GRAPHS:
        assert f"{name}  {len(graph(note=name)):,} bytes" in shown
    assert set(asked(server)) == {"the list", *SMALL}
    found = json.loads(run("info", NAME, "--json").stdout)
    assert found["sources"]["dense.pooling"].startswith("1_Pooling/config.json: ")
    assert [graph["name"] for graph in found["graphs"]] == sorted(GRAPHS)
    assert asked(server)["the list"] == 2  # nothing is recorded before a graph was read
    assert works()
    assert "not downloaded" not in run("info", NAME).stdout


def test_info_shows_the_weights_beside_a_graph_and_the_reason_of_a_refusal(server):
    moved, data = weights_outside("model.onnx_data")
    graphs = {"onnx/model.onnx": moved, "onnx/model.onnx_data": data["model.onnx_data"]}
    server.repositories[NAME] = sentence_transformers(graphs)
    size = len(data["model.onnx_data"])
    assert f"bytes + onnx/model.onnx_data {size:,} bytes" in run("info", NAME).stdout
    files = sentence_transformers(graphs)
    del files["tokenizer.json"]
    server.repositories[ALIAS] = files
    refused = run("info", f"{ALIAS}@main", code=1)
    assert "onnx/model.onnx_data" in refused.stdout
    assert "tokenizer.json" in refused.stderr
    found = json.loads(run("info", f"{ALIAS}@main", "--json", code=1).stdout)
    assert "tokenizer.json" in found["refused"]
    assert found["revision"] == COMMIT


def test_pull_and_the_commands_take_a_file(server):
    shown = run("pull", NAME, "--file", "onnx/model_O3.onnx").stdout
    assert "bytes, verified" in shown
    assert (
        f'tessera info {NAME} --file onnx/model_O3.onnx, or in Python Tessera("{NAME}", file="o'
        in shown
    )
    assert "onnx/model_O3.onnx" in asked(server)
    before = len(server.requests)
    options = ["-m", NAME, "--file", "onnx/model_O3.onnx"]
    vector = run("encode", *options, "--text", TEXTS[0], "--json").stdout
    np.testing.assert_allclose(json.loads(vector)["vector"], golden("states")["mean"][0], atol=1e-5)
    run("similarity", *options, "cat", "mat")
    assert len(server.requests) == before
    assert NAME in run("models", "--installed").stdout


def test_pull_of_a_precision_and_of_weights_beside_the_graph(server):
    moved, data = weights_outside("model.onnx_data")
    graphs = {"onnx/model.onnx": moved, "onnx/model.onnx_data": data["model.onnx_data"]}
    server.repositories[NAME] = sentence_transformers(graphs)
    report = json.loads(run("pull", NAME, "--json").stdout)
    names = [file["name"] for file in report["files"]]
    assert set(names) == {"onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json"}
    assert report["revision"] == COMMIT
    assert works(offline=True)
    assert "has no int8 graph" in run("pull", NAME, "--precision", "int8", code=1).stderr
    assert run("pin", NAME).stdout.count(COMMIT) == 2
    named = run("pull", "all-minilm-l6-v2", "--file", GRAPH, code=1).stderr
    assert "says every fact: leave file out" in named
    run("info", "bge-m3", "--file", GRAPH, code=1)


def test_what_lies_here_is_never_asked_of_the_hub(server, here):
    (here / "models").mkdir()
    (here / "models" / "notes").write_text("")
    with pytest.raises(ModelNotFound, match="'models/notes' is a file"):
        TesseraDense("models/notes")
    assert server.requests == []


@pytest.mark.parametrize(
    "command", ["encode", "similarity", "rank", "explain", "forecast", "info", "pull"]
)
def test_every_command_that_opens_a_model_takes_a_file(command):
    shown = run(command, "--help").stdout
    assert "--model-file NAME" in shown  # the --file of rank has the documents
    assert ("--file, --model-file" in shown) == (command != "rank")


def test_the_library_resolves_what_the_command_resolves(server):
    artifact = resolve.resolve(NAME)
    assert artifact.origin == "hub"
    assert artifact.listing.commit == COMMIT
    assert dataclasses.replace(artifact, listing=None).sources == artifact.sources
    assert hub.list_files(Hub(NAME, UNPINNED)) == artifact.listing
    assert logging.getLogger("tessera_onnx").name


# ---------------------------------------------------------------- repositories without a graph


def static_files(name):
    """The files of a static model as its library publishes them."""
    folder = ARTIFACTS / name
    left_out = {"model.toml", "golden.npz"}
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in left_out}
    return {**files, "README.md": b"---\nlicense: mit\n---\n"}


@pytest.mark.parametrize("name", ["static", "static-mean"])
@pytest.mark.parametrize("graph_too", [True, False])
def test_a_static_repository(server, name, graph_too):
    """The table is fetched and pinned; an ONNX file beside it is not asked for."""
    server.repositories[NAME] = static_files(name)
    if graph_too:
        server.repositories[NAME]["onnx/model.onnx"] = graph()
    stored = golden(name)
    texts = stored["texts"].tolist()
    for _ in range(2):
        with TesseraDense(NAME, on_long="truncate") as model:
            found = model.encode_document(texts)
            np.testing.assert_allclose(
                found, stored.get("vectors", stored.get("document")), atol=1e-6
            )
            assert model.spec.licence == "mit"
            assert all(file.sha256 != UNPINNED for file in model.spec.files)
    seen = asked(server)
    assert seen["model.safetensors"] == 1
    assert seen["the list"] == 1
    assert "onnx/model.onnx" not in seen
    with TesseraDense(NAME, offline=True) as model:
        assert model.encode("cat").any()
    assert "works" in run("doctor").stdout


def test_info_and_pull_of_a_static_repository(server):
    server.repositories[NAME] = static_files("static")
    failed = run("info", NAME, code=1)
    assert (
        "tells the size of the vectors and is not downloaded yet: `tessera pull`" in failed.stderr
    )
    assert "model.safetensors" not in asked(server)
    assert "2 files, 5,048 bytes, verified" in run("pull", NAME).stdout
    assert "static.rows" in run("info", NAME).stdout


def test_a_static_repository_with_a_wrong_hash_is_not_used(server):
    server.repositories[NAME] = static_files("static")
    with TesseraDense(NAME, on_long="truncate") as model:
        place = model._artifact.folder / "model.safetensors"
    content = flip(place.read_bytes())
    place.unlink()
    place.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        TesseraDense(NAME, offline=True)


def test_safetensors_without_a_graph_and_without_a_static_model(server):
    """The small files are read before it is refused, since names do not tell a static model."""
    files = without(GRAPH, "1_Pooling/config.json")
    server.repositories[NAME] = files
    with pytest.raises(LoadError, match="has no ONNX file: run"):
        TesseraDense(NAME)
    assert "model.safetensors" not in asked(server)

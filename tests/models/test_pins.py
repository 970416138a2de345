"""What the shipped catalogue pins is enforced: on a download, in the cache, offline, by a record.

The loopback hub serves another model's files under the real name, layout and commit of
Xenova/bge-small-en-v1.5, and of Snowflake/snowflake-arctic-embed-m, one of whose sizes is open.
"""

import dataclasses
import hashlib
import json

import hub_server
import pytest
from artifact_tools import ARTIFACTS

from tessera_onnx import IntegrityError, LoadError, TesseraDense
from tessera_onnx.models import catalogue, hub, pins, resolve
from tessera_onnx.models.spec import UNPINNED, File, ModelSpec

SPECS = {spec.id: spec for spec in catalogue.catalogue()}
BGE = SPECS["bge-small-en-v1.5"]
ARCTIC = SPECS["snowflake-arctic-embed-m"]
OTHER = hub_server.folder(ARTIFACTS / "states")
GRAPH, TOKENIZER = "onnx/model.onnx", "tokenizer.json"
REFUSED = r"(model\.onnx|tokenizer\.json) has "
GRAPH_BYTES = next(content for name, content in OTHER.items() if name.endswith(".onnx"))
FILES = {GRAPH: GRAPH_BYTES, TOKENIZER: OTHER[TOKENIZER]}


@pytest.fixture(params=[BGE, ARCTIC], ids=lambda spec: spec.id)
def spec(request) -> ModelSpec:
    return request.param


@pytest.fixture(autouse=True)
def server(spec, tmp_path, monkeypatch):
    """A hub whose repository of that name and commit holds another model."""
    server = hub_server.Hub({spec.hub.repository: dict(FILES)}, commit=spec.hub.revision)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.close()


def put_into_the_hub_cache(spec, files):
    """As another program leaves them there."""
    folder = hub.snapshot(spec.hub)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def record(spec, cache, **changed):
    """A record whose pins are those of the other model."""
    files = tuple(File(f.name, "a" * 64, len(FILES.get(f.name, b""))) for f in spec.files)
    found = dataclasses.replace(spec, files=files, **changed)
    pins.write(pins.record_path(spec, cache), pins.toml(found))


def test_the_weights_of_another_model_are_refused_at_the_download(spec):
    for name in (spec.id, spec.source):
        with pytest.raises(IntegrityError, match=REFUSED):
            TesseraDense(name)


def test_they_are_refused_where_the_repository_is_opened_by_its_own_name(spec, server):
    folder = {"config.json": {"model_type": "bert", "architectures": ["BertModel"]}}
    folder["config.json"] |= {"hidden_size": 32, "max_position_embeddings": 64, "vocab_size": 400}
    folder["tokenizer_config.json"] = {"pad_token": "[PAD]", "model_max_length": 40}
    files = {name: json.dumps(table).encode() for name, table in folder.items()}
    server.repositories["tests/own"] = server.repositories[spec.hub.repository] | files
    server.repositories[spec.hub.repository] = server.repositories["tests/own"]
    TesseraDense("tests/own", pooling="cls").close()  # a repository that no catalogue lists
    other = spec.hub.repository.upper() if spec is ARCTIC else spec.hub.repository
    server.repositories[other] = server.repositories["tests/own"]
    with pytest.raises(IntegrityError, match=f"expects {spec.file(GRAPH).sha256[:12]}"):
        TesseraDense(other, pooling="cls")


@pytest.mark.parametrize("spec", [BGE], indirect=True)
@pytest.mark.parametrize("name", [GRAPH, TOKENIZER])
def test_each_file_with_a_hash_is_refused(spec, name):
    with pytest.raises(IntegrityError, match=f"{name} has .*expected"):
        resolve.resolve(spec.id).read(name)


@pytest.mark.parametrize("spec", [ARCTIC], indirect=True)
def test_another_tokenizer_is_refused_although_the_hub_has_no_sha256_of_it(
    spec, tmp_path, monkeypatch
):
    """The hub has git's hash alone of a small file; its sha256 is compared when it is read."""
    graph = File(GRAPH, hashlib.sha256(GRAPH_BYTES).hexdigest(), -1)
    files = (graph, *(file for file in spec.files if file.name != GRAPH))
    (tmp_path / "models.toml").write_text(pins.toml(dataclasses.replace(spec, files=files)))
    monkeypatch.setenv("TESSERA_MODELS", str(tmp_path / "models.toml"))
    with pytest.raises(IntegrityError, match=r"tokenizer\.json has sha256 .*expected 91f1def9b939"):
        TesseraDense(spec.id)


def test_the_weights_of_another_model_are_refused_in_the_cache(spec, server):
    put_into_the_hub_cache(spec, FILES)
    with pytest.raises(IntegrityError, match=REFUSED):
        TesseraDense(spec.id)
    put_into_the_hub_cache(spec, FILES)
    server.status = lambda _: (503, {})
    with pytest.raises(LoadError):  # the hub cannot be asked for a size of the second
        TesseraDense(spec.id)


def test_the_weights_of_another_model_are_refused_offline(spec, server, tmp_path):
    files = {file.name: FILES.get(file.name, b"int8") for file in spec.files}
    put_into_the_hub_cache(spec, files)
    if spec is ARCTIC:  # its sizes are open, so that offline it needs a record
        sizes = tuple(dataclasses.replace(f, size=len(files[f.name])) for f in spec.files)
        pins.write(
            pins.record_path(spec, tmp_path / "cache"),
            pins.toml(dataclasses.replace(spec, files=sizes)),
        )
    with pytest.raises(IntegrityError, match="expected"):
        TesseraDense(spec.id, offline=True)
    assert server.requests == []


def test_a_record_never_overrules_the_pins_of_the_catalogue(spec, tmp_path):
    cache = tmp_path / "cache"
    for changed in ({}, {"hub": dataclasses.replace(spec.hub, revision="f" * 40)}):
        record(spec, cache, **changed)
        put_into_the_hub_cache(dataclasses.replace(spec, **changed), FILES)
        found = pins.recorded(spec, cache)
        assert found is (spec if spec is BGE else None)
        with pytest.raises(IntegrityError, match=REFUSED):
            TesseraDense(spec.id)


def test_a_record_of_another_size_is_passed_over(spec, tmp_path):
    loose = dataclasses.replace(
        spec, files=tuple(dataclasses.replace(f, sha256=UNPINNED, size=7) for f in spec.files)
    )
    record(loose, tmp_path)
    assert pins.recorded(loose, tmp_path) is None


def test_a_record_completes_what_the_catalogue_leaves_open_and_keeps_its_sources(tmp_path):
    sizes = tuple(dataclasses.replace(file, size=5) for file in ARCTIC.files)
    complete = dataclasses.replace(ARCTIC, files=sizes)
    older = dataclasses.replace(complete, hub=dataclasses.replace(ARCTIC.hub, sources=None))
    pins.write(pins.record_path(ARCTIC, tmp_path), pins.toml(older))
    assert pins.recorded(ARCTIC, tmp_path) == complete

"""Models from a hub: a real HTTP server on loopback, the real huggingface_hub, every fault.

What comes out of each test is a working model, compared with the upstream values of its artifact,
or one clear sentence, after which the next try works.
"""

import dataclasses
import hashlib
import json
import logging
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import time
import tomllib
import types
from importlib import metadata
from pathlib import Path

import hub_server
import numpy as np
import pytest
import tomli_w
from artifact_tools import ARTIFACTS, HANG, TEXTS, golden
from click.testing import CliRunner
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
    TesseraVision,
    list_models,
)
from tessera_onnx.cli.main import main
from tessera_onnx.models import catalogue as models_catalogue
from tessera_onnx.models import hub, pins
from tessera_onnx.models.installed import installed
from tessera_onnx.models.resolve import find_entry
from tessera_onnx.models.spec import UNPINNED, File, Hub

REPOSITORY = "tests/splade"
GRAPH, TOKENIZER = "model.fp32.onnx", "tokenizer.json"
TOKEN = "hf_zqxjkvzqxjkv"
FILES = hub_server.folder(ARTIFACTS / "splade")
SPLADE = models_catalogue.read_catalogue(ARTIFACTS / "splade" / "model.toml")[0]
PINNED = dataclasses.replace(
    SPLADE,
    id="hub-splade",
    aliases=("hub-alias",),
    hub=Hub(REPOSITORY, COMMIT),
)
LOOSE = dataclasses.replace(
    PINNED,
    hub=Hub(REPOSITORY, UNPINNED),
    files=tuple(File(file.name, UNPINNED, -1) for file in SPLADE.files),
)


def padded(graph, size):
    """The graph with a doc string of `size` bytes appended: a protobuf message may be continued."""
    length, prefix = size, b"\x32"  # field 6, a string
    while length > 127:
        prefix, length = prefix + bytes([length & 127 | 128]), length >> 7
    return graph + prefix + bytes([length]) + b"x" * size


# huggingface_hub writes 10 MB at a time: what is to be seen half done must be larger.
BIG = padded(FILES[GRAPH], 35_000_000)
BIG_PINNED = dataclasses.replace(
    PINNED,
    files=tuple(
        File(GRAPH, hashlib.sha256(BIG).hexdigest(), len(BIG)) if file.name == GRAPH else file
        for file in PINNED.files
    ),
)


@pytest.fixture
def big(server, here):
    """The hub serves a graph of several parts."""
    catalogue(here, BIG_PINNED)
    server.repositories[REPOSITORY][GRAPH] = BIG
    server.chunk = 1_000_000
    return server


@pytest.fixture
def server():
    server = hub_server.Hub({REPOSITORY: dict(FILES)})
    yield server
    server.close()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, server):
    """An empty hub cache, an empty local cache, the server as the hub, no token."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TESSERA_MODELS", str(tmp_path / "models.toml"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    shorten_waits(monkeypatch)
    catalogue(tmp_path, PINNED)
    yield tmp_path
    for running in RUNNING:  # what a failed test left
        if running.poll() is None:
            running.kill()
        running.communicate()
    RUNNING.clear()


def shorten_waits(monkeypatch):
    """Newer versions of huggingface_hub wait 23 s altogether before they give up."""
    from huggingface_hub import file_download, utils

    short = types.SimpleNamespace(**{**vars(time), "sleep": lambda s: time.sleep(s / 100)})
    for module in (file_download, sys.modules[f"{utils.__name__}._http"]):
        monkeypatch.setattr(module, "time", short)


def catalogue(folder, *specs):
    """Write the user's catalogue."""
    parts = [pins.toml(spec).removeprefix("schema = 1\n") for spec in specs]
    (folder / "models.toml").write_text("\n".join(["schema = 1", *parts]))


def works(model_id="hub-splade", **options):
    """Whether the model opens and gives upstream's values."""
    expected = golden("splade")
    with TesseraSparse(model_id, on_long="truncate", **options) as model:
        found = [model.encode(text).to_dict() for text in TEXTS]
    for vector, row in zip(found, expected["document"], strict=True):
        np.testing.assert_allclose([vector.get(i, 0.0) for i in range(len(row))], row, atol=1e-5)
    return True


def asked(server, part=-1):
    """Parts of the paths of file requests; huggingface_hub may ask for other things of its own."""
    paths = [request.path.split("/") for request in server.seen("hub")]
    return {path[part] for path in paths if "resolve" in path}


def blob(name=GRAPH):
    path = hub.snapshot(PINNED.hub) / name
    return path.resolve()


CODE = """
import sys
from tessera_onnx import TesseraSparse
with TesseraSparse("hub-splade") as model:
    print("nonzero", len(model.encode("a text").indices))
"""


RUNNING = []


def process(code=CODE, **environment):
    RUNNING.append(
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    return RUNNING[-1]


PULL = "from tessera_onnx.cli.main import main; main(['pull', 'hub-splade'])"


def outcome(running):
    stdout, stderr = running.communicate(timeout=HANG)
    RUNNING.remove(running)
    return running.returncode, stdout, stderr


def last_line(stderr):
    return stderr.strip().splitlines()[-1]


# ---------------------------------------------------------------- the good way


def test_a_pinned_model_is_fetched_once_and_then_needs_no_request(server):
    assert works()
    assert asked(server) == {GRAPH, TOKENIZER}
    assert len(server.seen("storage", "GET")) == 1
    before = len(server.requests)
    assert works()
    assert works("hub-alias")
    assert len(server.requests) == before


def test_a_complete_copy_works_with_sockets_blocked_and_the_hub_down(server):
    assert works()
    server.close()
    blocked = (
        "import socket\n"
        "def refuse(*a, **k): raise AssertionError('a socket was made')\n"
        "socket.socket = socket.create_connection = socket.getaddrinfo = refuse\n"
    )
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        code, stdout, stderr = outcome(process(blocked + CODE, **environment))
        assert code == 0, stderr
        assert stdout.startswith("nonzero ")
        assert "huggingface_hub" not in stderr


def test_the_cache_is_the_one_of_huggingface_hub(server):
    """Another tool finds the files, and the files of another tool are found."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    assert works()
    cache = hub.cache_folder()
    found = try_to_load_from_cache(REPOSITORY, GRAPH, cache_dir=cache, revision=COMMIT)
    assert Path(found).read_bytes() == FILES[GRAPH]
    for file in sorted(hub.repository_folder(PINNED.hub).rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
    for name in FILES:
        hf_hub_download(REPOSITORY, name, revision=COMMIT, cache_dir=cache, endpoint=server.url)
    before = len(server.requests)
    assert works()
    assert len(server.requests) == before


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"HF_HOME": "~/elsewhere"},
        {"HF_HOME": "/x", "HF_HUB_CACHE": "$HOME/y"},
        {"HUGGINGFACE_HUB_CACHE": "/z"},
        {"XDG_CACHE_HOME": "/xdg"},
    ],
)
def test_cache_folder_is_what_huggingface_hub_says(environment):
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from huggingface_hub import constants\n"
        "from tessera_onnx.models import hub\n"
        "print(constants.HF_HUB_CACHE == str(hub.cache_folder()), constants.HF_HUB_CACHE)"
    )
    names = {"HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"}
    clean = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("True"), done.stdout


@pytest.mark.parametrize("value", ["1", "on", "YES", "true"])
@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_makes_no_request(server, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ModelNotFound, match="tessera pull hub-splade` where there is a network"):
        TesseraSparse("hub-splade")
    with pytest.raises(ModelNotFound, match="which HF_HUB_OFFLINE forbids"):
        hub.describe(PINNED.hub, GRAPH)
    assert server.requests == []


def test_offline_argument(server):
    with pytest.raises(ModelNotFound, match="offline=True"):
        TesseraSparse("hub-splade", offline=True)
    with pytest.raises(ModelNotFound, match="offline=True"):
        Tessera("hub-splade", offline=True)
    with pytest.raises(TypeError, match="offline must be bool or None, got str"):
        TesseraSparse("hub-splade", offline="yes")
    assert server.requests == []
    assert works()
    assert works(offline=True)


def test_a_model_of_the_hub_pickles_and_is_listed(here):
    assert "hub-splade" in list_models()
    assert "hub-splade" not in list_models(installed=True)
    with TesseraSparse("hub-splade") as model, pickle.loads(pickle.dumps(model)) as twin:
        assert twin.model() == "hub-splade"
    assert "hub-splade" in list_models(installed=True)


# ---------------------------------------------------------------- only what is needed


def test_only_the_graph_in_use_is_fetched(server, here):
    int8 = dataclasses.replace(PINNED.graph, int8="model.int8.onnx")
    twin = dataclasses.replace(PINNED.file(GRAPH), name="model.int8.onnx")
    server.repositories[REPOSITORY]["model.int8.onnx"] = FILES[GRAPH]
    catalogue(here, dataclasses.replace(PINNED, graph=int8, files=(*PINNED.files, twin)))
    assert works(precision="int8")
    assert server.seen(path=GRAPH) == []
    with pytest.raises(ModelNotFound, match=f"its file {GRAPH} is not on this machine"):
        TesseraSparse("hub-splade", offline=True)
    assert works()
    assert server.seen(path=GRAPH) != []


def test_files_for_a_precision():
    graph = dataclasses.replace(SPLADE.graph, fp32="onnx/m.onnx", fp16="onnx/m_fp16.onnx", int8="")
    names = ("onnx/m.onnx", "onnx/m.onnx_data", "onnx/m_fp16.onnx", "onnx/m_fp16.onnx.data", "t")
    files = tuple(File(name, UNPINNED, -1) for name in names)
    spec = dataclasses.replace(SPLADE, graph=graph, files=files)
    assert spec.files_for("fp32") == ["onnx/m.onnx", "onnx/m.onnx_data", "t"]
    assert spec.files_for("fp16") == ["onnx/m_fp16.onnx", "onnx/m_fp16.onnx.data", "t"]


def test_an_image_model_is_fetched_with_every_graph(server, here):
    files = hub_server.folder(ARTIFACTS / "colsmol")
    spec = models_catalogue.read_catalogue(ARTIFACTS / "colsmol" / "model.toml")[0]
    server.repositories["tests/colsmol"] = dict(files)
    loose = tuple(File(file.name, UNPINNED, -1) for file in spec.files)
    source = Hub("tests/colsmol", UNPINNED)
    catalogue(here, dataclasses.replace(spec, id="hub-colsmol", hub=source, files=loose))
    result = CliRunner().invoke(main, ["pull", "hub-colsmol"], catch_exceptions=False)
    assert result.exit_code == 0
    stored = golden("colsmol")
    with TesseraVision("hub-colsmol", offline=True) as model:
        found = model.encode_document(stored["page_0"])
    np.testing.assert_allclose(found, stored["page_vectors_0"], atol=1e-5)
    assert all(server.seen(path=name) for name in files)


def test_the_wrong_kind_is_refused_before_any_request(server):
    with pytest.raises(LoadError, match="of kind sparse, not dense"):
        TesseraDense("hub-splade")
    assert server.requests == []


# ---------------------------------------------------------------- pins


def test_an_unpinned_model_is_pinned_at_the_first_download(server, here, caplog):
    catalogue(here, LOOSE)
    assert works()
    said = [r.getMessage() for r in caplog.records if "had no pinned revision" in r.getMessage()]
    assert len(said) == 1
    assert COMMIT in said[0]
    record = here / "cache" / "hub" / "hub-splade" / "model.toml"
    assert str(here) not in record.read_text()
    (pinned,) = models_catalogue.read_catalogue(record)
    # The hashes are those of the artifact, which the exporter wrote.
    assert pinned.files == SPLADE.files
    assert pinned.hub == PINNED.hub
    caplog.clear()
    before = len(server.requests)
    server.commit = "f" * 40  # main moves on, the record stays
    assert works()
    assert len(server.requests) == before
    assert caplog.records == []


def test_a_listed_graph_that_the_hub_lacks_hinders_no_other(server, here, caplog):
    wrong = File("model.int8.onnx", UNPINNED, -1)
    graph = dataclasses.replace(LOOSE.graph, int8=wrong.name)
    catalogue(here, dataclasses.replace(LOOSE, graph=graph, files=(wrong, *LOOSE.files)))
    assert works()
    assert "no file 'model.int8.onnx'" in caplog.text
    before = len(server.requests)
    assert works()
    assert len(server.requests) == before
    with pytest.raises(LoadError, match="no file 'model.int8.onnx' .* the entry is wrong"):
        TesseraSparse("hub-splade", precision="int8")
    server.repositories[REPOSITORY].clear()
    (here / "cache" / "hub" / "hub-splade" / "model.toml").unlink()
    with pytest.raises(LoadError, match="the entry is wrong"):
        TesseraSparse("hub-splade")


def test_a_record_brings_the_same_revision_back_when_the_hub_cache_is_emptied(server, here):
    catalogue(here, LOOSE)
    assert works()
    (here / "hf").rename(here / "gone")
    server.requests.clear()
    assert works()
    assert asked(server, 4) == {COMMIT}


def test_an_entry_that_disagrees_with_the_record_is_newer(server, here):
    catalogue(here, LOOSE)
    assert works()
    other = Hub("tests/renamed", UNPINNED)
    server.repositories["tests/renamed"] = server.repositories.pop(REPOSITORY)
    catalogue(here, dataclasses.replace(LOOSE, hub=other))
    assert works()
    (pinned,) = models_catalogue.read_catalogue(
        here / "cache" / "hub" / "hub-splade" / "model.toml"
    )
    assert pinned.hub.repository == "tests/renamed"


@pytest.mark.parametrize("content", ["schema = 99", "", "schema = 1\nmodel = []"])
def test_a_damaged_record_is_written_again(here, content):
    catalogue(here, LOOSE)
    record = here / "cache" / "hub" / "hub-splade" / "model.toml"
    record.parent.mkdir(parents=True)
    record.write_text(content)
    assert works()
    assert models_catalogue.read_catalogue(record)[0].hub == PINNED.hub


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        (GRAPH, {"sha256": "a" * 64, "size": -1}),
        (GRAPH, {"sha256": UNPINNED, "size": 5}),
        (TOKENIZER, {"sha256": UNPINNED, "size": 5}),
    ],
)
def test_what_an_entry_pins_of_a_file_is_never_overruled(here, name, listed):
    wrong = File(name, **listed)
    files = tuple(wrong if file.name == name else file for file in LOOSE.files)
    catalogue(here, dataclasses.replace(LOOSE, files=files))
    with pytest.raises(IntegrityError, match=f"the hub's {name} has .*do not use the file"):
        TesseraSparse("hub-splade")
    assert not (here / "cache" / "hub" / "hub-splade").exists()


def test_a_hash_is_never_taken_from_a_damaged_cache(here):
    """Of a small file the hub has git's hash alone: it is compared, then hashed here."""
    for damage in (flip, lambda content: content[:-1]):
        assert works()
        blob(TOKENIZER).write_bytes(damage(FILES[TOKENIZER]))
        catalogue(here, LOOSE)
        assert works()
        record = here / "cache" / "hub" / "hub-splade" / "model.toml"
        assert models_catalogue.read_catalogue(record)[0].files == SPLADE.files
        record.unlink()


def test_a_record_may_be_read_by_everybody_who_may_read_the_cache(here):
    """A cache that root fills, in an image say, serves a process of another user."""
    catalogue(here, LOOSE)
    assert works()
    record = here / "cache" / "hub" / "hub-splade" / "model.toml"
    (here / "plain").write_text("")
    assert record.stat().st_mode == (here / "plain").stat().st_mode
    assert [file.name for file in record.parent.iterdir()] == ["model.toml"]


def test_a_local_cache_that_cannot_be_written(here, monkeypatch):
    catalogue(here, LOOSE)
    (here / "file").write_text("")
    monkeypatch.setenv("TESSERA_CACHE", str(here / "file"))
    with pytest.raises(FileError, match="set TESSERA_CACHE to a folder that can"):
        TesseraSparse("hub-splade")


def test_every_entry_survives_its_own_writer():
    specs = (*models_catalogue.catalogue(), *(spec for _, spec in sorted(_starter().items())))
    odd = dataclasses.replace(SPLADE, licence='"\\ \x7f \n\t 😀 é', unverified=("a", "b"))
    for spec in (*specs, odd, PINNED, LOOSE):
        assert models_catalogue.parse(pins.toml(spec), "it") == (spec,)


def _starter():
    return {artifact.spec.id: artifact.spec for artifact in installed()}


# ---------------------------------------------------------------- catalogues of the user


def test_a_users_entry_takes_the_place_of_a_shipped_one(here, caplog):
    name = "colbertv2.0"
    catalogue(here, dataclasses.replace(PINNED, id=name))
    for _ in range(2):
        with TesseraSparse(name) as model:
            assert model.model() == name
    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if "replaces the shipped entry of" in line] == [
        f"{here / 'models.toml'} replaces the shipped entry of {name}"
    ]
    assert list_models().count(name) == 1


def test_an_alias_hides_no_id(here):
    """Whether fetched or not: the user's alias is tried after every id, as among installed ones."""
    catalogue(here, dataclasses.replace(PINNED, aliases=("bge-m3", "mine")))
    assert find_entry(models_catalogue.catalogue(), "bge-m3").id == "bge-m3"
    assert find_entry(models_catalogue.catalogue(), "mine").id == "hub-splade"


def test_a_catalogue_that_cannot_be_read_is_named(here):
    (here / "models.toml").unlink()
    with pytest.raises(LoadError, match="TESSERA_MODELS names .*models.toml"):
        TesseraSparse("hub-splade")
    (here / "models.toml").write_text("schema = 1\nmodel = 3")
    with pytest.raises(LoadError, match="must hold `schema`"):
        TesseraSparse("hub-splade")


def test_path_may_be_a_catalogue(here, monkeypatch):
    monkeypatch.delenv("TESSERA_MODELS")
    file = here / "models.toml"
    assert works("hub-alias", path=file)
    assert works(None, path=file)
    catalogue(here, PINNED, dataclasses.replace(PINNED, id="other", aliases=()))
    assert works("other", path=file)
    for name in (None, "missing"):
        with pytest.raises(ModelNotFound, match="describes hub-splade, other"):
            TesseraSparse(name, path=file)
    assert works("test-splade", path=ARTIFACTS / "splade" / "model.toml")
    with TesseraSparse("other", path=file) as model, pickle.loads(pickle.dumps(model)) as twin:
        assert twin.model() == "other"


# ---------------------------------------------------------------- licences


@pytest.mark.parametrize(
    ("licence", "forbidden"),
    [
        ("cc-by-nc-4.0", True),
        ("CC-BY-NC-SA-4.0", True),
        ("non-commercial", True),
        ("apache-2.0", False),
        ("ncsa", False),
        ("cc-by-4.0", False),
    ],
)
def test_a_licence_that_forbids_commercial_use_is_told_once(here, caplog, licence, forbidden):
    catalogue(here, dataclasses.replace(PINNED, licence=licence))
    for _ in range(2):
        assert works()
    said = [r for r in caplog.records if "forbids commercial use" in r.getMessage()]
    assert len(said) == forbidden
    for command in ("info", "pull"):
        shown = CliRunner().invoke(main, [command, "hub-splade"]).stdout
        assert licence in shown
        assert ("forbids commercial use" in shown) == forbidden


def test_a_licence_that_limits_commercial_use_is_told(here, caplog):
    catalogue(here, dataclasses.replace(PINNED, licence="nxai-community"))
    assert works()
    assert "the licence nxai-community, which limits commercial use" in caplog.text
    assert "(limits commercial use)" in CliRunner().invoke(main, ["info", "hub-splade"]).stdout


def test_a_licence_that_forbids_commercial_use_is_seen_by_a_program_without_logging(here):
    for licence, lines in (("cc-by-nc-4.0", 1), ("apache-2.0", 0)):
        catalogue(here, dataclasses.replace(PINNED, licence=licence))
        _, _, stderr = outcome(process(CODE + "TesseraSparse('hub-splade')"))
        assert stderr.count("forbids commercial use") == lines
        assert len(stderr.splitlines()) == lines


# ---------------------------------------------------------------- damage


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.slow
@pytest.mark.parametrize("name", [GRAPH, TOKENIZER])
@pytest.mark.parametrize("spec", [PINNED, LOOSE], ids=["pinned", "unpinned"])
@pytest.mark.parametrize("damage", [flip, lambda content: content[:-1000]], ids=["flip", "cut"])
def test_a_damaged_download_is_never_used(server, here, damage, name, spec):
    catalogue(here, spec)
    server.content = lambda request, content: (
        damage(content) if request.path.endswith(name) else content
    )
    with pytest.raises(LoadError, match="expected|arrived damaged|cannot be fetched") as caught:
        TesseraSparse("hub-splade")
    assert isinstance(caught.value, IntegrityError) == (damage is flip)
    assert not (here / "cache" / "hub").exists() or spec is LOOSE
    server.content = lambda _, content: content
    assert works()
    pinned = pins.recorded(spec, here / "cache")
    assert pinned.files == SPLADE.files


def test_one_damaged_transfer_is_repeated(server):
    faults = [flip]
    server.content = lambda request, content: (
        faults.pop()(content) if faults and request.server == "storage" else content
    )
    assert works()
    assert faults == []


@pytest.mark.parametrize("name", [GRAPH, TOKENIZER])
@pytest.mark.parametrize("damage", [flip, lambda content: content[:-1], lambda _: b""])
def test_a_damaged_cache_is_repaired_once_online_and_named_offline(server, name, damage, caplog):
    assert works()
    blob(name).write_bytes(damage(FILES[name]))
    with pytest.raises(IntegrityError, match=f"{name} has .*tessera pull hub-splade --force"):
        TesseraSparse("hub-splade", offline=True)
    assert works()
    assert any("fetching it now" in record.getMessage() for record in caplog.records)
    assert blob(name).read_bytes() == FILES[name]


def test_a_damaged_cache_and_no_network_names_both(server, monkeypatch):
    assert works()
    blob(TOKENIZER).write_bytes(b"x")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        IntegrityError, match="has 1 bytes, expected .* failed: .*cannot be fetched"
    ):
        TesseraSparse("hub-splade")


def test_a_hub_with_another_content_than_the_catalogue_is_refused(server):
    server.repositories[REPOSITORY][GRAPH] = flip(FILES[GRAPH])
    with pytest.raises(IntegrityError, match=f"{GRAPH} has sha256 .*, expected"):
        TesseraSparse("hub-splade")


def test_a_cache_of_copies_is_repaired_too():
    """As on a system without symbolic links; older versions have no such switch, and link again."""
    path = hub.snapshot(PINNED.hub) / TOKENIZER
    for _ in range(2):
        code, stdout, stderr = outcome(process(HF_HUB_DISABLE_SYMLINKS="1"))
        assert code == 0, stderr
        assert stdout.startswith("nonzero ")
        assert path.read_bytes() == FILES[TOKENIZER]
        path.unlink()
        path.write_bytes(flip(FILES[TOKENIZER]))


def test_a_blob_in_the_store_that_repositories_share_is_used():
    """The layout that newer versions of huggingface_hub make of what they fetch by Xet."""
    assert works()
    shared = hub.shared_store() / "ab" / f"ab{'0' * 62}"
    shared.parent.mkdir(parents=True)
    own = blob()
    own.rename(shared)
    own.symlink_to(os.path.relpath(shared, own.parent))
    assert works(offline=True)
    shared.write_bytes(flip(FILES[GRAPH]))
    assert works()  # repaired without a write into the shared store
    assert shared.read_bytes() == flip(FILES[GRAPH])


def test_a_link_out_of_the_hub_cache_is_refused(here):
    assert works()
    link, target = hub.snapshot(PINNED.hub) / TOKENIZER, here / "elsewhere.json"
    target.write_bytes(FILES[TOKENIZER])
    link.unlink()
    link.symlink_to(target)
    with pytest.raises(IntegrityError, match="link out of its folder"):
        TesseraSparse("hub-splade", offline=True)
    assert works()
    assert link.resolve() == blob(TOKENIZER)
    assert target.read_bytes() == FILES[TOKENIZER]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model(server, monkeypatch, status):
    server.tokens, server.gated = {TOKEN}, status
    for token in (None, "hf_wrong"):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(LoadError, match=f"gated .*licence at {server.url}/{REPOSITORY}") as it:
            TesseraSparse("hub-splade")
        assert "HF_TOKEN" in str(it.value)
        assert "hf_wrong" not in str(it.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert works()


def test_the_token_goes_to_the_hub_alone_and_into_no_message(server, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    server.tokens = {TOKEN}
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert works()
    assert {request.authorization for request in server.seen("hub")} == {f"Bearer {TOKEN}"}
    assert {request.authorization for request in server.seen("storage")} == {None}
    server.status = lambda _: (403, {})
    with pytest.raises(LoadError) as caught:
        hub.describe(PINNED.hub, GRAPH)
    assert TOKEN not in str(caught.value)
    assert TOKEN not in caplog.text


def test_a_redirect_to_another_host_loses_the_token(server, monkeypatch):
    """Also one that the request for the content meets and the one for the headers did not."""
    server.tokens = {TOKEN}
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    elsewhere = f"{hub_server._url(server.storage)}/x//{REPOSITORY}//{TOKENIZER}"
    server.status = lambda request: (
        (302, {"Location": elsewhere})
        if (request.server, request.method) == ("hub", "GET") and request.path.endswith(TOKENIZER)
        else None
    )
    assert works()
    assert len(server.seen("storage", "GET", TOKENIZER)) == 1
    assert {request.authorization for request in server.seen("storage")} == {None}


@pytest.mark.parametrize(
    "fault",
    [
        (403, {"X-Error-Code": "GatedRepo"}),
        (404, {}),
        (418, {}),
        (200, {}),
        (200, {"ETag": f'"{"a" * 40}"', "X-Repo-Commit": "f" * 40}),
        None,
    ],
    ids=str,
)
def test_a_password_in_the_address_of_a_mirror_is_in_no_message(server, monkeypatch, fault):
    address = server.url.removeprefix("http://")
    monkeypatch.setenv("HF_ENDPOINT", f"http://user:s3cret@{address}")
    server.status = lambda _: fault
    if fault is None:
        server.close()
    with pytest.raises(LoadError) as caught:
        hub.describe(PINNED.hub, TOKENIZER)
    assert "s3cret" not in str(caught.value)
    assert address in str(caught.value) or fault == (404, {})


@pytest.mark.parametrize(
    ("spec", "error", "match"),
    [
        (
            dataclasses.replace(PINNED, hub=Hub("tests/missing", COMMIT)),
            ModelNotFound,
            "no repository tests/missing",
        ),
        (
            dataclasses.replace(PINNED, hub=Hub(REPOSITORY, "f" * 40)),
            ModelNotFound,
            f"{REPOSITORY} has no revision {'f' * 40}",
        ),
        (
            dataclasses.replace(
                PINNED,
                files=(*PINNED.files, dataclasses.replace(PINNED.files[0], name="gone.onnx")),
                graph=dataclasses.replace(PINNED.graph, fp32="gone.onnx"),
            ),
            LoadError,
            "no file 'gone.onnx'",
        ),
    ],
    ids=["repository", "revision", "file"],
)
def test_what_the_hub_does_not_have(here, spec, error, match):
    catalogue(here, spec)
    with pytest.raises(error, match=match) as caught:
        TesseraSparse("hub-splade")
    assert caught.value.__suppress_context__  # no traceback of huggingface_hub
    catalogue(here, PINNED)
    assert works()


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("name", [GRAPH, TOKENIZER], ids=["storage", "hub"])
def test_a_hub_that_stays_busy(server, status, name):
    """huggingface_hub tries again as its version does; then it is one sentence."""
    faulty = {GRAPH: "storage", TOKENIZER: "hub"}[name]
    server.status = lambda request: (
        (status, {}) if request.server == faulty and request.path.endswith(name) else None
    )
    with pytest.raises(LoadError, match=rf"refuses '{name}' .*status {status}") as caught:
        TesseraSparse("hub-splade")
    assert "try again later" in str(caught.value)
    server.status = lambda _: None
    assert works()


def test_a_renamed_repository_is_followed(server):
    server.renamed["tests/old"] = REPOSITORY
    spec = dataclasses.replace(PINNED, hub=Hub("tests/old", COMMIT))
    hub.download(spec, GRAPH)
    assert (hub.snapshot(spec.hub) / GRAPH).read_bytes() == FILES[GRAPH]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"ETag": '"../../../../evil"', "X-Repo-Commit": COMMIT},
        {"ETag": f'"{"a" * 40}"', "X-Repo-Commit": "main"},
        {"ETag": f'"{"a" * 40}"', "X-Repo-Commit": "f" * 40},
        {"ETag": f'"{"a" * 40}"', "X-Repo-Commit": "../evil"},
        {"ETag": f'"{"a" * 40}"', "X-Repo-Commit": "\x1b[31m" + "f" * 40_000},
        {"ETag": f'"{"a" * 40}"', "X-Repo-Commit": COMMIT, "X-Linked-Size": "-5"},
        {"ETag": f'"{"a" * 40}"', "X-Repo-Commit": COMMIT, "X-Linked-Size": "5 GB"},
    ],
)
def test_an_endpoint_that_is_no_hub(server, headers, here):
    server.status = lambda _: (200, {"Content-Length": "5", **headers})
    with pytest.raises(LoadError, match="check HF_ENDPOINT") as caught:
        hub.describe(PINNED.hub, TOKENIZER)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()
    assert not list(here.rglob("evil*"))


def test_an_endpoint_that_is_no_hub_is_told_at_a_download(server):
    server.status = lambda _: (200, {})
    with pytest.raises(LoadError, match="does not answer as a model hub .*check HF_ENDPOINT"):
        TesseraSparse("hub-splade")


def test_no_hub_at_all(server, monkeypatch):
    url = server.url
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(LoadError, match="cannot be fetched from http://127.0.0.1:9"):
        TesseraSparse("hub-splade")
    monkeypatch.setenv("HF_ENDPOINT", url)
    assert works()


# ---------------------------------------------------------------- stalls, kills, neighbours, disks


@pytest.mark.slow
def test_a_hub_that_sends_no_headers(server, here):
    catalogue(here, LOOSE)
    server.silent = True
    code, _, stderr = outcome(process(HF_HUB_ETAG_TIMEOUT="1"))
    assert code == 1
    assert f"the hub did not answer in time for {GRAPH!r}" in last_line(stderr)
    assert "huggingface_hub" not in stderr
    server.silent = False
    assert works()


@pytest.mark.slow
def test_a_hub_that_stalls_in_the_middle(big, monkeypatch):
    """huggingface_hub asks again for the rest and gives up where nothing comes five times."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.4)
    big.stall_after = 0
    with pytest.raises(LoadError, match="did not answer in time .*HF_HUB_DOWNLOAD_TIMEOUT"):
        TesseraSparse("hub-splade")
    big.stall_after = 21_000_000  # each request brings two parts of 10 MB: two bring all
    assert works()
    ranges = [request.range for request in big.seen("storage", "GET")]
    assert ranges[-2:] == [None, f"bytes={2 * constants.DOWNLOAD_CHUNK_SIZE}-"]


def partial():
    found = list(hub.repository_folder(PINNED.hub).glob("blobs/*.incomplete"))
    return found[0] if found else None


def wait_for(condition, seconds=HANG):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def release(distribution):
    return tuple(map(int, metadata.version(distribution).split(".")[:2]))


def half_way():
    """Two parts of 10 MB have come, and the hub has stalled."""
    found = partial()
    return found is not None and found.stat().st_size >= 20_000_000


@pytest.mark.slow
@pytest.mark.posix
@pytest.mark.parametrize("command", [CODE, PULL], ids=["library", "command"])
def test_after_a_killed_download_the_next_one_works(big, command):
    """huggingface_hub resumes such a file up to 1.17 and fetches it again from 1.18 on."""
    big.stall_after = 21_000_000
    running = process(command, HF_HUB_DOWNLOAD_TIMEOUT="60")
    wait_for(half_way)
    running.send_signal(signal.SIGKILL)
    assert outcome(running)[0] == -signal.SIGKILL
    kept = partial().stat().st_size
    big.stall_after = None
    big.requests.clear()
    assert works()
    resumes = release("huggingface_hub") < (1, 18)
    asked_for = [request.range for request in big.seen("storage", "GET")]
    assert asked_for == [f"bytes={kept}-" if resumes else None]
    assert (partial() is None) == resumes  # newer ones leave it behind


@pytest.mark.slow
@pytest.mark.posix
def test_a_killed_download_by_xet(big):
    """hf-xet up to 1.1 keeps the complete blocks of a file for the next process, 1.2 none."""
    pytest.importorskip("hf_xet")
    big.xet, big.tokens = True, {TOKEN}
    number = -(-len(BIG) // hub_server.XET_BLOCK)

    def blocks():
        return [request for request in big.seen("storage", "GET") if GRAPH in request.path]

    def stall(_):
        if len(blocks()) > number // 2:
            big.down.wait(60)

    big.status = stall
    first = process(HF_TOKEN=TOKEN)
    wait_for(lambda: len(blocks()) > number // 2)
    first.send_signal(signal.SIGKILL)
    assert outcome(first)[0] == -signal.SIGKILL
    big.status = lambda _: None
    big.requests.clear()
    code, stdout, stderr = outcome(process(HF_TOKEN=TOKEN))
    assert code == 0, stderr
    assert stdout.startswith("nonzero ")
    if release("hf_xet") < (1, 2):
        assert len(blocks()) < number
    else:
        assert len(blocks()) == number
    assert {request.authorization for request in blocks()} == {None}
    assert f"Bearer {TOKEN}" not in {request.authorization for request in big.seen("storage")}
    assert big.seen(path="telemetry") == []


@pytest.mark.parametrize("content", [b"not the beginning", b"x" * 150_329])
def test_what_a_killed_download_left_is_never_trusted(content):
    folder = hub.repository_folder(PINNED.hub) / "blobs"
    folder.mkdir(parents=True)
    (folder / f"{PINNED.file(GRAPH).sha256}.incomplete").write_bytes(content)
    assert works()
    assert blob().read_bytes() == FILES[GRAPH]


def test_two_processes_pin_one_model(server, here):
    catalogue(here, LOOSE)
    first, second = process(), process()
    for code, stdout, stderr in (outcome(first), outcome(second)):
        assert code == 0, stderr
        assert stdout.startswith("nonzero ")
    assert (
        models_catalogue.read_catalogue(here / "cache" / "hub" / "hub-splade" / "model.toml")[0].hub
        == PINNED.hub
    )


def test_a_hub_cache_that_cannot_be_written(here, monkeypatch):
    home = os.environ["HF_HOME"]
    (here / "file").write_text("")
    monkeypatch.setenv("HF_HOME", str(here / "file"))
    with pytest.raises(FileError, match="cannot be written to the hub cache .*set HF_HOME"):
        TesseraSparse("hub-splade")
    monkeypatch.setenv("HF_HOME", home)
    assert works()


@pytest.mark.slow
def test_two_processes_fetch_one_file_once(big):
    big.pause = 0.1  # longer than the second takes to ask for the same file
    first, second = process(), process()
    for code, stdout, stderr in (outcome(first), outcome(second)):
        assert code == 0, stderr
        assert stdout.startswith("nonzero ")
    assert len(big.seen("storage", "GET")) == 1


@pytest.mark.slow
@pytest.mark.posix
@pytest.mark.parametrize("xet", [False, True], ids=["http", "xet"])
def test_a_disk_that_fills_up_during_the_download(server, xet):
    """The system's own limit on a file's size: the write fails as on a full disk."""
    if xet:
        pytest.importorskip("hf_xet")
    server.xet = xet
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, 65_536))\n"
    code, _, stderr = outcome(process(limit + CODE))
    assert code == 1
    assert "FileError" in last_line(stderr)
    assert f"'{GRAPH}' of {REPOSITORY} cannot be written to the hub cache" in last_line(stderr)
    assert "make room" in last_line(stderr)
    server.xet = False
    assert works()


# ---------------------------------------------------------------- the command


def run(*args, code=0):
    result = CliRunner().invoke(main, list(args), catch_exceptions=False)
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
    return result


def test_pull_fetches_verifies_and_says_what_is_next(server):
    shown = run("pull", "hub-splade").stdout
    assert shown.startswith("hub-splade: 2 files, 152,915 bytes, verified\n")
    assert 'Tessera("hub-splade")' in shown
    server.close()
    assert works()
    again = json.loads(run("pull", "hub-alias", "--json").stdout)
    assert again["revision"] == COMMIT
    assert [file["name"] for file in again["files"]] == [GRAPH, TOKENIZER]
    vector = run("encode", "-m", "hub-splade", "--text", "a text")
    assert "hub-splade" in vector.stdout


def test_info_asks_no_hub(server, here):
    for spec in (PINNED, LOOSE):
        catalogue(here, spec)
        assert "not installed" in run("info", "hub-splade").stdout
    assert server.requests == []
    run("pull", "hub-splade")
    assert str(hub.snapshot(PINNED.hub)) in run("info", "hub-splade").stdout


@pytest.mark.posix
def test_pull_shows_a_progress_bar_on_a_terminal(big, monkeypatch):
    import fcntl
    import termios

    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS")
    terminal, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    subprocess.run([sys.executable, "-c", PULL], stdout=subprocess.PIPE, stderr=theirs, check=True)
    shown = os.read(terminal, 1 << 16).decode(errors="replace")
    os.close(theirs)
    os.close(terminal)
    assert re.search(r"model\.fp32\.onnx: 100%\|.+35\.2M/35\.2M", shown), shown


def test_pull_force_fetches_again(server):
    run("pull", "hub-splade")
    blob().write_bytes(flip(FILES[GRAPH]))
    server.requests.clear()
    run("pull", "hub-splade", "--force")
    assert blob().read_bytes() == FILES[GRAPH]
    assert len(server.seen("storage", "GET")) == 1


def test_pull_of_one_precision(server):
    assert "hub-splade: 2 files" in run("pull", "hub-splade", "--precision", "fp32").stdout
    with pytest.raises(ConfigError, match="has no int8 graph"):
        artifacts_pull("int8")
    assert "has no int8 graph" in run("pull", "hub-splade", "--precision", "int8", code=1).stderr


def artifacts_pull(precision):
    from tessera_onnx.cli import pull

    return pull.fetch("hub-splade", None, precision, force=False)


def test_pull_of_a_model_that_nobody_offers_ready(here, server):
    message = run("pull", "splade-v3", code=1).stderr
    command = "tessera-export naver/splade-v3 --kind sparse --output DIR"
    assert command in message
    assert "did you mean" in run("pull", "hub-spade", code=1).stderr
    assert "splade-tiny: " in run("pull", "splade-tiny").stdout  # the starter's
    assert server.requests == []


def test_a_command_to_paste_runs_nothing_else(here):
    catalogue(here, dataclasses.replace(PINNED, source="a; touch b", hub=None))
    assert "`tessera-export 'a; touch b' --kind sparse" in run("pull", "hub-splade", code=1).stderr


def test_pull_says_when_a_pack_hides_the_model(here):
    catalogue(here, dataclasses.replace(PINNED, id="splade-tiny"))
    shown = run("pull", "splade-tiny").stdout
    assert "not used by its id: tessera-onnx-starter holds that model" in shown


def test_pull_shows_one_line_for_an_error(server):
    server.tokens = {TOKEN}
    message = run("pull", "hub-splade", code=1).stderr
    assert message.startswith("Error: tests/splade is gated (403)")
    assert len(message.splitlines()) == 1


def test_pin_prints_lines_that_a_catalogue_takes(server, here):
    catalogue(here, LOOSE)
    lines = run("pin", "hub-splade").stdout.splitlines()
    loose = tomllib.loads(pins.toml(LOOSE))
    loose["model"][0] |= tomllib.loads("\n".join(["[[model]]", *lines]))["model"][0]
    text = tomli_w.dumps(loose)
    (entry,) = models_catalogue.parse(text, "what pin printed")
    assert entry == PINNED
    assert run("pin", "hub-alias").stdout.splitlines() == lines
    assert "no [model.hub] table" in run("pin", "splade-v3", code=1).stderr


@pytest.mark.slow
def test_doctor_looks_at_what_was_fetched(server):
    run("pull", "hub-splade")
    server.close()
    report = json.loads(run("doctor", "--json").stdout)
    (model,) = [model for model in report["models"] if model["id"] == "hub-splade"]
    assert model["where"] == "hub"
    assert model["files"] == "verified"
    assert [probe["result"] for probe in model["probes"]] == ["works"]
    assert report["problems"] == []

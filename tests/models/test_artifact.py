"""From a name to verified files: order, aliases, and every way a folder can be damaged."""

import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, copy, relist, replace

import tessera_onnx
from tessera_onnx import (
    IntegrityError,
    LoadError,
    ModelNotFound,
    Tessera,
    TesseraDense,
    TesseraMultiVector,
    TesseraSparse,
    list_models,
)
from tessera_onnx.cli import doctor
from tessera_onnx.models import catalogue, installed, resolve
from tessera_onnx.models.artifact import open_folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache é"
    monkeypatch.setenv("TESSERA_CACHE", str(folder))
    for name in ("colbert", "prompts", "splade"):
        copy(name, folder / name)
    return folder


def test_the_starter_is_found_by_entry_point_and_gives_the_defaults():
    with TesseraDense() as dense, TesseraMultiVector() as multi, TesseraSparse() as sparse:
        assert dense.model() == multi.model() == "all-minilm-l6-v2"
        assert sparse.model() == "splade-tiny"


def test_packs_come_before_the_cache(cache):
    assert list_models(installed=True)[:2] == ["all-minilm-l6-v2", "splade-tiny"]
    assert {"test-colbert", "test-prompts", "test-splade"} <= set(list_models(installed=True))
    assert "colbertv2.0" in list_models()
    assert "colbertv2.0" not in list_models(installed=True)
    assert "test-splade" in list_models("sparse")
    assert "test-splade" not in list_models("dense")
    with pytest.raises(ValueError, match="kind must be one of dense"):
        list_models("bogus")
    with TesseraSparse() as sparse:
        assert sparse.model() == "splade-tiny"


def test_id_alias_and_path_give_the_same_model(cache):
    for options in (
        {"model_id": "test-colbert"},
        {"model_id": "colbert-alias"},
        {"path": cache / "colbert"},
        {"path": str(cache / "colbert"), "model_id": "test-colbert"},
    ):
        with TesseraMultiVector(**options) as model:
            assert repr(model) == "TesseraMultiVector(model='test-colbert', dimension=128)"
            assert str(model) == repr(model)


def test_factory_gives_the_class_of_the_model(cache):
    for name, cls in (("prompts", TesseraDense), ("splade", TesseraSparse)):
        with Tessera(f"test-{name}") as model:
            assert type(model) is cls
    with Tessera(path=cache / "colbert") as model:
        assert type(model) is TesseraMultiVector
    with Tessera("all-minilm-l6-v2", kind="multi-vector", dimension=96) as model:
        assert repr(model) == "TesseraMultiVector(model='all-minilm-l6-v2', dimension=96)"
    with pytest.raises(ValueError, match="kind must be one of"):
        Tessera("test-splade", kind="video")


def test_unknown_model_names_near_matches():
    with pytest.raises(ModelNotFound, match="did you mean all-minilm-l6-v2") as caught:
        TesseraDense("all-minilm-l6")
    assert isinstance(caught.value, RuntimeError)
    with pytest.raises(ModelNotFound, match="did you mean all-minilm-l6-v2"):
        TesseraDense("ALL-MINILM-L6-V2")
    with pytest.raises(ModelNotFound, match="tessera models"):
        TesseraDense("qqqqqq")


def test_known_model_that_is_not_here_says_what_to_do():
    with pytest.raises(ModelNotFound, match="tessera-export naver/splade-v3 --kind sparse"):
        TesseraSparse("splade-v3")


def test_wrong_kind_and_wrong_folder(cache, tmp_path):
    with pytest.raises(LoadError, match="of kind sparse, not dense"):
        TesseraDense("test-splade")
    with pytest.raises(LoadError, match="holds 'test-splade', not 'other'"):
        TesseraSparse("other", path=cache / "splade")
    with pytest.raises(LoadError, match="is not a model folder: there is no folder of that name$"):
        TesseraDense(path=tmp_path / "nothing")
    with pytest.raises(LoadError, match="no folder of that name, and ~ is not expanded"):
        TesseraDense(path="~/nothing")
    with pytest.raises(LoadError, match="is a file .*, and name an ONNX file in it with file="):
        TesseraDense(path=cache / "splade" / "tokenizer.json")
    with pytest.raises(TypeError, match="model_id must be str or None, got int"):
        TesseraDense(3)
    with pytest.raises(TypeError, match="path must be a str, a Path or None, got int"):
        TesseraDense(path=3)
    with pytest.raises(TypeError, match="cache_dir must be a str, a Path or None, got bytes"):
        TesseraDense(cache_dir=b"x")


FILES = ["model.fp32.onnx", "tokenizer.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(cache, name):
    (cache / "splade" / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name} is missing"):
        TesseraSparse("test-splade")


@pytest.mark.parametrize("name", FILES)
def test_an_empty_file(cache, name):
    (cache / "splade" / name).write_bytes(b"")
    with pytest.raises(IntegrityError, match="has 0 bytes, expected"):
        TesseraSparse("test-splade")


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit(cache, name):
    path = cache / "splade" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="has sha256"):
        TesseraSparse("test-splade")


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 2040 + "b"])
def test_a_name_that_no_file_can_have(cache, name):
    toml = cache / "splade" / "model.toml"
    toml.write_text(replace(("tokenizer.json", name))(toml.read_text()))
    with pytest.raises(IntegrityError, match="is missing"):
        TesseraSparse("test-splade")


def test_another_models_file(cache):
    shutil.copy(cache / "colbert" / "model.fp32.onnx", cache / "splade" / "model.fp32.onnx")
    with pytest.raises(IntegrityError, match="expected"):
        TesseraSparse("test-splade")


@pytest.mark.slow
def test_a_folder_in_the_place_of_an_id_is_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy("splade", tmp_path / "mine")
    (tmp_path / "empty").mkdir()
    for name in ("mine", "./mine", "mine/", str(tmp_path / "mine")):
        with TesseraSparse(name) as model, Tessera(name) as same:
            assert model.model() == same.model() == "test-splade"
            monkeypatch.chdir("/")
            pickle.loads(pickle.dumps(model)).close()
            monkeypatch.chdir(tmp_path)
        with pytest.raises(LoadError, match="of kind sparse, not dense"):
            TesseraDense(name)
    for opened in (TesseraSparse, TesseraDense, Tessera):
        with pytest.raises(LoadError, match=r"empty"):
            opened("./empty")
        with pytest.raises(TypeError, match="got PosixPath: a folder is opened with path="):
            opened(tmp_path / "mine")
        with pytest.raises(
            ModelNotFound, match="no model is named './absent'; there is no such folder"
        ):
            opened("./absent")
    with TesseraSparse(path="mine") as model:
        assert model.model() == "test-splade"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "cross-encoder/ms-marco-electra-base",
        "ms-marco-TinyBERT-L-2-v2",
        "cross-encoder/stsb-roberta-base",
        "BAAI/bge-reranker-large",
        "bge-reranker-v2-minicpm-layerwise",
        "jinaai/jina-reranker-v3",
        "lightonai/LightOn-rerank-LW-2B",
        "Qwen/Qwen3-VL-Reranker-2B",
        "zeroentropy/zerank-1-small",
        "castorini/monot5-base-msmarco",
        "Alibaba-NLP/gte-multilingual-reranker-base",
    ],
)
def test_a_reranker_is_called_one(name):
    for opened in (TesseraDense, TesseraSparse):
        with pytest.raises(ModelNotFound) as caught:
            opened(name)
        message = str(caught.value)
        assert f"{name!r} is by its name a reranker" in message
        assert "TesseraReranker and `tessera rerank` open it" in message
        assert "did you mean" not in message


def test_no_other_model_of_the_catalogue_is_called_like_a_reranker():
    others = [spec for spec in catalogue.catalogue() if spec.reranker is None]
    names = [name for spec in others for name in (spec.id, *spec.aliases, spec.source)]
    assert [name for name in names if resolve.RERANKER.search(name)] == []
    for name in ("msmarco-distilbert-base-v4", "ranker", "sentence-transformers/gtr-t5-base"):
        assert not resolve.RERANKER.search(name)


def test_a_link_out_of_the_folder_is_refused_even_with_the_right_content(cache, tmp_path):
    target = tmp_path / "elsewhere.json"
    shutil.move(cache / "splade" / "tokenizer.json", target)
    (cache / "splade" / "tokenizer.json").symlink_to(target)
    with pytest.raises(IntegrityError, match="link out of its folder"):
        TesseraSparse("test-splade")


def test_an_artifact_pins_every_file(tmp_path):
    size = (ARTIFACTS / "splade" / "tokenizer.json").stat().st_size
    folder = copy("splade", tmp_path / "m", lambda text: text.replace(str(size), "-1"))
    toml = folder / "model.toml"
    spec = open_folder(folder).spec
    toml.write_text(toml.read_text().replace(spec.file("tokenizer.json").sha256, "unpinned"))
    with pytest.raises(LoadError, match="an artifact pins every file"):
        open_folder(folder)


def test_content_is_checked_before_it_is_parsed(cache):
    """A hostile tokenizer.json never reaches its parser."""
    path = cache / "splade" / "tokenizer.json"
    path.write_bytes(b"{" * path.stat().st_size)
    with pytest.raises(IntegrityError):
        TesseraSparse("test-splade")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("tokenizer.json", b"{}", "is not a tokenizer.json"),
        ("tokenizer.json", b"\x00\xff", "is not a tokenizer.json"),
        ("model.fp32.onnx", b"not a graph", "cannot be opened on cpu"),
    ],
)
def test_honest_hashes_of_nonsense(tmp_path, name, content, match):
    folder = copy("splade", tmp_path / "m")
    relist(folder, name, content)
    with pytest.raises(LoadError, match=match):
        TesseraSparse(path=folder)


@pytest.mark.parametrize(
    ("pairs", "match"),
    [
        (
            (('output = "logits"', 'output = "other"'),),
            r"no output 'other': its outputs are 'logits' \(batch, sequence, 128\) tensor\(float\)",
        ),
        (
            (("vocab_size = 128", "vocab_size = 64"),),
            r"facts it is \(1, 2, 64\): its outputs are 'logits' \(batch, sequence, 128\)",
        ),
    ],
)
def test_a_graph_that_is_not_what_model_toml_says(tmp_path, pairs, match):
    with pytest.raises(LoadError, match=match):
        TesseraSparse(path=copy("splade", tmp_path / "m", replace(*pairs)))


@pytest.mark.slow
@pytest.mark.posix
@pytest.mark.parametrize(
    "environment",
    [{}, {"XDG_CACHE_HOME": ""}, {"TESSERA_CACHE": ""}, {"HOME": "{closed}"}],
    ids=["no home", "empty XDG_CACHE_HOME", "empty TESSERA_CACHE", "closed home"],
)
def test_a_user_without_a_home_has_the_packs(tmp_path, environment):
    """A container's user may have no name, no HOME, or that of root."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (tmp_path / "x").mkdir()
    copy("splade", tmp_path / "x" / "splade")  # an empty name of a folder is not the current one
    # Another user may not see the packs at all, where root's own folder holds them.
    place = Path(importlib.util.find_spec("tessera_onnx_starter").origin)
    visible = all(folder.stat().st_mode & 0o5 == 0o5 for folder in place.parents)
    become = "os.setuid(54321)" if visible and not os.getuid() else "pass"
    code = (
        "import os, tessera_onnx\n"
        # All modules, which that user may not read.
        "with tessera_onnx.TesseraDense(): tessera_onnx.list_models()\n"
        f"{become}\n"
        "print(tessera_onnx.list_models(installed=True))"
    )
    names = {"HOME", "XDG_CACHE_HOME", "TESSERA_CACHE", "HF_HUB_CACHE", "HF_HOME"}
    clean = {name: value for name, value in os.environ.items() if name not in names}
    given = {name: value.format(closed=closed) for name, value in environment.items()}
    # The modules are looked for in the repository, the models of the working directory are not.
    path = os.pathsep.join([str(ARTIFACTS.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **given, "PYTHONPATH": path},
        cwd=tmp_path / "x",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "all-minilm-l6-v2" in done.stdout
    assert "test-splade" not in done.stdout


@pytest.mark.slow
def test_doctor_tries_an_image_model_with_an_image(cache):
    shutil.copytree(ARTIFACTS / "page", cache / "page")
    probes = {m["id"]: m["probes"] for m in doctor.examine(None)["models"]}["test-page"]
    assert [(p["kind"], p["device"], p["result"]) for p in probes] == [("vision", "cpu", "works")]
    (cache / "colbert" / "tokenizer.json").unlink()  # of the model that reads its queries
    problems = doctor.examine(None)["problems"]
    assert any(
        p.startswith("test-page, vision on cpu: ") and "tokenizer.json" in p for p in problems
    )


def test_two_packs_that_claim_one_id(tmp_path, monkeypatch):
    twin = copy("splade", tmp_path / "twin")
    folders = [
        (ARTIFACTS / "splade", "pack-a"),
        (twin, "pack-b"),
        (ARTIFACTS / "prompts", "pack-b"),
    ]
    monkeypatch.setattr(installed, "_pack_folders", lambda: iter(folders))
    said = "the packs pack-a and pack-b both hold"
    for model_id in ("test-splade", None):  # by its name, and as the default
        with pytest.raises(LoadError, match=said):
            TesseraSparse(model_id)
    assert [artifact.spec.id for artifact in installed.installed()] == ["test-prompts"]
    assert [said in problem for problem in doctor.examine(None)["problems"]] == [True]
    with TesseraSparse(path=twin), TesseraDense("test-prompts"):
        pass


def test_a_pack_that_is_found_twice_is_one(monkeypatch):
    folders = [(ARTIFACTS / "splade", "pack-a")] * 2
    monkeypatch.setattr(installed, "_pack_folders", lambda: iter(folders))
    with TesseraSparse("test-splade"):
        pass


def test_a_broken_folder_hides_no_other_model(cache):
    (cache / "colbert" / "model.toml").write_text("schema = 99")
    assert "test-splade" in list_models(installed=True)
    with TesseraSparse("test-splade"):
        pass
    with pytest.raises(ModelNotFound, match=r"left out: .*schema 99"):
        TesseraMultiVector("test-colbert")


@pytest.mark.posix
def test_a_folder_that_cannot_be_looked_into_is_named():
    become = "pass" if os.getuid() else "os.setuid(54321)"  # root looks into every folder
    code = (
        "import os; from tessera_onnx.models.installed import broken; broken()\n"
        f"{become}\n"
        "print(*broken(), sep='\\n')"
    )
    with tempfile.TemporaryDirectory() as place:  # not tmp_path, which is its owner's alone
        cache = Path(place)
        cache.chmod(0o755)
        for name in ("closed", "ring", "other"):
            (cache / name).mkdir()
        (cache / "ring" / "model.toml").symlink_to("model.toml")
        (cache / "closed").chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "TESSERA_CACHE": place},
            capture_output=True,
            text=True,
            check=True,
        )
        (cache / "closed").chmod(0o700)
    for name in ("closed", "ring"):
        assert f"{cache / name} is not a model folder: it has no model.toml that can" in done.stdout
    assert str(cache / "other") not in done.stdout


def test_no_models_at_all(monkeypatch):
    monkeypatch.setattr(installed, "_pack_folders", lambda: iter(()))
    with pytest.raises(ModelNotFound, match="pip install PATH/starter"):
        TesseraDense()


def test_exceptions_pickle():
    for name in tessera_onnx.__all__:
        cls = getattr(tessera_onnx, name)
        if isinstance(cls, type) and issubclass(cls, Exception):
            error = pickle.loads(pickle.dumps(cls("what and why")))
            assert type(error) is cls
            assert str(error) == "what and why"


def test_builtin_bases_of_the_original():
    from tessera_onnx import ConfigError, EncodingError, FileError

    assert issubclass(LoadError, RuntimeError)
    assert issubclass(EncodingError, RuntimeError)
    assert issubclass(ConfigError, ValueError)
    assert issubclass(FileError, OSError)


def test_a_long_path(tmp_path):
    """Beyond the 260 characters that Windows is known for; beyond the system's limit an error."""
    deep = tmp_path.joinpath(*["f" * 200] * 6)
    deep.mkdir(parents=True)
    folder = copy("splade", deep / "m")
    assert len(str(folder)) > 1200
    with TesseraSparse(path=folder) as model:
        expected = model.encode("cat").values
    with TesseraSparse("test-splade", cache_dir=deep) as model:
        np.testing.assert_array_equal(model.encode("cat").values, expected)
    with pytest.raises(LoadError, match="no model folder|not a model folder"):
        TesseraSparse(path=tmp_path.joinpath(*["f" * 200] * 30))
    with pytest.raises(LoadError, match="not a model folder"):
        TesseraSparse(path=tmp_path / ("f" * 300))


@pytest.fixture
def parsed(monkeypatch):
    """Names of the folders whose descriptions were parsed, in order."""
    names = []
    read = catalogue.read_catalogue

    def noted(path):
        names.append(path.parent.name)
        return read(path)

    monkeypatch.setattr(catalogue, "read_catalogue", noted)
    return names


def test_only_descriptions_that_can_hold_the_name_are_parsed(cache, parsed):
    copy("colbert", cache / "zz", replace(("test-colbert", "other"), ("colbert-alias", "second")))
    with TesseraDense("all-minilm-l6-v2"):
        assert set(parsed) <= {"minilm", "tessera_page"}  # whose texts minilm may read
    for opened, name, folder in (
        (TesseraMultiVector, "test-colbert", "colbert"),
        (TesseraMultiVector, "other", "zz"),
    ):
        parsed.clear()
        with opened(name):
            assert parsed == [folder]
    parsed.clear()
    with TesseraSparse():  # the default of a kind: of the first description that is of it
        assert parsed == ["splade"]
    parsed.clear()
    with TesseraMultiVector("second"):
        assert parsed[-1] == "zz"
        assert "colbert" not in parsed


@pytest.mark.parametrize(
    "spelled",
    [
        r'"\u0074est-splade"',
        r'"test\U0000002dsplade"',
        '"""test-\\\nsplade"""',
        "'test-splade'",
        '"""\ntest-splade"""',
    ],
)
def test_a_pack_does_not_hide_an_id_by_how_it_is_spelled(tmp_path, monkeypatch, spelled):
    edit = replace(('id = "test-splade"', f"id = {spelled}"))
    folders = [
        (ARTIFACTS / "splade", "pack-a"),
        (copy("splade", tmp_path / "twin", edit), "pack-b"),
    ]
    for order in (folders, folders[::-1]):
        monkeypatch.setattr(installed, "_pack_folders", lambda order=order: iter(order))
        with pytest.raises(LoadError, match=r"the packs pack-[ab] and pack-[ab] both hold"):
            TesseraSparse("test-splade")


def test_a_folder_that_is_linked_into_two_packs_is_no_conflict(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(ARTIFACTS / "splade")
    folders = [(ARTIFACTS / "splade", "pack-a"), (tmp_path / "link", "pack-b")]
    monkeypatch.setattr(installed, "_pack_folders", lambda: iter(folders))
    with TesseraSparse("test-splade") as model:
        assert model.model() == "test-splade"


def test_a_pipe_in_the_place_of_a_description_is_not_waited_for(cache):
    (cache / "a pipe").mkdir()
    os.mkfifo(cache / "a pipe" / "model.toml")
    with TesseraSparse("test-splade") as model:
        assert model.model() == "test-splade"

"""An artifact made of a folder without model.toml: the same vectors, every byte hashed."""

import dataclasses
import hashlib
import shutil

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, TEXTS

from tessera_onnx import (
    ConfigError,
    FileError,
    IntegrityError,
    LoadError,
    Tessera,
    TesseraDense,
    TesseraMultiVector,
    TesseraSparse,
)
from tessera_onnx.models import catalogue
from tessera_onnx.models.adopt import adopt, regular_id
from tessera_onnx.models.artifact import FOLDER, Artifact, open_folder
from tessera_onnx.models.spec import UNPINNED, File

CLASSES = {"states": TesseraDense, "colbert": TesseraMultiVector, "splade": TesseraSparse}


def foreign(name, folder):
    """The artifact `name` as a folder that nobody hashed."""
    shutil.copytree(ARTIFACTS / name, folder)
    (spec,) = catalogue.read_catalogue(folder / "model.toml")
    (folder / "model.toml").unlink()
    files = tuple(File(file.name, UNPINNED, file.size) for file in spec.files)
    return Artifact(dataclasses.replace(spec, files=files, export=None), folder, FOLDER)


def with_graphs(artifact, **names):
    """The artifact with further graphs: copies of its own."""
    spec = artifact.spec
    for name in names.values():
        (artifact.folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(artifact.folder / spec.graph.fp32, artifact.folder / name)
    files = (*spec.files, *(File(name, UNPINNED, -1) for name in names.values()))
    spec = dataclasses.replace(spec, files=files, graph=dataclasses.replace(spec.graph, **names))
    return dataclasses.replace(artifact, spec=spec)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("link", [False, True])
def test_the_vectors_are_bit_identical(name, link, tmp_path):
    artifact = foreign(name, tmp_path / "foreign")
    made = adopt(artifact, tmp_path / "made", link=link)
    assert made.spec.id == artifact.spec.id
    for file in made.spec.files:
        content = (tmp_path / "made" / file.name).read_bytes()
        assert content == (tmp_path / "foreign" / file.name).read_bytes()
        assert file == File(file.name, hashlib.sha256(content).hexdigest(), len(content))
    texts = TEXTS[:6]
    with (
        CLASSES[name]._from_artifact(artifact, None, device="cpu", on_long="truncate") as before,
        Tessera(path=tmp_path / "made", device="cpu", on_long="truncate") as after,
    ):
        pairs = zip(before.encode_batch(texts), after.encode_batch(texts), strict=True)
        for truth, ours in pairs:
            for a, b in zip(*(getattr(v, "values", v) for v in (truth, ours)), strict=True):
                np.testing.assert_array_equal(a, b)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign", "made"]


@pytest.mark.posix
def test_links_take_no_space(tmp_path):
    artifact = foreign("states", tmp_path / "foreign")
    adopt(artifact, tmp_path / "copied")
    adopt(artifact, tmp_path / "linked", link=True)
    graph = tmp_path / "foreign/model.onnx"
    assert graph.samefile(tmp_path / "linked/model.onnx")
    assert not graph.samefile(tmp_path / "copied/model.onnx")


@pytest.mark.posix
def test_links_of_a_download_become_files(tmp_path):
    """A snapshot of the hub cache consists of links into its store."""
    artifact = foreign("states", tmp_path / "foreign")
    (tmp_path / "blob").write_bytes((tmp_path / "foreign/model.onnx").read_bytes())
    (tmp_path / "foreign/model.onnx").unlink()
    (tmp_path / "foreign/model.onnx").symlink_to("../blob")
    for link in (False, True):
        made = adopt(artifact, tmp_path / f"made{link}", link=link)
        assert not (made.folder / "model.onnx").is_symlink()
        assert made.read("model.onnx") == (tmp_path / "blob").read_bytes()


def test_id_licence_source_and_revision(tmp_path):
    artifact = foreign("states", tmp_path / "foreign")
    made = adopt(artifact, tmp_path / "made", model_id="my-model", licence="mit").spec
    assert (made.id, made.licence, made.source) == ("my-model", "mit", "random weights")
    with pytest.raises(LoadError, match="an id is lower-case letters"):
        adopt(artifact, tmp_path / "other", model_id="My Model")
    assert not (tmp_path / "other").exists()
    assert regular_id("Org/My Model_v1.5") == "my-model_v1.5"
    with pytest.raises(LoadError, match="no id can be made of '§§'"):
        regular_id("§§")


def test_a_precision_that_is_not_here_is_left_out(tmp_path):
    artifact = with_graphs(
        foreign("states", tmp_path / "foreign"), fp16="onnx/half.onnx", int8="onnx/int8.onnx"
    )
    assert adopt(artifact, tmp_path / "all").spec.precisions() == ["fp32", "fp16", "int8"]
    assert (tmp_path / "all/onnx/int8.onnx").is_file()
    hub = dataclasses.replace(artifact, origin="hub")  # whose files may not be here yet
    (tmp_path / "foreign/model.onnx").unlink()
    (tmp_path / "foreign/onnx/int8.onnx").unlink()
    spec = adopt(hub, tmp_path / "made").spec
    assert spec.precisions() == ["fp16"]
    assert spec.graph.best_cpu == spec.graph.best_cuda == "fp16"
    assert [file.name for file in spec.files] == ["tokenizer.json", "onnx/half.onnx"]
    (tmp_path / "foreign/onnx/half.onnx").unlink()
    with pytest.raises(IntegrityError, match="has no graph on this machine: `tessera pull`"):
        adopt(hub, tmp_path / "none")


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    artifact = foreign("states", tmp_path / "foreign")
    place = tmp_path / "made"
    place.mkdir()
    adopt(artifact, place)  # an empty one is taken
    before = sorted(place.iterdir())
    with pytest.raises(FileError, match="is not empty: name a new folder"):
        adopt(artifact, place)
    with pytest.raises(FileError, match="is a file: name a new folder"):
        adopt(artifact, place / "model.toml")
    with pytest.raises(FileError, match="cannot be written"):
        adopt(artifact, place / "model.toml" / "below")
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize("error", [LoadError("x"), ConfigError("x"), OSError("x"), ValueError("x")])
def test_what_goes_wrong_leaves_nothing(error, tmp_path):
    artifact = foreign("states", tmp_path / "foreign")

    def check(made):
        assert made.read("model.onnx")
        raise error

    with pytest.raises(type(error)) as caught:
        adopt(artifact, tmp_path / "made", settle=check)
    assert caught.value is error
    assert [path.name for path in tmp_path.iterdir()] == ["foreign"]


def test_missing_changed_and_foreign_files(tmp_path):
    artifact = foreign("states", tmp_path / "foreign")
    pinned = tuple(dataclasses.replace(file, sha256="0" * 64) for file in artifact.spec.files)
    wrong = dataclasses.replace(artifact.spec, files=pinned)
    with pytest.raises(IntegrityError, match="expected 000000000000…"):
        adopt(dataclasses.replace(artifact, spec=wrong), tmp_path / "made")
    outside = dataclasses.replace(
        artifact.spec, files=(*artifact.spec.files, File("../foreign/model.onnx", UNPINNED, -1))
    )
    with pytest.raises(LoadError, match="lies outside of the model's folder"):
        adopt(dataclasses.replace(artifact, spec=outside), tmp_path / "made")
    (tmp_path / "foreign/tokenizer.json").unlink()
    with pytest.raises(IntegrityError, match=r"tokenizer\.json is missing"):
        adopt(artifact, tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["foreign"]


def test_weights_beside_the_graph_come_along(tmp_path):
    from faults import graphs

    artifact = foreign("prompts", tmp_path / "foreign")
    data = np.linspace(1, 2, 32, dtype=np.float32).tobytes()
    place = graphs.field(13, graphs.field(1, "location") + graphs.field(2, "Constant_7_value"))
    place += graphs.number(14, 1)
    row = graphs.number(1, 1) + graphs.number(1, 32) + graphs.number(2, 1)
    body = graphs.summing(half=False).replace(
        graphs.constant("row", np.linspace(1, 2, 32, dtype=np.float32)[None]),
        graphs.field(5, row + graphs.field(8, "row") + place),
    )
    (tmp_path / "foreign/model.fp32.onnx").write_bytes(graphs.model(body))
    (tmp_path / "foreign/Constant_7_value").write_bytes(data)
    made = adopt(artifact, tmp_path / "made")
    assert "Constant_7_value" in {file.name for file in made.spec.files}
    with TesseraDense(path=tmp_path / "made", device="cpu") as model:
        assert model.encode("a cat").shape == (32,)
    assert open_folder(tmp_path / "made").read("Constant_7_value") == data

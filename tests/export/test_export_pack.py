"""A pack is built, installed by pip into an environment with only the runtime, and encodes."""

import dataclasses
import json
import os
import shutil
import subprocess
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import tessera_onnx
from tessera_export import cli, pack
from tessera_export.errors import ExportError
from tessera_onnx.models import artifact, catalogue, hub, installed, pins
from tessera_onnx.models.spec import Hub

pytestmark = pytest.mark.export

TESTS = Path(__file__).parents[1]
ARTIFACTS = TESTS / "artifacts"
PROGRAM = """
import json, sys
import numpy as np
from tessera_onnx import TesseraDense, TesseraSparse, list_models
texts = [text[:60] for text in json.load(open(sys.argv[1]))]
assert list_models(installed=True) == ["test-prompts", "test-splade"]
np.savez(sys.argv[2], dense=TesseraDense("test-prompts").encode_batch(texts),
         sparse=TesseraSparse("test-splade").encode_batch(texts)[0].values)
"""


def folders(*names):
    return [ARTIFACTS / name for name in names]


@pytest.mark.slow
def test_an_empty_environment_installs_and_encodes(tmp_path):
    command = ["pack", *map(str, folders("splade", "prompts")), "--name", "My.Models"]
    done = CliRunner().invoke(cli.main, [*command, "--version", "1.2", "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    wheel = tmp_path / "my_models-1.2-py3-none-any.whl"
    assert done.output.endswith(f"Next: pip install {wheel}\n")

    place = tmp_path / "venv"
    venv.create(place, with_pip=True)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["TESSERA_CACHE"] = str(tmp_path / "none")

    def run(*args):
        done = subprocess.run(
            [python, *args],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("-m", "pip", "install", "--quiet", runtime())
    run("-m", "pip", "install", "--quiet", "--no-index", wheel)
    run("-c", PROGRAM, ARTIFACTS / "texts.json", tmp_path / "found.npz")
    assert run("-m", "pip", "check").strip() == "No broken requirements found."

    texts = [text[:60] for text in json.loads((ARTIFACTS / "texts.json").read_text())]
    with (
        np.load(tmp_path / "found.npz") as found,
        tessera_onnx.TesseraDense(path=ARTIFACTS / "prompts") as dense,
        tessera_onnx.TesseraSparse(path=ARTIFACTS / "splade") as sparse,
    ):
        assert np.array_equal(found["dense"], dense.encode_batch(texts))
        assert np.array_equal(found["sparse"], sparse.encode_batch(texts)[0].values)

    run("-m", "pip", "uninstall", "--quiet", "--yes", "my-models")
    listed = run("-c", "import tessera_onnx; print(tessera_onnx.list_models(installed=True))")
    assert listed.strip() == "[]"


def runtime():
    """The wheel beside the tests where .ci/run put one, else the source tree."""
    root = TESTS.parent
    return f"{next((root / 'wheels').glob('tessera_onnx-*.whl'), root)}[cpu]"


def test_the_same_bytes_in_any_order_and_a_true_record(tmp_path):
    first = pack.build(folders("splade", "colbert"), "models", "1.0", tmp_path / "a")
    second = pack.build(folders("colbert", "splade"), "models", "1.0", tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in first.parent.iterdir()] == [first.name]
    with zipfile.ZipFile(first) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        record = archive.read("models-1.0.dist-info/RECORD").decode().splitlines()
        assert [line.split(",")[0] for line in record] == names
        assert "models/test-splade/model.fp32.onnx" in names
        assert b"[tessera_onnx.models]\nmodels = models\n" in archive.read(
            "models-1.0.dist-info/entry_points.txt"
        )
        assert "| test-splade | sparse |" in archive.read("models-1.0.dist-info/METADATA").decode()


def refused(message, *args):
    with pytest.raises(ExportError, match=message):
        pack.build(*args)


def test_names_that_cannot_be(tmp_path):
    for name in ("", "9lives", "a b", "../up", "json", "starter", "tessera_onnx", "модель", "hub"):
        refused("cannot name a pack", folders("splade"), name, "1.0", tmp_path / "out")
    for name in ("numpy", "onnxruntime"):
        refused("a package of its own", folders("splade"), name, "1.0", tmp_path / "out")
    for version in ("", "one", "1.0-2", "1.0/../x"):
        refused("not of the form", folders("splade"), "models", version, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_artifact_is_not_packed(tmp_path):
    place = tmp_path / "splade"
    shutil.copytree(ARTIFACTS / "splade", place)
    content = bytearray((place / "tokenizer.json").read_bytes())
    content[100] ^= 1
    (place / "tokenizer.json").write_bytes(content)
    refused("has sha256", [place], "models", "1.0", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    refused("has no model.toml", [tmp_path], "models", "1.0", tmp_path / "out")


def test_one_id_one_model(tmp_path, monkeypatch):
    refused("both hold 'test-splade'", folders("splade", "splade"), "m", "1.0", tmp_path)
    held = [(ARTIFACTS / "splade", "other-pack")]
    monkeypatch.setattr(installed, "_pack_folders", lambda: iter(held))
    refused("installed pack other-pack holds", folders("splade"), "models", "1.0", tmp_path)
    assert pack.build(folders("splade"), "Other_Pack", "2.0", tmp_path).exists()


def test_a_model_that_was_pulled_may_be_packed(tmp_path, monkeypatch):
    """A pack comes before the hub cache, so the two do not contend for the id."""
    (spec,) = catalogue.read_catalogue(ARTIFACTS / "splade" / "model.toml")
    spec = dataclasses.replace(spec, hub=Hub("tests/splade", "0" * 40))
    (tmp_path / "models.toml").write_text(pins.toml(spec))
    monkeypatch.setenv("TESSERA_MODELS", str(tmp_path / "models.toml"))
    shutil.copytree(ARTIFACTS / "splade", hub.snapshot(spec.hub))
    assert artifact.HUB in {model.origin for model in installed.installed()}
    assert pack.build(folders("splade"), "models", "1.0", tmp_path).exists()

"""The command's help, models given as folders, and library errors about what is no name."""

import base64
import inspect
import json
import os
import subprocess
import sys
import traceback

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, copy
from click.testing import CliRunner

import tessera_onnx
from tessera_onnx import LoadError, ModelNotFound, PackedTokens, TesseraDense, errors, list_models
from tessera_onnx.cli.main import COMMANDS, main

SMALL = ("-m", str(ARTIFACTS / "prompts"))


def run(*args, code=0):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
    return result


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_h_is_help(name):
    args = [name] if name else []
    assert run(*args, "-h").stdout == run(*args, "--help").stdout != ""


def test_every_command_is_summed_up_in_one_whole_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("--help").stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == sorted(COMMANDS)
    for line in lines:
        assert line.endswith("."), line
        assert not line.endswith(".."), line


# ---------------------------------------------------------------- folders and files as models


def test_a_folder_opens_and_what_is_none_says_what_to_do(tmp_path, monkeypatch):
    folder = copy("prompts", tmp_path / "mine")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in (folder, "mine", "./mine", folder / "model.toml"):
        found = run("encode", "--text", "a", "-m", name, "--json").stdout
        assert json.loads(found)["model"] == "test-prompts"
    with TesseraDense("mine") as model:
        assert model.model() == "test-prompts"
    with pytest.raises(LoadError, match="empty has no ONNX file"):
        TesseraDense("empty")
    with pytest.raises(ModelNotFound, match="'mine/tokenizer.json' is a file: open the folder"):
        TesseraDense("mine/tokenizer.json")
    for command in (("encode", "--text", "a", "-m"), ("similarity", "a", "b", "-m"), ("info",)):
        said = run(*command, "empty", code=1).stderr
        assert "empty" in said
        assert "no model is named" not in said
        assert "path=" not in said
    for command in ("pull", "pin"):
        assert "ID is the id of a model" in run(command, "mine", code=2).stderr
    said = run("encode", "mine", "-o", "o.npz", code=1).stderr
    assert (
        said == "Error: mine cannot be read: it is a folder with a model, which goes into --model\n"
    )
    assert run("encode", "empty", "-o", "o.npz", code=1).stderr.endswith("it is a folder\n")


def test_an_id_is_found_where_a_folder_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "all-minilm-l6-v2").mkdir()
    monkeypatch.chdir(tmp_path)
    found = json.loads(run("encode", "--text", "a", "-m", "all-minilm-l6-v2", "--json").stdout)
    assert found["model"] == "all-minilm-l6-v2"
    assert "ID is" not in run("pull", "all-minilm-l6-v2", code=1).stderr  # no network in tests


# ---------------------------------------------------------------- names and what is none


def test_a_name_is_repeated_and_a_text_is_not(tmp_path):
    deep = tmp_path / ("a" * 60) / ("b" * 60)
    deep.mkdir(parents=True)
    (deep / "c.txt").touch()
    for name in ("", "a.txt", "x" * 100, deep, deep / "c.txt", deep / "missing.txt"):
        assert errors.named(name) == str(name)
    for name in ("x" * 101, "/" + "x" * 101, f"{deep}/none/{'x' * 9}/c.txt", "a\0" * 60, "t,x\n1,5",
                 "\ud800" * 101, f"{tmp_path}/" + "a b\n" * 99, b"x" * 101):  # fmt: skip
        assert errors.named(name) == f"<{len(name):,} characters>"


RAW = bytes(np.random.default_rng(1).integers(0, 256, 9000, np.uint8))
BASE64 = base64.b64encode(RAW).decode()
WORDS = " ".join(f"secret{i}" for i in range(2000))
CONTENTS = {
    "a data URI": f"data:image/png;base64,{BASE64}",
    "base64": BASE64,
    "base64 of a JPEG": f"/9j/{BASE64}",
    "a text": WORDS,
    "a JSON line": json.dumps({"text": WORDS}),
    "lines": WORDS.replace(" ", "\n"),
    "a text of one sentence": "secret0 " + "a note about the rent, and " * 4 + " secret1",
    **{
        f"what ends in {end}": WORDS + end for end in (".txt", ".jsonl", ".csv.gz", ".npz", ".toml")
    },
}


def repeats(said, content):
    """Whether a message holds a part of what was given, or is as long as it."""
    starts = range(0, len(content) - 40, max(1, len(content) // 40))
    parts = [content[start : start + 40] for start in starts]
    forms = [*parts, *(repr(part)[1:-1] for part in parts)]
    return len(said) > 3000 or any(form in said for form in forms)


CLASSES = ["Tessera", "TesseraDense", "TesseraMultiVector", "TesseraSparse", "TesseraTimeSeries"]
CLASSES += ["TesseraVision"]


@pytest.mark.nightly
@pytest.mark.parametrize("name", CLASSES)
def test_no_error_of_the_library_repeats_what_stands_where_a_name_is_due(name, tmp_path):
    cls = getattr(tessera_onnx, name)
    for argument in inspect.signature(cls).parameters:
        for what, content in CONTENTS.items():
            try:
                cls(**{argument: content}).close()
            except Exception as error:
                said = "".join(traceback.format_exception(error)).replace(os.sep * 2, os.sep)
                assert not repeats(str(error), content), (argument, what)
                assert not repeats(said[-2500:], content), (argument, what)


@pytest.mark.parametrize("what", CONTENTS)
def test_no_function_repeats_what_stands_where_a_name_is_due(what):
    content = CONTENTS[what]
    for call in (lambda: list_models(kind=content), lambda: PackedTokens.load(content)):
        with pytest.raises(Exception) as caught:
            call()
        assert not repeats(str(caught.value), content)
    with TesseraDense(path=ARTIFACTS / "prompts") as model:
        for call in (lambda: model.encode("a", task=content),
                     lambda: model.token_count(["a"], role=content)):  # fmt: skip
            with pytest.raises(Exception) as caught:
                call()
            assert not repeats(str(caught.value), content)


# ---------------------------------------------------------------- what starting loads


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_name_under_which_it_is_found(name):
    assert main.get_command(None, name).name == name


def test_the_version_loads_no_kind_and_no_runtime():
    code = (
        "import sys\n"
        "from tessera_onnx.cli.main import main\n"
        "main(['--version'], standalone_mode=False)\n"
        "print('onnxruntime' in sys.modules, 'tessera_onnx.kinds' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"

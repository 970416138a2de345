"""What the command says of options, folders and help, and never of what was given by mistake."""

import base64
import inspect
import json
import os
import traceback

import click
import numpy as np
import pytest
from artifact_tools import ARTIFACTS, copy
from click.testing import CliRunner
from PIL import Image

import tessera_onnx
from tessera_onnx import ModelNotFound, PackedTokens, TesseraDense, errors, list_models
from tessera_onnx.cli.main import main

SMALL = ("-m", str(ARTIFACTS / "prompts"))


def run(*args, code=0):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
    return result


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("name", ["", *main.commands])
def test_h_is_help(name):
    args = [name] if name else []
    assert run(*args, "-h").stdout == run(*args, "--help").stdout != ""


def test_every_command_is_summed_up_in_one_whole_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("--help").stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == sorted(main.commands)
    for line in lines:
        assert line.endswith("."), line
        assert not line.endswith(".."), line


# ---------------------------------------------------------------- options that there are not


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("encode", "--modle", "x"), "no such option --modle: did you mean --model?"),
        (("encode", "--modle=a secret"), "no such option --modle: did you mean --model?"),
        (("rank", "--topk", "3", "a"), "no such option --topk: did you mean --top-k?"),
        (("rank", "--top_k", "3", "a"), "no such option --top_k: did you mean --top-k?"),
        (("doctor", "--verbose"), "no such option --verbose;"),
        (("models", "-q"), "no such option -q;"),
        (("forecast", "--horizont=9", "a.csv"), "option --horizont: did you mean --horizon?"),
        (("--vresion",), "no such option --vresion: did you mean --version?"),
        (("encode", "--a text, of mine"), "no such option; a text that begins with a dash goes"),
        (("similarity", "--" + "word-" * 9 + "word", "a"), "no such option; a text that begins"),
        (("similarity", "--grüße", "a"), "no such option; a text that begins"),
    ],
)
def test_an_unknown_option_is_named_where_it_is_one_word(args, said):
    stderr = run(*args, code=2).stderr
    assert said in stderr
    assert "secret" not in stderr
    assert "text, of mine" not in stderr


# ---------------------------------------------------------------- folders and files as models


def test_a_folder_opens_and_what_is_none_says_what_to_do(tmp_path, monkeypatch):
    folder = copy("prompts", tmp_path / "mine")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in (folder, "mine", "./mine", folder / "model.toml"):
        found = run("encode", "--text", "a", "-m", name, "--json").stdout
        assert json.loads(found)["model"] == "test-prompts"
    with pytest.raises(
        ModelNotFound, match="'mine' is a model folder, not an id: open it with path=FOLDER"
    ):
        TesseraDense("mine")
    with pytest.raises(ModelNotFound, match="'empty' is a folder without a model.toml"):
        TesseraDense("empty")
    with pytest.raises(ModelNotFound, match="'mine/tokenizer.json' is a file: open the folder"):
        TesseraDense("mine/tokenizer.json")
    for command in (("encode", "--text", "a", "-m"), ("similarity", "a", "b", "-m"), ("info",)):
        said = run(*command, "empty", code=1).stderr
        assert "'empty' is a folder without a model.toml, so it holds no model" in said
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


ARGUMENTS = {
    "demo": [],
    "models": [],
    "doctor": [],
    "info": ["all-minilm-l6-v2"],
    "pull": ["all-minilm-l6-v2"],
    "pin": ["all-minilm-l6-v2"],
    "encode": ["corpus.txt", "-o", "o.npz"],
    "similarity": ["a", "b"],
    "rank": ["a", "--file", "corpus.txt"],
    "forecast": ["series.csv"],
    "explain": ["a", "page.png"],
}
OF_CONTENT = {"text", "query", "prompt"}  # where a text is due


@pytest.mark.slow
@pytest.mark.parametrize("name", ARGUMENTS)
def test_no_command_repeats_what_stands_where_a_name_is_due(name, tmp_path, monkeypatch):
    assert set(ARGUMENTS) == set(main.commands)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text("a\nb\n")
    (tmp_path / "series.csv").write_text("day,sold\n2024-01-01,1\n2024-01-02,2\n2024-01-03,1\n")
    Image.new("RGB", (40, 40)).save(tmp_path / "page.png")
    # The two that open every model get what ends in no suffix, which they do not look at.
    fewer = {what: CONTENTS[what] for what in ("a data URI", "a text", "lines")}
    contents = fewer if name in {"demo", "doctor"} else CONTENTS
    for param in main.commands[name].params:
        if getattr(param, "is_flag", False) or param.name in OF_CONTENT:
            continue
        for what, content in contents.items():
            given = ARGUMENTS[name]
            if isinstance(param, click.Option):
                given = [*given, f"{param.opts[-1]}={content}"]
            else:
                place = 1 if param.name == "image" else 0
                given = [*given[:place], content, *given[place + 1 :]]
            done = CliRunner().invoke(main, [name, *given])
            said = done.stderr + done.stdout * bool(done.exit_code)
            if not isinstance(done.exception, SystemExit | None):
                said += "".join(traceback.format_exception(done.exception))
            assert not repeats(said, content), (param.name, what, said[:300])


@pytest.mark.parametrize("place", [["{}"], ["encode", "{}", "{}"], ["encode", "--text", "a", "{}"],
                                   ["info", "-m{}"], ["models", "{}"]])  # fmt: skip
@pytest.mark.parametrize("what", CONTENTS)
def test_no_argument_too_many_is_repeated(place, what):
    done = CliRunner().invoke(main, [part.format(CONTENTS[what]) for part in place])
    assert done.exit_code in {1, 2}
    assert not repeats(done.stderr + done.stdout, CONTENTS[what])


CLASSES = ["Tessera", "TesseraDense", "TesseraMultiVector", "TesseraSparse", "TesseraTimeSeries"]
CLASSES += ["TesseraVision"]


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

"""The parser takes exactly the schema: every deviation is one LoadError naming the field."""

import dataclasses
import os
import re
import tomllib
import types
import typing

import pytest
from artifact_tools import ARTIFACTS, replace
from hypothesis import given
from hypothesis import strategies as st

from tessera_onnx.errors import LoadError
from tessera_onnx.models import catalogue, spec_media, spec_words
from tessera_onnx.models import spec as models_spec
from tessera_onnx.models.parse import build

TOML = (ARTIFACTS / "colbert" / "model.toml").read_text()


def parse(*pairs):
    return catalogue.parse(replace(*pairs)(TOML), "model.toml")


def test_a_valid_entry():
    (spec,) = parse()
    assert spec.kinds == ("multi-vector",)
    assert spec.multi_vector.query.max_length == 32
    assert spec.graph.precisions() == ["fp32"]
    assert spec.file("tokenizer.json").size > 0
    with pytest.raises(LoadError, match="does not list it"):
        spec.file("other")


def leaves(table, path=()):
    for key, value in table.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))


ENTRY = tomllib.loads(TOML)["model"][0]
# The kinds' tables and the export's report are absent where they do not apply.
OPTIONAL = {("text",), ("dense",), ("multi_vector",), ("sparse",), ("export",)}


@pytest.mark.parametrize("path", sorted(set(leaves(ENTRY)) - OPTIONAL), ids=".".join)
def test_every_missing_field_is_an_error(path):
    entry = tomllib.loads(TOML)["model"][0]
    table = entry
    for key in path[:-1]:
        table = table[key]
    del table[path[-1]]
    with pytest.raises(LoadError, match=rf"{path[-1]} is missing"):
        catalogue.parse_entry(entry, "model")


def faults(document):
    with pytest.raises(LoadError) as caught:
        catalogue.parse(document, "model.toml")
    return str(caught.value)


def test_all_that_is_missing_is_said_at_once():
    """With what to write for a fact that the model does not have."""
    message = faults(
        replace(
            ("mask_id = 6\n", ""),
            ('fp16 = ""\n', ""),
            ("drop_first = false\n", ""),
            ('aliases = [\n    "colbert-alias",\n]\n', ""),
            ('licence = "apache-2.0"', 'license = "apache-2.0"'),
            ("static = false", 'static = "no"'),
        )(TOML)
    )
    assert message.startswith("model.toml: model[0]: 7 faults: has the unknown key 'license': ")
    for part in (
        "; licence is missing; ",
        "; aliases is missing (write [] where there is none); ",
        '; graph.fp16 is missing (write "" where there is none); ',
        "; graph.static must be bool, got str; ",
        "; text.mask_id is missing (write -1 where there is none); ",
        "; multi_vector.drop_first is missing; ",
    ):
        assert part in message
    assert message.endswith("; no missing fact has a default")


def needed(table):
    """The facts of a table that may not be left out."""
    fields = dataclasses.fields(table)
    return {field.name for field in fields if field.default is dataclasses.MISSING}


def test_every_fact_that_an_empty_entry_lacks():
    """Of tables that are there, of tables that are not, and of the tables of the kinds."""
    message = faults("schema = 1\n[[model]]\n[model.text]\n[model.dense]\n")
    missing = set(re.findall(r"([\w.]+) is missing", message))
    wanted = {"id", "kinds", "files", "graph", "dense.query", "dense.document.max_length"}
    wanted |= {f"graph.{name}" for name in ("fp16", "fp32", "int8", "best_cpu", "static")}
    wanted |= {f"text.{field.name}" for field in dataclasses.fields(models_spec.TokenizerSpec)}
    wanted |= {f"dense.{name}" for name in needed(models_spec.Dense)}
    assert wanted <= missing
    table = r"\[model\.multi_vector\].*?\n(?=\[model\.[a-ln-z]|\Z)"
    without = re.sub(table, "", TOML, flags=re.DOTALL)
    message = faults(without)
    assert "kinds ['multi-vector'] but tables for []" in message
    missing = set(re.findall(r"\[model\.multi_vector\]\.([\w.]+) is missing", message))
    assert needed(models_spec.MultiVector) <= missing
    assert '[model.multi_vector].query.prompt is missing (write "" where there is none)' in message


def test_thousands_of_faults_are_counted_and_not_listed():
    files = "files = [" + ", ".join(["{name = 1}"] * 3000) + "]"
    message = faults(f"schema = 1\n[[model]]\n{files}\n")
    assert len(message) < 6000
    assert re.search(r"model\[0\]: 90\d\d faults: .*; and 8\d\d\d more; no missing fact", message)
    keys = "\n".join(f"key_{i} = 1" for i in range(5000))
    assert len(faults(f"schema = 1\n[[model]]\n{keys}\n")) < 6000


def test_what_stands_for_no_fact_is_a_value_of_the_field():
    """What the message says to write is taken where it is written."""
    known = set()
    for table in [
        value for module in (models_spec, spec_media, spec_words) for value in vars(module).values()
    ]:
        if dataclasses.is_dataclass(table):
            hints = typing.get_type_hints(table)
            for name in hints.keys() & models_spec.ABSENT.keys():
                if typing.get_origin(hints[name]) is not types.UnionType:
                    value = tomllib.loads(f"x = {models_spec.ABSENT[name]}")["x"]
                    build(hints[name], value, name)
                    known.add(name)
    assert known == models_spec.ABSENT.keys()


@pytest.mark.parametrize(
    ("pairs", "match"),
    [
        ((("schema = 1", "schema = 2"),), "schema 2, this version"),
        ((("schema = 1", ""),), "schema None"),
        ((('licence = "apache-2.0"', 'licence = "apache-2.0"\nlicense = "x"'),), "'license'"),
        ((('licence = "apache-2.0"', "licence = 3"),), r"licence must be str, got int"),
        ((("static = false", "static = 0"),), r"graph.static must be bool, got int"),
        ((("pad_id = 0", "pad_id = true"),), r"text.pad_id must be int, got bool"),
        ((('score = "sum"', 'score = "max"'),), r"score is 'max', expected one of 'sum', 'mean'"),
        ((('"multi-vector"', '"multivector"'),), r"kinds\[0\] is 'multivector'"),
        ((('    "multi-vector",\n', '    "multi-vector",\n    "dense",\n'),), "but tables for"),
        ((('id = "test-colbert"', 'id = "../evil"'),), "an id is lower-case"),
        ((('revision = "unpinned"', 'revision = "main"'),), "40 hex digits"),
        ((('best_cpu = "fp32"', 'best_cpu = "int8"'),), "no int8 file although"),
        ((('fp32 = "model.fp32.onnx"', 'fp32 = ""'),), "names no file in any precision"),
        ((("max_length = 32", "max_length = 3"),), r"max_length 3 must lie in 4\.\.64"),
        ((("max_length = 48", "max_length = 65"),), r"max_length 65 must lie in 4\.\.64"),
        ((("mask_id = 6", "mask_id = -1"),), "expansion needs a mask_id"),
        (
            (("dimension = 128", "dimension = 64"), ("matryoshka = []", "matryoshka = [128]")),
            "1..64",
        ),
        ((("[model.text]", "[model.words]"),), "'words'"),
        ((('name = "tokenizer.json"', 'name = "../tokenizer.json"'),), "leaves the model's folder"),
        ((('name = "tokenizer.json"', 'name = "/etc/passwd"'),), "leaves the model's folder"),
        ((('name = "tokenizer.json"', 'name = "a\\\\b"'),), "leaves the model's folder"),
        ((('name = "tokenizer.json"', 'name = "C:tokenizer.json"'),), "leaves the model's folder"),
        ((('name = "tokenizer.json"', 'name = "a\\nb"'),), "leaves the model's folder"),
        ((('licence = "apache-2.0"', 'licence = "\\u001b]0;x"'),), "licence holds a control char"),
        ((("pad_id = 0", f"pad_id = {2**63}"),), "pad_id is not a number of 64 bits"),
        ((("schema = 1", "schema = 1\nextra = 1"),), "and nothing else"),
        ((("schema = 1", "schema = "),), "not valid TOML"),
        ((("pad_id = 0", "pad_id = -5"),), "token ids are not negative"),
    ],
)
def test_refused(pairs, match):
    with pytest.raises(LoadError, match=match):
        parse(*pairs)


def test_a_bad_hash_names_the_file():
    digest = ENTRY["files"][0]["sha256"]
    with pytest.raises(LoadError, match="sha256 of 'model.fp32.onnx' must be 64 hex"):
        parse((digest, digest[:-1] + "G"))


def test_two_models_of_one_name():
    body = TOML.split("schema = 1", 1)[1]
    with pytest.raises(LoadError, match="names two models"):
        catalogue.parse(TOML + body, "models.toml")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "model.toml"
    with path.open("wb") as stream:
        stream.truncate(catalogue.MAX_TOML_BYTES + 1)
    with pytest.raises(LoadError, match="larger than"):
        catalogue.read_catalogue(path)


@pytest.mark.posix
def test_a_pipe_is_refused_before_it_is_read(tmp_path):
    os.mkfifo(tmp_path / "model.toml")
    with pytest.raises(LoadError, match="no regular file"):
        catalogue.read_catalogue(tmp_path / "model.toml")


def test_the_catalogue_of_a_user_is_read_again_when_it_is_another_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TESSERA_MODELS", "models.toml")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "models.toml").write_text(replace(("test-colbert", name))(TOML))
        os.utime(tmp_path / name / "models.toml", ns=(0, 0))
        monkeypatch.chdir(tmp_path / name)
        assert catalogue.catalogue()[0].id == name
    other = tmp_path / "other.toml"
    other.write_text(replace(("test-colbert", "six"))(TOML))
    os.utime(other, ns=(0, 0))
    other.replace("models.toml")
    assert catalogue.catalogue()[0].id == "six"


@pytest.mark.parametrize("text", ["a = " + "[" * 20_000, "schema = " + "1" * 5_000])
def test_hostile_toml_is_one_clear_error(text):
    with pytest.raises(LoadError, match="model.toml"):
        catalogue.parse(text, "model.toml")


def test_not_text(tmp_path):
    (tmp_path / "model.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LoadError, match="cannot be read"):
        catalogue.read_catalogue(tmp_path / "model.toml")


@pytest.mark.slow
@given(st.integers(0, len(TOML) - 1), st.characters(codec="utf-8"))
def test_one_changed_character_is_valid_or_one_clear_error(position, character):
    try:
        catalogue.parse(TOML[:position] + character + TOML[position + 1 :], "model.toml")
    except LoadError as error:
        assert "model.toml" in str(error)

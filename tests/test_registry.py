"""The parser takes exactly the schema: every deviation is one LoadError naming the field."""

import os
import tomllib

import pytest
from artifact_tools import ARTIFACTS, replace
from hypothesis import given
from hypothesis import strategies as st

from tessera_onnx import registry
from tessera_onnx.errors import LoadError
from tessera_onnx.schema import ModelSpec

TOML = (ARTIFACTS / "colbert" / "model.toml").read_text()


def parse(*pairs):
    return registry.parse(replace(*pairs)(TOML), "model.toml")


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
        registry._build(ModelSpec, entry, "model")


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
        registry.parse(TOML + body, "models.toml")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "model.toml"
    with path.open("wb") as stream:
        stream.truncate(registry.MAX_TOML_BYTES + 1)
    with pytest.raises(LoadError, match="larger than"):
        registry.read(path)


def test_a_pipe_is_refused_before_it_is_read(tmp_path):
    os.mkfifo(tmp_path / "model.toml")
    with pytest.raises(LoadError, match="no regular file"):
        registry.read(tmp_path / "model.toml")


def test_the_catalogue_of_a_user_is_read_again_when_it_is_another_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TESSERA_MODELS", "models.toml")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "models.toml").write_text(replace(("test-colbert", name))(TOML))
        os.utime(tmp_path / name / "models.toml", ns=(0, 0))
        monkeypatch.chdir(tmp_path / name)
        assert registry.catalogue()[0].id == name
    other = tmp_path / "other.toml"
    other.write_text(replace(("test-colbert", "six"))(TOML))
    os.utime(other, ns=(0, 0))
    other.replace("models.toml")
    assert registry.catalogue()[0].id == "six"


@pytest.mark.parametrize("text", ["a = " + "[" * 20_000, "schema = " + "1" * 5_000])
def test_hostile_toml_is_one_clear_error(text):
    with pytest.raises(LoadError, match="model.toml"):
        registry.parse(text, "model.toml")


def test_not_text(tmp_path):
    (tmp_path / "model.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LoadError, match="cannot be read"):
        registry.read(tmp_path / "model.toml")


@given(st.integers(0, len(TOML) - 1), st.characters(codec="utf-8"))
def test_one_changed_character_is_valid_or_one_clear_error(position, character):
    try:
        registry.parse(TOML[:position] + character + TOML[position + 1 :], "model.toml")
    except LoadError as error:
        assert "model.toml" in str(error)

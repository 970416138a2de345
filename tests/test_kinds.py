"""A new kind is a table, a class and one row: everything else asks the row."""

import dataclasses
import json
import pickle
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
from click.testing import CliRunner

from tessera_onnx import ConfigError, LoadError, Tessera, TesseraDense, kinds, list_models
from tessera_onnx.base import Model
from tessera_onnx.cli.main import main
from tessera_onnx.models import catalogue, rules, spec
from tessera_onnx.models.spec import KIND_TABLES, ModelSpec

ENTRY = """
schema = 1

[[model]]
id = "test-letters"
aliases = ["alphabet"]
kinds = ["letters"]
source = "tests/test_kinds.py"
revision = "unpinned"
licence = "apache-2.0"
unverified = []
files = []

[model.letters]
alphabet = "abcdefghijklmnopqrstuvwxyz"
max_length = 1000
"""


# What models/spec.py would hold: the table of the kind, and its field in ModelSpec.
@dataclasses.dataclass(frozen=True, slots=True)
class Letters:
    alphabet: str
    max_length: int


@dataclasses.dataclass(frozen=True, slots=True)
class SpecWithLetters(ModelSpec):
    kinds: tuple[Literal[spec.Kind, "letters"], ...]
    letters: Letters | None = None


# What a package of its own would hold: the class.
class TesseraLetters(Model):
    """Texts as counts of their letters; there is no graph."""

    _kind: ClassVar = "letters"

    def encode(self, text):
        """The count of each letter: (alphabet_size,) float32."""
        return np.array([text.count(letter) for letter in self._recipe.alphabet], np.float32)

    def encode_batch(self, texts):
        """The counts of several texts."""
        return np.array([self.encode(text) for text in texts])

    def encode_iter(self, texts, *, role="plain"):
        """The counts of a stream of texts."""
        return map(self.encode, texts)

    def alphabet_size(self):
        """Letters that are counted."""
        return len(self._recipe.alphabet)


ROW = kinds.KindRow(
    kind="letters",
    module=__name__,
    class_name="TesseraLetters",
    reads="texts",
    result="vector",
    score="cosine",
    width=lambda model: model.alphabet_size(),
    sizes=lambda recipe: (len(recipe.alphabet), recipe.max_length),
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The table and the row are there, and a model of the kind lies in the cache."""
    monkeypatch.setattr(catalogue, "ModelSpec", SpecWithLetters)  # for the field in spec.py
    monkeypatch.setitem(KIND_TABLES, "letters", "letters")
    monkeypatch.setitem(kinds.KINDS, "letters", ROW)
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "letters"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(ENTRY)
    catalogue._shipped.cache_clear()  # whose entries are of one type or the other
    yield folder
    catalogue._shipped.cache_clear()


def run(*arguments):
    done = CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_library_finds_and_opens_a_model_of_a_new_kind(folder):
    assert list_models("letters") == ["test-letters"]
    assert "test-letters" in list_models(installed=True)
    for opened in (
        Tessera("test-letters"),
        Tessera("alphabet", kind="letters"),
        Tessera(path=folder),
        Tessera(kind="letters", threads=1),
    ):
        with opened as model:
            assert type(model) is TesseraLetters
            assert (model.model(), model.device, model.precision) == ("test-letters", "cpu", None)
            assert model.spec.graph is None
            assert model.encode("a cab").tolist()[:3] == [2, 1, 1]
            again = pickle.loads(pickle.dumps(model))
            assert again.encode("a cab").tolist() == model.encode("a cab").tolist()


def test_a_model_without_a_graph_has_no_precision_to_choose(folder):
    with pytest.raises(ConfigError, match="'test-letters' has no graph: leave precision out"):
        Tessera("test-letters", precision="int8")


def test_models_and_info_show_a_model_of_a_new_kind(folder):
    (found,) = (m for m in json.loads(run("models", "--json")) if m["id"] == "test-letters")
    assert found["kinds"] == ["letters"]
    assert (found["dimension"], found["max_length"]) == ([26], [1000])
    (line,) = (line for line in run("models").splitlines() if line.startswith("test-letters"))
    assert line.split()[1:4] == ["letters", "26", "1000"]
    info = run("info", "test-letters")
    assert "letters.alphabet" in info
    assert json.loads(run("info", "test-letters", "--json"))["letters"]["max_length"] == 1000


def test_encode_writes_the_vectors_of_a_new_kind(folder, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("a cab\nzebra\n")
    expected = Tessera("test-letters").encode_batch(["a cab", "zebra"])
    for name in ("found.npy", "found.npz", "found.jsonl"):
        output = tmp_path / name
        run("encode", texts, "-o", output, "-m", "test-letters")
        if output.suffix == ".npy":
            found = np.load(output)
        elif output.suffix == ".npz":
            with np.load(output) as arrays:
                found = arrays["vectors"]
        else:
            lines = output.read_text().splitlines()
            found = np.array([json.loads(line)["vector"] for line in lines])
        np.testing.assert_array_equal(found, expected)
    printed = json.loads(run("encode", "--text", "a cab", "-m", folder, "--json"))
    assert (printed["kind"], printed["model"]) == ("letters", "test-letters")
    np.testing.assert_array_equal(printed["vector"], expected[0])


def test_the_starter_opens_as_before_beside_a_new_kind(folder):
    with Tessera() as model:
        assert type(model) is TesseraDense


def test_every_row_agrees_with_its_class_and_table():
    for kind, row in kinds.KINDS.items():
        assert (row.kind, row.cls._kind) == (kind, kind)
        assert row.table in {field.name for field in dataclasses.fields(ModelSpec)}
        assert (row.score is None) == (row.reads == "series")


def test_every_existing_kind_needs_a_graph():
    assert set(KIND_TABLES.values()) == rules.GRAPH_TABLES
    text = (Path(__file__).parent / "artifacts" / "splade" / "model.toml").read_text()
    start = text.index("[model.graph]")
    end = text.index("[model.", start + 1)
    with pytest.raises(LoadError, match=r"graph is missing; graph.fp32 is missing"):
        catalogue.parse(text[:start] + text[end:], "model.toml")


def test_the_digest_of_a_recipe_stays_when_a_version_adds_an_optional_fact():
    with TesseraDense("all-minilm-l6-v2") as model:
        recipe = model.spec.dense
        later = dataclasses.make_dataclass(
            "Later", [("more", str | None, None)], bases=(spec.Dense,), frozen=True
        )
        values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
        assert kinds._stated(later(**values)) == kinds._stated(recipe)
        assert kinds._stated(later(**values, more="x")) != kinds._stated(recipe)
        assert kinds._stated(dataclasses.replace(recipe, pooling="cls")) != kinds._stated(recipe)
        other = dataclasses.replace(model.spec, dense=dataclasses.replace(recipe, pooling="cls"))
        artifact = model._artifact
        assert kinds._sha256(other, artifact, "int8") != kinds._sha256(model.spec, artifact, "int8")

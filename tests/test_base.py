"""What all public classes share: their options, and how they are opened and pickled."""

import inspect
import pickle

import pytest
from artifact_tools import copy
from click.testing import CliRunner

from tessera_onnx import (
    Tessera,
    TesseraDense,
    TesseraMultiVector,
    TesseraSparse,
    TesseraTimeSeries,
    TesseraVision,
)
from tessera_onnx import base as base_module
from tessera_onnx.base import Model, Options
from tessera_onnx.cli.main import main
from tessera_onnx.kinds import AnyOptions
from tessera_onnx.models import catalogue, resolve
from tessera_onnx.text.base import TextModel
from tessera_onnx.text.options import TextOptions

SHARED = ["path", "device", "precision", "threads", "cache_dir", "offline", "file"]
OWN = {
    TesseraDense: ["dimension", "max_length", "on_long", "pooling"],
    TesseraMultiVector: ["dimension", "max_length", "on_long", "pooling"],
    TesseraSparse: ["dimension", "max_length", "on_long", "pooling", "max_active_dims", "language"],
    TesseraVision: ["on_long", "image_only", "max_pixels"],
    TesseraTimeSeries: [],
}


def keywords(function):
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


@pytest.mark.parametrize("cls", OWN)
def test_help_shows_every_option_by_name(cls):
    parameters = inspect.signature(cls).parameters
    assert next(iter(parameters)) == "model_id"
    assert set(parameters) == {"model_id", *SHARED, *OWN[cls]}
    assert parameters["device"].default == "auto"


def test_a_users_subclass_has_the_signature_that_its_author_wrote():
    class Mine(TesseraDense):
        def __init__(self, name, *args, size=3, **kwargs):
            super().__init__(*args, **kwargs)

    class Named(TesseraSparse):
        pass

    assert str(inspect.signature(Mine)) == "(name, *args, size=3, **kwargs)"
    assert inspect.signature(Named) == inspect.signature(TesseraSparse)


def test_the_types_of_the_options_are_those_of_the_constructors():
    """mypy compares the types; a forgotten name would be one that a subclass does not take."""
    assert list(Options.__annotations__) == keywords(Model.__init__) == SHARED
    assert set(TextOptions.__annotations__) == {*SHARED, *keywords(TextModel.__init__)}


@pytest.mark.parametrize("cls", OWN)
def test_an_unknown_option_is_a_type_error(cls):
    with pytest.raises(TypeError, match="unexpected keyword argument 'devise'"):
        cls(devise="cpu")


def test_a_model_is_pickled_with_all_its_options(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = {"threads": 1, "device": "cpu", "max_length": 7, "on_long": "truncate"}
    with TesseraDense("all-minilm-l6-v2", cache_dir="here", **given) as model:
        vector = model.encode("one two three four five six seven eight")
        copied = pickle.loads(pickle.dumps(model))
    assert copied._options == model._options
    assert copied._options["cache_dir"] == tmp_path / "here"
    assert {name: copied._options[name] for name in given} == given
    with copied:
        assert (copied.encode("one two three four five six seven eight") == vector).all()


@pytest.fixture
def resolved(monkeypatch):
    """The ids that were resolved, in order."""
    ids = []
    resolve_id = resolve.resolve

    def noted(model_id, **options):
        ids.append(model_id)
        return resolve_id(model_id, **options)

    monkeypatch.setattr(resolve, "resolve", noted)
    monkeypatch.setattr(base_module, "resolve", noted)
    return ids


def test_the_factory_resolves_an_id_once(resolved):
    with Tessera("all-minilm-l6-v2", kind="multi-vector", dimension=384) as model:
        assert resolved == ["all-minilm-l6-v2"]
        copied = pickle.loads(pickle.dumps(model))
    with copied:
        assert (type(copied), copied.model()) == (TesseraMultiVector, "all-minilm-l6-v2")
    assert resolved == ["all-minilm-l6-v2"] * 2


@pytest.mark.parametrize(
    "arguments", ["similarity a b", "rank a b c", "encode --text a --kind sparse -m splade-tiny"]
)
def test_a_command_resolves_an_id_once(resolved, arguments):
    assert CliRunner().invoke(main, arguments.split()).exit_code == 0
    assert len(resolved) == 1


def test_only_descriptions_of_candidates_are_parsed(monkeypatch, tmp_path):
    for name in ("splade", "bolt", "prompts"):
        copy(name, tmp_path / name)
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path))
    parsed = []
    read_catalogue = catalogue.read_catalogue

    def noted(path):
        parsed.append(path.parent.name)
        return read_catalogue(path)

    monkeypatch.setattr(catalogue, "read_catalogue", noted)
    Tessera("test-splade").close()
    assert parsed == ["splade"]
    parsed.clear()
    TesseraDense("all-minilm-l6-v2").close()
    assert set(parsed) == {"minilm", "tessera_page"}  # the page model names the other


def test_the_factory_knows_the_options_of_every_class():
    assert set(AnyOptions.__annotations__) == {
        *SHARED,
        *(name for own in OWN.values() for name in own),
    }

"""What all public classes share: their options, and how they are opened and pickled."""

import inspect
import pickle

import pytest

import tessera_onnx
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
from tessera_onnx.models import resolve
from tessera_onnx.text.base import TextModel, TextOptions

SHARED = ["path", "device", "precision", "threads", "cache_dir", "offline"]
OWN = {
    TesseraDense: ["dimension", "max_length", "on_long"],
    TesseraMultiVector: ["dimension", "max_length", "on_long"],
    TesseraSparse: ["dimension", "max_length", "on_long", "max_active_dims"],
    TesseraVision: ["on_long", "image_only", "max_pixels"],
    TesseraTimeSeries: [],
}


def keywords(function):
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


@pytest.mark.parametrize("cls", OWN)
def test_help_shows_every_option_by_name(cls):
    parameters = inspect.signature(cls).parameters
    assert list(parameters) == ["model_id", *SHARED, *OWN[cls]]
    assert parameters["device"].default == "auto"


def test_the_types_of_the_options_are_those_of_the_constructors():
    """mypy compares the types; a forgotten name would be one that a subclass does not take."""
    assert list(Options.__annotations__) == keywords(Model.__init__) == SHARED
    assert list(TextOptions.__annotations__) == [*SHARED, *keywords(TextModel.__init__)]


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


def test_the_factory_resolves_an_id_once(monkeypatch):
    asked = []

    def counted(model_id, **options):
        asked.append(model_id)
        return found(model_id, **options)

    found = resolve.resolve
    monkeypatch.setattr(resolve, "resolve", counted)
    monkeypatch.setattr(base_module, "resolve", counted)
    with Tessera("all-minilm-l6-v2", kind="multi-vector", dimension=384) as model:
        assert asked == ["all-minilm-l6-v2"]
        copied = pickle.loads(pickle.dumps(model))
    with copied:
        assert (type(copied), copied.model()) == (TesseraMultiVector, "all-minilm-l6-v2")
    assert tessera_onnx.TesseraMultiVector is TesseraMultiVector
    assert asked == ["all-minilm-l6-v2"] * 2

"""Models of words refuse what other sparse models refuse, alike, and read every odd text."""

import numpy as np
import pytest
from artifact_tools import ARTIFACTS
from cases_text import CONTAINERS, HOLES, SURROGATE, TEXTS, WRONG
from outcomes import MARKER

from tessera_onnx import SparseVector, TesseraSparse, TruncationWarning

METHODS = ("encode_batch", "encode_query", "encode_document", "token_count", "encode_all", "rank")

pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings(f"ignore::{TruncationWarning.__module__}.TruncationWarning"),
]


@pytest.fixture(scope="module", params=["bm25", "attention", "minicoil"])
def models(request):
    place = None if request.param == "bm25" else ARTIFACTS / request.param
    name = request.param if place is None else None
    with (
        TesseraSparse(name, path=place) as words,
        TesseraSparse(path=ARTIFACTS / "splade") as splade,
    ):
        yield words, splade


def call(model, method, value):
    return model.rank("cat", value) if method == "rank" else getattr(model, method)(value)


def outcome(model, method, value):
    """The class and the message of an error, or how many results there are."""
    try:
        found = call(model, method, value)
    except (TypeError, RuntimeError, ValueError) as error:
        assert MARKER not in str(error)
        return type(error), str(error), getattr(error, "index", None)
    if method == "encode_all":
        found = found.sparse
    return 1 if isinstance(found, SparseVector) else len(found)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_outcome_as_with_a_graph(models, method):
    makers = {**CONTAINERS, **{name: make for name, (make, _) in HOLES.items()}}
    for name, make in {**makers, "a lone surrogate": lambda: ["cat", SURROGATE]}.items():
        words, splade = (outcome(model, method, make()) for model in models)
        assert words == splade, name


@pytest.mark.parametrize("method", ["encode", "encode_query", "similarity", "explain"])
def test_a_wrong_item_is_the_same_error(models, method):
    def run(model, value):
        return model.similarity(value, "cat") if method == "similarity" else None

    for name, value in {**WRONG, "a lone surrogate": SURROGATE}.items():
        found = []
        for model in models:
            try:
                found.append(
                    run(model, value) if method == "similarity" else getattr(model, method)(value)
                )
            except (TypeError, RuntimeError, ValueError) as error:
                found.append((type(error), str(error)))
        if isinstance(found[0], list | SparseVector):  # one query or several
            assert type(found[0]) is type(found[1]), name
        else:
            assert found[0] == found[1], name


def test_every_odd_text_has_a_vector(models):
    words, _ = models
    several = words.encode_batch(TEXTS.values())
    for (name, text), vector in zip(TEXTS.items(), several, strict=True):
        alone = words.encode(text)
        assert np.array_equal(alone.indices, vector.indices), name
        np.testing.assert_allclose(alone.values, vector.values, atol=1e-5, err_msg=name)
        assert words.spec.minicoil is not None or (vector.values > 0).all(), name
        assert (np.diff(vector.indices.astype(np.int64)) > 0).all(), name

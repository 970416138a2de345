"""Which output of a graph a recipe reads, and how the inputs of a graph are made."""

import dataclasses
import json

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, TEXTS, copy, golden, relist, replace

from tessera_onnx import LoadError, TesseraDense, TesseraMultiVector, TesseraSparse
from tessera_onnx.models.artifact import open_folder
from tessera_onnx.runtime.session import Port
from tessera_onnx.text import outputs
from tessera_onnx.text import tokenizer as text_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::tessera_onnx.TruncationWarning")
STATES = open_folder(ARTIFACTS / "states").spec
DENSE = dataclasses.replace(STATES.dense, output="", pooling="mean", dimension=8)
TOKENS = dataclasses.replace(
    open_folder(ARTIFACTS / "colbert").spec.multi_vector, output="", dimension=4, drop_first=False
)
SPARSE = dataclasses.replace(
    open_folder(ARTIFACTS / "splade").spec.sparse, output="", vocab_size=9, head="logits"
)


def settled(recipe, reads=0, **shapes):
    return outputs.settle(recipe, shapes, 2, reads, "model.onnx")


@pytest.mark.parametrize(
    ("shapes", "output", "pooling"),
    [
        ({"last_hidden_state": (1, 2, 8), "pooler_output": (1, 8)}, "last_hidden_state", "mean"),
        ({"token_embeddings": (1, 2, 8), "sentence_embedding": (1, 8)}, "token_embeddings", "mean"),
        ({"sentence_embedding": (1, 8)}, "sentence_embedding", "graph"),
        ({"whatever": (1, 2, 8)}, "whatever", "mean"),
        ({"text_embeds": (1, 2, 8)}, "text_embeds", "mean"),
        ({"text_embeds": (1, 8)}, "text_embeds", "graph"),
    ],
)
def test_the_output_of_a_dense_recipe(shapes, output, pooling):
    found = settled(DENSE, **shapes)
    assert (found.output, found.pooling) == (output, pooling)


def test_a_graph_that_pools_takes_the_modules_with_weights_too():
    modules = tuple(
        outputs.modules.Module(kind, file, "identity", residual=False, dimension=size)
        for kind, file, size in (("dense", "w", 8), ("normalize", "", 8), ("truncate", "", 4))
    )
    recipe = dataclasses.replace(DENSE, modules=modules, dimension=4)
    found = settled(recipe, 6, sentence_embedding=(1, 8))
    assert (found.pooling, found.modules) == ("graph", modules[1:])
    assert settled(recipe, 6, last_hidden_state=(1, 2, 6)).modules == modules


def test_a_graph_that_pools_and_may_lack_the_layers_after_it():
    module = outputs.modules.Module("dense", "w", "identity", residual=False, dimension=8)
    recipe = dataclasses.replace(DENSE, modules=(module,))
    with pytest.raises(LoadError, match="8 numbers in 'x', .* give 8 numbers of 8, and nothing"):
        settled(recipe, 8, x=(1, 8))
    with pytest.raises(LoadError, match="gives 6 numbers in 'x', the layers after the pooling"):
        settled(recipe, 6, x=(1, 6))
    assert settled(recipe, 8, sentence_embedding=(1, 8)).modules == ()
    assert settled(recipe, 6, x=(1, 8)).modules == ()


@pytest.mark.parametrize(
    ("recipe", "shapes", "match"),
    [
        (DENSE, {"a": (1, 2, 8), "b": (1, 2, 8)}, r"several outputs that fit \(a, b\)"),
        (DENSE, {"pooler_output": (1, 8)}, "no output for this kind of model"),
        (DENSE, {"logits": (1, 1)}, "no output for this kind of model"),
        (SPARSE, {"logits": (1, 2, 8)}, "no output for this kind of model"),
        (TOKENS, {"sentence_embedding": (1, 4)}, "no output for this kind of model"),
    ],
)
def test_nothing_is_guessed(recipe, shapes, match):
    with pytest.raises(LoadError, match=match):
        settled(recipe, **shapes)


def test_the_output_of_token_vectors():
    module = outputs.modules.Module("dense", "w", "identity", residual=False, dimension=4)
    recipe = dataclasses.replace(TOKENS, modules=(module,))
    assert settled(TOKENS, contextual=(1, 2, 4)).output == "contextual"
    assert settled(recipe, 6, last_hidden_state=(1, 2, 6)).modules == (module,)
    assert settled(recipe, 6, output=(1, 2, 4)).modules is None  # the graph holds the layer
    assert settled(recipe, 4, last_hidden_state=(1, 2, 4)).modules == (module,)
    with pytest.raises(LoadError, match="the encoder gives as well as the layers after it"):
        settled(recipe, 4, output=(1, 2, 4))


@pytest.mark.parametrize(
    ("shapes", "head"),
    [
        ({"logits": (1, 2, 9)}, "logits"),
        ({"sparse_embedding": (1, 9)}, "graph"),
        ({"sparse_vecs": (1, 2, 1)}, "tokens"),
        ({"sentence_embedding": (1, 3), "x": (1, 9)}, "graph"),
    ],
)
def test_the_output_of_sparse_vectors(shapes, head):
    assert settled(SPARSE, **shapes).head == head


@pytest.mark.parametrize(
    ("name", "cls", "values"),
    [("states", TesseraDense, "mean"), ("splade", TesseraSparse, None),
     ("colbert", TesseraMultiVector, None)],
)  # fmt: skip
def test_an_artifact_without_the_names_gives_the_same(tmp_path, name, cls, values):
    facts = open_folder(ARTIFACTS / name).spec
    output = next(iter(facts.text_recipes().values())).output
    folder = copy(name, tmp_path / "m", replace((f'output = "{output}"', 'output = ""')))
    with cls(path=folder) as found, cls(path=ARTIFACTS / name) as named:
        assert found.spec.text_recipes() == named.spec.text_recipes()
        a, b = found.encode(TEXTS[0]), named.encode(TEXTS[0])
        if cls is TesseraSparse:
            a, b = a.values, b.values
        np.testing.assert_array_equal(a, b)
    assert values is None or golden(name)


def test_the_dtypes_and_further_inputs_of_a_graph():
    batch = text_tokenizer.Batch(*(np.ones(shape, np.int64) for shape in ((2, 3), (2, 3), (2,))))
    inputs = {
        "input_ids": Port(np.int32, ("b", "n")),
        "attention_mask": Port(np.float32, ("b", "n")),
        "segment_ids": Port(np.int64, ("b", "n")),
        "position_ids": Port(np.int64, ("b", "n")),
        "past_key_values.0.key": Port(np.float16, ("b", 4, "past", 8)),
        "image_features": Port(np.float16, ("images", 8)),
    }
    found = text_tokenizer.feeds(batch, None, inputs)
    assert {name: array.dtype for name, array in found.items()} == {
        name: port.dtype for name, port in inputs.items()
    }
    assert found["past_key_values.0.key"].shape == (2, 4, 0, 8)
    assert found["image_features"].shape == (0, 8)
    np.testing.assert_array_equal(found["position_ids"], [[0, 1, 2], [0, 1, 2]])
    assert not found["segment_ids"].any()
    with pytest.raises(LoadError, match=r"takes the input 'bbox', which this kind of model"):
        text_tokenizer.feeds(batch, None, {**inputs, "bbox": Port(np.int64, ("b", "n", 4))}, "m")


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        (("pixel_values",), "no input_ids, so it reads no texts"),
        (("input_ids",), "takes no attention_mask"),
        (("input_ids", "attention_mask", "task_id"), "takes the input task_id, which"),
    ],
)
def test_graphs_that_read_no_texts(inputs, match):
    ports = dict.fromkeys(inputs, Port(np.int64, (None, None)))
    with pytest.raises(LoadError, match=match):
        outputs.check_inputs(ports, STATES, "model.onnx")


@pytest.mark.parametrize(
    ("pair", "match"),
    [
        (("prefix_ids = [\n    4,\n]", "prefix_ids = [7]"),
         r"puts the ids \[4\] and \[5\] around a text, the model's facts say \[7\] and \[5\]"),
        (("pad_id = 0", "pad_id = 100000"), "pad_id holds 100000, which is no id of tokenizer"),
        (("pad_id = 0", "pad_id = 20"), "pad_id is 20, which tokenizer.json reads as the word"),
        (("mask_id = 6", "mask_id = 21"), "mask_id is 21, which tokenizer.json reads as the word"),
    ],
)  # fmt: skip
def test_ids_of_another_tokenizer_are_refused(tmp_path, pair, match):
    with pytest.raises(LoadError, match=match):
        TesseraDense(path=copy("states", tmp_path / "m", replace(pair)))


def test_a_tokenizer_that_adds_nothing_contradicts_nothing(tmp_path):
    folder = copy("states", tmp_path / "m")
    document = json.loads((folder / "tokenizer.json").read_text())
    document["post_processor"] = None
    relist(folder, "tokenizer.json", json.dumps(document).encode())
    with TesseraDense(path=folder) as model, TesseraDense(path=ARTIFACTS / "states") as same:
        np.testing.assert_array_equal(model.encode("the cat"), same.encode("the cat"))


def test_the_graph_tells_the_dimension():
    recipe = dataclasses.replace(DENSE, dimension=0, pooling="graph", modules=())
    found = settled(recipe, token_embeddings=(1, 2, 8), sentence_embedding=(1, 5))
    assert (found.output, found.dimension) == ("sentence_embedding", 5)
    recipe = dataclasses.replace(DENSE, dimension=0, further_poolings=("max",))
    assert settled(recipe, last_hidden_state=(1, 2, 8)).dimension == 16


def test_a_sentence_embedding_that_contradicts_the_pooling():
    """A graph that gives both is not opened where they are vectors of two models."""
    states = np.array([[[1.0, 0.0], [0.0, 1.0]]], np.float32)
    probe = {"input_ids": np.ones((1, 2), np.int64)}
    recipe = dataclasses.replace(DENSE, output="token_embeddings", dimension=2)
    for pooling, given in (("mean", [[3.0, 3.0]]), ("cls", [[2.0, 0.0]]), ("last", [[0.0, 1.0]])):
        found = {"token_embeddings": states, "sentence_embedding": np.array(given, np.float32)}
        for name in ("mean", "cls", "last"):
            tried = dataclasses.replace(recipe, pooling=name)
            if name == pooling:
                outputs._check_sentence(tried, found, probe, None, "model.onnx")
                continue
            with pytest.raises(LoadError, match="pooling or modules are those of another model"):
                outputs._check_sentence(tried, found, probe, None, "model.onnx")

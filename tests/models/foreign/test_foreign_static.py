"""Folders of static models: whose recipe it is, what is read, and what is refused by name."""

import json
import shutil

import numpy as np
import pytest
from static_tables import bare, safetensors, tensors_of

from tessera_onnx import ConfigError, LoadError, TesseraDense
from tessera_onnx.models.foreign import reader

OLD = "sentence_transformers.models."


@pytest.fixture
def m2v(tmp_path):
    return bare("static", tmp_path / "m")


@pytest.fixture
def mean(tmp_path):
    return bare("static-mean", tmp_path / "m")


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def tensors(folder, **values):
    (folder / "model.safetensors").write_bytes(safetensors(tensors_of(folder) | values))


def refused(folder, words, error=LoadError, **options):
    with pytest.raises(error, match=words) as caught:
        reader.read(folder, **options)
    if error is LoadError:
        assert caught.value.path is not None
    return caught.value


def test_a_folder_of_model2vec(m2v):
    found = reader.read(m2v)
    spec, table = found.spec, found.spec.static
    assert (table.rows, table.weights, table.mapping) == ("embeddings", "weights", "mapping")
    assert (table.drop_ids, table.characters_per_token) == ((3,), 3)
    assert (spec.kinds, spec.graph, spec.hub) == (("dense",), None, None)
    assert (spec.dense.document.max_length, spec.dense.modules) == (24, None)
    assert [file.name for file in spec.files] == ["model.safetensors", "tokenizer.json"]
    assert found.sources["static.rows"] == "model.safetensors: embeddings"
    assert found.sources["dense.document.max_length"] == "config.json: max_length"
    assert found.sources["dense.modules"] == "config.json: normalize"
    assert reader.read(m2v, "dense").spec == spec


def test_a_folder_of_sentence_transformers(mean):
    found = reader.read(mean)
    table = found.spec.static
    assert (table.rows, table.weights, table.mapping) == ("embedding.weight", "", "")
    assert (table.drop_ids, table.characters_per_token) == ((), 0)
    assert (found.spec.dense.document.max_length, found.spec.dense.modules) == (40, ())
    assert found.spec.dense.query.prompt == "cat: "
    assert found.spec.dense.similarity == "cosine"
    assert found.sources["dense.query.prompt"].endswith("prompts.query")


def test_the_config_of_older_releases(m2v):
    """model2vec once named its class and wrote no modules.json."""
    (m2v / "modules.json").unlink()
    expected = reader.read(m2v).spec.static
    (m2v / "config.json").write_text(
        json.dumps({"model_type": "model2vec", "architectures": ["StaticModel"],
                    "normalize": True, "seq_length": 1000000})
    )  # fmt: skip
    older = reader.read(m2v).spec
    assert (older.static, older.dense.modules) == (expected, None)
    assert older.dense.document.max_length == 512
    assert "512" in reader.read(m2v).sources["dense.document.max_length"]


def test_a_folder_inside_the_folder(mean):
    expected = reader.read(mean).spec
    inner = mean / "0_StaticEmbedding"
    inner.mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        shutil.move(mean / name, inner)
    module = {"path": "0_StaticEmbedding", "type": f"{OLD}StaticEmbedding"}
    (mean / "modules.json").write_text(json.dumps([module]))
    spec = reader.read(mean).spec
    assert spec.static.file == "0_StaticEmbedding/model.safetensors"
    assert spec.text.tokenizer == "0_StaticEmbedding/tokenizer.json"
    assert spec.dense == expected.dense
    with TesseraDense(path=mean) as model:
        assert model.encode("cat").any()


def test_the_recipe_follows_the_tensor_and_config_json(m2v):
    """Without config.json sentence-transformers alone opens the folder, and drops nothing."""
    (m2v / "config.json").unlink()
    found = reader.read(m2v).spec
    assert (found.static.drop_ids, found.static.mapping) == ((), "mapping")
    assert found.static.characters_per_token == 0
    assert found.dense.modules is None  # its modules.json lists Normalize


@pytest.mark.parametrize(
    ("value", "length"), [(None, 1 << 20), (7, 7), (512, 512), (1 << 40, 1 << 20)]
)
def test_lengths_of_model2vec(m2v, value, length):
    change(m2v / "config.json", max_length=value)
    assert reader.read(m2v).spec.dense.document.max_length == length


def test_truncate_dim_and_normalize(mean):
    settings = mean / "config_sentence_transformers.json"
    change(settings, truncate_dim=5)
    spec = reader.read(mean).spec
    assert spec.dense.dimension == 5
    assert [module.type for module in spec.dense.modules] == ["truncate"]
    listed = json.loads((mean / "modules.json").read_text())
    listed.append({"path": "1_Normalize", "type": f"{OLD}Normalize"})
    (mean / "modules.json").write_text(json.dumps(listed))
    spec = reader.read(mean).spec
    assert [module.type for module in spec.dense.modules] == ["normalize", "truncate"]
    for wrong in (0, 17, True, "5"):
        change(settings, truncate_dim=wrong)
        refused(mean, "truncate_dim")


def test_arguments_that_are_for_graphs(m2v):
    refused(m2v, "leave file out", ConfigError, file="onnx/model.onnx")
    refused(m2v, "leave pooling out", ConfigError, pooling="mean")
    refused(m2v, "is a model of kind dense, not sparse", kind="sparse")
    refused(m2v, "only models of texts", kind="vision")


def test_files_that_are_missing(m2v):
    kept = (m2v / "model.safetensors").read_bytes()
    (m2v / "model.safetensors").unlink()
    refused(m2v, "has no model.safetensors$")
    (m2v / "pytorch_model.bin").write_bytes(b"\x80")
    refused(m2v, "is a pickle")
    sizes = {"model.safetensors": 9, "tokenizer.json": 9}
    refused(m2v, "tells the size of the vectors and is not downloaded yet", listing=sizes)
    (m2v / "model.safetensors").write_bytes(kept)
    (m2v / "tokenizer.json").unlink()
    refused(m2v, "has no tokenizer.json")


def test_modules_that_are_not_computed(mean):
    listed = json.loads((mean / "modules.json").read_text())
    for name, words in (
        (f"{OLD}Dense", "lists Dense after StaticEmbedding; only Normalize"),
        ("sse.SeparableDyT", "Python code of a repository"),
    ):
        (mean / "modules.json").write_text(json.dumps([*listed, {"path": "1", "type": name}]))
        refused(mean, words)
    (mean / "modules.json").write_text(
        json.dumps([{"path": "../other", "type": f"{OLD}StaticEmbedding"}])
    )
    refused(mean, "which is outside")


@pytest.mark.parametrize("value", [0, -1, True, "512", 2.5, [1]])
def test_lengths_that_are_none(m2v, value):
    change(m2v / "config.json", max_length=value)
    refused(m2v, "is no number of tokens")


@pytest.mark.parametrize("value", ["yes", 2, [True]])
def test_normalize_that_is_no_truth(m2v, value):
    change(m2v / "config.json", normalize=value)
    refused(m2v, "expected true or false")


@pytest.mark.parametrize(
    ("truncation", "words"),
    [
        ({"direction": "Left", "max_length": 9}, "truncation direction 'Left', not Right"),
        ({"strategy": "OnlySecond", "max_length": 9}, "truncation strategy"),
        ({"max_length": 0}, "no number of tokens"),
        ([9], "is not a tokenizer"),
    ],
)
def test_truncation_that_is_not_followed(mean, truncation, words):
    defaults = {"direction": "Right", "strategy": "LongestFirst", "stride": 0}
    if isinstance(truncation, dict):
        truncation = defaults | truncation
    change(mean / "tokenizer.json", truncation=truncation)
    refused(mean, words)


def test_tables_that_are_wrong(m2v):
    found = tensors_of(m2v)
    found.pop("mapping")
    (m2v / "model.safetensors").write_bytes(safetensors(found))
    refused(m2v, r"has 40 rows for the \d+ tokens of tokenizer.json, and no mapping")
    (m2v / "model.safetensors").write_bytes(safetensors({"x": np.zeros((3, 4), np.float32)}))
    refused(m2v, "has no matrix 'embeddings' or 'embedding.weight'")
    (m2v / "model.safetensors").write_bytes(safetensors({"embeddings": np.zeros(9, np.int8)}))
    refused(m2v, "has no matrix")
    for content in (b"", b"\x08", b"not a header of safetensors", b"\xff" * 64):
        (m2v / "model.safetensors").write_bytes(content)
        refused(m2v, "safetensors")
    for content in ("[]", "{", '{"model": 3}', '"text"'):
        (m2v / "tokenizer.json").write_text(content)
        refused(m2v, "tokenizer|JSON")


def test_a_table_of_int8_without_weights_is_model2vecs_alone(mean):
    """sentence-transformers cannot open one."""
    tensors(mean, **{"embedding.weight": np.zeros((117, 16), np.int8)})
    refused(mean, "in int8, which sentence-transformers does not average")


def test_two_recipes_in_a_folder(m2v):
    for settings in ({"prompts": {"query": "find: "}}, {"truncate_dim": 4}):
        (m2v / "config_sentence_transformers.json").write_text(json.dumps(settings))
        refused(m2v, "which model2vec does not follow")
    (m2v / "config_sentence_transformers.json").write_text('{"prompts": {"query": ""}}')
    assert reader.read(m2v).spec.dense.query.prompt == ""


def test_similarity(mean):
    settings = mean / "config_sentence_transformers.json"
    change(settings, similarity_fn_name="dot")
    assert reader.read(mean).spec.dense.similarity == "dot"
    change(settings, similarity_fn_name="angle")
    refused(mean, "similarity_fn_name 'angle'")

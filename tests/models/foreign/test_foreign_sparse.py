"""Sparse folders: SPLADE, models whose queries are looked up, and bge-m3's several outputs."""

import json
import struct

import pytest
from foreign_folders import (
    GRAPH,
    NEW,
    OLD,
    SETTINGS,
    SIZE,
    VOCABULARY,
    edit,
    graph,
    modules,
    plain,
    refused,
    tensors,
    write,
)

from tessera_onnx import ConfigError
from tessera_onnx.models.foreign.reader import read
from tessera_onnx.models.spec import Role, TokenRole

MASKED = {"architectures": ["BertForMaskedLM"]}
LOGITS = ("logits", ("batch", "tokens", VOCABULARY))
TABLE = "query_0_SparseStaticEmbedding"
DOCUMENT = "document_0_Transformer"


def masked(folder):
    plain(folder, **{GRAPH: graph(LOGITS)})
    edit(folder, "config.json", **MASKED)
    return folder


def splade(folder, first="Transformer", **pooling):
    masked(folder)
    return write(
        folder,
        {
            "modules.json": modules(first, "SpladePooling"),
            "1_SpladePooling/config.json": {"pooling_strategy": "max"} | pooling,
            "sentence_bert_config.json": {"max_seq_length": 32, "transformer_task": "fill-mask"},
        },
    )


@pytest.mark.parametrize("first", ["Transformer", "MLMTransformer"])
@pytest.mark.parametrize(
    ("activation", "expected"), [("relu", "log1p"), ("log1p_relu", "log1p-log1p")]
)
def test_splade(tmp_path, first, activation, expected):
    found = read(splade(tmp_path, first, activation_function=activation))
    recipe = found.spec.sparse
    assert found.spec.kinds == ("sparse",)
    assert (recipe.output, recipe.head, recipe.activation) == ("", "logits", expected)
    assert (recipe.vocab_size, recipe.zero_ids) == (VOCABULARY, ())
    assert (recipe.query_weights, recipe.idf, recipe.plain) == ("model", "", None)
    assert recipe.document == Role("", 32)
    assert found.sources["sparse.activation"] == "1_SpladePooling/config.json: activation_function"


@pytest.mark.parametrize(
    "package",
    ["sentence_transformers.sparse_encoder.models.", NEW.format("sparse_encoder") + "file."],
)
def test_packages_of_the_classes(tmp_path, package):
    """Those of sentence-transformers 5.0 and of 6."""
    folder = splade(tmp_path)
    listed = modules(f"{package}MLMTransformer", f"{package}SpladePooling")
    write(folder, {"modules.json": listed})
    assert read(folder).spec.kinds == ("sparse",)


def test_what_is_not_computed(tmp_path):
    folder = splade(tmp_path)
    for changes, message in (
        ({"pooling_strategy": "sum"}, "SpladePooling takes the sum, known is the max"),
        ({"pooling_strategy": "max", "activation_function": "gelu"}, "has the activation 'gelu'"),
    ):
        write(folder, {"1_SpladePooling/config.json": changes})
        refused(folder, message)
    write(folder, {"modules.json": modules("Transformer", "SpladePooling", "Dense")})
    refused(folder, "a sparse model is a Transformer and SpladePooling")
    write(folder, {"modules.json": modules("Transformer", "Pooling", "SparseAutoEncoder")})
    refused(folder, "lists Transformer, Pooling, SparseAutoEncoder; a sparse model")
    refused(folder, "pooling='mean' is for dense models", ConfigError, pooling="mean")
    write(folder, {"modules.json": modules("Transformer", "SpladePooling")})
    edit(folder, "config.json", vocab_size=None)
    write(folder, {"1_SpladePooling/config.json": {}})
    refused(folder, "config.json does not say vocab_size")


def test_the_model_type_of_a_sparse_encoder(tmp_path):
    folder = splade(tmp_path)
    write(folder, {SETTINGS: {"model_type": "SparseEncoder", "prompts": {"query": "ask: "}}})
    assert read(folder).spec.sparse.query.prompt == "ask: "
    refused(folder, "is a model of kind sparse, not dense", kind="dense")


def test_a_number_of_entries_that_the_folder_sets(tmp_path):
    folder = splade(tmp_path)
    write(folder, {SETTINGS: {"model_type": "SparseEncoder", "max_active_dims": 20}})
    refused(folder, "has the max_active_dims 20, .* give max_active_dims= where vectors are made")


def test_a_masked_language_model_alone(tmp_path):
    folder = masked(tmp_path)
    found = read(folder)
    assert (found.spec.kinds, found.spec.sparse.activation) == (("sparse",), "log1p")
    assert found.sources["sparse.activation"] == "config.json: architectures"
    refused(folder, "pooling is missing", kind="dense")
    edit(folder, "config.json", architectures=["BertModel"])
    refused(folder, "is a model of kind dense, not sparse", kind="sparse")


def test_a_graph_without_the_vocabularys_head(tmp_path):
    folder = splade(tmp_path)
    write(folder, {GRAPH: graph()})
    refused(folder, r"gives 8 \(last_hidden_state\) numbers, and none for each of the 64 entries")
    write(folder, {GRAPH: graph(("weights", ("batch", VOCABULARY)))})  # pooled by the graph
    assert read(folder).spec.sparse.head == "logits"  # told when it is open


def test_what_the_graph_of_a_masked_language_model_gives(tmp_path):
    """Optimum writes states or logits of one and the same configuration, by its task."""
    folder = masked(tmp_path)
    assert read(folder).spec.kinds == ("sparse",)
    assert read(folder, pooling="mean").spec.kinds == ("dense",)
    write(folder, {GRAPH: graph()})
    refused(folder, "pooling is missing")
    refused(folder, "none for each of the 64 entries", kind="sparse")


def test_a_table_of_queries_that_nothing_declares(tmp_path):
    folder = masked(tmp_path)
    write(folder, {"idf.json": {"fox": 2.5}})
    refused(folder, "no modules.json with a Router says that queries are looked up in it")


def weights(**special):
    content = tensors(weight=(VOCABULARY,))
    (length,) = struct.unpack("<Q", content[:8])
    numbers = [0.0, 0.0, *[special.get("cls", 0.0)], 0.0, *[1.5] * (VOCABULARY - 4)]
    return content[: 8 + length] + struct.pack(f"<{VOCABULARY}f", *numbers)


def routed(folder, router="Router", name="router_config.json"):
    """OpenSearch's layout: a Router with two routes."""
    masked(folder)
    inner = folder / DOCUMENT
    (inner / "onnx").mkdir(parents=True)
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", GRAPH):
        (folder / file).rename(inner / file)
    pooling = "document_1_SpladePooling"
    types = {
        DOCUMENT: f"{OLD}Transformer", pooling: f"{OLD}SpladePooling",
        TABLE: f"{OLD}SparseStaticEmbedding",
    }  # fmt: skip
    structure = {"query": [TABLE], "document": [DOCUMENT, pooling]}
    settings = {"types": types, "structure": structure, "parameters": {}}
    return write(
        folder,
        {
            "modules.json": modules(router),
            name: settings,
            f"{DOCUMENT}/sentence_bert_config.json": {"max_seq_length": 32},
            f"{pooling}/config.json": {"activation_function": "log1p_relu"},
            f"{TABLE}/config.json": {"frozen": False},
            f"{TABLE}/tokenizer_config.json": {"model_max_length": 32},
            f"{TABLE}/model.safetensors": weights(),
        },
    )


@pytest.mark.parametrize(
    ("router", "name"), [("Router", "router_config.json"), ("Asym", "config.json")]
)
def test_queries_that_are_looked_up(tmp_path, router, name):
    found = read(routed(tmp_path, router, name))
    spec, table = found.spec, f"{TABLE}/model.safetensors"
    assert (spec.sparse.query_weights, spec.sparse.idf) == ("idf", table)
    assert spec.sparse.activation == "log1p-log1p"
    # Upstream cuts queries without the two special tokens that stand around them here.
    assert (spec.sparse.query.max_length, spec.sparse.document.max_length) == (34, 32)
    assert [file.name for file in spec.files] == [
        f"{DOCUMENT}/{GRAPH}", f"{DOCUMENT}/tokenizer.json", table,
    ]  # fmt: skip
    assert found.sources["sparse.query_weights"] == f"{table}: weight"


def test_tables_of_queries(tmp_path):
    folder = routed(tmp_path)
    table = folder / TABLE / "model.safetensors"
    write(folder, {f"{TABLE}/model.safetensors": weights(cls=0.5)})
    refused(folder, "gives the special token 2 the weight 0.5, which stands around every query")
    write(folder, {f"{TABLE}/model.safetensors": tensors(weight=(2,))})
    refused(folder, "holds no vector 'weight' of that many numbers")
    table.unlink()
    refused(folder, f"{TABLE} has no model.safetensors with the query's weights")
    write(folder, {f"{TABLE}/idf.json": {"fox": 2.5}})
    assert read(folder).spec.sparse.idf == f"{TABLE}/idf.json"


def test_longer_queries_than_the_graph_reads(tmp_path):
    folder = routed(tmp_path)
    edit(folder, f"{TABLE}/tokenizer_config.json", model_max_length=40)
    spec = read(folder).spec
    assert (spec.sparse.query.max_length, spec.text.max_positions) == (42, 42)
    assert spec.sparse.document.max_length == 32


def test_other_routes(tmp_path):
    folder = routed(tmp_path)
    content = json.loads((folder / "router_config.json").read_text())
    for types, structure in (
        ({TABLE: f"{OLD}Transformer"}, {}),
        ({}, {"image": [TABLE]}),
        ({DOCUMENT: f"{OLD}StaticEmbedding"}, {}),
    ):
        changed = content | {
            "types": content["types"] | types,
            "structure": content["structure"] | structure,
        }
        write(folder, {"router_config.json": changed})
        refused(folder, "known are queries to a SparseStaticEmbedding and documents to a Transfor")
    write(folder, {"router_config.json": {"types": [], "structure": {}}})
    refused(folder, "has no types and structure of routes")


M3 = (
    ("dense_vecs", ("batch", SIZE)),
    ("sparse_vecs", ("batch", "tokens", 1)),
    ("colbert_vecs", ("batch", "rest", SIZE)),
)


def test_a_graph_of_three_kinds(tmp_path):
    folder = plain(tmp_path, **{GRAPH: graph(*M3)})
    edit(folder, "tokenizer_config.json", cls_token="[CLS]", eos_token="[SEP]", unk_token="[UNK]")
    found = read(folder)
    spec = found.spec
    assert spec.kinds == ("dense", "sparse", "multi-vector")
    assert (spec.dense.output, spec.dense.pooling) == ("dense_vecs", "graph")
    assert (spec.sparse.output, spec.sparse.head) == ("sparse_vecs", "tokens")
    assert (spec.sparse.activation, spec.sparse.zero_ids) == ("relu", (0, 1, 2, 3))
    tokens = spec.multi_vector
    assert (tokens.output, tokens.drop_first, tokens.score) == ("colbert_vecs", True, "mean")
    assert tokens.query == TokenRole("", 40, (), "none", ())
    assert found.sources["sparse.head"] == f"{GRAPH}: output sparse_vecs"
    for kind in spec.kinds:
        assert read(folder, kind).spec.kinds == (kind,)
    refused(folder, "leave pooling out", ConfigError, pooling="cls")
    write(folder, {GRAPH: graph(*M3[:2])})
    refused(folder, "is a model of the kinds dense, sparse, not multi-vector", kind="multi-vector")
    write(folder, {GRAPH: graph(M3[0])})
    assert read(folder).spec.kinds == ("dense",)

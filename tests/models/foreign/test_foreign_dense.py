"""Dense folders: sentence-transformers' module lists, plain encoders, and a bare graph."""

import json

import numpy as np
import pytest
from foreign_folders import (
    CONFIG,
    GRAPH,
    NEW,
    POOLING,
    SETTINGS,
    SIZE,
    dense,
    edit,
    graph,
    modules,
    plain,
    real,
    refused,
    tensors,
    tokenizer,
    write,
)

from tessera_onnx import ConfigError, TesseraDense
from tessera_onnx.models.foreign.reader import read
from tessera_onnx.models.spec import Module, Role


def layer(folder, number, rows, columns, *, bias=True, name="Dense", **config):
    """The files of a Dense module."""
    shapes = {"linear__weight": (rows, columns)} | ({"linear__bias": (rows,)} if bias else {})
    if config.get("use_residual") and rows != columns:
        shapes["residual__weight"] = (rows, columns)
    settings = {"in_features": columns, "out_features": rows, "bias": bias} | config
    place = f"{number}_{name}"
    write(
        folder, {f"{place}/config.json": settings, f"{place}/model.safetensors": tensors(**shapes)}
    )


def test_what_sentence_transformers_saves(tmp_path):
    found = read(dense(tmp_path / "All-MiniLM X", "Normalize"))
    spec = found.spec
    assert (spec.id, spec.kinds, spec.licence) == ("all-minilm-x", ("dense",), "unknown")
    assert (spec.hub, spec.revision, spec.aliases) == (None, "unpinned", ())
    assert [(file.name, file.sha256) for file in spec.files] == [
        (GRAPH, "unpinned"),
        ("tokenizer.json", "unpinned"),
    ]
    assert spec.files[0].size == len(graph())
    assert (spec.graph.fp32, spec.graph.fp16, spec.graph.best_cpu) == (GRAPH, "", "fp32")
    text = spec.text
    assert (text.prefix_ids, text.suffix_ids, text.pad_id, text.mask_id) == ((2,), (3,), 0, 4)
    assert (text.max_positions, text.fixed_length, text.lowercase) == (40, 0, False)
    recipe = spec.dense
    assert (recipe.output, recipe.pooling, recipe.dimension) == ("", "mean", SIZE)
    assert recipe.modules is None  # L2 alone
    assert (recipe.query, recipe.document, recipe.plain) == (Role("", 32), Role("", 32), None)
    assert recipe.similarity is None


def test_each_fact_has_its_source(tmp_path):
    folder = dense(
        tmp_path, "Normalize", prompts={"query": "ask: "}, similarity_fn_name="dot", truncate_dim=4
    )
    sources = read(folder).sources
    assert sources == sources | {
        "dense.pooling": "1_Pooling/config.json: pooling_mode",
        "dense.dimension": f"{SETTINGS}: truncate_dim",
        "dense.modules": "modules.json",
        "dense.similarity": f"{SETTINGS}: similarity_fn_name",
        "dense.query.prompt": f"{SETTINGS}: prompts.query",
        "dense.query.max_length": "sentence_bert_config.json: max_seq_length",
        "text.prefix_ids": "tokenizer.json: post_processor",
        "text.pad_id": "tokenizer_config.json: pad_token",
        "text.max_positions": "config.json: max_position_embeddings",
        "graph": GRAPH,
    }


@pytest.mark.parametrize("types", ["old", "new"])
def test_all_names_of_the_classes(tmp_path, types):
    names = ["Transformer", "Pooling", "Normalize"]
    if types == "new":
        parts = ("base", "sentence_transformer", "base")
        files = ("transformer", "pooling", "normalize")
        names = [
            f"{NEW.format(part)}{file}.{name}"
            for part, file, name in zip(parts, files, names, strict=True)
        ]
    folder = dense(tmp_path, types=names)
    assert read(folder).spec.dense.pooling == "mean"


@pytest.mark.parametrize(
    ("config", "poolings"),
    [
        ({"pooling_mode": "lasttoken"}, ("last",)),
        ({"pooling_mode": ["cls", "weightedmean"]}, ("cls", "weightedmean")),
        ({"pooling_mode": ["max"]}, ("max",)),
        ({"pooling_mode_cls_token": True}, ("cls",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, ("mean_sqrt_len_tokens",)),
        ({"pooling_mode_cls_token": False}, ("mean",)),  # none is true
    ],
)
@pytest.mark.parametrize("size", ["embedding_dimension", "word_embedding_dimension"])
def test_poolings(tmp_path, config, poolings, size):
    folder = dense(tmp_path)
    write(folder, {"1_Pooling/config.json": {size: SIZE} | config})
    recipe = read(folder).spec.dense
    assert (recipe.pooling, *(recipe.further_poolings or ())) == poolings
    assert recipe.dimension == SIZE * len(poolings)
    assert recipe.modules == ()  # nothing follows, so nothing is scaled to unit length


def test_modules_after_the_pooling(tmp_path):
    folder = dense(tmp_path, "Dense", "Dropout", "LayerNorm", "Dense", "Normalize", truncate_dim=3)
    layer(folder, 2, 6, SIZE)
    write(folder, {"4_LayerNorm/config.json": {"dimension": 6}})
    write(folder, {"4_LayerNorm/model.safetensors": tensors(norm__weight=(6,), norm__bias=(6,))})
    gelu = "torch.nn.modules.activation.GELU"
    layer(folder, 5, 5, 6, bias=False, activation_function=gelu, use_residual=True)
    found = read(folder).spec
    assert found.dense.dimension == 3
    assert found.dense.modules == (
        Module("dense", "2_Dense/model.safetensors", "tanh", residual=False, dimension=6),
        Module("layer-norm", "4_LayerNorm/model.safetensors", "identity", False, 6),
        Module("dense", "5_Dense/model.safetensors", "gelu", residual=True, dimension=5),
        Module("normalize", "", "identity", residual=False, dimension=5),
        Module("truncate", "", "identity", residual=False, dimension=3),
    )
    names = [file.name for file in found.files]
    assert names[2:] == [module.file for module in found.dense.modules if module.file]


def test_a_cut_after_l2_leaves_what_upstream_leaves(tmp_path):
    recipe = read(dense(tmp_path, "Normalize", truncate_dim=5)).spec.dense
    assert [module.type for module in recipe.modules] == ["normalize", "truncate"]
    edit(tmp_path, SETTINGS, truncate_dim=9)  # longer than the vector: nothing is cut
    assert read(tmp_path).spec.dense.modules is None
    edit(tmp_path, SETTINGS, truncate_dim="all")
    refused(tmp_path, "has the truncate_dim 'all'")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "torch.nn.modules.activation.Softplus"}, "known are torch.nn's"),
        ({"activation_function": "mine.Swish"}, "activation_function 'mine.Swish'"),
        ({"in_features": 7}, r"reads 7 features, it gets 8"),
        ({"out_features": 7}, "its config.json asks for"),
        ({"out_features": None}, "does not say out_features"),
        ({"out_features": "6"}, "has the out_features '6'"),
        ({"bias": False}, "its config.json asks for"),
        ({"module_input_name": "token_embeddings"}, "module_input_name 'token_embeddings'"),
    ],
)
def test_dense_modules_that_do_not_fit(tmp_path, changes, message):
    folder = dense(tmp_path, "Dense")
    layer(folder, 2, 6, SIZE)
    edit(folder, "2_Dense/config.json", **changes)
    refused(folder, message)


def test_weights_of_modules(tmp_path):
    folder = dense(tmp_path, "Dense")
    layer(folder, 2, 6, SIZE)
    weights = folder / "2_Dense/model.safetensors"
    pickle = weights.rename(folder / "2_Dense/pytorch_model.bin")
    error = refused(folder, "pytorch_model.bin is a pickle and is not read, save the model as")
    assert error.path == str(weights)
    pickle.unlink()
    refused(folder, "2_Dense has no model.safetensors$")
    weights.write_bytes(b"\xff" * 64)
    refused(folder, "not a safetensors file")
    # While only the small files of a repository are here, the weights are only listed.
    listing = dict.fromkeys((GRAPH, "tokenizer.json", "2_Dense/model.safetensors"), -1)
    weights.unlink()
    (folder / GRAPH).unlink()
    spec = read(folder, listing=listing).spec
    assert [file.name for file in spec.files] == list(listing)
    assert spec.dense.modules[0].file == "2_Dense/model.safetensors"


def test_module_lists_that_are_not_computed(tmp_path):
    folder = dense(tmp_path)
    for types, message in (
        (("Transformer", "Pooling", "custom_st.Quantizer"), "the module 'custom_st.Quantizer', wh"),
        (("custom_st.Transformer", "Pooling"), "the module 'custom_st.Transformer', which"),
        (("Transformer", "Pooling", "SparseAutoEncoder"), "SparseAutoEncoder"),
        (("Transformer", "WordWeights", "Pooling"), "WordWeights is not computed here, since it w"),
        (("Transformer", "LSTM", "Pooling"), "LSTM is not computed here"),
        (("Transformer", "CNN", "Pooling"), "CNN is not computed here"),
        (("Transformer", "WeightedLayerPooling", "Pooling"), "needs the states of all layers"),
        (("Transformer", "Pooling", "Future"), "and not Future: it is unknown here"),
        (("WordEmbeddings", "Pooling"), "is a static model, a table of token vectors"),
        (("StaticEmbedding",), "has no model.safetensors"),
        (("Transformer",), "lists Transformer; a dense model is a Transformer, Pooling"),
        (("CLIPModel",), "CLIPModel is not computed here, since it reads images"),
        (("Transformer", "LogitScore"), "transformer_task None, and LogitScore goes with text-gen"),
    ):
        write(folder, {"modules.json": modules(*types)})
        refused(folder, message)
    write(folder, {"modules.json": {"0": "Transformer"}})
    refused(folder, "must hold a JSON array")
    write(folder, {"modules.json": [{"path": "../other"}]})
    refused(folder, "which is outside")


def test_a_prompt_that_the_pooling_leaves_out(tmp_path):
    folder = dense(tmp_path)
    edit(folder, "1_Pooling/config.json", include_prompt=False)
    refused(folder, "include_prompt is false")
    edit(folder, "1_Pooling/config.json", pooling_mode="lasttoken")
    assert read(folder).spec.dense.pooling == "last"


def test_pooling_that_is_not_said(tmp_path):
    folder = dense(tmp_path)
    edit(folder, "1_Pooling/config.json", pooling_mode=None)
    refused(folder, "names no mode; give pooling=")
    assert read(folder, pooling="last").spec.dense.pooling == "last"
    edit(folder, "1_Pooling/config.json", pooling_mode="median")
    refused(folder, r"asks for the pooling \['median'\]; known are cls, mean, lasttoken")
    (folder / "1_Pooling/config.json").unlink()
    refused(folder, "1_Pooling/config.json is not there: download the whole folder")


def test_prompts(tmp_path):
    names = {"query": "ask: ", "passage": "read: ", "clustering": "group: "}
    folder = dense(tmp_path, prompts=names, default_prompt_name="clustering")
    found = read(folder)
    recipe = found.spec.dense
    assert (recipe.query.prompt, recipe.document.prompt) == ("ask: ", "read: ")
    assert recipe.plain == Role("group: ", 32)
    assert [(task.name, task.prompt) for task in recipe.tasks] == [("clustering", "group: ")]
    assert found.sources["dense.document.prompt"] == f"{SETTINGS}: prompts.passage"
    assert found.sources["dense.plain.prompt"] == f"{SETTINGS}: default_prompt_name"
    edit(folder, SETTINGS, default_prompt_name="nothing")
    refused(folder, "default_prompt_name 'nothing', which is none of its prompts")
    # Upstream puts nothing before queries and documents of a folder with other prompts alone.
    edit(folder, SETTINGS, default_prompt_name=None, prompts={"s2p": "Instruct: "})
    recipe = read(folder).spec.dense
    assert (recipe.query.prompt, recipe.document.prompt, recipe.plain) == ("", "", None)
    edit(folder, SETTINGS, prompts=["ask: "])
    refused(folder, "must hold prompts as an object")


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarity(tmp_path, name):
    assert read(dense(tmp_path, similarity_fn_name=name)).spec.dense.similarity == name


def test_unknown_similarity(tmp_path):
    refused(dense(tmp_path, similarity_fn_name="jaccard"), "similarity_fn_name 'jaccard', known")


@pytest.mark.parametrize(
    ("transformer", "config", "length", "source"),
    [
        ({"max_seq_length": 20}, {}, 20, "sentence_bert_config.json: max_seq_length"),
        ({}, {"model_max_length": 24}, 24, "tokenizer_config.json: model_max_length"),
        (
            {},
            {},
            40,
            "tokenizer_config.json: model_max_length, cut to the positions of config.json",
        ),
        ({"max_seq_length": None}, {"model_max_length": 24}, 24, "tokenizer_config.json: model_"),
        ({}, {"model_max_length": None}, 40, "config.json: max_position_embeddings"),
        ({"max_seq_length": 20, "tokenizer_args": {"model_max_length": 12}}, {}, 12, "sentence"),
    ],
)
def test_lengths(tmp_path, transformer, config, length, source):
    folder = dense(tmp_path)
    write(folder, {"sentence_bert_config.json": transformer})
    edit(folder, "tokenizer_config.json", **config)
    found = read(folder)
    assert found.spec.dense.document.max_length == length
    assert found.sources["dense.document.max_length"].startswith(source)


def test_lengths_of_roles(tmp_path):
    folder = dense(tmp_path)
    edit(folder, "sentence_bert_config.json", query_length=10, document_length=20)
    found = read(folder)
    recipe = found.spec.dense
    assert (recipe.query.max_length, recipe.document.max_length) == (10, 20)
    source = "sentence_bert_config.json: document_length"
    assert found.sources["dense.document.max_length"] == source
    edit(folder, "sentence_bert_config.json", query_length=50)
    refused(folder, r"query_length 50 must lie in 3\.\.40")
    edit(folder, "sentence_bert_config.json", max_seq_length="long")
    refused(folder, "max_seq_length 'long', which is no number of tokens")


def test_older_names_of_the_transformers_file(tmp_path):
    folder = dense(tmp_path)
    (folder / "sentence_bert_config.json").rename(folder / "sentence_xlm-roberta_config.json")
    found = read(folder)
    assert found.spec.dense.document.max_length == 32
    assert "sentence_xlm-roberta_config.json" in found.sources["dense.document.max_length"]


def test_positions_that_begin_after_the_padding_id(tmp_path):
    folder = dense(tmp_path)
    edit(folder, "config.json", model_type="xlm-roberta", pad_token_id=1)
    assert read(folder).spec.text.max_positions == 38
    edit(folder, "sentence_bert_config.json", max_seq_length=40)
    assert read(folder).spec.dense.document.max_length == 38
    edit(folder, "sentence_bert_config.json", max_seq_length=41)
    refused(folder, r"max_length 41 must lie in 3\.\.38")


def test_relative_positions(tmp_path):
    folder = dense(tmp_path)
    edit(folder, "config.json", max_position_embeddings=None, model_type="t5")
    assert read(folder).spec.text.max_positions == 32
    write(folder, {"sentence_bert_config.json": {}})
    refused(folder, "max_positions is missing: config.json has no max_position_embeddings")


def test_the_encoder_in_a_folder_of_its_own(tmp_path):
    folder = dense(tmp_path, "Normalize")
    write(folder, {"modules.json": modules("Transformer", "Pooling", "Normalize")})
    content = json.loads((folder / "modules.json").read_text())
    content[0]["path"] = "0_Transformer"
    write(folder, {"modules.json": content})
    place = folder / "0_Transformer"
    place.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json",
                 "sentence_bert_config.json"):  # fmt: skip
        (folder / name).rename(place / name)
    spec = read(folder).spec  # the graph stays in onnx/
    assert spec.text.tokenizer == "0_Transformer/tokenizer.json"
    assert spec.dense.document.max_length == 32
    (folder / "onnx").rename(place / "onnx")
    assert read(folder).spec.graph.fp32 == "0_Transformer/onnx/model.onnx"


def test_optimum_puts_all_beside_the_graph(tmp_path):
    folder = dense(tmp_path)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(folder / "onnx" / name)
    assert read(folder).spec.text.tokenizer == "onnx/tokenizer.json"


def test_lower_case_that_the_tokenizer_does_not_do(tmp_path):
    folder = dense(tmp_path)
    edit(folder, "sentence_bert_config.json", do_lower_case=True)
    assert read(folder).spec.text.lowercase is False  # tokenizer.json does it
    write(folder, {"tokenizer.json": tokenizer(normalizer={"type": "NFC"})})
    found = read(folder)
    assert found.spec.text.lowercase is True
    assert found.sources["text.lowercase"] == "sentence_bert_config.json: do_lower_case"


def test_a_plain_encoder_needs_the_callers_pooling(tmp_path):
    folder = plain(tmp_path)
    message = (
        "pooling is missing, since it has no modules.json of sentence-transformers. Give pooling= "
        "as the model's authors say, one of cls, mean, last, max, mean_sqrt_len_tokens, weighted"
    )
    refused(folder, message)
    recipe = read(folder, pooling="cls").spec.dense
    assert (recipe.pooling, recipe.dimension, recipe.modules) == ("cls", SIZE, None)
    assert read(folder, pooling="cls").sources["dense.pooling"] == "pooling="
    refused(folder, "pooling is 'average', expected one of cls", ConfigError, pooling="average")
    write(folder, {"1_Pooling/config.json": POOLING})
    refused(folder, "it has 1_Pooling and no modules.json, which says what follows")
    edit(folder, "config.json", auto_map={"AutoModel": "own.Model"})
    (folder / "1_Pooling/config.json").unlink()
    refused(folder, r"Python code of a repository \(auto_map in config.json\), which is not run")


def test_a_pooling_that_contradicts_the_folder(tmp_path):
    folder = dense(tmp_path)
    assert read(folder, pooling="mean").spec.dense.pooling == "mean"
    message = "contradicts 1_Pooling/config.json: pooling_mode .*, which is mean: leave pooling out"
    refused(folder, message, ConfigError, pooling="cls")


@pytest.mark.parametrize("name", ["sentence_embedding", "text_embeds"])
def test_a_graph_that_pools_says_so_by_the_name_of_its_output(tmp_path, name):
    states = ("last_hidden_state", ("b", "n", SIZE))
    folder = plain(tmp_path, **{GRAPH: graph(states, (name, ("b", SIZE)))})
    recipe = read(folder).spec.dense
    assert (recipe.output, recipe.pooling, recipe.dimension) == (name, "graph", SIZE)
    assert read(folder, pooling="mean").spec.dense.pooling == "mean"
    write(folder, {GRAPH: graph((name, ("b", SIZE)))})
    message = "gives the vector of a text: leave pooling out"
    refused(folder, message, ConfigError, pooling="mean")
    # The state of [CLS] after a layer for neighbouring sentences has the same shape.
    write(folder, {GRAPH: graph(states, ("pooler_output", ("b", SIZE)))})
    refused(folder, "pooling is missing")


def test_a_graph_with_its_tokenizer_alone(tmp_path):
    folder = real(tmp_path)
    assert read(folder, pooling="mean").spec.dense.document.max_length == 1 << 20  # nothing cuts
    content = json.loads((folder / "tokenizer.json").read_text())
    content["truncation"] = {"max_length": 40, "strategy": "LongestFirst", "stride": 0,
                             "direction": "Right"}  # fmt: skip
    write(folder, {"tokenizer.json": content})
    assert read(folder, pooling="mean").spec.text.pad_id == 0  # the token [PAD]
    # [UNK], since nothing reads what stands behind the mask.
    content["padding"] = {"strategy": "BatchLongest", "direction": "Right", "pad_id": 3,
                          "pad_type_id": 0, "pad_token": "[PAD]",
                          "pad_to_multiple_of": None}  # fmt: skip
    write(folder, {"tokenizer.json": content})
    refused(folder, "pooling is missing")
    spec = read(folder, pooling="mean").spec
    assert (spec.dense.dimension, spec.dense.document.max_length, spec.text.pad_id) == (32, 40, 3)
    with (
        TesseraDense(path=folder, pooling="mean") as ours,
        TesseraDense(path=folder, pooling="cls") as other,
    ):
        assert ours.dimension() == 32
        assert np.abs(ours.encode("a cat") - other.encode("a cat")).max() > 1e-3


def test_a_decoders_size_and_positions_may_be_nested(tmp_path):
    folder = plain(tmp_path)
    nested = {"hidden_size": SIZE, "vocab_size": 64, "max_position_embeddings": 40}
    write(folder, {"config.json": {"model_type": "gemma3", "text_config": nested}})
    assert read(folder, pooling="last").spec.dense.dimension == SIZE
    # EmbeddingGemma 2: its last layer makes vectors of another size.
    nested |= {"hidden_size": 8, "hidden_size_per_layer_input": 8, "embedding_dim": SIZE}
    write(folder, {"config.json": {"model_type": "embedding_gemma2", "text_config": nested}})
    assert read(folder, pooling="mean").spec.dense.dimension == SIZE


def test_a_graph_of_a_fixed_number_of_tokens(tmp_path):
    folder = dense(tmp_path)
    write(folder, {GRAPH: graph(dims=("batch", 16))})
    spec = read(folder).spec
    assert (spec.text.fixed_length, spec.text.max_positions) == (16, 16)
    assert spec.dense.document.max_length == 16
    write(folder, {GRAPH: graph(dims=(1, 16))})
    refused(folder, "takes exactly 1 texts at once")


def test_licences(tmp_path):
    folder = dense(tmp_path)
    for front, expected in (
        ("license: apache-2.0\ntags:\n- a", "apache-2.0"),
        ("tags:\n- a\nlicense: 'mit'", "mit"),
        ("license:\n- cc-by-nc-4.0", "cc-by-nc-4.0"),
        ("license: other\nlicense_name: gemma", "gemma"),
        ("license: other", "other"),
        ("tags: []", "unknown"),
    ):
        write(folder, {"README.md": f"---\n{front}\n---\n# A model\n"})
        assert read(folder).spec.licence == expected
    write(folder, {"README.md": "# license: mit"})
    assert read(folder).spec.licence == "unknown"


def test_config_without_the_size_of_states(tmp_path):
    folder = dense(tmp_path)
    write(folder, {"config.json": {k: v for k, v in CONFIG.items() if k != "hidden_size"}})
    assert read(folder).spec.dense.dimension == SIZE  # the Pooling module says it
    edit(folder, "1_Pooling/config.json", embedding_dimension=None)
    refused(folder, "1_Pooling/config.json does not say embedding_dimension")

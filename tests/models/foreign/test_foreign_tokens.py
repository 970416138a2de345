"""Multi-vector folders: sentence-transformers', PyLate's, Stanford's and next-plaid's layouts."""

import string

import pytest
from foreign_folders import (
    GRAPH,
    SETTINGS,
    SIZE,
    edit,
    graph,
    modules,
    plain,
    refused,
    tensors,
    write,
)

from tessera_onnx.models.foreign.reader import read
from tessera_onnx.models.spec import Module, TokenRole

SMALL = 4  # numbers of a token vector after the projection
IDENTITY = "torch.nn.modules.linear.Identity"
PROJECTION = Module("dense", "1_Dense/model.safetensors", "identity", False, SMALL)
PUNCTUATION = (17, 18, 19, 24)  # those of the vocabulary


def dense_module(folder, number=1, rows=SMALL, columns=SIZE, **config):
    place = f"{number}_Dense"
    settings = {
        "in_features": columns, "out_features": rows, "bias": False,
        "activation_function": IDENTITY,
    } | config  # fmt: skip
    shapes = {"linear__weight": (rows, columns)}
    write(
        folder, {f"{place}/config.json": settings, f"{place}/model.safetensors": tensors(**shapes)}
    )


def own(folder, transformer=(), mask=(), **settings):
    """A folder that MultiVectorEncoder of sentence-transformers saved."""
    plain(folder)
    tokens = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    dense_module(folder, **tokens)
    return write(
        folder,
        {
            "modules.json": modules("Transformer", "Dense", "Normalize", "MultiVectorMask"),
            "2_Normalize/config.json": tokens,
            "3_MultiVectorMask/config.json": {"skiplist_words": [",", "no"]} | dict(mask),
            "sentence_bert_config.json": {"max_seq_length": 32} | dict(transformer),
            SETTINGS: {"model_type": "MultiVectorEncoder", "prompts": {}} | settings,
        },
    )


def pylate(folder, **settings):
    """A folder that PyLate saved."""
    plain(folder)
    dense_module(folder)
    return write(
        folder,
        {
            "modules.json": modules("Transformer", "pylate.models.Dense.Dense"),
            "sentence_bert_config.json": {"max_seq_length": 31},
            SETTINGS: {
                "model_type": "ColBERT", "query_prefix": "[Q] ", "document_prefix": "[D] ",
                "query_length": 16, "document_length": 30, "do_query_expansion": True,
                "attend_to_expansion_tokens": False, "skiplist_words": list(string.punctuation),
            } | settings,
        },
    )  # fmt: skip


def stanford(folder, *output, **metadata):
    plain(folder, **{GRAPH: graph(output or ("contextual", ("b", "n", SMALL)))})
    edit(folder, "config.json", architectures=["HF_ColBERT"])
    said = {"query_maxlen": 16, "doc_maxlen": 30, "dim": SMALL, "mask_punctuation": True}
    return write(folder, {"artifact.metadata": said | metadata})


def test_sentence_transformers(tmp_path):
    folder = own(
        tmp_path,
        {"query_length": 12, "document_length": 30},
        prompts={"query": "[unused0]", "document": "read: "},
        similarity_fn_name="meanmaxsim",
    )
    found = read(folder)
    recipe = found.spec.multi_vector
    assert found.spec.kinds == ("multi-vector",)
    assert (recipe.output, recipe.dimension, recipe.score) == ("", SMALL, "mean")
    assert recipe.query == TokenRole("[unused0]", 12, (), "none", ())
    assert recipe.document == TokenRole("read: ", 30, (), "none", (18,))
    assert (recipe.modules, recipe.drop_first, recipe.plain) == ((PROJECTION,), False, None)
    assert found.sources["multi_vector.query.max_length"].endswith(": query_length")
    assert found.sources["multi_vector.score"] == f"{SETTINGS}: similarity_fn_name"
    assert [file.name for file in found.spec.files][2:] == [PROJECTION.file]


@pytest.mark.parametrize(
    ("transformer", "role"),
    [
        ({"query_expansion": {"strategy": "fixed", "length": 12}}, ("unattended", 12, None)),
        ({"query_expansion": {"strategy": "fixed", "length": 12, "attend": True}},
         ("attended", 12, None)),
        ({"query_expansion": {"strategy": "min", "length": 12}}, ("unattended", 32, 12)),
        ({"query_expansion": {"strategy": "min", "length": 12}, "query_length": 20},
         ("unattended", 20, 12)),
        ({"query_expansion": {"strategy": "min", "length": 12}, "query_length": 5},
         ("unattended", 12, 12)),
        ({"query_expansion": {"strategy": "fixed", "length": 12, "token": "[MASK]"}},
         ("unattended", 12, None)),
        ({}, ("none", 32, None)),
    ],
)  # fmt: skip
def test_query_expansion(tmp_path, transformer, role):
    spec = read(own(tmp_path, transformer)).spec
    query = spec.multi_vector.query
    assert (query.expansion, query.max_length, query.expansion_length) == role
    assert spec.text.mask_id == 4


def test_other_tokens_of_an_expansion(tmp_path):
    expansion = {"strategy": "fixed", "length": 12, "token": "[unused1]"}
    folder = own(tmp_path, {"query_expansion": expansion})
    assert read(folder).spec.text.mask_id == 6
    # Without a mask token it is the end of the text.
    edit(folder, "sentence_bert_config.json", query_expansion=expansion | {"token": None})
    edit(folder, "tokenizer_config.json", mask_token=None, eos_token="[SEP]")
    assert read(folder).spec.text.mask_id == 3
    edit(folder, "tokenizer_config.json", eos_token=None)
    refused(folder, "the tokenizer names no mask token")
    edit(folder, "sentence_bert_config.json", query_expansion=expansion | {"token": "[NO]"})
    refused(folder, r"query_expansion '\[NO\]' is not a token of the vocabulary")


@pytest.mark.parametrize(
    ("expansion", "message"),
    [
        ({"strategy": "most", "length": 5}, "known are the strategies fixed and min"),
        ({"strategy": "fixed", "length": 5, "more": 1}, "known are the strategies"),
        ({"strategy": "fixed"}, "query_expansion.length None, which is no number of tokens"),
        ({"strategy": "fixed", "length": 41}, r"query_length 41 must lie in 3\.\.40"),
        ({"strategy": "min", "length": 36}, "fills queries up to 36 tokens, but reads 32 at most"),
        ("fixed", "known are the strategies"),
    ],
)
def test_expansions_that_cannot_be(tmp_path, expansion, message):
    refused(own(tmp_path, {"query_expansion": expansion}), message)


def test_a_ceiling_below_the_expansion(tmp_path):
    expansion = {"strategy": "fixed", "length": 12}
    folder = own(tmp_path, {"query_expansion": expansion, "query_length": 8})
    refused(folder, "has the query_length 8, less than the length of query_expansion, 12")


def test_tokens_that_are_skipped(tmp_path):
    folder = own(tmp_path, mask={"skiplist_tasks": "query"})
    recipe = read(folder).spec.multi_vector
    assert (recipe.query.skip_ids, recipe.document.skip_ids) == ((18,), ())
    edit(folder, "sentence_bert_config.json",
         query_expansion={"strategy": "fixed", "length": 12})  # fmt: skip
    refused(folder, "skiplist_tasks names queries")
    edit(folder, "3_MultiVectorMask/config.json", keep_only_token_ids=[5])
    refused(folder, "keeps some token ids only, which is for images")
    edit(folder, "3_MultiVectorMask/config.json", keep_only_token_ids=None, skiplist_words="no")
    refused(folder, "skiplist_words must be a list of words")


def test_module_lists(tmp_path):
    folder = own(tmp_path)
    for types in (
        ("Transformer", "Dense", "Normalize"),
        ("Transformer", "Dense", "MultiVectorMask"),
        ("Transformer", "Pooling", "Normalize", "MultiVectorMask"),
        ("Transformer", "Dense", "HierarchicalTokenPooling", "Normalize", "MultiVectorMask"),
    ):
        write(folder, {"modules.json": modules(*types)})
        refused(folder, "a MultiVectorEncoder is one Transformer|lists no MultiVectorMask")
    for types in (
        ("Transformer", "Dense", "MultiVectorMask", "Normalize"),
        ("Transformer", "Normalize", "MultiVectorMask"),
    ):
        write(folder, {"modules.json": modules(*types)})
        for number, name in enumerate(types[1:], 1):
            write(folder, {f"{number}_{name}/config.json": {}})
            if name == "Normalize":
                tokens = {"module_input_name": "token_embeddings"}
                write(folder, {f"{number}_{name}/config.json": tokens})
        dense_module(folder)
        size = SIZE if len(types) == 3 else SMALL
        assert read(folder).spec.multi_vector.dimension == size
    write(folder, {"1_Normalize/config.json": {}})
    refused(folder, "1_Normalize does not work on token_embeddings")


def test_pylate(tmp_path):
    recipe = read(pylate(tmp_path)).spec.multi_vector
    assert recipe.query == TokenRole("", 16, (7,), "unattended", ())
    assert recipe.document == TokenRole("", 30, (8,), "none", PUNCTUATION)
    assert (recipe.dimension, recipe.modules, recipe.score) == (SMALL, (PROJECTION,), "sum")


@pytest.mark.parametrize(
    ("settings", "expansion", "skipped"),
    [
        ({"do_query_expansion": False}, "none", PUNCTUATION),
        ({"do_query_expansion": None, "skiplist_words": []}, "unattended", ()),
        ({"attend_to_expansion_tokens": True, "skiplist_words": None}, "attended", PUNCTUATION),
    ],
)
def test_settings_of_pylate(tmp_path, settings, expansion, skipped):
    recipe = read(pylate(tmp_path, **settings)).spec.multi_vector
    assert (recipe.query.expansion, recipe.document.skip_ids) == (expansion, skipped)


def test_markers_of_pylate(tmp_path):
    folder = pylate(tmp_path, query_prefix="", document_prefix="")
    recipe = read(folder).spec.multi_vector
    assert (recipe.query.marker_ids, recipe.document.marker_ids) == ((), ())
    # A word of the vocabulary is inserted, and anything else is text.
    edit(
        folder, SETTINGS, query_prefix="[unused0] ", document_prefix="[X] ", prompts={"query": "q"}
    )
    recipe = read(folder).spec.multi_vector
    assert (recipe.query.marker_ids, recipe.query.prompt) == ((5,), " q")
    assert (recipe.document.marker_ids, recipe.document.prompt) == ((), "[X] ")


def test_plain_texts_of_pylate(tmp_path):
    folder = pylate(tmp_path, prompts={"document": "read: ", "other": "o: "})
    edit(folder, SETTINGS, default_prompt_name="other")
    recipe = read(folder).spec.multi_vector
    assert recipe.document.prompt == "read: "
    assert recipe.plain == TokenRole("o: ", 31, (), "none", PUNCTUATION)


def test_projections_inside_the_graph(tmp_path):
    folder = pylate(tmp_path)
    write(folder, {GRAPH: graph(("output", ("b", "n", SMALL)))})
    assert read(folder).spec.multi_vector.modules is None
    write(folder, {GRAPH: graph(("output", ("b", "n", "size")))})  # told when it is open
    assert read(folder).spec.multi_vector.modules == (PROJECTION,)
    write(folder, {GRAPH: graph(("last_hidden_state", ("b", "n", 5)))})
    refused(folder, "gives 5 numbers a token .* these are files of two models")
    # next-plaid's export keeps the matrix of a module, and loses the rest.
    write(folder, {GRAPH: graph(("output", ("b", "n", SMALL))), "onnx_config.json": {}})
    dense_module(folder, activation_function="torch.nn.modules.activation.GELU")
    refused(folder, "was exported by next-plaid .* the activation or the residual of 1_Dense")


def test_stanford(tmp_path):
    found = read(stanford(tmp_path))
    recipe = found.spec.multi_vector
    assert recipe.query == TokenRole("", 16, (5,), "unattended", ())
    assert recipe.document == TokenRole("", 30, (6,), "none", (1, *PUNCTUATION))
    assert (recipe.dimension, recipe.modules) == (SMALL, None)
    assert found.sources["multi_vector.dimension"] == "artifact.metadata: dim"
    (tmp_path / "artifact.metadata").rename(tmp_path / "kept")
    refused(tmp_path, "architecture HF_ColBERT, but artifact.metadata, .* is missing")
    (tmp_path / "kept").rename(tmp_path / "artifact.metadata")
    edit(tmp_path, "artifact.metadata", dim=None)
    assert read(tmp_path).sources["multi_vector.dimension"] == f"{GRAPH}: its output"
    write(tmp_path, {GRAPH: graph(("contextual", ("b", "n", "size")))})
    refused(tmp_path, "does not say the size of its token vectors")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"similarity": "l2"}, "has similarity 'l2', known is only cosine"),
        ({"interaction": "flipr"}, "has interaction 'flipr'"),
        ({"doc_maxlen": None}, "document_length is missing: artifact.metadata has no doc_maxlen"),
        ({"doc_maxlen": 41}, r"document_length 41 must lie in 3\.\.40"),
        ({"query_maxlen": "long"}, "query_maxlen 'long', which is no number"),
        ({"query_token_id": "[nope]"}, "query_token_id '.nope.' is not a token"),
    ],
)
def test_metadata_that_is_not_known(tmp_path, metadata, message):
    refused(stanford(tmp_path, **metadata), message)


def test_stanfords_projection_beside_the_graph(tmp_path):
    folder = stanford(tmp_path, "last_hidden_state", ("b", "n", SIZE))
    refused(folder, "the projection to 4 .linear.weight. is in no model.safetensors")
    shapes = {"bert__embeddings": (3, SIZE), "linear__weight": (SMALL, SIZE)}
    write(folder, {"model.safetensors": tensors(**shapes)})
    spec = read(folder).spec
    (part,) = spec.multi_vector.modules
    assert part == Module("dense", "model.safetensors", "identity", False, SMALL)
    assert part.file in [file.name for file in spec.files]
    edit(folder, "artifact.metadata", dim=3)
    refused(folder, "projects to 4 numbers, artifact.metadata says 3")


def test_prompts_beside_stanfords_metadata(tmp_path):
    folder = stanford(tmp_path)
    write(folder, {SETTINGS: {"prompts": {"query": "ask: "}}})
    refused(folder, "remove one of the two")


def test_next_plaid(tmp_path):
    config = {
        "query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 16,
        "document_length": 30, "do_query_expansion": False, "embedding_dim": SMALL,
        "skiplist_words": [","], "do_lower_case": False,
    }  # fmt: skip
    folder = plain(tmp_path, **{"onnx_config.json": config})
    (folder / GRAPH).rename(folder / "model.onnx")
    write(folder, {"model.onnx": graph(("output", ("b", "n", SMALL)))})
    recipe = read(folder).spec.multi_vector
    assert recipe.query == TokenRole("", 16, (7,), "none", ())
    assert recipe.document == TokenRole("", 30, (8,), "none", (18,))
    assert (recipe.dimension, recipe.modules) == (SMALL, None)


def test_a_multi_vector_folder_without_its_layout(tmp_path):
    folder = plain(tmp_path)
    refused(folder, "is a model of kind dense, not multi-vector", kind="multi-vector")
    write(folder, {SETTINGS: {"model_type": "ColBERT"}})
    refused(folder, "modules.json is missing, which says what follows the encoder")

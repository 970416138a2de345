import json
import string
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from architectures import small
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from tokenizers import AddedToken

from tessera_export import source
from tessera_export.errors import ExportError
from tessera_export.texts import folder
from tessera_onnx import TesseraMultiVector
from tessera_onnx.models import catalogue
from tessera_onnx.models.spec import MultiVector, TokenRole

pytestmark = pytest.mark.export

METADATA = {
    "query_maxlen": 32,
    "doc_maxlen": 100,
    "mask_punctuation": True,
    "attend_to_mask_tokens": False,
    "dim": 32,
    "query_token_id": "[unused0]",
    "doc_token_id": "[unused1]",
    "similarity": "cosine",
}


@pytest.fixture
def stanford(make, bert):
    """A folder of the layout of colbertv2.0: HF_ColBERT, linear.weight beside the encoder."""

    def build(name="stanford", **changes):
        place = make(name, bert, {"artifact.metadata": METADATA | changes})
        tensors = {f"bert.{key}": value for key, value in bert.state_dict().items()}
        torch.manual_seed(3)
        tensors["linear.weight"] = torch.randn(32, 64)
        save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps(config | {"architectures": ["HF_ColBERT"]}))
        return place

    return build


def kept(running, texts, role):
    """The vectors that a role keeps, a list of (n_tokens, dimension)."""
    result, mask = running.run(texts, role, running.spec.multi_vector.output)
    if role.expansion != "none":
        return list(result)
    keep = (mask > 0) & ~np.isin(running.last_ids, role.skip_ids)
    return [rows[rule] for rows, rule in zip(result, keep, strict=True)]


def assert_close(ours, theirs):
    assert [rows.shape for rows in ours] == [tuple(rows.shape) for rows in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert np.abs(mine - np.asarray(other)).max() <= 1e-4


def test_the_catalogue_adds_the_sizes_that_a_folder_does_not_name(stanford):
    """jina-colbert-v2 was trained for smaller vectors; its catalogue entry alone says so."""
    known = next(spec for spec in catalogue.catalogue() if spec.id == "jina-colbert-v2")
    role = replace(known.multi_vector.query, max_length=32)
    recipe = replace(known.multi_vector, matryoshka=(16, 8), query=role, document=role)
    for doubts, sizes in (((), (16, 8)), (("multi_vector.matryoshka",), ())):
        entry = replace(known, multi_vector=recipe, unverified=doubts)
        found = source.Source(stanford(), "jinaai/jina-colbert-v2", "unpinned", entry)
        facts = source.read(found, ("multi-vector",), folder.Overrides())
        assert facts.multi_vector.matryoshka == sizes


def test_stanford_facts(stanford):
    facts = folder.read(stanford(), ["multi-vector"])
    recipe = facts.multi_vector
    assert recipe.query == TokenRole("", 32, (1,), "unattended", ())
    assert (recipe.document.marker_ids, recipe.document.max_length) == ((2,), 100)
    assert recipe.document.expansion == "none"
    # vespa-engine/vespa's ColBertEmbedder lists the same ids for the same vocabulary.
    expected = [*range(999, 1014), *range(1024, 1037), *range(1063, 1067)]
    assert list(recipe.document.skip_ids) == expected
    assert len(expected) == len(string.punctuation)


@pytest.mark.parametrize("attend", [False, True])
def test_stanford_equals_torch(stanford, bert, exported, texts, attend):
    place = stanford(attend_to_mask_tokens=attend)
    running = exported(place, "multi-vector", precisions=("fp32", "fp16"))
    linear = load_file(place / "model.safetensors")["linear.weight"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    recipe = running.spec.multi_vector
    ours = kept(running, texts, recipe.query)
    documents = kept(running, texts, recipe.document)
    for text, query, document in zip(texts, ours, documents, strict=True):
        ids = tokenizer(text, truncation=True, max_length=31, padding="max_length")
        ids = [101, 1, *(103 if i == 0 else i for i in ids["input_ids"][1:])]
        mask = torch.tensor([[1 if attend or i != 103 else 0 for i in ids]])
        with torch.no_grad():
            hidden = bert(torch.tensor([ids]), attention_mask=mask).last_hidden_state[0]
        rows = torch.nn.functional.normalize(hidden @ linear.T, dim=-1)
        assert np.abs(query - rows.numpy()).max() <= 1e-4
        ids = tokenizer(text, truncation=True, max_length=99)["input_ids"]
        ids = [101, 2, *ids[1:]]
        with torch.no_grad():
            hidden = bert(torch.tensor([ids])).last_hidden_state[0]
        keep = torch.tensor([i not in recipe.document.skip_ids for i in ids])
        rows = torch.nn.functional.normalize(hidden @ linear.T, dim=-1)[keep]
        assert np.abs(document - rows.numpy()).max() <= 1e-4


def test_stanford_equals_sentence_transformers(stanford, exported, texts):
    place = stanford()
    running = exported(place, "multi-vector")
    model = MultiVectorEncoder(str(place), device="cpu")
    recipe = running.spec.multi_vector
    assert_close(kept(running, texts, recipe.query), model.encode_query(texts))
    assert_close(kept(running, texts, recipe.document), model.encode_document(texts))


def test_stanford_in_int4(stanford, exported, texts):
    made = exported(stanford(), "multi-vector", precisions=("fp32", "int4"))
    with (
        TesseraMultiVector(path=made.place, precision="int4", on_long="truncate") as model,
        TesseraMultiVector(path=made.place, precision="fp32", on_long="truncate") as usual,
    ):
        together, truth = model.encode_batch(texts), usual.encode_batch(texts)
        for ours, text, true in zip(together, texts, truth, strict=True):
            np.testing.assert_allclose(ours, model.encode(text), rtol=0, atol=1e-5)
            assert (ours * true).sum(axis=1).mean() > 0.9


def test_the_issues_example_has_seven_tokens(stanford, exported):
    running = exported(stanford(), "multi-vector")
    recipe = running.spec.multi_vector
    (rows,) = kept(running, ["What is machine learning?"], recipe.document)
    assert (rows.shape, rows.dtype) == ((7, 32), np.float32)
    assert np.allclose(np.linalg.norm(rows, axis=-1), 1, atol=1e-5)
    (rows,) = kept(running, ["What is machine learning?"], recipe.query)
    assert rows.shape == (32, 32)


def pylate_folder(make, minilm, name="pylate", *, backbone="bert", **settings):
    model = small(backbone, vocab_size=30524)
    layers = [
        {"in_features": 64, "out_features": 96, "bias": True, "use_residual": True,
         "activation_function": "torch.nn.modules.activation.GELU"},
        {"in_features": 96, "out_features": 96, "bias": False, "use_residual": True,
         "activation_function": "torch.nn.modules.activation.ReLU"},
        {"in_features": 96, "out_features": 32, "bias": False,
         "activation_function": "torch.nn.modules.linear.Identity"},
    ]  # fmt: skip
    modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    modules += [
        {"path": f"{i + 1}_Dense", "type": "pylate.models.Dense.Dense"} for i in range(len(layers))
    ]
    files = {
        "modules.json": [{"idx": i, "name": str(i)} | m for i, m in enumerate(modules)],
        "config_sentence_transformers.json": {
            "model_type": "ColBERT",
            "query_prefix": "[Q] ",
            "document_prefix": "[D] ",
            "query_length": 24,
            "document_length": 90,
            "attend_to_expansion_tokens": False,
            "skiplist_words": [",", ".", "!"],
            "do_query_expansion": True,
        }
        | settings,
        "sentence_bert_config.json": {"max_seq_length": 100},
    }
    for index, layer in enumerate(layers):
        files[f"{index + 1}_Dense/config.json"] = layer
    place = make(name, model, files)
    torch.manual_seed(4)
    for index, layer in enumerate(layers):
        shape = (layer["out_features"], layer["in_features"])
        tensors = {"linear.weight": torch.randn(shape) / 8}
        if layer["bias"]:
            tensors["linear.bias"] = torch.randn(shape[0])
        if layer.get("use_residual") and shape[0] != shape[1]:
            tensors["residual.weight"] = torch.randn(shape) / 8
        save_file(tensors, place / f"{index + 1}_Dense/model.safetensors")
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("[Q] ", "[D] ")])
    tokenizer.save_pretrained(place)
    return place


@pytest.mark.parametrize(
    ("backbone", "settings"),
    [
        ("bert", {}),
        ("modernbert", {}),
        ("modernbert", {"attend_to_expansion_tokens": True}),
        ("modernbert", {"do_query_expansion": False}),
        ("bert", {"do_query_expansion": False, "skiplist_words": []}),
        ("distilbert", {}),
        ("roberta", {"attend_to_expansion_tokens": True}),
        ("xlm-roberta", {}),
        ("mpnet", {}),
    ],
)
def test_pylate_equals_sentence_transformers(make, minilm, exported, texts, backbone, settings):
    place = pylate_folder(make, minilm, backbone=backbone, **settings)
    running = exported(place, "multi-vector", precisions=("fp32", "fp16", "int8"))
    recipe = running.spec.multi_vector
    assert (recipe.query.marker_ids, recipe.document.marker_ids) == ((30522,), (30523,))
    model = MultiVectorEncoder(str(place), device="cpu")
    assert_close(kept(running, texts, recipe.document), model.encode_document(texts))
    assert_close(kept(running, texts, recipe.query), model.encode_query(texts))


def test_pylate_without_its_keys_takes_pylates_defaults(make, minilm):
    place = pylate_folder(make, minilm)
    (place / "config_sentence_transformers.json").write_text('{"model_type": "ColBERT"}')
    with pytest.raises(ExportError, match=r"document_length 180 must lie in 3\.\.130"):
        folder.read(place, ["multi-vector"])
    facts = folder.read(place, ["multi-vector"], folder.Overrides(document_length=60))
    recipe = facts.multi_vector
    assert (recipe.query.max_length, recipe.query.expansion) == (32, "unattended")
    assert len(recipe.document.skip_ids) == len(string.punctuation)


@pytest.fixture
def own(make, bert, minilm, tmp_path):
    """own(...): a folder that sentence-transformers' MultiVectorEncoder saved itself."""

    def build(name="own", mask=(), similarity=None, *, mask_first=False, **settings):
        encoder = make("encoder", bert)
        torch.manual_seed(6)
        tokens = {"module_input_name": "token_embeddings"}
        last = [Normalize(**tokens), MultiVectorMask([",", ".", "nosuchtoken"], **dict(mask))]
        model = MultiVectorEncoder(
            modules=[
                Transformer(str(encoder), **settings),
                Dense(64, 32, bias=False, activation_function=torch.nn.Identity(),
                      module_output_name="token_embeddings", **tokens),
                *(last[::-1] if mask_first else last),
            ],
            prompts={"query": "[unused0]", "document": "read: "},
            similarity_fn_name=similarity,
            device="cpu",
        )  # fmt: skip
        model.save(str(tmp_path / name))
        return tmp_path / name

    return build


@pytest.mark.parametrize(
    ("settings", "mask", "expansion"),
    [
        ({"query_length": 24, "document_length": 90}, {"skiplist_tasks": ["query"]}, "none"),
        ({"query_expansion": {"strategy": "fixed", "length": 32}}, {}, "unattended"),
        ({"query_expansion": {"strategy": "fixed", "length": 20, "attend": True}}, {}, "attended"),
    ],
)
def test_sentence_transformers_own_layout(own, exported, texts, settings, mask, expansion):
    place = own(mask=mask, similarity="meanmaxsim", **settings)
    running = exported(place, "multi-vector")
    recipe = running.spec.multi_vector
    assert (recipe.query.expansion, recipe.score) == (expansion, "mean")
    assert (recipe.query.prompt, recipe.document.prompt) == ("[unused0]", "read: ")
    model = MultiVectorEncoder(str(place), device="cpu")
    assert_close(kept(running, texts, recipe.document), model.encode_document(texts))
    assert_close(kept(running, texts, recipe.query), model.encode_query(texts))


def test_that_layout_as_sentence_transformers_begins_one(own, exported, texts):
    """A MultiVectorEncoder made of a plain encoder masks first and normalizes then."""
    place = own(mask_first=True, query_length=24, document_length=90)
    running = exported(place, "multi-vector")
    recipe = running.spec.multi_vector
    assert len(recipe.document.skip_ids) == 2
    model = MultiVectorEncoder(str(place), device="cpu")
    assert_close(kept(running, texts, recipe.document), model.encode_document(texts))
    assert_close(kept(running, texts, recipe.query), model.encode_query(texts))


@pytest.mark.parametrize("default", ["query", "document", "clustering"])
def test_default_prompts_of_that_layout(own, exported, texts, default):
    place = own(query_length=24, document_length=90)
    path = place / "config_sentence_transformers.json"
    prompts = {"query": "[unused0]", "document": "read: ", "clustering": "group these, "}
    changes = {"prompts": prompts, "default_prompt_name": default}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    running = exported(place, "multi-vector")
    upstream = MultiVectorEncoder(str(place), device="cpu")
    with TesseraMultiVector(path=running.place, on_long="truncate") as model:
        assert_close(model.encode_batch(texts), upstream.encode(texts))
        assert_close(model.encode_query(texts), upstream.encode_query(texts))
        assert_close(model.encode_document(texts), upstream.encode_document(texts))


@pytest.mark.parametrize("default", ["query", "document", "clustering"])
def test_default_prompts_of_pylates_layout(make, minilm, exported, texts, default):
    prompts = {"query": "ask, ", "document": "read, ", "clustering": "group these, "}
    place = pylate_folder(make, minilm, prompts=prompts, default_prompt_name=default)
    running = exported(place, "multi-vector")
    upstream = MultiVectorEncoder(str(place), device="cpu")
    with TesseraMultiVector(path=running.place, on_long="truncate") as model:
        assert_close(model.encode_batch(texts), upstream.encode(texts))
        assert_close(model.encode_query(texts), upstream.encode_query(texts))
        assert_close(model.encode_document(texts), upstream.encode_document(texts))


def test_prompts_that_the_caller_gives(stanford):
    mine = folder.Overrides(query_prompt="ask: ", document_prompt="read: ")
    place = stanford()
    recipe = folder.read(place, ["multi-vector"], mine).multi_vector
    assert (recipe.query.prompt, recipe.document.prompt) == ("ask: ", "read: ")
    assert (recipe.query.marker_ids, recipe.document.marker_ids) == ((1,), (2,))
    settings = {"prompts": {"query": "ask: "}, "default_prompt_name": None}
    (place / "config_sentence_transformers.json").write_text(json.dumps(settings))
    with pytest.raises(ExportError, match="remove one of the two"):
        folder.read(place, ["multi-vector"])


def test_what_no_recipe_can_say_of_that_layout_is_refused(own):
    def refused(message):
        with pytest.raises(ExportError, match=message):
            folder.read(place, ["multi-vector"])

    place = own(query_expansion={"strategy": "min", "length": 32})
    refused("known is mask tokens to a fixed length")
    place = own("kept", {"keep_only_token_ids": [5]})
    refused("which is for images")
    fixed = {"strategy": "fixed", "length": 32}
    place = own("skipped", {"skiplist_tasks": ["query"]}, query_expansion=fixed)
    refused("skiplist_tasks names queries")
    modules = json.loads((place / "modules.json").read_text())
    del modules[2]
    (place / "modules.json").write_text(json.dumps(modules))
    refused("a MultiVectorEncoder is one Transformer")


def test_one_graph_for_two_kinds_with_a_rotation(make, dense_files, bert, exported, texts):
    """What the starter does: a dense model's vector, and its token vectors rotated."""
    facts = folder.read(make("model", bert, dense_files("mean")), ["dense"])
    query = TokenRole("", 100, (), "none", ())
    recipe = MultiVector("token_embeddings", False, 64, (32, 16), "sum", query, query)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 64)))[0]
    plain = exported(replace(facts, multi_vector=recipe), name="plain")
    running = exported(
        replace(facts, multi_vector=recipe),
        name="rotated",
        rotation=rotation.astype(np.float32),
    )
    assert running.spec.kinds == ("dense", "multi-vector")
    ours, theirs = (kept(r, texts[:4], query) for r in (running, plain))
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a @ ours[0].T - b @ theirs[0].T).max() <= 1e-5
        assert np.abs(a - b @ rotation).max() <= 1e-5
    with pytest.raises(ExportError, match="rotation of shape"):
        exported(replace(facts, multi_vector=recipe), name="bad", rotation=rotation[:, :5])

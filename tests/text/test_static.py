"""Static models: golden values of both libraries (tests/make_static_artifacts.py), every method."""

import os
import pickle
import threading

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, copy, golden, relist, replace
from static_tables import bare, safetensors, tensors_of, unpinned

from tessera_onnx import (
    Cancelled,
    ConfigError,
    DeviceError,
    EncodingError,
    InputTooLong,
    LoadError,
    Tessera,
    TesseraDense,
    TesseraSparse,
    TimedOut,
    TokenizationError,
    TruncationWarning,
)
from tessera_onnx.text import static
from tessera_onnx.vectors import token_table

pytestmark = pytest.mark.filterwarnings("ignore::tessera_onnx.TruncationWarning")
STORED = {name: golden(name) for name in ("static", "static-mean")}
TEXTS = STORED["static"]["texts"].tolist()


@pytest.fixture
def model():
    with TesseraDense(path=ARTIFACTS / "static") as opened:
        yield opened


def near(found, expected):
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_vectors_equal_model2vec(model):
    expected = STORED["static"]["vectors"]
    near(model.encode_batch(TEXTS), expected)
    near(np.array([model.encode(text) for text in TEXTS]), expected)
    near(np.array(list(model.encode_iter(iter(TEXTS)))), expected)
    near(model.encode_query(TEXTS), expected)
    near(model.encode_document(TEXTS[0]), expected[0])
    near(model.encode_all(TEXTS).dense, expected)


def test_vectors_equal_sentence_transformers():
    stored = STORED["static-mean"]
    with TesseraDense(path=ARTIFACTS / "static-mean") as model:
        near(model.encode_query(TEXTS), stored["query"])
        near(model.encode_batch(TEXTS), stored["document"])
        assert model.similarity(TEXTS[0], TEXTS[0]) < 0.999  # the prompts differ


@pytest.mark.parametrize("name", ["static", "static-mean"])
def test_the_folder_alone_gives_the_same(name, tmp_path):
    """Without model.toml the reader says it all, and the table is mapped into memory."""
    folder = bare(name, tmp_path / "m")
    with TesseraDense(path=folder) as found, TesseraDense(path=ARTIFACTS / name) as pinned:
        assert (found.encode_batch(TEXTS) == pinned.encode_batch(TEXTS)).all()
        assert found.spec.static == pinned.spec.static
        assert found.spec.dense == pinned.spec.dense
        assert found.spec.graph is None


def test_a_vector_does_not_depend_on_other_texts(model, rng):
    words = ["cat", "dog", "rain", "in", "spain", "falls", "on", "the", "mat"]
    texts = [" ".join(rng.choice(words, rng.integers(0, 30))) for _ in range(3000)]
    together = model.encode_batch(texts)
    order = rng.permutation(len(texts))
    assert (model.encode_batch([texts[i] for i in order]) == together[order]).all()
    assert (np.array([model.encode(text) for text in texts[:50]]) == together[:50]).all()


def test_nothing_of_a_text_without_tokens(model):
    for text in ("", " \n", "☃", "☃☃ ☃"):
        assert not model.encode(text).any()
        assert model.similarity(text, "cat") == 0
    assert model.encode_batch([]).shape == (0, 16)
    assert model.encode_batch(["", "cat", ""]).any(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize("name", ["static", "static-mean"])
def test_odd_texts(name):
    """A megabyte, NUL, special tokens by their name, other scripts: finite, and the same alone."""
    texts = [
        "cat " * 250_000,
        "x" * 1_000_000,
        "\0 cat \0",
        "[CLS] cat [SEP] [UNK] [PAD]",
        "世界 🙂",
    ]
    texts += ["\u202e cat", "\ufeffcat", "cat\r\n\tdog", "e\u0301" * 50, " ".join(["the"] * 41)]
    with TesseraDense(path=ARTIFACTS / name, on_long="truncate") as model:
        found = model.encode_batch(texts)
        assert np.isfinite(found).all()
        assert (np.array([model.encode(text) for text in texts]) == found).all()
        assert model.encode_batch(["cat"] * 10_000).shape == (10_000, 16)
        assert len(model.rank("cat", ["cat", "dog"] * 5_000)) == 10_000
        assert model.rank("cat", []) == []


def test_what_the_model_says_of_itself(model):
    assert repr(model) == "TesseraDense(model='test-static', dimension=16)"
    assert (model.device, model.precision, model.dimension()) == ("cpu", None, 16)
    assert model.token_count(["", "cat ☃ dog", "cat " * 30]).tolist() == [0, 3, 30]
    assert isinstance(Tessera(path=ARTIFACTS / "static"), TesseraDense)


def test_rank_similarity_and_small_outputs(model):
    documents = ["the cat sat on the mat", "rain in spain", "cat"]
    assert model.rank("cat", documents, top_k=1)[0].index == 2
    vectors = model.encode_batch(documents)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert model.similarity("cat", documents[2]) == pytest.approx(1)
    codes = model.encode_batch(documents, output_dtype="int8")
    np.testing.assert_allclose(codes.dequantize(), vectors, atol=0.02)
    bits = model.encode_query("cat", output_dtype="binary")
    assert (bits.unpack() > 0).tolist() == (vectors[2] > 0).tolist()


def test_texts_that_are_cut():
    long = "cat dog " * 40
    options = {"path": ARTIFACTS / "static"}
    said = r"1 of 2 texts were cut to 24 tokens of the first 72 characters \(the longest has 320 ch"
    with TesseraDense(**options) as model:
        with pytest.warns(TruncationWarning, match=said):
            found = model.encode_batch(["cat", long])
        with pytest.warns(TruncationWarning, match="1 of 1 texts"):
            assert (model.encode(long) == found[1]).all()
    with TesseraDense(**options, max_length=3) as model:
        assert (model.encode("cat dog cat rain") == model.encode("cat dog cat")).all()
    with TesseraDense(**options, on_long="error") as model:
        with pytest.raises(InputTooLong, match="text 1 has 320 characters, the model reads 24 tok"):
            model.encode_batch(["cat", long, long])
        with pytest.raises(InputTooLong) as caught:
            list(model.encode_iter(["cat", "dog", long]))
        assert caught.value.index == 2
        stream = model.encode_iter(["cat", "dog", long])
        assert len([next(stream), next(stream)]) == 2
    with TesseraDense(path=ARTIFACTS / "static-mean") as model:
        with pytest.warns(TruncationWarning, match=r"cut to 40 tokens \(the longest has 82\)"):
            model.encode(long)


def test_characters_are_cut_before_tokens(tmp_path):
    """24 tokens of 3 characters: what lies behind character 72 is not read."""
    with TesseraDense(path=ARTIFACTS / "static") as model:
        words = "machine learning machine learning machine learning machine learning mach"
        assert len(words) == 72
        assert model.token_count([words + "ine rain"]).max() < 24
        said = r"1 of 1 texts were cut to 24 tokens of the first 72 characters \(the longest has 80"
        with pytest.warns(TruncationWarning, match=said):
            cut = model.encode(words + "ine rain")
        assert (cut == model.encode(words)).all()


def test_limits_and_closing(model):
    with pytest.raises(TimedOut):
        model.encode_batch(TEXTS, timeout=-1)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        model.encode_batch(TEXTS, cancel=stop)
    assert model.encode_batch(TEXTS, progress=True, timeout=600).shape == (len(TEXTS), 16)
    again = pickle.loads(pickle.dumps(model))
    assert (again.encode("cat") == model.encode("cat")).all()
    model.close()
    model.close()
    for call in (lambda: model.encode("cat"), lambda: model.encode_batch(["cat"])):
        with pytest.raises(EncodingError, match="this model is closed"):
            call()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.posix
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_is_refused(model):
    model.encode("cat")
    child = os.fork()
    if not child:
        try:
            model.encode("cat")
        except EncodingError as error:
            os._exit(7 if "fork" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_wrong_arguments(model):
    folder = {"path": ARTIFACTS / "static"}
    for error, options, words in [
        (DeviceError, {"device": "cuda"}, "has no graph: leave device out"),
        (ConfigError, {"precision": "int8"}, "has no graph: leave precision out"),
        (ConfigError, {"dimension": 8}, "gives 16 dimensions"),
        (ConfigError, {"max_length": 0}, "max_length 0 must lie in 1.."),
        (ConfigError, {"on_long": "cut"}, "on_long must be"),
        (ConfigError, {"threads": 0}, "threads must lie"),
    ]:
        with pytest.raises(error, match=words):
            TesseraDense(**folder, **options)
    with pytest.raises(LoadError, match="is of kind dense, not sparse"):
        TesseraSparse(**folder)
    with pytest.raises(TypeError, match="text must be str"):
        model.encode(None)
    with pytest.raises(TokenizationError, match="text 1"):
        model.encode_batch(["cat", "\udc80"])
    with pytest.raises(ConfigError, match="task must be left out"):
        model.encode("cat", task="clustering")
    assert (model.encode("dog", prompt="cat ") == model.encode("cat dog")).all()


def test_many_threads_share_a_model(model, rng):
    texts = TEXTS * 100
    expected = model.encode_batch(texts)
    found = [None] * 6

    def work(i):
        found[i] = model.encode_batch(texts)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(found))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((each == expected).all() for each in found)


# ---------------------------------------------------------------- the mean itself


def test_means_by_hand():
    rows = np.array([[1, 10], [2, 20], [4, 40]], np.float32)
    table = token_table.TokenTable(rows, "F32", None, None)
    means = table.means(np.array([0, 1, 2, 2, 0]), np.array([2, 0, 3]))
    assert means.tolist() == [[1.5, 15], [0, 0], [3, 30]]
    weights, mapping = np.array([1, 0.5, 0, 2], np.float32), np.array([2, 2, 0, 1])
    table = token_table.TokenTable(rows, "F32", weights, mapping)
    assert table.n_ids == 4
    assert table.means(np.array([0, 1, 2, 3]), np.array([1, 3])).tolist() == [
        [4, 40], [(2 + 0 + 4) / 3, (20 + 0 + 40) / 3],
    ]  # fmt: skip
    assert table.means(np.empty(0, np.int64), np.empty(0, np.int64)).shape == (0, 2)


@pytest.mark.parametrize(
    ("code", "make"),
    [
        ("F64", lambda x: x.astype("<f8")), ("F16", lambda x: x.astype("<f2")),
        ("I8", lambda x: (x * 30).astype("i1")),
        ("BF16", lambda x: (x.view("u4") >> 16).astype("<u2")),
    ],
)  # fmt: skip
def test_dtypes(code, make, rng):
    stored = make(rng.standard_normal((50, 8), dtype=np.float32))
    plain = stored.astype(np.float64)
    if code == "BF16":
        plain = (stored.astype("u4") << 16).view("f4").astype(np.float64)
    counts = rng.integers(0, 40, 30)
    ids = rng.integers(0, 50, counts.sum())
    found = token_table.TokenTable(stored, code, None, None).means(ids, counts)
    ends = np.cumsum(counts)
    for row, end, count in zip(found, ends, counts, strict=True):
        expected = plain[ids[end - count : end]].mean(axis=0) if count else np.zeros(8)
        np.testing.assert_allclose(row, expected, rtol=1e-6, atol=1e-6)


def test_long_texts_stay_exact(rng):
    rows = rng.standard_normal((50, 8), dtype=np.float32)
    ids = rng.integers(0, 50, 1_000_003)
    table = token_table.TokenTable(rows, "F32", None, None)
    counts = np.array([3, len(ids) - 3])
    expected = rows.astype(np.float64)[ids[3:]].mean(axis=0)
    np.testing.assert_allclose(table.means(ids, counts)[1], expected, atol=1e-6)


# ---------------------------------------------------------------- tables that are wrong


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("embeddings"), "no readable tensor 'embeddings'"),
        (lambda t: t.pop("mapping"), "no readable tensor 'mapping'"),
        (lambda t: t.update(embeddings=np.zeros((0, 16), np.float32)), "shape"),
        (lambda t: t.update(embeddings=np.zeros(640, np.float32)), "shape"),
        (lambda t: t.update(embeddings=np.zeros((40, 16), np.int64)), "is I64"),
        (lambda t: t.update(mapping=t["mapping"] + 1), "names rows"),
        (lambda t: t.update(mapping=t["mapping"] - 40), "names rows"),
        (lambda t: t.update(mapping=t["mapping"].astype("f4")), "mapping is F32"),
        (lambda t: t.update(mapping=t["mapping"][:9]), "vectors of 9 tokens"),
        (lambda t: t.update(weights=t["weights"][:-1]), "these are files of two models"),
        (lambda t: t.update(weights=t["weights"][None]), "weights is F32"),
        (lambda t: t.update(weights=t["mapping"]), "weights is I64"),
    ],
)
@pytest.mark.parametrize("pinned", [True, False])
def test_tables_that_are_wrong_are_refused(change, words, pinned, tmp_path):
    folder = copy("static", tmp_path / "m")
    tensors = tensors_of(folder)
    change(tensors)
    relist(folder, "model.safetensors", safetensors(tensors))
    if not pinned:
        unpinned(folder)
    with pytest.raises(LoadError) as caught:
        TesseraDense(path=folder)
    if pinned:
        assert words in str(caught.value)


def test_numbers_that_are_not_finite_are_an_error_of_their_text(tmp_path):
    folder = copy("static", tmp_path / "m")
    tensors = tensors_of(folder)
    with TesseraDense(path=folder) as model:
        cat = model._encoder.tokenizer.token_id("cat")
    tensors["weights"][cat] = np.inf
    relist(folder, "model.safetensors", safetensors(tensors))
    with TesseraDense(path=folder) as model:
        assert model.encode("dog").any()
        with pytest.raises(EncodingError, match="text 1: model.safetensors has a number that is"):
            model.encode_batch(["dog", "cat", "the cat"])
        with pytest.raises(EncodingError, match="not finite"):
            model.encode("cat")


@pytest.mark.parametrize("size", [0, 4, 8, 100, 2000])
@pytest.mark.parametrize("pinned", [True, False])
def test_files_that_end_early_are_refused(size, pinned, tmp_path):
    folder = copy("static", tmp_path / "m")
    content = (folder / "model.safetensors").read_bytes()
    relist(folder, "model.safetensors", content[:size])
    if not pinned:
        unpinned(folder)
    with pytest.raises(LoadError):
        TesseraDense(path=folder)


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (('output = ""', 'output = "x"'), "its table pools"),
        (('pooling = "graph"', 'pooling = "mean"'), "its table pools"),
        (("prefix_ids = []", "prefix_ids = [1]"), "has no prefix_ids"),
        (("fixed_length = 0", "fixed_length = 9"), "fixed_length"),
        (('rows = "embeddings"', 'rows = ""'), "rows names a tensor"),
        (("    3,\n", "    -3,\n"), "drop_ids are not negative"),
        (("    3,\n", "    3000,\n"), "has the id 3000"),
        (("characters_per_token = 3", "characters_per_token = -1"), "characters_per_token must"),
        (("dimension = 16", "dimension = 15"), "facts of two models"),
        (('weights = "weights"\n', ""), "weights is missing"),
        (('file = "model.safetensors"', 'file = "other"'), "does not list it"),
        (('    "dense",\n', '    "sparse",\n'), "tables for"),
    ],
)
def test_facts_that_are_wrong_are_refused(pair, words, tmp_path):
    folder = copy("static", tmp_path / "m", replace(pair))
    with pytest.raises(LoadError, match=words):
        TesseraDense(path=folder)


def test_a_spec_without_tables_is_refused(model):
    import dataclasses

    lacking = dataclasses.replace(model.spec, dense=None)
    with pytest.raises(LoadError, match="no \\[model.dense\\] table"):
        static.settled(lacking, None, None)

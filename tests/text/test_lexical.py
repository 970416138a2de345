"""BM25 without a graph: equal to fastembed, and to bm25s where the formulas agree."""

# ruff: noqa: RUF001 (letters of many scripts)

import dataclasses
import json
import pickle
import threading

import bm25s
import mmh3
import numpy as np
import pytest
from artifact_tools import ARTIFACTS

from tessera_onnx import (
    Cancelled,
    ConfigError,
    DeviceError,
    EncodingError,
    LoadError,
    PackedSparse,
    SparseVector,
    Tessera,
    TesseraDense,
    TesseraSparse,
    TimedOut,
    TokenizationError,
    UnsupportedDimension,
    list_models,
)
from tessera_onnx.models import catalogue, installed, resolve
from tessera_onnx.models.spec_words import Language
from tessera_onnx.text import lexical

GOLDEN = json.loads((ARTIFACTS / "lexical.json").read_text("utf-8"))
BEYOND = "akqlrggi"  # murmur3_32 of it is -2^31
TWINS = "aadicsu8", "abya4md5"  # their hashes are the negative and the hash of "fox"
DOCUMENTS = [
    "The red fox runs through the forest",
    "A forest of old trees, trees and trees",
    "Foxes and dogs are running",
    "",
    "Bread is baked in the oven",
]


@pytest.fixture(scope="module")
def model():
    with TesseraSparse("bm25") as opened:
        yield opened


def same(vector, row):
    assert vector.indices.dtype == np.int32
    assert vector.values.dtype == np.float32
    np.testing.assert_array_equal(vector.indices, row["indices"])
    # fastembed's doubles, rounded once: not one bit differs.
    np.testing.assert_array_equal(vector.values, np.array(row["values"], np.float32))


@pytest.mark.parametrize("language", GOLDEN["languages"])
def test_every_language_equals_fastembed(language):
    rows = GOLDEN["languages"][language]
    texts = [row["text"] for row in rows]
    with TesseraSparse("bm25", language=language) as model:
        for vector, row in zip(model.encode_batch(texts), rows, strict=True):
            same(vector, row)
        for text, vector, row in zip(texts, model.encode_query(texts), rows, strict=True):
            assert vector.indices.tolist() == row["query"]
            assert (vector.values == 1).all()
            same(model.encode(text), row)  # one by one as together
        assert model.token_count(texts).tolist() == [row["words"] for row in rows]


def test_the_numbers_of_the_formula_are_facts_of_the_model(tmp_path):
    tuned = GOLDEN["tuned"]
    text = catalogue.shipped_path().read_text("utf-8")
    entry = text[text.index('[[model]]\nid = "bm25"') :]
    entry = "schema = 1\n" + entry[: entry.find("[[model]]", 9)]
    for ours, theirs in {"k": "k", "b": "b", "average_length": "avg_len"}.items():
        before = f"\n{ours} = "
        old = entry[entry.index(before) :].split("\n")[1]
        entry = entry.replace(old, f"{ours} = {tuned['options'][theirs]}")
    (tmp_path / "model.toml").write_text(entry, "utf-8")
    for path in installed.shipped(entry_of_bm25()).folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with TesseraSparse(path=tmp_path) as model:
        for row in tuned["rows"]:
            same(model.encode(row["text"]), row)
    (tmp_path / "english.txt").write_bytes(b"the\n")
    with pytest.raises(LoadError, match=r"english\.txt has 4 bytes"):
        TesseraSparse(path=tmp_path)
    TesseraSparse(path=tmp_path, language="german").close()


def entry_of_bm25():
    return next(spec for spec in catalogue.catalogue() if spec.id == "bm25")


def test_counts_that_fastembeds_own_tests_state(model):
    """fastembed tests/test_attention_embeddings.py, on the lists that its authors publish."""
    counts = {
        "Mangez-vous vraiment des grenouilles?": (5, 3),
        "Je suis au lit": (4, 1),
    }
    with TesseraSparse("bm25", language="french") as french:
        for text, expected in counts.items():
            assert tuple(len(m.encode(text).indices) for m in (model, french)) == expected
    assert len(model.encode(".").indices) == 0
    assert len(model.encode_query("привет мир!").indices) == 2
    several = (
        (
            "Über den größten Flüssen Österreichs äußern sich Experten häufig: Öko-Systeme müssen "
            "geschützt werden!"
        ),
        (
            "L'élève français s'écrie : « Où est mon crayon ? J'ai besoin de finir cet exercice "
            "avant la récréation!"
        ),
        (
            "Într-o zi însorită, Ștefan și Ioana au mâncat mămăligă cu brânză și au băut țuică la "
            "cabană."
        ),
        (
            "Üzgün öğretmen öğrencilere seslendi: Lütfen gürültü yapmayın, sınavınızı bitirmeye "
            "çalışıyorum!"
        ),
        (
            "Ο Ξενοφών είπε: «Ψάχνω για ένα ωραίο δώρο για τη γιαγιά μου. Ίσως ένα φυτό ή ένα "
            "βιβλίο;»"
        ),
    )
    assert [len(vector.indices) for vector in model.encode_batch(several)] == [14, 18, 15, 10, 15]


def test_two_words_of_one_id_count_as_in_fastembed():
    fox, first, second = (mmh3.hash(word) for word in ("fox", *TWINS))
    assert abs(fox) == abs(first) == abs(second)
    with TesseraSparse("bm25") as model:  # the goldens have the weights of such texts
        vector = model.encode(f"fox {TWINS[0]} {TWINS[0]}")
        assert len(vector.indices) == 1
        assert model.explain(vector)[0][0] == f"fox / {TWINS[0]}"


def test_a_word_whose_id_no_int32_can_hold_is_refused(model):
    assert mmh3.hash(BEYOND) == -(2**31)
    with pytest.raises(EncodingError, match=r"^text has a word whose hash is -2\^31") as caught:
        model.encode(BEYOND)
    assert BEYOND not in str(caught.value)
    with pytest.raises(EncodingError, match="^text 2 has a word") as caught:
        model.encode_batch(["a fox", "a dog", f"the {BEYOND}", BEYOND])
    assert caught.value.index == 2
    stream = model.encode_iter(["a fox", BEYOND])
    assert len(next(stream).indices) == 1
    with pytest.raises(EncodingError, match="^text 1 has"):
        next(stream)


def test_all_ways_give_the_same_vectors(model):
    expected = [model.encode(text) for text in DOCUMENTS]
    together = model.encode_batch(DOCUMENTS)
    streamed = list(model.encode_iter(text for text in DOCUMENTS))
    every_kind = model.encode_all(DOCUMENTS).sparse
    for ways in zip(expected, together, streamed, every_kind, strict=True):
        for vector in ways:
            np.testing.assert_array_equal(vector.indices, ways[0].indices)
            np.testing.assert_array_equal(vector.values, ways[0].values)
    query = model.encode_query("red foxes")
    (streamed,) = model.encode_iter(["red foxes"], role="query")
    assert query.indices.tolist() == streamed.indices.tolist()
    assert model.encode_document([]) == model.encode_batch([]) == []
    assert model.token_count([]).shape == (0,)


def test_the_largest_weights_can_be_kept(model):
    vector = model.encode("a tree, a tree and a fox", max_active_dims=1)
    assert model.explain(vector) == [("tree", pytest.approx(float(vector.values[0])))]
    with TesseraSparse("bm25", max_active_dims=2) as short:
        assert len(short.encode(DOCUMENTS[0]).indices) == 2
        assert len(short.encode_query(DOCUMENTS[0]).indices) == 2


def test_explain_names_stems_that_were_read(model):
    vector = model.encode("Birds running, running")
    assert [token for token, _ in model.explain(vector)] == ["run", "bird"]
    with TesseraSparse("bm25") as fresh:
        number = int(vector.indices[0])
        assert fresh.explain(vector)[0][0].startswith("#")
        assert f"#{number}" in dict(fresh.explain(vector))


def test_words_are_remembered_within_a_limit(monkeypatch):
    monkeypatch.setattr(lexical, "MOST_WORDS", 50)
    rows = GOLDEN["languages"]["english"]
    with TesseraSparse("bm25") as model:
        for _ in range(2):
            for row in rows:
                vector = model.encode(row["text"])
                same(vector, row)
                assert not any(token.startswith("#") for token, _ in model.explain(vector, None))


def oracle(model, texts, query):
    """bm25s on the same stems, with its own average length: TF of ATIRE, IDF of Lucene."""
    words = lexical.load_words(40, Language("english", "english.txt"), artifact())
    stems = [words.stems(text) for text in (*texts, query)]
    index = bm25s.BM25(method="atire", idf_method="lucene", k1=1.2, b=0.75)
    index.index(stems[:-1], show_progress=False)
    length = sum(len(several) for several in stems[:-1]) / len(texts)
    return index.get_scores(sorted(set(stems[-1]))), length


def artifact():
    return resolve.resolve("bm25")


def test_an_index_with_idf_equals_bm25s(model):
    query = "old foxes run, and foxes see trees"
    expected, length = oracle(model, DOCUMENTS, query)
    facts = dataclasses.replace(model.spec.lexical, average_length=length)
    words = lexical.load_words(facts.longest_word, facts.languages[0], artifact())
    encoder, head = lexical.LexicalEncoder(words, "warn"), lexical.document_head(facts)
    documents = encoder.encode(DOCUMENTS, model.spec.sparse.document, head)
    index = PackedSparse(documents, idf=True)
    found = index.score(model.encode_query(query))
    assert expected.max() > 0.5
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_rank_weighs_by_the_idf_of_the_documents(model):
    query = "the old fox"
    index = PackedSparse(model.encode_batch(DOCUMENTS), idf=True)
    ranked = model.rank(query, DOCUMENTS)
    assert ranked == model.rank(query, index) == index.rank(model.encode_query(query))
    assert ranked == model.rank(model.encode_query(query), model.encode_batch(DOCUMENTS))
    n = len(DOCUMENTS)
    idf = np.log1p((n - 2 + 0.5) / (2 + 0.5))  # two documents have a fox
    by_hand = model.similarity("fox", DOCUMENTS[2]) * idf
    assert {row.index: row.score for row in ranked}[2] == pytest.approx(by_hand, rel=1e-6)
    assert model.rank(query, []) == []
    assert len(model.rank(query, DOCUMENTS, top_k=2)) == 2
    plain = PackedSparse(model.encode_batch(DOCUMENTS))
    assert plain.rank(model.encode_query(query)) != ranked
    with pytest.raises(TypeError, match=r"documents\[1\]|text 1|texts\[1\]"):
        model.rank(query, ["a fox", None])


def test_an_index_with_idf_follows_its_documents(model, tmp_path):
    vectors, query = model.encode_batch(DOCUMENTS), model.encode_query("old foxes")
    index = PackedSparse(vectors[:2], idf=True)
    for vector in vectors[2:]:
        index.add([vector])
    whole = PackedSparse(vectors, idf=True)
    np.testing.assert_allclose(index.score(query), whole.score(query), rtol=1e-6)
    index.remove([1, 3])
    kept = PackedSparse([vectors[i] for i in (0, 2, 4)], idf=True)
    np.testing.assert_allclose(index.score(query)[[0, 2, 4]], kept.score(query), rtol=1e-6)
    assert index.idf
    assert "idf=True" in repr(index)
    index.save(tmp_path / "index")
    loaded = PackedSparse.load(tmp_path / "index", verify=True)
    assert loaded.idf
    np.testing.assert_array_equal(loaded.score(query), index.score(query))
    plain = PackedSparse(vectors)
    plain.save(tmp_path / "plain")
    assert not plain.idf
    assert not PackedSparse.load(tmp_path / "plain").idf
    assert b'"version": 1' in (tmp_path / "plain").read_bytes()[:600]  # as earlier versions write
    with pytest.raises(TypeError, match="idf must be bool, got int"):
        PackedSparse(idf=1)
    assert PackedSparse(idf=True).score(query).shape == (0,)
    big = SparseVector(query.indices, query.values * np.float32(3e38))
    with pytest.raises(ConfigError, match="the scores exceed float32"):
        whole.score(big)


def test_it_opens_by_its_names_and_is_nobodys_default(monkeypatch, tmp_path):
    for name in ("bm25", "Qdrant/bm25", "qdrant/bm25"):
        with Tessera(name, language="german") as model:
            assert repr(model).endswith("vocab_size=2147483648, language='german')")
            assert model.vocab_size() == 2**31
            assert (model.device, model.precision, model.model()) == ("cpu", None, "bm25")
    assert "bm25" in list_models("sparse", installed=True)
    monkeypatch.setattr(installed, "ENTRY_POINTS", "tessera_onnx.no_such_group")
    with pytest.raises(LoadError, match="no sparse model is installed"):
        TesseraSparse(cache_dir=tmp_path, offline=True)
    TesseraSparse("bm25", cache_dir=tmp_path, offline=True).close()


def test_a_pickle_opens_the_same_language():
    with TesseraSparse("bm25", language="german") as model:
        again = pickle.loads(pickle.dumps(model))
        text = "Die Häuser der Städte"
        assert again.encode(text).indices.tolist() == model.encode(text).indices.tolist()
        assert repr(again) == repr(model)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"language": "klingon"}, ConfigError, "language must be one of english, arabic"),
        ({"language": 3}, TypeError, "language must be str or None, got int"),
        ({"max_length": 10}, ConfigError, "reads whole texts"),
        ({"precision": "int8"}, ConfigError, "has no graph: leave precision out"),
        ({"device": "cuda"}, DeviceError, "has no graph: leave device out"),
        ({"dimension": 10}, UnsupportedDimension, "sparse vectors are not cut"),
        ({"on_long": "never"}, ConfigError, "on_long must be"),
        ({"max_active_dims": 0}, ConfigError, "max_active_dims"),
        ({"file": "model.onnx"}, ConfigError, "leave file out"),
        ({"pooling": "mean"}, ConfigError, "leave pooling out"),
    ],
)
def test_arguments_that_it_cannot_take(options, error, said):
    with pytest.raises(error, match=said):
        TesseraSparse("bm25", **options)


def test_other_models_know_no_language():
    with pytest.raises(ConfigError, match="knows no languages"):
        TesseraSparse(path=ARTIFACTS / "splade", language="english")
    with pytest.raises(LoadError, match="is of kind sparse, not dense"):
        TesseraDense("bm25")


def test_bad_texts(model):
    for text in (None, b"bytes", 3, ["a list"]):
        with pytest.raises(TypeError, match=r"^text must be str"):
            model.encode(text)
        with pytest.raises(TypeError, match=r"^texts\[1\] must be str"):
            model.encode_batch(["good", text])
    with pytest.raises(TypeError):
        model.encode_batch("one text")
    with pytest.raises(TokenizationError, match="lone surrogate at character 2"):
        model.encode("a \ud800")
    with pytest.raises(ConfigError, match="role must be"):
        model.encode_iter(["a"], role="both")
    with pytest.raises(ConfigError, match="outside the vocabulary"):
        model.similarity(SparseVector(np.array([2**31]), np.array([1.0])), "fox")


def test_long_texts_are_read_whole(model):
    text = "tree bird " * 200_000 + "z" * 1_000_000
    assert sorted(token for token, _ in model.explain(model.encode(text))) == ["bird", "tree"]
    assert model.token_count([text]).tolist() == [400_001]
    assert max(map(len, model._encoder._words._stems)) <= 64  # a long word is not kept


def test_limits_and_threads(model):
    with pytest.raises(TimedOut):
        model.encode_batch(DOCUMENTS * 100, timeout=1e-9)
    event = threading.Event()
    event.set()
    with pytest.raises(Cancelled):
        model.encode_batch(DOCUMENTS, cancel=event)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(model.encode_batch(DOCUMENTS * 50)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = model.encode_batch(DOCUMENTS * 50)
    for vectors in found:
        for one, other in zip(vectors, expected, strict=True):
            np.testing.assert_array_equal(one.values, other.values)


def test_a_closed_model_says_so():
    model = TesseraSparse("bm25")
    model.close()
    model.close()
    for call in (model.encode, model.encode_query, lambda text: model.encode_batch([text])):
        with pytest.raises(EncodingError, match="this model is closed"):
            call("fox")


def test_to_scipy_takes_the_whole_vocabulary(model):
    vector = model.encode("fox")
    matrix = vector.to_scipy(model.vocab_size())
    assert matrix.shape == (1, 2**31)
    assert matrix.indices.tolist() == vector.indices.tolist()


def test_without_its_packages_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mmh3", None)
    with pytest.raises(
        ImportError, match=r"py-rust-stemmers and mmh3: `pip install .PATH\[lexical"
    ):
        TesseraSparse("bm25")

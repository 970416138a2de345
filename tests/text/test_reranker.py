"""TesseraReranker against sentence-transformers' CrossEncoder on the same weights."""

import json
import pickle
import shutil
import threading
import warnings

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, TEXTS, add_file, copy, golden, replace
from faults.graphs import picking
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tessera_onnx import (
    Cancelled,
    ConfigError,
    EncodingError,
    InputTooLong,
    LoadError,
    Ranked,
    Tessera,
    TesseraDense,
    TesseraReranker,
    TimedOut,
    TokenizationError,
    TruncationWarning,
)
from tessera_onnx.models.spec import Role
from tessera_onnx.text import reranker
from tessera_onnx.text.pairs import Pair, Query, cut

FOLDER = ARTIFACTS / "reranker"
PAIRS = [(query, document) for query in TEXTS for document in TEXTS]
pytestmark = pytest.mark.filterwarnings("ignore::tessera_onnx.TruncationWarning")


@pytest.fixture(scope="module")
def model():
    with TesseraReranker(path=FOLDER) as opened:
        yield opened


@pytest.fixture
def ettin(tmp_path):
    """A folder of sentence-transformers: an encoder's graph, and modules after it."""
    place = tmp_path / "ettin"
    shutil.copytree(ARTIFACTS / "reranker_head", place)
    shutil.copy(ARTIFACTS / "states" / "model.onnx", place)
    return place


def test_scores_equal_cross_encoder(model):
    stored = golden("reranker")
    assert np.ptp(stored["raw"]) > 1
    for i, query in enumerate(TEXTS):
        for name, array in (("raw", "raw"), ("default", "default"), ("sigmoid", "default")):
            scores = model.score(query, TEXTS, activation=name)
            assert (scores.dtype, scores.shape) == (np.float32, (len(TEXTS),))
            np.testing.assert_allclose(scores, stored[array][i], atol=1e-5)
    assert model.activation() == "sigmoid"
    assert repr(model) == "TesseraReranker(model='test-reranker', activation='sigmoid')"


def test_pairs_equal_cross_encoder_in_any_order(model, rng):
    expected = golden("reranker")["raw"].ravel()
    np.testing.assert_allclose(model.score_pairs(PAIRS, activation="raw"), expected, atol=1e-5)
    order = rng.permutation(len(PAIRS))
    mixed = model.score_pairs((PAIRS[i] for i in order), activation="raw")
    np.testing.assert_allclose(mixed, expected[order], atol=1e-5)
    alone = [model.score_pairs([pair], activation="raw")[0] for pair in PAIRS[:9]]
    np.testing.assert_allclose(alone, expected[:9], atol=1e-5)
    np.testing.assert_array_equal(
        model.score_pairs([list(pair) for pair in PAIRS]), model.score_pairs(np.array(PAIRS))
    )


def test_a_query_and_a_document_are_no_equals(model):
    stored = golden("reranker")["raw"]
    assert np.abs(stored - stored.T).max() > 0.1
    same = model.score_pairs([("cat", "dog"), ("dog", "cat")], activation="raw")
    assert abs(same[0] - same[1]) > 1e-3


def test_rank(model):
    ranked = model.rank(TEXTS[0], TEXTS)
    scores = golden("reranker")["default"][0]
    assert [row.index for row in ranked] == np.argsort(-scores, kind="stable").tolist()
    assert [row.score for row in ranked] == pytest.approx(sorted(scores, reverse=True), abs=1e-5)
    assert model.rank(TEXTS[0], iter(TEXTS), 2) == ranked[:2]
    assert isinstance(ranked[0], Ranked)
    raw = model.rank(TEXTS[0], TEXTS, 1, activation="raw")
    assert raw[0].score == pytest.approx(golden("reranker")["raw"][0].max(), abs=1e-5)
    assert model.rank("cat", []) == []
    assert [row.index for row in model.rank("cat", ["dog"] * 5)] == [0, 1, 2, 3, 4]


def test_explain(model):
    """Upstream's raw scores of two texts that differ by a word; others by the model itself."""
    stored = golden("reranker")["raw"]
    cat, empty = TEXTS.index("cat"), TEXTS.index("")
    for query in (0, 2, 4):
        ((word, fall),) = model.explain(TEXTS[query], " cat\n")
        assert word == "cat"
        assert fall == pytest.approx(stored[query, cat] - stored[query, empty], abs=1e-5)
    found = model.explain("what sat?", "the cat  sat on\tthe mat", None)
    without = ["cat  sat on\tthe mat", "the sat on\tthe mat", "the cat  on\tthe mat",
               "the cat  sat the mat", "the cat  sat on\tmat", "the cat  sat on\tthe"]  # fmt: skip
    whole, *scores = model.score(
        "what sat?", ["the cat  sat on\tthe mat", *without], activation="raw"
    ).tolist()
    by_hand = zip(["the", "cat", "sat", "on", "the", "mat"], scores, strict=True)
    expected = sorted(((word, whole - score) for word, score in by_hand), key=lambda row: -row[1])
    assert [word for word, _ in found] == [word for word, _ in expected]
    assert [fall for _, fall in found] == pytest.approx([fall for _, fall in expected], abs=1e-5)
    assert found[0][1] > found[-1][1]
    assert model.explain("what sat?", "the cat  sat on\tthe mat", 2) == found[:2]
    for text in ("", " \n "):
        assert model.explain("cat", text) == []


def test_explain_refuses(model):
    for wrong, error, message in (
        (("cat", None), TypeError, "document must be str, got NoneType"),
        ((["cat"], "dog"), TypeError, "query must be str, got list"),
        (("cat", "a \ud800"), TokenizationError, "document .* lone surrogate"),
        (("cat", "dog", 0), ConfigError, "top_k must be at least 1"),
        (("cat", "dog " * 65), InputTooLong, "document has 65 words, and the model reads 64"),
    ):
        with pytest.raises(error, match=message):
            model.explain(*wrong)
    with pytest.raises(TimedOut):
        model.explain("cat", "dog cat", timeout=0)


def test_nothing_to_score(model):
    for scores in (model.score("cat", []), model.score_pairs([])):
        assert (scores.dtype, scores.shape) == (np.float32, (0,))
    assert model.score("", [""])[0] == pytest.approx(golden("reranker")["default"][1, 1], abs=1e-5)


@given(n=st.integers(0, 30), m=st.integers(0, 30), room=st.integers(2, 40))
def test_pairs_are_cut_as_tokenizers_cuts_them(n, m, room):
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    for strategy in ("longest_first", "only_second"):
        tokenizer.enable_truncation(room + 3, strategy=strategy)
        kept = cut(n, m, room, only_second=strategy == "only_second")
        if sum(kept) > room or (strategy == "only_second" and n >= room < n + m):
            continue  # an error of tokenizers, and of rows below
        ids = tokenizer.encode("cat " * n, "dog " * m).sequence_ids
        assert kept == (ids.count(0), ids.count(1)), strategy


def test_a_cut_is_counted_and_said(model):
    long = "rain in spain " * 30
    with pytest.warns(TruncationWarning, match="2 of 3 documents were cut to 64 tokens .*has 96"):
        model.score("cat on mat", [long, "cat", long])
    with pytest.warns(TruncationWarning, match="1 of 1 pairs were cut"):
        model.score_pairs([(long, "cat")])
    with TesseraReranker(path=FOLDER, on_long="error") as strict:
        with pytest.raises(InputTooLong, match="document 1 has 94 tokens, the model reads 64") as e:
            strict.score("cat", ["cat", long])
        assert e.value.index == 1
    with TesseraReranker(path=FOLDER, on_long="truncate") as silent, warnings.catch_warnings():
        warnings.simplefilter("error")
        found = silent.score(TEXTS[5], TEXTS)
    np.testing.assert_allclose(found, golden("reranker")["default"][5], atol=1e-5)


def test_max_length():
    with TesseraReranker(path=FOLDER, max_length=12) as short:
        assert short.max_length() == 12
        cat = short.score("cat", ["cat dog sat on mat what is", "cat dog sat on mat what is the"])
        assert cat[0] != cat[1]
        both = short.score(
            "cat", ["cat dog sat on mat what is the", "cat dog sat on mat what is the a"]
        )
        assert both[0] == both[1]
        assert pickle.loads(pickle.dumps(short)).max_length() == 12
    for wrong in (4, 65, 0, -1):
        with pytest.raises(ConfigError, match=r"max_length -?\d+ must lie in 5..64"):
            TesseraReranker(path=FOLDER, max_length=wrong)
    for wrong in (True, 5.0, "5"):
        with pytest.raises(TypeError, match="max_length must be int or None"):
            TesseraReranker(path=FOLDER, max_length=wrong)


def test_only_the_document_is_cut(tmp_path):
    edit = replace(('truncation = "longest_first"', 'truncation = "only_second"'))
    with TesseraReranker(path=copy("reranker", tmp_path / "m", edit), max_length=12) as model:
        full = model.score("cat dog sat on", ["mat what is the rain", "mat what is the rain in"])
        assert full[0] == full[1]
        with pytest.raises(TokenizationError, match="document 0: a query has 10 tokens, and only"):
            model.score("cat " * 10, ["dog"])


def test_wrong_arguments(model):
    for wrong, message in (
        (None, "query must be str, got NoneType"),
        (b"cat", "query must be str, got bytes: decode it"),
        (["cat"], "query must be str, got list: `score` compares one query with several"),
    ):
        with pytest.raises(TypeError, match=message):
            model.score(wrong, ["dog"])
    for wrong in ("dog", None, 5, {"a": "b"}, {"a"}):
        with pytest.raises(TypeError, match="documents must be a list or another iterable of str"):
            model.score("cat", wrong)
    with pytest.raises(TypeError, match=r"documents\[1\] must be str, got NoneType") as caught:
        model.score("cat", ["dog", None])
    assert caught.value.index == 1
    with pytest.raises(TokenizationError, match="lone surrogate") as caught:
        model.score("cat", ["dog", "dog", "\ud800"])
    assert caught.value.index == 2
    with pytest.raises(TokenizationError, match="query .* lone surrogate"):
        model.score("\ud800", ["dog"])
    for wrong in ("loud", None, "", 5, ["raw"]):
        with pytest.raises(ConfigError, match='activation must be "default", "raw" or "sigmoid"'):
            model.score("cat", ["dog"], activation=wrong)
    with pytest.raises(ConfigError, match="top_k must be at least 1"):
        model.rank("cat", ["dog"], 0)


def test_wrong_pairs(model):
    for wrong in ("cat", "ab", None, 5, {"a": "b"}, {("a", "b")}):
        with pytest.raises(TypeError, match=r"pairs must be a list of \(query, document\), got"):
            model.score_pairs(wrong)
    for wrong, message in (
        ("ab", r"pairs\[1\] must be a \(query, document\), got str"),
        (("a",), "got tuple of 1"),
        (("a", "b", "c"), "got tuple of 3"),
        (None, "got NoneType"),
        ({"query": "a", "document": "b"}, "got dict"),
        (("a", None), r"pairs\[1\]\[1\] must be str, got NoneType"),
        ((b"a", "b"), r"pairs\[1\]\[0\] must be str, got bytes"),
    ):
        with pytest.raises(TypeError, match=message) as caught:
            model.score_pairs([("a", "b"), wrong])
        assert caught.value.index == 1
    with pytest.raises(TokenizationError, match="text 1 .* lone surrogate"):
        model.score_pairs([("a", "b"), ("a", "\udfff")])


def test_a_call_ends_when_it_must(model):
    with pytest.raises(TimedOut):
        model.score("cat", ["dog"] * 50, timeout=0)
    event = threading.Event()
    event.set()
    for call in (
        lambda: model.score("cat", ["dog"], cancel=event),
        lambda: model.score_pairs([("cat", "dog")], cancel=event),
        lambda: model.rank("cat", ["dog"], cancel=event),
    ):
        with pytest.raises(Cancelled):
            call()
    assert model.score("cat", ["dog"]).shape == (1,)


def test_the_query_is_tokenized_once(model, monkeypatch):
    seen = []
    real = type(model._tokenizer).ids

    def ids(self, texts, prompt=""):
        seen.extend(texts)
        return real(self, texts, prompt)

    monkeypatch.setattr(type(model._tokenizer), "ids", ids)
    documents = [f"document {i} " + "cat " * 2000 for i in range(40)]  # several parts of a window
    model.score("a query", documents)
    assert seen.count("a query") == 1
    assert sorted(seen) == sorted(["a query", *documents])
    seen.clear()
    model.score_pairs([("cat", "a"), ("dog", "b"), ("cat", "c")])
    assert sorted(seen) == ["a", "b", "c", "cat", "dog"]


def test_many_documents(model):
    documents = [TEXTS[i % len(TEXTS)] for i in range(5000)]  # more than a window
    scores = model.score(TEXTS[0], documents)
    expected = golden("reranker")["default"][0]
    np.testing.assert_allclose(scores, [expected[i % len(TEXTS)] for i in range(5000)], atol=1e-5)


def test_opened_by_kind_and_after_a_pickle(model):
    with Tessera(path=FOLDER) as opened:
        assert type(opened) is TesseraReranker
        assert opened.spec.kinds == ("reranker",)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.score("cat", TEXTS), model.score("cat", TEXTS))
    again.close()
    with pytest.raises(EncodingError, match="this model is closed"):
        again.score("cat", ["dog"])
    with pytest.raises(LoadError, match="is of kind reranker, not dense"):
        TesseraDense(path=FOLDER)


def test_modules_after_an_encoder(ettin):
    """Ettin's head: the first state, Dense, GELU, LayerNorm, Dense to one number."""
    stored = golden("reranker_head")
    np.testing.assert_array_equal(stored["raw"], stored["default"])
    with TesseraReranker(path=ettin) as model:
        recipe = model.spec.reranker
        assert (recipe.pooling, recipe.column, recipe.activation) == ("cls", -1, "identity")
        assert [step.type for step in recipe.modules] == ["dense", "layer-norm", "dense"]
        scores = model.score_pairs(PAIRS)
        np.testing.assert_allclose(scores, stored["raw"].ravel(), atol=1e-4, rtol=1e-5)


def test_weights_of_a_module_are_missing_or_others(ettin):
    weights = ettin / "4_Dense" / "model.safetensors"
    other = (ettin / "2_Dense" / "model.safetensors").read_bytes()
    weights.write_bytes(other)
    with pytest.raises(LoadError, match="4_Dense"):
        TesseraReranker(path=ettin)
    weights.unlink()
    with pytest.raises(LoadError, match="has no model.safetensors"):
        TesseraReranker(path=ettin)


@pytest.fixture
def foreign(tmp_path):
    """foreign(config, settings): a folder as an author of a cross-encoder leaves it."""

    def build(config=(), settings=None, names=("token_type_ids",), graph="model.onnx"):
        place = tmp_path / "cross-encoder"
        shutil.rmtree(place, ignore_errors=True)
        (place / graph).parent.mkdir(parents=True)
        shutil.copy(FOLDER / "model.fp32.onnx", place / graph)
        shutil.copy(FOLDER / "tokenizer.json", place)
        facts = {
            "architectures": ["BertForSequenceClassification"],
            "model_type": "bert",
            "hidden_size": 32,
            "max_position_embeddings": 64,
            "vocab_size": 128,
            "type_vocab_size": 2,
            "pad_token_id": 0,
            "id2label": {"0": "LABEL_0"},
        } | dict(config)
        tokenizer = {
            "model_max_length": 512,
            "pad_token": "[PAD]",
            "tokenizer_class": "BertTokenizer",
        }
        if names != ("token_type_ids",):
            tokenizer |= {"model_input_names": list(names)}
        (place / "config.json").write_text(json.dumps(facts))
        (place / "tokenizer_config.json").write_text(json.dumps(tokenizer))
        if settings is not None:
            (place / "config_sentence_transformers.json").write_text(json.dumps(settings))
        return place

    return build


def test_a_foreign_folder(foreign):
    for graph in ("model.onnx", "onnx/model.onnx"):
        with TesseraReranker(path=foreign(graph=graph)) as model:
            np.testing.assert_allclose(
                model.score_pairs(PAIRS), golden("reranker")["default"].ravel(), atol=1e-5
            )
            assert model.spec.reranker.max_length == 64  # 512, cut to the positions
            with Tessera(path=foreign(graph=graph)) as opened:
                assert type(opened) is TesseraReranker
    with pytest.raises(LoadError, match="is a reranker or another classifier .* TesseraReranker"):
        TesseraDense(path=foreign())


IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"


@pytest.mark.parametrize(
    ("config", "settings", "name"),
    [
        ({}, None, "sigmoid"),
        ({}, {"activation_fn": IDENTITY}, "identity"),
        ({}, {"activation_fn": "torch.nn.Identity"}, "identity"),
        ({}, {"activation_fn": None}, "sigmoid"),
        ({}, {"activation_fn": "somebody.Identity"}, "sigmoid"),  # upstream runs no foreign code
        ({"sentence_transformers": {"activation_fn": IDENTITY}}, None, "identity"),
        ({"sentence_transformers": {"version": "4"}}, None, "sigmoid"),
        ({"sbert_ce_default_activation_function": IDENTITY}, None, "identity"),
        ({"sbert_ce_default_activation_function": None}, None, "sigmoid"),
        (
            {
                "sbert_ce_default_activation_function": IDENTITY,
                "sentence_transformers": {"activation_fn": SIGMOID},
            },
            None,
            "sigmoid",
        ),
        (
            {"sentence_transformers": {"activation_fn": SIGMOID}},
            {"activation_fn": IDENTITY, "model_type": "CrossEncoder"},
            "identity",
        ),
    ],
)
def test_the_activation_is_found_as_upstream_finds_it(foreign, config, settings, name):
    with TesseraReranker(path=foreign(config, settings)) as model:
        assert model.activation() == name
        stored = golden("reranker")["raw" if name == "identity" else "default"]
        np.testing.assert_allclose(model.score(TEXTS[0], TEXTS), stored[0], atol=1e-5)


def test_an_activation_that_is_not_computed(foreign):
    for said in ("torch.nn.modules.activation.Tanh", "torch.nn.Softmax", "torch.sigmoid"):
        with pytest.raises(LoadError, match=r"has the activation .* known are torch.nn's"):
            TesseraReranker(path=foreign({}, {"activation_fn": said}))


def test_token_types(foreign):
    """They are given as transformers gives them, else the model would read 0 for 1."""
    expected = golden("reranker")["default"].ravel()
    with TesseraReranker(path=foreign(names=("input_ids", "attention_mask"))) as model:
        assert model.spec.reranker.type_ids == (0, 0, 0, 0, 0)
        assert np.abs(model.score_pairs(PAIRS) - expected).max() > 1e-3
    place = foreign()
    path = place / "tokenizer_config.json"
    config = json.loads(path.read_text())
    for name in ("PreTrainedTokenizerFast", "SomeTokenizer"):
        path.write_text(json.dumps(config | {"tokenizer_class": name}))
        with pytest.raises(LoadError, match="only its version of transformers says whether"):
            TesseraReranker(path=place)
    del config["tokenizer_class"]
    path.write_text(json.dumps(config))  # transformers takes the class of model_type bert
    with TesseraReranker(path=place) as model:
        np.testing.assert_allclose(model.score_pairs(PAIRS), expected, atol=1e-5)


def test_a_graph_that_was_made_for_other_padding(foreign):
    place = foreign()
    (place / "model.onnx").write_bytes(picking([-1]))
    with pytest.raises(LoadError, match="alone and 0.0000 beside a longer one: it was made for"):
        TesseraReranker(path=place)
    (place / "model.onnx").write_bytes(picking([1]))  # the only output of one column
    with TesseraReranker(path=place) as model:
        first = model._tokenizer.token_id("cat")
        assert model.score("cat", ["dog", "a b"], activation="raw").tolist() == [first, first]


RELEVANT = {"0": "Not relevant", "1": "relevant"}


@pytest.mark.parametrize(
    ("labels", "column"),
    [
        (RELEVANT, 1),
        ({"0": "irrelevant", "1": "RELEVANT"}, 1),
        ({"0": "no", "1": "yes"}, 1),
        ({"0": "LABEL_0", "1": "LABEL_1"}, None),
        ({"0": "relevant", "1": "not relevant"}, None),
        ({"0": "negative", "1": "positive"}, None),
        (None, None),
    ],
)
def test_two_columns(foreign, labels, column):
    place = foreign({"id2label": labels})
    (place / "model.onnx").write_bytes(picking([0, 1]))
    if column is None:
        with pytest.raises(LoadError, match="says 2 labels .* of which the second is named"):
            TesseraReranker(path=place)
        return
    with TesseraReranker(path=place) as model:
        assert model.activation() == "identity"
        assert model.score("cat", ["dog"]).tolist() == [model._tokenizer.token_id("cat")]
    (place / "model.onnx").write_bytes(picking([0]))
    with pytest.raises(LoadError, match="gives 1 columns .* column is 1"):
        TesseraReranker(path=place)


@pytest.mark.parametrize("exact", [True, False])
def test_an_int8_graph_that_saturates(tmp_path, monkeypatch, caplog, exact):
    """It is compared with the fp32 graph beside it, and refused where it ranks otherwise."""
    monkeypatch.setattr(reranker, "is_saturating", lambda _name: True)
    place = copy("reranker", tmp_path / "m", replace(('int8 = ""', 'int8 = "int8.onnx"')))
    content = (place / "model.fp32.onnx").read_bytes() if exact else picking([1])
    add_file(place, "int8.onnx", content)
    edit = replace(('output = "logits"', 'output = ""'))
    (place / "model.toml").write_text(edit((place / "model.toml").read_text()))
    with TesseraReranker(path=place, precision="int8") as model:
        if exact:
            model._check_int8()
            assert "on 11 probe pairs its scores" in caplog.text
            assert "correlate by 1.000; precision='fp32' has no such difference" in caplog.text
        else:
            with pytest.raises(LoadError, match=r"correlate by -?0\.\d+, below 0.9: use precision"):
                model._check_int8()


SEP, CLS = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("[SEP]", "[CLS]"))
A, B, B1 = ({"Sequence": {"id": i, "type_id": n}} for i, n in (("A", 0), ("B", 0), ("B", 1)))
SEP1 = {"SpecialToken": {"id": "[SEP]", "type_id": 1}}


@pytest.mark.parametrize(
    ("pair", "middle", "types"),
    [
        ([CLS, A, SEP, SEP, B, SEP], (5, 5), (0, 0, 0, 0, 0)),  # XLM-R
        ([CLS, A, SEP, B1, SEP1], (5,), (0, 0, 0, 1, 1)),
        ([A, B1], (), (0, 0, 0, 1, 0)),  # Qwen's: nothing is put around
        ([A, SEP, B], (5,), (0, 0, 0, 0, 0)),
        ([CLS, B, SEP, A, SEP], None, None),
        ([CLS, A, SEP, SEP1, B1, SEP1], None, None),
        ([CLS, A, SEP], None, None),
    ],
)
def test_the_layout_of_a_pair_is_the_tokenizers(foreign, pair, middle, types):
    place = foreign()
    path = place / "tokenizer.json"
    document = json.loads(path.read_text())
    document["post_processor"]["pair"] = pair
    path.write_text(json.dumps(document))
    if middle is None:
        with pytest.raises(LoadError, match="does more than put fixed ids before, between and aft"):
            TesseraReranker(path=place)
        return
    theirs = Tokenizer.from_file(str(path))
    with TesseraReranker(path=place) as model:
        recipe = model.spec.reranker
        assert (recipe.middle_ids, recipe.type_ids) == (middle, types)
        theirs.enable_truncation(64, strategy="longest_first")
        rows, _ = model._tokenizer.rows([Pair(Query(q), d) for q, d in PAIRS], Role("", 64))
        for row, (query, text) in zip(rows, PAIRS, strict=True):
            made = theirs.encode(query, text)
            assert (row.ids.tolist(), row.types.tolist()) == (made.ids, made.type_ids)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "gives 1 logits, but config.json says 3"),
        ({"id2label": None}, "gives 1 logits, but config.json says 2 labels"),
        ({"num_labels": 2, "id2label": {"0": "a", "1": "b"}}, "these are files of two models"),
        ({"architectures": ["BertModel"]}, "is no reranker"),
        ({"architectures": ["BertForTokenClassification"]}, "marks the tokens of a text"),
        ({"architectures": ["JinaForRanking"]}, "of a sort that is not computed here"),
        # A language model without a template (zerank), layers that are cut off, a list of answers.
        ({"architectures": ["Qwen3ForCausalLM"]}, "none of its files says how a pair is spelled"),
        ({"architectures": ["LayerWiseMiniCPMForCausalLM"]}, "a language model .* not computed"),
        ({"architectures": ["CostWiseGemmaForCausalLM"]}, "a language model .* not computed"),
        ({"architectures": ["Qwen3VLForConditionalGeneration"]}, "a language model .* not comp"),
        ({"architectures": ["T5Gemma2ForConditionalGeneration"]}, "a language model .* not comp"),
        ({"vocab_size": 100}, "tokenizer.json has the id 127: these are files of two models"),
    ],
)
def test_folders_that_are_refused(foreign, config, message):
    with pytest.raises(LoadError, match=message):
        TesseraReranker(path=foreign(config))


def test_a_prompt_before_every_pair_is_refused(foreign):
    settings = {"model_type": "CrossEncoder", "prompts": {"a": "b"}, "default_prompt_name": "a"}
    with pytest.raises(LoadError, match="puts the prompt a before every pair"):
        TesseraReranker(path=foreign({}, settings))


def test_arguments_that_no_reranker_has(foreign):
    with pytest.raises(TypeError, match="pooling"):
        TesseraReranker(path=foreign(), pooling="mean")
    with pytest.raises(LoadError, match="is a reranker or another classifier"):
        Tessera(path=foreign(), pooling="mean")
    with pytest.raises(ConfigError, match="is no ONNX file of"):
        TesseraReranker(path=foreign(), file="other.onnx")
    with TesseraReranker(path=foreign(graph="onnx/other_name.onnx"), file="other_name.onnx") as m:
        assert m.score("cat", ["dog"]).shape == (1,)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("column = -1", "column = 1", "gives 1 columns .* column is 1"),
        ("column = -1", "column = -2", "column is the number of a column"),
        ("max_length = 64", "max_length = 65", r"max_length 65 must lie in 5..64"),
        ("max_length = 64", "max_length = 4", r"max_length 4 must lie in 5..64"),
        ('activation = "sigmoid"', 'activation = "tanh"', "expected one of 'identity', 'sigmoid'"),
        ('pooling = "graph"', 'pooling = "cls"', "modules go with a pooling"),
        ('output = "logits"', 'output = "scores"', "has no output 'scores'"),
        ("middle_ids = [\n    5,\n]", "middle_ids = [6]", "other ids or types around a query"),
        ("middle_ids = [\n    5,\n]", "middle_ids = [-1]", "no id or type is negative"),
        ("middle_ids = [\n    5,\n]", "middle_ids = [500]", "500 is no id of tokenizer.json"),
        (
            "middle_ids = [\n    5,\n]",
            f"middle_ids = [{2**40}]",
            "1099511627776 is no id of tokenizer.json",
        ),
        ("    1,\n    1,\n]", "    1,\n]", "type_ids are five numbers"),
        ("    1,\n    1,\n]", "    1,\n    0,\n]", "other ids or types around a query"),
        ('truncation = "longest_first"\n', "", "reranker.truncation is missing"),
        ('kinds = [\n    "reranker"', 'kinds = [\n    "dense"', "kinds .* but tables for"),
    ],
)
def test_facts_that_are_wrong(tmp_path, old, new, message):
    with pytest.raises(LoadError, match=message):
        TesseraReranker(path=copy("reranker", tmp_path / "m", replace((old, new))))


def test_column_0_of_one_column_is_the_only_one(tmp_path):
    edit = replace(("column = -1", "column = 0"), ('output = "logits"', 'output = ""'))
    with TesseraReranker(path=copy("reranker", tmp_path / "m", edit)) as model:
        assert model.spec.reranker.output == "logits"
        np.testing.assert_allclose(
            model.score(TEXTS[0], TEXTS), golden("reranker")["default"][0], atol=1e-5
        )

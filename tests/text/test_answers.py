"""Yes/no language models against the code of their authors on the same weights.

tests/make_answer_artifacts.py records what mxbai-rerank, FlagEmbedding and Qwen's sample give.
"""

import json
import pickle
import warnings

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, copy, golden, relist, replace

from tessera_onnx import (
    ConfigError,
    InputTooLong,
    LoadError,
    TesseraReranker,
    TokenizationError,
    TruncationWarning,
)
from tessera_onnx.text import pair_outputs
from tessera_onnx.text.templates import fill
from tessera_onnx.text.tokenizer import Batch

CASES = json.loads((ARTIFACTS / "answers.json").read_text("utf-8"))
PAIRS = [tuple(pair) for pair in CASES["pairs"]]
NAMES = list(CASES["lengths"])
pytestmark = pytest.mark.filterwarnings("ignore::tessera_onnx.TruncationWarning")


def opened(name, **options):
    return TesseraReranker(path=ARTIFACTS / name, **options)


@pytest.mark.parametrize("kind", ["plain", "told"])
@pytest.mark.parametrize(("name", "cut"), [(name, cut) for name in NAMES for cut in (0, 1)])
def test_scores_equal_the_authors_code(name, cut, kind):
    length = CASES["lengths"][name][cut]
    instruction = CASES["instruction"] if kind == "told" else None
    expected = golden(name)[f"{kind}-{length}"]
    assert np.ptp(expected) > 0.2
    with opened(name, max_length=length) as model:
        raw = model.score_pairs(PAIRS, activation="raw", instruction=instruction)
        np.testing.assert_allclose(raw, expected, atol=1e-5)
        alone = [
            model.score(query, [text], activation="raw", instruction=instruction)[0]
            for query, text in PAIRS[::5]
        ]
        np.testing.assert_allclose(alone, expected[::5], atol=1e-5)
        sigmoid = model.score_pairs(PAIRS, activation="sigmoid", instruction=instruction)
        np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-expected)), atol=1e-5)


def test_activations_and_ranks():
    with opened("answers-qwen3") as model:
        assert model.activation() == "sigmoid"  # the probability of yes
        documents = [text for _, text in PAIRS[:7]]
        expected = 1 / (1 + np.exp(-golden("answers-qwen3")["told-600"][:7]))
        ranked = model.rank(PAIRS[0][0], documents, 3, instruction=CASES["instruction"])
        assert [row.index for row in ranked] == np.argsort(-expected)[:3].tolist()
        assert model.rank(PAIRS[0][0], documents) != ranked
        again = pickle.loads(pickle.dumps(model))
        assert again.score("a", ["b"])[0] == model.score("a", ["b"])[0]
    for name in ("answers-qwen2", "answers-gemma"):
        with opened(name) as model:
            assert model.activation() == "identity"


def test_an_empty_instruction_takes_the_place_of_the_templates_own(tmp_path):
    own = (
        'instruction = "Given a web search query, retrieve relevant passages that answer the query"'
    )
    place = copy("answers-qwen3", tmp_path / "none", replace((own, 'instruction = ""')))
    with opened("answers-qwen3") as model, TesseraReranker(path=place) as none:
        found = model.score_pairs(PAIRS[:5], activation="raw", instruction="")
        expected = none.score_pairs(PAIRS[:5], activation="raw")
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert abs(found - model.score_pairs(PAIRS[:5], activation="raw")).max() > 1e-3


def test_another_spelling_of_the_template_is_data(tmp_path):
    """Blank lines between the parts, as in other samples of Qwen3-Reranker; the scores differ."""

    def lines(text):
        text = text.replace("{instruction}\\n<Query>", "{instruction}\\n\\n<Query>")
        return text.replace('between = "\\n"', 'between = "\\n\\n"')

    place = copy("answers-qwen3", tmp_path / "lines", lines)
    stored = golden("answers-qwen3")
    with TesseraReranker(path=place) as model:
        found = model.score_pairs(PAIRS, activation="raw")
    np.testing.assert_allclose(found, stored["lines"], atol=1e-5)
    assert np.abs(found - stored["plain-600"]).max() > 1e-2


def test_a_vocabulary_narrower_than_an_answer_is_another_model(tmp_path):
    """A SPLADE graph gives logits of 128 entries; a tokenizer that has grown has the id 128."""
    vocabulary = json.loads((ARTIFACTS / "splade/tokenizer.json").read_text("utf-8"))
    words = {number: word for word, number in vocabulary["model"]["vocab"].items()}
    grown = {**vocabulary["added_tokens"][-1], "content": "<maybe>", "id": 128}
    vocabulary["added_tokens"].append(grown)

    def made(name, yes):
        answers = ('    "yes",', f"    {json.dumps(yes)},"), ('    "no",', f'    "{words[50]}",')
        marks = ("<|im_start|>", ""), ("<|im_end|>", "")
        # The graph has 64 positions.
        long = (
            "Judge whether the Document meets the requirements based on the Query and the Instruct "
            'provided. Note that the answer can only be \\"yes\\" or \\"no\\".'
        )
        short = (
            (long, ""),
            ("Given a web search query, retrieve relevant passages that answer the query", "a"),
            ("max_length = 600", "max_length = 64"),
            ("max_positions = 1024", "max_positions = 64"),
        )
        place = copy("answers-qwen3", tmp_path / name, replace(*answers, *marks, *short))
        relist(place, "model.fp32.onnx", (ARTIFACTS / "splade/model.fp32.onnx").read_bytes())
        relist(place, "tokenizer.json", json.dumps(vocabulary).encode())
        return place

    with TesseraReranker(path=made("last", words[127])) as model:
        assert np.isfinite(model.score("a", ["b"])).all()
    with pytest.raises(LoadError, match=r"logits \(1, \d+, 128\).*hold the answers <maybe>, "):
        TesseraReranker(path=made("behind", "<maybe>"))


def test_scores_of_logits_by_hand():
    """Of the last real token, of the last position alone, of a graph that gave one position."""
    logits = np.arange(24, dtype=np.float16).reshape(2, 3, 4) ** 2
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    batch = Batch(mask, mask, mask.sum(axis=1))
    found = pair_outputs.answer_scores(logits, batch, (3, 1))
    assert found.tolist() == [[7**2 - 5**2], [23**2 - 21**2]]
    assert pair_outputs.answer_scores(logits, batch, (2,)).tolist() == [[6**2], [22**2]]
    for array in (logits[:, 2], logits[:, 2:]):
        assert pair_outputs.answer_scores(array, batch, (0, 3)).tolist() == [[-57], [-129]]
    assert pair_outputs.answer_scores(logits[:, 0, :1], batch, (0, 3)).tolist() == [[0], [144]]


def test_a_text_that_spells_a_place_is_not_filled():
    told = {"{query}": "{document}", "{document}": "{instruction}"}
    assert fill("a {query} b {document} {instruction}", told) == (
        "a {document} b {instruction} {instruction}"
    )


def test_a_token_that_a_text_spells_is_that_token():
    """As the authors' tokenizers read it: such a document can end its turn."""
    with opened("answers-qwen3") as model:
        tokenizer = model._tokenizer
        (ids,) = tokenizer.ids(["a<|im_end|>"])
        assert ids[-1] == tokenizer.token_id("<|im_end|>")
        spelled, plain = model.score("a", ["b<|im_end|>", "b<|im_end |>"], activation="raw")
        assert spelled != plain


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_is_counted_and_said(name):
    long = "the ship left the harbour " * 200
    with opened(name) as model, pytest.warns(TruncationWarning, match="2 of 3 documents were cut"):
        model.score("a", [long, "b", long])
    with opened(name, on_long="error") as model:
        model.score("a", ["b"])
        with pytest.raises(InputTooLong, match=r"document 1 has \d+ tokens, the model reads") as e:
            model.score("a", ["b", long])
        assert e.value.index == 1


def test_a_query_above_its_share_is_cut_and_said():
    """mxbai-rerank keeps three quarters of max_length of a query, also where all would fit."""
    query = "a " * 55
    with opened("answers-qwen2", max_length=60) as model:
        with pytest.warns(TruncationWarning, match="1 of 1 documents were cut"):
            first = model.score(query, ["b"])
        assert model.score(query[:-4], ["b"]) == first
    with opened("answers-qwen2", max_length=100) as model, warnings.catch_warnings():
        warnings.simplefilter("error")
        model.score(query, ["b"])


@pytest.mark.parametrize("name", NAMES)
def test_max_length_leaves_room_for_texts(name):
    with pytest.raises(ConfigError, match="leaves no room for a query and a document"):
        opened(name, max_length=3 if name == "answers-gemma" else 8)
    with pytest.raises(ConfigError, match=r"max_length 10.. (must lie in|lets a pair have)"):
        opened(name, max_length=1025 if name == "answers-qwen3" else 1020)
    with opened(name) as model:
        with pytest.raises(ConfigError, match="leaves no room|a shorter instruction"):
            model.score("a", ["b"], instruction="find it " * 500)
        assert np.isfinite(model.score("", ["", "\n"])).all()
        assert model.score("a", []).shape == (0,)


def test_max_length_of_the_model_is_checked(tmp_path):
    place = copy(
        "answers-qwen3", tmp_path / "short", replace(("max_length = 600", "max_length = 9"))
    )
    with pytest.raises(LoadError, match="leaves no room for a query and a document"):
        TesseraReranker(path=place)


def test_instructions_that_cannot_be():
    with opened("answers-qwen3") as model:
        for wrong in (1, b"x", ["x"]):
            with pytest.raises(TypeError, match="instruction must be str"):
                model.score("a", ["b"], instruction=wrong)
        with pytest.raises(TokenizationError, match="instruction .* lone surrogate"):
            model.score_pairs([("a", "b")], instruction="a\ud800")
        with pytest.raises(TokenizationError, match="text 1 .* lone surrogate") as caught:
            model.score("a", ["b", "\udfff"])
        assert caught.value.index == 1
    with (
        opened("reranker") as model,
        pytest.raises(ConfigError, match="instruction is given, but this model reads none"),
    ):
        model.score("a", ["b"], instruction="find it")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('query = "A: {query}"', 'query = "A: "', "{query} stands once, in query"),
        ('between = "\\n"', 'between = "{document}"', "{document} stands once, in document"),
        ('"B: {document}"', '"B: {document}{instruction}"', "at most once, in query or after"),
        ('instructed = "{instruction}"', 'instructed = ""', "instructed holds"),
        ("query_share = 0.75", "query_share = 0.0", "query_share lies above 0"),
        ('truncation = "only_second"', 'truncation = "end"', 'query_share is 1 and limits "pair"'),
        ('truncation = "only_second"', 'truncation = "longest_first"', "truncation is"),
        ("prefix_ids = []\nmiddle", "prefix_ids = [4]\nmiddle", "prefix_ids, middle_ids"),
        ('answers = [\n    "Yes",\n]', 'answers = ["Yes", "Yes"]', "one token, or two that differ"),
        ('answers = [\n    "Yes",\n]', 'answers = ["Maybe so"]', "does not have"),
        ('before = "<bos>"', 'before = "<start>"', "spell the token '<start>'"),
        ('after = [\n    "\\n"', 'after = [\n    "<|eot|>"', "spell the token '<|eot|>'"),
    ],
)
def test_templates_that_cannot_be(tmp_path, old, new, message):
    place = copy("answers-gemma", tmp_path / "wrong", replace((old, new)))
    with pytest.raises(LoadError, match=message.replace("{", r"\{").replace("|", r"\|")):
        TesseraReranker(path=place)

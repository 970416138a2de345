"""Texts prepared for batches of the caller: token ids, states of tokens, a cut at the start."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tessera_onnx import TesseraDense, TesseraMultiVector, TesseraReranker, TesseraSparse
from tessera_onnx.errors import ConfigError, TokenizationError

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
LONG = " ".join(["two cats and a dog"] * 30)


@pytest.fixture(scope="module")
def dense():
    with TesseraDense(path=ARTIFACTS / "states", on_long="truncate", threads=1) as model:
        yield model


def tokens(folder, text, direction="right", length=None, special=True):
    """What the tokenizers library makes of a text."""
    tokenizer = Tokenizer.from_file(str(ARTIFACTS / folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if length:
        tokenizer.enable_truncation(length, direction=direction)
    return tokenizer.encode(text, add_special_tokens=special).ids


def run(model, prepared):
    return model.run_prepared(prepared)


def test_a_long_text_keeps_its_end(dense):
    facts = dense.spec.text
    around = len(facts.prefix_ids) + len(facts.suffix_ids)
    most = dense.spec.dense.document.max_length
    inner = tokens("states", LONG, "left", most - around, special=False)
    (found,) = dense.prepare([LONG], keep_end=True)
    ids = [*facts.prefix_ids, *inner, *facts.suffix_ids]
    assert found.content.ids.tolist() == ids
    assert (found.cut, found.size) == (True, most)
    (start,) = dense.prepare([LONG])
    assert start.content.ids.tolist() != ids
    (short,) = dense.prepare(["two cats"], keep_end=True)
    np.testing.assert_allclose(run(dense, [short])[0], dense.encode("two cats"), atol=1e-6)
    # The same vector as that of a text that holds these tokens alone.
    (vector,) = run(dense, [found])
    (same,) = run(dense, dense.prepare([ids], are_ids=True))
    np.testing.assert_array_equal(vector, same)


def test_ids_are_whole_inputs(dense):
    facts = dense.spec.text
    inner = tokens("states", "two cats", special=False)
    whole = [*facts.prefix_ids, *inner, *facts.suffix_ids]
    made = dense.prepare([whole, np.array(inner)], are_ids=True)
    assert [each.content.ids.tolist() for each in made] == [whole, inner]
    np.testing.assert_allclose(run(dense, made[:1])[0], dense.encode("two cats"), atol=1e-6)
    # The prompt of a role is not added.
    with TesseraDense(path=ARTIFACTS / "prompts", threads=1) as prompts:
        ids = tokens("prompts", "query: two cats", special=False)
        facts = prompts.spec.text
        (found,) = prompts.prepare(
            [[*facts.prefix_ids, *ids, *facts.suffix_ids]], are_ids=True, role="query"
        )
        expected = prompts.encode_query("two cats")
        np.testing.assert_allclose(prompts.run_prepared([found])[0], expected, atol=1e-6)


@pytest.mark.parametrize(("ids", "words"), [([3, 1 << 20], "number 1"), ([], "empty"), ([-1], "0")])
def test_wrong_ids_are_refused_with_their_index(dense, ids, words):
    with pytest.raises(TokenizationError, match=f"text 1.*{words}") as caught:
        dense.prepare([[3], ids], are_ids=True)
    assert caught.value.index == 1


def test_a_model_without_a_graph_takes_ids_and_cuts_ends_only():
    with TesseraDense(path=ARTIFACTS / "static", max_length=4, on_long="truncate") as model:
        ids = tokens("static", "t w o", special=False)  # this tokenizer.json has no decoder
        (found,) = model.prepare([ids], are_ids=True)
        np.testing.assert_allclose(model.run_prepared([found])[0], model.encode("t w o"))
        with pytest.raises(TokenizationError, match="text 1: these token ids") as caught:
            model.prepare([ids, tokens("static", "two cats", special=False)], are_ids=True)
        assert caught.value.index == 1
        model.prepare(["two"], keep_end=True)
        with pytest.raises(ConfigError, match="keeps the start"):
            model.prepare([LONG], keep_end=True)
        with pytest.raises(ConfigError, match="no states"):
            model.prepare(["two"], states=True)


def test_a_model_without_a_graph_tokenizes_once_and_tells_every_cut(monkeypatch):
    """24 tokens of 3 characters: a text of few tokens may be cut at its characters."""
    words = "machine learning machine learning machine learning machine learning mach"
    texts = [words + "ine rain", words, "two cats", LONG]
    with TesseraDense(path=ARTIFACTS / "static", on_long="truncate") as model:
        exact = model.encode_batch(texts)
        made = model.prepare(texts)
        assert [each.cut for each in made] == [True, False, False, True]
        assert made[3].count == model.token_count([LONG])[0]
        other = model.prepare(["two cats"], normalize=False)
        monkeypatch.delattr(type(model.tokenizer), "joined_ids")
        np.testing.assert_allclose(run(model, made), exact, atol=1e-6)
        mixed = run(model, [made[3], *other, made[2]])
        np.testing.assert_allclose([mixed[0], mixed[2]], exact[[3, 2]], atol=1e-6)
        np.testing.assert_allclose(mixed[1] / np.linalg.norm(mixed[1]), exact[2], atol=1e-6)
        assert run(model, []) == []


def test_states_of_tokens_are_for_models_that_pool(dense):
    (states,) = run(dense, dense.prepare(["two cats"], states=True))
    mean = states.mean(axis=0)  # the pooling of this model
    np.testing.assert_allclose(mean / np.linalg.norm(mean), dense.encode("two cats"), atol=1e-6)
    with pytest.raises(ConfigError, match="not cut to a dimension"):
        dense.prepare(["two cats"], states=True, dimension=32)
    with (
        TesseraMultiVector(path=ARTIFACTS / "colbert", threads=1) as model,
        pytest.raises(ConfigError, match="no states"),
    ):
        model.prepare(["two cats"], states=True)


def test_models_of_words_have_no_tokens():
    with TesseraSparse("bm25") as model:
        with pytest.raises(ConfigError, match="no tokenizer"):
            model.prepare([[1]], are_ids=True)
        with pytest.raises(ConfigError, match="no tokenizer"):
            _ = model.tokenizer


def test_a_dimension_is_for_the_kind_of_the_model():
    with TesseraDense(path=ARTIFACTS / "m3", threads=1) as model:
        with pytest.raises(ConfigError, match="the model's dense vectors"):
            model.prepare(["two cats"], kinds=("multi-vector",), dimension=32)


def test_several_kinds_are_those_of_encode_all():
    """Each kind of the model opens it: cuts and limits are of its own vectors alone."""
    texts = ["two cats", "", LONG]
    kinds = ("dense", "multi-vector", "sparse")
    for cls, options in (
        (TesseraDense, {"dimension": 32}),
        (TesseraSparse, {"max_active_dims": 2}),
        (TesseraMultiVector, {}),
    ):
        with cls(path=ARTIFACTS / "m3", threads=1, on_long="truncate", **options) as model:
            for role in ("query", "document", "plain"):
                expected = model.encode_all(texts, role=role)
                rows = run(model, model.prepare(texts, kinds=kinds, role=role))
                for i, (dense, multi, sparse) in enumerate(rows):
                    np.testing.assert_allclose(dense, expected.dense[i], atol=1e-6)
                    np.testing.assert_allclose(multi, expected.multi_vector[i], atol=1e-5)
                    assert sparse.indices.tolist() == expected.sparse[i].indices.tolist()
                    np.testing.assert_allclose(sparse.values, expected.sparse[i].values, atol=1e-5)
            if cls is TesseraDense:
                assert expected.dense.shape == (3, 32)
                np.testing.assert_allclose(expected.dense, model.encode_batch(texts), atol=1e-6)
            if cls is TesseraSparse:
                assert max(len(vector.indices) for vector in expected.sparse) == 2
            with pytest.raises(ConfigError, match="role must be"):
                model.prepare(texts, kinds=kinds, role="other")
            with pytest.raises(ConfigError, match="leave normalize or the kinds out"):
                model.prepare(texts, kinds=kinds, normalize=False)
            with pytest.raises(ConfigError, match="role must be"):
                model.encode_all(texts, role="other")


def test_pairs_lose_their_ends():
    with TesseraReranker(path=ARTIFACTS / "reranker", threads=1) as model:
        tokenizer = model._encoder.tokenizer
        with pytest.raises(ConfigError, match="cut at their ends"):
            tokenizer.rows([], None, keep_end=True)


def test_pieces_and_decode_are_those_of_the_library(dense):
    text = "two Cäts, and [SEP] a dög"
    known = Tokenizer.from_file(str(ARTIFACTS / "states" / "tokenizer.json"))
    known.no_padding()
    expected = known.encode(text, add_special_tokens=False)
    found = dense.tokenizer.pieces(text)
    assert [piece.id for piece in found] == expected.ids
    assert [piece.token for piece in found] == expected.tokens
    assert [(piece.start, piece.stop) for piece in found] == expected.offsets
    assert dense.tokenizer.decode(expected.ids) == known.decode(expected.ids, False)
    skipped = dense.tokenizer.decode(expected.ids, skip_special=True)
    assert skipped == known.decode(expected.ids)


def test_the_prompt_of_a_role():
    with TesseraDense(path=ARTIFACTS / "prompts", threads=1) as model:
        assert (model.prompt("query"), model.prompt("document")) == ("query: ", "passage: ")
        with pytest.raises(ConfigError, match="role"):
            model.prompt("other")

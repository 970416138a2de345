"""Long texts: windows that are averaged, chunks of their own, and late chunks."""

import pickle

import numpy as np
import onnxruntime
import pytest
from artifact_tools import ARTIFACTS, copy, replace

from tessera_onnx import (
    ConfigError,
    EncodingError,
    TesseraDense,
    TesseraMultiVector,
    TesseraSparse,
    TokenizationError,
)
from tessera_onnx.runtime.session import Session
from tessera_onnx.text.tokenizer import Piece
from tessera_onnx.text.windows import token_spans
from tessera_onnx.vectors.pooling import l2_normalize

SENTENCE = "the cat sat on the mat and the dog in new york now what is machine learning"
SHORT = "the cat sat on the mat"
LONG = " ".join((SENTENCE.split() * 6)[:100])  # 100 tokens, one a word; 38 fit
SPLIT = "catting dogged interactions " * 30  # words of several tokens
MOST, ROOM = 40, 38  # what the artifact reads, with and without CLS and SEP


@pytest.fixture(scope="module")
def model():
    with TesseraDense(path=ARTIFACTS / "states", on_long="window") as opened:
        yield opened


@pytest.fixture(scope="module")
def plain():
    with TesseraDense(path=ARTIFACTS / "states", on_long="error") as opened:
        yield opened


def words(text, first, end):
    """The words from number `first` to `end` of a text of single spaces."""
    return " ".join(text.split()[first:end])


def states(ids):
    """The states of token ids from the graph itself: (n, 32)."""
    session = onnxruntime.InferenceSession(ARTIFACTS / "states" / "model.onnx")
    ids = np.array([ids])
    known = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    feeds = {port.name: known.get(port.name, np.zeros_like(ids)) for port in session.get_inputs()}
    return session.run(["last_hidden_state"], feeds)[0][0]


def test_a_long_text_is_the_mean_of_its_windows(model, plain):
    """By hand: windows of 38 words, 4 (an eighth of 38) of which the next one repeats."""
    parts = [(0, 38), (34, 72), (68, 100)]
    rows = plain.encode_batch([words(LONG, *part) for part in parts])
    weights = np.array([38, 38, 32])
    expected = l2_normalize(weights @ rows)
    np.testing.assert_allclose(model.encode(LONG), expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(model.encode(LONG)), 1, atol=1e-6)


def test_every_method_reads_windows(model, plain):
    texts = [SHORT, LONG, "", SPLIT, SHORT, LONG[:400]]
    alone = np.stack([model.encode(text) for text in texts])
    np.testing.assert_allclose(alone[[0, 2]], plain.encode_batch([SHORT, ""]), atol=1e-6)
    for several in (
        model.encode_batch(texts),
        model.encode_query(texts),
        model.encode_document(iter(texts)),
        np.stack(list(model.encode_iter(texts))),
    ):
        np.testing.assert_allclose(several, alone, atol=1e-5)
    assert model.rank(LONG, texts)[0].index in (1, 5)
    assert model.similarity(LONG, LONG) == pytest.approx(1, abs=1e-6)
    codes = model.encode_batch(texts, output_dtype="int8")
    np.testing.assert_allclose(codes.dequantize(), alone, atol=0.01)
    with pytest.raises(ConfigError, match="dense vectors alone"):
        model.encode_all([LONG])
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(again.encode(LONG), alone[1], atol=1e-6)
    again.close()
    assert model.prepare([SHORT])[0].cut is False
    with pytest.raises(ConfigError, match="text 1 has 102 tokens") as caught:
        model.prepare([SHORT, LONG])
    assert caught.value.index == 1


def test_prompts_stand_before_every_window(tmp_path):
    """And vectors that the model does not normalise are not normalised."""
    edit = replace(('[model.dense.query]\nprompt = ""', '[model.dense.query]\nprompt = "query: "'))
    folder = copy("states", tmp_path / "m", edit)
    with TesseraDense(path=folder, on_long="window") as model:
        # "query" and ":" leave 36 words to a window, 4 of them shared.
        parts = [(0, 36), (32, 68), (64, 100)]
        rows = model.encode_query([words(LONG, *part) for part in parts])
        expected = l2_normalize(np.array([36, 36, 36]) @ rows)
        np.testing.assert_allclose(model.encode_query(LONG), expected, atol=1e-6)


def test_other_kinds_and_models_without_a_graph_refuse_windows():
    for cls, folder in ((TesseraSparse, "splade"), (TesseraMultiVector, "colbert")):
        with pytest.raises(ConfigError, match="on_long must be"):
            cls(path=ARTIFACTS / folder, on_long="window")
    with pytest.raises(ConfigError, match="runs no graph"):
        TesseraDense("tessera-static-mini", on_long="window")
    with pytest.raises(ConfigError, match="on_long must be"):
        TesseraDense(path=ARTIFACTS / "states", on_long="windows")


def test_errors_name_the_text_and_not_the_window(monkeypatch):
    with TesseraDense(path=ARTIFACTS / "states", on_long="window", threads=1) as model:
        good = model.encode(SHORT)
        run = Session.run

        def failing(self, feeds, **options):
            if (feeds["input_ids"] == 112).any():  # "models"
                raise EncodingError("it broke")
            return run(self, feeds, **options)

        monkeypatch.setattr(Session, "run", failing)
        bad = f"{LONG} models"
        texts = [SHORT, LONG, bad, SHORT]
        with pytest.raises(EncodingError, match="^text 2: it broke$") as caught:
            model.encode_batch(texts)
        assert caught.value.index == 2
        stream = model.encode_iter(texts)
        np.testing.assert_allclose(next(stream), good, atol=1e-6)
        assert next(stream).shape == (32,)
        with pytest.raises(EncodingError, match="^text 2: it broke$") as caught:
            next(stream)
        assert caught.value.index == 2
        with pytest.raises(TokenizationError, match="text 1") as caught:
            model.encode_batch([LONG, "\ud800"])
        assert caught.value.index == 1


def test_spans_end_before_words():
    text = "a bb-cc dd"
    pieces = [
        Piece(i, text[a:b], False, a, b)
        for i, (a, b) in enumerate([(0, 1), (2, 4), (4, 5), (5, 7), (8, 10)])
    ]
    assert token_spans(pieces, text, 3, 0) == [(0, 3), (3, 5)]  # the word is too long for a half
    assert token_spans(pieces, text, 4, 0) == [(0, 4), (4, 5)]
    assert token_spans(pieces[1:], text, 2, 0) == [(0, 2), (2, 4)]
    assert token_spans(pieces, text, 9, 3) == [(0, 5)]
    assert token_spans(pieces, text, 4, 1) == [(0, 4), (3, 5)]  # the word's start is too far
    assert token_spans(pieces, text, 4, 2) == [(0, 4), (1, 5)]
    assert token_spans([], text, 4, 1) == []


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("overlap", [0, 3])
def test_chunks_cover_the_text(plain, late, overlap):
    texts = [LONG, SHORT, "", f"  {SPLIT}"]
    found = plain.encode_chunks(texts, size=10, overlap=overlap, late=late)
    for text, (vectors, spans) in zip(texts, found, strict=True):
        assert vectors.shape == (len(spans), 32) and vectors.dtype == np.float32
        assert (spans[1:, 0] >= spans[:-1, 0]).all() and (spans[:, 1] > spans[:, 0]).all() | (
            text == ""
        )
        covered = {i for start, stop in spans.tolist() for i in range(start, stop)}
        assert {i for i, sign in enumerate(text) if not sign.isspace()} <= covered
        for start, stop in spans.tolist():
            assert text[start:stop] == text[start:stop].strip()
    assert len(found[0].vectors) == (10 if overlap == 0 else 14)
    assert found[2].spans.tolist() == [[0, 0]]


def test_chunks_are_texts_of_their_own(plain):
    (vectors, spans), short = plain.encode_chunks([LONG, SHORT], size=25)
    parts = [LONG[start:stop] for start, stop in spans.tolist()]
    assert parts == [words(LONG, i, i + 25) for i in range(0, 100, 25)]
    np.testing.assert_allclose(vectors, plain.encode_batch(parts), atol=1e-6)
    np.testing.assert_allclose(short.vectors[0], plain.encode(SHORT), atol=1e-6)
    (whole,) = plain.encode_chunks([LONG])  # as many tokens as the model reads
    assert [stop - start for start, stop in whole.spans.tolist()] == [
        len(words(LONG, *part)) for part in ((0, 38), (38, 76), (76, 100))
    ]


def published(ids, spans):
    """chunked_pooling of jina-ai/late-chunking with its evaluation's annotations and windows."""
    # _extend_special_tokens: the first span takes CLS in, the last SEP.
    annotations = [
        (start + (1 if i else 0), end + 1 + (i == len(spans) - 1))
        for i, (start, end) in enumerate(spans)
    ]
    # _embed_with_overlap, with windows of 40 and an overlap of 5.
    if len(ids) > MOST:
        parts = [states(ids[start : start + MOST]) for start in range(0, len(ids), MOST - 5)]
        rows = np.concatenate([part[5:] if i else part for i, part in enumerate(parts)])
    else:
        rows = states(ids)
    pooled = [rows[start:end].sum(axis=0) / (end - start) for start, end in annotations]
    return np.stack(pooled) / np.linalg.norm(pooled, axis=1, keepdims=True)


@pytest.mark.parametrize("n_words", [1, 12, 30, 38, 39, 75, 100])
def test_late_chunks_are_the_published_ones(plain, n_words):
    """On texts of a token a word, so that chunks of 10 tokens end between words."""
    text = words(LONG, 0, n_words)
    ids = plain.prepare([text])[0].content.ids if n_words <= ROOM else None
    if ids is None:
        pieces = plain.tokenizer.pieces(text)
        ids = [4, *(piece.id for piece in pieces), 5]
    assert len(ids) == n_words + 2
    spans = [(i, min(i + 10, n_words)) for i in range(0, n_words, 10)]
    (found,) = plain.encode_chunks([text], size=10, late=True)
    np.testing.assert_allclose(found.vectors, published(list(ids), spans), atol=1e-5)
    parts = [text[start:stop] for start, stop in found.spans.tolist()]
    assert parts == [words(text, *span) for span in spans]


def test_late_chunks_of_many_texts_are_those_of_each(plain):
    texts = [LONG, SHORT, SPLIT, "", LONG[50:300]] * 3
    together = plain.encode_chunks(texts, size=7, overlap=2, late=True)
    for text, found in zip(texts, together, strict=True):
        (alone,) = plain.encode_chunks([text], size=7, overlap=2, late=True)
        np.testing.assert_array_equal(found.spans, alone.spans)
        np.testing.assert_allclose(found.vectors, alone.vectors, atol=1e-5)


def test_one_late_chunk_is_the_text(plain):
    """A chunk of the whole text has all of its tokens: the model's own mean."""
    (found,) = plain.encode_chunks([SHORT], late=True)
    np.testing.assert_allclose(found.vectors[0], plain.encode(SHORT), atol=1e-6)
    assert found.spans.tolist() == [[0, len(SHORT)]]


def test_late_chunks_with_a_prompt_begin_after_it(tmp_path):
    edit = replace(
        ('[model.dense.document]\nprompt = ""', '[model.dense.document]\nprompt = "passage: "')
    )
    with TesseraDense(path=copy("states", tmp_path / "m", edit)) as model:
        (found,) = model.encode_chunks([SHORT], size=3, late=True)
        ids = [4, 106, 22, *(piece.id for piece in model.tokenizer.pieces(SHORT)), 5]
        rows = states(ids)
        expected = l2_normalize(np.stack([rows[:6].mean(axis=0), rows[6:].mean(axis=0)]))
        np.testing.assert_allclose(found.vectors, expected, atol=1e-5)
        assert [SHORT[a:b] for a, b in found.spans.tolist()] == ["the cat sat", "on the mat"]


def test_models_without_states_have_no_late_chunks(plain):
    with TesseraDense("all-minilm-l6-v2") as model:
        with pytest.raises(ConfigError, match="no late chunks"):
            model.encode_chunks([SHORT], late=True)
        (found,) = model.encode_chunks([LONG], size=50)
        assert len(found.vectors) == 2
    with TesseraDense("tessera-static-mini") as model:
        (found,) = model.encode_chunks([LONG], size=50)
        assert len(found.vectors) == 2
        with pytest.raises(ConfigError, match="no late chunks"):
            model.encode_chunks([SHORT], late=True)


def test_wrong_arguments(plain):
    for wrong in ({"size": 0}, {"size": 5, "overlap": 5}, {"overlap": -1}, {"size": 39}):
        with pytest.raises(ConfigError, match=list(wrong)[-1]):
            plain.encode_chunks([LONG], **wrong)
    for wrong in ({"size": 5.0}, {"size": 5, "overlap": 1.0}):
        with pytest.raises(TypeError, match=list(wrong)[-1]):
            plain.encode_chunks([LONG], **wrong)
    for late in (False, True):
        with pytest.raises(TypeError, match=r"texts\[1\]") as caught:
            plain.encode_chunks([LONG, 3], late=late)
        assert caught.value.index == 1
        assert plain.encode_chunks([], late=late) == []
    with pytest.raises(TypeError, match="list"):
        plain.encode_chunks(LONG)

"""Chunks cover a text, lie where they say, and are never longer than the model reads."""

import subprocess
import sys
from itertools import pairwise

import pytest
from artifact_tools import ARTIFACTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessera_onnx import ConfigError, TesseraDense
from tessera_onnx.collection.chunks import LONGEST, split

# Tokenizers of other families, and a model that puts a prompt before documents.
FOLDERS = ("m3", "prompts", "static", "tasks")


@pytest.fixture(scope="module")
def counters(dense):
    models = [dense, *(TesseraDense(path=ARTIFACTS / name) for name in FOLDERS)]
    return [lambda texts, m=m: m.token_count(texts, role="document") for m in models]


def check(text, count, limit, overlap):
    """The properties of all chunks; the chunks."""
    spans = list(split(text, count, limit, overlap))
    base, end = count([""])[0], 0
    for before, span in zip([None, *spans], spans, strict=False):
        found = text[span.start : span.stop]
        assert found
        assert found == found.strip()
        assert len(found) == 1 or count([found])[0] <= limit
        if before is not None:
            assert before.start < span.start
            assert before.stop < span.stop
            shared = text[span.start : before.stop] if span.start < before.stop else ""
            assert count([shared])[0] - base <= overlap + 1
        assert not text[end : span.start].strip()  # nothing between them
        end = span.stop
    assert not text[end:].strip()
    return spans


WORDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30)
PIECES = st.one_of(
    st.sampled_from(["bread", "unbelievable", "e.g.", "3.14", "…", "。", "你好", "🍞", "x" * 90]),
    st.sampled_from([" ", "  ", "\n", "\n\n", "\t", ". ", "! ", "? ", '." ', "", "\r\n", "\u3000"]),
    WORDS,
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=120).map("".join)


@settings(
    max_examples=60, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(TEXTS, st.integers(0, 40), st.integers(0, 12), st.integers(0, len(FOLDERS)))
def test_chunks_cover_the_text_and_fit(counters, text, more, overlap, which):
    count = counters[which]
    limit = int(count([""])[0]) + 24 + more
    check(text, count, limit, overlap)


def by_words(texts):
    """A tokenizer with a token a word, and two special tokens."""
    return [len(text.split()) + 2 for text in texts]


def chunks_of(text, *sizes):
    return [text[start:stop] for start, stop in split(text, by_words, *sizes)]


def test_sizes_at_their_borders():
    assert chunks_of("a", 10) == ["a"]
    assert chunks_of("a", 66, 32) == ["a"]
    four = [f"{name} b c d." for name in "vwxyz"]
    text = " ".join(four)  # a chunk holds two, and the overlap one
    assert chunks_of(text, 10, 4) == [" ".join(pair) for pair in pairwise(four)]
    assert chunks_of(text, 10, 3) == [" ".join(four[i : i + 2]) for i in (0, 2, 4)]
    assert chunks_of("a b c d. e f g h. i j k l m.", 10, 4) == ["a b c d. e f g h.", "i j k l m."]
    # A sentence that just fits is not cut, not even for the overlap.
    assert chunks_of("a b c d e f g h. i j k l.", 10, 4) == ["a b c d e f g h.", "i j k l."]


def test_parts_of_a_long_sentence_are_small_enough_for_room_and_overlap():
    words = ["w"] * 80
    first, rest = (len(chunk.split()) for chunk in chunks_of(" ".join(words[:40]), 34))
    assert first + rest == 40
    assert first > 28
    spans = list(split(" ".join(words), by_words, 34, 4))
    assert all(0 < a.stop - b.start <= 8 for a, b in pairwise(spans))


def test_a_sentence_of_any_length_is_cut_before_its_tokens_are_counted():
    longest = 0

    def count(texts):
        nonlocal longest
        longest = max(longest, *map(len, texts))
        return by_words(texts)

    list(split("rain " * 3 * LONGEST, count, 20))
    assert longest <= LONGEST


def test_chunks_of_sentences_end_at_sentences(counters, rng):
    words = ["bread", "rises", "slowly", "when", "rain", "falls", "on", "the", "mill"]
    text = " ".join(
        " ".join(rng.choice(words, rng.integers(3, 12))).capitalize() + rng.choice([".", "!", '?"'])
        for _ in range(200)
    )
    spans = check(text, counters[0], 40, 16)
    assert len(spans) > 20
    assert all(text[stop - 1] in '.!"' for _, stop in spans)
    assert all(start == 0 or text[start - 1] == " " for start, _ in spans)
    assert any(b.start < a.stop for a, b in pairwise(spans))
    apart = check(text, counters[0], 40, 0)
    assert all(b.start > a.stop for a, b in pairwise(apart))
    assert len(apart) < len(spans)


@pytest.mark.parametrize(
    "text",
    ["", " \n\t", "a", "x" * 5000, "你好" * 3000, "." * 5000, "🍞" * 700, " ".join(["rain"] * 3000),
     "a\n\n" * 2000, "\ufeff\u200b" * 3000, "\n" * 9000 + "b", "?!" * 4000 + " end"],
    ids=range(12),
)  # fmt: skip
def test_texts_without_spaces_or_sentence_ends(counters, text):
    for count in counters:
        base = int(count([""])[0])
        spans = check(text, count, base + 30, 8)
        assert max((stop - start for start, stop in spans), default=0) <= 32 * 30
        assert bool(spans) == bool(text.strip())


def test_a_long_sentence_is_cut_at_spaces(counters):
    text = " ".join(["rain"] * 3 * LONGEST)
    for start, stop in check(text, counters[0], 64, 8):
        assert text[start:stop].startswith("rain")
        assert text[start:stop].endswith("rain")


def test_sizes_that_cannot_work_are_refused(counters):
    with pytest.raises(
        ConfigError, match="chunk_tokens must be at least 10 with this model, got 9"
    ):
        list(split("a", counters[0], 9))
    with pytest.raises(ConfigError, match="overlap must be from 0 to 31 tokens, got 32"):
        list(split("a", counters[0], 64, 32))
    with pytest.raises(TypeError, match="chunk_tokens must be int, got float"):
        list(split("a", counters[0], 64.0))


HUGE = """
import resource, sys, time
from tessera_onnx import TesseraDense
from tessera_onnx.collection.chunks import split
text = {text}
model = TesseraDense("all-minilm-l6-v2")
count = lambda texts: model.token_count(texts, role="document")
list(split(text[:100_000], count, 256, 32))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start, end, n = time.process_time(), 0, 0
for span in split(text, count, 256, 32):
    assert span.start <= end or not text[end : span.start].strip()
    end, n = span.stop, n + 1
assert not text[end:].strip()
more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(len(text), n, more // 1024, round(time.process_time() - start))
"""
SHAPES = {
    "sentences": '"The mill by the river grinds clay and rain into bread. " * 190_000',
    "no spaces": '"abcdefghij" * 1_000_000',
    "no ends": '"rain bread " * 950_000',
    "dots": '"." * 10_000_000',
    "spaces": '"a" + " " * 10_000_000 + "b"',
    "lines": '"\\n" * 10_000_000 + "b"',
}


@pytest.mark.nightly
@pytest.mark.linux
@pytest.mark.parametrize("shape", SHAPES)
def test_ten_megabytes_take_bounded_time_and_memory(shape):
    """50 MB take five times as long: minutes for each shape."""
    code = HUGE.format(text=SHAPES[shape])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    length, n, megabytes, seconds = map(int, done.stdout.split())
    assert length >= 9_900_000
    assert n >= 1
    assert megabytes < 150
    assert seconds < 120  # of a processor

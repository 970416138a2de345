"""Split a text into chunks that a model reads whole: at sentence ends, with an overlap."""

from __future__ import annotations

import functools
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

from tessera_onnx.checks import check_limit
from tessera_onnx.errors import ConfigError

# Tokens of each of some texts, as the model reads them: with prompt and special tokens.
Count = Callable[[list[str]], Sequence[int]]

# A sentence ends after its mark, if white space follows or the script has none, and at an empty
# line. A run of marks is tried from its first one alone, so the search takes linear time.
END = re.compile(
    r"(?<![.!?…])[.!?…]++[\"'”’»)\]]*+(?=\s)"  # noqa: RUF001
    r"|(?<![。！？])[。！？]++[」』”’）]*+"  # noqa: RUF001
    r"|\n[^\S\n]*+\n\s*+"
)
BLANK = " \n\t"
LONGEST = 2048  # characters of a part: a longer sentence is cut before its tokens are counted
# A part counts as one token per so many characters, at the least: a model may read a long word, or
# characters that it does not know, as one token or none.
CHARACTERS_PER_TOKEN = 32
AT_ONCE = 256  # parts whose tokens are counted in one call
LEAST_ROOM = 8  # tokens of a chunk beside prompt and special tokens


class Span(NamedTuple):
    """The place of a chunk: text[start:stop]."""

    start: int
    stop: int


class _Part(NamedTuple):
    start: int
    stop: int
    size: int  # tokens


def split(text: str, count: Count, limit: int, overlap: int = 0) -> Iterator[Span]:
    """Yield the chunks of a text, in order; none for a text of white space.

    Each chunk has at most `limit` tokens, without white space at its ends, and each other character
    of the text lies in one. A chunk holds whole sentences where a sentence fits, and begins with
    those at the end of the chunk before it that have at most `overlap` tokens together. Memory is
    bounded beside the text itself.

    Raises the errors of `check_sizes`.
    """
    room = check_sizes(count, limit, overlap)
    held: deque[_Part] = deque()
    size = 0
    for part in _parts(text, count, room, overlap):
        if held and size + part.size > room:
            yield from _checked(text, held[0].start, held[-1].stop, count, limit)
            while held and (size > overlap or size + part.size > room):
                size -= held.popleft().size
        held.append(part)
        size += part.size
    if held:
        yield from _checked(text, held[0].start, held[-1].stop, count, limit)


def check_sizes(count: Count, limit: int, overlap: int) -> int:
    """The tokens of a chunk beside prompt and special tokens.

    Raises TypeError, and ConfigError where `limit` leaves too little of them, or where the overlap
    is more than half of that.
    """
    check_limit(limit, "chunk_tokens")
    room = limit - int(count([""])[0])
    if room < LEAST_ROOM:
        least = limit - room + LEAST_ROOM
        raise ConfigError(f"chunk_tokens must be at least {least} with this model, got {limit}")
    if isinstance(overlap, bool) or not isinstance(overlap, int):
        raise TypeError(f"overlap must be int, got {type(overlap).__name__}")
    if not 0 <= overlap <= room // 2:
        raise ConfigError(f"overlap must be from 0 to {room // 2} tokens, got {overlap}")
    return room


def _checked(text: str, start: int, stop: int, count: Count, limit: int) -> Iterator[Span]:
    """The span without white space at its ends, in halves where it has more than `limit` tokens.

    A tokenizer may make more tokens of a whole than of its parts, if rarely.
    """
    while start < stop and text[start].isspace():
        start += 1
    while start < stop and text[stop - 1].isspace():
        stop -= 1
    if start == stop:
        return
    if stop - start == 1 or count([text[start:stop]])[0] <= limit:
        yield Span(start, stop)
        return
    middle = _break(text, start, (start + stop) // 2)
    yield from _checked(text, start, middle, count, limit)
    yield from _checked(text, middle, stop, count, limit)


def _parts(text: str, count: Count, room: int, overlap: int) -> Iterator[_Part]:
    """The sentences of a text, which it consists of; one that does not fit is cut into parts."""
    sizes = functools.partial(_sizes, text, count, int(count([""])[0]))
    small = max(LEAST_ROOM // 2, min(room // 4, overlap or room))
    sentences = _sentences(text)
    while spans := list(islice(sentences, AT_ONCE)):
        for span, size in zip(spans, sizes(spans), strict=True):
            if size <= room:
                yield _Part(*span, size)
            else:
                yield from _cut(text, span, size, sizes, small)


def _cut(
    text: str, span: Span, size: int, sizes: Callable[[list[Span]], list[int]], most: int
) -> Iterator[_Part]:
    """Parts of at most `most` tokens of a span of `size` tokens; a character is not cut."""
    start, stop = span
    if size <= most or stop - start == 1:
        yield _Part(start, stop, size)
        return
    n = min(-(-size // most), stop - start)
    places = [start]
    for i in range(1, n):
        places.append(_break(text, places[-1], start + (stop - start) * i // n))
    parts = [Span(*pair) for pair in pairwise([*places, stop])]
    for part, found in zip(parts, sizes(parts), strict=True):
        yield from _cut(text, part, found, sizes, most)


def _sizes(text: str, count: Count, base: int, spans: Sequence[Span]) -> list[int]:
    """Tokens of spans, without the `base` of prompt and special tokens."""
    counts = count([text[start:stop] for start, stop in spans])
    return [
        max(int(tokens) - base, -(-(stop - start) // CHARACTERS_PER_TOKEN))
        for tokens, (start, stop) in zip(counts, spans, strict=True)
    ]


def _break(text: str, start: int, place: int) -> int:
    """The place behind the last white space of text[start:place], else `place` itself."""
    found = max(text.rfind(mark, start, place) for mark in BLANK) + 1
    return found if found > start else place


def _sentences(text: str) -> Iterator[Span]:
    """The sentences of a text, each with the white space before it; long ones in parts."""
    for start, stop in pairwise(_ends(text)):
        while stop - start > LONGEST:
            place = _break(text, start, start + LONGEST)
            yield Span(start, place)
            start = place  # noqa: PLW2901
        if start < stop:
            yield Span(start, stop)


def _ends(text: str) -> Iterator[int]:
    yield 0
    for found in END.finditer(text):
        yield found.end()
    yield len(text)

"""Find the words of a chunk that answer a query, by the models that can tell."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tessera_onnx.models.spec import Kind
from tessera_onnx.text.base import TextModel

WORD = re.compile(r"\w+")
LEAST_LETTERS = 3  # of a word of the query that is looked for where no model tells
LEAST_MATCH = 0.5  # cosine of two tokens that match
MOST_WORDS = 100_000  # whose entries are kept
Place = tuple[int, int]
Words = dict[str, frozenset[int]]  # the entries of each word that was looked up


def finder(
    query: str, models: Mapping[Kind, TextModel], known: Words
) -> Callable[[str], list[Place]]:
    """What gives the places (start, stop) of the matching words of a text, in order.

    A multi-vector model tells them by the tokens that make its score, a sparse one by the entries
    that query and text share. Without either they are the words of the query. `known` keeps what
    a sparse model says of words from one search to the next.
    """
    multi = models.get("multi-vector")
    sparse: Any = models.get("sparse")
    if multi is not None:
        return lambda text: list(_whole_words(text, _by_tokens(query, text, multi)))
    if sparse is not None:
        asked = frozenset(sparse.encode_query(query).indices.tolist())
        return lambda text: list(_whole_words(text, _by_entries(asked, text, sparse, known)))
    words = {word.casefold() for word in WORD.findall(query)}
    words = {word for word in words if len(word) >= LEAST_LETTERS} or words
    return lambda text: [m.span() for m in WORD.finditer(text) if m.group().casefold() in words]


def _by_tokens(query: str, text: str, model: Any) -> Iterator[Place]:
    special = {model.token(number) for number in model.tokenizer.special_ids()}
    wanted = {
        match.document_token
        for match in model.explain(query, text)
        if match.score >= LEAST_MATCH and match.query_token not in special
    } - special
    for piece in model.tokenizer.pieces(text):
        if piece.token in wanted:
            yield piece.start, piece.stop


def _by_entries(asked: frozenset[int], text: str, model: Any, known: Words) -> Iterator[Place]:
    if model.spec.hashes_words():
        entries = _entries(WORD.findall(text), model, known)
        for found in WORD.finditer(text):
            if not asked.isdisjoint(entries[found.group()]):
                yield found.span()
        return
    shared = asked.intersection(model.encode_document(text).indices.tolist())
    for piece in model.tokenizer.pieces(text):
        if piece.id in shared:
            yield piece.start, piece.stop


def _entries(words: Iterable[str], model: Any, known: Words) -> Words:
    """The entries of words; the model is asked for those that are not known."""
    found = {word: known.get(word) for word in words}
    missing = [word for word, entries in found.items() if entries is None]
    vectors = model.encode_document(missing)
    new = {w: frozenset(v.indices.tolist()) for w, v in zip(missing, vectors, strict=True)}
    if len(known) + len(new) > MOST_WORDS:
        known.clear()
    known.update(new)
    return {word: new[word] if entries is None else entries for word, entries in found.items()}


def _whole_words(text: str, places: Iterable[Place]) -> Iterator[Place]:
    """The words that places lie in; places without letters and digits are left out."""
    marks = bytearray(len(text))
    for start, stop in places:
        marks[start:stop] = b"\1" * (stop - start)
    for found in WORD.finditer(text):
        if any(marks[found.start() : found.end()]):
            yield found.span()

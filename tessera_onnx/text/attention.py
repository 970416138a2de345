"""Weigh the words of a text by the attention of its first token: BM42."""

from __future__ import annotations

import math
import string
from collections.abc import Iterator

import numpy as np

from tessera_onnx.models.artifact import Artifact
from tessera_onnx.models.spec_words import MAX_LETTERS, Attention, Language
from tessera_onnx.results import SparseVector
from tessera_onnx.runtime.session import Array
from tessera_onnx.text import lexical
from tessera_onnx.text.tokenizer import Batch, Head, Tokenizer


class AttentionWords:
    """The words of a model of this kind, and how tokens become them."""

    def __init__(self, facts: Attention, artifact: Artifact, tokenizer: Tokenizer) -> None:
        """Raises ImportError, LoadError as `lexical.load_words`."""
        language = Language(facts.stemmer, facts.stop_words)
        marks = frozenset(string.punctuation)
        self._words = lexical.load_words(MAX_LETTERS, language, artifact, marks)
        self._alpha = facts.alpha
        self._tokenizer = tokenizer
        self._special = tokenizer.special_ids()

    def name(self, number: int) -> str:
        """The stem of an id, as `lexical.Words.name`."""
        return self._words.name(number)

    def document_head(self, output: str) -> Head:
        """The head for a SparseVector of weights, from the attention (b, heads, n, n) `output`."""

        def apply(outputs: list[Array], batch: Batch) -> list[SparseVector]:
            first = np.mean(outputs[0][:, :, 0], axis=1)  # what the first token attends to
            rows = zip(batch.ids, batch.lengths.tolist(), first, strict=True)
            return [self._vector(ids[:n].tolist(), weights) for ids, n, weights in rows]

        return Head((output,), apply)

    def query_head(self) -> Head:
        """The head for a SparseVector of ones, from the tokens alone."""

        def apply(_: list[Array], batch: Batch) -> list[SparseVector]:
            rows = zip(batch.ids, batch.lengths.tolist(), strict=True)
            return [self._vector(ids[:n].tolist(), None) for ids, n in rows]

        return Head((), apply)

    def _vector(self, tokens: list[int], attention: Array | None) -> SparseVector:
        self._words.forget()
        found: dict[str, float] = {}
        for word, places in lexical.joined(self._pieces(tokens)):
            if stem := self._words.stem(word):
                weight = 1.0 if attention is None else sum(attention[i] for i in places)
                found[stem] = max(found.get(stem, 0.0), weight)
        ids = np.array(self._words.ids(found), dtype=np.int64)
        if attention is None:
            return lexical.vector(ids, np.ones(len(ids)))
        weights = [math.log(1.0 + weight) ** self._alpha for weight in found.values()]
        return lexical.vector(ids, np.array(weights, dtype=np.float64))

    def _pieces(self, tokens: list[int]) -> Iterator[tuple[int, str]]:
        """Tokens with their places; special tokens end no word, as in fastembed."""
        for place, number in enumerate(tokens):
            if number not in self._special:
                yield place, self._tokenizer.token(number)

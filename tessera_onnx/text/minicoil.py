"""Weigh the words of a text by their meaning in it: miniCOIL.

`MiniCoil` in models/spec_words.py has the recipe. The order of the steps is fastembed's where it
decides a weight.
"""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import LoadError
from tessera_onnx.models.artifact import Artifact
from tessera_onnx.models.spec_words import HASHED, MiniCoil
from tessera_onnx.results import SparseVector
from tessera_onnx.runtime.session import Array
from tessera_onnx.text import lexical
from tessera_onnx.text.tokenizer import Batch, Head, Ids, Tokenizer

SPECIAL = frozenset({"[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"})
MARK = re.compile(r"[^\w\s]")
MOST_LETTERS = 40  # of the stem of a word outside the vocabulary
GAP = 32_000
LEAST_NORM = 1e-8  # below it a meaning is not scaled
UNKNOWN = -1


@dataclass(frozen=True)
class _Word:
    count: int
    number: int  # in the vocabulary, from 1; UNKNOWN outside of it
    meaning: tuple[float, ...] = ()


class MiniCoilWords:
    """The words of a model of this kind, and how tokens become them."""

    def __init__(self, facts: MiniCoil, artifact: Artifact, tokenizer: Tokenizer) -> None:
        """Raises ImportError as `lexical.load_words`, LoadError for wrong files."""
        self._facts, self._tokenizer = facts, tokenizer
        self._stem, self._hash = lexical.load_stemmer(facts.stemmer)
        self._stop = lexical.load_stop_words(facts.stop_words, artifact)
        self._words, self._stems = _vocabulary(artifact.read(facts.vocabulary), facts.vocabulary)
        self._numbers = {word: number for number, word in enumerate(self._words, 1)}
        self._weights = _weights(artifact.read(facts.weights), facts.weights)
        count, _, self._size = self._weights.shape
        if count != len(self._words) + 1:
            raise LoadError(
                f"{facts.weights} has {count} matrices for the {len(self._words)} words of "
                f"{facts.vocabulary} and the unknown one",
                path=facts.weights,
            )
        self._first = (count * self._size // GAP + 2) * GAP  # the least id outside the vocabulary
        if self._first >= HASHED - 1:
            raise LoadError(f"{facts.weights} leaves no ids for other words", path=facts.weights)
        self._names: dict[int, str] = {}

    def name(self, number: int) -> str:
        """Word and component of an id; "#id" for another word that no text had lately."""
        word, component = divmod(number, self._size)
        if 0 < word <= len(self._words):
            return f"{self._words[word - 1]}:{component}"
        return self._names.get(number, f"#{number}")

    def document_head(self, output: str) -> Head:
        """The head for a SparseVector of weights, from the states (b, n, size) `output`."""
        return self._head(output, is_query=False)

    def query_head(self, output: str) -> Head:
        """The same without the frequencies of the words."""
        return self._head(output, is_query=True)

    def _head(self, output: str, *, is_query: bool) -> Head:
        def apply(outputs: list[Array], batch: Batch) -> list[SparseVector]:
            states = outputs[0]
            if states.shape[2] != self._weights.shape[1]:
                raise LoadError(
                    f"the graph's states have {states.shape[2]} numbers, and the matrices of "
                    f"{self._facts.weights} read {self._weights.shape[1]}"
                )
            rows = zip(batch.ids, batch.lengths.tolist(), states, strict=True)
            return [self._vector(ids[:n], row[:n], is_query=is_query) for ids, n, row in rows]

        return Head((output,), apply)

    def _vector(self, ids: Ids, states: Array, *, is_query: bool) -> SparseVector:
        words = self._cleaned(self._found([self._tokenizer.token(i) for i in ids.tolist()], states))
        length = sum(word.count for word in words.values())
        facts = self._facts
        indices: list[int] = []
        weights: list[float] = []
        for text, word in words.items():
            factor = 1.0
            if not is_query:
                room = 1 - facts.b + facts.b * length / facts.average_length
                factor = word.count * (facts.k + 1) / (word.count + facts.k * room)
            if word.number == UNKNOWN:
                indices.append(self._id(text))
                weights.append(factor)
                continue
            norm = sum(value**2 for value in word.meaning) ** 0.5
            scale = 1.0 if norm < LEAST_NORM else norm
            indices += range(word.number * self._size, (word.number + 1) * self._size)
            weights += [value / scale * factor for value in word.meaning]
        return lexical.vector(np.array(indices, np.int64), np.array(weights, np.float64))

    def _id(self, stem: str) -> int:
        number: int = self._first + abs(self._hash(stem)) % (HASHED - 1 - self._first)
        if len(self._names) > lexical.MOST_WORDS:
            self._names = {}
        self._names[number] = stem
        return number

    def _found(self, tokens: list[str], states: Array) -> dict[str, _Word]:
        """The words of the vocabulary in the order of their numbers, then the others."""
        numbers = np.zeros(len(tokens), np.int64)
        counts: Counter[int] = Counter()
        unknown: Counter[str] = Counter()
        for word, places in lexical.joined(enumerate(tokens)):  # special tokens are words
            number = self._number(word)
            numbers[places] = number
            if number:
                counts[number] += 1
            else:
                unknown[word] += 1
        found: dict[str, _Word] = {}
        for number in sorted(counts):
            tokens_of = states[numbers == number]
            mean = np.add.reduce(tokens_of, axis=0, dtype=np.float32) / np.float32(len(tokens_of))
            meaning = np.tanh(mean @ self._weights[number]).astype(np.float32)
            word = self._words[number - 1]
            found[word] = _Word(counts[number], number, tuple(meaning.tolist()))
        return found | {word: _Word(count, UNKNOWN) for word, count in unknown.items()}

    def _number(self, word: str) -> int:
        """The number of a word in the vocabulary, by itself or by its stem; 0 for another."""
        if word in self._stop:
            return 0
        known = self._numbers.get(word) or self._numbers.get(self._stems.get(word, ""))
        return known or self._numbers.get(self._stems.get(self._stem(word), ""), 0)

    def _cleaned(self, found: dict[str, _Word]) -> dict[str, _Word]:
        """Without what is no word; the words outside the vocabulary as BM25 reads them."""
        cleaned: dict[str, _Word] = {}
        for word, entry in found.items():
            if entry.number != UNKNOWN:
                cleaned[word] = entry
            elif not self._is_left_out(word):
                for part in MARK.sub(" ", word).split():
                    stem = self._stem(part)
                    if len(stem) <= MOST_LETTERS and not self._is_left_out(stem):
                        before = cleaned.get(stem)
                        total = entry.count + (before.count if before else 0)
                        cleaned[stem] = replace(before or entry, count=total)
        return cleaned

    def _is_left_out(self, word: str) -> bool:
        mark = len(word) == 1 and unicodedata.category(word).startswith("P")
        return mark or word in self._stop or word in SPECIAL


def _vocabulary(content: bytes, name: str) -> tuple[list[str], dict[str, str]]:
    """The words and, by stem, the word that stands for it. Raises LoadError."""
    try:
        table = json.loads(content)
        words, stems = table["vocab"], table["stem_mapping"]
        texts = [*words, *stems, *stems.values()]
        right = isinstance(words, list) and all(isinstance(text, str) for text in texts)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        right = False
    if not right or not words or len({*words}) != len(words) or not {*stems.values()} <= {*words}:
        raise LoadError(
            f"{name} is no vocabulary of miniCOIL: a list vocab of different words, and a table "
            "stem_mapping of stems to these",
            path=name,
        )
    return words, stems


def _weights(content: bytes, name: str) -> NDArray[np.floating]:
    """A matrix (size, components) for each word, the first for the unknown one."""
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
        right = isinstance(found, np.ndarray) and found.ndim == 3 and found.dtype.kind == "f"
        right = right and found.size > 0 and bool(np.isfinite(found).all())
    except (ValueError, OSError, EOFError, MemoryError, SyntaxError):
        right = False
    if not right:
        raise LoadError(
            f"{name} is no array (words, size, components) of finite floats in a .npy file",
            path=name,
        )
    return np.asarray(found)

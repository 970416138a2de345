"""Encode texts to the hashes of their words: BM25 as sparse vectors, with no graph.

`Lexical` in models/spec.py has the formula. fastembed computes it in double precision, and so does
this module, so that the float32 weights are equal to the last bit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError, EncodingError, LoadError, install_hint, shown
from tessera_onnx.models.artifact import Artifact
from tessera_onnx.models.spec import Role, TokenRole
from tessera_onnx.models.spec_words import HASHED, Language, Lexical, Stemmer
from tessera_onnx.results import SparseVector
from tessera_onnx.runtime import batching, workers
from tessera_onnx.runtime.session import Array
from tessera_onnx.text.calls import Call, Encoder, Rows, Window
from tessera_onnx.text.tokenizer import Batch, Head, Ids, OnLong, check_text, check_texts

# Both are applied, in this order with lower-casing between them: lower-casing a Greek sigma looks
# at the letters around it, and some letters become a letter and a mark.
MARK = re.compile(r"[^\w\s]")
NOT_WORD = re.compile(r"[^\w]")
ASCII = {code: " " for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")}
UNDERSCORE = "_"  # the only character of the class \w that Unicode calls punctuation
PIECE = "##"  # begins a token that goes on with a word, in WordPiece vocabularies
OUTPUTS = ("terms",)  # what the heads take in the place of a graph's outputs
V = TypeVar("V")
MOST_WORDS = 1 << 18  # that are remembered: 30 to 50 MB
MOST_LETTERS = 64  # of a word that is remembered


def find_language(facts: Lexical, name: str | None) -> Language:
    """The language of that name, the model's first for None. Raises ConfigError, TypeError."""
    if name is None:
        return facts.languages[0]
    if not isinstance(name, str):
        raise TypeError(f"language must be str or None, got {type(name).__name__}")
    for language in facts.languages:
        if language.name == name:
            return language
    names = ", ".join(language.name for language in facts.languages)
    raise ConfigError(f"language must be one of {names}, got {shown(name)}")


def load_words(
    longest: int, language: Language, artifact: Artifact, more: frozenset[str] = frozenset()
) -> Words:
    """The words of a language: its stop words, `more` words to leave out, and its stemmer.

    Raises ImportError where py-rust-stemmers or mmh3 is missing (the extra `lexical`), LoadError
    for a file of stop words that is not UTF-8; otherwise as `Artifact.read`.
    """
    stem, murmur = load_stemmer(language.name)
    stop = more | load_stop_words(language.stop_words, artifact)
    return Words(longest, stop, None if language.name == "none" else stem, murmur)


def load_stemmer(name: Stemmer) -> tuple[Callable[[str], str], Callable[[str], int]]:
    """The functions that stem a word and that hash one. Raises ImportError as `load_words`."""
    try:
        import mmh3
        from py_rust_stemmers import SnowballStemmer
    except ImportError as error:
        raise ImportError(
            f"lexical models need py-rust-stemmers and mmh3: {install_hint('lexical')}"
        ) from error
    return str if name == "none" else SnowballStemmer(name).stem_word, mmh3.hash


def load_stop_words(name: str, artifact: Artifact) -> frozenset[str]:
    """The words of a file, a word a line; none for "". Raises LoadError as `load_words`."""
    if not name:
        return frozenset()
    try:
        return frozenset(artifact.read(name).decode("utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise LoadError(f"{name} is no list of words in UTF-8", path=name) from error


class Known(dict[str, V]):
    """What `make` gives for a word, made once; several threads may ask at the same time."""

    def __init__(self, make: Callable[[str], V]) -> None:
        self._make = make

    def __missing__(self, word: str) -> V:
        value = self._make(word)
        if len(word) <= MOST_LETTERS:
            self[word] = value
        return value

    def bounded(self) -> Known[V]:
        """Itself, or an empty one where it has grown too large."""
        return self if len(self) <= MOST_WORDS else Known(self._make)


class Words:
    """Cuts texts into words, stems them and hashes the stems. Several threads may use it."""

    def __init__(
        self,
        longest: int,
        stop: frozenset[str],
        stem: Callable[[str], str] | None,
        murmur: Callable[[str], int],
    ) -> None:
        """`stop` are the words to leave out, `murmur` gives the signed hash of a stem."""
        self._longest = longest
        self._stop = stop
        self._stem = stem
        self._hash = murmur
        self._stems = Known(self._stemmed)  # of words; "" for words that are left out
        self._ids = Known(self._id)  # of stems
        self._names: dict[int, str] = {}  # the stem of an id; several where their hashes are equal

    def split(self, text: str) -> list[str]:
        """The words of a text, in order, with those that no vector has."""
        if text.isascii():  # the same in one step
            return text.lower().translate(ASCII).split()
        return NOT_WORD.sub(" ", MARK.sub(" ", text).lower()).split()

    def stems(self, text: str) -> list[str]:
        """The stems of the words of a text that count, in order."""
        known = self._stems
        return [stem for word in self.split(text) if (stem := known[word])]

    def terms(self, text: str) -> NDArray[np.int64]:
        """The id of each different stem and how often it occurs, (n, 2), in the order of the text.

        Raises EncodingError for a stem with the hash -2^31, which no int32 id can name.
        """
        self.forget()
        counts = Counter(self.stems(text))
        return np.array([self.ids(counts), list(counts.values())], dtype=np.int64).T

    def forget(self) -> None:
        """Let the words go that were read, where they are too many."""
        self._stems = self._stems.bounded()
        if len(self._ids) > MOST_WORDS:
            self._names, self._ids = {}, self._ids.bounded()

    def ids(self, stems: Iterable[str]) -> list[int]:
        """The ids of stems. Raises EncodingError as `terms`."""
        known = self._ids
        ids = [known[stem] for stem in stems]
        if HASHED in ids:
            raise EncodingError(
                "has a word whose hash is -2^31: its id would be beyond the ids of sparse vectors"
            )
        return ids

    def stem(self, word: str) -> str:
        """The stem of a word, "" for one that is left out."""
        return self._stems[word]

    def name(self, number: int) -> str:
        """The stem of an id, or "#id" where no text that was read lately has a stem of that id."""
        return self._names.get(number, f"#{number}")

    def _stemmed(self, word: str) -> str:
        if len(word) > self._longest or word == UNDERSCORE or word in self._stop:
            return ""
        return word if self._stem is None else self._stem(word)

    def _id(self, stem: str) -> int:
        number = abs(self._hash(stem))
        if len(stem) <= MOST_LETTERS:
            known = self._names.setdefault(number, stem)
            if stem not in known.split(" / "):
                self._names[number] = f"{known} / {stem}"
        return number


def document_head(facts: Lexical) -> Head:
    """The head for a SparseVector of BM25's weights, without IDF, from the terms of a text."""

    def apply(outputs: list[Array], batch: Batch) -> list[SparseVector]:
        terms, length = outputs[0], int(batch.lengths[0])
        counts = terms[:, 1].astype(np.float64)
        # In fastembed's order of operations, which decides the last bit.
        room = 1 - facts.b + facts.b * length / facts.average_length
        weights = counts * (facts.k + 1) / (counts + facts.k * room)
        return [vector(terms[:, 0], weights)]

    return Head(OUTPUTS, apply)


def query_head() -> Head:
    """The head for a SparseVector of ones, from the terms of a text."""

    def apply(outputs: list[Array], _: Batch) -> list[SparseVector]:
        return [vector(outputs[0][:, 0], np.ones(len(outputs[0])))]

    return Head(OUTPUTS, apply)


def vector(ids: Ids, weights: NDArray[np.float64]) -> SparseVector:
    """The vector of the terms; of stems with the same id, the last one counts, as in fastembed."""
    kept, places = np.unique(ids[::-1], return_index=True)
    return SparseVector(kept.astype(np.int32), weights[::-1][places].astype(np.float32))


def joined(pieces: Iterable[tuple[int, str]]) -> Iterator[tuple[str, list[int]]]:
    """Each word of the tokens (place, token) of a WordPiece vocabulary, and its places."""
    word = ""
    places: list[int] = []
    for place, token in pieces:
        if token.startswith(PIECE):
            word += token.removeprefix(PIECE)
        else:
            if word:
                yield word, places
                places = []
            word = token
        places.append(place)
    if word:
        yield word, places


class LexicalEncoder(Encoder):
    """The words of a model, shared by all threads that use it."""

    def __init__(self, words: Words, on_long: OnLong) -> None:
        """Raises ConfigError for an unknown `on_long`, which no text needs: none is cut."""
        super().__init__(None, on_long)
        self._words: Words | None = words

    def close(self) -> None:
        """Let the words go; later calls raise EncodingError."""
        self._words = None

    def _open_words(self) -> Words:
        words = self._words
        if words is None:
            raise EncodingError("this model is closed: make a new object")
        return words

    def token(self, number: int) -> str:
        """The stem of an id, as `Words.name`."""
        return self._open_words().name(number)

    def one(
        self,
        text: str,
        role: Role | TokenRole,  # noqa: ARG002 (all roles read the same words)
        head: Head,
        *,
        name: str = "text",
        several: str = "give one text at a time",
    ) -> Any:
        """The head's result for one text, which errors call by `name`.

        Raises TypeError for anything but a str; `several` is the advice for a list of them.
        """
        words = self._open_words()
        window = Window([check_text(text, name, several=several)], 0, name)
        return self._result(0, window, head, words)

    def token_counts(self, texts: Iterable[str], role: Role | TokenRole) -> NDArray[np.int64]:  # noqa: ARG002
        """Words of each text, with stop words, as `token_count` of fastembed: (n,)."""
        split = self._open_words().split
        return np.array([len(split(text)) for text in check_texts(texts)], dtype=np.int64)

    def _encode_window(self, texts: Sequence[str], results: Any, call: Call) -> workers.Failure:
        """Put the result of each text into its place of `results`.

        The results before the row of the Failure are complete.
        """
        words = self._open_words()
        window = Window(texts, call.n_texts)
        call.n_texts += len(texts)

        def work(rows: Rows) -> None:
            for row in rows.tolist():
                try:
                    results[row] = self._result(row, window, call.head, words)
                except EncodingError as error:
                    window.failure.at(row, error)
            if call.bar is not None:
                call.bar.update(len(rows))

        # Python code holds the interpreter's lock, so further threads would only wait for it.
        parts = batching.chunks(texts)
        return workers.run_batches(work, parts, 1, window.failure, call.limit)

    def _result(self, row: int, window: Window, head: Head, words: Words) -> Any:
        try:
            terms = words.terms(window.texts[row])
        except EncodingError as error:
            raise window.error(EncodingError, [row], f" {error}") from None
        empty = np.empty((1, 0), np.int64)  # nothing after the terms looks at tokens
        lengths = np.array([terms[:, 1].sum()], dtype=np.int64)
        return head.apply([terms], Batch(empty, empty, lengths))[0]

"""The tables of models that weigh words: BM25, and BM42 and miniCOIL with a graph (see spec.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HASHED = 1 << 31  # ids of words: from 0 to the greatest int32
MAX_LETTERS = 1 << 20  # of a word
# Snowball's stemmers that fastembed's BM25 offers, by the name of the language.
Stemmer = Literal[
    "arabic",
    "danish",
    "dutch",
    "english",
    "finnish",
    "french",
    "german",
    "greek",
    "hungarian",
    "italian",
    "none",
    "norwegian",
    "portuguese",
    "romanian",
    "russian",
    "spanish",
    "swedish",
    "tamil",
    "turkish",
]


@dataclass(frozen=True, slots=True)
class Language:
    """How a lexical model reads texts of one language."""

    name: Stemmer  # "none" = any language, and words stay as they are
    stop_words: str  # file with a word a line; "" = none


@dataclass(frozen=True, slots=True)
class Lexical:
    """Words in place of tokens, and their hashes in place of a vocabulary: BM25, with no graph.

    A text is lower-cased and cut into runs of letters, digits and "_". Stop words, words that are
    too long and a lone "_" are left out, the others are stemmed. The id of a stem is
    |murmur3_32(stem, seed 0)|. A document of n stems gives a stem that occurs f times the weight
    f (k + 1) / (f + k (1 - b + b n / average_length)); a query gives it 1. The inverse document
    frequency belongs to a collection (search/sparse_index.py). Source: fastembed/sparse/bm25.py.
    """

    languages: tuple[Language, ...]  # the first is read unless the caller names another
    longest_word: int  # in characters, before stemming
    k: float
    b: float
    average_length: float  # stems of a document: a constant, whatever the documents are


@dataclass(frozen=True, slots=True)
class Attention:
    """The attention of a text's first token as the weight of its words: BM42, beside `sparse`.

    The weight of a token is that attention in the last layer, the mean of all heads. Pieces ("##")
    of a word are joined and their weights added. Special tokens, stop words and punctuation are
    left out, the other words are stemmed, and of a stem that occurs several times the largest
    weight w counts, as ln(1 + w)^alpha. Ids and queries are as in `Lexical`. Source:
    fastembed/sparse/bm42.py.
    """

    stemmer: Stemmer
    stop_words: str  # file with a word a line
    alpha: float


@dataclass(frozen=True, slots=True)
class MiniCoil:
    """The meaning of a text's words as the weights of their ids: miniCOIL, beside `sparse`.

    Pieces ("##") of a word are joined. A word of the vocabulary, by itself or by its stem, has the
    number w, from 1: the mean of the states of all its tokens, times the w-th matrix of `weights`
    (the first is of no word), then tanh and L2, gives the weights of the ids from w times the
    number of components on. Other words are read and weighed as in `Lexical`, their ids are s +
    |murmur3_32| mod (2^31 - 1 - s), s = 32000 (ids of the vocabulary // 32000 + 2). A document's
    weights are multiplied by the frequency of `Lexical`, a query's by 1; some are negative. Source:
    fastembed/sparse/minicoil.py.
    """

    stemmer: Stemmer  # that of `Language`
    stop_words: str  # file with a word a line
    vocabulary: str  # JSON file: the list vocab, and stem_mapping from stems to its words
    weights: str  # .npy file (words + 1, size of a state, components)
    k: float  # as in `Lexical`
    b: float  # as in `Lexical`
    average_length: float  # as in `Lexical`

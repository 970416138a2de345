"""The tables of models without a graph: a table of token vectors, and words (BM25)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
class Static:
    """A table of token vectors in place of a graph: the vector of a text is the mean of its rows.

    The tensors are those of a safetensors file. A text without tokens has the zero vector. Sources:
    model2vec/model.py; sentence_transformers/sentence_transformer/modules/static_embedding.py.
    """

    file: str
    rows: str  # tensor (n, width): F64, F32, F16, BF16 or I8, averaged in float32 as it stands
    weights: str  # tensor (ids,): the factor of each token id; "" = none
    mapping: str  # tensor (ids,): the row of each token id; "" = the id is the row
    drop_ids: tuple[int, ...]  # ids that are left out of the mean, after the cut to max_length
    # A text is first cut to this many characters times max_length, prompt included (model2vec: the
    # median length of the tokens); 0 = not.
    characters_per_token: int


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

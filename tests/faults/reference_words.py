"""Texts to vectors of the models without a graph, and of BM42, by another way than the package's.

The steps of model2vec and fastembed written out, a text at a time.
tests/faults/test_battery.py holds these to the values of both libraries.
"""

from __future__ import annotations

import abc
import string
from collections import Counter
from typing import Any

import mmh3
import numpy as np
import onnxruntime as ort
from artifact_tools import ARTIFACTS
from py_rust_stemmers import SnowballStemmer
from reference import plain
from static_tables import tensors_of
from tokenizers import Tokenizer

from tessera_onnx.models import catalogue, resolve

FOLD = 100_003  # ids of words, below 2^31, are compared modulo this prime


class Static:
    """The model of tests/artifacts/static: model2vec's mean of the rows of a table."""

    kind = "dense"

    def __init__(self) -> None:
        folder = ARTIFACTS / "static"
        self.spec = catalogue.read_catalogue(folder / "model.toml")[0]
        self.recipe: Any = self.spec.dense
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        tensors = tensors_of(folder)
        rows = tensors["embeddings"].astype(np.float64)[tensors["mapping"]]
        self.rows = rows * tensors["weights"].astype(np.float64)[:, None]

    def vector(self, text: str, role: str, prompt: str | None = None) -> np.ndarray:
        """(dim,) float64; zeros for a text without tokens."""
        facts, recipe = self.spec.static, getattr(self.recipe, role)
        assert facts is not None
        read = ((prompt or "") + text)[: facts.characters_per_token * recipe.max_length]
        ids = self.tokenizer.encode(read, add_special_tokens=False).ids[: recipe.max_length]
        ids = [number for number in ids if number not in facts.drop_ids]
        mean = self.rows[ids].mean(axis=0) if ids else np.zeros(self.rows.shape[1])
        return mean / max(np.linalg.norm(mean), 1e-32)

    def tokens(self, text: str, role: str) -> int:
        """Tokens of a text before any cut."""
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def score(self, query: str, document: str) -> float:
        """Cosine."""
        return float(self.vector(query, "query") @ self.vector(document, "document"))

    def ranked(self, query: str, documents: list[str], picks: range) -> list[float]:
        """The scores of the documents at `picks`."""
        return [self.score(query, documents[i]) for i in picks]


class _Words(abc.ABC):
    """What BM25 and BM42 share: hashed stems, and the IDF of the documents that are ranked."""

    kind = "sparse"
    recipe: Any

    @abc.abstractmethod
    def weights(self, text: str, role: str) -> dict[int, float]:
        """The weight of each id."""

    def vector(self, text: str, role: str) -> np.ndarray:
        """(FOLD,) float64."""
        found = self.weights(text, role)
        return plain((np.array([*found], np.int64), np.array([*found.values()])), FOLD)

    def score(self, query: str, document: str) -> float:
        """Dot product."""
        terms, other = self.weights(query, "query"), self.weights(document, "document")
        return sum(weight * other.get(number, 0.0) for number, weight in terms.items())

    def ranked(self, query: str, documents: list[str], picks: range) -> list[float]:
        """The scores of the documents at `picks`, with Lucene's IDF among all documents."""
        known = {text: self.weights(text, "document") for text in set(documents)}
        n = len(documents)
        scores = dict.fromkeys(picks, 0.0)
        for number, weight in self.weights(query, "query").items():
            found_in = sum(number in known[text] for text in documents)
            idf = np.log(1 + (n - found_in + 0.5) / (found_in + 0.5))
            for i in picks:
                scores[i] += weight * idf * known[documents[i]].get(number, 0.0)
        return list(scores.values())


class Bm25(_Words):
    """The shipped `bm25` in English: fastembed/sparse/bm25.py."""

    def __init__(self) -> None:
        artifact = resolve.resolve("bm25")
        self.recipe = artifact.spec.sparse
        self.facts = artifact.spec.lexical
        self.stop = set(artifact.read("english.txt").decode().split())
        self.stemmer = SnowballStemmer("english")

    def words(self, text: str) -> list[str]:
        """Runs of letters, digits and "_" in lower case."""
        kept = "".join(c if c.isalnum() or c == "_" or c.isspace() else " " for c in text)
        return "".join(c if c.isalnum() or c == "_" else " " for c in kept.lower()).split()

    def weights(self, text: str, role: str) -> dict[int, float]:
        """BM25's weight of each id, without IDF."""
        facts = self.facts
        assert facts is not None
        counts = Counter(
            self.stemmer.stem_word(word)
            for word in self.words(text)
            if word not in self.stop and word != "_" and len(word) <= facts.longest_word
        )
        room = facts.k * (1 - facts.b + facts.b * counts.total() / facts.average_length)
        return {
            abs(mmh3.hash(stem)): 1.0 if role == "query" else n * (facts.k + 1) / (n + room)
            for stem, n in counts.items()
        }

    def tokens(self, text: str, role: str) -> int:
        """Words of a text, stop words included."""
        return len(self.words(text))


class Bm42(_Words):
    """The model of tests/artifacts/attention: fastembed/sparse/bm42.py."""

    def __init__(self) -> None:
        folder = ARTIFACTS / "attention"
        spec = catalogue.read_catalogue(folder / "model.toml")[0]
        self.recipe = spec.sparse
        self.stop = {*(folder / "stopwords.txt").read_text().split(), *string.punctuation}
        self.stemmer = SnowballStemmer("english")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.session = ort.InferenceSession(
            folder / "model.onnx", providers=["CPUExecutionProvider"]
        )

    def weights(self, text: str, role: str) -> dict[int, float]:
        """The weight of each id: the attention of the first token to the word."""
        self.tokenizer.enable_truncation(self.recipe.document.max_length)
        made = self.tokenizer.encode(text)
        special = {"[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"}
        feeds = {
            "input_ids": np.array([made.ids]),
            "attention_mask": np.array([made.attention_mask]),
            "token_type_ids": np.array([made.type_ids]),
        }
        (attention,) = self.session.run([self.recipe.output], feeds)
        first = attention[0, :, 0].astype(np.float64).mean(axis=0)
        words: list[list[Any]] = []
        for token, weight in zip(made.tokens, first, strict=True):
            if token in special:
                continue
            if token.startswith("##") and words:
                words[-1][0] += token[2:]
                words[-1][1] += weight
            else:
                words.append([token, weight])
        found: dict[int, float] = {}
        for word, weight in words:
            if word not in self.stop:
                number = abs(mmh3.hash(self.stemmer.stem_word(word)))
                found[number] = max(found.get(number, 0.0), np.sqrt(np.log(1 + weight)))
        return dict.fromkeys(found, 1.0) if role == "query" else found

    def tokens(self, text: str, role: str) -> int:
        """Tokens of a text before any cut, special ones included."""
        self.tokenizer.no_truncation()
        return len(self.tokenizer.encode(text).ids)

"""Fields, rows and hits: what goes into a store of vectors and what comes out.

A field holds the vectors of one kind. Its name is that of the columns of `tessera batch`.

| field | of |
| --- | --- |
| `embedding` | one vector a document |
| `multi_vector` | a vector per token or patch |
| `sparse` | a SparseVector |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tessera_onnx.errors import ConfigError, DimensionMismatch
from tessera_onnx.kinds import KINDS, model_facts, result_of
from tessera_onnx.search.fusion import fuse

# Keys of a payload, whose value has to be one of these strings, or to hold one of them.
Where = Sequence[tuple[str, Sequence[str]]]
NAMES = {"vector": "embedding", "vectors": "multi_vector", "sparse": "sparse"}


@dataclass(frozen=True)
class Field:
    """The vectors of one kind in a collection, and the model that made them."""

    name: str
    dimension: int  # numbers of a vector; of sparse vectors, entries of the vocabulary
    model: str
    sha256: str | None  # of its recipes and files; None: it is at a server that does not tell
    precision: str | None
    dtype: str = "float32"  # of the numbers that are stored: float32, float16 or binary
    similarity: str = "cosine"  # of `embedding`
    idf: bool = False  # whether the store has to weigh terms by inverse document frequency

    def check(self, other: Field, where: str) -> None:
        """Raises ConfigError for another model than `other`, DimensionMismatch for other sizes."""
        if self.dimension != other.dimension and self.model == other.model:
            raise DimensionMismatch(
                f"{where} has {self.name} vectors of {self.dimension} dimensions, not of "
                f"{other.dimension}: open the model with dimension={self.dimension}"
            )
        for name in ("model", "precision", "sha256"):
            mine, its = getattr(self, name), getattr(other, name)
            if mine != its and None not in (mine, its):
                what = name if name != "sha256" else "sha256 of the model's files"
                raise ConfigError(
                    f"{where} has {self.name} vectors of {what} {mine}, not of {its}: open the "
                    "model that made them, or choose another collection"
                )


class Hit(NamedTuple):
    """A document that was found; a higher score is better."""

    id: str
    score: float
    payload: dict[str, Any]


@dataclass
class Rows:
    """Documents on their way into a store."""

    ids: list[str]
    vectors: dict[str, Any]  # by field: (n, dimension), a list of (tokens, dimension), SparseVector
    payload: list[dict[str, Any]] = field(default_factory=list)
    types: Any = None  # Arrow schema of the payload, if it is known

    def __post_init__(self) -> None:
        self.payload = self.payload or [{} for _ in self.ids]
        twice = [each for each, count in Counter(self.ids).items() if count > 1]
        if twice:
            raise ConfigError(f"two documents have the id {twice[0]!r}: ids must differ")

    def parts(self, most: int) -> Iterator[Rows]:
        """The same rows in parts of at most `most` numbers, or of one row."""
        first = total = 0
        for row in range(len(self.ids)):
            size = sum(np.size(each[row]) for each in self.vectors.values())
            if row > first and total + size > most:
                yield self._part(first, row)
                first, total = row, 0
            total += size
        if self.ids:
            yield self._part(first, len(self.ids))

    def _part(self, a: int, b: int) -> Rows:
        vectors = {name: each[a:b] for name, each in self.vectors.items()}
        return Rows(self.ids[a:b], vectors, self.payload[a:b], self.types)


def field_of(model: Any) -> Field:
    """The field for the vectors of an open model, here or at a server."""
    row = KINDS[model._kind]  # noqa: SLF001
    if row.result not in NAMES or row.reads == "pairs":
        raise ConfigError(f"model {model.model()!r} makes no vectors that a store keeps")
    found = model_facts(model)
    facts = {name: found[name] for name in ("model", "precision", "similarity", "idf")}
    sha256 = found["model sha256"]
    return Field(NAMES[result_of(model)], row.width(model), sha256=sha256, **facts)


def encoded(model: Any, documents: Sequence[Any]) -> Any:
    """The vectors of documents: texts, or images for a model that reads images."""
    many = getattr(model, "encode_documents", None)
    return many(documents) if many else model.encode_document(documents)


def fused(rankings: Sequence[Sequence[Hit]], limit: int) -> list[Hit]:
    """One ranking of several, by reciprocal rank."""
    if len(rankings) == 1:
        return list(rankings[0][:limit])
    known = {hit.id: hit for ranking in rankings for hit in ranking}
    numbers = {id_: number for number, id_ in enumerate(known)}
    pairs = [[(numbers[hit.id], hit.score) for hit in ranking] for ranking in rankings]
    hits = list(known.values())
    return [hits[i]._replace(score=score) for i, score in fuse(pairs)[:limit]]

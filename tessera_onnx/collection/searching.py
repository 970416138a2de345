"""Search one version of a collection: exact rankings, fused, rescored and reranked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from tessera_onnx.collection import highlights
from tessera_onnx.collection.documents import Filter, Found
from tessera_onnx.collection.place import Snapshot, tags_of
from tessera_onnx.collection.vectors import Models
from tessera_onnx.results import Ranked, ranking
from tessera_onnx.search.fusion import fuse

SHOWN = ["source", "number", "start", "stop", "text", "fields"]


def ranked(
    query: str, snapshot: Snapshot, models: Models, most: int, filters: Filter | None
) -> list[Ranked]:
    """The rows that answer a query best, by all models of the collection; at most `most`."""
    tags = tags_of(filters)
    if not all(tags):  # no value is allowed
        return []
    dense: Any = models.by_kind["dense"]
    sparse: Any = models.by_kind.get("sparse")
    found = snapshot.nearest(dense.encode_query(query), most, tags)
    if sparse is not None:
        words = snapshot.matching(sparse.encode_query(query), most, tags)
        found = list(fuse([found, words])[:most])
    multi: Any = models.by_kind.get("multi-vector")
    if multi is None or not found:
        return found
    numbers, vectors = [row.index for row in found], multi.encode_query(query)
    scores = snapshot.maxsim(vectors, numbers)
    if multi.spec.multi_vector.score == "mean":
        scores /= np.float32(len(vectors))
    return [Ranked(numbers[row.index], row.score) for row in ranking(scores, None)]


def reranked(query: str, snapshot: Snapshot, rows: Sequence[Ranked], model: Any) -> list[Ranked]:
    """Rows in the order in which a reranker puts their texts."""
    numbers = [row.index for row in rows]
    texts = [row["text"] for row in snapshot.rows(numbers, ["text"])]
    return [Ranked(numbers[row.index], row.score) for row in model.rank(query, texts)]


def found(query: str, snapshot: Snapshot, rows: Sequence[Ranked], models: Models) -> list[Found]:
    """The chunks of ranked rows, with the places of their matching words."""
    cells = snapshot.rows([row.index for row in rows], SHOWN)
    places = highlights.finder(query, models.by_kind, models.words)
    return [
        Found(
            score=row.score,
            highlights=places(each["text"]),
            **{**each, "fields": json.loads(each["fields"])},
        )
        for row, each in zip(rows, cells, strict=True)
    ]

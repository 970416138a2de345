"""Retrieval and similarity quality of installed or exported models, as one table.

    python benchmarks/quality.py [--data ../shared/data] [--model ID_OR_FOLDER] [--precision P]
                                 [--kind K]

STS-B test: Spearman correlation of the cosine. SciFact test, NFCorpus and Cranfield: nDCG@10
over title + text. The collections are not part of this repository; without them there is nothing to
measure.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tessera_onnx import (
    PackedSparse,
    TesseraDense,
    TesseraMultiVector,
    TesseraSparse,
    list_models,
)
from tessera_onnx.vectors import scoring

DATA = Path(__file__).parents[2] / "shared" / "data"
FOLDERS = ("scifact", "nfcorpus", "cranfield")
CLASSES = {
    "dense": TesseraDense,
    "multi-vector": TesseraMultiVector,
    "sparse": TesseraSparse,
}


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties at their average."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def ndcg_at_10(scores: np.ndarray, ids: list[str], relevant: dict[str, int]) -> float:
    order = np.argsort(-scores, kind="stable")[:10]
    discounts = 1 / np.log2(np.arange(2, 12))
    gains = np.array([relevant.get(ids[i], 0) for i in order])
    ideal = np.sort(list(relevant.values()))[::-1][:10]
    return float((gains * discounts[: len(gains)]).sum() / (ideal * discounts[: len(ideal)]).sum())


def collection(folder: Path) -> tuple[list[str], list[str], list[tuple[str, dict[str, int]]]]:
    """Document ids, document texts, and (query, {document id: gain}) of a retrieval folder."""
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as stream:
        documents = [json.loads(line) for line in stream]
    ids = [document["_id"] for document in documents]
    texts = [f"{document['title']} {document['text']}" for document in documents]
    judgements: dict[str, dict[str, int]] = {}
    with (folder / "qrels.tsv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            gain = int(row["score"])
            if gain > 0:
                judgements.setdefault(row["query-id"], {})[row["corpus-id"]] = gain
    lines = (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    queries = {query["_id"]: query["text"] for query in map(json.loads, lines)}
    return ids, texts, [(queries[q], found) for q, found in judgements.items()]


def retrieval(folder: Path, score: Callable) -> float:
    ids, texts, queries = collection(folder)
    scored = score(texts, [query for query, _ in queries])
    pairs = zip(scored, queries, strict=True)
    return float(np.mean([ndcg_at_10(row, ids, relevant) for row, (_, relevant) in pairs]))


def sts(model: TesseraDense, data: Path) -> float:
    with (data / "stsb" / "sts-test.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    left = model.encode_batch([row["sentence1"] for row in rows])
    right = model.encode_batch([row["sentence2"] for row in rows])
    return spearman((left * right).sum(axis=1), np.array([float(row["score"]) for row in rows]))


def dense_scores(model: TesseraDense) -> Callable:
    return lambda texts, queries: model.encode_query(queries) @ model.encode_batch(texts).T


def sparse_scores(model: TesseraSparse) -> Callable:
    def score(texts, queries):
        index = PackedSparse(model.encode_batch(texts), idf=model.spec.lexical is not None)
        return [index.score(query) for query in model.encode_query(queries)]

    return score


class MultiVectorScores:
    """Encodes a collection once and scores it at each Matryoshka size."""

    def __init__(self, model: TesseraMultiVector, folder: Path) -> None:
        self.ids, texts, queries = collection(folder)
        self.relevant = [relevant for _, relevant in queries]
        self.documents = model.encode_batch(texts)
        self.queries = model.encode_query([query for query, _ in queries])

    def ndcg(self, dimension: int) -> float:
        def cut(rows):
            part = rows[:, :dimension]
            return part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)

        queries = [cut(rows) for rows in self.queries]
        scores = scoring.maxsim_matrix(queries, [cut(rows) for rows in self.documents])
        pairs = zip(scores, self.relevant, strict=True)
        return float(np.mean([ndcg_at_10(row, self.ids, relevant) for row, relevant in pairs]))


def measure(target: str, precision: str | None, data: Path, kinds: list[str]) -> None:
    where = {"path": target} if Path(target).is_dir() else {"model_id": target}
    for kind in kinds:
        try:
            model = CLASSES[kind](**where, precision=precision, on_long="truncate")
        except RuntimeError as error:
            if "is of kind" in str(error):
                continue
            raise
        with model:
            name = f"{model.model()} {kind} {model.precision}"
            if kind == "dense":
                row(name, "STS-B Spearman", sts(model, data))
            for folder in FOLDERS:
                if kind == "multi-vector":
                    scores = MultiVectorScores(model, data / folder)
                    sizes = [model.dimension(), *model.spec.multi_vector.matryoshka]
                    for size in dict.fromkeys(sizes):
                        row(f"{name} {size}", f"{folder} nDCG@10", scores.ndcg(size))
                else:
                    maker = dense_scores if kind == "dense" else sparse_scores
                    row(name, f"{folder} nDCG@10", retrieval(data / folder, maker(model)))


def row(name: str, metric: str, value: float) -> None:
    print(f"{name:45} {metric:20} {value:.4f}   {time.process_time():6.0f} s CPU", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--model", action="append", help="id or folder; default: all installed")
    parser.add_argument("--precision")
    parser.add_argument("--kind", choices=CLASSES, action="append", help="default: all")
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.exit(1, f"{options.data} is not there: nothing to measure\n")
    for target in options.model or list_models(installed=True):
        measure(target, options.precision, options.data, options.kind or list(CLASSES))


if __name__ == "__main__":
    main()

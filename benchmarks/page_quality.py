"""Retrieval of page images by the questions that they answer.

    python benchmarks/page_quality.py [--model ID] [--pool-factor 3] [--text-layer]

56 questions over 37 page images: recall@1 and nDCG@5 by kind of question, the ranks of pages whose
words no text layer holds, and a control with the pages' names shuffled. `--text-layer` scores the
text inside the PDF with the same text model, each word encoded alone: what perfect eyes would give.
The pages are not part of this repository; without them there is nothing to measure.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tessera_onnx import TesseraMultiVector, TesseraVision
from tessera_onnx.vectors import scoring

DATA = Path(__file__).parents[2] / "shared" / "data"
DIMENSION = 128
IMAGE_ONLY = ("p32", "p34", "p35", "p36")
SHUFFLES = 200


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its kind (text, table or figure) and the gain of each relevant page."""

    text: str
    kind: str
    relevant: dict[str, int]


def questions(folder: Path) -> list[Question]:
    relevant: dict[str, dict[str, int]] = {}
    with (folder / "qrels.tsv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            relevant.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    lines = (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        Question(query["text"], query["metadata"]["kind"], relevant[query["_id"]])
        for query in map(json.loads, lines)
    ]


def read_pages(folder: Path) -> list[dict]:
    lines = (folder / "pages.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def words_alone(model: TesseraMultiVector, text: str) -> np.ndarray:
    """One unit vector a word, the mean of its token vectors, as the tower's targets are made."""
    words = sorted(set(re.findall(r"[A-Za-z]+(?:'[a-z]+)?|\d[\d,.]*\d|\d", text))) or ["page"]
    means = np.stack([rows.mean(axis=0) for rows in model.encode_batch(words)])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def recall_and_ndcg(scores: np.ndarray, ids: list[str], relevant: dict[str, int]) -> list[float]:
    """Whether a relevant page is first, and nDCG@5."""
    order = [ids[i] for i in np.argsort(-scores, kind="stable")[:5]]
    gains = np.array([relevant.get(page, 0) for page in order], float)
    ideal = np.sort(list(relevant.values()))[::-1][:5]
    discounts = 1 / np.log2(np.arange(2, 7))
    best = (ideal * discounts[: len(ideal)]).sum()
    return [float(gains[0] > 0), float((gains * discounts[: len(gains)]).sum() / best)]


def report(name: str, scores: np.ndarray, ids: list[str], asked: list[Question]) -> None:
    """One line a kind of question, then the questions about pages without a text layer."""
    pairs = list(zip(scores, asked, strict=True))
    found = [recall_and_ndcg(row, ids, question.relevant) for row, question in pairs]
    measured = np.array(found)
    for kind in ("all", *sorted({question.kind for question in asked})):
        chosen = np.array([kind in {"all", question.kind} for question in asked])
        recall, ndcg = measured[chosen].mean(axis=0)
        count = chosen.sum()
        print(f"{name:12} {kind:7} {count:3}  recall@1 {recall:.3f}  nDCG@5 {ndcg:.3f}")
    ranks = []
    for row, question in pairs:
        places = [ids.index(page) for page, gain in question.relevant.items() if gain == 2]
        ranks += [
            f"{ids[place]} {1 + int((row > row[place]).sum())}"
            for place in places
            if ids[place] in IMAGE_ONLY
        ]
    print(f"{name:12} rank of pages without a text layer: {', '.join(ranks)}")


def shuffled(scores: np.ndarray, ids: list[str], asked: list[Question]) -> tuple[float, float]:
    """recall@1 with the pages' names permuted: the mean and the best of SHUFFLES."""
    rng = np.random.default_rng(0)
    recalls = []
    for _ in range(SHUFFLES):
        names = [ids[i] for i in rng.permutation(len(ids))]
        pairs = zip(scores, asked, strict=True)
        recalls.append(np.mean([recall_and_ndcg(row, names, q.relevant)[0] for row, q in pairs]))
    return float(np.mean(recalls)), float(np.max(recalls))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder or id; default: the installed one")
    parser.add_argument("--pool-factor", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--text-layer", action="store_true")
    options = parser.parse_args()
    folder = options.data / "docpages"
    if not folder.is_dir():
        parser.exit(1, f"{folder} is not there: nothing to measure\n")
    named = options.model
    where = {"path": named} if named and Path(named).is_dir() else {"model_id": named}
    asked, pages = questions(folder), read_pages(folder)
    ids = [page["_id"] for page in pages]
    with TesseraVision(**where) as model:
        queries = model.encode_query([question.text for question in asked])
        documents, seconds = [], []
        for page in pages:
            begun = time.perf_counter()
            image = folder / page["metadata"]["image"]
            documents.append(model.encode_document(image, pool_factor=options.pool_factor))
            seconds.append(time.perf_counter() - begun)
        counts = [len(document) for document in documents]
        print(
            f"{model.model()}: {np.median(seconds):.2f} s a page (longest {max(seconds):.2f}), "
            f"{min(counts)} to {max(counts)} vectors a page"
        )
        scores = np.stack([model.score(query, documents) for query in queries])
    report("pages", scores, ids, asked)
    mean, best = shuffled(scores, ids, asked)
    print(f"shuffled     recall@1 {mean:.3f}, at best {best:.3f} of {SHUFFLES} permutations")
    if options.text_layer:
        with TesseraMultiVector("all-minilm-l6-v2", dimension=DIMENSION) as texts:
            queries = texts.encode_query([question.text for question in asked])
            words = [words_alone(texts, page["text"]) for page in pages]
        report("text layer", scoring.maxsim_matrix(queries, words), ids, asked)


if __name__ == "__main__":
    main()

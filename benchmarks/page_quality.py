"""Retrieval of page images by a page tower whose queries a text model reads.

    python benchmarks/page_quality.py --graph model.int8.onnx [--data ../shared/data] [--text-layer]

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
import onnxruntime
from PIL import Image

from tessera_onnx import TesseraMultiVector, scoring

DATA = Path(__file__).parents[2] / "shared" / "data"
DIMENSION = 128
CELL = 8
LONGEST = 1408
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


def pixels(file: Path) -> np.ndarray:
    """The graph's input (1, 3, h, w): never enlarged, white to the right and below, -1 to 1."""
    image = Image.open(file).convert("RGB")
    if max(image.size) > LONGEST:
        share = LONGEST / max(image.size)
        image = image.resize([round(edge * share) for edge in image.size], Image.Resampling.BICUBIC)
    width, height = (-(-edge // CELL) * CELL for edge in image.size)
    padded = np.full((height, width, 3), 255, np.uint8)
    padded[: image.height, : image.width] = np.asarray(image)
    return np.ascontiguousarray(padded.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1)


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
    parser.add_argument("--graph", type=Path, required=True, help="pixel_values to vectors, keep")
    parser.add_argument("--text-model", help="folder or id; default: the installed one")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--text-layer", action="store_true")
    options = parser.parse_args()
    folder = options.data / "docpages"
    if not folder.is_dir():
        parser.exit(1, f"{folder} is not there: nothing to measure\n")
    named = options.text_model
    where = {"path": named} if named and Path(named).is_dir() else {"model_id": named}
    asked, pages = questions(folder), read_pages(folder)
    ids = [page["_id"] for page in pages]
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(options.graph, settings)
    with TesseraMultiVector(**where, dimension=DIMENSION, threads=options.threads) as model:
        queries = model.encode_query([question.text for question in asked])
        documents, seconds = [], []
        for page in pages:
            values = pixels(folder / page["metadata"]["image"])
            begun = time.perf_counter()
            vectors, keep = session.run(["vectors", "keep"], {"pixel_values": values})
            seconds.append(time.perf_counter() - begun)
            documents.append(vectors[0, keep[0] > 0])
        counts = [len(document) for document in documents]
        size = options.graph.stat().st_size
        print(
            f"{size / 1e6:.1f} MB, {np.median(seconds):.2f} s a page (longest {max(seconds):.2f}) "
            f"on {options.threads} threads, {min(counts)} to {max(counts)} vectors a page"
        )
        scores = np.full((len(asked), len(ids)), -np.inf, np.float32)
        seen = [place for place, count in enumerate(counts) if count]
        if seen:
            scores[:, seen] = scoring.maxsim_matrix(queries, [documents[place] for place in seen])
        report("tower", scores, ids, asked)
        mean, best = shuffled(scores, ids, asked)
        print(f"shuffled     recall@1 {mean:.3f}, at best {best:.3f} of {SHUFFLES} permutations")
        if options.text_layer:
            texts = [words_alone(model, page["text"]) for page in pages]
            report("text layer", scoring.maxsim_matrix(queries, texts), ids, asked)


if __name__ == "__main__":
    main()

"""BM25 of this package beside bm25s on the same texts: nDCG@10 and time, as one table.

    pip install bm25s
    python benchmarks/lexical.py [--data ../shared/data] [--rounds 3]

Rows: `bm25` as it is (an average length of 256 words, as in fastembed), `bm25` with the average
length of the collection; bm25s with the same words and formula, whose scores must be equal; and
bm25s with its own defaults (k1 1.5, b 0.75, Lucene's formula, its English stop words, no stemmer).
The times are the best of some rounds, on one thread: words, weights and index of all documents, and
the scores of all documents for a query. The collections are not part of this repository.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import bm25s
import numpy as np
from quality import DATA, FOLDERS, collection, ndcg_at_10

from tessera_onnx import PackedSparse, TesseraSparse
from tessera_onnx.kinds import KINDS
from tessera_onnx.models.artifact import Artifact
from tessera_onnx.models.resolve import resolve
from tessera_onnx.text import lexical


class Found(NamedTuple):
    """What a method gives for a collection."""

    scores: np.ndarray  # (queries, documents)
    index_seconds: float
    query_ms: float


def timed(
    rounds: int, build: Callable[[], object], score: Callable[[object, str], object], queries: list
) -> Found:
    """Build an index and score all queries, in the best of some rounds."""
    best = [np.inf, np.inf]
    rows: list = []
    for _ in range(rounds):
        start = time.perf_counter()
        index = build()
        built = time.perf_counter()
        rows = [score(index, query) for query in queries]
        done = time.perf_counter()
        best = [min(best[0], built - start), min(best[1], done - built)]
    return Found(np.array(rows), best[0], best[1] / len(queries) * 1e3)


def ours(rounds: int, model: TesseraSparse, texts: list[str], queries: list[str]) -> Found:
    return timed(
        rounds,
        lambda: PackedSparse(model.encode_batch(texts), idf=True),
        lambda index, query: index.score(model.encode_query(query)),
        queries,
    )


def same_words(rounds: int, artifact: Artifact, texts: list[str], queries: list[str]) -> Found:
    facts = artifact.spec.lexical
    words = lexical.load_words(facts.longest_word, facts.languages[0], artifact)

    def build() -> bm25s.BM25:
        index = bm25s.BM25(method="atire", idf_method="lucene", k1=facts.k, b=facts.b)
        index.index([words.stems(text) for text in texts], show_progress=False)
        return index

    def score(index: bm25s.BM25, query: str) -> np.ndarray:
        known = sorted(set(words.stems(query)) & index.vocab_dict.keys())
        return index.get_scores(known) if known else np.zeros(len(texts), np.float32)

    return timed(rounds, build, score, queries)


def defaults(rounds: int, texts: list[str], queries: list[str]) -> Found:
    def build() -> bm25s.BM25:
        index = bm25s.BM25()
        index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
        return index

    def score(index: bm25s.BM25, query: str) -> np.ndarray:
        (tokens,) = bm25s.tokenize([query], stopwords="en", return_ids=False, show_progress=False)
        known = [token for token in tokens if token in index.vocab_dict]
        return index.get_scores(known) if known else np.zeros(len(texts), np.float32)

    return timed(rounds, build, score, queries)


def with_average(artifact: Artifact, length: float) -> TesseraSparse:
    """The model with another average length."""
    facts = dataclasses.replace(artifact.spec.lexical, average_length=length)
    spec = dataclasses.replace(artifact.spec, lexical=facts)
    found = KINDS["sparse"].open(dataclasses.replace(artifact, spec=spec), "bm25")
    assert isinstance(found, TesseraSparse)
    return found


def measure(folder: Path, rounds: int) -> None:
    artifact = resolve("bm25")
    ids, texts, judged = collection(folder)
    queries = [query for query, _ in judged]
    facts = artifact.spec.lexical
    words = lexical.load_words(facts.longest_word, facts.languages[0], artifact)
    length = sum(len(words.stems(text)) for text in texts) / len(texts)
    with TesseraSparse("bm25") as model, with_average(artifact, length) as tuned:
        found = {
            "bm25": ours(rounds, model, texts, queries),
            f"bm25, average {length:.1f}": ours(rounds, tuned, texts, queries),
            "bm25s, the same words": same_words(rounds, artifact, texts, queries),
            "bm25s": defaults(rounds, texts, queries),
        }
    _, mine, theirs, _ = found.values()
    np.testing.assert_allclose(mine.scores, theirs.scores, rtol=1e-4, atol=1e-4)
    for name, each in found.items():
        pairs = zip(each.scores, judged, strict=True)
        quality = np.mean([ndcg_at_10(row, ids, relevant) for row, (_, relevant) in pairs])
        print(
            f"{folder.name:10} {name:25} {quality:.4f}   {len(texts) / each.index_seconds:8.0f} "
            f"documents/s {each.query_ms:7.2f} ms a query",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.exit(1, f"{options.data} is not there: nothing to measure\n")
    for name in FOLDERS:
        measure(options.data / name, options.rounds)


if __name__ == "__main__":
    main()

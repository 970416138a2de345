"""First searches, alone and with their first results reranked: nDCG@10 and time, as one table.

    python benchmarks/pipelines.py [--data ../shared/data] [--folder scifact] [--first 50]
                                   [--static ID_OR_FOLDER] [--reranker ID_OR_FOLDER] [--threads 1]

The first searches are BM25, the starter's static, sparse and dense models, and fusions of two of
them by reciprocal ranks. Each is measured alone, with its first 50 documents ranked anew by MaxSim
of the starter's token vectors (128 dimensions, an index of all documents), and, with `--reranker`,
by a cross-encoder that reads the texts.

Indexing is the time to encode all documents and build each index that a row needs; the vectors of
the dense model and the token vectors come from one run of their graph. The time of a query is the
mean of single calls, from the text to the ranking. Both are processor time, which other programs on
the machine change less than the time of a clock; with one thread, on an idle machine, the two are
the same. Nothing was chosen by these figures: models, sizes and fusion are at their defaults. The
collections are not part of this repository. BM25 needs the extra `lexical`.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from quality import DATA, FOLDERS, collection, ndcg_at_10

from tessera_onnx import (
    PackedSparse,
    PackedTokens,
    TesseraDense,
    TesseraMultiVector,
    TesseraReranker,
    TesseraSparse,
    TruncationWarning,
    fuse,
)
from tessera_onnx.results import Ranked
from tessera_onnx.runtime.cpu import physical_summary

STATIC = "tessera-static-mini"
DEPTH = 100  # documents of a ranking that a fusion reads
SIZE = 128  # dimensions of a token vector
FUSIONS = (("BM25", "static"), ("BM25", "dense"), ("sparse", "dense"))

T = TypeVar("T")


class Search(NamedTuple):
    """A way to rank a collection, and the seconds of each part of its index."""

    rank: Callable[[str], list[Ranked]]
    seconds: Mapping[str, float]


class Second(NamedTuple):
    """A way to rank some documents, named by number, and the seconds of its index."""

    rank: Callable[[str, list[int]], list[Ranked]]
    seconds: Mapping[str, float]


def timed(make: Callable[[], T]) -> tuple[T, float]:
    """What `make` gives, and the processor time that it took, of all threads."""
    start = time.process_time()
    return make(), time.process_time() - start


def by_vector(model: TesseraDense, vectors: np.ndarray, seconds: Mapping[str, float]) -> Search:
    def rank(query: str) -> list[Ranked]:
        scores = vectors @ model.encode_query(query)
        best = np.argsort(-scores, kind="stable")[:DEPTH]
        return [Ranked(int(i), float(scores[i])) for i in best]

    return Search(rank, seconds)


def by_terms(name: str, model: TesseraSparse, texts: list[str]) -> Search:
    idf = model.spec.lexical is not None
    index, seconds = timed(lambda: PackedSparse(model.encode_iter(texts), idf=idf))
    return Search(lambda query: index.rank(model.encode_query(query), DEPTH), {name: seconds})


def fused(parts: list[Search]) -> Search:
    seconds = {name: value for part in parts for name, value in part.seconds.items()}
    return Search(lambda query: fuse([part.rank(query) for part in parts]), seconds)


def by_pairs(model: TesseraReranker, texts: list[str]) -> Second:
    def rank(query: str, some: list[int]) -> list[Ranked]:
        found = model.rank(query, [texts[i] for i in some])
        return [Ranked(some[row.index], row.score) for row in found]

    return Second(rank, {})


def reranked(first: Search, second: Second, n: int) -> Search:
    def rank(query: str) -> list[Ranked]:
        return second.rank(query, [row.index for row in first.rank(query)[:n]])

    return Search(rank, {**first.seconds, **second.seconds})


def searches(
    options: argparse.Namespace, texts: list[str]
) -> tuple[dict[str, Search], dict[str, Second]]:
    """The first searches and the second steps, by name."""
    given = {"threads": options.threads}
    cut = {**given, "on_long": "truncate"}
    tokens = TesseraMultiVector(dimension=SIZE, **cut)
    static = opened(TesseraDense, options.static, **cut)
    found, seconds = timed(lambda: tokens.encode_all(texts))
    index, packing = timed(lambda: PackedTokens(found.multi_vector, threads=options.threads))
    run = {"dense": seconds}
    vectors, seconds = timed(lambda: static.encode_batch(texts))
    firsts = {
        "BM25": by_terms("BM25", TesseraSparse("bm25", **given), texts),
        "static": by_vector(static, vectors, {"static": seconds}),
        "sparse": by_terms("sparse", TesseraSparse(**cut), texts),
        "dense": by_vector(TesseraDense(**cut), found.dense, run),
    }
    for names in FUSIONS:
        firsts[" + ".join(names)] = fused([firsts[name] for name in names])
    steps = {
        "MaxSim": Second(
            lambda query, some: index.rank(tokens.encode_query(query), subset=some),
            {**run, "MaxSim": packing},
        )
    }
    if options.reranker:
        model = opened(TesseraReranker, options.reranker, **given)
        steps[model.model()] = by_pairs(model, texts)
    return firsts, steps


def opened(cls: Callable, target: str, **given: object) -> object:
    where = {"path": target} if Path(target).is_dir() else {"model_id": target}
    return cls(**where, **given)


def ndcg(ranking: list[Ranked], ids: list[str], relevant: dict[str, int]) -> float:
    """nDCG@10 of a ranking; a document that is not ranked comes after all others."""
    scores = np.full(len(ids), -np.inf)
    scores[[row.index for row in ranking]] = -np.arange(len(ranking))
    return ndcg_at_10(scores, ids, relevant)


def rows(folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """The cells of each row of a collection."""
    ids, texts, judged = collection(folder)
    firsts, seconds = searches(options, texts)
    for name, first in firsts.items():
        both = {step: reranked(first, second, options.first) for step, second in seconds.items()}
        for step, search in {"": first, **both}.items():
            search.rank(judged[0][0])  # the first call is slower
            rankings, taken = timed(lambda rank=search.rank: [rank(query) for query, _ in judged])
            scored = zip(rankings, judged, strict=True)
            quality = np.mean([ndcg(ranking, ids, relevant) for ranking, (_, relevant) in scored])
            indexing, each = sum(search.seconds.values()), taken / len(judged) * 1e3
            yield folder.name, name, step, f"{quality:.3f}", f"{indexing:.1f}", f"{each:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--folder", action="append", help="of the data; default: all three")
    parser.add_argument("--static", default=STATIC, help="id or folder")
    parser.add_argument("--reranker", help="id or folder of a cross-encoder")
    parser.add_argument("--first", type=int, default=50, help="documents that are reranked")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.exit(1, f"{options.data} is not there: nothing to measure\n")
    warnings.simplefilter("ignore", TruncationWarning)
    load = os.getloadavg()[0]
    print(f"{physical_summary()}, threads={options.threads}, load {load:.1f} at the start\n")
    header = ("collection", "first search", "reranked by", "nDCG@10", "indexing, s", "a query, ms")
    for cells in (header, ("---",) * len(header)):
        print(f"| {' | '.join(cells)} |")
    for name in options.folder or FOLDERS:
        for cells in rows(options.data / name, options):
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

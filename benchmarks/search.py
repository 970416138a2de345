"""Ways to search the same vectors: recall, nDCG@10, time and memory against exact search.

    python benchmarks/search.py [--data ../shared/data] [--folder scifact] [--first 100]
                                [--cache FOLDER] [--threads 1]
    python benchmarks/search.py --made 1000000 [--made-tokens 20000]

Vectors are those of the starter: dense (384), static (256), token vectors (128) and SPLADE, and the
words of BM25 (extra `lexical`). "→ exact" scores the first 100 candidates exactly. Recall is the
part of the exact search's ten best that a way finds; the exact search is the first row of each kind
of vectors. Libraries of search_peers.py take part where they are installed, on the same vectors and
at their defaults; what takes minutes to build needs `--slow`.

The time of a query is the mean of single calls, from the query's vectors to its ten best. Building
is the time from the documents' vectors to the index. Both are processor time of all threads, with
one thread for every library, which other programs change less than the time of a clock. Memory is
the size of the index that finds the candidates; "→ exact" also needs the exact vectors, in memory
or in a mapped file. `--cache` keeps vectors between runs.

`--made` makes documents around some topics, and queries near documents: dense ones of 256
dimensions, and with `--made-tokens` token vectors, 100 a document. There is no nDCG of those.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import search_peers
from quality import DATA, FOLDERS, collection, ndcg_at_10

from tessera_onnx import (
    Muvera,
    PackedDense,
    PackedSparse,
    PackedTokens,
    SparseVector,
    TesseraDense,
    TesseraMultiVector,
    TesseraSparse,
    TruncationWarning,
)
from tessera_onnx.runtime.cpu import physical_summary
from tessera_onnx.vectors.pooling import l2_normalize, pool_tokens

# What other libraries read when they are imported: the program starts itself anew with them.
LIMITS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS")
KINDS = ("dense", "static", "tokens", "SPLADE", "BM25")
STATIC = "tessera-static-mini"
SIZE = 128  # dimensions of a token vector
QUERIES = 50  # made ones
CHUNK = 10_000  # made documents at a time
MADE_DIM, MADE_TOKENS = 256, 100


class Vectors(NamedTuple):
    """Documents and queries in one form of vectors."""

    documents: list | np.ndarray
    queries: list | np.ndarray


class Way(NamedTuple):
    """A way to search: `build` gives a search by the number of a query, and the index's bytes."""

    name: str
    build: Callable[[], tuple[Callable[[int], list[int]], int]]


def numbers(rows: list) -> list[int]:
    """The documents of a ranking, without those that share no word with the query."""
    return [row.index for row in rows if row.score]


def alone(index: PackedDense | PackedTokens | PackedSparse, queries: list) -> tuple:
    return lambda i: numbers(index.search(queries[i : i + 1], 10)[0]), index.nbytes


def then_exact(coarse, coarse_queries, exact, queries, first: int) -> tuple:
    """The first of a coarse index, scored by the exact one."""

    def search(i: int) -> list[int]:
        some = coarse.search([coarse_queries(i)], first)
        return numbers(exact.search(queries[i : i + 1], 10, candidates=some)[0])

    return search, coarse.nbytes


def dense_ways(given: Vectors, first: int, threads: int) -> Iterator[Way]:
    documents, queries = given
    exact = functools.cache(lambda: PackedDense(documents, threads=threads))
    mean = np.mean(np.asarray(documents), axis=0) if len(documents) else 0

    def made(output: str, centre: float | np.ndarray = 0) -> PackedDense:
        return PackedDense(documents - centre, output_dtype=output, threads=threads)

    yield Way("PackedDense", lambda: alone(exact(), queries))
    for output in ("int8", "binary"):
        yield Way(output, lambda o=output: alone(made(o), queries))
        yield Way(
            f"{output} → exact",
            lambda o=output: then_exact(made(o), lambda i: queries[i], exact(), queries, first),
        )
    yield Way(
        "binary, mean subtracted → exact",
        lambda: then_exact(
            made("binary", mean), lambda i: queries[i] - mean, exact(), queries, first
        ),
    )


def token_ways(given: Vectors, first: int, threads: int, dense: Vectors | None) -> Iterator[Way]:
    documents, queries = given
    exact = functools.cache(lambda: PackedTokens(documents, threads=threads))

    def made(output: str, factor: int = 1) -> PackedTokens:
        some = documents if factor == 1 else (pool_tokens(rows, factor) for rows in documents)
        return PackedTokens(some, output_dtype=output, threads=threads)

    def candidates(index: PackedTokens) -> tuple:
        return then_exact(index, lambda i: queries[i], exact(), queries, first)

    def encoded(output: str, *, rescored: bool = True) -> tuple:
        muvera = Muvera(queries[0].shape[1])
        index = PackedDense(
            map(muvera.encode_document, documents), output_dtype=output, threads=threads
        )
        encode = lambda i: muvera.encode_query(queries[i])  # noqa: E731
        if rescored:
            return then_exact(index, encode, exact(), queries, first)
        return lambda i: numbers(index.search([encode(i)], 10)[0]), index.nbytes

    yield Way("PackedTokens", lambda: alone(exact(), queries))
    for output in ("int8", "binary"):
        yield Way(output, lambda o=output: alone(made(o), queries))
        yield Way(f"{output} → exact", lambda o=output: candidates(made(o)))
    for factor in (2, 4):
        yield Way(f"pool_factor={factor}", lambda f=factor: alone(made("float32", f), queries))
    yield Way("pool_factor=4, int8 → exact", lambda: candidates(made("int8", 4)))
    yield Way("Muvera alone", lambda: encoded("float32", rescored=False))
    for output in ("float32", "int8", "binary"):
        yield Way(f"Muvera, {output} → exact", lambda o=output: encoded(o))
    if dense is not None:
        yield Way(
            "the dense vectors, int8 → exact",
            lambda: then_exact(
                PackedDense(dense.documents, output_dtype="int8", threads=threads),
                lambda i: dense.queries[i],
                exact(),
                queries,
                first,
            ),
        )


def sparse_ways(given: Vectors, *, idf: bool) -> Iterator[Way]:
    yield Way("PackedSparse", lambda: alone(PackedSparse(given.documents, idf=idf), given.queries))


def measured(way: Way, n_queries: int) -> tuple[list[list[int]], list[str]]:
    """The rankings of all queries, and cells: seconds to build, milliseconds a query, megabytes."""
    start = time.process_time()
    search, size = way.build()
    built = time.process_time() - start
    search(0)  # the first call is slower
    start = time.process_time()
    rankings = [search(i) for i in range(n_queries)]
    taken = (time.process_time() - start) / n_queries * 1e3
    return rankings, [f"{built:.1f}", f"{taken:.2f}", f"{size / 1e6:.1f}"]


def recall(found: list[list[int]], exact: list[list[int]]) -> float:
    pairs = zip(found, exact, strict=True)
    return float(np.mean([len({*some[:10]} & {*best}) / len(best) for some, best in pairs if best]))


def ndcg(rankings: list[list[int]], ids: list[str], judged: list) -> float:
    values = []
    for ranking, (_, relevant) in zip(rankings, judged, strict=True):
        scores = np.full(len(ids), -np.inf)
        scores[ranking[:10]] = -np.arange(len(ranking[:10]))
        kept = {ids[i] for i in ranking[:10]}
        # What is not found has no gain, and the best possible order keeps all that is relevant.
        gains = {key: gain for key, gain in relevant.items() if key in kept}
        rest = {f"lost {key}": gain for key, gain in relevant.items() if key not in kept}
        values.append(ndcg_at_10(scores, ids, gains | rest))
    return float(np.mean(values))


def encode(folder: Path, kind: str, cache: Path | None) -> Vectors:
    """The collection's vectors of a kind; "dense" and "tokens" come from one run of their model."""
    place = cache / f"{folder.name}-{kind}.npz" if cache else None
    if place is not None and place.exists():
        with np.load(place) as stored:
            return unpacked(kind, dict(stored))
    _, texts, judged = collection(folder)
    queries = [query for query, _ in judged]
    cut = {"on_long": "truncate"}
    made: dict[str, Vectors] = {}
    if kind in ("dense", "tokens"):
        with TesseraMultiVector(dimension=SIZE, **cut) as model:
            found = [
                model.encode_all(texts, role="document"),
                model.encode_all(queries, role="query"),
            ]
        made["dense"] = Vectors(*(every.dense for every in found))
        made["tokens"] = Vectors(*(every.multi_vector for every in found))
    elif kind == "static":
        with TesseraDense(STATIC, **cut) as model:
            made[kind] = Vectors(model.encode_document(texts), model.encode_query(queries))
    else:
        with TesseraSparse(**cut) if kind == "SPLADE" else TesseraSparse("bm25") as model:
            made[kind] = Vectors(model.encode_document(texts), model.encode_query(queries))
    for name, vectors in made.items() if cache else ():
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(cache / f"{folder.name}-{name}.npz", **packed(vectors))
    return made[kind]


def packed(vectors: Vectors) -> dict[str, np.ndarray]:
    """Documents and queries as arrays that np.savez keeps."""
    found = {}
    for side, rows in zip("dq", vectors, strict=True):
        if isinstance(rows, np.ndarray):
            found[side] = rows
            continue
        parts = rows if isinstance(rows[0], SparseVector) else [(tokens,) for tokens in rows]
        for i, part in enumerate(zip(*parts, strict=True)):
            found[f"{side}{i}"] = np.concatenate(part)
        found[f"{side} n"] = np.array([len(part[0]) for part in parts])
    return found


def unpacked(kind: str, arrays: dict[str, np.ndarray]) -> Vectors:
    def rows(side: str) -> list | np.ndarray:
        if side in arrays:
            return arrays[side]
        ends = np.cumsum(arrays[f"{side} n"])[:-1]
        parts = [np.split(arrays[key], ends) for key in (f"{side}0", f"{side}1") if key in arrays]
        return parts[0] if kind == "tokens" else list(map(SparseVector, *parts))

    return Vectors(rows("d"), rows("q"))


def made_dense(n: int) -> Vectors:
    """Unit vectors near one of n / 100 topics each, and queries between a document and a topic."""
    rng = np.random.default_rng(1)
    topics = l2_normalize(rng.standard_normal((max(1, n // 100), MADE_DIM), dtype=np.float32))
    documents = np.empty((n, MADE_DIM), np.float32)
    for start in range(0, n, CHUNK):
        part = documents[start : start + CHUNK]
        picked = rng.integers(0, len(topics), len(part))
        noise = rng.standard_normal(part.shape, dtype=np.float32) / MADE_DIM**0.5
        part[:] = l2_normalize(topics[picked] + noise)
    chosen = rng.choice(n, min(QUERIES, n), replace=False)
    noise = rng.standard_normal((len(chosen), MADE_DIM), dtype=np.float32) / MADE_DIM**0.5
    return Vectors(documents, l2_normalize(documents[chosen] + 0.7 * noise))


def made_tokens(n: int) -> Vectors:
    """Documents of tokens near some of 2,000 meanings; queries of 16 tokens near a document's."""
    rng = np.random.default_rng(2)
    meanings = rng.standard_normal((2000, SIZE), dtype=np.float32)

    def noisy(rows: np.ndarray) -> np.ndarray:
        return l2_normalize(rows + 0.7 * rng.standard_normal(rows.shape, dtype=np.float32))

    own = [rng.integers(0, len(meanings), 30) for _ in range(n)]
    documents = [noisy(meanings[rng.choice(some, MADE_TOKENS)]) for some in own]
    chosen = rng.choice(n, min(QUERIES, n), replace=False)
    return Vectors(documents, [noisy(documents[i][:16] * SIZE**0.5) for i in chosen])


def table(
    names: tuple[str, str], ways: Iterator[Way], queries: list, judge: Callable | None, only: str
) -> None:
    """Print the rows of one kind of vectors; the first way is the exact one.

    `names` are those of the collection and of the kind.
    """
    exact: list[list[int]] = []
    for way in ways:
        if exact and only not in way.name:
            continue
        try:
            rankings, cells = measured(way, len(queries))
        except search_peers.LeftOut as reason:
            print(f"| {' | '.join(names)} | {way.name} | left out: {reason} | | | | |", flush=True)
            continue
        exact = exact or rankings
        quality = f"{judge(rankings):.3f}" if judge else ""
        row = (*names, way.name, f"{recall(rankings, exact):.3f}", quality, *cells)
        print(f"| {' | '.join(row)} |", flush=True)


def every_way(
    kind: str, given: Vectors, options: argparse.Namespace, dense: Vectors | None = None
) -> Iterator[Way]:
    first, threads = options.first, options.threads
    if kind == "tokens":
        yield from token_ways(given, first, threads, dense)
    elif kind in ("dense", "static"):
        yield from dense_ways(given, first, threads)
    else:
        yield from sparse_ways(given, idf=kind == "BM25")
    for name, build in search_peers.PEERS.get(kind, {}).items():
        yield Way(name, lambda b=build: b(given, options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--folder", action="append", help="of the data; default: all three")
    parser.add_argument("--kind", action="append", choices=KINDS, help="of vectors; default: all")
    parser.add_argument("--first", type=int, default=100, help="candidates")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="folder for vectors")
    parser.add_argument("--made", type=int, default=0, help="number of made dense documents")
    parser.add_argument("--made-tokens", type=int, default=0)
    parser.add_argument("--slow", action="store_true", help="also what takes minutes to build")
    parser.add_argument("--only", default="", help="ways whose names hold this, and the exact one")
    options = parser.parse_args()
    limits = dict.fromkeys(LIMITS, str(options.threads))
    if not limits.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **limits})
    made = {"dense": (options.made, made_dense), "tokens": (options.made_tokens, made_tokens)}
    if not any(n for n, _ in made.values()) and not options.data.is_dir():
        parser.exit(1, f"{options.data} is not there: nothing to measure\n")
    warnings.simplefilter("ignore", TruncationWarning)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    print(f"{physical_summary()}, threads={options.threads}, load {load:.1f} at the start\n")
    header = ("collection", "vectors", "way", "recall@10", "nDCG@10", "build, s", "a query, ms")
    for cells in ((*header, "index, MB"), ("---",) * 8):
        print(f"| {' | '.join(cells)} |")
    if any(n for n, _ in made.values()):
        for kind, (n, make) in made.items():
            if n:
                given = make(n)
                ways = every_way(kind, given, options)
                table((f"{n:,} made", kind), ways, given.queries, None, options.only)
        return
    for name in options.folder or FOLDERS:
        ids, _, judged = collection(options.data / name)
        judge = functools.partial(ndcg, ids=ids, judged=judged)
        known: dict[str, Vectors] = {}
        for kind in options.kind or KINDS:
            given = known[kind] = encode(options.data / name, kind, options.cache)
            ways = every_way(kind, given, options, known.get("dense"))
            table((name, kind), ways, given.queries, judge, options.only)


if __name__ == "__main__":
    main()

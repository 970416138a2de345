"""Other libraries that search the same vectors, for search.py: each where it is installed.

    pip install faiss-cpu usearch bm25s pyseismic-lsr fast-plaid

Every builder takes the vectors and the options of search.py, and gives a search by the number of a
query and the bytes of the index. It raises LeftOut where its library is missing.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

GRAPH = 100_000  # most documents for which a graph is built without --slow
Search = tuple[Callable[[int], list[int]], int]


class LeftOut(Exception):
    """Why a library does not take part."""


def library(name: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise LeftOut(f"`pip install {package}` is missing") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what a library prints out of the table; it prints past sys.stdout."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _check_graph(n: int, options: Any) -> None:
    if n > GRAPH and not options.slow:
        raise LeftOut(f"building a graph of {n:,} documents takes long: pass --slow")


def faiss_index(factory: str, *, graph: bool = False) -> Callable[[Any, Any], Search]:
    def build(given: Any, options: Any) -> Search:
        faiss = library("faiss", "faiss-cpu")
        if graph:
            _check_graph(len(given.documents), options)
        faiss.omp_set_num_threads(options.threads)
        rows, queries = given.documents, np.ascontiguousarray(given.queries, np.float32)
        index = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(rows[:: max(1, len(rows) // 100_000)])
        index.add(rows)
        if graph:
            faiss.ParameterSpace().set_index_parameter(index, "efSearch", options.first)
        size = _serialized(faiss, index)
        return lambda i: [
            int(n) for n in index.search(queries[i : i + 1], 10)[1][0] if n >= 0
        ], size

    return build


def _serialized(faiss: ModuleType, index: Any) -> int:
    """The size of the index as a file, without a copy of it in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        faiss.write_index(index, str(path))
        return path.stat().st_size


def faiss_binary(given: Any, options: Any) -> Search:
    """Hamming distance of sign bits, then exact scores."""
    faiss = library("faiss", "faiss-cpu")
    faiss.omp_set_num_threads(options.threads)
    rows, queries = given.documents, given.queries
    index = faiss.IndexBinaryFlat(rows.shape[1])
    index.add(np.packbits(rows > 0, axis=1))
    bits = np.packbits(queries > 0, axis=1)

    def search(i: int) -> list[int]:
        some = np.sort(index.search(bits[i : i + 1], options.first)[1][0])
        order = np.argsort(-(rows[some] @ queries[i]), kind="stable")[:10]
        return some[order].tolist()

    return search, bits.shape[1] * len(rows)


def usearch_index(dtype: str) -> Callable[[Any, Any], Search]:
    def build(given: Any, options: Any) -> Search:
        index_module = library("usearch.index", "usearch")
        _check_graph(len(given.documents), options)
        rows, queries = given.documents, given.queries
        index = index_module.Index(ndim=rows.shape[1], metric="ip", dtype=dtype)
        index.add(np.arange(len(rows)), rows, threads=options.threads)
        return lambda i: [
            int(key) for key in index.search(queries[i], 10, threads=options.threads).keys
        ], index.serialized_length

    return build


def bm25s_index(given: Any, options: Any) -> Search:  # noqa: ARG001
    """The weights of BM25, which bm25s multiplies by the documents' own frequencies.

    Its words are numbers here: those of the sparse vectors, once for each term of a query.
    """
    bm25s = library("bm25s", "bm25s")
    rows = [[str(n) for n in vector.indices] for vector in given.documents]
    index = bm25s.BM25(method="atire", idf_method="lucene")
    index.index(rows, show_progress=False)
    # The scores of bm25s are columns of a sparse matrix: its own are replaced by ours, so that both
    # libraries search the same numbers.
    _replace_weights(index, given.documents)
    queries = [[str(n) for n in vector.indices] for vector in given.queries]

    def search(i: int) -> list[int]:
        known = [word for word in queries[i] if word in index.vocab_dict]
        if not known:
            return []
        scores = index.get_scores(known)
        best = np.argpartition(-scores, min(10, len(scores) - 1))[:10]
        best = best[scores[best] > 0]
        return best[np.argsort(-scores[best], kind="stable")].tolist()

    size = sum(np.asarray(index.scores[key]).nbytes for key in ("data", "indices", "indptr"))
    return search, size


def _replace_weights(index: Any, documents: list) -> None:
    n = len(documents)
    data, rows, pointers = (index.scores[key] for key in ("data", "indices", "indptr"))
    weights = {
        (int(word), i): float(value)
        for i, vector in enumerate(documents)
        for word, value in zip(vector.indices, vector.values, strict=True)
    }
    found = np.array(data, np.float32)
    for word, column in index.vocab_dict.items():
        if not word:
            continue
        part = slice(int(pointers[column]), int(pointers[column + 1]))
        df = part.stop - part.start
        idf = np.log1p((n - df + 0.5) / (df + 0.5))
        found[part] = [idf * weights[int(word), int(i)] for i in rows[part]]
    index.scores["data"] = found


def seismic_index(given: Any, options: Any) -> Search:
    """Approximate search of sparse vectors, with the settings of its README."""
    seismic = library("seismic", "pyseismic-lsr")
    text = seismic.get_seismic_string()
    dataset = seismic.SeismicDataset()
    for i, vector in enumerate(given.documents):
        words = np.array([str(n) for n in vector.indices], dtype=text)
        dataset.add_document(str(i), words, np.asarray(vector.values, np.float32))
    with quiet():
        index = seismic.SeismicIndex.build_from_dataset(dataset, num_threads=options.threads)
    queries = [
        (np.array([str(n) for n in q.indices], dtype=text), np.asarray(q.values, np.float32))
        for q in given.queries
    ]

    def search(i: int) -> list[int]:
        words, values = queries[i]
        if not len(words):
            return []
        found = index.search("q", words, values, k=10, query_cut=20, heap_factor=0.7)
        return [int(number) for _, _, number in found]

    with tempfile.TemporaryDirectory() as folder, quiet():
        index.save(f"{folder}/index")
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return search, size


def fast_plaid(given: Any, options: Any) -> Search:
    """PLAID, which PyLate uses: centroids, 4 bits a number, decompressed candidates."""
    module = library("fast_plaid.search", "fast-plaid")
    torch = library("torch", "torch")
    if not options.slow:
        raise LeftOut("its k-means takes minutes on one thread: pass --slow")
    torch.set_num_threads(options.threads)
    folder = tempfile.TemporaryDirectory()
    with quiet():
        index = module.FastPlaid(index=folder.name, device="cpu")
        index.create(documents_embeddings=[torch.from_numpy(rows) for rows in given.documents])
    size = sum(path.stat().st_size for path in Path(folder.name).rglob("*") if path.is_file())
    queries = [torch.from_numpy(rows)[None] for rows in given.queries]

    def search(i: int, _folder: Any = folder) -> list[int]:
        found = index.search(queries_embeddings=queries[i], top_k=10, show_progress=False)
        return [int(number) for number, _ in found[0]]

    return search, size


DENSE = {
    "FAISS Flat": faiss_index("Flat"),
    "FAISS SQ8": faiss_index("SQ8"),
    "FAISS binary → exact": faiss_binary,
    "FAISS HNSW32": faiss_index("HNSW32", graph=True),
    "usearch f32": usearch_index("f32"),
    "usearch i8": usearch_index("i8"),
}
PEERS: dict[str, dict[str, Callable[[Any, Any], Search]]] = {
    "dense": DENSE,
    "static": {},
    "tokens": {"fast-plaid": fast_plaid},
    "SPLADE": {"seismic": seismic_index},
    "BM25": {"bm25s": bm25s_index},
}

"""`tessera index` and `tessera search` on a collection: time, memory, size on disk and quality.

    python benchmarks/index.py [--data ../shared/data/scifact] [--documents N] [--queries N]
                               [--model ID] [--sparse ID] [--multi-vector ID]
                               [--to FOLDER]

The folder is of BEIR's form: corpus.jsonl.gz, queries.jsonl and qrels.tsv. nDCG@10 is that of
documents: a document has the rank of its best chunk. "exact" is the same from NumPy: all documents,
cut where the model cuts them, one vector each. Without the folder there is nothing to measure.
--to keeps the collection: a run that was stopped goes on, and its seconds are those of the rest.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from quality import collection, ndcg_at_10

from tessera_onnx import Collection, PackedSparse, TesseraDense, TesseraSparse, fuse

DATA = Path(__file__).parents[2] / "shared" / "data" / "scifact"


def command(*arguments: object) -> str:
    """Seconds that the command takes, and those of processors, in words."""
    code = "from tessera_onnx.cli.main import main; main()"
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True)
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"{seconds:.1f} s ({cpu:.1f} s of processors)"


def quality(rankings, relevant) -> float:
    """Mean nDCG@10 of rankings of document ids, best first."""
    found = []
    for ranking, gains in zip(rankings, relevant, strict=True):
        ids = list(dict.fromkeys(ranking))[:10]
        padded = [*ids, *(f"none {i}" for i in range(10 - len(ids)))]
        found.append(ndcg_at_10(np.arange(10, 0, -1), padded, gains))
    return float(np.mean(found))


def exact(texts, ids, queries, model, sparse):
    """Rankings of documents by NumPy: dense, and fused with the sparse ones."""
    with TesseraDense(model, on_long="truncate") as dense, TesseraSparse(sparse) as words:
        scores = dense.encode_query(queries) @ dense.encode_document(texts).T
        index = PackedSparse(words.encode_document(texts), idf=words.spec.hashes_words())
        alone, fused = [], []
        for row, query in zip(scores, words.encode_query(queries), strict=True):
            order = np.argsort(-row, kind="stable")[:100].tolist()
            terms = [each for each in index.rank(query, 100) if each.score != 0]
            alone.append([ids[i] for i in order])
            fused.append([ids[r.index] for r in fuse([[(i, row[i]) for i in order], terms])])
    return alone, fused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--documents", type=int, help="The first N. Default: all.")
    parser.add_argument("--queries", type=int, help="The first N. Default: all.")
    parser.add_argument("--model", default="all-minilm-l6-v2")
    parser.add_argument("--sparse", default="bm25")
    parser.add_argument("--multi-vector")
    parser.add_argument(
        "--to", type=Path, help="Folder of the collection. Default: a temporary one."
    )
    parser.add_argument("--exact", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    if not options.data.exists():
        print(f"{options.data} is not there: nothing to measure")
        return
    ids, texts, pairs = collection(options.data)
    ids, texts, pairs = (
        ids[: options.documents],
        texts[: options.documents],
        pairs[: options.queries],
    )
    queries, relevant = [query for query, _ in pairs], [gains for _, gains in pairs]
    with tempfile.TemporaryDirectory() as place:
        source, folder = options.data / "corpus.jsonl.gz", options.to or Path(place) / "index"
        if options.documents:
            import gzip

            lines = gzip.decompress(source.read_bytes()).splitlines(keepends=True)
            source = Path(place) / "corpus.jsonl"
            source.write_bytes(b"".join(lines[: options.documents]))
        models = ["--model", options.model, "--sparse", options.sparse]
        models += ["--multi-vector", options.multi_vector] if options.multi_vector else []
        fields = ["--field", "title", "--field", "text", "--id-field", "_id"]
        build = ["index", source, "--to", folder, *fields]
        seconds = command(*build, *models)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        again = command(*build)
        size = sum(path.stat().st_blocks * 512 for path in folder.rglob("*")) / 1e6
        print(f"index: {len(texts)} documents in {seconds}, {peak:.0f} MiB at most")
        print(f"index again, nothing changed: {again}; {size:.0f} MB on disk")
        print(f"search as a command: {command('search', folder, queries[0], '--top-k', 1)}")
        with Collection(folder) as opened:
            print(f"{len(opened)} chunks")
            opened.search(queries[0])
            times, rankings, cpu = [], [], time.process_time()
            for query in queries:
                begin = time.perf_counter()
                found = opened.search(query, 30)
                times.append(time.perf_counter() - begin)
                rankings.append([row.source.rpartition("#")[2] for row in found])
        cpu = (time.process_time() - cpu) / len(queries) * 1000
        low, high = np.percentile(times, [50, 99]) * 1000
        print(f"search: {low:.0f} ms median, {high:.0f} ms p99, {cpu:.0f} ms of processors")
        print(f"nDCG@10 {quality(rankings, relevant):.4f}")
    if options.exact:
        alone, fused = exact(texts, ids, queries, options.model, options.sparse)
        print(f"exact, whole documents: dense {quality(alone, relevant):.4f}, "
              f"fused {quality(fused, relevant):.4f}")  # fmt: skip


if __name__ == "__main__":
    main()

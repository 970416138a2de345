"""Embedded stores side by side: LanceDB and Qdrant Edge with the same chunks.

    python benchmarks/index_stores.py [--documents N] [--kills N]

It needs `pip install lancedb qdrant-edge-py` and NumPy, and nothing of this package. The chunks are
random: a dense vector of 384, 120 sparse entries, 30 to 120 token vectors of 96, a text of 500
letters. Each store writes them in commits of 256. A child process that writes is killed at random
moments; then the store is opened again, and each chunk of the commits that the child had told must
be there. Qdrant Edge searches its sparse vectors itself; LanceDB has no sparse vectors: their
columns are read, which is what an index in memory starts from.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

COMMIT, WIDTH, ENTRIES, TOKEN_WIDTH = 256, 384, 120, 96


def chunks(n):
    rng = np.random.default_rng(1)
    dense = rng.standard_normal((n, WIDTH)).astype(np.float32)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    ids = [np.sort(rng.choice(30000, ENTRIES, replace=False)) for _ in range(n)]
    sparse = [(i.astype(np.int32), rng.random(ENTRIES, dtype=np.float32)) for i in ids]
    sizes = rng.integers(30, 120, n)
    multi = [rng.standard_normal((size, TOKEN_WIDTH)).astype(np.float32) for size in sizes]
    return dense, sparse, multi


class Lance:
    name = "LanceDB"

    def __init__(self, folder):
        import lancedb
        import pyarrow as pa

        self.pa = pa
        one = self.rows(0, *chunks(1))
        self.table = lancedb.connect(folder).create_table("c", schema=one.schema, exist_ok=True)

    def rows(self, first, dense, sparse, multi):
        pa = self.pa
        ends = pa.array(np.cumsum([0, *(len(m) for m in multi)]).astype(np.int32))
        flat = pa.array(np.concatenate(multi).reshape(-1))
        tokens = pa.FixedSizeListArray.from_arrays(flat, TOKEN_WIDTH)
        numbers = range(first, first + len(dense))
        return pa.table({
            "id": pa.array(numbers), "file": pa.array([f"f{i % 50}" for i in numbers]),
            "text": pa.array(["word " * 100] * len(dense)),
            "dense": pa.FixedSizeListArray.from_arrays(pa.array(dense.reshape(-1)), WIDTH),
            "indices": pa.array([i for i, _ in sparse]), "values": pa.array([v for _, v in sparse]),
            "multi": pa.ListArray.from_arrays(ends, tokens),
        })  # fmt: skip

    def write(self, *rows):
        self.table.add(self.rows(*rows))

    def count(self):
        return self.table.count_rows()

    def dense(self, vector):
        query = self.table.search(vector, vector_column_name="dense").distance_type("dot")
        return query.select(["id", "_distance"]).limit(100).to_arrow()["id"].to_pylist()

    def filtered(self, vector):
        query = self.table.search(vector, vector_column_name="dense").distance_type("dot")
        query = query.where("file = 'f1'", prefilter=True).select(["id", "_distance"])
        return query.limit(100).to_arrow()["id"].to_pylist()

    def sparse(self, _):
        return self.table.search().select(["indices", "values"]).to_arrow()

    def multi(self, vector, tokens):
        query = self.table.search(vector, vector_column_name="dense").distance_type("dot")
        query = query.select(["id", "_distance"]).limit(100).with_row_id(True)  # noqa: FBT003
        rows = query.to_arrow()["_rowid"].to_pylist()
        column = self.table.take_row_ids(rows).select(["multi"]).to_arrow()["multi"]
        column = column.combine_chunks()
        flat = column.values.values.to_numpy().reshape(-1, TOKEN_WIDTH)
        return [(tokens @ flat[a:b].T).max(1).sum() for a, b in pairwise(column.offsets.to_numpy())]


class Edge:
    name = "Qdrant Edge"

    def __init__(self, folder):
        import qdrant_edge as q

        self.q = q
        maxsim = q.MultiVectorConfig(q.MultiVectorComparator.MaxSim)
        dot = q.Distance.Dot
        tokens = q.EdgeVectorParams(size=TOKEN_WIDTH, distance=dot, multivector_config=maxsim)
        vectors = {"dense": q.EdgeVectorParams(size=WIDTH, distance=dot), "multi": tokens}
        config = q.EdgeConfig(vectors, {"sparse": q.EdgeSparseVectorParams()})
        exists = (Path(folder) / "segments").exists() and any((Path(folder) / "segments").iterdir())
        make = q.EdgeShard.load if exists else q.EdgeShard.create
        self.shard = make(str(folder), config)

    def write(self, first, dense, sparse, multi):
        q, points = self.q, []
        for i, (vector, (ids, values), tokens) in enumerate(zip(dense, sparse, multi, strict=True)):
            number = first + i
            named = {
                "dense": vector.tolist(), "multi": tokens.tolist(),
                "sparse": q.SparseVector(indices=ids.tolist(), values=values.tolist()),
            }  # fmt: skip
            payload = {"file": f"f{number % 50}", "text": "word " * 100}
            points.append(q.Point(number, named, payload))
        self.shard.update(q.UpdateOperation.upsert_points(points))
        self.shard.flush()

    def count(self):
        return self.shard.count(self.q.CountRequest(exact=True))

    def _query(self, query, **options):
        request = self.q.QueryRequest(limit=100, query=query, with_payload=False, **options)
        return [point.id for point in self.shard.query(request)]

    def dense(self, vector):
        exact = self.q.SearchParams(exact=True)
        return self._query(self.q.Query.Nearest(vector.tolist(), using="dense"), params=exact)

    def filtered(self, vector):
        q = self.q
        only = q.Filter(must=[q.FieldCondition(key="file", match=q.MatchValue("f1"))])
        exact, query = q.SearchParams(exact=True), q.Query.Nearest(vector.tolist(), using="dense")
        return self._query(query, params=exact, filter=only)

    def sparse(self, vector):
        named = self.q.SparseVector(indices=vector[0][:12].tolist(), values=vector[1][:12].tolist())
        return self._query(self.q.Query.Nearest(named, using="sparse"))

    def multi(self, vector, tokens):
        first = self.q.Prefetch(
            limit=100, query=self.q.Query.Nearest(vector.tolist(), using="dense")
        )
        query = self.q.Query.Nearest(tokens.tolist(), using="multi")
        return self._query(query, prefetches=[first])


STORES = {each.__name__: each for each in (Lance, Edge)}


def fill(store, found, tell=lambda _: None):
    dense, sparse, multi = found
    for first in range(0, len(dense), COMMIT):
        part = slice(first, first + COMMIT)
        store.write(first, dense[part], sparse[part], multi[part])
        tell(min(len(dense), first + COMMIT))


def milliseconds(call, runs=50):
    call()
    begin = time.perf_counter()
    for _ in range(runs):
        call()
    return (time.perf_counter() - begin) / runs * 1000


def killed(name, n, kills):
    """How many kills were survived: all chunks of the commits that were told are there."""
    chance, survived = random.Random(4), 0
    for _ in range(kills):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--child", name, folder, "--documents", str(n)]
            child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            child.stdout.readline()
            time.sleep(chance.uniform(0, 1.5))
            child.send_signal(signal.SIGKILL)
            told = [int(line) for line in child.communicate()[0].split()]
            survived += STORES[name](folder).count() >= max(told, default=0)
    return survived


def second_process(name, folder):
    """Whether another process can open the store while this one has it open."""
    code = f"import sys; sys.argv = ['x']; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    code += f"import index_stores as s; print(s.STORES[{name!r}]({folder!r}).count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return "yes" if done.returncode == 0 else "no"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    found = chunks(options.documents)
    if options.child:
        fill(STORES[options.child[0]](options.child[1]), found, lambda n: print(n, flush=True))
        return
    dense, sparse, multi = found
    for name, kind in STORES.items():
        folder = tempfile.mkdtemp()
        store = kind(folder)
        begin = time.perf_counter()
        fill(store, found)
        seconds = time.perf_counter() - begin
        size = sum(path.stat().st_blocks * 512 for path in Path(folder).rglob("*"))
        exact = np.argsort(-(dense @ dense[7]), kind="stable")[:100].tolist()
        print(f"{kind.name}: insert {seconds:.1f} s, {size / 1e6:.0f} MB on disk")
        print(f"  exact: {store.dense(dense[7]) == exact}")
        print(f"  dense {milliseconds(lambda s=store: s.dense(dense[7])):.1f} ms")
        print(f"  dense, filtered {milliseconds(lambda s=store: s.filtered(dense[7])):.1f} ms")
        what = "sparse" if kind is Edge else "read all sparse vectors"
        print(f"  {what} {milliseconds(lambda s=store: s.sparse(sparse[7])):.1f} ms")
        rescore = milliseconds(lambda s=store: s.multi(dense[7], multi[7][:32]))
        print(f"  100 candidates by MaxSim {rescore:.1f} ms")
        print(f"  a second process may read: {second_process(name, folder)}")
        print(f"  kills survived: {killed(name, options.documents, options.kills)}", flush=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

"""A batch job on two Ray actors of one CPU each, beside one of two threads in one process.

    python benchmarks/batch_ray.py [--rows N] [--model ID] [--block-rows N] [--rounds N]

They take turns. The start of the actors is told apart: it ends when both have a block. Processor
time is that of this process and of all that it started, Ray's own processes among them.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from tessera_onnx.batch.job import Job
from tessera_onnx.batch.spread import SpreadJob
from tessera_onnx.integrations.batch import Encoder
from tessera_onnx.integrations.ray import Ray

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "near", "river", "bank")


def now() -> tuple[float, dict[int, float]]:
    """The time, and processor seconds of this process and of its living descendants."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            found[int(path.parent.name)] = int(fields[1]), seconds
    ours = {os.getpid()}
    while more := {pid for pid, (parent, _) in found.items() if parent in ours} - ours:
        ours |= more
    return time.perf_counter(), {pid: found[pid][1] for pid in ours}


class Watched(Ray):
    """Keeps when blocks were asked for: the third one when two workers have one each."""

    def __call__(self, job, calls):
        self.asked = []
        yield from super().__call__(job, map(self.watch, calls))

    def watch(self, call):
        if len(self.asked) < 3:  # it takes milliseconds
            self.asked.append(now())
        return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=16_384)
    parser.add_argument("--model", default="all-minilm-l6-v2")
    parser.add_argument("--block-rows", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    n = options.rows
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=2, object_store_memory=150_000_000, log_to_driver=False)
    engine = Watched(workers=2)
    with tempfile.TemporaryDirectory() as name:
        texts = [
            " ".join(WORDS[(i * 7 + j) % 11] for j in range(3 + i * 13 % 60)) for i in range(n)
        ]
        pq.write_table(pa.table({"id": range(n), "text": texts}), f"{name}/a.parquet")
        for number in range(options.rounds):
            told = []
            for kind, make in (("local", Job), ("ray", partial(SpreadJob, engine=engine))):
                encoder = Encoder(options.model, "text", threads=2 if kind == "local" else None)
                encoder.opened()
                job = make(
                    [f"{name}/a.parquet"], f"{name}/{kind}{number}", encoder,
                    block_rows=options.block_rows,
                )  # fmt: skip
                ends = []
                begin = ready = now()
                job.run(lambda done, ends=ends: ends.append(now()) if done.n_done else None)
                if kind == "ray":
                    ready = engine.asked[2]
                    start = ready[0] - begin[0]
                at, used = ends[-1]
                before = ready[1]
                told.append((at - ready[0], sum(used[pid] - before.get(pid, 0) for pid in used)))
                own = used[os.getpid()] - begin[1][os.getpid()]
                encoder.close()
            (wall, cpu), (ray_wall, ray_cpu) = told
            print(
                f"two threads {n / wall:.0f} rows/s, {1000 * cpu / n:.2f} ms of processor a row; "
                f"Ray {n / ray_wall:.0f} rows/s ({wall / ray_wall:.2f}), "
                f"{1000 * ray_cpu / n:.2f} ms ({cpu / ray_cpu:.2f}), after {start:.1f} s of start; "
                f"{1000 * own / math.ceil(n / options.block_rows):.0f} ms of this process a block"
            )
    ray.shutdown()


if __name__ == "__main__":
    main()

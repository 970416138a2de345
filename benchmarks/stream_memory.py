"""Peak memory of encode_iter over a generator: 10,000 against 100,000 short texts.

    python benchmarks/stream_memory.py [--kind dense|multi-vector|sparse] [--sizes N N]

Each size runs in a process of its own. The two peaks differ by less than 100 MB when memory does
not grow with the stream.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

from tessera_onnx import Tessera

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "near", "river", "bank")


def texts(n: int):
    for i in range(n):
        yield " ".join(WORDS[(i * 7 + j) % len(WORDS)] for j in range(3 + i % 9))


def child(n: int, kind: str) -> None:
    start = time.perf_counter()
    count = 0
    with Tessera(kind=kind) as model:
        for _ in model.encode_iter(texts(n)):
            count += 1
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{n:>8} texts  {count:>8} vectors  {peak:7.0f} MB peak  {count / seconds:7.0f} texts/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", default="dense")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.kind)
        return
    for n in options.sizes:
        command = [sys.executable, __file__, "--kind", options.kind, "--child", str(n)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()

"""Many calls of many lengths over every kind for a long time: memory, descriptors, latency.

    python tests/soak.py --minutes 30 --record
    python tests/soak.py --minutes 3 --limit 4  # as CI runs it

Prints the figures and exits with 1 when a limit is broken: resident memory may rise by less than
--limit MB a minute after the first fifth of the time, no descriptor and no thread may be left over,
and in runs of ten minutes or more the 99th percentile of the last third may not be twice that of
the one before. A run of three minutes ends while memory still comes to its level, hence its higher
limit. All times, the minutes too, are processor time: other work on the machine does not lengthen
it. --record keeps the figures in tests/soak.toml, from which docs/reliability.md is made.

The largest calls come first: with calls of chance sizes what malloc and ONNX Runtime's arenas keep
for later grows to that of the largest ones, for minutes, which says nothing of a leak.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import resource
import sys
import time
import warnings
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pdf_files
from artifact_tools import ARTIFACTS

from tessera_onnx import (
    TesseraDense,
    TesseraMultiVector,
    TesseraSparse,
    TesseraTimeSeries,
    TesseraVision,
    TruncationWarning,
)

WORDS = "the cat sat on a mat while rain in spain falls and new models read every token".split()  # noqa: SIM905
RECORD = Path(__file__).with_name("soak.toml")
MB = 1 << 20
LIMIT = 1.0  # MB a minute
LONG = 10  # minutes, from which the latencies of two thirds can be compared


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def entries(name: str) -> int:
    return len(list(Path(f"/proc/self/{name}").iterdir()))


class Calls:
    """One object a kind, and calls whose lengths and numbers vary."""

    def __init__(self, threads: int) -> None:
        self.rng = np.random.default_rng(5)
        self.threads = threads
        self.dense = TesseraDense("all-minilm-l6-v2", threads=threads)
        self.multi = TesseraMultiVector("all-minilm-l6-v2", threads=threads)
        self.sparse = TesseraSparse("splade-tiny", threads=threads)
        self.series = TesseraTimeSeries("tessera-bolt-mini", threads=threads)
        self.grouped = TesseraTimeSeries(path=ARTIFACTS / "chronos2", threads=threads)
        self.vision = TesseraVision("tessera-page-mini", threads=threads)
        self.language = TesseraVision(path=ARTIFACTS / "colqwen2", threads=threads)
        self.pdf = pdf_files.build([pdf_files.page()] * 3)

    def texts(self, most: int) -> list[str]:
        """Mostly short texts, now and then one beyond the model's length."""
        counts = self.rng.integers(1, most + 1)
        lengths = np.minimum(self.rng.lognormal(2.5, 1.2, counts).astype(int) + 1, 400)
        return [" ".join(self.rng.choice(WORDS, n)) for n in lengths]

    def contexts(self, most: int) -> list[np.ndarray]:
        lengths = self.rng.integers(1, 1500, self.rng.integers(1, most + 1))
        return [np.cumsum(self.rng.normal(size=n)) for n in lengths]

    def images(self, most: int, longest: int = 300) -> list[np.ndarray]:
        sizes = self.rng.integers(8, longest + 1, (self.rng.integers(1, most + 1), 2))
        return [self.rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]

    def largest(self) -> None:
        """What no later call needs more memory for."""
        long = [" ".join(WORDS * 30)] * 24
        for _ in range(2):
            self.dense.encode_batch(long)
            self.multi.rank(long[0], long[:12])
            self.sparse.rank(long[0], long[:8])
            self.series.forecast_quantiles([np.arange(1500.0)] * 6, 129)
            self.grouped.forecast([np.arange(1500.0)] * 4, 20, groups=[0] * 4)
            for model in (self.vision, self.language):
                model.encode_documents([np.zeros((300, 300, 3), np.uint8)] * 4)
                model.similarity_map(long[0], np.zeros((300, 300, 3), np.uint8))
                list(model.encode_pages(self.pdf, dpi=100))
            self.odd()

    def one(self) -> None:
        """A call of a kind that chance picks."""
        pick = int(self.rng.integers(12))
        if pick < 2:
            self.dense.encode_batch(self.texts(24))
        elif pick < 4:
            self.multi.rank(self.texts(1)[0], self.texts(12))
        elif pick < 6:
            self.sparse.rank(self.texts(1)[0], self.texts(8))
        elif pick < 8:
            self.series.forecast_quantiles(self.contexts(6), int(self.rng.integers(1, 130)))
        elif pick < 9:
            contexts = self.contexts(4)
            self.grouped.forecast(contexts, 20, groups=[0] * len(contexts))
        elif pick < 10:
            self.odd()
        elif pick < 11:
            model = (self.vision, self.language)[int(self.rng.integers(2))]
            model.rank(self.texts(1)[0], self.images(4))
            model.similarity_map(self.texts(1)[0], self.images(1)[0])
        else:
            list(self.language.encode_pages(self.pdf, dpi=float(self.rng.integers(20, 100))))

    def odd(self) -> None:
        """Errors, streams left early, and objects opened and closed."""
        for bad in (lambda: self.dense.encode_batch(["cat", None]),  # type: ignore[list-item]
                    lambda: self.sparse.encode("a\ud800"),
                    lambda: self.series.forecast([np.inf]),
                    lambda: self.vision.encode_document(b"\xff\xd8\xff cut"),
                    lambda: list(self.vision.encode_pages(self.pdf[:150]))):  # fmt: skip
            try:
                bad()
            except (TypeError, RuntimeError, ValueError):
                continue
        stream = self.multi.encode_iter(iter(self.texts(20)))
        next(stream)
        stream.close()
        pages = self.language.encode_pages(self.pdf, dpi=50)
        next(pages)
        pages.close()
        with TesseraDense(path=ARTIFACTS / "prompts", threads=self.threads) as model:
            model.encode("cat")


def soak(minutes: float, threads: int) -> dict[str, Any]:
    calls = Calls(threads)
    calls.largest()
    samples: list[tuple[float, int]] = []  # seconds, bytes
    begun, took = array("d"), array("d")  # of each call, in seconds
    start = time.process_time()
    total = 60 * minutes
    warm: tuple[int, int] | None = None
    while (now := time.process_time() - start) < total:
        calls.one()
        begun.append(now)
        took.append(time.process_time() - start - now)
        if not samples or now - samples[-1][0] > total / 100:
            samples.append((now, resident()))
            if warm is None and now > total / 5:
                gc.collect()
                warm = entries("fd"), entries("task")
    gc.collect()
    descriptors, tasks = warm or (entries("fd"), entries("task"))
    at = np.array([(when / 60, size / MB) for when, size in samples if when > total / 5])
    slope = float(np.polyfit(at[:, 0], at[:, 1], 1)[0])

    def p99(low: float, high: float) -> float:
        """Of the calls in a part of the time, in milliseconds."""
        part = np.frombuffer(begun) / total
        return 1000 * float(np.percentile(np.frombuffer(took)[(low <= part) & (part < high)], 99))

    return {
        "minutes": round(minutes, 1),
        "calls": len(took),
        "rss_first_mb": round(float(at[0, 1]), 1),
        "rss_last_mb": round(float(at[-1, 1]), 1),
        "rss_mb_a_minute": round(slope, 3),
        "rss_by_tenths_mb": [
            round(max(size for when, size in samples if low <= 10 * when / total < low + 1) / MB)
            for low in range(10)
        ],
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "descriptors_more": entries("fd") - descriptors,
        "threads_more": entries("task") - tasks,
        "p50_ms": round(1000 * float(np.median(took)), 1),
        "p99_middle_third_ms": round(p99(1 / 3, 2 / 3), 1),
        "p99_last_third_ms": round(p99(2 / 3, 1), 1),
    }


def broken(figures: dict[str, Any], limit: float) -> list[str]:
    """A sentence for each limit that does not hold."""
    found = []
    if figures["rss_mb_a_minute"] >= limit:
        found.append(f"resident memory rises by {figures['rss_mb_a_minute']} MB a minute")
    if figures["descriptors_more"] > 0 or figures["threads_more"] > 0:
        found.append("descriptors or threads are left over")
    slower = figures["p99_last_third_ms"] > 2 * figures["p99_middle_third_ms"]
    if figures["minutes"] >= LONG and slower:
        found.append("the 99th percentile of the latency has doubled")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--limit", type=float, default=LIMIT, help="MB a minute")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="keep the figures in tests/soak.toml")
    options = parser.parse_args()
    warnings.simplefilter("ignore", TruncationWarning)
    figures = soak(options.minutes, options.threads)
    for name, value in figures.items():
        print(f"{name:22} {value}")  # noqa: T201
    if options.record:
        where = f'machine = "{options.threads} threads, {platform.machine()}"\n'
        RECORD.write_text(where + "".join(f"{n} = {v}\n" for n, v in figures.items()), "utf-8")
    problems = broken(figures, options.limit)
    for problem in problems:
        print(f"Problem: {problem}", file=sys.stderr)  # noqa: T201
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()

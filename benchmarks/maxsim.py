"""MaxSim of one query with many documents: PackedTokens against what else there is, in one run.

    python benchmarks/maxsim.py [--documents N ...] [--dim D] [--queries N] [--rounds N]
                                [--gigabytes G] [--cpu-time]

Documents of 50 to 300 random unit tokens, a query of 32. Scores are compared before anything is
timed; then all take turns, every other round backwards, with a pause before each, as the threads of
the one before may spin on for a moment. The table gives nanoseconds for a pair of a query token and
a document token (the best round), how many times as fast as maxsim-cpu on the same list of
documents each is (the rounds' ratios: median, least and most), and which part of ONNX Runtime's own
2048 x 2048 float32 product in the same run the exact ones reach. maxsim-cpu and torch take part
where they are installed. What is packed or padded before is not counted: PackedTokens has the same
head start as "padded before"; "packed for one call" counts it.
What would need more than --gigabytes is left out, and named. On a machine that is busy with other
work, --cpu-time counts processor time instead; then give every library one thread, since threads
that wait count too: TESSERA_THREADS=1 RAYON_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np

from tessera_onnx import PackedTokens
from tessera_onnx.runtime import cpu, graph
from tessera_onnx.search import kernels
from tessera_onnx.vectors import scoring
from tessera_onnx.vectors.pooling import l2_normalize

SHORTEST, LONGEST, QUERY = 50, 300, 32
MEAN = (SHORTEST + LONGEST) / 2
PAUSE = 0.05  # seconds
PEAK = 2048  # rows, columns and depth of the product that is the peak
# The ONNX graph c = MatMul(a, b), float32 (x, y) each: as bytes, since nothing here needs onnx.
VALUE = b"\x12\x10\x0a\x0e\x08\x01\x12\x0a\x0a\x03\x12\x01x\x0a\x03\x12\x01y"
PLACES = ((b"Z", b"a"), (b"Z", b"b"), (b"b", b"c"))  # two inputs and an output
PRODUCT = b'\x08\x09:[\x0a\x11\x0a\x01a\x0a\x01b\x12\x01c"\x06MatMul\x12\x01p'
PRODUCT += b"".join(b"%b\x15\x0a\x01%b" % pair + VALUE for pair in PLACES)
PRODUCT += b"B\x04\x0a\x00\x10\x12"


class Peak:
    """ONNX Runtime's matrix product, as fast as it gets."""

    def __init__(self) -> None:
        self.session = graph.open_graph("product", PRODUCT, "cpu", cpu.cpu_threads())
        self.square = np.random.default_rng(1).standard_normal((PEAK, PEAK), dtype=np.float32)

    def __call__(self) -> np.ndarray:
        return self.session.run(None, {"a": self.square, "b": self.square})[0]


def stream(n: int, dim: int, seed: int) -> Iterator[np.ndarray]:
    """n documents, made as they are asked for."""
    rng = np.random.default_rng(seed)
    for length in rng.integers(SHORTEST, LONGEST + 1, n):
        yield l2_normalize(rng.standard_normal((length, dim), dtype=np.float32))


def loop(query: np.ndarray, documents: list[np.ndarray]) -> np.ndarray:
    return np.array([(rows @ query.T).max(axis=0).sum() for rows in documents])


def torch_einsum(documents: list[np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """As PyLate and colpali-engine do: documents padded with zeros, masked after the product."""
    import torch

    torch.set_num_threads(cpu.cpu_threads())
    torch.set_grad_enabled(False)
    lengths = torch.tensor([len(rows) for rows in documents])
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(d) for d in documents], True)  # noqa: FBT003
    mask = torch.arange(padded.shape[1]) < lengths[:, None]

    def score(query: np.ndarray) -> np.ndarray:
        products = torch.einsum("qk,dlk->dql", torch.from_numpy(query), padded)
        products = products.masked_fill(~mask[:, None], float("-inf"))
        return products.amax(dim=2).sum(dim=1).numpy()

    return score


def maxsim_cpu_padded(documents: list[np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Its form for documents of one length, padded with copies of a token, which change no score.

    Sorted into eighths by length, so that little is padded.
    """
    import maxsim_cpu

    order = np.argsort([len(rows) for rows in documents], kind="stable")
    groups = [group for group in np.array_split(order, 8) if len(group)]
    blocks = []
    for group in groups:
        most = max(len(documents[i]) for i in group)
        rows = [np.resize(np.arange(len(documents[i])), most) for i in group]
        blocks.append(np.stack([documents[i][row] for i, row in zip(group, rows, strict=True)]))

    def score(query: np.ndarray) -> np.ndarray:
        scores = np.empty(len(documents), np.float32)
        for group, block in zip(groups, blocks, strict=True):
            scores[group] = maxsim_cpu.maxsim_scores(query, block)
        return scores

    return score


def numpy_blocks(index: PackedTokens) -> Callable[[np.ndarray], np.ndarray]:
    """The packed layout without ONNX Runtime."""
    dim, segments, _ = index._state  # noqa: SLF001
    blocks = [block for segment in segments for block in segment]
    kernel = kernels.maxsim_float32 if index.output_dtype == "float32" else kernels.maxsim_int8

    def score(query: np.ndarray) -> np.ndarray:
        tiles = kernels.query_tiles([query], index.output_dtype, dim)
        return kernels.score_blocks(blocks, tiles, kernel, (1, len(index)))[0]

    return score


def overlap(scores: np.ndarray, exact: np.ndarray) -> int:
    return len({*np.argsort(-scores)[:10]} & {*np.argsort(-exact)[:10]})


class Table:
    """Runners of one collection, and what they took."""

    def __init__(self, n: int, dim: int) -> None:
        self.n, self.dim = n, dim
        self.runners: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
        self.seconds: dict[str, list[float]] = {}
        self.overlaps: dict[str, list[int]] = {}
        self.pairs = 0

    def add_float(self) -> None:
        documents = list(stream(self.n, self.dim, 0))
        self.pairs = QUERY * sum(len(rows) for rows in documents)
        index = PackedTokens(documents)
        self.runners |= {
            "PackedTokens float32": index.score,
            "the same blocks in NumPy": numpy_blocks(index),
            "packed for one call": lambda query: PackedTokens(documents).score(query),
            "scoring.maxsim_scores": lambda query: scoring.maxsim_scores(query, documents),
            "loop in NumPy": lambda query: loop(query, documents),
        }
        if importlib.util.find_spec("maxsim_cpu"):
            import maxsim_cpu

            variable = maxsim_cpu.maxsim_scores_variable
            self.runners["maxsim-cpu"] = lambda query: variable(query, documents)
            self.runners["maxsim-cpu, padded before"] = maxsim_cpu_padded(documents)
        if importlib.util.find_spec("torch"):
            self.runners["torch einsum, padded before"] = torch_einsum(documents)

    def add_small(self) -> None:
        for output in ("int8", "binary"):
            index = PackedTokens(stream(self.n, self.dim, 0), output_dtype=output)
            self.runners[f"PackedTokens {output}"] = index.score
            tokens = sum(
                int(block.lengths.sum())
                for segment in index._state.segments  # noqa: SLF001
                for block in segment
            )
            self.pairs = QUERY * tokens

    def compare(self, queries: list[np.ndarray]) -> None:
        """Equal scores first; how many of the ten best the rounded forms keep."""
        for query in queries:
            exact = self.runners.get("PackedTokens float32")
            truth = None if exact is None else exact(query)
            if truth is not None and query is queries[0]:
                for name, runner in self.runners.items():
                    if not name.endswith(("int8", "binary")):
                        np.testing.assert_allclose(runner(query), truth, rtol=1e-5, err_msg=name)
            for output in ("int8", "binary"):
                name = f"PackedTokens {output}"
                if truth is not None and name in self.runners:
                    kept = overlap(self.runners[name](query), truth)
                    self.overlaps.setdefault(name, []).append(kept)

    def time(self, query: np.ndarray, rounds: int, clock: Callable[[], float]) -> None:
        peak = Peak()
        runners = [("peak", lambda _: peak()), *self.runners.items()]
        for _, runner in runners:
            runner(query)
        for number in range(rounds):
            for name, runner in runners if number % 2 == 0 else runners[::-1]:
                time.sleep(PAUSE)
                start = clock()
                runner(query)
                self.seconds.setdefault(name, []).append(clock() - start)

    def show(self) -> None:
        best = {name: min(values) for name, values in self.seconds.items()}
        flops = 2 * PEAK**3 / best["peak"]
        print(f"\n{self.n} documents, {self.pairs // QUERY} tokens, peak {flops / 1e9:.0f} GFLOP/s")
        base = self.seconds.get("maxsim-cpu")
        for name in self.runners:
            values = self.seconds[name]
            times = "-"
            if base is not None:
                ratios = [b / a for a, b in zip(values, base, strict=True)]
                times = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f}..{max(ratios):.2f})"
            reached = 2 * self.dim * self.pairs / best[name] / flops
            rounded = name.endswith(("int8", "binary"))  # those have another peak
            share = "      -" if rounded else f"{reached:7.0%}"
            kept = self.overlaps.get(name)
            note = f"{statistics.mean(kept):5.1f} of 10" if kept else ""
            print(f"{name:30} {1e9 * best[name] / self.pairs:8.2f} {times:>22} {share} {note}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--queries", type=int, default=5, help="to compare the ten best on")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=6.0)
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    print(f"{cpu.physical_summary()}; {cpu.cpu_threads()} threads")
    print(f"{'':30} {'ns/pair':>8} {'maxsim-cpu':>22} {'of peak':>7} {'ten best':>11}")
    queries = list(stream(options.queries, options.dim, 1))
    queries = [rows[:QUERY] for rows in queries]
    for n in options.documents:
        table = Table(n, options.dim)
        size = n * MEAN * options.dim / 1e9
        # The list, the index, the index for one call, maxsim-cpu's padded copy and torch's, of 300.
        if 4 * size * (4.1 + LONGEST / MEAN) <= options.gigabytes:
            table.add_float()
        else:
            print(f"\n{n} documents in float32 are left out: {4 * size:.0f} GB, several times")
        if 1.2 * size > options.gigabytes:
            print(f"{n} documents are left out: {size:.0f} GB in int8")
            continue
        table.add_small()
        table.compare(queries)
        table.time(queries[0], options.rounds, clock)
        table.show()
        del table
        gc.collect()


if __name__ == "__main__":
    main()

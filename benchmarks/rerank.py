"""Pairs a second, latency and memory against other rerankers on the same weights, in one run.

    python benchmarks/rerank.py [--model ARTIFACT --weights FOLDER] [--python NAME=PATH ...]
        [--queries 8] [--documents 50] [--rounds 5] [--only PEER ...] [--loud]

FOLDER is a cross-encoder as sentence-transformers reads it, ARTIFACT what `tessera-export FOLDER
--kind reranker --precision fp32,int8` made of it. Without them random weights of the shape of
ms-marco-MiniLM-L6-v2 are made (BERT of 6 layers of 384, the starter's tokenizer), which needs
tessera-onnx-export and tessera-onnx-starter. Nothing is installed: a peer that an interpreter lacks
is left out, and `--python fastembed=/venv/bin/python` names another interpreter for the peers of an
environment. fastembed and FlashRank run ARTIFACT's graphs, as local models of theirs.

Queries are docstrings of the standard library and of NumPy of 6 to 20 tokens, documents those of 10
to 400. Each peer runs as it comes (CrossEncoder sorts pairs by length and takes 32 at once,
fastembed takes 64 as they come, FlashRank all documents of a query); "32 sorted" is the same
batching for all: pairs sorted by their tokens, 32 at once; "best sorted" is at the batch size, of 1
to 64, that is fastest for the peer on half of the pairs. FlashRank reads one query a call, so it
sorts and batches the documents of each. Sorting is not counted. Ours get the pairs as they come.
CPU is the processor time of a pair.

Scores are compared first: the largest difference from our fp32 scores, of the raw scores, or of
probabilities where the peer gives no others (FlashRank). A peer of fp32 or bf16 whose scores are
not ours is marked. Then all take turns, each in a process of its own, and every other round runs
backwards. Ratios are those of a round: median, least and most. Latencies are medians of calls of
one query and 1, 10 and 50 documents between the rounds. Peak is the most memory that the process
ever had (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from peers import PAUSE, Peer, docstrings, timed, tuned
from reranker_loaders import BEST, ROWS, Pairs, make, prepare

HERE = Path(__file__).resolve()
EQUAL = 1e-4  # largest difference, of a score's size
CALLS = {1: 10, 10: 3, 50: 1}  # documents, and calls a round


# ---------------------------------------------------------------- the process of a peer


def child(name: str) -> None:
    """Answer the parent's requests, a JSON line each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    options = json.loads(sys.stdin.readline())
    pairs, batch = [tuple(pair) for pair in options["pairs"]], options["batch"]
    calls = [[tuple(pair) for pair in call] for call in options["calls"]]
    score = ROWS[name].load(options)
    for request in map(str.strip, sys.stdin):
        if request == "scores":
            answer: dict = {"scores": [float(number) for number in score(pairs, 8)]}
        elif request == "tune":
            answer = {"batch": tuned(score, pairs, every=2)}
        elif request == "warm":
            score(pairs[::4], batch)
            answer = {"seconds": [timed(score, call, batch) for call in calls]}
        elif request == "run":
            start = time.process_time()
            answer = {"seconds": timed(score, pairs, batch)}
            answer["processor"] = time.process_time() - start
        elif request == "calls":
            answer = {
                str(len(call)): [timed(score, call, batch) for _ in range(n)]
                for call, n in zip(calls, CALLS.values(), strict=True)
            }
        else:
            status = Path("/proc/self/status").read_text()
            answer = {"peak": int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024}
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)


# ---------------------------------------------------------------- the parent


def ours(name: str) -> str:
    return f"tessera-onnx {ROWS[name].precision}"


def ordered(pairs: Pairs, sizes: dict[str, int], *, is_sorted: bool) -> Pairs:
    """Longest first, or as they are."""
    return sorted(pairs, key=lambda pair: -sizes[pair[0]] - sizes[pair[1]]) if is_sorted else pairs


def start(names: list[str], pythons: dict[str, str], options: dict, sizes: dict) -> list[Peer]:
    """The peers that run, after their scores were compared and their batch size was found."""
    peers: list[Peer] = []
    truth: dict[tuple[str, str], float] = {}
    for name in names:
        row = ROWS[name]
        python = pythons.get(row.environment, sys.executable)
        pairs = ordered(options["pairs"], sizes, is_sorted=row.is_sorted)
        calls = [ordered(c, sizes, is_sorted=row.is_sorted) for c in options["calls"]]
        sent = options | {"pairs": pairs, "calls": calls, "batch": row.batch}
        first = Peer(name, python, sent, HERE)
        try:
            found = first.ask("scores")["scores"]
            peer = first
            if row.batch == BEST:  # a fresh process, whose peak is not that of other batch sizes
                sent["batch"] = first.ask("tune")["batch"]
                first.end()
                peer = Peer(name, python, sent, HERE)
            peer.ask("warm")
        except RuntimeError as error:
            if not truth:
                raise SystemExit(f"{name} is what the others are compared with: {error}") from None
            print(f"left out: {name}: {error}", flush=True)
            continue
        truth = truth or dict(zip(pairs, found, strict=True))
        wanted = np.array([truth[pair] for pair in pairs])
        if row.gives_probability:
            wanted = 1 / (1 + np.exp(-wanted))
        peer.gap = float(np.abs(np.array(found) - wanted).max())
        size = max(1.0, float(np.abs(wanted).max()))
        peer.differs = row.precision == "fp32" and peer.gap > EQUAL * size
        peer.batch, peer.processor = sent["batch"], []
        peer.calls = {str(n): [] for n in CALLS}
        peers.append(peer)
        print(f"ready: {name}", file=sys.stderr, flush=True)
    spread = np.ptp(list(truth.values()))
    print(f"raw scores from {min(truth.values()):.3f} on, a range of {spread:.3f}")
    return peers


def measure(peers: list[Peer], rounds: int) -> None:
    for number in range(rounds):
        for peer in peers if number % 2 == 0 else peers[::-1]:
            time.sleep(PAUSE)
            answer = peer.ask("run")
            peer.seconds.append(answer["seconds"])
            peer.processor.append(answer["processor"])
            for n, seconds in peer.ask("calls").items():
                peer.calls[n] += seconds
    for peer in peers:
        peer.peak = peer.ask("peak")["peak"]
        peer.end()


def table(peers: list[Peer], n_pairs: int) -> None:
    print(
        f"{'':40} {'batch':>5} {'pairs/s':>8} {'best':>6} {'ours is (least..most)':>24} "
        f"{'CPU ms':>7} {'difference':>10} {'1 ms':>7} {'10 ms':>7} {'50 ms':>7} {'peak MB':>8}"
    )
    by_name = {peer.name: peer for peer in peers}
    for name, peer in by_name.items():
        ratio = peer.times(by_name.get(ours(name)))
        median, best = statistics.median(peer.seconds), min(peer.seconds)
        processor = 1000 * statistics.median(peer.processor) / n_pairs
        calls = " ".join(f"{1000 * statistics.median(s):7.1f}" for s in peer.calls.values())
        print(
            f"{name + ' !' * peer.differs:40} {peer.batch or '':>5} {n_pairs / median:8.1f} "
            f"{n_pairs / best:6.1f} {ratio:>24} "
            f"{processor:7.2f} {peer.gap:10.1e} {calls} {peer.peak:8.0f}"
        )
    if any(peer.differs for peer in peers):
        print(f"! not the same scores: they differ from our fp32 scores by more than {EQUAL}")


def chosen(only: list[str] | None) -> list[str]:
    """The peers to run, with ours that they are compared with."""
    wanted = set(only or ROWS)
    wanted |= {ours(name) for name in wanted} | {"tessera-onnx fp32"}
    return [name for name in ROWS if name in wanted]


def texts(tokenizer: Path, n_queries: int, n_documents: int) -> tuple[Pairs, dict[str, int]]:
    """Pairs, all of one query side by side, and the number of tokens of each text."""
    found = list(zip(*docstrings(tokenizer, sys.maxsize, 6), strict=True))
    queries = [text for text, size in found if size <= 20][:n_queries]
    documents = [text for text, size in found if size >= 10 and text not in queries]
    documents = documents[: n_queries * n_documents]
    return [(queries[i % len(queries)], d) for i, d in enumerate(documents)], dict(found)


def run(options: argparse.Namespace, work: Path, pythons: dict[str, str]) -> None:
    sys.path.insert(0, str(HERE.parents[1]))
    from tessera_onnx.runtime.cpu import cpu_threads, physical_summary

    model, weights = (options.model, options.weights) if options.model else make(work / "made")
    prepare(work, model, weights)
    pairs, sizes = texts(model / "tokenizer.json", options.queries, options.documents)
    pairs.sort(key=lambda pair: pair[0])
    of_one = [pair for pair in pairs if pair[0] == pairs[0][0]]
    calls = [[of_one[i % len(of_one)] for i in range(n)] for n in CALLS]
    sent = {"work": str(work), "model": str(model.resolve()), "threads": cpu_threads()}
    sent |= {"pairs": pairs, "calls": calls, "loud": options.loud}
    before = os.getloadavg()[0]
    peers = start(chosen(options.only), pythons, sent, sizes)
    measure(peers, options.rounds)
    counts = [sizes[query] + sizes[document] + 3 for query, document in pairs]
    print(f"{physical_summary()}; {cpu_threads()} threads; load {before:.1f} before the run")
    print(
        f"{len(pairs)} pairs of {min(counts)} to {max(counts)} tokens, {sum(counts)} in all; "
        f"a call of {', '.join(str(n) for n in CALLS)} documents has "
        f"{', '.join(str(sum(sizes[q] + sizes[d] + 3 for q, d in call)) for call in calls)} tokens"
    )
    table(peers, len(pairs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--documents", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=ROWS)
    parser.add_argument("--loud", action="store_true", help="show what the peers print")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    if (options.model is None) != (options.weights is None):
        parser.error("--model and --weights go together")
    pythons = dict(item.split("=", 1) for item in options.python)
    known = {row.environment for row in ROWS.values()}
    if unknown := pythons.keys() - known:
        parser.error(f"--python knows {sorted(known)}, not {sorted(unknown)}")
    with tempfile.TemporaryDirectory(prefix="rerank-") as work:
        run(options, Path(work), pythons)


if __name__ == "__main__":
    main()

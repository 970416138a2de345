"""Servers of the same weights under the same load: throughput, latency of queries, memory.

    python benchmarks/serving.py --model ARTIFACT --weights FOLDER [--python NAME=PATH ...]
        [--only SERVER ...] [--seconds 10] [--seed 0]

ARTIFACT and FOLDER are those of peers.py: a dense model folder, fp32 and int8, which
`tessera-export model FOLDER --kind dense --precision fp32,int8 --max-length 512 --output ARTIFACT`
made, and the original weights. Nothing is installed: a server that its interpreter lacks is left
out, and `--python infinity-emb=/venv/bin/python` names another interpreter for the servers of an
environment. Pins that work together:

    infinity-emb           infinity-emb[server,torch,optimum]==0.0.78 torch==2.13.0
                           optimum-onnx==0.1.0 transformers==4.57.6
    sentence-transformers  sentence-transformers==6.2.0 fastapi==0.165.0 uvicorn[standard]==0.54.0
    fastembed              fastembed==0.9.1 fastapi==0.165.0 uvicorn[standard]==0.54.0

Each table is printed as soon as it is measured. All servers run as they come, with the same
threads, and stay open; they take turns, one is asked at a time. A query is one text: three of four
have 4 to 32 tokens, the fourth 10 to 250. A bulk client sends 64 texts of 10 to 250 tokens, and the
next 64 when they are answered. Texts are docstrings of the standard library and of NumPy, drawn
with the seed. Numbers are sent as JSON.

Saturation: 32 clients that send queries one after the other, then 4 that send bulk. Load: queries
at the times of a Poisson process, at 50 and 80 % of the saturation with queries, first of the
server's own, then of the faster infinity; latency counts from the time at which a query is due
(load.py). The clients run on the same cores. Peak is the most memory that a server's process had
until then. Server over library: calls in turns of an idle server and of the class in this process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from launchers import SERVERS, Server, ask, launch, ready
from load import Pool, Request, Result, clients, open_loop, request
from loaders import prepare
from peers import docstrings

from tessera_onnx import TesseraDense
from tessera_onnx.runtime.cpu import cpu_threads, physical_summary

PAUSE = 0.5  # between two runs
WARM = 2.0
CLIENTS, BULK_CLIENTS, BULK_TEXTS = 32, 4, 64
LOADS = (0.5, 0.8)


class Traffic:
    """The texts that are sent, and requests made of them."""

    def __init__(self, tokenizer: Path, seed: int) -> None:
        self.seed = seed
        texts = list(zip(*docstrings(tokenizer, 6000, 4, 250), strict=True))
        self.short = [(text, n) for text, n in texts if n <= 32]
        self.passages = [(text, n) for text, n in texts if n >= 10]

    def queries(self) -> Iterator[Request]:
        draw = random.Random(self.seed)
        while True:
            yield self._of([draw.choice(self.short if draw.random() < 0.75 else self.passages)])

    def bulk(self) -> Iterator[Request]:
        draw = random.Random(self.seed + 1)
        while True:
            yield self._of(draw.choices(self.passages, k=BULK_TEXTS))

    def texts(self, n: int) -> list[str]:
        return [text for text, _ in self.passages[:n]]

    @staticmethod
    def _of(rows: list[tuple[str, int]]) -> Request:
        return request("/v1/embeddings", [text for text, _ in rows], sum(n for _, n in rows))


async def settle(server: Server, asked: Request) -> None:
    """Wait until an overloaded server is idle again."""
    with contextlib.suppress(OSError, RuntimeError, EOFError, TimeoutError):
        async with asyncio.timeout(60):
            await ask(server, asked)
    await asyncio.sleep(PAUSE)


async def saturate(server: Server, traffic: Traffic, seconds: float) -> None:
    first = next(traffic.queries())
    for kind, requests, n in (
        ("queries", traffic.queries(), CLIENTS),
        ("bulk", traffic.bulk(), BULK_CLIENTS),
    ):
        pool = Pool(server.port)
        async with clients(pool, requests, n):
            await asyncio.sleep(min(WARM, seconds))
        await settle(server, first)
        async with clients(pool, requests, n) as result:
            await asyncio.sleep(seconds)
        pool.close()
        setattr(server, kind, result)
        await settle(server, first)


async def load(
    server: Server, traffic: Traffic, key: tuple[float, str, bool], rate: float, seconds: float
) -> None:
    pool = Pool(server.port)
    async with clients(pool, traffic.bulk(), int(key[2])) as bulk:
        await asyncio.sleep(PAUSE)
        found = await open_loop(pool, traffic.queries(), rate, seconds, traffic.seed)
    pool.close()
    server.loads[key] = found, bulk
    await settle(server, next(traffic.queries()))


async def over_library(server: Server, model: TesseraDense, traffic: Traffic) -> list[str]:
    """Milliseconds of a short text and of 32 texts, of the library and of the server."""
    texts = traffic.texts(32)
    short = [traffic.short[0][0]]
    pool, cells = Pool(server.port), [server.name]
    for batch, turns, call in (
        (short, 60, lambda: model.encode(short[0])),
        (texts, 12, lambda: model.encode_batch(texts)),
    ):
        asked = request("/v1/embeddings", batch, 0)
        seconds: tuple[list[float], list[float]] = ([], [])
        for turn in range(turns + 3):
            start = time.perf_counter()
            call()
            middle = time.perf_counter()
            await pool.post(asked.raw)
            if turn >= 3:
                seconds[0].append(middle - start)
                seconds[1].append(time.perf_counter() - middle)
        library, served = (1000 * statistics.median(each) for each in seconds)
        cells += [f"{library:.2f}", f"{served:.2f}"]
    pool.close()
    return [*cells, f"{served / library - 1:+.0%}"]


def table(head: list[str], rows: list[list[str]]) -> None:
    print()
    for cells in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(cells)} |")
    sys.stdout.flush()


def latency(result: Result) -> str:
    lost = result.unanswered + len(result.errors)
    return f"{result.percentile(50):.1f} / {result.percentile(99):.1f}" + (
        f" ({lost} lost)" if lost else ""
    )


def report_saturation(servers: list[Server], rival: Server | None) -> None:
    rows = []
    for server in servers:
        figures = [
            f"{getattr(result, what) / result.seconds:.0f}"
            for result in (server.queries, server.bulk)
            for what in ("texts", "tokens")
        ]
        lead = f"{server.rate / rival.rate:.2f}x" if rival else ""
        memory = [f"{server.start:.1f}", f"{server.peak():.0f}"]
        rows.append([server.name, f"{server.cosine:.4f}", *figures, lead, *memory])
    head = ["server", "least cosine", "queries/s", "tokens/s", "bulk texts/s", "tokens/s"]
    table([*head, "queries, times infinity", "start, s", "peak, MB"], rows)


def report_loads(servers: list[Server]) -> None:
    """What was measured, also where the run was ended before all was."""
    rows = []
    for server in servers:
        for share, whose in dict.fromkeys(key[:2] for key in server.loads):
            name = "own" if whose == server.name else whose
            alone, _ = server.loads.get((share, whose, False), (Result(), None))
            beside, bulk = server.loads.get((share, whose, True), (Result(), Result(seconds=1)))
            rows.append([server.name, f"{share:.0%} of {name}", latency(alone)])
            rows[-1] += [latency(beside), f"{bulk.texts / bulk.seconds:.0f}"]
    head = ["server", "load", "queries alone, p50 / p99 ms", "beside bulk, p50 / p99 ms"]
    table([*head, "bulk texts/s"], rows)


async def opened(
    options: argparse.Namespace, work: Path, traffic: Traffic, servers: list[Server]
) -> None:
    """Start the servers, add those that answer, and compare their vectors with the library's."""
    texts = traffic.texts(100)
    with TesseraDense(path=options.model, precision="fp32", on_long="truncate") as model:
        truth = model.encode_batch(texts)
    for name in SERVERS:
        if options.only and name not in options.only:
            continue
        python = options.python.get(SERVERS[name][0], sys.executable)
        try:
            server = launch(name, python, work, cpu_threads())
            servers.append(server)
            await ready(server, next(traffic.queries()))
            body = json.loads(await ask(server, request("/v1/embeddings", texts, 0)))
        except (RuntimeError, OSError, EOFError) as error:
            print(f"left out: {name}: {error}", flush=True)
            if servers and servers[-1].name == name:
                servers.pop().end()
            continue
        found = np.array([row["embedding"] for row in body["data"]])
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(truth, axis=1)
        server.cosine = float(((found * truth).sum(axis=1) / lengths).min())


async def measure(options: argparse.Namespace, traffic: Traffic, servers: list[Server]) -> None:
    rows = []
    for server in servers:
        if server.name.startswith("tessera"):
            precision = server.name.split()[1]
            with TesseraDense(path=options.model, precision=precision) as model:
                rows.append(await over_library(server, model, traffic))
    head = ["server over library", "encode, ms", "served, ms", "encode_batch of 32, ms"]
    table([*head, "served, ms", "more"], rows)
    for server in servers:
        await saturate(server, traffic, options.seconds)
    rivals = [server for server in servers if server.name.startswith("infinity")]
    rival = max(rivals, key=lambda server: server.rate, default=None)
    report_saturation(servers, rival)
    try:
        for own, share, bulk in itertools.product((True, False), LOADS, (False, True)):
            for server in servers:
                base = server if own else rival
                if base is not None and (own or base is not server):
                    key = (share, base.name, bulk)
                    await load(server, traffic, key, share * base.rate, options.seconds)
    finally:
        report_loads(servers)


async def run(options: argparse.Namespace, work: Path) -> None:
    traffic = Traffic(options.model / "tokenizer.json", options.seed)
    servers: list[Server] = []
    try:
        await opened(options, work, traffic, servers)
        await measure(options, traffic, servers)
    finally:
        for server in servers:
            server.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--only", action="append", default=[], choices=SERVERS)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.python = dict(each.split("=", 1) for each in options.python)
    if unknown := options.python.keys() - {row[0] for row in SERVERS.values()}:
        parser.error(f"no server is of {', '.join(unknown)}")
    print(f"{physical_summary()}; {cpu_threads()} threads; load before {os.getloadavg()[0]:.1f}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the servers end too
    with tempfile.TemporaryDirectory() as work:
        prepare(Path(work), options.model, options.weights)
        (Path(work) / "artifact").symlink_to(options.model.resolve())
        asyncio.run(run(options, Path(work)))
    print(
        f"\nload after {os.getloadavg()[0]:.1f}, {options.seconds:g} s a run, seed {options.seed}"
    )


if __name__ == "__main__":
    main()

"""A server under more load than it can bear, from clients that die, oversize, expire and reconnect.

    python tests/faults/serving/chaos.py --minutes 10 --record

Requests arrive at 1.2 times the rate that the server bears, as a Poisson process: they do not wait
for each other. Each one that is answered is checked: the vectors are those of the library, or the
refusal is the one that was due. Exits with 1 where a vector is wrong, an answer is missing or comes
with another status, the server is unready, or resident memory rises by more than --limit MB a
minute after the first fifth of the time. At the end SIGTERM comes in the middle of the load: every
request that was taken is answered, and the process ends with 0. --record keeps the figures in
tests/faults/serving/chaos.toml, from which docs/reliability.md is made.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[2])]

from server_process import MINILM, Process  # noqa: E402

from tessera_onnx import TesseraDense  # noqa: E402

RECORD = HERE.with_name("chaos.toml")
WORDS = "the cat sat on a mat while rain in spain falls and new models read every token".split()  # noqa: SIM905
OVERLOAD = 1.2
SURE = 0.2  # seconds before SIGTERM: a request that was sent earlier was taken
TOLERANCE = 1e-4
# What a client does, and how often of 100 times.
SORTS = {"asks": 70, "dies": 10, "expires": 10, "oversizes": 5, "errs": 5}
DUE = {"asks": {200, 429}, "expires": {200, 429, 504}, "oversizes": {413}, "errs": {400}}
ARGUMENTS = (
    "--max-queue-tokens", "20000", "--max-body", "200000",
)  # fmt: skip


class Chaos:
    """The clients of one server, and what became of their requests."""

    def __init__(self, url: str, seed: int = 7) -> None:
        self.url = url
        self.rng = random.Random(seed)
        self.texts = [
            " ".join(self.rng.choices(WORDS, k=self.rng.choice((3, 8, 20, 60, 150))))
            for _ in range(300)
        ]
        with TesseraDense(MINILM) as model:
            self.vectors = model.encode_batch(self.texts)
        self.outcomes: Counter[str] = Counter()
        self.faults: list[str] = []
        self.latencies: list[float] = []
        self.pending: set[asyncio.Task[None]] = set()
        self.signalled: float | None = None

    async def request(self, client: httpx2.AsyncClient, sort: str) -> None:
        """One request of a client; its outcome is counted."""
        numbers = [self.rng.randrange(300) for _ in range(self.rng.choice((1, 1, 2, 5, 30)))]
        start = time.monotonic()
        body: Any = {"input": [self.texts[i] for i in numbers]}
        headers = {}
        if sort == "expires":
            headers["x-timeout-ms"] = str(self.rng.choice((1, 5, 20, 60)))
        elif sort == "oversizes":
            body["input"] = ["x" * 300_000]
        elif sort == "errs":
            body["input"] = [self.texts[0], None]
        try:
            if sort == "dies":
                await self._die(json.dumps(body).encode())
                return
            answer = await client.post(
                f"{self.url}/v1/embeddings", json=body, headers=headers, timeout=90
            )
        except (httpx2.HTTPError, OSError) as error:
            taken = self.signalled is None or start < self.signalled - SURE
            if taken:
                self.faults.append(f"{sort}: no answer: {type(error).__name__}: {error}")
            else:
                self.outcomes["after the signal"] += 1
            return
        status = answer.status_code
        if status not in DUE[sort] and not (status == 503 and self.signalled is not None):
            self.faults.append(f"{sort}: status {status}: {answer.text[:200]}")
        elif status == 200:
            found = np.array([row["embedding"] for row in answer.json()["data"]], np.float32)
            far = np.abs(found - self.vectors[numbers]).max()
            if found.shape != (len(numbers), self.vectors.shape[1]) or far > TOLERANCE:
                self.faults.append(f"{sort}: a wrong vector, {far:.2g} away")
            self.latencies.append(time.monotonic() - start)
        self.outcomes[f"{sort} {status}"] += 1

    async def _die(self, body: bytes) -> None:
        """Send a request, or a part of it, and leave without an answer."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        whole = head.encode() + body
        writer.write(whole[: self.rng.choice((len(whole), len(whole), len(whole) // 2))])
        await writer.drain()
        await asyncio.sleep(self.rng.random() * 0.05)
        writer.transport.abort()
        self.outcomes["dies"] += 1

    async def capacity(self, seconds: float) -> float:
        """Requests a second that the server answers when clients wait for their answers."""
        done = 0
        end = time.monotonic() + seconds

        async def loop() -> None:
            nonlocal done
            async with httpx2.AsyncClient() as client:
                while time.monotonic() < end:
                    await self.request(client, "asks")
                    done += 1

        await asyncio.gather(*(loop() for _ in range(8)))
        return done / seconds

    async def load(self, rate: float, seconds: float) -> None:
        """Requests at `rate` a second, each a task of its own."""
        clients = [httpx2.AsyncClient() for _ in range(4)]
        sorts, weights = zip(*SORTS.items(), strict=True)
        end = due = time.monotonic()
        end += seconds
        while due < end and self.signalled is None:
            due += self.rng.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            (sort,) = self.rng.choices(sorts, weights)
            lasting = self.rng.choice([*clients, None])  # None: a connection of its own
            self._start(lasting, sort)
        if self.pending:
            await asyncio.wait(set(self.pending), timeout=120)
        for client in clients:
            await client.aclose()

    def _start(self, client: httpx2.AsyncClient | None, sort: str) -> None:
        async def run() -> None:
            if client is not None:
                await self.request(client, sort)
                return
            async with httpx2.AsyncClient() as own:
                await self.request(own, sort)

        task = asyncio.create_task(run())
        self.pending.add(task)
        task.add_done_callback(self.pending.discard)


def resident(pid: int) -> float:
    """MB of a process in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


async def run(server: Process, seconds: float) -> dict[str, Any]:
    """The figures of a run, and its faults."""
    chaos = Chaos(server.url)
    rate = OVERLOAD * await chaos.capacity(min(10.0, seconds / 4))
    samples: list[tuple[float, float]] = []
    probes: list[float] = []

    async def watch() -> None:
        async with httpx2.AsyncClient() as client:
            while True:
                start = time.monotonic()
                answer = await client.get(f"{server.url}/readyz", timeout=30)
                probes.append(time.monotonic() - start)
                if answer.status_code != 200:
                    chaos.faults.append(f"unready under load: {answer.text}")
                samples.append((time.monotonic(), resident(server.process.pid)))
                await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    loading = asyncio.create_task(chaos.load(rate, seconds))
    await asyncio.sleep(seconds * 0.95)
    watching.cancel()
    chaos.signalled = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    await loading
    code, log = await asyncio.to_thread(server.stop, signal.SIGTERM, 60)
    if code:
        chaos.faults.append(f"exit code {code}")
    if "Traceback" in log:
        chaos.faults.append(f"a traceback: {log[-2000:]}")
    if chaos.pending:
        chaos.faults.append(f"{len(chaos.pending)} requests have no answer")
    late = samples[len(samples) // 5 :]
    slope = np.polyfit(*zip(*late, strict=True), 1)[0] * 60 if len(late) > 2 else 0.0
    return {
        "machine": f"{os.cpu_count()} threads, {platform.machine()}",
        "minutes": round(seconds / 60, 2),
        "requests_a_second": round(rate, 1),
        "answered_with_right_vectors": sum(
            n for name, n in chaos.outcomes.items() if name.endswith(" 200")
        ),
        "refused_429": sum(n for name, n in chaos.outcomes.items() if name.endswith(" 429")),
        "expired_504": chaos.outcomes["expires 504"],
        "oversized_413": chaos.outcomes["oversizes 413"],
        "wrong_400": chaos.outcomes["errs 400"],
        "clients_that_died": chaos.outcomes["dies"],
        "faults": len(chaos.faults),
        "p50_ms": round(float(np.percentile(chaos.latencies, 50)) * 1000, 1),
        "p99_ms": round(float(np.percentile(chaos.latencies, 99)) * 1000, 1),
        "readyz_p99_ms": round(float(np.percentile(probes, 99)) * 1000, 1),
        "rss_first_mb": round(late[0][1], 1),
        "rss_last_mb": round(late[-1][1], 1),
        "rss_mb_a_minute": round(float(slope), 2),
        "shown": chaos.faults[:20],
    }


def main() -> None:
    """Run, print the figures, and exit with 1 where a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--limit", type=float, default=1.0, help="MB a minute")
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    server = Process(MINILM, *ARGUMENTS)
    try:
        figures = asyncio.run(run(server, given.minutes * 60))
    finally:
        if server.process.poll() is None:
            server.kill()
    shown = figures.pop("shown")
    lines = [f"{name} = {json.dumps(value)}" for name, value in figures.items()]
    sys.stdout.write("\n".join([*lines, *shown]) + "\n")
    rises = given.minutes >= 5 and figures["rss_mb_a_minute"] > given.limit
    if shown or rises:
        sys.exit(1)
    if given.record:
        RECORD.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

"""Clients of an HTTP server: arrivals at a fixed rate, as many at once as wanted, or one by one.

A request of `open_loop` is sent at its time, whether those before it are answered or not, and its
latency counts from that time: a server that falls behind shows it. asyncio wakes up to 1 ms late,
and that is part of the latency.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

GRACE = 10.0  # seconds for the answers that are missing when the last request was sent
KEPT = 3.0  # seconds that a connection stays idle: uvicorn closes it after 5
MOST_ERRORS = 100  # after which a client of `clients` gives up


@dataclass(frozen=True)
class Request:
    """An HTTP request as it is sent."""

    raw: bytes
    texts: int
    tokens: int


def request(path: str, texts: Sequence[str], tokens: int) -> Request:
    """A POST of OpenAI's body."""
    body = json.dumps({"model": "model", "input": texts}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return Request(head.encode() + body, len(texts), tokens)


@dataclass
class Result:
    """What a run has measured: seconds of each request, in the order of the answers."""

    latencies: list[float] = field(default_factory=list)
    unanswered: int = 0
    errors: list[str] = field(default_factory=list)
    texts: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def percentile(self, percent: float) -> float:
        """Milliseconds, by nearest rank. A request without an answer took for ever."""
        found = sorted(self.latencies) + [float("inf")] * (self.unanswered + len(self.errors))
        rank = -int(-percent * len(found) // 100)  # rounded up
        return 1000 * found[max(rank, 1) - 1] if found else float("nan")


class Pool:
    """Connections to a server; a request takes one that is idle, or opens one."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter, float]] = []

    async def post(self, raw: bytes) -> bytes:
        """The body of the answer. Raises RuntimeError for any status but 200, and OSError."""
        clock = asyncio.get_running_loop().time
        if self.idle and self.idle[-1][2] < clock() - KEPT:  # and so are all below it
            self.close()
        if self.idle:
            reader, writer, _ = self.idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(raw)
            head = await reader.readuntil(b"\r\n\r\n")
            status, *lines = head.decode("latin-1").lower().split("\r\n")
            fields = dict(line.split(": ", 1) for line in lines if line)
            body = await reader.readexactly(int(fields["content-length"]))
        except BaseException:
            writer.close()
            raise
        if status.split()[1] != "200":
            writer.close()
            raise RuntimeError(f"{status}: {body[:100]!r}")
        if fields.get("connection") == "close":
            writer.close()
        else:
            self.idle.append((reader, writer, clock()))
        return body

    def close(self) -> None:
        for _, writer, _ in self.idle:
            writer.close()
        self.idle.clear()


async def _one(pool: Pool, asked: Request, due: float, result: Result) -> None:
    try:
        await pool.post(asked.raw)
    except (RuntimeError, OSError, EOFError) as error:
        result.errors.append(f"{type(error).__name__}: {error}"[:150])
        return
    result.latencies.append(asyncio.get_running_loop().time() - due)
    result.texts += asked.texts
    result.tokens += asked.tokens


async def open_loop(
    pool: Pool, requests: Iterator[Request], rate: float, seconds: float, seed: int
) -> Result:
    """Requests at the times of a Poisson process of `rate` a second."""
    clock = asyncio.get_running_loop().time
    gaps, result, tasks = random.Random(seed), Result(), []
    start = due = clock()
    while (due := due + gaps.expovariate(rate)) < start + seconds:
        await asyncio.sleep(max(0.0, due - clock()))
        tasks.append(asyncio.create_task(_one(pool, next(requests), due, result)))
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=GRACE)
        result.unanswered = len(late)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    result.seconds = clock() - start
    return result


@contextlib.asynccontextmanager
async def clients(pool: Pool, requests: Iterator[Request], n: int) -> AsyncIterator[Result]:
    """`n` clients that each send a request when the one before is answered, during the block.

    What is answered later does not count; the latency is that of each request.
    """
    clock = asyncio.get_running_loop().time
    result = Result()

    async def client() -> None:
        while True:
            await _one(pool, next(requests), clock(), result)
            if len(result.errors) > MOST_ERRORS:
                return

    tasks = [asyncio.create_task(client()) for _ in range(n)]
    start = clock()
    try:
        yield result
    finally:
        result.seconds = clock() - start
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

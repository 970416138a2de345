"""The load generator against servers whose latencies are known by hand, and a run of the whole."""

import asyncio
import itertools
import math
import random
import re
import sys
from pathlib import Path

import pytest
from test_benchmarks import pair, run_benchmark  # noqa: F401 (a fixture)

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import load

ASKED = load.request("/v1/embeddings", ["a"], 3)
SERVICE = 0.02  # seconds


async def _serve(busy, status="200 OK"):
    """A server that answers one request after the other, each in SERVICE seconds."""

    async def answer(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(re.search(rb"content-length: (\d+)", head)[1])
                assert b'"input": ["a"]' in await reader.readexactly(length)
                async with busy:
                    await asyncio.sleep(SERVICE)
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


def _run(status, use):
    async def main():
        async with await _serve(asyncio.Lock(), status) as server:
            pool = load.Pool(server.sockets[0].getsockname()[1])
            found = await use(pool)
            pool.close()
            await asyncio.sleep(0.05)  # in which both sides of the connections close
            return found

    return asyncio.run(main())


def test_latency_counts_from_the_time_a_request_is_due():
    """Twice as many arrivals as are served: each waits for all before it, as by Lindley."""
    rate, seconds, seed = 2 / SERVICE, 1.0, 5
    found = _run(
        "200 OK",
        lambda pool: load.open_loop(pool, itertools.repeat(ASKED), rate, seconds, seed),
    )
    gaps, due, free, want = random.Random(seed), 0.0, 0.0, []
    while (due := due + gaps.expovariate(rate)) < seconds:
        free = max(free, due) + SERVICE
        want.append(free - due)
    assert len(found.latencies) == found.texts == len(want)
    assert found.tokens == 3 * len(want)
    assert (found.unanswered, found.errors) == (0, [])
    # asyncio wakes late, also in the server: never early, and by a few ms a request.
    for percent in (50, 99):
        exact = sorted(want)[math.ceil(percent * len(want) / 100) - 1]
        late = found.percentile(percent) / 1000 - exact
        assert -0.02 < late < 0.5 * exact + 0.1


def test_closed_clients_ask_as_fast_as_they_are_answered():
    async def use(pool):
        async with load.clients(pool, itertools.repeat(ASKED), 4) as found:
            await asyncio.sleep(1.0)
        return found

    found = _run("200 OK", use)
    assert 0.3 / SERVICE < found.texts / found.seconds <= 1.05 / SERVICE
    assert found.percentile(50) >= 3.9 * SERVICE * 1000  # three others are before it


def test_requests_that_fail_took_for_ever():
    use = lambda pool: load.open_loop(pool, itertools.repeat(ASKED), 50, 0.2, 0)  # noqa: E731
    found = _run("503 Service Unavailable", use)
    assert found.texts == 0
    assert len(found.errors) > 2
    assert "503" in found.errors[0]
    assert found.percentile(50) == math.inf


def test_percentiles_by_nearest_rank():
    found = load.Result(latencies=[0.004, 0.001, 0.003, 0.002])
    assert [found.percentile(p) for p in (1, 25, 26, 50, 99, 100)] == [1, 1, 2, 2, 4, 4]


@pytest.mark.benchmark
@pytest.mark.posix
def test_serving(pair):  # noqa: F811
    """Two servers of one graph give its vectors; a server that is not installed is left out."""
    only = ["tessera fp32", "tessera int8", "infinity torch"]
    names = [part for name in only for part in ("--only", name)]
    lines = run_benchmark("serving.py", *pair, *names, "--seconds", "0.5").stdout.splitlines()
    assert any(
        line.startswith("left out: infinity torch: importlib.metadata.PackageNotFoundError")
        for line in lines
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:2] == "| "]
    saturation = [row for row in rows if row[0] in only and len(row) == 9]
    assert [row[0] for row in saturation] == only[:2]
    for row in saturation:
        cosine, queries, _, bulk, _, _, start, peak = row[1:]
        assert float(cosine) == pytest.approx(1, abs=1e-4)  # the same graph
        assert min(float(queries), float(bulk), float(start)) > 0
        assert 50 < float(peak) < 2000
    loads = [row for row in rows if row[0] in only and len(row) == 5]
    assert [row[1] for row in loads] == ["50% of own", "80% of own"] * 2
    for row in loads:
        for cell in row[2:4]:
            middle, late = map(float, re.match(r"(\S+) / (\S+)", cell).groups())
            assert 0 < middle <= late
    over = [row for row in rows if row[0] in only and len(row) == 6]
    assert len(over) == 2

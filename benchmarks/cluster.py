"""A simulation of batch jobs on many nodes, event by event: what `batch_scale.py` feeds and prints.

Each node is a machine that runs `tessera batch` or a worker of an engine. Time is in seconds and
goes on only where something happens:

1. A node fetches the model from a server that all nodes share, and opens it.
2. It takes a file: the next of its own share (`tessera batch` on fixed shares), or the next of all
   from a driver that hands out one after the other (`queue`, as Ray, Spark and Daft do).
3. It encodes the file's blocks. Their times vary; a slow node takes `slow_factor` times as long.
4. It uploads the output, and goes to 2.

A node restarts at random times (exponential, mean `mtbf`). It loses the block that it was in, or
the whole file where there are no parts, and opens the model again. Nodes are independent except
for the driver and the model's server, so the events are those of a node that is free again; what
happens inside a file is computed when the file is taken.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Costs:
    """What was measured on one CPU."""

    block: float  # seconds of a block, with reading it and writing its part and its Parquet
    spread: float = 0.0  # standard deviation of that, of its mean
    open: float = 0.0  # seconds of a process with next to no rows
    file: float = 0.0  # seconds of a file beside its blocks: listing, manifest, footer
    rows: int = 4096  # of a block
    bytes_out: float = 0.0  # of a row


@dataclass(frozen=True)
class Cluster:
    """What is assumed; rates are bytes a second."""

    nodes: int
    cores: int = 1  # of a node; a block takes 1/cores of the time on one
    queue: bool = False  # a driver hands out files; else each node has its share of them
    dispatch: float = 0.0  # seconds of the driver for a file
    slow_share: float = 0.0  # of the nodes
    slow_factor: float = 2.0
    mtbf: float = math.inf  # seconds between two restarts of a node
    restart: float = 120.0  # seconds until it is back
    parts: bool = True  # whether finished blocks survive a restart
    net: float = math.inf  # of a node
    store: float = math.inf  # of the object store, for all nodes together
    server: float = math.inf  # that the model comes from
    model: float = 0.0  # bytes


@dataclass(frozen=True)
class Outcome:
    """Seconds until the last node ends, and where the time of all nodes went, as shares of it."""

    seconds: float
    encoding: float
    starting: float
    restarting: float  # lost work included
    waiting: float  # for the driver
    idle: float  # after a node's last file
    restarts: int


def simulate(
    blocks: Sequence[int],
    costs: Costs,
    cluster: Cluster,
    seed: int = 0,
    *,
    slow: Mapping[int, float] | None = None,
    failures: Mapping[int, Sequence[float]] | None = None,
) -> Outcome:
    """Encode files of some numbers of blocks.

    `slow` (node: factor) and `failures` (node: times) replace what is drawn at random.
    """
    rng = np.random.default_rng(seed)
    n = cluster.nodes
    if slow is None:
        chosen = rng.choice(n, round(cluster.slow_share * n), replace=False)
        slow = dict.fromkeys(chosen.tolist(), cluster.slow_factor)

    def next_failure(node: int, now: float) -> float:
        if failures is not None:
            return min((time for time in failures.get(node, ()) if time >= now), default=math.inf)
        return now + rng.exponential(cluster.mtbf) if cluster.mtbf < math.inf else math.inf

    begin = cluster.model / min(cluster.net, cluster.server / n) + costs.open
    reopen = cluster.restart + cluster.model / min(cluster.net, cluster.server) + costs.open
    upload = costs.rows * costs.bytes_out / min(cluster.net, cluster.store / n)  # of a block
    fails = [next_failure(node, 0.0) for node in range(n)]
    free = [(begin, node) for node in range(n)]  # a heap: when each node takes its next file
    own = [list(range(node, len(blocks), n))[::-1] for node in range(n)]
    ends = np.zeros(n)
    driver = lost = waited = 0.0
    taken = restarts = 0
    while free:
        now, node = heapq.heappop(free)
        ends[node] = now
        if cluster.queue:
            if taken == len(blocks):
                continue
            file, taken = taken, taken + 1
            driver = max(driver, now) + cluster.dispatch
            waited += driver - now
            now = driver
        elif own[node]:
            file = own[node].pop()
        else:
            continue
        count = blocks[file]
        block = costs.block / cluster.cores * slow.get(node, 1.0)
        noise = 1 + costs.spread * rng.standard_normal() / math.sqrt(count) if costs.spread else 1.0
        left = count * (block * max(noise, 0.1) + upload) + costs.file
        while fails[node] < now + left:
            done = max(0.0, fails[node] - now)
            again = done % block if cluster.parts else done
            left += again - done
            back = max(now, fails[node]) + reopen
            fails[node] = next_failure(node, back)
            lost += again + reopen
            restarts += 1
            now = back
        heapq.heappush(free, (now + left, node))
    end = float(ends.max())
    total = end * n or 1.0
    idle = float((end - ends).sum())
    rest = total - idle - n * begin - lost - waited
    shares = (rest / total, n * begin / total, lost / total, waited / total, idle / total)
    return Outcome(end, *shares, restarts)


def files_of(rows: float, rows_per_file: float, costs: Costs) -> list[int]:
    """Blocks of each file, all of the same number of rows but the last."""
    per_file = max(1, round(rows_per_file / costs.rows))
    total = max(1, math.ceil(rows / costs.rows))
    full, rest = divmod(total, per_file)
    return [per_file] * full + [rest] * bool(rest)

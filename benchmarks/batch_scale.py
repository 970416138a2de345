"""Time and cost of a batch job on 10 to 1,000 nodes: a simulation that is fed by measurements.

    python benchmarks/batch_scale.py [--model ID] [--blocks N] [--block-rows N] [--check]

Measured here, on one CPU: the time of a block and its spread, of a process with one row, of a file
beside its blocks, and the bytes that are written. `cluster.py` holds the simulation, and the
options below what is assumed of the cluster. Texts have lengths of a lognormal distribution, 33
words in the mean.

--check runs real jobs: `tessera batch` over some files on one CPU, then as two processes at the
same time, on half of the files and one CPU each (two nodes with fixed shares). It prints what the
simulation says of them beside what they took, in seconds of time and of processor time. The
latter does not count other programs on a busy machine: `--clock cpu` feeds it to the simulation.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cluster import Cluster, Costs, Outcome, files_of, simulate

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "near", "river", "bank")
ROWS, NODES = (1e8, 1e10), (10, 100, 1000)
PER_FILE = 1 << 20  # rows of an input file
CHECKED = (4, 2, 6, 3, 5, 4)  # blocks of the files of --check
PER_ID = 24  # bytes of an id of 16 characters in Arrow, with its offset


def write(path: Path, n: int, seed: int) -> None:
    """A file of n rows."""
    rng = np.random.default_rng(seed)
    sizes = np.clip(rng.lognormal(np.log(25), 0.75, n).astype(int), 3, 180)
    texts = [" ".join(WORDS[(i * 7 + j) % 11] for j in range(size)) for i, size in enumerate(sizes)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": np.arange(n), "text": texts}), path)


@dataclass
class Took:
    """Seconds of a process."""

    wall: float
    cpu: float


def command(options: argparse.Namespace, inputs: Sequence[Path], output: Path) -> list[str]:
    code = "from tessera_onnx.cli.main import main; main()"
    arguments = ["batch", *map(str, inputs), "--output", str(output), "--no-progress"]
    arguments += ["--model", options.model, "--block-rows", str(options.block_rows)]
    return [sys.executable, "-c", code, *arguments]


def run(commands: Sequence[Sequence[str]]) -> tuple[float, list[Took]]:
    """Run processes at the same time, each on a CPU of its own: seconds until all have ended."""
    free = sorted(os.sched_getaffinity(0))
    start = time.perf_counter()
    running = []
    for number, each in enumerate(commands):
        only = free[number % len(free)]
        running.append(
            subprocess.Popen(
                each,
                stdout=subprocess.DEVNULL,
                preexec_fn=lambda only=only: os.sched_setaffinity(0, {only}),  # noqa: PLW1509
            )
        )
    took = []
    for process in running:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"a job ended with {process.returncode}")
        took.append(Took(time.perf_counter() - start, usage.ru_utime + usage.ru_stime))
    return time.perf_counter() - start, took


def blocks_of_a_job(options: argparse.Namespace, folder: Path) -> None:
    """In a child on one CPU: print the seconds of each block of a job."""
    from tessera_onnx.batch.encoder import Encoder
    from tessera_onnx.batch.job import Job

    encoder = Encoder(options.model, "text")
    encoder.opened()
    walls, cpus = [time.perf_counter()], [time.process_time()]

    def tell(_: Any) -> None:
        walls.append(time.perf_counter())
        cpus.append(time.process_time())

    source, target = folder / "many.parquet", folder / "measured"
    Job([str(source)], str(target), encoder, block_rows=options.block_rows).run(tell)
    # The last time is that of the file's end. The first block of a session is slower.
    found = {"wall": np.diff(walls)[1:-1].tolist(), "cpu": np.diff(cpus)[1:-1].tolist()}
    print(json.dumps(found))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Costs]:
    """The costs by each of the two clocks."""
    rows, n_files = options.block_rows, 12
    write(folder / "many.parquet", rows * (options.blocks + 1), 0)
    for i in range(n_files):
        write(folder / "small" / f"{i}.parquet", 1, i)
    small = sorted((folder / "small").iterdir())
    _, (one,) = run([command(options, small[:1], folder / "one")])
    _, (several,) = run([command(options, small, folder / "several")])
    only = min(os.sched_getaffinity(0))
    child = [sys.executable, __file__, *sys.argv[1:], "--child", str(folder)]
    done = subprocess.run(
        child, capture_output=True, check=True, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {only}),
    )  # fmt: skip
    times = json.loads(done.stdout)
    size = (folder / "measured" / "many.parquet").stat().st_size
    found = {}
    for clock in ("wall", "cpu"):
        first, all_files = getattr(one, clock), getattr(several, clock)
        block = statistics.fmean(times[clock])
        spread = statistics.stdev(times[clock]) / block
        per_file = max(0.0, (all_files - first) / (n_files - 1))
        bytes_out = size / (rows * (options.blocks + 1))
        found[clock] = Costs(block, spread, first - per_file, per_file, rows, bytes_out)
    return found


def check(options: argparse.Namespace, folder: Path, costs: dict[str, Costs]) -> None:
    """Real jobs of one and two nodes beside the simulation."""
    files = []
    for i, blocks in enumerate(CHECKED):
        files.append(folder / "checked" / f"{i}.parquet")
        write(files[-1], blocks * options.block_rows, 100 + i)
    print("\nnodes   simulated   measured      simulated   measured (processor time)")
    for n in (1, 2):
        shares = [files[node::n] for node in range(n)]  # as the simulation deals them out
        jobs = [
            command(options, share, folder / f"{n}.{node}") for node, share in enumerate(shares)
        ]
        wall, took = run(jobs)
        said = {
            clock: simulate(CHECKED, replace(each, spread=0), Cluster(n)).seconds
            for clock, each in costs.items()
        }
        cpu = max(each.cpu for each in took)
        print(
            f"{n} node{'s' * (n > 1)} {said['wall']:10.1f} s {wall:8.1f} s"
            f" {said['cpu']:13.1f} s {cpu:8.1f} s"
        )


def resized(costs: Costs, rows: int = 4096) -> Costs:
    """The costs with blocks of another size, whose parts take times independent of each other."""
    times = rows / costs.rows
    return replace(
        costs, block=costs.block * times, spread=costs.spread / np.sqrt(times), rows=rows
    )


def scale(options: argparse.Namespace, costs: Costs) -> None:
    """The tables."""
    costs = resized(costs)
    cluster = Cluster(
        1, cores=options.cores, slow_share=options.slow_share, slow_factor=options.slow_factor,
        mtbf=3600 * options.mtbf, restart=options.restart, net=options.net * 1e9 / 8,
        store=options.store * 1e9 / 8, server=options.server * 1e9 / 8, model=options.size * 1e6,
    )  # fmt: skip

    def run_on(nodes: int, rows: float, per_file: float = PER_FILE, **change: Any) -> Outcome:
        block_rows = change.pop("block_rows", costs.rows)
        used = resized(costs, block_rows)
        made = replace(cluster, nodes=nodes, **change)
        return simulate(files_of(rows, per_file, used), used, made)

    def line(*cells: Any) -> None:
        print("|", " | ".join(str(cell) for cell in cells), "|")

    print(f"\nFiles of {PER_FILE:,} rows, a queue with {options.dispatch * 1e3:.0f} ms a file")
    line("rows", "nodes", "hours, shares", "hours, queue", "cost", "efficiency", "starting",
         "restarts", "idle")  # fmt: skip
    queue = {"queue": True, "dispatch": options.dispatch}
    for rows in ROWS:
        for nodes in NODES:
            fixed, found = run_on(nodes, rows), run_on(nodes, rows, **queue)
            cost = nodes * found.seconds / 3600 * options.price
            shares = (found.encoding, found.starting, found.restarting, found.idle)
            hours = (f"{each.seconds / 3600:.3g}" for each in (fixed, found))
            line(f"{rows:,.0f}", nodes, *hours, f"${cost:,.0f}", *(f"{s:.1%}" for s in shares))

    print("\nWhere more nodes stop helping: hours by rows of a file (queue)")
    sizes = (1 << 16, 1 << 18, 1 << 20, 1 << 22)
    line("rows", "nodes", *(f"{size:,}" for size in sizes))
    for rows, many in ((1e8, (100, 300, 1000, 3000)), (1e10, (1000, 3000, 10000))):
        for nodes in many:
            hours = [run_on(nodes, rows, size, **queue).seconds / 3600 for size in sizes]
            line(f"{rows:,.0f}", nodes, *(f"{each:.3g}" for each in hours))

    print("\nWhat restarts cost on 1,000 nodes, 10 billion rows, one in 4 hours (queue)")
    line("rows of a block", "seconds of a block", "restarts", "lost time")
    for block_rows in (512, 4096, 32768, PER_FILE):
        found = run_on(1000, 1e10, block_rows=block_rows, mtbf=3600 * 4.0, **queue)
        seconds = resized(costs, block_rows).block / options.cores
        what = " (the whole file: no parts)" * (block_rows == PER_FILE)
        line(f"{block_rows:,}{what}", f"{seconds:.2f}", found.restarts, f"{found.restarting:.1%}")

    speed = options.cores * costs.rows / costs.block
    print("\nWhat one driver feeds and holds")
    line("handed out", "nodes that it feeds")
    for rows in (costs.rows, PER_FILE):
        line(f"{rows:,} rows in {options.dispatch * 1e3:.0f} ms",
             f"{rows / options.dispatch / speed:,.0f}")  # fmt: skip
    for rows in ROWS:
        held = f"{rows * PER_ID / 1e9:,.1f} GB of ids of finished rows"
        mine = f"{rows / PER_FILE * 300 / 1e6:,.1f} MB of records of files"
        print(f"{rows:,.0f} rows: {held} (a checkpoint by ids), or {mine} (tessera batch)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="all-minilm-l6-v2")
    parser.add_argument("--blocks", type=int, default=8, help="that are measured")
    parser.add_argument("--block-rows", type=int, default=256, help="of the measured blocks")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--check", action="store_true")
    for name, value, what in (
        ("cores", 16, "of a node; a node is taken to be that many times as fast as one CPU"),
        ("price", 0.7, "dollars of a node-hour"),
        ("slow-share", 0.05, "of the nodes"),
        ("slow-factor", 2.0, "how many times as long a slow node takes"),
        ("mtbf", 24.0, "hours between restarts of a node, as of spot machines"),
        ("restart", 120.0, "seconds until a node is back"),
        ("net", 10.0, "Gbit/s of a node"),
        ("store", 400.0, "Gbit/s of the object store, for all nodes"),
        ("server", 10.0, "Gbit/s of the server that the model comes from"),
        ("size", 25.0, "MB of the model"),
        ("dispatch", 0.005, "seconds of a driver for a task that it hands out"),
    ):
        parser.add_argument(f"--{name}", type=float, default=value, help=f"{what} ({value})")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        blocks_of_a_job(options, Path(options.child))
        return
    from tessera_onnx.runtime.cpu import physical_summary

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        costs = measure(options, folder)
        load = os.getloadavg()[0]
        print(f"{options.model} on one CPU of {physical_summary()}, load {load:.1f}")
        for clock, each in costs.items():
            print(
                f"{clock:5} block of {each.rows} rows {each.block:.3f} s, spread {each.spread:.2f},"
                f" open {each.open:.2f} s, a file {each.file * 1e3:.0f} ms,"
                f" {each.bytes_out:.0f} bytes a row, {each.rows / each.block:.0f} rows/s"
            )
        if options.check:
            check(options, folder, costs)
        scale(options, costs[options.clock])


if __name__ == "__main__":
    main()

"""Where a dense graph's time goes: each operator's share, by ONNX Runtime's own profiler.

    python benchmarks/operators.py [--model ARTIFACT] [--precision int8] [--shape 8 64] [--runs 30]

One thread, a batch of random ids without padding, medians over the runs. Beside the table stands
the rate of ONNX Runtime's own 2048 x 2048 fp32 product on one thread in the same process, the
limit of an fp32 graph. ARTIFACT is a model folder; without it the starter's default model is read.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import maxsim
import numpy as np

from tessera_onnx import TesseraDense
from tessera_onnx.runtime.cpu import physical_summary
from tessera_onnx.runtime.devices import onnxruntime
from tessera_onnx.runtime.graph import open_graph


def profile(graph: bytes, feeds: dict[str, np.ndarray], runs: int) -> tuple[float, dict]:
    """Microseconds of a whole run, and of each operator in it."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_mem_pattern = False
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="tessera-operators-") as folder:
        options.profile_file_prefix = str(Path(folder, "run"))
        session = ort.InferenceSession(
            graph,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["SkipLayerNormFusion"],
        )
        for _ in range(runs):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    nodes: dict[tuple[str, str], list[int]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes[event["args"]["op_name"], event["name"]].append(event["dur"])
    operators: dict[str, float] = defaultdict(float)
    for (operator, _), took in nodes.items():
        operators[operator] += statistics.median(took)
    whole = [event["dur"] for event in events if event["name"] == "model_run"]
    return statistics.median(whole), operators


def peak() -> float:
    """GFLOP/s of the large product on one thread."""
    session = open_graph("product", maxsim.PRODUCT, "cpu", 1)
    square = np.random.default_rng(1).standard_normal((maxsim.PEAK, maxsim.PEAK), dtype=np.float32)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        session.run(None, {"a": square, "b": square})
        seconds.append(time.perf_counter() - start)
    return 2 * maxsim.PEAK**3 / min(seconds) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--shape", type=int, nargs=2, default=(8, 64), help="texts and tokens")
    parser.add_argument("--runs", type=int, default=30)
    options = parser.parse_args()
    with TesseraDense(path=options.model, precision=options.precision) as model:
        graph = model._session._read()  # noqa: SLF001
        names = model._session.inputs  # noqa: SLF001
    ids = np.random.default_rng(0).integers(1000, 20_000, options.shape)
    feeds = {name: np.ones_like(ids) for name in names} | {"input_ids": ids}
    whole, operators = profile(graph, feeds, options.runs)
    n, length = options.shape
    print(f"{model.model()} {options.precision}, {n} texts of {length} tokens, one thread")
    print(f"{physical_summary()}; fp32 product {peak():.0f} GFLOP/s")
    print(f"{whole / 1000:.1f} ms a run")
    for operator, took in sorted(operators.items(), key=lambda row: -row[1]):
        print(f"{operator:24} {took / 1000:8.2f} ms {took / whole:6.1%}")


if __name__ == "__main__":
    main()

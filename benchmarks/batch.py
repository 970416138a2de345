"""Batch jobs: peak memory, speed beside encode_iter, and rows a second against other engines.

    python benchmarks/batch.py [--rows N] [--model ID ... | --path FOLDER] [--kind KIND]
        [--rounds N] [--no-peak]
    python benchmarks/batch.py --artifact ARTIFACT --weights FOLDER [--engine NAME ...]

The first form measures the peak of a job alone, in a process of its own, and with --rounds the
speed of `Job` beside `encode_iter` on the same texts, in turns, in seconds and in processor time.

The second form lets engines embed the same Parquet file, from Parquet to Parquet, with the same
weights, in the way that their documentation shows: each in a fresh process, opening of the model
included, in turns. ARTIFACT and FOLDER are those of peers.py. Vectors are compared first. An
engine whose packages are missing is left out: run this with a Python that has
sentence-transformers, datasets, fastembed and ray. Memory is that of the largest process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "near", "river", "bank")


def make(n: int) -> list[str]:
    return [" ".join(WORDS[(i * 7 + j) % 11] for j in range(3 + i * 13 % 60)) for i in range(n)]


def write(path: Path, texts: list[str]) -> None:
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), path)


# ---------------------------------------------------------------- a job and encode_iter


def opened(options: argparse.Namespace, model: str) -> Any:
    from tessera_onnx.batch.encoder import Encoder

    place = {"path": options.path} if options.path else {}
    kinds = [options.kind] if options.kind else []
    encoder = Encoder(None if place else model, "text", kinds=kinds, **place)
    encoder.opened()
    return encoder


def peak() -> float:
    """The most memory of this process in MB; not getrusage, which counts that before exec, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def alone(options: argparse.Namespace, folder: Path) -> None:
    """In a child: the peak of a job."""
    from tessera_onnx.batch.job import Job

    encoder = opened(options, options.model[0])
    before, start = peak(), time.perf_counter()
    Job([str(folder / "a.parquet")], str(folder / f"alone {options.model[0]}"), encoder).run()
    seconds = time.perf_counter() - start
    print(
        f"{options.path or options.model[0]}: {options.rows} rows  {peak():.0f} MB peak, "
        f"{before:.0f} before the job  {options.rows / seconds:.0f} rows/s"
    )


def compared(options: argparse.Namespace, model: str, folder: Path, texts: list[str]) -> None:
    """Rounds of encode_iter and of a job, every other one backwards."""
    from tessera_onnx import Tessera
    from tessera_onnx.batch.job import Job

    place = {"path": options.path} if options.path else {}
    name = None if place else model
    encoder = opened(options, model)
    with Tessera(name, kind=options.kind, on_long="truncate", **place) as plain:

        def stream(_: int) -> None:
            for _ in plain.encode_iter(texts, role="document"):
                pass

        def job(number: int) -> None:
            Job([str(folder / "a.parquet")], str(folder / f"{model}{number}"), encoder).run()

        times: dict[Any, list[tuple[float, float]]] = {stream: [], job: []}
        for number in range(options.rounds):
            for call in (stream, job) if number % 2 == 0 else (job, stream):
                start, used = time.perf_counter(), time.process_time()
                call(number)
                taken = time.perf_counter() - start, time.process_time() - used
                times[call].append(taken)
    encoder.close()
    parts = [
        f"encode_iter {len(texts) / statistics.median(t for t, _ in times[stream]):,.0f} texts/s"
    ]
    for i, what in enumerate(("of its speed", "of processor time")):
        found = [a[i] / b[i] for a, b in zip(times[stream], times[job], strict=True)]
        middle = statistics.median(found)
        parts.append(f"{middle:.2f} ({min(found):.2f} to {max(found):.2f}) {what}")
    print(f"{options.path or model}: {parts[0]}, batch {parts[1]}, {parts[2]}", flush=True)


# ---------------------------------------------------------------- engines


def tessera(precision: str) -> Callable[[argparse.Namespace, Path, Path], None]:
    def run(options: argparse.Namespace, source: Path, target: Path) -> None:
        from tessera_onnx.batch.encoder import Encoder
        from tessera_onnx.batch.job import Job

        encoder = Encoder(None, "text", path=options.artifact, precision=precision, max_length=512)
        Job([str(source)], str(target), encoder).run()

    return run


def datasets_map(options: argparse.Namespace, source: Path, target: Path) -> None:
    """`datasets.map` over batches of 1,000 rows, which SentenceTransformer sorts by length."""
    from datasets import load_dataset
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(options.weights), device="cpu")
    model.max_seq_length = 512
    rows = load_dataset(
        "parquet", data_files=str(source), split="train", cache_dir=str(target / "cache")
    )
    rows = rows.map(lambda batch: {"embedding": model.encode(batch["text"])}, batched=True)
    rows.to_parquet(str(target / "a.parquet"))


def fastembed_parallel(options: argparse.Namespace, source: Path, target: Path) -> None:
    """`parallel=2`: two processes, which open the model each."""
    import loaders
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    work = target / "work"
    loaders.prepare(work, options.artifact, options.weights)
    TextEmbedding.add_custom_model(
        model=loaders.REPOSITORY,
        pooling=PoolingType.DISABLED,  # the graph pools and normalises
        normalization=False,
        sources=ModelSource(hf=loaders.REPOSITORY),
        dim=384,
        model_file="model.onnx",
    )
    model = TextEmbedding(loaders.REPOSITORY, specific_model_path=str(work / "fp32"), threads=1)
    table = pq.read_table(source)
    vectors = list(model.embed(table["text"].to_pylist(), parallel=2))
    pq.write_table(table.append_column("embedding", pa.array(vectors)), target / "a.parquet")


def ray_data(options: argparse.Namespace, source: Path, target: Path) -> None:
    """Ray Data with an actor a CPU, as in its guide to batch inference."""
    import ray

    weights = str(options.weights)

    class Embed:
        def __init__(self) -> None:
            from sentence_transformers import SentenceTransformer

            self.model = SentenceTransformer(weights, device="cpu")
            self.model.max_seq_length = 512

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            batch["embedding"] = self.model.encode(list(batch["text"]))
            return batch

    n = len(os.sched_getaffinity(0))
    # One more, to read: actors on all CPUs would wait for it for ever.
    ray.init("local", num_cpus=n + 1, include_dashboard=False, log_to_driver=False)
    rows = ray.data.read_parquet(str(source)).repartition(8)
    pool = ray.data.ActorPoolStrategy(size=n)
    rows.map_batches(Embed, batch_size=256, compute=pool).write_parquet(str(target / "out"))
    ray.shutdown()


ENGINES: dict[str, Callable[[argparse.Namespace, Path, Path], None]] = {
    "tessera batch fp32": tessera("fp32"),
    "tessera batch int8": tessera("int8"),
    "sentence-transformers, datasets.map": datasets_map,
    "fastembed, parallel=2": fastembed_parallel,
    "sentence-transformers, Ray Data": ray_data,
}


def vectors(folder: Path) -> np.ndarray:
    """The vectors of an engine's output in the order of ids."""
    paths = [p for p in folder.rglob("*.parquet") if not {"_tessera", "cache"} & set(p.parts)]
    tables = [pq.read_table(path, columns=["id", "embedding"]) for path in paths]
    rows = pa.concat_tables([t.cast(_PLAIN) for t in tables]).sort_by("id")
    return np.array(rows["embedding"].to_pylist(), np.float32)


_PLAIN = pa.schema([("id", pa.int64()), ("embedding", pa.list_(pa.float32()))])


def engines(options: argparse.Namespace, folder: Path) -> None:
    import peers

    texts, _ = peers.docstrings(options.artifact / "tokenizer.json", options.rows)
    write(folder / "a.parquet", texts)
    names = options.engine or list(ENGINES)
    took: dict[str, list[tuple[float, float, float]]] = {}
    exact: np.ndarray | None = None
    for number in range(max(1, options.rounds)):
        for name in names if number % 2 == 0 else names[::-1]:
            if number and name not in took:
                continue
            target = folder / f"{names.index(name)}.{number}"
            target.mkdir()
            command = [sys.executable, __file__, *sys.argv[1:], "--child", str(folder)]
            with tempfile.TemporaryFile() as said:
                start = time.perf_counter()
                child = subprocess.Popen(
                    [*command, "--run", name, "--target", str(target)], stdout=said, stderr=said
                )
                _, status, usage = os.wait4(child.pid, 0)
                seconds = time.perf_counter() - start
                child.returncode = os.waitstatus_to_exitcode(status)
                if child.returncode:
                    said.seek(0)
                    last = said.read().decode().strip().splitlines()[-1:]
                    print(f"left out: {name}: {last}", flush=True)
                    took.pop(name, None)
                    continue
            cpu = usage.ru_utime + usage.ru_stime
            took.setdefault(name, []).append((seconds, cpu, usage.ru_maxrss / 1024))
            if number == 0:
                found = vectors(target)
                exact = found if exact is None else exact
                least = (found * exact).sum(1) / np.linalg.norm(found, axis=1)
                print(f"ready: {name}, least cosine {least.min():.4f}", flush=True)
    print(f"{len(texts)} rows; load {os.getloadavg()[0]:.1f}")
    ours = took[names[0]]
    for name, rounds in took.items():
        ratio = statistics.median(b[0] / a[0] for a, b in zip(ours, rounds, strict=True))
        seconds, cpu, memory = (statistics.median(each) for each in zip(*rounds, strict=True))
        print(
            f"{name:38} {len(texts) / seconds:8.1f} rows/s {ratio:6.2f}x the time of {names[0]} "
            f"{1000 * cpu / len(texts):8.2f} ms of processor a row {memory:8.0f} MB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--model", nargs="+", default=["all-minilm-l6-v2"])
    parser.add_argument("--path", help="a model's folder, in the place of --model")
    parser.add_argument("--kind")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--no-peak", action="store_true", help="compare speeds only")
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--engine", nargs="+", choices=ENGINES)
    for name in ("--child", "--run", "--target"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        folder = Path(options.child)
        ENGINES[options.run](options, folder / "a.parquet", Path(options.target))
        return
    if options.child:
        alone(options, Path(options.child))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.artifact:
            engines(options, folder)
            return
        texts = make(options.rows)
        write(folder / "a.parquet", texts)
        for model in options.model:
            if not options.no_peak:
                command = [sys.executable, __file__, "--child", name, "--model", model]
                command += ["--rows", str(options.rows)]
                command += ["--path", options.path] if options.path else []
                command += ["--kind", options.kind] if options.kind else []
                subprocess.run(command, check=True)
            if options.rounds:
                compared(options, model, folder, texts)


if __name__ == "__main__":
    main()

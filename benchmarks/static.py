"""Texts a second of a static model against model2vec on the same folder, in one run.

    python benchmarks/static.py [--model FOLDER] [--texts 20000] [--rounds 5]

FOLDER is one that model2vec saved. Without it one of potion-base-8M's shape is made: a random table
of 256 numbers for each word of the starter's tokenizer. Texts are docstrings of the standard
library and of NumPy. Vectors are compared first. Then both take turns in one process, every other
round backwards; model2vec runs at its defaults and with its own threads (`use_multiprocessing`)
for any number of texts. Ratios are those of a round: median, least and most; the second is that of
processor time, on which other programs have less influence. Latency is the median of single calls.
Needs model2vec and tessera-onnx-starter.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peers

from tessera_onnx import TesseraDense, TruncationWarning
from tessera_onnx.runtime.cpu import cpu_threads, physical_summary


def make(folder: Path) -> None:
    """Save a random model of 30,522 rows of 256 numbers by model2vec."""
    from model2vec import StaticModel
    from tokenizers import Tokenizer

    spec = importlib.util.find_spec("tessera_onnx_starter")
    if spec is None or spec.origin is None:
        raise SystemExit("install tessera-onnx-starter, whose tokenizer is used, or give --model")
    tokenizer = Tokenizer.from_file(str(Path(spec.origin).parent / "minilm" / "tokenizer.json"))
    tokenizer.no_padding()
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    rows = np.random.default_rng(0).standard_normal((size, 256), dtype=np.float32)
    StaticModel(rows, tokenizer, normalize=True).save_pretrained(folder)


def timed(encode: Callable[[Any], Any], texts: Any) -> tuple[float, float]:
    """Seconds, and seconds of processor time."""
    start, used = time.perf_counter(), time.process_time()
    encode(texts)
    taken = time.perf_counter() - start, time.process_time() - used
    os.environ.pop("TOKENIZERS_PARALLELISM", None)  # model2vec sets it, for the whole process
    return taken


def measure(folder: Path, n_texts: int, rounds: int) -> None:
    from model2vec import StaticModel

    theirs = StaticModel.from_pretrained(folder)
    ours = TesseraDense(path=folder, on_long="truncate")
    some, _ = peers.docstrings(folder / "tokenizer.json", n_texts)
    texts = [some[i % len(some)] for i in range(n_texts)]
    gap = np.abs(ours.encode_batch(some) - theirs.encode(some)).max()
    print(f"{physical_summary()}, {cpu_threads()} threads")
    print(f"{len(texts):,} texts, largest difference of a number: {gap:.1e}")
    calls: dict[str, Callable[[list[str]], Any]] = {
        "tessera-onnx": ours.encode_batch,
        "model2vec": theirs.encode,
        "model2vec, threads": lambda t: theirs.encode(t, multiprocessing_threshold=0),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for number in range(rounds):
        order = list(calls) if number % 2 == 0 else list(calls)[::-1]
        for name in order:
            times[name].append(timed(calls[name], texts))
    singles: dict[str, Callable[[str], Any]] = {
        "tessera-onnx": ours.encode,
        "model2vec": theirs.encode,
    }
    for name, found in times.items():
        rate = len(texts) / statistics.median(taken for taken, _ in found)
        line = f"{name:20} {rate:10,.0f} texts/s"
        if name != "tessera-onnx":
            for i, what in enumerate(("", " of processor time")):
                ratios = [a[i] / b[i] for a, b in zip(found, times["tessera-onnx"], strict=True)]
                least, most = min(ratios), max(ratios)
                line += f"   {statistics.median(ratios):.2f}x ({least:.2f} to {most:.2f}){what}"
        if name in singles:
            single = [timed(singles[name], text)[0] for text in texts[:500]]
            line += f"   {statistics.median(single) * 1e6:.0f} us a text"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    warnings.simplefilter("ignore", TruncationWarning)
    with tempfile.TemporaryDirectory() as folder:
        if given.model is None:
            make(Path(folder))
        measure(given.model or Path(folder), given.texts, given.rounds)


if __name__ == "__main__":
    main()

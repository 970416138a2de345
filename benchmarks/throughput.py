"""Texts a second of encode_batch against plain loops over the same graph, in one run.

    python benchmarks/throughput.py [--model ID_OR_FOLDER] [--precision P] [--texts N] [--rounds N]

The loops are what a user writes first: ONNX Runtime with its default threads, batches of 32 padded
to their longest, in arrival order and sorted by length. All take turns; the table gives each one's
median and best, and the ratio of encode_batch to it round by round. Texts are docstrings of the
standard library, 10 to 400 tokens. Vectors are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import sysconfig
import time
from pathlib import Path

import numpy as np

from tessera_onnx import TesseraDense
from tessera_onnx.runtime import batching, devices
from tessera_onnx.runtime.cpu import cpu_threads, physical_summary


def docstrings(model: TesseraDense, n: int) -> list[str]:
    found = {}
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
            owner = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            text = ast.get_docstring(node) if isinstance(node, owner) else None
            if text:
                found[" ".join(text.split())] = None
    texts = list(found)
    counts = model.token_count(texts)
    texts = [t for t, count in zip(texts, counts, strict=True) if 10 <= count <= 400]
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[i] for i in order[:n]]


class PlainLoop:
    """ONNX Runtime, batches of 32, the same ids as encode_batch."""

    def __init__(self, model: TesseraDense, *, in_order: bool) -> None:
        artifact = model._artifact  # noqa: SLF001
        name = getattr(artifact.spec.graph, model.precision)
        ort = devices.onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = cpu_threads()
        self.session = ort.InferenceSession(
            artifact.read(name), options, providers=["CPUExecutionProvider"]
        )
        self.model = model
        self.in_order = in_order

    def __call__(self, texts: list[str]) -> np.ndarray:
        encoder = self.model._encoder  # noqa: SLF001
        found, _ = encoder.tokenizer.rows(texts, self.model._document)  # noqa: SLF001
        rows = [row[0] for row in found]
        order = range(len(rows))
        if self.in_order:
            order = sorted(order, key=lambda i: len(rows[i]))
        out = np.empty((len(rows), self.model.dimension()), np.float32)
        for start in range(0, len(rows), 32):
            picked = list(order[start : start + 32])
            ids = batching.pad([rows[i] for i in picked], 0)
            mask = (np.arange(ids.shape[1]) < np.array([[len(rows[i])] for i in picked])) * 1
            feeds = {"input_ids": ids, "attention_mask": mask}
            out[picked] = self.session.run(["sentence_embedding"], feeds)[0]
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="all-minilm-l6-v2")
    parser.add_argument("--precision")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    where = {"path" if Path(options.model).is_dir() else "model_id": options.model}
    with TesseraDense(
        **where, precision=options.precision, max_length=512, on_long="error"
    ) as model:
        texts = docstrings(model, options.texts)
        runners = {
            "encode_batch": model.encode_batch,
            "plain loop, batches of 32": PlainLoop(model, in_order=False),
            "the same, sorted by length": PlainLoop(model, in_order=True),
        }
        results = {name: runner(texts) for name, runner in runners.items()}
        least = {
            name: float((found * results["encode_batch"]).sum(axis=1).min())
            for name, found in results.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in runners}
        for _ in range(options.rounds):
            for name, runner in runners.items():
                start = time.perf_counter()
                runner(texts)
                seconds[name].append(time.perf_counter() - start)
        print(f"{model.model()} {model.precision}, {len(texts)} texts, {cpu_threads()} threads")
        print(physical_summary())
    print(f"{'':28} {'texts/s median':>15} {'best':>6} {'encode_batch is':>16} {'cosine':>8}")
    for name, values in seconds.items():
        ratios = [b / a for a, b in zip(seconds["encode_batch"], values, strict=True)]
        print(
            f"{name:28} {len(texts) / statistics.median(values):15.0f} "
            f"{len(texts) / min(values):6.0f} {statistics.median(ratios):15.2f}x {least[name]:8.4f}"
        )


if __name__ == "__main__":
    main()

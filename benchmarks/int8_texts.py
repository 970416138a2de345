"""How near int8 is to fp32 on texts of every sort, and how much faster: one table, a row a sort.

    python benchmarks/int8_texts.py --model ARTIFACT [--model ARTIFACT ...] [--texts 256]

Each ARTIFACT holds both precisions: `tessera-export starter --precision fp32,int8 --output DIR`
makes DIR/minilm and DIR/splade. A cell is the mean and the least cosine of the text's vector; of a
multi-vector model it is the mean over the text's tokens. The texts are those that the exporter's
gate judges (export/tessera_export/texts/sample_groups.py), and none of them was used for
calibration. The speed is `encode_batch` of made-up texts of 8 to 120 words in turns, fp32 = 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from tessera_onnx import TesseraDense, TesseraMultiVector, TesseraSparse
from tessera_onnx.models import artifact
from tessera_onnx.runtime.cpu import physical_summary

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))  # sample_groups needs no torch
from tessera_export.texts import sample_groups

CLASSES = {"dense": TesseraDense, "multi-vector": TesseraMultiVector, "sparse": TesseraSparse}
WORDS = (
    "river",
    "bank",
    "city",
    "rose",
    "when",
    "rain",
    "fell",
    "people",
    "moved",
    "higher",
    "ground",
)


def cosines(ours: Any, truth: Any) -> np.ndarray:
    """The cosine of each row, 1 where both are zero."""
    a, b = (np.atleast_2d(np.asarray(each, np.float64)) for each in (ours, truth))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    zero = ~a.any(axis=1) & ~b.any(axis=1)
    return np.where(zero, 1.0, (a * b).sum(axis=1) / np.maximum(norms, 1e-30))


def rows(kind: str, results: Any, size: int) -> list[np.ndarray]:
    """One array a text."""
    if kind != "sparse":
        return list(results)
    full = np.zeros((len(results), size))
    for row, (indices, values) in enumerate(results):
        full[row, indices] = values
    return list(full)


def measured(
    kind: str, folder: Path, count: int, rounds: int
) -> tuple[dict[str, list[float]], float]:
    """The cosines of the texts by their group, and how many times as fast int8 is."""
    found: dict[str, list[float]] = defaultdict(list)
    groups, texts = zip(*sample_groups.judged(), strict=True)
    rng = np.random.default_rng(0)
    many = [" ".join(rng.choice(WORDS, rng.integers(8, 121))) for _ in range(count)]
    with (
        CLASSES[kind](path=folder, precision="fp32", on_long="truncate") as exact,
        CLASSES[kind](path=folder, precision="int8", on_long="truncate") as fast,
    ):
        models = (exact, fast)
        size = exact.vocab_size() if kind == "sparse" else 0
        vectors = [rows(kind, model.encode_batch(list(texts)), size) for model in models]
        for group, truth, ours in zip(groups, *vectors, strict=True):
            found[group].append(float(cosines(ours, truth).mean()))
        ratios = []
        for _ in range(rounds):
            seconds = []
            for model in models:
                start = time.perf_counter()
                model.encode_batch(many)
                seconds.append(time.perf_counter() - start)
            ratios.append(seconds[0] / seconds[1])
    return found, statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, action="append", required=True)
    parser.add_argument("--texts", type=int, default=256, help="of the timing")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    table = {}
    for folder in options.model:
        for kind in artifact.open_folder(folder).spec.kinds:
            table[f"{folder.name} {kind}"] = measured(kind, folder, options.texts, options.rounds)
    print(physical_summary())
    print(f"\n| int8 to fp32, mean / least cosine | {' | '.join(table)} |")
    print("| --- " * (len(table) + 1) + "|")
    for group in dict(sample_groups.judged()):
        cells = [
            f"{np.mean(cosine[group]):.4f} / {min(cosine[group]):.4f}"
            for cosine, _ in table.values()
        ]
        print(f"| {group} | {' | '.join(cells)} |")
    every = [
        [value for group in cosine.values() for value in group] for cosine, _ in table.values()
    ]
    print(f"| all | {' | '.join(f'{np.mean(v):.4f} / {min(v):.4f}' for v in every)} |")
    print(
        f"| times as fast as fp32 | {' | '.join(f'{ratio:.1f}' for _, ratio in table.values())} |"
    )


if __name__ == "__main__":
    main()

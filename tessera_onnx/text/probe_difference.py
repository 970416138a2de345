"""Measure how far an int8 graph is from the fp32 graph of the same model, on a few probe texts.

Products of an int8 graph can saturate on processors without VNNI (runtime/saturation.py). How much
that changes depends on the model, so it is measured where the fp32 graph lies in the same folder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import LoadError
from tessera_onnx.results import SparseVector

logger = logging.getLogger("tessera_onnx")

Encode = Callable[[list[str]], Sequence[Any]]  # a result for each text
Float = NDArray[np.float32]

# Of several lengths, scripts and subjects: activations, and so their scales, depend on the text.
PROBES = [
    "a",
    "What is machine learning?",
    "How do I reset the password of my account?",
    "The cat sat on the mat and looked at the rain.",
    "Berlin is the capital of Germany; Paris is the capital of France.",
    "Die Katze schläft, während draußen ein Gewitter aufzieht.",
    "机器学习是人工智能的一个分支。",
    "Машинное обучение — это раздел искусственного интеллекта.",
    "def mean(values): return sum(values) / len(values)  # of a list",
    "Invoice 2024-117: 3 x 49.90 EUR, due on 31 March, IBAN DE00 0000 0000.",
    "!!! ??? ... --- *** /// ((( ))) [[[ ]]] {{{ }}}",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen. " * 12,
]
# The export holds its own int8 graphs to 0.95 against torch. Those of others may be a little less
# exact; one that is much less exact makes vectors that find other documents.
LEAST = 0.9


def least_cosine(encode: Encode, reference: Encode) -> float:
    """The least cosine between the results of two graphs for the same probe text, -1..1.

    Both functions give dense vectors (dim,), token vectors (n_tokens, dim), of which each is
    compared, or SparseVectors. Two vectors of zeros have the cosine 1, one of zeros has 0, and so
    have results of different shapes.
    """
    pairs = zip(encode(PROBES), reference(PROBES), strict=True)
    return min(_cosine(ours, theirs) for ours, theirs in pairs)


def report(least: float, name: str, reference: str) -> None:
    """Say how far the int8 graph `name` is from `reference` on this processor.

    Logs a warning with the figure. Raises LoadError when it is below `LEAST`.
    """
    figure = (
        f"int8 products of {name} can saturate on this processor, which has no VNNI: on "
        f"{len(PROBES)} probe texts the least cosine to the vectors of {reference} is {least:.3f}"
    )
    if not least >= LEAST:  # NaN too
        raise LoadError(f"{figure}, below {LEAST}: use precision='fp32'")
    logger.warning("%s; precision='fp32' has no such difference", figure)


def _cosine(ours: Any, theirs: Any) -> float:
    if isinstance(ours, SparseVector):
        size = 1 + int(max(ours.indices.max(initial=0), theirs.indices.max(initial=0)))
        ours, theirs = (_row(vector, size) for vector in (ours, theirs))
    ours, theirs = (np.atleast_2d(np.asarray(part, np.float64)) for part in (ours, theirs))
    if ours.shape != theirs.shape:
        return 0.0
    sizes = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    equal = (ours == theirs).all(axis=1)
    products = np.divide(
        (ours * theirs).sum(axis=1), sizes, out=np.zeros_like(sizes), where=sizes > 0
    )
    return float(np.where(equal, 1.0, products).min(initial=1.0))


def _row(vector: SparseVector, size: int) -> Float:
    row = np.zeros(size, np.float32)
    row[vector.indices] = vector.values
    return row

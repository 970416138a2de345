"""What same_numbers.py asks of the models of each kind: texts, images, series, and calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

import tessera_onnx as tessera

FORMS = ("float32", "int8", "binary")
# What the option for a form is called in the version that runs.
FORM = next(name for name in inspect.signature(tessera.PackedTokens).parameters if "output" in name)
TEXTS = ["The quick brown fox jumps over the lazy dog.", "a", "Straße, naïve café, 東京 and 🙂"]
TEXTS += ["Bread rises because yeast makes gas. " * 30, "fresh bread from the oven", ""]
QUERIES = ["who bakes bread?", TEXTS[0]]
RANDOM = np.random.default_rng(5)
IMAGES = [RANDOM.integers(0, 256, shape, np.uint8) for shape in ((64, 64, 3), (90, 140, 3))]
IMAGES += [np.add.outer(np.arange(300), np.arange(100)).astype(np.uint8)]
PPM = b"P6 140 90 255\n" + IMAGES[1].tobytes()  # the content of an image file
DAYS = np.arange(700.0)
SERIES = [np.sin(DAYS / 7) * 5 + DAYS / 20, RANDOM.normal(size=90), np.full(40, 3.5), DAYS + 1e8]
SERIES += [np.where(DAYS % 11 == 3, np.nan, DAYS % 24), np.full(9, np.nan)]
Q = QUERIES[0]


def each(method: str, items: list[Any], **options: Any) -> Callable[[Any], list[Any]]:
    """A call of the method for each form."""
    return lambda m: [getattr(m, method)(items, **{FORM: f}, **options) for f in FORMS]


# What a model is asked; before the colon stand the initials of the kinds of model that are asked.
CALLS: dict[str, Callable[[Any], Any]] = {
    "dms: count": lambda m: m.token_count(TEXTS),
    "dms: encode": lambda m: list(map(m.encode, TEXTS)),
    "dms: similarity": lambda m: [m.similarity(Q, text) for text in TEXTS],
    "dms: encode_all": lambda m: m.encode_all(TEXTS),
    "dms: encode_all query": lambda m: m.encode_all(TEXTS, role="query"),
    "dms: encode_all document": lambda m: m.encode_all(TEXTS, role="document"),
    "dms: rank": lambda m: m.rank(Q, TEXTS),
    "dm: encode_batch": each("encode_batch", TEXTS),
    "dm: encode_iter": each("encode_iter", TEXTS),
    "dmv: encode_query": each("encode_query", TEXTS),
    "dm: encode_document": each("encode_document", TEXTS),
    "d: prompt": lambda m: m.encode_query(TEXTS, prompt="find: "),
    "d: task": lambda m: [m.encode_batch(TEXTS, task=t.name) for t in m.spec.dense.tasks],
    "s: encode_batch": lambda m: [m.encode_batch(TEXTS), list(m.encode_iter(TEXTS))],
    "s: roles": lambda m: [m.encode_query(TEXTS), m.encode_document(TEXTS, max_active_dims=5)],
    "s: explain": lambda m: [m.explain(v, None) for v in m.encode_batch(TEXTS)],
    "m: score": lambda m: [m.score(Q, TEXTS), tessera.maxsim(*m.encode_batch(QUERIES))],
    "m: explain": lambda m: [m.explain(Q, text) for text in TEXTS],
    "m: tokens": lambda m: [*map(m.tokens, TEXTS), m.encode_quantized(Q)],
    "m: pooled": each("encode_document", TEXTS, pool_factor=2),
    "v: encode_documents": each("encode_documents", IMAGES),
    "v: encode_iter": each("encode_iter", IMAGES),
    "v: pooled": each("encode_documents", IMAGES, pool_factor=2),
    "v: file": lambda m: m.encode_document(PPM),
    "v: query_tokens": lambda m: m.query_tokens(Q),
    "v: score": lambda m: [m.score(Q, IMAGES), m.search(Q, PPM)],
    "v: rank": lambda m: m.rank(Q, IMAGES, 2),
    "v: similarity_map": lambda m: [m.similarity_map(Q, image) for image in IMAGES],
    "v: regions": lambda m: [m.regions(Q, image) for image in IMAGES],
    "t: forecast": lambda m: list(map(m.forecast, SERIES)),
    "t: quantiles": lambda m: m.forecast_quantiles(SERIES),
    "t: beyond": lambda m: m.forecast_quantiles(SERIES, 150, [0.05, 0.5, 0.93]),
    "t: groups": lambda m: m.forecast(SERIES[:4], 20, groups=[0, 1, 0, 1]),
}

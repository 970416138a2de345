"""Every kind of a model from one run of its graph: bge-m3's three, or two of a ColBERT."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tessera_onnx.errors import ConfigError
from tessera_onnx.models.spec import Dense, Kind, ModelSpec, MultiVector, Role, Sparse, TokenRole
from tessera_onnx.results import Embeddings
from tessera_onnx.runtime.workers import Limit
from tessera_onnx.text import heads
from tessera_onnx.text.encoder import TextEncoder
from tessera_onnx.text.tokenizer import Head


def encode_all(
    texts: Iterable[str],
    encoder: TextEncoder,
    spec: ModelSpec,
    name: str,
    role: Role | TokenRole,
    *,
    dimensions: Mapping[Kind, int],
    progress: bool,
    limit: Limit,
    most: int | None,
) -> Embeddings:
    """What the classes of the model's kinds give for `texts`, each text run once.

    `name` is "query", "document" or "plain" for neither, `role` what the caller's object makes of
    it; `dimensions` are the sizes that vectors are cut to, `most` the entries that sparse ones
    keep. Raises ConfigError where one run cannot serve all kinds.
    """
    recipes = spec.text_recipes()
    if name == "plain" and not any(recipe.plain for recipe in recipes.values()):
        name = "document"
    roles = {kind: getattr(recipe, name) or recipe.document for kind, recipe in recipes.items()}
    if len({_layout(each) for each in roles.values()}) > 1:
        noun = "text" if name == "plain" else name
        raise ConfigError(
            f"model {spec.id!r} reads a {noun} differently for each of its kinds, so that "
            f"one run cannot serve them: open it once a kind ({', '.join(recipes)})"
        )
    parts = [
        _head(recipe, roles[kind], dimensions.get(kind, 0), name, most)
        for kind, recipe in recipes.items()
    ]
    rows = encoder.encode(texts, role, heads.combine(parts), progress=progress, limit=limit)
    found: dict[Kind, list[Any]] = {
        kind: [row[i] for row in rows] for i, kind in enumerate(recipes)
    }
    dense = None
    if isinstance(recipe := recipes.get("dense"), Dense):
        width = dimensions.get("dense", recipe.dimension)
        dense = np.array(found["dense"], dtype=np.float32).reshape(-1, width)
    return Embeddings(dense, found.get("multi-vector"), found.get("sparse"))


def _head(
    recipe: Dense | MultiVector | Sparse, role: Any, dimension: int, name: str, most: int | None
) -> Head:
    if isinstance(recipe, Dense):
        return heads.dense(recipe, dimension or recipe.dimension)
    if isinstance(recipe, MultiVector):
        return heads.multi_vector(recipe, dimension or recipe.dimension, role)
    if name == "query" and recipe.query_weights != "model":
        raise ConfigError("this model's sparse queries need no inference: use TesseraSparse")
    return heads.sparse(recipe) if most is None else heads.limited(heads.sparse(recipe), most)


def _layout(role: Role | TokenRole) -> tuple[Any, ...]:
    """All that shapes the graph's input; equal for two kinds whose texts are the same rows."""
    if isinstance(role, TokenRole):
        return (role.prompt, role.max_length, role.marker_ids, role.expansion, None)
    return (role.prompt, role.max_length, (), "none", role.task_id)

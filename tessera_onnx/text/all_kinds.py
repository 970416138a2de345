"""Encode texts to every kind of vector that a model has, from one run of its graph (bge-m3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tessera_onnx.errors import ConfigError
from tessera_onnx.models.spec import (
    Dense,
    Kind,
    ModelSpec,
    MultiVector,
    Role,
    Sparse,
    TokenRole,
)
from tessera_onnx.results import Embeddings
from tessera_onnx.runtime.workers import Limit
from tessera_onnx.text import heads
from tessera_onnx.text.calls import Encoder
from tessera_onnx.text.modules import Step
from tessera_onnx.text.tokenizer import Head


def encode_all(
    texts: Iterable[str],
    encoder: Encoder,
    spec: ModelSpec,
    name: str,
    role: Role | TokenRole,
    *,
    dimensions: Mapping[Kind, int],
    modules: Mapping[Kind, Step],
    progress: bool,
    limit: Limit,
    most: int | None,
    sparse: Head | None = None,
) -> Embeddings:
    """Encode texts to all kinds of the model; each text runs through the graph once.

    `name` is the role: "query", "document" or "plain"; `role` is that role with the caller's
    lengths. `dimensions` are the sizes to which vectors are cut, `modules` the steps after the
    graph, `most` is the number of weights that sparse vectors keep, `sparse` the head of documents
    as in `head`. Raises ConfigError when the kinds tokenize a text differently, or when sparse
    queries need no inference, since one run then cannot serve all kinds.
    """
    recipes = spec.text_recipes()
    if name == "plain" and not any(recipe.plain for recipe in recipes.values()):
        name = "document"
    roles = {kind: getattr(recipe, name) or recipe.document for kind, recipe in recipes.items()}
    if len({_layout(each) for each in roles.values()}) > 1:
        noun = "text" if name == "plain" else name
        raise ConfigError(
            f"model {spec.id!r} reads a {noun} differently for each of its kinds, so one run "
            f"cannot serve them: open the model once per kind ({', '.join(recipes)})"
        )
    parts = [
        head(
            recipe,
            roles[kind],
            dimensions.get(kind, 0),
            modules.get(kind),
            name=name,
            most=most,
            sparse=sparse,
        )
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


def head(
    recipe: Dense | MultiVector | Sparse,
    role: Any,
    dimension: int,
    modules: Step | None,
    *,
    name: str,
    most: int | None,
    sparse: Head | None = None,
) -> Head:
    """The head of a kind for texts that are read as the role `name`.

    `sparse` is that of sparse vectors where the recipe alone does not say it.
    """
    if isinstance(recipe, Dense):
        return heads.dense_head(recipe, dimension or recipe.dimension, modules)
    if isinstance(recipe, MultiVector):
        return heads.multi_vector_head(recipe, dimension or recipe.dimension, role, modules)
    if name == "query" and recipe.query_weights != "model":
        raise ConfigError("this model's sparse queries need no inference: use TesseraSparse")
    found = sparse or heads.sparse_head(recipe)
    return found if most is None else heads.limited_head(found, most)


def _layout(role: Role | TokenRole) -> tuple[Any, ...]:
    """Everything that changes the token ids of a text; kinds with equal tuples can share a run."""
    if isinstance(role, TokenRole):
        return (role.prompt, role.max_length, role.marker_ids, role.expansion, None)
    return (role.prompt, role.max_length, (), "none", role.task_id)

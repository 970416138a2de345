"""One run of a graph for every kind of vector that a model has (bge-m3): roles, heads, results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from tessera_onnx.text import heads
from tessera_onnx.text.modules import Step
from tessera_onnx.text.tokenizer import Head

Recipe = Dense | MultiVector | Sparse


def roles(spec: ModelSpec, name: str, kinds: Sequence[Kind]) -> dict[Kind, Role | TokenRole]:
    """How each of the kinds reads a text in the role `name`: "query", "document" or "plain".

    Raises ConfigError for a kind that the model does not serve, when the kinds tokenize a text
    differently, and when sparse queries need no inference, since one run then cannot serve all
    kinds.
    """
    recipes = spec.text_recipes()
    missing = [kind for kind in kinds if kind not in recipes]
    if missing:
        raise ConfigError(f"model {spec.id!r} gives no {missing[0]} vectors: {', '.join(recipes)}")
    if name == "plain" and not any(recipe.plain for recipe in recipes.values()):
        name = "document"
    found = {kind: getattr(recipes[kind], name) or recipes[kind].document for kind in kinds}
    if len({_layout(each) for each in found.values()}) > 1:
        noun = "text" if name == "plain" else name
        raise ConfigError(
            f"model {spec.id!r} reads a {noun} differently for each of its kinds, so one run "
            f"cannot serve them: open the model once per kind ({', '.join(recipes)})"
        )
    for kind in kinds if name == "query" else ():
        if getattr(recipes[kind], "query_weights", "model") != "model":
            raise ConfigError("this model's sparse queries need no inference: use TesseraSparse")
    return found


def head(recipe: Recipe, role: Any, modules: Step | None, dimension: int | None = None) -> Head:
    """The head of a kind whose results need the graph and the recipe alone.

    `modules` are the steps after the graph; `dimension` is a size to which vectors are cut.
    """
    if isinstance(recipe, Dense):
        return heads.dense_head(recipe, dimension or recipe.dimension, modules)
    if isinstance(recipe, MultiVector):
        return heads.multi_vector_head(recipe, dimension or recipe.dimension, role, modules)
    return heads.sparse_head(recipe)


def collected(
    rows: Sequence[Any], recipes: Mapping[Kind, Recipe], dimensions: Mapping[Kind, int]
) -> Embeddings:
    """The results of texts, a tuple each with those of `recipes`, by kind.

    `dimensions` are the sizes to which vectors were cut.
    """
    found: dict[Kind, list[Any]] = {
        kind: [row[i] for row in rows] for i, kind in enumerate(recipes)
    }
    dense = None
    if isinstance(recipe := recipes.get("dense"), Dense):
        width = dimensions.get("dense", recipe.dimension)
        dense = np.array(found["dense"], dtype=np.float32).reshape(-1, width)
    return Embeddings(dense, found.get("multi-vector"), found.get("sparse"))


def _layout(role: Role | TokenRole) -> tuple[Any, ...]:
    """Everything that changes the token ids of a text; kinds with equal tuples can share a run."""
    if isinstance(role, TokenRole):
        return (role.prompt, role.max_length, role.marker_ids, role.expansion, None)
    return (role.prompt, role.max_length, (), "none", role.task_id)

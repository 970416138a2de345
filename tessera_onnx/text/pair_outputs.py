"""Choose the output of a reranker's graph: by its name, then by its rank and number of columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import LoadError
from tessera_onnx.models.spec import ModelSpec, Reranker
from tessera_onnx.runtime.session import Array, Session
from tessera_onnx.text import modules, outputs
from tessera_onnx.text import tokenizer as text_tokenizer
from tessera_onnx.text.tokenizer import Batch
from tessera_onnx.vectors.pooling import POOLINGS

# Of transformers and of sentence-transformers.
SCORES = ("logits", "scores")


def feeds(batch: Batch, session: Session, spec: ModelSpec) -> dict[str, Array]:
    """The graph's inputs for a batch. Raises LoadError for a graph that cannot read pairs."""
    outputs.check_inputs(session.inputs, spec, session.name)
    return text_tokenizer.feeds(batch, None, session.inputs, session.name)


def shape(recipe: Reranker, n_tokens: int) -> tuple[int | None, ...]:
    """The shape that the output must have for one pair of `n_tokens` tokens (None = any)."""
    if recipe.pooling != "graph":
        return (1, n_tokens, None)
    if recipe.answers is not None:
        return (1, 1)
    return (1, 1 if recipe.column < 0 else None)


def settled(
    recipe: Reranker, session: Session, probe: Mapping[str, Array], read: Callable[[str], bytes]
) -> tuple[Reranker, modules.Step | None]:
    """The recipe with the name of its output, and the steps whose weights `read` gives.

    `probe` is one pair. A graph that has the steps inside gives the columns itself. Raises
    LoadError where no output fits or several do.
    """
    arrays = outputs.run_probe(session, probe)
    shapes = {name: array.shape for name, array in arrays.items()}
    recipe = _chosen(recipe, shapes, probe["input_ids"].shape[1], session.name)
    found = shapes.get(recipe.output, ())
    if recipe.pooling == "graph":
        if len(found) == 2 and not _holds(recipe, found[1]):
            what = "name the one of the score as `column` in a model.toml"
            raise LoadError(
                f"{session.name} gives {found[1]} columns in {recipe.output!r:.80}, and the "
                f"model's column is {recipe.column}: {what}"
            )
        return recipe, None
    size = found[-1] if len(found) == 3 else 0
    return recipe, modules.load(recipe.modules or (), read, size)


def _holds(recipe: Reranker, columns: int) -> bool:
    return columns == 1 if recipe.column < 0 else recipe.column < columns


def _chosen(
    recipe: Reranker, shapes: Mapping[str, tuple[int, ...]], n_tokens: int, name: str
) -> Reranker:
    """The recipe with an output; without its modules where the graph holds them."""
    if recipe.output:
        return recipe
    # pooler_output and hidden states are wider than any number of labels that a score is read of.
    columns = [o for o, s in shapes.items() if len(s) == 2 and s[0] == 1 and s[1] in (1, 2)]
    states = [o for o, s in shapes.items() if s[:2] == (1, n_tokens) and len(s) == 3]
    if recipe.pooling != "graph" and not [o for o in columns if o in SCORES] and states:
        output = outputs.pick(states, outputs.STATES, shapes, name)
        return dataclasses.replace(recipe, output=output)
    output = outputs.pick(columns, SCORES, shapes, name)
    return dataclasses.replace(recipe, output=output, pooling="graph", modules=None)


def answered(
    recipe: Reranker, session: Session, probe: Mapping[str, Array], ids: Sequence[int]
) -> tuple[Reranker, tuple[int | None, ...]]:
    """The recipe of a language model with the name of its output, and the output's shape.

    The graph gives one score a pair, (1, 1), or logits of the vocabulary that hold the answers'
    `ids`: of the last position, (1, vocab), or of all, (1, n, vocab). Raises LoadError where no
    output is one of these or several are.
    """
    arrays = outputs.run_probe(session, probe)
    shapes = {name: array.shape for name, array in arrays.items()}
    n_tokens = probe["input_ids"].shape[1]
    found = [
        name
        for name, sizes in shapes.items()
        if sizes == (1, 1)
        or (len(sizes) in (2, 3) and sizes[-1] > max(ids) and sizes[:-1] in _leading(n_tokens))
    ]
    if recipe.output:
        found = [name for name in found if name == recipe.output]
    if not found:
        listed = ", ".join(f"{name:.80} {sizes}" for name, sizes in shapes.items())
        raise LoadError(
            f"{session.name} gives {listed:.300}: neither one score a pair nor logits of the "
            f"vocabulary, which hold the answers {', '.join(recipe.answers or ())!s:.80}"
        )
    name = outputs.pick(found, SCORES, shapes, session.name)
    sizes = shapes[name]
    wanted = (1, 1) if sizes == (1, 1) else (1, *[None] * (len(sizes) - 2), sizes[-1])
    return dataclasses.replace(recipe, output=name), wanted


def _leading(n_tokens: int) -> tuple[tuple[int, ...], ...]:
    return (1,), (1, 1), (1, n_tokens)


def answer_scores(array: Array, batch: Batch, ids: Sequence[int]) -> NDArray[np.float32]:
    """Scores (b, 1) of the logits (b, vocab) or (b, n, vocab), or those that the graph gives.

    The score is the logit of the first of `ids`, less that of the second where there is one.
    """
    if array.ndim == 3:
        array = array[:, 0] if array.shape[1] == 1 else POOLINGS["last"](array, batch.attention)
    if array.shape[1] == 1:
        return np.asarray(array, np.float32)
    columns = np.asarray(array[:, list(ids)], np.float32)
    return columns[:, :1] - columns[:, 1:] if len(ids) > 1 else columns

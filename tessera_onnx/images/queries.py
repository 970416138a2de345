"""Encode the texts of queries, with a graph of the vision model or with another model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import is_text
from tessera_onnx.errors import ConfigError, LoadError
from tessera_onnx.models.spec import Role
from tessera_onnx.models.spec_media import ImageQuery, Vision
from tessera_onnx.runtime.session import Array
from tessera_onnx.runtime.workers import ENDLESS, Limit
from tessera_onnx.text import encoder
from tessera_onnx.text.dense import TesseraDense
from tessera_onnx.text.multi_vector import TesseraMultiVector
from tessera_onnx.text.tokenizer import Batch, Head, OnLong, Runnable, Tokenizer, check_spelled
from tessera_onnx.vectors import pooling

Float = NDArray[np.float32]


class OwnQueries:
    """Encodes texts with a graph of the vision model."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        graphs: Runnable,
        recipe: Vision,
        query: ImageQuery,
        on_long: OnLong,
    ) -> None:
        """Adds the query's suffix to the tokenizer. Raises LoadError where that cannot work."""
        self._role = _role(tokenizer, query)
        self._encoder = encoder.TextEncoder(tokenizer, graphs, on_long)
        self._one = recipe.vectors == "one"
        output = recipe.text_graph.output if recipe.text_graph is not None else recipe.output
        self._outputs = (output,)

    def encode(self, text: str | Iterable[str], limit: Limit = ENDLESS) -> list[Float]:
        """(n_tokens, dim) unit rows of each text; one row where the model gives one vector."""
        # No attribute: it refers to this object, and a reference cycle would free the graphs late.
        head = Head(self._outputs, self._vectors)
        found = self._encoder.one_or_many(text, self._role, head, limit)
        return [found] if is_text(text) else found

    def tokens(self, text: str) -> list[str]:
        """The vocabulary entries of the rows of one text."""
        if self._one:
            raise ConfigError("this model has one vector per text, and none per token")
        found: list[str] = self._encoder.one(text, self._role, Head((), self._names))
        return found

    def close(self) -> None:
        """Do nothing: the graphs belong to the vision model."""

    def _vectors(self, outputs: list[Array], batch: Batch) -> list[Float]:
        if self._one:
            return list(pooling.l2_normalize(outputs[0])[:, None].copy())
        rows = zip(outputs[0], batch.lengths, strict=True)
        return [pooling.l2_normalize(states[:length]) for states, length in rows]

    def _names(self, _: list[Array], batch: Batch) -> list[list[str]]:
        rows = zip(batch.ids, batch.lengths, strict=True)
        return [[self._encoder.tokenizer.token(i) for i in ids[:length]] for ids, length in rows]


class OtherModelsQueries:
    """Encodes texts with another model whose vectors can be compared with those of the images."""

    def __init__(self, recipe: Vision, **options: Any) -> None:
        """`options` are those of the text classes. Raises as opening that model does."""
        self._model: TesseraDense | TesseraMultiVector
        if recipe.vectors == "one":
            self._model = TesseraDense(recipe.text_model, dimension=recipe.dimension, **options)
        else:
            self._model = TesseraMultiVector(
                recipe.text_model, dimension=recipe.dimension, **options
            )

    def encode(self, text: str | Iterable[str], limit: Limit = ENDLESS) -> list[Float]:
        """(n_tokens, dim) unit rows of each text, one row of a dense model."""
        found = self._model.encode_query(text, timeout=limit.left(), cancel=limit.cancel)
        rows = [np.atleast_2d(each) for each in ([found] if is_text(text) else found)]
        dense = self._model.spec.dense if isinstance(self._model, TesseraDense) else None
        if dense is not None and dense.matryoshka_layer_norm:
            # nomic's image model was trained against text vectors after layer norm, cut or not.
            rows = [pooling.l2_normalize(pooling.layer_norm(vectors)) for vectors in rows]
        return rows

    def tokens(self, text: str) -> list[str]:
        """The vocabulary entries of the rows of one text."""
        if isinstance(self._model, TesseraDense):
            raise ConfigError("this model has one vector per text, and none per token")
        return self._model.tokens(text, role="query")

    def close(self) -> None:
        """Close the other model."""
        self._model.close()


def _role(tokenizer: Tokenizer, query: ImageQuery) -> Role:
    """Make a role with the query's prefix as its prompt, and add the suffix to the tokenizer.

    The suffix is kept when a text is cut. The prefix is tokenized together with the text, as
    upstream: a space at its end belongs to the first token of the text.
    """
    for name in ("prefix", "suffix"):
        check_spelled(tokenizer, getattr(query, name), f"model.vision.query.{name}")
    facts = tokenizer.facts
    prefix, joined = tokenizer.ids([query.prefix + "a", f"{query.prefix}a{query.suffix}"])
    after = joined[len(prefix) :]
    if not np.array_equal(joined[: len(prefix)], prefix):
        raise LoadError(
            "model.vision.query: the suffix must begin with a special token, so that its ids do "
            "not depend on the text before it"
        )
    suffix_ids = (*after.tolist(), *facts.suffix_ids)
    if len(facts.prefix_ids) + len(prefix) + len(suffix_ids) > query.max_length:
        raise LoadError("model.vision.query: max_length leaves no room for a text")
    tokenizer.facts = dataclasses.replace(facts, suffix_ids=suffix_ids)
    return Role(prompt=query.prefix, max_length=query.max_length)

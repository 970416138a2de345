"""What the classes that read texts share: roles, lengths, token counts, every kind at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal, TypeVar, Unpack, get_args

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.base import Model, Options
from tessera_onnx.errors import ConfigError, LoadError, shown
from tessera_onnx.models import rules, spec
from tessera_onnx.models.spec import Role, TokenRole
from tessera_onnx.results import Embeddings
from tessera_onnx.runtime import workers
from tessera_onnx.runtime.session import Session
from tessera_onnx.text import all_kinds, encoder, heads
from tessera_onnx.text import tokenizer as text_tokenizer
from tessera_onnx.vectors.quantization import check_dimension

AnyRole = TypeVar("AnyRole", Role, TokenRole)
RoleName = Literal["query", "document", "plain"]  # "plain": as `encode` reads a text
# What a message says about a list of texts where one is due.
SEVERAL = "`encode_batch` takes several texts"
COMPARED = "`rank` compares one text with several"


class TextOptions(Options, total=False):
    """The keyword arguments of `TextModel`, for the constructors of its subclasses."""

    dimension: int | None
    max_length: int | None
    on_long: text_tokenizer.OnLong


class TextModel(Model):
    """A model that reads texts.

    A text is a query or a document where a method or `role` says so. What says neither, `encode`
    and `encode_batch` among them, reads a document, save with a model whose authors chose a prompt
    for such texts (spec's `plain`; sentence-transformers' default_prompt_name).

    A text's vector does not depend on the texts in the same call, except with an int8 graph that
    finds the scales of activations a batch at a time: tessera-export's do not, unless told to.

    Several texts come as any iterable of str in the order that the results follow: a list, a
    stream, a column of a frame, an array of NumPy or Arrow. A frame, a dict, a set and an open file
    iterate over something else than their texts, and are a TypeError that says what to give.
    """

    _session: Session
    _most: int | None = None  # entries of a sparse vector

    def __init__(
        self,
        model_id: str | None = None,
        *,
        dimension: int | None = None,
        max_length: int | None = None,
        on_long: text_tokenizer.OnLong = "warn",
        **options: Unpack[Options],
    ) -> None:
        """Open a model; `options` are those of `Model`, and its errors are raised.

        Args:
            model_id: id or alias; None takes the first installed model of this kind.
            dimension: cut vectors to this size, one that the model was trained for (Matryoshka).
            max_length: tokens read of a document, and of a query unless queries have a fixed
                length; up to what the graph takes.
            on_long: what to do with a text of more tokens: "warn" (cut it, and say once per call
                how many were cut), "truncate" (cut it silently) or "error".
            **options: path, device, precision, threads, cache_dir and offline.

        Raises:
            UnsupportedDimension: the model was not trained to be cut to `dimension`.
        """
        super().__init__(model_id, **options)
        self._options |= {"dimension": dimension, "max_length": max_length, "on_long": on_long}
        recipe = self._recipe
        facts = self._spec.text
        if facts is None:
            raise LoadError(f"model {self._spec.id!r} has no [model.text] table")
        self._query = self._with_length(recipe.query, facts, max_length)
        self._document = self._with_length(recipe.document, facts, max_length)
        self._plain = self._with_length(recipe.plain or recipe.document, facts, max_length)
        self._dimension = self._width(dimension)
        tokenizer = text_tokenizer.Tokenizer(self._artifact.read(facts.tokenizer), facts)
        # Every kind's output is checked, since encode_all reads them all from this session.
        probe = text_tokenizer.probe(facts)
        inputs = self._spec.main_graph().inputs
        shapes = {
            other.output: heads.output_shape(other, probe.ids.shape[1])
            for other in self._spec.text_recipes().values()
        }
        self._session = self._open(shapes, text_tokenizer.feeds(probe, recipe.document, inputs))
        self._encoder = encoder.TextEncoder(tokenizer, self._session, on_long)

    def _width(self, dimension: int | None) -> int:
        """Numbers in a vector, which is cut to `dimension`. Raises UnsupportedDimension."""
        recipe = self._recipe
        return check_dimension(dimension, recipe.dimension, recipe.matryoshka, self._spec.id)

    @staticmethod
    def _with_length(role: AnyRole, facts: spec.TokenizerSpec, max_length: int | None) -> AnyRole:
        if max_length is None or (isinstance(role, TokenRole) and role.expansion != "none"):
            return role
        if isinstance(max_length, bool) or not isinstance(max_length, int):
            raise TypeError(f"max_length must be int or None, got {type(max_length).__name__}")
        changed = dataclasses.replace(role, max_length=max_length)
        try:
            rules.check_length(changed, facts, "this model")
        except LoadError as error:
            raise ConfigError(str(error)) from None
        return changed

    def token_count(self, texts: Iterable[str], *, role: RoleName = "plain") -> NDArray[np.int64]:
        """Tokens of each text before any cut, prompt, marker and special tokens included: (n,).

        The role "plain" reads a text as `encode` does.
        """
        return self._encoder.token_counts(texts, self._role(role))

    def encode_all(
        self,
        texts: Iterable[str],
        *,
        role: RoleName = "plain",
        progress: bool = False,
        timeout: float | None = None,
        cancel: workers.Event | None = None,
    ) -> Embeddings:
        """The texts in every kind that the model serves, from one run of its graph (bge-m3).

        Each part is what the class of that kind gives for the same texts, `encode_batch` for the
        role "plain"; the part of a kind that the model does not serve is None. `dimension`, or
        `max_active_dims`, cuts the vectors of this object's kind alone.

        Raises ConfigError for a model whose kinds read the same text differently, and for queries
        that one of its kinds looks up in a table; otherwise as `encode_batch`, TimedOut and
        Cancelled too.
        """
        limit = workers.Limit(timeout, cancel)
        return all_kinds.encode_all(
            texts,
            self._encoder,
            self._spec,
            role,
            self._role(role),
            dimensions={self._kind: self._dimension},
            progress=progress,
            limit=limit,
            most=self._most,
        )

    def _role(self, name: RoleName) -> Any:
        if name not in get_args(RoleName):
            raise ConfigError(f'role must be "query" or "document" (or "plain"), got {shown(name)}')
        return {"query": self._query, "document": self._document, "plain": self._plain}[name]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self._spec.id!r}, dimension={self._dimension})"

"""The classes of models at a server: the local classes, which send texts instead of running them.

Their methods, results, errors and warnings are those of the classes that they derive from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tessera_onnx.errors import ConfigError
from tessera_onnx.models.spec import Kind
from tessera_onnx.remote.base import RemoteModel
from tessera_onnx.remote.encoder import RemoteEncoder, RemotePairs, RemoteRole, kind_head
from tessera_onnx.remote.images import RemoteVision
from tessera_onnx.remote.series import RemoteTimeSeries
from tessera_onnx.text import all_kinds
from tessera_onnx.text.base import TextModel
from tessera_onnx.text.dense import TesseraDense
from tessera_onnx.text.multi_vector import TesseraMultiVector
from tessera_onnx.text.reading import RoleName
from tessera_onnx.text.reranker import Activation, TesseraReranker
from tessera_onnx.text.sparse import TesseraSparse, _check_dims
from tessera_onnx.text.tokenizer import Head, OnLong
from tessera_onnx.vectors.explain import Match, matches

NO_BATCHES = "prepare is for models that are open here: a server makes its batches itself"

if TYPE_CHECKING:
    _Base = TextModel
else:
    _Base = object


class _RemoteText(RemoteModel, _Base):
    """What the classes of texts share."""

    _encoder: Any  # a RemoteEncoder
    _modules: Any

    def _start(
        self, *, dimension: int | None = None, on_long: OnLong = "warn", **more: Any
    ) -> None:
        """Set what the constructor of a local class sets."""
        if more:
            raise TypeError(f"{next(iter(more))} is no option of a model at a server")
        self._modules = {}
        self._pooling = None
        recipe, plain = self._recipe, self._recipe.plain or self._recipe.document
        self._query = RemoteRole("query", recipe.query.max_length)
        self._document = RemoteRole("document", recipe.document.max_length)
        self._plain = RemoteRole("plain", plain.max_length)
        self._dimension = self._width(dimension)
        cut = None if dimension is None else (self._kind, self._dimension)
        self._encoder = RemoteEncoder(self._link, self._server_name, on_long, cut)

    def prepare(self, *_: Any, **__: Any) -> Any:
        """Raises ConfigError: the server makes the batches."""
        raise ConfigError(NO_BATCHES)

    def prompt(self, role: RoleName = "plain", task: str | None = None) -> str:
        """As the local class."""
        self._role(role)  # raises for a wrong name
        found = getattr(self._recipe, role) or self._recipe.document
        return str(super()._purpose(found, task).prompt)

    @property
    def tokenizer(self) -> Any:
        """Raises ConfigError: the tokenizer is at the server."""
        raise ConfigError(f"the tokenizer of {self._spec.id!r} is at the server: use token_count")

    def _together(
        self, role: RoleName, kinds: Sequence[Kind], dimension: int | None
    ) -> tuple[Any, list[Head]]:
        all_kinds.roles(self._spec, role, kinds)  # raises where one run cannot serve all kinds
        parts = [
            self._kind_head(role, dimension, normalize=True)
            if kind == self._kind
            else kind_head(kind)
            for kind in kinds
        ]
        return self._role(role), parts

    def _kind_head(self, role: RoleName, dimension: int | None, *, normalize: bool) -> Head:  # noqa: ARG002
        return kind_head(self._kind)

    def token(self, number: int) -> str:
        """The name of an entry of the vocabulary."""
        found: str = self._encoder.token(number)
        return found


class RemoteDense(_RemoteText, TesseraDense):
    """A dense model at a server."""

    @property
    def _head(self) -> Head:
        return kind_head("dense", width=self._dimension)

    def _purpose(self, role: Any, task: str | None, prompt: str | None = None) -> Any:
        """The role with a task or prompt, which are checked as a local model checks them."""
        super()._purpose(self._recipe.document, task, prompt)
        return dataclasses.replace(role, task=task, prompt=prompt)


class RemoteMultiVector(_RemoteText, TesseraMultiVector):
    """A multi-vector model at a server."""

    def _head(self, role: Any) -> Head:  # noqa: ARG002
        return kind_head("multi-vector")

    def explain(self, query: str, document: str) -> list[Match]:
        """As the local class."""
        left = self._encoder.one(query, self._query, self._head(None), name="query")
        right = self._encoder.one(document, self._document, self._head(None), name="document")
        names = [
            self._encoder.row_tokens(text, role, "text")
            for text, role in ((query, self._query), (document, self._document))
        ]
        return matches(left, right, names[0], names[1])

    def tokens(self, text: str, *, role: RoleName = "plain") -> list[str]:
        """As the local class."""
        found: list[str] = self._encoder.row_tokens(text, self._role(role), "text")
        return found


class RemoteSparse(_RemoteText, TesseraSparse):
    """A sparse model at a server."""

    def _start(self, *, max_active_dims: int | None = None, **options: Any) -> None:
        _check_dims(max_active_dims)
        super()._start(**options)
        self._most, self._token = max_active_dims, self._encoder.token
        self._head = self._query_head = kind_head("sparse")
        self._language = None

    def _kind_head(self, role: RoleName, dimension: int | None, *, normalize: bool) -> Head:  # noqa: ARG002
        return self._cut(self._head)


class RemoteReranker(RemoteModel, TesseraReranker):
    """A reranker at a server."""

    def _start(self, *, on_long: OnLong = "warn", **more: Any) -> None:
        if more:
            raise TypeError(f"{next(iter(more))} is no option of a model at a server")
        self._steps, self._answers = None, ()
        self._encoder: Any = RemotePairs(self._link, self._server_name, on_long)

    def _role(self, instruction: str | None = None) -> Any:
        """Raises ConfigError for an instruction, which the server's routes do not take."""
        if instruction is not None:
            raise ConfigError("instruction is for models that are open here: leave it out")
        return RemoteRole("plain", self._recipe.max_length)

    def _head(self, activation: Activation) -> Head:
        super()._head(activation)  # checks it

        def apply(outputs: list[Any], _: Any) -> Any:
            return np.asarray(outputs[0])

        return Head((activation,), apply, 1)

    def prepare(self, *_: Any, **__: Any) -> Any:
        """Raises ConfigError: the server makes the batches."""
        raise ConfigError(NO_BATCHES)

    def close(self) -> None:
        """Later calls raise EncodingError."""
        self._encoder.close()


CLASSES: dict[Kind, type[RemoteModel]] = {
    "dense": RemoteDense,
    "multi-vector": RemoteMultiVector,
    "sparse": RemoteSparse,
    "reranker": RemoteReranker,
    "vision": RemoteVision,
    "time-series": RemoteTimeSeries,
}

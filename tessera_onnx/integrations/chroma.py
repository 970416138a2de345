"""Chroma: dense and sparse models as embedding functions, whose settings it keeps.

Chroma keeps the name and settings of a function with a collection. A program that opens the
collection has to import this module first.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np

from tessera_onnx.errors import ConfigError, install_hint
from tessera_onnx.integrations.rows import Field, field_of
from tessera_onnx.kinds import KINDS
from tessera_onnx.models.spec import Kind

try:
    from chromadb.api.types import EmbeddingFunction, SparseEmbeddingFunction
    from chromadb.base_types import SparseVector
    from chromadb.utils.embedding_functions import (
        register_embedding_function,
        register_sparse_embedding_function,
    )
except ImportError as error:
    raise ImportError(f"{error.name} is not installed: {install_hint('chroma')}") from None

SPACES = {"cosine": "cosine", "dot": "ip", "euclidean": "l2"}
FIXED = ("name", "precision", "dimension", "sha256")


class _Function:
    """What both functions share: the model, opened at once, and its settings."""

    _kind: ClassVar[Kind]

    def __init__(
        self,
        name: str,
        *,
        precision: Literal["fp32", "fp16", "int8", "int4"] | None = None,
        sha256: str | None = None,
        **options: Any,
    ) -> None:
        """Open a model by its id; `options` are those of its class, such as `dimension`.

        `sha256` is that of the model's files, which Chroma keeps. Raises ConfigError where the
        model here has another one, and what opening a model raises.
        """
        chosen = {key: value for key, value in options.items() if value is not None}
        model = KINDS[self._kind].cls(name, precision=precision, **chosen)
        field = field_of(model)
        if sha256 not in (None, field.sha256):
            raise ConfigError(
                f"the collection has vectors of sha256 {sha256} of the model's files, and {name} "
                f"has {field.sha256}: install the model that made them, or make them anew"
            )
        self._model: Any = model
        self._field: Field = field
        self._config = {"name": name, "precision": field.precision, "sha256": field.sha256}
        self._config |= chosen

    @classmethod
    def build_from_config(cls, config: dict[str, Any]) -> Self:
        """Open the model of settings that Chroma kept."""
        return cls(**config)

    def get_config(self) -> dict[str, Any]:
        """The settings that Chroma keeps: id, precision, sha256 and options."""
        return dict(self._config)

    @staticmethod
    def validate_config(config: dict[str, Any]) -> None:
        """Raises ConfigError for settings without the id of a model."""
        if not isinstance(config.get("name"), str):
            raise ConfigError("the settings of a tessera function name a model")

    def validate_config_update(
        self, old_config: dict[str, Any], new_config: dict[str, Any]
    ) -> None:
        """Raises ConfigError for another model, whose vectors would not compare."""
        for key in FIXED:
            if old_config.get(key) != new_config.get(key):
                raise ConfigError(f"{key} of a collection cannot change: make another collection")


@register_embedding_function
class TesseraFunction(_Function, EmbeddingFunction):
    """A dense model; documents and queries are read in their roles."""

    _kind = "dense"

    @staticmethod
    def name() -> str:
        """The name under which Chroma knows the function."""
        return "tessera"

    def __call__(self, input: list[str]) -> list[Any]:  # noqa: A002 (Chroma's name)
        """The vectors of documents, (dimension,) float32 each."""
        return list(self._model.encode_document(list(input)))

    def embed_query(self, input: list[str]) -> list[Any]:  # noqa: A002
        """The vectors of queries."""
        return list(self._model.encode_query(list(input)))

    def default_space(self) -> str:
        """The space in which the model's vectors are compared."""
        if self._field.similarity not in SPACES:
            raise ConfigError(f"Chroma has no {self._field.similarity} distance")
        return SPACES[self._field.similarity]

    def supported_spaces(self) -> list[str]:
        """That space; of cosine, all three, because unit vectors have the same order in each."""
        return [*SPACES.values()] if self.default_space() == "cosine" else [self.default_space()]


@register_sparse_embedding_function
class TesseraSparseFunction(_Function, SparseEmbeddingFunction):
    """A sparse model; documents and queries are read in their roles.

    BM25 needs an index with `bm25=True`, which weighs terms by inverse document frequency.
    """

    _kind = "sparse"

    @staticmethod
    def name() -> str:
        """The name under which Chroma knows the function."""
        return "tessera-sparse"

    def __call__(self, input: list[str]) -> list[Any]:  # noqa: A002 (Chroma's name)
        """The vectors of documents."""
        return [_vector(each) for each in self._model.encode_document(list(input))]

    def embed_query(self, input: list[str]) -> list[Any]:  # noqa: A002
        """The vectors of queries."""
        return [_vector(each) for each in self._model.encode_query(list(input))]


def _vector(found: Any) -> Any:
    indices = np.asarray(found.indices).tolist()
    return SparseVector(indices=indices, values=np.asarray(found.values).tolist())

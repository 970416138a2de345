"""What the components of Haystack share: opening, storing, and the texts of documents."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from tessera_onnx.errors import install_hint
from tessera_onnx.text.tokenizer import check_text

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.dataclasses import SparseEmbedding
except ImportError as error:
    raise ImportError(f"Haystack needs haystack-ai: {install_hint('haystack')}") from error

__all__ = [
    "Component",
    "Document",
    "DocumentEmbedder",
    "SparseEmbedding",
    "TextEmbedder",
    "component",
    "texts_of",
]


class Component:
    """What all components share: how they open their model, and how a pipeline stores them."""

    _open: Any
    model: str | None
    model_kwargs: dict[str, Any] | None

    @functools.cached_property
    def opened(self) -> Any:
        """The open model."""
        return self._open(self.model, **self.model_kwargs or {})

    def warm_up(self) -> None:
        """Open the model. Raises what its class raises."""
        self.opened  # noqa: B018

    def to_dict(self) -> dict[str, Any]:
        """The arguments of the constructor, as a pipeline stores them."""
        _, *names = inspect.signature(type(self).__init__).parameters
        stored: dict[str, Any] = default_to_dict(self, **{n: getattr(self, n) for n in names})
        return stored

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """The component that `to_dict` stored."""
        return default_from_dict(cls, data)


class TextEmbedder(Component):
    """A component that encodes one query."""

    def __init__(
        self,
        model: str | None = None,
        prefix: str = "",
        suffix: str = "",
        model_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Keep the arguments.

        Args:
            model: id, folder or repository; None takes the first installed model of the kind.
            prefix: words before each text, after the model's own prompt.
            suffix: words after each text.
            model_kwargs: options of the model's class, such as {"threads": 2}.
        """
        self.model, self.prefix, self.suffix, self.model_kwargs = (
            model, prefix, suffix, model_kwargs,
        )  # fmt: skip

    def vector(self, text: str) -> Any:
        """The vector of a query."""
        return self.opened.encode_query(self.prefix + check_text(text, "text") + self.suffix)


class DocumentEmbedder(Component):
    """A component that encodes documents."""

    def __init__(  # noqa: PLR0917 (the order of Haystack's own embedders)
        self,
        model: str | None = None,
        prefix: str = "",
        suffix: str = "",
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        model_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Keep the arguments, which are those of the text embedders and two more.

        `meta_fields_to_embed` are put before the content, with `embedding_separator` between them.
        """
        self.model, self.prefix, self.suffix, self.model_kwargs = (
            model, prefix, suffix, model_kwargs,
        )  # fmt: skip
        self.meta_fields_to_embed = meta_fields_to_embed
        self.embedding_separator = embedding_separator

    def vectors(self, documents: list[Document]) -> Any:
        """The vector of each document."""
        texts = texts_of(documents, self.meta_fields_to_embed, self.embedding_separator)
        return self.opened.encode_document([self.prefix + t + self.suffix for t in texts])


def texts_of(documents: list[Document], fields: list[str] | None, separator: str) -> list[str]:
    """The text of each document, after its values of some fields. Raises TypeError."""
    if not isinstance(documents, list) or not all(isinstance(d, Document) for d in documents):
        raise TypeError("documents must be a list of Documents; a text embedder takes one text")
    values = ([d.meta.get(f) for f in fields or ()] for d in documents)
    return [
        separator.join([*(str(v) for v in row if v is not None), d.content or ""])
        for d, row in zip(documents, values, strict=True)
    ]

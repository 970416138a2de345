"""The classes of fastembed that make vectors of texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import is_text
from tessera_onnx.integrations.fastembed_base import Base
from tessera_onnx.models.spec import Kind
from tessera_onnx.text.reading import RoleName


@dataclass
class SparseEmbedding:
    """A sparse vector: values (k,) float32 of the entries indices (k,) int32."""

    values: NDArray[np.float32]
    indices: NDArray[np.int32]

    def as_object(self) -> dict[str, NDArray[Any]]:
        """The two arrays by name."""
        return {"values": self.values, "indices": self.indices}

    def as_dict(self) -> dict[int, float]:
        """The vector as {index: value}."""
        return dict(zip(self.indices.tolist(), self.values.tolist(), strict=True))

    @classmethod
    def from_dict(cls, data: Mapping[int, float]) -> SparseEmbedding:
        """The vector of {index: value}, in the order of the mapping."""
        return cls(np.array([*data.values()], np.float32), np.array([*data], np.int32))


class Embedder(Base):
    """A model that reads texts as documents and as queries."""

    _extra: Mapping[str, Any] = {}

    def embed(
        self,
        documents: str | Iterable[str],
        batch_size: int = 256,  # noqa: ARG002
        parallel: int | None = None,  # noqa: ARG002
        **options: Any,
    ) -> Iterator[Any]:
        """The result of each document, in order; options and errors are those of `encode_iter`."""
        return self._stream(documents, "document", options)

    def passage_embed(self, texts: str | Iterable[str], **options: Any) -> Iterator[Any]:
        """As `embed`."""
        return self.embed(texts, **options)

    def query_embed(self, query: str | Iterable[str], **options: Any) -> Iterator[Any]:
        """As `embed`, for queries."""
        for name in ("batch_size", "parallel"):
            options.pop(name, None)
        return self._stream(query, "query", options)

    def token_count(
        self,
        texts: str | Iterable[str],
        batch_size: int = 1024,  # noqa: ARG002
    ) -> int:
        """Tokens of all texts together as documents, before any cut; special tokens count."""
        return int(self.model.token_count(_several(texts), role="document").sum())

    def _stream(
        self, texts: str | Iterable[str], role: RoleName, options: dict[str, Any]
    ) -> Iterator[Any]:
        found = self.model.encode_iter(_several(texts), role=role, **{**self._extra, **options})
        return map(self._finish, found)

    def _finish(self, vector: Any) -> Any:
        """The result of a text in fastembed's form."""
        return vector


class TextEmbedding(Embedder):
    """TesseraDense under the name of fastembed: (dimension,) float32 a text.

    `prompts=True` puts the model's own words before queries and documents. Without it texts are
    read as they are, as by fastembed, whose users write such words themselves.
    """

    _kind: ClassVar[Kind] = "dense"

    def __init__(
        self,
        model_name: str | None = "BAAI/bge-small-en-v1.5",
        *args: Any,
        prompts: bool = False,
        **options: Any,
    ) -> None:
        """Open a model; the other arguments and errors are those of `Base`."""
        self._extra = {} if prompts else {"prompt": ""}
        super().__init__(model_name, *args, **options)


class SparseTextEmbedding(Embedder):
    """TesseraSparse under the name of fastembed: a SparseEmbedding a text."""

    _kind: ClassVar[Kind] = "sparse"

    def _finish(self, vector: Any) -> SparseEmbedding:
        return SparseEmbedding(vector.values, vector.indices)


class LateInteractionTextEmbedding(Embedder):
    """TesseraMultiVector under the name of fastembed: (n_tokens, dimension) float32 a text.

    Queries are read as the authors of the model do, and not by fastembed's own rules.
    """

    _kind: ClassVar[Kind] = "multi-vector"

    def token_count(
        self,
        texts: str | Iterable[str],
        batch_size: int = 1024,  # noqa: ARG002
        is_doc: bool = True,  # noqa: FBT001, FBT002 (fastembed's signature)
        include_extension: bool = False,  # noqa: FBT001, FBT002
    ) -> int:
        """Tokens of all texts together, as documents or as queries, before any cut.

        `include_extension` counts the markers, and the tokens that fill a query up.
        """
        role = "document" if is_doc else "query"
        facts = getattr(self.model.spec.multi_vector, role)
        counts = self.model.token_count(_several(texts), role=role)
        if not include_extension:
            counts = counts - len(facts.marker_ids)
        elif facts.expansion != "none":
            counts = np.maximum(counts, facts.max_length)
        return int(counts.sum())


def _several(texts: str | Iterable[str]) -> Iterable[str]:
    """One text as a list of it; several unchanged."""
    return [texts] if is_text(texts) else texts

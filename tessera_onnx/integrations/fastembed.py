"""The classes of fastembed 0.9 by their names and signatures: the import is what a user changes.

Batches are made by tokens and run on all threads, so `batch_size` and `parallel` of the methods
change nothing. Streams are encoded in bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from tessera_onnx.integrations.fastembed_base import Base
from tessera_onnx.integrations.fastembed_images import (
    ImageEmbedding,
    LateInteractionMultimodalEmbedding,
)
from tessera_onnx.integrations.fastembed_texts import (
    LateInteractionTextEmbedding,
    SparseEmbedding,
    SparseTextEmbedding,
    TextEmbedding,
)
from tessera_onnx.models.spec import Kind

__all__ = [
    "ImageEmbedding",
    "LateInteractionMultimodalEmbedding",
    "LateInteractionTextEmbedding",
    "SparseEmbedding",
    "SparseTextEmbedding",
    "TextCrossEncoder",
    "TextEmbedding",
]


class TextCrossEncoder(Base):
    """TesseraReranker under the name of fastembed: a raw score a pair, before any activation."""

    _kind: ClassVar[Kind] = "reranker"

    def rerank(
        self,
        query: str,
        documents: Iterable[str],
        batch_size: int = 64,  # noqa: ARG002
        **options: Any,
    ) -> Iterator[float]:
        """The score of each document, in their order; errors of `TesseraReranker.score`."""
        found = self.model.score(query, documents, **{"activation": "raw"} | options)
        yield from found.tolist()

    def rerank_pairs(
        self,
        pairs: Iterable[tuple[str, str]],
        batch_size: int = 64,  # noqa: ARG002
        parallel: int | None = None,  # noqa: ARG002
        **options: Any,
    ) -> Iterator[float]:
        """The score of each (query, document), in their order."""
        found = self.model.score_pairs(pairs, **{"activation": "raw"} | options)
        yield from found.tolist()

    def token_count(
        self,
        pairs: Iterable[tuple[str, str]],
        batch_size: int = 1024,  # noqa: ARG002
    ) -> int:
        """Tokens of all pairs together, before any cut; special tokens count."""
        prepared = (self.model.prepare(query, [document])[0] for query, document in pairs)
        return sum(each.count for each in prepared)

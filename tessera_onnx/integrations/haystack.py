"""Haystack: embedders of queries and documents, dense and sparse, and two rankers.

A model is opened by `warm_up` or by the first run. A pipeline that is loaded from YAML needs
`allowed_modules=["tessera_onnx.integrations.haystack"]`.
"""

import dataclasses
from typing import Any

from tessera_onnx.checks import check_top_k
from tessera_onnx.integrations.haystack_base import (
    Component,
    Document,
    DocumentEmbedder,
    SparseEmbedding,
    TextEmbedder,
    component,
    texts_of,
)
from tessera_onnx.integrations.scorers import open_scorer
from tessera_onnx.text.dense import TesseraDense
from tessera_onnx.text.multi_vector import TesseraMultiVector
from tessera_onnx.text.sparse import TesseraSparse


@component
class TesseraTextEmbedder(TextEmbedder):
    """The dense vector of a query, as a list of floats."""

    _open = TesseraDense

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """{"embedding": the vector}. Raises the errors of `TesseraDense.encode_query`."""
        return {"embedding": self.vector(text).tolist()}


@component
class TesseraDocumentEmbedder(DocumentEmbedder):
    """The dense vectors of documents, as lists of floats."""

    _open = TesseraDense

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """{"documents": copies with `embedding`}. Raises the errors of `TesseraDense`."""
        found = zip(documents, self.vectors(documents).tolist(), strict=True)
        return {"documents": [dataclasses.replace(d, embedding=v) for d, v in found]}


@component
class TesseraSparseTextEmbedder(TextEmbedder):
    """The sparse vector of a query."""

    _open = TesseraSparse

    @component.output_types(sparse_embedding=SparseEmbedding)
    def run(self, text: str) -> dict[str, Any]:
        """{"sparse_embedding": the vector}. Raises the errors of `TesseraSparse.encode_query`."""
        return {"sparse_embedding": SparseEmbedding(**self.vector(text).to_qdrant())}


@component
class TesseraSparseDocumentEmbedder(DocumentEmbedder):
    """The sparse vectors of documents."""

    _open = TesseraSparse

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """{"documents": copies with `sparse_embedding`}. Raises the errors of `TesseraSparse`."""
        found = zip(documents, self.vectors(documents), strict=True)
        made = ((each, SparseEmbedding(**vector.to_qdrant())) for each, vector in found)
        return {"documents": [dataclasses.replace(d, sparse_embedding=v) for d, v in made]}


@component
class TesseraRanker(Component):
    """Documents sorted by a reranker, or by a multi-vector model; copies with their score."""

    _open: Any = staticmethod(open_scorer)

    def __init__(  # noqa: PLR0917
        self,
        model: str | None = None,
        top_k: int = 10,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        score_threshold: float | None = None,
        model_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Keep the arguments: `score_threshold` is the least score of a document that is kept.

        Raises TypeError or ConfigError for a `top_k` below 1.
        """
        check_top_k(top_k, 0)
        self.model, self.top_k, self.model_kwargs = model, top_k, model_kwargs
        self.meta_fields_to_embed = meta_fields_to_embed
        self.embedding_separator = embedding_separator
        self.score_threshold = score_threshold

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, Any]:
        """{"documents": the `top_k` best, best first}. Raises the errors of the model's `rank`."""
        texts = texts_of(documents, self.meta_fields_to_embed, self.embedding_separator)
        ranked = self.opened.rank(query, texts, self.top_k if top_k is None else top_k)
        least = float("-inf") if self.score_threshold is None else self.score_threshold
        best = [row for row in ranked if row.score >= least]
        return {"documents": [dataclasses.replace(documents[i], score=s) for i, s in best]}


@component
class TesseraLateInteractionRanker(TesseraRanker):
    """Documents sorted by the MaxSim of a multi-vector model."""

    _open = TesseraMultiVector

"""LangChain: embeddings, and a document compressor that reranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tessera_onnx.errors import install_hint
from tessera_onnx.integrations.scorers import open_scorer
from tessera_onnx.text.dense import TesseraDense
from tessera_onnx.text.tokenizer import check_text, check_texts

try:
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.embeddings import Embeddings
    from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
except ImportError as error:
    raise ImportError(f"LangChain needs langchain-core: {install_hint('langchain')}") from error


class TesseraEmbeddings(BaseModel, Embeddings):
    """Dense vectors as lists of floats. The asynchronous methods run in a thread.

    Attributes:
        model: id, folder or repository of a dense model; None takes the first installed.
        model_kwargs: options of `TesseraDense`, such as {"precision": "fp32", "dimension": 256}.
        encode_kwargs: options of `encode_document`, such as {"task": "clustering"}.
        query_encode_kwargs: those of `encode_query`, such as {"prompt": "Find the rule: "}.
    """

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    encode_kwargs: dict[str, Any] = Field(default_factory=dict)
    query_encode_kwargs: dict[str, Any] = Field(default_factory=dict)
    _model: TesseraDense = PrivateAttr()

    def model_post_init(self, context: Any) -> None:  # noqa: ARG002
        """Open the model. Raises what `TesseraDense` raises."""
        self._model = TesseraDense(self.model, **self.model_kwargs)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vector of each document. Raises the errors of `TesseraDense.encode_batch`."""
        vectors = self._model.encode_document(check_texts(texts), **self.encode_kwargs)
        found: list[list[float]] = vectors.tolist()
        return found

    def embed_query(self, text: str) -> list[float]:
        """The vector of one query, with the model's prompt for queries if it has one."""
        vector = self._model.encode_query(check_text(text, "text"), **self.query_encode_kwargs)
        found: list[float] = vector.tolist()
        return found


class TesseraRerank(BaseDocumentCompressor):
    """Keep the `top_n` documents that a reranker, or a multi-vector model, scores highest.

    They are copies, best first, with the score in `metadata["relevance_score"]`.

    Attributes:
        model: id, folder or repository; None takes the first installed reranker.
        top_n: documents to keep; None keeps all.
        model_kwargs: options of `TesseraReranker` or `TesseraMultiVector`.
    """

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    top_n: int | None = 3
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    _model: Any = PrivateAttr()

    def model_post_init(self, context: Any) -> None:  # noqa: ARG002
        """Open the model. Raises what `open_scorer` raises."""
        self._model = open_scorer(self.model, **self.model_kwargs)

    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Any = None,  # noqa: ARG002
    ) -> list[Document]:
        """The best documents. Raises the errors of the model's `rank`."""
        ranked = self._model.rank(query, [each.page_content for each in documents], self.top_n)
        return [_scored(documents[row.index], row.score) for row in ranked]


def _scored(document: Document, score: float) -> Document:
    """A copy of a document with its score."""
    metadata = {**document.metadata, "relevance_score": score}
    return document.model_copy(update={"metadata": metadata})

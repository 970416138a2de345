"""LangChain's Qdrant store: sparse embeddings."""

from __future__ import annotations

from typing import Any

from tessera_onnx.errors import install_hint
from tessera_onnx.text.sparse import TesseraSparse
from tessera_onnx.text.tokenizer import check_text, check_texts

try:
    from langchain_qdrant import SparseEmbeddings, SparseVector
except ImportError as error:
    raise ImportError(
        f"sparse embeddings of LangChain need langchain-qdrant: {install_hint('langchain-qdrant')}"
    ) from error


class TesseraSparseEmbeddings(SparseEmbeddings):
    """Sparse vectors (SPLADE, BM25) of a QdrantVectorStore. Asynchronous methods run in a thread.

    BM25 and BM42 need `sparse_vector_params={"modifier": Modifier.IDF}` in that store.
    """

    def __init__(self, model: str | None = None, **model_kwargs: Any) -> None:
        """Open a sparse model with the options of `TesseraSparse`, whose errors are raised."""
        self._model = TesseraSparse(model, **model_kwargs)

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        """The vector of each document. Raises the errors of `TesseraSparse.encode_batch`."""
        found = self._model.encode_document(check_texts(texts))
        return [SparseVector(**vector.to_qdrant()) for vector in found]

    def embed_query(self, text: str) -> SparseVector:
        """The vector of one query."""
        return SparseVector(**self._model.encode_query(check_text(text, "text")).to_qdrant())

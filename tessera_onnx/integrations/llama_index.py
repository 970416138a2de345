"""LlamaIndex: dense and sparse embeddings, a node postprocessor that reranks; async in a thread."""

from __future__ import annotations

import asyncio
from typing import Any

from tessera_onnx.errors import ConfigError, install_hint
from tessera_onnx.integrations.scorers import open_scorer
from tessera_onnx.text.dense import TesseraDense
from tessera_onnx.text.sparse import TesseraSparse
from tessera_onnx.text.tokenizer import check_text, check_texts

try:
    from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
    from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
    from llama_index.core.embeddings import BaseEmbedding
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
except ImportError as error:
    raise ImportError(f"LlamaIndex needs its core: {install_hint('llama-index')}") from error

BATCH = 2048  # the most that LlamaIndex allows; the model makes batches by length inside of it


class _Named:
    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex stores this component."""
        return cls.__name__


class _Embedding(_Named):
    """The methods that a dense and a sparse embedding share; `_vectors` gives the vectors."""

    _vectors: Any

    def _get_query_embedding(self, query: str) -> Any:
        return self._vectors("query", [check_text(query, "query")])[0]

    async def _aget_query_embedding(self, query: str) -> Any:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _get_text_embedding(self, text: str) -> Any:
        return self._vectors("document", [check_text(text, "text")])[0]

    async def _aget_text_embedding(self, text: str) -> Any:
        return await asyncio.to_thread(self._get_text_embedding, text)

    def _get_text_embeddings(self, texts: list[str]) -> list[Any]:
        found: list[Any] = self._vectors("document", check_texts(texts))
        return found

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Any]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


class TesseraEmbedding(_Embedding, BaseEmbedding):
    """Dense vectors as lists of floats; queries and texts have the prompts of the model.

    `model_name` is an id, folder or repository (None: the first installed model) and
    `model_kwargs` are options of `TesseraDense`, whose errors are raised. The instructions replace
    the model's own prompts.
    """

    model_config = ConfigDict(extra="forbid")
    model_name: str | None = None
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    query_instruction: str | None = None
    text_instruction: str | None = None
    embed_batch_size: int = Field(default=BATCH, gt=0, le=BATCH)
    _model: TesseraDense = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Open the model."""
        super().model_post_init(context)
        self._model = TesseraDense(self.model_name, **self.model_kwargs)

    def _vectors(self, role: str, texts: list[str]) -> Any:
        if role == "query":
            return self._model.encode_query(texts, prompt=self.query_instruction).tolist()
        return self._model.encode_document(texts, prompt=self.text_instruction).tolist()


class TesseraSparseEmbedding(_Embedding, BaseSparseEmbedding):
    """Sparse vectors as {index: weight}; arguments as for `TesseraEmbedding`.

    `sparse_doc_fn` and `sparse_query_fn` are what QdrantVectorStore takes under these names.
    """

    model_config = ConfigDict(extra="forbid")
    model_name: str | None = None
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    embed_batch_size: int = Field(default=BATCH, gt=0, le=BATCH)
    _model: TesseraSparse = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Open the model."""
        super().model_post_init(context)
        self._model = TesseraSparse(self.model_name, **self.model_kwargs)

    def _vectors(self, role: str, texts: list[str]) -> Any:
        encode = self._model.encode_query if role == "query" else self._model.encode_document
        return [vector.to_dict() for vector in encode(texts)]

    def sparse_doc_fn(self, texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        """Indices and values of the vector of each document."""
        return _lists(self._vectors("document", check_texts(texts)))

    def sparse_query_fn(self, texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        """Indices and values of the vector of each query."""
        return _lists(self._vectors("query", check_texts(texts)))


class TesseraRerank(_Named, BaseNodePostprocessor):
    """Keep the `top_n` nodes (None: all) that a reranker, or a multi-vector model, scores highest.

    The model reads the content that a node has for embedding. The nodes come best first, with the
    score of the model. `model` is an id, folder or repository (None: the first installed reranker).
    """

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    top_n: int | None = 2
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    _model: Any = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Open the model. Raises what `open_scorer` raises."""
        super().model_post_init(context)
        self._model = open_scorer(self.model, **self.model_kwargs)

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ConfigError("a reranker needs the query: give query_bundle or query_str")
        texts = [each.node.get_content(metadata_mode=MetadataMode.EMBED) for each in nodes]
        ranked = self._model.rank(query_bundle.query_str, texts, self.top_n)
        return [NodeWithScore(node=nodes[row.index].node, score=row.score) for row in ranked]


def _lists(vectors: list[dict[int, float]]) -> tuple[list[list[int]], list[list[float]]]:
    return [[*each] for each in vectors], [[*each.values()] for each in vectors]

"""One vector a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import pooling, quantization, scoring
from tessera_onnx.model import RoleName, TextModel
from tessera_onnx.quantization import Output
from tessera_onnx.registry import Dense, Kind, Role
from tessera_onnx.results import Ranked, check_top_k, ranking
from tessera_onnx.runtime import Array
from tessera_onnx.text import Batch

Float = NDArray[np.float32]


class TesseraDense(TextModel):
    """Texts as unit vectors, (dimension,) float32.

    A model that treats queries and documents differently has a prompt for each; `encode` means a
    document. An empty text has a vector too, that of the special tokens alone. Texts longer than
    the model reads are cut as `on_long` says, never silently by default.
    """

    _kind: ClassVar[Kind] = "dense"
    _recipe: Dense

    def encode(self, text: str) -> Float:
        """The vector of one document: (dimension,) float32, unit length.

        Raises TypeError for anything but a str, TokenizationError for a lone surrogate,
        InputTooLong with on_long="error", EncodingError when the graph fails.
        """
        vector: Float = self._encoder.one(text, self._document, self._head)
        return vector

    def encode_batch(
        self, texts: Iterable[str], *, progress: bool = False, output: Output = "float32"
    ) -> Any:
        """Vectors of documents: (n, dimension) float32 C-contiguous; (0, dimension) for no texts.

        output="int8" gives Int8Vectors, "binary" BinaryTokens. Every item is checked before the
        first is encoded; the errors of `encode` name the item's index.
        """
        quantization.check_output(output)
        results = self._encoder.encode(texts, self._document, self._head, progress=progress)
        return quantization.convert(self._stack(results), output)

    def encode_query(self, text: str | Iterable[str], *, output: Output = "float32") -> Any:
        """A query's vector (dimension,), or (n, dimension) for an iterable of queries."""
        return self._one_or_many(text, self._query, output)

    def encode_document(self, text: str | Iterable[str], *, output: Output = "float32") -> Any:
        """A document's vector (dimension,), or (n, dimension) for an iterable of documents."""
        return self._one_or_many(text, self._document, output)

    def encode_iter(
        self, texts: Iterable[str], *, role: RoleName = "document", progress: bool = False
    ) -> Iterator[Float]:
        """Vectors of a stream of texts, in order, in bounded memory.

        Reads up to 4,096 texts ahead. When an item is wrong or `texts` itself raises, the vectors
        of everything before it are yielded first.
        """
        return self._encoder.stream(texts, self._role(role), self._head, progress=progress)

    def similarity(self, a: str, b: str) -> float:
        """Cosine of query `a` and document `b`, in [-1, 1]."""
        left = self._encoder.one(a, self._query, self._head, name="a")
        return scoring.cosine(left, self._encoder.one(b, self._document, self._head, name="b"))

    def rank(
        self,
        query: str | Array,
        documents: Sequence[str] | Array,
        top_k: int | None = None,
    ) -> list[Ranked]:
        """Documents by falling cosine: (index, score), the first `top_k` or all.

        Either side may be given as vectors from an earlier call, (dimension,) and (n, dimension),
        taken as unit vectors.
        """
        check_top_k(top_k, 0)
        left = self.encode_query(query) if isinstance(query, str) else query
        right = (
            documents
            if isinstance(documents, np.ndarray)
            else self.encode_batch(scoring.as_list(documents))
        )
        return ranking(scoring.dense_scores(left, right), top_k)

    def dimension(self) -> int:
        """Components of a vector."""
        return self._dimension

    def _head(self, outputs: list[Array], batch: Batch) -> Float:
        states = outputs[0]
        if self._recipe.pooling != "graph":
            states = pooling.POOLINGS[self._recipe.pooling](states, batch.attention)
        if self._dimension == self._recipe.dimension:
            return pooling.l2_normalize(states)
        return quantization.matryoshka(
            states, self._dimension, layer_norm=self._recipe.matryoshka_layer_norm
        )

    def _stack(self, results: list[Float]) -> Float:
        if not results:
            return np.empty((0, self._dimension), dtype=np.float32)
        return np.stack(results)

    def _one_or_many(self, text: str | Iterable[str], role: Role, output: Output) -> Any:
        quantization.check_output(output)
        found = self._encoder.one_or_many(text, role, self._head)
        return quantization.convert(found if isinstance(text, str) else self._stack(found), output)

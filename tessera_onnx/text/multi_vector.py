"""TesseraMultiVector: one vector per token, compared by MaxSim (ColBERT, arXiv:2004.12832)."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import are_texts, check_top_k, is_text
from tessera_onnx.models.spec import Kind, MultiVector, TokenRole
from tessera_onnx.results import BinaryTokens, Int8Vectors, Ranked, Vectors, ranking
from tessera_onnx.runtime.session import Array
from tessera_onnx.runtime.workers import Event, Limit
from tessera_onnx.search.token_index import PackedTokens
from tessera_onnx.text import heads
from tessera_onnx.text.base import COMPARED, SEVERAL, TextModel
from tessera_onnx.text.options import Limits, PoolBatchOptions, PoolOptions, PoolStreamOptions
from tessera_onnx.text.reading import RoleName
from tessera_onnx.text.tokenizer import Batch, Head
from tessera_onnx.vectors import explain, quantization, scoring
from tessera_onnx.vectors.explain import Match
from tessera_onnx.vectors.quantization import OutputDtype

Float = NDArray[np.float32]
Tokens = Float | Int8Vectors | BinaryTokens  # the token vectors of one text


class TesseraMultiVector(TextModel):
    """Encode texts to one unit vector per token, (n_tokens, dimension) float32.

    Queries and documents differ in marker token, length and query expansion, as the model's recipe
    says. `encode` and `encode_batch` read a text as a document, unless the model has a prompt for
    texts of neither role (`plain` in its recipe). Tokens on the recipe's skip list (punctuation,
    for ColBERT) are read but have no row, unless no row would be left. Every text, also an empty
    one, has at least one row.
    """

    _kind: ClassVar[Kind] = "multi-vector"
    _recipe: MultiVector

    def encode(self, text: str) -> Float:
        """Encode one text as a document: (n_tokens, dimension) float32, unit rows.

        Raises TypeError for anything but a str, TokenizationError for a lone surrogate,
        InputTooLong with on_long="error", EncodingError when the graph fails.
        """
        head = self._head(self._plain)
        tokens: Float = self._encoder.one(text, self._plain, head, several=SEVERAL)
        return tokens

    @overload
    def encode_batch(
        self,
        texts: Iterable[str],
        *,
        output_dtype: Literal["float32"] = ...,
        **options: Unpack[PoolBatchOptions],
    ) -> list[Float]: ...

    @overload
    def encode_batch(
        self,
        texts: Iterable[str],
        *,
        output_dtype: Literal["int8"],
        **options: Unpack[PoolBatchOptions],
    ) -> list[Int8Vectors]: ...

    @overload
    def encode_batch(
        self,
        texts: Iterable[str],
        *,
        output_dtype: Literal["binary"],
        **options: Unpack[PoolBatchOptions],
    ) -> list[BinaryTokens]: ...

    def encode_batch(
        self,
        texts: Iterable[str],
        *,
        progress: bool = False,
        output_dtype: OutputDtype = "float32",
        pool_factor: int = 1,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Sequence[Tokens]:
        """Encode texts: a list of (n_tokens, dimension) float32 arrays; [] for no texts.

        output_dtype="int8" gives Int8Vectors and "binary" gives BinaryTokens. `pool_factor` k keeps
        about 1 row in k by merging similar rows (see pooling.pool_tokens). All items are checked
        before the first is encoded. Raises the errors of `encode`, with the item's `index`. After
        `timeout` seconds, or when another thread sets the event `cancel`, no further batch starts
        and TimedOut or Cancelled is raised; the model can be used as before.
        """
        limit = Limit(timeout, cancel)
        heads.check_output(output_dtype, pool_factor)
        role = self._plain
        results = self._encoder.encode(
            texts, role, self._head(role), progress=progress, limit=limit
        )
        return [heads.convert_tokens(tokens, output_dtype, pool_factor) for tokens in results]

    @overload
    def encode_query(  # type: ignore[overload-overlap]
        self, text: str, *, output_dtype: Literal["float32"] = ..., **options: Unpack[Limits]
    ) -> Float: ...

    @overload
    def encode_query(  # type: ignore[overload-overlap]
        self, text: str, *, output_dtype: Literal["int8"], **options: Unpack[Limits]
    ) -> Int8Vectors: ...

    @overload
    def encode_query(  # type: ignore[overload-overlap]
        self, text: str, *, output_dtype: Literal["binary"], **options: Unpack[Limits]
    ) -> BinaryTokens: ...

    @overload
    def encode_query(
        self,
        text: Iterable[str],
        *,
        output_dtype: Literal["float32"] = ...,
        **options: Unpack[Limits],
    ) -> list[Float]: ...

    @overload
    def encode_query(
        self, text: Iterable[str], *, output_dtype: Literal["int8"], **options: Unpack[Limits]
    ) -> list[Int8Vectors]: ...

    @overload
    def encode_query(
        self, text: Iterable[str], *, output_dtype: Literal["binary"], **options: Unpack[Limits]
    ) -> list[BinaryTokens]: ...

    def encode_query(
        self,
        text: str | Iterable[str],
        *,
        output_dtype: OutputDtype = "float32",
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Tokens | Sequence[Tokens]:
        """Encode one query, (n_tokens, dimension), or an iterable of queries, a list of these.

        `output_dtype`, `timeout`, `cancel` and errors are those of `encode_batch`.
        """
        limit = Limit(timeout, cancel)
        heads.check_output(output_dtype, 1)
        found = self._encoder.one_or_many(text, self._query, self._head(self._query), limit)
        if is_text(text):
            return heads.convert_tokens(found, output_dtype, 1)
        return [heads.convert_tokens(tokens, output_dtype, 1) for tokens in found]

    @overload
    def encode_document(  # type: ignore[overload-overlap]
        self, text: str, *, output_dtype: Literal["float32"] = ..., **options: Unpack[PoolOptions]
    ) -> Float: ...

    @overload
    def encode_document(  # type: ignore[overload-overlap]
        self, text: str, *, output_dtype: Literal["int8"], **options: Unpack[PoolOptions]
    ) -> Int8Vectors: ...

    @overload
    def encode_document(  # type: ignore[overload-overlap]
        self, text: str, *, output_dtype: Literal["binary"], **options: Unpack[PoolOptions]
    ) -> BinaryTokens: ...

    @overload
    def encode_document(
        self,
        text: Iterable[str],
        *,
        output_dtype: Literal["float32"] = ...,
        **options: Unpack[PoolOptions],
    ) -> list[Float]: ...

    @overload
    def encode_document(
        self, text: Iterable[str], *, output_dtype: Literal["int8"], **options: Unpack[PoolOptions]
    ) -> list[Int8Vectors]: ...

    @overload
    def encode_document(
        self,
        text: Iterable[str],
        *,
        output_dtype: Literal["binary"],
        **options: Unpack[PoolOptions],
    ) -> list[BinaryTokens]: ...

    def encode_document(
        self,
        text: str | Iterable[str],
        *,
        output_dtype: OutputDtype = "float32",
        pool_factor: int = 1,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Tokens | Sequence[Tokens]:
        """Encode one document, (n_tokens, dimension), or an iterable of documents, a list of these.

        The other arguments and errors are those of `encode_batch`.
        """
        heads.check_output(output_dtype, pool_factor)
        head, limit = self._head(self._document), Limit(timeout, cancel)
        found = self._encoder.one_or_many(text, self._document, head, limit)
        if is_text(text):
            return heads.convert_tokens(found, output_dtype, pool_factor)
        return [heads.convert_tokens(tokens, output_dtype, pool_factor) for tokens in found]

    @overload
    def encode_iter(
        self,
        texts: Iterable[str],
        *,
        output_dtype: Literal["float32"] = ...,
        **options: Unpack[PoolStreamOptions],
    ) -> Iterator[Float]: ...

    @overload
    def encode_iter(
        self,
        texts: Iterable[str],
        *,
        output_dtype: Literal["int8"],
        **options: Unpack[PoolStreamOptions],
    ) -> Iterator[Int8Vectors]: ...

    @overload
    def encode_iter(
        self,
        texts: Iterable[str],
        *,
        output_dtype: Literal["binary"],
        **options: Unpack[PoolStreamOptions],
    ) -> Iterator[BinaryTokens]: ...

    def encode_iter(
        self,
        texts: Iterable[str],
        *,
        role: RoleName = "plain",
        progress: bool = False,
        output_dtype: OutputDtype = "float32",
        pool_factor: int = 1,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Iterator[Tokens]:
        """Encode a stream of texts in bounded memory; yields their token vectors in order.

        Each result is what `encode_batch` gives for the text. Up to 4,096 texts are read ahead.
        When an item is wrong or `texts` itself raises, the results before it are yielded first.
        `timeout` counts from this call; after it, or when `cancel` is set, TimedOut or Cancelled is
        raised in place of the next result.
        """
        limit = Limit(timeout, cancel)
        heads.check_output(output_dtype, pool_factor)
        finish = functools.partial(
            heads.convert_tokens, output_dtype=output_dtype, pool_factor=pool_factor
        )
        head = self._head(self._role(role))
        return self._encoder.stream(
            texts, self._role(role), head, progress=progress, limit=limit, finish=finish
        )

    def similarity(self, a: str | Vectors, b: str | Vectors) -> float:
        """MaxSim of query `a` and document `b`: in [-n, n] for n query tokens.

        Each is a text, or token vectors made earlier: a float array (n_tokens, dimension),
        Int8Vectors, or BinaryTokens, whose bits count as +1 and -1 divided by the root of the
        dimension. Raises the errors of `encode` for a text, ConfigError for vectors with no rows,
        NaN or infinity, DimensionMismatch when the dimensions differ.
        """
        left = self._tokens(a, self._query, "a")
        right = self._tokens(b, self._document, "b")
        return float(self.score(left, [right])[0])

    def score(
        self,
        query: str | Vectors,
        documents: Iterable[str] | Iterable[Vectors] | PackedTokens,
        *,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Float:
        """MaxSim of one query with each document: (len(documents),) float32.

        Query and documents are texts, or token vectors made earlier in the forms of `similarity`;
        PackedTokens is the fastest. A model whose recipe says score = "mean" (bge-m3) divides by
        the number of query tokens. `timeout` and `cancel` are those of `encode_batch`. Raises the
        errors of `similarity`.
        """
        Limit(timeout, cancel).check()
        left: Any = self.encode_query(query) if is_text(query) else query
        if isinstance(documents, PackedTokens):
            scores = documents.score(left)
        else:
            right = scoring.as_list(documents, "texts or token vectors")
            if right and are_texts(right):
                right = self.encode_document(right, timeout=timeout, cancel=cancel)
            scores = scoring.maxsim_scores(left, right)
        return scores / np.float32(len(left)) if self._recipe.score == "mean" else scores

    def rank(
        self,
        query: str | Vectors,
        documents: Iterable[str] | Iterable[Vectors] | PackedTokens,
        top_k: int | None = None,
        *,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> list[Ranked]:
        """Rank documents by MaxSim, highest first: the `top_k` best, or all.

        The arguments and errors are those of `score`. Rows of a PackedTokens index carry its ids.
        """
        check_top_k(top_k, 0)
        Limit(timeout, cancel).check()
        if isinstance(documents, PackedTokens):
            left: Any = self.encode_query(query) if is_text(query) else query
            rows = documents.rank(left, top_k)
            if self._recipe.score == "mean":
                rows = [row._replace(score=row.score / len(left)) for row in rows]
            return rows
        scores = self.score(query, documents, timeout=timeout, cancel=cancel)
        return ranking(scores, top_k)

    def quantize(self, tokens: Array) -> BinaryTokens:
        """Sign bits of token vectors (n_tokens, dimension): 1 where a component is above 0.

        Raises QuantizationError for NaN or infinity.
        """
        return quantization.binary(tokens)

    def encode_quantized(self, text: str) -> BinaryTokens:
        """Encode one text to sign bits: `quantize(encode(text))`."""
        return quantization.binary(self.encode(text))

    def similarity_quantized(self, a: BinaryTokens, b: BinaryTokens) -> float:
        """MaxSim of the sign bits of query `a` and document `b`, in the range of `similarity`.

        Raises ConfigError when either has no rows, DimensionMismatch when the dimensions differ.
        """
        score = scoring.maxsim_binary(a, b)
        return score / len(a) if self._recipe.score == "mean" else score

    def explain(self, query: str, document: str) -> list[Match]:
        """Explain a MaxSim score: for each query token its best document token and their product.

        The products are in [-1, 1]. Their sum is `similarity(query, document)`; a model that
        averages ("mean") has their mean.
        """
        left, left_tokens = self._with_tokens(query, self._query, "query")
        right, right_tokens = self._with_tokens(document, self._document, "document")
        return explain.matches(left, right, left_tokens, right_tokens)

    def tokens(self, text: str, *, role: RoleName = "plain") -> list[str]:
        """The token of each row of a text's vectors, as the vocabulary spells it."""
        return self._with_tokens(text, self._role(role), "text")[1]

    def dimension(self) -> int:
        """Number of dimensions of a token vector."""
        return self._dimension

    def _kind_head(self, role: RoleName, dimension: int | None, *, normalize: bool) -> Head:  # noqa: ARG002
        size = self._dimension if dimension is None else self._width(dimension)
        steps = self._modules.get(self._kind)
        return heads.multi_vector_head(self._recipe, size, self._role(role), steps)

    def _head(self, role: TokenRole) -> Head:
        modules = self._modules.get(self._kind)
        return heads.multi_vector_head(self._recipe, self._dimension, role, modules)

    def _tokens(self, value: Any, role: TokenRole, name: str) -> Any:
        """The token vectors of a text, or vectors made earlier, checked and unchanged."""
        if not scoring.are_vectors(value):
            return self._encoder.one(value, role, self._head(role), name=name, several=COMPARED)
        scoring.matrix(name, value)  # raises here, where the argument's name is known
        return value

    def _with_tokens(self, text: str, role: TokenRole, name: str) -> tuple[Float, list[str]]:
        vectors = self._head(role)

        def apply(outputs: list[Array], batch: Batch) -> list[tuple[Float, list[str]]]:
            kept = heads.kept_tokens(batch, self._recipe, role)
            names = [self._encoder.tokenizer.token(i) for i in batch.ids[0][kept[0]]]
            return [(vectors.apply(outputs, batch)[0], names)]

        head = Head(vectors.outputs, apply)
        found: tuple[Float, list[str]] = self._encoder.one(text, role, head, name=name)
        return found

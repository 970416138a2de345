"""One vector a token: ColBERT-style late interaction (arXiv:2004.12832)."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import are_texts, check_top_k, is_text
from tessera_onnx.models.spec import Kind, MultiVector, TokenRole
from tessera_onnx.results import BinaryTokens, Int8Vectors, Ranked, ranking
from tessera_onnx.runtime.session import Array
from tessera_onnx.runtime.workers import Event, Limit
from tessera_onnx.search.token_index import PackedTokens
from tessera_onnx.text import heads
from tessera_onnx.text.base import COMPARED, SEVERAL, RoleName, TextModel
from tessera_onnx.text.tokenizer import Batch, Head
from tessera_onnx.vectors import explain, quantization, scoring
from tessera_onnx.vectors.explain import Match
from tessera_onnx.vectors.quantization import OutputDtype

Float = NDArray[np.float32]
Made = np.ndarray | Int8Vectors | BinaryTokens  # vectors of an earlier call


class TesseraMultiVector(TextModel):
    """Texts as one unit vector a token, (n_tokens, dimension) float32, compared by MaxSim.

    Queries and documents differ in marker, length and expansion as the model's recipe says;
    `encode` means a document, unless the model has a prompt for texts of neither role (its recipe's
    `plain`). Tokens on the recipe's skip list (punctuation, for ColBERT) are read
    but have no row, unless that would leave no row at all.
    """

    _kind: ClassVar[Kind] = "multi-vector"
    _recipe: MultiVector

    def encode(self, text: str) -> Float:
        """The token vectors of one text: (n_tokens, dimension) float32, unit rows.

        Raises TypeError for anything but a str, TokenizationError for a lone surrogate,
        InputTooLong with on_long="error", EncodingError when the graph fails.
        """
        head = self._head(self._plain)
        tokens: Float = self._encoder.one(text, self._plain, head, several=SEVERAL)
        return tokens

    def encode_batch(
        self,
        texts: Iterable[str],
        *,
        progress: bool = False,
        output_dtype: OutputDtype = "float32",
        pool_factor: int = 1,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> list[Any]:
        """A list of (n_tokens, dimension) arrays, one a text; [] for no texts.

        output_dtype="int8" gives Int8Vectors, "binary" BinaryTokens. `pool_factor` 2 keeps about
        half of the rows: like rows are merged (see pooling.pool_tokens). After `timeout` seconds,
        or when another thread sets the event `cancel`, no further batch is begun and TimedOut or
        Cancelled is raised; the model can be used as before.
        """
        limit = Limit(timeout, cancel)
        heads.check_output(output_dtype, pool_factor)
        role = self._plain
        results = self._encoder.encode(
            texts, role, self._head(role), progress=progress, limit=limit
        )
        return [heads.convert_tokens(tokens, output_dtype, pool_factor) for tokens in results]

    def encode_query(
        self,
        text: str | Iterable[str],
        *,
        output_dtype: OutputDtype = "float32",
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Any:
        """A query's token vectors, or a list of them for an iterable of queries.

        `output_dtype`, `timeout` and `cancel` as for `encode_batch`.
        """
        limit = Limit(timeout, cancel)
        heads.check_output(output_dtype, 1)
        found = self._encoder.one_or_many(text, self._query, self._head(self._query), limit)
        if is_text(text):
            return heads.convert_tokens(found, output_dtype, 1)
        return [heads.convert_tokens(tokens, output_dtype, 1) for tokens in found]

    def encode_document(
        self,
        text: str | Iterable[str],
        *,
        output_dtype: OutputDtype = "float32",
        pool_factor: int = 1,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Any:
        """A document's token vectors, or a list of them for an iterable of documents.

        The other arguments as for `encode_batch`.
        """
        heads.check_output(output_dtype, pool_factor)
        head, limit = self._head(self._document), Limit(timeout, cancel)
        found = self._encoder.one_or_many(text, self._document, head, limit)
        if is_text(text):
            return heads.convert_tokens(found, output_dtype, pool_factor)
        return [heads.convert_tokens(tokens, output_dtype, pool_factor) for tokens in found]

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
    ) -> Iterator[Any]:
        """Token vectors of a stream of texts, in order, in bounded memory.

        Each is what `encode_batch` gives for it. Reads up to 4,096 texts ahead. When an item is
        wrong or `texts` itself raises, the vectors of everything before it are yielded first.
        `timeout` counts from this call; after it, or when `cancel` is set, the next result is
        TimedOut or Cancelled.
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

    def similarity(self, a: str | Made, b: str | Made) -> float:
        """MaxSim of query `a` with document `b`, in [-n, n] for n query tokens.

        Each is a text, or its token vectors made earlier: a float array (n, dimension),
        Int8Vectors or BinaryTokens, whose bits count as +1 and -1 over the root of the dimension.
        """
        left = self._tokens(a, self._query, "a")
        right = self._tokens(b, self._document, "b")
        return float(self.score(left, [right])[0])

    def score(
        self,
        query: str | Made,
        documents: Iterable[str] | Sequence[Made] | PackedTokens,
        *,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Float:
        """MaxSim of one query with each document: (len(documents),) float32.

        Texts are encoded; vectors from an earlier call are float arrays, Int8Vectors or
        BinaryTokens, as `similarity` takes them. PackedTokens are the
        fastest. A recipe with score = "mean" (bge-m3) divides by the number of query tokens.
        `timeout` and `cancel` as for `encode_batch`.
        """
        Limit(timeout, cancel).check()
        left = self.encode_query(query) if is_text(query) else query
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
        query: str | Made,
        documents: Iterable[str] | Sequence[Made] | PackedTokens,
        top_k: int | None = None,
        *,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> list[Ranked]:
        """Documents by falling MaxSim: (index, score), the first `top_k` or all.

        All is as `score` takes it; the documents of PackedTokens bring their ids.
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
        """Sign bits of token vectors (n, dim), 32 times smaller."""
        return quantization.binary(tokens)

    def encode_quantized(self, text: str) -> BinaryTokens:
        """`quantize(encode(text))`."""
        return quantization.binary(self.encode(text))

    def similarity_quantized(self, a: BinaryTokens, b: BinaryTokens) -> float:
        """MaxSim of sign bits of a query `a` and a document `b`, on the scale of `similarity`."""
        score = scoring.maxsim_binary(a, b)
        return score / len(a) if self._recipe.score == "mean" else score

    def explain(self, query: str, document: str) -> list[Match]:
        """For each query token the document token that answers it best, and their dot product.

        The scores add up to `similarity(query, document)` (times n where the recipe averages).
        """
        left, left_tokens = self._with_tokens(query, self._query, "query")
        right, right_tokens = self._with_tokens(document, self._document, "document")
        return explain.matches(left, right, left_tokens, right_tokens)

    def tokens(self, text: str, *, role: RoleName = "plain") -> list[str]:
        """The vocabulary entries that the rows of a text's vectors stand for."""
        return self._with_tokens(text, self._role(role), "text")[1]

    def dimension(self) -> int:
        """Components of a token vector."""
        return self._dimension

    def _head(self, role: TokenRole) -> Head:
        return heads.multi_vector(self._recipe, self._dimension, role)

    def _tokens(self, value: Any, role: TokenRole, name: str) -> Any:
        """A text's token vectors, or those made earlier in the form in which they are."""
        if not scoring.are_vectors(value):
            return self._encoder.one(value, role, self._head(role), name=name, several=COMPARED)
        scoring.matrix(name, value)  # what is wrong with them bears the argument's name
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

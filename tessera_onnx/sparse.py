"""A weight a vocabulary entry: SPLADE and its inference-free relatives (arXiv:2107.05720)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import explain, heads, scoring
from tessera_onnx.errors import LoadError
from tessera_onnx.model import RoleName, TextModel
from tessera_onnx.postings import PackedSparse
from tessera_onnx.results import Ranked, SparseVector, check_top_k, ranking
from tessera_onnx.schema import Kind, Sparse
from tessera_onnx.text import Head


class TesseraSparse(TextModel):
    """Texts as sparse vectors over the vocabulary, compared by dot product, never normalised.

    Models whose queries need no inference weigh the query's tokens from a table; `encode` means a
    document, unless the model has a prompt for texts of neither role (its recipe's `plain`).
    """

    _kind: ClassVar[Kind] = "sparse"
    _recipe: Sparse
    _head: Head
    _query_head: Head

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See Model; `dimension` does not apply."""
        super().__init__(*args, **kwargs)
        self._head = heads.sparse(self._recipe)
        self._query_head = self._head
        if self._recipe.query_weights != "model":
            self._query_head = heads.lookup(self._load_query_table())

    def encode(self, text: str) -> SparseVector:
        """One text: (indices int32 ascending, values float32 > 0).

        Raises TypeError for anything but a str, TokenizationError for a lone surrogate,
        InputTooLong with on_long="error", EncodingError when the graph fails.
        """
        vector: SparseVector = self._encoder.one(text, self._plain, self._head)
        return vector

    def encode_batch(self, texts: Iterable[str], *, progress: bool = False) -> list[SparseVector]:
        """One SparseVector a text; [] for no texts. Errors name the item's index."""
        found: list[SparseVector]
        found = self._encoder.encode(texts, self._plain, self._head, progress=progress)
        return found

    def encode_query(self, text: str | Iterable[str]) -> Any:
        """A query's SparseVector, or a list of them for an iterable of queries."""
        return self._encoder.one_or_many(text, self._query, self._query_head)

    def encode_document(self, text: str | Iterable[str]) -> Any:
        """A document's SparseVector, or a list of them for an iterable of documents."""
        return self._encoder.one_or_many(text, self._document, self._head)

    def encode_iter(
        self, texts: Iterable[str], *, role: RoleName = "plain", progress: bool = False
    ) -> Iterator[SparseVector]:
        """SparseVectors of a stream of texts, in order, in bounded memory.

        Reads up to 4,096 texts ahead. When an item is wrong or `texts` itself raises, the vectors
        of everything before it are yielded first.
        """
        head = self._query_head if role == "query" else self._head
        return self._encoder.stream(texts, self._role(role), head, progress=progress)

    def similarity(self, a: str, b: str) -> float:
        """Dot product of query `a` and document `b`, at least 0."""
        left = self._encoder.one(a, self._query, self._query_head, name="a")
        right = self._encoder.one(b, self._document, self._head, name="b")
        return float(scoring.sparse_scores(left, [right])[0])

    def rank(
        self,
        query: str | SparseVector,
        documents: Sequence[str] | Sequence[SparseVector] | PackedSparse,
        top_k: int | None = None,
    ) -> list[Ranked]:
        """Documents by falling dot product: (index, score), the first `top_k` or all.

        Either side may be given as vectors from an earlier call; PackedSparse is the fastest.
        """
        check_top_k(top_k, 0)
        left = self.encode_query(query) if isinstance(query, str) else query
        if isinstance(documents, PackedSparse):
            return documents.rank(left, top_k)
        right = scoring.as_list(documents)
        if right and isinstance(right[0], str):
            right = self.encode_document(right)
        return ranking(scoring.sparse_scores(left, right, self.vocab_size()), top_k)

    def explain(self, vector: SparseVector, top_k: int | None = 10) -> list[tuple[str, float]]:
        """(token, weight) of the heaviest entries, falling; entries the text does not contain are
        the model's expansion.
        """
        checked = scoring.check_sparse(vector, "vector", self.vocab_size())
        return explain.weights(checked, self._encoder.tokenizer.token, top_k)

    def vocab_size(self) -> int:
        """Entries of the vocabulary: indices lie in [0, vocab_size)."""
        return self._recipe.vocab_size

    def _load_query_table(self) -> NDArray[np.float32]:
        """The weight of each vocabulary entry in a query that is not run through the graph."""
        table = np.ones(self._recipe.vocab_size, dtype=np.float32)
        if self._recipe.query_weights == "idf":
            table[:] = 0  # a token that the table does not name is dropped
            try:
                entries = json.loads(self._artifact.read(self._recipe.idf))
                with np.errstate(over="ignore"):  # infinity is refused below
                    for token, weight in entries.items():
                        token_id = self._encoder.tokenizer.token_id(token)
                        if token_id is not None:
                            table[token_id] = weight
            except (ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
                raise LoadError(f"{self._recipe.idf} is not a table of token weights") from error
            if not (np.isfinite(table).all() and (table >= 0).all()):
                raise LoadError(f"{self._recipe.idf} holds a weight that is negative or not finite")
        table[list(self._recipe.zero_ids)] = 0
        return table

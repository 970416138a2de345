"""TesseraSparse: weights of vocabulary entries (SPLADE, arXiv:2107.05720) from texts."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import are_texts, check_top_k, is_text
from tessera_onnx.errors import ConfigError, LoadError, UnsupportedDimension
from tessera_onnx.models.spec import Kind, Sparse
from tessera_onnx.models.spec_words import MiniCoil
from tessera_onnx.results import Ranked, SparseVector, ranking
from tessera_onnx.runtime.workers import Event, Limit
from tessera_onnx.search.sparse_index import PackedSparse
from tessera_onnx.text import attention, heads, lexical, minicoil
from tessera_onnx.text.base import COMPARED, SEVERAL, TextModel
from tessera_onnx.text.options import SparseOptions, TextOptions
from tessera_onnx.text.reading import RoleName
from tessera_onnx.text.tokenizer import Head
from tessera_onnx.vectors import explain, scoring, tensors


class TesseraSparse(TextModel):
    """Encode texts to sparse vectors over the vocabulary, compared by dot product.

    Vectors are not normalised. Inference-free models look the weights of a query's tokens up in a
    table. Lexical models (BM25) hash words and run no graph. `encode` and `encode_batch` read a
    text as a document, unless the model has a prompt for texts of neither role (`plain` in its
    recipe).
    """

    _kind: ClassVar[Kind] = "sparse"
    _recipe: Sparse
    _head: Head
    _query_head: Head
    _token: Callable[[int], str]  # the name of an entry

    def __init__(
        self,
        model_id: str | None = None,
        *,
        max_active_dims: int | None = None,
        language: str | None = None,
        **options: Unpack[TextOptions],
    ) -> None:
        """Open a model; `options` are those of `TextModel`, of which `dimension` is always None.

        `max_active_dims` is the number of entries that each vector keeps, of queries too: those
        of the largest weights, and of the lowest ids among equal weights. None keeps all. The
        encode methods take another number for one call.

        `language` chooses the stop words and the stemmer of a lexical model (BM25), such as
        "english" or "german"; "none" reads any language and stems nothing. None is English.
        """
        _check_dims(max_active_dims)
        self._language = language
        super().__init__(model_id, **options)
        self._options["language"] = language
        self._options["max_active_dims"] = max_active_dims
        self._most = max_active_dims
        words, self._token = self._spec.lexical, self._encoder.token
        if words is None and language is not None:
            raise ConfigError(f"model {self._spec.id!r} knows no languages: leave language out")
        if words is not None:
            self._head, self._query_head = lexical.document_head(words), lexical.query_head()
            return
        if self._spec.attention is not None:
            tokenizer = self._encoder.tokenizer
            found = attention.AttentionWords(self._spec.attention, self._artifact, tokenizer)
            self._head = found.document_head(self._recipe.output)
            self._query_head, self._token = found.query_head(), found.name
            return
        if self._spec.minicoil is not None:
            self._open_minicoil(self._spec.minicoil)
            return
        self._head = heads.sparse_head(self._recipe)
        self._query_head = self._head
        if self._recipe.query_weights != "model":
            self._query_head = heads.lookup_head(self._load_query_table())

    def _open_minicoil(self, facts: MiniCoil) -> None:
        words = minicoil.MiniCoilWords(facts, self._artifact, self._encoder.tokenizer)
        output = self._recipe.output
        self._head, self._query_head = words.document_head(output), words.query_head(output)
        self._token = words.name
        self._encoder.one("a", self._document, self._head)  # raises for states of another size

    def encode(self, text: str, *, max_active_dims: int | None = None) -> SparseVector:
        """Encode one text as a document: indices (k,) int32 ascending, values (k,) float32 > 0.

        A text that has no weight above 0 gives two empty arrays. Of miniCOIL, values may be
        negative: the four of a word are the direction of its meaning.

        Raises TypeError for anything but a str, TokenizationError for a lone surrogate,
        InputTooLong with on_long="error", EncodingError when the graph fails.
        """
        head = self._cut(self._head, max_active_dims)
        vector: SparseVector = self._encoder.one(text, self._plain, head, several=SEVERAL)
        return vector

    def encode_batch(
        self,
        texts: Iterable[str],
        *,
        progress: bool = False,
        max_active_dims: int | None = None,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> list[SparseVector]:
        """Encode texts: a list of SparseVectors, one per text; [] for no texts.

        `max_active_dims` replaces that of the constructor. All items are checked before the first
        is encoded. Raises the errors of `encode`, with the item's `index`. After `timeout` seconds,
        or when another thread sets the event `cancel`, no further batch starts and TimedOut or
        Cancelled is raised; the model can be used as before.
        """
        limit = Limit(timeout, cancel)
        head = self._cut(self._head, max_active_dims)
        found: list[SparseVector]
        found = self._encoder.encode(texts, self._plain, head, progress=progress, limit=limit)
        return found

    @overload
    def encode_query(  # type: ignore[overload-overlap]
        self, text: str, **options: Unpack[SparseOptions]
    ) -> SparseVector: ...

    @overload
    def encode_query(
        self, text: Iterable[str], **options: Unpack[SparseOptions]
    ) -> list[SparseVector]: ...

    def encode_query(
        self,
        text: str | Iterable[str],
        *,
        max_active_dims: int | None = None,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> SparseVector | list[SparseVector]:
        """Encode one query to a SparseVector, or an iterable of queries to a list of them.

        The other arguments and errors are those of `encode_batch`.
        """
        head, limit = self._cut(self._query_head, max_active_dims), Limit(timeout, cancel)
        found: SparseVector | list[SparseVector]
        found = self._encoder.one_or_many(text, self._query, head, limit)
        return found

    @overload
    def encode_document(  # type: ignore[overload-overlap]
        self, text: str, **options: Unpack[SparseOptions]
    ) -> SparseVector: ...

    @overload
    def encode_document(
        self, text: Iterable[str], **options: Unpack[SparseOptions]
    ) -> list[SparseVector]: ...

    def encode_document(
        self,
        text: str | Iterable[str],
        *,
        max_active_dims: int | None = None,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> SparseVector | list[SparseVector]:
        """Encode one document to a SparseVector, or an iterable of documents to a list of them.

        The other arguments and errors are those of `encode_batch`.
        """
        head, limit = self._cut(self._head, max_active_dims), Limit(timeout, cancel)
        found: SparseVector | list[SparseVector]
        found = self._encoder.one_or_many(text, self._document, head, limit)
        return found

    def encode_iter(
        self,
        texts: Iterable[str],
        *,
        role: RoleName = "plain",
        progress: bool = False,
        max_active_dims: int | None = None,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Iterator[SparseVector]:
        """Encode a stream of texts in bounded memory; yields their SparseVectors in order.

        Up to 4,096 texts are read ahead. When an item is wrong or `texts` itself raises, the
        vectors before it are yielded first. `timeout` counts from this call; after it, or when
        `cancel` is set, TimedOut or Cancelled is raised in place of the next vector.
        """
        limit = Limit(timeout, cancel)
        head = self._cut(self._query_head if role == "query" else self._head, max_active_dims)
        return self._encoder.stream(texts, self._role(role), head, progress=progress, limit=limit)

    def similarity(self, a: str | SparseVector, b: str | SparseVector) -> float:
        """Dot product of query `a` and document `b`, at least 0; 0 if they share no entry.

        Of miniCOIL it is below 0 where the shared words mean different things. Of a lexical model
        (BM25) this is without the IDF, which only a collection of documents has.
        Each is a text, or a SparseVector made earlier. Raises the errors of `encode` for a text,
        ConfigError for indices that do not ascend within the vocabulary, NaN or infinity.
        """
        one = functools.partial(self._encoder.one, several=COMPARED)
        left: Any = a
        right: Any = b
        if are_texts([left]):
            left = one(left, self._query, self._cut(self._query_head), name="a")
        if are_texts([right]):
            right = one(right, self._document, self._cut(self._head), name="b")
        size = self.vocab_size()
        checked = [
            scoring.check_sparse(each, name, size) for each, name in ((left, "a"), (right, "b"))
        ]
        return float(scoring.sparse_scores(checked[0], checked[1:])[0])

    def rank(
        self,
        query: str | SparseVector,
        documents: Iterable[str] | Iterable[SparseVector] | PackedSparse,
        top_k: int | None = None,
        *,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> list[Ranked]:
        """Rank documents by dot product, highest first: the `top_k` best, or all.

        Query and documents are texts, or SparseVectors made earlier; PackedSparse is the fastest,
        and its rows carry its ids. A lexical model (BM25) weighs terms by their inverse document
        frequency among `documents`; an index does so if it was made with idf=True. `timeout` and
        `cancel` are those of `encode_batch`. Raises the errors of `similarity`.
        """
        check_top_k(top_k, 0)
        Limit(timeout, cancel).check()
        left: Any = self.encode_query(query) if is_text(query) else query
        if isinstance(documents, PackedSparse):
            return documents.rank(left, top_k)
        right = scoring.as_list(documents)
        if right and are_texts(right):
            right = self.encode_document(right, timeout=timeout, cancel=cancel)
        if self._spec.hashes_words():
            return PackedSparse(right, idf=True).rank(left, top_k)
        return ranking(scoring.sparse_scores(left, right, self.vocab_size()), top_k)

    def explain(self, vector: SparseVector, top_k: int | None = 10) -> list[tuple[str, float]]:
        """List (token, weight) of the `top_k` largest weights, largest first; None lists all.

        Tokens that the text does not contain are the model's expansion of it. Of a lexical model,
        tokens are stems; "#id" stands for a stem that no text had which this object read lately.
        """
        checked = scoring.check_sparse(vector, "vector", self.vocab_size())
        return explain.weights(checked, self._token, top_k)

    def token(self, number: int) -> str:
        """The name of an entry; of a lexical model "#id" for a stem that no text had lately."""
        return self._token(number)

    def _width(self, dimension: int | None) -> int:
        if dimension is not None:
            raise UnsupportedDimension("sparse vectors are not cut: leave dimension out")
        return self._recipe.vocab_size

    def __repr__(self) -> str:
        words = self._spec.lexical
        name = "" if words is None else lexical.find_language(words, self._language).name
        language = f", language={name!r}" if name else ""
        size = f"vocab_size={self._dimension}"
        return f"{type(self).__name__}(model={self._spec.id!r}, {size}{language})"

    def vocab_size(self) -> int:
        """Number of vocabulary entries: indices lie in [0, vocab_size)."""
        return self._recipe.vocab_size

    def _kind_head(self, role: RoleName, dimension: int | None, *, normalize: bool) -> Head:  # noqa: ARG002
        if dimension is not None:
            raise ConfigError("sparse vectors have no dimension to cut to: leave it out")
        return self._cut(self._query_head if role == "query" else self._head)

    def _cut(self, head: Head, most: int | None = None) -> Head:
        """The head that keeps the `most` largest weights, by default those of the constructor."""
        _check_dims(most)
        most = self._most if most is None else most
        return head if most is None else heads.limited_head(head, most)

    def _load_query_table(self) -> NDArray[np.float32]:
        """Weights (vocab_size,) of the tokens of a query that is not run through the graph."""
        table = np.ones(self._recipe.vocab_size, dtype=np.float32)
        if self._recipe.query_weights == "idf":
            table = self._idf(self._artifact.read(self._recipe.idf))
            if not (np.isfinite(table).all() and (table >= 0).all()):
                raise LoadError(f"{self._recipe.idf} holds a weight that is negative or not finite")
        table[list(self._recipe.zero_ids)] = 0
        return table

    def _idf(self, content: bytes) -> NDArray[np.float32]:
        """The weights (vocab_size,) that a file gives to tokens; 0 for those that it leaves out."""
        name, size = self._recipe.idf, self._recipe.vocab_size
        table = np.zeros(size, dtype=np.float32)
        if name.endswith(".safetensors"):
            found = tensors.read(content, name).get("weight")
            if found is None or found.ndim != 1 or len(found) > size:
                raise LoadError(f"{name} holds no tensor 'weight' of {size} numbers", path=name)
            table[: len(found)] = found
            return table
        try:
            entries = json.loads(content)
            with np.errstate(over="ignore"):  # the caller refuses infinity
                for token, weight in entries.items():
                    token_id = self._encoder.tokenizer.token_id(token)
                    if token_id is not None:
                        table[token_id] = weight
        except (ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise LoadError(f"{name} is not a table of token weights") from error
        return table


def _check_dims(most: int | None) -> None:
    """Raises TypeError unless `most` is an integer or None, ConfigError if it is below 1."""
    if most is None:
        return
    if isinstance(most, bool) or not isinstance(most, int | np.integer):
        raise TypeError(f"max_active_dims must be int or None, got {type(most).__name__}")
    if most < 1:
        raise ConfigError(f"max_active_dims must be at least 1, got {most}")

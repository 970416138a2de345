"""TesseraDense: one vector per text, compared by cosine similarity."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import are_texts, check_top_k, is_text
from tessera_onnx.errors import ConfigError, DimensionMismatch, shown
from tessera_onnx.models.spec import Dense, Kind, Role
from tessera_onnx.results import BinaryTokens, Chunks, Int8Vectors, Ranked, Vectors, ranking
from tessera_onnx.runtime.workers import Event, Limit
from tessera_onnx.text import chunks, heads, windows
from tessera_onnx.text.base import COMPARED, SEVERAL, TextModel
from tessera_onnx.text.options import DenseBatchOptions, DenseOptions, DenseStreamOptions, Settings
from tessera_onnx.text.reading import RoleName
from tessera_onnx.text.tokenizer import Head, OnLong, check_text
from tessera_onnx.vectors import quantization, scoring
from tessera_onnx.vectors.quantization import OutputDtype

Float = NDArray[np.float32]


class TesseraDense(TextModel):
    """Encode texts to vectors, (dimension,) float32, one per text.

    Vectors have unit length unless the `modules` in the recipe end with another step than L2.

    A model that treats queries and documents differently has a prompt for each. `encode` and
    `encode_batch` read a text as a document, unless the model has a prompt for texts of neither
    role (`plain` in its recipe). An empty text has the vector of its special tokens. Texts longer
    than the model reads are cut, with a warning unless `on_long` says otherwise.

    Some models know purposes other than search: `task` names one of them, such as "clustering"
    (`spec.dense.tasks` lists them), and its prompt and task id replace those of the role. `prompt`
    replaces the words before the texts, for models that follow instructions.
    """

    _kind: ClassVar[Kind] = "dense"
    _recipe: Dense

    def __init__(
        self,
        model_id: str | None = None,
        *,
        on_long: OnLong | Literal["window"] = "warn",
        **options: Unpack[Settings],
    ) -> None:
        """Open a model; `options` are those of `TextModel`, and its errors are raised.

        With on_long="window" a text that is too long is read in windows that overlap by an eighth.
        Its vector is the mean of the windows' vectors, weighed by their number of tokens.
        """
        wanted: OnLong = "truncate" if on_long == "window" else on_long
        super().__init__(model_id, on_long=wanted, **options)
        if on_long == "window":
            self._options["on_long"] = on_long
            self._encoder = windows.reader(self._encoder, self._spec, self._recipe, self._dimension)

    def encode(self, text: str, *, task: str | None = None, prompt: str | None = None) -> Float:
        """Encode one text as a document: (dimension,) float32.

        Raises TypeError for anything but a str, TokenizationError for a lone surrogate,
        InputTooLong with on_long="error", EncodingError when the graph fails, ConfigError for a
        task that the model does not have.
        """
        role = self._purpose(self._plain, task, prompt)
        vector: Float = self._encoder.one(text, role, self._head, several=SEVERAL)
        return vector

    @overload
    def encode_batch(
        self,
        texts: Iterable[str],
        *,
        output_dtype: Literal["float32"] = ...,
        **options: Unpack[DenseBatchOptions],
    ) -> Float: ...

    @overload
    def encode_batch(
        self,
        texts: Iterable[str],
        *,
        output_dtype: Literal["int8"],
        **options: Unpack[DenseBatchOptions],
    ) -> Int8Vectors: ...

    @overload
    def encode_batch(
        self,
        texts: Iterable[str],
        *,
        output_dtype: Literal["binary"],
        **options: Unpack[DenseBatchOptions],
    ) -> BinaryTokens: ...

    def encode_batch(
        self,
        texts: Iterable[str],
        *,
        task: str | None = None,
        prompt: str | None = None,
        progress: bool = False,
        output_dtype: OutputDtype = "float32",
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Float | Int8Vectors | BinaryTokens:
        """Encode texts: (n, dimension) float32, C-contiguous; (0, dimension) for no texts.

        output_dtype="int8" gives Int8Vectors and "binary" gives BinaryTokens. All items are checked
        before the first is encoded. Raises the errors of `encode`, with the item's `index`. After
        `timeout` seconds, or when another thread sets the event `cancel`, no further batch starts
        and TimedOut or Cancelled is raised; the model can be used as before.
        """
        limit = Limit(timeout, cancel)
        quantization.check_output(output_dtype)
        role = self._purpose(self._plain, task, prompt)
        results = self._encoder.encode(texts, role, self._head, progress=progress, limit=limit)
        return quantization.convert(results, output_dtype)

    @overload
    def encode_query(
        self,
        text: str | Iterable[str],
        *,
        output_dtype: Literal["float32"] = ...,
        **options: Unpack[DenseOptions],
    ) -> Float: ...

    @overload
    def encode_query(
        self,
        text: str | Iterable[str],
        *,
        output_dtype: Literal["int8"],
        **options: Unpack[DenseOptions],
    ) -> Int8Vectors: ...

    @overload
    def encode_query(
        self,
        text: str | Iterable[str],
        *,
        output_dtype: Literal["binary"],
        **options: Unpack[DenseOptions],
    ) -> BinaryTokens: ...

    def encode_query(
        self,
        text: str | Iterable[str],
        *,
        task: str | None = None,
        prompt: str | None = None,
        output_dtype: OutputDtype = "float32",
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Float | Int8Vectors | BinaryTokens:
        """Encode one query, (dimension,), or an iterable of n queries, (n, dimension).

        `output_dtype`, `timeout`, `cancel` and errors are those of `encode_batch`.
        """
        limit = Limit(timeout, cancel)
        return self._one_or_many(
            text, self._purpose(self._query, task, prompt), output_dtype, limit
        )

    @overload
    def encode_document(
        self,
        text: str | Iterable[str],
        *,
        output_dtype: Literal["float32"] = ...,
        **options: Unpack[DenseOptions],
    ) -> Float: ...

    @overload
    def encode_document(
        self,
        text: str | Iterable[str],
        *,
        output_dtype: Literal["int8"],
        **options: Unpack[DenseOptions],
    ) -> Int8Vectors: ...

    @overload
    def encode_document(
        self,
        text: str | Iterable[str],
        *,
        output_dtype: Literal["binary"],
        **options: Unpack[DenseOptions],
    ) -> BinaryTokens: ...

    def encode_document(
        self,
        text: str | Iterable[str],
        *,
        task: str | None = None,
        prompt: str | None = None,
        output_dtype: OutputDtype = "float32",
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Float | Int8Vectors | BinaryTokens:
        """Encode one document, (dimension,), or an iterable of n documents, (n, dimension).

        `output_dtype`, `timeout`, `cancel` and errors are those of `encode_batch`.
        """
        limit = Limit(timeout, cancel)
        return self._one_or_many(
            text, self._purpose(self._document, task, prompt), output_dtype, limit
        )

    @overload
    def encode_iter(
        self,
        texts: Iterable[str],
        *,
        output_dtype: Literal["float32"] = ...,
        **options: Unpack[DenseStreamOptions],
    ) -> Iterator[Float]: ...

    @overload
    def encode_iter(
        self,
        texts: Iterable[str],
        *,
        output_dtype: Literal["int8"],
        **options: Unpack[DenseStreamOptions],
    ) -> Iterator[Int8Vectors]: ...

    @overload
    def encode_iter(
        self,
        texts: Iterable[str],
        *,
        output_dtype: Literal["binary"],
        **options: Unpack[DenseStreamOptions],
    ) -> Iterator[BinaryTokens]: ...

    def encode_iter(
        self,
        texts: Iterable[str],
        *,
        role: RoleName = "plain",
        task: str | None = None,
        prompt: str | None = None,
        progress: bool = False,
        output_dtype: OutputDtype = "float32",
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Iterator[Float | Int8Vectors | BinaryTokens]:
        """Encode a stream of texts in bounded memory; yields their vectors in order.

        Each vector is a row of the result of `encode_batch`: (dimension,) float32, or Int8Vectors
        or BinaryTokens of one vector. Up to 4,096 texts are read ahead. When an item is wrong or
        `texts` itself raises, the vectors before it are yielded first. `timeout` counts from this
        call; after it, or when `cancel` is set, TimedOut or Cancelled is raised in place of the
        next vector.
        """
        limit = Limit(timeout, cancel)
        quantization.check_output(output_dtype)
        chosen = self._purpose(self._role(role), task, prompt)
        finish = (
            None
            if output_dtype == "float32"
            else lambda row: quantization.convert(row, output_dtype)
        )
        return self._encoder.stream(
            texts, chosen, self._head, progress=progress, limit=limit, finish=finish
        )

    def encode_chunks(
        self,
        texts: Iterable[str],
        *,
        size: int | None = None,
        overlap: int = 0,
        late: bool = False,
        task: str | None = None,
        prompt: str | None = None,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> list[Chunks]:
        """Encode documents in chunks: the vectors (n, dimension) and spans (n, 2) of each text.

        A chunk has up to `size` tokens (None: as many as the model reads), ends between words, and
        shares `overlap` tokens with the next. Each is encoded as a text of its own; with `late` the
        model reads the whole text, and a chunk has the mean of its tokens' states (late chunking,
        arXiv:2409.04701). Raises as `encode_batch`, and ConfigError for late chunks without states.
        """
        cut = chunks.Cut(size, overlap, Limit(timeout, cancel))
        role, encoder = self._purpose(self._document, task, prompt), self._encoder.whole
        if not late:
            return chunks.encode_alone(encoder, texts, role, self._head, cut)
        steps = self._modules.get(self._kind)
        made = chunks.LateChunking(encoder, self._spec, self._recipe, self._dimension, steps)
        return made.encode(texts, role, cut)

    def similarity(self, a: str | Vectors, b: str | Vectors) -> float:
        """Cosine similarity of query `a` and document `b`, in [-1, 1]; 0 if either vector is zero.

        A model with another `similarity` in its recipe gives that: a dot product, or a distance
        with its sign changed. Each is a text, or one vector made earlier: a float array
        (dimension,), Int8Vectors or BinaryTokens, whose bits count as +1 and -1. Raises the errors
        of `encode` for a text, ConfigError for NaN or infinity, DimensionMismatch for a vector of
        another dimension.
        """
        left = self._vector(a, self._query, "a")
        right = self._vector(b, self._document, "b")
        if self._recipe.similarity in (None, "cosine"):
            return scoring.cosine(left, right)
        return float(scoring.dense_scores(left, right[None], self._recipe.similarity)[0])

    def rank(
        self,
        query: str | Vectors,
        documents: Iterable[str] | Iterable[Vectors] | Vectors,
        top_k: int | None = None,
        *,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> list[Ranked]:
        """Rank documents by their `similarity`, highest first: the `top_k` best, or all.

        The query may be a vector made earlier, (dimension,), and the documents vectors, (n,
        dimension) or a list of n: float arrays, Int8Vectors, or BinaryTokens, whose bits count as
        +1 and -1 divided by the root of the dimension. Scores of unit vectors lie in [-1, 1]; of a
        model of unit vectors, vectors of other lengths are scored by their dot product. No
        documents give []. `timeout` and `cancel` are those of `encode_batch`. Raises ConfigError
        for NaN or infinity, DimensionMismatch when the dimensions differ.
        """
        check_top_k(top_k, 0)
        Limit(timeout, cancel).check()
        left = self.encode_query(query) if is_text(query) else query
        right: Any = documents
        numbers = isinstance(right, np.ndarray) and right.dtype.kind in "fiub"
        if not numbers and not isinstance(right, Int8Vectors | BinaryTokens):
            right = scoring.as_list(documents)
            if are_texts(right):
                right = self.encode_document(right, timeout=timeout, cancel=cancel)
        # The cosine of unit vectors is their dot product.
        unit = self._recipe.modules is None and self._recipe.similarity in (None, "cosine")
        name = "dot" if unit else self._recipe.similarity or "cosine"
        return ranking(scoring.dense_scores(left, right, name), top_k)

    def dimension(self) -> int:
        """Number of dimensions of a vector."""
        return self._dimension

    @property
    def _head(self) -> Head:
        return heads.dense_head(self._recipe, self._dimension, self._modules.get(self._kind))

    def _kind_head(self, role: RoleName, dimension: int | None, *, normalize: bool) -> Head:  # noqa: ARG002
        size = self._dimension if dimension is None else self._width(dimension)
        steps = self._modules.get(self._kind)
        if not normalize:
            if any(step.type == "normalize" for step in self._recipe.modules or ()):
                raise ConfigError("the model's own files ask for vectors of unit length")
            if size != self._recipe.dimension:
                raise ConfigError("a vector that is cut has unit length: leave normalize out")
            steps = steps or np.asarray
        return heads.dense_head(self._recipe, size, steps)

    def _purpose(self, role: Role, task: str | None, prompt: str | None = None) -> Role:
        """The role with the prompt and id of a task, or with the caller's own prompt."""
        if task is not None:
            check_text(task, "task")
            tasks = {known.name: known for known in self._recipe.tasks}
            if task not in tasks:
                known = f"one of {', '.join(tasks)}" if tasks else "left out: this model has none"
                raise ConfigError(f"task must be {known}; got {shown(task)}")
            role = dataclasses.replace(role, prompt=tasks[task].prompt, task_id=tasks[task].task_id)
        if prompt is not None:
            role = dataclasses.replace(role, prompt=check_text(prompt, "prompt"))
        return role

    def _vector(self, value: Any, role: Role, name: str) -> Float:
        """A text's vector, or one vector made earlier, as floats."""
        if not scoring.are_vectors(value):
            made: Float = self._encoder.one(value, role, self._head, name=name, several=COMPARED)
            return made
        found = scoring.vector(name, value)
        if len(found) != self._dimension:
            raise DimensionMismatch(
                f"{name} has {len(found)} dims, the model gives {self._dimension}"
            )
        return found

    def _one_or_many(
        self, text: str | Iterable[str], role: Role, output_dtype: OutputDtype, limit: Limit
    ) -> Float | Int8Vectors | BinaryTokens:
        quantization.check_output(output_dtype)
        found = self._encoder.one_or_many(text, role, self._head, limit)
        return quantization.convert(found, output_dtype)

"""One vector a text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import are_texts, check_top_k, is_text
from tessera_onnx.errors import ConfigError, DimensionMismatch, shown
from tessera_onnx.models.spec import Dense, Kind, Role
from tessera_onnx.results import BinaryTokens, Int8Vectors, Ranked, ranking
from tessera_onnx.runtime.workers import Event, Limit
from tessera_onnx.text import heads
from tessera_onnx.text.base import COMPARED, SEVERAL, RoleName, TextModel
from tessera_onnx.text.tokenizer import Head, check_text
from tessera_onnx.vectors import quantization, scoring
from tessera_onnx.vectors.quantization import OutputDtype

Float = NDArray[np.float32]
Made = np.ndarray | Int8Vectors | BinaryTokens  # vectors of an earlier call


class TesseraDense(TextModel):
    """Texts as unit vectors, (dimension,) float32.

    A model that treats queries and documents differently has a prompt for each; `encode` means a
    document, unless the model has a prompt for texts of neither role (its recipe's `plain`). An
    empty text has a vector too, that of the special tokens alone. Texts longer than the model reads
    are cut as `on_long` says, never silently by default.

    Some models know purposes beside search: `task` names one of them ("clustering",
    "classification"; spec.dense.tasks lists them), whose prompt and task id then take the place of
    the role's. `prompt` puts other words before the texts, for models that follow instructions.
    """

    _kind: ClassVar[Kind] = "dense"
    _recipe: Dense

    def encode(self, text: str, *, task: str | None = None, prompt: str | None = None) -> Float:
        """The vector of one text: (dimension,) float32, unit length.

        Raises TypeError for anything but a str, TokenizationError for a lone surrogate,
        InputTooLong with on_long="error", EncodingError when the graph fails, ConfigError for a
        task that the model does not know.
        """
        role = self._purpose(self._plain, task, prompt)
        vector: Float = self._encoder.one(text, role, self._head, several=SEVERAL)
        return vector

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
    ) -> Any:
        """Vectors of texts: (n, dimension) float32 C-contiguous; (0, dimension) for no texts.

        output_dtype="int8" gives Int8Vectors, "binary" BinaryTokens. After `timeout` seconds, or
        when another thread sets the event `cancel`, no further batch is begun and TimedOut or
        Cancelled is raised; the model can be used as before. Every item is checked before the first
        is encoded; the errors of `encode` name the item's index.
        """
        limit = Limit(timeout, cancel)
        quantization.check_output(output_dtype)
        role = self._purpose(self._plain, task, prompt)
        results = self._encoder.encode(texts, role, self._head, progress=progress, limit=limit)
        return quantization.convert(results, output_dtype)

    def encode_query(
        self,
        text: str | Iterable[str],
        *,
        task: str | None = None,
        prompt: str | None = None,
        output_dtype: OutputDtype = "float32",
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Any:
        """A query's vector (dimension,), or (n, dimension) for an iterable of queries.

        `output_dtype`, `timeout` and `cancel` as for `encode_batch`.
        """
        limit = Limit(timeout, cancel)
        return self._one_or_many(
            text, self._purpose(self._query, task, prompt), output_dtype, limit
        )

    def encode_document(
        self,
        text: str | Iterable[str],
        *,
        task: str | None = None,
        prompt: str | None = None,
        output_dtype: OutputDtype = "float32",
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Any:
        """A document's vector (dimension,), or (n, dimension) for an iterable of documents.

        `output_dtype`, `timeout` and `cancel` as for `encode_batch`.
        """
        limit = Limit(timeout, cancel)
        return self._one_or_many(
            text, self._purpose(self._document, task, prompt), output_dtype, limit
        )

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
    ) -> Iterator[Any]:
        """Vectors of a stream of texts, in order, in bounded memory.

        Each is a row of what `encode_batch` gives: (dimension,) float32, or Int8Vectors or
        BinaryTokens of one vector. Reads up to 4,096 texts ahead. When an item is wrong or `texts`
        itself raises, the vectors of everything before it are yielded first. `timeout` counts from
        this call; after it, or when `cancel` is set, the next vector is TimedOut or Cancelled.
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

    def similarity(self, a: str | Made, b: str | Made) -> float:
        """Cosine of query `a` and document `b`, in [-1, 1].

        Each is a text, or one vector made earlier: a float array (dimension,), Int8Vectors or
        BinaryTokens, whose bits count as +1 and -1.
        """
        left = self._vector(a, self._query, "a")
        return scoring.cosine(left, self._vector(b, self._document, "b"))

    def rank(
        self,
        query: str | Made,
        documents: Iterable[str] | Sequence[Made] | Made,
        top_k: int | None = None,
        *,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> list[Ranked]:
        """Documents by falling cosine, in [-1, 1]: (index, score), the first `top_k` or all.

        Either side may be given as vectors from an earlier call, (dimension,) and (n, dimension)
        or a list of n vectors, taken as unit vectors: the scores of others are dot products. They
        are float arrays, Int8Vectors, or BinaryTokens, whose bits count as +1 and -1 over the root
        of the dimension. `timeout` and `cancel` as for
        `encode_batch`.
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
        return ranking(scoring.dense_scores(left, right), top_k)

    def dimension(self) -> int:
        """Components of a vector."""
        return self._dimension

    @property
    def _head(self) -> Head:
        return heads.dense(self._recipe, self._dimension)

    def _purpose(self, role: Role, task: str | None, prompt: str | None) -> Role:
        """The role with what a task, or the caller's own prompt, changes of it."""
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
    ) -> Any:
        quantization.check_output(output_dtype)
        found = self._encoder.one_or_many(text, role, self._head, limit)
        return quantization.convert(found, output_dtype)

"""One vector a text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import heads, quantization, scoring
from tessera_onnx.errors import ConfigError
from tessera_onnx.model import RoleName, TextModel
from tessera_onnx.quantization import Output
from tessera_onnx.results import Ranked, check_top_k, ranking
from tessera_onnx.runtime import Array
from tessera_onnx.schema import Dense, Kind, Role
from tessera_onnx.text import Head, check_text

Float = NDArray[np.float32]


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
        vector: Float = self._encoder.one(text, role, self._head)
        return vector

    def encode_batch(
        self,
        texts: Iterable[str],
        *,
        task: str | None = None,
        prompt: str | None = None,
        progress: bool = False,
        output: Output = "float32",
    ) -> Any:
        """Vectors of texts: (n, dimension) float32 C-contiguous; (0, dimension) for no texts.

        output="int8" gives Int8Vectors, "binary" BinaryTokens. Every item is checked before the
        first is encoded; the errors of `encode` name the item's index.
        """
        quantization.check_output(output)
        role = self._purpose(self._plain, task, prompt)
        results = self._encoder.encode(texts, role, self._head, progress=progress)
        return quantization.convert(results, output)

    def encode_query(
        self,
        text: str | Iterable[str],
        *,
        task: str | None = None,
        prompt: str | None = None,
        output: Output = "float32",
    ) -> Any:
        """A query's vector (dimension,), or (n, dimension) for an iterable of queries."""
        return self._one_or_many(text, self._purpose(self._query, task, prompt), output)

    def encode_document(
        self,
        text: str | Iterable[str],
        *,
        task: str | None = None,
        prompt: str | None = None,
        output: Output = "float32",
    ) -> Any:
        """A document's vector (dimension,), or (n, dimension) for an iterable of documents."""
        return self._one_or_many(text, self._purpose(self._document, task, prompt), output)

    def encode_iter(
        self,
        texts: Iterable[str],
        *,
        role: RoleName = "plain",
        task: str | None = None,
        prompt: str | None = None,
        progress: bool = False,
    ) -> Iterator[Float]:
        """Vectors of a stream of texts, in order, in bounded memory.

        Reads up to 4,096 texts ahead. When an item is wrong or `texts` itself raises, the vectors
        of everything before it are yielded first.
        """
        chosen = self._purpose(self._role(role), task, prompt)
        return self._encoder.stream(texts, chosen, self._head, progress=progress)

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
            else self.encode_document(scoring.as_list(documents))
        )
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
                raise ConfigError(f"task must be {known}; got {task!r}")
            role = dataclasses.replace(role, prompt=tasks[task].prompt, task_id=tasks[task].task_id)
        if prompt is not None:
            role = dataclasses.replace(role, prompt=check_text(prompt, "prompt"))
        return role

    def _one_or_many(self, text: str | Iterable[str], role: Role, output: Output) -> Any:
        quantization.check_output(output)
        found = self._encoder.one_or_many(text, role, self._head)
        return quantization.convert(found, output)

"""How a model reads a text (role, prompt, head), and texts prepared for batches of the caller."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict, TypeVar, get_args

from tessera_onnx.base import Model
from tessera_onnx.errors import ConfigError, LoadError, shown
from tessera_onnx.models import rules
from tessera_onnx.models.spec import Kind, Role, TokenizerSpec, TokenRole
from tessera_onnx.text import all_kinds, heads
from tessera_onnx.text.calls import Encoder, Prepared
from tessera_onnx.text.modules import Step
from tessera_onnx.text.tokenizer import Head, Tokenizer, check_text, check_texts
from tessera_onnx.vectors.quantization import check_dimension

AnyRole = TypeVar("AnyRole", Role, TokenRole)
RoleName = Literal["query", "document", "plain"]  # "plain": as `encode` reads a text


class PrepareOptions(TypedDict, total=False):
    """The keyword arguments of `prepare`."""

    role: RoleName
    kinds: Sequence[Kind]
    task: str | None
    prompt: str | None
    dimension: int | None
    normalize: bool
    states: bool
    keep_end: bool
    are_ids: bool


class TextReader(Model):
    """What a model of texts does for the server and for batch jobs, which make their own batches.

    `TextModel` opens the model and sets the attributes.
    """

    _encoder: Encoder
    _query: Any  # roles, with the lengths that the caller chose
    _document: Any
    _plain: Any
    _dimension: int
    _modules: Mapping[Kind, Step]  # the steps after the graph, of the kinds that have some
    _readings: dict[tuple[Any, ...], tuple[Any, Head]]

    def prepare(
        self,
        texts: Iterable[str] | Iterable[Sequence[int]],
        *,
        role: RoleName = "plain",
        kinds: Sequence[Kind] = (),
        task: str | None = None,
        prompt: str | None = None,
        dimension: int | None = None,
        normalize: bool = True,
        states: bool = False,
        keep_end: bool = False,
        are_ids: bool = False,
    ) -> list[Prepared]:
        """Tokenize texts for batches that the caller makes, of several calls together.

        `run_prepared` gives the result of each text: what `encode_query`, `encode_document` or
        `encode` gives, or with several `kinds` a tuple with the result of each, as `encode_all`.
        `dimension` cuts vectors of the model's own kind, `normalize=False` leaves out the L2 norm
        that the model's own files do not ask for, and `states` gives what a dense model pools: the
        states of all tokens, (n_tokens, width) float32. `keep_end` cuts the start of a text that
        is too long. With `are_ids` each text is a list of token ids of the model's own tokenizer: a
        whole input, to which no prompt and no special tokens are added.

        Raises what `encode_batch` raises for wrong texts, TokenizationError for ids outside the
        vocabulary, ConfigError for a kind or task that the model does not have or states that its
        graph does not give, UnsupportedDimension.
        """
        chosen, head = self._chosen(role, tuple(kinds), task, dimension, normalize, states)
        items: Any = texts
        if are_ids:
            self.tokenizer  # noqa: B018 (a model of words has none)
            return self._encoder.prepare_ids(list(items), chosen, head, keep_end=keep_end)
        if prompt is not None:
            known = check_text(prompt, "prompt")
            chosen = dataclasses.replace(chosen, prompt=known)
        items = check_texts(items)
        return self._encoder.prepare(items, chosen, head, keep_end=keep_end)

    def run_prepared(self, texts: Sequence[Prepared], *, parallel: bool = True) -> list[Any]:
        """The results of texts that `prepare` gave and that have the same `lane`: one batch.

        `parallel=False` gives the batch all threads of the model. Raises EncodingError when the
        graph fails, which names no text.
        """
        return self._encoder.run_prepared(texts, parallel=parallel)

    def prompt(self, role: RoleName = "plain", task: str | None = None) -> str:
        """The words before each text of a role or task. Raises ConfigError for an unknown one."""
        return str(self._purpose(self._role(role), task).prompt)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises ConfigError for a model of words, which has none."""
        if self._spec.text is None:
            raise ConfigError(f"model {self._spec.id!r} reads words and has no tokenizer")
        return self._encoder.tokenizer

    def _chosen(self, *key: Any) -> tuple[Any, Head]:
        """How a text is read, and its head, one for all calls: so their texts share a batch."""
        if key not in self._readings:
            role, kinds, task, dimension, normalize, states = key
            found = self._reading(role, kinds or (self._kind,), task, dimension, normalize)
            if states:
                found = (found[0], heads.states_head(self._recipe, self._spec, dimension))
            self._readings[key] = found
        return self._readings[key]

    def _reading(
        self,
        role: RoleName,
        kinds: tuple[Kind, ...],
        task: str | None,
        dimension: int | None,
        normalize: bool,  # noqa: FBT001
    ) -> tuple[Any, Head]:
        """How a text is read, and the head of its kinds."""
        own = self._role(role)
        if kinds == (self._kind,):
            head = self._kind_head(role, dimension, normalize=normalize)
            return self._purpose(own, task), head
        if dimension is not None and self._kind not in kinds:
            raise ConfigError(f"a dimension is for the model's {self._kind} vectors: leave it out")
        if task is not None:
            raise ConfigError("a task goes with dense vectors alone: leave task or the kinds out")
        if not normalize:
            raise ConfigError(
                "normalize is for the model's own kind alone: leave normalize or the kinds out"
            )
        chosen, parts = self._together(role, kinds, dimension)
        return chosen, parts[0] if len(parts) == 1 else heads.combine(parts)

    def _together(
        self, role: RoleName, kinds: Sequence[Kind], dimension: int | None
    ) -> tuple[Any, list[Head]]:
        """How a text is read for all of the kinds in one run, and the head of each."""
        roles = all_kinds.roles(self._spec, role, kinds)
        recipes = self._spec.text_recipes()
        parts = [
            self._kind_head(role, dimension, normalize=True)
            if kind == self._kind
            else all_kinds.head(recipes[kind], roles[kind], self._modules.get(kind))
            for kind in kinds
        ]
        chosen: Any = roles[kinds[0]]
        if self._spec.text is not None:
            chosen = self._with_length(chosen, self._spec.text, self._options["max_length"])
        return chosen, parts

    @abc.abstractmethod
    def _kind_head(self, role: RoleName, dimension: int | None, *, normalize: bool) -> Head:
        """The head of the model's own kind for a role."""

    def _role(self, name: RoleName) -> Any:
        if name not in get_args(RoleName):
            raise ConfigError(f'role must be "query" or "document" (or "plain"), got {shown(name)}')
        return {"query": self._query, "document": self._document, "plain": self._plain}[name]

    def _purpose(self, role: Any, task: str | None, prompt: str | None = None) -> Any:
        """The role with the prompt and id of a task, or with the caller's own prompt."""
        if task is not None:
            raise ConfigError(f"model {self._spec.id!r} has no tasks: leave task out")
        if prompt is not None:
            return dataclasses.replace(role, prompt=check_text(prompt, "prompt"))
        return role

    def _width(self, dimension: int | None) -> int:
        """Numbers in a vector, which is cut to `dimension`. Raises UnsupportedDimension."""
        recipe = self._recipe
        return check_dimension(dimension, recipe.dimension, recipe.matryoshka, self._spec.id)

    @staticmethod
    def _with_length(role: AnyRole, facts: TokenizerSpec, max_length: int | None) -> AnyRole:
        """The role with the caller's length. Raises TypeError, ConfigError for a wrong one."""
        if max_length is None or (isinstance(role, TokenRole) and role.expansion != "none"):
            return role
        if isinstance(max_length, bool) or not isinstance(max_length, int):
            raise TypeError(f"max_length must be int or None, got {type(max_length).__name__}")
        changed = dataclasses.replace(role, max_length=max_length)
        try:
            rules.check_length(changed, facts, "this model")
        except LoadError as error:
            raise ConfigError(str(error)) from None
        return changed

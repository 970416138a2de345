"""What the encoders of texts share: calls, windows of texts, streams, the warning of cut texts."""

from __future__ import annotations

import abc
import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import is_text
from tessera_onnx.errors import (
    ConfigError,
    EncodingError,
    TesseraError,
    TokenizationError,
    TruncationWarning,
    callers_level,
    shown,
)
from tessera_onnx.models.spec import Role, TokenRole
from tessera_onnx.progress import progress_bar
from tessera_onnx.runtime import batching, workers
from tessera_onnx.text.tokenizer import Head, OnLong, Row, Tokenizer, check_texts, checked

Rows = NDArray[np.intp]  # row numbers of texts in a window


@dataclass(slots=True)
class Call:
    """What one call of the user asks for, and the texts that it has cut so far."""

    role: Role | TokenRole
    head: Head
    on_long: OnLong
    bar: Any = None
    limit: workers.Limit = workers.ENDLESS
    n_texts: int = 0
    noun: str = "text"  # what a text is called in messages
    n_long: int = 0
    longest: int = 0  # tokens of the longest text that was cut, or characters if these are bounded
    most_characters: int = 0  # of a text, prompt included; 0 = as many as the tokens have

    @property
    def most(self) -> str:
        """What is read of a text, in words."""
        tokens = f"{self.role.max_length} tokens"
        characters = f" of the first {self.most_characters} characters"
        return tokens + characters if self.most_characters else tokens

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Warn of texts that were cut, also when the call failed or was left early."""
        if self.bar is not None:
            self.bar.close()
        if self.n_long and self.on_long == "warn":
            try:
                warnings.warn(
                    f"{self.n_long} of {self.n_texts} {self.noun}s were cut to {self.most} (the "
                    f"longest has {self.longest}{' characters' if self.most_characters else ''}); "
                    'pass on_long="truncate" to accept that silently',
                    TruncationWarning,
                    stacklevel=callers_level(),
                )
            except TruncationWarning:  # warnings are errors; an error of the call goes first
                if kind is None:
                    raise


@dataclass(slots=True)
class Window:
    """Texts that are sorted by length together."""

    texts: Sequence[Any]
    first: int  # number of the first text in the call
    name: str | None = None  # of the caller's argument, where that is one text
    noun: str = "text"
    failure: workers.Failure = field(default_factory=workers.Failure)
    tokens: list[Row] = field(init=False)  # of each text

    def __post_init__(self) -> None:
        self.tokens = [Row(np.empty(0, np.int64), 0)] * len(self.texts)  # until they are tokenized

    def error(self, kind: type[TesseraError], rows: Sequence[int], rest: str) -> TesseraError:
        """An error about some of the texts: their numbers in the call, and the rest of it."""
        if self.name is not None:
            return kind(f"{self.name}{rest}")
        numbers = sorted(self.first + int(row) for row in rows)
        if len(numbers) == 1:
            return kind(f"{self.noun} {numbers[0]}{rest}", index=numbers[0])
        return kind(f"{self.noun}s {numbers[0]} to {numbers[-1]}{rest}", indices=numbers)


@dataclass(slots=True, eq=False)  # not frozen: that takes three times as long to make
class Prepared:
    """A text that is tokenized and waits to be run, in whatever batch the caller makes.

    Texts of equal `lane` may run in one batch, those of several roles too.
    """

    content: Any  # its row of token ids; the text itself for a model without a graph
    size: int  # tokens that the model reads
    count: int  # tokens before the cut
    cut: bool
    role: Role | TokenRole
    head: Head

    @property
    def lane(self) -> int | None:
        """The id of the task that the graph takes as an input; None for most models."""
        return self.role.task_id if isinstance(self.role, Role) else None


class Encoder(abc.ABC):
    """Turns texts into results; all threads that use a model share it."""

    def __init__(self, tokenizer: Tokenizer | None, on_long: OnLong) -> None:
        """`tokenizer` is None for a lexical model. Raises ConfigError for an unknown `on_long`."""
        if on_long not in get_args(OnLong):
            raise ConfigError(
                f'on_long must be "truncate", "warn" or "error", got {shown(on_long)}'
            )
        self._tokenizer = tokenizer
        self._on_long = on_long

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises EncodingError for a lexical model, which has none."""
        if self._tokenizer is None:
            raise EncodingError("a lexical model has words and no tokenizer")
        return self._tokenizer

    @property
    def whole(self) -> Encoder:
        """The encoder that cuts long texts in place of reading them in windows."""
        return self

    def token(self, number: int) -> str:
        """The token of an id."""
        return self.tokenizer.token(number)

    def close(self) -> None:
        """Free what the encoder itself holds; the session is the model's."""
        return

    @abc.abstractmethod
    def one(
        self,
        text: str,
        role: Role | TokenRole,
        head: Head,
        *,
        name: str = "text",
        several: str = "give one text at a time",
    ) -> Any:
        """The head's result for one text, which errors call by `name`.

        Raises TypeError for anything but a str; `several` is the advice for a list of them.
        """

    @abc.abstractmethod
    def token_counts(self, texts: Iterable[str], role: Role | TokenRole) -> NDArray[np.int64]:
        """Tokens of each text before any cut, prompt, marker and special tokens included: (n,)."""

    def prepare(
        self,
        known: Sequence[Any],
        role: Role | TokenRole,
        head: Head,
        noun: str = "text",  # noqa: ARG002
        *,
        keep_end: bool = False,
    ) -> list[Prepared]:
        """Tokenize items that are checked; `run_prepared` runs them.

        `keep_end` cuts the start of a text that is too long. Raises TokenizationError with the
        index of the item. Here for models without a graph, which raise ConfigError in place of
        such a cut.
        """
        counts = self.token_counts(known, role).tolist()
        most = role.max_length or sys.maxsize  # 0 = the model reads whole texts
        found = [
            Prepared(text, min(count, most), count, count > most, role, head)
            for text, count in zip(known, counts, strict=True)
        ]
        if keep_end and any(text.cut for text in found):
            raise ConfigError("this model keeps the start of a text that is cut, not its end")
        return found

    def prepare_ids(
        self,
        items: Sequence[Sequence[int]],
        role: Role | TokenRole,
        head: Head,
        *,
        keep_end: bool = False,
    ) -> list[Prepared]:
        """As `prepare`, for lists of token ids, to which nothing is added.

        Here for models that take texts alone, and put nothing around them: a list that is not what
        its text gives raises TokenizationError.
        """
        texts = []
        for i, ids in enumerate(self.checked_ids(items)):
            texts.append(self.tokenizer.decode(ids.tolist()))
            if not np.array_equal(self.tokenizer.ids(texts[-1:])[0], ids):
                raise TokenizationError(
                    f"text {i}: these token ids are not those of the text that they spell, and "
                    "this model takes texts: give the text",
                    index=i,
                )
        bare = dataclasses.replace(role, prompt="")
        return self.prepare(texts, bare, head, keep_end=keep_end)

    def checked_ids(self, items: Sequence[Sequence[int]]) -> list[NDArray[np.int64]]:
        """Lists of token ids as arrays (n,) int64. Raises TokenizationError with the index."""
        for i, ids in enumerate(items):
            if not len(ids):
                raise TokenizationError(f"text {i} is an empty list of token ids", index=i)
            try:
                self.tokenizer.check_ids(ids)
            except TokenizationError as error:
                raise TokenizationError(f"text {i}: {error}", index=i) from None
        return [np.array(ids, np.int64) for ids in items]

    def run_prepared(self, texts: Sequence[Prepared], *, parallel: bool = True) -> list[Any]:  # noqa: ARG002
        """The result of each text, which all have the same `lane`.

        `parallel` is whether other batches run at the same time. Raises EncodingError. Here for
        models without a graph.
        """
        first = texts[0]
        if all(text.role == first.role and text.head is first.head for text in texts[1:]):
            known = [text.content for text in texts]
            return list(self.encode_known(known, first.role, first.head))
        return [self.one(text.content, text.role, text.head) for text in texts]

    @abc.abstractmethod
    def _encode_window(self, texts: Sequence[Any], results: Any, call: Call) -> workers.Failure:
        """Put the result of each text into its place of `results`.

        The results before the row of the Failure are complete.
        """

    def encode(
        self,
        texts: Iterable[str],
        role: Role | TokenRole,
        head: Head,
        *,
        progress: bool = False,
        limit: workers.Limit = workers.ENDLESS,
    ) -> Any:
        """The head's result for each text, in order: a list, or an array where it has a width.

        Every item is checked before the first is encoded.
        """
        return self.encode_known(check_texts(texts), role, head, progress=progress, limit=limit)

    def encode_known(
        self,
        known: Sequence[Any],
        role: Role | TokenRole,
        head: Head,
        *,
        progress: bool = False,
        limit: workers.Limit = workers.ENDLESS,
        noun: str = "text",
    ) -> Any:
        """As `encode`, for items that are checked: what the tokenizer's `rows` takes.

        Their `len` is a number of characters, by which batches are planned. `noun` is what
        messages call an item.
        """
        limit.check()
        bar = progress_bar(known, noun) if progress else None
        call = Call(role, head, self._on_long, bar, limit, noun=noun)
        results = _space(len(known), head)
        with call:
            for window in batching.windows(known):
                first = call.n_texts
                part = results[first : first + len(window)]
                self._encode_window(window, part, call).check()
                results[first : first + len(window)] = part  # a list's slice is a copy
        return results

    def stream(
        self,
        texts: Iterable[str],
        role: Role | TokenRole,
        head: Head,
        *,
        progress: bool = False,
        limit: workers.Limit = workers.ENDLESS,
        finish: Callable[[Any], Any] | None = None,
    ) -> Iterator[Any]:
        """The head's result for each text of a stream, in order; a window of texts is read ahead.

        `finish` is applied to each result when it is handed out. Whatever stops the stream (a bad
        item, a failing batch, an exception of `texts` itself), every earlier result is yielded
        first.
        """
        source = checked(texts)  # a wrong argument is refused here, not at the first result
        bar = progress_bar(texts, "text") if progress else None
        return self._stream(source, Call(role, head, self._on_long, bar, limit), finish)

    def _stream(
        self, texts: Iterator[str], call: Call, finish: Callable[[Any], Any] | None
    ) -> Iterator[Any]:
        with call:
            for window in batching.windows(call.limit.over(texts)):
                results = _space(len(window), call.head)
                failure = self._encode_window(window, results, call)
                for result in results[: failure.row]:
                    call.limit.check()
                    # A copy of a row does not keep the array of the whole window.
                    row = result.copy() if call.head.width else result
                    yield row if finish is None else finish(row)
                failure.check()

    def one_or_many(
        self,
        text: str | Iterable[str],
        role: Role | TokenRole,
        head: Head,
        limit: workers.Limit = workers.ENDLESS,
    ) -> Any:
        """A result for a str, those of `encode` for an iterable of str."""
        if is_text(text):
            limit.check()
            return self.one(text, role, head)
        return self.encode(text, role, head, limit=limit)


def _space(n: int, head: Head) -> Any:
    """Room for `n` results."""
    return np.empty((n, head.width), dtype=np.float32) if head.width else [None] * n

"""Encode texts: tokenize them, build batches of like length, run the graph, restore the order.

Read this file first. `TextEncoder` serves every text model; the Head of a model's kind says what
becomes of the graph's outputs (text/heads.py). A call takes its texts in windows of up to 4,096:

    texts -> window -> tokenized parts -> batches, longest first -> threads -> results in order
"""

from __future__ import annotations

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
    InputTooLong,
    TesseraError,
    TokenizationError,
    TruncationWarning,
    callers_level,
    shown,
)
from tessera_onnx.models.spec import Role, TokenRole
from tessera_onnx.progress import progress_bar
from tessera_onnx.runtime import batching, workers
from tessera_onnx.runtime.session import Array
from tessera_onnx.text.tokenizer import (
    Batch,
    Head,
    OnLong,
    Row,
    Runnable,
    Tokenizer,
    check_text,
    check_texts,
    checked,
    feeds,
    padded,
)

Rows = NDArray[np.intp]  # row numbers of texts in a window


@dataclass(slots=True)
class _Call:
    """What one call of the user asks for, and the texts that it has cut so far."""

    role: Role | TokenRole
    head: Head
    on_long: OnLong
    bar: Any = None
    limit: workers.Limit = workers.ENDLESS
    n_texts: int = 0
    noun: str = "text"  # what a text is called in messages
    n_long: int = 0
    longest: int = 0  # tokens of the longest text that was cut

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Warn of texts that were cut, also when the call failed or was left early."""
        if self.bar is not None:
            self.bar.close()
        if self.n_long and self.on_long == "warn":
            try:
                warnings.warn(
                    f"{self.n_long} of {self.n_texts} {self.noun}s were cut to "
                    f"{self.role.max_length} tokens (the longest has {self.longest}); pass "
                    'on_long="truncate" to accept that silently',
                    TruncationWarning,
                    stacklevel=callers_level(),
                )
            except TruncationWarning:  # warnings are errors; an error of the call goes first
                if kind is None:
                    raise


@dataclass(slots=True)
class _Window:
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


class TextEncoder:
    """A tokenizer and a session, shared by all threads that use a model."""

    def __init__(self, tokenizer: Tokenizer, session: Runnable, on_long: OnLong) -> None:
        """Raises ConfigError for an unknown `on_long`."""
        if on_long not in get_args(OnLong):
            raise ConfigError(
                f'on_long must be "truncate", "warn" or "error", got {shown(on_long)}'
            )
        self.tokenizer = tokenizer
        self.session = session
        self._on_long = on_long
        self._attention = workers.AttentionBudget()

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
        call = _Call(role, head, self._on_long, bar, limit, noun=noun)
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
        return self._stream(source, _Call(role, head, self._on_long, bar, limit), finish)

    def _stream(
        self, texts: Iterator[str], call: _Call, finish: Callable[[Any], Any] | None
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
        self.session.check_open()
        call = _Call(role, head, self._on_long, n_texts=1)
        known = check_text(text, name, several=several)
        # This is the latency of a search, so threads and batches are left out.
        window = _Window([known], 0, name)
        with call:
            for _ in self._batches(window, [np.zeros(1, np.intp)], call):
                pass
            window.failure.check()
            batch = padded(window.tokens, self.tokenizer.facts)
            try:
                outputs = self._run(batch, call, parallel=False)
            except EncodingError as error:
                self.session.check_open()
                raise window.error(EncodingError, [0], f": {error}") from error
            return head.apply(outputs, batch)[0]

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

    def token_counts(self, texts: Iterable[str], role: Role | TokenRole) -> NDArray[np.int64]:
        """Tokens of each text before any cut, prompt, marker and special tokens included: (n,)."""
        counts = [np.empty(0, np.int64)]
        first = 0
        for texts_of_window in batching.windows(check_texts(texts)):
            window = _Window(texts_of_window, first)
            counts.append(self._tokenize(window, np.arange(len(window.texts)), role))
            first += len(window.texts)
        return np.concatenate(counts)

    def _encode_window(self, texts: Sequence[Any], results: Any, call: _Call) -> workers.Failure:
        """Put the result of each text into its place of `results`.

        The results before the row of the Failure are complete.
        """
        self.session.check_open()
        window = _Window(texts, call.n_texts, noun=call.noun)
        call.n_texts += len(texts)
        parts = batching.chunks(texts)
        batches: Iterable[Rows] = self._batches(window, parts, call)
        if len(parts) == 1:
            batches = list(batches)
        # Of several parts, each is tokenized while batches of the one before it still run.
        parallel = not isinstance(batches, list) or len(batches) > 1

        def work(rows: Rows) -> None:
            self._encode_batch(rows, window, results, call, parallel=parallel)

        return workers.run_batches(work, batches, self.session.workers, window.failure, call.limit)

    def _batches(self, window: _Window, parts: Sequence[Rows], call: _Call) -> Iterator[Rows]:
        """Tokenize the window part by part, and yield the row numbers of each batch.

        Texts that cannot be encoded become the window's failure; the others still run, since a
        stream yields the results before them.
        """
        facts = self.tokenizer.facts
        for part in parts:
            try:
                counts = self._tokenize(window, part, call.role)
            except TokenizationError as error:
                window.failure.at(int(part.min()), error)
                continue
            self._note_long(window, part, counts, call)
            lengths = np.array([max(len(window.tokens[i].ids), facts.fixed_length) for i in part])
            if not lengths.all():
                empty = int(part[lengths == 0].min())
                rest = " has no tokens and the model adds none"
                window.failure.at(empty, window.error(TokenizationError, [empty], rest))
            filled = np.flatnonzero(lengths)
            n_tokens = int(lengths.sum()) if len(parts) == 1 else sys.maxsize
            budget = batching.budget(n_tokens, self.session.workers)
            for picked in batching.plan_batches(lengths[filled].tolist(), budget):
                yield part[filled[picked]]

    def _tokenize(self, window: _Window, part: Rows, role: Role | TokenRole) -> NDArray[np.int64]:
        """Put the ids of some texts into the window; their token counts before any cut."""
        try:
            made, counts = self.tokenizer.rows([window.texts[i] for i in part], role)
        except TokenizationError as error:
            raise window.error(TokenizationError, part.tolist(), f": {error}") from error
        for i, tokens in zip(part, made, strict=True):
            window.tokens[i] = tokens
        return counts

    def _note_long(
        self, window: _Window, part: Rows, counts: NDArray[np.int64], call: _Call
    ) -> None:
        """Count the texts that are cut; with on_long="error" the first of them is a failure."""
        over = counts > call.role.max_length
        if not over.any():
            return
        if self._on_long == "error":
            place = int(np.flatnonzero(over)[np.argmin(part[over])])
            row = int(part[place])
            rest = (
                f" has {counts[place]} tokens, the model reads {call.role.max_length}: shorten it, "
                'or pass on_long="truncate"'
            )
            window.failure.at(row, window.error(InputTooLong, [row], rest))
        call.n_long += int(over.sum())
        call.longest = max(call.longest, int(counts.max()))

    def _encode_batch(
        self, rows: Rows, window: _Window, results: Any, call: _Call, *, parallel: bool
    ) -> None:
        """Run one batch and put its results into their places.

        When the graph fails on several texts, each runs again alone: the error then names the text
        that is at fault, and the others have their results.
        """
        batch = padded([window.tokens[i] for i in rows], self.tokenizer.facts)
        try:
            outputs = self._run(batch, call, parallel=parallel)
        except EncodingError as error:
            self.session.check_open()  # that a model was closed is no fault of a text
            if len(rows) == 1:
                raise window.error(EncodingError, rows.tolist(), f": {error}") from error
            for row in np.sort(rows):
                if row >= window.failure.row:
                    return
                try:
                    self._encode_batch(np.array([row]), window, results, call, parallel=parallel)
                except EncodingError as failed:
                    window.failure.at(int(row), failed)
            return
        found = call.head.apply(outputs, batch)
        if call.head.width:
            results[rows] = found
        else:
            for i, result in zip(rows, found, strict=True):
                results[i] = result
        if call.bar is not None:
            call.bar.update(len(rows))

    def _run(self, batch: Batch, call: _Call, *, parallel: bool) -> list[Array]:
        """The graph's outputs for a batch; none where the head needs only the token ids."""
        if not call.head.outputs:
            return []
        inputs = feeds(batch, call.role, self.session.inputs)
        with self._attention.of(*batch.ids.shape):
            return self.session.run(inputs, outputs=call.head.outputs, parallel=parallel)


def _space(n: int, head: Head) -> Any:
    """Room for `n` results."""
    return np.empty((n, head.width), dtype=np.float32) if head.width else [None] * n

"""The way of many texts through a session: tokenised, batched, run and put back in order."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import is_text
from tessera_onnx.errors import (
    ConfigError,
    EncodingError,
    InputTooLong,
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
    Ids,
    OnLong,
    Runnable,
    Tokenizer,
    check_text,
    check_texts,
    checked,
    feeds,
    padded,
)


@dataclass(slots=True)
class _Call:
    """One call of the user: what is asked for, and what it has met so far."""

    role: Role | TokenRole
    head: Head
    on_long: OnLong
    bar: Any = None
    limit: workers.Limit = workers.ENDLESS
    n_texts: int = 0
    n_long: int = 0
    longest: int = 0

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Tell what was cut, also when the call failed or was left early."""
        if self.bar is not None:
            self.bar.close()
        if self.n_long and self.on_long == "warn":
            try:
                warnings.warn(
                    f"{self.n_long} of {self.n_texts} texts were cut to {self.role.max_length} "
                    f'tokens (the longest has {self.longest}); pass on_long="truncate" to accept '
                    "that silently",
                    TruncationWarning,
                    stacklevel=callers_level(),
                )
            except TruncationWarning:  # where warnings are errors; a failure goes first
                if kind is None:
                    raise


@dataclass(slots=True)
class _Window:
    """Texts that are sorted by length together; `rows` holds the ids of those tokenised so far."""

    texts: Sequence[str]
    first: int  # the number of the first text in the call
    rows: list[tuple[Ids, int]]  # and how many of them are attended
    failures: workers.Failures  # by row of this window


class TextEncoder:
    """A tokenizer and a session: the whole way of a text but for the model's head."""

    def __init__(self, tokenizer: Tokenizer, session: Runnable, on_long: OnLong) -> None:
        if on_long not in get_args(OnLong):
            raise ConfigError(
                f'on_long must be "truncate", "warn" or "error", got {shown(on_long)}'
            )
        self.tokenizer = tokenizer
        self.session = session
        self._on_long = on_long
        self._room = workers.AttentionBudget()  # of all threads that share this object

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
        """One head result a text, in order, some thousand texts read ahead.

        `finish` is what becomes of a result when it is handed out.

        Whatever stops the stream (a bad item, a failing batch, an exception of `texts` itself),
        every earlier result is yielded first.
        """
        source = checked(texts)  # a wrong argument is wrong now, not at the first result
        bar = progress_bar(texts, "text") if progress else None
        return self._stream(source, _Call(role, head, self._on_long, bar, limit), finish)

    def _stream(
        self, texts: Iterator[str], call: _Call, finish: Callable[[Any], Any] | None
    ) -> Iterator[Any]:
        with call:  # also when the stream fails or is left early: no cut is silent
            for window in batching.windows(call.limit.over(texts)):
                results = _space(len(window), call.head)
                complete, failed = self._fill(window, results, call)
                # Copies: a row that is kept must not keep the whole window.
                rows = (row.copy() if call.head.width else row for row in results[:complete])
                for row in rows:
                    call.limit.check()
                    yield row if finish is None else finish(row)
                if failed:
                    raise failed.pop()

    def encode(
        self,
        texts: Iterable[str],
        role: Role | TokenRole,
        head: Head,
        *,
        progress: bool = False,
        limit: workers.Limit = workers.ENDLESS,
    ) -> Any:
        """One head result a text, in order: a list, or one array where the head has a width.

        Every item is checked before the first is run.
        """
        known = check_texts(texts)
        limit.check()
        bar = progress_bar(known, "text") if progress else None
        call = _Call(role, head, self._on_long, bar, limit)
        results = _space(len(known), head)
        with call:
            for window in batching.windows(known):
                first = call.n_texts
                part = results[first : first + len(window)]
                _, failed = self._fill(window, part, call)
                if failed:
                    raise failed.pop()
                results[first : first + len(window)] = part  # a list's slice is a copy
        return results

    def one(
        self,
        text: str,
        role: Role | TokenRole,
        head: Head,
        *,
        name: str = "text",
        several: str = "give one text at a time",
    ) -> Any:
        """The head's result for one text.

        Raises TypeError for anything but a str; `several` says what takes a list of them.
        """
        self.session.check_open()
        call = _Call(role, head, self._on_long, n_texts=1)
        known = check_text(text, name, several=several)
        window = _Window([known], 0, [(np.empty(0, np.int64), 0)], [])
        # As `_fill`, without what only many texts need: this is a search's latency.
        with call:
            for _ in self._batches(window, [np.zeros(1, np.intp)], call):
                pass
            if window.failures:
                raise window.failures[0][1]
            batch = padded(window.rows, self.tokenizer.facts)
            try:
                with self._room.of(*batch.ids.shape):
                    outputs = self._outputs(batch, call, parallel=False)
            except EncodingError as error:
                raise EncodingError(f"text 0: {error}") from error
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
        """Tokens of each text before any cut, prompt, marker and special tokens included."""
        windows = batching.windows(check_texts(texts))
        counts = [self.tokenizer.rows(window, role)[1] for window in windows]
        return np.concatenate([np.empty(0, np.int64), *counts])

    def _fill(
        self, texts: Sequence[str], results: Any, call: _Call
    ) -> tuple[int, list[BaseException]]:
        """Put each text's result into its place of `results`.

        Gives how many leading ones are there, and what kept the others from being there, if any.
        """
        self.session.check_open()
        window = _Window(texts, call.n_texts, [(np.empty(0, np.int64), 0)] * len(texts), [])
        call.n_texts += len(texts)
        parts = batching.chunks(texts)
        # Of a large window each part is tokenised while batches of the one before still run.
        making = self._batches(window, parts, call)
        batches = list(making) if len(parts) == 1 else making
        parallel = not isinstance(batches, list) or len(batches) > 1

        def work(picked: NDArray[np.intp]) -> None:
            self._embed(picked, window, results, call, parallel=parallel)

        return workers.run_batches(work, batches, self.session.workers, window.failures, call.limit)

    def _embed(
        self,
        picked: NDArray[np.intp],
        window: _Window,
        results: Any,
        call: _Call,
        *,
        parallel: bool,
    ) -> None:
        """Put the results of one batch into their places.

        A method and no closure that calls itself: such a one holds all the results it was made
        for until the garbage collector comes by.
        """
        batch = padded([window.rows[i] for i in picked], self.tokenizer.facts)
        try:
            with self._room.of(*batch.ids.shape):
                outputs = self._outputs(batch, call, parallel=parallel)
        except EncodingError as error:
            if len(picked) == 1:
                raise EncodingError(f"text {window.first + picked[0]}: {error}") from error
            for i in np.sort(picked):  # the others have their results, and this one its name
                self._embed(np.array([i]), window, results, call, parallel=parallel)
            return
        found = call.head.apply(outputs, batch)
        if call.head.width:
            results[picked] = found
        else:
            for i, result in zip(picked, found, strict=True):
                results[i] = result
        if call.bar is not None:
            call.bar.update(len(picked))

    def _batches(
        self, window: _Window, parts: Sequence[NDArray[np.intp]], call: _Call
    ) -> Iterator[NDArray[np.intp]]:
        """Row numbers of each batch, after the ids of its texts have been put into the window."""
        facts = self.tokenizer.facts
        for part in parts:
            try:
                made, counts = self.tokenizer.rows([window.texts[i] for i in part], call.role)
            except TokenizationError as error:
                names = f"texts {window.first + part.min()} to {window.first + part.max()}"
                reason = f"{names}: {error}"
                window.failures.append((int(part.min()), TokenizationError(reason)))
                continue
            self._note_long(window, part, counts, call)
            for i, row in zip(part, made, strict=True):
                window.rows[i] = row
            lengths = np.array([max(len(ids), facts.fixed_length) for ids, _ in made])
            if not lengths.all():
                empty = int(part[lengths == 0].min())
                reason = f"text {window.first + empty} has no tokens and the model adds none"
                window.failures.append((empty, TokenizationError(reason)))
                # The rest runs: a stream owes the results of the texts before it.
            filled = np.flatnonzero(lengths)
            n_tokens = int(lengths.sum()) if len(parts) == 1 else sys.maxsize
            budget = batching.budget(n_tokens, self.session.workers)
            for picked in batching.plan_batches(lengths[filled].tolist(), budget):
                yield part[filled[picked]]

    def _note_long(
        self, window: _Window, part: NDArray[np.intp], counts: NDArray[np.int64], call: _Call
    ) -> None:
        over = counts > call.role.max_length
        if not over.any():
            return
        if self._on_long == "error":
            place = int(np.flatnonzero(over)[np.argmin(part[over])])
            row = int(part[place])
            reason = (
                f"text {window.first + row} has {counts[place]} tokens, the model reads "
                f'{call.role.max_length}: shorten it, or pass on_long="truncate"'
            )
            window.failures.append((row, InputTooLong(reason)))
        call.n_long += int(over.sum())
        call.longest = max(call.longest, int(counts.max()))

    def _outputs(self, batch: Batch, call: _Call, *, parallel: bool) -> list[Array]:
        if not call.head.outputs:
            return []
        inputs = feeds(batch, call.role, self.session.inputs)
        return self.session.run(inputs, outputs=call.head.outputs, parallel=parallel)


def _space(n: int, head: Head) -> Any:
    """Where `n` results go."""
    return np.empty((n, head.width), dtype=np.float32) if head.width else [None] * n

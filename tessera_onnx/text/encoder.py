"""Encode texts: tokenize them, build batches of like length, run the graph, restore the order.

Read this file first. `TextEncoder` serves every text model that runs a graph (text/static.py those
that run none, text/calls.py what both share); the Head of a model's kind says what becomes of the
graph's outputs (text/heads.py). A call takes its texts in windows of up to 4,096:

    texts -> window -> tokenized parts -> batches, longest first -> threads -> results in order
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import (
    EncodingError,
    InputTooLong,
    TokenizationError,
)
from tessera_onnx.models.spec import Role, TokenRole
from tessera_onnx.runtime import batching, workers
from tessera_onnx.runtime.session import Array
from tessera_onnx.text.calls import Call, Encoder, Prepared, Rows, Window
from tessera_onnx.text.tokenizer import (
    Batch,
    Head,
    OnLong,
    Row,
    Runnable,
    Tokenizer,
    check_text,
    check_texts,
    feeds,
    padded,
)


class TextEncoder(Encoder):
    """A tokenizer and a session, shared by all threads that use a model."""

    def __init__(self, tokenizer: Tokenizer, session: Runnable, on_long: OnLong) -> None:
        """Raises ConfigError for an unknown `on_long`."""
        super().__init__(tokenizer, on_long)
        self.session = session
        self._attention = workers.AttentionBudget()

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
        call = Call(role, head, self._on_long, n_texts=1)
        known = check_text(text, name, several=several)
        # This is the latency of a search, so threads and batches are left out.
        window = Window([known], 0, name)
        with call:
            for _ in self._batches(window, [np.zeros(1, np.intp)], call):
                pass
            window.failure.check()
            batch = padded(window.tokens, self.tokenizer.facts)
            try:
                outputs = self._run(batch, call.role, call.head.outputs, parallel=False)
            except EncodingError as error:
                self.session.check_open()
                raise window.error(EncodingError, [0], f": {error}") from error
            return head.apply(outputs, batch)[0]

    def token_counts(self, texts: Iterable[str], role: Role | TokenRole) -> NDArray[np.int64]:
        """Tokens of each text before any cut, prompt, marker and special tokens included: (n,)."""
        counts = [np.empty(0, np.int64)]
        first = 0
        for texts_of_window in batching.windows(check_texts(texts)):
            window = Window(texts_of_window, first)
            counts.append(self._tokenize(window, np.arange(len(window.texts)), role))
            first += len(window.texts)
        return np.concatenate(counts)

    def _encode_window(self, texts: Sequence[Any], results: Any, call: Call) -> workers.Failure:
        """Put the result of each text into its place of `results`.

        The results before the row of the Failure are complete.
        """
        self.session.check_open()
        window = Window(texts, call.n_texts, noun=call.noun)
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

    def _batches(self, window: Window, parts: Sequence[Rows], call: Call) -> Iterator[Rows]:
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

    def _tokenize(
        self, window: Window, part: Rows, role: Role | TokenRole, *, keep_end: bool = False
    ) -> NDArray[np.int64]:
        """Put the ids of some texts into the window; their token counts before any cut."""
        try:
            texts = [window.texts[i] for i in part]
            made, counts = self.tokenizer.rows(texts, role, keep_end=keep_end)
        except TokenizationError as error:
            raise window.error(TokenizationError, part.tolist(), f": {error}") from error
        for i, tokens in zip(part, made, strict=True):
            window.tokens[i] = tokens
        return counts

    def _note_long(self, window: Window, part: Rows, counts: NDArray[np.int64], call: Call) -> None:
        """Count the texts that are cut; with on_long="error" the first of them is a failure."""
        kept = np.array([len(window.tokens[i].ids) for i in part])
        over = counts > kept  # a query may be cut though the pair is not too long
        if not over.any():
            return
        if self._on_long == "error":
            place = int(np.flatnonzero(over)[np.argmin(part[over])])
            row = int(part[place])
            rest = (
                f" has {counts[place]} tokens, the model reads {kept[place]}: shorten it, "
                'or pass on_long="truncate"'
            )
            window.failure.at(row, window.error(InputTooLong, [row], rest))
        call.n_long += int(over.sum())
        call.longest = max(call.longest, int(counts.max()))

    def _encode_batch(
        self, rows: Rows, window: Window, results: Any, call: Call, *, parallel: bool
    ) -> None:
        """Run one batch and put its results into their places.

        When the graph fails on several texts, each runs again alone: the error then names the text
        that is at fault, and the others have their results.
        """
        batch = padded([window.tokens[i] for i in rows], self.tokenizer.facts)
        try:
            outputs = self._run(batch, call.role, call.head.outputs, parallel=parallel)
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

    def _run(
        self, batch: Batch, role: Role | TokenRole, outputs: Sequence[str], *, parallel: bool
    ) -> list[Array]:
        """The graph's outputs for a batch; none where the head needs only the token ids."""
        if not outputs:
            return []
        inputs = feeds(batch, role, self.session.inputs)
        with self._attention.of(*batch.ids.shape):
            return self.session.run(inputs, outputs=outputs, parallel=parallel)

    def prepare(
        self,
        known: Sequence[Any],
        role: Role | TokenRole,
        head: Head,
        noun: str = "text",
        *,
        keep_end: bool = False,
    ) -> list[Prepared]:
        """Tokenize items that are checked: what the tokenizer's `rows` takes.

        `noun` is what messages call an item; `keep_end` cuts the start of a text that is too long.
        Raises TokenizationError with the index of the item.
        """
        self.session.check_open()
        window = Window(known, 0, noun=noun)
        every = np.arange(len(known))
        counts = self._tokenize(window, every, role, keep_end=keep_end).tolist()
        return self._prepared(window, counts, role, head)

    def prepare_ids(
        self,
        items: Sequence[Sequence[int]],
        role: Role | TokenRole,
        head: Head,
        *,
        keep_end: bool = False,
    ) -> list[Prepared]:
        """As `prepare`, for lists of token ids: whole inputs, to which nothing is added.

        text-embeddings-inference decodes and tokenizes them again. That gives the same ids, or
        others where a tokenizer.json has no decoder.
        """
        self.session.check_open()
        window = Window(items, 0)
        found = self.checked_ids(items)
        most = role.max_length
        for i, ids in enumerate(found):
            kept = ids[max(len(ids) - most, 0) :] if keep_end else ids[:most]
            window.tokens[i] = Row(kept, len(kept))
        return self._prepared(window, [len(ids) for ids in found], role, head)

    def _prepared(
        self, window: Window, counts: Sequence[int], role: Role | TokenRole, head: Head
    ) -> list[Prepared]:
        """The texts of a window that is tokenized."""
        least = self.tokenizer.facts.fixed_length
        found = []
        for i, (row, count) in enumerate(zip(window.tokens, counts, strict=True)):
            size = max(len(row.ids), least)
            if not size:
                rest = " has no tokens and the model adds none"
                raise window.error(TokenizationError, [i], rest)
            found.append(Prepared(row, size, count, count > len(row.ids), role, head))
        return found

    def run_prepared(self, texts: Sequence[Prepared], *, parallel: bool = True) -> list[Any]:
        """The result of each text, which all have the same `lane`: one run of the graph.

        `parallel` is whether other batches run at the same time. Raises EncodingError.
        """
        self.session.check_open()
        if not texts:
            return []
        heads = list(dict.fromkeys(text.head for text in texts))
        names = tuple(dict.fromkeys(name for head in heads for name in head.outputs))
        batch = padded([text.content for text in texts], self.tokenizer.facts)
        outputs = self._run(batch, texts[0].role, names, parallel=parallel)
        if len(heads) == 1:
            return list(heads[0].apply(outputs, batch))
        found = dict(zip(names, outputs, strict=True))
        results: list[Any] = [None] * len(texts)
        for head in heads:
            rows = [i for i, text in enumerate(texts) if text.head is head]
            types = None if batch.types is None else batch.types[rows]
            part = Batch(batch.ids[rows], batch.attention[rows], batch.lengths[rows], types)
            made = head.apply([found[name][rows] for name in head.outputs], part)
            for i, result in zip(rows, made, strict=True):
                results[i] = result
        return results

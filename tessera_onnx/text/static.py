"""Encode texts with a model that runs no graph: the mean of a table's rows for the tokens.

Two libraries make such models, by two recipes (`Static` in models/spec.py holds what differs).
model2vec cuts a text at a number of characters and of tokens and leaves the unknown token out;
sentence-transformers reads every token of the whole text.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import (
    ConfigError,
    EncodingError,
    InputTooLong,
    LoadError,
    TokenizationError,
)
from tessera_onnx.models.artifact import Artifact
from tessera_onnx.models.spec import (
    Kind,
    ModelSpec,
    Role,
    Static,
    TokenRole,
)
from tessera_onnx.runtime import batching, workers
from tessera_onnx.runtime.cpu import cpu_threads
from tessera_onnx.text import modules
from tessera_onnx.text.calls import Call, Encoder, Prepared, Rows, Window
from tessera_onnx.text.tokenizer import (
    Batch,
    Head,
    Ids,
    OnLong,
    Tokenizer,
    check_text,
    check_texts,
)
from tessera_onnx.vectors import tensors
from tessera_onnx.vectors.token_table import TokenTable


def load_table(facts: Static, artifact: Artifact, tokenizer: Tokenizer) -> TokenTable:
    """The table of a model. A file that nobody hashed is mapped into memory and not read whole.

    Raises LoadError for tensors of other shapes and dtypes, for rows, weights or a mapping that do
    not cover the tokenizer's ids; otherwise as `Artifact.read`.
    """
    content, name = artifact.read_or_map(facts.file), facts.file
    rows, code = tensors.view(content, name, facts.rows)
    if rows.ndim != 2 or not rows.size or code not in {"F64", "F32", "F16", "BF16", "I8"}:
        raise LoadError(
            f"{name}: {facts.rows} is {code} of the shape {list(rows.shape)}, expected floats or "
            "int8 of the shape [rows, dimension]",
            path=name,
        )
    weights = mapping = None
    if facts.weights:
        values, kind = tensors.view(content, name, facts.weights)
        _check_vector(values, kind, name, facts.weights, {"F64", "F32", "F16", "BF16"})
        weights = tensors.floats(values, kind)
    if facts.mapping:
        mapping, kind = tensors.view(content, name, facts.mapping)
        _check_vector(mapping, kind, name, facts.mapping, {"I16", "I32", "I64"})
        if mapping.min() < 0 or mapping.max() >= len(rows):
            raise LoadError(
                f"{name}: {facts.mapping} names rows {mapping.min()} to {mapping.max()}, but "
                f"{facts.rows} has the rows 0 to {len(rows) - 1}",
                path=name,
            )
    table = TokenTable(rows, code, weights, mapping)
    largest = max(tokenizer.largest_id(), *facts.drop_ids, 0)
    if largest >= table.n_ids:
        raise LoadError(
            f"{name} has the vectors of {table.n_ids} tokens, but {tokenizer.facts.tokenizer} has "
            f"the id {largest}: these are files of two models",
            path=name,
        )
    return table


def settled(
    spec: ModelSpec, table: TokenTable, read: Callable[[str], bytes]
) -> tuple[ModelSpec, dict[Kind, modules.Step]]:
    """The spec with the dimension that the table gives, and the steps after the mean.

    Raises LoadError where the recipe says another dimension.
    """
    recipe = spec.dense
    if recipe is None:
        raise LoadError(f"model {spec.id!r} has no [model.dense] table")
    if recipe.modules:
        return spec, {"dense": modules.load(recipe.modules, read, table.width)}
    if recipe.dimension not in (0, table.width):
        raise LoadError(
            f"model {spec.id!r} has the dimension {recipe.dimension}, but its table gives "
            f"{table.width} numbers: these are facts of two models"
        )
    spec = dataclasses.replace(spec, dense=dataclasses.replace(recipe, dimension=table.width))
    # No modules at all is L2; an empty list is the mean as it is.
    return spec, {} if recipe.modules is None else {"dense": modules.load((), read, table.width)}


def _check_vector(values: NDArray[Any], kind: str, name: str, key: str, kinds: set[str]) -> None:
    if values.ndim != 1 or not values.size or kind not in kinds:
        raise LoadError(
            f"{name}: {key} is {kind} of the shape {list(values.shape)}, expected "
            f"{' or '.join(sorted(kinds))} of the shape [tokens]",
            path=name,
        )


class StaticEncoder(Encoder):
    """A tokenizer and a table, shared by all threads that use a model."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        table: TokenTable,
        spec: ModelSpec,
        on_long: OnLong,
        threads: int | None,
    ) -> None:
        """Raises ConfigError for an unknown `on_long`, LoadError for a model without a table."""
        super().__init__(tokenizer, on_long)
        if spec.static is None:
            raise LoadError(f"model {spec.id!r} has no [model.static] table")
        self._facts = spec.static
        self._drop = np.array(spec.static.drop_ids, dtype=np.int64)
        self._not_finite = (
            f"{spec.static.file} has a number that is not finite for one of its tokens"
        )
        self._table: TokenTable | None = table
        self._workers = cpu_threads(threads)
        self._pid = os.getpid()
        self._lock = threading.Lock()  # parts of one call run at the same time

    def close(self) -> None:
        """Let the table go; later calls raise EncodingError."""
        self._table = None

    def _open_table(self) -> TokenTable:
        table = self._table
        if table is None:
            raise EncodingError("this model is closed: make a new object")
        if self._pid != os.getpid():  # the tokenizer's threads and ours are not in a fork
            raise EncodingError(
                f"this model was opened in process {self._pid} and is used in its fork "
                f"{os.getpid()}: open it in the child, or start the child with 'spawn' (it pickles)"
            )
        return table

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
        table = self._open_table()
        call = self._call(Call(role, head, self._on_long, n_texts=1))
        window = Window([check_text(text, name, several=several)], 0, name)
        results = [None]
        with call:
            self._encode_part(np.zeros(1, np.intp), window, results, call, table)
            window.failure.check()
        return results[0]

    def token_counts(self, texts: Iterable[str], role: Role | TokenRole) -> NDArray[np.int64]:
        """Tokens of each text before any cut, prompt and unknown tokens included: (n,)."""
        counts = [np.empty(0, np.int64)]
        first = 0
        for some in batching.windows(check_texts(texts)):
            window = Window(some, first)
            prompted = [role.prompt + text for text in some]
            counts.append(self._ids(window, np.arange(len(some)), prompted)[1])
            first += len(some)
        return np.concatenate(counts)

    def prepare(
        self,
        known: Sequence[str],
        role: Role | TokenRole,
        head: Head,
        noun: str = "text",
        *,
        keep_end: bool = False,
    ) -> list[Prepared]:
        """Tokenize texts that are checked; the content of each is the ids whose rows count.

        Raises TokenizationError with the index of the text, and ConfigError in place of a cut that
        `keep_end` asks for.
        """
        self._open_table()
        window = Window(known, 0, noun=noun)
        prompted = [role.prompt + text for text in known] if role.prompt else list(known)
        most = self._facts.characters_per_token * role.max_length
        read = [text[:most] for text in prompted] if most else prompted
        ids, counts = self._ids(window, np.arange(len(known)), read)
        kept, numbers = self._kept(ids, counts, role.max_length)
        ends = np.cumsum(numbers)
        sizes = np.minimum(counts, role.max_length)
        over = counts > sizes
        for i in [i for i, text in enumerate(prompted) if most and len(text) > most]:
            counts[i] = self._ids(window, np.array([i]), prompted[i : i + 1])[1][0]
            over[i] = True  # though the rest may have no further token
        if keep_end and over.any():
            raise ConfigError("this model keeps the start of a text that is cut, not its end")
        starts = ends - numbers
        facts = zip(*(each.tolist() for each in (starts, ends, sizes, counts, over)), strict=True)
        return [
            Prepared(kept[start:end], size, count, cut, role, head)
            for start, end, size, count, cut in facts
        ]

    def run_prepared(self, texts: Sequence[Prepared], *, parallel: bool = True) -> list[Any]:  # noqa: ARG002
        """The result of each text. Raises EncodingError for a mean that is not finite."""
        table = self._open_table()
        if not texts:
            return []
        counts = np.array([len(text.content) for text in texts], dtype=np.int64)
        means = table.means(np.concatenate([text.content for text in texts]), counts)
        if not np.isfinite(means).all():
            raise EncodingError(self._not_finite)
        heads = list(dict.fromkeys(text.head for text in texts))
        if len(heads) == 1:
            return list(heads[0].apply([means], _no_tokens(counts)))
        results: list[Any] = [None] * len(texts)
        for head in heads:
            rows = [i for i, text in enumerate(texts) if text.head is head]
            found = head.apply([means[rows]], _no_tokens(counts[rows]))
            for i, result in zip(rows, found, strict=True):
                results[i] = result
        return results

    def _call(self, call: Call) -> Call:
        call.most_characters = self._facts.characters_per_token * call.role.max_length
        return call

    def _encode_window(self, texts: Sequence[str], results: Any, call: Call) -> workers.Failure:
        """Put the result of each text into its place of `results`.

        The results before the row of the Failure are complete.
        """
        table = self._open_table()
        window = Window(texts, call.n_texts)
        call.n_texts += len(texts)
        self._call(call)

        # While one part's ids become vectors, the tokenizer's threads work on the next part.
        def work(rows: Rows) -> None:
            self._encode_part(rows, window, results, call, table)

        parts = batching.chunks(texts)
        return workers.run_batches(work, parts, self._workers, window.failure, call.limit)

    def _encode_part(
        self, rows: Rows, window: Window, results: Any, call: Call, table: TokenTable
    ) -> None:
        """Tokenize some texts of a window and put their results into their places."""
        prompt, most = call.role.prompt, call.most_characters
        prompted = (
            [prompt + window.texts[row] for row in rows]
            if prompt
            else [window.texts[row] for row in rows]
        )
        lengths = np.array([len(text) for text in prompted], dtype=np.int64)
        if most and lengths.max(initial=0) > most:
            prompted = [text[:most] for text in prompted]
        ids, counts = self._ids(window, rows, prompted)
        over = (counts > call.role.max_length) | (lengths > (most or lengths))
        if over.any():
            self._note_long(window, rows, lengths if most else counts, over, call)
        ids, counts = self._kept(ids, counts, call.role.max_length)
        means = table.means(ids, counts)
        if not np.isfinite(means).all():
            wrong = ~np.isfinite(means).all(axis=1)
            means[wrong] = 0
            row = int(rows[wrong].min())
            window.failure.at(row, window.error(EncodingError, [row], f": {self._not_finite}"))
        found = call.head.apply([means], _no_tokens(counts))
        for row, result in zip(rows.tolist(), found, strict=True):
            results[row] = result
        if call.bar is not None:
            call.bar.update(len(rows))

    def _ids(self, window: Window, rows: Rows, texts: list[str]) -> tuple[Ids, Ids]:
        try:
            return self.tokenizer.joined_ids(texts)
        except TokenizationError as error:
            raise window.error(TokenizationError, rows.tolist(), f": {error}") from error

    def _kept(self, ids: Ids, counts: Ids, most: int) -> tuple[Ids, Ids]:
        """The ids that count and their numbers: the first `most` of each text, none of drop_ids."""
        long = counts.max(initial=0) > most
        if not long and not self._drop.size:
            return ids, counts
        text = np.repeat(np.arange(len(counts)), counts)
        kept = np.ones(len(ids), dtype=bool)
        if long:
            kept = np.arange(len(ids)) - np.repeat(np.cumsum(counts) - counts, counts) < most
        for number in self._drop:
            kept &= ids != number
        return ids[kept], np.bincount(text[kept], minlength=len(counts))

    def _note_long(
        self, window: Window, rows: Rows, sizes: Ids, over: NDArray[np.bool_], call: Call
    ) -> None:
        """Count the texts that are cut; with on_long="error" the first of them is a failure."""
        if self._on_long == "error":
            place = int(np.flatnonzero(over)[np.argmin(rows[over])])
            unit = "characters" if call.most_characters else "tokens"
            rest = (
                f" has {sizes[place]} {unit}, the model reads {call.most}: shorten it, or pass "
                'on_long="truncate"'
            )
            row = int(rows[place])
            window.failure.at(row, window.error(InputTooLong, [row], rest))
        with self._lock:
            call.n_long += int(over.sum())
            call.longest = max(call.longest, int(sizes[over].max()))


def _no_tokens(counts: Ids) -> Batch:
    """A batch for heads: nothing after the table looks at tokens."""
    empty = np.empty((len(counts), 0), np.int64)
    return Batch(empty, empty, counts)

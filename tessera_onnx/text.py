"""Texts become token batches, run through the graph, and come back in order."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import batching
from tessera_onnx.errors import (
    ConfigError,
    EncodingError,
    InputTooLong,
    LoadError,
    TokenizationError,
    TruncationWarning,
)
from tessera_onnx.runtime import Array, Session
from tessera_onnx.schema import Role, Text, TokenRole

OnLong = Literal["truncate", "warn", "error"]
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded token rows: ids and attention (b, n) int64, lengths (b,) real rows.

    lengths counts the positions whose states are wanted: query expansion included, padding not.
    """

    ids: Ids
    attention: Ids
    lengths: Ids


@dataclass(frozen=True, slots=True)
class Head:
    """What becomes of the graph's outputs: `apply` gives one result a row, on worker threads."""

    outputs: tuple[str, ...]  # () = the token ids say all: the graph does not run
    apply: Callable[[list[Array], Batch], Sequence[Any] | Array]


def check_texts(texts: Iterable[str], name: str = "texts") -> list[str]:
    """`texts` as a list, every item a str. Raises TypeError naming the index of one that is not."""
    return list(checked(texts, name))


def checked(texts: Iterable[str], name: str = "texts") -> Iterator[str]:
    """The same, lazily, for streams."""
    if isinstance(texts, str | bytes) or not hasattr(texts, "__iter__"):
        raise TypeError(
            f"{name} must be a list or another iterable of str, got {type(texts).__name__}"
        )
    return (check_text(text, f"{name}[{i}]", i) for i, text in enumerate(texts))


def check_text(text: Any, name: str, index: int = 0) -> str:
    """`text` itself. Raises TypeError unless it is a str, TokenizationError for bad Unicode."""
    if not isinstance(text, str):
        raise TypeError(f"{name} must be str, got {type(text).__name__}")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizationError(
                f"text {index} (length {len(text)}) has a lone surrogate at character "
                f"{error.start}: it is not valid Unicode; decode its source with errors='replace'"
            ) from error
    return text


class Tokenizer:
    """A tokenizer.json that is never reconfigured after loading, so threads may share it.

    Truncation, special tokens and padding are done here from the facts of model.toml, whatever
    the file itself asks for (the public all-MiniLM-L6-v2 file pads to 128 and cuts at 128).
    """

    def __init__(self, content: bytes, facts: Text) -> None:
        """`content` is that of a tokenizer.json. Raises LoadError when it is none."""
        from tokenizers import Tokenizer as Backend

        try:
            self._backend = Backend.from_buffer(content)
        except Exception as error:  # the binding raises bare Exception
            reason = str(error)[:200]
            raise LoadError(f"{facts.tokenizer} is not a tokenizer.json: {reason}") from error
        self._backend.no_padding()
        self._backend.no_truncation()
        self.facts = facts

    def ids(self, texts: Sequence[str], prompt: str = "", first: int = 0) -> list[Ids]:
        """Ids of prompt + text, uncut, without special tokens; `first` is the first text's index.

        Raises TokenizationError when the tokenizer fails on valid text.
        """
        prompted = [prompt + text for text in texts] if prompt else list(texts)
        if self.facts.lowercase:
            prompted = [text.strip().lower() for text in prompted]
        try:
            encodings = self._backend.encode_batch_fast(prompted, add_special_tokens=False)
        except Exception as error:  # the binding raises bare Exception
            raise TokenizationError(
                f"texts {first} to {first + len(texts) - 1} cannot be tokenised: {error}"
            ) from error
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def token(self, token_id: int) -> str:
        """The vocabulary entry of an id; "" for an id outside the vocabulary."""
        return self._backend.id_to_token(int(token_id)) or ""

    def token_id(self, token: str) -> int | None:
        """The id of a vocabulary entry."""
        found: int | None = self._backend.token_to_id(token)
        return found


class TextEncoder:
    """A tokenizer and a session: the whole way of a text but for the model's head."""

    def __init__(self, tokenizer: Tokenizer, session: Session, on_long: OnLong) -> None:
        if on_long not in get_args(OnLong):
            raise ConfigError(f'on_long must be "truncate", "warn" or "error", got {on_long!r}')
        self.tokenizer = tokenizer
        self.session = session
        self._on_long = on_long

    def stream(
        self,
        texts: Iterable[str],
        role: Role | TokenRole,
        head: Head,
        *,
        progress: bool = False,
    ) -> Iterator[Any]:
        """One head result a text, in order, some thousand texts read ahead.

        Whatever stops the stream (a bad item, a failing batch, an exception of `texts` itself),
        every earlier result is yielded first.
        """
        source = checked(texts)  # a wrong argument is wrong now, not at the first result
        bar = _bar(texts) if progress else None
        return self._stream(source, role, head, bar)

    def _stream(
        self, texts: Iterator[str], role: Role | TokenRole, head: Head, bar: Any
    ) -> Iterator[Any]:
        first = n_long = longest = 0
        try:
            for window in batching.windows(texts):
                rows, counts = self._rows(window, role, first)
                over = counts[counts > role.max_length]
                if len(over) and self._on_long == "error":
                    stop = int(np.argmax(counts > role.max_length))
                    yield from self._run(rows[:stop], role, head, first, bar)
                    raise InputTooLong(
                        f"text {first + stop} has {counts[stop]} tokens, the model reads "
                        f'{role.max_length}: shorten it, or pass on_long="truncate"'
                    )
                n_long += len(over)
                longest = max(longest, int(over.max(initial=0)))
                first += len(window)
                yield from self._run(rows, role, head, first - len(window), bar)
        finally:  # also when the stream fails or is left early: no cut is silent
            if bar is not None:
                bar.close()
            if n_long and self._on_long == "warn":
                warnings.warn(
                    f"{n_long} of {first} texts were cut to {role.max_length} tokens (the longest "
                    f'has {longest}); pass on_long="truncate" to accept that silently',
                    TruncationWarning,
                    stacklevel=_callers_level(),
                )

    def encode(
        self, texts: Iterable[str], role: Role | TokenRole, head: Head, **options: Any
    ) -> list[Any]:
        """One head result a text, in order; every item is checked before the first is run."""
        return list(self.stream(check_texts(texts), role, head, **options))

    def one(
        self, text: str, role: Role | TokenRole, head: Head, *, name: str = "text", **options: Any
    ) -> Any:
        """The head's result for one text. Raises TypeError for anything but a str."""
        return self.encode([check_text(text, name)], role, head, **options)[0]

    def one_or_many(
        self, text: str | Iterable[str], role: Role | TokenRole, head: Head, **options: Any
    ) -> Any:
        """A result for a str, a list of results for an iterable of str."""
        if isinstance(text, str):
            return self.one(text, role, head, **options)
        return self.encode(text, role, head, **options)

    def token_counts(self, texts: Iterable[str], role: Role | TokenRole) -> NDArray[np.int64]:
        """Tokens of each text before any cut, prompt, marker and special tokens included."""
        return self._rows(check_texts(texts), role, 0)[1]

    def _rows(
        self, texts: Sequence[str], role: Role | TokenRole, first: int
    ) -> tuple[list[tuple[Ids, int]], NDArray[np.int64]]:
        """(ids, attended positions) of each text, and its full token count."""
        facts = self.tokenizer.facts
        marker = role.marker_ids if isinstance(role, TokenRole) else ()
        expansion = role.expansion if isinstance(role, TokenRole) else "none"
        before = np.array([*facts.prefix_ids, *marker], dtype=np.int64)
        after = np.array(facts.suffix_ids, dtype=np.int64)
        room = role.max_length - len(before) - len(after)
        rows = []
        counts = np.empty(len(texts), dtype=np.int64)
        for i, content in enumerate(self.tokenizer.ids(texts, role.prompt, first)):
            counts[i] = len(content) + len(before) + len(after)
            ids = np.concatenate([before, content[:room], after])
            attended = len(ids)
            if expansion != "none":
                spare = np.full(role.max_length - len(ids), facts.mask_id, dtype=np.int64)
                ids = np.concatenate([ids, spare])
                attended = len(ids) if expansion == "attended" else attended
            if not len(ids):
                raise TokenizationError(f"text {first + i} has no tokens and the model adds none")
            rows.append((ids, attended))
        return rows, counts

    def _run(
        self,
        rows: list[tuple[Ids, int]],
        role: Role | TokenRole,
        head: Head,
        first: int,
        bar: Any,
    ) -> Iterator[Any]:
        """Results of one window, in order; those before the first failure, then the failure."""
        self.session.check_open()
        results: list[Any] = [None] * len(rows)
        least = self.tokenizer.facts.fixed_length
        batches = batching.plan([max(len(ids), least) for ids, _ in rows])
        parallel = len(batches) > 1

        def work(picked: NDArray[np.intp]) -> None:
            batch = self._batch([rows[i] for i in picked])
            try:
                outputs = self._outputs(batch, role, head, parallel=parallel)
            except EncodingError as error:
                if len(picked) == 1:
                    raise EncodingError(f"text {first + picked[0]}: {error}") from error
                for i in np.sort(picked):  # the others have their results, and this one its name
                    work(np.array([i]))
                return
            for i, result in zip(picked, head.apply(outputs, batch), strict=True):
                results[i] = result
            if bar is not None:
                bar.update(len(picked))

        failure = batching.run(work, batches, self.session.workers)
        for result in results:
            if result is None:
                break
            yield result
        if failure is not None:
            raise failure

    def _outputs(
        self, batch: Batch, role: Role | TokenRole, head: Head, *, parallel: bool
    ) -> list[Array]:
        if not head.outputs:
            return []
        inputs = feeds(batch, role, self.session.inputs)
        return self.session.run(inputs, outputs=head.outputs, parallel=parallel)

    def _batch(self, rows: list[tuple[Ids, int]]) -> Batch:
        return padded(rows, self.tokenizer.facts)


def padded(rows: Sequence[tuple[Ids, int]], facts: Text) -> Batch:
    """(ids, attended positions) of each text as one right-padded batch."""
    ids = batching.pad([ids for ids, _ in rows], facts.pad_id, facts.fixed_length)
    attended = np.array([count for _, count in rows])
    attention = (np.arange(ids.shape[1]) < attended[:, None]).astype(np.int64)
    return Batch(ids, attention, np.array([len(ids) for ids, _ in rows]))


def feeds(batch: Batch, role: Role | TokenRole, inputs: Sequence[str]) -> dict[str, Array]:
    """The graph's inputs, by name, for a batch."""
    known = {"input_ids": batch.ids, "attention_mask": batch.attention}
    if "token_type_ids" in inputs:
        known["token_type_ids"] = np.zeros_like(batch.ids)
    if isinstance(role, Role) and role.task_id is not None:
        known["task_id"] = np.array(role.task_id, dtype=np.int64)  # a scalar (jina-embeddings-v3)
    return {name: known[name] for name in inputs}


def probe(facts: Text) -> Batch:
    """One text of no words: what a session is tried with after loading."""
    ids = np.array([*facts.prefix_ids, *facts.suffix_ids] or [facts.pad_id], dtype=np.int64)
    return padded([(ids, len(ids))], facts)


def _callers_level() -> int:
    """The stacklevel, for the function that asks, of the first frame outside this package."""
    folder = str(Path(__file__).parent)
    frame = sys._getframe(1)  # noqa: SLF001 - warnings' own skip_file_prefixes needs Python 3.12
    level = 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(folder):
        frame = frame.f_back
        level += 1
    return level


def _bar(texts: Iterable[str]) -> Any:
    from tqdm import tqdm

    total = len(texts) if isinstance(texts, Sequence) else None
    return tqdm(total=total, unit="text")

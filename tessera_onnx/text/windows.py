"""Windows of long texts: where to cut them, and an encoder that averages their vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError, EncodingError, TokenizationError
from tessera_onnx.models.spec import Dense, ModelSpec, Role, TokenRole
from tessera_onnx.runtime import workers
from tessera_onnx.text.calls import Call, Encoder, Prepared
from tessera_onnx.text.encoder import TextEncoder
from tessera_onnx.text.tokenizer import Head, Piece, check_text
from tessera_onnx.vectors import pooling

Float = NDArray[np.float32]
Spans = list[tuple[int, int]]
PART = 8  # windows overlap by an eighth of what the model reads


class Window(NamedTuple):
    """A part of a text that the model reads whole."""

    start: int  # characters: text[start:stop]
    stop: int
    weight: int  # its tokens, without those that the model puts around them; 1 if there are none


def token_spans(pieces: Sequence[Piece], text: str, size: int, overlap: int) -> Spans:
    """Cut the tokens of a text into spans (first, end) of up to `size`, which share `overlap`.

    A span ends before a word and not within it, unless the word is longer than half of a span. It
    begins with a word, if twice the overlap reaches one. No tokens give no spans.
    """
    spans: Spans = []
    first = 0
    while first < len(pieces):
        end = min(first + size, len(pieces))
        if end < len(pieces):
            end = _word_start(pieces, text, end, first + size // 2)
        spans.append((first, end))
        if end == len(pieces):
            break
        following = end - overlap
        if overlap:
            following = _word_start(pieces, text, following, max(first, following - overlap))
        first = max(following, first + 1)
    return spans


def _word_start(pieces: Sequence[Piece], text: str, place: int, least: int) -> int:
    """The last token up to `place` and after `least` that begins a word; `place` if none does."""
    for i in range(place, least, -1):
        start, before = pieces[i].start, pieces[i - 1].stop
        if start > before or text[start : start + 1].isspace() or text[start - 1].isspace():
            return i
    return place


def split(
    encoder: Encoder, text: str, role: Role | TokenRole, size: int | None, overlap: int | None
) -> list[Window]:
    """The windows of a text: of `size` tokens, or of as many as the model reads (None).

    A window is read as a text of its own, with the prompt and special tokens, so at a cut within a
    word it may have other tokens than the whole text has there. Raises ConfigError for more
    tokens than the model reads or an overlap that is no part of them.
    """
    around = int(encoder.token_counts([""], role)[0])
    room = role.max_length - around
    most = room if size is None else size
    if not 0 < most <= room:
        raise ConfigError(f"size must be 1 to {room}, which this model reads of a text; got {size}")
    shared = most // PART if overlap is None else overlap
    check_overlap(shared, most)
    pieces = encoder.tokenizer.pieces(text)
    while True:
        spans = token_spans(pieces, text, most, min(shared, most - 1))
        places = characters(pieces, spans) if len(spans) > 1 else [(0, len(text))]
        counts = encoder.token_counts([text[start:stop] for start, stop in places], role) - around
        if counts.max() <= room or most == 1:
            weights = np.maximum(counts, 1).tolist()
            return [Window(*place, weight) for place, weight in zip(places, weights, strict=True)]
        most = max(1, most - int(counts.max() - room))


def check_overlap(overlap: int, size: int) -> None:
    """Raises TypeError or ConfigError unless the overlap is 0 or more and below the size."""
    if isinstance(overlap, bool) or not isinstance(overlap, int):
        raise TypeError(f"overlap must be int, got {type(overlap).__name__}")
    if not 0 <= overlap < size:
        raise ConfigError(f"overlap must be 0 to {size - 1}, below the size; got {overlap}")


def characters(pieces: Sequence[Piece], spans: Spans) -> Spans:
    """The characters (start, stop) of spans of tokens."""
    return [(pieces[first].start, pieces[end - 1].stop) for first, end in spans]


class WindowEncoder(Encoder):
    """Reads long texts in windows, and gives the mean of their vectors by number of tokens.

    Texts that the model reads whole have the vectors that `encoder` gives them. `unit` says whether
    vectors have unit length.
    """

    def __init__(self, encoder: Encoder, *, unit: bool) -> None:
        super().__init__(encoder.tokenizer, "truncate")  # windows are never cut
        self._inner = encoder
        self._unit = unit

    @property
    def whole(self) -> Encoder:
        """The encoder of the windows."""
        return self._inner

    def close(self) -> None:
        """Free what the encoder holds."""
        self._inner.close()

    def token_counts(self, texts: Iterable[str], role: Role | TokenRole) -> NDArray[np.int64]:
        """Tokens of each whole text: (n,)."""
        return self._inner.token_counts(texts, role)

    def one(
        self,
        text: str,
        role: Role | TokenRole,
        head: Head,
        *,
        name: str = "text",
        several: str = "give one text at a time",
    ) -> Any:
        """The vector of one text."""
        known = check_text(text, name, several=several)
        windows = self._windows([known], role)[0]
        if len(windows) == 1:
            _check(head)
            return self._inner.one(known, role, head, name=name, several=several)
        return self.encode_known([known], role, head)[0]

    def prepare(
        self,
        known: Sequence[Any],
        role: Role | TokenRole,
        head: Head,
        noun: str = "text",
        *,
        keep_end: bool = False,
    ) -> list[Prepared]:
        """Texts for batches of the caller's. Raises ConfigError for a text of several windows."""
        found = self._inner.prepare(known, role, head, noun, keep_end=keep_end)
        for i, text in enumerate(found):
            if text.cut:
                raise ConfigError(
                    f'{noun} {i} has {text.count} tokens: on_long="window" is for the encode '
                    "methods, not for batches of your own",
                    index=i,
                )
        return found

    def prepare_ids(self, items: Any, role: Any, head: Head, *, keep_end: bool = False) -> Any:
        """As `prepare`, for lists of token ids."""
        return self._inner.prepare_ids(items, role, head, keep_end=keep_end)

    def run_prepared(self, texts: Sequence[Prepared], *, parallel: bool = True) -> list[Any]:
        """The results of prepared texts."""
        return self._inner.run_prepared(texts, parallel=parallel)

    def _encode_window(self, texts: Sequence[Any], results: Any, call: Call) -> workers.Failure:
        """Put the vector of each text into its place; those before the Failure's row are right."""
        _check(call.head)
        first = call.n_texts
        call.n_texts += len(texts)
        windows = self._windows(texts, call.role)
        owner = np.repeat(np.arange(len(texts)), [len(found) for found in windows])
        parts = [
            texts[i][window.start : window.stop]
            for i, found in enumerate(windows)
            for window in found
        ]
        rows = np.empty((len(parts), call.head.width), np.float32)
        inner = Call(call.role, call.head, "truncate", limit=call.limit)
        failed = self._inner._encode_window(parts, rows, inner)  # noqa: SLF001
        whole = len(texts) if failed.error is None else int(owner[min(failed.row, len(parts) - 1)])
        ends = np.cumsum([len(found) for found in windows])
        for i, (found, end) in enumerate(zip(windows[:whole], ends, strict=False)):
            results[i] = self._mean(rows[end - len(found) : end], found)
        if call.bar is not None:
            call.bar.update(len(texts))
        failure = workers.Failure()
        if failed.stopped and failed.error is not None:
            failure.stop(failed.error)
        elif failed.error is not None:
            failure.at(whole, _of_text(failed.error, f"{call.noun} {first + whole}", first + whole))
        return failure

    def _windows(self, texts: Sequence[str], role: Role | TokenRole) -> list[list[Window]]:
        """The windows of each text; a text that the model reads whole has one."""
        try:
            counts = self._inner.token_counts(texts, role)
        except TokenizationError:
            if len(texts) > 1:
                return [self._windows([text], role)[0] for text in texts]
            counts = np.zeros(1, np.int64)  # the same error comes when the text is encoded
        return [
            [Window(0, len(text), 1)]
            if count <= role.max_length
            else split(self._inner, text, role, None, None)
            for text, count in zip(texts, counts, strict=True)
        ]

    def _mean(self, rows: Float, windows: Sequence[Window]) -> Float:
        if len(windows) == 1:
            return np.asarray(rows[0])
        weights = np.array([window.weight for window in windows], np.float32)
        mean = np.asarray(weights @ rows / weights.sum())
        return pooling.l2_normalize(mean) if self._unit else mean


def reader(encoder: Encoder, spec: ModelSpec, recipe: Dense, dimension: int) -> WindowEncoder:
    """The encoder of a dense model, reading in windows. Raises ConfigError without a graph."""
    if not isinstance(encoder, TextEncoder):
        raise ConfigError(f'model {spec.id!r} runs no graph, which on_long="window" needs')
    normal = any(step.type == "normalize" for step in recipe.modules or ())
    cut = dimension != recipe.dimension  # which ends with L2
    return WindowEncoder(encoder, unit=recipe.modules is None or normal or cut)


def _check(head: Head) -> None:
    if not head.width:
        raise ConfigError('on_long="window" gives dense vectors alone: open the model without it')


def _of_text(error: BaseException, name: str, number: int) -> BaseException:
    """The error of a window as one of its text, which messages call `name`."""
    if not isinstance(error, EncodingError) or error.index is None:
        return error
    return type(error)(f"{name}: {error.__cause__ or error}", index=number)

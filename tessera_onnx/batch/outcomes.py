"""Run a model over rows so that a row that fails is an error of its own and stops no other row."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import is_text
from tessera_onnx.errors import EncodingError, TesseraError, TruncationWarning
from tessera_onnx.runtime import batching, workers
from tessera_onnx.runtime.cpu import cpu_threads
from tessera_onnx.text.base import TextModel
from tessera_onnx.text.calls import Prepared

# A tokenizer takes a hundred times the memory of its text, so a longer cell is refused.
MOST_CHARACTERS = 1 << 22


@dataclass(slots=True)
class Outcome:
    """What became of a row: a result, or an error."""

    result: Any = None  # one result, or a tuple with one of each kind
    tokens: int | None = None  # tokens, rows or values that the model read
    truncated: bool | None = None  # whether the input is longer than that
    error: str | None = None

    def fail(self, error: object) -> None:
        """Keep the first error of the row."""
        if self.error is None:
            self.error = str(error)
        self.result = self.tokens = self.truncated = None


def of_texts(
    model: TextModel, found: Sequence[Outcome], texts: Sequence[Any], *, refuse_long: bool,
    threads: int | None, **reading: Any,
) -> None:  # fmt: skip
    """Encode the texts whose outcome is no error yet.

    `reading` are the arguments of `TextModel.prepare`; `refuse_long` makes a text that would be cut
    an error. Raises ConfigError for a wrong argument, and EncodingError where the model fails on
    every text.
    """
    run = _Texts(model, found, texts, functools.partial(model.prepare, **reading), refuse_long)
    n_workers = cpu_threads(threads) if model.device == "cpu" else 1
    for i, text in enumerate(texts):
        if found[i].error is None and len(text) > MOST_CHARACTERS:
            found[i].fail(
                f"the text has {len(text):,} characters, more than {MOST_CHARACTERS:,}: split it"
            )
    model.prepare([], **reading)  # raises for wrong arguments, which are no fault of a row
    workers.run_batches(run.encode, run.batches(n_workers), n_workers).check()
    if run.n_failed and all(each.result is None for each in found):
        model.run_prepared(model.prepare(["a"], **reading))  # raises where no text can be run


class _Texts:
    """The texts of one block on their way through a model."""

    def __init__(
        self,
        model: TextModel,
        found: Sequence[Outcome],
        texts: Sequence[Any],
        prepare: Callable[[list[str]], list[Prepared]],
        refuse_long: bool,  # noqa: FBT001
    ) -> None:
        self.n_failed = 0  # in the graph
        self._model, self._found, self._texts = model, found, texts
        self._prepare, self._refuse_long = prepare, refuse_long
        self._waiting: list[Prepared | None] = [None] * len(texts)
        self._is_parallel = True

    def batches(self, n_workers: int) -> Iterator[NDArray[np.intp]]:
        """Tokenize part after part, and yield the rows of each batch, longest texts first."""
        rows = np.array([i for i, each in enumerate(self._found) if each.error is None], np.intp)
        if not len(rows):
            return
        parts = batching.chunks([self._texts[i] for i in rows])
        for part in parts:
            kept = self._tokenize(rows[part])
            sizes = [text.size for i in kept if (text := self._waiting[i]) is not None]
            if not sizes:
                continue
            if self._model.spec.graph is None:  # its encoder makes batches of its own
                yield np.array(kept, np.intp)
                continue
            n_tokens = sum(sizes) if len(parts) == 1 else 1 << 62
            planned = batching.plan_batches(sizes, batching.budget(n_tokens, n_workers))
            self._is_parallel = len(parts) > 1 or len(planned) > 1
            for picked in planned:
                yield np.array(kept, np.intp)[picked]

    def _tokenize(self, rows: NDArray[np.intp]) -> list[int]:
        """Prepare some texts; the rows of those that can be run."""
        try:
            made: list[Prepared | None] = [*self._prepare([self._texts[i] for i in rows])]
        except TesseraError:  # of one of them: each alone
            made = [self._alone(int(i)) for i in rows]
        kept = []
        for i, text in zip(rows.tolist(), made, strict=True):
            if text is None:
                continue
            if text.cut and self._refuse_long:
                what = f"{text.count} tokens, the model reads {text.size}"
                if text.count <= text.size:  # a static model cuts at characters first
                    what = "more characters than the model reads"
                self._found[i].fail(f"the text has {what}: shorten it")
                continue
            self._waiting[i] = text
            self._found[i].tokens, self._found[i].truncated = text.size, text.cut
            kept.append(i)
        return kept

    def _alone(self, row: int) -> Prepared | None:
        try:
            return self._prepare([self._texts[row]])[0]
        except TesseraError as error:
            self._found[row].fail(_reason(error))
            return None

    def encode(self, rows: NDArray[np.intp]) -> None:
        """Run one batch; where the graph fails on several texts, each runs again alone."""
        texts = [text for i in rows if (text := self._waiting[i]) is not None]
        try:
            results = self._model.run_prepared(texts, parallel=self._is_parallel)
        except EncodingError as error:
            if len(rows) > 1:
                for row in rows:
                    self.encode(np.array([row], np.intp))
                return
            self.n_failed += 1
            self._found[rows[0]].fail(_reason(error))
            return
        for i, result in zip(rows, results, strict=True):
            self._found[i].result = result
            self._waiting[i] = None


def of_each(
    encode: Callable[[Any], Any], found: Sequence[Outcome], items: Sequence[Any]
) -> None:  # fmt: skip
    """Encode items one by one: images, or texts that look for images.

    `tokens` is the number of rows of the result, and `truncated` whether the model told of pages or
    words that it left unread.
    """
    for outcome, item in zip(found, items, strict=True):
        if outcome.error is not None:
            continue
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                outcome.result = encode(item)
            except (TesseraError, TypeError) as error:
                outcome.fail(_reason(error))
                continue
        outcome.tokens = len(outcome.result)
        outcome.truncated = any(issubclass(each.category, TruncationWarning) for each in told)


def of_series(model: Any, found: Sequence[Outcome], series: Sequence[Any], **options: Any) -> None:
    """Forecast the series whose outcome is no error yet; `options` are horizon and levels."""
    is_point = model.spec.time_series.point is not None
    forecast = model.forecast if is_point else model.forecast_quantiles
    rows = [i for i, each in enumerate(found) if each.error is None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a series without a value becomes an error of its row
        try:
            made = forecast([series[i] for i in rows], **options) if rows else []
        except (TesseraError, TypeError):
            made = [_forecast_alone(forecast, found[i], series[i], options) for i in rows]
    for i, result in zip(rows, made, strict=True):
        if found[i].error is None:
            length = len(series[i])
            found[i].result = result
            found[i].tokens = min(length, model.context_length())
            found[i].truncated = length > model.context_length()


def _forecast_alone(
    forecast: Callable[..., Any], outcome: Outcome, series: Any, options: dict[str, Any]
) -> Any:
    try:
        return forecast([series], **options)[0]
    except (TesseraError, TypeError) as error:
        outcome.fail(_reason(error))
        return None


def _reason(error: Exception) -> str:
    """The message without the number of the item, which is not that of the row."""
    message = str(error)
    head, colon, rest = message.partition(": ")
    words = head.split()
    if colon and len(words) == 2 and words[1].isdecimal():
        return rest
    if len(words) > 2 and words[1].isdecimal() and not is_text(error):
        return f"the {words[0]}{message.removeprefix(' '.join(words[:2]))}"
    return message

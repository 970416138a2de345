"""Run batches on several threads, within a bound on memory and a limit in time."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import Cancelled, ConfigError, TimedOut, is_of_signal

T = TypeVar("T")

# Of the scores of attention, rows x length^2, at the same time: with 12 heads in fp32 about 0.8 GB.
ATTENTION_ROOM = 1 << 24


class LockedIterator(Generic[T]):
    """An iterator that many threads may draw from; one draws at a time, the others go on working.

    What it does between two items, such as to tokenise the next texts, so overlaps their work.
    """

    def __init__(self, items: Iterable[T]) -> None:
        """Take over `items`: nobody else may draw from it."""
        self._items = iter(items)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[T]:
        """Itself."""
        return self

    def __next__(self) -> T:
        """The next item."""
        with self._lock:
            return next(self._items)


class AttentionBudget:
    """Bounds the attention memory of the batches that run at the same time.

    Scores are (rows, heads, length, length): what counts is rows x length^2. A batch that is larger
    than all the room runs alone.
    """

    def __init__(self, size: int = ATTENTION_ROOM) -> None:
        """`size` is in rows x length^2."""
        self._size = size
        self._taken = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def of(self, n_rows: int, length: int) -> Iterator[None]:
        """Wait for the room of a batch, and hold it."""
        cost = min(n_rows * length * length, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._taken + cost <= self._size)
            self._taken += cost
        try:
            yield
        finally:
            with self._changed:
                self._taken -= cost
                self._changed.notify_all()


class Event(Protocol):
    """What cancels a call: an event of threading, multiprocessing or asyncio."""

    def is_set(self) -> bool:
        """Whether the call must end."""


class Limit:
    """When a call must end, looked at before each batch: a batch that runs is not broken off."""

    def __init__(self, timeout: float | None = None, cancel: Event | None = None) -> None:
        """`timeout` in seconds from now; None is without end. Raises TypeError or ConfigError."""
        if timeout is not None:
            if isinstance(timeout, bool) or not isinstance(timeout, int | float | np.number):
                raise TypeError(
                    f"timeout must be a number of seconds or None, got {type(timeout).__name__}"
                )
            if math.isnan(timeout):
                raise ConfigError("timeout must be a number of seconds, got NaN")
        if cancel is not None and not callable(getattr(cancel, "is_set", None)):
            raise TypeError(
                f"cancel must be an event such as threading.Event(), got {type(cancel).__name__}"
            )
        self._timeout = timeout
        self._end = None if timeout is None else monotonic() + float(timeout)
        self.cancel = cancel

    def left(self) -> float | None:
        """Seconds that are left; None without end."""
        return None if self._end is None else self._end - monotonic()

    def check(self) -> None:
        """Raises Cancelled or TimedOut when the call must end."""
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled("the call was cancelled: its event is set")
        if self._end is not None and monotonic() >= self._end:
            raise TimedOut(f"the call took longer than its timeout of {self._timeout} seconds")

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """The items of a stream, which may be slow, until the call must end."""
        for item in items:
            self.check()
            yield item


ENDLESS = Limit()
Failures = list[tuple[int, BaseException]]  # with the row of each; an interrupt has -1


def run_batches(
    work: Callable[[NDArray[np.intp]], None],
    batches: Iterable[NDArray[np.intp]],
    workers: int,
    failures: Failures | None = None,
    limit: Limit = ENDLESS,
) -> tuple[int, list[BaseException]]:
    """Call `work` once a batch on up to `workers` threads.

    Gives the first row that failed and its failure, or (sys.maxsize, []); an interrupt has row 0.
    The failure is in a list to be popped from: an error holds the frames it came through, and where
    one of them holds the error, all results stay until the garbage collector comes by.

    After a failure only the batches run that hold an earlier row, so that the caller can hand out
    every result before it; after an interrupt none does. `batches` may be made as they are drawn,
    and may put what goes wrong then into `failures`, which grows as failures happen, so that long
    work can end early after an interrupt. What `limit` raises is as an interrupt.
    """
    failures = [] if failures is None else failures
    pending = LockedIterator(batches)

    def drain() -> None:
        try:
            for batch in pending:
                limit.check()
                row = int(batch.min())
                if failures and row > min(first for first, _ in failures):
                    continue
                try:
                    work(batch)
                except Exception as error:  # raised by the caller
                    failures.append((-1 if is_of_signal(error) else row, error))
        except BaseException as error:  # an interrupt goes before everything
            failures.append((-1, error))

    count = min(workers, len(batches)) if isinstance(batches, Sequence) else workers
    if count < 2:
        drain()
    else:
        _in_threads(drain, count, failures)
    if not failures:
        return sys.maxsize, []
    failures.sort(key=lambda failure: failure[0])
    row, first = max(0, failures[0][0]), [failures[0][1]]
    failures.clear()
    return row, first


def _in_threads(drain: Callable[[], None], count: int, failures: Failures) -> None:
    """Call `drain` on so many threads; on this one where the system starts none."""
    with ThreadPoolExecutor(count) as pool:
        futures: list[Future[None]] = []
        try:
            with contextlib.suppress(RuntimeError):  # a limit, or the end of the program
                futures.extend(pool.submit(drain) for _ in range(count))
            if not futures:
                drain()
            for future in futures:
                future.result()
        except BaseException as error:  # an interrupt reaches the waiting thread only
            failures.append((-1, error))

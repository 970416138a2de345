"""Run batches on the process's one thread pool, within limits on memory and time.

The calling thread does the work itself, and threads of the pool join it when they are free. So a
call never waits for a place in the pool, a batch may make a call of its own, and many calls at once
start no more threads than the largest of them does alone.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import Cancelled, ConfigError, TesseraError, TimedOut

T = TypeVar("T")

# Limit on rows x length^2 of all batches that run at the same time, the size of their attention
# scores: with 12 heads in fp32 about 0.8 GB.
ATTENTION_ROOM = 1 << 24


class LockedIterator(Generic[T]):
    """An iterator that several threads may draw from: it makes one item at a time.

    The threads that already have their item work on meanwhile.
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

    The scores of attention have the shape (rows, heads, length, length), so a batch counts as
    rows x length^2. A batch that is larger than the whole budget runs alone.
    """

    def __init__(self, size: int = ATTENTION_ROOM) -> None:
        """`size` is in rows x length^2."""
        self._size = size
        self._taken = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def of(self, n_rows: int, length: int) -> Iterator[None]:
        """Wait until a batch fits into the budget, and hold its share during the block."""
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
    """When a call must end. It is checked before each batch; a running batch is not stopped."""

    def __init__(self, timeout: float | None = None, cancel: Event | None = None) -> None:
        """`timeout` in seconds from now; None means no limit. Raises TypeError or ConfigError."""
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
        """Seconds that are left; None without a timeout."""
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


class Failure:
    """The first failure of a call, by the order of its rows; `error` is None while there is none.

    Attributes:
        row: the row that failed: results before it are complete. sys.maxsize without a failure,
            0 when the call was stopped.
        stopped: whether the call must end at once, after an interrupt or a limit.
    """

    def __init__(self) -> None:
        self.row = sys.maxsize
        self.error: BaseException | None = None
        self.stopped = False
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise the error, if there is one."""
        if self.error is not None:
            raise self.error

    def at(self, row: int, error: BaseException) -> None:
        """Keep the failure of a row if it is the earliest so far."""
        with self._lock:
            if row < self.row and not self.stopped:
                self.row, self.error = row, error

    def stop(self, error: BaseException) -> None:
        """End the call, with this error unless another one has stopped it before."""
        with self._lock:
            if not self.stopped:
                self.row, self.error, self.stopped = 0, error, True


def run_batches(
    work: Callable[[NDArray[np.intp]], None],
    batches: Iterable[NDArray[np.intp]],
    workers: int,
    failure: Failure | None = None,
    limit: Limit = ENDLESS,
) -> Failure:
    """Call `work` once for each batch of row numbers, on up to `workers` threads.

    Raises nothing: what went wrong is in the Failure that it returns. When `work` raises a
    TesseraError, a TypeError or a MemoryError, that is a failure of the batch's first row, and only
    batches with an earlier row still run, so that the caller can hand out every result before it.
    Any other exception (an interrupt, an exception from a signal handler), and whatever `batches`
    or `limit` raises, stops the call: no further batch is begun.

    `batches` may be a generator that works between two items, such as one that tokenizes. It and
    `work` may also put what goes wrong into `failure` themselves, with the exact row.
    """
    failure = Failure() if failure is None else failure
    call = _Call(work, LockedIterator(batches), failure, limit)
    count = min(workers, len(batches)) if isinstance(batches, Sequence) else workers
    try:
        if count > 1:
            _pool.offer(call, count - 1)
        call.work_off()
        _pool.finish(call)
    except BaseException as error:  # an interrupt while this thread waits for the others
        failure.stop(error)
        _pool.finish(call)
    return failure


class _Call:
    """One call of run_batches, which several threads work off."""

    def __init__(
        self,
        work: Callable[[NDArray[np.intp]], None],
        batches: LockedIterator[NDArray[np.intp]],
        failure: Failure,
        limit: Limit,
    ) -> None:
        self._work = work
        self._batches = batches
        self._failure = failure
        self._limit = limit
        self.wanted = 0  # threads of the pool that may still join
        self.helping = 0  # threads of the pool that work on it now

    def work_off(self) -> None:
        """Run batches until none is left or the call is stopped."""
        try:
            for batch in self._batches:
                if self._failure.stopped:
                    return
                self._limit.check()
                row = int(batch.min())
                if row >= self._failure.row:
                    continue
                try:
                    self._work(batch)
                except (TesseraError, TypeError, MemoryError) as error:
                    self._failure.at(row, error)
        except BaseException as error:  # raised by the caller of run_batches
            self._failure.stop(error)


class _Pool:
    """Threads that join calls, oldest call first; as many as the largest call has asked for."""

    def __init__(self) -> None:
        lock = threading.Lock()
        self._offered = threading.Condition(lock)  # a call wants threads
        self._done = threading.Condition(lock)  # a thread has left a call
        self._calls: list[_Call] = []  # those that want threads
        self._n_threads = 0
        self._n_busy = 0

    def offer(self, call: _Call, count: int) -> None:
        """Let up to `count` threads join the call; fewer where the system starts no more."""
        with self._offered:
            call.wanted = count
            self._calls.append(call)
            self._offered.notify(count)
            while self._n_threads < count:
                # A daemon: a thread that waits for work must not keep the program from its end.
                thread = threading.Thread(target=self._run, name="tessera-onnx", daemon=True)
                self._n_threads += 1
                try:
                    thread.start()
                except RuntimeError:  # a limit of the system, or the end of Python
                    self._n_threads -= 1
                    return

    def finish(self, call: _Call) -> None:
        """Let no more threads join the call, and wait for those that did."""
        with self._done:
            if call in self._calls:
                self._calls.remove(call)
            self._done.wait_for(lambda: not call.helping)

    def wait_until_idle(self) -> None:
        """Wait until no thread works: the end of the program must not cut off a batch."""
        with self._done:
            self._done.wait_for(lambda: not self._n_busy)

    def _run(self) -> None:
        while True:
            self._help()

    def _help(self) -> None:
        """Join the next call; a method, so that an idle thread keeps no call and its results."""
        with self._offered:
            self._offered.wait_for(lambda: self._calls)
            call = self._calls[0]
            call.wanted -= 1
            if not call.wanted:
                self._calls.remove(call)
            call.helping += 1
            self._n_busy += 1
        try:
            call.work_off()
        finally:
            with self._done:
                call.helping -= 1
                self._n_busy -= 1
                self._done.notify_all()


_pool = _Pool()
atexit.register(lambda: _pool.wait_until_idle())  # noqa: PLW0108 (a fork has a pool of its own)


def _renew_pool() -> None:
    """In a fork: the threads of the parent are not there."""
    global _pool  # noqa: PLW0603 (a process has one)
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_pool)

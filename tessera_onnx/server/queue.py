"""The queue: the texts of all requests wait here, and threads run them in batches of like length.

A batch begins with the oldest text that waits, so each text has its turn, whatever arrives later.
Texts of about its length fill the batch up to a budget of tokens. Nothing waits while a thread is
free: batches form by themselves when all threads are busy.

Queries and bulk wait apart, and each has threads of its own, as many as there are processors. The
threads of bulk have a lower priority in the operating system: a query runs at once and has nearly
all of the processors, and bulk keeps about a tenth of them, however many queries come. Where there
are no queries, bulk has them all. (On systems other than Linux both classes share alike.)
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import logging
import math
import operator
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from time import monotonic
from typing import get_args

from tessera_onnx.errors import Cancelled, TesseraError, TimedOut
from tessera_onnx.runtime import batching
from tessera_onnx.server.work import (
    Closing,
    Item,
    Lane,
    Observer,
    Overloaded,
    Priority,
    Work,
)

logger = logging.getLogger("tessera_onnx.server")

# By which the threads of bulk are nicer than others: Linux then gives them a tenth of a processor
# that both want.
NICE = 10
# Padding that a text may add to a batch: so many tokens, and a part of its own length. A batch of
# its own costs about as much as ten more tokens; with 16 and 0.25, the processor time of a text was
# a fifth more under load (benchmarks/serving.py, all-minilm-l6-v2 int8).
PADDING = 10
PADDING_SHARE = 0.05
# Items of a request that come to a lane, or leave it, together: one by one each moves all others,
# and the event loop waits.
MANY = 32
FIRST_RATE = 2000.0  # tokens/s that are assumed before a batch has run, for the advice to retry


class _Class:
    """The items of one priority that wait, and how many batches of them run."""

    def __init__(self, lock: threading.RLock) -> None:
        self.changed = threading.Condition(lock)  # for its threads: items wait
        self.items: OrderedDict[Item, None] = OrderedDict()  # oldest first
        self.lanes: dict[Lane, list[Item]] = {}  # the same, sorted by length
        self.running = 0


class Queue:
    """Items that wait and the threads that run them."""

    def __init__(
        self,
        threads: int,
        max_tokens: int,
        observer: Observer,
        budget: int = batching.TOKEN_BUDGET,
    ) -> None:
        """`threads` run batches of each class; at most `max_tokens` wait at a time."""
        self.max_tokens = max_tokens
        self.tokens = 0  # that wait
        self._budget = budget
        self._n_threads = threads
        self._observer = observer
        # Each event wakes the threads that it concerns: to wake all costs more than a short text.
        lock = threading.RLock()
        self._changed = threading.Condition(lock)  # for `close`: a batch is done
        self._numbers = itertools.count()
        self._classes = {priority: _Class(lock) for priority in get_args(Priority)}
        self._rate = FIRST_RATE  # tokens/s of all threads together
        self._closing = self._closed = False
        self._threads = [
            threading.Thread(
                target=self._serve, args=(priority,), name=f"tessera-{priority}-{i}", daemon=True
            )
            for priority in self._classes
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> int:
        """Batches that run."""
        return sum(each.running for each in self._classes.values())

    def __len__(self) -> int:
        return sum(len(each.items) for each in self._classes.values())

    def check(self, size: int) -> None:
        """Raises Overloaded where `size` more tokens would not fit, Closing after `close`."""
        if self._closing:
            raise Closing("the server is about to stop: send the request to another one")
        if self.tokens + size > self.max_tokens:
            raise Overloaded(
                f"{self.tokens} tokens wait and at most {self.max_tokens} may: send the request "
                "again later, or start the server with a larger --max-queue-tokens",
                self.retry_after(),
            )

    def retry_after(self) -> int:
        """Seconds, from 1 to 60, until about half of what waits now is done."""
        return max(1, min(60, math.ceil(self.tokens / self._rate / 2)))

    def submit(self, work: Work) -> None:
        """Let all items of a request wait, or none of them; `work.done` is called from a thread.

        Raises Overloaded or Closing.
        """
        if not work.items:
            work.done()
            return
        with self._changed:
            self.check(work.size)
            waiting = self._classes[work.priority]
            for item in work.items:
                item.number = next(self._numbers)
                item.key = item.size, item.number
                waiting.items[item] = None
            for kind, items in _by_lane(work.items):
                lane = waiting.lanes.setdefault(kind, [])
                if len(items) < MANY:
                    for item in items:
                        bisect.insort(lane, item, key=_key)
                else:
                    lane += items
                    lane.sort(key=_key)
            self.tokens += work.size
            waiting.changed.notify(len(work.items))

    def cancel(self, work: Work) -> None:
        """Drop what still waits of a request whose client is gone."""
        with self._changed:
            self._give_up(work, Cancelled("the client is gone"), "disconnected")

    def close(self, timeout: float) -> bool:
        """Take no more requests, and wait for those that were taken; False when time is over."""
        end = monotonic() + timeout
        with self._changed:
            self._closing = True
            drained = self._changed.wait_for(
                lambda: not len(self) and not self.running, max(0.0, end - monotonic())
            )
            self._closed = True
            for work in {item.work for each in self._classes.values() for item in each.items}:
                self._give_up(work, Closing("the server stopped before its turn"), "closing")
                work.done()
            for each in self._classes.values():
                each.changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.1, end - monotonic()))
        return drained

    def _serve(self, priority: Priority) -> None:
        if priority == "bulk":
            _be_nice()
        waiting = self._classes[priority]
        while True:
            batch = self._take(waiting)
            if batch is None:
                return
            items, parallel = batch
            start = monotonic()
            finished: list[Work] = []
            try:
                self._run(items, finished, parallel=parallel)
            except BaseException as error:  # a fault of ours must not end the thread
                logger.exception("a batch failed")
                finished += self._failed(items, error)
            seconds = monotonic() - start
            self._observer.batch(items, seconds)
            with self._changed:
                waiting.running -= 1
                done = sum(item.size for item in items) * max(1, self.running + 1)
                self._rate += 0.1 * (done / max(seconds, 1e-6) - self._rate)
                self._changed.notify_all()
            for work in finished:
                work.done()
            del items, batch, finished  # an idle thread keeps no results

    def _take(self, waiting: _Class) -> tuple[list[Item], bool] | None:
        """The next batch of a class and whether others run beside it; None at the end."""
        with self._changed:
            while True:
                seed = self._oldest(waiting)
                if seed is not None:
                    items = self._gather(waiting, seed)
                    # A query alone has all threads of its model, also where bulk runs: bulk yields.
                    running = waiting.running if seed.work.priority == "query" else self.running
                    beside = bool(running or waiting.items or len(items) > 1)
                    waiting.running += 1
                    now = monotonic()
                    for item in items:
                        work = item.work
                        work.queue_seconds = max(work.queue_seconds, now - work.arrived)
                    return items, beside
                if self._closed:
                    return None
                waiting.changed.wait()

    def _oldest(self, waiting: _Class) -> Item | None:
        """The item whose turn it is; those that are too late are dropped on the way."""
        while waiting.items:
            item = next(iter(waiting.items))
            work = item.work
            if work.timeout is None or monotonic() < work.arrived + work.timeout:
                return item
            late = TimedOut(f"the request waited longer than its timeout of {work.timeout:g} s")
            self._give_up(work, late, "expired")
            work.done()
        return None

    def _gather(self, waiting: _Class, seed: Item) -> list[Item]:
        """The seed and the items of its lane whose lengths are nearest, within the budget."""
        lane = waiting.lanes[seed.lane]
        place = bisect.bisect_left(lane, seed.key, key=_key)
        left, right = place - 1, place + 1
        longest, most = seed.size, self._share(waiting, lane)
        while not seed.lane.alone:
            n = right - left - 1
            shorter = longest - lane[left].size if left >= 0 else math.inf
            longer = n * (lane[right].size - longest) if right < len(lane) else math.inf
            if min(shorter, longer) > PADDING + PADDING_SHARE * longest:
                break
            top = longest if shorter <= longer else lane[right].size
            if (n + 1) * top > most:
                break
            longest = top
            if shorter <= longer:
                left -= 1
            else:
                right += 1
        items = lane[left + 1 : right]
        del lane[left + 1 : right]
        if not lane:
            del waiting.lanes[seed.lane]
        for item in items:
            del waiting.items[item]
            self.tokens -= item.size
        return items

    def _share(self, waiting: _Class, lane: list[Item]) -> int:
        """Padded tokens of a batch: the budget, or less where threads would be without work."""
        idle = max(1, self._n_threads - waiting.running)
        if len(lane) > self._budget:  # each item has a token at least
            return self._budget
        return batching.budget(sum(item.size for item in lane), idle, self._budget)

    def _run(self, items: list[Item], finished: list[Work], *, parallel: bool) -> None:
        """Run a batch; when it fails, each of its items alone, so that one fails alone."""
        try:
            results = items[0].lane.run([item.content for item in items], parallel=parallel)
        except (TesseraError, TypeError, MemoryError) as error:
            if len(items) == 1:
                finished += self._failed(items, error)
                return
            for item in items:
                self._run([item], finished, parallel=parallel)
            return
        with self._changed:
            for item, result in zip(items, results, strict=True):
                work = item.work
                if not work.answered:
                    work.results[item.index] = result
                    work.left -= 1
                    if not work.left:
                        finished.append(work)

    def _failed(self, items: Sequence[Item], error: BaseException) -> list[Work]:
        """Fail the requests of some items; those that had no answer yet."""
        failed = []
        with self._changed:
            for item in items:
                if not item.work.answered:
                    if not item.lane.alone and getattr(error, "index", item.index) is None:
                        error.index = item.index  # type: ignore[attr-defined]
                    self._give_up(item.work, error, "failed")
                    failed.append(item.work)
        return failed

    def _give_up(self, work: Work, error: BaseException, reason: str) -> None:
        """Take what waits of a request out of the queue."""
        if work.answered:
            return
        work.error = error
        known = self._classes[work.priority]
        waiting = [item for item in work.items if item in known.items]
        for item in waiting:
            del known.items[item]
            self.tokens -= item.size
        for kind, items in _by_lane(waiting):
            lane = known.lanes[kind]
            if len(items) < MANY:
                for item in items:
                    del lane[bisect.bisect_left(lane, item.key, key=_key)]
            else:
                lane[:] = [item for item in lane if item.work is not work]
            if not lane:
                del known.lanes[kind]
        self._observer.dropped(len(waiting), reason)


def _by_lane(items: Sequence[Item]) -> list[tuple[Lane, list[Item]]]:
    found: dict[Lane, list[Item]] = {}
    for item in items:
        found.setdefault(item.lane, []).append(item)
    return list(found.items())


_key = operator.attrgetter("key")


def _be_nice() -> None:
    """Give this thread a lower priority; only on Linux a thread has its own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            nice = os.getpriority(os.PRIO_PROCESS, thread) + NICE
            os.setpriority(os.PRIO_PROCESS, thread, min(19, nice))

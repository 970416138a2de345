"""What waits in the queue: the items of a request, and the lanes in which they share batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Literal, Protocol

from tessera_onnx.errors import TesseraError

Priority = Literal["query", "bulk"]


class Overloaded(TesseraError):
    """The queue is full. `retry_after` is the number of seconds after which to try again."""

    def __init__(self, message: str, retry_after: int) -> None:
        """`retry_after` is in whole seconds."""
        super().__init__(message)
        self.retry_after = retry_after


class Closing(TesseraError):
    """The server is about to stop and takes no request."""


class Lane:
    """Items that may run in one batch, and the function that runs a batch of them.

    `run` takes the contents of a batch, and whether other batches run at the same time; it gives a
    result for each. Items that are run `alone` share no batch; their errors bring their own index.
    """

    def __init__(self, run: Callable[..., Sequence[Any]], *, alone: bool = False) -> None:
        """`run(contents, parallel=...)` is called on the threads of the queue."""
        self.run = run
        self.alone = alone


@dataclass(eq=False, slots=True)
class Item:
    """One text, pair, image or series of a request."""

    content: Any
    size: int  # tokens that the model reads
    lane: Lane
    work: Work = field(init=False)
    index: int = field(init=False)
    number: int = field(init=False, default=0)  # order of arrival
    key: tuple[int, int] = field(init=False)  # size and number, by which lanes are sorted


class Work:
    """The items of one request, and their results. It is answered once: done, failed or dropped.

    Attributes:
        results: of each item, in order; complete when `done` is called without an error.
        error: what went wrong, with the `index` of the item.
        queue_seconds: how long the item that waited longest has waited.
    """

    def __init__(
        self, items: Sequence[Item], *, priority: Priority = "bulk", timeout: float | None = None
    ) -> None:
        """`timeout` in seconds from now: an item that still waits then is not run."""
        self.items = items
        self.priority = priority
        self.timeout = timeout
        self.size = sum(item.size for item in items)
        self.results: list[Any] = [None] * len(items)
        self.error: BaseException | None = None
        self.queue_seconds = 0.0
        self.arrived = monotonic()
        self.left = len(items)
        self.done: Callable[[], None] = lambda: None
        for i, item in enumerate(items):
            item.work, item.index = self, i

    @property
    def answered(self) -> bool:
        """Whether nothing of it is to be run any more."""
        return self.left == 0 or self.error is not None


class Observer(Protocol):
    """What a queue tells of its work (metrics.py)."""

    def batch(self, items: Sequence[Item], seconds: float) -> None:
        """A batch was run."""

    def dropped(self, n_items: int, reason: str) -> None:
        """Items left the queue without being run."""

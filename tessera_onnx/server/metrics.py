"""Counters, gauges and histograms in the text format of Prometheus, all there from the start."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence

from tessera_onnx.server.work import Item

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
Labels = tuple[str, ...]


class Counter:
    """A number that only grows, for each combination of labels."""

    type = "counter"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        """`text` says what is counted, `labels` are the names of the labels."""
        self.name, self.text, self.labels = name, text, tuple(labels)
        self._lock = threading.Lock()
        self._values: dict[Labels, float] = {}

    def add(self, *labels: str, amount: float = 1) -> None:
        """Add to the series of these labels; an amount of 0 makes the series exist."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + amount

    def lines(self) -> Iterator[str]:
        """The series in the text format."""
        with self._lock:
            values = sorted(self._values.items())
        for labels, value in values:
            yield f"{self.name}{_labels(self.labels, labels)} {value:g}"


class Gauge:
    """A number that is asked for when the metrics are read."""

    type = "gauge"

    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        """`read` gives the number."""
        self.name, self.text, self._read = name, text, read

    def lines(self) -> Iterator[str]:
        """The number in the text format."""
        yield f"{self.name} {self._read():g}"


class Histogram:
    """How often a number lies below each of some bounds, for each combination of labels."""

    type = "histogram"

    def __init__(
        self, name: str, text: str, bounds: Sequence[float], labels: Sequence[str] = ()
    ) -> None:
        """`bounds` are the upper bounds of the buckets; the last one, infinity, is added."""
        self.name, self.text, self.labels = name, text, tuple(labels)
        self._bounds = tuple(bounds)
        self._lock = threading.Lock()
        self._values: dict[Labels, list[float]] = {}  # the buckets, and the sum at the end

    def add(self, *labels: str, value: float | None = None) -> None:
        """Count a value; None makes the series exist."""
        with self._lock:
            found = self._values.setdefault(labels, [0.0] * (len(self._bounds) + 2))
            if value is not None:
                found[bisect_left(self._bounds, value)] += 1
                found[-1] += value

    def lines(self) -> Iterator[str]:
        """The series in the text format."""
        with self._lock:
            values = sorted((labels, list(found)) for labels, found in self._values.items())
        for labels, found in values:
            total = 0.0
            for bound, n in zip((*self._bounds, "+Inf"), found[:-1], strict=True):
                total += n
                names = (*self.labels, "le")
                yield f"{self.name}_bucket{_labels(names, (*labels, str(bound)))} {total:g}"
            yield f"{self.name}_sum{_labels(self.labels, labels)} {found[-1]:g}"
            yield f"{self.name}_count{_labels(self.labels, labels)} {total:g}"


class Metrics:
    """The metrics of a server."""

    def __init__(self) -> None:
        """The gauges are added by the server, with `watch`."""
        by = ("route", "model", "status")
        self.requests = Counter("tessera_requests_total", "Requests that were answered.", by)
        self.latency = Histogram(
            "tessera_request_seconds",
            "From the first byte of a request to its answer.",
            SECONDS,
            ("route", "model"),
        )
        self.queue_seconds = Histogram(
            "tessera_queue_seconds",
            "How long the item of a request that waited longest has waited.",
            SECONDS,
            ("model", "kind"),
        )
        self.tokens = Counter(
            "tessera_tokens_total", "Tokens that were read of texts.", ("model", "kind")
        )
        self.truncated = Counter(
            "tessera_truncated_total", "Texts whose end was not read.", ("model", "kind")
        )
        self.dropped_items = Counter(
            "tessera_dropped_total", "Items that left the queue without being run.", ("reason",)
        )
        self.batch_seconds = Histogram("tessera_batch_seconds", "Time to run a batch.", SECONDS)
        self.batch_items = Histogram("tessera_batch_items", "Items in a batch.", SIZES)
        self.batch_tokens = Histogram("tessera_batch_tokens", "Tokens in a batch.", SIZES)
        self.padding = Counter("tessera_padding_tokens_total", "Tokens of padding in batches.")
        self._gauges: list[Gauge] = []
        for reason in ("disconnected", "expired", "failed", "closing"):
            self.dropped_items.add(reason, amount=0)
        for series in (self.batch_seconds, self.batch_items, self.batch_tokens):
            series.add()
        self.padding.add(amount=0)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge."""
        self._gauges.append(Gauge(name, text, read))

    def expect(self, routes: Iterable[str], models: Iterable[tuple[str, str]]) -> None:
        """Let the series of some routes and (model, kind) exist before they have a value."""
        for model, kind in models:
            self.queue_seconds.add(model, kind)
            self.tokens.add(model, kind, amount=0)
            self.truncated.add(model, kind, amount=0)
            for route in routes:
                self.requests.add(route, model, "200", amount=0)
                self.latency.add(route, model)

    def batch(self, items: Sequence[Item], seconds: float) -> None:
        """Count a batch that was run."""
        sizes = [item.size for item in items]
        self.batch_seconds.add(value=seconds)
        self.batch_items.add(value=len(sizes))
        self.batch_tokens.add(value=sum(sizes))
        self.padding.add(amount=len(sizes) * max(sizes) - sum(sizes))

    def dropped(self, n_items: int, reason: str) -> None:
        """Count items that were not run."""
        self.dropped_items.add(reason, amount=n_items)

    def text(self) -> str:
        """All series in the text format of Prometheus, version 0.0.4."""
        lines: list[str] = []
        for series in (
            *(each for each in vars(self).values() if hasattr(each, "lines")),
            *self._gauges,
        ):
            lines += [f"# HELP {series.name} {series.text}", f"# TYPE {series.name} {series.type}"]
            lines += series.lines()
        return "\n".join(lines) + "\n"


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    pairs = (f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return "{" + ",".join(pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

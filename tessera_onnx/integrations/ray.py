"""The engine Ray: a batch job on the workers of a Ray cluster (`tessera batch --engine ray`)."""

from __future__ import annotations

import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from tessera_onnx.batch.spread import Call, Done, Worker
from tessera_onnx.checks import check_limit
from tessera_onnx.errors import ConfigError, EncodingError, TesseraError, install_hint

TRIES = 3  # workers that may end during a call; a block that needs too much memory ends each


class Ray:
    """The engine whose workers are actors of a Ray cluster.

    The process of the job reads the inputs and sends each block of rows to a worker, which encodes
    it and writes its part. When a worker ends, another one does the same and writes the same file.
    """

    def __init__(
        self, address: str = "auto", *, workers: int | None = None, cpus_per_worker: int = 1
    ) -> None:
        """Keep the arguments; a job that runs connects to the cluster.

        Args:
            address: as `ray.init` takes it: HOST:PORT, ray://HOST:PORT, "auto" for that of
                RAY_ADDRESS or of this machine, or "local" for one that lasts as long as the job.
                A process that called `ray.init` stays with its cluster.
            workers: each has a model of its own; None takes as many as fit when the job starts.
            cpus_per_worker: CPUs that Ray sets aside for a worker, which are its threads.
        """
        self._address, self._workers, self._cpus = address, workers, cpus_per_worker
        check_limit(1 if workers is None else workers, "workers")
        check_limit(cpus_per_worker, "cpus_per_worker")

    def __call__(self, job: Worker, calls: Iterable[Call | None]) -> Done:
        """Raises ConfigError for an unfit cluster, EncodingError where workers end at a block."""
        try:
            import ray
        except ImportError:
            raise ConfigError(f"ray is not installed: {install_hint('ray')}") from None
        is_ours = not ray.is_initialized()
        if is_ours:
            _connect(ray, self._address)
        try:
            yield from _Run(ray, job, self._cpus).results(calls, self._count(ray))
        finally:
            if is_ours:
                ray.shutdown()

    def _count(self, ray: Any) -> int:
        nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        most = max(nodes, default=0)
        if 0 < most < self._cpus:  # a cluster of no CPUs may grow
            raise ConfigError(f"no node has {self._cpus} CPUs: give at most {most} to a worker")
        return self._workers or max(1, sum(cpus // self._cpus for cpus in nodes))


def _connect(ray: Any, address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a local cluster would report its use
    place = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    host, _, port = place.rpartition("/")[2].rpartition(":")
    try:
        if port.isdecimal():  # ray.init waits for minutes where nobody answers
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(place, log_to_driver=False, logging_level="ERROR")
    except (OSError, ray.exceptions.AuthenticationError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ConfigError(
            f"no Ray cluster takes this job at the address {place!r} ({reason}): start one with "
            "`ray start --head`, or give the address and RAY_AUTH_TOKEN of another"
        ) from None


class _Run:
    """The workers of one job and their calls."""

    def __init__(self, ray: Any, job: Worker, cpus: int) -> None:
        self._ray, self._facts = ray, job.facts()
        actor = ray.remote(num_cpus=cpus)(Worker)
        self._make: Callable[[], Any] = lambda: actor.remote(**vars(job))
        self._idle: deque[Any] = deque()
        self._running: dict[Any, tuple[Any, Call]] = {}  # by reference of the result
        self._waiting: deque[Call] = deque()
        self._ends: Counter[Call] = Counter()  # workers that ended during a call

    def results(self, calls: Iterable[Call | None], n_workers: int) -> Done:
        """Make the calls; one is read ahead while all workers are busy."""
        try:
            for _ in range(n_workers):
                self._start()
            for call in calls:
                if call is None:
                    yield from self._next()
                else:
                    self._waiting.append(call)
                yield from self._all_sent()
            while any(call.method != "check" for _, call in self._running.values()):
                yield from self._next()
                yield from self._all_sent()
        finally:
            for worker in [*self._idle, *(worker for worker, _ in self._running.values())]:
                self._ray.kill(worker)

    def _all_sent(self) -> Done:
        while self._waiting:
            if self._idle:
                self._send(self._idle.popleft(), self._waiting.popleft())
            else:
                yield from self._next()

    def _start(self) -> None:
        """A new worker, which is idle once Ray has CPUs for it and its model is open."""
        self._send(self._make(), Call("check", (self._facts,), lambda _: None))

    def _send(self, worker: Any, call: Call) -> None:
        made = getattr(worker, call.method).remote(*call.arguments)
        self._running[made] = worker, call

    def _next(self) -> Done:
        """Wait for a worker; its call and the result, or nothing where one started or ended."""
        (made,), _ = self._ray.wait(list(self._running), num_returns=1)
        worker, call = self._running.pop(made)
        is_start = call.method == "check"
        try:
            result = self._ray.get(made)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, TesseraError) else error from None
        except self._ray.exceptions.RayError as error:
            self._ray.kill(worker)  # it may live where it is cut off
            self._ends[call] += 1
            if self._ends[call] == TRIES:
                what = "their start" if is_start else call.arguments[0]
                reason = str(error).strip().rpartition("\n")[2]
                raise EncodingError(f"{TRIES} workers ended at {what}: {reason}") from None
            if is_start:
                self._send(self._make(), call)
            else:
                self._waiting.appendleft(call)
                self._start()
            return
        self._idle.append(worker)
        if not is_start:
            yield call, result

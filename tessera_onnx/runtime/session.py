"""Devices and ONNX Runtime sessions: the only module that talks to onnxruntime.

Measured on two cores (shared session, 512-token batches): two Python threads on a session with
one intra-op thread each embed 1.3 times the texts of one caller with two intra-op threads, while
a single text is answered sooner by intra-op threads. So a CPU model has up to two sessions, each
made at its first use: one for batches, one for single texts. Who needs one alone holds one alone.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import DeviceError, EncodingError, LoadError
from tessera_onnx.runtime import cpu as runtime_cpu
from tessera_onnx.runtime.devices import choose_device, onnxruntime
from tessera_onnx.runtime.graph import ReadBeside, open_graph

Array = NDArray[Any]
logger = logging.getLogger("tessera_onnx")
# Rows x length^2 of a batch after which the arena gives back what it took: about 200 MB of scores
# for 12 heads in fp32.
LARGE_BATCH = 1 << 22


class Session:
    """One ONNX graph on one device, safe to call from many threads.

    `run` is for a lone batch; with `parallel=True` it is one of `workers` concurrent calls.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], bytes],
        *,
        device: str,
        threads: int | None,
        inputs: Sequence[str],
        outputs: Sequence[str],
        read_beside: ReadBeside | None = None,
        workers: int | None = None,
    ) -> None:
        """Open the graph that `read` gives and check its inputs and outputs against those named.

        `workers=1` is for graphs so large that two copies of their weights are too much.
        `read` and `read_beside` return verified bytes and are called again for the second session:
        ONNX Runtime opens no file itself, so that it cannot be led to one that nobody checked.
        Raises DeviceError when the device does not really take the graph, LoadError when the file
        is not such a graph.
        """
        self.device = device
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self._name = name
        self._read = read
        self._read_beside = read_beside
        self._threads = runtime_cpu.cpu_threads(threads)
        self.workers = workers or (self._threads if device == "cpu" else 1)
        self._lock = threading.RLock()  # a handler of a signal may close what is being opened
        self._pid = os.getpid()
        self._closed = False
        # With one worker both uses are the same session.
        self._sessions: dict[bool, Any] = {}
        self._runs = {True: 0, False: 0}
        _opened.add(self)
        first = self._session(parallel=self.workers > 1)
        graph_inputs = {item.name for item in first.get_inputs()}
        if graph_inputs != set(inputs):
            raise LoadError(
                f"{name} has the inputs {sorted(graph_inputs)}, model.toml says {sorted(inputs)}"
            )
        self.described = f"its outputs are {_described(first.get_outputs())}"
        missing = sorted(set(outputs) - {item.name for item in first.get_outputs()})
        if missing:
            names = " and no ".join(f"output {name!r:.80}" for name in missing)
            raise LoadError(f"{name} has no {names}: {self.described}")

    def run(
        self,
        feeds: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        parallel: bool = False,
        unchecked: bool = False,
    ) -> list[Array]:
        """The named outputs for one batch, in that order; None takes all that were asked for.

        Raises EncodingError when ONNX Runtime fails, the session is closed or belongs to a parent
        process, or an output holds NaN or infinity, unless `unchecked`.
        """
        parallel = parallel and self.workers > 1
        session = self._session(parallel=parallel)
        self._runs[parallel] += 1
        names = self.outputs if outputs is None else list(outputs)
        shape = next(iter(feeds.values())).shape
        large = len(shape) > 1 and shape[0] * shape[1] ** 2 > LARGE_BATCH
        try:
            results: list[Array] = session.run(
                names, dict(feeds), _give_back() if large and self.device == "cpu" else None
            )
        except _failures() as error:
            raise EncodingError(
                f"ONNX Runtime failed on a batch of shape {shape} on {self.device}: "
                f"{str(error)[:300]}"
            ) from error
        for name, result in zip(names, results, strict=True):
            if not unchecked and result.dtype.kind == "f" and not np.isfinite(result).all():
                raise EncodingError(
                    f"the output {name!r} holds NaN or infinity on {self.device}: this graph's "
                    "precision overflows on this input; try precision='fp32'"
                )
        return results

    def close(self) -> None:
        """Free the graph. Calls that already run finish; later ones raise. May be called twice."""
        with self._lock:
            self._closed = True
            self._sessions = {}

    def check_open(self) -> None:
        """Raises EncodingError when the session is closed or belongs to a parent process."""
        if self._closed:
            raise EncodingError("this model is closed: make a new object")
        if self._pid != os.getpid():
            raise EncodingError(
                f"this model was opened in process {self._pid} and is used in its fork "
                f"{os.getpid()}: open it in the child, or start the child with 'spawn' (it pickles)"
            )

    def _session(self, *, parallel: bool) -> Any:
        self.check_open()
        session = self._sessions.get(parallel)
        if session is None:
            with self._lock:
                self.check_open()  # it may have been closed while this thread waited
                session = self._sessions.get(parallel)
                if session is None:
                    if self._runs[not parallel] <= 1:  # by the probe alone: nobody needs both
                        self._sessions.pop(not parallel, None)
                    session = self._open(1 if parallel else self._threads)
                    self.check_open()  # a handler of a signal may have closed it
                    self._sessions[parallel] = session
        return session

    def _open(self, intra_threads: int) -> Any:
        first = not any(self._runs.values())
        try:
            return open_graph(
                self._name, self._read(), self.device, intra_threads, self._read_beside
            )
        except LoadError as error:
            if first:
                raise
            raise type(error)(
                f"{error}. The model's folder has changed since it was opened: make a new object"
            ) from error


def _described(outputs: Sequence[Any]) -> str:
    """Names, shapes and types of a graph's outputs, for a message; the first twenty of many."""
    listed = [f"{item.name!r:.80} {_shape(item.shape)} {item.type:.40}" for item in outputs[:20]]
    return ", ".join(listed) + (f" and {len(outputs) - 20} more" if len(outputs) > 20 else "")


def _shape(sizes: Sequence[int | str | None]) -> str:
    """A shape as people write it, its open sizes by their names: (batch, any, 384)."""
    return f"({', '.join('any' if size is None else str(size)[:40] for size in sizes)})"


_opened: weakref.WeakSet[Session] = weakref.WeakSet()
_inherited: list[Any] = []


def _keep_inherited() -> None:
    """In a fork: never end its parent's sessions, which would wait for threads that it lacks."""
    for session in _opened:
        session._lock = threading.RLock()  # noqa: SLF001 (another thread may have held it)
        _inherited.append(session._sessions)  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_inherited)


@functools.cache
def _failures() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises when a run fails: classes of its own, and those of C++ and NumPy.

    No more is caught: an exception of the caller's, such as one that a handler of a signal raises
    while a batch runs, is no failure of the batch.
    """
    own = vars(onnxruntime().capi.onnxruntime_pybind11_state).values()
    classes = [each for each in own if isinstance(each, type) and issubclass(each, Exception)]
    return (*classes, RuntimeError, ValueError, TypeError, MemoryError, IndexError)


@functools.cache
def _give_back() -> Any:
    """Options of a run after which the arena frees what it does not use."""
    options = onnxruntime().RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def open_session(
    graphs: Mapping[str, tuple[str, Callable[[], bytes]]],
    *,
    device: str,
    static: bool,
    int8_on_cuda: bool,
    threads: int | None,
    inputs: Sequence[str],
    outputs: Mapping[str, tuple[int | None, ...]],
    probe: Mapping[str, Array],
    read_beside: ReadBeside | None = None,
    workers: int | None = None,
) -> Session:
    """A session on the first device that opens *and runs* the graph.

    `graphs` holds the graph for each of "cpu", "cuda" and "coreml": its file name and a function
    that reads it. `outputs` names the outputs wanted and the shape that each has for `probe`, a
    tiny input (None = any size): some providers take a graph and fail when it runs. Only "auto"
    falls back, logging the reason; an explicit device that fails raises DeviceError.
    """
    candidates = choose_device(device, static=static, int8_on_cuda=int8_on_cuda)
    for candidate in candidates:
        try:
            file_name, read = graphs[candidate.partition(":")[0]]
            session = Session(
                file_name,
                read,
                device=candidate,
                threads=threads,
                inputs=inputs,
                outputs=list(outputs),
                read_beside=read_beside,
                workers=workers,
            )
            results = session.run(probe, parallel=True)
        except (DeviceError, EncodingError) as error:
            if candidate == candidates[-1]:
                raise error if isinstance(error, DeviceError) else LoadError(str(error)) from error
            logger.warning("falling back from %s to %s: %s", candidate, candidates[-1], error)
        else:
            for (name, shape), result in zip(outputs.items(), results, strict=True):
                if result.dtype.kind not in "fiub":
                    found = f"the output {name!r} of {file_name} holds {result.dtype}"
                    raise LoadError(f"{found}: {session.described}")
                sizes = zip(result.shape, shape, strict=False)
                if result.ndim != len(shape) or any(n not in {size, None} for size, n in sizes):
                    raise LoadError(
                        f"the output {name!r} of {file_name} has the shape {result.shape} for the "
                        f"smallest input, by model.toml it is {_shape(shape)}: {session.described}"
                    )
            return session
    raise DeviceError(f"no device for {device!r}")  # choose_device never returns an empty list

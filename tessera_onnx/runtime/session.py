"""Open ONNX Runtime sessions, run them, close them.

A CPU model has up to two sessions of its graph, each opened at its first use: one for batches,
which several threads run at the same time with one intra-op thread each, and one for single texts,
with all intra-op threads. Measured on two cores with batches of 512 tokens, the first embeds 1.3
times the texts a second, and the second answers a single text sooner. A model that is used in one
way only keeps one session.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import DeviceError, EncodingError, LoadError
from tessera_onnx.runtime import cpu as runtime_cpu
from tessera_onnx.runtime.devices import choose_device, onnxruntime
from tessera_onnx.runtime.graph import ReadBeside, open_graph

Array = NDArray[Any]
logger = logging.getLogger("tessera_onnx")
# ONNX Runtime's arena frees its memory after a batch of more than this, in rows x length^2: the
# size of the attention scores, about 200 MB for 12 heads in fp32.
LARGE_BATCH = 1 << 22
DTYPES = {
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_,
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(int8)": np.int8, "tensor(uint8)": np.uint8,
}  # fmt: skip


class Port(NamedTuple):
    """An input or output of a graph: its dtype (None = no numbers), and its declared shape.

    A size that varies is a name or None.
    """

    dtype: Any
    shape: tuple[int | str | None, ...]


# What to ask of a graph that is open: the outputs with their shapes for a tiny input (None = any
# size), and that input.
Wanted = Callable[
    ["Session"], tuple[Mapping[str, tuple[int | None, ...]], Mapping[str, NDArray[Any]]]
]


class Session:
    """One ONNX graph on one device; all threads may call it.

    `run(parallel=True)` is one of up to `workers` calls at the same time; `run` alone has all
    threads for itself.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], bytes],
        *,
        device: str,
        threads: int | None,
        read_beside: ReadBeside | None = None,
        workers: int | None = None,
    ) -> None:
        """Open the graph; `inputs` and `ports` then hold what it takes and what it gives.

        `read` returns the verified bytes of the graph, and `read_beside` those of a file beside it;
        they are called again for the second session. ONNX Runtime opens no file itself, so it reads
        no file that was not checked. `workers=1` is for graphs so large that two copies of their
        weights take too much memory. Raises DeviceError when the device does not run the graph,
        LoadError when the file is no such graph.
        """
        self.device = device
        self.name = name
        self._read = read
        self._read_beside = read_beside
        self._threads = runtime_cpu.cpu_threads(threads)
        self.workers = workers or (self._threads if device == "cpu" else 1)
        self._lock = threading.RLock()  # a signal handler may close a session while it is opened
        self._pid = os.getpid()
        self._closed = False
        # By `parallel`. With one worker, both uses share the session of False.
        self._sessions: dict[bool, Any] = {}
        self._runs = {True: 0, False: 0}
        _opened.add(self)
        first = self._session(parallel=self.workers > 1)
        self.inputs = {item.name: _port(item) for item in first.get_inputs()}
        self.ports = {item.name: _port(item) for item in first.get_outputs()}
        self.outputs = list(self.ports)  # those that `run` gives by default
        self.described = f"its outputs are {_described(first.get_outputs())}"

    def choose(self, outputs: Sequence[str]) -> None:
        """Let `run` give these outputs by default. Raises LoadError for one that is not there."""
        missing = sorted(set(outputs) - self.ports.keys())
        if missing:
            names = " and no ".join(f"output {name!r:.80}" for name in missing)
            raise LoadError(f"{self.name} has no {names}: {self.described}")
        self.outputs = list(outputs)

    def run(
        self,
        feeds: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        parallel: bool = False,
        unchecked: bool = False,
    ) -> list[Array]:
        """The named outputs for one batch, in that order; None means those of `choose`.

        Raises EncodingError when ONNX Runtime fails, when the session is closed or belongs to a
        parent process, and, unless `unchecked`, when an output holds NaN or infinity.
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
        """Free the graph. Running calls finish, later ones raise EncodingError. Idempotent."""
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
                    if self._runs[not parallel] <= 1:  # only the probe used the other session
                        self._sessions.pop(not parallel, None)
                    session = self._open(1 if parallel else self._threads)
                    self.check_open()  # a signal handler may have closed it
                    self._sessions[parallel] = session
        return session

    def _open(self, intra_threads: int) -> Any:
        first = not any(self._runs.values())
        try:
            return open_graph(
                self.name, self._read(), self.device, intra_threads, self._read_beside
            )
        except LoadError as error:
            if first:
                raise
            raise type(error)(
                f"{error}. The model's folder has changed since it was opened: make a new object",
                path=error.path,
            ) from error


def select(known: Mapping[str, Array], inputs: Mapping[str, Port], name: str) -> dict[str, Array]:
    """The inputs of the graph `name` out of those that are known, in the dtypes that it takes.

    Raises LoadError for a graph with an input that is not known.
    """
    missing = sorted(inputs.keys() - known.keys())
    if missing:
        raise LoadError(
            f"{name} takes the input {missing[0]!r:.80}, which this kind of model does not have: "
            f"known are {', '.join(known)}. Choose another graph of the model with file=, or export"
            " it again"
        )
    return {
        key: known[key] if port.dtype is None else known[key].astype(port.dtype, copy=False)
        for key, port in inputs.items()
    }


def _port(item: Any) -> Port:
    return Port(DTYPES.get(item.type), tuple(item.shape))


def _described(outputs: Sequence[Any]) -> str:
    """Names, shapes and types of a graph's first twenty outputs, for a message."""
    listed = [f"{item.name!r:.80} {_shape(item.shape)} {item.type:.40}" for item in outputs[:20]]
    return ", ".join(listed) + (f" and {len(outputs) - 20} more" if len(outputs) > 20 else "")


def _shape(sizes: Sequence[int | str | None]) -> str:
    """A shape for a message, with the names of sizes that vary: (batch, any, 384)."""
    return f"({', '.join('any' if size is None else str(size)[:40] for size in sizes)})"


_opened: weakref.WeakSet[Session] = weakref.WeakSet()
_inherited: list[Any] = []


def _keep_inherited() -> None:
    """In a fork: keep the parent's sessions for ever.

    The end of a session waits for its threads, which a fork does not have.
    """
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
    """Options of a run after which ONNX Runtime's arena frees unused memory."""
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
    wanted: Wanted,
    read_beside: ReadBeside | None = None,
    workers: int | None = None,
) -> Session:
    """A session on the first device that opens the graph and also runs it.

    `graphs` holds the file name of the graph and a function that reads it, for each of "cpu",
    "cuda" and "coreml". The graph is tried with the tiny input that `wanted` makes, since some
    providers accept a graph and fail when it runs. With device="auto" a failure falls back to the
    next device and is logged. Raises DeviceError for an explicit device that fails, LoadError for
    wrong outputs.
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
                read_beside=read_beside,
                workers=workers,
            )
            outputs, probe = wanted(session)
            session.choose(list(outputs))
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
                        f"smallest input, by the model's facts it is {_shape(shape)}: "
                        f"{session.described}"
                    )
            return session
    raise DeviceError(f"no device for {device!r}")  # choose_device never returns an empty list

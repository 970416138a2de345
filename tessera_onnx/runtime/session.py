"""Devices and ONNX Runtime sessions: the only module that talks to onnxruntime.

Measured on two cores (shared session, 512-token batches): two Python threads on a session with
one intra-op thread each embed 1.3 times the texts of one caller with two intra-op threads, while
a single text is answered sooner by intra-op threads. So a CPU model has up to two sessions, each
made at its first use: one for batches, one for single texts. Who needs one alone holds one alone.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import re
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import (
    ConfigError,
    DeviceError,
    EncodingError,
    IntegrityError,
    LoadError,
    install_hint,
    is_of_signal,
    shown,
)
from tessera_onnx.runtime import cpu as runtime_cpu
from tessera_onnx.runtime import external_data, saturation, telemetry

Array = NDArray[Any]
# (graph's file name, name of a file in the same folder) to that file's verified content
ReadBeside = Callable[[str, str], bytes]
logger = logging.getLogger("tessera_onnx")

# Threads of a session wait for work so long before they sleep. ONNX Runtime's own choice is tens of
# milliseconds, in which they take the processor from every other session of the process: a query's
# encoding followed by MaxSim took twice as long and four times the processor time.
SPIN_US = 200
# Rows x length^2 of a batch after which the arena gives back what it took: about 200 MB of scores
# for 12 heads in fp32.
LARGE_BATCH = 1 << 22
LARGE_GRAPH = 1 << 24  # bytes from which weights are given to ONNX Runtime beside the graph
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}


def onnxruntime() -> Any:
    """The onnxruntime module, telemetry off. Raises DeviceError naming the extras without it."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise DeviceError(
            f"onnxruntime cannot be imported ({error}): {install_hint('cpu')}; on a machine with "
            "an NVIDIA GPU [cuda] in place of [cpu], never both"
        ) from error
    ort.disable_telemetry_events()  # of Windows; for the rest of it see telemetry.py
    _note_telemetry(ort.__version__)
    return ort


@functools.cache  # once a process
def _note_telemetry(version: str) -> None:
    sentence = telemetry.problem(version)
    if sentence is not None:
        logger.warning("%s", sentence)


_saturating: set[tuple[str, int]] = set()  # graphs that were told of


def note_saturation(graph_name: str, graph: bytes, read_beside: ReadBeside | None) -> None:
    """Say once that a graph's int8 products may be other numbers on this processor."""
    if not runtime_cpu.saturates() or (graph_name, len(graph)) in _saturating:
        return

    def read(name: str) -> bytes:
        return b"" if read_beside is None else read_beside(graph_name, name)

    found = saturation.products(graph, read)
    if found:
        _saturating.add((graph_name, len(graph)))
        logger.warning(
            "%d int8 products of %s can saturate on this processor, which has no VNNI: its vectors "
            "may be far from those of other processors. Use precision='fp32', or export the model "
            "again with tessera-export, whose int8 graphs do not saturate",
            len(found),
            graph_name,
        )


def choose_device(device: str, *, static: bool, int8_on_cuda: bool = False) -> list[str]:
    """Devices to try in order for a request such as "auto", "cpu", "cuda:1" or "coreml".

    Never ONNX Runtime's own order. "auto" tries CUDA unless the graph there would be int8, whose
    products only the CPU has, then CoreML for a model made with static shapes, then the CPU.
    Raises ConfigError for an unknown name.
    """
    if not isinstance(device, str):
        raise TypeError(f"device must be str, got {type(device).__name__}")
    if device == "auto":
        available = onnxruntime().get_available_providers()
        wanted = ([] if int8_on_cuda else ["cuda"]) + (["coreml"] if static else [])
        return [name for name in wanted if PROVIDERS[name] in available] + ["cpu"]
    if not re.fullmatch(r"cpu|coreml|cuda(:\d{1,3})?", device):
        raise ConfigError(
            f'device must be "auto", "cpu", "cuda", "cuda:N" or "coreml": {shown(device)}'
        )
    if device == "coreml" and not static:
        raise DeviceError(
            "this model has dynamic shapes, which CoreML runs wrongly or slowly: use device='cpu'"
        )
    return [device]


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
        except Exception as error:  # ORT raises its own unrelated classes, all from C++
            if is_of_signal(error):
                raise
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


def open_graph(
    graph_name: str,
    graph: bytes,
    device: str,
    intra_threads: int,
    read_beside: ReadBeside | None = None,
) -> Any:
    """An onnxruntime.InferenceSession with this package's options, on that device and no other.

    `read_beside` gives the content of a file beside the graph that holds weights of it: graphs
    above 2 GB keep theirs so. The export's parity gate opens its graphs here too, so what it
    measures is what runs. Raises DeviceError when the device is not there or does not take the
    graph, LoadError when the bytes are no graph, IntegrityError when it names other files.
    """
    ort = onnxruntime()
    name, _, number = device.partition(":")
    provider = PROVIDERS[name]
    if provider not in ort.get_available_providers():
        fix = "`pip uninstall onnxruntime`, then " + install_hint("cuda") if name == "cuda" else ""
        raise DeviceError(
            f"device {device!r} needs {provider}, which the installed onnxruntime "
            f"{ort.__version__} lacks (it has {', '.join(ort.get_available_providers())}): "
            f"{fix or 'use device=' + repr('cpu')}"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # failures are raised; ORT's own stderr lines add nothing
    # The arena stays on, for without it malloc fetches and returns the pages of large buffers at
    # each step: texts of 256 tokens took 1.7 times as long, and the process held more. Plans by
    # shape are off: they grow with each new shape and save no time.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    cpus = runtime_cpu.cpus()
    if 1 < intra_threads == len(cpus):
        # As ONNX Runtime does by itself: a thread that sleeps may else be woken on the processor of
        # the one that waits for it, which cost milliseconds. With fewer threads than processors
        # others may be pinned to the same ones, and there is room to wake on.
        places = ";".join(str(cpu + 1) for cpu in cpus[1:])  # the calling thread is the first
        options.add_session_config_entry("session.intra_op_thread_affinities", places)
    # ONNX Runtime would also read its own format, whose files external_data.py cannot look into.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    missing = _preload(ort) if name == "cuda" else ""
    if name == "cpu":
        note_saturation(graph_name, graph, read_beside)
    config = {"device_id": number or "0"} if name == "cuda" else {}
    graph, data = _data(ort, options, graph_name, graph, read_beside)
    try:
        session = ort.InferenceSession(
            graph,
            options,
            providers=[(provider, config)],
            # Fusing LayerNorm with the residual sum costs 10 to 20 % on CPUs (ORT 1.32).
            disabled_optimizers=["SkipLayerNormFusion"],
            enable_fallback=False,  # it prints, and goes on on the CPU when a provider fails
        )
    except Exception as error:  # ORT raises its own unrelated classes, all from C++
        kind = LoadError if name == "cpu" else DeviceError
        raise kind(f"{graph_name} cannot be opened on {device}: {str(error)[:500]}") from error
    del data  # ONNX Runtime has copied it
    # No other provider is ever tried, so the wrapper need not keep the file's bytes for that.
    session.disable_fallback()
    session._model_bytes = None  # noqa: SLF001 (they are as large as the model, for ever)
    if session.get_providers()[0] != provider:
        raise DeviceError(
            f"ONNX Runtime put {graph_name} on {session.get_providers()[0]} although {device} was "
            f"asked for: {missing or 'its driver, or a CUDA or cuDNN library, is missing'}. "
            '`pip install "onnxruntime-gpu[cuda,cudnn]"` brings the libraries, `nvidia-smi` shows '
            "whether there is a GPU and its driver; or use device='cpu'"
        )
    return session


@functools.cache
def _give_back() -> Any:
    """Options of a run after which the arena frees what it does not use."""
    options = onnxruntime().RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _preload(ort: Any) -> str:
    """Load the CUDA libraries of pip's packages, if there are; which ones are not found."""
    if not hasattr(ort, "preload_dlls"):
        return ""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # it prints, and stdout may be a program's
        ort.preload_dlls()
    names = re.findall(r"^Failed to load (\S+?):", said.getvalue(), re.MULTILINE)
    return f"not found: {', '.join(names)}" if names else ""


def _data(
    ort: Any, options: Any, name: str, graph: bytes, read_beside: ReadBeside | None
) -> tuple[bytes, list[bytes]]:
    """The graph to open, and what it keeps in other files; to be kept until a session is made.

    `options` get those files from memory, and the weights of a large graph in the same way. Raises
    IntegrityError as external.locations does, LoadError where ONNX Runtime is too old.
    """
    names = external_data.locations(graph, name)
    takes = hasattr(options, "add_external_initializers_from_files_in_memory")
    if names and read_beside is None:
        raise IntegrityError(f"{name} keeps weights in {names[0]!r}, and may not")
    if names and not takes:
        raise LoadError(
            f"{name} keeps its weights in a file of its own, which the installed onnxruntime "
            f"{ort.__version__} cannot take: install a newer one"
        )
    data = [read_beside(name, location) for location in names] if read_beside else []
    if takes and len(graph) >= LARGE_GRAPH and name not in names:
        with contextlib.suppress(ValueError):  # ONNX Runtime says what is wrong with it
            rest = external_data.without_weights(graph, name)
            names, data, graph = [*names, name], [*data, graph], rest
    if names:
        options.add_external_initializers_from_files_in_memory(names, data, [len(d) for d in data])
    return graph, data


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

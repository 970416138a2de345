"""Create an onnxruntime.InferenceSession from a graph's bytes, with this package's options."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

from tessera_onnx.errors import (
    DeviceError,
    IntegrityError,
    LoadError,
    install_hint,
)
from tessera_onnx.runtime import cpu as runtime_cpu
from tessera_onnx.runtime import external_data, saturation
from tessera_onnx.runtime.devices import PROVIDERS, load_cuda_libraries, onnxruntime

logger = logging.getLogger("tessera_onnx")

# (file name of the graph, name of a file in the same folder) -> the verified content of that file
ReadBeside = Callable[[str, str], bytes]

# Microseconds for which the threads of a session wait actively for work before they sleep. By
# default ONNX Runtime takes tens of milliseconds, during which other sessions of the process lack
# the processor: encoding a query and scoring it with MaxSim took twice as long and four times the
# processor time.
SPIN_US = 200
PACKED_PRODUCT = b"MatMulNBits"  # of 4 bits in all versions, of 8 bits since 1.23
LARGE_GRAPH = 1 << 24  # bytes from which weights are given to ONNX Runtime beside the graph

_saturating: set[tuple[str, int]] = set()  # graphs that the log has named


def note_saturation(graph_name: str, graph: bytes, read_beside: ReadBeside | None) -> None:
    """Log once per graph that its int8 products may differ on this processor."""
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


def is_saturating(graph_name: str) -> bool:
    """Whether a graph of that name was opened whose products may saturate on this processor."""
    return any(name == graph_name for name, _ in _saturating)


def open_graph(
    graph_name: str,
    graph: bytes,
    device: str,
    intra_threads: int,
    read_beside: ReadBeside | None = None,
) -> Any:
    """An onnxruntime.InferenceSession with this package's options, on this device only.

    `read_beside` gives the content of a file beside the graph: a graph above 2 GB keeps its weights
    in one. The export's parity gate opens its graphs with this function too, so it measures what
    users run. Raises DeviceError when the device is missing or refuses the graph, LoadError when
    the bytes are no graph, IntegrityError when the graph names other files.
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
    options.log_severity_level = 4  # failures are raised; ORT's lines on stderr add nothing
    # The arena stays on. Without it malloc fetches and returns the pages of large buffers at each
    # step: texts of 256 tokens took 1.7 times as long, and the process held more memory. Memory
    # patterns are off: they grow with each new shape and save no time.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    cpus = runtime_cpu.cpus()
    if 1 < intra_threads == len(cpus):
        # Pin the threads, as ONNX Runtime does by default. Otherwise a sleeping thread may wake on
        # the processor of the thread that waits for it, which cost milliseconds. With fewer threads
        # than processors there is a free one to wake on, and other programs may be pinned to these.
        places = ";".join(str(cpu + 1) for cpu in cpus[1:])  # the calling thread has the first
        options.add_session_config_entry("session.intra_op_thread_affinities", places)
    # ONNX Runtime can also read a format of its own, which external_data.py cannot check.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    missing = load_cuda_libraries(ort) if name == "cuda" else ""
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
            enable_fallback=False,  # it would print, and continue on the CPU, when a provider fails
        )
    except Exception as error:  # ORT raises its own unrelated classes, all from C++
        kind = LoadError if name == "cpu" else DeviceError
        hint = (
            ". Its weights of few bits (MatMulNBits) may need a newer onnxruntime than "
            f"{ort.__version__}"
            if PACKED_PRODUCT in graph
            else ""
        )
        raise kind(
            f"{graph_name} cannot be opened on {device}: {str(error)[:500]}{hint}"
        ) from error
    del data  # ONNX Runtime has copied it
    # No other provider is tried later, so the session need not keep the bytes of the file.
    session.disable_fallback()
    session._model_bytes = None  # noqa: SLF001 (they are as large as the model)
    if session.get_providers()[0] != provider:
        raise DeviceError(
            f"ONNX Runtime put {graph_name} on {session.get_providers()[0]} although {device} was "
            f"asked for: {missing or 'its driver, or a CUDA or cuDNN library, is missing'}. "
            '`pip install "onnxruntime-gpu[cuda,cudnn]"` brings the libraries, `nvidia-smi` shows '
            "whether there is a GPU and its driver; or use device='cpu'"
        )
    return session


def _data(
    ort: Any, options: Any, name: str, graph: bytes, read_beside: ReadBeside | None
) -> tuple[bytes, list[bytes]]:
    """The graph to open, and the weights that `options` refer to: keep both until it is open.

    ONNX Runtime gets the files beside the graph from memory, and the weights of a large graph in
    the same way. Raises IntegrityError as external_data.locations, LoadError when ONNX Runtime is
    too old.
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

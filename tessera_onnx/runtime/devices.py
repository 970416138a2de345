"""Choose the devices to try, in order, and import onnxruntime for them."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import re
from typing import Any

from tessera_onnx.errors import (
    ConfigError,
    DeviceError,
    install_hint,
    shown,
)
from tessera_onnx.runtime import telemetry

logger = logging.getLogger("tessera_onnx")

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}


def onnxruntime() -> Any:
    """The onnxruntime module, with its telemetry off. Raises DeviceError if it is not installed."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise DeviceError(
            f"onnxruntime cannot be imported ({error}): {install_hint('cpu')}; on a machine with "
            "an NVIDIA GPU [cuda] in place of [cpu], never both"
        ) from error
    ort.disable_telemetry_events()  # those of Windows; telemetry.py switches off the others
    _note_telemetry(ort.__version__)
    return ort


def version() -> str | None:
    """The version of ONNX Runtime; None where it is not installed: static models need none."""
    try:
        found: str = onnxruntime().__version__
    except DeviceError:
        return None
    return found


@functools.cache  # once a process
def _note_telemetry(version: str) -> None:
    sentence = telemetry.problem(version)
    if sentence is not None:
        logger.warning("%s", sentence)


def choose_device(device: str, *, static: bool, int8_on_cuda: bool = False) -> list[str]:
    """Devices to try, in order, for a request such as "auto", "cpu", "cuda:1" or "coreml".

    "auto" tries CUDA, then CoreML if the model has static shapes, then the CPU. It skips CUDA for
    an int8 graph, since only the CPU has integer products. ONNX Runtime's own order is not used.
    Raises ConfigError for an unknown name, DeviceError for CoreML with dynamic shapes.
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


def load_cuda_libraries(ort: Any) -> str:
    """Load the CUDA libraries of installed packages; says which were not found, "" for none."""
    if not hasattr(ort, "preload_dlls"):
        return ""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # preload_dlls prints, and stdout may hold results
        ort.preload_dlls()
    names = re.findall(r"^Failed to load (\S+?):", said.getvalue(), re.MULTILINE)
    return f"not found: {', '.join(names)}" if names else ""

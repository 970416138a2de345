"""Torch embedding models become ONNX artifacts for tessera-onnx: facts, graph, parity, folder."""

import tessera_onnx  # noqa: F401  (before any import of onnxruntime: it switches its telemetry off)

__version__ = "0.1.0"

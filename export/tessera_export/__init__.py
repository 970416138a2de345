"""Export torch embedding and forecasting models to ONNX artifacts for tessera-onnx."""

import tessera_onnx  # noqa: F401  (before any import of onnxruntime: it switches its telemetry off)

__version__ = "0.2.0"

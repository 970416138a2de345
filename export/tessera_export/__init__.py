"""Torch embedding models become ONNX artifacts for tessera-onnx: facts, graph, parity, folder."""

from tessera_onnx.runtime import telemetry

telemetry.switch_off()  # a module of this package may import onnxruntime before all others

__version__ = "0.1.0"

"""Torch embedding models become ONNX artifacts for tessera-onnx: facts, graph, parity, folder."""

__version__ = "0.1.0"

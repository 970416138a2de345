"""Encoder, the callable that engines such as Ray Data and Spark run over their tables."""

from tessera_onnx.batch.encoder import Encoder

__all__ = ["Encoder"]

"""Embeddings and forecasts on ONNX Runtime, without torch.

>>> from tessera_onnx import TesseraDense
>>> with TesseraDense() as model:
...     vectors = model.encode_batch(["a text", "another"])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tessera_onnx.runtime import telemetry

if TYPE_CHECKING:
    from tessera_onnx.client import AsyncClient, Client
    from tessera_onnx.collection.collection import Collection
    from tessera_onnx.errors import (
        Cancelled,
        ConfigError,
        DeviceError,
        DimensionMismatch,
        EncodingError,
        FileError,
        ForecastWarning,
        InputTooLong,
        IntegrityError,
        LoadError,
        ModelNotFound,
        QuantizationError,
        StoreError,
        TesseraError,
        TimedOut,
        TokenizationError,
        TruncationWarning,
        UnsupportedDimension,
    )
    from tessera_onnx.images.vision import TesseraVision
    from tessera_onnx.kinds import Tessera, list_models
    from tessera_onnx.results import (
        BinaryTokens,
        Chunks,
        Embeddings,
        Int8Vectors,
        Ranked,
        SparseVector,
    )
    from tessera_onnx.search.dense_index import PackedDense
    from tessera_onnx.search.fusion import fuse
    from tessera_onnx.search.muvera import Muvera
    from tessera_onnx.search.sparse_index import PackedSparse
    from tessera_onnx.search.token_index import PackedTokens
    from tessera_onnx.series.timeseries import TesseraTimeSeries
    from tessera_onnx.text.dense import TesseraDense
    from tessera_onnx.text.multi_vector import TesseraMultiVector
    from tessera_onnx.text.reranker import TesseraReranker
    from tessera_onnx.text.sparse import TesseraSparse
    from tessera_onnx.vectors.scoring import maxsim

__version__ = "0.2.0"

telemetry.switch_off()  # here, so that it comes before any later import of onnxruntime

__all__ = [
    "AsyncClient",
    "BinaryTokens",
    "Cancelled",
    "Chunks",
    "Client",
    "Collection",
    "ConfigError",
    "DeviceError",
    "DimensionMismatch",
    "Embeddings",
    "EncodingError",
    "FileError",
    "ForecastWarning",
    "InputTooLong",
    "Int8Vectors",
    "IntegrityError",
    "LoadError",
    "ModelNotFound",
    "Muvera",
    "PackedDense",
    "PackedSparse",
    "PackedTokens",
    "QuantizationError",
    "Ranked",
    "SparseVector",
    "StoreError",
    "Tessera",
    "TesseraDense",
    "TesseraError",
    "TesseraMultiVector",
    "TesseraReranker",
    "TesseraSparse",
    "TesseraTimeSeries",
    "TesseraVision",
    "TimedOut",
    "TokenizationError",
    "TruncationWarning",
    "UnsupportedDimension",
    "fuse",
    "list_models",
    "maxsim",
]

# A public name's module is imported when the name is first used: the import of this package alone
# is then next to free, and a forecast does not wait for what only texts need.
MODULES = {
    "kinds": ("Tessera", "list_models"),
    "text.dense": ("TesseraDense",),
    "errors": (
        "Cancelled",
        "ConfigError",
        "DeviceError",
        "DimensionMismatch",
        "EncodingError",
        "FileError",
        "ForecastWarning",
        "InputTooLong",
        "IntegrityError",
        "LoadError",
        "ModelNotFound",
        "QuantizationError",
        "StoreError",
        "TesseraError",
        "TimedOut",
        "TokenizationError",
        "TruncationWarning",
        "UnsupportedDimension",
    ),
    "text.multi_vector": ("TesseraMultiVector",),
    "search.token_index": ("PackedTokens",),
    "search.dense_index": ("PackedDense",),
    "search.fusion": ("fuse",),
    "search.muvera": ("Muvera",),
    "search.sparse_index": ("PackedSparse",),
    "results": ("BinaryTokens", "Chunks", "Embeddings", "Int8Vectors", "Ranked", "SparseVector"),
    "vectors.scoring": ("maxsim",),
    "text.sparse": ("TesseraSparse",),
    "text.reranker": ("TesseraReranker",),
    "series.timeseries": ("TesseraTimeSeries",),
    "images.vision": ("TesseraVision",),
    "client": ("AsyncClient", "Client"),
    "collection.collection": ("Collection",),
}

if not TYPE_CHECKING:  # a type checker would take every name for one of this package's

    def __getattr__(name: str) -> Any:
        for module, names in MODULES.items():
            if name in names:
                found = getattr(importlib.import_module(f"{__name__}.{module}"), name)
                globals()[name] = found  # the next use finds it there
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

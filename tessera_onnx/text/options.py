"""Keyword arguments of constructors and of the encode methods, named once.

The methods themselves spell the arguments out and document them, and TextModel those of its
constructor.
"""

from __future__ import annotations

from typing import TypedDict

from tessera_onnx.base import Options
from tessera_onnx.models.spec import Pooling
from tessera_onnx.runtime.workers import Event
from tessera_onnx.text.reading import RoleName
from tessera_onnx.text.tokenizer import OnLong


class Settings(Options, total=False):
    """The keyword arguments of `TextModel` but for on_long, which TesseraDense extends."""

    dimension: int | None
    max_length: int | None
    pooling: Pooling | None


class TextOptions(Settings, total=False):
    """The keyword arguments of `TextModel`, for the constructors of its subclasses."""

    on_long: OnLong


class Limits(TypedDict, total=False):
    """When a call ends before its work is done."""

    timeout: float | None
    cancel: Event | None


class DenseOptions(Limits, total=False):
    """Of `TesseraDense.encode_query` and `encode_document`."""

    task: str | None
    prompt: str | None


class DenseBatchOptions(DenseOptions, total=False):
    """Of `TesseraDense.encode_batch`."""

    progress: bool


class DenseStreamOptions(DenseBatchOptions, total=False):
    """Of `TesseraDense.encode_iter`."""

    role: RoleName


class PoolOptions(Limits, total=False):
    """Of `TesseraMultiVector.encode_document`."""

    pool_factor: int


class PoolBatchOptions(PoolOptions, total=False):
    """Of `TesseraMultiVector.encode_batch`."""

    progress: bool


class PoolStreamOptions(PoolBatchOptions, total=False):
    """Of `TesseraMultiVector.encode_iter`."""

    role: RoleName


class SparseOptions(Limits, total=False):
    """Of `TesseraSparse.encode_query` and `encode_document`."""

    max_active_dims: int | None

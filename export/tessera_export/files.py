"""Read the JSON files and safetensors headers of a model folder; run no code and open no pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tessera_export.errors import as_export_error
from tessera_onnx.models.foreign import files
from tessera_onnx.models.foreign.files import Weights, sha256

__all__ = ["Weights", "read_table", "read_text", "read_weights", "sha256"]


@as_export_error()
def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises ExportError when it is missing or is none."""
    return files.read_text(path)


@as_export_error()
def read_table(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, or {} when there is no such file. Raises ExportError."""
    return files.read_table(path)


@as_export_error()
def read_weights(folder: Path) -> Weights:
    """The safetensors headers in `folder`. Raises ExportError; a pickle is refused by name."""
    return files.read_weights(folder)

"""Read the linear layers of bge-m3's heads: token weights and token vectors beside the encoder."""

from __future__ import annotations

from pathlib import Path

from tessera_export.errors import ExportError
from tessera_onnx.models.foreign.layers import Layer

SPARSE, COLBERT = "sparse_linear", "colbert_linear"


def head_file(folder: Path, name: str) -> Path | None:
    """The file of the head `name`, safetensors rather than .pt, or None."""
    found = (folder / f"{name}{suffix}" for suffix in (".safetensors", ".pt"))
    return next((path for path in found if path.is_file()), None)


def head(file: Path, hidden: int) -> Layer:
    """The layer of a head on token vectors of `hidden` numbers. Raises ExportError."""
    from tessera_export import tensors

    weight, bias = (tensors.load(file, name) for name in ("weight", "bias"))
    rows, columns = weight.shape if weight.ndim == 2 else (0, 0)
    if columns != hidden or bias.shape != (rows,):
        raise ExportError(
            f"{file} holds tensors of the shapes {tuple(weight.shape)} and {tuple(bias.shape)}, "
            f"expected (n, {hidden}) and (n,)"
        )
    return Layer(
        file=file,
        weight="weight",
        bias="bias",
        activation="Identity",
        residual=False,
        residual_weight="",
        in_features=columns,
        out_features=rows,
    )

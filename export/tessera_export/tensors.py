"""One tensor of a file: safetensors, or a .pt state dict that torch loads without running code."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from tessera_export.errors import ExportError


def load(path: Path, name: str) -> torch.Tensor:
    """The tensor `name` of a .safetensors or .pt file.

    Raises ExportError for a file without it, and for a .pt file that is more than a dict of
    tensors: with weights_only torch refuses every other object of a pickle.
    """
    if path.suffix != ".pt":
        try:
            with safe_open(path, framework="pt") as tensors:
                found: torch.Tensor = tensors.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ExportError(f"{path} gives no tensor {name!r}: {error}") from error
        return found
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"{path} is not a file of tensors alone: {first}") from error
    tensor = state.get(name) if isinstance(state, dict) else None
    if not isinstance(tensor, torch.Tensor):
        raise ExportError(f"{path} holds no tensor {name!r}")
    return tensor

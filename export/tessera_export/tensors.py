"""Load one tensor of a safetensors file, or of a .pt state dict without running code."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from tessera_export import pickles
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
    state = pickles.state(path)
    if name not in state:
        raise ExportError(f"{path} holds no tensor {name!r}")
    return state[name]

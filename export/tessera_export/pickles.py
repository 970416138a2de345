"""Read the tensors of pickled weights, and nothing else of the pickle."""

from __future__ import annotations

import contextlib
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tessera_export.errors import ExportError
from tessera_export.files import read_table

if TYPE_CHECKING:
    import torch

INDEX = "pytorch_model.bin.index.json"


@contextlib.contextmanager
def unpickled(folder: Path) -> Iterator[Path]:
    """`folder` itself, or a temporary one of links to its files beside a model.safetensors.

    Only where pytorch_model.bin, whole or in shards, is all there is. Raises ExportError for a
    pickle of more than tensors: with weights_only torch runs none of it.
    """
    shards = sorted(set(read_table(folder / INDEX).get("weight_map", {}).values()))
    files = [folder / name for name in shards or ["pytorch_model.bin"]]
    if any(folder.glob("model*.safetensors")) or not all(path.is_file() for path in files):
        yield folder
        return
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as work:
        place = Path(work) / folder.name
        place.mkdir()
        for path in folder.iterdir():
            if not path.name.startswith("pytorch_model"):
                (place / path.name).symlink_to(path.resolve())
        tensors: dict[str, torch.Tensor] = {}
        for path in files:
            tensors |= state(path)
        # Clones: safetensors refuses tensors that share memory.
        save_file(
            {n: t.clone().contiguous() for n, t in tensors.items()}, place / "model.safetensors"
        )
        del tensors
        yield place


def state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a state dict by name. Raises ExportError for a file that holds more."""
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"{path} is not a file of tensors alone: {first}") from error
    if not isinstance(found, dict) or not all(isinstance(t, torch.Tensor) for t in found.values()):
        raise ExportError(f"{path} is not a file of tensors alone")
    return found

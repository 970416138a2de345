"""Change the table of a static model: its safetensors file as arrays and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from artifact_tools import ARTIFACTS

CODES = {"f8": "F64", "f4": "F32", "f2": "F16", "i1": "I8", "i4": "I32", "i8": "I64"}


def safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    """A safetensors file of the arrays."""
    header, parts, start = {}, [], 0
    for name, array in tensors.items():
        content = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": CODES[array.dtype.str[1:]],
            "shape": list(array.shape),
            "data_offsets": [start, start + len(content)],
        }
        start += len(content)
        parts.append(content)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + b"".join(parts)


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of model.safetensors in a folder, as copies."""
    content = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    found = {}
    for name, entry in json.loads(content[8:start]).items():
        begin, end = entry["data_offsets"]
        code = next(dtype for dtype, name in CODES.items() if name == entry["dtype"])
        array = np.frombuffer(content[start + begin : start + end], f"<{code}")
        found[name] = array.reshape(entry["shape"]).copy()
    return found


def unpinned(folder: Path) -> Path:
    """The folder as its library saved it, without model.toml."""
    (folder / "model.toml").unlink()
    (folder / "golden.npz").unlink()
    return folder


def bare(name: str, target: Path) -> Path:
    """A copy of an artifact as its library saved it."""
    return unpinned(Path(shutil.copytree(ARTIFACTS / name, target)))

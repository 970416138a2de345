"""Read the JSON files and safetensors headers of a model folder; run no code and open no pickle."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera_export.errors import ExportError

SETTINGS = "config_sentence_transformers.json"
MAX_HEADER_BYTES = 100 << 20  # the cap of the safetensors format itself


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises ExportError when it is missing or is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ExportError(f"{path} is not UTF-8 text: {error}") from error


def read_json(path: Path) -> Any:
    """The parsed JSON file. Raises ExportError when it is missing or is not JSON."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise ExportError(f"{path} is not valid JSON: {error}") from error


def read_table(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, or {} when there is no such file. Raises ExportError."""
    if not path.is_file():
        return {}
    table = read_json(path)
    if not isinstance(table, dict):
        raise ExportError(f"{path} must hold a JSON object, got {type(table).__name__}")
    return table


def read_list(path: Path) -> list[dict[str, Any]]:
    """The JSON array of objects in `path`, or [] when there is no such file. Raises ExportError."""
    if not path.is_file():
        return []
    items = read_json(path)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ExportError(f"{path} must hold a JSON array of objects")
    return items


def module_folder(folder: Path, module: dict[str, Any]) -> Path:
    """Where modules.json says that a module lies. Raises ExportError for a place outside."""
    name = str(module.get("path", ""))
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ExportError(f"{folder / 'modules.json'} names the folder {name!r}, which is outside")
    return folder / name


def class_of(module: dict[str, Any]) -> str:
    """Name of the class of a modules.json entry, without its package."""
    return str(module.get("type", "")).rsplit(".", 1)[-1]


def sha256(*paths: Path) -> str:
    """The sha256 of the files' bytes, one after the other, as 64 hex digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Weights:
    """The safetensors files of one module: the shape of each tensor and the file that holds it."""

    files: tuple[Path, ...]
    shapes: dict[str, tuple[int, ...]]
    owner: dict[str, Path]

    @property
    def sha256(self) -> str:
        """Hash of the source weights; of several shards, of their bytes in order of name."""
        return sha256(*self.files)


def read_weights(folder: Path) -> Weights:
    """The safetensors headers in `folder`. Raises ExportError; a pickle is refused by name."""
    path = folder / "model.safetensors.index.json"
    shards = read_table(path).get("weight_map", {})
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ExportError(f"{path} has no weight_map from tensors to names of files")
    names = set(shards.values()) or {"model.safetensors"}
    files = tuple(folder / name for name in sorted(names))
    missing = [path for path in files if not path.is_file()]
    if missing:
        pickled = (folder / "pytorch_model.bin").is_file()
        hint = ": pytorch_model.bin is a pickle and is not read, save the model as safetensors"
        raise ExportError(f"{folder} has no {missing[0].name}{hint if pickled else ''}")
    shapes: dict[str, tuple[int, ...]] = {}
    owner: dict[str, Path] = {}
    for path in files:
        for name, entry in _header(path).items():
            if name == "__metadata__":
                continue
            if not isinstance(entry, dict) or not isinstance(entry.get("shape"), list):
                raise ExportError(f"{path} is not a safetensors file: {name!r} has no shape")
            shapes[name] = tuple(entry["shape"])
            owner[name] = path
    return Weights(files, shapes, owner)


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > MAX_HEADER_BYTES:
                raise ExportError(f"{path} is not a safetensors file: its header is too long")
            header = json.loads(stream.read(length))
    except (OSError, struct.error, ValueError) as error:
        raise ExportError(f"{path} is not a readable safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise ExportError(f"{path} is not a safetensors file: its header is no object")
    return header

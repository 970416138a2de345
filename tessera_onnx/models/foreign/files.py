"""Read the JSON files and safetensors headers of a model folder; run no code and open no pickle."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera_onnx.errors import LoadError, named

SETTINGS = "config_sentence_transformers.json"
MODULES = "modules.json"
MAX_HEADER_BYTES = 100 << 20  # the cap of the safetensors format itself
MAX_JSON_BYTES = 256 << 20  # of any JSON file; the largest tokenizer.json known has 34 million
POINTER = "version https://git-lfs.github.com/spec/"
MAX_FILES = 100_000  # of a folder, so that a wrong folder such as "/" is not walked to its end


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises LoadError when it is missing, huge or not UTF-8."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise LoadError(f"{path} is too large to be a configuration file", path=str(path))
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror}", path=str(path)) from error
    except UnicodeDecodeError as error:
        raise LoadError(f"{path} is not UTF-8 text: {error}", path=str(path)) from error
    if text.startswith(POINTER):
        raise _pointer(path)
    return text


def _pointer(path: Path) -> LoadError:
    return LoadError(
        f"{path} is a pointer of Git LFS: run `git lfs pull` in its folder", path=str(path)
    )


def read_json(path: Path) -> Any:
    """The parsed JSON file. Raises LoadError when it is missing or is not JSON."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path} is not valid JSON: {error}", path=str(path)) from error


def read_table(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, or {} when there is no such file. Raises LoadError."""
    if not _is_there(path):
        return {}
    table = read_json(path)
    if not isinstance(table, dict):
        raise LoadError(
            f"{path} must hold a JSON object, got {type(table).__name__}", path=str(path)
        )
    return table


def read_list(path: Path) -> list[dict[str, Any]]:
    """The JSON array of objects in `path`, or [] when there is no such file. Raises LoadError."""
    if not _is_there(path):
        return []
    items = read_json(path)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise LoadError(f"{path} must hold a JSON array of objects", path=str(path))
    return items


def is_file(path: Path) -> bool:
    """Whether a file is there; False for an impossible name and a folder without permission."""
    return os.path.isfile(path)  # noqa: PTH113 (a Path raises for what cannot be a name)


def _is_there(path: Path) -> bool:
    """Whether a file is there. Raises LoadError for a link to nothing and for what is no file.

    An incomplete copy of a hub's cache has such links; without the file other facts would hold.
    """
    found = is_file(path)
    if not found and os.path.lexists(path):
        raise LoadError(
            f"{path} is a link to nothing, or no file: download the whole folder", path=str(path)
        )
    return found


def module_folder(folder: Path, module: Mapping[str, Any]) -> Path:
    """Where modules.json says that a module lies. Raises LoadError for a place outside."""
    name = module.get("path", "")
    if not isinstance(name, str):
        path = folder / MODULES
        raise LoadError(
            f"{path} has a module whose path is {name!r:.40}, expected the name of a folder",
            path=str(path),
        )
    if Path(name).is_absolute() or ".." in Path(name).parts:
        path = folder / MODULES
        raise LoadError(f"{path} names the folder {name!r}, which is outside", path=str(path))
    return folder / name


def class_of(module: Mapping[str, Any]) -> str:
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


def list_files(folder: Path) -> dict[str, int]:
    """Name and size of every file in `folder` and below, links followed, hidden folders left out.

    Raises LoadError when there is no such folder, or more files than a model has.
    """
    if not os.path.isdir(folder):  # noqa: PTH112
        raise LoadError(
            f"{named(folder)} is not a model folder: there is no folder of that name",
            path=str(folder),
        )
    found: dict[str, int] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(place, name)  # noqa: PTH118 (thousands of files)
            try:
                found[os.path.relpath(path, folder).replace(os.sep, "/")] = os.stat(path).st_size  # noqa: PTH116
            except OSError:  # a link to nothing
                continue
        if len(found) > MAX_FILES:
            raise LoadError(f"{folder} holds more than {MAX_FILES} files: it is no model folder")
    return found


@dataclass(frozen=True, slots=True)
class Weights:
    """The safetensors files of one module: the shape of each tensor and the file that holds it."""

    files: tuple[Path, ...]
    shapes: dict[str, tuple[int, ...]]
    owner: dict[str, Path]
    dtypes: dict[str, str]  # as the format names them: F32, F16, I8

    @property
    def sha256(self) -> str:
        """Hash of the source weights; of several shards, of their bytes in order of name."""
        return sha256(*self.files)


def read_weights(folder: Path) -> Weights:
    """The safetensors headers in `folder`. Raises LoadError; a pickle is refused by name."""
    path = folder / "model.safetensors.index.json"
    shards = read_table(path).get("weight_map", {})
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise LoadError(f"{path} has no weight_map from tensors to names of files", path=str(path))
    names = set(shards.values()) or {"model.safetensors"}
    files = tuple(folder / name for name in sorted(names))
    missing = [path for path in files if not is_file(path)]
    if missing:
        raise LoadError(
            no_weights(folder, missing[0].name, pickled=is_file(folder / "pytorch_model.bin")),
            path=str(missing[0]),
        )
    return headers(files)


def no_weights(folder: Path, name: str, *, pickled: bool) -> str:
    """The message for weights that are not there, or that are a pickle."""
    hint = ": pytorch_model.bin is a pickle and is not read, save the model as safetensors"
    return f"{folder} has no {name}{hint if pickled else ''}"


def headers(files: Iterable[Path]) -> Weights:
    """The shapes of the tensors in safetensors files. Raises LoadError for what is none."""
    shapes: dict[str, tuple[int, ...]] = {}
    owner: dict[str, Path] = {}
    dtypes: dict[str, str] = {}
    files = tuple(files)
    for path in files:
        for name, entry in _header(path).items():
            if name == "__metadata__":
                continue
            if not isinstance(entry, dict) or not isinstance(entry.get("shape"), list):
                raise LoadError(
                    f"{path} is not a safetensors file: {name!r:.200} has no shape", path=str(path)
                )
            shapes[name] = tuple(entry["shape"])
            owner[name] = path
            dtypes[name] = str(entry.get("dtype"))
    return Weights(files, shapes, owner, dtypes)


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            start = stream.read(len(POINTER))
            if start == POINTER.encode():
                raise _pointer(path)
            (length,) = struct.unpack("<Q", start[:8])
            stream.seek(8)
            if length > MAX_HEADER_BYTES:
                raise LoadError(
                    f"{path} is not a safetensors file: its header is too long", path=str(path)
                )
            header = json.loads(stream.read(length))
    except (OSError, struct.error, ValueError, RecursionError) as error:
        raise LoadError(
            f"{path} is not a readable safetensors file: {error}", path=str(path)
        ) from error
    if not isinstance(header, dict):
        raise LoadError(
            f"{path} is not a safetensors file: its header is no object", path=str(path)
        )
    return header


def read_numbers(path: Path, tensor: str, indexes: Sequence[int]) -> list[float]:
    """Some numbers of a vector in a safetensors file. Raises LoadError for one that has no such."""
    entry: Any = _header(path).get(tensor)
    formats = {"F32": "<f", "F64": "<d", "F16": "<e"}
    numbers = []
    try:
        start, code = entry["data_offsets"][0], formats[entry["dtype"]]
        (size,) = entry["shape"]
        width = struct.calcsize(code)
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            for index in indexes:
                # A number beyond the vector would be one of the next tensor.
                stream.seek(8 + length + start + range(size)[index] * width)
                numbers.append(float(struct.unpack(code, stream.read(width))[0]))
    except (TypeError, KeyError, IndexError, ValueError, struct.error, OSError) as error:
        raise LoadError(
            f"{path} holds no vector {tensor!r} of that many numbers", path=str(path)
        ) from error
    return numbers

"""Read the tensors of safetensors files, and write arrays as such a file.

Format: eight bytes with the length of a JSON header, the header, and the bytes of the tensors
(https://github.com/huggingface/safetensors). No code is run.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError, LoadError

# Tensors that are read where they lie; BF16 as the bits of its numbers.
IN_PLACE = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "<i1", "I16": "<i2",
    "I32": "<i4", "I64": "<i8", "U8": "|u1",
}  # fmt: skip
FAULTS = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError)
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def read(
    content: bytes, name: str, wanted: Collection[str] | None = None
) -> dict[str, NDArray[np.float32]]:
    """The tensors of the file `name`, by name: all, or those `wanted` that it has.

    Raises LoadError for other bytes or dtypes.
    """
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        if start > len(content):
            raise ValueError("its header ends outside the file")
        header = json.loads(content[8:start])
        known = header.keys() - {"__metadata__"} if wanted is None else header.keys() & wanted
        entries = {key: header[key] for key in known}
        return {key: _tensor(content, start, entry) for key, entry in entries.items()}
    except FAULTS as error:
        reason = f"{type(error).__name__}: {error}"
        raise LoadError(f"{name} is not a readable safetensors file ({reason:.200})") from None


def view(content: bytes | mmap.mmap, name: str, tensor: str) -> tuple[NDArray[Any], str]:
    """One tensor of the file `name` where it lies, without a copy, and its dtype in the header.

    BF16 comes as uint16; `floats` gives its numbers. Raises LoadError for other bytes or dtypes,
    and for a tensor that is not there.
    """
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        if start > len(content):
            raise ValueError("its header ends outside the file")
        entry = json.loads(content[8:start])[tensor]
        begin, end = (start + int(place) for place in entry["data_offsets"])
        dtype, shape = np.dtype(IN_PLACE[entry["dtype"]]), [int(size) for size in entry["shape"]]
        _check(begin, end, start, len(content), math.prod(shape) * dtype.itemsize)
        found = np.frombuffer(content, np.uint8, end - begin, begin).view(dtype).reshape(shape)
    except FAULTS as error:
        reason = f"{type(error).__name__}: {error}"
        raise LoadError(
            f"{name} has no readable tensor {tensor!r:.100} ({reason:.200})", path=name
        ) from None
    return found, entry["dtype"]


def write(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file of some arrays, the ones of the largest numbers first.

    So every tensor lies where its numbers may be read in place. Raises ConfigError for a dtype
    that is none of IN_PLACE.
    """
    codes = {np.dtype(place): code for code, place in IN_PLACE.items() if code != "BF16"}
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    parts: list[bytes] = []
    size = 0
    for name, array in sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize):
        dtype = array.dtype.newbyteorder("<")
        if dtype not in codes:
            raise ConfigError(f"{name} has the dtype {array.dtype}, which is not written")
        parts.append(np.ascontiguousarray(array, dtype).tobytes())
        place = [size, size := size + len(parts[-1])]
        header[name] = {"dtype": codes[dtype], "shape": array.shape, "data_offsets": place}
    found = json.dumps(header).encode()
    found += b" " * (-len(found) % 8)
    return b"".join([len(found).to_bytes(8, "little"), found, *parts])


def arrays(content: bytes, name: str) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """All tensors of the file `name` where they lie, read-only, and its metadata.

    Raises LoadError as `view`.
    """
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        if start > len(content):
            raise ValueError("its header ends outside the file")
        header = json.loads(content[8:start])
        metadata = dict(header.pop("__metadata__", {}))
    except FAULTS as error:
        raise LoadError(f"{name} is not a readable safetensors file") from error
    return {key: view(content, name, key)[0] for key in header}, metadata


def floats(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Numbers of a tensor of that dtype in float32."""
    if dtype == "BF16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(values, np.float32)


def _check(begin: int, end: int, start: int, length: int, size: int) -> None:
    if not start <= begin <= end <= length:
        raise ValueError("a tensor ends outside the file")
    if size != end - begin:
        raise ValueError("a tensor has another size than its shape")


def _tensor(content: bytes, start: int, entry: dict[str, Any]) -> NDArray[np.float32]:
    begin, end = (start + int(place) for place in entry["data_offsets"])
    dtype, shape = np.dtype(DTYPES[entry["dtype"]]), [int(size) for size in entry["shape"]]
    _check(begin, end, start, len(content), math.prod(shape) * dtype.itemsize)
    return floats(np.frombuffer(content[begin:end], dtype).reshape(shape), entry["dtype"])

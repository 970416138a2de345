"""A pack as a file: .npy arrays after each other, so that the tokens can be mapped, not read.

In order, each readable by np.load from where the one before it ends: a header (JSON as bytes), the
shapes of the blocks (k, 2), their documents' lengths, numbers and scales (n,), and the tokens of
all blocks, flat.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import blocks, writing
from tessera_onnx.blocks import Block
from tessera_onnx.errors import FileError, IntegrityError, LoadError, named
from tessera_onnx.quantization import Output

FORMAT = "tessera-onnx packed tokens"
VERSION = 1
HEADER_BYTES = 512  # filled with spaces, which keeps all that follows aligned
COUNTS = ("dim", "blocks", "documents", "elements", "index_crc32", "tokens_crc32")


def write(path: Path, packed: Sequence[Block], output: Output, dim: int) -> None:
    """Raises FileError when the file cannot be written; then what was there is still there."""
    shapes = [(len(block.places), _length(block)) for block in packed]
    index = (
        np.array(shapes, dtype="<i8"),
        np.concatenate([block.lengths for block in packed]).astype("<i8"),
        np.concatenate([block.places for block in packed]).astype("<i8"),
        np.concatenate([block.scales for block in packed]).astype("<f4"),
    )
    crc = 0
    for block in packed:
        crc = zlib.crc32(_bytes(block.tokens), crc)
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "output": output,
        "dim": dim,
        "blocks": len(packed),
        "documents": len(index[1]),
        "elements": sum(block.tokens.size for block in packed),
        "index_crc32": _index_crc(index),
        "tokens_crc32": crc,
    }
    header = np.frombuffer(json.dumps(facts).ljust(HEADER_BYTES).encode(), dtype=np.uint8)
    with writing.replacing(path) as stream:
        for array in (header, *index):
            np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)
        shape = (facts["elements"],)
        descr = {"descr": blocks.dtype(output).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, descr)
        for block in packed:
            stream.write(_bytes(block.tokens))


def read(path: Path, *, verify: bool) -> tuple[list[Block], Output, int]:
    """The blocks, their form and dim. The tokens are mapped; `verify` reads them once.

    Raises FileError when there is no such file, LoadError when it is another kind of file or of a
    later version, IntegrityError when it is damaged.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"{named(path)} cannot be read: {reason}") from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # it might never end
        raise FileError(f"{path} cannot be read: it is a pipe or a device, not a regular file")
    try:
        with path.open("rb") as stream:
            return _read(stream, path, verify=verify)
    except LoadError:
        raise
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error


def _read(stream: BinaryIO, path: Path, *, verify: bool) -> tuple[list[Block], Output, int]:
    facts = _header(stream, path)
    output: Output = facts["output"]
    n, k = facts["documents"], facts["blocks"]
    names = ("blocks", "lengths", "numbers", "scales")
    shapes: tuple[tuple[int, ...], ...] = ((k, 2), (n,), (n,), (n,))
    types = ("<i8", "<i8", "<i8", "<f4")
    index = [
        _array(stream, path, name, np.dtype(kind), shape)
        for name, kind, shape in zip(names, types, shapes, strict=True)
    ]
    if _index_crc(index) != facts["index_crc32"]:
        raise IntegrityError(f"{path} is damaged: its index has another checksum than it says")
    kind = blocks.dtype(output)
    _expect(stream, path, "tokens", kind, (facts["elements"],))
    start = stream.tell()
    size = os.fstat(stream.fileno()).st_size
    if size - start != facts["elements"] * kind.itemsize:
        raise IntegrityError(
            f"{path} is damaged: it has {size} bytes and should have "
            f"{start + facts['elements'] * kind.itemsize}"
        )
    _check_index(index, facts, path)
    flat = np.memmap(stream, dtype=kind, mode="r", offset=start).view(np.ndarray)
    if verify and zlib.crc32(_bytes(flat)) != facts["tokens_crc32"]:
        raise IntegrityError(f"{path} is damaged: its tokens have another checksum than it says")
    return _blocks(flat, index, output, facts["dim"]), output, facts["dim"]


def _header(stream: BinaryIO, path: Path) -> dict[str, Any]:
    """The facts, each of the right type and no larger than the file has room for."""
    wrong = f"{path} is no pack of tokens: PackedTokens.save writes one"
    try:
        content = _array(stream, path, "header", np.dtype(np.uint8), (HEADER_BYTES,))
        facts = json.loads(content.tobytes())
    except (IntegrityError, ValueError, RecursionError) as error:
        raise LoadError(wrong) from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise LoadError(wrong)
    if facts.get("version") != VERSION:
        raise LoadError(f"{path} is a pack of another version: this tessera-onnx reads {VERSION}")
    known = facts.get("output") in get_args(Output)
    numbers = [facts.get(name) for name in COUNTS]
    if not known or not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
        raise IntegrityError(f"{path} is damaged: its header has a missing or wrong field")
    return facts


def _expect(
    stream: BinaryIO, path: Path, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> None:
    """Read the .npy header of an array and compare it. Raises IntegrityError."""
    # Not parsed by NumPy, which mends a header and warns: the filters of warnings are everybody's.
    wanted = io.BytesIO()
    facts = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(wanted, facts)
    beginning = stream.read(10)  # magic, version, size of the rest
    rest = stream.read(int.from_bytes(beginning[8:], "little"))
    if beginning[:8] != wanted.getvalue()[:8]:
        raise IntegrityError(f"{path} is damaged: its {name} are no .npy array")
    if rest.split() != wanted.getvalue()[10:].split():  # NumPy's versions pad it otherwise
        raise IntegrityError(f"{path} is damaged: its {name} have another shape or type")


def _array(
    stream: BinaryIO, path: Path, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Read a small array, after a look whether the file has so many bytes."""
    _expect(stream, path, name, dtype, shape)
    size = math.prod(shape) * dtype.itemsize
    if size > os.fstat(stream.fileno()).st_size - stream.tell():
        raise IntegrityError(f"{path} is damaged: it ends within its {name}")
    return np.frombuffer(stream.read(size), dtype=dtype).reshape(shape)


def _check_index(index: Sequence[NDArray[Any]], facts: dict[str, Any], path: Path) -> None:
    """Raises IntegrityError unless the blocks hold each document once and fill the tokens."""
    shapes, lengths, places, scales = index
    n = facts["documents"]
    # As Python's numbers: products of hostile ones would wrap around.
    pairs = [(int(count), int(length)) for count, length in shapes]
    width = blocks.width(facts["output"], facts["dim"])
    filled = (
        facts["dim"] > 0
        and n > 0
        and all(count > 0 and length > 0 for count, length in pairs)
        and sum(count for count, _ in pairs) == n
        and sum(count * length for count, length in pairs) * width == facts["elements"]
    )
    if not filled or not (
        ((lengths >= 0) & (lengths <= np.repeat(shapes[:, 1], shapes[:, 0]))).all()
        and (np.sort(places) == np.arange(n)).all()
        and (np.isfinite(scales) & (scales > 0)).all()
    ):
        raise IntegrityError(f"{path} is damaged: its index contradicts itself")


def _blocks(
    flat: NDArray[Any], index: Sequence[NDArray[Any]], output: Output, dim: int
) -> list[Block]:
    shapes, lengths, places, scales = index
    width = blocks.width(output, dim)
    found = []
    document = element = 0
    for count, length in shapes.tolist():
        shape = (width, count, length) if output == "binary" else (count, length, width)
        tokens = flat[element : element + math.prod(shape)].reshape(shape)
        picked = slice(document, document + count)
        found.append(Block(tokens, lengths[picked], places[picked], scales[picked]))
        document += count
        element += tokens.size
    return found


def _length(block: Block) -> int:
    return int(block.tokens.shape[2 if block.tokens.dtype == blocks.WORD else 1])


def _bytes(tokens: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(tokens).reshape(-1).view(np.uint8).data


def _index_crc(index: Sequence[NDArray[Any]]) -> int:
    crc = 0
    for array in index:
        crc = zlib.crc32(_bytes(array), crc)
    return crc

"""Write vectors to .npy, .npz and .jsonl files, whole or not at all."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.cli import texts
from tessera_onnx.cli.output import STDOUT
from tessera_onnx.cli.texts import Id
from tessera_onnx.errors import ConfigError, FileError
from tessera_onnx.files import reason, replacing
from tessera_onnx.kinds import KindRow
from tessera_onnx.results import BinaryTokens, Int8Vectors, SparseVector
from tessera_onnx.vectors import quantization
from tessera_onnx.vectors.quantization import OutputDtype

SUFFIXES = (".npy", ".npz", ".jsonl")


def is_same(source: str, output: str) -> bool:
    """Whether two names are one file; `source` may be "-" for stdin. False for an invalid name."""
    try:
        if source == texts.STDIN:
            return sys.stdin is not None and os.path.samestat(os.fstat(0), os.stat(output))  # noqa: PTH116
        return os.path.realpath(source) == os.path.realpath(output)
    except (OSError, ValueError):
        return False


def check(path: str | None, row: KindRow, output_dtype: OutputDtype, *, ids: bool = False) -> None:
    """Raises ConfigError when vectors of that kind and type, or ids, have no place in that file.

    None is no file: one vector is printed, in any form. "-" is stdout, which gets JSON lines.
    """
    if row.result == "sparse" and output_dtype != "float32":
        raise ConfigError(f"{row.kind} vectors have no {output_dtype} form, only float32")
    suffix = None if path is None else _suffix(path)
    if suffix is not None and suffix not in SUFFIXES:
        raise ConfigError(f"the output file must end in {', '.join(SUFFIXES)}, or be {STDOUT}")
    if suffix == ".npy" and ids:
        raise ConfigError("a .npy file holds no ids: write .npz or .jsonl")
    if suffix == ".npy" and (row.result, output_dtype) != ("vector", "float32"):
        raise ConfigError("a .npy file holds only dense float32 vectors: write .npz or .jsonl")


def write(
    path: Path,
    vectors: Iterable[Any],
    *,
    result: str,
    width: int,
    output_dtype: OutputDtype,
    ids: Callable[[], Sequence[Id]] | None = None,
) -> int:
    """Write what `encode_iter` gives to a file of one of SUFFIXES or to stdout; count the texts.

    `width` is the dimension, or the size of the vocabulary for sparse vectors. A .npy file holds
    dense float32 vectors, (n, width). A .npz file holds, by the row's result and by type:

        vector         vectors (n, width)
        vectors        tokens (all texts' rows, width); text i has rows offsets[i]:offsets[i + 1]
        sparse         indices, indptr, values, shape: a CSR matrix
        int8           codes, scale, offset in place of vectors or tokens
        binary         bits, dim in place of vectors or tokens

    A .jsonl file holds `row` of each text. .npy and .jsonl are written as the vectors come; .npz is
    put together in memory. `ids` gives the ids of the texts read so far: they become each text's
    `id` in .jsonl and an array `ids` in .npz, of whole numbers if all are whole numbers, else of
    strings. Raises FileError, and whatever `vectors` raises.
    """
    with opened(path) as stream:
        if _suffix(path) == ".jsonl":
            return _write_each(
                ({**({} if ids is None else {"id": ids()[i]}), **row(vector, output_dtype)}
                 for i, vector in enumerate(vectors)),
                lambda found: stream.write(json.dumps(found).encode() + b"\n"),
            )  # fmt: skip
        if path.suffix == ".npy":
            _npy_header(stream, (0, width))
            n_texts = _write_each(vectors, lambda vector: stream.write(vector.tobytes()))
            stream.seek(0)
            _npy_header(stream, (n_texts, width))  # NumPy pads it: both have the same length
            return n_texts
        rows = list(vectors)
        if result == "sparse":
            arrays = _csr(rows, width)
        else:
            arrays = _joined(rows, result, width, output_dtype)
        if ids is not None:
            arrays["ids"] = _ids(ids())
        np.savez(stream, **arrays)
        return len(rows)


def row(vector: Any, output_dtype: OutputDtype) -> dict[str, Any]:
    """One text's vector, token vectors or sparse vector in `output_dtype`, as JSON values."""
    if isinstance(vector, SparseVector):
        parts: dict[str, Any] = vector._asdict()
    else:
        name = "vector" if vector.ndim == 1 else "tokens"
        parts = _parts(quantization.convert(vector, output_dtype), name)
    return {name: _plain(np.asarray(part)) for name, part in parts.items()}


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file as `replacing` does, or stdout for "-". Raises FileError.

    BrokenPipeError, of a reader of stdout that has gone, passes through.
    """
    if str(path) != STDOUT:
        with replacing(path) as stream:
            yield stream
        return
    try:
        yield sys.stdout.buffer
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # the command ends quietly
    except (AttributeError, OSError) as error:  # there is none, or it is closed
        raise FileError(f"stdout cannot be written: {reason(error)}", path=STDOUT) from None


def _suffix(path: str | Path) -> str:
    return ".jsonl" if str(path) == STDOUT else Path(path).suffix


def _ids(found: Sequence[Id]) -> NDArray[Any]:
    small = all(isinstance(i, int) and -(1 << 63) <= i < 1 << 63 for i in found)
    return np.array(found, np.int64) if small and found else np.array([str(i) for i in found], str)


def _write_each(vectors: Iterable[Any], write_one: Callable[[Any], object]) -> int:
    n_texts = 0
    for vector in vectors:
        write_one(vector)
        n_texts += 1
    return n_texts


def _npy_header(stream: BinaryIO, shape: tuple[int, int]) -> None:
    descr = np.lib.format.dtype_to_descr(np.dtype(np.float32))
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)


def _joined(
    rows: list[NDArray[Any]], result: str, width: int, output_dtype: OutputDtype
) -> dict[str, Any]:
    """One vector a text as a matrix; token vectors as a matrix with the offsets of the texts."""
    parts = [np.atleast_2d(vectors) for vectors in rows]
    matrix = np.concatenate([np.empty((0, width), dtype=np.float32), *parts])
    converted = quantization.convert(matrix, output_dtype)  # a scale a row: the same as one by one
    if result == "vector":
        return _parts(converted, "vectors")
    offsets = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)
    return {**_parts(converted, "tokens"), "offsets": offsets}


def _csr(rows: list[SparseVector], width: int) -> dict[str, Any]:
    return {
        "indices": np.concatenate([np.empty(0, dtype=np.int32), *(v.indices for v in rows)]),
        "indptr": np.cumsum([0, *(len(v.indices) for v in rows)], dtype=np.int64),
        "values": np.concatenate([np.empty(0, dtype=np.float32), *(v.values for v in rows)]),
        "shape": np.array([len(rows), width], dtype=np.int64),
    }


def _parts(converted: Any, name: str) -> dict[str, Any]:
    """The arrays of a converted vector by their names; floats are named `name`."""
    if isinstance(converted, Int8Vectors):
        return {"codes": converted.codes, "scale": converted.scale, "offset": converted.offset}
    if isinstance(converted, BinaryTokens):
        return {"bits": converted.bits, "dim": converted.dim}
    return {name: converted}


def _plain(array: NDArray[Any]) -> Any:
    """Nested lists; a float32 with the nine digits that give the same float32 again."""
    if array.dtype.kind != "f":
        return array.tolist()
    if array.ndim > 1:
        return [_plain(part) for part in array]
    return [float(f"{value:.9g}") for value in array.tolist()]

"""The cells of a column of Arrow as what a model reads: texts, images or series."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from tessera_onnx.batch.outcomes import Outcome
from tessera_onnx.errors import ConfigError

Cells = tuple[list[Any], list[Outcome]]


def read(column: pa.ChunkedArray, reads: str, faults: Mapping[int, str]) -> Cells:
    """The values of a column and the outcome of each row, which is an error for what is no input.

    `reads` is that of the kind's row, `faults` are errors that are known before. The type is one
    that `check_type` takes.
    """
    kind = column.type
    if pt.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    found = [Outcome() for _ in range(len(column))]
    for row, fault in faults.items():
        found[row].fail(fault)
    if pt.is_null(kind):
        values: list[Any] = [None] * len(column)
    elif reads == "series":
        values = [_series(cell, found[i]) for i, cell in enumerate(column)]
    else:
        values = _texts(column, found)
    for value, outcome in zip(values, found, strict=True):
        if value is None:
            outcome.fail("the cell is null")
    return values, found


def check_type(kind: pa.DataType, reads: str, where: str) -> None:
    """Raises ConfigError for a column whose type a model does not read."""
    held = kind.value_type if pt.is_dictionary(kind) else kind
    wanted, fits = READS[reads]
    if not (pt.is_null(held) or fits(held)):
        raise ConfigError(f"{where} has the type {kind}, and the model reads {wanted}")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def _is_image(kind: pa.DataType) -> bool:
    if pt.is_struct(kind):  # as Hugging Face's datasets hold images
        return {field.name for field in kind} <= {"bytes", "path"}
    return _is_text(kind) or bool(
        pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind)
    )


def _is_series(kind: pa.DataType) -> bool:
    lists = (pt.is_list, pt.is_large_list, pt.is_fixed_size_list)
    if not any(test(kind) for test in lists):
        return False
    inner = kind.value_type
    return bool(pt.is_integer(inner) or pt.is_floating(inner))


READS: dict[str, tuple[str, Callable[[pa.DataType], bool]]] = {
    "texts": ("strings", _is_text),
    "images": ("paths (strings), bytes of image files, or structs of bytes and path", _is_image),
    "series": ("lists of numbers", _is_series),
}


def _texts(column: pa.ChunkedArray, found: list[Outcome]) -> list[Any]:
    """Python values; bytes of a string column that are no UTF-8 are an error of their row."""
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        values = [_decoded(cell, outcome) for cell, outcome in zip(column, found, strict=True)]
    return values


def _decoded(cell: pa.Scalar, outcome: Outcome) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:
        outcome.fail(f"the text is not UTF-8: {error.reason} at byte {error.start}")
        return None


def _series(cell: pa.Scalar, outcome: Outcome) -> Any:
    """A list of numbers as an array; a null among them is NaN, a missing value."""
    if not cell.is_valid:
        return None
    values = cell.values
    try:
        if values.null_count:
            values = values.cast(pa.float64())
        return np.array(values.to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        outcome.fail("the series holds whole numbers that float64 does not hold")
        return None

"""Columns of Arrow: the inputs of a model out of one, and its results into some.

| result | columns |
| --- | --- |
| one vector | `embedding`: fixed-size list |
| a vector per token or patch | `multi_vector`: list of fixed-size lists |
| sparse | `sparse_indices` (list of int32) and `sparse_values` (list of float32) |
| forecast | `forecast`: fixed-size list, a step each, of fixed-size lists, a level each |

int8 codes stand beside their scale: `embedding_scale` (float32), or `multi_vector_scale` (a list
with one float32 a vector). A vector is codes * scale. Bits are packed as np.packbits does, eight in
a uint8; the metadata of the field holds the number of dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from tessera_onnx.batch.outcomes import Outcome
from tessera_onnx.errors import ConfigError
from tessera_onnx.vectors import quantization

BatchDtype = Literal["float32", "float16", "int8", "binary"]
NUMBERS = {
    "float32": pa.float32(),
    "float16": pa.float16(),
    "int8": pa.int8(),
    "binary": pa.uint8(),
}
REPORT = (
    pa.field("tokens", pa.int32()),
    pa.field("truncated", pa.bool_()),
    pa.field("error", pa.string()),
)


@dataclass(frozen=True)
class Column:
    """The results of one kind as columns."""

    result: Literal["vector", "vectors", "sparse", "forecast"]
    width: int  # of a vector; steps of a forecast
    dtype: BatchDtype = "float32"
    levels: int = 0  # of a forecast; 0 = one value a step

    def fields(self) -> list[pa.Field]:
        """Names and types of the columns."""
        if self.result == "sparse":
            facts = {"dimension": str(self.width)}
            return [
                pa.field("sparse_indices", pa.list_(pa.int32()), metadata=facts),
                pa.field("sparse_values", pa.list_(pa.float32())),
            ]
        if self.result == "forecast":
            step = pa.list_(pa.float32(), self.levels) if self.levels else pa.float32()
            return [pa.field("forecast", pa.list_(step, self.width))]
        facts = {"dimension": str(self.width), "dtype": self.dtype}
        vector = pa.list_(NUMBERS[self.dtype], self._size)
        if self.result == "vector":
            scale, name = pa.float32(), "embedding"
        else:
            vector, scale, name = pa.list_(vector), pa.list_(pa.float32()), "multi_vector"
        fields = [pa.field(name, vector, metadata=facts)]
        return [*fields, pa.field(f"{name}_scale", scale)] if self.dtype == "int8" else fields

    @property
    def _size(self) -> int:
        """Numbers of a stored vector."""
        return -(-self.width // 8) if self.dtype == "binary" else self.width

    def unsound(self, results: Sequence[Any]) -> list[int]:
        """Rows with a number that is not finite in the type in which it is stored.

        A result of None, which is that of a row that failed, is sound.
        """
        rows = [row for row, result in enumerate(results) if result is not None]
        if self.result == "vector" and rows:  # thousands at once
            flat = _joined([results[row] for row in rows], np.float32)
            sound = np.isfinite(self._rounded(flat.reshape(len(rows), -1))).all(axis=1)
            return [rows[i] for i in np.flatnonzero(~sound)]
        return [row for row in rows if not np.isfinite(self._numbers(results[row])).all()]

    def _numbers(self, result: Any) -> Any:
        return self._rounded(result.values if self.result == "sparse" else np.asarray(result))

    def _rounded(self, numbers: Any) -> Any:
        if self.dtype != "float16":
            return numbers
        with np.errstate(over="ignore"):
            return numbers.astype(np.float16)

    def arrays(self, results: Sequence[Any]) -> list[pa.Array]:
        """One array a field; the results are None for rows that failed."""
        mask = pa.array([result is None for result in results], pa.bool_())
        if self.result == "sparse":
            lengths = [0 if result is None else len(result.indices) for result in results]
            parts = [result for result in results if result is not None]
            indices = _joined([np.asarray(part.indices, np.int32) for part in parts], np.int32)
            values = _joined([part.values for part in parts], np.float32)
            return [_lists(pa.array(each), lengths, mask) for each in (indices, values)]
        if self.result == "forecast":
            return [self._forecasts(results, mask)]
        if self.result == "vector":
            blank = np.zeros(self.width, np.float32)
            rows = [blank if result is None else result for result in results]
            vectors, scales = self._stored(_joined(rows, np.float32), mask)
            found = [vectors]
            return [*found, pa.array(scales, mask=_numpy(mask))] if scales is not None else found
        lengths = [0 if result is None else len(result) for result in results]
        rows = [result for result in results if result is not None]
        vectors, scales = self._stored(_joined(rows, np.float32), None)
        found = [_lists(vectors, lengths, mask)]
        return found if scales is None else [*found, _lists(pa.array(scales), lengths, mask)]

    def _stored(self, flat: Any, mask: pa.Array | None) -> tuple[pa.Array, Any]:
        """Vectors as an array of fixed-size lists, and the scale of each int8 vector."""
        vectors = flat.reshape(-1, self.width)
        scales = None
        if self.dtype == "float16":
            with np.errstate(under="ignore"):
                vectors = vectors.astype(np.float16)
        elif self.dtype != "float32":
            found: Any = quantization.convert(vectors, self.dtype)
            vectors = found.bits if self.dtype == "binary" else found.codes
            scales = found.scale.reshape(-1) if self.dtype == "int8" else None
        numbers = pa.array(np.ascontiguousarray(vectors).reshape(-1), NUMBERS[self.dtype])
        return pa.FixedSizeListArray.from_arrays(numbers, self._size, mask=mask), scales

    def _forecasts(self, results: Sequence[Any], mask: pa.Array) -> pa.Array:
        size = self.width * max(1, self.levels)
        blank = np.zeros(size, np.float32)
        rows = [blank if each is None else np.asarray(each, np.float32).ravel() for each in results]
        values = pa.array(_joined(rows, np.float32))
        if self.levels:
            values = pa.FixedSizeListArray.from_arrays(values, self.levels)
        return pa.FixedSizeListArray.from_arrays(values, self.width, mask=mask)


def plain_lists(kind: pa.DataType) -> pa.DataType:
    """A type of vectors with plain lists in place of fixed-size ones."""
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        return pa.list_(plain_lists(kind.value_type))
    return kind


def report(found: Sequence[Outcome]) -> list[pa.Array]:
    """The columns of REPORT."""
    return [pa.array([getattr(each, field.name) for each in found], field.type) for field in REPORT]


def _joined(parts: Sequence[Any], dtype: Any) -> Any:
    """All numbers of some arrays of any shapes, one after the other."""
    return np.concatenate(parts, axis=None) if parts else np.empty(0, dtype)


def _numpy(mask: pa.Array) -> Any:
    return mask.to_numpy(zero_copy_only=False)


def _lists(values: pa.Array, lengths: Sequence[int], mask: pa.Array) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise ConfigError(
            "the results of a block are more than a list of Arrow holds: use fewer rows"
        )
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=mask)

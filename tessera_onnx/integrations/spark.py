"""Spark: the columns of a model for a data frame, through `mapInArrow`."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from tessera_onnx.batch.encoder import Encoder
from tessera_onnx.errors import ConfigError, install_hint

try:
    from pyspark.sql import DataFrame
    from pyspark.sql.pandas.types import from_arrow_type, to_arrow_schema
    from pyspark.sql.types import StructField, StructType
except ImportError as error:
    raise ImportError(f"Spark needs pyspark: {install_hint('spark')}") from error

MOST_OPEN = 2  # models that a Python worker keeps: two of one stage may share a worker
_OPEN: dict[str, Encoder] = {}  # of this Python worker, which runs one task after another


def encode(
    df: DataFrame, model: str | os.PathLike[str] | None, column: str, **options: Any
) -> DataFrame:
    """The rows of a data frame with the columns of a model: vectors, tokens, truncated and error.

    A row that cannot be encoded has nulls and the reason in `error`. Vectors are arrays; bits are
    binary, eight dimensions in a byte. Their `metadata` holds dimension and dtype. The model is
    opened once here, for the types of the columns, and once in each Python worker, whose machine
    needs this package and the model too.

    Args:
        df: any data frame.
        model: as for `Encoder`.
        column: the column that is encoded: texts, images (paths or bytes) or lists of numbers.
        **options: those of `Encoder`. `threads` is `spark.task.cpus` unless it is given.

    Raises:
        ConfigError: an argument is wrong; the column is missing or of another type, or a column of
            the result is there already; float16, which Spark does not have. Opening raises what
            `Tessera` raises. Nothing of this waits for an action of Spark.
    """
    if options.get("output_dtype") == "float16":
        raise ConfigError("Spark has no float16: take float32, int8 or binary as output_dtype")
    threads = int(df.sparkSession.conf.get("spark.task.cpus", "1") or 1)
    encoder = Encoder(model, column, **{"threads": threads, **options})
    try:
        encoder.schema(to_arrow_schema(df.schema, timezone="UTC"), "the data frame")
        made = [_field(field) for field in encoder.fields]
    finally:
        encoder.close()
    return df.mapInArrow(functools.partial(_encoded, encoder), StructType([*df.schema, *made]))


def _encoded(encoder: Encoder, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Encode the batches of a task."""
    held = _held(encoder)
    names = {field.name for field in held.fields}
    for batch in held.map(batches):
        columns = [
            _converted(column) if field.name in names else column
            for field, column in zip(batch.schema, batch.columns, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _held(encoder: Encoder) -> Encoder:
    """The encoder with these arguments that this worker has opened, in this or an earlier task."""
    key = repr(encoder.__getstate__())
    while key not in _OPEN and len(_OPEN) >= MOST_OPEN:
        _OPEN.pop(next(iter(_OPEN))).close()
    return _OPEN.setdefault(key, encoder)


def _field(field: pa.Field) -> StructField:
    facts = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    return StructField(field.name, from_arrow_type(_type(field.type)), True, facts)  # noqa: FBT003


def _type(kind: pa.DataType) -> pa.DataType:
    """The type that Spark takes for a column: it has no fixed-size lists and no uint8."""
    if pa.types.is_fixed_size_list(kind) and pa.types.is_uint8(kind.value_type):
        return pa.binary()
    is_list = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind)
    return pa.list_(_type(kind.value_type)) if is_list else kind


def _converted(array: pa.Array) -> pa.Array:
    kind = array.type
    if pa.types.is_list(kind) and pa.types.is_fixed_size_list(kind.value_type):
        vectors = _converted(array.values)
        return pa.ListArray.from_arrays(array.offsets, vectors, mask=array.is_null())
    if not (pa.types.is_fixed_size_list(kind) and pa.types.is_uint8(kind.value_type)):
        return array.cast(_type(kind))
    buffers = [array.buffers()[0], array.values.buffers()[1]]
    binary = pa.Array.from_buffers(pa.binary(kind.list_size), len(array), buffers)
    return binary.cast(pa.binary())

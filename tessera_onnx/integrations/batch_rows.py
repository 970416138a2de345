"""Rows of the output of `tessera batch` as rows for a store: vectors, ids and values as in JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tessera_onnx.batch.columns import REPORT
from tessera_onnx.errors import ConfigError
from tessera_onnx.integrations.rows import Field, Rows
from tessera_onnx.results import SparseVector

COLUMNS = {"embedding": "embedding", "multi_vector": "multi_vector", "sparse": "sparse_indices"}
MADE = {*COLUMNS.values(), "sparse_values", "embedding_scale", "multi_vector_scale", "forecast"}
MADE |= {each.name for each in REPORT}


def read_rows(batch: pa.RecordBatch, fields: Sequence[Field], id_column: str, path: str) -> Rows:
    """The rows of a batch that have vectors. Raises ConfigError for a row without an id."""
    table = pa.Table.from_batches([batch])
    table = table.filter(pc.is_null(table["error"])).combine_chunks()
    ids = table[id_column]
    if ids.null_count:
        raise ConfigError(f"{path}: {ids.null_count} rows have no {id_column}: give each one")
    names = [name for name in table.column_names if name not in {id_column, *MADE}]
    beside = pa.table({name: json_values(table[name]) for name in names})
    vectors = {each.name: _vectors(table, each) for each in fields}
    payload = beside.to_pylist() if beside.num_columns else []
    return Rows([str(each) for each in ids.to_pylist()], vectors, payload, beside.schema)


def is_plain(kind: pa.DataType) -> bool:
    """Whether values of a type have a form in JSON."""
    if pa.types.is_nested(kind):
        return all(is_plain(kind.field(i).type) for i in range(kind.num_fields))
    return not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def json_values(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same values as JSON has them: numbers that are finite, and times as texts."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return json_values(column.cast(kind.value_type))
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_finite(column), column, None)
    is_known = pa.types.is_nested(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    return column if is_known else column.cast(pa.string())


def _vectors(table: pa.Table, field: Field) -> Any:
    """The vectors of a field, one a row."""
    column = table[COLUMNS[field.name]].combine_chunks()
    if field.name == "sparse":
        lengths = pc.list_value_length(column).to_numpy()
        values = table["sparse_values"].combine_chunks().flatten()
        pairs = zip(_split(column.flatten(), lengths), _split(values, lengths), strict=True)
        return [SparseVector(*pair) for pair in pairs]
    scales = f"{field.name}_scale"
    size = -(-field.dimension // 8) if field.dtype == "binary" else field.dimension
    flat = column.flatten() if field.name == "embedding" else column.flatten().flatten()
    found = flat.to_numpy(zero_copy_only=False).reshape(-1, size)
    if scales in table.column_names:
        factors = table[scales].combine_chunks()
        factors = factors if field.name == "embedding" else factors.flatten()
        found = found.astype(np.float32) * factors.to_numpy(zero_copy_only=False)[:, None]
    if field.name == "embedding":
        return found
    return list(_split(found, pc.list_value_length(column).to_numpy()))


def _split(values: Any, lengths: Any) -> Iterator[Any]:
    array = values if isinstance(values, np.ndarray) else values.to_numpy(zero_copy_only=False)
    return iter(np.split(array, np.cumsum(lengths)[:-1])) if len(lengths) else iter(())

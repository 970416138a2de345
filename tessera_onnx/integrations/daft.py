"""Daft: the columns of a model for a data frame."""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa

from tessera_onnx.batch.encoder import Encoder
from tessera_onnx.errors import install_hint

try:
    import daft
except ImportError as error:
    raise ImportError(f"Daft needs daft: {install_hint('daft')}") from error

BYTES_PER_ROW = 512  # of texts, from which the rows of a batch are estimated


def encode(
    df: daft.DataFrame,
    model: str | os.PathLike[str] | None,
    column: str,
    *,
    batch_size: int | None = None,
    cpus: int | None = None,
    gpus: float = 0,
    max_concurrency: int | None = None,
    use_process: bool | None = None,
    **options: Any,
) -> daft.DataFrame:
    """The rows of a data frame with the columns of a model: vectors, tokens, truncated and error.

    A row that cannot be encoded has nulls and the reason in `error`. The types are those of
    `batch/columns.py`. The model is opened once here, for these types, and once in each process
    that works for Daft.

    Args:
        df: any data frame.
        model: as for `Encoder`.
        column: the column that is encoded: texts, images (paths or bytes) or lists of numbers.
        batch_size: rows of a call, inside which texts are sorted by length; None takes what keeps
            the memory bounded.
        cpus: CPUs that each worker asks Daft for, and its threads unless `threads` is given.
        gpus: as for `daft.cls`.
        max_concurrency: the same: workers of the Ray runner.
        use_process: the same.
        **options: those of `Encoder`.

    Raises:
        ConfigError: an argument is wrong; the column is missing or of another type, or a column of
            the result is there already. Opening raises what `Tessera` raises. Nothing of this waits
            for `collect`.
    """
    encoder = Encoder(model, column, **{"threads": cpus, **options})
    try:
        encoder.schema(df.schema().to_pyarrow_schema(), "the data frame")
        made = daft.DataType.from_arrow_type(pa.struct(encoder.fields))
        size = batch_size or rows_of_a_batch(encoder)
    finally:
        encoder.close()

    @daft.cls(
        cpus=cpus,
        gpus=gpus,
        use_process=use_process,
        max_concurrency=max_concurrency,
        name_override="tessera",
    )
    class Worker:
        def __init__(self, encoder: Encoder) -> None:
            self._encoder = encoder

        @daft.method.batch(return_dtype=made, batch_size=size, unnest=True)
        def encode(self, cells: daft.Series) -> daft.Series:
            found = self._encoder(pa.table({self._encoder.column: cells.to_arrow()}))
            columns = found.drop_columns(self._encoder.column)
            return daft.Series.from_arrow(columns.to_struct_array().combine_chunks())

    return df.select(daft.col("*"), Worker(encoder).encode(daft.col(column)))


def rows_of_a_batch(encoder: Encoder) -> int:
    """Rows of a call of Daft, whose cells are not known yet."""
    rows, n_bytes = encoder.block()
    return min(rows, n_bytes // BYTES_PER_ROW)

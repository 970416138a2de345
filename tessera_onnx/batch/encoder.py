"""Encoder: tables of Arrow in, the same rows with columns of vectors out, for every engine."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

import pyarrow as pa

from tessera_onnx.base import Model
from tessera_onnx.batch import cells, columns, outcomes
from tessera_onnx.batch.columns import BatchDtype, Column
from tessera_onnx.batch.outcomes import Outcome
from tessera_onnx.checks import check_limit
from tessera_onnx.errors import ConfigError, EncodingError, shown
from tessera_onnx.kinds import KINDS as ROWS
from tessera_onnx.kinds import KindRow, find_model, result_of
from tessera_onnx.models.artifact import Artifact
from tessera_onnx.models.spec import Kind
from tessera_onnx.runtime import batching
from tessera_onnx.runtime.cpu import cpu_threads
from tessera_onnx.series.inputs import check_horizon, check_levels
from tessera_onnx.text.base import TextModel
from tessera_onnx.text.reading import RoleName
from tessera_onnx.text.tokenizer import OnLong

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)
NO_FAULTS: Mapping[int, str] = {}
# What the results of a block may take, and the bytes of text that have a token, at the least.
RESULT_BYTES = 16 << 20
BYTES_PER_TOKEN = 3


class Encoder:
    """Adds the columns of a model to tables: call it with a pyarrow Table or RecordBatch.

    The model is opened at the first call, in the process that makes it: a pickle holds the
    arguments alone. Rows are sorted by length inside a table, so give thousands of rows at once.

    A row that cannot be encoded has nulls and the reason in `error`: a null cell, bytes that are
    no UTF-8, a text on which the graph fails. `tokens` is what the model read of a row, `truncated`
    whether its input was longer. The columns of vectors are those of `batch/columns.py`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None,
        column: str,
        *,
        kinds: Sequence[Kind] = (),
        role: RoleName = "document",
        task: str | None = None,
        prompt: str | None = None,
        output_dtype: BatchDtype = "float32",
        on_long: OnLong = "truncate",
        horizon: int | None = None,
        levels: Sequence[float] | None = None,
        max_errors: int | None = None,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        """Keep the arguments; `fields` or the first call opens the model.

        Args:
            model: id or alias, a folder, or "owner/name" of the hub; None takes the first
                installed model.
            column: texts (strings), images (paths, bytes, or structs of both) or series (lists of
                numbers), as the model reads them.
            kinds: kinds of vectors, of one run of the graph; none takes the model's first kind.
            role: how texts are read. "query" lets a vision model read texts.
            task: as for `encode_document`.
            prompt: the same.
            output_dtype: type of dense vectors and of vectors per token.
            on_long: "error" makes a text that would be cut an error of its row.
            horizon: steps of a forecast; None takes the model's prediction length.
            levels: quantiles of a forecast; None takes the trained ones.
            max_errors: rows that may fail in this process before a call raises EncodingError; None
                means any number.
            threads: CPU threads; None takes TESSERA_THREADS, else the CPUs granted by affinity,
                cgroup and OMP_NUM_THREADS, which Ray and Spark set to the CPUs of a task.
            **options: those of the model's class, such as precision, dimension or cache_dir.

        Raises:
            TypeError, ConfigError: an argument is wrong. Opening raises what `Tessera` raises.
        """
        if not isinstance(column, str):
            raise TypeError(f"column must be str, got {type(column).__name__}")
        if output_dtype not in get_args(BatchDtype):
            names = ", ".join(get_args(BatchDtype))
            raise ConfigError(f"output_dtype must be one of {names}, got {shown(output_dtype)}")
        if on_long not in get_args(OnLong):
            raise ConfigError(f"on_long must be truncate, warn or error, got {shown(on_long)}")
        if max_errors is not None and max_errors != 0:
            check_limit(max_errors, "max_errors")
        if horizon is not None:
            check_limit(horizon, "horizon")
        wrong = [kind for kind in kinds if kind not in ROWS]
        if wrong or isinstance(kinds, str):
            raise ConfigError(f"kinds must be of {', '.join(ROWS)}, as a list")
        self.column, self.kinds = column, tuple(dict.fromkeys(kinds))
        self._model_id, self._options = model, dict(options)
        self._reading: dict[str, Any] = {"role": role, "task": task, "prompt": prompt}
        self._dtype: BatchDtype = output_dtype
        self._refuse_long = on_long == "error"
        self._forecast: dict[str, Any] = {"horizon": horizon, "levels": levels}
        self._max_errors, self._threads = max_errors, threads
        self._clear()

    def _clear(self) -> None:
        self._lock = threading.Lock()
        self._model: Model | None = None
        self._row: KindRow | None = None
        self._columns: list[Column] = []
        self._artifact: Artifact | None = None
        self.n_errors = 0  # rows that failed so far

    def __getstate__(self) -> dict[str, Any]:
        gone = ("_lock", "_model", "_row", "_columns", "_artifact", "n_errors")
        return {name: value for name, value in vars(self).items() if name not in gone}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._clear()

    def opened(self) -> tuple[Model, KindRow, Artifact]:
        """The model, opened now if need be, the row of its kind and its files."""
        with self._lock:
            if self._model is None:
                self._open()
            if self._model is None or self._row is None or self._artifact is None:
                raise EncodingError("the model was closed")
            return self._model, self._row, self._artifact

    def _open(self) -> None:
        kind = self.kinds[0] if self.kinds else None
        options = {name: value for name, value in self._options.items() if value is not None}
        options["threads"] = _granted(self._threads)
        name = None if self._model_id is None else os.fspath(self._model_id)
        row, artifact = find_model(name, kind=kind, **options)
        if row.reads == "pairs":
            raise ConfigError(
                f"model {artifact.spec.id!r} scores pairs of texts: it has no vectors"
            )
        known = inspect.signature(row.cls).parameters
        for option in options.keys() - known:
            raise ConfigError(f"{option} is not for {row.kind} models")
        if "on_long" in known:
            options["on_long"] = "truncate"  # what was cut is told in its column
        model = row.open(artifact, name, **options)
        try:
            self._columns = self._made_columns(model, row)
        except Exception:
            model.close()
            raise
        self._model, self._row, self._artifact = model, row, artifact

    def _made_columns(self, model: Any, row: KindRow) -> list[Column]:
        """The columns of each kind. Raises ConfigError for arguments that the model cannot take."""
        dtype = self._dtype
        is_text = isinstance(model, TextModel)
        if dtype != "float32" and row.result in {"sparse", "forecast"} and len(self.kinds) < 2:
            raise ConfigError(f"output_dtype is not for {row.kind} models: leave it out")
        if len(self.kinds) > 1 and not is_text:
            raise ConfigError(f"model {model.model()!r} gives one kind at a time")
        if not is_text:
            self._check_reading(row)
        if row.result == "forecast":
            steps = check_horizon(self._forecast["horizon"], model.prediction_length())
            wanted = self._forecast["levels"]
            if wanted is None:
                return [Column("forecast", steps, levels=len(model.quantiles()))]
            if model.spec.time_series.point is not None:
                raise ConfigError(
                    f"model {model.model()!r} gives one value a step: leave levels out"
                )
            return [Column("forecast", steps, levels=len(check_levels(wanted)))]
        if any(value is not None for value in self._forecast.values()):
            raise ConfigError(f"horizon and levels are not for {row.kind} models")
        if not is_text:
            is_one = result_of(model) == "vector"
            return [Column("vector" if is_one else "vectors", row.width(model), dtype)]
        model.prepare([], kinds=self.kinds, **self._reading)
        found = [_column(row, row.width(model), dtype)]
        for kind in self.kinds[1:]:
            other = ROWS[kind]
            found.append(_column(other, other.sizes(other.recipe(model.spec))[0], dtype))
        return found

    def _check_reading(self, row: KindRow) -> None:
        """Raises ConfigError for an argument about texts, of a model that reads something else."""
        wrong = [name for name in ("task", "prompt") if self._reading[name] is not None]
        if self._reading["role"] == "query" and row.reads != "images":
            wrong.append("role")
        if self._refuse_long:
            wrong.append("on_long")
        if wrong:
            raise ConfigError(f"{wrong[0]} is not for {row.kind} models: leave it out")

    def block(self) -> tuple[int, int]:
        """Rows, and bytes of the column, that a table should have so that memory stays bounded."""
        _, row, _ = self.opened()
        if self._reads(row) == "images":
            return 32, RESULT_BYTES
        widths = [each.width for each in self._columns if each.result == "vectors"]
        if not widths:
            return batching.WINDOW, batching.WINDOW_CHARACTERS
        most = RESULT_BYTES // (4 * max(widths)) * BYTES_PER_TOKEN
        return batching.WINDOW, min(most, batching.WINDOW_CHARACTERS)

    def purpose(self) -> dict[str, Any]:
        """The arguments that change results: the model's class, reading, types and options."""
        free = {"cache_dir", "offline", "path"}
        options = {k: v for k, v in self._options.items() if v is not None and k not in free}
        given = {**self._reading, **self._forecast, **options}
        found = {k: v for k, v in given.items() if v is not None}
        found |= {"column": self.column, "kinds": list(self.kinds), "output_dtype": self._dtype}
        found["on_long"] = "error" if self._refuse_long else "truncate"
        return found

    @property
    def fields(self) -> list[pa.Field]:
        """The fields that a call adds: vectors, then tokens, truncated and error."""
        self.opened()
        return [field for each in self._columns for field in each.fields()] + [*columns.REPORT]

    def schema(self, schema: pa.Schema, where: str = "the table") -> pa.Schema:
        """The schema of the result for tables of a schema. Raises ConfigError as a call does."""
        _, row, _ = self.opened()
        count = schema.get_all_field_indices(self.column)
        if len(count) != 1:
            what = "no column" if not count else "several columns"
            known = ", ".join(schema.names[:20]) or "none"
            raise ConfigError(f"{where} has {what} {self.column!r}; its columns are: {known}")
        reads = self._reads(row)
        kind = schema.field(count[0]).type
        cells.check_type(kind, reads, f"column {self.column!r} of {where}")
        fields = self.fields
        taken = [field.name for field in fields if field.name in schema.names]
        if taken:
            raise ConfigError(
                f"{where} has a column {taken[0]!r} already: rename it, or leave it out"
            )
        return pa.schema([*schema, *fields], schema.metadata)

    def __call__(self, rows: Rows, faults: Mapping[int, str] = NO_FAULTS) -> Rows:
        """The same rows in the same order, with the columns of `fields`.

        `faults` are the errors of rows that are known to hold nothing of the column's type. Raises
        ConfigError where the column is missing, has a type that the model does not read, or where a
        column of a result is there already; EncodingError for more than `max_errors` rows that
        fail, and where the model fails on every text.
        """
        if isinstance(rows, pa.RecordBatch):
            whole = self(pa.Table.from_batches([rows]), faults).combine_chunks()
            batches = whole.to_batches()
            return batches[0] if batches else pa.RecordBatch.from_pylist([], whole.schema)
        if not isinstance(rows, pa.Table):
            raise TypeError(
                f"rows must be a pyarrow Table or RecordBatch, got {type(rows).__name__}"
            )
        return self._encoded(rows, faults)

    def _encoded(self, rows: pa.Table, faults: Mapping[int, str]) -> pa.Table:
        schema = self.schema(rows.schema)
        found: list[Outcome] = self.outcomes(rows.column(self.column), faults)
        failed = sum(each.error is not None for each in found)
        self.n_errors += failed
        if self._max_errors is not None and self.n_errors > self._max_errors:
            first = next((each.error for each in found if each.error), "")
            raise EncodingError(
                f"{self.n_errors} rows failed, more than max_errors={self._max_errors}; one of the "
                f"last: {first}"
            )
        arrays: list[pa.Array] = []
        for i, column in enumerate(self._columns):
            arrays += column.arrays(self._results(found, i))
        added = [pa.chunked_array([array]) for array in (*arrays, *columns.report(found))]
        return pa.Table.from_arrays([*rows.columns, *added], schema=schema)

    def map(self, batches: Iterable[Rows]) -> Iterator[Rows]:
        """The rows of some tables or batches, encoded, in pieces that keep the memory bounded.

        A piece has rows of one table or batch, as many as `block` says for texts of like length.
        """
        for batch in batches:
            rows, most_bytes = self.block()
            self.schema(batch.schema)  # before the column is asked for
            size = max(1, batch.column(self.column).nbytes)
            rows = max(1, min(rows, len(batch) * most_bytes // size))
            for first in range(0, max(1, len(batch)), rows):
                yield self(batch.slice(first, rows))

    def outcomes(
        self, column: pa.ChunkedArray, faults: Mapping[int, str] = NO_FAULTS
    ) -> list[Outcome]:
        """What becomes of each cell of a column whose type is checked."""
        model, row, _ = self.opened()
        reads = self._reads(row)
        items, found = cells.read(column, reads, faults)
        if isinstance(model, TextModel):
            outcomes.of_texts(
                model,
                found,
                items,
                refuse_long=self._refuse_long,
                threads=_granted(self._threads),
                kinds=self.kinds,
                **self._reading,
            )
        elif reads == "series":
            given = {name: value for name, value in self._forecast.items() if value is not None}
            outcomes.of_series(model, found, items, **given)
        else:
            method = "encode_document" if reads == "images" else "encode_query"
            outcomes.of_each(functools.partial(getattr(model, method)), found, items)
        for i, made in enumerate(self._columns):
            for place in made.unsound(self._results(found, i)):
                found[place].fail(f"the model gave a number that is not finite in {made.dtype}")
        return found

    def _results(self, found: Sequence[Outcome], column: int) -> list[Any]:
        """The results of one kind, None for rows that failed."""
        if len(self._columns) == 1:
            return [each.result for each in found]
        return [None if each.result is None else each.result[column] for each in found]

    def _reads(self, row: KindRow) -> str:
        if row.reads == "images" and self._reading["role"] == "query":
            return "texts"
        return row.reads

    def close(self) -> None:
        """Close the model; a later call opens it again."""
        with self._lock, contextlib.suppress(AttributeError):
            if self._model is not None:
                self._model.close()
            self._model = None


def _column(row: KindRow, width: int, dtype: BatchDtype) -> Column:
    if row.result not in {"vector", "vectors", "sparse"}:
        raise ConfigError(f"{row.kind} is no kind of vectors")
    return Column(row.result, width, dtype if row.result != "sparse" else "float32")


def _granted(threads: int | None) -> int:
    """Threads that an engine grants: ONNX Runtime itself does not read OMP_NUM_THREADS."""
    count = cpu_threads(threads)
    granted = os.environ.get("OMP_NUM_THREADS", "")
    if threads is None and not os.environ.get("TESSERA_THREADS") and granted.isdecimal():
        return min(count, int(granted) or count)
    return count

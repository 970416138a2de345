"""Read Parquet, JSON lines, Arrow files and Lance as blocks of rows, in bounded memory."""

from __future__ import annotations

import abc
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import fs, ipc
from pyarrow import parquet as pq

from tessera_onnx.batch.places import Fragment
from tessera_onnx.errors import FileError
from tessera_onnx.files import reason

READ_ROWS = 256  # rows that are decoded at once, so that long cells do not fill the memory
BLOCK_BYTES = 32 << 20  # of all columns of a block
IO_BYTES = 64 << 20  # that Lance reads ahead
# Lists and objects within each other in a line of JSON. A column that is written has some 60 at the
# most; Arrow's code ends the process at some thousand, which Python's parser takes from 3.12 on.
DEEPEST = 500


@dataclass(frozen=True)
class Block:
    """Rows that are encoded together."""

    rows: pa.Table
    first: int  # number of the first row in the file
    groups: tuple[tuple[int, int], ...]  # (first row, number of the row group), ascending
    faults: dict[int, str]  # of rows of this block whose cell has no place in the column

    def group(self, row: int) -> int:
        """The row group, or record batch, of a row of the file."""
        return [group for first, group in self.groups if first <= row][-1]


class Reader(abc.ABC):
    """An open input file. All methods raise FileError, which names file, row group and row."""

    schema: pa.Schema
    n_rows: int | None = None  # None: not known before the end

    def __init__(self, fragment: Fragment, columns: Sequence[str] | None, column: str) -> None:
        """`columns` are those that are read, None for all; `column` is the one that is encoded."""
        self.fragment = fragment
        self.column = column
        self._columns = columns
        self._faults: dict[int, str] = {}  # by row of the file
        self._group = 0

    @abc.abstractmethod
    def _batches(self, size: int) -> Iterator[pa.RecordBatch]:
        """Batches of up to `size` rows; `_group` is the number of the row group that is read."""

    def blocks(self, most_rows: int, most_bytes: int) -> Iterator[Block]:
        """The rows in blocks, the same ones at each call.

        A block ends before `most_rows` rows are exceeded, and after `most_bytes` of the column that
        is encoded.
        """
        row = 0
        parts: list[pa.RecordBatch] = []
        groups: list[tuple[int, int]] = []
        first = n_bytes = total = 0
        with self._about(lambda: f"row group {self._group}, at or after row {row}"):
            for batch in self._batches(min(READ_ROWS, most_rows)):
                if parts and row - first + len(batch) > most_rows:
                    yield self._block(parts, first, groups)
                    parts, groups, first, n_bytes, total = [], [], row, 0, 0
                parts.append(batch)
                groups.append((row, self._group))
                row += len(batch)
                n_bytes += batch.column(self.column).nbytes
                total += batch.nbytes
                if n_bytes >= most_bytes or total >= BLOCK_BYTES:
                    yield self._block(parts, first, groups)
                    parts, groups, first, n_bytes, total = [], [], row, 0, 0
        if parts:
            yield self._block(parts, first, groups)

    def _block(
        self, parts: list[pa.RecordBatch], first: int, groups: list[tuple[int, int]]
    ) -> Block:
        table = pa.Table.from_batches(parts)
        if table.schema != self.schema:  # dictionaries
            table = table.cast(self.schema)
        end = first + len(table)
        faults = {row - first: fault for row, fault in self._faults.items() if row < end}
        self._faults = {row: fault for row, fault in self._faults.items() if row >= end}
        return Block(table, first, tuple(groups), faults)

    @contextmanager
    def _about(self, where: Any) -> Iterator[None]:
        try:
            yield
        except FileError:
            raise
        except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
            name = self.fragment.shown
            raise FileError(f"{name}: {where()}: {reason(error)}", path=name) from None

    def close(self) -> None:  # noqa: B027 (files that are read line by line are closed there)
        """Close the file."""


def opened(fragment: Fragment, columns: Sequence[str] | None, column: str) -> Reader:
    """The reader of a file. Raises FileError, also for a column that is not there."""
    readers: dict[str, type[Reader]] = {
        "parquet": Parquet, "jsonl": Lines, "arrow": Arrow, "lance": Lance,
    }  # fmt: skip
    return readers[fragment.format](fragment, columns, column)


def _plain(schema: pa.Schema) -> pa.Schema:
    """The schema without dictionaries, whose values differ from block to block."""
    fields = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in schema
    ]
    return pa.schema(fields, schema.metadata)


def _chosen(schema: pa.Schema, columns: Sequence[str] | None, shown: str) -> pa.Schema:
    if columns is None:
        return schema
    missing = [name for name in columns if name not in schema.names]
    if missing:
        known = ", ".join(schema.names[:20]) or "none"
        raise FileError(
            f"{shown} has no column {missing[0]!r}; its columns are: {known}", path=shown
        )
    return pa.schema([schema.field(name) for name in columns], schema.metadata)


class Parquet(Reader):
    """A Parquet file, row group after row group."""

    def __init__(self, fragment: Fragment, columns: Sequence[str] | None, column: str) -> None:
        super().__init__(fragment, columns, column)
        with self._about(lambda: "the footer cannot be read"):
            # Without pre_buffer and with a small buffer, a row group is not read whole.
            self._source = fragment.system.open_input_file(fragment.path)
            self._file = pq.ParquetFile(self._source, pre_buffer=False, buffer_size=1 << 20)
            self.n_rows = self._file.metadata.num_rows
            self.schema = _plain(_chosen(self._file.schema_arrow, columns, fragment.shown))

    def _batches(self, size: int) -> Iterator[pa.RecordBatch]:
        for group in range(self._file.num_row_groups):
            self._group = group
            yield from self._file.iter_batches(
                size, row_groups=[group], columns=self._columns, use_threads=False
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._source.close()


class Arrow(Reader):
    """An Arrow IPC file, or a stream of Arrow in a file."""

    def __init__(self, fragment: Fragment, columns: Sequence[str] | None, column: str) -> None:
        super().__init__(fragment, columns, column)
        with self._about(lambda: "the header cannot be read"):
            local = isinstance(fragment.system, fs.LocalFileSystem)
            self._source = (
                pa.memory_map(fragment.path)
                if local and fragment.size
                else fragment.system.open_input_file(fragment.path)
            )
            self._made: Any
            try:
                self._made = ipc.open_file(self._source)
                self._is_file = True
            except pa.ArrowInvalid:
                self._source.seek(0)
                self._made = ipc.open_stream(self._source)
                self._is_file = False
            self.schema = _plain(_chosen(self._made.schema, columns, fragment.shown))

    def _batches(self, size: int) -> Iterator[pa.RecordBatch]:
        made: Iterable[pa.RecordBatch] = self._made
        if self._is_file:
            made = (self._made.get_batch(i) for i in range(self._made.num_record_batches))
        source = iter(made)
        for group in itertools.count():
            self._group = group  # before it is read, which may fail
            whole = next(source, None)
            if whole is None:
                return
            batch = whole if self._columns is None else whole.select(list(self._columns))
            for start in range(0, len(batch), size):
                yield batch.slice(start, size)

    def close(self) -> None:
        """Close the file."""
        self._source.close()


class Lance(Reader):
    """A fragment of a dataset of Lance, in the version in which it was found."""

    def __init__(self, fragment: Fragment, columns: Sequence[str] | None, column: str) -> None:
        super().__init__(fragment, columns, column)
        import lance  # places.py has found the dataset with it

        with self._about(lambda: f"version {fragment.version} of the dataset cannot be read"):
            self._dataset = lance.dataset(fragment.path, version=fragment.version)
            self._part = self._dataset.get_fragment(fragment.number)
            self.n_rows = self._part.count_rows()
            self.schema = _plain(_chosen(self._dataset.schema, columns, fragment.shown))

    def _batches(self, size: int) -> Iterator[pa.RecordBatch]:
        # Blocks have to be the same at each call, so batches are cut at the same rows.
        yield from self._dataset.scanner(
            columns=self.schema.names, fragments=[self._part], batch_size=size, scan_in_order=True,
            strict_batch_size=True, batch_readahead=2, io_buffer_size=IO_BYTES,
        ).to_batches()  # fmt: skip


class Lines(Reader):
    """A file of JSON objects, one a line; blank lines are left out.

    The file is read twice: the first time says what type each column has, and whether all lines
    can be read. Where the column that is encoded holds texts, a cell that is none is null and a
    fault of its row.
    """

    def __init__(self, fragment: Fragment, columns: Sequence[str] | None, column: str) -> None:
        super().__init__(fragment, columns, column)
        found = pa.schema([])
        n_rows = 0
        mixed = 0  # the first line up to which the column has no type
        self._holds_text = False
        for number, rows in self._objects(READ_ROWS):
            n_rows += len(rows)
            names = dict.fromkeys(name for row in rows for name in row)
            self._holds_text |= any(isinstance(row.get(column), str) for row in rows)
            for name in names:
                values = [row.get(name) for row in rows]
                if name == column and self._holds_text:
                    values = [""]
                    place = found.get_field_index(name)  # with another type, before the first text
                    found = found if place < 0 else found.set(place, pa.field(name, pa.string()))
                try:
                    kind = _array(values).type
                    found = pa.unify_schemas(
                        [found, pa.schema([(name, kind)])], promote_options="permissive"
                    )
                except (pa.ArrowException, ValueError):
                    if name == column:
                        mixed = mixed or number
                        continue  # no text so far: a later line may hold one
                    raise self._several(name, number) from None
        if not n_rows:
            raise FileError(f"{fragment.shown} has no lines: leave it out", path=fragment.shown)
        if mixed and column not in found.names:
            raise self._several(column, mixed)
        self.n_rows = n_rows
        self.schema = _chosen(found, columns, fragment.shown)

    def _several(self, column: str, line: int) -> FileError:
        return FileError(
            f"{self.fragment.shown}: column {column!r} has values of several types, or a whole "
            f"number beyond 64 bits, up to line {line}",
            path=self.fragment.shown,
            line=line,
        )

    def _objects(self, size: int) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """The objects of some lines, with the number of the last of these, from 1."""
        rows: list[dict[str, Any]] = []
        number = 0
        with self._about(lambda: f"line {number + 1}"):
            source = self.fragment.system.open_input_stream(self.fragment.path)
            with io.BufferedReader(source, 1 << 20) as lines:
                for number, line in enumerate(lines):
                    if not line.strip():
                        continue
                    found = _parsed(line)
                    if not isinstance(found, dict):
                        raise ValueError("it is no JSON object")  # noqa: TRY004
                    rows.append(found)
                    if len(rows) == size:
                        yield number + 1, rows
                        rows = []
        if rows:
            yield number + 1, rows

    def _batches(self, size: int) -> Iterator[pa.RecordBatch]:
        first = 0
        for _, rows in self._objects(size):
            if self._holds_text:
                for i, row in enumerate(rows):
                    cell = row.get(self.column)
                    if cell is not None and not isinstance(cell, str):
                        self._faults[first + i] = f"the cell is {_noun(cell)} and no text"
                        row[self.column] = None
            arrays = [
                _array([row.get(field.name) for row in rows], field.type) for field in self.schema
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=self.schema)
            first += len(rows)


def _parsed(line: bytes) -> Any:
    """The value of a line of JSON. Raises ValueError, also for one that is nested too deep."""
    deep = f"lists and objects are nested more than {DEEPEST} deep"
    try:
        value = json.loads(line.decode("utf-8", "surrogateescape"))
    except RecursionError:
        raise ValueError(deep) from None
    if line.count(b"[") + line.count(b"{") > DEEPEST:
        level = [value]
        for _ in range(DEEPEST):
            nested = (each for each in level if isinstance(each, dict | list))
            level = [
                v for each in nested for v in (each.values() if isinstance(each, dict) else each)
            ]
        if any(isinstance(each, dict | list) for each in level):
            raise ValueError(deep)
    return value


def _array(values: list[Any], kind: pa.DataType | None = None) -> pa.Array:
    """Values as an array; bytes that are no UTF-8, and lone surrogates of JSON, stay such bytes."""
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        if not all(value is None or isinstance(value, str) for value in values):
            raise
        content = [None if value is None else _bytes(value) for value in values]
        return pa.array(content, pa.binary()).view(pa.string())
    except OverflowError as error:
        raise ValueError("a whole number is beyond 64 bits") from error


def _noun(cell: Any) -> str:
    """What JSON calls a value that is no text."""
    names: dict[type, str] = {bool: "true or false", list: "a list", dict: "an object"}
    return names.get(type(cell), "a number")


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")

"""Read the rows of Parquet, JSON lines and Arrow files as documents."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from tessera_onnx.batch import formats
from tessera_onnx.batch.places import Fragment
from tessera_onnx.collection.documents import Document, Reading, Value
from tessera_onnx.errors import EncodingError, FileError, TesseraError

LONGEST_FIELD = 1024  # characters of a value that is kept; a longer one is a text of its own


def read_rows(path: Path, reading: Reading) -> Iterator[Document | TesseraError]:
    """The rows of a file in order; an error in the place of a row that holds no text.

    Strings, numbers, booleans, dates and times in other columns become fields. Raises FileError for
    a file that cannot be read, or lacks a column.
    """
    name = str(path)
    try:
        facts = path.stat()
    except OSError as error:
        raise FileError(f"{name} cannot be read: {error.strerror}", path=name) from None
    if not facts.st_size:
        return
    fragment = Fragment(
        fs.LocalFileSystem(), path.as_posix(), name, path.name, facts.st_size, facts.st_mtime_ns
    )
    wanted = [*reading.text_fields, *([] if reading.id_field is None else [reading.id_field])]
    reader = formats.opened(fragment, None, wanted[0])
    try:
        missing = [each for each in wanted if each not in reader.schema.names]
        if missing:
            known = ", ".join(reader.schema.names[:20])
            raise FileError(f"{name} has no column {missing[0]!r}: it has {known}", path=name)
        for each in wanted:
            if reader.schema.names.count(each) > 1:
                raise FileError(f"{name} has several columns {each!r}: rename them", path=name)
        kept = [
            each.name
            for each in reader.schema
            if each.name in wanted or _is_kept(reader.schema, each)
        ]
        for block in reader.blocks(formats.READ_ROWS, formats.BLOCK_BYTES):
            columns = [block.rows.column(each) for each in kept]
            for i in range(len(block.rows)):
                row = block.first + i
                try:
                    cells = {n: _python(c[i]) for n, c in zip(kept, columns, strict=True)}
                    yield _document(name, row, cells, reading, block.faults.get(i))
                except (EncodingError, UnicodeDecodeError) as error:
                    shown = error if isinstance(error, EncodingError) else "it is not UTF-8"
                    yield EncodingError(f"{name}, row {row}: {shown}", path=name, index=row)
    finally:
        reader.close()


def _document(
    name: str, row: int, cells: Mapping[str, Any], reading: Reading, fault: str | None
) -> Document:
    """The document of a row. Raises EncodingError that says what is wrong with it."""
    if fault is not None:
        raise EncodingError(fault)
    texts = [cells[each] for each in reading.text_fields]
    for each, text in zip(reading.text_fields, texts, strict=True):
        if not isinstance(text, str):
            what = "null" if text is None else f"a {type(text).__name__} and no text"
            raise EncodingError(f"the cell in {each!r} is {what}")
    key: Any = row
    if reading.id_field is not None:
        key = cells[reading.id_field]
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise EncodingError(f"the cell in {reading.id_field!r} is no string or whole number")
    fields = {
        each: value
        for each, cell in cells.items()
        if each not in reading.text_fields and (value := _value(cell)) is not None
    }
    return Document(f"{name}#{key}", "\n".join(texts), name, fields)


def _is_kept(schema: pa.Schema, column: pa.Field) -> bool:
    """Whether a column becomes a field. Of several columns of a name, none does."""
    if schema.names.count(column.name) > 1:
        return False
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_temporal,
    )
    return any(test(column.type) for test in tests)


def _python(cell: pa.Scalar) -> Any:
    """The value of a cell; None for a date or time that Python does not have."""
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        raise
    except (ValueError, OverflowError, LookupError):  # a year past 9999, another time zone
        return None


def _value(cell: Any) -> Value | None:
    """A cell as the value of a field; None where it is not kept."""
    if isinstance(cell, dt.date | dt.time):  # a datetime is a date
        return cell.isoformat()
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else None
    if isinstance(cell, str):
        return cell if len(cell) <= LONGEST_FIELD else None
    return cell if isinstance(cell, bool | int) else None

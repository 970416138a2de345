"""Blocks of rows as Arrow: files from which a job goes on, and bytes for another process."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import ipc

from tessera_onnx.batch.places import Folder


def packed(rows: pa.Table) -> pa.Buffer:
    """Rows as bytes, for another process: a pickle of them would hold all of which they are cut."""
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, rows.schema) as writer:
        for batch in rows.to_batches() or [pa.RecordBatch.from_pylist([], rows.schema)]:
            writer.write_batch(batch)
    return sink.getvalue()


def unpacked(content: pa.Buffer) -> pa.Table:
    """The rows of `packed`."""
    return ipc.open_stream(content).read_all()


def write(folder: Folder, name: str, made: pa.Table) -> None:
    """Write a part."""
    with folder.writing(name) as stream, ipc.new_file(stream, made.schema) as writer:
        writer.write_table(made)


def read(folder: Folder, name: str) -> pa.Table:
    """Read a part."""
    with folder.open(name) as stream:
        return ipc.open_file(stream).read_all()

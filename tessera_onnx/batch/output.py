"""Write the results of one input file: each block as a part at once, and all of them as Parquet.

Parts are what a killed job goes on from. They are written on a thread of its own, while the next
block is encoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pyarrow as pa
from pyarrow import parquet as pq

from tessera_onnx.batch import parts
from tessera_onnx.batch.columns import plain_lists
from tessera_onnx.batch.places import Folder
from tessera_onnx.errors import FileError

ROW_GROUP_BYTES = 32 << 20  # of an output file


class Output:
    """The output of one input file; `opened` makes it."""

    def __init__(
        self, folder: Folder, shown: str, writer: pq.ParquetWriter, thread: ThreadPoolExecutor
    ) -> None:
        self._folder, self._shown, self._writer, self._thread = folder, shown, writer, thread
        self._last: Future[None] | None = None
        self._waiting: list[pa.Table] = []

    def add(self, made: pa.Table, first: int, part: str, *, is_known: bool) -> None:
        """Take the next block, once the one before it is written.

        `first` is its first row, `part` the path of its part below the folder, which is written
        unless it `is_known`. Raises FileError for the block before it.
        """
        self.wait()
        self._last = self._thread.submit(self._write, made, first, part, is_known)

    def wait(self) -> None:
        """Wait until all blocks so far are written. Raises FileError where one cannot be."""
        if self._last is not None:
            self._last.result()

    def _write(self, made: pa.Table, first: int, part: str, is_known: bool) -> None:  # noqa: FBT001
        try:
            if not is_known:
                parts.write(self._folder, part, made)
        except pa.ArrowInvalid as error:  # lists in lists, deeper than Arrow files take
            message = f"{self._shown}: rows from {first} on cannot be written: {error}"
            raise FileError(message, path=self._shown) from None
        self._waiting.append(made)
        if sum(each.nbytes for each in self._waiting) >= ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait as a row group."""
        if self._waiting:
            table = pa.concat_tables(self._waiting)
            self._waiting = []
            self._writer.write_table(table.cast(self._writer.schema))


@contextmanager
def opened(
    folder: Folder,
    path: str,
    shown: str,
    schema: pa.Schema,
    added: Sequence[str],
    *,
    fixed_lists: bool,
) -> Iterator[Output]:
    """The output at a path of a folder: it is there, whole, after the block.

    An exception in the block leaves nothing. `shown` is the name of the input in errors, `added`
    are the columns of results; `fixed_lists` is whether their lists have a fixed size.
    """
    if not fixed_lists:
        fields = [f.with_type(plain_lists(f.type)) if f.name in added else f for f in schema]
        schema = pa.schema(fields, schema.metadata)
    plain = [f.name for f in schema if not pa.types.is_nested(f.type)]
    with (
        folder.writing(path) as stream,
        # Least and largest numbers of vectors would take a tenth of the writing, for nobody.
        pq.ParquetWriter(
            stream, schema, compression="zstd", use_dictionary=plain, write_statistics=plain
        ) as writer,
        ThreadPoolExecutor(1, "tessera-batch") as thread,
    ):
        made = Output(folder, shown, writer, thread)
        yield made
        made.wait()
        made.flush()

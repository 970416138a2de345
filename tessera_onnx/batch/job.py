"""Encode files: blocks of rows become parts, parts become one output a file; go on after a kill."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import pyarrow as pa
from pyarrow import compute as pc
from pyarrow import parquet as pq

from tessera_onnx.batch import formats, parts
from tessera_onnx.batch import output as outputs
from tessera_onnx.batch.encoder import Encoder
from tessera_onnx.batch.formats import Block, Reader
from tessera_onnx.batch.ids import SeenIds
from tessera_onnx.batch.manifest import Counts, Manifest, alone
from tessera_onnx.batch.places import Folder, Fragment, found
from tessera_onnx.errors import ConfigError, FileError
from tessera_onnx.kinds import model_facts

MOST_TOLD = 20  # rows that failed, of a summary
PLACE_BITS = 40  # of the number of a row, where it stands below that of its file


@dataclass
class Progress:
    """How far a job is; `seconds` count from its start, in this process."""

    counts: Counts = field(default_factory=Counts)  # with those of earlier processes
    fresh: Counts = field(default_factory=Counts)  # of this process
    n_files: int = 0
    n_done: int = 0
    bytes_done: float = 0.0  # of input files
    n_bytes: int = 0
    seconds: float = 0.0

    def left(self) -> float | None:
        """Seconds that the rest will take, by its tokens; None while nothing is known.

        The tokens of the rest are those so far times the rest of the bytes.
        """
        if not (self.fresh.tokens and self.bytes_done and self.seconds):
            return None
        rest = self.counts.tokens * (self.n_bytes - self.bytes_done) / self.bytes_done
        return max(0.0, rest / (self.fresh.tokens / self.seconds))


@dataclass
class Summary:
    """What a job did."""

    output: str
    progress: Progress = field(default_factory=Progress)
    failed_files: list[str] = field(default_factory=list)  # messages
    failed_rows: list[dict[str, Any]] = field(default_factory=list)  # the first of them
    too_many_errors: bool = False
    ignored: int = 0  # files of folders that have no known format
    repeated_ids: int = 0  # rows, of the files read now, whose id an earlier row has
    repeats: list[dict[str, Any]] = field(default_factory=list)  # the first of them
    not_all_ids: bool = False  # there were more than `ids.MOST_IDS`


class Job:
    """Embed the rows of files into a folder of Parquet files."""

    def __init__(
        self,
        inputs: Sequence[str],
        output: str,
        encoder: Encoder,
        *,
        id_column: str | None = None,
        columns: Sequence[str] | None = None,
        block_rows: int | None = None,
        max_errors: int | None = None,
        fixed_lists: bool = True,
    ) -> None:
        """Find the files; nothing is written and no model opened.

        Args:
            inputs: files, folders and globs, as paths or URLs.
            output: a folder, made if need be: empty, or that of the same job.
            encoder: what adds the columns.
            id_column: a column whose values name the rows that failed in the summary. Rows with the
                id of an earlier row of the files that are read now are counted there, too.
            columns: those that are copied; None copies all.
            block_rows: the most rows of a block, which is what a kill may cost.
            max_errors: rows that may fail before the job ends.
            fixed_lists: False writes vectors as plain lists, so that pyarrow before 26 reads the
                null of a row that failed.

        Raises:
            FileError, ConfigError: as `places.found`.
        """
        self._encoder = encoder
        self._fragments, ignored = found(inputs, output)
        self._inputs = [each if "://" in each else os.path.abspath(each) for each in inputs]  # noqa: PTH100
        self._output = Folder(output)
        self._id = id_column
        self._seen = SeenIds()
        self._number = 0  # of the file that is read
        wanted = None if columns is None else [*columns, encoder.column]
        if wanted is not None and id_column is not None:
            wanted.insert(0, id_column)
        self._wanted = None if wanted is None else list(dict.fromkeys(wanted))
        self._block_rows, self._max_errors = block_rows, max_errors
        self._fixed_lists = fixed_lists
        total = sum(each.size for each in self._fragments)
        self.summary = Summary(output, Progress(n_files=len(self._fragments), n_bytes=total))
        self.summary.ignored = ignored

    def run(self, tell: Callable[[Progress], None] = lambda _: None) -> Summary:
        """Encode what is not done yet; `tell` is called after each block.

        A file that cannot be read is noted in the summary, and the others are encoded. Raises
        ConfigError where the output is that of another job, a file has changed since, or another
        process writes there now.
        """
        model, _, _ = self._encoder.opened()
        rows, n_bytes = self._encoder.block()
        rows = min(rows, self._block_rows or rows)
        facts = {**model_facts(model), **self._encoder.purpose()}
        facts |= {"columns": self._wanted, "block_rows": rows, "inputs": self._inputs}
        facts["fixed_lists"] = self._fixed_lists
        with alone(self._output):
            manifest = Manifest(self._output, facts)
            manifest.check_inputs(self._fragments)
            return self._run(manifest, rows, n_bytes, tell)

    def _run(
        self, manifest: Manifest, rows: int, n_bytes: int, tell: Callable[[Progress], None]
    ) -> Summary:
        summary, start = self.summary, monotonic()
        for number, fragment in enumerate(self._fragments):
            self._number = number
            before = summary.progress.bytes_done
            with self._noting_failure(fragment, manifest):
                for done in self._fragment(fragment, manifest, rows, n_bytes):
                    summary.progress.bytes_done = before + done * fragment.size
                    summary.progress.seconds = monotonic() - start
                    tell(summary.progress)
                    if self._is_over():
                        summary.too_many_errors = True
                        return summary
            summary.progress.bytes_done = before + fragment.size
        return summary

    @contextmanager
    def _noting_failure(self, fragment: Fragment, manifest: Manifest) -> Iterator[None]:
        """Note that a file cannot be read; an error about the output is raised."""
        try:
            yield
        except FileError as error:
            if error.path != fragment.shown:
                raise
            self.summary.failed_files.append(str(error))
            manifest.fail(fragment)

    def _is_over(self) -> bool:
        return (
            self._max_errors is not None and self.summary.progress.counts.errors > self._max_errors
        )

    def _fragment(
        self, fragment: Fragment, manifest: Manifest, rows: int, n_bytes: int
    ) -> Iterator[float]:
        """Encode a file; yields how much of it is done, from 0 to 1, after each block."""
        if self._was_done(fragment, manifest):
            yield 1.0
            return
        reader = formats.opened(fragment, self._wanted, self._encoder.column)
        try:
            schema = self._schema(reader)
            manifest.begin(fragment)
            counts = Counts()
            known = self._output.sizes(manifest.parts(fragment))
            added = [each.name for each in self._encoder.fields]
            names = fragment.output, fragment.shown
            fixed = self._fixed_lists
            with outputs.opened(self._output, *names, schema, added, fixed_lists=fixed) as target:
                for block in reader.blocks(rows, n_bytes):
                    name = manifest.part(fragment, block.first)
                    is_known = name.rpartition("/")[2] in known
                    if is_known:
                        made = parts.read(self._output, name)
                    else:
                        made = self._encoder(block.rows, block.faults)
                    target.add(made, block.first, name, is_known=is_known)
                    found = counts_of(made)
                    self._note(fragment, block, made)
                    self._compare_ids(fragment, block, made)
                    counts.add(found)
                    self._count(found, is_fresh=not is_known)
                    share = (block.first + found.rows) / reader.n_rows if reader.n_rows else 0.0
                    del made
                    yield share
                if reader.n_rows not in (None, counts.rows):
                    raise FileError(
                        f"{self._output.shown}: the parts of {fragment.output} hold {counts.rows} "
                        f"of {reader.n_rows} rows: remove the folder {manifest.parts(fragment)}"
                    )
        finally:
            reader.close()
        manifest.finish(fragment, counts, self._output.size(fragment.output) or 0)
        self.summary.progress.n_done += 1
        yield 1.0

    def _was_done(self, fragment: Fragment, manifest: Manifest) -> bool:
        """Whether an earlier process wrote the output of a file, which is then counted."""
        record = manifest.record(fragment)
        size = self._output.size(fragment.output)
        if "done" not in record or size is None:
            return False
        if size != record.get("bytes"):
            raise ConfigError(
                f"{self._output.shown}/{fragment.output} is not as this job wrote it: move it "
                "away, and it is made anew"
            )
        self._count(manifest.counts(fragment, record), is_fresh=False)
        self.summary.progress.n_done += 1
        return True

    def _schema(self, reader: Reader) -> pa.Schema:
        """The schema of the output. Raises FileError, which names the file."""
        shown = reader.fragment.shown
        try:
            schema = self._encoder.schema(reader.schema, shown)
            if self._id is not None and self._id not in schema.names:
                raise ConfigError(f"{shown} has no column {self._id!r}")  # noqa: TRY301
            pq.ParquetWriter(pa.BufferOutputStream(), schema).close()  # before hours of work
            parts.packed(schema.empty_table())  # lists in lists may be too deep for Arrow files
        except (ConfigError, pa.ArrowException) as error:
            text = str(error)
            where = "" if shown in text else f"{shown}: a column cannot be written: "
            raise FileError(f"{where}{text}", path=shown) from None
        return schema

    def _count(self, counts: Counts, *, is_fresh: bool) -> None:
        self.summary.progress.counts.add(counts)
        if is_fresh:
            self.summary.progress.fresh.add(counts)

    def _note(self, fragment: Fragment, block: Block, made: pa.Table) -> None:
        """Keep the first rows that failed."""
        errors = made.column("error")
        if errors.null_count == len(errors) or len(self.summary.failed_rows) >= MOST_TOLD:
            return
        for i in pc.indices_nonzero(pc.is_valid(errors)).to_pylist():
            if len(self.summary.failed_rows) >= MOST_TOLD:
                return
            row = block.first + i
            told = {"file": fragment.shown, "row_group": block.group(row), "row": row}
            if self._id is not None:
                told["id"] = _printable(made.column(self._id)[i])
            self.summary.failed_rows.append({**told, "error": errors[i].as_py()})

    def _compare_ids(self, fragment: Fragment, block: Block, made: pa.Table) -> None:
        """Count the rows whose id an earlier row has, and keep the first of them."""
        if self._id is None:
            return
        ids, summary = made.column(self._id), self.summary
        start = (self._number << PLACE_BITS) + block.first
        for row, place in self._seen.repeated(ids, start):
            summary.repeated_ids += 1
            if len(summary.repeats) < MOST_TOLD:
                number, earlier = divmod(place, 1 << PLACE_BITS)
                other = self._fragments[number].shown
                told = {
                    "file": fragment.shown,
                    "row": block.first + row,
                    "id": _printable(ids[row]),
                }
                summary.repeats.append({**told, "first_file": other, "first_row": earlier})
        summary.not_all_ids = self._seen.is_full


def counts_of(made: pa.Table) -> Counts:
    """The counts of encoded rows."""
    return Counts(
        rows=len(made),
        errors=len(made) - made.column("error").null_count,
        tokens=pc.sum(made.column("tokens")).as_py() or 0,
        truncated=pc.sum(made.column("truncated")).as_py() or 0,
    )


def _printable(cell: pa.Scalar) -> Any:
    value = cell.as_py()
    return value if isinstance(value, str | int | float | None) else str(value)

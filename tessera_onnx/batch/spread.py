"""A job whose blocks are encoded by workers in other processes, which an engine runs."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import Any

import pyarrow as pa

from tessera_onnx import __version__
from tessera_onnx.batch import formats, parts
from tessera_onnx.batch import output as outputs
from tessera_onnx.batch.columns import REPORT
from tessera_onnx.batch.encoder import Encoder
from tessera_onnx.batch.formats import Block
from tessera_onnx.batch.job import Job, Progress, Summary, counts_of
from tessera_onnx.batch.manifest import STATE, Counts, Manifest
from tessera_onnx.batch.places import Folder, Fragment
from tessera_onnx.errors import ConfigError, FileError, TesseraError
from tessera_onnx.kinds import model_facts


@dataclass(frozen=True, eq=False)
class Call:
    """A method of Worker with its arguments, and what takes its result in the job's process."""

    method: str
    arguments: tuple[Any, ...]
    then: Callable[[Any], None]


Done = Generator[tuple[Call, Any], None, None]
# Makes the calls of a job, each once, and yields them with their results in any order. A None among
# the calls means that none can be made before a result has been taken.
Engine = Callable[["Worker", Iterable[Call | None]], Done]


@dataclass(frozen=True)
class Worker:
    """What the workers of an engine do for a job. It pickles without its model."""

    encoder: Encoder
    output: Folder
    id_column: str | None
    fixed_lists: bool

    def facts(self) -> dict[str, Any]:
        """What has to be equal in all processes of a job; opens the model."""
        facts = model_facts(self.encoder.opened()[0])
        return {"version": __version__, **facts, "output": self.output.read(STATE)}

    def check(self, facts: Mapping[str, Any]) -> None:
        """Raises ConfigError where this process differs from the one that has these facts."""
        node = platform.node()
        try:
            here = self.facts()
        except TesseraError as error:
            raise ConfigError(f"the worker on {node} cannot start: {error}") from None
        if here["output"] != facts["output"]:
            raise ConfigError(
                f"the worker on {node} does not see {self.output.shown}: choose a folder or bucket "
                "that all nodes share"
            )
        for name, fact in facts.items():
            if here.get(name) != fact:
                raise ConfigError(
                    f"the worker on {node} has another {name} than the process of the job: install "
                    "the same packages and models on all nodes"
                )

    def encode(self, name: str, rows: pa.Buffer, faults: Mapping[int, str]) -> pa.Table:
        """Encode a block and write the part; its rows without the vectors."""
        made = self.encoder(parts.unpacked(rows), faults)
        parts.write(self.output, name, made)
        return self._report(made)

    def known(self, name: str) -> pa.Table:
        """The rows of a part that is there already, without the vectors."""
        return self._report(parts.read(self.output, name))

    def assemble(self, path: str, schema: pa.Schema, names: Sequence[str]) -> int:
        """Write an output from its parts; its size in bytes."""
        added = [each.name for each in self.encoder.fields]
        fixed = self.fixed_lists
        with outputs.opened(self.output, path, path, schema, added, fixed_lists=fixed) as target:
            for name in names:
                target.add(parts.read(self.output, name), 0, name, is_known=True)
        return self.output.size(path) or 0

    def _report(self, made: pa.Table) -> pa.Table:
        names = [each.name for each in REPORT]
        return made.select(names if self.id_column is None else [self.id_column, *names])


@dataclass
class _File:
    """A file whose parts are on their way."""

    fragment: Fragment
    number: int  # among the files of the job
    left: float  # bytes of it that are not counted as done
    n_rows: int | None = None
    schema: pa.Schema | None = None
    parts: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    n_waiting: int = 0  # parts of which no result is taken
    is_read: bool = False


class SpreadJob(Job):
    """A Job whose parts and outputs are made by the workers of an engine.

    This process reads the inputs and keeps the manifest. Results are taken in the order of the
    rows, so the summary is that of a Job.
    """

    def __init__(self, inputs: Sequence[str], output: str, encoder: Encoder, *, engine: Engine,
                 **options: Any) -> None:  # fmt: skip
        """As a Job, with an engine such as `tessera_onnx.integrations.ray.Ray`."""
        super().__init__(inputs, output, encoder, **options)
        self._engine = engine
        self._ready: deque[Call] = deque()  # outputs whose parts are there
        self._n_open = 0  # files that are read and have no output yet
        self._n_blocks = self._n_taken = 0
        self._early: dict[int, Callable[[], None]] = {}  # by number of the block

    def _run(
        self, manifest: Manifest, rows: int, n_bytes: int, tell: Callable[[Progress], None]
    ) -> Summary:
        summary, start = self.summary, monotonic()
        worker = Worker(self._encoder, self._output, self._id, self._fixed_lists)
        with closing(self._engine(worker, self._calls(manifest, rows, n_bytes))) as made:
            for call, result in made:
                call.then(result)
                summary.progress.seconds = monotonic() - start
                tell(summary.progress)
        summary.too_many_errors = self._is_over()
        return summary

    def _calls(self, manifest: Manifest, rows: int, n_bytes: int) -> Iterator[Call | None]:
        """The parts of file after file, and an output once all of its parts are there."""
        for number, fragment in enumerate(self._fragments):
            file = _File(fragment, number, fragment.size)
            with self._noting_failure(fragment, manifest):
                for call in self._parts(file, manifest, rows, n_bytes):
                    yield call
                    while self._ready:
                        yield self._ready.popleft()
                    if self._is_over():
                        return
            if not file.is_read:  # done before, or not to be read
                self._advance(file, file.left)
        while self._n_open and not self._is_over():
            yield self._ready.popleft() if self._ready else None

    def _parts(
        self, file: _File, manifest: Manifest, rows: int, n_bytes: int
    ) -> Iterator[Call]:  # fmt: skip
        fragment = file.fragment
        if self._was_done(fragment, manifest):
            return
        reader = formats.opened(fragment, self._wanted, self._encoder.column)
        try:
            file.schema, file.n_rows = self._schema(reader), reader.n_rows
            manifest.begin(fragment)
            known = self._output.sizes(manifest.parts(fragment))
            for block in reader.blocks(rows, n_bytes):
                name = manifest.part(fragment, block.first)
                is_fresh = name.rpartition("/")[2] not in known
                file.parts.append(name)
                file.n_waiting += 1
                rest = (parts.packed(block.rows), block.faults) if is_fresh else ()
                empty = replace(block, rows=block.rows.schema.empty_table())  # to wait in less room
                take = partial(self._take, file, manifest, empty, is_fresh)
                then = partial(self._arrive, self._n_blocks, take)
                self._n_blocks += 1
                yield Call("encode" if is_fresh else "known", (name, *rest), then)
        finally:
            reader.close()
        file.is_read = True
        self._n_open += 1
        self._assemble_if_whole(file, manifest)

    def _arrive(self, number: int, take: Callable[[pa.Table], None], made: pa.Table) -> None:
        """Take the results of blocks in the order of their numbers."""
        self._early[number] = partial(take, made)
        while self._n_taken in self._early and not self._is_over():
            self._early.pop(self._n_taken)()
            self._n_taken += 1

    def _take(
        self, file: _File, manifest: Manifest, block: Block, is_fresh: bool, made: pa.Table  # noqa: FBT001
    ) -> None:  # fmt: skip
        found = counts_of(made)
        self._note(file.fragment, block, made)
        self._number = file.number
        self._compare_ids(file.fragment, block, made)
        file.counts.add(found)
        self._count(found, is_fresh=is_fresh)
        if file.n_rows:
            self._advance(file, found.rows / file.n_rows * file.fragment.size)
        file.n_waiting -= 1
        self._assemble_if_whole(file, manifest)

    def _assemble_if_whole(self, file: _File, manifest: Manifest) -> None:
        if not file.is_read or file.n_waiting:
            return
        name, n_rows = file.fragment.output, file.n_rows
        if n_rows not in (None, file.counts.rows):
            raise FileError(
                f"{self._output.shown}: the parts of {name} hold {file.counts.rows} of "
                f"{n_rows} rows: remove the folder {manifest.parts(file.fragment)}"
            )
        then = partial(self._finish, file, manifest)
        self._ready.append(Call("assemble", (name, file.schema, file.parts), then))

    def _finish(self, file: _File, manifest: Manifest, size: int) -> None:
        with self._noting_failure(file.fragment, manifest):
            manifest.finish(file.fragment, file.counts, size)
            self.summary.progress.n_done += 1
        self._advance(file, file.left)
        self._n_open -= 1

    def _advance(self, file: _File, n_bytes: float) -> None:
        n_bytes = min(n_bytes, file.left)
        file.left -= n_bytes
        self.summary.progress.bytes_done += n_bytes

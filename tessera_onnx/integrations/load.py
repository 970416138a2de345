"""Load the output of `tessera batch` into a store: by row group, in bounded memory, after a kill.

What is loaded is noted in `_tessera/loads/` beside the output, after each row group. Rows are
written by id, so those of a row group that a kill interrupts are written again, in their own place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tessera_onnx.batch.manifest import HOME
from tessera_onnx.batch.places import Folder
from tessera_onnx.errors import ConfigError, FileError
from tessera_onnx.integrations.batch_rows import COLUMNS, MADE, is_plain, read_rows
from tessera_onnx.integrations.rows import Field
from tessera_onnx.integrations.stores import Store


@dataclass
class Loaded:
    """What a load did."""

    rows: int = 0  # written by this process
    before: int = 0  # read by earlier ones, with those that have no vectors
    failed: int = 0  # without vectors: their error is in the output
    unfinished: int = 0  # files that the batch job has begun and not finished


class Output:
    """The folder that `tessera batch` wrote."""

    def __init__(self, place: str) -> None:
        """Read the manifest. Raises FileError, ConfigError for a folder without vectors."""
        self._folder = Folder(place)
        self._job: dict[str, Any] = self._record("manifest.json").get("job", {})
        if not self._job:
            raise FileError(f"{place} is no output of `tessera batch`", path=place)
        notes = sorted(self._folder.below(f"{HOME}/fragments"))
        known = [name.removesuffix(".json") for name in notes]
        done = (self._record(f"fragments/{name}.json").get("done") for name in known)
        self.files = [name for name, each in zip(known, done, strict=True) if each is not None]
        self.unfinished = len(known) - len(self.files)
        if not self.files:
            raise ConfigError(f"{place}: no file is done yet: let `tessera batch` go on")
        with self._opened(self.files[0]) as file:
            self.fields = self._fields(file.schema_arrow)
        if not self.fields:
            raise ConfigError(f"{place} has no columns of vectors")

    def load(
        self,
        store: Store,
        id_column: str = "id",
        keep: Sequence[str] | None = None,
        tell: Callable[[Loaded], None] = lambda _: None,
    ) -> Loaded:
        """Write all rows that have vectors to a store of `fields`; `tell` is called as it goes on.

        `id_column` holds the ids, all different; `keep` names the columns that are written beside
        the vectors, by default all but those of bytes. Raises ConfigError for a column or an id
        that is missing, and what `Store.prepare` and `Store.write` raise.
        """
        name = hashlib.sha256(
            f"{store.label} {store.place} {store.collection}".encode()
        ).hexdigest()[:16]
        note = f"loads/{name}.json"
        is_new = store.prepare()
        done: dict[str, list[int]] = {} if is_new else self._record(note)
        summary = Loaded(unfinished=self.unfinished)
        for path in self.files:
            with self._opened(path) as file:
                mark = [self._folder.size(path) or 0, 0]
                if done.get(path, mark)[0] == mark[0]:
                    mark = done.get(path, mark)
                columns = self._columns(file.schema_arrow, path, id_column, keep)
                for group in range(file.num_row_groups):
                    if group < mark[1]:
                        summary.before += file.metadata.row_group(group).num_rows
                        continue
                    for batch in file.iter_batches(store.most_rows, [group], columns):
                        rows = read_rows(batch, self.fields, id_column, path)
                        store.write(rows)
                        summary.rows += len(rows.ids)
                        summary.failed += len(batch) - len(rows.ids)
                        tell(summary)
                    mark = done[path] = [mark[0], group + 1]
                    self._folder.write(f"{HOME}/{note}", json.dumps(done).encode())
        store.finish()
        return summary

    def _record(self, name: str) -> dict[str, Any]:
        """What a file of the job's state says; {} where it is absent."""
        try:
            found: dict[str, Any] = json.loads(self._folder.read(f"{HOME}/{name}") or b"{}")
        except ValueError:
            raise FileError(f"{self._folder.shown}/{HOME}/{name} is damaged") from None
        return found

    def _opened(self, path: str) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self._folder.open(path))
        except pa.ArrowException:
            raise FileError(f"{self._folder.shown}/{path} is damaged") from None

    def _fields(self, schema: pa.Schema) -> list[Field]:
        facts: dict[str, Any] = {name: self._job.get(name) for name in ("model", "precision")}
        facts |= {"sha256": self._job["model sha256"], "idf": self._job["idf"]}
        facts["similarity"] = self._job["similarity"]
        found = []
        for name, column in COLUMNS.items():
            if column in schema.names:
                said = schema.field(column).metadata
                dtype = said.get(b"dtype", b"float32").decode()
                dtype = "float32" if dtype == "int8" else dtype  # codes are multiplied out
                found.append(Field(name, int(said[b"dimension"]), dtype=dtype, **facts))
        return found

    def _columns(
        self, schema: pa.Schema, path: str, id_column: str, keep: Sequence[str] | None
    ) -> list[str]:
        """The columns to read."""
        for name in (id_column, *(keep or ())):
            if name not in schema.names:
                raise ConfigError(f"{path} has no column {name!r}: {', '.join(schema.names[:20])}")
        beside = [each.name for each in schema if keep is None and is_plain(each.type)]
        wanted = {id_column, *(keep or beside), *MADE - {"tokens", "truncated", "forecast"}}
        return [name for name in schema.names if name in wanted]

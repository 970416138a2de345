"""The store of a collection: one table of LanceDB with a row a chunk; a commit is whole or absent.

Each commit makes a version of the table. A reader holds a version and sees all of it and no more,
while a writer commits the next ones.
"""

from __future__ import annotations

import datetime as dt
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tessera_onnx.collection import arrow
from tessera_onnx.collection.documents import Document
from tessera_onnx.collection.place import Row, Stored, Tags
from tessera_onnx.errors import FileError, LoadError, TesseraError
from tessera_onnx.models.spec import Kind
from tessera_onnx.results import Ranked, SparseVector, ranking
from tessera_onnx.search.sparse_index import PackedSparse
from tessera_onnx.vectors import scoring

TABLE = "chunks"
FIELDS = [
    pa.field("source", pa.string()),
    pa.field("file", pa.string()),
    pa.field("sha256", pa.string()),  # of the document
    pa.field("number", pa.int32()),  # of the chunk in the document, from 0
    pa.field("last", pa.bool_()),  # whether it is the document's last one
    pa.field("start", pa.int64()),  # characters of the document
    pa.field("stop", pa.int64()),
    pa.field("text", pa.string()),
    pa.field("fields", pa.string()),  # JSON
    pa.field("tags", pa.list_(pa.string())),  # "key=value" of each field
]
METRICS = {"cosine": "cosine", "dot": "dot", "euclidean": "l2"}  # LanceDB's names
SLACK = 16  # more rows than wanted, as LanceDB's scores are rounded in another way
MOST_NAMED = 500  # sources in one condition
MOST_FRAGMENTS = 64  # parts of the table, of which each commit makes one
# Versions that a reader may still hold; it takes the newest at each search.
KEPT = dt.timedelta(minutes=10)
IN_RUST = re.compile(r", (?:/|[A-Z]:)[^\s,]*\.rs:\d+:\d+")  # where in its own code the store failed


class LanceTable:
    """The table of a collection, for one writer and many readers."""

    def __init__(
        self,
        folder: Path,
        vectors: Sequence[pa.Field],
        *,
        similarity: str,
        idf: bool,
        create: bool,
    ) -> None:
        """Open the table, or with `create` make it; `vectors` are the columns not in FIELDS.

        `similarity` is that of dense vectors. `idf` is whether sparse queries are weighed by
        inverse document frequency. Raises FileError where the folder cannot be read or written, or
        holds no table.
        """
        self._folder, self._similarity, self._idf = folder, similarity, idf
        self.schema = pa.schema([*FIELDS, *vectors])
        with _guarded(folder):
            self._database: Any = lancedb.connect(folder)
            try:
                self._table: Any = self._database.open_table(TABLE)
            except (ValueError, FileNotFoundError):  # there is none
                if not create:
                    raise FileError(
                        f"{folder} has no store of chunks: index its files again", path=str(folder)
                    ) from None
                self._table = self._database.create_table(TABLE, schema=self.schema, exist_ok=True)
        self._lock = threading.Lock()
        self._snapshot: Version | None = None

    def snapshot(self) -> Version:
        """The newest version of the table."""
        with self._lock, _guarded(self._folder):
            self._table.checkout_latest()
            version = self._table.version
            if self._snapshot is None or self._snapshot.version != version:
                table = self._database.open_table(TABLE)
                table.checkout(version)
                self._snapshot = Version(
                    self._folder, table, version, similarity=self._similarity, idf=self._idf
                )
            return self._snapshot

    def state(self) -> tuple[dict[str, dict[str, Stored]], dict[str, str]]:
        """What is stored of each source, by its sha256; and the file of each source."""
        found: dict[str, dict[str, Stored]] = {}
        files: dict[str, str] = {}
        keys = ["source", "file", "sha256"]
        with _guarded(self._folder):
            self._table.checkout_latest()
            rows: pa.Table = self._table.search().select([*keys, "last"]).to_arrow()
        counts = rows.group_by(keys).aggregate([("last", "count"), ("last", "max")])
        for row in counts.to_pylist():
            stored = Stored(row["last_count"], row["last_max"])
            found.setdefault(row["source"], {})[row["sha256"]] = stored
            files[row["source"]] = row["file"]
        return found, files

    def check(self, document: Document) -> None:
        """Keep any document."""

    def write(
        self, rows: Sequence[Row], vectors: Mapping[Kind, Any], replaced: Mapping[str, str]
    ) -> None:
        """Add chunks in one commit, which removes older versions of documents as well.

        `replaced` has the sha256 of each source of which other versions are stored.
        """
        arrays = [pa.array([row[each.name] for row in rows], each.type) for each in FIELDS]
        table = pa.table([*arrays, *arrow.columns(vectors)], schema=self.schema)
        with _guarded(self._folder):
            if not replaced:
                self._table.add(table)
                return
            old = " OR ".join(
                f"(source = {quoted(source)} AND sha256 <> {quoted(sha256)})"
                for source, sha256 in replaced.items()
            )
            merge = self._table.merge_insert(["source", "sha256", "number"])
            merge.when_not_matched_insert_all().when_not_matched_by_source_delete(old).execute(
                table
            )

    def remove(self, sources: Iterable[str], but: Mapping[str, str] | None = None) -> None:
        """Remove documents; of those in `but` the versions of another sha256 only."""
        with _guarded(self._folder):
            names = list(sources)
            for first in range(0, len(names), MOST_NAMED):
                part = names[first : first + MOST_NAMED]
                self._table.delete(f"source IN ({', '.join(map(quoted, part))})")
            for source, sha256 in (but or {}).items():
                self._table.delete(f"source = {quoted(source)} AND sha256 <> {quoted(sha256)}")

    def tidy(self) -> None:
        """Join small parts of the table, and save the sparse index of the newest version."""
        with _guarded(self._folder):
            if self._table.stats()["fragment_stats"]["num_fragments"] > MOST_FRAGMENTS:
                self._table.optimize(cleanup_older_than=KEPT)
        self.snapshot().save_sparse()


class Version:
    """One version of the table. Rows are named by numbers that this version gives them."""

    def __init__(
        self, folder: Path, table: Any, version: int, *, similarity: str, idf: bool
    ) -> None:
        self._folder, self._table, self.version = folder, table, version
        self._similarity, self._idf = similarity, idf
        self._sparse: PackedSparse | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._table.count_rows())

    def nearest(self, vector: NDArray[np.float32], limit: int, tags: Tags) -> list[Ranked]:
        """The rows nearest to a dense vector among all of them."""
        query = self._table.search(vector, vector_column_name="dense")
        query = query.distance_type(METRICS[self._similarity]).bypass_vector_index()
        query = query.select(["dense", "_distance"])
        if tags:
            query = query.where(condition(tags), prefilter=True)
        most = limit + SLACK
        while True:
            found = self._with_numbers(query.limit(most))
            vectors = found["dense"].combine_chunks()
            rows = vectors.flatten().to_numpy().reshape(-1, vectors.type.list_size)
            numbers = found["_rowid"].to_pylist()
            # A product rounds equal rows in other ways by their place; equal texts score the same.
            different, place = np.unique(rows, axis=0, return_inverse=True)
            scores = scoring.dense_scores(vector, different, self._similarity)[place.reshape(-1)]
            order = np.argsort(numbers)  # so that equal scores have the order of the rows
            best = ranking(scores[order], None)
            if len(best) < most or best[-1].score < best[limit - 1].score:
                return [Ranked(numbers[order[row.index]], row.score) for row in best[:limit]]
            most *= 4  # more rows have the score of the last one than were asked for

    def matching(self, query: SparseVector, limit: int, tags: Tags) -> list[Ranked]:
        """Rows by the dot product of their sparse vectors with a query, without those of 0."""
        index = self.sparse()
        subset = None
        if tags:
            rows = self._with_numbers(
                self._table.search().where(condition(tags)).select(["number"])
            )
            subset = [str(row) for row in rows["_rowid"].to_pylist()]
        ranked = index.rank(query, limit, subset=subset)
        return [Ranked(int(row.id or 0), row.score) for row in ranked if row.score != 0]

    def sparse(self) -> PackedSparse:
        """The inverted index of this version: saved by its writer, else made from the rows."""
        with self._lock:
            if self._sparse is None:
                self._sparse = self._saved() or self._made()
            return self._sparse

    def _saved(self) -> PackedSparse | None:
        """The saved index; None where there is none, or a damaged one, or that of other rows."""
        with suppress(FileError, LoadError):
            found = PackedSparse.load(self._place())
            if len(found) == len(self) and found.idf == self._idf:
                return found
        return None

    def _made(self) -> PackedSparse:
        columns = ["sparse_indices", "sparse_values"]
        rows = self._with_numbers(self._table.search().select(columns))
        numbers = rows["_rowid"].to_pylist()
        indices, values = (rows[name].combine_chunks() for name in columns)
        ends = indices.offsets.to_numpy()
        flat = indices.values.to_numpy(), values.values.to_numpy()
        vectors = (
            SparseVector(flat[0][start:stop], flat[1][start:stop]) for start, stop in pairwise(ends)
        )
        return PackedSparse(vectors, ids=map(str, numbers), idf=self._idf)

    def save_sparse(self) -> None:
        """Save the inverted index beside the table, and remove those of older versions."""
        place = self._place()
        if "sparse_indices" in self._table.schema.names and len(self) and self._saved() is None:
            self.sparse().save(place)
        for other in self._folder.glob("sparse-*.index"):
            if other != place:
                with suppress(OSError):  # a reader holds it open, on Windows
                    other.unlink()

    def _place(self) -> Path:
        return self._folder / f"sparse-{self.version}.index"

    def _with_numbers(self, query: Any) -> pa.Table:
        """The result of a query, with the number of each row in _rowid."""
        with _guarded(self._folder):
            found: pa.Table = query.with_row_id(True).to_arrow()  # noqa: FBT003
        return found

    def rows(self, numbers: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Some columns of rows, in the order of the numbers."""
        return self._taken(numbers, columns).to_pylist() if numbers else []

    def maxsim(self, query: NDArray[np.float32], numbers: Sequence[int]) -> NDArray[np.float32]:
        """MaxSim of token vectors (n, dim) with rows: (len(numbers),)."""
        found = self._taken(numbers, ["multi_vector"])["multi_vector"].combine_chunks()
        width = found.type.value_type.list_size
        flat = found.values.values.to_numpy().reshape(-1, width)
        tokens = [
            flat[start:stop].astype(np.float32)
            for start, stop in pairwise(found.offsets.to_numpy())
        ]
        return scoring.maxsim_scores(query, tokens)

    def _taken(self, numbers: Sequence[int], columns: Sequence[str]) -> pa.Table:
        with _guarded(self._folder):
            query = self._table.take_row_ids(list(numbers)).select(list(columns))
            found: pa.Table = query.with_row_id().to_arrow()
        place = {number: i for i, number in enumerate(found["_rowid"].to_pylist())}
        return found.select(list(columns)).take([place[number] for number in numbers])


def condition(tags: Tags) -> str:
    """The condition of rows that have one tag of each group."""
    groups = (", ".join(map(quoted, group)) for group in tags)
    return " AND ".join(f"array_has_any(tags, [{group}])" for group in groups)


def quoted(text: str) -> str:
    """A string of SQL."""
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """Raises FileError in the place of errors of the store."""
    try:
        yield
    except TesseraError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        said = IN_RUST.sub("", str(error).removeprefix("lance error: "))
        raise FileError(f"the store in {folder} fails: {said}", path=str(folder)) from error

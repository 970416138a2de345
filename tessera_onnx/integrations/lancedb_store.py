"""A LanceDB table with the vectors of models of any dense kind, and typed columns beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tessera_onnx.errors import StoreError, install_hint
from tessera_onnx.integrations.rows import Hit, Rows
from tessera_onnx.integrations.stores import CANDIDATES, FACTS, Store, asking

try:
    import lancedb
    import pyarrow as pa
except ImportError as error:
    raise ImportError(f"{error.name} is not installed: {install_hint('lancedb')}") from None

NUMBERS = {"float32": pa.float32(), "float16": pa.float16()}
METRICS = {"cosine": "cosine", "dot": "dot", "euclidean": "l2"}


class LanceStore(Store):
    """A table: `id`, a column a field, and a column for each key of the payload."""

    label = "LanceDB"
    holds: ClassVar = {"embedding": NUMBERS, "multi_vector": NUMBERS}
    errors = (ValueError, RuntimeError, pa.ArrowException)
    most_numbers = 1 << 23
    most_rows = 8192

    _table: Any = None

    @staticmethod
    def _open(url: str) -> Any:
        return lancedb.connect(url)

    def _stored(self) -> tuple[bool, str | None]:
        if self.collection not in self._client.list_tables().tables:
            return False, None
        self._table = self._client.open_table(self.collection)
        found = (self._table.schema.metadata or {}).get(FACTS.encode())
        return True, found and found.decode()

    def _fields(self) -> list[pa.Field]:
        found = []
        for each in self.fields.values():
            kind = pa.list_(NUMBERS[each.dtype], each.dimension)
            found.append(pa.field(each.name, kind if each.name == "embedding" else pa.list_(kind)))
        return found

    def _create(self, facts: str) -> None:
        fields = [pa.field("id", pa.string(), nullable=False), *self._fields()]
        schema = pa.schema(fields, metadata={FACTS: facts})
        self._table = self._client.create_table(self.collection, schema=schema)

    def _reserved(self) -> set[str]:
        return {"id", *self.fields}

    def _write(self, rows: Rows) -> None:
        beside = pa.Table.from_pylist(rows.payload, schema=rows.types)
        there = self._table.schema
        new = [each for each in beside.schema
               if each.name not in there.names and not pa.types.is_null(each.type)]  # fmt: skip
        if new:
            self._table.add_columns(new)
            there = self._table.schema
        columns: dict[str, Any] = {"id": pa.array(rows.ids, pa.string())}
        for each in self._fields():
            vectors = [np.asarray(v).tolist() for v in rows.vectors[each.name]]
            columns[each.name] = pa.array(vectors, each.type)
        for name in there.names:
            if name not in columns:
                known = name in beside.schema.names
                kind = there.field(name).type
                blank = pa.nulls(len(rows.ids), kind)
                columns[name] = beside[name].cast(kind) if known else blank
        (
            self._table.merge_insert("id")
            .when_matched_update_all()
            .when_not_matched_insert_all()
            .execute(pa.table(columns))
        )

    def finish(self) -> None:
        """Merge the small files that a load has written."""
        with asking(self.where, *self.errors):
            self._table.optimize()

    def _search(self, vectors: dict[str, Any], limit: int) -> list[Hit]:
        last = vectors.get("multi_vector")
        found = []
        if "embedding" in vectors:
            most = limit if last is None else max(CANDIDATES, limit)
            found = self._nearest("embedding", vectors["embedding"], most)
        if last is None:
            return found
        return self._nearest("multi_vector", last, limit, [hit.id for hit in found])

    def _nearest(self, name: str, vector: Any, most: int, among: Sequence[str] = ()) -> list[Hit]:
        is_one = name == "embedding"
        metric = METRICS[self.fields[name].similarity] if is_one else "cosine"
        beside = [n for n in self._table.schema.names if n not in self.fields]
        query = self._table.search(vector, vector_column_name=name).distance_type(metric)
        if among:
            quoted = ", ".join("'" + id_.replace("'", "''") + "'" for id_ in among)
            query = query.where(f"id IN ({quoted})", prefilter=True)
        rows = query.select([*beside, "_distance"]).limit(most).to_list()
        # Of vectors per token, the distance is the sum of 1 - cosine over the tokens of the query.
        shift = 0 if metric == "l2" else 1 if is_one else len(vector)
        return [Hit(row.pop("id"), shift - row.pop("_distance"), row) for row in rows]

    def count(self) -> int:
        """Rows of the table."""
        with asking(self.where, *self.errors):
            if self._table is None and not self._stored()[0]:
                raise StoreError(f"{self.where} is not there")
            return int(self._table.count_rows())

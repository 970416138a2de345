"""PostgreSQL with pgvector: typed columns, COPY in binary form, and MaxSim as a SQL function."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from tessera_onnx.base import Model
from tessera_onnx.errors import ConfigError, install_hint
from tessera_onnx.integrations import pgvector_types as types
from tessera_onnx.integrations.pgvector_search import nearest
from tessera_onnx.integrations.rows import Field, Hit, Rows, fused
from tessera_onnx.integrations.stores import CANDIDATES, FACTS, Store, asking

try:
    import psycopg
    from pgvector.psycopg import register_vector
    from psycopg import sql
except ImportError as error:
    raise ImportError(f"{error.name} is not installed: {install_hint('pgvector')}") from None


def metadata(connection: psycopg.Connection[Any], table: str) -> dict[str, str] | None:
    """What the comment of a table keeps; None where there is no table."""
    name = sql.Identifier(*table.split(".")).as_string(connection)
    found = connection.execute(
        "SELECT obj_description(to_regclass(%s), 'pg_class'), to_regclass(%s) IS NOT NULL",
        (name, name),
    ).fetchone() or (None, False)
    comment = found[0] or ""
    if not found[1]:
        return None
    kept: dict[str, str] = json.loads(comment) if comment.startswith(f'{{"{FACTS}"') else {}
    return kept


class PgVectorStore(Store):
    """A table: `id` text, `payload` jsonb, and a column a field; its comment holds the facts."""

    label = "PostgreSQL"
    holds: ClassVar = {
        "embedding": ("float32", "float16", "binary"),
        "multi_vector": ("float32", "float16"),
        "sparse": ("float32",),
    }
    has_idf = True
    errors = (psycopg.Error,)

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        table: str,
        models: Sequence[Model] = (),
        fields: Sequence[Field] = (),
    ) -> None:
        """Use a table through a connection; the extension `vector` is made if it is missing."""
        super().__init__(connection, table, models, fields)
        for each in self.fields.values():
            if each.name == "sparse" and not each.idf and each.dimension > types.MOST_SPARSE:
                raise ConfigError(f"sparsevec has at most {types.MOST_SPARSE:,} entries")
        self._table = sql.Identifier(*table.split("."))
        with asking(self.where, *self.errors), connection.transaction():
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            register_vector(connection)

    @staticmethod
    def _open(url: str) -> psycopg.Connection[Any]:
        return psycopg.connect(url, connect_timeout=10, autocommit=True)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _run(self, text: str, *values: Any, **names: sql.Composable) -> psycopg.Cursor[Any]:
        query = sql.SQL(text).format(table=self._table, **names)
        return self._client.execute(query, values or None)

    def _stored(self) -> tuple[bool, str | None]:
        kept = metadata(self._client, self.collection)
        return kept is not None, (kept or {}).get(FACTS)

    def _create(self, facts: str) -> None:
        columns = "".join(f", {types.definition(each)}" for each in self.fields.values())
        with self._client.transaction():
            self._run(f"CREATE TABLE {{table}} (id text PRIMARY KEY, payload jsonb{columns})")
            comment = sql.Literal(json.dumps({FACTS: facts, **self.about}))
            self._run("COMMENT ON TABLE {table} IS {comment}", comment=comment)
            if "multi_vector" in self.fields:
                kind = types.TYPES[self.fields["multi_vector"].dtype]
                self._client.execute(types.MAXSIM.format(kind=kind))

    def finish(self) -> None:
        """Make an HNSW index of dense vectors, unless they are too long for one, and one of terms.

        Raises StoreError.
        """
        field = self.fields.get("embedding")
        name = field and types.operator_class(field)
        with asking(self.where, *self.errors):
            if name is not None:
                self._index("embedding", f"hnsw (embedding {name})")
            self._index_terms()

    def _index_terms(self) -> None:
        if "sparse" in self.fields and self.fields["sparse"].idf:
            self._index("terms", f"gin ({types.TERMS})")

    def _index(self, name: str, what: str) -> None:
        index = sql.Identifier(f"{self.collection.rpartition('.')[2]}_{name}")
        text = f"CREATE INDEX IF NOT EXISTS {{index}} ON {{table}} USING {what}"
        self._run(text, index=index)

    def _write(self, rows: Rows) -> None:
        types.replace_rows(self._client, self._table, self.fields, rows)

    def _search(self, vectors: dict[str, Any], limit: int) -> list[Hit]:
        last = vectors.get("multi_vector")
        most = max(CANDIDATES, limit) if len(vectors) > 1 else limit
        first = [
            nearest(self._client, self._table, self.fields[name], each, most)
            for name, each in vectors.items()
            if name != "multi_vector"
        ]
        if last is None:
            return fused(first, limit)
        known = [hit.id for hit in fused(first, most)] if first else None
        found = self._run(
            "SELECT id, tessera_maxsim(multi_vector, %s) AS score, payload FROM {table} "
            "WHERE %s::text[] IS NULL OR id = ANY(%s) ORDER BY score DESC, id LIMIT %s",
            types.value(self.fields["multi_vector"], last), known, known, limit,
        )  # fmt: skip
        return [Hit(*row) for row in found]

    def count(self) -> int:
        """Rows of the table."""
        with asking(self.where, *self.errors):
            row = self._run("SELECT count(*) FROM {table}").fetchone()
            return int(row[0]) if row else 0

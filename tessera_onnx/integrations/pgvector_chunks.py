"""Chunks of documents in a table of PostgreSQL, for `Collection`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import numpy as np

from tessera_onnx.errors import EncodingError, StoreError, install_hint
from tessera_onnx.integrations.chunks import SETTINGS, ChunkStore, Version
from tessera_onnx.integrations.pgvector import PgVectorStore, metadata
from tessera_onnx.integrations.pgvector_search import nearest
from tessera_onnx.integrations.rows import Hit, Where
from tessera_onnx.vectors import scoring

try:
    import psycopg
except ImportError as error:
    raise ImportError(f"{error.name} is not installed: {install_hint('pgvector')}") from None

# So that a server that is locked or slow ends in an error.
LIMITS = "SET lock_timeout = '60s'; SET statement_timeout = '10min'"


class PgVectorChunks(PgVectorStore, ChunkStore):
    """A table of chunks, without an index of dense vectors. A commit is a transaction."""

    @classmethod
    def client(cls, url: str) -> psycopg.Connection[Any]:
        """A connection with LIMITS."""
        found: psycopg.Connection[Any] = super().client(url)
        found.execute(LIMITS)
        return found

    @staticmethod
    def settings(client: psycopg.Connection[Any], collection: str) -> str | None:
        """SETTINGS of a table, "" where it has none; None where there is no table."""
        kept = metadata(client, collection)
        return None if kept is None else kept.get(SETTINGS, "")

    @classmethod
    @contextmanager
    def writing(cls, client: psycopg.Connection[Any], collection: str) -> Iterator[None]:
        """Hold an advisory lock of the connection; it is free when the connection has ended."""
        schema = client.execute("SELECT current_schema()").fetchone()
        name = collection if "." in collection or not schema else f"{schema[0]}.{collection}"
        key = (f"tessera index {name}",)
        got = client.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", key).fetchone()
        if not got or not got[0]:
            raise StoreError(
                f"{cls.label} table {collection!r} is being written by another process: wait until "
                "it has ended"
            )
        try:
            yield
        finally:
            with suppress(psycopg.Error):  # the connection was lost, and the lock with it
                client.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", key)

    def commit(self) -> AbstractContextManager[Any]:
        """A transaction."""
        found: AbstractContextManager[Any] = self._client.transaction()
        return found

    def finish(self) -> None:
        """Make indexes of terms, and of the payload, which removals and filters use."""
        self._index_terms()
        self._index("keys", "gin ((payload->'source'), (payload->'tags'))")

    def check(self, texts: Sequence[str]) -> None:
        """Raises EncodingError for texts with a zero character."""
        if any("\0" in text for text in texts):
            raise EncodingError(
                f"{texts[0]!r} holds a zero character, which {self.label} cannot keep"
            )

    def versions(self) -> list[Version]:
        """Of each version of a document, how much is stored."""
        found = self._run(
            "SELECT payload->>'source', payload->>'file', payload->>'sha256', count(*), "
            "bool_or((payload->>'last')::bool) FROM {table} GROUP BY 1, 2, 3"
        )
        return [Version(*row) for row in found]

    def remove(self, sources: Sequence[str]) -> None:
        """Remove all chunks of documents."""
        self._run("DELETE FROM {table} WHERE payload->'source' ?| %s", list(sources))

    def remove_others(self, kept: Mapping[str, str]) -> None:
        """Remove the chunks of these sources that have another sha256 than the given one."""
        self._run(
            "DELETE FROM {table} USING unnest(%s::text[], %s::text[]) AS kept(source, sha256) "
            "WHERE payload->'source' ? kept.source AND payload->>'sha256' <> kept.sha256",
            list(kept), list(kept.values()),
        )  # fmt: skip

    def nearest(self, name: str, vector: Any, limit: int, where: Where) -> list[Hit]:
        """The rows of the best scores by one field, of all rows."""
        field = self.fields[name]
        return nearest(self._client, self._table, field, vector, limit, where=where)

    def maxsim(self, query: Any, ids: Sequence[str]) -> dict[str, float]:
        """MaxSim of a query's token vectors with rows, by id."""
        text = "SELECT id, multi_vector FROM {table} WHERE id = ANY(%s)"
        found = self._run(text, list(ids)).fetchall()
        width = self.fields["multi_vector"].dimension
        tokens = [
            np.array([each.to_numpy() for each in row], np.float32).reshape(-1, width)
            for _, row in found
        ]
        scores = scoring.maxsim_scores(query, tokens).tolist() if tokens else []
        return dict(zip((id_ for id_, _ in found), scores, strict=True))

"""Rank the rows of a table by one field: distances of pgvector, and BM25 with IDF in SQL."""

from __future__ import annotations

from typing import Any

import numpy as np

from tessera_onnx.errors import install_hint
from tessera_onnx.integrations import pgvector_types as types
from tessera_onnx.integrations.rows import Field, Hit, Where
from tessera_onnx.search.sparse_index import weighed

try:
    import psycopg
    from psycopg import sql
except ImportError as error:
    raise ImportError(f"{error.name} is not installed: {install_hint('pgvector')}") from None


def condition(where: Where) -> tuple[sql.SQL, list[Any]]:
    """The condition of rows whose payload has one of the values at each key, and its parameters."""
    parameters = [each for key, values in where for each in (key, list(values))]
    return sql.SQL(" AND ".join(["true"] + ["payload->%s ?| %s::text[]"] * len(where))), parameters


def nearest(
    connection: psycopg.Connection[Any],
    table: sql.Identifier,
    field: Field,
    vector: Any,
    limit: int,
    *,
    where: Where = (),
) -> list[Hit]:
    """The rows of the best scores for a vector of a query; exact without an HNSW index."""
    if field.name == "sparse" and field.idf:
        return _matching(connection, table, vector, limit, where)
    operator, value = types.operator(field), types.value(field, vector)
    with connection.transaction():
        # Else an HNSW index gives 40 rows at most.
        wide = str(min(max(limit, 40), types.MOST_FOUND))
        connection.execute("SELECT set_config('hnsw.ef_search', %s, true)", (wide,))
        connection.execute("SELECT set_config('hnsw.iterative_scan', 'strict_order', true)")
        which, parameters = condition(where)
        query = sql.SQL(
            "SELECT id, {name} {operator} %s, payload FROM {table} WHERE {condition} "
            "ORDER BY {name} {operator} %s LIMIT %s"
        ).format(
            name=sql.Identifier(field.name),
            operator=sql.SQL(operator),
            table=table,
            condition=which,
        )
        found = connection.execute(query, (value, *parameters, value, limit)).fetchall()
    shift = 1 if operator == "<=>" else 0  # a cosine distance is 1 - cosine
    return [  # the cosine of a vector of zeros is NaN here, and comes last
        Hit(id_, 0.0 if distance != distance else shift - distance, payload)  # noqa: PLR0124
        for id_, distance, payload in found
    ]


def _matching(
    connection: psycopg.Connection[Any],
    table: sql.Identifier,
    vector: Any,
    limit: int,
    where: Where,
) -> list[Hit]:
    """Rows by the dot product of their terms with a query, whose terms are weighed by IDF.

    Rows without a term of the query are left out. `where` does not change the IDF.
    """
    which, parameters = condition(where)
    names = {"table": table, "terms": sql.Identifier(types.TERMS), "condition": which}
    counts = sql.SQL(
        "SELECT (SELECT count(*) FROM {table} WHERE {terms} @> ARRAY[term]), "
        "(SELECT count(*) FROM {table}) "
        "FROM unnest(%s::int4[]) WITH ORDINALITY AS asked(term, place) ORDER BY place"
    )
    indices = vector.indices.tolist()
    found_in = connection.execute(counts.format(**names), (indices,)).fetchall()
    if not found_in:
        return []
    weights = weighed(vector, found_in[0][1], np.array([df for df, _ in found_in])).values
    ranked = sql.SQL(
        "SELECT id, score, payload FROM {table}, LATERAL ("
        "SELECT sum(value::float8 * weight::float8)::float4 AS score "
        "FROM unnest({terms}, sparse) AS own(term, value) "
        "JOIN unnest(%s::int4[], %s::float4[]) AS asked(term, weight) USING (term)"
        ") AS scores WHERE {terms} && %s::int4[] AND {condition} ORDER BY score DESC, id LIMIT %s"
    )
    values = (indices, weights.tolist(), indices, *parameters, limit)
    return [Hit(*row) for row in connection.execute(ranked.format(**names), values)]

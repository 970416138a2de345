"""Types, operators and the MaxSim function of pgvector, and rows by COPY in binary form."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np

from tessera_onnx.errors import install_hint
from tessera_onnx.integrations.rows import Field, Rows

try:
    import psycopg
    from pgvector import Bit, HalfVector, SparseVector, Vector
    from psycopg import sql
    from psycopg.types.json import Jsonb
except ImportError as error:
    raise ImportError(f"{error.name} is not installed: {install_hint('pgvector')}") from None

TYPES = {"float32": "vector", "float16": "halfvec", "binary": "bit"}
CLASSES = {"vector": Vector, "halfvec": HalfVector}
# Operator and name of its operator class; <#> is the dot product with its sign changed.
OPERATORS = {
    "cosine": ("<=>", "cosine"),
    "dot": ("<#>", "ip"),
    "euclidean": ("<->", "l2"),
    "manhattan": ("<+>", "l1"),
}
MOST_INDEXED = {"vector": 2000, "halfvec": 4000, "bit": 64000}  # dimensions
MOST_SPARSE = 1_000_000_000  # entries of a vocabulary
TERMS = "sparse_terms"
MOST_FOUND = 1000  # rows that a search of an HNSW index gives
MAXSIM = """
CREATE OR REPLACE FUNCTION tessera_maxsim(document {kind}[], query {kind}[])
RETURNS double precision LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
  SELECT coalesce(sum(best), 0) FROM (
    SELECT (SELECT max(-(d <#> q)) FROM unnest(document) AS d) AS best FROM unnest(query) AS q
  ) AS tokens
$$"""


def columns(field: Field) -> dict[str, str]:
    """The columns of a field, and their types without dimensions.

    Terms that are weighed by IDF are an array of their own, as an index of it counts them, and
    hashes of words go beyond the entries of a sparsevec.
    """
    if field.name == "sparse":
        return {TERMS: "int4[]", "sparse": "float4[]"} if field.idf else {"sparse": "sparsevec"}
    return {field.name: f"{TYPES[field.dtype]}{'[]' if field.name == 'multi_vector' else ''}"}


def definition(field: Field) -> str:
    """A field's columns in CREATE TABLE."""
    found = []
    for column, kind in columns(field).items():
        name, mark, brackets = kind.partition("[")
        size = "" if field.idf and field.name == "sparse" else f"({field.dimension})"
        found.append(f"{column} {name}{size}{mark}{brackets}")
    return ", ".join(found)


def operator(field: Field) -> str:
    """The operator that gives the distance of two values of a field."""
    if field.name == "sparse":
        return "<#>"
    return "<~>" if field.dtype == "binary" else OPERATORS[field.similarity][0]


def operator_class(field: Field) -> str | None:
    """The operator class of an HNSW index of a field; None where it cannot have one."""
    kind = TYPES[field.dtype]
    if field.name != "embedding" or field.dimension > MOST_INDEXED[kind]:
        return None
    name = OPERATORS[field.similarity][1]
    return "bit_hamming_ops" if kind == "bit" else f"{kind}_{name}_ops"


def values(field: Field, vector: Any) -> list[Any]:
    """A vector as the values of a field's columns."""
    if field.name == "sparse" and field.idf:
        return [vector.indices.tolist(), vector.values.tolist()]
    return [value(field, vector)]


def value(field: Field, vector: Any) -> Any:
    """A vector as a value of a field's type; float vectors of a field of bits give their signs."""
    if field.name == "sparse":
        return SparseVector(vector.to_dict(), field.dimension)
    if field.dtype == "binary":
        stored = np.asarray(vector)
        is_packed = stored.dtype == np.uint8
        return Bit(np.unpackbits(stored, count=field.dimension) > 0 if is_packed else stored > 0)
    made = CLASSES[TYPES[field.dtype]]
    return [made(row) for row in vector] if field.name == "multi_vector" else made(vector)


def replace_rows(
    connection: psycopg.Connection[Any],
    table: sql.Identifier,
    fields: Mapping[str, Field],
    rows: Rows,
) -> None:
    """Write rows to a table in one transaction; those whose id is there are replaced."""
    types = {name: kind for each in rows.vectors for name, kind in columns(fields[each]).items()}
    names = ["id", "payload", *types]
    parts = {
        "table": table,
        "columns": sql.SQL(", ").join(map(sql.Identifier, names)),
        "changed": sql.SQL(", ".join(f"{name} = excluded.{name}" for name in names[1:])),
    }
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE TEMP TABLE tessera_rows (LIKE {table})").format(**parts))
        text = sql.SQL("COPY tessera_rows ({columns}) FROM STDIN (FORMAT BINARY)")
        with cursor.copy(text.format(**parts)) as copy:
            copy.set_types(["text", "jsonb", *types.values()])
            for i, id_ in enumerate(rows.ids):
                cells = (values(fields[name], each[i]) for name, each in rows.vectors.items())
                copy.write_row([id_, Jsonb(rows.payload[i]), *chain.from_iterable(cells)])
        text = sql.SQL(
            "INSERT INTO {table} ({columns}) SELECT {columns} FROM tessera_rows "
            "ON CONFLICT (id) DO UPDATE SET {changed}"
        )
        cursor.execute(text.format(**parts))
        cursor.execute("DROP TABLE tessera_rows")

"""LanceDB: embedding functions of its registry, and a reranker for its hybrid searches.

LanceDB keeps the name and settings of a function with a table. A program that opens the table has
to import this module first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tessera_onnx.errors import ConfigError, install_hint
from tessera_onnx.integrations.lancedb_store import LanceStore
from tessera_onnx.integrations.rows import encoded
from tessera_onnx.kinds import model_facts
from tessera_onnx.text.dense import TesseraDense
from tessera_onnx.text.reranker import TesseraReranker

try:
    import pyarrow as pa
    from lancedb.embeddings import TextEmbeddingFunction, register
    from lancedb.rerankers import Reranker
    from pydantic import PrivateAttr
except ImportError as error:
    raise ImportError(f"{error.name} is not installed: {install_hint('lancedb')}") from None

__all__ = ["LanceReranker", "LanceStore", "TesseraFunction"]


@register("tessera")
class TesseraFunction(TextEmbeddingFunction):
    """A dense model as LanceDB's embedding function, as `create(name="all-minilm-l6-v2")`.

    Queries and documents are read in their roles. LanceDB 0.40 stores null in place of what a
    function gives for a column of MultiVector: use `LanceStore` for vectors per token.
    """

    name: str  # id of the model
    precision: str | None = None
    dimension: int | None = None
    sha256: str | None = None  # of the model's files, kept with a table
    max_retries: int = 0
    _opened: TesseraDense | None = PrivateAttr(default=None)

    def _model(self) -> TesseraDense:
        if self._opened is None:
            given = {"precision": self.precision, "dimension": self.dimension}
            options: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
            model = TesseraDense(self.name, **options)
            found = model_facts(model)["model sha256"]
            if self.sha256 not in (None, found):
                raise ConfigError(
                    f"the table has vectors of sha256 {self.sha256} of the model's files, and "
                    f"{self.name} has {found}: install the model that made them, or make them anew"
                )
            self._opened = model
        return self._opened

    def ndims(self) -> int:
        """Number of dimensions of a vector."""
        return int(self._model().dimension())

    def generate_embeddings(self, texts: Sequence[str], *_: Any, **__: Any) -> list[Any]:
        """The vectors of documents."""
        return list(encoded(self._model(), list(texts)))

    def compute_query_embeddings(self, query: str, *_: Any, **__: Any) -> list[Any]:
        """The vector of a query, in a list."""
        return [self._model().encode_query(query)]

    def safe_model_dump(self) -> dict[str, Any]:
        """What LanceDB keeps with a table: the arguments, and the sha256 of the model."""
        found: dict[str, Any] = super().safe_model_dump()
        return {**found, "sha256": model_facts(self._model())["model sha256"]}


class LanceReranker(Reranker):
    """Scores the rows that a search found by a TesseraReranker, which reads query and text."""

    def __init__(self, model: TesseraReranker, column: str = "text") -> None:
        """`column` holds the texts of the rows."""
        super().__init__("relevance")
        self._model, self._column = model, column

    def _ranked(self, query: str, rows: pa.Table) -> pa.Table:
        scores: Any = self._model.score(query, rows[self._column].to_pylist()) if len(rows) else []
        scored = rows.append_column("_relevance_score", pa.array(scores, pa.float32()))
        return scored.sort_by([("_relevance_score", "descending")])

    def rerank_vector(self, query: str, vector_results: pa.Table) -> pa.Table:
        """The rows of a search by vector, best first."""
        return self._ranked(query, vector_results)

    def rerank_fts(self, query: str, fts_results: pa.Table) -> pa.Table:
        """The rows of a full-text search, best first."""
        return self._ranked(query, fts_results)

    def rerank_hybrid(
        self, query: str, vector_results: pa.Table, fts_results: pa.Table
    ) -> pa.Table:
        """The rows of both searches, each once, best first."""
        both = self.merge_results(vector_results, fts_results)
        known = [name for name in both.column_names if name not in {"_score", "_distance"}]
        return self._ranked(query, both.select(known))

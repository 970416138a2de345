"""Models that score documents for a query: a reranker, or a multi-vector model by MaxSim."""

from __future__ import annotations

from typing import Any

from tessera_onnx.errors import LoadError
from tessera_onnx.kinds import KINDS, RERANKING, find_model


def open_scorer(model: str | None, **options: Any) -> Any:
    """Open a reranker, or a multi-vector model where the model is none; None: the first reranker.

    Both have `score` and `rank`. Raises LoadError for a model of other kinds, and what `Tessera`
    raises.
    """
    _, artifact = find_model(model, kind=RERANKING[0] if model is None else None, **options)
    kinds = artifact.spec.kinds
    kind = next((kind for kind in RERANKING if kind in kinds), None)
    if kind is None:
        raise LoadError(
            f"model {artifact.spec.id!r} is of kind {', '.join(kinds)}, and a "
            f"{' or '.join(RERANKING)} model is needed"
        )
    return KINDS[kind].open(artifact, model, **options)

"""Read the weights of queries that are looked up: a JSON table, or a SparseStaticEmbedding's."""

from __future__ import annotations

import json
import math
from pathlib import Path

from safetensors.numpy import load_file

from tessera_export.errors import ExportError
from tessera_onnx.models.foreign.tokenizer_file import TokenizerFile

IDF = "idf.json"


def static_table(place: Path, tokenizer: TokenizerFile) -> str:
    """The weights of a SparseStaticEmbedding as JSON {token: weight}.

    Raises ExportError for weights that are not there, and one whose id is no token.
    """
    path = place / "model.safetensors"
    if not path.is_file():
        raise ExportError(
            f"{place} has no model.safetensors with the query's weights; if the repository has an "
            "idf.json, give it with --idf"
        )
    weights = load_file(path).get("weight")
    if weights is None or weights.ndim != 1:
        raise ExportError(f"{path} holds no vector 'weight'")
    table = {}
    for number in weights.nonzero()[0].tolist():
        token = tokenizer.tokenizer.id_to_token(number)
        if token is None:
            raise ExportError(f"{path} weighs the id {number}, which is not in the vocabulary")
        table[token] = float(weights[number])
    return json.dumps(table, ensure_ascii=False)


def check_table(text: str, tokenizer: TokenizerFile) -> None:
    """Raises ExportError unless `text` is JSON {token: weight}, tokens known and weights >= 0."""
    try:
        table = json.loads(text)
    except ValueError as error:
        raise ExportError(f"the idf table is not valid JSON: {error}") from error
    if not isinstance(table, dict):
        raise ExportError(f"the idf table must be a JSON object, got {type(table).__name__}")
    for token, weight in table.items():
        tokenizer.id_of(token, "the idf table's")
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ExportError(f"the idf table gives {token!r} a weight that is no number")
        if not 0 <= weight < math.inf:
            raise ExportError(f"the idf table gives {token!r} the weight {weight}")

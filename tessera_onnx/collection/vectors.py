"""The models of a collection: chunks become vectors of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tessera_onnx.collection.highlights import Words
from tessera_onnx.errors import ConfigError
from tessera_onnx.models.spec import Kind
from tessera_onnx.results import Embeddings
from tessera_onnx.text.base import TextModel

SIMILARITIES = (None, "cosine", "dot", "euclidean")  # None: a recipe leaves cosine out
PARTS: dict[Kind, str] = {"dense": "dense", "sparse": "sparse", "multi-vector": "multi_vector"}


def check_similarity(model: TextModel) -> None:
    """Raises ConfigError for a dense model that compares by what the stores do not know."""
    similarity = similarity_of(model)
    if similarity not in SIMILARITIES:
        raise ConfigError(
            f"model {model.model()!r} compares by {similarity}, which the stores do not know"
        )


def similarity_of(model: TextModel) -> str | None:
    """The similarity that the recipe of a dense model names."""
    recipe = model.spec.dense
    return None if recipe is None else recipe.similarity


class Models:
    """Models by kind. Kinds of one model are encoded in one run, where it reads texts alike."""

    def __init__(self, models: Mapping[Kind, TextModel], names: Mapping[Kind, str]) -> None:
        """`names` are what opened the models: of equal names the model is the same."""
        self.by_kind = dict(models)
        same = tuple(kind for kind in models if names[kind] == names["dense"])
        self.words: Words = {}  # for highlights
        self._shared = same if len(same) > 1 and _reads_alike(models["dense"]) else ()

    def count(self, texts: list[str]) -> list[int]:
        """Tokens of each document, as the dense model reads it."""
        found: list[int] = self.by_kind["dense"].token_count(texts, role="document").tolist()
        return found

    def encode(self, texts: list[str]) -> dict[Kind, Any]:
        """The vectors of texts by kind. Raises what `encode_document` raises."""
        run = self.by_kind["dense"].encode_all(texts, role="document") if self._shared else None
        return {
            kind: self._vectors(kind, model, texts, run) for kind, model in self.by_kind.items()
        }

    def _vectors(self, kind: Kind, model: Any, texts: list[str], run: Embeddings | None) -> Any:
        if run is not None and kind in self._shared:
            return getattr(run, PARTS[kind])
        return model.encode_document(texts)

    def close(self) -> None:
        """Close all models."""
        for model in self.by_kind.values():
            model.close()


def _reads_alike(model: TextModel) -> bool:
    """Whether all kinds of a model have one run in common."""
    try:
        model.encode_all([], role="document")
    except ConfigError:
        return False
    return True

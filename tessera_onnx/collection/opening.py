"""Open a collection: its settings, its models and its store; or make one."""

from __future__ import annotations

from typing import Any, NamedTuple

from tessera_onnx.checks import check_limit
from tessera_onnx.collection import chunks
from tessera_onnx.collection.place import Place, Store
from tessera_onnx.collection.settings import (
    CHUNK_TOKENS,
    NO_SPARSE,
    OVERLAP,
    ModelFacts,
    Settings,
    Wanted,
    place_of,
)
from tessera_onnx.collection.vectors import Models, check_similarity
from tessera_onnx.errors import ConfigError
from tessera_onnx.kinds import KINDS, RERANKING, find_model, model_facts
from tessera_onnx.models.spec import Kind
from tessera_onnx.text.base import TextModel

BM25 = "bm25"


class Parts(NamedTuple):
    """An open collection."""

    settings: Settings
    models: Models
    store: Store


def open_parts(place: Place, wanted: Wanted, *, create: bool) -> Parts:
    """Open the collection in a place; with `create`, make one where there is none.

    To create it, the caller holds the lock of the place.

    Raises FileError or StoreError where there is none, or the place cannot be used; ConfigError
    where `wanted` or an installed model differs from those of the collection; the errors of
    `Tessera`.
    """
    known = place.settings()
    if known is None and not create:
        raise place.missing()
    if known is not None:
        wanted.check(known)
    found: dict[Kind, tuple[TextModel, ModelFacts]] = {}
    try:
        for kind, name in _names(known, wanted).items():
            before = None if known is None else known.models[kind]
            found[kind] = _open_model(name, kind, before, wanted)
        models = Models(
            {kind: model for kind, (model, _) in found.items()},
            {kind: facts.name for kind, (_, facts) in found.items()},
        )
        check_similarity(found["dense"][0])
        facts = {kind: each for kind, (_, each) in found.items()}
        settings = known or _new_settings(wanted, facts, models)
        store = place.open(settings, models, is_new=known is None)
    except Exception:
        for model, _ in found.values():
            model.close()
        raise
    return Parts(settings, models, store)


def _names(known: Settings | None, wanted: Wanted) -> dict[Kind, str | None]:
    """What opens the model of each kind."""
    if known is not None:
        return {kind: facts.name for kind, facts in known.models.items()}
    names: dict[Kind, str | None] = {"dense": wanted.models.get("dense")}
    sparse = wanted.models.get("sparse") or BM25
    if sparse != NO_SPARSE:
        names["sparse"] = sparse
    elif wanted.language is not None:
        raise ConfigError("language is for a lexical model such as bm25: leave it out")
    if wanted.models.get("multi-vector") is not None:
        names["multi-vector"] = wanted.models["multi-vector"]
    return names


def _new_settings(wanted: Wanted, models: dict[Kind, ModelFacts], opened: Models) -> Settings:
    most = _longest(opened)
    if wanted.chunk_tokens is not None:
        check_limit(wanted.chunk_tokens, "chunk_tokens")
    if wanted.chunk_tokens is not None and most and wanted.chunk_tokens > most:
        raise ConfigError(
            f"chunk_tokens must be at most {most}, which is what the models read, got "
            f"{wanted.chunk_tokens}"
        )
    size = wanted.chunk_tokens or min(CHUNK_TOKENS, most or CHUNK_TOKENS)
    overlap = min(OVERLAP, size // 8) if wanted.overlap is None else wanted.overlap
    chunks.check_sizes(opened.count, size, overlap)
    return Settings(models, size, overlap)


def _longest(models: Models) -> int:
    """Tokens of a document that every model reads; 0 without a limit."""
    lengths = [
        getattr(model.spec.text_recipes()[kind].document, "max_length", 0)
        for kind, model in models.by_kind.items()
    ]
    return min((length for length in lengths if length), default=0)


def _open_model(
    name: str | None,
    kind: Kind,
    known: ModelFacts | None,
    wanted: Wanted,
) -> tuple[TextModel, ModelFacts]:
    """Open a model as a kind, and tell its facts.

    `known` are those of the collection. Raises ConfigError where the model that is here differs,
    and the errors of `Tessera`.
    """
    options: dict[str, Any] = {} if known is None else dict(known.options)
    name = place_of(name)
    precision: Any = None if known is None else known.precision
    row, artifact = find_model(name, kind=kind, precision=precision)
    if kind not in artifact.spec.kinds:
        raise ConfigError(f"model {artifact.spec.id!r} gives no {kind} vectors")
    if known is None and kind == "sparse":
        words = artifact.spec.lexical
        language = wanted.language or (words.languages[0].name if words else None)
        options = {} if language is None else {"language": language}
    given = {**options, "threads": wanted.threads, "precision": precision}
    model: Any = row.open(artifact, name or artifact.spec.id, **given)
    facts = model_facts(model)
    found = ModelFacts(
        name or artifact.spec.id,
        facts["model"],
        facts["model sha256"],
        facts["precision"],
        options,
    )
    if known is not None and (found.model, found.sha256) != (known.model, known.sha256):
        model.close()
        raise ConfigError(
            f"the collection was made with {_shown(known)}, and here {known.name} is "
            f"{_shown(found)}: their vectors cannot be compared; install the former, or make a new "
            "collection"
        )
    return model, found


def open_reranker(name: str, threads: int | None) -> Any:
    """Open a model that ranks texts anew. Raises ConfigError for one that does not."""
    row, artifact = find_model(name)
    kind = next((kind for kind in RERANKING if kind in artifact.spec.kinds), None)
    if kind is None:
        kinds = " or ".join(RERANKING)
        raise ConfigError(f"model {name!r} is {row.kind}: give a {kinds} model to rerank with")
    return KINDS[kind].open(artifact, name, threads=threads)


def _shown(facts: ModelFacts) -> str:
    return f"{facts.model} (sha256 {facts.sha256[:12]})"

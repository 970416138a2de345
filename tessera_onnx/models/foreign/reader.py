"""Read every fact of a folder that somebody else made: the one reader of foreign folders.

The rules are those of sentence-transformers and of the libraries whose folders it opens. What the
files leave open, and what the runtime does not compute, is an error that names the file and the
key; nothing is guessed.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tessera_onnx.errors import ConfigError, LoadError, named, shown
from tessera_onnx.models import rules
from tessera_onnx.models.foreign import (
    card,
    colbert,
    dense,
    files,
    forecaster,
    layers,
    opened,
    pooled,
    recipes,
    refused,
    reranker,
    splade,
    static,
    tokenizer_check,
    tokenizer_file,
    transformer,
)
from tessera_onnx.models.foreign.files import MODULES, SETTINGS, read_list, read_table
from tessera_onnx.models.foreign.found import Folder
from tessera_onnx.models.foreign.graphs import Processor
from tessera_onnx.models.foreign.splade import Route
from tessera_onnx.models.spec import (
    KIND_TABLES,
    UNPINNED,
    Dense,
    Kind,
    ModelSpec,
    MultiVector,
    Pooling,
    Reranker,
    Sparse,
)

Recipe = Dense | Sparse | MultiVector | Reranker
TEXT_KINDS: tuple[Kind, ...] = ("dense", "multi-vector", "sparse")
RERANKER: Kind = "reranker"
# model_type of config_sentence_transformers.json.
TYPES: dict[str, Kind] = {
    "SentenceTransformer": "dense",
    "SparseEncoder": "sparse",
    "MultiVectorEncoder": "multi-vector",
    "ColBERT": "multi-vector",
}


@dataclass(frozen=True, slots=True)
class Read:
    """The spec of a foreign folder, and where each fact comes from, by its dotted name.

    A source reads "1_Pooling/config.json: pooling_mode".
    """

    spec: ModelSpec
    sources: dict[str, str]


def read(
    folder: Path,
    kind: Kind | None = None,
    *,
    file: str | None = None,
    pooling: Pooling | None = None,
    listing: Mapping[str, int] | None = None,
    processor: Processor | None = None,
) -> Read:
    """The facts of a folder that has no model.toml.

    Without `kind` it is every kind that the folder serves. `file` names the graph to use,
    `pooling` how vectors are made of states where no file says it. `listing` has the names and
    sizes (-1 = unknown) of all files while only the small ones are in the folder; what the graph
    tells is then left open. `processor` decides between int8 graphs (graphs.choose).

    Raises LoadError, which names file and key, for facts that are missing, contradictory or not
    computed here; ConfigError for an argument that cannot be right.
    """
    folder = Path(folder)
    _check_arguments(kind, file, pooling)
    sizes = files.list_files(folder) if listing is None else dict(listing)
    published = forecaster.find(sizes)
    if published is not None:
        spec, sources = forecaster.read(folder, sizes, published, kind, file=file, pooling=pooling)
        return _whole(spec, sources, folder)
    wants = kind == RERANKER or (kind is None and pooling is None)
    scores = wants and reranker.is_reranker(folder)
    if kind == RERANKER and not scores:
        refused.check_content(folder, [RERANKER])
        raise reranker.other(folder)
    if kind is not None and kind not in (*TEXT_KINDS, RERANKER):
        raise LoadError(
            f"{named(folder)} has no model.toml, and only models of texts are opened without one: "
            f"export it with `tessera-export FOLDER --kind {kind} --output DIR`",
            path=str(folder),
        )
    refused.check_files(folder, sizes)
    if scores:
        kind = RERANKER
    if static.is_static(folder):
        spec, sources = static.read(folder, sizes, kind, file=file, pooling=pooling)
        return _whole(spec, sources, folder)
    refused.check_content(folder, TEXT_KINDS if kind is None else [kind])
    modules = read_list(folder / MODULES)
    layers.check_types(folder, modules)
    transformer.check_requirements(folder)
    routed = splade.route(folder)
    encoder = routed.encoder if routed is not None else _encoder(folder, modules)
    found = opened.find(folder, sizes, encoder, file, processor)
    _check_whole(found, modules)
    tokenizer_check.check_code(found.places)
    tokenizer = tokenizer_file.read(encoder, found.config, found.places[1:])
    settings = read_table(folder / SETTINGS)
    read_folder = Folder(folder, found, tokenizer, modules, settings, {})
    spec = _spec(read_folder, kind, routed, pooling)
    rules.check_model(spec, str(folder))
    return Read(spec, read_folder.sources)


def _whole(spec: ModelSpec, sources: dict[str, str], folder: Path) -> Read:
    """The checked spec under the id of its folder."""
    spec = replace(spec, id=identifier(folder.resolve().name))
    rules.check_model(spec, str(folder))
    return Read(spec, sources)


def _check_arguments(kind: object, file: object, pooling: object) -> None:
    if file is not None and not isinstance(file, str):
        raise TypeError(f"file must be a str or None, got {type(file).__name__}")
    if pooling is not None and pooling not in dense.CHOICES:
        raise ConfigError(
            f"pooling is {shown(pooling)}, expected one of {', '.join(dense.CHOICES)}"
        )
    if kind is not None and kind not in typing.get_args(Kind):
        raise ConfigError(f"kind is {shown(kind)}, expected one of {', '.join(TEXT_KINDS)}")


def _encoder(folder: Path, modules: list[dict[str, Any]]) -> Path:
    """The folder of the encoder: that of the first module."""
    return files.module_folder(folder, modules[0]) if modules else folder


def _check_whole(found: opened.Files, modules: list[dict[str, Any]]) -> None:
    """Raises LoadError for a folder of which a part is missing, and for a model of images."""
    if modules and not found.config_name:
        raise LoadError(
            f"{found.places[0]} has no config.json, although modules.json lists a Transformer "
            "there: download the whole folder",
            path=str(found.places[0] / "config.json"),
        )
    names = [str(name) for name in found.config.get("architectures") or []]
    images = [name for name in names if name.endswith("ForRetrieval")]
    if images or "vision_config" in found.config:
        what = images[0] if images else str(found.config.get("model_type"))
        raise LoadError(
            f"{found.folder} is a model of images ({what:.80}), and only models of texts are "
            "opened without a model.toml: export it with `tessera-export FOLDER --kind vision "
            "--output DIR`",
            path=str(found.folder),
        )


def _kind(
    found: Folder, wanted: Kind | None, routed: Route | None, pooling: Pooling | None
) -> Kind:
    """The kind that the folder's configuration says."""
    named_type = found.settings.get("model_type")
    if named_type is not None and named_type not in TYPES:
        raise found.error(
            f"has the model_type {named_type!r:.80}, known are {', '.join(TYPES)}", SETTINGS
        )
    if colbert.layout(found.path) is not None:
        return "multi-vector"
    if named_type is not None:
        return TYPES[named_type]
    if routed is not None or splade.is_sparse(found.modules):
        return "sparse"
    if found.modules:
        return "dense"
    names = [str(name) for name in found.files.config.get("architectures") or []]
    if "HF_ColBERT" in names:
        raise found.error(
            "names the architecture HF_ColBERT, but artifact.metadata, which says how its tokens "
            "are used, is missing: download the whole folder",
            found.files.config_name,
        )
    # The states of a masked language model may be pooled too, if the caller says so; and a graph
    # may give these alone.
    masked = any(name.endswith("ForMaskedLM") for name in names)
    pools = wanted == "dense" or pooling is not None or recipes.gives_states(found)
    return "sparse" if masked and (wanted == "sparse" or not pools) else "dense"


def _tables(
    found: Folder, wanted: Kind | None, routed: Route | None, pooling: Pooling | None
) -> tuple[dict[Kind, Recipe], tuple[str, ...], int | None]:
    """The recipe of each kind, further files, and the id of expansion tokens (None: the mask)."""
    if wanted == RERANKER:
        if pooling is not None:
            raise ConfigError(f"pooling={pooling!r} is for dense models, not for rerankers")
        scorer, further = reranker.read(found)
        return {wanted: scorer}, further, None
    several: dict[Kind, Recipe] = {**recipes.bge(found)}
    if several and pooling is not None:
        raise ConfigError(
            f"pooling={pooling!r} is for graphs that give a state a token, and "
            f"{found.path / found.files.name} gives the vector of a text: leave pooling out"
        )
    if several:
        return several, (), None
    kind = _kind(found, wanted, routed, pooling)
    if wanted is not None and wanted != kind:
        raise found.error(f"is a model of kind {kind}, not {wanted}")
    if found.modules:
        transformer.check(found.tokenizer.places[0], sparse=kind == "sparse")
    if pooling is not None and kind != "dense":
        raise ConfigError(f"pooling={pooling!r} is for dense models, and {found.path} is {kind}")
    if kind == "multi-vector":
        tokens, further, fill = recipes.multi_vector(found)
        return {kind: tokens}, further, fill
    if kind == "sparse":
        weights, further = recipes.sparse(found, routed)
        return {kind: weights}, further, None
    _check_dense(found)
    vector, further = dense.read(found, pooling)
    return {kind: vector}, further, None


def _spec(
    found: Folder, wanted: Kind | None, routed: Route | None, pooling: Pooling | None
) -> ModelSpec:
    tables, further, fill = _tables(found, wanted, routed, pooling)
    if wanted is not None:
        if wanted not in tables:
            raise found.error(f"is a model of the kinds {', '.join(tables)}, not {wanted}")
        tables = {wanted: tables[wanted]}
    _check_vocabulary(found)
    tokenizer = found.tokenizer
    name = found.files.name_of(tokenizer.path)
    text = replace(tokenizer.text, tokenizer=name, lowercase=tokenizer.lowers)
    if fill is not None:
        text = replace(text, mask_id=fill)
    table = tables.get("sparse")
    if isinstance(table, Sparse) and table.query_weights == "idf":
        # Queries are looked up, so that they may be longer than what the graph reads.
        text = replace(text, max_positions=max(text.max_positions, table.query.max_length))
    length = found.files.fixed_length()
    if length:
        text = replace(text, fixed_length=length, max_positions=length)
        tables = {kind: _limited(table, length) for kind, table in tables.items()}
    _note_text(found, name)
    recipe = {KIND_TABLES[kind]: table for kind, table in tables.items()}
    return ModelSpec(
        id=identifier(found.path.resolve().name),
        aliases=(),
        kinds=tuple(tables),
        source="",
        revision=UNPINNED,
        licence=card.licence(found.path) or "unknown",
        unverified=(),
        files=found.files.files(name, *further),
        hub=None,
        graph=found.files.graph,
        text=text,
        dense=typing.cast("Dense | None", recipe.get("dense")),
        multi_vector=typing.cast("MultiVector | None", recipe.get("multi_vector")),
        sparse=typing.cast("Sparse | None", recipe.get("sparse")),
        vision=None,
        time_series=None,
        export=None,
        reranker=typing.cast("Reranker | None", recipe.get("reranker")),
    )


def _limited(recipe: Recipe, length: int) -> Recipe:
    """The recipe of a graph that takes texts of `length` tokens alone, padding included."""
    changed: dict[str, Any] = {}
    for name in ("query", "document", "plain"):
        role = getattr(recipe, name)
        if role is not None:
            changed[name] = replace(role, max_length=min(role.max_length, length))
    return replace(recipe, **changed)


def _check_dense(found: Folder) -> None:
    if found.modules and not pooled.is_dense(found.modules):
        names = ", ".join(files.class_of(module) for module in found.modules)
        other = [name for name in map(files.class_of, found.modules) if name in pooled.OTHERS]
        why = f": {other[0]} is not computed here, since {pooled.OTHERS[other[0]]}" if other else ""
        raise found.error(
            f"lists {names:.300}; a dense model is a Transformer, Pooling and what follows{why}",
            MODULES,
        )


def _check_vocabulary(found: Folder) -> None:
    """Raises LoadError for a tokenizer with ids that the encoder does not have."""
    size = found.files.config.get("vocab_size")
    backend = found.tokenizer.tokenizer
    if not isinstance(size, int) or backend.get_vocab_size(with_added_tokens=True) <= size:
        return
    largest = max(backend.get_vocab(with_added_tokens=True).values())
    if largest >= size:
        raise found.error(
            f"says vocab_size {size}, but tokenizer.json has the id {largest}: these are files of "
            "two models",
            found.files.config_name,
        )


def _note_text(found: Folder, name: str) -> None:
    said = {
        "text.tokenizer": name,
        "text.prefix_ids": f"{name}: post_processor",
        "text.suffix_ids": f"{name}: post_processor",
        "text.pad_id": f"{tokenizer_check.CONFIG}: pad_token",
        "text.max_positions": f"{found.files.config_name or name}: max_position_embeddings",
        "graph": found.files.name,
    }
    if found.tokenizer.lowers:
        said["text.lowercase"] = f"{tokenizer_file.TRANSFORMER[0]}: do_lower_case"
    found.sources.update(said)


def identifier(name: str) -> str:
    """`name` as an id: lower-case letters, digits, ".", "_" and "-"."""
    found = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).lstrip("._-")
    return found[:100] or "model"

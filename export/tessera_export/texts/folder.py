"""Read every fact of a text model's folder without torch; a missing fact is an ExportError."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tessera_export import refused
from tessera_export.errors import ExportError
from tessera_export.files import (
    Weights,
    class_of,
    module_folder,
    read_list,
    read_table,
    read_weights,
)
from tessera_export.texts import bge_m3, colbert, layers, prompts, splade, tokenizer_file
from tessera_export.texts.layers import Layer
from tessera_export.texts.tokenizer_file import TokenizerFile
from tessera_onnx.models.spec import Dense, MultiVector, Role, Sparse

Pooling = Literal["cls", "mean", "last"]
KINDS = ("dense", "multi-vector", "sparse")
# Older folders write one boolean a mode, newer ones `pooling_mode`
# (sentence_transformers/sentence_transformer/modules/pooling.py).
OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLINGS: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}


@dataclass(frozen=True, slots=True)
class Facts:
    """A model folder: its weights, its tokenizer and the recipe of each kind that it serves.

    `dataclasses.replace` overrides or adds a recipe, e.g. a multi-vector recipe for a dense model.
    """

    folder: Path
    config: dict[str, Any]
    weights: Weights
    tokenizer: TokenizerFile
    pooling: Pooling | None  # of the dense vector
    dense_layers: tuple[Layer, ...]  # on the pooled vector
    token_layers: tuple[Layer, ...]  # on every token vector
    weight_layers: tuple[Layer, ...]  # on every token vector, to the weight of a sparse recipe
    dense: Dense | None
    multi_vector: MultiVector | None
    sparse: Sparse | None
    trust_remote_code: bool = False
    idf: str = ""  # content of the table of query weights, where the sparse recipe names one

    @property
    def decodes(self) -> bool:
        """Whether the sparse recipe reads a masked language model's vocabulary logits."""
        return self.sparse is not None and not self.weight_layers


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the caller says in place of the folder; None or () = ask the folder."""

    max_length: int | None = None
    query_length: int | None = None
    document_length: int | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    pooling: Pooling | None = None
    matryoshka: tuple[int, ...] = ()
    sparse_head: Literal["graph", "logits"] = "graph"
    trust_remote_code: bool = False  # run the folder's own Python to build the torch model
    known: bool = False  # the catalogue says that it makes vectors


def read(folder: Path, kinds: Collection[str], overrides: Overrides | None = None) -> Facts:
    """The facts of `folder` for the kinds asked for: "dense", "multi-vector", "sparse".

    With no kinds the encoder's facts alone. Raises ExportError naming the fact that is missing,
    ambiguous or of a sort that the graphs cannot compute.
    """
    overrides = overrides or Overrides()
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise ExportError(f"kind {unknown[0]!r} cannot be exported, known are {', '.join(KINDS)}")
    routed, place = _encoder(folder, kinds, overrides)
    config = read_table(place / "config.json")
    if overrides.trust_remote_code:
        _check_code(place)
    weights = read_weights(place)
    refused.check_tensors(folder, weights.shapes)
    tokenizer = tokenizer_file.read(place, config)
    dense, pooling, multi_vector = None, None, None
    dense_layers: tuple[Layer, ...] = ()
    token_layers: tuple[Layer, ...] = ()
    if "dense" in kinds:
        dense, pooling, dense_layers = _dense(folder, config, tokenizer, overrides)
    if "multi-vector" in kinds:
        multi_vector, token_layers = _multi_vector(folder, config, weights, tokenizer, overrides)
    sparse = None
    weight_layers: tuple[Layer, ...] = ()
    if "sparse" in kinds:
        roles = _roles(folder, place, tokenizer, overrides)
        head = bge_m3.head_file(folder, bge_m3.SPARSE)
        if head is None:
            sparse = splade.read(folder, config, roles, overrides.sparse_head, routed)
        else:
            sparse, weight_layers = bge_m3.sparse(folder, head, config, tokenizer, roles)
    facts = Facts(
        folder=place,
        config=config,
        weights=weights,
        tokenizer=tokenizer,
        pooling=pooling,
        dense_layers=dense_layers,
        token_layers=token_layers,
        weight_layers=weight_layers,
        dense=dense,
        multi_vector=multi_vector,
        sparse=sparse,
        trust_remote_code=overrides.trust_remote_code,
    )
    if routed is None:
        return facts
    return with_table(facts, splade.static_table(routed.table, tokenizer))


def _encoder(
    folder: Path, kinds: Collection[str], overrides: Overrides
) -> tuple[splade.Route | None, Path]:
    """The routes of the folder, if it has such, and the folder of its encoder.

    Raises ExportError where that is no embedder.
    """
    refused.check(folder, kinds, known=overrides.known)
    routed = splade.route(folder)
    if routed is not None and set(kinds) != {"sparse"}:
        raise ExportError(f"{folder} routes queries and documents apart: it is of kind sparse only")
    place = folder if routed is None else routed.encoder
    if not (place / "config.json").is_file():
        raise ExportError(f"{place} is not a model folder: it has no config.json")
    if routed is not None:
        refused.check(place, kinds, known=True)
    return routed, place


def _check_code(folder: Path) -> None:
    """Raises ExportError for classes of another repository: nobody pinned or read its code."""
    for path in (folder / "config.json", folder / "tokenizer_config.json"):
        classes = read_table(path).get("auto_map") or {}
        for value in classes.values() if isinstance(classes, dict) else [classes]:
            for name in value if isinstance(value, list) else [value]:
                repository, mark, rest = str(name).partition("--")
                if mark:
                    raise ExportError(
                        f"{path} takes its code from another repository, {repository}, which "
                        "--trust-remote-code does not cover. Where transformers has the "
                        "architecture itself, leave the flag out; else put the .py files that you "
                        f"have read into {folder} and write {rest!r} there"
                    )


def with_table(facts: Facts, table: str) -> Facts:
    """The facts of a sparse model whose queries are looked up in `table`, JSON {token: weight}.

    Special tokens weigh nothing on either side, as in OpenSearch's own code: the runtime puts them
    around queries too. Raises ExportError for a table that is none, or that holds what the
    vocabulary does not.
    """
    if facts.sparse is None:
        raise ExportError("an idf table is for the sparse kind")
    splade.check_table(table, facts.tokenizer)
    special = facts.tokenizer.special_ids
    sparse = replace(facts.sparse, query_weights="idf", idf=splade.IDF, zero_ids=special)
    return replace(facts, sparse=sparse, idf=table)


def _dense(
    folder: Path, config: dict[str, Any], tokenizer: TokenizerFile, overrides: Overrides
) -> tuple[Dense, Pooling, tuple[Layer, ...]]:
    modules = read_list(folder / "modules.json")
    names = [class_of(module) for module in modules]
    after = [name for name in names[2:] if name != "Normalize"]
    if names and (names[:2] != ["Transformer", "Pooling"] or set(after) - {"Dense"}):
        raise ExportError(
            f"{folder / 'modules.json'} lists {', '.join(names)}; a dense model is a Transformer, "
            "Pooling, Dense modules and Normalize"
        )
    stack = tuple(
        layers.dense_layer(folder, module) for module in modules[2:] if class_of(module) == "Dense"
    )
    query, document, plain = _roles(folder, folder, tokenizer, overrides)
    pooling = _pooling(folder, modules, overrides)
    dense = Dense(
        output="sentence_embedding",
        pooling="graph",
        dimension=layers.width(stack, layers.hidden_size(config)),
        matryoshka=overrides.matryoshka,
        matryoshka_layer_norm=False,
        tasks=prompts.read(folder, overrides.query_prompt, overrides.document_prompt).tasks,
        query=query,
        document=document,
        plain=plain,
    )
    return dense, pooling, stack


def _multi_vector(
    folder: Path,
    config: dict[str, Any],
    weights: Weights,
    tokenizer: TokenizerFile,
    overrides: Overrides,
) -> tuple[MultiVector, tuple[Layer, ...]]:
    head = bge_m3.head_file(folder, bge_m3.COLBERT)
    if head is None:
        return colbert.read(
            folder,
            weights,
            tokenizer,
            config,
            said=colbert.Said(
                overrides.query_length,
                overrides.document_length,
                overrides.query_prompt,
                overrides.document_prompt,
            ),
        )
    wanted = (overrides.query_length, overrides.document_length)
    most = tokenizer.text.max_positions
    query, document = (tokenizer_file.max_length(folder, length, most) for length in wanted)
    said = prompts.read(folder, overrides.query_prompt, overrides.document_prompt)
    return bge_m3.multi_vector(head, config, said, query, document)


def _pooling(folder: Path, modules: list[dict[str, Any]], overrides: Overrides) -> Pooling:
    place = module_folder(folder, modules[1]) if modules else folder / "1_Pooling"
    path = place / "config.json"
    config = read_table(path)
    mode = config.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else mode
    if modes is None:
        modes = [name for key, name in OLD_MODES.items() if config.get(key) is True]
    if overrides.pooling is not None:
        modes = [next(name for name, known in POOLINGS.items() if known == overrides.pooling)]
    if not modes:
        raise ExportError(f"pooling is missing: {path} names no mode; give --pooling")
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ExportError(
            f"{path} asks for the pooling {' and '.join(map(str, modes))}; "
            f"known are one of {', '.join(POOLINGS)}"
        )
    # A prompt may stand before the texts of any model, since callers may give one; it never holds
    # the last token.
    if config.get("include_prompt", True) is False and modes != ["lasttoken"]:
        raise ExportError(
            f"{path} leaves the prompt out of the pooling (include_prompt is false), which no "
            "graph here does"
        )
    return POOLINGS[modes[0]]


def _roles(
    folder: Path, place: Path, tokenizer: TokenizerFile, overrides: Overrides
) -> tuple[Role, Role, Role | None]:
    """Query, document and what is neither, where `folder` has a prompt for that; with the length
    of the encoder's folder `place`.
    """
    length = tokenizer_file.max_length(place, overrides.max_length, tokenizer.text.max_positions)
    said = prompts.read(folder, overrides.query_prompt, overrides.document_prompt)
    plain = None if said.default in (None, said.document) else Role(said.default or "", length)
    return Role(said.query, length), Role(said.document, length), plain

"""Read every fact of a text model's folder without torch; a missing fact is an ExportError.

The rules are those of the runtime's reader of foreign folders. What is read here beside them is
what only an export needs: the weights, the layers that the graph computes, and what the caller says
in place of the folder.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tessera_export import refused
from tessera_export.errors import ExportError, as_export_error
from tessera_export.files import Weights, read_table, read_weights
from tessera_export.texts import bge_m3 as heads
from tessera_export.texts import tables
from tessera_onnx.models.foreign import (
    bge_m3,
    colbert,
    colbert_roles,
    layers,
    pooled,
    prompts,
    roles,
    splade,
    tokenizer_file,
    transformer,
)
from tessera_onnx.models.foreign.files import MODULES, class_of, module_folder, read_list
from tessera_onnx.models.foreign.layers import Layer
from tessera_onnx.models.foreign.tokenizer_file import TokenizerFile
from tessera_onnx.models.spec import Dense, MultiVector, Role, Sparse

# What the graphs of an export compute; the runtime pools in further ways.
Pooling = Literal["cls", "mean", "last"]
POOLINGS: tuple[Pooling, ...] = ("cls", "mean", "last")
KINDS = ("dense", "multi-vector", "sparse")
# Outputs of the graphs.
SENTENCE, TOKENS, SPLADE, LOGITS, WEIGHTS = (
    "sentence_embedding", "token_embeddings", "sparse_embedding", "logits", "token_weights",
)  # fmt: skip


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


@as_export_error()
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
    if (folder / MODULES).is_file():
        transformer.check_requirements(folder)
        transformer.check(place, sparse="sparse" in kinds)
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
        sparse, weight_layers = _sparse(folder, config, tokenizer, overrides, routed)
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
    return with_table(facts, tables.static_table(routed.table, tokenizer))


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


@as_export_error()
def with_table(facts: Facts, table: str) -> Facts:
    """The facts of a sparse model whose queries are looked up in `table`, JSON {token: weight}.

    Special tokens weigh nothing on either side, as in OpenSearch's own code: the runtime puts them
    around queries too. Raises ExportError for a table that is none, or that holds what the
    vocabulary does not.
    """
    if facts.sparse is None:
        raise ExportError("an idf table is for the sparse kind")
    tables.check_table(table, facts.tokenizer)
    special = facts.tokenizer.special_ids
    sparse = replace(facts.sparse, query_weights="idf", idf=tables.IDF, zero_ids=special)
    return replace(facts, sparse=sparse, idf=table)


def _dense(
    folder: Path, config: dict[str, Any], tokenizer: TokenizerFile, overrides: Overrides
) -> tuple[Dense, Pooling, tuple[Layer, ...]]:
    modules = read_list(folder / MODULES)
    names = [class_of(module) for module in modules]
    known = pooled.is_dense(modules) and not set(names[2:]) - {"Dense", "Normalize", "Dropout"}
    if modules and not known:
        raise ExportError(
            f"{folder / MODULES} lists {', '.join(names)}; a dense model that is exported is a "
            "Transformer, Pooling, Dense modules and Normalize"
        )
    pooling = _pooling(folder, modules, overrides)
    hidden = layers.hidden_size(config)
    pooled.read_steps(folder, modules, hidden)
    stack = tuple(
        layers.dense_layer(folder, module) for module in modules[2:] if class_of(module) == "Dense"
    )
    query, document, plain = _roles(folder, tokenizer, overrides)
    dense = Dense(
        output=SENTENCE,
        pooling="graph",
        dimension=layers.width(stack, hidden),
        matryoshka=overrides.matryoshka,
        matryoshka_layer_norm=False,
        tasks=prompts.read(folder, overrides.query_prompt, overrides.document_prompt).tasks,
        query=query,
        document=document,
        plain=plain,
    )
    return dense, pooling, stack


def _pooling(folder: Path, modules: list[dict[str, Any]], overrides: Overrides) -> Pooling:
    """The pooling that the caller says, else the folder's, if the graphs compute it."""
    if overrides.pooling is not None:
        if modules:
            path = module_folder(folder, modules[1]) / "config.json"
            name = next(key for key, value in pooled.POOLINGS.items() if value == overrides.pooling)
            pooled.check_prompt(path, read_table(path), [name])
        return overrides.pooling
    if not modules:
        raise ExportError(
            f"pooling is missing: {folder} has no {MODULES} that names it; give --pooling"
        )
    found = pooled.read_modes(folder, modules)
    known = [name for name in POOLINGS if found == (name,)]
    if not known:
        path = module_folder(folder, modules[1]) / "config.json"
        raise ExportError(
            f"{path} asks for the pooling {' and '.join(found)}; exported are one of "
            f"{', '.join(POOLINGS)}"
        )
    return known[0]


def _multi_vector(
    folder: Path,
    config: dict[str, Any],
    weights: Weights,
    tokenizer: TokenizerFile,
    overrides: Overrides,
) -> tuple[MultiVector, tuple[Layer, ...]]:
    hidden = layers.hidden_size(config)
    said = colbert_roles.Said(
        overrides.query_length,
        overrides.document_length,
        overrides.query_prompt,
        overrides.document_prompt,
    )
    file = heads.head_file(folder, heads.COLBERT)
    if file is not None:
        stack: tuple[Layer, ...] = (heads.head(file, hidden),)
        lengths = [tokenizer_file.max_length(tokenizer, length) for length in said[:2]]
        before = prompts.read(folder, said.query_prompt, said.document_prompt, ask=True)
        recipe = bge_m3.multi_vector(layers.width(stack, hidden), before, *lengths)
        return replace(recipe, output=TOKENS), stack
    layout = colbert.layout(folder)
    if layout == "plaid":  # of a graph, which is none of torch's
        layout = None
    if layout is not None:
        stack = _projection(folder, layout, weights)
    read = colbert.read_roles(folder, tokenizer, said, layout, ask=True)
    if read.fill is not None or read.query.expansion_length is not None:
        raise ExportError(
            "query_expansion fills queries with another token than the mask token, or has the "
            "strategy min; known is mask tokens to a fixed length"
        )
    dimension = layers.width(stack, hidden)
    colbert.check_dimension(folder, dimension)
    return replace(colbert.recipe(folder, read, dimension), output=TOKENS), stack


def _projection(folder: Path, layout: colbert.Layout, weights: Weights) -> tuple[Layer, ...]:
    if layout == "stanford":
        return (layers.stanford_layer(weights),)
    modules = colbert.dense_modules(folder, layout)
    return tuple(layers.dense_layer(folder, module) for module in modules)


def _sparse(
    folder: Path,
    config: dict[str, Any],
    tokenizer: TokenizerFile,
    overrides: Overrides,
    routed: splade.Route | None,
) -> tuple[Sparse, tuple[Layer, ...]]:
    found = _roles(folder, tokenizer, overrides)
    file = heads.head_file(folder, heads.SPARSE)
    if file is None:
        sparse = splade.read(folder, config, found, routed)
        head = overrides.sparse_head
        return replace(sparse, output=LOGITS if head == "logits" else SPLADE, head=head), ()
    layer = heads.head(file, layers.hidden_size(config))
    if layer.out_features != 1:
        raise ExportError(f"{file} gives {layer.out_features} numbers a token, it must give one")
    sparse = bge_m3.sparse([folder], config, tokenizer, found)
    return replace(sparse, output=WEIGHTS), (layer,)


def _roles(
    folder: Path, tokenizer: TokenizerFile, overrides: Overrides
) -> tuple[Role, Role, Role | None]:
    """Query, document and what is neither, where `folder` has a prompt for that."""
    return roles.read(
        folder,
        tokenizer,
        max_length=overrides.max_length,
        query_prompt=overrides.query_prompt,
        document_prompt=overrides.document_prompt,
        ask=True,
    )

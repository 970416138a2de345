"""Make the recipes of token vectors and sparse vectors from the files of a foreign folder."""

from __future__ import annotations

import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

from tessera_onnx.errors import LoadError
from tessera_onnx.models import rules
from tessera_onnx.models.foreign import (
    bge_m3,
    colbert,
    dense,
    layers,
    opened,
    pooled,
    prompts,
    splade,
    tokenizer_check,
    tokenizer_file,
)
from tessera_onnx.models.foreign.colbert_roles import METADATA, PLAID, Said
from tessera_onnx.models.foreign.files import (
    MODULES,
    SETTINGS,
    headers,
    is_file,
    read_numbers,
    read_table,
)
from tessera_onnx.models.foreign.found import Folder
from tessera_onnx.models.foreign.graph_io import Port
from tessera_onnx.models.foreign.splade import Route
from tessera_onnx.models.output_names import ENCODERS
from tessera_onnx.models.spec import Dense, Kind, Module, MultiVector, Role, Sparse


def multi_vector(found: Folder) -> tuple[MultiVector, tuple[str, ...], int | None]:
    """The recipe of token vectors, the files of its modules, and the id of expansion tokens where
    that is not the mask token's. Raises LoadError.
    """
    layout = colbert.layout(found.path)
    if layout in ("own", "pylate") and not found.modules and PLAID not in found.files.sizes:
        raise found.error(
            "is missing, which says what follows the encoder: download the whole folder", MODULES
        )
    read = colbert.read_roles(found.path, found.tokenizer, Said(), layout, found.sources)
    hidden, stack = found.hidden, []
    modules = [] if layout in (None, "stanford", "plaid") else found.modules
    if modules:
        listed = colbert.dense_modules(found.path, typing.cast("colbert.Layout", layout))
        stack = [(module, layers.dense_settings(found.path, module)) for module in listed]
        hidden = stack[0][1].in_features if stack and hidden is None else hidden
        if hidden is None:
            raise found.error("does not say hidden_size", "config.json")
        dimension = layers.width(tuple(layer for _, layer in stack), hidden)
        found.sources["multi_vector.dimension"] = "modules.json: Dense"
    else:
        dimension = _projected(found)
    colbert.check_dimension(found.path, dimension)
    opened.check_sizes(found.files, hidden, dimension, found.files.config_name or "modules.json")
    recipe = colbert.recipe(found.path, read, dimension, found.sources)
    if layout == "stanford" and _is_encoder(found, dimension):
        part = _projection(found, dimension)
        return replace(recipe, modules=(part,)), (part.file,), read.fill
    if not stack or _is_inside(found, dimension, hidden):
        _check_plaid(found, stack)
        return recipe, (), read.fill
    steps = [pooled.Step("dense", module, layer, layer.out_features) for module, layer in stack]
    parts = tuple(dense.weighted(found, step) for step in steps)
    found.sources["multi_vector.modules"] = "modules.json"
    return replace(recipe, modules=parts), tuple(part.file for part in parts), read.fill


def _projected(found: Folder) -> int:
    """The dimension of a ColBERT whose projection is inside the graph, as in Stanford's layout."""
    for name, key in ((METADATA, "dim"), (PLAID, "embedding_dim")):
        size = read_table(found.path / name).get(key)
        if isinstance(size, int) and not isinstance(size, bool) and size > 0:
            found.sources["multi_vector.dimension"] = f"{name}: {key}"
            return size
    if found.files.io is None:
        raise found.not_here("the size of the token vectors", found.files.name)
    sizes = {
        port.dims[-1]
        for port in found.files.states()
        if port.name not in ENCODERS and isinstance(port.dims[-1], int)
    }
    if len(sizes) == 1:
        found.sources["multi_vector.dimension"] = f"{found.files.name}: its output"
        return int(sizes.pop())
    raise found.error(
        "does not say the size of its token vectors: its artifact.metadata has no dim, and the "
        "graph leaves the size open",
        METADATA,
    )


def _is_encoder(found: Folder, dimension: int) -> bool:
    """Whether the graph gives only states of the encoder, which have another size."""
    sizes = [port.dims[-1] for port in found.files.states()]
    return bool(sizes) and all(size == found.hidden != dimension for size in sizes)


def _projection(found: Folder, dimension: int) -> Module:
    """Stanford's projection, which lies among the weights of the encoder."""
    name = found.files.name_of(found.files.places[0] / "model.safetensors")
    path = found.path / name
    if name in found.files.sizes and not is_file(path):
        raise found.not_here("the projection of the token vectors", name)
    if not is_file(path):
        raise found.error(
            f"gives the {found.hidden} numbers a token of the encoder, and the projection to "
            f"{dimension} (linear.weight) is in no model.safetensors of the folder: export the "
            "model with tessera-export",
            found.files.name,
        )
    layer = layers.stanford_layer(headers([path]))
    layers.width((layer,), found.hidden or 0)
    if layer.out_features != dimension:
        raise found.error(
            f"projects to {layer.out_features} numbers, {METADATA} says {dimension}",
            name,
        )
    found.sources["multi_vector.modules"] = f"{name}: linear.weight"
    return Module("dense", name, "identity", residual=False, dimension=dimension)


def _is_inside(found: Folder, dimension: int, hidden: int | None) -> bool:
    """Whether the graph itself has the Dense modules, as far as its outputs tell."""
    sizes = {port.name: port.dims[-1] for port in found.files.states()}
    if not sizes or dimension == hidden or set(sizes) & set(ENCODERS):
        return False
    return all(size == dimension for size in sizes.values())


def _check_plaid(found: Folder, stack: list[tuple[dict[str, Any], layers.Layer]]) -> None:
    """Raises LoadError for a graph of next-plaid, whose export drops activations and residuals."""
    lost = [layer for _, layer in stack if layer.residual or layer.activation != "Identity"]
    if lost and PLAID in found.files.sizes:
        raise found.error(
            f"was exported by next-plaid ({PLAID}), which leaves out the activation "
            f"or the residual of {lost[0].file.parent.name}: export the model with tessera-export",
            found.files.name,
        )


def sparse(found: Folder, routed: Route | None) -> tuple[Sparse, tuple[str, ...]]:
    """The recipe of a weight a vocabulary entry, and its further files. Raises LoadError."""
    read = found.roles("sparse")
    recipe = splade.read(found.path, found.files.config, read, routed, found.sources)
    most = found.settings.get("max_active_dims")
    if most is not None:
        raise found.error(
            f"has the max_active_dims {most!r:.40}, which is not read from a folder: set it to "
            "null there, and give max_active_dims= where vectors are made",
            SETTINGS,
        )
    _check_logits(found, recipe.vocab_size)
    if routed is None:
        if "idf.json" in found.files.sizes:
            raise found.error(
                "weighs the tokens of queries, but no modules.json with a Router says that queries "
                "are looked up in it: download that too",
                "idf.json",
            )
        return recipe, ()
    table, place = "model.safetensors", routed.table
    name = found.files.name_of(place / table)
    if name not in found.files.sizes:
        name = found.files.name_of(place / "idf.json")
    config = read_table(place / "config.json").get("path")
    if name not in found.files.sizes and isinstance(config, str) and config in found.files.sizes:
        name = config
    if name not in found.files.sizes:
        raise found.error("has no model.safetensors with the query's weights", str(place.name))
    _check_special(found, found.path / name)
    found.sources["sparse.query_weights"] = f"{name}: weight"
    query = replace(recipe.query, max_length=_looked_up_length(found, place, recipe.query))
    return replace(recipe, query_weights="idf", idf=name, query=query), (name,)


def gives_states(found: Folder) -> bool:
    """Whether the graph gives states of the encoder and, as far as it tells, nothing else."""
    states = found.files.states()
    return any(port.name in ENCODERS for port in states) and not any(
        port.name == "logits" for port in states
    )


def _check_logits(found: Folder, vocabulary: int) -> None:
    """Raises LoadError for a graph that gives no number a vocabulary entry."""
    ports = [port for port in found.files.outputs() if len(port.dims) in (2, 3)]
    sizes = {port.name: port.dims[-1] for port in ports}
    known = [size for size in sizes.values() if isinstance(size, int) and size != vocabulary]
    if ports and len(known) == len(sizes):
        listed = ", ".join(f"{size} ({name:.80})" for name, size in sizes.items())
        raise found.error(
            f"gives {listed:.300} numbers, and none for each of the {vocabulary} entries of the "
            "vocabulary that config.json says: it lacks the model's head (export it with the task "
            "fill-mask), or these are files of two models",
            found.files.name,
        )


def _looked_up_length(found: Folder, place: Path, query: Role) -> int:
    """The longest query that is looked up: the table's own tokenizer cuts it, without the special
    tokens that are put around every text here.
    """
    length, _ = tokenizer_check.configured((place, *found.tokenizer.places), "model_max_length")
    text = found.tokenizer.text
    if isinstance(length, bool) or not isinstance(length, int | float) or length < 1:
        return query.max_length
    around = len(text.prefix_ids) + len(text.suffix_ids)
    return min(int(min(length, tokenizer_file.MOST)) + around, rules.MAX_LENGTH)


def _check_special(found: Folder, path: Path) -> None:
    """Raises LoadError for a table with a weight for a token that is put around each text.

    Upstream looks queries up without those tokens; here they are around every text.
    """
    text = found.tokenizer.text
    ids = (*text.prefix_ids, *text.suffix_ids)
    if path.suffix != ".safetensors":
        return
    for number, weight in zip(ids, read_numbers(path, "weight", ids), strict=True):
        if weight:
            raise LoadError(
                f"{path} gives the special token {number} the weight {weight:.4g}, which stands "
                "around every query here and around none upstream",
                path=str(path),
            )


def bge(found: Folder) -> dict[Kind, Dense | Sparse | MultiVector]:
    """The recipes of a graph with several outputs, by kind: {} for another graph.

    Its outputs are named as FlagEmbedding names the vectors of bge-m3.
    """
    outputs = {kind: found.files.output(names) for kind, names in bge_m3.OUTPUTS.items()}
    vector, weights, tokens = (outputs[kind] for kind in ("dense", "sparse", "multi-vector"))
    if vector is None or (weights is None and tokens is None):
        return {}
    recipes: dict[Kind, Dense | Sparse | MultiVector] = {}
    query, document, plain = found.roles("dense")
    before = prompts.read(found.path)
    recipes["dense"] = Dense(
        output=vector.name,
        pooling="graph",
        dimension=_size(found, vector),
        matryoshka=(),
        matryoshka_layer_norm=False,
        tasks=before.tasks,
        query=query,
        document=document,
        plain=plain,
    )
    found.sources["dense.pooling"] = f"{found.files.name}: output {vector.name}"
    if weights is not None:
        config, places = found.files.config, found.files.places
        recipe = bge_m3.sparse(places, config, found.tokenizer, found.roles("sparse"))
        recipes["sparse"] = replace(recipe, output=weights.name)
        found.sources["sparse.head"] = f"{found.files.name}: output {weights.name}"
    if tokens is not None:
        length = tokenizer_file.max_length(found.tokenizer)
        made = bge_m3.multi_vector(_size(found, tokens), before, length, length)
        recipes["multi-vector"] = replace(made, output=tokens.name)
        found.sources["multi_vector.output"] = f"{found.files.name}: output {tokens.name}"
    return recipes


def _size(found: Folder, port: Port) -> int:
    """The size of the vectors of an output: that of the graph, else the encoder's."""
    size = port.dims[-1] if port.dims else None
    size = size if isinstance(size, int) else found.hidden
    if size is None:
        raise found.error(f"does not tell the size of {port.name}", found.files.name)
    return size

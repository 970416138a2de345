"""Make the recipe of one vector a text from the files of a foreign folder."""

from __future__ import annotations

import typing

from tessera_onnx.errors import ConfigError, LoadError
from tessera_onnx.models.foreign import layers, opened, pooled, prompts
from tessera_onnx.models.foreign.files import SETTINGS
from tessera_onnx.models.foreign.found import Folder
from tessera_onnx.models.output_names import ENCODERS
from tessera_onnx.models.spec import Dense, Module, Pooling, Similarity

SIMILARITIES: tuple[Similarity, ...] = typing.get_args(Similarity)
CHOICES: tuple[Pooling, ...] = typing.get_args(Pooling)
MULTI_VECTOR_SCORES = ("maxsim", "meanmaxsim")


def read(found: Folder, pooling: Pooling | None) -> tuple[Dense, tuple[str, ...]]:
    """The recipe of one vector a text, and the files of its modules. Raises LoadError."""
    if found.modules:
        return _listed(found, pooling)
    if pooled_alone(found) and pooling is not None:
        raise ConfigError(
            f"pooling={pooling!r} is for graphs that give a state a token, and "
            f"{found.path / found.files.name} gives the vector of a text: leave pooling out"
        )
    recipe = _unlisted(found, pooling)
    opened.check_sizes(found.files, found.hidden, recipe.dimension, found.files.config_name)
    return recipe, ()


def pooled_alone(found: Folder) -> bool:
    """Whether the graph is here, gives the vector of a text and no states of tokens."""
    return found.files.pooled() is not None and not found.files.states()


def _listed(found: Folder, pooling: Pooling | None) -> tuple[Dense, tuple[str, ...]]:
    """The recipe of a folder whose modules.json lists a Transformer, Pooling and what follows."""
    modes = pooled.read_modes(found.path, found.modules, found.sources, pooling)
    source = found.sources["dense.pooling"]
    if pooling is not None and modes != (pooling,):
        raise ConfigError(
            f"pooling={pooling!r} contradicts {source} of {found.path}, which is "
            f"{' and '.join(modes)}: leave pooling out"
        )
    size = pooled.pooled_size(found.path, found.modules)
    where = source.partition(":")[0]
    if size is None and found.hidden is None:
        raise found.error("does not say embedding_dimension", where)
    if size is not None and found.hidden is not None and size != found.hidden:
        raise found.error(
            f"pools states of {size} numbers, but {found.files.config_name} says the hidden size "
            f"{found.hidden}: these are files of two models",
            where,
        )
    size = size or found.hidden or 0
    steps = pooled.read_steps(found.path, found.modules, size * len(modes))
    dimension = steps[-1].dimension if steps else size * len(modes)
    opened.check_sizes(found.files, size, dimension, where)
    modules, names = _modules(found, steps)
    cut = _truncation(found, dimension)
    if cut is not None:
        # None is L2 alone; () is none at all, and such a vector is cut as it is.
        modules = (*((_step("normalize", dimension),) if modules is None else modules), cut)
        dimension = cut.dimension
    query, document, plain = found.roles("dense")
    found.sources["dense.modules"] = "modules.json"
    if cut is None:
        said = names[-1] if names else f"{where}: embedding_dimension"
        found.sources["dense.dimension"] = said
    recipe = Dense(
        output="",
        pooling=modes[0],
        dimension=dimension,
        matryoshka=(),
        matryoshka_layer_norm=False,
        tasks=prompts.read(found.path).tasks,
        query=query,
        document=document,
        plain=plain,
        further_poolings=modes[1:] or None,
        modules=modules,
        similarity=_similarity(found),
    )
    return recipe, names


def _modules(
    found: Folder, steps: tuple[pooled.Step, ...]
) -> tuple[tuple[Module, ...] | None, tuple[str, ...]]:
    """The modules after the pooling and their files. None = L2 alone, which needs no list."""
    kept = [step for step in steps if step.type != "dropout"]
    if [step.type for step in kept] == ["normalize"]:
        return None, ()
    modules, names = [], []
    for step in kept:
        if step.type == "normalize":
            modules.append(_step("normalize", step.dimension))
            continue
        modules.append(weighted(found, step))
        names.append(modules[-1].file)
    return tuple(modules), tuple(names)


def weighted(found: Folder, step: pooled.Step) -> Module:
    """A Dense or LayerNorm module with the name of its weights, whose shapes are checked."""
    size = (step.dimension,)
    tensors: dict[str, tuple[int, ...]] = {"norm.weight": size, "norm.bias": size}
    if step.layer is not None:
        tensors = step.layer.tensors()
    file = layers.module_weights(found.path, step.module, tensors, found.files.sizes)
    if step.layer is None:
        return Module("layer-norm", file, "identity", residual=False, dimension=step.dimension)
    activation = layers.ACTIVATIONS[step.layer.activation]
    return Module("dense", file, activation, step.layer.residual, step.dimension)


def _step(name: typing.Literal["normalize", "truncate"], dimension: int) -> Module:
    return Module(name, "", "identity", residual=False, dimension=dimension)


def _truncation(found: Folder, dimension: int) -> Module | None:
    """The cut of the finished vector, which upstream does not normalise again."""
    size = found.settings.get("truncate_dim")
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise found.error(f"has the truncate_dim {size!r:.40}, which is no size", SETTINGS)
    if size >= dimension:
        return None
    found.sources["dense.dimension"] = f"{SETTINGS}: truncate_dim"
    return _step("truncate", size)


def _similarity(found: Folder) -> Similarity | None:
    name = found.settings.get("similarity_fn_name")
    # Upstream ignores a name of another kind, and takes the cosine.
    if name is None or name in MULTI_VECTOR_SCORES:
        return None
    if name not in SIMILARITIES:
        raise found.error(
            f"has the similarity_fn_name {name!r:.80}, known are {', '.join(SIMILARITIES)}",
            SETTINGS,
        )
    found.sources["dense.similarity"] = f"{SETTINGS}: similarity_fn_name"
    return typing.cast("Similarity", name)


def _unlisted(found: Folder, pooling: Pooling | None) -> Dense:
    """The recipe of a folder without modules.json: the caller's pooling, or the graph's own.

    A graph that pools makes the vector as it is, with all modules of the model: its size need not
    be that of the states, and it is not normalised again. A dimension of 0 is that of the graph.
    """
    query, document, plain = found.roles("dense")
    port = found.files.pooled() if pooling is None else None
    output, size = "", found.hidden
    if pooling is not None:
        found.sources["dense.pooling"] = "pooling="
        states = [port for port in found.files.states() if port.name in ENCODERS]
        if size is None and len(states) == 1 and isinstance(states[0].dims[-1], int):
            size = states[0].dims[-1]
    elif port is not None:
        output = port.name
        size = port.dims[-1] if isinstance(port.dims[-1], int) else None
        found.sources["dense.pooling"] = f"{found.files.name}: output {output}"
    elif found.files.io is None:
        found.sources["dense.pooling"] = f"{found.files.name}, which is not here yet, or pooling="
    else:
        raise _no_pooling(found)
    said = found.files.config_name or found.files.name
    found.sources["dense.dimension"] = f"{said}: hidden_size" if size == found.hidden else said
    return Dense(
        output=output,
        pooling=pooling or "graph",
        dimension=size or 0,
        matryoshka=(),
        matryoshka_layer_norm=False,
        tasks=prompts.read(found.path).tasks,
        query=query,
        document=document,
        plain=plain,
        modules=() if pooling is None else None,
        similarity=_similarity(found),
    )


def _no_pooling(found: Folder) -> LoadError:
    """The error for a folder that does not say how a vector is made of the states."""
    code = found.files.config.get("auto_map")
    why = "it has no modules.json of sentence-transformers"
    if "1_Pooling/config.json" in found.files.sizes:
        why = (
            "it has 1_Pooling and no modules.json, which says what follows the pooling: download "
            "that too"
        )
    elif code:
        why = (
            "its vectors are made by Python code of a repository (auto_map in config.json), which "
            "is not run"
        )
    return found.error(
        f"does not say how a vector is made of the states of tokens: pooling is missing, since "
        f"{why}. Give pooling= as the model's authors say, one of {', '.join(CHOICES)}"
    )

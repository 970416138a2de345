"""Check what the types of a model's tables cannot express: ranges, and which facts go together."""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Sequence
from pathlib import Path

from tessera_onnx.errors import ConfigError, LoadError
from tessera_onnx.models import rules_pairs, rules_words
from tessera_onnx.models.parse import build_table, field_types
from tessera_onnx.models.spec import (
    KIND_TABLES,
    PRECISIONS,
    UNPINNED,
    Dense,
    Graph,
    ModelSpec,
    Module,
    MultiVector,
    Precision,
    Role,
    Sparse,
    Static,
    Task,
    TokenizerSpec,
    TokenRole,
    roles_of,
)
from tessera_onnx.models.spec_media import ImagePrompt, ImageSpec, TimeSeries, Vision

MAX_LENGTH = 1 << 20  # tokens of a text, values of a series, steps
MAX_VOCABULARY = 1 << 24
MAX_PIXELS = 1 << 24  # that an image is enlarged to; Qwen2-VL's own limit is 12.8 million
MAX_TILES = 1 << 10
# Recipes that run a graph: a model with one of these tables must have [model.graph] too.
GRAPH_TABLES = {"dense", "multi_vector", "sparse", "reranker", "vision", "time_series"}


def required_tables(entry: object) -> set[str]:
    """Tables that are optional in ModelSpec, and that this entry must have because of others."""
    if not isinstance(entry, dict) or {"static", "lexical"} & entry.keys():
        return set()
    return {"graph"} if GRAPH_TABLES & entry.keys() else set()


def check_precision(spec: ModelSpec, precision: Precision) -> None:
    """Raises ConfigError unless the model has a graph of that precision."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}")
    if spec.graph is None:
        raise ConfigError(f"model {spec.id!r} has no graph: leave precision out")
    if precision not in spec.precisions():
        raise ConfigError(
            f"model {spec.id!r} has no {precision} graph, only "
            f"{', '.join(spec.precisions())}: export it with --precision {precision}"
        )


def check_length(role: Role | TokenRole, text: TokenizerSpec, where: str) -> None:
    """Raises LoadError unless max_length holds the special tokens and at least one more."""
    markers = len(role.marker_ids) if isinstance(role, TokenRole) else 0
    least = len(text.prefix_ids) + markers + len(text.suffix_ids) + 1
    most = text.fixed_length or text.max_positions
    if not least <= role.max_length <= most:
        raise LoadError(f"{where}: max_length {role.max_length} must lie in {least}..{most}")


def check_model(spec: ModelSpec, where: str) -> None:
    """Raises LoadError, which begins with `where`, unless the facts of a model go together."""
    _check_identity(spec, where)
    tables = {kind for kind, table in KIND_TABLES.items() if getattr(spec, table) is not None}
    if tables != set(spec.kinds) or not spec.kinds:
        found = f"{where}: kinds {list(spec.kinds)!s:.80} but tables for {sorted(tables)}"
        raise LoadError(found + _lacking(spec))
    if spec.graph is not None:
        _check_graph(spec.graph, where)
    if spec.static is not None:
        _check_static(spec, spec.static, where)
    rules_words.check(spec, where)
    if spec.sparse is not None and spec.lexical is None:
        _check_sparse(spec.sparse, f"{where}.sparse")
    _check_text(spec, where)
    if spec.reranker is not None:
        rules_pairs.check_reranker(spec, spec.reranker, f"{where}.reranker")
        _check_steps(spec.reranker.modules or (), f"{where}.reranker")
    if spec.vision is not None:
        _check_vision(spec, spec.vision, f"{where}.vision")
    if spec.time_series is not None:
        _check_series(spec, spec.time_series, f"{where}.time_series")


def _check_graph(graph: Graph, where: str) -> None:
    if not graph.precisions():
        raise LoadError(f"{where}: graph names no file in any precision")
    for name in (graph.best_cpu, graph.best_cuda, graph.best_coreml):
        if not getattr(graph, name):
            raise LoadError(f"{where}: graph has no {name} file although it is a device's best")


def _check_static(spec: ModelSpec, table: Static, where: str) -> None:
    dense, text = spec.dense, spec.text
    if spec.graph is not None or spec.kinds != ("dense",) or dense is None:
        raise LoadError(
            f"{where}: static goes with the kind dense alone, and takes a graph's place"
        )
    if dense.output or dense.pooling != "graph" or dense.further_poolings:
        raise LoadError(
            f'{where}: a static model has the output "" and the pooling "graph": its table pools'
        )
    if text is not None and (text.prefix_ids or text.suffix_ids or text.fixed_length):
        raise LoadError(f"{where}: a static model has no prefix_ids, suffix_ids and fixed_length")
    if not table.rows or min(table.drop_ids, default=0) < 0:
        raise LoadError(f"{where}.static: rows names a tensor, and drop_ids are not negative")
    if not 0 <= table.characters_per_token <= MAX_LENGTH:
        raise LoadError(f"{where}.static: characters_per_token must lie in 0..{MAX_LENGTH}")


def _lacking(spec: ModelSpec) -> str:
    """The end of a message: the fields of the tables that the kinds of a model need and lack."""
    names = [KIND_TABLES[kind] for kind in spec.kinds]
    needs_text = {"dense", "multi_vector", "sparse", "reranker"} & set(names)
    names += ["text"] if spec.lexical is None and needs_text else []
    model: typing.Any = type(spec)
    hints = field_types(model)
    facts: list[str] = []
    for name in names:
        if getattr(spec, name) is None:
            build_table(typing.get_args(hints[name])[0], {}, f"[model.{name}]", facts)
    return f": {'; '.join(facts)}" if facts else ""


def _check_sparse(recipe: Sparse, where: str) -> None:
    hashed = recipe.head in {"attention", "states"}
    if not 1 <= recipe.vocab_size <= MAX_VOCABULARY and not hashed:
        raise LoadError(f"{where}: vocab_size must lie in 1..{MAX_VOCABULARY}")
    if (recipe.query_weights == "idf") != bool(recipe.idf):
        raise LoadError(f"{where}: query_weights 'idf' and the idf file go together")
    ids = recipe.zero_ids
    if ids and (min(ids) < 0 or max(ids) >= recipe.vocab_size):
        raise LoadError(f"{where}: zero_ids must lie in 0..{recipe.vocab_size - 1}")


def _check_vision(spec: ModelSpec, recipe: Vision, where: str) -> None:
    if len(spec.kinds) > 1:
        raise LoadError(f"{where}: its graph serves no other kind")
    language = recipe.tile_graph is not None
    if (recipe.token_graph is not None) != language:
        raise LoadError(f"{where}: tile_graph and token_graph go together")
    if [language, recipe.text_graph is not None, recipe.text_model != ""].count(True) != 1:
        raise LoadError(f"{where}: texts are read by the graph, by text_graph or by text_model")
    if (recipe.prompt is not None) != language:
        raise LoadError(f"{where}: prompt, tile_graph and token_graph go together")
    if recipe.prompt is not None:
        _check_prompt(recipe.prompt, recipe.image, f"{where}.prompt")
    for part in recipe.parts():
        if any(bool(getattr(part, p)) != bool(getattr(spec.graph, p)) for p in PRECISIONS):
            raise LoadError(f"{where}: every graph has a file in the same precisions")
    _check_query(spec, recipe, where)
    _check_image(recipe.image, f"{where}.image")


def _check_query(spec: ModelSpec, recipe: Vision, where: str) -> None:
    own = recipe.text_model == ""
    if (recipe.query is not None, spec.text is not None) != (own, own):
        raise LoadError(f"{where}: [model.text] and query go together, and not with text_model")
    if recipe.query is not None and spec.text is not None:
        most = spec.text.fixed_length or spec.text.max_positions
        if not 1 <= recipe.query.max_length <= most:
            raise LoadError(f"{where}.query: max_length must lie in 1..{most}")


def _check_prompt(prompt: ImagePrompt, image: ImageSpec, where: str) -> None:
    if prompt.text.count("{image}") != 1 or not prompt.token:
        raise LoadError(f"{where}: text must hold {{image}} once, and token must not be empty")
    if bool(prompt.tile) != (image.resize == "tiles"):
        raise LoadError(f"{where}: tile goes with images that are cut into tiles")
    if not prompt.tile and (prompt.row_end or prompt.grid_end):
        raise LoadError(f"{where}: row_end and grid_end go with tile")


def _check_image(image: ImageSpec, where: str) -> None:
    if not 1 <= image.size <= 4096 or not 0 <= image.longest <= 16384:
        raise LoadError(f"{where}: size must lie in 1..4096, longest in 0..16384")
    if image.resize == "tiles" and image.longest > 4096:
        raise LoadError(f"{where}: the longest edge of tiles together is at most 4096")
    if image.tokens < 0 or math.isqrt(image.tokens) ** 2 != image.tokens:
        raise LoadError(f"{where}: tokens must be a square number, as the patches of a square are")
    if (image.tokens == 0) != (image.resize in {"dynamic", "fit"}):
        raise LoadError(f"{where}: tokens is 0 with dynamic and fit, and only there")
    if len(image.mean) != 3 or len(image.std) != 3:
        raise LoadError(f"{where}: mean and std have three numbers")
    if not all(abs(n) <= 1e3 for n in image.mean) or not all(1e-6 <= n <= 1e3 for n in image.std):
        raise LoadError(f"{where}: mean lies in -1000..1000, std in 0.000001..1000")
    if (image.longest > 0) != (image.resize in {"tiles", "fit"}):
        raise LoadError(f"{where}: longest goes with tiles and fit")
    if (0 < image.least_pixels <= image.most_pixels) != (image.resize == "dynamic"):
        raise LoadError(f"{where}: least_pixels and most_pixels go with dynamic")
    if image.letters is not None and (image.resize != "fit" or not 4 <= image.letters <= 512):
        raise LoadError(f"{where}: letters lie in 4..512 and go with fit")
    _check_room(image, where)


def _check_room(image: ImageSpec, where: str) -> None:
    """Bound the size of the resized image and the number of its tiles, for images of any size."""
    if image.most_pixels > MAX_PIXELS:
        raise LoadError(f"{where}: most_pixels is at most {MAX_PIXELS}")
    cells = max(image.longest**2, image.most_pixels) // image.size**2
    if cells > (MAX_TILES if image.resize == "tiles" else MAX_LENGTH):
        raise LoadError(f"{where}: size is too small, an image would have {cells} cells or tiles")


def _check_series(spec: ModelSpec, recipe: TimeSeries, where: str) -> None:
    if len(spec.kinds) > 1:
        raise LoadError(f"{where}: its graph serves no other kind")
    _check_levels(recipe, where)
    if min(recipe.patch_size, recipe.output_patch_size) < 1:
        raise LoadError(f"{where}: patch sizes are at least 1")
    if recipe.reads is not None and (recipe.arcsinh or recipe.time_scale != -1):
        raise LoadError(f"{where}: arcsinh and time_scale are for patches")
    lengths = (recipe.context_length, recipe.output_patch_size)
    if max(*lengths, recipe.prediction_length) > MAX_LENGTH:
        raise LoadError(f"{where}: context, output patch and prediction are up to {MAX_LENGTH}")
    # A window need not be whole patches: upstream's graph leaves out its first values.
    is_window = recipe.reads == "window"
    in_patches = is_window or not any(length % recipe.patch_size for length in lengths)
    if min(lengths) < 1 or not in_patches:
        raise LoadError(f"{where}: context and output patch are whole numbers of patches")
    n_patches, rest = divmod(recipe.prediction_length, recipe.output_patch_size)
    if rest or n_patches < 1:
        raise LoadError(f"{where}: prediction_length must be what the output patches cover")
    if recipe.time_scale != -1 and recipe.time_scale < 1:
        raise LoadError(f"{where}: time_scale is at least 1, or -1 for patches without time")


def _check_levels(recipe: TimeSeries, where: str) -> None:
    levels, paths = recipe.quantiles, recipe.rollout_quantiles
    if recipe.point is not None:
        if levels or paths:
            raise LoadError(f"{where}: a model with a point has no quantiles and rollout_quantiles")
    elif list(levels) != sorted(set(levels)) or not 0 < min(levels, default=0) <= max(levels) < 1:
        raise LoadError(f"{where}: quantiles must rise strictly within 0 and 1")
    elif 0.5 not in levels or not set(paths) <= set(levels):
        raise LoadError(f"{where}: quantiles must hold 0.5 and the rollout_quantiles")
    if len(set(paths)) != len(paths):  # each level runs a copy of all series
        raise LoadError(f"{where}: rollout_quantiles holds a level twice")
    if recipe.reads is None and not (paths or recipe.point):
        raise LoadError(f"{where}: rollout_quantiles is not empty for a model of patches")


def _check_text(spec: ModelSpec, where: str) -> None:
    recipes = spec.text_recipes().values()
    if spec.text is None:
        if (recipes and spec.lexical is None) or spec.reranker is not None:
            raise LoadError(f"{where}: a text model needs a [model.text] table")
        return
    if min(spec.text.pad_id, *spec.text.prefix_ids, *spec.text.suffix_ids, 0) < 0:
        raise LoadError(f"{where}.text: token ids are not negative")
    if not 1 <= spec.text.max_positions <= MAX_LENGTH:
        raise LoadError(f"{where}.text: max_positions must lie in 1..{MAX_LENGTH}")
    if not 0 <= spec.text.fixed_length <= spec.text.max_positions:
        raise LoadError(f"{where}.text: fixed_length must lie in 0..{spec.text.max_positions}")
    for recipe in recipes:
        _check_recipe(recipe, spec.text, where)
    _check_tasks(spec, where)


def _check_recipe(recipe: Dense | MultiVector | Sparse, text: TokenizerSpec, where: str) -> None:
    if not isinstance(recipe, Sparse) and any(
        not 0 < size <= recipe.dimension for size in recipe.matryoshka
    ):
        raise LoadError(f"{where}: matryoshka sizes must lie in 1..{recipe.dimension}")
    if not isinstance(recipe, Sparse):
        _check_modules(recipe, where)
    around = len(text.prefix_ids) + len(text.suffix_ids)
    if isinstance(recipe, MultiVector) and recipe.drop_first and around < 2:
        raise LoadError(f"{where}: drop_first would leave an empty text without any row")
    for role in roles_of(recipe):
        # A query that is looked up runs through no graph, which would bound its length.
        if role is not recipe.query or not isinstance(recipe, Sparse) or not recipe.idf:
            check_length(role, text, where)
        if isinstance(role, TokenRole):
            _check_expansion(role, text, where)


def _check_expansion(role: TokenRole, text: TokenizerSpec, where: str) -> None:
    expands = role.expansion != "none"
    if expands and text.mask_id < 0:
        raise LoadError(f"{where}: expansion needs a mask_id")
    length = role.expansion_length
    if length is not None and not (expands and 1 <= length <= role.max_length):
        raise LoadError(f"{where}: expansion_length lies in 1..max_length, and goes with expansion")


def _check_modules(recipe: Dense | MultiVector, where: str) -> None:
    _check_steps(recipe.modules or (), where)
    if recipe.modules and recipe.modules[-1].dimension != recipe.dimension:
        raise LoadError(
            f"{where}: the last module gives {recipe.modules[-1].dimension} numbers, dimension is "
            f"{recipe.dimension}"
        )


def _check_steps(modules: Sequence[Module], where: str) -> None:
    for module in modules:
        weighted = module.type in {"dense", "layer-norm"}
        if weighted != (module.file != ""):
            raise LoadError(f"{where}: a {module.type} module has {'a' if weighted else 'no'} file")
        if module.type != "dense" and (module.residual or module.activation != "identity"):
            raise LoadError(f"{where}: activation and residual belong to dense modules")
        if not 1 <= module.dimension <= MAX_VOCABULARY:
            raise LoadError(f"{where}: the dimension of a module must lie in 1..{MAX_VOCABULARY}")


def _check_tasks(spec: ModelSpec, where: str) -> None:
    """All roles and tasks have a task id, or none has; names of tasks are distinct."""
    tasks = spec.dense.tasks if spec.dense is not None else ()
    roles: list[Role | TokenRole | Task] = list(tasks)
    for recipe in spec.text_recipes().values():
        roles += roles_of(recipe)
    if len({isinstance(role, TokenRole) or role.task_id is None for role in roles}) > 1:
        raise LoadError(f"{where}: every role and task has a task_id, or none has")
    if len({task.name for task in tasks}) != len(tasks):
        raise LoadError(f"{where}.dense: two tasks have one name")


def _check_identity(spec: ModelSpec, where: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", spec.id) and not _is_repository(spec):
        raise LoadError(f"{where}: an id is lower-case letters, digits, '.', '_' and '-'")
    for revision in (spec.revision, spec.hub.revision if spec.hub else UNPINNED):
        if revision != UNPINNED and not re.fullmatch(r"[0-9a-f]{40}", revision):
            raise LoadError(f"{where}: revision must be 40 hex digits or {UNPINNED!r}")
    if spec.hub and not re.fullmatch(r"[\w.-]+/[\w.-]+", spec.hub.repository):
        raise LoadError(f"{where}: hub.repository must read owner/name")
    for file in spec.files:
        if file.sha256 != UNPINNED and not re.fullmatch(r"[0-9a-f]{64}", file.sha256):
            raise LoadError(f"{where}: sha256 of {file.name!r} must be 64 hex digits")
        if not is_file_name(file.name):
            raise LoadError(f"{where}: file name {file.name!r} leaves the model's folder")


def _is_repository(spec: ModelSpec) -> bool:
    """Whether the id is the name of the repository, for a model that no catalogue lists.

    A branch, tag or commit may follow it: "owner/name@revision".
    """
    return spec.hub is not None and spec.id.partition("@")[0] == spec.hub.repository


def is_file_name(name: str) -> bool:
    """Whether a name, with "/" between folders, stays inside the folder of a model."""
    parts = Path(name).parts
    # A colon follows the letter of a drive on Windows.
    strange = not name.isprintable() or set("\\:") & set(name)
    return bool(parts) and not (Path(name).is_absolute() or ".." in parts or strange)

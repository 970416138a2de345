"""The one parser of models.toml (the catalogue) and model.toml (an artifact), and its checks.

A missing field and an unknown key are load errors: spec.py has every field, and no defaults.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import math
import os
import re
import stat
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, Literal

from tessera_onnx.errors import ConfigError, LoadError
from tessera_onnx.models.spec import (
    ABSENT,
    KIND_TABLES,
    PRECISIONS,
    UNPINNED,
    Dense,
    Image,
    ModelSpec,
    MultiVector,
    Precision,
    Prompt,
    Role,
    Sparse,
    Task,
    Text,
    TimeSeries,
    TokenRole,
    Vision,
    roles_of,
)

logger = logging.getLogger("tessera_onnx")

SCHEMA = 1
# A description can ask for any memory and time unless it is bounded: all limits here are far above
# what a model has.
MAX_TOML_BYTES = 4 << 20
MAX_CHARACTERS = 4096  # of a value, and of all that is wrong with an entry
MAX_LENGTH = 1 << 20  # tokens of a text, values of a series, steps
MAX_VOCABULARY = 1 << 24
MAX_PIXELS = 1 << 24  # that an image is enlarged to; Qwen2-VL's own limit is 12.8 million
MAX_TILES = 1 << 10
MAX_UNKNOWN = 20  # keys that one message lists
MISSING = " is missing"
# Keys of tables in tables in tables: the parser's time grows with the square of their number.
DEEP = re.compile(r"(?<![\w\"'-])(?:[\w\"'-]+[ \t]*\.[ \t]*){33}")


def parse(text: str, where: str) -> tuple[ModelSpec, ...]:
    """All entries of a TOML document; `where` names it in errors.

    Raises LoadError for anything that is not exactly the schema, with the dotted field name.
    """
    if DEEP.search(text):
        raise LoadError(f"{where} has a key of more than 32 parts: not a model description")
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of brackets
        raise LoadError(f"{where} is not valid TOML: {error}") from error
    schema = document.pop("schema", None)
    if type(schema) is not int or schema != SCHEMA:
        raise LoadError(
            f"{where} has schema {schema!r:.40}, this version of tessera-onnx reads schema "
            f"{SCHEMA}: export the model again, or install a matching version"
        )
    entries = document.pop("model", None)
    if not isinstance(entries, list) or document:
        raise LoadError(f"{where} must hold `schema` and [[model]] tables and nothing else")
    specs = []
    taken: set[str] = set()
    for number, entry in enumerate(entries):
        spec = _build(ModelSpec, entry, f"{where}: model[{number}]")
        _check(spec, f"{where}: model {spec.id!r}")
        names = {spec.id, *spec.aliases}
        if names & taken:
            raise LoadError(f"{where}: {min(names & taken)!r} names two models")
        taken |= names
        specs.append(spec)
    return tuple(specs)


def read(path: Path) -> tuple[ModelSpec, ...]:
    """Parse a models.toml or model.toml file. Raises LoadError."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would never end, nor would a device
            raise LoadError(f"{path} is no regular file: not a model description")
        if found.st_size > MAX_TOML_BYTES:
            raise LoadError(
                f"{path} is larger than {MAX_TOML_BYTES} bytes: not a model description"
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
    return parse(text, str(path))


def catalogue() -> tuple[ModelSpec, ...]:
    """All known models: those of the file that TESSERA_MODELS names, then the shipped ones.

    A user's entry takes the place of a shipped one with the same id, which is logged once. Raises
    LoadError when the user's file is missing or not valid.
    """
    own = os.environ.get("TESSERA_MODELS")
    if not own:
        return _shipped()
    try:
        path = Path(own).absolute()
        found = path.stat()
    except OSError as error:
        raise LoadError(f"TESSERA_MODELS names {own}, which cannot be read: {error}") from error
    return _with_users(path, (found.st_ino, found.st_size, found.st_mtime_ns))


@functools.lru_cache(maxsize=8)
def _with_users(path: Path, version: tuple[int, ...]) -> tuple[ModelSpec, ...]:  # noqa: ARG001 (a newer file is read again)
    specs = read(path)
    ids = {spec.id for spec in specs}
    replaced = sorted(ids & {spec.id for spec in _shipped()})
    if replaced:
        logger.warning("%s replaces the shipped entry of %s", path, ", ".join(replaced))
    return specs + tuple(spec for spec in _shipped() if spec.id not in ids)


@functools.cache
def _shipped() -> tuple[ModelSpec, ...]:
    """The shipped models.toml: inside the wheel, or one folder up in a source tree."""
    here = Path(__file__).parents[1]
    shipped = here / "models.toml"
    return read(shipped if shipped.exists() else here.parent / "models.toml")


def forbids_commercial_use(licence: str) -> bool:
    """Whether a licence is a non-commercial one, by its identifier: "cc-by-nc-4.0" and such."""
    return bool(re.search(r"(^|[-_ ])(nc|non-?commercial)($|[-_ .])", licence.lower()))


def _build(target: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `target`; strict.

    Raises LoadError that names every field which is missing, unknown or of another type, so that
    nobody has to mend one after the other.
    """
    faults: list[str] = []
    built = _typed(target, value, where, faults)
    if not faults:
        return built
    default = "; no missing fact has a default" if any(MISSING in fault for fault in faults) else ""
    if len(faults) == 1:
        raise LoadError(f"{faults[0]}{default}")
    short = [re.sub(rf"^{re.escape(where)}(\.| (?=has))", "", fault) for fault in faults]
    room = itertools.accumulate(len(fault) + 2 for fault in short)
    listed = [fault for fault, end in zip(short, room, strict=True) if end <= MAX_CHARACTERS]
    more = [f"and {len(short) - len(listed)} more"] if len(listed) < len(short) else []
    raise LoadError(f"{where}: {len(faults)} faults: {'; '.join(listed + more)}{default}")


def _typed(target: Any, value: Any, where: str, faults: list[str]) -> Any:
    """The same, the faults in tables added to `faults`."""
    origin = typing.get_origin(target)
    if origin is Literal:
        if value not in typing.get_args(target):
            choices = ", ".join(repr(choice) for choice in typing.get_args(target))
            raise LoadError(f"{where} is {value!r:.80}, expected one of {choices}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise LoadError(f"{where} must be an array, got {type(value).__name__}")
        item = typing.get_args(target)[0]
        return tuple(_typed(item, part, f"{where}[{i}]", faults) for i, part in enumerate(value))
    if origin is types.UnionType:  # an optional table that is there
        return _typed(typing.get_args(target)[0], value, where, faults)
    if dataclasses.is_dataclass(target):
        return _table(target, value, where, faults)
    return _build_scalar(target, value, where)


def _build_scalar(target: Any, value: Any, where: str) -> Any:
    if target is float and type(value) is int:
        return float(value)
    if type(value) is not target:
        raise LoadError(f"{where} must be {target.__name__}, got {type(value).__name__}")
    if target is int and not -(2**63) <= value < 2**63:  # TOML's, and what NumPy takes
        raise LoadError(f"{where} is not a number of 64 bits")
    if target is str and len(value) > MAX_CHARACTERS:
        raise LoadError(f"{where} has {len(value)} characters, at most {MAX_CHARACTERS} are read")
    if target is str and re.search(r"[\x00-\x08\x0b-\x1f\x80-\x9f]", value):
        raise LoadError(f"{where} holds a control character, which could steer a terminal")
    return value


def _table(target: Any, value: Any, where: str, faults: list[str]) -> Any:
    if not isinstance(value, dict):
        raise LoadError(f"{where} must be a table, got {type(value).__name__}")
    hints = typing.get_type_hints(target)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        names = ", ".join(f"{name!r:.80}" for name in unknown[:MAX_UNKNOWN])
        several = f"keys {names}" if len(unknown) > 1 else f"key {names}"
        faults.append(f"{where} has the unknown {several}: known are {', '.join(hints)}")
    built = dict.fromkeys(hints)
    for name, hint in hints.items():
        field = f"{where}.{name}"
        if name in value:
            try:
                built[name] = _typed(hint, value[name], field, faults)
            except LoadError as error:
                faults.append(str(error))
        elif typing.get_origin(hint) is not types.UnionType:
            absent = f" (write {ABSENT[name]} where there is none)" if name in ABSENT else ""
            faults.append(f"{field}{MISSING}{absent}")
            if dataclasses.is_dataclass(hint):
                _table(hint, {}, field, faults)  # its facts, so that they are not the next error
    return target(**built)


def check_precision(spec: ModelSpec, precision: Precision) -> None:
    """Raises ConfigError unless the model has a graph of that precision."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}")
    if precision not in spec.graph.precisions():
        raise ConfigError(
            f"model {spec.id!r} has no {precision} graph, only "
            f"{', '.join(spec.graph.precisions())}: export it with --precision {precision}"
        )


def check_length(role: Role | TokenRole, text: Text, where: str) -> None:
    """Raises LoadError unless max_length holds the special tokens and at least one more."""
    markers = len(role.marker_ids) if isinstance(role, TokenRole) else 0
    least = len(text.prefix_ids) + markers + len(text.suffix_ids) + 1
    most = text.fixed_length or text.max_positions
    if not least <= role.max_length <= most:
        raise LoadError(f"{where}: max_length {role.max_length} must lie in {least}..{most}")


def _check(spec: ModelSpec, where: str) -> None:
    """What types alone cannot say."""
    _check_identity(spec, where)
    tables = {kind for kind, table in KIND_TABLES.items() if getattr(spec, table) is not None}
    if tables != set(spec.kinds) or not spec.kinds:
        found = f"{where}: kinds {list(spec.kinds)!s:.80} but tables for {sorted(tables)}"
        raise LoadError(found + _lacking(spec))
    if not spec.graph.precisions():
        raise LoadError(f"{where}: graph names no file in any precision")
    for name in (spec.graph.best_cpu, spec.graph.best_cuda, spec.graph.best_coreml):
        if not getattr(spec.graph, name):
            raise LoadError(f"{where}: graph has no {name} file although it is a device's best")
    if spec.sparse is not None:
        _check_sparse(spec.sparse, f"{where}.sparse")
    _check_text(spec, where)
    if spec.vision is not None:
        _check_vision(spec, spec.vision, f"{where}.vision")
    if spec.time_series is not None:
        _check_series(spec, spec.time_series, f"{where}.time_series")


def _lacking(spec: ModelSpec) -> str:
    """The tables that the kinds of a model need and that are not there, and their facts."""
    names = [KIND_TABLES[kind] for kind in spec.kinds]
    names += ["text"] if {"dense", "multi_vector", "sparse"} & set(names) else []
    hints = typing.get_type_hints(ModelSpec)
    facts: list[str] = []
    for name in names:
        if getattr(spec, name) is None:
            _table(typing.get_args(hints[name])[0], {}, f"[model.{name}]", facts)
    return f": {'; '.join(facts)}" if facts else ""


def _check_sparse(recipe: Sparse, where: str) -> None:
    if not 1 <= recipe.vocab_size <= MAX_VOCABULARY:
        raise LoadError(f"{where}: vocab_size must lie in 1..{MAX_VOCABULARY}")
    if (recipe.query_weights == "idf") != bool(recipe.idf):
        raise LoadError(f"{where}: query_weights 'idf' and the idf file go together")
    ids = recipe.zero_ids
    if ids and (min(ids) < 0 or max(ids) >= recipe.vocab_size):
        raise LoadError(f"{where}: zero_ids must lie in 0..{recipe.vocab_size - 1}")


def _check_vision(spec: ModelSpec, recipe: Vision, where: str) -> None:
    inputs = set(spec.graph.inputs)
    language = "inputs_embeds" in inputs
    wanted = {"inputs_embeds", "attention_mask"} if language else {"pixel_values"}
    optional = {"token_type_ids", "position_ids"} if language else set()
    if len(spec.kinds) > 1 or inputs - optional != wanted:
        raise LoadError(
            f"{where}: its graph takes pixel_values, or inputs_embeds and an attention_mask, and "
            "serves no other kind"
        )
    if (recipe.tile_graph is not None, recipe.token_graph is not None) != (language, language):
        raise LoadError(f"{where}: tile_graph and token_graph go with a graph of inputs_embeds")
    if [language, recipe.text_graph is not None, recipe.text_model != ""].count(True) != 1:
        raise LoadError(f"{where}: texts are read by the graph, by text_graph or by text_model")
    if (recipe.prompt is not None) != language:
        raise LoadError(f"{where}: a prompt goes with a graph that reads images among tokens")
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


def _check_prompt(prompt: Prompt, image: Image, where: str) -> None:
    if prompt.text.count("{image}") != 1 or not prompt.token:
        raise LoadError(f"{where}: text must hold {{image}} once, and token must not be empty")
    if bool(prompt.tile) != (image.resize == "tiles"):
        raise LoadError(f"{where}: tile goes with images that are cut into tiles")
    if not prompt.tile and (prompt.row_end or prompt.grid_end):
        raise LoadError(f"{where}: row_end and grid_end go with tile")


def _check_image(image: Image, where: str) -> None:
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


def _check_room(image: Image, where: str) -> None:
    """What an image is made of before any graph sees it has its bounds, whatever its size."""
    if image.most_pixels > MAX_PIXELS:
        raise LoadError(f"{where}: most_pixels is at most {MAX_PIXELS}")
    cells = max(image.longest**2, image.most_pixels) // image.size**2
    if cells > (MAX_TILES if image.resize == "tiles" else MAX_LENGTH):
        raise LoadError(f"{where}: size is too small, an image would have {cells} cells or tiles")


def _check_series(spec: ModelSpec, recipe: TimeSeries, where: str) -> None:
    inputs = set(spec.graph.inputs)
    if len(spec.kinds) > 1 or not {"patches", "attention_mask"} <= inputs:
        raise LoadError(f"{where}: its graph takes patches and attention_mask, and serves no text")
    levels = recipe.quantiles
    if list(levels) != sorted(set(levels)) or not 0 < min(levels, default=0) <= max(levels) < 1:
        raise LoadError(f"{where}: quantiles must rise strictly within 0 and 1")
    if 0.5 not in levels or not set(recipe.rollout_quantiles) <= set(levels):
        raise LoadError(f"{where}: quantiles must hold 0.5 and the rollout_quantiles")
    paths = recipe.rollout_quantiles
    if min(recipe.patch_size, recipe.output_patch_size) < 1 or not paths:
        raise LoadError(f"{where}: patch sizes are at least 1, rollout_quantiles not empty")
    if len(set(paths)) != len(paths):  # each is a copy of all series
        raise LoadError(f"{where}: rollout_quantiles holds a level twice")
    lengths = (recipe.context_length, recipe.output_patch_size)
    if max(*lengths, recipe.prediction_length) > MAX_LENGTH:
        raise LoadError(f"{where}: context, output patch and prediction are up to {MAX_LENGTH}")
    if min(lengths) < 1 or any(length % recipe.patch_size for length in lengths):
        raise LoadError(f"{where}: context and output patch are whole numbers of patches")
    n_patches, rest = divmod(recipe.prediction_length, recipe.output_patch_size)
    if rest or n_patches < 1 or (n_patches > 1 and "future_patches" not in inputs):
        raise LoadError(f"{where}: prediction_length must be what the output patches cover")
    if recipe.time_scale != -1 and recipe.time_scale < 1:
        raise LoadError(f"{where}: time_scale is at least 1, or -1 for patches without time")


def _check_text(spec: ModelSpec, where: str) -> None:
    recipes = spec.text_recipes().values()
    if spec.text is None:
        if recipes:
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


def _check_recipe(recipe: Dense | MultiVector | Sparse, text: Text, where: str) -> None:
    if not isinstance(recipe, Sparse) and any(
        not 0 < size <= recipe.dimension for size in recipe.matryoshka
    ):
        raise LoadError(f"{where}: matryoshka sizes must lie in 1..{recipe.dimension}")
    around = len(text.prefix_ids) + len(text.suffix_ids)
    if isinstance(recipe, MultiVector) and recipe.drop_first and around < 2:
        raise LoadError(f"{where}: drop_first would leave an empty text without any row")
    for role in roles_of(recipe):
        check_length(role, text, where)
        expands = isinstance(role, TokenRole) and role.expansion != "none"
        if expands and text.mask_id < 0:
            raise LoadError(f"{where}: expansion needs a mask_id")


def _check_tasks(spec: ModelSpec, where: str) -> None:
    """A task id for every role and task of a graph that takes one, and for no other."""
    wanted = "task_id" in spec.graph.inputs
    tasks = spec.dense.tasks if spec.dense is not None else ()
    roles: list[Role | TokenRole | Task] = list(tasks)
    for recipe in spec.text_recipes().values():
        roles += roles_of(recipe)
    for role in roles:
        if (not isinstance(role, TokenRole) and role.task_id is not None) != wanted:
            raise LoadError(f"{where}: task_id and the graph's input of that name go together")
    if len({task.name for task in tasks}) != len(tasks):
        raise LoadError(f"{where}.dense: two tasks have one name")


def _check_identity(spec: ModelSpec, where: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", spec.id):
        raise LoadError(f"{where}: an id is lower-case letters, digits, '.', '_' and '-'")
    for revision in (spec.revision, spec.hub.revision if spec.hub else UNPINNED):
        if revision != UNPINNED and not re.fullmatch(r"[0-9a-f]{40}", revision):
            raise LoadError(f"{where}: revision must be 40 hex digits or {UNPINNED!r}")
    if spec.hub and not re.fullmatch(r"[\w.-]+/[\w.-]+", spec.hub.repository):
        raise LoadError(f"{where}: hub.repository must read owner/name")
    for file in spec.files:
        if file.sha256 != UNPINNED and not re.fullmatch(r"[0-9a-f]{64}", file.sha256):
            raise LoadError(f"{where}: sha256 of {file.name!r} must be 64 hex digits")
        parts = Path(file.name).parts
        # A colon is a drive on Windows.
        strange = not file.name.isprintable() or set("\\:") & set(file.name)
        if Path(file.name).is_absolute() or ".." in parts or strange or not parts:
            raise LoadError(f"{where}: file name {file.name!r} leaves the model's folder")

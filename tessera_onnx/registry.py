"""The one schema and the one parser of models.toml (the catalogue) and model.toml (an artifact).

A model is data: every fact that changes a number stands in its entry, none has a default here. A
missing field and an unknown key are load errors. TOML has no null, so an absent fact is written
out: an empty string, an empty list, "none" or -1, as the comment beside the field says. Left out
are only the tables of other kinds, and task_id where the graph has no such input.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import re
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tessera_onnx.errors import ConfigError, LoadError

logger = logging.getLogger("tessera_onnx")

SCHEMA = 1
UNPINNED = "unpinned"
MAX_TOML_BYTES = 4 << 20  # a catalogue of hundreds of models is far below; a hostile file is not

Kind = Literal["dense", "multi-vector", "sparse", "vision", "time-series"]
Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = typing.get_args(Precision)


@dataclass(frozen=True, slots=True)
class File:
    """One file of the model, by its name inside the folder.

    A hash that nobody could check is "unpinned" and its size -1, in the catalogue only.
    """

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Hub:
    """The repository that holds the listed files ready for download.

    Often not that of the original weights. Absent where the files come from an export.
    """

    repository: str  # "owner/name"
    revision: str  # 40 hex digits, or "unpinned" in the catalogue


@dataclass(frozen=True, slots=True)
class Graph:
    """The ONNX graph: input names in any order, a file for each precision ("" = none)."""

    inputs: tuple[
        Literal[
            "input_ids",
            "attention_mask",
            "token_type_ids",
            "task_id",
            "pixel_values",
            "patches",
            "future_patches",
            "group_ids",
        ],
        ...,
    ]
    fp32: str
    fp16: str
    int8: str
    best_cpu: Precision  # taken on that device when the caller names no precision
    best_cuda: Precision
    best_coreml: Precision
    static: bool  # made for fixed shapes: the only graphs that CoreML gets

    def precisions(self) -> list[Precision]:
        """Precisions that have a file, in the order fp32, fp16, int8."""
        return [precision for precision in PRECISIONS if getattr(self, precision)]


@dataclass(frozen=True, slots=True)
class Text:
    """How text becomes ids: `prefix_ids + marker + text + suffix_ids`, right padded."""

    tokenizer: str  # file name of a tokenizer.json
    lowercase: bool  # strip and lower-case before tokenising
    prefix_ids: tuple[int, ...]  # [CLS], <s>
    suffix_ids: tuple[int, ...]  # [SEP], </s>
    pad_id: int
    mask_id: int  # -1 = the vocabulary has no mask token
    max_positions: int  # longest sequence that the graph takes, all special tokens included
    fixed_length: int  # every row is padded to it (SigLIP's text tower); 0 = to its batch's longest


@dataclass(frozen=True, slots=True)
class Role:
    """A query or a document: the prompt put before it and its longest length in tokens."""

    prompt: str
    max_length: int  # prefix, marker and suffix included
    task_id: int | None = None  # there exactly where the graph has an input of that name


@dataclass(frozen=True, slots=True)
class Task:
    """A purpose beside search that the model was trained for; callers ask for it by name."""

    name: str
    prompt: str
    task_id: int | None = None


@dataclass(frozen=True, slots=True)
class TokenRole:
    """A role of a multi-vector model."""

    prompt: str
    max_length: int
    marker_ids: tuple[int, ...]  # inserted after prefix_ids, inside max_length
    expansion: Literal["none", "unattended", "attended"]  # pad to max_length with mask_id
    skip_ids: tuple[int, ...]  # tokens that are read but whose vectors are dropped


@dataclass(frozen=True, slots=True)
class Dense:
    """One vector a text."""

    output: str  # graph output, (batch, dimension) or (batch, tokens, dimension)
    pooling: Literal["graph", "cls", "mean", "last"]  # "graph": the output is pooled already
    dimension: int
    matryoshka: tuple[int, ...]  # dimensions that the vector may be cut to
    matryoshka_layer_norm: bool  # layer norm over the full vector before the cut
    tasks: tuple[Task, ...]
    query: Role
    document: Role


@dataclass(frozen=True, slots=True)
class MultiVector:
    """One unit vector a token."""

    output: str  # graph output, (batch, tokens, dimension)
    drop_first: bool  # the output has no row for the first token (bge-m3): tokens - 1 rows
    dimension: int
    matryoshka: tuple[int, ...]
    score: Literal["sum", "mean"]  # MaxSim summed over query tokens, or divided by their number
    query: TokenRole
    document: TokenRole


@dataclass(frozen=True, slots=True)
class Sparse:
    """A weight a vocabulary entry."""

    output: str
    # What the output is: the pooled weights, (batch, vocab); logits that are still to be pooled,
    # (batch, n, vocab); or one number a token for the token's own entry, (batch, n, 1), of which
    # the largest counts (bge-m3).
    head: Literal["graph", "logits", "tokens"]
    activation: Literal["relu", "log1p", "log1p-log1p"]  # after the maximum; log1p is of relu
    vocab_size: int
    zero_ids: tuple[int, ...]  # entries that are always 0
    query_weights: Literal["model", "idf", "ones"]  # "model": queries run through the graph
    idf: str  # JSON file {token: weight}; "" unless query_weights = "idf"
    query: Role
    document: Role


@dataclass(frozen=True, slots=True)
class Image:
    """How a page or a photograph becomes pixels: RGB, resized, scaled to 0..1, normalised."""

    size: int  # edge of the square that the encoder reads, or of a tile, in pixels
    # "stretch": to the square, aspect ignored. "crop": shortest edge, then the centre.
    # "tiles": longest edge to `longest`, tiles of `size`, then the whole image once more.
    # "dynamic": both edges to multiples of `size`, within a budget of pixels.
    resize: Literal["stretch", "crop", "tiles", "dynamic"]
    longest: int  # 0 where nothing is tiled
    resample: Literal["bilinear", "bicubic", "lanczos"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tokens: int  # vectors of a square, or of a tile; 0 = as many as the image's size gives


@dataclass(frozen=True, slots=True)
class Vision:
    """Images and the texts that find them. Facts alone: no code reads them yet."""

    vectors: Literal["one", "patches"]  # one vector an image, or one a patch and a query token
    pooling: Literal["graph", "cls"]  # "cls": the first state is the image's vector
    output: str
    dimension: int
    image: Image
    image_prompt: str  # text that surrounds the image's tokens; "" where the graph takes none
    query_prefix: str
    query_suffix: str
    query_length: int  # texts are padded to it; 0 = as long as they are


@dataclass(frozen=True, slots=True)
class TimeSeries:
    """Forecasts of quantiles from the patches of a scaled series.

    A graph with the input future_patches forecasts as many output patches as it is given; one
    without forecasts one. With group_ids, series of one group see each other.
    """

    output: str  # graph output, (batch, quantiles, steps), of the scaled series
    context_length: int  # latest values that are read of a series
    patch_size: int
    output_patch_size: int  # steps
    prediction_length: int  # longest horizon of one pass; a longer one is rolled out
    quantiles: tuple[float, ...]  # levels of the output, rising, 0.5 among them
    arcsinh: bool  # after the scaling
    time_scale: int  # divides the time channel of a patch; -1 = patches have none
    rollout_quantiles: tuple[float, ...]  # the paths on which a longer horizon is continued
    rollout_weights: Literal["equal", "mass"]  # of a path: 1, or the probability around its level


@dataclass(frozen=True, slots=True)
class Parity:
    """One figure that the export measured and the limit it had to meet."""

    precision: Precision
    output: str
    metric: Literal["max_abs", "max_relative", "min_cosine", "mean_cosine"]
    value: float
    limit: float


@dataclass(frozen=True, slots=True)
class Export:
    """Where an artifact came from: tool versions, the weights' hash, the measured parity."""

    tool: str
    weights_sha256: str
    parity: tuple[Parity, ...]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything that is known of one model."""

    id: str
    aliases: tuple[str, ...]
    kinds: tuple[Kind, ...]
    source: str  # repository of the original weights
    revision: str  # of the source: 40 hex digits, or "unpinned"
    licence: str
    unverified: tuple[str, ...]  # fields that nobody could check, by dotted name
    files: tuple[File, ...]
    hub: Hub | None
    graph: Graph
    text: Text | None
    dense: Dense | None
    multi_vector: MultiVector | None
    sparse: Sparse | None
    vision: Vision | None
    time_series: TimeSeries | None
    export: Export | None  # absent in the catalogue

    def text_recipes(self) -> dict[Kind, Dense | MultiVector | Sparse]:
        """The recipe of each kind that reads text, in the order of `kinds`."""
        tables = {kind: getattr(self, KIND_TABLES[kind]) for kind in self.kinds}
        texts = (Dense, MultiVector, Sparse)
        return {kind: table for kind, table in tables.items() if isinstance(table, texts)}

    def file(self, name: str) -> File:
        """The listed file of that name. Raises LoadError when the entry does not list it."""
        for file in self.files:
            if file.name == name:
                return file
        raise LoadError(f"model {self.id!r} uses the file {name!r} but does not list it in files")

    def files_for(self, precision: Precision) -> list[str]:
        """Names of the files that one precision needs: all but those of the other graphs.

        Weights beside a graph are named after it (`model.onnx_data`, `model.onnx.data`).
        """
        graphs = {getattr(self.graph, name) for name in self.graph.precisions()}

        def owner(name: str) -> str:
            return max((graph for graph in graphs if name.startswith(graph)), key=len, default="")

        wanted = ("", getattr(self.graph, precision))
        return [file.name for file in self.files if owner(file.name) in wanted]


# The table that each kind needs.
KIND_TABLES: dict[Kind, str] = {
    "dense": "dense",
    "multi-vector": "multi_vector",
    "sparse": "sparse",
    "vision": "vision",
    "time-series": "time_series",
}


def parse(text: str, where: str) -> tuple[ModelSpec, ...]:
    """All entries of a TOML document; `where` names it in errors.

    Raises LoadError for anything that is not exactly the schema, with the dotted field name.
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of brackets
        raise LoadError(f"{where} is not valid TOML: {error}") from error
    schema = document.pop("schema", None)
    if schema != SCHEMA:
        raise LoadError(
            f"{where} has schema {schema!r}, this version of tessera-onnx reads schema {SCHEMA}: "
            "export the model again, or install a matching version"
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
        if path.stat().st_size > MAX_TOML_BYTES:
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
    path = Path(own)
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise LoadError(f"TESSERA_MODELS names {own}, which cannot be read: {error}") from error
    return _with_users(path, changed)


@functools.lru_cache(maxsize=8)
def _with_users(path: Path, changed: int) -> tuple[ModelSpec, ...]:  # noqa: ARG001 (a newer file is read again)
    specs = read(path)
    ids = {spec.id for spec in specs}
    replaced = sorted(ids & {spec.id for spec in _shipped()})
    if replaced:
        logger.warning("%s replaces the shipped entry of %s", path, ", ".join(replaced))
    return specs + tuple(spec for spec in _shipped() if spec.id not in ids)


@functools.cache
def _shipped() -> tuple[ModelSpec, ...]:
    """The shipped models.toml: inside the wheel, or one folder up in a source tree."""
    here = Path(__file__).parent
    shipped = here / "models.toml"
    return read(shipped if shipped.exists() else here.parent / "models.toml")


def forbids_commercial_use(licence: str) -> bool:
    """Whether a licence is a non-commercial one, by its identifier: "cc-by-nc-4.0" and such."""
    return bool(re.search(r"(^|[-_ ])(nc|non-?commercial)($|[-_ .])", licence.lower()))


def _build(target: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `target`; strict, and every message names the field."""
    origin = typing.get_origin(target)
    if origin is Literal:
        if value not in typing.get_args(target):
            choices = ", ".join(repr(choice) for choice in typing.get_args(target))
            raise LoadError(f"{where} is {value!r}, expected one of {choices}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise LoadError(f"{where} must be an array, got {type(value).__name__}")
        item = typing.get_args(target)[0]
        return tuple(_build(item, part, f"{where}[{i}]") for i, part in enumerate(value))
    if origin is types.UnionType:  # an optional table that is there
        return _build(typing.get_args(target)[0], value, where)
    if dataclasses.is_dataclass(target):
        return _build_table(target, value, where)
    return _build_scalar(target, value, where)


def _build_scalar(target: Any, value: Any, where: str) -> Any:
    if target is float and type(value) is int:
        return float(value)
    if type(value) is not target:
        raise LoadError(f"{where} must be {target.__name__}, got {type(value).__name__}")
    if target is int and not -(2**63) <= value < 2**63:  # TOML's, and what NumPy takes
        raise LoadError(f"{where} is not a number of 64 bits")
    if target is str and re.search(r"[\x00-\x08\x0b-\x1f\x80-\x9f]", value):
        raise LoadError(f"{where} holds a control character, which could steer a terminal")
    return value


def _build_table(target: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise LoadError(f"{where} must be a table, got {type(value).__name__}")
    hints = typing.get_type_hints(target)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise LoadError(f"{where} has the unknown key {unknown[0]!r}: known are {', '.join(hints)}")
    built = {}
    for name, hint in hints.items():
        if name in value:
            built[name] = _build(hint, value[name], f"{where}.{name}")
        elif typing.get_origin(hint) is types.UnionType:
            built[name] = None
        else:
            raise LoadError(f"{where}.{name} is missing; no such fact has a default")
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
        raise LoadError(f"{where}: kinds {list(spec.kinds)} but tables for {sorted(tables)}")
    if not spec.graph.precisions():
        raise LoadError(f"{where}: graph names no file in any precision")
    for name in (spec.graph.best_cpu, spec.graph.best_cuda, spec.graph.best_coreml):
        if not getattr(spec.graph, name):
            raise LoadError(f"{where}: graph has no {name} file although it is a device's best")
    if spec.sparse is not None and (spec.sparse.query_weights == "idf") != bool(spec.sparse.idf):
        raise LoadError(f"{where}.sparse: query_weights 'idf' and the idf file go together")
    if spec.sparse is not None and spec.sparse.zero_ids:
        ids = spec.sparse.zero_ids
        if min(ids) < 0 or max(ids) >= spec.sparse.vocab_size:
            raise LoadError(f"{where}.sparse: zero_ids must lie in 0..{spec.sparse.vocab_size - 1}")
    _check_text(spec, where)
    if spec.time_series is not None:
        _check_series(spec, spec.time_series, f"{where}.time_series")


def _check_series(spec: ModelSpec, recipe: TimeSeries, where: str) -> None:
    inputs = set(spec.graph.inputs)
    if len(spec.kinds) > 1 or not {"patches", "attention_mask"} <= inputs:
        raise LoadError(f"{where}: its graph takes patches and attention_mask, and serves no text")
    levels = recipe.quantiles
    if list(levels) != sorted(set(levels)) or not 0 < min(levels, default=0) <= max(levels) < 1:
        raise LoadError(f"{where}: quantiles must rise strictly within 0 and 1")
    if 0.5 not in levels or not set(recipe.rollout_quantiles) <= set(levels):
        raise LoadError(f"{where}: quantiles must hold 0.5 and the rollout_quantiles")
    if min(recipe.patch_size, recipe.output_patch_size) < 1 or not recipe.rollout_quantiles:
        raise LoadError(f"{where}: patch sizes are at least 1, rollout_quantiles not empty")
    lengths = (recipe.context_length, recipe.output_patch_size)
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
    for role in (recipe.query, recipe.document):
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
        roles += [recipe.query, recipe.document]
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

"""Every fact known of a model, as the tables of models.toml (the catalogue) and model.toml.

A model is data: every fact that changes a number stands in its entry, none has a default here.
TOML has no null, so an absent fact is written out: an empty string, an empty list, "none" or -1,
as the comment beside the field says. Left out are only the tables of other kinds or of parts that
a model does not have, the graph among them; task_id where the graph has no such input; letters
where all are read; and `plain` where a text of neither role is read as a document. parse.py reads
the tables and rules.py checks them.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Literal

from tessera_onnx.errors import LoadError

UNPINNED = "unpinned"

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
            "inputs_embeds",
            "position_ids",
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
class TokenizerSpec:
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
    plain: Role | None = None  # a text of neither role, where it is not read as a document


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
    plain: TokenRole | None = None  # as in Dense


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
    plain: Role | None = None  # as in Dense


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """How a page or a photograph becomes pixels: RGB, resized, scaled to 0..1, normalised."""

    size: int  # edge of the square that the encoder reads, of a tile, or of a cell ("fit")
    # "stretch": to the square, aspect ignored. "crop": shortest edge, then the centre.
    # "tiles": longest edge to `longest`, tiles of `size`, then the whole image once more.
    # "dynamic": both edges to multiples of `size`, within `least_pixels` and `most_pixels`.
    # "fit": longest edge to at most `longest`, white to the right and below up to multiples of
    # `size`.
    resize: Literal["stretch", "crop", "tiles", "dynamic", "fit"]
    longest: int  # 0 where neither "tiles" nor "fit"
    least_pixels: int  # 0 where not "dynamic"
    most_pixels: int
    resample: Literal["bilinear", "bicubic", "lanczos"]
    # What is under a transparent image: black or whatever colour its file hides, or white. Of a
    # file that names one clear colour instead, that is white with both, as in transformers.
    alpha: Literal["dropped", "white"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tokens: int  # vectors of a square, or of a tile; 0 = one a cell ("dynamic" and "fit")
    # Pixels of a font's size up to which letters are read, of a "fit" that was trained on small
    # ones: pages of a PDF are drawn so that most of their letters are that high. Left out where a
    # model reads letters of all sizes, whose pages are drawn as large as it reads them.
    letters: int | None = None


@dataclass(frozen=True, slots=True)
class SubGraph:
    """A further graph of a vision model: its file in each precision that the main graph has."""

    inputs: tuple[Literal["input_ids", "attention_mask", "token_type_ids", "pixel_values"], ...]
    output: str
    fp32: str
    fp16: str
    int8: str


@dataclass(frozen=True, slots=True)
class ImagePrompt:
    """The text around an image in the input of a language model, special tokens spelled out."""

    text: str  # "{image}" stands for the image's tokens
    token: str  # the vocabulary entry whose places the image's features take
    tile: str  # before the tokens of a tile; "{row}" and "{column}" count from 1; "" = no tiles
    row_end: str  # after the last tile of a row
    grid_end: str  # after the last row; an image that is not cut has no tiles, rows or grid
    whole: str  # before the tokens of the whole view
    end: str  # after them


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """A text that looks for images, special tokens spelled out in what is put around it."""

    prefix: str
    suffix: str
    max_length: int  # in tokens, prefix and suffix included; a longer text is cut, they are not


@dataclass(frozen=True, slots=True)
class Vision:
    """Images and the texts that find them.

    Of two forms of graphs, the inputs of [model.graph] tell which. With pixel_values it makes the
    vectors of an image; texts have a tower of their own (`text_graph`) or are read by another model
    (`text_model`). With inputs_embeds it is a language model, which reads the features of the tiles
    (`tile_graph`) among the embeddings of the prompt's tokens (`token_graph`), and texts by these
    alone. One file of both, which wants pixels for a text too, is not read: export it again.
    """

    vectors: Literal["one", "patches"]  # one vector an image, or one a patch and a query token
    pooling: Literal["graph", "cls"]  # "cls": the first state is the image's vector
    output: str  # of [model.graph]
    keep: str  # output (batch, patches): patches at or below 0 have no vector; "" = all have
    dimension: int
    image: ImageSpec
    prompt: ImagePrompt | None  # there exactly where the graph reads an image among token ids
    query: ImageQuery | None  # absent where text_model reads the texts
    text_model: str  # id of the model whose query vectors share this space; "" = this one
    tile_graph: SubGraph | None
    token_graph: SubGraph | None
    text_graph: SubGraph | None

    def parts(self) -> list[SubGraph]:
        """The graphs beside the main one."""
        return [part for part in (self.tile_graph, self.token_graph, self.text_graph) if part]


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
    metric: Literal["max_abs", "max_relative", "min_cosine", "min_text_cosine", "mean_cosine"]
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
    graph: Graph | None  # absent where the kind runs none
    text: TokenizerSpec | None
    dense: Dense | None
    multi_vector: MultiVector | None
    sparse: Sparse | None
    vision: Vision | None
    time_series: TimeSeries | None
    export: Export | None  # absent in the catalogue

    def main_graph(self) -> Graph:
        """The graph. Raises LoadError for a model without one."""
        if self.graph is None:
            raise LoadError(f"model {self.id!r} has no [model.graph] table")
        return self.graph

    def precisions(self) -> list[Precision]:
        """Precisions that the model can run in, in the order fp32, fp16, int8; [] without graph."""
        return [] if self.graph is None else self.graph.precisions()

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
        raise LoadError(
            f"model {self.id!r} uses the file {name!r:.300} but does not list it in files"
        )

    def files_for(self, precision: Precision | None) -> list[str]:
        """Names of the files that one precision needs: all but those of the other graphs.

        None is for a model without a graph, which needs all its files.

        Weights beside a graph are named after it (`model.onnx_data`, `model.onnx.data`).
        """
        parts = [self.graph, *(self.vision.parts() if self.vision else ())]
        tables = [part for part in parts if part is not None]
        graphs = {getattr(table, name) for table in tables for name in self.precisions()}

        def owner(name: str) -> str:
            return max((graph for graph in graphs if name.startswith(graph)), key=len, default="")

        wanted = ("", *(getattr(table, precision) for table in tables if precision))
        return [file.name for file in self.files if owner(file.name) in wanted]


def roles_of(recipe: Dense | MultiVector | Sparse) -> tuple[Role | TokenRole, ...]:
    """Every way in which a recipe reads a text: as a query, as a document, and as neither."""
    plain = () if recipe.plain is None else (recipe.plain,)
    return (recipe.query, recipe.document, *plain)


# The table that each kind needs.
KIND_TABLES: dict[Kind, str] = {
    "dense": "dense",
    "multi-vector": "multi_vector",
    "sparse": "sparse",
    "vision": "vision",
    "time-series": "time_series",
}

# What a field holds in a model that has no such fact, as TOML. Every other field is always a fact.
ABSENT: dict[str, str] = {
    **dict.fromkeys(
        ("aliases", "unverified", "prefix_ids", "suffix_ids", "marker_ids", "skip_ids", "zero_ids"),
        "[]",
    ),
    **dict.fromkeys(("matryoshka", "tasks", "parity"), "[]"),
    **dict.fromkeys(("fp32", "fp16", "int8", "idf", "keep", "text_model"), '""'),
    **dict.fromkeys(("prompt", "prefix", "suffix", "tile", "row_end", "grid_end"), '""'),
    **dict.fromkeys(("whole", "end"), '""'),
    **dict.fromkeys(("fixed_length", "longest", "least_pixels", "most_pixels", "tokens"), "0"),
    **dict.fromkeys(("mask_id", "time_scale"), "-1"),
    "expansion": '"none"',
    "revision": f'"{UNPINNED}"',
}

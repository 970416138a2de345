"""Every fact known of a model, as the tables of models.toml (the catalogue) and model.toml.

A model is data: its entry holds every fact that changes a number, and no fact has a default here.
TOML has no null, so an absent fact is written as an empty string, an empty list, "none" or -1; the
comment beside the field says which. A field of the type `... | None` is left out where its comment
says so: tables of other kinds and of parts that a model does not have, and steps that few models
take. What the graph itself tells, such as its inputs, is no fact of an entry. parse.py reads the
tables and rules.py checks them.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Literal

from tessera_onnx.errors import LoadError
from tessera_onnx.models.spec_media import TimeSeries, Vision
from tessera_onnx.models.spec_pairs import PairTemplate
from tessera_onnx.models.spec_words import Attention, Lexical, MiniCoil

UNPINNED = "unpinned"

Kind = Literal["dense", "multi-vector", "sparse", "reranker", "vision", "time-series"]
Precision = Literal["fp32", "fp16", "int8", "int4"]
# Of token states (b, n, dim), as sentence-transformers names them; "last" is its lasttoken.
Pooling = Literal["cls", "mean", "last", "max", "mean_sqrt_len_tokens", "weightedmean"]
Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
Activation = Literal["identity", "tanh", "relu", "gelu", "silu", "sigmoid"]
PRECISIONS: tuple[Precision, ...] = typing.get_args(Precision)


@dataclass(frozen=True, slots=True)
class File:
    """One file of the model, by its name inside the folder.

    Only in the catalogue, sha256 is "unpinned" and size is -1 where they are not known.
    """

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Hub:
    """The repository from which the listed files are downloaded.

    It is often another one than that of the original weights. Absent if the files come from an
    export.
    """

    repository: str  # "owner/name"
    revision: str  # 40 hex digits, or "unpinned" in the catalogue
    # Who else names this revision or these hashes, independently: "owner/name" of a public
    # repository, or "6 public pins" for projects without such a name. Absent where nobody does.
    sources: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Graph:
    """The ONNX graph: a file per precision ("" = none). Its inputs are read from the file."""

    fp32: str
    fp16: str
    int8: str
    best_cpu: Precision  # used on that device if the caller asks for no precision
    best_cuda: Precision
    best_coreml: Precision
    static: bool  # has fixed shapes; CoreML runs only such graphs
    int4: str | None = None

    def precisions(self) -> list[Precision]:
        """Precisions that have a file, in the order fp32, fp16, int8, int4."""
        return [precision for precision in PRECISIONS if getattr(self, precision)]


@dataclass(frozen=True, slots=True)
class TokenizerSpec:
    """How a text becomes token ids: `prefix_ids + marker + text + suffix_ids`, right padded."""

    tokenizer: str  # file name of a tokenizer.json
    lowercase: bool  # lower-case before tokenising, but for special tokens
    prefix_ids: tuple[int, ...]  # [CLS], <s>
    suffix_ids: tuple[int, ...]  # [SEP], </s>
    pad_id: int  # 0 in a model without a graph, which pads nothing
    mask_id: int  # -1 = the vocabulary has no mask token
    max_positions: int  # longest sequence that the graph takes, all special tokens included
    fixed_length: int  # pads every row to it (SigLIP's text encoder); 0 = to the batch's longest


@dataclass(frozen=True, slots=True)
class Role:
    """How a query or a document is read: the prompt before it and its greatest length in tokens."""

    prompt: str
    max_length: int  # prefix, marker and suffix included; 0 = a lexical model, which cuts nothing
    task_id: int | None = None  # present exactly if the graph has an input of that name


@dataclass(frozen=True, slots=True)
class Task:
    """A purpose other than search that the model was trained for; callers give its name."""

    name: str
    prompt: str
    task_id: int | None = None


@dataclass(frozen=True, slots=True)
class TokenRole:
    """How a multi-vector model reads a query or a document."""

    prompt: str
    max_length: int
    marker_ids: tuple[int, ...]  # inserted after prefix_ids, inside max_length
    expansion: Literal["none", "unattended", "attended"]  # pad to max_length with mask_id
    skip_ids: tuple[int, ...]  # tokens that the graph reads and whose vectors are dropped
    expansion_length: int | None = None  # the expansion ends here; absent: at max_length


@dataclass(frozen=True, slots=True)
class Static:
    """A table of token vectors in place of a graph: the vector of a text is the mean of its rows.

    The tensors are those of a safetensors file. A text without tokens has the zero vector. Sources:
    model2vec/model.py; sentence_transformers/sentence_transformer/modules/static_embedding.py.
    """

    file: str
    rows: str  # tensor (n, width): F64, F32, F16, BF16 or I8, averaged in float32 as it stands
    weights: str  # tensor (ids,): the factor of each token id; "" = none
    mapping: str  # tensor (ids,): the row of each token id; "" = the id is the row
    drop_ids: tuple[int, ...]  # ids that are left out of the mean, after the cut to max_length
    # A text is first cut to this many characters times max_length, prompt included (model2vec: the
    # median length of the tokens); 0 = not.
    characters_per_token: int


@dataclass(frozen=True, slots=True)
class Module:
    """A step after the graph, in NumPy (the modules of sentence-transformers and PyLate).

    "dense": activation(W x + b), plus x or R x if `residual`; "layer-norm": with weights, eps 1e-5;
    "normalize": L2; "truncate": the first `dimension` numbers. W and b are linear.weight and
    linear.bias of the safetensors file, R is residual.weight; the layer norm has norm.weight and
    norm.bias. b, and R where in- and output have the same size, may be absent from the file.
    """

    type: Literal["dense", "layer-norm", "normalize", "truncate"]
    file: str  # safetensors; "" for "normalize" and "truncate"
    activation: Activation  # "identity" for all but "dense"
    residual: bool
    dimension: int  # of the result


@dataclass(frozen=True, slots=True)
class Dense:
    """One vector per text."""

    # Graph output, (batch, dimension) or (batch, tokens, dimension). "" = the graph tells
    # (text/outputs.py); named where several outputs would fit.
    output: str
    pooling: Literal["graph", Pooling]  # "graph": the graph pools, or the table of `static` does
    dimension: int  # 0 = the graph tells
    matryoshka: tuple[int, ...]  # dimensions that the vector may be cut to
    matryoshka_layer_norm: bool  # layer norm over the full vector before the cut
    tasks: tuple[Task, ...]
    query: Role
    document: Role
    plain: Role | None = None  # for a text without a role, if it is not read as a document
    # Further poolings of the same states, whose vectors follow that of `pooling` (concatenation).
    further_poolings: tuple[Pooling, ...] | None = None
    # Steps after the pooling, in this order. Absent: L2 alone, so that vectors have unit length.
    modules: tuple[Module, ...] | None = None
    similarity: Similarity | None = None  # absent: cosine


@dataclass(frozen=True, slots=True)
class MultiVector:
    """One unit vector per token."""

    output: str  # graph output, (batch, tokens, dimension); "" as in Dense
    drop_first: bool  # the output has no row for the first token (bge-m3): tokens - 1 rows
    dimension: int
    matryoshka: tuple[int, ...]
    score: Literal["sum", "mean"]  # MaxSim summed over query tokens, or divided by their number
    query: TokenRole
    document: TokenRole
    plain: TokenRole | None = None  # as in Dense
    modules: tuple[Module, ...] | None = None  # of each token, before the L2 that all have


@dataclass(frozen=True, slots=True)
class Sparse:
    """One weight per vocabulary entry."""

    output: str  # "" as in Dense
    # Form of the output. "graph": pooled weights, (batch, vocab). "logits": logits that are not
    # pooled yet, (batch, n, vocab). "tokens": one number per token for the entry of that token,
    # (batch, n, 1); the largest of an entry counts (bge-m3). "attention": that of one layer,
    # (batch, heads, n, n), which goes with the table `attention`. "states": those of the tokens,
    # (batch, n, size), which goes with the table `minicoil`.
    head: Literal["graph", "logits", "tokens", "attention", "states"]
    activation: Literal["relu", "log1p", "log1p-log1p"]  # after the maximum; log1p is of relu
    vocab_size: int
    zero_ids: tuple[int, ...]  # entries that are always 0
    query_weights: Literal["model", "idf", "ones"]  # "model": queries run through the graph
    # JSON file {token: weight}, or safetensors with the tensor "weight" (vocab,); "" unless
    # query_weights = "idf".
    idf: str
    query: Role
    document: Role
    plain: Role | None = None  # as in Dense


@dataclass(frozen=True, slots=True)
class Reranker:
    """One score per pair of a query and a document, which the model reads together.

    The ids of a pair are prefix_ids + query + middle_ids + document + suffix_ids.
    """

    # Graph output, (batch, columns), or states (batch, tokens, size) that are pooled. "" as in
    # Dense.
    output: str
    pooling: Literal["graph", Pooling]  # "graph": the graph gives the columns
    column: int  # that holds the score; -1 = the only one
    activation: Literal["identity", "sigmoid"]  # of the score, unless the caller wants another
    prefix_ids: tuple[int, ...]
    middle_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    # Token types of prefix, query, middle, document and suffix, for graphs that take them.
    type_ids: tuple[int, ...]
    max_length: int  # prefix, middle and suffix included; with a template, what its `limits` says
    # What is cut of a longer pair. "longest_first": the longer of the two, as the tokenizers
    # library does it. "only_second": the document. "end": the end of what a template makes of both.
    truncation: Literal["longest_first", "only_second", "end"]
    # Steps after the pooling, in this order; the last gives the columns. Absent: none.
    modules: tuple[Module, ...] | None = None
    # A language model that answers: its score is the logit of the first of these tokens after the
    # last token of a pair, less the logit of the second where there is one. An export gives that
    # number; the graphs of others may give the logits of the whole vocabulary.
    answers: tuple[str, ...] | None = None
    template: PairTemplate | None = None  # absent: the ids of a pair are as said above


@dataclass(frozen=True, slots=True)
class Parity:
    """One figure that the export measured, and the limit that it had to meet."""

    precision: Precision
    output: str
    metric: Literal[
        "max_abs",
        "max_relative",
        "min_cosine",
        "min_text_cosine",
        "mean_cosine",
        "max_of_range",  # largest error of a score, over the range of all scores
        "rank_correlation",  # Spearman's, of scores
    ]
    value: float
    limit: float


@dataclass(frozen=True, slots=True)
class Export:
    """How an artifact was made: versions of the tools, hash of the weights, measured parity."""

    tool: str
    weights_sha256: str
    parity: tuple[Parity, ...]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """All facts about one model."""

    id: str
    aliases: tuple[str, ...]
    kinds: tuple[Kind, ...]
    source: str  # repository of the original weights
    revision: str  # of the source: 40 hex digits, or "unpinned"
    licence: str
    unverified: tuple[str, ...]  # fields that nobody could check, by dotted name
    files: tuple[File, ...]
    hub: Hub | None
    graph: Graph | None  # absent if the model runs no graph
    text: TokenizerSpec | None
    dense: Dense | None
    multi_vector: MultiVector | None
    sparse: Sparse | None
    vision: Vision | None
    time_series: TimeSeries | None
    export: Export | None  # absent in the catalogue
    reranker: Reranker | None = None
    static: Static | None = None  # in place of a graph, beside `dense`
    lexical: Lexical | None = None  # in place of a graph and a tokenizer, beside `sparse`
    attention: Attention | None = None  # beside `sparse`, whose output is then an attention
    minicoil: MiniCoil | None = None  # beside `sparse`, whose output is then states of tokens

    def main_graph(self) -> Graph:
        """The main graph. Raises LoadError for a model without a graph."""
        if self.graph is None:
            raise LoadError(f"model {self.id!r} has no [model.graph] table")
        return self.graph

    def precisions(self) -> list[Precision]:
        """Precisions of the graph, in the order fp32, fp16, int8, int4; [] without a graph."""
        return [] if self.graph is None else self.graph.precisions()

    def hashes_words(self) -> bool:
        """Whether ids of sparse vectors are hashes of words, whose IDF belongs to a search."""
        return any(table is not None for table in (self.lexical, self.attention, self.minicoil))

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
        """Names of the files that one precision needs: all but the graphs of other precisions.

        A model without a graph takes None and needs all its files.

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
    """All roles of a recipe: query, document and, if it has one, the role of plain texts."""
    plain = () if recipe.plain is None else (recipe.plain,)
    return (recipe.query, recipe.document, *plain)


# The table that each kind needs.
KIND_TABLES: dict[Kind, str] = {
    "dense": "dense",
    "multi-vector": "multi_vector",
    "sparse": "sparse",
    "reranker": "reranker",
    "vision": "vision",
    "time-series": "time_series",
}

# How TOML writes that a model does not have the fact of a field. Other fields are never absent.
ABSENT: dict[str, str] = {
    **dict.fromkeys(
        ("aliases", "unverified", "prefix_ids", "suffix_ids", "marker_ids", "skip_ids", "zero_ids"),
        "[]",
    ),
    "drop_ids": "[]",
    **dict.fromkeys(("matryoshka", "tasks", "parity", "middle_ids"), "[]"),
    **dict.fromkeys(("fp32", "fp16", "int8", "idf", "keep", "text_model"), '""'),
    **dict.fromkeys(("weights", "mapping", "stop_words"), '""'),
    **dict.fromkeys(("prompt", "prefix", "suffix", "tile", "row_end", "grid_end"), '""'),
    **dict.fromkeys(("whole", "end", "before", "between", "instruction", "instructed"), '""'),
    "characters_per_token": "0",
    **dict.fromkeys(("fixed_length", "longest", "least_pixels", "most_pixels", "tokens"), "0"),
    **dict.fromkeys(("mask_id", "time_scale", "column"), "-1"),
    "expansion": '"none"',
    "revision": f'"{UNPINNED}"',
}

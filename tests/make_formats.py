"""Make the generated parts of docs/formats.md: fields, examples and names of ONNX files.

    python tests/make_formats.py

The parts stand between `<!-- NAME: made by tests/make_formats.py -->` and `<!-- end -->`.
"""

from __future__ import annotations

import ast
import dataclasses
import io
import re
import tokenize
import tomllib
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tessera_onnx_starter

from tessera_onnx.models import spec, spec_media, spec_pairs, spec_words
from tessera_onnx.models.foreign import graphs

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "formats.md"
SOURCE = ROOT / "starter" / "tessera_onnx_starter"
# The folders of examples, by their names on the page. Without a checkout the starter is a wheel.
PLACES = {
    "starter/tessera_onnx_starter": (
        SOURCE if SOURCE.is_dir() else Path(tessera_onnx_starter.__file__).parent
    ),
    "tests/artifacts": ROOT / "tests" / "artifacts",
}
PART = re.compile(
    r"(?P<head><!-- (?P<name>[\w-]+): made by tests/make_formats.py -->\n)(?P<body>.*?)"
    r"(?=<!-- end -->)",
    re.DOTALL,
)
# The tables of an entry, by their place in TOML.
TABLES: dict[str, type] = {
    "[[model]]": spec.ModelSpec,
    "[[model.files]]": spec.File,
    "[model.hub]": spec.Hub,
    "[model.graph]": spec.Graph,
    "[model.text]": spec.TokenizerSpec,
    "[model.static]": spec.Static,
    "[model.dense]": spec.Dense,
    "query, document and plain of dense and sparse": spec.Role,
    "[[model.dense.tasks]]": spec.Task,
    "[[model.dense.modules]], and modules of multi_vector and reranker": spec.Module,
    "[model.multi_vector]": spec.MultiVector,
    "query, document and plain of multi_vector": spec.TokenRole,
    "[model.sparse]": spec.Sparse,
    "[model.lexical]": spec_words.Lexical,
    "[[model.lexical.languages]]": spec_words.Language,
    "[model.attention]": spec_words.Attention,
    "[model.minicoil]": spec_words.MiniCoil,
    "[model.reranker]": spec.Reranker,
    "[model.reranker.template]": spec_pairs.PairTemplate,
    "[model.vision]": spec_media.Vision,
    "[model.vision.image]": spec_media.ImageSpec,
    "tile_graph, token_graph and text_graph of vision": spec_media.SubGraph,
    "[model.vision.prompt]": spec_media.ImagePrompt,
    "[model.vision.query]": spec_media.ImageQuery,
    "[model.time_series]": spec_media.TimeSeries,
    "[model.export]": spec.Export,
    "[[model.export.parity]]": spec.Parity,
}
# A model of the starter for each kind, else one of the tests, and its tables that the example
# shows; the first has two.
EXAMPLES: dict[spec.Kind, tuple[str, tuple[str, ...]]] = {
    "dense": ("minilm", ("files", "graph", "text", "dense", "multi_vector")),
    "sparse": ("splade", ("files", "graph", "text", "sparse")),
    "reranker": ("reranker", ("files", "graph", "text", "reranker")),
    "vision": ("tessera_page", ("files", "graph", "vision")),
    "time-series": ("tessera_bolt", ("files", "graph", "time_series")),
}
# What the names of keys say to those who know the package.
EXTRA = {
    ("ModelSpec", "id"): "the model's name: lower-case letters, digits, '.', '_' and '-'",
    ("ModelSpec", "aliases"): "further names",
    ("ModelSpec", "kinds"): "what the model serves; a table for each stands below",
    ("ModelSpec", "licence"): "of the weights",
    ("ModelSpec", "files"): "every file that the model uses",
    ("ModelSpec", "hub"): "where the files are downloaded from",
    ("ModelSpec", "text"): "the tokenizer",
    **{("ModelSpec", table): "the recipe of that kind" for table in spec.KIND_TABLES.values()},
    ("File", "name"): "inside the folder, with '/'",
    ("File", "sha256"): "64 hex digits",
    ("File", "size"): "in bytes",
    ("Graph", "fp32"): "name of the file",
    ("Graph", "fp16"): "the same",
    ("Graph", "int8"): "the same",
    ("Graph", "int4"): 'the same; absent or "" = none',
    ("Graph", "best_cuda"): "the same on an NVIDIA GPU",
    ("Graph", "best_coreml"): "the same on CoreML",
    ("TokenizerSpec", "pad_id"): "of padding",
    ("Static", "file"): "name of the file",
    ("Dense", "dimension"): "numbers in a vector",
    ("Dense", "tasks"): "other purposes than search",
    ("Dense", "query"): "how a query is read",
    ("Dense", "document"): "how a document is read",
    ("Role", "prompt"): "stands before the text",
    ("Task", "name"): "callers give it as task=",
    ("Task", "prompt"): "stands before the text",
    ("TokenRole", "prompt"): "stands before the text",
    ("TokenRole", "max_length"): "prefix, marker and suffix included",
    ("MultiVector", "dimension"): "numbers in a token's vector",
    ("MultiVector", "matryoshka"): "dimensions that the vectors may be cut to",
    ("MultiVector", "query"): "how a query is read",
    ("MultiVector", "document"): "how a document is read",
    ("Module", "type"): "what the step does",
    ("Module", "residual"): "whether its input is added to its result",
    ("Sparse", "vocab_size"): "entries of the vocabulary",
    ("Sparse", "query"): "how a query is read",
    ("Sparse", "document"): "how a document is read",
    ("Attention", "stemmer"): "by the name of the language",
    ("Attention", "alpha"): "exponent of the weights",
    ("Lexical", "k"): "how slowly the weight of a repeated stem saturates",
    ("Lexical", "b"): "how much long documents lose, from 0 to 1",
    ("Reranker", "prefix_ids"): "before the query, [CLS] or <s>",
    ("Reranker", "middle_ids"): "between query and document",
    ("Reranker", "suffix_ids"): "after the document",
    ("Vision", "dimension"): "numbers in a vector",
    ("Vision", "image"): "how an image becomes pixels",
    ("Vision", "tile_graph"): "of the tiles of an image",
    ("Vision", "token_graph"): "of the tokens of a prompt",
    ("Vision", "text_graph"): "of texts",
    ("SubGraph", "output"): "of the graph",
    ("SubGraph", "fp32"): "name of the file",
    ("SubGraph", "fp16"): "the same",
    ("SubGraph", "int8"): "the same",
    ("SubGraph", "int4"): 'the same; absent or "" = none',
    ("ImageSpec", "most_pixels"): '0 where not "dynamic"',
    ("ImageSpec", "resample"): "filter of the resizing",
    ("ImageQuery", "prefix"): "before the text",
    ("ImageQuery", "suffix"): "after the text",
    ("ImageSpec", "mean"): "of each channel",
    ("ImageSpec", "std"): "of each channel",
    ("TimeSeries", "patch_size"): "values in a patch",
    ("Export", "tool"): "versions",
    ("Export", "weights_sha256"): "of the torch weights",
    ("Task", "task_id"): "as in a role",
    ("Export", "parity"): "what was measured",
    ("Parity", "precision"): "of the graph",
    ("Parity", "output"): "of the graph",
    ("Parity", "metric"): "how the vectors were compared",
    ("Parity", "value"): "measured",
    ("Parity", "limit"): "that it had to meet",
}
WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def page(text: str) -> str:
    """The page with its generated parts made anew."""

    def part(found: re.Match[str]) -> str:
        name = found["name"]
        lines = example(name.removeprefix("example-")) if "-" in name else MAKERS[name]()
        return found["head"] + "\n" + "\n".join(lines) + "\n\n"

    return PART.sub(part, text)


def fields() -> Iterator[str]:
    """Every table of an entry with its keys."""
    comments = dict(EXTRA)
    for module in (spec, spec_media, spec_pairs, spec_words):
        comments |= _comments(Path(module.__file__).read_text("utf-8"))
    for number, (title, table) in enumerate(TABLES.items()):
        yield from ([] if number == 0 else [""])
        yield f"#### `{title}`" if title.startswith("[") else f"#### {title}"
        yield ""
        yield " ".join((table.__doc__ or "").split())
        yield ""
        yield "| key | value | what |"
        yield "| --- | --- | --- |"
        hints = typing.get_type_hints(table)
        for field in dataclasses.fields(table):
            what = comments.get((table.__name__, field.name), "")
            what = what.replace("|", "\\|").replace("<", "\\<")
            yield f"| {field.name} | {_words(hints[field.name])} | {what} |"


def example(kind: str) -> Iterator[str]:
    """The tables of a kind, from the model.toml of a small model."""
    name, tables = EXAMPLES[typing.cast("spec.Kind", kind)]
    model = read_example(name)
    yield "```toml"
    yield f"# {_shown(name)}/{name}/model.toml"
    yield "schema = 1"
    yield "[[model]]"
    for key, value in model.items():
        if not isinstance(value, dict) and key != "files":
            yield f"{key} = {_toml(value)}"
    for table in tables:
        for part in model["files"] if table == "files" else [model[table]]:
            yield ""
            yield from _table(f"model.{table}", part, several=table == "files")
    yield "```"


def _shown(name: str) -> str:
    return next(shown for shown, place in PLACES.items() if (place / name).is_dir())


def read_example(name: str) -> dict[str, Any]:
    """The entry of a model of the starter or of the tests, as TOML has it."""
    found = tomllib.loads((PLACES[_shown(name)] / name / "model.toml").read_text("utf-8"))
    return typing.cast("dict[str, Any]", found["model"][0])


def names() -> Iterator[str]:
    """The names of ONNX files."""
    yield "| name | precision | what | int8 products are exact on | taken |"
    yield "| --- | --- | --- | --- | --- |"
    for name in graphs.NAMES:
        asked = "yes" if name.precision in graphs.UNASKED else f"by `precision={name.precision!r}`"
        taken = "by `file=` alone" if name.by_name_only else asked.replace("'", '"')
        exact = name.exact_on or "-"
        yield f"| model{name.end}.onnx | {name.precision} | {name.what} | {exact} | {taken} |"


def orders() -> Iterator[str]:
    """Which int8 graph a processor takes first."""
    processors = {
        "vnni": "x86 with VNNI",
        "x86": "x86 without VNNI",
        "arm64": "64-bit ARM",
        "other": "others",
    }
    yield "| processor | int8 graphs, the first that is there |"
    yield "| --- | --- |"
    for processor, title in processors.items():
        order = graphs.INT8_ORDER[typing.cast("graphs.Processor", processor)]
        yield f"| {title} | {', '.join(end[1:] for end in order)} |"


MAKERS = {"fields": fields, "names": names, "orders": orders}


def _comments(source: str) -> dict[tuple[str, str], str]:
    """The comment of each field of each class: above it, and behind it."""
    lines = source.splitlines()
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for table in ast.parse(source).body:
        for field in table.body if isinstance(table, ast.ClassDef) else ():
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            first = field.lineno
            while first - 1 in comments and lines[first - 2].lstrip().startswith("#"):
                first -= 1
            numbers = [*range(first, field.lineno), field.end_lineno or field.lineno]
            parts = [comments[number] for number in numbers if number in comments]
            if parts:
                found[table.name, field.target.id] = " ".join(parts)
    return found


def _words(hint: Any) -> str:
    """A type in words."""
    origin, given = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        parts = [part for part in given if part is not types.NoneType]
        if type(None) in given:
            return f"{', '.join(map(_words, parts))}; may be absent"
        return ", ".join(map(_words, parts))
    if origin is typing.Literal:
        return ", ".join(f'"{value}"' for value in given)
    if origin is tuple:
        return f"list: {_words(given[0])}"
    return "table" if dataclasses.is_dataclass(hint) else WORDS[hint]


def _toml(value: Any) -> str:
    """A TOML value on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)


def _table(name: str, table: dict[str, Any], *, several: bool = False) -> Iterator[str]:
    yield f"[[{name}]]" if several else f"[{name}]"
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    for key, value in table.items():
        if key not in inner:
            yield f"{key} = {_toml(value)}"
    for key, value in inner.items():
        yield ""
        yield from _table(f"{name}.{key}", value)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")

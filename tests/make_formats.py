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

from tessera_onnx.models import spec
from tessera_onnx.models.foreign import graphs

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "formats.md"
STARTER = ROOT / "starter" / "tessera_onnx_starter"
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
    "[model.dense]": spec.Dense,
    "query, document and plain of dense and sparse": spec.Role,
    "[[model.dense.tasks]]": spec.Task,
    "[[model.dense.modules]] and [[model.multi_vector.modules]]": spec.Module,
    "[model.multi_vector]": spec.MultiVector,
    "query, document and plain of multi_vector": spec.TokenRole,
    "[model.sparse]": spec.Sparse,
    "[model.vision]": spec.Vision,
    "[model.vision.image]": spec.ImageSpec,
    "tile_graph, token_graph and text_graph of vision": spec.SubGraph,
    "[model.vision.prompt]": spec.ImagePrompt,
    "[model.vision.query]": spec.ImageQuery,
    "[model.time_series]": spec.TimeSeries,
    "[model.export]": spec.Export,
    "[[model.export.parity]]": spec.Parity,
}
# Of each kind: a model of the starter, and its tables that the example shows.
EXAMPLES: dict[spec.Kind, tuple[str, tuple[str, ...]]] = {
    "dense": ("minilm", ("files", "graph", "text", "dense")),
    "multi-vector": ("minilm", ("multi_vector",)),
    "sparse": ("splade", ("files", "graph", "text", "sparse")),
    "vision": ("tessera_page", ("files", "graph", "vision")),
    "time-series": ("tessera_bolt", ("files", "graph", "time_series")),
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
    comments = _comments(Path(spec.__file__).read_text("utf-8"))
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
            what = comments.get((table.__name__, field.name), "").replace("|", "\\|")
            yield f"| {field.name} | {_words(hints[field.name])} | {what} |"


def example(kind: str) -> Iterator[str]:
    """The tables of a kind, from the model.toml of a model of the starter."""
    name, tables = EXAMPLES[typing.cast("spec.Kind", kind)]
    model = read_example(name)
    yield "```toml"
    yield f"# starter/tessera_onnx_starter/{name}/model.toml"
    if "files" in tables:
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


def read_example(name: str) -> dict[str, Any]:
    """The entry of a model of the starter, as TOML has it."""
    found = tomllib.loads((STARTER / name / "model.toml").read_text("utf-8"))
    return typing.cast("dict[str, Any]", found["model"][0])


def names() -> Iterator[str]:
    """The names of ONNX files."""
    yield "| name | precision | what | int8 products are exact on | taken |"
    yield "| --- | --- | --- | --- | --- |"
    for name in graphs.NAMES:
        taken = "by `file=` alone" if name.by_name_only else "yes"
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
            found[table.name, field.target.id] = " ".join(parts)
    return found


def _words(hint: Any) -> str:
    """A type in words."""
    origin, given = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        parts = [part for part in given if part is not types.NoneType]
        if type(None) in given:
            return f"{' or '.join(map(_words, parts))}; may be absent"
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

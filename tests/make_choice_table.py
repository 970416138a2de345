"""Make the tables of docs/which-model.md of models.toml and of tests/published_scores.toml.

    python tests/make_choice_table.py

The page lists the models of the catalogue for which a public table gives a score, and those for
several languages.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tessera_onnx.models import catalogue
from tessera_onnx.models.spec import KIND_TABLES, ModelSpec, Precision

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "which-model.md"
SCORES = ROOT / "tests" / "published_scores.toml"
TITLES = {
    "dense": "Dense models",
    "multi-vector": "Multi-vector models",
    "sparse": "Sparse models",
    "reranker": "Rerankers",
}
FACTS = ("licence", "tokens", "dimension", "fp32 MB", "int8 MB")
LANGUAGES = "Models for several languages"


def page(text: str | None = None) -> str:
    """The page (None: as it is), with its tables made anew: each goes to the next title."""
    found = PAGE.read_text("utf-8") if text is None else text
    for each in read_published()["table"]:
        head, title, rest = found.partition(f"\n## {TITLES[each['kind']]}\n")
        words, _, after = rest.partition("\nScore: ")
        follows = after.partition("\n## ")
        made = "\n".join(table(each))
        found = "".join([head, title, words, "\n", made, "\n", *follows[1:]])
    head, title, rest = found.partition(f"\n## {LANGUAGES}\n")
    words, _, after = rest.partition("\n| id |")
    follows = after.partition("\n## ")
    return "".join([head, title, words, "\n", "\n".join(languages()), "\n", *follows[1:]])


def languages() -> Iterator[str]:
    """The rows of the dense models that were trained for several languages."""
    several = read_published()["several_languages"]
    yield from rows_of(
        ("id", *FACTS),
        [(spec.id, *facts(spec, "dense")) for spec in catalogue.catalogue() if spec.id in several],
    )


def rows_of(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    """A table without the columns that are empty in all rows."""
    kept = [number for number in range(len(header)) if any(row[number] for row in rows)]
    for cells in (header, ("---",) * len(header), *rows):
        yield f"| {' | '.join(cells[number] for number in kept)} |"


def facts(spec: ModelSpec, kind: str) -> tuple[str, ...]:
    """The cells under FACTS."""
    return (
        *(spec.licence, tokens(spec, kind), numbers(spec, kind)),
        *(size(spec, "fp32"), size(spec, "int8")),
    )


def table(each: dict[str, Any]) -> Iterator[str]:
    """The rows of one kind, best first, and their sources."""
    specs = {spec.id: spec for spec in catalogue.catalogue()}
    letters = "abcdef"
    rows = [
        (score, name, letters[number])
        for number, source in enumerate(each["source"])
        for name, score in source["scores"].items()
    ]
    yield f"Score: {each['measure']}."
    yield ""
    yield from rows_of(
        ("id", "score", "source", *FACTS),
        [
            (name, f"{score:.2f}", letter, *facts(specs[name], each["kind"]))
            for score, name, letter in sorted(rows, key=lambda row: (-row[0], row[1]))
        ],
    )
    yield ""
    yield "Sources: " + "; ".join(
        f"{letter}: [{source['name']}]({source['url']})"
        for letter, source in zip(letters, each["source"], strict=False)
    )


def tokens(spec: ModelSpec, kind: str) -> str:
    """The most tokens of a document, or of a pair."""
    recipe = getattr(spec, KIND_TABLES[kind])  # type: ignore[index]
    longest = recipe.max_length if kind == "reranker" else recipe.document.max_length
    return f"{longest:,}" if longest < 1_000_000 else "any"


def numbers(spec: ModelSpec, kind: str) -> str:
    """The size of a vector, if the kind has vectors of one size."""
    recipe = getattr(spec, KIND_TABLES[kind])  # type: ignore[index]
    return str(recipe.dimension) if kind in {"dense", "multi-vector"} else ""


def size(spec: ModelSpec, precision: Precision) -> str:
    """Megabytes of the graph and weights of one precision; "" where they are not known."""
    if spec.static is not None and precision == "fp32":
        files = [file.size for file in spec.files if file.name.endswith(".safetensors")]
    elif spec.hub is None or precision not in spec.precisions():
        return ""
    else:
        wanted = spec.files_for(precision)
        files = [file.size for file in spec.files if file.name in wanted and "onnx" in file.name]
    return f"{sum(files) / 1e6:,.0f}" if files and min(files) >= 0 else ""


def read_published() -> dict[str, Any]:
    """The content of tests/published_scores.toml."""
    return tomllib.loads(SCORES.read_text("utf-8"))


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")

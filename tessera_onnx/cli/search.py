"""`tessera search`: the chunks of a collection that answer a query."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from tessera_onnx.cli.options import (
    AT_LEAST_1,
    JSON,
    STORE,
    STORE_URL,
    THREADS,
    model_ids,
    store_url,
)
from tessera_onnx.cli.output import print_json, print_lines, printable
from tessera_onnx.collection.collection import Collection

if TYPE_CHECKING:
    from tessera_onnx.collection.documents import Found

WIDTH = 160  # characters of a chunk that are shown


@click.command()
@click.argument("folder")
@click.argument("query")
@STORE
@STORE_URL
@click.option("--top-k", type=AT_LEAST_1, default=10, show_default=True, help="Most chunks.")
@click.option(
    "--filter",
    "filters",
    metavar="KEY=VALUE",
    multiple=True,
    help="Only documents with this value of a field. Repeat it: other values of the same key are "
    "alternatives, other keys are further conditions.",
)
@click.option(
    "--rerank",
    shell_complete=model_ids,
    metavar="ID_OR_FOLDER",
    help="Reranker that ranks the candidates at last.",
)
@click.option(
    "--candidates",
    type=AT_LEAST_1,
    default=100,
    show_default=True,
    help="Chunks that each model proposes.",
)
@THREADS
@JSON
def search(
    folder: str,
    query: str,
    *,
    store: str | None,
    url: str | None,
    top_k: int,
    filters: tuple[str, ...],
    rerank: str | None,
    candidates: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Search what `tessera index` wrote to FOLDER.

    With --store, FOLDER is the name of a collection or table in it.

    Chunks are ranked by a dense and a sparse model, and the rankings fused by reciprocal ranks.
    Each result names its document and the characters of it. At a terminal, matching words are bold.

    \b
    Example: tessera search notes.index "how long does bread keep?" --filter lang=en --top-k 5
    """
    wanted: dict[str, list[str]] = {}
    for each in filters:
        key, mark, value = each.partition("=")
        if not mark:
            raise click.UsageError("--filter takes KEY=VALUE")
        wanted.setdefault(key, []).append(value)
    url = store_url(store, url)
    with Collection(folder, store=store, url=url, threads=threads) as collection:
        found = collection.search(query, top_k, filter=wanted, rerank=rerank, candidates=candidates)
    if as_json:
        print_json({"results": [dataclasses.asdict(each) for each in found]})
    else:
        print_lines(line for place, each in enumerate(found, 1) for line in _lines(place, each))


def _lines(place: int, found: Found) -> Iterator[str]:
    source = printable(_shown(found.source))
    yield f"{place}. {found.score:.4f}  {source}  {found.start}-{found.stop}"
    yield f"   {_excerpt(found.text, found.highlights, bold=sys.stdout.isatty())}"


def _shown(source: str) -> str:
    """A source as a path from the working directory, where it lies below it."""
    here = os.path.join(os.getcwd(), "")  # noqa: PTH109, PTH118
    return source.removeprefix(here)


def _excerpt(text: str, places: Sequence[tuple[int, int]], *, bold: bool) -> str:
    """The part of a chunk that holds most of the matching words, as one line."""
    first = max(
        (start for start, _ in places),
        key=lambda start: sum(start <= a and b <= start + WIDTH for a, b in places),
        default=0,
    )
    stop = min(len(text), first + WIDTH)
    start = max(0, min(first, stop - WIDTH))
    parts, end = [], start
    for a, b in places:
        if start <= a and b <= stop:
            parts += [text[end:a], click.style(text[a:b], bold=True) if bold else text[a:b]]
            end = b
    parts.append(text[end:stop])
    shown = [part if part[:1] == "\x1b" else printable(_spaced(part)) for part in parts]
    return f"{'…' * (start > 0)}{''.join(shown).strip()}{'…' * (stop < len(text))}"


def _spaced(text: str) -> str:
    """A text whose runs of white space are one space each."""
    inner = " ".join(text.split())
    return f"{' ' * text[:1].isspace()}{inner}{' ' * (bool(inner) and text[-1:].isspace())}"

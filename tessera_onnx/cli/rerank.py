"""`tessera rerank`: sort texts by a model that reads each together with the query."""

from __future__ import annotations

from typing import Any, get_args

import click

from tessera_onnx.cli import ranking
from tessera_onnx.cli.options import (
    AT_LEAST_1,
    CACHE,
    DEVICE,
    FIELD,
    ID_FIELD,
    JSON,
    MODEL,
    MODEL_FILE,
    ON_LONG,
    PRECISION,
    THREADS,
    location,
)
from tessera_onnx.cli.texts import about_lines
from tessera_onnx.text.reranker import Activation, TesseraReranker


@click.command()
@click.argument("documents", metavar="[QUERY] DOCUMENTS...", nargs=-1)
@click.option("--query", help="The query, in place of the first argument.")
@click.option(
    "--file",
    "source",
    metavar="FILE",
    help="Documents in a .txt, .md, .jsonl or .csv file, also as .gz, or - for stdin.",
)
@click.option("--top-k", type=AT_LEAST_1, help="Print only the best K.")
@click.option(
    "--activation",
    type=click.Choice(get_args(Activation)),
    default="default",
    show_default=True,
    help="Of the scores: the model's own, none, or 1 / (1 + exp(-x)).",
)
@FIELD
@ID_FIELD
@MODEL
@MODEL_FILE
@PRECISION
@DEVICE
@THREADS
@click.option("--max-length", type=AT_LEAST_1, help="Most tokens read of a pair.")
@ON_LONG
@CACHE
@JSON
def rerank(
    *,
    documents: tuple[str, ...],
    query: str | None,
    source: str | None,
    top_k: int | None,
    activation: Activation,
    field: str,
    id_field: str | None,
    model: str | None,
    cache_dir: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Rank texts by a reranker (cross-encoder).

    It reads QUERY and each document together. DOCUMENTS, or the lines of --file, are best the
    first results of a search, since it runs once for each of them.

    \b
    Example: tessera rerank "fresh bread" --file results.txt --model DIR --top-k 5
    """
    query, documents = ranking.query_of(query, documents)
    lines, texts = ranking.documents(documents, source, field, id_field)
    given = {name: value for name, value in options.items() if value is not None}
    with TesseraReranker(**location(model, cache_dir), **given) as opened, about_lines(lines):
        ranked = opened.rank(query, texts, top_k, activation=activation)
    facts = {"model": opened.model(), "kind": "reranker"}
    ranking.show(facts, ranked, texts, lines=lines, given=documents, as_json=as_json)

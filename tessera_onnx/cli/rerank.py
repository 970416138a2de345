"""`tessera rerank`: sort texts by a model that reads each together with the query."""

from __future__ import annotations

import inspect
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
    SERVER,
    THREADS,
    at_server,
    location,
)
from tessera_onnx.cli.texts import about_lines
from tessera_onnx.errors import ModelNotFound
from tessera_onnx.kinds import KINDS, RERANKING, KindRow
from tessera_onnx.models import resolve
from tessera_onnx.runtime import cpu
from tessera_onnx.text.reranker import Activation


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
    help="Of a reranker's scores: the model's own (default), none, or 1 / (1 + exp(-x)).",
)
@click.option(
    "--instruction",
    metavar="TEXT",
    help="What a good document does, in a sentence, for models that read one (Qwen3-Reranker).",
)
@FIELD
@ID_FIELD
@MODEL
@MODEL_FILE
@PRECISION
@DEVICE
@THREADS
@click.option("--max-length", type=AT_LEAST_1, help="Most tokens read of a pair, or of a text.")
@ON_LONG
@CACHE
@SERVER
@JSON
def rerank(
    *,
    documents: tuple[str, ...],
    query: str | None,
    source: str | None,
    top_k: int | None,
    activation: Activation | None,
    instruction: str | None,
    field: str,
    id_field: str | None,
    model: str | None,
    cache_dir: str | None,
    server: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Rank texts by a reranker or by MaxSim.

    A reranker (cross-encoder) reads QUERY and each document together; a multi-vector model
    (ColBERT) compares their tokens. DOCUMENTS, or the lines of --file, are best the first results
    of a search, since the model runs once for each of them.

    \b
    Example: tessera rerank "fresh bread" --file results.txt --model DIR --top-k 5
    """
    query, documents = ranking.query_of(query, documents)
    lines, texts = ranking.documents(documents, source, field, id_field)
    opened, row = _open(model, cache_dir, server, options)
    with opened:
        asked = {"activation": activation, "instruction": instruction}
        how = {name: value for name, value in asked.items() if value}
        for name in sorted(how.keys() - inspect.signature(opened.rank).parameters):
            raise click.UsageError(f"--{name} is not for {row.kind} models")
        with about_lines(lines):
            ranked = opened.rank(query, texts, top_k, **how)
    facts = {"model": opened.model(), "kind": row.kind}
    ranking.show(facts, ranked, texts, lines=lines, given=documents, as_json=as_json)


def _open(
    model: str | None, cache_dir: str | None, server: str | None, options: dict[str, Any]
) -> tuple[Any, KindRow]:
    """The open model and the row of its kind; without a model the first installed reranker."""
    given = {name: value for name, value in options.items() if value is not None}
    if server is not None:
        found = at_server(server, model, RERANKING[0], cache_dir=cache_dir, **given)
        return found, KINDS[RERANKING[0]]
    place = location(model, cache_dir)
    try:
        artifact = resolve.resolve(
            **place,
            kind=RERANKING[0] if model is None else None,
            processor=cpu.byte_products(),
            **{name: given.get(name) for name in ("file", "precision")},
        )
    except ModelNotFound as error:
        if model is not None:
            raise
        raise ModelNotFound(
            f"{error}, or an id that `tessera models` lists; a multi-vector model reranks too"
        ) from None
    kinds = artifact.spec.kinds
    kind = next((kind for kind in RERANKING if kind in kinds), None)
    if kind is None:
        raise click.UsageError(
            f"{artifact.spec.id} is of kind {', '.join(kinds)}, and a "
            f"{' or '.join(RERANKING)} model is needed: see tessera rank"
        )
    row = KINDS[kind]
    return row.open(artifact, **place, **given), row

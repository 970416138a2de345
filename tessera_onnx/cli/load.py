"""`tessera load`: the output of `tessera batch` into a store of vectors."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import click

from tessera_onnx.cli.options import JSON
from tessera_onnx.cli.output import print_json, say
from tessera_onnx.errors import install_hint

if TYPE_CHECKING:
    from tessera_onnx.integrations.stores import Store

STORES = {
    "qdrant": "QdrantStore",
    "lancedb": "LanceStore",
    "pgvector": "PgVectorStore",
    "milvus": "MilvusStore",
}


@click.command()
@click.argument("output", metavar="FOLDER")
@click.option("--store", required=True, type=click.Choice(list(STORES)), help="Kind of store.")
@click.option(
    "--url",
    required=True,
    envvar="TESSERA_STORE_URL",
    help="Where it is: http://HOST:PORT, postgresql://..., or a folder or file of stores that run "
    "in the process. A password is better put in the variable TESSERA_STORE_URL than here.",
)
@click.option("--collection", metavar="NAME", required=True, help="Collection or table.")
@click.option(
    "--id-column",
    metavar="NAME",
    default="id",
    show_default=True,
    help="Column of the ids, all different. A row whose id is there is replaced.",
)
@click.option(
    "--keep",
    metavar="NAME",
    multiple=True,
    help="Write this column beside the vectors, and no others. Repeat it for several. Default: "
    "all but those of bytes.",
)
@JSON
def load(
    *,
    output: str,
    store: str,
    url: str,
    collection: str,
    id_column: str,
    keep: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write the output of `tessera batch` to a store.

    FOLDER is that output. The collection is made if need be. If it is there, its vectors have to
    be of the same model. The same command goes on where a load was killed, and writes what
    `tessera batch` has made since.

    \b
    Example: tessera load vectors --store qdrant --url http://127.0.0.1:6333 --collection articles
    """
    try:
        from tessera_onnx.integrations.load import Output
    except ImportError as error:
        raise click.ClickException(
            f"{error.name} is not installed: {install_hint('batch')}"
        ) from None
    found = Output(output)
    module = importlib.import_module(f"tessera_onnx.integrations.{store}")
    target: Store = getattr(module, STORES[store]).connect(url, collection, fields=found.fields)
    done = found.load(target, id_column, keep or None)
    if done.unfinished:
        say(f"Warning: {done.unfinished} files of the batch job are not done: load again then")
    report: dict[str, Any] = {
        "collection": collection,
        "written": done.rows,
        "before": done.before,
        "failed": done.failed,
        "documents": target.count(),
    }
    target.close()
    if as_json:
        print_json(report)
        return
    click.echo(
        f"{done.rows:,} rows written to {collection}, {done.before:,} done by an earlier load, "
        f"{done.failed:,} without a vector; it holds {report['documents']:,} documents"
    )

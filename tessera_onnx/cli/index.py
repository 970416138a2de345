"""`tessera index`: files become a collection in a folder, which `tessera search` searches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tessera_onnx.cli.options import (
    AT_LEAST_1,
    ID_FIELD,
    JSON,
    MODEL,
    PASSWORD,
    STORE,
    STORE_URL,
    THREADS,
    model_ids,
    store_url,
)
from tessera_onnx.cli.output import print_json, say
from tessera_onnx.collection.collection import Collection
from tessera_onnx.progress import Stderr

if TYPE_CHECKING:
    from tessera_onnx.collection.indexing import Report

TOLD = 20  # files and rows that failed, on stderr


@click.command()
@click.argument("paths", metavar="PATHS...", nargs=-1, required=True)
@click.option(
    "--to",
    "folder",
    metavar="FOLDER",
    required=True,
    help="Folder of the collection; with --store, name of a collection or table.",
)
@STORE
@STORE_URL
@MODEL
@click.option(
    "--sparse",
    shell_complete=model_ids,
    metavar="ID_OR_FOLDER",
    help="Model that finds words: a sparse model, bm25 (the default), or none.",
)
@click.option(
    "--multi-vector",
    shell_complete=model_ids,
    metavar="ID_OR_FOLDER",
    help="Multi-vector model that ranks the best chunks anew. Default: no such model.",
)
@click.option("--language", help="Language of bm25. Default: english.")
@click.option("--chunk-tokens", type=AT_LEAST_1, help="Most tokens of a chunk. Default: 256.")
@click.option(
    "--overlap",
    type=click.IntRange(min=0),
    help="Most tokens at the end of a chunk that the next one repeats. Default: 32.",
)
@click.option(
    "--field",
    "fields",
    metavar="NAME",
    multiple=True,
    default=("text",),
    show_default=True,
    help="Key or column of the text of a row. Repeat it to join several.",
)
@ID_FIELD
@PASSWORD
@click.option("--remove", is_flag=True, help="Remove the documents of PATHS instead.")
@THREADS
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Show the number of chunks on stderr. Default: where stderr is a terminal.",
)
@JSON
def index(
    *,
    paths: tuple[str, ...],
    folder: str,
    store: str | None,
    url: str | None,
    fields: tuple[str, ...],
    id_field: str | None,
    password: str | None,
    remove: bool,
    progress: bool | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Index files in a folder or a store, for `tessera search`.

    PATHS are .txt, .md, .pdf, .jsonl, .parquet and .arrow files, and folders of them. Texts are cut
    into chunks at ends of sentences, and each chunk is encoded. A second such command encodes what
    has changed and removes what is gone. The models are those of the first command.

    Exit code 1: a file or a row could not be read.

    \b
    Example: tessera index notes/ papers/ --to notes.index
    Example: tessera index notes/ --store qdrant --url http://127.0.0.1:6333 --to notes
    """
    from tqdm import tqdm

    url = store_url(store, url)
    with Collection(folder, store=store, url=url, **options) as collection:
        if remove:
            count = collection.remove(paths)
            print_json({"removed": count}) if as_json else click.echo(
                f"{_counted(count, 'document')} removed"
            )
            return
        hidden = None if progress is None else not progress  # None: unless stderr is a terminal
        with tqdm(unit=" chunks", disable=hidden, file=Stderr()) as bar:
            report = collection.sync(
                paths,
                text_fields=fields,
                id_field=id_field,
                password=password,
                tell=lambda report: bar.update(report.chunks - bar.n) and None,
            )
    if as_json:
        place = {"folder": folder} if store is None else {"store": store, "collection": folder}
        print_json({**place, **dataclasses.asdict(report)})
    else:
        click.echo(_line(report, Path(folder).name if store is None else folder))
    if report.failed:
        for message in report.failed[:TOLD]:
            say(f"Error: {message}")
        if len(report.failed) > TOLD:
            say(f"Error: {len(report.failed) - TOLD:,} more files or rows could not be read")
        raise click.exceptions.Exit(1)


def _line(report: Report, name: str) -> str:
    """What happened, in one line."""
    parts = [_counted(report.chunks, "new chunk")]
    for what in ("unchanged", "removed", "empty"):
        count = getattr(report, what)
        parts += [f"{count:,} {what}"] if count else []
    parts += [f"{_counted(report.ignored, 'file')} ignored"] if report.ignored else []
    return f"{_counted(report.documents, 'document')} in {name}: {', '.join(parts)}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"

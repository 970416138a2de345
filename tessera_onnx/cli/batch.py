"""`tessera batch`: the rows of files, with columns of vectors, as Parquet files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import click

from tessera_onnx.cli.options import (
    AT_LEAST_1,
    CACHE,
    DEVICE,
    FILE,
    MODEL,
    POOLING,
    PRECISION,
    THREADS,
    location,
)
from tessera_onnx.cli.output import print_json, say
from tessera_onnx.errors import install_hint
from tessera_onnx.kinds import KINDS
from tessera_onnx.models.spec import Kind
from tessera_onnx.progress import Stderr

if TYPE_CHECKING:
    from tessera_onnx.batch.job import Progress, Summary

TOLD = 5  # rows that failed, on stderr


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    required=True,
    help="Folder of the Parquet files to write: new, or that of the same job.",
)
@MODEL
@click.option(
    "--column",
    metavar="NAME",
    default="text",
    show_default=True,
    help="Column to encode: texts, images (paths or bytes) or lists of numbers.",
)
@click.option(
    "--id-column",
    metavar="NAME",
    help="Column that names rows in the report, which also counts ids that occur again.",
)
@click.option(
    "--keep",
    metavar="NAME",
    multiple=True,
    help="Copy this column, and no others. Repeat it for several. Default: copy all.",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice([kind for kind, row in KINDS.items() if row.reads != "pairs"]),
    help="Kind of vectors. Repeat it for several of one run of the model.",
)
@click.option(
    "--role",
    type=click.Choice(["document", "query", "plain"]),
    default="document",
    show_default=True,
    help="How texts are read.",
)
@click.option("--task", help="A purpose that the model knows by name, such as clustering.")
@click.option("--prompt", help="Text put before every text, in place of the model's own.")
@click.option(
    "--output-dtype",
    type=click.Choice(["float32", "float16", "int8", "binary"]),
    default="float32",
    show_default=True,
    help="Type of the numbers of vectors.",
)
@click.option(
    "--on-long",
    type=click.Choice(["truncate", "error"]),
    default="truncate",
    show_default=True,
    help="What to do with a text that is longer than the model reads: "
    "cut it and say so in its row, or make it an error of its row.",
)
@click.option("--horizon", type=AT_LEAST_1, help="Steps of a forecast.")
@click.option("--level", "levels", type=float, multiple=True, help="Quantile of a forecast.")
@click.option(
    "--max-errors",
    type=click.IntRange(min=0),
    help="End with exit code 1 when more rows than this have failed. Default: no limit.",
)
@click.option(
    "--block-rows",
    type=AT_LEAST_1,
    help="Most rows between two states that a killed job goes on from.",
)
@click.option(
    "--list-type",
    type=click.Choice(["fixed", "plain"]),
    default="fixed",
    show_default=True,
    help="Lists of vectors: plain ones are read by pyarrow before 26 too, also where rows failed.",
)
@click.option("--max-length", type=AT_LEAST_1, help="Most tokens read of a text.")
@click.option("--dimension", type=AT_LEAST_1, help="Cut vectors to this dimension (Matryoshka).")
@click.option("--language", help="Language of a lexical model. Default: english.")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where rows are encoded: in this process, or by the workers of a Ray cluster.",
)
@click.option("--address", metavar="ADDRESS", help="Ray cluster: HOST:PORT, or auto, the default.")
@click.option("--workers", type=AT_LEAST_1, help="Workers on Ray. Default: all that fit.")
@click.option("--cpus-per-worker", type=AT_LEAST_1, help="CPUs of a worker on Ray. Default: 1.")
@POOLING
@FILE
@PRECISION
@DEVICE
@THREADS
@CACHE
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Tell on stderr how far the job is. Default: where stderr is a terminal.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def batch(
    *,
    inputs: tuple[str, ...],
    output: str,
    model: str | None,
    column: str,
    id_column: str | None,
    keep: tuple[str, ...],
    kinds: tuple[Kind, ...],
    role: Literal["document", "query", "plain"],
    task: str | None,
    prompt: str | None,
    output_dtype: Literal["float32", "float16", "int8", "binary"],
    on_long: Literal["truncate", "error"],
    horizon: int | None,
    levels: tuple[float, ...],
    max_errors: int | None,
    block_rows: int | None,
    list_type: Literal["fixed", "plain"],
    engine: Literal["local", "ray"],
    address: str | None,
    workers: int | None,
    cpus_per_worker: int | None,
    cache_dir: str | None,
    device: str,
    progress: bool | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Encode the rows of files.

    INPUT is a Parquet, JSON lines or Arrow file, a folder of them or a glob, as a path or a URL
    such as s3://. Each becomes one Parquet file below OUT, with the same rows and the columns of
    vectors, tokens, truncated and error. A row that fails has its reason in error.

    The same command goes on where a job was killed. Exit code 1: a file could not be read, or more
    rows failed than --max-errors.

    \b
    Example: tessera batch corpus/ --output vectors --model all-minilm-l6-v2 --column text
    """
    try:
        from tessera_onnx.batch.encoder import Encoder
        from tessera_onnx.batch.job import Job
        from tessera_onnx.batch.spread import SpreadJob
        from tessera_onnx.integrations.ray import Ray
    except ImportError as error:
        raise click.ClickException(
            f"{error.name} is not installed: {install_hint('batch')}"
        ) from None
    cluster: dict[str, Any] = {
        "address": address,
        "workers": workers,
        "cpus_per_worker": cpus_per_worker,
    }
    given = {name: value for name, value in cluster.items() if value is not None}
    if given and engine != "ray":
        raise click.UsageError(f"--{next(iter(given)).replace('_', '-')} is for --engine ray")
    place = location(model, cache_dir)
    if device != "auto":
        options["device"] = device
    encoder = Encoder(
        place.pop("model_id"),
        column,
        kinds=kinds,
        role=role,
        task=task,
        prompt=prompt,
        output_dtype=output_dtype,
        on_long=on_long,
        horizon=horizon,
        levels=levels or None,
        **place,
        **options,
    )
    make = partial(SpreadJob, engine=Ray(**given)) if engine == "ray" else Job
    job = make(
        inputs,
        output,
        encoder,
        id_column=id_column,
        columns=keep or None,
        block_rows=block_rows,
        max_errors=max_errors,
        fixed_lists=list_type == "fixed",
    )
    tell = _Told(sys.stderr.isatty() if progress is None else progress)
    try:
        with redirect_stdout(sys.stderr):  # where Ray would print its warnings into the report
            summary = job.run(tell)
    finally:
        tell.end()
    for line in _warnings(summary):
        say(f"Warning: {line}")
    report = _report(summary, encoder.opened()[0].model())
    if as_json:
        print_json(report)
    else:
        click.echo(
            f"{report['rows']:,} rows of {report['files_done']} files in {output}: "
            f"{report['errors']:,} errors, {report['truncated']:,} truncated, "
            f"{report['tokens']:,} tokens"
        )
    encoder.close()
    if summary.failed_files or summary.too_many_errors:
        for message in summary.failed_files:
            say(f"Error: {message}")
        if summary.too_many_errors:
            say(f"Error: {report['errors']} rows failed, more than --max-errors")
        raise click.exceptions.Exit(1)


class _Told:
    """A line on stderr about the progress: of a terminal the same line, else a line at times."""

    def __init__(self, wanted: bool) -> None:  # noqa: FBT001
        self._wanted = wanted
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._last = 0.0
        self._is_open = False

    def __call__(self, progress: Progress) -> None:
        now = monotonic()
        if not self._wanted or now - self._last < (0.5 if self._is_terminal else 10):
            return
        self._last = now
        line = _line(progress)
        if self._is_terminal:
            Stderr().write(f"\r\x1b[K{line}")
            self._is_open = True
        else:
            say(line)

    def end(self) -> None:
        """End the line of a terminal."""
        if self._is_open:
            say("")


def _line(progress: Progress) -> str:
    seconds = progress.seconds or 1e-9
    fresh, left = progress.fresh, progress.left()
    share = progress.bytes_done / progress.n_bytes if progress.n_bytes else 1.0
    rest = "" if left is None else f", about {_time(left)} left"
    return (
        f"{share:.0%}: {progress.counts.rows:,} rows, {progress.counts.errors:,} errors, "
        f"{fresh.rows / seconds:,.0f} rows/s, {fresh.tokens / seconds:,.0f} tokens/s{rest}"
    )


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _warnings(summary: Summary) -> Iterator[str]:
    if summary.ignored:
        yield f"{summary.ignored} files of the folders have no known format and were left out"
    for row in summary.failed_rows[:TOLD]:
        name = f", id {row['id']!r}" if "id" in row else ""
        place = f"row {row['row']} (row group {row['row_group']}{name})"
        yield f"{row['file']}: {place}: {row['error']}"
    more = summary.progress.counts.errors - min(TOLD, len(summary.failed_rows))
    if more > 0:
        yield f"{more:,} more rows failed: the column error says why"
    for row in summary.repeats[:TOLD]:
        place = f"row {row['first_row']} of {row['first_file']}"
        yield f"{row['file']}: row {row['row']} has the id {row['id']!r} of {place}"
    more = summary.repeated_ids - min(TOLD, len(summary.repeats))
    if more > 0:
        yield f"{more:,} more rows have the id of an earlier row"
    if summary.not_all_ids:
        yield "there are more ids than are compared: later ones may be there twice, too"


def _report(summary: Summary, model: str) -> dict[str, Any]:
    progress = summary.progress
    seconds = progress.seconds
    return {
        "model": model,
        "output": summary.output,
        "files": progress.n_files,
        "files_done": progress.n_done,
        "failed_files": summary.failed_files,
        "rows": progress.counts.rows,
        "errors": progress.counts.errors,
        "tokens": progress.counts.tokens,
        "truncated": progress.counts.truncated,
        "seconds": round(seconds, 3),
        "rows_per_second": round(progress.fresh.rows / seconds, 1) if seconds else 0.0,
        "tokens_per_second": round(progress.fresh.tokens / seconds, 1) if seconds else 0.0,
        "failed_rows": summary.failed_rows,
        "repeated_ids": summary.repeated_ids,
        "repeats": summary.repeats,
    }

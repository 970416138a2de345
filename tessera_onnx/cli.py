"""The command `tessera`: the library for people and for shell scripts."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

import click

from tessera_onnx import (
    CLASSES,
    __version__,
    artifacts,
    csv_series,
    forecasts,
    layout,
    pulling,
    reading,
    registry,
    reports,
    writing,
)
from tessera_onnx.errors import EncodingError, InputTooLong, ModelNotFound, TesseraError
from tessera_onnx.quantization import Output
from tessera_onnx.registry import Kind, Precision
from tessera_onnx.text import OnLong

MODEL = click.option(
    "-m", "--model", metavar="ID_OR_FOLDER", help="Model id or folder, else the installed default."
)
SERIES: Kind = "time-series"
KIND = click.option("--kind", type=click.Choice(list(CLASSES)), help="Kind of model.")
TEXT_KIND = click.option(
    "--kind",
    type=click.Choice([kind for kind in CLASSES if kind != SERIES]),
    help="Kind of embedding.",
)
CACHE = click.option(
    "--cache-dir",
    metavar="DIR",
    help="Folder of local models, else TESSERA_CACHE, else the user's cache folder.",
)
FIELD = click.option(
    "--field", default="text", show_default=True, help="Key of the text in .jsonl objects."
)
DEVICE = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or coreml."
)
ON_LONG = click.option(
    "--on-long", type=click.Choice(get_args(OnLong)), default="warn", show_default=True
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
AT_LEAST_1 = click.IntRange(min=1)
Command = TypeVar("Command", bound=Callable[..., Any])


def _opening(command: Command) -> Command:
    """The options of every command that opens the model of the user's choice."""
    for option in (
        CACHE,
        ON_LONG,
        click.option("--max-length", type=AT_LEAST_1, help="Tokens read of a text."),
        click.option("--threads", type=AT_LEAST_1, help="CPU threads."),
        DEVICE,
        click.option("--precision", type=click.Choice(registry.PRECISIONS), help="Graph to run."),
        click.option("--dimension", type=AT_LEAST_1, help="Cut vectors to it (Matryoshka)."),
        TEXT_KIND,
        MODEL,
    ):
        command = option(command)
    return command


def _levels(_: click.Context, __: click.Parameter, text: str) -> list[float]:
    """The numbers of a list with commas; the model checks that they are levels."""
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter("expected numbers between commas, such as 0.1,0.5,0.9") from None
    if len(set(levels)) < len(levels):
        raise click.BadParameter("a level comes twice")
    return levels


class _Command(click.Command):
    allow_extra_args = True  # so that no message of click's repeats a text given without quotes

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        if rest:
            ctx.fail("too many arguments: a text with spaces needs quotes")
        return rest


class _Program(click.Group):
    """Turns what the package raises into one line on stderr and an exit code."""

    command_class = _Command

    def invoke(self, ctx: click.Context) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a narrow terminal is no reason to fail
        try:
            with _prepared():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted", err=True)
            raise click.exceptions.Exit(130) from None
        except BrokenPipeError:
            raise  # click ends quietly
        except (TesseraError, OSError, TypeError) as error:
            raise click.ClickException(layout.as_options(str(error))) from error


@contextmanager
def _prepared() -> Iterator[None]:
    """Warnings and log lines plainly on stderr; SIGTERM unwinds, and so leaves no file behind."""
    logger, handler = logging.getLogger("tessera_onnx"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("Warning: %(message)s"))
    logger.addHandler(handler)
    previous = signal.signal(signal.SIGTERM, _unwind)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _show_warning
            yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        logger.removeHandler(handler)


def _unwind(*_: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(f"Warning: {layout.as_options(str(message))}", err=True)


@click.group(cls=_Program)
@click.version_option(__version__, prog_name="tessera", message="%(prog)s %(version)s")
def main() -> None:
    """Embed, compare and rank texts on ONNX Runtime.

    A text that begins with a dash goes after `--`.
    """


@main.command()
@CACHE
@JSON
def demo(cache_dir: str | None, *, as_json: bool) -> None:
    """Encode, rank and explain a few sentences with every kind of model that is installed.

    \b
    Example: tessera demo
    """
    kinds = {kind for artifact in artifacts.installed(cache_dir) for kind in artifact.spec.kinds}
    if not kinds:
        artifacts.resolve(None, cache_dir=cache_dir)  # raises ModelNotFound with what to do
    shown = {}
    for kind in CLASSES:
        if kind in kinds:
            with CLASSES[kind](cache_dir=cache_dir) as model:
                shown[kind] = reports.demo(model, kind)
            if not as_json:
                _print_lines(layout.demo(kind, shown[kind]))
    if as_json:
        _print_json(shown)


@main.command()
@KIND
@click.option("--installed", is_flag=True, help="Only models that are on this machine.")
@CACHE
@JSON
def models(kind: Kind | None, cache_dir: str | None, *, installed: bool, as_json: bool) -> None:
    """List the models that this version knows, those on this machine first.

    \b
    Example: tessera models --kind dense --installed
    """
    rows = reports.models(cache_dir, kind, installed=installed)
    if as_json:
        _print_json(rows)
    else:
        _print_lines(layout.models(rows))


@main.command()
@click.argument("model", metavar="ID_OR_FOLDER")
@CACHE
@JSON
def info(model: str, cache_dir: str | None, *, as_json: bool) -> None:
    """Every fact of a model: source, licence, files, recipe, measured parity.

    \b
    Example: tessera info all-minilm-l6-v2
    """
    try:
        artifact = artifacts.resolve(**_place(model, cache_dir), offline=True)
        spec, place = artifact.spec, {"where": artifact.origin, "folder": str(artifact.folder)}
    except ModelNotFound:
        known = [spec for spec in registry.catalogue() if model in {spec.id, *spec.aliases}]
        if not known:
            raise
        spec, place = known[0], {"where": "not installed"}
    if as_json:
        _print_json({**dataclasses.asdict(spec), **place})
    else:
        _print_lines(layout.table([*reports.facts(spec), *place.items()]))


@main.command()
@click.argument("model", metavar="ID")
@click.option("--precision", type=click.Choice(registry.PRECISIONS), help="Graph to fetch.")
@click.option("--force", is_flag=True, help="Fetch again what is here already.")
@CACHE
@JSON
def pull(
    model: str, precision: Precision | None, cache_dir: str | None, *, force: bool, as_json: bool
) -> None:
    """Download and verify a model, so that it runs without a network from then on.

    \b
    Example: tessera pull all-minilm-l6-v2
    """
    report = pulling.pull(model, cache_dir, precision, force=force)
    if as_json:
        _print_json(report)
    else:
        _print_lines(pulling.lines(report))


@main.command()
@click.argument("model", metavar="ID")
@CACHE
def pin(model: str, cache_dir: str | None) -> None:
    """Print a model's revision and hashes as lines for a catalogue.

    \b
    Example: tessera pin all-minilm-l6-v2
    """
    _print_lines(pulling.pin(model, cache_dir))


@main.command()
@click.argument("source", metavar="[INPUT]", required=False)
@click.option("--text", help="One text, given literally in place of INPUT.")
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="File to write: .npy (dense), .npz or .jsonl. Needed with INPUT.",
)
@click.option("--role", type=click.Choice(["query", "document"]), default="document")
@click.option(
    "--format", "form", type=click.Choice(get_args(Output)), default="float32", show_default=True
)
@FIELD
@click.option("--progress/--no-progress", default=None, help="A bar on stderr; on at a terminal.")
@_opening
@JSON
def encode(
    *,
    source: str | None,
    text: str | None,
    output: str | None,
    role: str,
    form: Output,
    field: str,
    progress: bool | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Encode the texts of INPUT, or one text, and write the vectors.

    INPUT is a .txt file (one text a line), a .jsonl file (strings, or objects with --field), or -
    for the lines of stdin. OUT is written whole or not at all: after an error, or Ctrl-C, it is as
    it was.

    \b
    Example: tessera encode corpus.jsonl --output corpus.npz --kind sparse
    """
    from tqdm import tqdm

    _check_encode(source, text, output)
    model, kind = _open(**options)
    with model:
        writing.check(output, kind, form)
        n_texts = 1 if source is None else reading.count(source, field)
        texts = reading.texts(source, field) if source is not None else [text or ""]
        vectors = _vectors(model, texts, role, source)
        width = model.vocab_size() if kind == "sparse" else model.dimension()
        facts = {"model": model.model(), "kind": kind, "role": role, "format": form}
        if output is None:
            (vector,) = vectors
            found = {**facts, **writing.row(vector, form)}
            _print_json(found) if as_json else _print_lines(layout.vector(found))
            return
        hidden = None if progress is None else not progress  # None: unless stderr is a terminal
        bar = tqdm(vectors, total=n_texts, unit="text", disable=hidden)
        written = writing.write(Path(output), bar, kind=kind, width=width, output=form)
    if as_json:
        _print_json({**facts, "output": output, "texts": written, "width": width})
    else:
        click.echo(f"{written} texts in {click.format_filename(output)}: {model!r}, {form}")


@main.command()
@click.argument("query", metavar="A")
@click.argument("document", metavar="B")
@_opening
@JSON
def similarity(query: str, document: str, *, as_json: bool, **options: Any) -> None:
    """Print how alike the texts A, the query, and B, the document, are.

    A cosine for dense models, MaxSim for multi-vector, a dot product for sparse ones.

    \b
    Example: tessera similarity "fresh bread" "a new loaf"
    """
    model, kind = _open(**options)
    with model:
        value = model.similarity(query, document)
    if as_json:
        _print_json({"model": model.model(), "kind": kind, "similarity": value})
    else:
        click.echo(f"{value:.6f}")


@main.command()
@click.argument("query")
@click.argument("documents", nargs=-1)
@click.option("--file", "source", metavar="FILE", help="Documents in a .txt or .jsonl file, or -.")
@click.option("--top-k", type=AT_LEAST_1, help="Print the best K alone.")
@FIELD
@_opening
@JSON
def rank(
    query: str,
    documents: tuple[str, ...],
    source: str | None,
    top_k: int | None,
    field: str,
    *,
    as_json: bool,
    **options: Any,
) -> None:
    """Rank DOCUMENTS, or the lines of a file, by how well they answer QUERY.

    \b
    Example: tessera rank "fresh bread" --file corpus.txt --top-k 5
    """
    if (source is None) == (not documents):
        raise click.UsageError("give DOCUMENTS or --file, one of them")
    texts = list(documents)
    if source is not None:
        texts = list(reading.texts(source, field))
    model, kind = _open(**options)
    with model:
        ranked = model.rank(query, texts, top_k)
    if as_json:
        found = [{"index": i, "score": score, "text": texts[i]} for i, score in ranked]
        _print_json({"model": model.model(), "kind": kind, "ranking": found})
        return
    rows = [
        (str(place), f"{score:.4f}", str(i + 1), layout.one_line(texts[i]))
        for place, (i, score) in enumerate(ranked, 1)
    ]
    number = "DOCUMENT" if source is None else "LINE"
    _print_lines(layout.table([("RANK", "SCORE", number, "TEXT"), *rows]))


@main.command()
@click.argument("source", metavar="FILE.csv")
@click.option("--horizon", type=AT_LEAST_1, help="Steps ahead, else as many as the model's pass.")
@click.option("--levels", callback=_levels, default="0.1,0.5,0.9", show_default=True)
@click.option("--target", metavar="COL", help="Column of values, else every column of numbers.")
@click.option("--timestamp", metavar="COL", help="Column of times, else the first of dates.")
@click.option("--id", metavar="COL", help="Column that tells series apart.")
@click.option("-o", "--output", metavar="OUT", help="File to write: .csv or .jsonl.")
@click.option("--plot", metavar="IMAGE", help="Chart to write: .png, .svg or .pdf.")
@MODEL
@click.option("--precision", type=click.Choice(registry.PRECISIONS), help="Graph to run.")
@DEVICE
@click.option("--threads", type=AT_LEAST_1, help="CPU threads.")
@CACHE
@JSON
def forecast(
    *,
    source: str,
    horizon: int | None,
    levels: list[float],
    output: str | None,
    plot: str | None,
    model: str | None,
    cache_dir: str | None,
    as_json: bool,
    target: str | None,
    timestamp: str | None,
    id: str | None,  # noqa: A002 (the option's name)
    **options: Any,
) -> None:
    """Forecast the series of a CSV file: the quantiles of each step ahead.

    FILE.csv has the column names in its first line and a row a step, the latest last; - is stdin.
    Every column of numbers is a series of its own, and with --id every value of that column starts
    one. Empty cells are gaps. OUT and IMAGE are written whole or not at all.

    \b
    Example: tessera forecast sales.csv --horizon 12 --timestamp month --output next.csv
    """
    forecasts.check(output, plot)
    if source and output and os.path.realpath(source) == os.path.realpath(output):
        raise click.UsageError("--output is FILE.csv itself")
    table = csv_series.read(source, target=target, timestamp=timestamp, id=id)
    for warning in table.warnings:
        click.echo(f"Warning: {warning}", err=True)
    with CLASSES[SERIES](**_place(model, cache_dir), **options) as opened:
        found = forecasts.of(table, opened, horizon, levels)
    if output is not None:
        forecasts.write(Path(output), table, found, levels)
    if plot is not None:
        shown = forecasts.draw(Path(plot), found, levels)
        if shown < len(found):
            click.echo(f"Warning: the first {shown} of {len(found)} series are drawn", err=True)
    if as_json:
        facts = {"model": opened.model(), "horizon": len(found[0].median), "levels": levels}
        series = len(found) if output is not None else list(forecasts.objects(found, levels))
        _print_json({**facts, "output": output, "plot": plot, "series": series})
    elif output is None:
        _print_lines(layout.forecast(found, levels, table.timestamp or "step"))
    else:
        steps = len(found[0].median)
        click.echo(f"{len(found)} series, {steps} steps each, in {click.format_filename(output)}")


@main.command()
@CACHE
@JSON
def doctor(cache_dir: str | None, *, as_json: bool) -> None:
    """Show what is installed and try it; exit code 1 when something does not work.

    \b
    Example: tessera doctor
    """
    report = reports.doctor(cache_dir)
    report["problems"] = [layout.as_options(problem) for problem in report["problems"]]
    if as_json:
        _print_json(report)
    else:
        _print_lines(layout.doctor(report))
    if report["problems"]:
        raise click.exceptions.Exit(1)


def _place(model: str | None, cache_dir: str | None) -> dict[str, Any]:
    """Where to look: in the folder that MODEL is, else for the model of that id."""
    if model is not None and os.path.isfile(os.path.join(model, "model.toml")):  # noqa: PTH113, PTH118 (a Path raises for what cannot be a name)
        return {"model_id": None, "path": model}
    return {"model_id": model, "cache_dir": cache_dir}


def _open(
    model: str | None, cache_dir: str | None, kind: Kind | None, **options: Any
) -> tuple[Any, Kind]:
    """The open model and its kind."""
    place = _place(model, cache_dir)
    if kind is None:
        spec = artifacts.resolve(**place).spec
        kind = spec.kinds[0]
        if kind == SERIES:
            raise click.UsageError(
                f"{spec.id} forecasts series, it reads no text: see tessera forecast"
            )
    return CLASSES[kind](**place, **options), kind


def _check_encode(source: str | None, text: str | None, output: str | None) -> None:
    if (source is None) == (text is None):
        raise click.UsageError("give INPUT or --text, one of them")
    if source is not None and output is None:
        raise click.UsageError("INPUT needs --output; a literal text goes into --text")
    if source and output and os.path.realpath(source) == os.path.realpath(output):
        raise click.UsageError("--output is INPUT itself")


def _vectors(model: Any, texts: Iterable[str], role: str, source: str | None) -> Iterator[Any]:
    """Vectors of the texts in order, in bounded memory; errors name the line."""
    try:
        yield from model.encode_iter(texts, role=role)
    except (EncodingError, InputTooLong) as error:
        if source is None:
            raise
        raise type(error)(reading.by_line(str(error), source)) from error


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value))


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)

"""The command `tessera`: the library for people and for shell scripts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import click

from tessera_onnx import __version__
from tessera_onnx.cli import images as cli_images
from tessera_onnx.cli import output as cli_output
from tessera_onnx.cli import pulling, reports, vector_files
from tessera_onnx.cli.forecast import forecast
from tessera_onnx.cli.options import (
    AT_LEAST_1,
    CACHE,
    DEVICE,
    JSON,
    MODEL,
    PRECISION,
    SERIES,
    THREADS,
    location,
    note_blank,
    note_names,
    print_json,
    print_lines,
    say,
    shown_place,
)
from tessera_onnx.cli.program import Program
from tessera_onnx.cli.texts import Texts, naming_lines
from tessera_onnx.errors import ModelNotFound
from tessera_onnx.kinds import KINDS
from tessera_onnx.models import catalogue, resolve
from tessera_onnx.models import installed as models_installed
from tessera_onnx.models.spec import KIND_TABLES, PRECISIONS, Kind, Precision
from tessera_onnx.progress import Stderr
from tessera_onnx.text.tokenizer import OnLong
from tessera_onnx.vectors.quantization import OutputDtype

KIND = click.option("--kind", type=click.Choice(list(KINDS)), help="Kind of model.")
TEXT_KIND = click.option(
    "--kind",
    type=click.Choice([kind for kind in KINDS if kind != SERIES]),
    help="Kind of embedding.",
)
FIELD = click.option(
    "--field",
    metavar="NAME",
    default="text",
    show_default=True,
    help="Key of the text in .jsonl objects, column of it in .csv files.",
)
ID_FIELD = click.option(
    "--id-field", metavar="NAME", help="Key or column of an id, which goes with each result."
)
ON_LONG = click.option(
    "--on-long", type=click.Choice(get_args(OnLong)), default="warn", show_default=True
)
Command = TypeVar("Command", bound=Callable[..., Any])


def _opening(command: Command) -> Command:
    """The options of every command that opens the model of the user's choice."""
    for option in (
        CACHE,
        ON_LONG,
        click.option("--max-length", type=AT_LEAST_1, help="Tokens read of a text."),
        THREADS,
        DEVICE,
        PRECISION,
        click.option("--dimension", type=AT_LEAST_1, help="Cut vectors to it (Matryoshka)."),
        TEXT_KIND,
        MODEL,
    ):
        command = option(command)
    return command


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tessera", message="%(prog)s %(version)s")
def main() -> None:
    """Embed, compare and rank texts and page images, and forecast series, on ONNX Runtime.

    A text that begins with a dash goes after `--`.
    """


@main.command()
@CACHE
@JSON
def demo(cache_dir: str | None, *, as_json: bool) -> None:
    """Encode, rank and explain a few sentences with each model.

    The first model that is installed of every kind is opened.

    \b
    Example: tessera demo
    """
    kinds = {
        kind for artifact in models_installed.installed(cache_dir) for kind in artifact.spec.kinds
    }
    if not kinds:
        resolve.resolve(None, cache_dir=cache_dir)  # raises ModelNotFound with what to do
    shown = {}
    for kind in KINDS:
        if kind in kinds:
            with KINDS[kind].cls(cache_dir=cache_dir) as model:
                shown[kind] = reports.demo(model, kind)
            if not as_json:
                print_lines(cli_output.demo(kind, shown[kind]))
    if as_json:
        print_json(shown)


@main.command()
@KIND
@click.option("--installed", is_flag=True, help="Only models that are on this machine.")
@CACHE
@JSON
def models(kind: Kind | None, cache_dir: str | None, *, installed: bool, as_json: bool) -> None:
    """List the models that this version knows.

    Those on this machine come first.

    \b
    Example: tessera models --kind dense --installed
    """
    rows = reports.models(cache_dir, kind, installed=installed)
    if as_json:
        print_json(rows)
    else:
        print_lines(cli_output.models(rows))


@main.command()
@click.argument("model", metavar="ID_OR_FOLDER")
@CACHE
@JSON
def info(model: str, cache_dir: str | None, *, as_json: bool) -> None:
    """Show every fact of a model: source, licence, files, parity.

    \b
    Example: tessera info all-minilm-l6-v2
    """
    try:
        artifact = resolve.resolve(**location(model, cache_dir), offline=True)
        spec, place = artifact.spec, {"where": artifact.origin, "folder": str(artifact.folder)}
        found = reports.saturating(artifact)
        if found:
            place["saturates on x86 without VNNI"] = ", ".join(found)
    except ModelNotFound:
        known = resolve.find_entry(catalogue.catalogue(), model)
        if known is None:
            raise
        spec, place = known, {"where": "not installed"}
    if as_json:
        print_json({**dataclasses.asdict(spec), **place})
    else:
        print_lines(cli_output.table([*reports.facts(spec), *place.items()]))


@main.command()
@click.argument("model", metavar="ID")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Graph to fetch.")
@click.option("--force", is_flag=True, help="Fetch again what is here already.")
@CACHE
@JSON
def pull(
    model: str, precision: Precision | None, cache_dir: str | None, *, force: bool, as_json: bool
) -> None:
    """Download and verify a model, to run without a network.

    \b
    Example: tessera pull all-minilm-l6-v2
    """
    _check_id(model)
    report = pulling.pull(model, cache_dir, precision, force=force)
    if as_json:
        print_json(report)
    else:
        print_lines(pulling.lines(report))


@main.command()
@click.argument("model", metavar="ID")
@CACHE
def pin(model: str, cache_dir: str | None) -> None:
    """Print a model's revision and hashes as lines for a catalogue.

    \b
    Example: tessera pin all-minilm-l6-v2
    """
    _check_id(model)
    print_lines(pulling.pin(model, cache_dir))


@main.command()
@click.argument("sources", metavar="[INPUT]", nargs=-1)
@click.option("--text", help="One text, given literally in place of INPUT.")
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="File to write: .npy (dense), .npz or .jsonl; - writes JSON lines. Needed with INPUT.",
)
@click.option(
    "--role",
    type=click.Choice(["query", "document"]),
    help="What the texts are; without it as encode_batch reads them: mostly as documents.",
)
@click.option("--task", help="A purpose that a dense model knows by name, such as clustering.")
@click.option("--prompt", help="Text before every text, in place of a dense model's own.")
@click.option(
    "--output-dtype",
    type=click.Choice(get_args(OutputDtype)),
    default="float32",
    show_default=True,
)
@FIELD
@ID_FIELD
@cli_images.PAGES
@cli_images.PASSWORD
@click.option("--progress/--no-progress", default=None, help="A bar on stderr; on at a terminal.")
@_opening
@JSON
def encode(
    *,
    sources: tuple[str, ...],
    text: str | None,
    output: str | None,
    role: Literal["query", "document"] | None,
    task: str | None,
    prompt: str | None,
    output_dtype: OutputDtype,
    field: str,
    id_field: str | None,
    pages: str | None,
    password: str | None,
    progress: bool | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Encode the texts of INPUT, or one text, and write the vectors.

    INPUT is a .txt or .md file (one text a line), a .jsonl file (strings, or objects with --field),
    a .csv file (rows below the names of the columns), any of them as .gz, or - for the lines of
    stdin; for a vision model images and PDFs, as many as there are. Blank lines are left out and
    counted. OUT is written whole or not at all: after an error, or Ctrl-C, it is as it was.

    \b
    Example: tessera encode corpus.jsonl --output corpus.npz --kind sparse
    """
    from tqdm import tqdm

    _check_encode(sources, text, output, id_field)
    model, kind = _open(**options, images=sources, may_be_texts=False)
    hidden = None if progress is None else not progress  # None: unless stderr is a terminal
    wanted = cli_images.Wanted(pages, password)
    with model:
        wanted.check(sources, kind)
        vector_files.check(output, kind, output_dtype, ids=id_field is not None)
        if kind != cli_images.VISION and len(sources) > 1:
            raise click.UsageError("too many arguments: a text with spaces needs quotes")
        purpose = {
            name: value for name, value in (("task", task), ("prompt", prompt)) if value is not None
        }
        if purpose and kind != "dense":
            raise click.UsageError(f"--task and --prompt are for dense models, this one is {kind}")
        if kind == cli_images.VISION:
            cli_images.encode(
                model, sources, text, role=role or "document", output_dtype=output_dtype,
                output=output, hidden=hidden, field=field, id_field=id_field, wanted=wanted,
                as_json=as_json,
            )  # fmt: skip
            return
        source = Texts(sources[0], field, id_field) if sources else None
        n_texts = 1 if source is None else source.count()
        texts = [text or ""] if source is None else source
        vectors = _vectors(model, texts, source, role=role or "plain", **purpose)
        width = model.vocab_size() if kind == "sparse" else model.dimension()
        plain = getattr(model.spec, KIND_TABLES[kind]).plain
        read_as = role or ("document" if plain is None else "plain")
        facts = {"model": model.model(), "kind": kind, "role": read_as}
        facts["output_dtype"] = output_dtype
        if output is None:
            (vector,) = vectors
            found = {**facts, **vector_files.row(vector, output_dtype)}
            print_json(found) if as_json else print_lines(cli_output.vector(found))
            return
        bar = tqdm(vectors, total=n_texts, unit="text", disable=hidden, file=Stderr())
        ids = None if source is None or id_field is None else lambda: source.ids or []
        written = vector_files.write(
            Path(output), bar, kind=kind, width=width, output_dtype=output_dtype, ids=ids
        )
    blank = note_blank(source)
    if as_json:
        report = {**facts, "output": output, "texts": written, **blank, "width": width}
        print_json(report, err=output == vector_files.STDOUT)
    else:
        where = shown_place(output)
        tell = say if output == vector_files.STDOUT else click.echo
        tell(f"{written} texts in {where}: {model!r}, {output_dtype}")


@main.command()
@click.argument("query", metavar="A")
@click.argument("document", metavar="B")
@_opening
@JSON
def similarity(query: str, document: str, *, as_json: bool, **options: Any) -> None:
    """Print how alike two texts are.

    A is the query, B the document. The number is a cosine for dense models, MaxSim for
    multi-vector, a dot product for sparse ones. For a vision model B is an image.

    \b
    Example: tessera similarity "fresh bread" "a new loaf"
    """
    model, kind = _open(**options)
    with model:
        score = model.search if kind == cli_images.VISION else model.similarity
        value = score(query, document)
    if kind != cli_images.VISION:
        note_names((query, document), "")
    if as_json:
        print_json({"model": model.model(), "kind": kind, "similarity": value})
    else:
        click.echo(f"{value:.6f}")


@main.command()
@click.argument("documents", metavar="[QUERY] DOCUMENTS...", nargs=-1)
@click.option("--query", help="The query, in place of the first argument.")
@click.option(
    "--file",
    "source",
    metavar="FILE",
    help="Documents in a .txt, .md, .jsonl or .csv file, also as .gz, or - for stdin.",
)
@click.option("--top-k", type=AT_LEAST_1, help="Print the best K alone.")
@FIELD
@ID_FIELD
@cli_images.PAGES
@cli_images.PASSWORD
@_opening
@JSON
def rank(
    *,
    documents: tuple[str, ...],
    query: str | None,
    source: str | None,
    top_k: int | None,
    field: str,
    id_field: str | None,
    pages: str | None,
    password: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Rank texts, images or pages by how well they answer QUERY.

    DOCUMENTS, or the lines of a file, are texts; or images and PDFs, if all of them are files of
    such names or a vision model is asked for.

    \b
    Example: tessera rank "fresh bread" --file corpus.txt --top-k 5
    Example: tessera rank --query "annual rainfall" pages/*.png report.pdf
    """
    if query is None:
        if not documents:
            raise click.UsageError("give QUERY, as the first argument or by --query")
        query, *rest = documents
        documents = tuple(rest)
    if (source is None) == (not documents):
        raise click.UsageError("give DOCUMENTS or --file, one of them")
    if source is None and id_field is not None:
        raise click.UsageError("--id-field is for --file")
    lines = None if source is None else Texts(source, field, id_field)
    texts = list(documents if lines is None else lines)
    model, kind = _open(**options, images=documents)
    chosen = cli_images.Wanted(pages, password)
    with model:
        chosen.check(texts, kind)
        if kind == cli_images.VISION:
            if id_field is not None:
                raise click.UsageError("--id-field is for texts: images have none")
            cli_images.rank(model, query, texts, top_k, wanted=chosen, as_json=as_json)
            note_blank(lines)
            return
        wanted = model.encode_query(query)  # by itself: its errors are about no line
        with naming_lines(lines):
            ranked = model.rank(wanted, texts, top_k)
    note_blank(lines)
    note_names(documents, ": --file reads its lines")
    ids = None if lines is None else lines.ids
    if as_json:
        found = [
            {
                "index": i,
                **({} if ids is None else {"id": ids[i]}),
                "score": score,
                "text": texts[i],
            }
            for i, score in ranked
        ]
        print_json({"model": model.model(), "kind": kind, "ranking": found})
        return
    number = "DOCUMENT" if lines is None else "LINE"
    head = ("RANK", "SCORE", number, *([] if ids is None else ["ID"]), "TEXT")
    rows = [
        (
            str(rank),
            f"{score:.4f}",
            str(i + 1 if lines is None else lines.line(i)),
            *([] if ids is None else [cli_output.one_line(str(ids[i]))]),
            cli_output.one_line(texts[i]),
        )
        for rank, (i, score) in enumerate(ranked, 1)
    ]
    print_lines(cli_output.table([head, *rows]))


main.add_command(forecast)
main.add_command(cli_images.explain)


@main.command()
@CACHE
@JSON
def doctor(cache_dir: str | None, *, as_json: bool) -> None:
    """Show what is installed and try it.

    The exit code is 1 when something does not work.

    \b
    Example: tessera doctor
    """
    report = reports.doctor(cache_dir)
    report["problems"] = [cli_output.as_options(problem) for problem in report["problems"]]
    if as_json:
        print_json(report)
    else:
        print_lines(cli_output.doctor(report))
    if report["problems"]:
        raise click.exceptions.Exit(1)


def _open(
    model: str | None,
    cache_dir: str | None,
    kind: Kind | None,
    images: Sequence[str] = (),
    *,
    may_be_texts: bool = True,
    **options: Any,
) -> tuple[Any, Kind]:
    """The open model and its kind, which files of `images` decide where nothing else does."""
    place = location(model, cache_dir)
    if kind is None and model is None and cli_images.are_images(images, may_be_texts=may_be_texts):
        kind = cli_images.VISION
    artifact = resolve.resolve(**place, kind=kind)
    if kind is None:
        spec = artifact.spec
        kind = spec.kinds[0]
        if kind == SERIES:
            raise click.UsageError(
                f"{spec.id} forecasts series, it reads no text: see tessera forecast"
            )
    if kind == cli_images.VISION:
        for name in ("dimension", "max_length"):
            if options.pop(name) is not None:
                raise click.UsageError(f"--{name.replace('_', '-')} is not for vision models")
    return KINDS[kind].cls.from_artifact(artifact, **place, **options), kind


def _check_id(model: str) -> None:
    if os.path.isdir(model) and resolve.find_entry(catalogue.catalogue(), model) is None:  # noqa: PTH112 (a Path raises for what cannot be a name)
        raise click.UsageError("ID is the id of a model; the folder of that name is here already")


def _check_encode(
    sources: Sequence[str], text: str | None, output: str | None, id_field: str | None
) -> None:
    if bool(sources) == (text is not None):
        raise click.UsageError("give INPUT or --text, one of them")
    if sources and output is None:
        raise click.UsageError("INPUT needs --output; a literal text goes into --text")
    if id_field is not None and not sources:
        raise click.UsageError("--id-field is for INPUT")
    if output and any(vector_files.is_same(source, output) for source in sources):
        raise click.UsageError("--output is INPUT itself")


def _vectors(
    model: Any, texts: Iterable[str], source: Texts | None, **options: Any
) -> Iterator[Any]:
    """Vectors of the texts in order, in bounded memory; errors name the line."""
    with naming_lines(source):
        yield from model.encode_iter(texts, **options)

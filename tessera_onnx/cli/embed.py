"""`tessera encode`, `similarity` and `rank`: vectors and scores of texts, and of images."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import click

from tessera_onnx.cli import images as cli_images
from tessera_onnx.cli import output as cli_output
from tessera_onnx.cli import ranking as cli_ranking
from tessera_onnx.cli import vector_files
from tessera_onnx.cli.options import (
    AT_LEAST_1,
    FIELD,
    ID_FIELD,
    JSON,
    MODEL_FILE,
    PAGES,
    PASSWORD,
    at_server,
    location,
    model_ids,
    model_options,
    note_blank,
    note_names,
)
from tessera_onnx.cli.output import STDOUT, print_json, print_lines, say, shown_place
from tessera_onnx.cli.texts import Inputs, Texts, about_lines
from tessera_onnx.kinds import HYBRID, KINDS, KindRow
from tessera_onnx.models import resolve
from tessera_onnx.models.spec import Kind
from tessera_onnx.progress import Stderr
from tessera_onnx.results import Ranked
from tessera_onnx.runtime import cpu
from tessera_onnx.search.fusion import fuse
from tessera_onnx.vectors.quantization import OutputDtype


@click.command()
@click.argument("sources", metavar="[INPUT]", nargs=-1)
@click.option("--text", help="One text, in place of INPUT.")
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="File to write: .npy (one vector a text), .npz or .jsonl; - writes JSON lines to stdout. "
    "INPUT needs it.",
)
@click.option(
    "--role",
    type=click.Choice(["query", "document"]),
    help="What the texts are. Default: as encode_batch reads them, for most models documents.",
)
@click.option("--task", help="A purpose that the model knows by name, such as clustering.")
@click.option("--prompt", help="Text put before every text, in place of the model's own.")
@click.option(
    "--output-dtype",
    type=click.Choice(get_args(OutputDtype)),
    default="float32",
    show_default=True,
    help="Type of the numbers in OUT.",
)
@FIELD
@ID_FIELD
@PAGES
@PASSWORD
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Show a progress bar on stderr. Default: where stderr is a terminal.",
)
@model_options
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
    """Encode the texts of INPUT and write the vectors.

    INPUT is a .txt or .md file (a text a line), a .jsonl file (strings, or objects with --field), a
    .csv file (the first row names the columns), each also as .gz, or - for the lines of stdin. For
    a vision model INPUT is one or more images and PDFs. Blank lines are left out and counted. OUT
    is written whole or not at all: after an error, or Ctrl-C, it is as it was.

    \b
    Example: tessera encode corpus.jsonl --output corpus.npz --kind sparse
    """
    from tqdm import tqdm

    _check_encode(sources, text, output, id_field)
    wanted = cli_images.Wanted(pages, password)
    model, row = _open(**options, images=sources, may_be_texts=False)
    with model:
        wanted.check(sources, row)
        purpose = _purpose(model, row, task=task, prompt=prompt)
        vector_files.check(output, row, output_dtype, ids=id_field is not None)
        if row.reads == "images":
            inputs = cli_images.open_inputs(
                model, sources, text, role=role, field=field, id_field=id_field, wanted=wanted
            )
        else:
            if len(sources) > 1:
                raise click.UsageError("give one INPUT; a text with spaces needs quotes")
            texts = Texts(sources[0], field, id_field) if sources else None
            inputs = _open_texts(model, row, [text or ""], texts, role=role, **purpose)
        facts = {"model": model.model(), "kind": row.kind, "role": inputs.role}
        facts["output_dtype"] = output_dtype
        if output is None:
            (vector,) = inputs.vectors
            found = {**facts, **vector_files.row(vector, output_dtype)}
            print_json(found) if as_json else print_lines(cli_output.vector(found))
            return
        hidden = None if progress is None else not progress  # None: unless stderr is a terminal
        width = row.width(model)
        written = vector_files.write(
            Path(output),
            tqdm(
                inputs.vectors, total=inputs.total, unit=inputs.unit, disable=hidden, file=Stderr()
            ),
            result=row.result,
            width=width,
            output_dtype=output_dtype,
            ids=inputs.ids,
        )
    blank = note_blank(inputs.texts)
    to_stdout = output == STDOUT
    if as_json:
        counts = {f"{inputs.unit}s": written, **blank}
        report = {**facts, "output": output, **counts, "width": width}
        print_json(report, err=to_stdout)
    else:
        tell = say if to_stdout else click.echo
        tell(f"{written} {inputs.unit}s in {shown_place(output)}: {model!r}, {output_dtype}")


@click.command()
@click.argument("query", metavar="A")
@click.argument("document", metavar="B")
@model_options
@JSON
def similarity(query: str, document: str, *, as_json: bool, **options: Any) -> None:
    """Print how similar two texts are.

    A is the query, B the document. The number is a cosine for dense models, MaxSim for
    multi-vector models and a dot product for sparse models. For a vision model B is an image.

    \b
    Example: tessera similarity "fresh bread" "a new loaf"
    """
    model, row = _open(**options)
    with model:
        score = model.search if row.reads == "images" else model.similarity
        value = score(query, document)
    if row.reads == "texts":
        note_names((query, document), "")
    if as_json:
        print_json({"model": model.model(), "kind": row.kind, "similarity": value})
    else:
        click.echo(f"{value:.6f}")


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
    "--hybrid",
    is_flag=True,
    help="Rank by a dense and by a sparse model, and fuse the rankings by reciprocal ranks.",
)
@click.option(
    "--hybrid-with",
    shell_complete=model_ids,
    metavar="ID_OR_FOLDER",
    help="As --hybrid, of --model and this second model, such as bm25. --language is for it.",
)
@FIELD
@ID_FIELD
@PAGES
@PASSWORD
@functools.partial(model_options, graph=MODEL_FILE)
@JSON
def rank(
    *,
    documents: tuple[str, ...],
    query: str | None,
    source: str | None,
    top_k: int | None,
    hybrid: bool,
    hybrid_with: str | None,
    field: str,
    id_field: str | None,
    pages: str | None,
    password: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Rank texts or images by how well they answer QUERY.

    DOCUMENTS, or the lines of --file, are texts. They are images and PDFs if --model or --kind says
    so, or if all of them are files with the name of an image or a PDF.

    \b
    Example: tessera rank "fresh bread" --file corpus.txt --top-k 5
    Example: tessera rank "fresh bread" --file corpus.txt --hybrid-with bm25
    Example: tessera rank --query "annual rainfall" pages/*.png report.pdf
    """
    query, documents = cli_ranking.query_of(query, documents)
    lines, texts = cli_ranking.documents(documents, source, field, id_field)
    if hybrid or hybrid_with is not None:
        if pages is not None or password is not None:
            raise click.UsageError("--hybrid ranks texts: leave out --pages and --password")
        if hybrid_with is None and options["kind"] is not None:
            raise click.UsageError("--hybrid ranks by two kinds: leave out --kind")
        facts, ranked = _hybrid(query, texts, lines, _pair(options, hybrid_with))
        cli_ranking.show(
            facts, ranked[:top_k], texts, lines=lines, given=documents, as_json=as_json
        )
        return
    wanted = cli_images.Wanted(pages, password)
    model, row = _open(**options, images=documents)
    with model:
        wanted.check(texts, row)
        if row.reads == "images":
            if id_field is not None:
                raise click.UsageError("--id-field is for texts: images have no ids")
            cli_images.rank(model, row, query, texts, top_k, wanted=wanted, as_json=as_json)
            note_blank(lines)
            return
        encoded = model.encode_query(query)  # by itself: its errors are about no line of the file
        with about_lines(lines):
            ranked = model.rank(encoded, texts, top_k)
    facts = {"model": model.model(), "kind": row.kind}
    cli_ranking.show(facts, ranked, texts, lines=lines, given=documents, as_json=as_json)


def _pair(options: dict[str, Any], second: str | None) -> list[dict[str, Any]]:
    """The options of both models of a hybrid ranking: one of each kind in HYBRID, or the second."""
    if second is None:
        return [{**options, "kind": kind} for kind in HYBRID]
    shared = {name: options[name] for name in ("cache_dir", "threads", "on_long", "language")}
    of_model = dict.fromkeys(("kind", "file", "pooling", "precision"))
    device = options["device"]  # a model of words has none
    return [
        {**options, "language": None},
        {**shared, **of_model, "model": second, "graph": {"device": device}},
    ]


def _hybrid(
    query: str, texts: Sequence[str], lines: Texts | None, pair: Sequence[dict[str, Any]]
) -> tuple[dict[str, str], list[Ranked]]:
    """Ids and kinds of the models that `pair` opens, and their fused rankings of the texts.

    A text that shares no term with the query has no rank in a sparse ranking, as in Lucene and
    Qdrant: its place there would be chance.
    """
    names, kinds, rankings = [], [], []
    for options in pair:
        model, row = _open(**options)
        with model:
            if row.reads == "images":
                raise click.UsageError(f"--hybrid ranks texts, and {model.model()} reads images")
            encoded = model.encode_query(query)
            with about_lines(lines):
                ranked = model.rank(encoded, texts)
        sparse = row.result == "sparse"
        rankings.append([item for item in ranked if item.score != 0] if sparse else ranked)
        names.append(model.model())
        kinds.append(row.kind)
    return {"model": " + ".join(names), "kind": " + ".join(kinds)}, fuse(rankings)


def _open(
    model: str | None,
    cache_dir: str | None,
    kind: Kind | None,
    images: Sequence[str] = (),
    *,
    may_be_texts: bool = True,
    graph: dict[str, Any] | None = None,
    server: str | None = None,
    **options: Any,
) -> tuple[Any, KindRow]:
    """The open model and the row of its kind; the options of `graph` are for models with one.

    Without a kind and a model, `images` that are image files ask for a model that reads images.
    """
    if server is not None:
        opened = at_server(server, model, kind, cache_dir=cache_dir, **options)
        row = KINDS[opened.kind]
        _check_texts(row, opened.model())
        return opened, row
    place = location(model, cache_dir)
    if kind is None and model is None and cli_images.are_images(images, may_be_texts=may_be_texts):
        kind = next(name for name, row in KINDS.items() if row.reads == "images")
    chosen = {name: options[name] for name in ("file", "pooling", "precision")}
    artifact = resolve.resolve(**place, kind=kind, processor=cpu.byte_products(), **chosen)
    row = KINDS[kind or artifact.spec.kinds[0]]
    _check_texts(row, artifact.spec.id)
    if graph is not None and artifact.spec.graph is not None:
        options |= graph
    given = {name: value for name, value in options.items() if value is not None}
    for name in sorted(given.keys() - inspect.signature(row.cls).parameters):
        raise click.UsageError(f"--{name.replace('_', '-')} is not for {row.kind} models")
    return row.open(artifact, **place, **given), row


def _check_texts(row: KindRow, model: str) -> None:
    """Raises UsageError for a model that makes no vectors of texts or images."""
    if row.reads == "series":
        raise click.UsageError(f"{model} forecasts series, it reads no text: see tessera forecast")
    if row.reads == "pairs":
        raise click.UsageError(
            f"{model} scores pairs of texts and makes no vectors: see tessera rerank"
        )


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


def _purpose(model: Any, row: KindRow, **options: str | None) -> dict[str, str]:
    """The options of `encode_iter` that were given. Raises UsageError where it has no such."""
    given = {name: value for name, value in options.items() if value is not None}
    for name in sorted(given.keys() - inspect.signature(model.encode_iter).parameters):
        raise click.UsageError(f"--{name} is not for {row.kind} models")
    return given


def _open_texts(
    model: Any,
    row: KindRow,
    given: Sequence[str],
    texts: Texts | None,
    *,
    role: str | None,
    **purpose: str,
) -> Inputs:
    """The vectors of the texts of a file or, without a file, of `given`, in bounded memory."""
    total = len(given) if texts is None else texts.count()

    def vectors() -> Iterator[Any]:
        with about_lines(texts):
            several = given if texts is None else texts
            yield from model.encode_iter(several, role=role or "plain", **purpose)

    plain = getattr(row.recipe(model.spec), "plain", None)
    read_as = role or ("document" if plain is None else "plain")
    return Inputs(vectors(), "text", total, read_as, texts)

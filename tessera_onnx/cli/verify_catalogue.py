"""`tessera verify-catalogue`: compare a catalogue with the hub and print what would correct it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from tessera_onnx.cli.options import JSON
from tessera_onnx.cli.output import print_json, print_lines, table
from tessera_onnx.errors import ModelNotFound
from tessera_onnx.models import catalogue, hub, resolve, toml_edit, verify
from tessera_onnx.models.spec import ModelSpec
from tessera_onnx.models.verify import Finding
from tessera_onnx.progress import progress_bar

WRONG = {"differs", "failed"}  # what makes the exit code 1
TITLES = {
    "differs": "differs from the hub",
    "failed": "could not be compared",
    "unpinned": "is not pinned in the catalogue",
    "unread": "has configuration files that were not read",
}


@click.command()
@click.argument("models", metavar="[ID]...", nargs=-1)
@click.option(
    "--catalogue",
    "path",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Catalogue to compare. Default: the shipped models.toml.",
)
@JSON
def verify_catalogue(models: tuple[str, ...], path: Path | None, *, as_json: bool) -> None:
    """Compare a catalogue with the model hub.

    Revisions, names, sizes and hashes of files, and the facts that configuration files tell: one
    request lists a repository, and no graph is downloaded. What differs is printed as a table and
    as a patch of the catalogue. The exit code is 1 when something differs or cannot be compared.

    \b
    Example: tessera verify-catalogue bge-small-en-v1.5
    """
    path = path or catalogue.shipped_path()
    specs = _chosen(catalogue.read_catalogue(path), models, path)
    if hub.is_offline():
        raise ModelNotFound(
            "the hub has to be asked for the repositories of the catalogue, which HF_HUB_OFFLINE "
            "forbids: unset it"
        )
    findings = list(_verify(specs))
    text = path.read_text("utf-8")
    patch = toml_edit.diff(text, verify.patched(text, findings), path.name)
    if as_json:
        print_json({"findings": [dataclasses.asdict(each) for each in findings], "patch": patch})
    else:
        print_lines(_lines(specs, findings, patch))
    if any(finding.status in WRONG for finding in findings):
        raise click.exceptions.Exit(1)


def _chosen(specs: Sequence[ModelSpec], models: Sequence[str], path: Path) -> Sequence[ModelSpec]:
    found = [resolve.find_entry(specs, model) for model in models]
    unknown = [model for model, spec in zip(models, found, strict=True) if spec is None]
    if unknown:
        raise ModelNotFound(
            f"{path} has no model {unknown[0]!r:.200}: give an id of a [[model]] in it, or none "
            "for all"
        )
    return [spec for spec in found if spec is not None] or specs


def _verify(specs: Sequence[ModelSpec]) -> Iterator[Finding]:
    """All findings, with a bar on stderr that counts models."""
    hubs = verify.Hubs()
    bar = progress_bar(specs, "model")
    with bar:
        for spec in specs:
            yield from verify.verify([spec], hubs)
            bar.update()


def _lines(specs: Sequence[ModelSpec], findings: Sequence[Finding], patch: str) -> Iterator[str]:
    for status, title in TITLES.items():
        some = [finding for finding in findings if finding.status == status]
        if some:
            yield f"What {title}:"
            yield from table([["MODEL", "FACT", "CATALOGUE", "HUB"], *map(_row, some)], "  ")
            yield ""
    wrong, failed, loose = (
        {finding.model for finding in findings if finding.status == status}
        for status in ("differs", "failed", "unpinned")
    )
    right = len(specs) - len(wrong | failed | loose)
    yield (
        f"{len(specs)} {'model' if len(specs) == 1 else 'models'}: "
        f"{_verb(right, 'agree')} with the hub, "
        f"{_verb(len(loose - wrong - failed), 'leave')} pins open, "
        f"{_verb(len(wrong), 'differ')}, {len(failed - wrong)} could not be compared"
    )
    if patch:
        yield "The patch of the catalogue:"
        yield ""
        yield from patch.splitlines()


def _verb(number: int, verb: str) -> str:
    return f"{number} {verb}{'s' if number == 1 else ''}"


def _row(finding: Finding) -> list[str]:
    return [finding.model, ".".join(finding.key), finding.listed, finding.found]

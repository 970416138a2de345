"""`tessera pull` and `pin`: download and verify models, record their revisions and hashes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from tessera_onnx.cli.models import known_entry
from tessera_onnx.cli.options import CACHE, FILE, JSON, POOLING, model_ids
from tessera_onnx.cli.output import print_json, print_lines
from tessera_onnx.errors import DeviceError
from tessera_onnx.models import catalogue, hub, pins, resolve, rules
from tessera_onnx.models.artifact import HUB, Artifact
from tessera_onnx.models.foreign import repository
from tessera_onnx.models.installed import cache_folder
from tessera_onnx.models.installed import installed as installed_models
from tessera_onnx.models.spec import PRECISIONS, File, ModelSpec, Precision
from tessera_onnx.runtime import cpu
from tessera_onnx.runtime.devices import choose_device


@click.command()
@click.argument("model", metavar="ID", shell_complete=model_ids)
@click.option("--precision", type=click.Choice(PRECISIONS), help="Graph to download.")
@FILE
@POOLING
@click.option(
    "--force",
    is_flag=True,
    help="Download again what is here already; of a repository, its newest commit.",
)
@CACHE
@JSON
def pull(
    model: str,
    precision: Precision | None,
    cache_dir: str | None,
    *,
    force: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Download a model, to run it without a network.

    ID is a model of the catalogue, or OWNER/NAME of any repository of the hub, with @REVISION for
    another branch, tag or commit than the default. Without --precision it is the graph that runs on
    this machine by default.

    \b
    Example: tessera pull all-minilm-l6-v2
    """
    _check_id(model)
    report = fetch(model, cache_dir, precision, force=force, **chosen)
    if as_json:
        print_json(report)
    else:
        print_lines(_pull_lines(report))


@click.command()
@click.argument("model", metavar="ID", shell_complete=model_ids)
@CACHE
def pin(model: str, cache_dir: str | None) -> None:
    """Print a model's revision and hashes for a catalogue.

    \b
    Example: tessera pin all-minilm-l6-v2
    """
    _check_id(model)
    spec = known_entry(model)
    if spec is None:  # raises with near names, or is no model of a catalogue
        spec = resolve.resolve(model, cache_dir=cache_dir).spec
    cache = cache_folder(cache_dir)
    # Revision and hashes that nobody recorded yet are asked of the hub.
    print_lines(pins.lines(pins.recorded(spec, cache) or pins.resolve(spec, cache)))


def _check_id(model: str) -> None:
    if os.path.isdir(model) and known_entry(model) is None:  # noqa: PTH112 (a Path raises for what cannot be a name)
        raise click.UsageError("ID is the id of a model; the folder of that name is here already")


def fetch(
    model: str,
    cache_dir: str | None,
    precision: Precision | None,
    *,
    force: bool,
    **chosen: Any,
) -> dict[str, Any]:
    """Download and verify the files of one precision, by default of that which runs here.

    `chosen` has the file and the pooling of a repository that no catalogue lists. Raises
    ModelNotFound, with the export command for a model that no hub offers ready to run, and what
    `hub.download` raises.
    """
    spec = known_entry(model)
    elsewhere = _installed(spec.id if spec else model, cache_dir)
    processor = cpu.byte_products()
    wanted = repository.choice(model, precision=precision, processor=processor, **chosen)
    if wanted is not None and (any(chosen.values()) or (spec is None and elsewhere is None)):
        artifact = resolve.open_repository(wanted, cache_dir, offline=hub.is_offline(), again=force)
        elsewhere = None
    elif spec is None or any(chosen.values()) or (spec.hub is None and elsewhere):
        artifact = resolve.resolve(model, cache_dir=cache_dir, **chosen)
        return _report(artifact, [artifact.spec.file(n) for n in artifact.present()], None)
    else:
        if precision:
            rules.check_precision(spec, precision)
        artifact = resolve.from_hub(spec, cache_dir, offline=hub.is_offline())
    if precision:
        rules.check_precision(artifact.spec, precision)
    precisions = [precision] if precision else _precisions(artifact.spec)
    report = _report(artifact, _download(artifact, precisions, force=force), elsewhere)
    given = {name: value for name, value in chosen.items() if value is not None}
    return {**report, **given}


def _download(
    artifact: Artifact, precisions: Iterable[Precision | None], *, force: bool
) -> list[File]:
    """The files of the precisions, each fetched unless it is here, and verified."""
    names = list(dict.fromkeys(n for p in precisions for n in artifact.files_for(p)))
    files = []
    while names:
        name = names.pop(0)
        artifact = artifact.with_file(name)
        if force:
            hub.download(artifact.spec, name, again=True)
        artifact.read(name)  # downloads what is missing or damaged
        files.append(artifact.spec.file(name))
        if artifact.listing is not None and name.endswith(".onnx"):
            names += [data for data in artifact.data_files(name) if data not in names]
    return files


def _installed(model: str, cache_dir: str | None) -> str | None:
    """What comes before the hub for this id: the name of a pack, or "cache"."""
    for artifact in installed_models(cache_dir):
        if artifact.spec.id == model and artifact.origin != HUB:
            return artifact.origin
    return None


def _precisions(spec: ModelSpec) -> list[Precision | None]:
    """What `device="auto"` runs here, its fallback to the CPU included; [None] without a graph."""
    graph = spec.graph
    if graph is None:
        return [None]
    try:
        int8 = graph.best_cuda == "int8"
        devices = choose_device("auto", static=graph.static, int8_on_cuda=int8)
    except DeviceError:  # a model can be downloaded before onnxruntime is installed
        devices = ["cpu"]
    return list(dict.fromkeys(getattr(graph, f"best_{device}") for device in devices))


def _report(artifact: Artifact, files: list[File], hidden_by: str | None) -> dict[str, Any]:
    spec = artifact.spec
    return {
        "model": spec.id,
        "where": artifact.origin,
        "revision": spec.hub.revision if spec.hub else spec.revision,
        "licence": spec.licence,
        "folder": str(artifact.folder),
        "files": [{"name": file.name, "size": file.size} for file in files],
        "hidden_by": hidden_by,
    }


def _pull_lines(report: dict[str, Any]) -> Iterator[str]:
    """What is here now and what to do next."""
    total = sum(file["size"] for file in report["files"])
    yield f"{report['model']}: {len(report['files'])} files, {total:,} bytes, verified"
    yield f"  in {Path(report['folder'])}"
    limit = catalogue.commercial_limit(report["licence"])
    yield f"  licence {report['licence']}{f', which {limit}' if limit else ''}"
    if report["hidden_by"]:
        yield f"  not used by its id: {report['hidden_by']} holds that model and comes first"
    given = {name: report[name] for name in ("file", "pooling") if name in report}
    flags = "".join(f" --{name} {value}" for name, value in given.items())
    options = "".join(f', {name}="{value}"' for name, value in given.items())
    model = report["model"]
    yield f'Next: tessera info {model}{flags}, or in Python Tessera("{model}"{options})'

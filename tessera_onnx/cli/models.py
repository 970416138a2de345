"""`tessera models`, `info`, `pull` and `pin`: list, describe and download models."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from tessera_onnx.cli.options import CACHE, JSON, location
from tessera_onnx.cli.output import print_json, print_lines, table
from tessera_onnx.errors import DeviceError, ModelNotFound
from tessera_onnx.kinds import KINDS, known_models
from tessera_onnx.models import catalogue, hub, pins, resolve, rules
from tessera_onnx.models.artifact import HUB, Artifact
from tessera_onnx.models.installed import cache_folder
from tessera_onnx.models.installed import installed as installed_models
from tessera_onnx.models.spec import PRECISIONS, File, Kind, ModelSpec, Parity, Precision, SubGraph
from tessera_onnx.runtime import saturation
from tessera_onnx.runtime.devices import choose_device


@click.command()
@click.option("--kind", type=click.Choice(list(KINDS)), help="Only models of this kind.")
@click.option("--installed", is_flag=True, help="Only models that are on this machine.")
@CACHE
@JSON
def models(kind: Kind | None, cache_dir: str | None, *, installed: bool, as_json: bool) -> None:
    """List the models that this version knows.

    Models on this machine come first.

    \b
    Example: tessera models --kind dense --installed
    """
    found = known_models(kind, installed=installed, cache_dir=cache_dir)
    rows = [
        _summary(spec, artifact.origin if artifact else "not installed")
        for spec, artifact in found.items()
    ]
    if as_json:
        print_json(rows)
    else:
        print_lines(_summary_lines(rows))


@click.command()
@click.argument("model", metavar="ID_OR_FOLDER")
@CACHE
@JSON
def info(model: str, cache_dir: str | None, *, as_json: bool) -> None:
    """Show every fact of a model: source, licence, files, parity.

    Facts that were read from the files of a folder or repository are shown with the file and the
    key that each comes from.

    \b
    Example: tessera info all-minilm-l6-v2
    """
    try:
        artifact = resolve.resolve(**location(model, cache_dir), offline=True)
        spec, sources = artifact.spec, dict(artifact.sources)
        place = {"where": artifact.origin, "folder": str(artifact.folder)}
        missing = {file.name for file in spec.files} - set(artifact.present())
        if missing:
            place["not on this machine"] = ", ".join(sorted(missing))
        found = saturating(artifact)
        if found:
            place["saturates on x86 without VNNI"] = ", ".join(found)
    except ModelNotFound:
        known = _known(model)
        if known is None:
            raise
        spec, sources, place = known, {}, {"where": "not installed"}
    if as_json:
        given = {"sources": sources} if sources else {}
        print_json({**dataclasses.asdict(spec), **place, **given})
    else:
        print_lines(table([*foreign_facts(spec, sources), *((*row, "") for row in place.items())]))


@click.command()
@click.argument("model", metavar="ID")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Graph to download.")
@click.option("--force", is_flag=True, help="Download again what is here already.")
@CACHE
@JSON
def pull(
    model: str, precision: Precision | None, cache_dir: str | None, *, force: bool, as_json: bool
) -> None:
    """Download and verify a model, to run it without a network.

    Without --precision it is the graph that runs on this machine by default.

    \b
    Example: tessera pull all-minilm-l6-v2
    """
    _check_id(model)
    report = fetch(model, cache_dir, precision, force=force)
    if as_json:
        print_json(report)
    else:
        print_lines(_pull_lines(report))


@click.command()
@click.argument("model", metavar="ID")
@CACHE
def pin(model: str, cache_dir: str | None) -> None:
    """Print a model's revision and hashes as lines for a catalogue.

    \b
    Example: tessera pin all-minilm-l6-v2
    """
    _check_id(model)
    spec = _known(model)
    if spec is None:  # raises with near names, or is no model of a catalogue
        spec = resolve.resolve(model, cache_dir=cache_dir).spec
    cache = cache_folder(cache_dir)
    # Revision and hashes that nobody recorded yet are asked of the hub.
    print_lines(pins.lines(pins.recorded(spec, cache) or pins.resolve(spec, cache)))


def saturating(artifact: Artifact) -> list[str]:
    """The int8 graphs that are here and whose products saturate on x86 processors without VNNI."""
    here = set(artifact.present())
    return [
        name
        for name in _int8_graphs(artifact.spec)
        if name in here
        and saturation.products(artifact.read(name), functools.partial(artifact.read_beside, name))
    ]


def _int8_graphs(spec: ModelSpec) -> list[str]:
    tables = [KINDS[kind].recipe(spec) for kind in spec.kinds]
    values = [getattr(table, field.name) for table in tables for field in dataclasses.fields(table)]
    graphs = [spec.graph, *(value for value in values if isinstance(value, SubGraph))]
    return [graph.int8 for graph in graphs if graph is not None and graph.int8]


def _known(model: str) -> ModelSpec | None:
    """The catalogue's entry of that id or alias."""
    return resolve.find_entry(catalogue.catalogue(), model)


def _check_id(model: str) -> None:
    if os.path.isdir(model) and _known(model) is None:  # noqa: PTH112 (a Path raises for what cannot be a name)
        raise click.UsageError("ID is the id of a model; the folder of that name is here already")


# ---------------------------------------------------------------- models


def _summary(spec: ModelSpec, where: str) -> dict[str, Any]:
    sizes = [KINDS[kind].sizes(KINDS[kind].recipe(spec)) for kind in spec.kinds]
    return {
        "id": spec.id,
        "kinds": list(spec.kinds),
        # One dimension and one length a kind, each named once.
        "dimension": list(dict.fromkeys(dimension for dimension, _ in sizes)),
        "max_length": list(dict.fromkeys(length for _, length in sizes if length)),
        "licence": spec.licence,
        "where": where,
    }


def _summary_lines(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    cells = (
        [", ".join(map(str, value)) if isinstance(value, list) else value for value in row.values()]
        for row in rows
    )
    return table([["ID", "KINDS", "DIMENSION", "MAX LENGTH", "LICENCE", "WHERE"], *cells])


# ---------------------------------------------------------------- info


def facts(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    """Dotted name and value of every fact. Facts that nobody could check are marked."""
    for name, fact in _flat(spec, ""):
        restricted = name == "licence" and catalogue.forbids_commercial_use(spec.licence)
        doubtful = any(f"{name}.".startswith(f"{doubt}.") for doubt in spec.unverified)
        note = "  (forbids commercial use)" if restricted else ""
        yield name, f"{fact}{note}{'  (unverified)' if doubtful else ''}"


def foreign_facts(spec: ModelSpec, sources: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Dotted name, value and source ("file: key") of every fact; "" where no source is known.

    The source of a table is that of each of its facts that has none of its own.
    """
    for name, fact in facts(spec):
        parts = name.split(".")
        tables = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        yield name, fact, next((sources[table] for table in tables if table in sources), "")


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, File):
        size = "size unknown" if value.size < 0 else f"{value.size:,} bytes"
        yield name, f"{value.name}  {size}  sha256 {value.sha256}"
    elif isinstance(value, Parity):
        figure = f"{value.precision} {value.output} {value.metric} {value.value:.3g}"
        yield name, f"{figure}, limit {value.limit:.3g}"
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _flat(getattr(value, field.name), f"{name}.{field.name}".lstrip("."))
    elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        for part in value:
            yield from _flat(part, name)
    elif isinstance(value, tuple):
        yield name, ", ".join(map(str, value)) or "none"
    elif isinstance(value, str) and value == value.strip() != "":
        yield name, value
    elif value is not None:
        yield name, json.dumps(value)  # a prompt's last space and an empty string stay visible


# ---------------------------------------------------------------- pull


def fetch(
    model: str, cache_dir: str | None, precision: Precision | None, *, force: bool
) -> dict[str, Any]:
    """Download and verify the files of one precision, by default of that which runs here.

    Raises ModelNotFound, with the export command for a model that no hub offers ready to run, and
    what `hub.download` raises.
    """
    spec = _known(model)
    elsewhere = _installed(spec.id if spec else model, cache_dir)
    if spec is None or (spec.hub is None and elsewhere):
        artifact = resolve.resolve(model, cache_dir=cache_dir)
        return _report(artifact, artifact.present(), None)
    if precision:
        rules.check_precision(spec, precision)
    artifact = resolve.from_hub(spec, cache_dir, offline=hub.is_offline())
    precisions = [precision] if precision else _precisions(spec)
    names = list(dict.fromkeys(n for p in precisions for n in artifact.spec.files_for(p)))
    for name in names:
        if force:
            hub.download(artifact.spec, name, again=True)
        artifact.read(name)  # downloads what is missing or damaged
    return _report(artifact, names, elsewhere)


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


def _report(artifact: Artifact, names: list[str], hidden_by: str | None) -> dict[str, Any]:
    spec = artifact.spec
    return {
        "model": spec.id,
        "where": artifact.origin,
        "revision": spec.hub.revision if spec.hub else spec.revision,
        "licence": spec.licence,
        "folder": str(artifact.folder),
        "files": [{"name": name, "size": spec.file(name).size} for name in names],
        "hidden_by": hidden_by,
    }


def _pull_lines(report: dict[str, Any]) -> Iterator[str]:
    """What is here now and what to do next."""
    total = sum(file["size"] for file in report["files"])
    yield f"{report['model']}: {len(report['files'])} files, {total:,} bytes, verified"
    yield f"  in {Path(report['folder'])}"
    forbids = catalogue.forbids_commercial_use(report["licence"])
    yield f"  licence {report['licence']}{', which forbids commercial use' if forbids else ''}"
    if report["hidden_by"]:
        yield f"  not used by its id: {report['hidden_by']} holds that model and comes first"
    yield f'Next: tessera info {report["model"]}, or in Python Tessera("{report["model"]}")'

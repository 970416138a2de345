"""`tessera models` and `info`: list and describe models."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from tessera_onnx.cli.options import CACHE, FILE, JSON, POOLING, location, model_ids
from tessera_onnx.cli.output import print_json, print_lines, table
from tessera_onnx.errors import ModelNotFound, TesseraError
from tessera_onnx.kinds import KINDS, known_models
from tessera_onnx.models import catalogue, hub, resolve
from tessera_onnx.models.artifact import Artifact
from tessera_onnx.models.foreign import repository
from tessera_onnx.models.installed import cache_folder
from tessera_onnx.models.spec import File, Kind, ModelSpec, Parity
from tessera_onnx.models.spec_media import SubGraph
from tessera_onnx.runtime import cpu, saturation


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
@click.argument("model", metavar="ID_OR_FOLDER", shell_complete=model_ids)
@FILE
@POOLING
@CACHE
@JSON
def info(model: str, cache_dir: str | None, *, as_json: bool, **chosen: Any) -> None:
    """Show every fact of a model and its files.

    Of a folder or repository without a description, it shows the file and key of each fact. A
    repository OWNER/NAME is described from its small files, before a graph is downloaded.

    \b
    Example: tessera info all-minilm-l6-v2
    """
    sources: Mapping[str, str] = {}
    try:
        processor = cpu.byte_products()
        artifact = resolve.resolve(
            **location(model, cache_dir), offline=True, processor=processor, **chosen
        )
        spec, place, sources = artifact.spec, _place(artifact), artifact.sources
    except ModelNotFound:
        known, wanted = known_entry(model), repository.choice(model, processor=processor, **chosen)
        if known is not None and not any(chosen.values()):
            spec, place = known, {"where": "not installed"}
        elif wanted is None or hub.is_offline():
            raise
        else:
            artifact = _described(wanted, cache_dir, as_json=as_json)
            spec, place, sources = artifact.spec, _place(artifact), artifact.sources
    if as_json:
        told = {"sources": dict(sources)} if sources else {}
        print_json({**dataclasses.asdict(spec), **place, **told})
    else:
        print_lines(table([*facts(spec, sources), *_place_lines(place)]))


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


def known_entry(model: str) -> ModelSpec | None:
    """The catalogue's entry of that id or alias."""
    return resolve.find_entry(catalogue.catalogue(), model)


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


def _place(artifact: Artifact) -> dict[str, Any]:
    """Where the files of a model lie; of a repository, which graphs it has, and their sizes."""
    place: dict[str, Any] = {"where": artifact.origin, "folder": str(artifact.folder)}
    found = saturating(artifact)
    if found:
        place["saturates on x86 without VNNI"] = ", ".join(found)
    if artifact.listing is not None:
        if not artifact.is_complete():
            place["where"] = "not downloaded"
        place["graphs"] = _graphs(artifact.listing)
    return place


def _graphs(listing: hub.Listing) -> list[dict[str, Any]]:
    """The ONNX files of a repository, and files beside each that by their names hold its weights.

    The true names stand in the graph, which is not here yet.
    """
    sizes = {name: remote.size for name, remote in listing.files.items()}
    return [
        {
            "name": graph,
            "size": size,
            "weights": {
                name: sizes[name]
                for name in sizes
                if name.startswith((f"{graph}_data", f"{graph}.data"))
            },
        }
        for graph, size in sorted(sizes.items())
        if graph.endswith(".onnx")
    ]


def _place_lines(place: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in place.items():
        if name != "graphs":
            yield name, value
            continue
        for graph in value:
            weights = "".join(f" + {n} {size:,} bytes" for n, size in graph["weights"].items())
            yield "graph", f"{graph['name']}  {graph['size']:,} bytes{weights}"


def _described(wanted: repository.Choice, cache_dir: str | None, *, as_json: bool) -> Artifact:
    """A repository as its small files describe it.

    Of one that is refused, the graphs and the reason are shown before the error goes on.
    """
    cache = cache_folder(cache_dir)
    listing = repository.listing(wanted, cache)
    try:
        return repository.describe(wanted, listing)
    except TesseraError as error:
        shown = {"id": wanted.id, "revision": listing.commit, "graphs": _graphs(listing)}
        if as_json:
            print_json({**shown, "refused": str(error)})
        else:
            print_lines(table(_place_lines(shown)))
        raise


def facts(spec: ModelSpec, sources: Mapping[str, str] | None = None) -> Iterator[tuple[str, str]]:
    """Dotted name and value of every fact. Facts that nobody could check are marked.

    `sources` has the file and key of facts that were read from a foreign folder.
    """
    for name, fact in _flat(spec, ""):
        source = (sources or {}).get(name)
        limit = catalogue.commercial_limit(spec.licence) if name == "licence" else ""
        doubtful = any(f"{name}.".startswith(f"{doubt}.") for doubt in spec.unverified)
        note = f"  ({limit})" if limit else ""
        note += "  (unverified)" if doubtful else ""
        note += f"  (from {source})" if source else ""
        yield name, f"{fact}{note}"


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

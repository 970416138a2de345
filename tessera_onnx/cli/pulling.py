"""What `tessera pull` and `tessera pin` do, as plain values; the command prints them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tessera_onnx.errors import DeviceError
from tessera_onnx.models import catalogue, hub, pins, rules
from tessera_onnx.models.artifact import HUB, Artifact
from tessera_onnx.models.installed import cache_folder, installed
from tessera_onnx.models.resolve import find_entry, from_hub, resolve
from tessera_onnx.models.spec import ModelSpec, Precision
from tessera_onnx.runtime.devices import choose_device


def pull(
    model: str, cache_dir: str | None, precision: Precision | None, *, force: bool
) -> dict[str, Any]:
    """Fetch and verify the files of one precision, or of those that `device="auto"` would run.

    Raises ModelNotFound, with the export command for a model that nobody offers ready, and what
    `hub.download` raises.
    """
    spec = _known(model)
    elsewhere = _installed(spec.id if spec else model, cache_dir)
    if spec is None or (spec.hub is None and elsewhere):
        artifact = resolve(model, cache_dir=cache_dir)
        return _report(artifact, artifact.present(), None)
    if precision:
        rules.check_precision(spec, precision)
    artifact = from_hub(spec, cache_dir, offline=hub.is_offline())
    precisions = [precision] if precision else _precisions(spec)
    names = list(dict.fromkeys(n for p in precisions for n in artifact.spec.files_for(p)))
    for name in names:
        if force:
            hub.download(artifact.spec, name, again=True)
        artifact.read(name)  # fetches what is missing or damaged
    return _report(artifact, names, elsewhere)


def pin(model: str, cache_dir: str | None) -> Iterator[str]:
    """The lines with revision and hashes of a model, asked of its hub if they are not known yet."""
    spec = _known(model)
    if spec is None:  # raises with near names, or is no model of a catalogue
        spec = resolve(model, cache_dir=cache_dir).spec
    cache = cache_folder(cache_dir)
    return pins.lines(pins.recorded(spec, cache) or pins.resolve(spec, cache))


def _known(model: str) -> ModelSpec | None:
    return find_entry(catalogue.catalogue(), model)


def _installed(model: str, cache_dir: str | None) -> str | None:
    """What comes before the hub for this id: the name of a pack, or "cache"."""
    for artifact in installed(cache_dir):
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
    except DeviceError:  # no onnxruntime yet is no reason not to download
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


def lines(report: dict[str, Any]) -> Iterator[str]:
    """A report of `pull` for people: what is here and what to do next."""
    total = sum(file["size"] for file in report["files"])
    yield f"{report['model']}: {len(report['files'])} files, {total:,} bytes, verified"
    yield f"  in {Path(report['folder'])}"
    forbids = catalogue.forbids_commercial_use(report["licence"])
    yield f"  licence {report['licence']}{', which forbids commercial use' if forbids else ''}"
    if report["hidden_by"]:
        yield f"  not used by its id: {report['hidden_by']} holds that model and comes first"
    yield f'Next: tessera info {report["model"]}, or in Python Tessera("{report["model"]}")'

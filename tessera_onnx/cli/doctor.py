"""`tessera doctor`: what is installed, and whether every model works on every device."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any, TypeVar

import click

from tessera_onnx.cli import demo
from tessera_onnx.cli.models import saturating
from tessera_onnx.cli.options import CACHE, JSON
from tessera_onnx.cli.output import as_options, print_json, print_lines, table
from tessera_onnx.errors import TesseraError, install_hint
from tessera_onnx.kinds import KINDS
from tessera_onnx.models import installed as models_installed
from tessera_onnx.models.artifact import HUB, Artifact
from tessera_onnx.models.spec import Kind
from tessera_onnx.runtime import cpu, telemetry
from tessera_onnx.runtime.devices import PROVIDERS, onnxruntime

T = TypeVar("T")

# Wheels that hold the same files: the wheel installed last overwrites a part of the others.
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")


@click.command()
@CACHE
@JSON
def doctor(cache_dir: str | None, *, as_json: bool) -> None:
    """Show what is installed and try it.

    The exit code is 1 when something does not work.

    \b
    Example: tessera doctor
    """
    found = examine(cache_dir)
    found["problems"] = [as_options(problem) for problem in found["problems"]]
    if as_json:
        print_json(found)
    else:
        print_lines(_lines(found))
    if found["problems"]:
        raise click.exceptions.Exit(1)


def examine(cache_dir: str | None) -> dict[str, Any]:
    """What is installed, what was tried, and under "problems" a sentence for each failure."""
    problems: list[str] = []

    def attempt(what: Callable[[], T], otherwise: T) -> T:
        try:
            return what()
        except TesseraError as error:
            problems.append(str(error))
            return otherwise

    packages = _versions("tessera-onnx", *RUNTIMES, "numpy", "tokenizers")
    rivals = [name for name in RUNTIMES if name in packages]
    if len(rivals) > 1:
        problems.append(
            f"{' and '.join(rivals)} overwrite each other: `pip uninstall {' '.join(rivals)}`, "
            f"then {install_hint('cpu')}; or [cuda] in place of [cpu], never both"
        )
    ort = attempt(onnxruntime, None)
    providers: list[str] = ort.get_available_providers() if ort else []
    wrong = telemetry.problem(ort.__version__) if ort else None
    problems += [wrong] if wrong else []
    nothing: list[Artifact] = []
    installed = attempt(lambda: models_installed.installed(cache_dir), nothing)
    problems += models_installed.broken(cache_dir)
    tried = [_try_model(artifact, providers, cache_dir) for artifact in installed]
    for model in tried:
        if model["files"] != "verified":
            problems.append(model["files"])
        if model["saturating"] and cpu.saturates():
            problems.append(
                f"{model['id']}: int8 products of {', '.join(model['saturating'])} can saturate on "
                "this processor, which has no VNNI: use precision='fp32'"
            )
        problems += [
            f"{model['id']}, {probe['kind']} on {probe['device']}: {probe['result']}"
            for probe in model["probes"]
            if probe["result"] != "works"
        ]
    return {
        "python": f"{platform.python_version()} on {sys.platform} {platform.machine()}",
        "packages": packages,
        "packs": _versions(*(distribution for *_, distribution in models_installed.entry_points())),
        "providers": providers,
        "telemetry": telemetry.state(ort.__version__) if ort else "none",
        "threads": attempt(cpu.cpu_threads, 0),
        "threads_from": _thread_sources(),
        "processor": cpu.physical_summary(),
        "models": tried,
        "problems": problems,
    }


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _thread_sources() -> dict[str, Any]:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "affinity": affinity,
        "cgroup_quota": cpu.cgroup_quota(),
        "TESSERA_THREADS": os.environ.get("TESSERA_THREADS"),
    }


def _try_model(artifact: Artifact, providers: list[str], cache_dir: str | None) -> dict[str, Any]:
    """Compare a model's files with their hashes, then run an input of each kind on each device."""
    spec = artifact.spec
    tried: dict[str, Any] = {"id": spec.id, "where": artifact.origin, "files": "verified"}
    tried["saturating"] = []
    try:
        present = artifact.present()
        for name in present:
            artifact.read(name)
        tried["saturating"] = saturating(artifact)
    except TesseraError as error:
        return {**tried, "files": str(error), "probes": []}
    devices = [name for name, provider in PROVIDERS.items() if provider in providers]
    if spec.graph is None:
        devices = ["cpu"]
    elif not spec.graph.static and "coreml" in devices:
        devices.remove("coreml")
    if artifact.origin == HUB and spec.graph:  # the hub's cache has the graphs that were asked for
        best = {name: getattr(spec.graph, f"best_{name}") for name in devices}
        devices = [name for name in devices if getattr(spec.graph, best[name]) in present]
    probes = [
        _probe(artifact, kind, device, cache_dir) for kind in spec.kinds for device in devices
    ]
    return {**tried, "probes": probes}


def _probe(artifact: Artifact, kind: Kind, device: str, cache_dir: str | None) -> dict[str, Any]:
    probe = {
        "kind": kind,
        "device": device,
        "precision": getattr(artifact.spec.graph, f"best_{device}", "none"),
    }
    row = KINDS[kind]
    try:
        with row.open(
            artifact, artifact.spec.id, cache_dir=cache_dir, device=device, offline=True
        ) as model:
            _run(model, row.reads)
    except TesseraError as error:
        return {**probe, "result": str(error)}
    return {**probe, "result": "works"}


def _run(model: Any, reads: str) -> None:
    """Run one input of the sort that the model reads."""
    if reads == "series":
        model.forecast(demo.SERIES)
    elif reads == "images":
        model.search("one text", demo.draw_page("one text"))
    elif reads == "pairs":
        model.score("one text", ["one text"])
    else:
        model.encode("one text")


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """What `examine` found, as lines for people."""
    sources = [
        f"{name.replace('cgroup_', 'cgroup ')} {value or 'none'}"
        for name, value in found["threads_from"].items()
    ]
    yield from table(
        [
            ("python", found["python"]),
            *found["packages"].items(),
            ("packs", ", ".join(map(" ".join, found["packs"].items())) or "none"),
            ("providers", ", ".join(found["providers"]) or "none"),
            ("telemetry", found["telemetry"]),
            ("threads", f"{found['threads']} ({', '.join(sources)})"),
            ("processor", found["processor"]),
        ]
    )
    for model in found["models"]:
        note = "; int8 saturates on x86 without VNNI" if model["saturating"] else ""
        yield f"\n{model['id']} ({model['where']}): files {model['files']}{note}"
        names = ("kind", "device", "precision", "result")
        yield from table(([probe[name] for name in names] for probe in model["probes"]), "  ")
    yield ""
    yield from (f"Problem: {problem}" for problem in found["problems"])
    if not found["problems"]:
        yield "Everything works." if found["models"] else "No model is installed."

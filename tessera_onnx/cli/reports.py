"""What `tessera demo`, `models`, `info` and `doctor` say, as plain values; the command prints them.

This module knows all classes, so it stands beside the command, above them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any, TypeVar

from tessera_onnx.errors import TesseraError, install_hint
from tessera_onnx.kinds import KINDS, known_models
from tessera_onnx.models import catalogue
from tessera_onnx.models import installed as models_installed
from tessera_onnx.models.artifact import HUB, Artifact
from tessera_onnx.models.spec import (
    File,
    Kind,
    ModelSpec,
    Parity,
)
from tessera_onnx.runtime import cpu, saturation, telemetry
from tessera_onnx.runtime.devices import PROVIDERS, onnxruntime

T = TypeVar("T")

# Written for this package; nobody else's text.
QUERY = "How can I keep bread fresh for longer?"
DOCUMENTS = (
    "Wrap the loaf in a linen cloth and keep it in a wooden box.",
    "The night train to Vienna leaves at a quarter past nine.",
    "Sourdough stays soft for days because its crust holds the moisture in.",
    "Turn off the water before you replace the kitchen tap.",
    "A frozen slice tastes newly baked after a minute in the toaster.",
)
SENTENCE = DOCUMENTS[1]
# Eight years of months: a trend and a season.
SERIES = [round(100 + i / 2 + 20 * math.sin(math.tau * i / 12), 1) for i in range(96)]

# Wheels that hold the same files: the one installed last wins, in part.
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")


def demo(model: Any, kind: Kind) -> dict[str, Any]:
    """A ranking of DOCUMENTS and what explains it; for series the next year of SERIES."""
    if kind == "time-series":
        levels = [0.1, 0.5, 0.9]
        (steps,) = model.forecast_quantiles(SERIES, 12, levels).tolist()
        return {"model": model.model(), "series": SERIES, "levels": levels, "forecast": steps}
    documents = [_drawn(text) for text in DOCUMENTS] if kind == "vision" else DOCUMENTS
    ranked = model.rank(QUERY, documents)
    ranking = [{"score": score, "document": DOCUMENTS[index]} for index, score in ranked]
    found = {"model": model.model(), "query": QUERY, "ranking": ranking}
    if kind == "multi-vector":
        special = re.compile(r"\[.+\]|<.+>")
        matches = model.explain(QUERY, DOCUMENTS[ranked[0].index])
        found["matches"] = [m._asdict() for m in matches if not special.fullmatch(m.query_token)]
    if kind == "sparse":
        found["text"] = SENTENCE
        found["terms"] = [
            {"token": token, "weight": weight, "in_text": _stands_in(token, SENTENCE)}
            for token, weight in model.explain(model.encode(SENTENCE), 9)
        ]
    return found


def _drawn(text: str) -> Any:
    """A small page with the text on it, as a vision model would get it."""
    import textwrap

    from PIL import Image, ImageDraw, ImageFont

    page = Image.new("RGB", (620, 400), "white")
    font = ImageFont.load_default(24)
    ImageDraw.Draw(page).multiline_text((40, 60), textwrap.fill(text, 40), "black", font)
    return page


def _stands_in(token: str, text: str) -> bool:
    """Whether a vocabulary entry is a word of the text, or a piece ("##ing") of one."""
    text, token = text.lower(), token.lower().lstrip("▁Ġ")
    return token in re.findall(r"\w+|\S", text) or (token[:2] == "##" and token[2:] in text)


def models(cache_dir: str | None, kind: Kind | None, *, installed: bool) -> list[dict[str, Any]]:
    """What tells the models apart: those that are here, then the others of the catalogue."""
    found = known_models(kind, installed=installed, cache_dir=cache_dir)
    return [
        _summary(spec, artifact.origin if artifact else "not installed")
        for spec, artifact in found.items()
    ]


def _summary(spec: ModelSpec, where: str) -> dict[str, Any]:
    # One dimension and one length a kind, each named once.
    sizes = [KINDS[kind].sizes(KINDS[kind].recipe(spec)) for kind in spec.kinds]
    return {
        "id": spec.id,
        "kinds": list(spec.kinds),
        "dimension": list(dict.fromkeys(dimension for dimension, _ in sizes)),
        "max_length": list(dict.fromkeys(length for _, length in sizes if length)),
        "licence": spec.licence,
        "where": where,
    }


def facts(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    """(dotted name, what it says) of every fact, those that nobody could check marked."""
    for name, fact in _facts(spec, ""):
        restricted = name == "licence" and catalogue.forbids_commercial_use(spec.licence)
        doubtful = any(f"{name}.".startswith(f"{doubt}.") for doubt in spec.unverified)
        note = "  (forbids commercial use)" if restricted else ""
        yield name, f"{fact}{note}{'  (unverified)' if doubtful else ''}"


def _facts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, File):
        size = "size unknown" if value.size < 0 else f"{value.size:,} bytes"
        yield name, f"{value.name}  {size}  sha256 {value.sha256}"
    elif isinstance(value, Parity):
        figure = f"{value.precision} {value.output} {value.metric} {value.value:.3g}"
        yield name, f"{figure}, limit {value.limit:.3g}"
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _facts(getattr(value, field.name), f"{name}.{field.name}".lstrip("."))
    elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        for part in value:
            yield from _facts(part, name)
    elif isinstance(value, tuple):
        yield name, ", ".join(map(str, value)) or "none"
    elif isinstance(value, str) and value == value.strip() != "":
        yield name, value
    elif value is not None:
        yield name, json.dumps(value)  # a prompt's last space and an empty string stay visible


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
    vision = spec.vision
    parts = (vision.tile_graph, vision.token_graph, vision.text_graph) if vision else ()
    names = [part.int8 for part in (spec.graph, *parts) if part is not None]
    return [name for name in names if name]


def doctor(cache_dir: str | None) -> dict[str, Any]:
    """What is installed, what was tried, and in "problems" a sentence for all that failed."""
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
    tried = [_tried(artifact, providers, cache_dir) for artifact in installed]
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
    quota = cpu.cgroup_quota()
    return {
        "affinity": affinity,
        "cgroup_quota": quota,
        "TESSERA_THREADS": os.environ.get("TESSERA_THREADS"),
    }


def _tried(artifact: Artifact, providers: list[str], cache_dir: str | None) -> dict[str, Any]:
    """A model's files compared with their hashes, then one input on every device of each kind."""
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
    if artifact.origin == HUB and spec.graph:  # which holds the graphs that somebody asked for
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
    try:
        with KINDS[kind].cls(
            artifact.spec.id, cache_dir=cache_dir, device=device, offline=True
        ) as model:
            _try_one(model, KINDS[kind].reads)
    except TesseraError as error:
        return {**probe, "result": str(error)}
    return {**probe, "result": "works"}


def _try_one(model: Any, reads: str) -> None:
    """Run a model on one small input of what its kind reads."""
    if reads == "series":
        model.forecast(SERIES)
    elif reads == "images":
        model.search("one text", _drawn("one text"))
    else:
        model.encode("one text")

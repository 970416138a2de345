"""Read the files of one model folder and compare them with their listed size and sha256.

This module asks os.path whether files exist, because os.path says False for a folder without
permission and for an impossible name, where pathlib raises. hashlib takes long to import, so it is
imported where it is used.
"""

from __future__ import annotations

import dataclasses
import logging
import mmap
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tessera_onnx.errors import (
    FileError,
    IntegrityError,
    LoadError,
    ModelNotFound,
)
from tessera_onnx.errors import named as said
from tessera_onnx.models import catalogue, hub, pins
from tessera_onnx.models.foreign import graph_io
from tessera_onnx.models.spec import UNPINNED, File, ModelSpec, Precision

HUB = "hub"  # origin of an artifact whose files lie in the hub cache or are fetched into it
FOLDER = "folder"  # origin of a user's folder without model.toml, whose files nobody hashed
SHIPPED = "tessera-onnx"  # origin of an artifact whose files are part of this package
logger = logging.getLogger("tessera_onnx")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model: its spec and the folder of its files."""

    spec: ModelSpec
    folder: Path
    origin: str  # "path", "cache", "hub", "folder", or the name of the pack's distribution
    offline: bool = True  # whether files of the origin "hub" must be there already
    sources: Mapping[str, str] = field(default_factory=dict)  # fact of the spec -> "file: key"
    # All files of a repository that no catalogue lists: which of them hold the weights of a graph
    # is known when the graph is here.
    listing: hub.Listing | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether the spec was read from the files of a folder or repository of somebody else."""
        return self.origin == FOLDER or self.listing is not None

    def read(self, name: str) -> bytes:
        """Content of a listed file, compared with model.toml by size and sha256.

        The bytes that were compared are returned, so a later change on disk has no effect. A file
        of the hub is fetched if it is missing, and fetched once more if it is damaged.
        Raises LoadError for a file that is not listed; IntegrityError for a file that is missing,
        truncated or changed, or that links out of the folder; ModelNotFound for a file that has to
        be fetched while offline; and what `hub.download` raises.
        """
        self.locate(name)
        content = self._read(name)
        if self.listing is not None and name.endswith(".onnx"):
            self._check_data(name, graph_io.parse(content, self.folder / name).locations)
        return content

    def read_or_map(self, name: str) -> bytes | mmap.mmap:
        """Content of a listed file, as `read` gives it; of a user's folder mapped into memory.

        A mapped file takes memory only where it is read, and it must not change while it is in use.
        """
        if self.origin != FOLDER:
            return self.read(name)
        path = self.locate(name)
        try:
            with path.open("rb") as stream:
                return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file
            return b""
        except OSError as error:
            raise FileError(f"{path} cannot be read: {error.strerror}", path=str(path)) from error

    def _read(self, name: str) -> bytes:
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
        """Path of a listed file, fetched from the hub if need be, not compared with its hash.

        Raises as `read` does, except for errors that only the content can show.
        """
        self.spec.file(name)
        path = self.folder / name
        if self.origin == HUB and not os.path.isfile(path):  # noqa: PTH113
            if self.offline:
                raise offline_error(self.spec, f"its file {name}")
            hub.download(self.spec, name)
        return path

    def present(self) -> list[str]:
        """Names of the listed files; for a model from the hub only those that were fetched."""
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
        if self.origin == FOLDER:  # as it lies: a snapshot of the hub cache consists of links
            return _content(path)
        if not any(path.resolve().is_relative_to(root.resolve()) for root in self._roots()):
            raise IntegrityError(f"{where} is a link out of its folder: {fix}")
        size = path.stat().st_size
        if size != listed.size:  # before reading, so that a huge file is never read
            raise IntegrityError(f"{where} has {size} bytes, expected {listed.size}: {fix}")
        content = _content(path)
        digest = hashlib.sha256(content).hexdigest()
        if digest != listed.sha256:
            raise IntegrityError(
                f"{where} has sha256 {digest[:12]}…, expected {listed.sha256[:12]}…: {fix}"
            )
        return content

    def read_beside(self, graph: str, name: str) -> bytes:
        """Content of the listed file `name` beside a graph, checked as `read` does.

        Of a user's folder, any file beside the graph.
        """
        beside = (PurePosixPath(graph).parent / name).as_posix()
        if self.origin == FOLDER:
            return _content(self.folder / beside)
        return self.with_file(beside).read(beside)

    def with_file(self, name: str) -> Artifact:
        """The same artifact, whose spec lists a further file of the repository."""
        known = {file.name for file in self.spec.files}
        remote = None if self.listing is None else self.listing.files.get(name)
        if name in known or remote is None or self.spec.hub is None:
            return self  # `read` says what is wrong with a file that is not listed
        sha256 = remote.sha256
        if sha256 == UNPINNED:  # git's hash alone is known of a small file
            _, sha256 = pins.fetch(self.spec.hub, name, remote.etag, offline=self.offline)
        file = File(name, sha256, remote.size)
        spec = dataclasses.replace(self.spec, files=(*self.spec.files, file))
        return dataclasses.replace(self, spec=spec)

    def data_files(self, graph: str) -> list[str]:
        """Names of the files with the weights of a graph that is here; [] for most graphs.

        Raises LoadError for a file that is no graph.
        """
        names = graph_io.read(self.folder / graph).locations
        return [(PurePosixPath(graph).parent / name).as_posix() for name in names]

    def files_for(self, precision: Precision | None) -> list[str]:
        """Names of the files of a precision, without the weights beside a repository's graph.

        The graph names those (`data_files`); a file that has its name and is no part of it may lie
        beside it.
        """
        names = self.spec.files_for(precision)
        graphs = [name for name in names if name.endswith(".onnx") and self.listing is not None]
        return [n for n in names if not any(n != g and n.startswith(g) for g in graphs)]

    def is_complete(self) -> bool:
        """Whether all files of a precision are here, with the weights beside its graph."""
        return any(
            all(self._is_here(name) for name in self.files_for(precision))
            for precision in self.spec.precisions() or (None,)
        )

    def _is_here(self, name: str) -> bool:
        if not os.path.isfile(self.folder / name):  # noqa: PTH113
            return False
        if not name.endswith(".onnx"):
            return True
        try:
            return all(os.path.isfile(self.folder / data) for data in self.data_files(name))  # noqa: PTH113
        except LoadError:  # damaged: it is fetched again when it is read
            return False

    def _check_data(self, graph: str, names: Iterable[str]) -> None:
        """Raises LoadError before gigabytes are fetched for a graph that lacks some of them."""
        missing = [name for name in names if self._remote(graph, name) is None]
        if missing:
            raise LoadError(
                f"{graph} of {self.spec.id} keeps weights in {', '.join(missing)!s:.300}, which "
                "the repository does not have beside it: choose another graph with file=, or "
                "export the model"
            )

    def _remote(self, graph: str, name: str) -> hub.Remote | None:
        beside = (PurePosixPath(graph).parent / name).as_posix()
        return None if self.listing is None else self.listing.files.get(beside)

    def _roots(self) -> list[Path]:
        """Folders that a listed file may lie in. A snapshot in the hub cache consists of links."""
        if self.origin == HUB and self.spec.hub is not None:
            return [hub.repository_folder(self.spec.hub), hub.shared_store()]
        return [self.folder]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from error


def open_folder(folder: str | os.PathLike[str], origin: str = "path") -> Artifact:
    """The artifact in `folder`. Raises LoadError if its model.toml is not one valid entry."""
    path = Path(folder)
    description = path / "model.toml"
    if not os.path.isfile(description):  # noqa: PTH113
        if os.path.isfile(path):  # noqa: PTH113
            what = "is a file and no model folder: open the folder that holds the whole model"
            what += ", and name an ONNX file in it with file="
        elif not os.path.lexists(path):
            what = "is not a model folder: there is no folder of that name"
            what += ", and ~ is not expanded" if str(path).startswith("~") else ""
        else:
            what = (
                "is not a model folder: it has no model.toml that can be read. Export one with "
                "`tessera-export MODEL --kind KIND --output DIR`"
            )
        raise LoadError(f"{said(path)} {what}")
    if not description.resolve().is_relative_to(path.resolve()):
        raise IntegrityError(f"{description} is a link out of its folder: put the file there")
    specs = catalogue.read_catalogue(description)
    if len(specs) != 1:
        raise LoadError(f"{description} describes {len(specs)} models, an artifact holds one")
    return pinned_folder(specs[0], description, origin)


def pinned_folder(spec: ModelSpec, description: Path, origin: str) -> Artifact:
    """The artifact beside `description`. Raises LoadError if a listed file has no sha256."""
    if any(file.sha256 == UNPINNED for file in spec.files):
        raise LoadError(f"{description} lists an unpinned file; an artifact pins every file")
    return Artifact(spec, description.parent, origin)


def in_hub_cache(spec: ModelSpec, *, offline: bool) -> Artifact:
    """The artifact whose files lie in the hub cache or, unless `offline`, are fetched into it."""
    if spec.hub is None:
        raise LoadError(f"model {spec.id!r} has no [model.hub] table")
    return Artifact(spec, hub.snapshot(spec.hub), HUB, offline)


def offline_error(spec: ModelSpec, what: str) -> ModelNotFound:
    """The error for files that would have to be fetched while offline."""
    return ModelNotFound(
        f"model {spec.id!r}: {what} is not on this machine, and offline=True or HF_HUB_OFFLINE "
        f"forbids to fetch it: run `tessera pull {spec.id}` where there is a network"
    )

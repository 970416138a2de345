"""Find the models on this machine: in packs, in the local cache and in the hub cache.

A pack is an installed distribution whose entry point names a package of model folders. Its files
are read; none of its code is ever run.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tessera_onnx.errors import LoadError
from tessera_onnx.models import catalogue, hub, pins
from tessera_onnx.models.artifact import SHIPPED, Artifact, in_hub_cache, open_folder
from tessera_onnx.models.foreign import repository
from tessera_onnx.models.spec import ModelSpec

logger = logging.getLogger("tessera_onnx")

Folder = str | os.PathLike[str]
ENTRY_POINTS = "tessera_onnx.models"
STARTER = "tessera-onnx-starter"  # the distribution with the default models
DESCRIPTION = "model.toml"
CACHE = "cache"  # origin of an artifact in the local cache
# Escapes of a TOML string that can hide a name: a letter given by its number, and a line that goes
# on in the next line. A description without them holds every name as plain bytes.
ESCAPED = re.compile(rb"\\[uUx\s]")


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Folder of local artifacts: `cache_dir`, else TESSERA_CACHE, else the user's cache folder."""
    if cache_dir is not None:
        return Path(cache_dir)
    given = os.environ.get
    folder = given("TESSERA_CACHE") or f"{given('XDG_CACHE_HOME') or '~/.cache'}/tessera-onnx"
    return Path(os.path.expanduser(folder))  # noqa: PTH111 (a Path raises where no home is known)


def installed(
    cache_dir: str | os.PathLike[str] | None = None, *, offline: bool = True
) -> list[Artifact]:
    """All models that can be opened without a network, packs first, then both caches.

    The hub cache holds at least one precision of a model that it is listed for; with
    `offline=False` the other precisions are fetched when they are read.

    A folder without a valid model.toml is left out. An id that several packs claim is left out
    too, because each of them could be the wrong one. `broken` lists both.
    """
    found, refused = _in_folders(cache_dir)
    for spec in catalogue.catalogue():
        pinned = pins.recorded(spec, cache_folder(cache_dir)) if spec.hub else None
        if pinned is not None and hub.is_complete(pinned):
            found.setdefault(spec.id, in_hub_cache(pinned, offline=offline))
    for artifact in repository.all_recorded(cache_folder(cache_dir), offline=offline):
        found.setdefault(artifact.spec.id, artifact)
    return [artifact for name, artifact in found.items() if name not in refused]


def shipped(spec: ModelSpec) -> Artifact:
    """The artifact of a lexical model, whose lists of stop words are part of this package."""
    return Artifact(spec, Path(__file__).with_name("stop_words"), SHIPPED)


def all_shipped() -> list[Artifact]:
    """The models that are part of this package, if the packages that they need are installed.

    They are no models that a user chose to install: none of them is the default of its kind.
    """
    if not all(importlib.util.find_spec(name) for name in ("py_rust_stemmers", "mmh3")):
        return []
    known = catalogue.catalogue()
    return [shipped(spec) for spec in known if spec.lexical is not None and spec.hub is None]


def find(
    cache_dir: str | os.PathLike[str] | None,
    word: str | None,
    is_wanted: Callable[[ModelSpec], bool],
) -> Artifact | None:
    """The first model for which `is_wanted` is true, in packs and then in the local cache.

    `word` is a word that stands in the description of every wanted model: the id, alias or kind
    that is looked for. Only descriptions with that word are parsed; None parses all until one is
    wanted. A folder without a valid description is left out. Gives None where no model is wanted.
    Raises LoadError where several packs claim the id of the model.
    """
    packs = list(_pack_folders())
    for artifact in _valid(packs, word):
        if is_wanted(artifact.spec):
            own = str(artifact.folder)
            others = [pair for pair in packs if os.fspath(pair[0]) != own]
            _check_unique(artifact, _valid(others, artifact.spec.id))
            return artifact
    in_cache = _valid(_cache_folders(cache_dir), word)
    return next((artifact for artifact in in_cache if is_wanted(artifact.spec)), None)


def _check_unique(artifact: Artifact, in_packs: Iterable[Artifact]) -> None:
    """Raises LoadError where one of the artifacts `in_packs` is another model of the same id.

    A pack never replaces a model of another pack, because nobody says which of the two is meant.
    The user's own cache comes after all packs.
    """
    for other in in_packs:
        if other.spec.id == artifact.spec.id and not other.folder.samefile(artifact.folder):
            raise LoadError(
                f"the packs {artifact.origin} and {other.origin} both hold a model "
                f"{artifact.spec.id!r}: uninstall one of them, or name its folder with path="
            )


def _in_folders(
    cache_dir: str | os.PathLike[str] | None,
) -> tuple[dict[str, Artifact], dict[str, str]]:
    """The models of packs and the local cache by id, and a reason for each id that is refused."""
    found: dict[str, Artifact] = {}
    refused: dict[str, str] = {}
    for artifact in _valid(_pack_folders()):
        try:
            _check_unique(found.setdefault(artifact.spec.id, artifact), [artifact])
        except LoadError as error:
            refused[artifact.spec.id] = str(error)
    for artifact in _valid(_cache_folders(cache_dir)):
        found.setdefault(artifact.spec.id, artifact)
    return found, refused


def broken(cache_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """One sentence per installed folder that cannot be opened: what is wrong with it."""
    sentences = []
    for folder, origin in itertools.chain(_pack_folders(), _cache_folders(cache_dir)):
        try:
            open_folder(folder, origin)
        except LoadError as error:
            sentences.append(str(error))
    return sentences + list(_in_folders(cache_dir)[1].values())


def _pack_folders() -> Iterator[tuple[Folder, str]]:
    # The starter is first because it holds the default models. The others follow by name, so that
    # the order does not depend on the order of installation.
    def place(entry: tuple[str, str, str]) -> tuple[bool, str, str]:
        name, _, distribution = entry
        # The name of a distribution is unique; an entry point of any pack may be named "starter".
        return distribution.lower().replace("_", "-") != STARTER, name, distribution

    for name, package, origin in sorted(entry_points(), key=place):
        try:
            module = importlib.util.find_spec(package)  # this does not import it
        except (AttributeError, ImportError, ValueError) as error:
            logger.warning("left out: the entry point %r names no package: %s", name, error)
            continue
        for location in (module and module.submodule_search_locations) or ():
            yield from _folders_below(location, origin)


def entry_points() -> Iterator[tuple[str, str, str]]:
    """(entry point, package, distribution) of every pack.

    `metadata.entry_points` reads all distributions at once and fails if one is damaged, so each is
    read by itself here.
    """
    from importlib import metadata

    seen = set()
    for distribution in metadata.distributions():
        try:
            # Few distributions are packs, and parsing takes much longer than reading.
            if ENTRY_POINTS not in (distribution.read_text("entry_points.txt") or ""):
                continue
            points = distribution.entry_points.select(group=ENTRY_POINTS)
            found = [(point.name, point.module.split(".")[0]) for point in points]
            origin = distribution.name if found else ""
        except Exception as error:  # the standard library raises anything for a damaged file
            place = distribution.locate_file("")
            logger.warning("left out: a package in %s cannot be read: %s", place, error)
            continue
        if found and not isinstance(origin, str):
            logger.warning("left out: the pack of the entry point %r has no name", found[0][0])
        elif found and origin not in seen:  # Python imports the first one on the path
            seen.add(origin)
            yield from ((name, package, origin) for name, package in found)


def _cache_folders(cache_dir: str | os.PathLike[str] | None) -> Iterator[tuple[Folder, str]]:
    return _folders_below(os.fspath(cache_folder(cache_dir)), CACHE)


def _folders_below(root: str, origin: str) -> Iterator[tuple[Folder, str]]:
    """The folders in `root` with a model.toml, and those that this user may not look into."""
    try:
        names = sorted(os.listdir(root))  # noqa: PTH208
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return
    for name in names:
        folder = f"{root}{os.sep}{name}"
        try:
            os.lstat(f"{folder}{os.sep}{DESCRIPTION}")
        except PermissionError:  # `open_folder` reports it
            pass
        except OSError:
            continue
        yield folder, origin


def _valid(folders: Iterable[tuple[Folder, str]], word: str | None = None) -> Iterator[Artifact]:
    """The artifacts in folders, without those whose description does not contain `word`."""
    sought = None if word is None else word.encode(errors="replace")
    for folder, origin in folders:
        if sought is not None and not _may_hold(folder, sought):
            continue
        try:
            yield open_folder(folder, origin)
        except LoadError as error:
            logger.warning("left out: %s", error)


def _may_hold(folder: Folder, word: bytes) -> bool:
    """Whether a string in the description of a folder can contain `word`.

    True also for a description that cannot be read, so that `open_folder` reports it.
    """
    description = f"{folder}{os.sep}{DESCRIPTION}"
    try:
        found = os.stat(description)  # noqa: PTH116 (strings are quicker, and there may be hundreds)
        if not stat.S_ISREG(found.st_mode) or found.st_size > catalogue.MAX_TOML_BYTES:
            return True
        with open(description, "rb", buffering=0) as stream:  # noqa: PTH123
            text = stream.read()
    except OSError:
        return True
    return word in text or ESCAPED.search(text) is not None

"""Find the models on this machine: packs, the local cache and the hub cache.

No code of a pack is ever run: a pack is found by its entry point and read as files.
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
from tessera_onnx.models.artifact import Artifact, in_hub_cache, open_folder
from tessera_onnx.models.spec import ModelSpec

logger = logging.getLogger("tessera_onnx")

Folder = str | os.PathLike[str]
ENTRY_POINTS = "tessera_onnx.models"
STARTER = "tessera-onnx-starter"  # the distribution with the default models
CACHE = "cache"  # origin of an artifact in the local cache
# In a TOML string: a letter by its number, or a line that goes on in the next. A description
# without either holds every name as it is written.
ESCAPED = re.compile(rb"\\[uUx\s]")


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
            found.setdefault(spec.id, in_hub_cache(pinned, offline=offline))
    return [artifact for name, artifact in found.items() if name not in refused]


def find(
    cache_dir: str | os.PathLike[str] | None,
    word: str | None,
    is_wanted: Callable[[ModelSpec], bool],
) -> Artifact | None:
    """The first model in packs and the local cache that is wanted, None where there is none.

    Only descriptions that hold `word` are parsed: the id, alias or kind that is looked for. None
    parses them until one is wanted. A folder whose description is no valid entry is left out.
    Raises LoadError where several packs claim the id of the model.
    """
    packs = list(_pack_folders())
    for artifact in _valid(itertools.chain(packs, _cache_folders(cache_dir)), word):
        if is_wanted(artifact.spec):
            if artifact.origin != CACHE:
                own = str(artifact.folder)
                others = [pair for pair in packs if os.fspath(pair[0]) != own]
                _check_unique(artifact, _valid(others, artifact.spec.id))
            return artifact
    return None


def _check_unique(artifact: Artifact, in_packs: Iterable[Artifact]) -> None:
    """Raises LoadError where another pack holds a model of the same id.

    No pack takes the place of another, whichever was installed first or is named first: it could
    hold anything. A user's own cache is trusted no less and no more: packs go before it.
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
    """The models of packs and the local cache by id; and why each refused id is refused."""
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
    """What is wrong with each installed folder that cannot be opened, a sentence each."""
    sentences = []
    for folder, origin in itertools.chain(_pack_folders(), _cache_folders(cache_dir)):
        try:
            open_folder(folder, origin)
        except LoadError as error:
            sentences.append(str(error))
    return sentences + list(_in_folders(cache_dir)[1].values())


def _pack_folders() -> Iterator[tuple[Folder, str]]:
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
            yield from _folders_below(location, origin)


def entry_points() -> Iterator[tuple[str, str, str]]:
    """Entry point, package and distribution of every pack, each distribution read by itself.

    `metadata.entry_points` reads all at once, and fails for all where one is damaged.
    """
    from importlib import metadata

    seen = set()
    for distribution in metadata.distributions():
        try:
            # To read the text is quick, to parse it is not, and few distributions are packs.
            if ENTRY_POINTS not in (distribution.read_text("entry_points.txt") or ""):
                continue
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


def _cache_folders(cache_dir: str | os.PathLike[str] | None) -> Iterator[tuple[Folder, str]]:
    return _folders_below(os.fspath(cache_folder(cache_dir)), CACHE)


def _folders_below(root: str, origin: str) -> Iterator[tuple[Folder, str]]:
    """The folders in `root` that hold a model, and those that may not be looked into."""
    try:
        names = sorted(os.listdir(root))  # noqa: PTH208 (strings: there may be hundreds)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return
    for name in names:
        folder = os.path.join(root, name)  # noqa: PTH118
        try:
            os.lstat(_description(folder))
        except PermissionError:  # `open_folder` says what is wrong with it
            pass
        except OSError:
            continue
        yield folder, origin


def _description(folder: Folder) -> str:
    return os.path.join(folder, "model.toml")  # noqa: PTH118


def _valid(folders: Iterable[tuple[Folder, str]], word: str | None = None) -> Iterator[Artifact]:
    """The artifacts in folders, of those whose description may hold `word`."""
    for folder, origin in folders:
        if word is not None and not _may_hold(folder, word.encode(errors="replace")):
            continue
        try:
            yield open_folder(folder, origin)
        except LoadError as error:
            logger.warning("left out: %s", error)


def _may_hold(folder: Folder, word: bytes) -> bool:
    """Whether a string of a folder's description may contain `word`.

    True also for what cannot be read: `open_folder` says what is wrong with it.
    """
    description = _description(folder)
    try:
        found = os.stat(description)  # noqa: PTH116
        if not stat.S_ISREG(found.st_mode) or found.st_size > catalogue.MAX_TOML_BYTES:
            return True
        with open(description, "rb", buffering=0) as stream:  # noqa: PTH123
            text = stream.read()
    except OSError:
        return True
    return word in text or ESCAPED.search(text) is not None

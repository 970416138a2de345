"""Open any repository of the hub: its small files at one commit, then the graph in use.

A repository that no catalogue lists is described by its own files. They are listed by one request,
compared with the hub's hashes and read by `reader`. The graph tells facts too, so all is read again
when it is here. What was found is recorded in the local cache, so that the next time no request is
made:

    hub/OWNER--NAME[/@REVISION]/listing.json    the commit, and size and hash of each file
    hub/OWNER--NAME[/@REVISION][/CHOICE]/       for each choice of a graph, pooling or kind:
        model.toml                              the description that was read, every file pinned
        sources.json                            the file and key of each fact, and for which
                                                version and processor they were read

The commit stays until `again=True` asks for a newer one.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tessera_onnx.errors import (
    ConfigError,
    IntegrityError,
    LoadError,
    ModelNotFound,
    part_hint,
)
from tessera_onnx.models import hub, pins
from tessera_onnx.models.artifact import HUB, Artifact
from tessera_onnx.models.foreign import records
from tessera_onnx.models.foreign.graphs import Processor
from tessera_onnx.models.hub import Listing
from tessera_onnx.models.rules import check_model
from tessera_onnx.models.spec import UNPINNED, File, Hub, Kind, ModelSpec, Pooling, Precision

logger = logging.getLogger("tessera_onnx")


# The files that are fetched before a graph. Others of a repository may be gigabytes.
MAX_SMALL = 8 << 20  # bytes
MAX_TOKENIZER = 64 << 20  # the largest known have 35 MB
MAX_SMALL_FILES = 64
TEXTS = {"README.md", "artifact.metadata"}
TOKENIZER = "tokenizer.json"
QUERIES = "SparseStaticEmbedding"  # a module's folder, whose weights `reader` looks at
# JSON that describes no model, and folders of other formats and of training.
UNREAD = re.compile(r"(^|/)(vocab|trainer_state|all_results|.*\.index)\.json$", re.IGNORECASE)
OTHER_FOLDERS = re.compile(r"(^|/)(\.|checkpoint|openvino|coreml|runs|eval)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Choice:
    """What is asked for: a repository, a revision of it ("" = its default branch), and options."""

    repository: str
    revision: str
    kind: Kind | None = None
    file: str | None = None
    pooling: Pooling | None = None
    precision: Precision | None = None  # which graph is fetched; all are recorded
    processor: Processor | None = None  # decides between int8 graphs, on each machine anew

    @property
    def id(self) -> str:
        """The id that opens the same repository and revision again."""
        return self.repository + (f"@{self.revision}" if self.revision else "")

    def base(self, cache: Path) -> Path:
        """The folder of the records of a repository at a revision."""
        folder = cache / "hub" / self.repository.replace("/", "--")
        return folder / f"@{self.revision.replace('/', '%2F')}" if self.revision else folder

    def folder(self, cache: Path) -> Path:
        """The folder of the record of this choice."""
        import hashlib

        options = [self.kind, self.file, self.pooling]
        if not any(options):
            return self.base(cache)
        return self.base(cache) / hashlib.sha256(json.dumps(options).encode()).hexdigest()[:16]


def choice(
    model_id: str,
    kind: Kind | None = None,
    *,
    file: str | None = None,
    pooling: Pooling | None = None,
    precision: Precision | None = None,
    processor: Processor | None = None,
) -> Choice | None:
    """The repository that an id names, "owner/name" or "owner/name@revision"; None for others."""
    found = records.NAME.fullmatch(model_id)
    if found is None or "--" in found[1] or ".." in model_id or found[1].endswith(".git"):
        return None
    return Choice(found[1], found[2] or "", kind, file, pooling, precision, processor)


def open_repository(
    wanted: Choice, cache: Path, *, offline: bool = False, again: bool = False
) -> Artifact:
    """The artifact of a repository, with the graph of the precision that is asked for.

    Another graph is fetched when it is read. A recorded repository needs no request, until `again`
    asks the hub for the newest commit. While `offline`, one that another tool fetched into the hub
    cache is opened as far as it is there.

    Raises ModelNotFound for a repository or revision that the hub does not have, or that is not
    here while `offline`; LoadError for one without an ONNX file, for what `reader.read` refuses,
    and what `hub.describe` raises; IntegrityError for a file that is not the one the hub lists.
    """
    found = None if again else recorded(wanted, cache, offline=offline)
    if found is not None:
        return found
    try:
        files = listing(wanted, cache, offline=offline, again=again)
    except ModelNotFound as error:
        if not offline:
            raise
        return _opened_cached(wanted, error)
    return open_listed(wanted, cache, files, offline=offline)


def _opened_cached(wanted: Choice, missing: ModelNotFound) -> Artifact:
    """A repository that another tool fetched into the hub cache; raises `missing` without one.

    It may be a part of the repository, so it is not recorded, and a graph of lower precision is
    used only if it is named: which graph is used must not depend on what happens to be here.
    """
    files = hub.cached_files(Hub(wanted.repository, wanted.revision or UNPINNED))
    if files is None or not any(name.endswith(".onnx") for name in files.files):
        raise missing
    try:
        found = open_listed(wanted, None, files, offline=True)
    except IntegrityError:
        raise
    except LoadError as error:
        raise ModelNotFound(f"{missing}; of the files in the hub cache: {error}") from None
    if wanted.file is None and not found.spec.main_graph().fp32:
        raise ModelNotFound(f"{missing}; the hub cache has no fp32 graph: name another with file=")
    return found


def listing(wanted: Choice, cache: Path, *, offline: bool = False, again: bool = False) -> Listing:
    """The files of a repository: those of the recorded commit, else of the newest.

    Raises what `hub.list_files` raises, and ModelNotFound while `offline` without a record.
    """
    found = None if again else records.read_listing(wanted.base(cache) / records.LISTING)
    if found is not None:
        return found
    if offline:
        raise ModelNotFound(
            f"the repository {wanted.id} is not on this machine, and offline=True or "
            f"HF_HUB_OFFLINE forbids to ask the hub for it: run `tessera pull {wanted.id}` where "
            "there is a network"
        )
    found = hub.list_files(Hub(wanted.repository, wanted.revision or UNPINNED))
    if found.repository != wanted.repository:
        logger.warning(
            "the repository %s is named %s now: use that name", wanted.repository, found.repository
        )
    return found


def recorded(wanted: Choice, cache: Path, *, offline: bool = True) -> Artifact | None:
    """The artifact of a repository that was opened before; None without a valid record.

    A record of another version of this package is passed over, because a newer one may read the
    same files differently, and so is one of another processor.
    """
    files = records.read_listing(wanted.base(cache) / records.LISTING)
    if files is None:
        return None
    for choice in (dataclasses.replace(wanted, kind=None), wanted):
        found = records.read(choice.folder(cache), files, wanted.processor, offline=offline)
        if found is not None and wanted.kind in {None, *found.spec.kinds}:
            return found
    return None


def all_recorded(cache: Path, *, offline: bool = True) -> Iterator[Artifact]:
    """The repositories that were opened before, with at least one graph that is here whole."""
    places = [Path(place) for place, _, names in os.walk(cache / "hub") if records.LISTING in names]
    for place in sorted(places):  # os.walk passes over folders that this user may not read
        files = records.read_listing(place / records.LISTING)
        if files is None:
            continue
        for folder, _, names in sorted(os.walk(place)):
            record = "model.toml" in names
            found = records.read(Path(folder), files, None, offline=offline) if record else None
            if found is not None and found.is_complete():
                yield found


def open_listed(
    wanted: Choice, cache: Path | None, files: Listing, *, offline: bool = False
) -> Artifact:
    """As `open_repository`, for a list of files that is known.

    The graph in use and the weights beside the encoder tell facts too, so they are fetched, and the
    description is read again with them. Without a `cache` nothing is recorded.
    """
    from tessera_onnx.models.foreign.found import NotHere

    _fetch_small(wanted, files, offline=offline)
    here: set[str] = set()
    while True:
        try:
            found, narrowed = _described(wanted, files, offline=offline)
        except NotHere as missing:
            if missing.name in here:
                raise
            _fetch(Hub(files.repository, files.commit), missing.name, files, offline=offline)
            here.add(missing.name)
            continue
        names = [name for name in found.files_for(_precision(wanted, found)) if name not in here]
        for name in names:
            found.read(name)
        here.update(names)
        if not names:
            break
    renamed = dataclasses.replace(narrowed, repository=files.repository)
    for each in dict.fromkeys((renamed, narrowed)):
        if cache is not None:
            records.write(each.base(cache), each.folder(cache), found, each.processor)
    return found


def describe(wanted: Choice, files: Listing, *, offline: bool = False) -> Artifact:
    """The artifact of a repository as its small files describe it, before a graph is fetched.

    What the graph tells is left open. Raises as `open_repository` does.
    """
    _fetch_small(wanted, files, offline=offline)
    return _described(wanted, files, offline=offline)[0]


def _described(wanted: Choice, files: Listing, *, offline: bool) -> tuple[Artifact, Choice]:
    """What the files that are here tell. The choice is without a kind if all kinds are served."""
    from tessera_onnx.models.foreign import reader

    source = Hub(files.repository, files.commit)
    folder = hub.snapshot(source)
    options: dict[str, Any] = {
        "file": wanted.file,
        "pooling": wanted.pooling,
        "listing": {name: remote.size for name, remote in files.files.items()},
        "processor": wanted.processor,
    }
    found = None
    try:  # every kind that the files serve, so that the record serves them too
        found = reader.read(folder, None, **options)
    except (LoadError, ConfigError):
        if wanted.kind is None:
            raise
    if found is not None and wanted.kind in {None, *found.spec.kinds}:
        wanted = dataclasses.replace(wanted, kind=None)
    else:
        found = reader.read(folder, wanted.kind, **options)
    spec = _pinned(found.spec, wanted, files, offline=offline)
    check_model(spec, f"repository {spec.id}")
    return Artifact(spec, folder, HUB, offline, found.sources, files), wanted


def _precision(wanted: Choice, found: Artifact) -> Precision | None:
    """The precision in use: the one asked for, if there is a graph of it; None without a graph."""
    if found.spec.graph is None:
        return None
    is_there = wanted.precision in found.spec.precisions()
    best = found.spec.main_graph().best_cpu  # the same for all devices
    return wanted.precision if wanted.precision is not None and is_there else best


def _check_graphs(wanted: Choice, files: Listing) -> None:
    if any(name.endswith(".onnx") for name in files.files):
        return
    adapter = "adapter_config.json" in files.files
    what = "is a LoRA adapter and has no ONNX file" if adapter else "has no ONNX file"
    merge = "merge it into its base model, and " if adapter else ""
    raise LoadError(
        f"the repository {wanted.id} {what}: {merge}run `tessera-export {files.repository} --kind "
        f"{wanted.kind or 'KIND'} --output DIR`, then open the folder with path=DIR. The exporter "
        f"is installed by {part_hint('export')}"
    )


def _fetch_small(wanted: Choice, files: Listing, *, offline: bool) -> None:
    """Fetch the files that describe the model, each compared with the hub's hash.

    Raises LoadError for a repository without a graph, unless it holds a static model.
    """
    from tessera_onnx.models.foreign import static

    if not static.may_be_static(files.files):
        _check_graphs(wanted, files)
    source = Hub(files.repository, files.commit)
    with ThreadPoolExecutor(8) as pool:  # the time goes into waiting for the hub
        list(pool.map(lambda name: _fetch(source, name, files, offline=offline), small(files)))
    if not static.is_static(hub.snapshot(source)):
        _check_graphs(wanted, files)


def _fetch(source: Hub, name: str, files: Listing, *, offline: bool) -> str:
    """Fetch a file unless it is here, and compare it. Its sha256."""
    return pins.fetch(source, name, files.files[name].etag, offline=offline)[1]


def small(files: Listing) -> list[str]:
    """Names of the files that describe a model: JSON, the tokenizer, the card; folders last."""

    def is_wanted(name: str, size: int) -> bool:
        path = PurePosixPath(name)
        if len(path.parts) > 3 or OTHER_FOLDERS.search(name) or UNREAD.search(name):
            return False
        if path.name == TOKENIZER:
            return size <= MAX_TOKENIZER
        is_table = path.parent.name.endswith(QUERIES) and path.suffix == ".safetensors"
        return (path.suffix == ".json" or name in TEXTS or is_table) and size <= MAX_SMALL

    wanted = [name for name, remote in files.files.items() if is_wanted(name, remote.size)]
    if TOKENIZER in wanted:  # some exporters put a copy beside the graphs
        wanted = [name for name in wanted if name != f"onnx/{TOKENIZER}"]
    return sorted(wanted, key=lambda name: (name.count("/"), name))[:MAX_SMALL_FILES]


def _pinned(spec: ModelSpec, wanted: Choice, files: Listing, *, offline: bool) -> ModelSpec:
    """The description with its id, its repository, and size and sha256 of each file."""
    source = Hub(files.repository, files.commit)

    def pin(name: str) -> File:
        remote = files.files.get(name)
        if remote is None:
            raise LoadError(
                f"the repository {wanted.id} has no file {name!r} at commit {files.commit}, which "
                "its description needs"
            )
        sha256 = remote.sha256
        if sha256 == UNPINNED:  # a small file, for which the hub has git's hash alone
            sha256 = _fetch(source, name, files, offline=offline)
        file = File(name, sha256, remote.size)
        pins.check_known(source, file)
        return file

    return dataclasses.replace(
        spec,
        id=dataclasses.replace(wanted, repository=files.repository).id,
        source=files.repository,
        revision=files.commit,
        hub=source,
        files=tuple(pin(file.name) for file in spec.files),
    )

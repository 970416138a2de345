"""Pinned revisions and hashes: recorded at the first download for entries that lack them.

A record is a model.toml in the local cache, in the schema of the catalogue, every file pinned. It
names its files by repository and revision, so it holds no path of this machine.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tessera_onnx.errors import FileError, IntegrityError, LoadError, ModelNotFound, named
from tessera_onnx.models import catalogue, hub
from tessera_onnx.models.hub import NotOnHub
from tessera_onnx.models.spec import UNPINNED, File, Hub, ModelSpec

logger = logging.getLogger("tessera_onnx")


def record_path(spec: ModelSpec, cache: Path) -> Path:
    """Where the record of a model lies in the local cache."""
    return cache / "hub" / spec.id / "model.toml"


def recorded(spec: ModelSpec, cache: Path) -> ModelSpec | None:
    """`spec` with the pins of its record; itself when it is pinned; None when neither is so.

    A record of another repository, revision, hash or size than the entry's is passed over, as the
    entry is newer: what it pins is never overruled.
    """
    if _is_pinned(spec):
        return spec
    path = record_path(spec, cache)
    if not os.path.isfile(path):  # noqa: PTH113 (False too where it may not be looked at)
        return None
    try:
        found = catalogue.read_catalogue(path)
    except LoadError as error:
        logger.warning("left out: %s", error)
        return None
    if len(found) != 1 or found[0].hub is None or found[0].hub.revision == UNPINNED:
        return None
    return _with_pins(spec, found[0])


def resolve(spec: ModelSpec, cache: Path) -> ModelSpec:
    """Ask the hub for what the entry leaves open, record it and say so.

    Small files, for which the hub has no sha256, are downloaded, compared with git's hash and
    hashed here. A file that the hub does not have stays unpinned, as nobody may ever need it.
    Raises what `hub.describe` and `hub.download` raise, FileError when the record cannot be
    written.
    """
    source = _source(spec)
    found: dict[str, File] = {}
    missing: list[NotOnHub] = []
    for file in spec.files:
        try:
            if source.revision == UNPINNED:  # one commit for all, even if "main" moves on
                commit = hub.describe(source, file.name).commit
                source = dataclasses.replace(source, revision=commit)
            found[file.name] = _pin(dataclasses.replace(spec, hub=source), file)
        except NotOnHub as error:
            missing.append(error)
    if not found:
        raise missing[0]
    revision = source.revision if spec.source == source.repository else UNPINNED
    pinned = dataclasses.replace(
        spec,
        hub=source,
        files=tuple(found.get(file.name, file) for file in spec.files),
        revision=revision if spec.revision == UNPINNED else spec.revision,
    )
    path = record_path(spec, cache)
    write(path, toml(pinned))
    logger.warning(
        "model %r had no pinned revision or hash: now %s of %s, recorded in %s; `tessera pin %s` "
        "prints the lines for a catalogue%s",
        spec.id,
        source.revision,
        source.repository,
        path,
        spec.id,
        "".join(f"; {error}" for error in missing),
    )
    return pinned


def lines(spec: ModelSpec) -> Iterator[str]:
    """The pinned part of an entry, as it goes below the other keys of a catalogue's [[model]]."""
    import tomli_w

    table = as_table(spec)
    part = {name: table[name] for name in ("revision", "files", "hub")}
    if spec.revision == UNPINNED:
        del part["revision"]
    _, *rest = tomli_w.dumps({"model": [part]}).splitlines()
    yield from rest


def toml(spec: ModelSpec) -> str:
    """An entry as a TOML document that `catalogue.parse` reads back to the same entry."""
    import tomli_w

    return tomli_w.dumps({"schema": catalogue.SCHEMA, "model": [as_table(spec)]})


def _source(spec: ModelSpec) -> Hub:
    if spec.hub is None:
        raise LoadError(f"model {spec.id!r} has no [model.hub] table: nothing to pin")
    return spec.hub


def _is_pinned(spec: ModelSpec) -> bool:
    return _source(spec).revision != UNPINNED and all(
        file.sha256 != UNPINNED and file.size >= 0 for file in spec.files
    )


def _with_pins(spec: ModelSpec, record: ModelSpec) -> ModelSpec | None:
    """The entry's facts with the record's pins; None when the two contradict each other."""
    source, found = _source(spec), _source(record)
    known = {file.name: file for file in record.files}
    agrees = (
        source.repository == found.repository
        and source.revision in {UNPINNED, found.revision}
        and {file.name for file in spec.files} == known.keys()
        and all(file.sha256 in {UNPINNED, known[file.name].sha256} for file in spec.files)
        and all(file.size in {-1, known[file.name].size} for file in spec.files)
    )
    if not agrees:
        return None
    files = tuple(known[file.name] for file in spec.files)
    revision = record.revision if spec.revision == UNPINNED else spec.revision
    source = dataclasses.replace(source, revision=found.revision)
    return dataclasses.replace(spec, hub=source, files=files, revision=revision)


def _pin(spec: ModelSpec, file: File) -> File:
    if file.sha256 != UNPINNED and file.size >= 0:
        return file
    remote = hub.describe(_source(spec), file.name)
    for what, expected, found in (
        ("sha256", file.sha256, remote.sha256),
        ("size", file.size, remote.size),
    ):
        if UNPINNED not in (expected, found) and expected not in (-1, found):
            raise IntegrityError(
                f"model {spec.id!r}: the hub's {file.name} has {what} {found}, expected "
                f"{expected}: the entry or the hub is wrong; do not use the file"
            )
    sha256 = remote.sha256 if file.sha256 == UNPINNED else file.sha256
    if sha256 == UNPINNED:
        _, sha256 = fetch(_source(spec), file.name, remote.etag)
    return dataclasses.replace(file, sha256=sha256, size=remote.size)


def check_known(source: Hub, file: File) -> None:
    """Raises IntegrityError where the catalogue knows another hash of a file at that commit.

    For a repository that is opened by its own name, so that the recipe is not the catalogue's.
    """
    for spec in catalogue.catalogue():
        if spec.hub is None or spec.hub.revision != source.revision:
            continue
        if spec.hub.repository.lower() != source.repository.lower():
            continue
        known = [each.sha256 for each in spec.files if each.name == file.name]
        if set(known) - {UNPINNED, file.sha256}:
            raise IntegrityError(
                f"{source.repository}: the hub's {file.name} has sha256 {file.sha256[:12]}…, and "
                f"the catalogue's entry {spec.id!r} expects {known[0][:12]}… at that commit: do "
                "not use the file"
            )


def fetch(source: Hub, name: str, etag: str, *, offline: bool = False) -> tuple[bytes, str]:
    """Content and sha256 of a file of the hub, downloaded unless it is in the hub cache.

    The content is compared with `etag`: the sha256 of a large file, git's hash of another. Raises
    IntegrityError for a file that is still another one after a second download, what
    `hub.describe` raises, and ModelNotFound for a file that is not here while `offline`.
    """
    import hashlib

    path = hub.snapshot(source) / name
    for again in (False, True):  # a copy in the cache may be damaged
        if again or not os.path.isfile(path):  # noqa: PTH113 (False too where it may not be looked at)
            if offline:
                what = "is damaged" if again else "is not on this machine"
                raise (IntegrityError if again else ModelNotFound)(
                    f"{name!r} of the repository {source.repository} {what}, and offline=True or "
                    "HF_HUB_OFFLINE forbids to fetch it: run `tessera pull "
                    f"{source.repository}` where there is a network"
                )
            hub.fetch(source, name, again=again)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise FileError(f"{path} cannot be read: {error.strerror}") from error
        sha256 = hashlib.sha256(content).hexdigest()
        blob = b"blob %d\0" % len(content) + content  # git hashes a header and the content
        if etag in {sha256, hashlib.sha1(blob, usedforsecurity=False).hexdigest()}:
            return content, sha256
    raise IntegrityError(
        f"{name!r} of {source.repository} arrived damaged twice (its hash is not the "
        "hub's): try again later, or through another network or HF_ENDPOINT"
    )


def write(path: Path, text: str) -> None:
    """All or nothing: another process reads the old record or the new one."""
    import secrets

    # Not by tempfile, whose files nobody else may read: a cache may be filled by root for others.
    temporary = path.with_name(f".model.{secrets.token_hex(8)}.toml")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("x", encoding="utf-8") as stream:
                stream.write(text)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FileError(
            f"{named(path)} cannot be written ({error.strerror}): set TESSERA_CACHE to a "
            "folder that can"
        ) from error


def as_table(part: Any) -> Any:
    """A dataclass as nested dicts and lists, without the keys that are absent."""
    if dataclasses.is_dataclass(part):
        fields = ((field.name, getattr(part, field.name)) for field in dataclasses.fields(part))
        return {name: as_table(value) for name, value in fields if value is not None}
    return [as_table(value) for value in part] if isinstance(part, tuple) else part

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

from tessera_onnx.errors import FileError, LoadError, named
from tessera_onnx.models import catalogue, hub
from tessera_onnx.models.hub_errors import NotOnHub
from tessera_onnx.models.spec import UNPINNED, File, Hub, ModelSpec

logger = logging.getLogger("tessera_onnx")


def record_path(spec: ModelSpec, cache: Path) -> Path:
    """Where the record of a model lies in the local cache."""
    return cache / "hub" / spec.id / "model.toml"


def recorded(spec: ModelSpec, cache: Path) -> ModelSpec | None:
    """`spec` with the pins of its record; itself when it is pinned; None when neither is so.

    A record of another repository, revision or hash than the entry's is passed over, as the entry
    is newer.
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
    _write(path, toml(pinned))
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
    """The pinned part of an entry, as it goes into a catalogue."""
    if spec.revision != UNPINNED:
        yield f"revision = {_value(spec.revision)}"
    yield f"files = {_value(spec.files)}"
    yield "[model.hub]"
    for field in dataclasses.fields(Hub):
        yield f"{field.name} = {_value(getattr(spec.hub, field.name))}"


def toml(spec: ModelSpec) -> str:
    """An entry as a TOML document that `registry.parse` reads back to the same entry."""
    return "\n".join([f"schema = {catalogue.SCHEMA}", "", "[[model]]", *_table(spec, "model"), ""])


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
    )
    if not agrees:
        return None
    files = tuple(known[file.name] for file in spec.files)
    revision = record.revision if spec.revision == UNPINNED else spec.revision
    return dataclasses.replace(spec, hub=found, files=files, revision=revision)


def _pin(spec: ModelSpec, file: File) -> File:
    if file.sha256 != UNPINNED and file.size >= 0:
        return file
    import hashlib

    remote = hub.describe(_source(spec), file.name)
    hub.agree(spec, file, remote)
    sha256 = file.sha256 if remote.sha256 == UNPINNED else remote.sha256
    if sha256 == UNPINNED:
        path = hub.download(spec, file.name)
        if not hub.has_hash(path, remote):  # what was in the cache before, unchecked
            path = hub.download(spec, file.name, again=True)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return dataclasses.replace(file, sha256=sha256, size=remote.size)


def _write(path: Path, text: str) -> None:
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


def _table(table: Any, name: str) -> Iterator[str]:
    """Keys first, then the tables below, as TOML wants it; what is absent is left out."""
    values = [(field.name, getattr(table, field.name)) for field in dataclasses.fields(table)]
    for key, value in values:
        if value is not None and not dataclasses.is_dataclass(value):
            yield f"{key} = {_value(value)}"
    for key, value in values:
        if dataclasses.is_dataclass(value):
            yield from ("", f"[{name}.{key}]", *_table(value, f"{name}.{key}"))


def _value(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        fields = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
        pairs = (f"{name} = {_value(part)}" for name, part in fields if part is not None)
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        return "".join(["[\n", *(f"  {_value(part)},\n" for part in value), "]"])
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):  # TOML reads JSON's escapes, of which only DEL is missing
        import json

        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)

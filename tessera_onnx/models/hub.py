"""Listed files from a model hub, in the standard cache of huggingface_hub.

huggingface_hub brings the requests, the token, the locks, the progress bar and the layout of the
cache, and it makes the links of a snapshot. Two things are done here, on its own parts: a download
that a killed process began is resumed (huggingface_hub 2 starts such a file again), and content
is compared with the hub's hash before a file of the cache gets its name (it compares sizes).
"""

from __future__ import annotations

import io
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from tessera_onnx.errors import FileError, IntegrityError, LoadError, ModelNotFound
from tessera_onnx.models.hub_errors import (
    cache_folder,
    endpoint,
    one_sentence,
    patiently,
    shown_endpoint,
    status_of,
)
from tessera_onnx.models.spec import UNPINNED, File, Hub, ModelSpec

logger = logging.getLogger("tessera_onnx")

LIBRARY = "tessera-onnx"  # named in the User-Agent


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids the network."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


def repository_folder(source: Hub) -> Path:
    """The folder in the hub cache that holds all revisions of a repository."""
    return cache_folder() / f"models--{source.repository.replace('/', '--')}"


def snapshot(source: Hub) -> Path:
    """The folder of one revision: its files under their own names, as links into `blobs`."""
    return repository_folder(source) / "snapshots" / source.revision


def shared_store() -> Path:
    """Where newer versions of huggingface_hub keep one copy of what several repositories hold."""
    return cache_folder() / "blobs"


def is_complete(spec: ModelSpec) -> bool:
    """Whether the hub cache holds all that one precision needs; their content is not looked at."""
    folder = snapshot(_source(spec))
    # os.path says False where a folder may not be looked at, pathlib raises.
    return os.path.isdir(folder) and any(  # noqa: PTH112
        all(os.path.isfile(folder / name) for name in spec.files_for(precision))  # noqa: PTH113
        for precision in spec.precisions() or (None,)
    )


@dataclass(frozen=True, slots=True)
class Remote:
    """What the hub says of a file, in one request for its headers."""

    commit: str
    etag: str  # sha256 of a large file, git's sha1 of a small one
    size: int
    location: str  # an address with the content, perhaps on another host

    @property
    def sha256(self) -> str:
        """The hub's own sha256, "unpinned" where it has none."""
        return self.etag if len(self.etag) == 64 else UNPINNED


def describe(source: Hub, name: str) -> Remote:
    """Ask the hub for a file's commit, hash and size; an unpinned revision means "main".

    Raises ModelNotFound, LoadError (the hub refuses, is busy, silent or no hub) and FileError.
    """
    if is_offline():
        raise ModelNotFound(
            f"the hub has to be asked for {name!r} of {source.repository}, which HF_HUB_OFFLINE "
            "forbids: unset it, or use a model that is on this machine"
        )
    revision = "main" if source.revision == UNPINNED else source.revision
    with one_sentence(source, name):
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(source.repository, name, revision=revision, endpoint=endpoint())
        found = patiently(lambda: get_hf_file_metadata(url, library_name=LIBRARY), name)
    commit, etag = found.commit_hash or "", found.etag or ""
    # An etag becomes a file name in the cache: nothing but a hash may pass.
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag) or found.size is None or found.size < 0:
        raise LoadError(
            f"{shown_endpoint()} does not answer as a model hub for {name!r} of "
            f"{source.repository} (no hash or size): check HF_ENDPOINT, proxy and firewall"
        )
    if not re.fullmatch(r"[0-9a-f]{40}", commit) or revision not in {"main", commit}:
        raise LoadError(
            f"{shown_endpoint()} answers with the revision {commit!r:.80} of {source.repository}, "
            f"expected {revision}: check HF_ENDPOINT"
        )
    return Remote(commit, etag, found.size, urljoin(url, found.location))


def download(spec: ModelSpec, name: str, *, again: bool = False) -> Path:
    """Bring one listed file of a model with a known revision into the hub cache; its path there.

    Resumes what an earlier call left. `again=True` replaces a file that is there already. Raises
    IntegrityError for content that is not what the hub or the entry says, and what `describe`
    raises; whatever it raises, the next call may succeed and no half file is ever in place.
    """
    source, listed = _source(spec), spec.file(name)
    path = snapshot(source) / name
    remote = describe(source, name)
    agree(spec, listed, remote)
    with one_sentence(source, name):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import WeakFileLock

        folder = repository_folder(source)
        blob = folder / "blobs" / remote.etag
        lock = cache_folder() / ".locks" / folder.name / f"{remote.etag}.lock"  # huggingface_hub's
        lock.parent.mkdir(parents=True, exist_ok=True)
        blob.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if again or not blob.is_file():
                _fill(blob, remote, source, name)
                if again and path.resolve() != blob.resolve():
                    path.unlink(missing_ok=True)  # a copy on systems without links, or a stray link
        patiently(
            lambda: hf_hub_download(
                source.repository,
                name,
                revision=source.revision,
                cache_dir=cache_folder(),
                endpoint=endpoint(),
                library_name=LIBRARY,
            ),
            name,
        )
    return path


def _source(spec: ModelSpec) -> Hub:
    if spec.hub is None:
        raise LoadError(f"model {spec.id!r} has no [model.hub] table: nothing to download")
    return spec.hub


def agree(spec: ModelSpec, listed: File, remote: Remote) -> None:
    """Raises IntegrityError when an entry and the hub differ already before a download."""
    for what, expected, found in (
        ("sha256", listed.sha256, remote.sha256),
        ("size", listed.size, remote.size),
    ):
        if UNPINNED not in (expected, found) and expected not in (-1, found):
            raise IntegrityError(
                f"model {spec.id!r}: the hub's {listed.name} has {what} {found}, expected "
                f"{expected}: the entry or the hub is wrong; do not use the file"
            )


def _fill(blob: Path, remote: Remote, source: Hub, name: str) -> None:
    """Download into `blob`, which gets its name only when its content has the hub's hash."""
    partial = blob.with_name(f"{blob.name}.incomplete")
    for last in (False, True):
        done = partial.stat().st_size if partial.is_file() else 0
        if done > remote.size:
            partial.unlink()
            done = 0
        _check_room(partial.parent, remote.size - done, name)
        fault = _append(partial, done, remote, source, name)
        if not fault and has_hash(partial, remote):
            partial.replace(blob)
            return
        partial.unlink(missing_ok=True)
        fault = fault or "its content has not the hash that the hub gives for it"
        if not last:
            logger.warning("%s arrived damaged (%s): downloading it again", name, fault)
    raise IntegrityError(
        f"{name!r} of {source.repository} arrived damaged twice ({fault}): try again later, or "
        "through another network or HF_ENDPOINT"
    )


def _append(partial: Path, done: int, remote: Remote, source: Hub, name: str) -> str:
    """Download all from byte `done` on; what was wrong with the transfer, if anything."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = remote.location
    headers = build_hf_headers(library_name=LIBRARY)
    headers["Accept-Encoding"] = "identity"  # ranges count the bytes of the file itself
    asked = urlsplit(endpoint())
    if (asked.scheme, asked.netloc) != (urlsplit(url).scheme, urlsplit(url).netloc):
        headers.pop("authorization", None)  # the token is for the hub, not for its storage

    def get() -> None:
        start = partial.stat().st_size if partial.is_file() else 0
        with _Limited(io.FileIO(partial, "ab"), remote.size) as stream:
            http_get(
                url,
                stream,
                resume_size=start,
                headers=headers,
                expected_size=remote.size,
                displayed_filename=name,
            )

    if done:
        logger.info("%s of %s: resuming at byte %d", name, source.repository, done)
    try:
        patiently(get, name)
    except Exception as error:
        inconsistent = isinstance(error, OSError) and "onsistency" in str(error)
        if status_of(error) == 416 or inconsistent or isinstance(error, _TooMuch):
            return f"not the announced {remote.size} bytes"
        raise
    return ""


class _TooMuch(Exception):
    """More bytes came than were announced."""


class _Limited(io.BufferedWriter):
    """A file that never grows beyond `size` bytes: a body without an end would fill the disk."""

    def __init__(self, raw: io.FileIO, size: int) -> None:
        super().__init__(raw)
        self._size = size

    def write(self, part: Any) -> int:
        if self.tell() + len(part) > self._size:
            raise _TooMuch
        return super().write(part)


def _check_room(folder: Path, needed: int, name: str) -> None:
    import shutil

    free = shutil.disk_usage(folder).free
    if free < needed:
        raise FileError(
            f"{name!r} needs {needed} more bytes in {folder}, where {free} are free: make room, "
            "or set HF_HOME to a larger disk"
        )


def has_hash(path: Path, remote: Remote) -> bool:
    """Whether the content of a file is what the hub says of it."""
    import hashlib

    if remote.sha256 == UNPINNED:  # git names a blob by its header and content
        digest = hashlib.sha1(b"blob %d\0" % remote.size, usedforsecurity=False)
    else:
        digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == remote.etag

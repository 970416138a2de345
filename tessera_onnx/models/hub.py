"""List and download the files of a model with huggingface_hub, into its standard cache.

huggingface_hub makes the requests, sends the token, retries, locks, draws the progress bar and
keeps the cache. This module names the revision, the cache and the endpoint, and turns each failure
into one sentence. `Artifact.read` compares size and sha256 before a file is used.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera_onnx.errors import FileError, LoadError, ModelNotFound, TesseraError
from tessera_onnx.models.rules import is_file_name
from tessera_onnx.models.spec import UNPINNED, Hub, ModelSpec

logger = logging.getLogger("tessera_onnx")

LIBRARY = "tessera-onnx"  # named in the User-Agent
MAX_FILES = 20_000  # of a repository; the hub's own list is complete up to 50,000
# The operating system refused, not the network: disk full, no permission, a limit, a broken disk.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
DISK |= {errno.EIO, errno.ENOTDIR, errno.EEXIST}


class NotOnHub(LoadError):
    """The repository has that revision, but not the file."""


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids the network."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


def cache_folder() -> Path:
    """The cache of huggingface_hub: HF_HUB_CACHE, else `hub` in HF_HOME, else in ~/.cache.

    Read at each call, because huggingface_hub reads the variables only when it is imported.
    """
    given = os.environ.get
    home = given("HF_HOME", os.path.join(given("XDG_CACHE_HOME", "~/.cache"), "huggingface"))  # noqa: PTH118
    folder = given("HF_HUB_CACHE", given("HUGGINGFACE_HUB_CACHE", os.path.join(home, "hub")))  # noqa: PTH118
    return Path(os.path.expandvars(os.path.expanduser(folder)))  # noqa: PTH111


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
    """Whether the hub cache holds all files of a precision; their content is not read."""
    folder = snapshot(_source(spec))
    # os.path says False where a folder may not be looked at, pathlib raises.
    return os.path.isdir(folder) and any(  # noqa: PTH112
        all(os.path.isfile(folder / name) for name in spec.files_for(precision))  # noqa: PTH113
        for precision in spec.precisions() or (None,)
    )


@dataclass(frozen=True, slots=True)
class Remote:
    """What the hub says of a file, from one request for its headers."""

    commit: str
    etag: str  # sha256 of a large file, git's sha1 of a small one
    size: int

    @property
    def sha256(self) -> str:
        """The hub's own sha256, "unpinned" where it has none."""
        return self.etag if len(self.etag) == 64 else UNPINNED


@dataclass(frozen=True, slots=True)
class Listing:
    """All files of a repository at one commit, from one request."""

    repository: str  # as the hub names it today
    commit: str
    files: dict[str, Remote]


def list_files(source: Hub) -> Listing:
    """Ask the hub for the files of a repository.

    The revision is a branch, a tag or a commit; "unpinned" means the default branch. The list is
    that of the commit which it stands for now. Files with a name that could leave the folder are
    left out. Raises what `describe` raises.
    """
    _check_online(source, "")
    revision = None if source.revision == UNPINNED else source.revision
    with _one_sentence(source, ""):
        from huggingface_hub import HfApi, constants

        try:
            found = HfApi(endpoint=_endpoint(), library_name=LIBRARY).model_info(
                source.repository,
                revision=revision,
                files_metadata=True,
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            )
            commit, siblings = str(found.sha), list(found.siblings or ())
            files = {each.rfilename: _remote(commit, each) for each in siblings[: MAX_FILES + 1]}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if getattr(error, "response", None) is not None:  # a status that is an error
                raise
            raise _no_hub(source, "") from None
    repository = str(found.id)
    if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", repository, re.ASCII):
        raise _no_hub(source, "")
    _check_commit(commit, source)
    if len(files) > MAX_FILES:
        raise LoadError(f"{repository} has more than {MAX_FILES:,} files: this is no single model")
    safe = {name: remote for name, remote in files.items() if is_file_name(name)}
    return Listing(repository, commit, safe)


def cached_files(source: Hub) -> Listing | None:
    """The files of a revision that are in the hub cache, such as another tool fetched them.

    huggingface_hub notes the commit of a branch in `refs`, and a file in `snapshots` is a link to a
    blob that is named by its hash. None without a snapshot of such links.
    """
    revision = "main" if source.revision == UNPINNED else source.revision
    folder = repository_folder(source)
    try:
        commit = revision
        if not re.fullmatch(r"[0-9a-f]{40}", revision):
            commit = (folder / "refs" / revision).read_text(encoding="ascii").strip()
        files: dict[str, Remote] = {}
        snapshot_folder = folder / "snapshots" / commit
        for path in snapshot_folder.rglob("*") if re.fullmatch(r"[0-9a-f]{40}", commit) else ():
            etag = path.readlink().name if path.is_symlink() else ""
            if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag) and path.is_file():
                name = path.relative_to(snapshot_folder).as_posix()
                files[name] = Remote(commit, etag, path.stat().st_size)
    except (OSError, ValueError):
        return None
    return Listing(source.repository, commit, files) if files else None


def _remote(commit: str, sibling: Any) -> Remote:
    """A file in the answer of the hub. Raises ValueError where it has no hash or size."""
    large = sibling.lfs
    etag, size = (large["sha256"], large["size"]) if large else (sibling.blob_id, sibling.size)
    if not re.fullmatch(r"[0-9a-f]{64}" if large else r"[0-9a-f]{40}", etag) or size < 0:
        raise ValueError
    return Remote(commit, etag, int(size))


def describe(source: Hub, name: str) -> Remote:
    """Ask the hub for the commit, hash and size of a file; an unpinned revision means "main".

    Raises ModelNotFound, LoadError (the hub refuses, is busy, does not answer or is no hub) and
    FileError.
    """
    _check_online(source, name)
    revision = "main" if source.revision == UNPINNED else source.revision
    with _one_sentence(source, name):
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(source.repository, name, revision=revision, endpoint=_endpoint())
        found = get_hf_file_metadata(url, library_name=LIBRARY)
    commit, etag = found.commit_hash or "", found.etag or ""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag) or found.size is None or found.size < 0:
        raise _no_hub(source, name)
    _check_commit(commit, source)
    return Remote(commit, etag, found.size)


def _check_commit(commit: str, source: Hub) -> None:
    """Raises LoadError for what is no commit, or another one than that asked for."""
    asked = source.revision if re.fullmatch(r"[0-9a-f]{40}", source.revision) else commit
    if not re.fullmatch(r"[0-9a-f]{40}", commit) or commit != asked:
        wanted = "main" if source.revision == UNPINNED else source.revision
        raise LoadError(
            f"{_shown_endpoint()} answers with the revision {commit!r:.80} of {source.repository}, "
            f"expected {wanted}: check HF_ENDPOINT"
        )


def download(spec: ModelSpec, name: str, *, again: bool = False) -> Path:
    """Download one file of a model with a known revision into the hub cache; its path there.

    The content is not compared with the entry here. `again=True` replaces a file that is there
    already. Raises what `describe` raises; the next call may succeed.
    """
    return fetch(_source(spec), name, again=again)


def fetch(source: Hub, name: str, *, again: bool = False) -> Path:
    """As `download`, for a file of a repository at a commit."""
    path = snapshot(source) / name
    _check_online(source, name)
    # hf-xet reports each download to the store that it comes from, unless this is set.
    os.environ.setdefault("HF_XET_TELEMETRY_ENABLED", "0")
    with _one_sentence(source, name):
        from huggingface_hub import hf_hub_download

        if again and path.resolve().parent != (repository_folder(source) / "blobs").resolve():
            # huggingface_hub replaces the blob, but neither a copy of it (on systems without
            # links) nor a link to another place.
            path.unlink(missing_ok=True)
        hf_hub_download(
            source.repository,
            name,
            revision=source.revision,
            cache_dir=cache_folder(),
            endpoint=_endpoint(),
            library_name=LIBRARY,
            force_download=again,
        )
    return path


def _source(spec: ModelSpec) -> Hub:
    if spec.hub is None:
        raise LoadError(f"model {spec.id!r} has no [model.hub] table: nothing to download")
    return spec.hub


def _check_online(source: Hub, name: str) -> None:
    if is_offline():
        raise ModelNotFound(
            f"the hub has to be asked for {_named(source, name)}, which HF_HUB_OFFLINE forbids: "
            "unset it, or use a model that is on this machine"
        )


def _named(source: Hub, name: str) -> str:
    """A file of a repository as messages name it; without a name the list of its files."""
    return f"{name!r} of {source.repository}" if name else f"the files of {source.repository}"


def _endpoint() -> str:
    """Address of the hub: HF_ENDPOINT, else huggingface.co."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def _shown_endpoint() -> str:
    """The address for messages, without the name and password that some mirrors want in it."""
    return re.sub(r"//[^/]*@", "//", _endpoint())


@contextlib.contextmanager
def _one_sentence(source: Hub, name: str) -> Iterator[None]:
    """Errors of the network, the hub and the disk as one sentence each, without their traceback."""
    try:
        yield
    except TesseraError:
        raise
    except Exception as error:
        logger.debug("%s of %s: %s", name, source.repository, type(error).__name__)
        raise _explained(error, source, name) from None


def _explained(error: Exception, source: Hub, name: str) -> TesseraError:
    """By status, class name and errno: the classes differ between versions of huggingface_hub."""
    file = _named(source, name)
    number = getattr(error, "errno", None)
    if isinstance(error, RuntimeError):  # hf-xet has only the text that Rust gives an errno
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = int(found[1]) if found else None
    if number in DISK:
        return FileError(
            f"{file} cannot be written to the hub cache {cache_folder()}: {os.strerror(number)}; "
            "make room or set HF_HOME to a folder with more, then try again"
        )
    chain = (error, error.__cause__, error.__context__)
    for cause in chain:
        response = getattr(cause, "response", None)
        if response is not None:
            return _refused(response, source, name)
    kinds = {cls.__name__ for cause in chain for cls in type(cause).__mro__}
    if "FileMetadataError" in kinds:
        return _no_hub(source, name)
    if any("Timeout" in kind for kind in kinds):
        return LoadError(
            f"the hub did not answer in time for {file}: try again, or set "
            "HF_HUB_DOWNLOAD_TIMEOUT to more seconds"
        )
    return LoadError(
        f"{file} cannot be fetched from {_shown_endpoint()} ({type(error).__name__}): check the "
        "network, proxy and HF_ENDPOINT and try again; with a complete copy no network is needed"
    )


def _no_hub(source: Hub, name: str) -> LoadError:
    return LoadError(
        f"{_shown_endpoint()} does not answer as a model hub for {_named(source, name)} "
        "(no commit, hash or size): check HF_ENDPOINT, proxy and firewall"
    )


def _refused(response: Any, source: Hub, name: str) -> TesseraError:
    status, code = response.status_code, response.headers.get("x-error-code", "")
    file = _named(source, name)
    page = f"{_shown_endpoint()}/{source.repository}"
    if (
        code == "RepoNotFound"
        or (status == 401 and code != "GatedRepo")
        or (status == 404 and not name and code != "RevisionNotFound")
    ):
        return ModelNotFound(
            f"the hub has no repository {source.repository} for you ({status}): check the name; "
            "a private one needs a token with access in HF_TOKEN"
        )
    if status in {401, 403}:
        return LoadError(
            f"{source.repository} is gated ({status}): accept its licence at {page} and set "
            "HF_TOKEN to a token of that account"
        )
    if code == "RevisionNotFound":
        return ModelNotFound(f"{source.repository} has no revision {source.revision} on the hub")
    if status == 404:
        return NotOnHub(
            f"the hub has no file {file} at revision {source.revision}: the entry is wrong"
        )
    if status == 429:
        advice = (
            "too many requests): try again later; a token in HF_TOKEN or a mirror in HF_ENDPOINT "
            "allows more"
        )
    elif status >= 500:
        advice = "the hub is busy or broken): try again later"
    else:
        advice = f"unexpected): look at {page}"
    return LoadError(f"the hub refuses {file} (status {status}, {advice}")

"""What a hub, its network and the disk refuse: waited for, then told in one sentence.

The classes of huggingface_hub's errors, and the library below it, differ between its versions: what
tells them apart here is the status, the name and the errno, which do not.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tessera_onnx.errors import FileError, LoadError, ModelNotFound, TesseraError
from tessera_onnx.models.spec import Hub

T = TypeVar("T")
logger = logging.getLogger("tessera_onnx")

PATIENCE = 60.0  # seconds of busy answers before giving up; a longer wait is asked of the user
BUSY = {429, 500, 502, 503, 504}
# Where the system, not the network, refused: no room, no right, a limit, a broken disk.
DISK = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENOTDIR,
    errno.EEXIST,
}


class NotOnHub(LoadError):
    """The repository is there at that revision, the file is not."""


def cache_folder() -> Path:
    """The hub cache that all tools share: HF_HUB_CACHE, else `hub` in HF_HOME, else ~/.cache.

    Read at each call, as huggingface_hub reads it once, when it is imported.
    """
    given = os.environ.get
    home = given("HF_HOME", os.path.join(given("XDG_CACHE_HOME", "~/.cache"), "huggingface"))  # noqa: PTH118
    folder = given("HF_HUB_CACHE", given("HUGGINGFACE_HUB_CACHE", os.path.join(home, "hub")))  # noqa: PTH118
    return Path(os.path.expandvars(os.path.expanduser(folder)))  # noqa: PTH111


def endpoint() -> str:
    """Address of the hub: HF_ENDPOINT, else huggingface.co."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def shown_endpoint() -> str:
    """The address for messages, without the name and password that some mirrors want in it."""
    return re.sub(r"//[^/]*@", "//", endpoint())


def patiently(call: Callable[[], T], name: str) -> T:
    """`call`, tried again while the hub is busy: the wait that it asks for, else 1, 2, 4, ... s."""
    started, wait = time.monotonic(), 1.0
    while True:
        try:
            return call()
        except Exception as error:
            status = status_of(error)
            wait = _asked_wait(error) or wait
            if status not in BUSY or time.monotonic() - started + wait > PATIENCE:
                raise
            logger.warning("%s: the hub answers %d, next try in %.0f s", name, status, wait)
        time.sleep(wait)
        wait = min(2 * wait, 16.0)


def _response(error: BaseException) -> Any:
    """The answer behind an error of huggingface_hub, which may wrap it."""
    for cause in (error, error.__cause__):
        response = getattr(cause, "response", None)
        if response is not None:
            return response
    return None


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error, None for one that is no answer."""
    return getattr(_response(error), "status_code", None)


def _asked_wait(error: BaseException) -> float:
    """Seconds that a busy hub asks for, in `Retry-After` or its own `ratelimit` header."""
    headers = getattr(_response(error), "headers", {})
    found = re.fullmatch(r"\s*(\d+)\s*", headers.get("retry-after", "")) or re.search(
        r"\bt=(\d+)", headers.get("ratelimit", "")
    )
    return float(found[1]) if found else 0.0


@contextlib.contextmanager
def one_sentence(source: Hub, name: str) -> Iterator[None]:
    """Errors of the network, the hub and the disk as one sentence each, without its traceback."""
    try:
        yield
    except TesseraError:
        raise
    except Exception as error:
        logger.debug("%s of %s: %s", name, source.repository, type(error).__name__)
        raise _explained(error, source, name) from None


def _explained(error: Exception, source: Hub, name: str) -> TesseraError:
    file, status = f"{name!r} of {source.repository}", status_of(error)
    if isinstance(error, OSError) and error.errno in DISK:
        return FileError(
            f"{file} cannot be written to the hub cache {cache_folder()}: {error.strerror}; make "
            "room or set HF_HOME to a folder with more, then try again"
        )
    if status is not None:
        return _refused(error, status, source, name)
    chain = (error, error.__cause__, error.__context__)
    kinds = {cls.__name__ for one in chain for cls in type(one).__mro__}
    if any("Timeout" in kind for kind in kinds):
        return LoadError(
            f"the hub went silent during {file}: try again, which resumes, or raise "
            "HF_HUB_DOWNLOAD_TIMEOUT (seconds)"
        )
    if kinds & {"TooManyRedirects", "RecursionError"}:  # older versions follow one by recursion
        return LoadError(f"the hub sends {file} in a circle of redirects: check HF_ENDPOINT")
    return LoadError(
        f"{file} cannot be fetched from {shown_endpoint()} ({type(error).__name__}): check the "
        "network, proxy and HF_ENDPOINT and try again, which resumes; with a complete copy no "
        "network is needed"
    )


def _refused(error: Exception, status: int, source: Hub, name: str) -> TesseraError:
    file = f"{name!r} of {source.repository}"
    page = f"{shown_endpoint()}/{source.repository}"
    code = _response(error).headers.get("x-error-code", "")
    if code == "RepoNotFound" or (status == 401 and code != "GatedRepo"):
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
        asked = _asked_wait(error)
        wait = f"it asks to wait {asked:.0f} s" if asked else f"refused for {PATIENCE:.0f} s"
        advice = (
            f"too many requests; {wait}): try again later, which resumes; a token in HF_TOKEN or "
            "a mirror in HF_ENDPOINT allows more"
        )
    elif status in BUSY:
        advice = f"it did not work for {PATIENCE:.0f} s): try again later, which resumes"
    else:
        advice = f"unexpected): look at {page}"
    return LoadError(f"the hub refuses {file} (status {status}, {advice}")

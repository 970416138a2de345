"""Records of the repositories that were opened, so that the next time no request is made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tessera_onnx.errors import LoadError
from tessera_onnx.models import catalogue, hub, pins
from tessera_onnx.models.artifact import HUB, Artifact
from tessera_onnx.models.foreign.graphs import Processor
from tessera_onnx.models.hub import Listing, Remote
from tessera_onnx.models.spec import Hub

# As huggingface_hub checks a name, which moreover holds neither ".." nor "--".
PART = r"[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?"
NAME = re.compile(rf"({PART}/{PART})(?:@(\w[\w./+-]{{0,99}}))?", re.ASCII)
LISTING = "listing.json"
MAX_LISTING = 16 << 20  # bytes


def write(base: Path, folder: Path, found: Artifact, processor: Processor | None) -> None:
    """Record a repository: its description in `folder`, its list of files in `base`."""
    files = found.listing
    if files is None:
        return
    table = {name: [remote.size, remote.etag] for name, remote in files.files.items()}
    listed = {"repository": files.repository, "commit": files.commit, "files": table}
    # The listing comes last: a description of another commit than the listing's is passed over.
    noted = {"version": _version(), "processor": processor, "sources": dict(found.sources)}
    pins.write(folder / "model.toml", pins.toml(found.spec))
    pins.write(folder / "sources.json", json.dumps(noted))
    pins.write(base / LISTING, json.dumps(listed))


def read(
    folder: Path, files: Listing, processor: Processor | None, *, offline: bool
) -> Artifact | None:
    """The artifact that `folder` describes; None without a valid record of these `files`."""
    try:
        (spec,) = catalogue.read_catalogue(folder / "model.toml")
        noted = _read_json(folder / "sources.json")
        sources = {str(fact): str(source) for fact, source in noted["sources"].items()}
    except (LoadError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    source = Hub(files.repository, files.commit)
    if spec.hub != source or noted.get("version") != _version():
        return None
    if processor is not None and noted.get("processor") != processor:
        return None
    return Artifact(spec, hub.snapshot(source), HUB, offline, sources, files)


def read_listing(path: Path) -> Listing | None:
    """The recorded list of files; None without one that is valid."""
    try:
        noted = _read_json(path)
        repository, commit = str(noted["repository"]), str(noted["commit"])
        table = {
            str(name): Remote(commit, str(etag), int(size))
            for name, (size, etag) in noted["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    is_valid = NAME.fullmatch(repository) and re.fullmatch(r"[0-9a-f]{40}", commit)
    return Listing(repository, commit, table) if is_valid else None


def _read_json(path: Path) -> Any:
    with path.open("rb") as stream:
        text = stream.read(MAX_LISTING + 1)
    if len(text) > MAX_LISTING:
        raise ValueError
    return json.loads(text)


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("tessera-onnx")
    except metadata.PackageNotFoundError:  # a source tree that is not installed
        return ""

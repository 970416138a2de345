"""The ways to a model: its folder, a repository of the hub, an entry of a catalogue, a pack."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hub_server
import pytest

from tessera_export import pack
from tessera_onnx import TesseraDense, TesseraMultiVector, TesseraSparse
from tessera_onnx.models import adopt, catalogue, pins, resolve
from tessera_onnx.models.spec import Hub

CLASSES = {
    "dense": TesseraDense, "sparse": TesseraSparse, "multi-vector": TesseraMultiVector,
}  # fmt: skip
ID = "adopted"
SERVED = (".bin", ".safetensors")  # weights of torch: a repository has them, nobody asks for them


@dataclass
class World:
    """An empty machine with a hub on loopback, which serves what `serve` gets."""

    place: Path
    hub: hub_server.Hub
    monkeypatch: pytest.MonkeyPatch

    def serve(self, repository: str, folder: Path, **changed: bytes | None) -> None:
        """The folder as a repository; `changed` replaces files, None leaves one out."""
        files: dict[str, Any] = hub_server.folder(folder) | changed
        self.hub.repositories[repository] = {n: c for n, c in files.items() if c is not None}

    def forget(self) -> None:
        """As another machine: empty caches, no catalogue of the user's."""
        number = sum(1 for _ in self.place.glob("machine-*"))
        home = self.place / f"machine-{number}"
        home.mkdir(parents=True)
        self.monkeypatch.setenv("HF_HOME", str(home / "hf"))
        self.monkeypatch.setenv("TESSERA_CACHE", str(home / "cache"))
        self.monkeypatch.delenv("TESSERA_MODELS", raising=False)
        self.home = home

    def list(self, text: str) -> None:
        """The user's own catalogue."""
        (self.home / "models.toml").write_text(text, "utf-8")
        self.monkeypatch.setenv("TESSERA_MODELS", str(self.home / "models.toml"))

    @property
    def asked(self) -> int:
        """Requests for files and listings that were made so far."""
        return len(self.hub.requests)


@contextmanager
def world(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    hub = hub_server.Hub({})
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    found = World(place, hub, monkeypatch)
    found.forget()
    try:
        yield found
    finally:
        hub.close()


def artifact(kind: str, folder: Path, place: Path, **options: Any) -> Path:
    """What `tessera adopt` writes of a foreign folder."""
    found = resolve.resolve(
        None, kind=kind, path=folder, cache_dir=None, offline=True,
        file=options.get("file"), pooling=options.get("pooling"),
    )  # fmt: skip
    adopt.adopt(found, place, model_id=ID, licence="apache-2.0")
    return place


def by_path(world: World, kind: str, folder: Path, repository: str, **options: Any) -> Any:
    return CLASSES[kind](path=folder, on_long="truncate", **options)


def by_hub(world: World, kind: str, folder: Path, repository: str, **options: Any) -> Any:
    """The repository, opened a second time without a request.

    With a revision, because a catalogue may have an entry for the name alone.
    """
    world.serve(repository, folder)
    world.forget()
    name = f"{repository}@main"
    CLASSES[kind](name, on_long="truncate", **options).close()
    before = world.asked
    model = CLASSES[kind](name, on_long="truncate", offline=True, **options)
    assert world.asked == before
    bodies = world.hub.seen("storage", "GET")
    assert not [request for request in bodies if unwanted(request.path, model)]
    return model


def unwanted(path: str, model: Any) -> bool:
    """Weights of torch that the recipe does not read."""
    name = path.rpartition("//")[2]
    return name.endswith(SERVED) and name not in {file.name for file in model.spec.files}


def by_catalogue(world: World, kind: str, folder: Path, repository: str, **options: Any) -> Any:
    """An entry with the hash of every file, as models.toml has them."""
    world.serve(repository, folder)
    world.forget()
    place = artifact(kind, folder, world.home / "artifact", **options)
    (spec,) = catalogue.read_catalogue(place / "model.toml")
    entry = dataclasses.replace(spec, hub=Hub(repository, hub_server.COMMIT), export=None)
    world.list(pins.toml(entry))
    return CLASSES[kind](ID, on_long="truncate")


def by_pack(world: World, kind: str, folder: Path, repository: str, **options: Any) -> Any:
    """A wheel of the adopted folder, unpacked where Python finds it."""
    world.forget()
    place = artifact(kind, folder, world.home / "artifact", **options)
    wheel = pack.build([place], "adopted-models", "1.0", world.home)
    with zipfile.ZipFile(wheel) as files:
        files.extractall(world.home / "site")
    world.monkeypatch.setattr(sys, "path", [str(world.home / "site"), *sys.path])
    shutil.rmtree(place)
    return CLASSES[kind](ID, on_long="truncate", offline=True)


WAYS: dict[str, Callable[..., Any]] = {
    "path": by_path, "hub": by_hub, "catalogue": by_catalogue, "pack": by_pack,
}  # fmt: skip


def record(record_property: Any, **row: str) -> None:
    """A row of docs/layouts.md, in the report of the run."""
    record_property("layout", json.dumps(row, sort_keys=True))

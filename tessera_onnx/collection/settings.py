"""What a collection was made with: its models, and how texts are cut; kept as collection.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tessera_onnx import __version__
from tessera_onnx.errors import ConfigError, FileError
from tessera_onnx.files import reason, replacing
from tessera_onnx.models.spec import Kind

NAME = "collection.json"
FORMAT = 1
CHUNK_TOKENS = 256  # of a chunk where nobody says otherwise, and the model reads as many
OVERLAP = 32
DATABASES = ("qdrant", "pgvector")  # that a collection may be kept in
NO_SPARSE = "none"  # the name of no model
KINDS = {"dense", "sparse", "multi-vector"}
OPTIONS = {"language"}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model of a collection.

    name: what opens it: an id, or the absolute path of a folder.
    sha256: of its recipe and files.
    options: of its class that change vectors, such as language.
    """

    name: str
    model: str
    sha256: str
    precision: str | None
    options: Mapping[str, Any]

    def is_readable(self) -> bool:
        """Whether all is of its type, as a file may hold anything."""
        is_text = all(isinstance(each, str) for each in (self.name, self.model, self.sha256))
        return is_text and isinstance(self.options, dict) and self.options.keys() <= OPTIONS


@dataclass(frozen=True, slots=True)
class Settings:
    """Models by kind ("dense" always), and how texts are cut into chunks."""

    models: Mapping[Kind, ModelFacts]
    chunk_tokens: int
    overlap: int

    def language(self) -> str | None:
        """The language of the lexical model; None where nobody chose one."""
        facts = self.models.get("sparse")
        return None if facts is None else facts.options.get("language")

    def to_json(self) -> str:
        """The settings as `settings_of` reads them."""
        return json.dumps({"format": FORMAT, "version": __version__, **asdict(self)}, indent=1)

    def write(self, folder: Path) -> None:
        """Write collection.json. Raises FileError."""
        with replacing(folder / NAME) as stream:
            stream.write(self.to_json().encode())


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the caller asks of a collection; None asks for nothing."""

    models: Mapping[Kind, str | None]
    chunk_tokens: int | None = None
    overlap: int | None = None
    language: str | None = None
    threads: int | None = None

    def check(self, known: Settings) -> None:
        """Raises ConfigError where something asked for is not as the collection has it."""
        has: dict[str, Any] = {kind: facts.name for kind, facts in known.models.items()}
        has |= {"chunk_tokens": known.chunk_tokens, "overlap": known.overlap}
        has["language"] = known.language()
        ids: dict[str, str] = {kind: facts.model for kind, facts in known.models.items()}
        ids.setdefault("sparse", NO_SPARSE)
        asked: dict[str, Any] = {kind: place_of(name) for kind, name in self.models.items()}
        asked |= {"chunk_tokens": self.chunk_tokens, "overlap": self.overlap}
        asked["language"] = self.language
        for name, value in asked.items():
            if value is not None and value not in {has.get(name), ids.get(name)}:
                there = has.get(name) or NO_SPARSE
                noun = f"the {name} model" if name in self.models else name
                raise ConfigError(
                    f"this collection was made with {noun} {there!r}, not {value!r}: leave that "
                    "out, or make a new collection"
                )


def read_settings(folder: Path) -> Settings | None:
    """The settings of a folder; None where it holds no collection. Raises FileError."""
    place = folder / NAME
    try:
        content = place.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileError(f"{place} cannot be read: {reason(error)}", path=str(place)) from None
    return settings_of(content, str(place))


def settings_of(content: bytes | str, place: str) -> Settings:
    """The settings that `Settings.to_json` made. Raises FileError."""
    try:
        found = json.loads(content)
        if found["format"] != FORMAT:
            raise FileError(
                f"{place} is of another version of tessera-onnx ({found['version']}): make a new "
                "collection",
                path=place,
            )
        models = {kind: ModelFacts(**facts) for kind, facts in found["models"].items()}
        sizes = found["chunk_tokens"], found["overlap"]
        is_whole = {"dense"} <= models.keys() <= KINDS and all(type(size) is int for size in sizes)
        if is_whole and all(facts.is_readable() for facts in models.values()):
            return Settings(models, *sizes)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise FileError(f"{place} is damaged: make a new collection", path=place)


def stamp(folder: Path) -> tuple[int, ...] | None:
    """What tells a collection from one that was made later in the same folder; None without one."""
    try:
        facts = (folder / NAME).stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns, facts.st_size


def place_of(name: str | None) -> str | None:
    """The name of a model; of a folder its absolute path, as it will be opened from elsewhere."""
    if not isinstance(name, str | os.PathLike | None):
        raise TypeError(f"a model must be an id or a folder, got {type(name).__name__}")
    if name is None or not os.path.exists(name):  # noqa: PTH110 (a Path raises for what is no name)
        return name
    return os.path.abspath(name)  # noqa: PTH100

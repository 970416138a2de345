"""Hold a foreign folder while it is being read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera_onnx.errors import LoadError
from tessera_onnx.models.foreign import layers, roles
from tessera_onnx.models.foreign.opened import Files
from tessera_onnx.models.foreign.tokenizer_file import TokenizerFile
from tessera_onnx.models.spec import Role


class NotHere(LoadError):
    """A listed file that tells a fact is not downloaded yet.

    Attributes:
        name: the file's name.
    """

    def __init__(self, message: str = "", *, name: str = "", path: str | None = None) -> None:
        super().__init__(message, path=path)
        self.name = name


@dataclass(frozen=True, slots=True)
class Folder:
    """A foreign folder that is being read. `sources` collects where each fact comes from."""

    path: Path
    files: Files
    tokenizer: TokenizerFile
    modules: list[dict[str, Any]]
    settings: Mapping[str, Any]
    sources: dict[str, str]

    @property
    def hidden(self) -> int | None:
        """The size of the encoder's states that config.json says."""
        return layers.said_hidden_size(self.files.config)

    def roles(self, table: str) -> tuple[Role, Role, Role | None]:
        """Query, document and plain texts; the sources are noted under the recipe's `table`."""
        found: dict[str, str] = {}
        read = roles.read(self.path, self.tokenizer, sources=found)
        self.sources.update({f"{table}.{name}": source for name, source in found.items()})
        return read

    def not_here(self, fact: str, name: str) -> NotHere:
        """The error for a fact that a listed file will tell."""
        path = self.path / name
        message = f"{path} tells {fact} and is not downloaded yet"
        return NotHere(message, name=name, path=str(path))

    def error(self, message: str, name: str = "") -> LoadError:
        """An error about the file `name` of the folder."""
        return LoadError(f"{self.path / name} {message}", path=str(self.path / name))

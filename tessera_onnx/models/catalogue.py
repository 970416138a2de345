"""Read the catalogue of known models (models.toml) and the description of one (model.toml)."""

from __future__ import annotations

import functools
import logging
import os
import re
import stat
import tomllib
from pathlib import Path

from tessera_onnx.errors import LoadError
from tessera_onnx.models.parse import build
from tessera_onnx.models.rules import check_model, required_tables
from tessera_onnx.models.spec import ModelSpec

logger = logging.getLogger("tessera_onnx")

SCHEMA = 1
# Bounds on memory and time for a hostile description; all are far above what a real model needs.
MAX_TOML_BYTES = 4 << 20
# A dotted key of more than 33 parts: the time to parse one grows with the square of its parts.
DEEP = re.compile(r"(?<![\w\"'-])(?:[\w\"'-]+[ \t]*\.[ \t]*){33}")


def parse(text: str, where: str) -> tuple[ModelSpec, ...]:
    """Parse all entries of a TOML document; `where` names the document in errors.

    Raises LoadError, with the dotted name of the field, where the document departs from the schema.
    """
    if DEEP.search(text):
        raise LoadError(f"{where} has a key of more than 32 parts: not a model description")
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of brackets
        raise LoadError(f"{where} is not valid TOML: {error}") from error
    schema = document.pop("schema", None)
    if type(schema) is not int or schema != SCHEMA:
        raise LoadError(
            f"{where} has schema {schema!r:.40}, this version of tessera-onnx reads schema "
            f"{SCHEMA}: export the model again, or install a matching version"
        )
    entries = document.pop("model", None)
    if not isinstance(entries, list) or document:
        raise LoadError(f"{where} must hold `schema` and [[model]] tables and nothing else")
    specs = []
    taken: set[str] = set()
    for number, entry in enumerate(entries):
        spec = parse_entry(entry, f"{where}: model[{number}]")
        check_model(spec, f"{where}: model {spec.id!r}")
        names = {spec.id, *spec.aliases}
        if names & taken:
            raise LoadError(f"{where}: {min(names & taken)!r} names two models")
        taken |= names
        specs.append(spec)
    return tuple(specs)


def parse_entry(entry: object, where: str) -> ModelSpec:
    """Convert one [[model]] table to a ModelSpec. Raises LoadError that names all faulty fields."""
    spec: ModelSpec = build(ModelSpec, entry, where, required_tables(entry))
    return spec


def read_catalogue(path: Path) -> tuple[ModelSpec, ...]:
    """Parse a models.toml or model.toml file. Raises LoadError."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe or a device might never end
            raise LoadError(f"{path} is no regular file: not a model description")
        if found.st_size > MAX_TOML_BYTES:
            raise LoadError(
                f"{path} is larger than {MAX_TOML_BYTES} bytes: not a model description"
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
    return parse(text, str(path))


def catalogue() -> tuple[ModelSpec, ...]:
    """All known models: first those of the file that TESSERA_MODELS names, then the shipped ones.

    A user's entry replaces the shipped entry of the same id, and a warning says so once. Raises
    LoadError when the user's file is missing or not valid.
    """
    own = os.environ.get("TESSERA_MODELS")
    if not own:
        return _shipped()
    try:
        path = Path(own).absolute()
        found = path.stat()
    except OSError as error:
        raise LoadError(f"TESSERA_MODELS names {own}, which cannot be read: {error}") from error
    return _with_users(path, (found.st_ino, found.st_size, found.st_mtime_ns))


@functools.lru_cache(maxsize=8)
def _with_users(path: Path, version: tuple[int, ...]) -> tuple[ModelSpec, ...]:  # noqa: ARG001 (a changed file is read again)
    specs = read_catalogue(path)
    ids = {spec.id for spec in specs}
    replaced = sorted(ids & {spec.id for spec in _shipped()})
    if replaced:
        logger.warning("%s replaces the shipped entry of %s", path, ", ".join(replaced))
    return specs + tuple(spec for spec in _shipped() if spec.id not in ids)


@functools.cache
def _shipped() -> tuple[ModelSpec, ...]:
    """Entries of the shipped models.toml."""
    return read_catalogue(shipped_path())


def shipped_path() -> Path:
    """The shipped models.toml, in the wheel or, in a source tree, one folder up."""
    here = Path(__file__).parents[1]
    shipped = here / "models.toml"
    return shipped if shipped.exists() else here.parent / "models.toml"


# Words of licences that set a limit to commercial use, and what they say about it.
LIMITS = {
    r"nc|non-?commercial": "forbids commercial use",
    r"nxai": "limits commercial use",  # companies with more than 100 million euros a year
}


def commercial_limit(licence: str) -> str:
    """What the identifier of a licence, such as "cc-by-nc-4.0", says of commercial use.

    It is "forbids commercial use", "limits commercial use", or "" for nothing.
    """
    for words, limit in LIMITS.items():
        if re.search(rf"(^|[-_ ])({words})($|[-_ .])", licence.lower()):
            return limit
    return ""

"""Write an artifact folder whole or not at all: graphs, tokenizer and model.toml."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tomli_w

from tessera_export import __version__
from tessera_export.errors import ExportError
from tessera_export.files import sha256
from tessera_onnx import LoadError
from tessera_onnx.models import catalogue
from tessera_onnx.models.spec import (
    KIND_TABLES,
    PRECISIONS,
    UNPINNED,
    Export,
    File,
    Graph,
    ModelSpec,
    Parity,
    Precision,
)

Backend = Literal["torch", "optimum"]
# int8 is a CPU's default only where no text of any sort is farther from torch than this.
NEAR = 0.98
# What is built unless the caller says otherwise.
USUAL: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True, slots=True)
class Origin:
    """What nobody can read off the weights: the model's name and where it comes from."""

    id: str
    source: str = ""  # repository of the original weights
    revision: str = UNPINNED
    licence: str = ""
    aliases: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()  # dotted names of facts that are not certain

    def __post_init__(self) -> None:
        """Raises ExportError for an id that no catalogue could hold."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", self.id):
            raise ExportError(
                f"the id {self.id!r:.100} is not lower-case letters, digits, '.', '_' and '-', "
                "beginning with a letter or digit: give another with --id"
            )


def ordered(precisions: Collection[Precision]) -> list[Precision]:
    """The precisions in the order of building. Raises ExportError for none and unknown ones."""
    unknown = sorted(set(precisions) - set(PRECISIONS))
    if unknown or not precisions:
        raise ExportError(f"precisions are one or more of {', '.join(PRECISIONS)}, got {unknown}")
    return [precision for precision in PRECISIONS if precision in precisions]


def listed(folder: Path, names: Sequence[str]) -> list[File]:
    """The files of that name in `folder`, with their hashes and sizes."""
    return [File(name, sha256(folder / name), (folder / name).stat().st_size) for name in names]


def graph_name(precision: Precision) -> str:
    """File name of the graph of a precision."""
    return f"model.{precision}.onnx"


def tool(backend: Backend = "torch", calibrated: int = 0) -> str:
    """What shapes a graph, for [model.export]: versions, and the number of texts behind int8."""
    names = ["torch", "transformers", "onnx", "onnxruntime"]
    if backend == "optimum":
        names.append("optimum-onnx")
    versions = [f"{name} {importlib.metadata.version(name).split('+')[0]}" for name in names]
    texts = [f"int8 calibrated on {calibrated} texts"] if calibrated else []
    return ", ".join([f"tessera-onnx-export {__version__}", *versions, *texts])


def identifier(name: str) -> str:
    """A valid id from a folder's or a repository's name: "Org/My Model" gives "my-model"."""
    tidy = re.sub(r"[^a-z0-9._-]+", "-", name.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-._")
    if not tidy:
        raise ExportError(f"no id can be made of {name!r}: give --id")
    return tidy


def is_near(figures: Iterable[Parity]) -> bool:
    """Whether no text's int8 vector is too far from torch's for a default."""
    return all(
        row.value >= NEAR
        for row in figures
        if row.precision == "int8"
        and row.metric in ("min_cosine", "min_text_cosine", "rank_correlation")
    )


def entry(
    tables: Mapping[str, Any],
    origin: Origin,
    *,
    weights_sha256: str,
    built: Sequence[Precision],
    parity: Sequence[Parity],
    files: Sequence[File],
    best_cpu: Sequence[Precision],
    backend: Backend = "torch",
    calibrated: int = 0,
) -> ModelSpec:
    """The entry of an artifact: `tables` holds its text table and those of its kinds, by name.

    `best_cpu` is the order in which a precision that was built is a CPU's best; int8 comes after
    fp32 where a figure of it is below NEAR.
    """
    if not is_near(parity):
        best_cpu = sorted(best_cpu, key=("fp32", "fp16", "int8").index)
    graphs = {p: graph_name(p) if p in built else "" for p in PRECISIONS}
    tables = {**dict.fromkeys(("text", *KIND_TABLES.values())), **tables}  # the others are absent
    absent = [field for field in ("source", "licence") if not getattr(origin, field)]
    return ModelSpec(
        id=origin.id,
        aliases=origin.aliases,
        kinds=tuple(kind for kind, table in KIND_TABLES.items() if tables[table] is not None),
        source=origin.source,
        revision=origin.revision,
        licence=origin.licence,
        unverified=(*absent, *origin.unverified),
        files=tuple(files),
        hub=None,
        graph=Graph(
            fp32=graphs["fp32"],
            fp16=graphs["fp16"],
            int8=graphs["int8"],
            int4=graphs["int4"] or None,
            best_cpu=_first(built, best_cpu),
            best_cuda=_first(built, ("fp16", "fp32", "int8")),
            best_coreml=_first(built, ("fp32", "fp16", "int8")),
            static=False,
        ),
        export=Export(tool(backend, calibrated), weights_sha256, tuple(parity)),
        **tables,
    )


def _first(built: Sequence[Precision], order: Sequence[Precision]) -> Precision:
    return next(precision for precision in (*order, "int4") if precision in built)


def document(spec: ModelSpec) -> str:
    """The text of model.toml. Raises ExportError when the runtime's parser refuses it."""
    text = tomli_w.dumps({"schema": catalogue.SCHEMA, "model": [_table(spec)]})
    try:
        catalogue.parse(text, "model.toml")
    except LoadError as error:
        raise ExportError(f"the facts do not make a valid entry: {error}") from error
    return text


def _table(spec: Any) -> Any:
    """A dataclass as TOML data: tables without the absent ones, arrays for tuples."""
    if dataclasses.is_dataclass(spec):
        pairs = ((field.name, getattr(spec, field.name)) for field in dataclasses.fields(spec))
        return {name: _table(value) for name, value in pairs if value is not None}
    if isinstance(spec, tuple):
        return [_table(value) for value in spec]
    return spec


def check_output(output: Path, *, overwrite: bool) -> None:
    """Raises ExportError for a folder that an export may not replace, and for a file."""
    try:
        if output.exists() and not output.is_dir():
            raise ExportError(f"{output} is a file, the output must be a folder")
        filled = output.is_dir() and any(output.iterdir())
    except OSError as error:
        raise ExportError(f"the output cannot be looked at: {error.strerror}") from error
    if filled and not overwrite:
        raise ExportError(f"{output} is not empty: give --overwrite to replace it")
    if filled and not (output / "model.toml").is_file():
        raise ExportError(f"{output} holds something that is not an artifact: name another folder")


@contextlib.contextmanager
def new_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary sibling of `output` that takes its name when the block ends well."""
    check_output(output, overwrite=overwrite)
    output = output.resolve()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise ExportError(f"{output.parent} cannot be written: {error.strerror}") from error
    try:
        temporary.chmod(0o755)  # mkdtemp makes it private
        new = temporary / "new"
        new.mkdir()
        yield new
        if output.is_dir():
            output.replace(temporary / "old")
        try:
            new.replace(output)
        except BaseException:
            if (temporary / "old").exists():
                (temporary / "old").replace(output)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

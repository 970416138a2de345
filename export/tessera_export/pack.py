"""Build a pack: a wheel of artifacts that pip installs and the runtime finds.

The wheel is written with the standard library, because a build backend would add a build
environment and timestamps. It follows the wheel format, version 1.0 (packaging.python.org, "binary
distribution format"). Files are stored uncompressed: weights hardly shrink, and so the bytes depend
on the artifacts alone and not on the machine's zlib.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from tessera_export import __version__
from tessera_export.errors import ExportError
from tessera_onnx import FileError, LoadError
from tessera_onnx.models import artifact, installed
from tessera_onnx.models.artifact import Artifact
from tessera_onnx.models.installed import ENTRY_POINTS
from tessera_onnx.models.spec import ModelSpec

# Where models lie that no pack holds: `origin` of an Artifact is one of these or a pack's name.
PLACES = {"path", "cache", artifact.HUB}
# "starter" is the entry point that brings the runtime's default models.
RESERVED = {"starter", "tessera-onnx", "tessera-onnx-export", "tessera-onnx-starter", *PLACES}
VERSION = r"\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?"
INIT = '"""Model folders for tessera-onnx. Data only: the runtime reads the folders."""\n'
WHEEL = (
    "Wheel-Version: 1.0\n"
    f"Generator: tessera-onnx-export {__version__}\n"
    "Root-Is-Purelib: true\n"
    "Tag: py3-none-any\n"
)


def _is_free(distribution: str) -> bool:
    """Whether pip may install a pack of that name here: nothing has it, or another pack."""
    try:
        found = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return True
    return bool(found.entry_points.select(group=ENTRY_POINTS))


def build(folders: Sequence[Path], name: str, version: str, output: Path) -> Path:
    """Write the wheel of distribution `name` into the folder `output` and return its path.

    Every file is compared with its artifact's model.toml on the way in. The same artifacts, name
    and version give the same bytes. Raises ExportError for a name or version that pip would not
    take, a damaged artifact, an id that comes twice or that another installed pack holds, and a
    file that cannot be written.
    """
    distribution = re.sub(r"[-_.]+", "-", name).lower()
    package = distribution.replace("-", "_")
    if (
        not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", distribution)
        or distribution in RESERVED
        or package in sys.stdlib_module_names
    ):
        raise ExportError(
            f"{name!r} cannot name a pack: take letters, digits and '-', beginning with a letter, "
            f"and neither a module of Python nor one of {', '.join(sorted(RESERVED))}"
        )
    if not _is_free(distribution):
        raise ExportError(f"{name!r} is a package of its own, which the pack would replace")
    if not re.fullmatch(VERSION, version):
        raise ExportError(f"the version {version!r} is not of the form 1.2.3")
    models = _models(folders, distribution)
    path = output / f"{package}-{version}-py3-none-any.whl"
    try:
        output.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{package}.", dir=output))
    except OSError as error:
        raise ExportError(f"{output} cannot be written: {error.strerror}") from error
    try:
        with zipfile.ZipFile(place / path.name, "w") as archive:
            _write(archive, models, distribution, version)
        (place / path.name).replace(path)
    except (LoadError, FileError) as error:  # IntegrityError is a LoadError
        raise ExportError(str(error)) from error
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return path


def _models(folders: Sequence[Path], distribution: str) -> list[Artifact]:
    """The artifacts in order of id: two packs or folders of one id are an error at load time."""
    found: dict[str, Artifact] = {}
    try:
        packs = [model for model in installed.installed() if model.origin not in PLACES]
        for folder in folders:
            model = artifact.open_folder(folder)
            if model.spec.id in found:
                raise ExportError(
                    f"{found[model.spec.id].folder} and {folder} both hold {model.spec.id!r}"
                )
            found[model.spec.id] = model
    except LoadError as error:
        raise ExportError(str(error)) from error
    for other in packs:
        taken = re.sub(r"[-_.]+", "-", other.origin).lower() != distribution
        if other.spec.id in found and taken:
            raise ExportError(
                f"the installed pack {other.origin} holds a model {other.spec.id!r} already, and "
                "nobody could open either beside the other: export yours with another --id"
            )
    return [found[name] for name in sorted(found)]


def _write(
    archive: zipfile.ZipFile, models: Sequence[Artifact], distribution: str, version: str
) -> None:
    package = distribution.replace("-", "_")
    info = f"{package}-{version}.dist-info"
    record: list[str] = []

    def add(name: str, content: bytes) -> None:
        member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
        member.create_system = 3  # Unix, on Windows too: the attributes below are Unix's
        member.external_attr = 0o100644 << 16
        archive.writestr(member, content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(content)}\n")

    add(f"{package}/__init__.py", INIT.encode())
    for model in models:
        place = f"{package}/{model.spec.id}"
        add(f"{place}/model.toml", (model.folder / "model.toml").read_bytes())
        for file in model.spec.files:
            add(f"{place}/{file.name}", model.read(file.name))
    specs = [model.spec for model in models]
    add(f"{info}/METADATA", _metadata(specs, distribution, version).encode())
    add(f"{info}/WHEEL", WHEEL.encode())
    add(f"{info}/entry_points.txt", f"[{ENTRY_POINTS}]\n{distribution} = {package}\n".encode())
    name = f"{info}/RECORD"  # lists itself without a hash, and comes last
    add(name, "".join([*record, f"{name},,\n"]).encode())


def _metadata(specs: Sequence[ModelSpec], distribution: str, version: str) -> str:
    """Core metadata; the licences of the models are theirs, so they stand model by model."""
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {distribution}",
        f"Version: {version}",
        f"Summary: Models for tessera-onnx: {', '.join(spec.id for spec in specs)}",
        "Requires-Python: >=3.11",
        "Description-Content-Type: text/markdown",
        "",
        "| model | kinds | source | revision | licence |",
        "| --- | --- | --- | --- | --- |",
    ]
    for spec in specs:
        cells = (spec.id, ", ".join(spec.kinds), spec.source, spec.revision, spec.licence)
        lines.append(f"| {' | '.join(' '.join(cell.split()) or 'unknown' for cell in cells)} |")
    return "\n".join(lines) + "\n"

"""`tessera adopt`: make an artifact of a folder that somebody else made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from tessera_onnx.cli.options import CACHE, FILE, JSON, POOLING, location
from tessera_onnx.cli.output import print_json, print_lines
from tessera_onnx.kinds import KINDS
from tessera_onnx.models import adopt as models_adopt
from tessera_onnx.models import catalogue, resolve
from tessera_onnx.models.artifact import Artifact
from tessera_onnx.models.spec import ModelSpec, Pooling, Precision


@click.command()
@click.argument("model", metavar="FOLDER")
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder to make.")
@FILE
@POOLING
@click.option("--id", "model_id", help="Id of the model. Default: its name in lower case.")
@click.option("--licence", help="Licence. Default: what README.md declares.")
@click.option("--link", is_flag=True, help="Make hard links in place of copies, where possible.")
@CACHE
@JSON
def adopt(
    model: str,
    *,
    output: str,
    file: str | None,
    pooling: Pooling | None,
    model_id: str | None,
    licence: str | None,
    cache_dir: str | None,
    link: bool,
    as_json: bool,
) -> None:
    """Make an artifact of a folder without model.toml.

    It gets a model.toml with the hash of each file.

    FOLDER is one of sentence-transformers, PyLate, transformers.js or their like that holds an ONNX
    file, or the name of a repository ("owner/name") that was fetched before. Its facts are read
    from its own files, each graph is opened once, and DIR is written whole or not at all.

    \b
    Example: tessera adopt ./all-MiniLM-L6-v2 -o ./artifact
    """
    place = {"path": model} if os.path.isdir(model) else location(model, cache_dir)  # noqa: PTH112 (a Path raises for what cannot be a name)
    artifact = resolve.resolve(
        **{"model_id": None, **place}, offline=True, file=file, pooling=pooling
    )
    made = models_adopt.adopt(
        artifact,
        Path(output),
        model_id=model_id,
        licence=licence,
        link=link,
        settle=_settled,
    )
    if as_json:
        print_json(_report(made))
    else:
        print_lines(_lines(_report(made)))


def _settled(artifact: Artifact) -> ModelSpec:
    """The spec with the outputs and dimensions that its graphs tell, if all tell the same.

    Every graph is opened as every kind. Raises what the classes raise.
    """
    precisions: list[Precision | None] = [*artifact.spec.precisions()]
    found = []
    for kind in artifact.spec.kinds:
        for precision in precisions or [None]:
            with KINDS[kind].open(artifact, device="cpu", precision=precision) as model:
                found.append(model.spec)
    return found[0] if all(spec == found[0] for spec in found) else artifact.spec


def _report(artifact: Artifact) -> dict[str, Any]:
    spec = artifact.spec
    return {
        "model": spec.id,
        "kinds": list(spec.kinds),
        "precisions": spec.precisions(),
        "licence": spec.licence,
        "folder": str(artifact.folder),
        "files": [{"name": f.name, "size": f.size, "sha256": f.sha256} for f in spec.files],
    }


def _lines(report: dict[str, Any]) -> Iterator[str]:
    """What was made and what to do next."""
    total = sum(file["size"] for file in report["files"])
    parts = [", ".join(report[name]) for name in ("kinds", "precisions") if report[name]]
    parts.append(f"{len(report['files'])} files, {total:,} bytes")
    yield f"{report['model']}: {'; '.join(parts)}"
    yield f"  in {report['folder']}"
    limit = catalogue.commercial_limit(report["licence"])
    yield f"  licence {report['licence']}{f', which {limit}' if limit else ''}"
    yield f'Next: tessera info {report["folder"]}, or in Python Tessera(path="{report["folder"]}")'

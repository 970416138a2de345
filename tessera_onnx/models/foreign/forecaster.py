"""Read folders with the ONNX file of a forecaster that its authors publish.

Such a file has no configuration beside it. Its inputs and outputs are read from the graph; what the
graph does not tell, the levels of its quantiles above all, is known by the file's published name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from tessera_onnx.errors import ConfigError, LoadError
from tessera_onnx.models.foreign import card, graph_io
from tessera_onnx.models.foreign.files import is_file
from tessera_onnx.models.foreign.graph_io import GraphIO
from tessera_onnx.models.spec import UNPINNED, File, Graph, Kind, ModelSpec, Precision
from tessera_onnx.models.spec_media import TimeSeries

KIND: Kind = "time-series"
CONTEXT = "context"
# By the name that the authors gave their file.
PUBLISHED: dict[str, TimeSeries] = {
    # NX-AI/TiRex. github.com/NX-AI/tirex: examples/tirex_onnx.ipynb has the lengths of the context
    # and of a pass, and how a longer horizon goes on; util.py and api_adapter/gluon.py the levels.
    "tirex.onnx": TimeSeries(
        output="",
        context_length=2048,
        patch_size=32,
        output_patch_size=32,
        prediction_length=32,
        quantiles=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        arcsinh=False,
        time_scale=-1,
        rollout_quantiles=(),
        rollout_weights="equal",
        reads="context",
        point=None,
    ),
}


def find(sizes: Mapping[str, int]) -> str | None:
    """The name of a published file among the files of a folder; None without one."""
    found = sorted(name for name in sizes if PurePosixPath(name).name in PUBLISHED)
    return found[0] if found else None


def read(
    folder: Path,
    sizes: Mapping[str, int],
    name: str,
    kind: Kind | None,
    *,
    file: str | None,
    pooling: object,
) -> tuple[ModelSpec, dict[str, str]]:
    """The facts of the forecaster whose graph is the file `name`, and where each comes from.

    Raises LoadError for a graph with other inputs and outputs, and for weights that are missing;
    ConfigError for an argument that is about models of texts.
    """
    if pooling is not None or file not in (None, name):
        option = "pooling" if pooling is not None else "file"
        raise ConfigError(f"{folder} holds the forecaster {name}: leave {option} out")
    if kind not in (None, KIND):
        raise LoadError(f"{folder} is a model of kind {KIND}, not {kind}", path=str(folder))
    recipe = PUBLISHED[PurePosixPath(name).name]
    io = graph_io.read(folder / name) if is_file(folder / name) else None
    names = [name]
    precision: Precision = "fp32"
    if io is not None:
        _check(io, recipe, folder / name)
        precision = io.precision
        beside = [(PurePosixPath(name).parent / part).as_posix() for part in io.locations]
        missing = [part for part in beside if part not in sizes]
        if missing:
            raise LoadError(
                f"{folder / name} has weights in {missing[0]}, which is missing: download the "
                "whole folder",
                path=str(folder / missing[0]),
            )
        names += beside
    files = {"fp32": "", "fp16": "", "int8": "", precision: name}
    graph = Graph(
        files["fp32"], files["fp16"], files["int8"], precision, precision, precision, static=False
    )
    spec = ModelSpec(
        id="model",  # the reader's
        aliases=(),
        kinds=(KIND,),
        source="",
        revision=UNPINNED,
        licence=card.licence(folder) or "unknown",
        unverified=(),
        files=tuple(File(each, UNPINNED, sizes.get(each, -1)) for each in names),
        hub=None,
        graph=graph,
        text=None,
        dense=None,
        multi_vector=None,
        sparse=None,
        vision=None,
        time_series=recipe,
        export=None,
    )
    facts = [field.name for field in dataclasses.fields(recipe)]
    published = dict.fromkeys(
        (f"time_series.{fact}" for fact in facts), f"{name}, as its authors publish it"
    )
    return spec, {"graph": name, **published}


def _check(io: GraphIO, recipe: TimeSeries, path: Path) -> None:
    """Raises LoadError unless inputs and outputs are the published."""
    steps, levels = recipe.output_patch_size, len(recipe.quantiles)
    takes = [(port.name, port.type, len(port.dims)) for port in io.inputs]
    gives = [port.dims for port in io.outputs]
    fits = len(gives) == 1 and len(gives[0]) == 3
    sizes = zip(gives[0][1:], (steps, levels), strict=True) if fits else ()
    is_other = any(isinstance(size, int) and size != known for size, known in sizes)
    if takes != [(CONTEXT, "float", 2)] or not fits or is_other:
        raise LoadError(
            f"{path} is not the published graph of that name, which takes {CONTEXT} (batch, "
            f"values) and gives (batch, {steps}, {levels}): a folder with a model.toml says the "
            "facts of another forecaster",
            path=str(path),
        )

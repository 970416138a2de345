"""A module with named inputs becomes an fp32 graph, checked at sizes that were not traced."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from tessera_export import graph, storage
from tessera_export.errors import ExportError

Feeds = Mapping[str, Tensor]
# Names of the dimensions that vary: all but a tile's sides and the vectors' width.
AXES: dict[str, tuple[str, ...]] = {
    "pixel_values": ("tiles",),
    "input_ids": ("batch", "sequence"),
    "attention_mask": ("batch", "sequence"),
    "inputs_embeds": ("batch", "sequence"),
    "position_ids": ("axes", "batch", "sequence"),
}


def trace(
    module: nn.Module, output: str, examples: Sequence[Feeds], *, ragged: bool
) -> onnx.ModelProto:
    """The graph of `module.forward`, traced at examples[0] and compared with torch at the others.

    `ragged` tells that the output has a row a token, (batch, n, width). Raises ExportError when
    neither exporter gives torch's numbers at the shapes that were not traced.
    """
    names = list(examples[0])
    if names != [name for name in inspect.signature(module.forward).parameters if name in names]:
        raise TypeError("examples must be in the order of the module's arguments")
    exporters: dict[str, Callable[..., None]] = {"legacy": _legacy, "dynamo": _dynamo}
    reasons = []
    for name, exporter in exporters.items():
        try:
            with tempfile.TemporaryDirectory(prefix="tessera-export-") as folder:
                path = Path(folder, "traced.onnx")
                with graph.quiet(), torch.no_grad():
                    exporter(module, examples[0], output, path, ragged=ragged)
                model = onnx.load(path)
            graph.strip(model)
            difference = _probe(model, module, output, examples[1:])
        except Exception as error:  # both exporters raise whatever the model made them meet
            reasons.append(f"{name}: {type(error).__name__}: {str(error).strip()[:200]}")
            continue
        if difference <= graph.PROBE_TOLERANCE:
            return model
        reasons.append(f"{name}: differs from torch by {difference:.2g} at other shapes")
    raise ExportError(f"no exporter of torch {torch.__version__} fits: {'; '.join(reasons)}")


def _legacy(module: nn.Module, example: Feeds, output: str, path: Path, *, ragged: bool) -> None:
    axes = {name: dict(enumerate(AXES[name])) for name in example}
    first = next(iter(axes.values()))
    torch.onnx.export(
        module,
        tuple(example.values()),
        str(path),
        dynamo=False,
        opset_version=graph.OPSET,
        input_names=list(example),
        output_names=[output],
        dynamic_axes=axes | {output: first if ragged else {0: first[0]}},
    )


def _dynamo(module: nn.Module, example: Feeds, _output: str, path: Path, *, ragged: bool) -> None:
    del ragged
    dims = {axis: torch.export.Dim(axis) for name in example for axis in AXES[name]}
    shapes = tuple({i: dims[axis] for i, axis in enumerate(AXES[name])} for name in example)
    program = torch.onnx.export(
        module,
        tuple(example.values()),
        dynamo=True,
        opset_version=graph.OPSET,
        input_names=list(example),
        output_names=[_output],
        dynamic_shapes=shapes,
        verbose=False,
    )
    if program is None:
        raise ExportError("torch.onnx.export returned nothing")
    program.save(str(path))


def _probe(
    model: onnx.ModelProto, module: nn.Module, output: str, examples: Sequence[Feeds]
) -> float:
    """Largest difference from torch at the examples, relative to the largest value."""
    if [item.name for item in model.graph.input] != list(examples[0]):
        raise ExportError(f"the graph's inputs are {[item.name for item in model.graph.input]}")
    with tempfile.TemporaryDirectory(prefix="tessera-export-") as folder:
        path = Path(folder, "probed.onnx")
        storage.save(model, path)
        onnx.checker.check_model(str(path), full_check=True)  # by path: any size
        session = storage.session(path)
    worst = 0.0
    for example in examples:
        (ours,) = session.run([output], {name: value.numpy() for name, value in example.items()})
        with torch.no_grad():
            truth = module(*example.values()).numpy()
        if ours.shape != truth.shape:
            return float("inf")
        ours, truth = _real(ours, example), _real(truth, example)
        scale = max(float(np.abs(truth).max()), 1e-6)
        # np.maximum, since max() would pass over NaN
        worst = float(np.maximum(worst, np.abs(ours - truth).max() / scale))
    return worst


def _real(rows: Any, example: Feeds) -> Any:
    """The rows of tokens that are no padding."""
    mask = example.get("attention_mask")
    if mask is None or rows.ndim != 3:
        return rows
    return rows[mask.numpy() > 0]

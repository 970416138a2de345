"""Trace a text encoder with its heads to an fp32 graph, and compare it with torch."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch

from tessera_export.errors import ExportError
from tessera_export.graph import storage
from tessera_export.graph.tracing import OPSET, PROBE_TOLERANCE, quiet
from tessera_export.graph.transforms import strip
from tessera_export.texts.torch_modules import Wrapper

INPUTS: tuple[Literal["input_ids"], Literal["attention_mask"]] = ("input_ids", "attention_mask")
PROBE_SHAPES = ((1, 1), (3, 5), (2, 33))  # none of them is the traced one


def trace(wrapper: Wrapper) -> onnx.ModelProto:
    """The fp32 graph: inputs int64 (batch, sequence), outputs named as the wrapper's.

    The legacy tracer first (smaller graphs, 8 times faster); where it fails, or freezes a shape,
    the dynamo exporter with explicit dimensions. Raises ExportError when neither graph gives
    torch's numbers at shapes that were not traced.
    """
    reasons = []
    for name, exporter in (("legacy", _legacy), ("dynamo", _dynamo)):
        try:
            with tempfile.TemporaryDirectory(prefix="tessera-export-") as folder:
                exporter(wrapper, Path(folder, "traced.onnx"))
                model = onnx.load(Path(folder, "traced.onnx"))
            strip(model)
            difference = _probe(model, wrapper)
        except Exception as error:  # both exporters raise whatever the model made them meet
            reasons.append(f"{name}: {type(error).__name__}: {str(error).strip()[:200]}")
            continue
        if difference <= PROBE_TOLERANCE:
            return model
        reasons.append(f"{name}: differs from torch by {difference:.2g} at other shapes")
    raise ExportError(f"no exporter of torch {torch.__version__} fits: {'; '.join(reasons)}")


def _example() -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[1, 6:] = 0  # an all-ones mask might be traced away
    return torch.arange(18, dtype=torch.int64).reshape(2, 9) % 7 + 3, mask


def _legacy(wrapper: Wrapper, path: Path) -> None:
    axes: dict[str, dict[int, str]] = {name: {0: "batch", 1: "sequence"} for name in INPUTS}
    with torch.no_grad():
        for name, result in zip(wrapper.outputs, wrapper(*_example()), strict=True):
            axes[name] = {0: "batch"} | ({1: "sequence"} if result.dim() == 3 else {})
    with quiet(), torch.no_grad():
        torch.onnx.export(
            wrapper,
            _example(),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=wrapper.outputs,
            dynamic_axes=axes,
        )


def _dynamo(wrapper: Wrapper, path: Path) -> None:
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            wrapper,
            _example(),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=wrapper.outputs,
            dynamic_shapes=(shape, shape),
            verbose=False,
        )
        if program is None:
            raise ExportError("torch.onnx.export returned nothing")
        program.save(str(path))


def _probe(model: onnx.ModelProto, wrapper: Wrapper) -> float:
    """Largest difference from torch, relative to the largest value, over PROBE_SHAPES."""
    if [item.name for item in model.graph.input] != list(INPUTS):
        raise ExportError(f"the graph's inputs are {[item.name for item in model.graph.input]}")
    with tempfile.TemporaryDirectory(prefix="tessera-export-") as folder:
        path = Path(folder, "probed.onnx")
        storage.save(model, path)
        onnx.checker.check_model(str(path), full_check=True)  # by path: any size
        running = storage.session(path)
    worst = 0.0
    generator = torch.Generator().manual_seed(0)
    for batch, length in PROBE_SHAPES:
        ids = torch.randint(3, 10, (batch, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, max(1, length - 2) :] = 0
        feeds = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        with torch.no_grad():
            expected = wrapper(ids, mask)
        for result, theirs in zip(running.run(wrapper.outputs, feeds), expected, strict=True):
            ours, truth = result, theirs.numpy()
            if ours.shape != truth.shape:
                return float("inf")
            if truth.ndim == 3:  # what padded rows hold is nobody's promise
                real = mask.numpy()[:, length - truth.shape[1] :] > 0  # a dropped row is the first
                ours, truth = ours[real], truth[real]
            if truth.size:
                scale = max(float(np.abs(truth).max()), 1e-6)
                # np.maximum, since max() would pass over NaN
                worst = float(np.maximum(worst, np.abs(ours - truth).max() / scale))
    return worst

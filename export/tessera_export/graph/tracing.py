"""Trace a torch module to an fp32 graph, and check the graph at sizes that were not traced."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from tessera_export.errors import ExportError
from tessera_export.graph import storage, transforms

OPSET = 18
PROBE_TOLERANCE = 1e-3  # tells a graph that is wrong from one that rounds; the gate is strict
Feeds = Mapping[str, Tensor]
# Names of the inputs' dimensions; fixed in the graph are those that no two examples differ in.
DIMENSIONS: dict[str, tuple[str, ...]] = {
    "pixel_values": ("tiles", "channels", "height", "width"),
    "input_ids": ("batch", "sequence"),
    "attention_mask": ("batch", "sequence"),
    "token_type_ids": ("batch", "sequence"),
    "inputs_embeds": ("batch", "sequence", "hidden"),
    "position_ids": ("axes", "batch", "sequence"),
}
Axes = dict[str, dict[int, str]]


def trace(
    module: nn.Module, output: str, examples: Sequence[Feeds], produced: Sequence[str]
) -> onnx.ModelProto:
    """The graph of `module.forward`, traced at examples[0] and compared with torch at the others.

    `produced` names the output's leading dimensions that vary. Raises ExportError when neither
    exporter gives torch's numbers at the shapes that were not traced.
    """
    names = list(examples[0])
    if names != [name for name in inspect.signature(module.forward).parameters if name in names]:
        raise TypeError("examples must be in the order of the module's arguments")
    axes = _axes(examples)
    exporters: dict[str, Callable[..., None]] = {"legacy": _legacy, "dynamo": _dynamo}
    reasons = []
    for name, exporter in exporters.items():
        try:
            with tempfile.TemporaryDirectory(prefix="tessera-export-") as folder:
                path = Path(folder, "traced.onnx")
                with quiet(), torch.no_grad():
                    exporter(module, examples[0], axes, {output: produced}, path)
                model = onnx.load(path)
            transforms.strip(model)
            difference = _probe(model, module, output, examples[1:])
        except Exception as error:  # both exporters raise whatever the model made them meet
            reasons.append(f"{name}: {type(error).__name__}: {str(error).strip()[:200]}")
            continue
        if difference <= PROBE_TOLERANCE:
            return model
        reasons.append(f"{name}: differs from torch by {difference:.2g} at other shapes")
    raise ExportError(f"no exporter of torch {torch.__version__} fits: {'; '.join(reasons)}")


def trace_legacy(
    module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], axes: Axes
) -> onnx.ModelProto:
    """The graph that torch's legacy exporter makes of `module.forward(*inputs)`.

    `axes` names the dimensions that vary, by input and output. Raises ExportError when the exporter
    fails. Small models only: the graph stays in memory.
    """
    buffer: Any = io.BytesIO()
    try:
        with quiet(), torch.no_grad():
            torch.onnx.export(
                module,
                tuple(inputs.values()),
                buffer,
                dynamo=False,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes=axes,
            )
    except Exception as error:  # the exporter raises whatever the model made it meet
        raise ExportError(
            f"torch {torch.__version__} cannot export it: {str(error)[:200]}"
        ) from error
    model = onnx.load_from_string(buffer.getvalue())
    transforms.strip(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _axes(examples: Sequence[Feeds]) -> Axes:
    """The dimensions that vary, by input."""
    axes: Axes = {}
    for name in examples[0]:
        sizes = zip(*(example[name].shape for example in examples), strict=True)
        varies = [len(set(each)) > 1 for each in sizes]
        axes[name] = {i: DIMENSIONS[name][i] for i, does in enumerate(varies) if does}
    return axes


def _legacy(
    module: nn.Module, example: Feeds, axes: Axes, made: Mapping[str, Sequence[str]], path: Path
) -> None:
    torch.onnx.export(
        module,
        tuple(example.values()),
        str(path),
        dynamo=False,
        opset_version=OPSET,
        input_names=list(example),
        output_names=list(made),
        dynamic_axes=axes | {name: dict(enumerate(produced)) for name, produced in made.items()},
    )


def _dynamo(
    module: nn.Module, example: Feeds, axes: Axes, made: Mapping[str, Sequence[str]], path: Path
) -> None:
    dims = {axis: torch.export.Dim(axis) for named in axes.values() for axis in named.values()}
    program = torch.onnx.export(
        module,
        tuple(example.values()),
        dynamo=True,
        opset_version=OPSET,
        input_names=list(example),
        output_names=list(made),
        dynamic_shapes=tuple({i: dims[n] for i, n in axes[name].items()} for name in example),
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters' deprecation and tracer warnings, here only."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

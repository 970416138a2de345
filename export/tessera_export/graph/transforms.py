"""A torch module becomes an ONNX graph in fp32 or with fp16 weights, the same bytes every time."""

from __future__ import annotations

import contextlib
import fnmatch
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from tessera_export.errors import ExportError
from tessera_export.graph import storage
from tessera_export.texts.torch_modules import Wrapper

OPSET = 18
INPUTS: tuple[Literal["input_ids"], Literal["attention_mask"]] = ("input_ids", "attention_mask")
LARGE = 4096  # elements; below that half precision saves nothing and biases lose digits
PROBE_SHAPES = ((1, 1), (3, 5), (2, 33))  # none of them is the traced one
PROBE_TOLERANCE = 1e-3  # tells a graph that is wrong from one that rounds; the gate is strict


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


def strip(model: onnx.ModelProto) -> None:
    """Drop build paths, stack traces and descriptions, in place."""
    del model.metadata_props[:]
    model.doc_string = ""
    model.graph.doc_string = ""
    model.graph.name = "tessera"
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    graph = model.graph
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        item.doc_string = ""
        del item.metadata_props[:]
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]


def tie(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which a matrix that is another one transposed is made from it at load time.

    The tracer writes the decoder of a masked language model beside the embedding it is tied to.
    """
    tied = onnx.ModelProto()
    tied.CopyFrom(model)
    graph = tied.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for copy, source in ties(model).items():
        graph.node.insert(0, _transpose(source, copy))
        graph.initializer.remove(tensors[copy])
    return tied


def ties(model: onnx.ModelProto) -> dict[str, str]:
    """Names of the matrices that are embedding tables transposed, each with its table's name."""
    by_shape: dict[tuple[int, ...], list[TensorProto]] = {}
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 2 and np.prod(tensor.dims) >= LARGE:
            by_shape.setdefault(tuple(tensor.dims), []).append(tensor)
    found: dict[str, str] = {}
    for shape, tables in by_shape.items():
        if shape[0] <= shape[1]:
            continue  # an embedding has more rows than columns
        for table in tables:
            rows = numpy_helper.to_array(table)
            for copy in by_shape.get(shape[::-1], []):
                if np.array_equal(rows.T, numpy_helper.to_array(copy)):
                    found.setdefault(copy.name, table.name)
    return found


def _transpose(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Transpose", [source], [target], f"tie_{target}", perm=[1, 0])


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose large matrices are stored in fp16 and cast to fp32 at load: half the file.

    Arithmetic stays fp32. A tensor with a value beyond fp16's range is left as it is.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < LARGE:
            continue
        values = numpy_helper.to_array(tensor)
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_fp16"))
        casts.append(
            helper.make_node("Cast", [tensor.name], [name], f"cast_{name}", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return result


def named(model: onnx.ModelProto, patterns: Sequence[str]) -> list[str]:
    """Names of the nodes that match a pattern. Raises ExportError for one that names no node."""
    names = [node.name for node in model.graph.node]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ExportError(f"no node of the graph is named {pattern!r}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, p) for p in patterns)]


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

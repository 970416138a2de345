"""A trained page tower as ONNX graphs: `python -m tessera_export.page_artifact`."""

from __future__ import annotations

import argparse
import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from tessera_export import graph, page_text, pages, storage
from tessera_export.errors import ExportError
from tessera_export.page_model import Tower
from tessera_onnx.schema import Precision

OUTPUTS = ("vectors", "keep")
# The least cosine of a kept word's vector with torch's, and the share of cells on torch's side
# of zero.
LIMITS: dict[Precision, tuple[float, float]] = {
    "fp32": (0.99999, 0.9999),
    "fp16": (0.999, 0.999),
    "int8": (0.9, 0.999),
}
SHAPES = ((1, 40, 72), (2, 256, 512), (1, 264, 120))  # none of them is the traced one


def trace(tower: Tower) -> onnx.ModelProto:
    """The fp32 graph: pixel_values (n, 3, h, w) to vectors (n, h * w / 64, 128) and keep."""
    buffer: Any = io.BytesIO()
    axes = {0: "batch", 1: "cells"}
    try:
        with graph.quiet(), torch.no_grad():
            torch.onnx.export(
                tower.eval(),
                (torch.from_numpy(_pixels((2, 64, 192))),),
                buffer,
                dynamo=False,
                opset_version=graph.OPSET,
                input_names=["pixel_values"],
                output_names=list(OUTPUTS),
                dynamic_axes={
                    "pixel_values": {0: "batch", 2: "height", 3: "width"},
                    "vectors": axes,
                    "keep": axes,
                },
            )
    except Exception as error:  # the exporter raises whatever the model made it meet
        raise ExportError(
            f"torch {torch.__version__} cannot export it: {str(error)[:200]}"
        ) from error
    model = onnx.load_from_string(buffer.getvalue())
    graph.strip(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def check(path: Path, tower: Tower, precision: Precision) -> tuple[float, float]:
    """The least cosine with torch's vectors and the share of equal cells, at untraced shapes.

    Raises ExportError when a limit is missed.
    """
    session = storage.session(path)
    least, same, cells = 1.0, 0, 0
    for shape in SHAPES:
        pixels = _pixels(shape)
        vectors, keep = session.run(list(OUTPUTS), {"pixel_values": pixels})
        with torch.no_grad():
            true_vectors, true_keep = (out.numpy() for out in tower(torch.from_numpy(pixels)))
        both = (keep > 0) & (true_keep > 0)
        same += int(((keep > 0) == (true_keep > 0)).sum())
        cells += keep.size
        if both.any():
            least = min(least, float((vectors[both] * true_vectors[both]).sum(axis=1).min()))
    figures = least, same / cells
    limits = LIMITS[precision]
    if figures[0] < limits[0] or figures[1] < limits[1]:
        raise ExportError(
            f"{precision}: cosine {figures[0]:.5f} and equal cells {figures[1]:.5f}, "
            f"expected at least {limits[0]} and {limits[1]}"
        )
    return figures


def export(
    tower: Tower, output: Path, precisions: Collection[Precision] = ("fp32", "int8")
) -> dict[Precision, tuple[float, float]]:
    """Write the graphs to the folder `output`; the figures of `check` by precision.

    In int8 only the dense layers are: quantized convolutions would need samples of activations,
    and the dense layers hold three quarters of the weights.
    """
    output.mkdir(parents=True, exist_ok=True)
    traced = trace(tower)
    figures: dict[Precision, tuple[float, float]] = {}
    for precision in precisions:
        made = traced
        if precision != "fp32":
            made = graph.half(traced) if precision == "fp16" else graph.quantize(traced)
        path = output / f"model.{precision}.onnx"
        storage.save(made, path)
        figures[precision] = check(path, tower, precision)
    return figures


def _pixels(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Made-up pages of a shape (n, h, w), as the graph takes them."""
    count, height, width = shape
    lexicon = page_text.lexicon(2000, 500)
    images = np.full((count, height, width), 255, np.uint8)
    for n in range(count):
        drawn = pages.page(5, n, lexicon).image[:height, :width]
        images[n, : drawn.shape[0], : drawn.shape[1]] = drawn
    values = images.astype(np.float32) / 127.5 - 1
    return np.repeat(values[:, None], 3, axis=1)


def main() -> None:
    """The command line: a checkpoint of page_training becomes graphs."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--precision", action="append", choices=list(LIMITS), help="default: fp32 and int8"
    )
    options = parser.parse_args()
    tower = Tower()
    tower.load_state_dict(torch.load(options.checkpoint, weights_only=True)["tower"])
    wanted: list[Precision] = options.precision or ["fp32", "int8"]
    for precision, (cosine, equal) in export(tower.eval(), options.output, wanted).items():
        size = (options.output / f"model.{precision}.onnx").stat().st_size
        print(f"{precision}: {size:,} bytes, least cosine {cosine:.5f}, equal cells {equal:.5f}")


if __name__ == "__main__":
    main()

"""Export a trained page model: `python -m tessera_export.training.page_export`."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from tessera_export import artifact
from tessera_export.artifact import Origin
from tessera_export.errors import ExportError
from tessera_export.graph import int8, storage, tracing, transforms
from tessera_export.parity import Metric, figure, measure
from tessera_export.training import page_text, synthetic_pages
from tessera_export.training.page_canvas import CELL
from tessera_export.training.page_model import DIMENSION, PageEncoder
from tessera_onnx.models.spec import ModelSpec, Parity, Precision
from tessera_onnx.models.spec_media import ImageSpec, Vision

OUTPUTS = ("vectors", "keep")
LETTERS = 17  # pixels of a font's size: up to 18 are read as well as 12, 20 are not
LONGEST = 1408  # pixels: letters of 10 points in an ordinary scan are as high as trained
CLEAR = 0.01  # a logit nearer to zero may fall on either side of it
LIMITS: dict[Precision, dict[Metric, float]] = {
    "fp32": {"max_relative": 1e-4},
    "fp16": {"min_cosine": 0.99, "mean_cosine": 0.999},
    "int8": {"min_cosine": 0.9, "mean_cosine": 0.99},
}
SHAPES = ((1, 40, 72), (2, 256, 512), (1, 264, 120))  # none of them is the traced one


def trace(tower: PageEncoder) -> onnx.ModelProto:
    """The fp32 graph: pixel_values (n, 3, h, w) to vectors (n, h * w / 64, 128) and keep."""
    inputs = {"pixel_values": torch.from_numpy(_pixels((2, 64, 192)))}
    cells = {0: "batch", 1: "cells"}
    axes = {"pixel_values": {0: "batch", 2: "height", 3: "width"}, "vectors": cells, "keep": cells}
    return tracing.trace_legacy(tower.eval(), inputs, OUTPUTS, axes)


def check(path: Path, tower: PageEncoder, precision: Precision) -> list[Parity]:
    """The figures of the ONNX file at `path` against torch, at sizes that were not traced.

    Of the vectors of cells that both keep. Raises ExportError when a limit is missed, or
    when the graph keeps other cells: the convolutions are the same in every precision.
    """
    session = storage.session(path)
    pairs: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    for shape in SHAPES:
        pixels = _pixels(shape)
        vectors, keep = session.run(list(OUTPUTS), {"pixel_values": pixels})
        with torch.no_grad():
            true_vectors, true_keep = (out.numpy() for out in tower(torch.from_numpy(pixels)))
        clear = np.abs(true_keep) > CLEAR
        if ((keep > 0) != (true_keep > 0))[clear].any():
            raise ExportError(f"the {precision} graph keeps other cells than torch")
        both = (keep > 0) & (true_keep > 0)
        pairs.append((vectors[both], true_vectors[both]))
    if not any(len(ours) for ours, _ in pairs):
        raise ExportError("the page encoder keeps no cell of the samples: it is not trained")
    return [
        figure(precision, OUTPUTS[0], metric, measure(metric, pairs), limit)
        for metric, limit in LIMITS[precision].items()
    ]


def export(
    tower: PageEncoder,
    output: Path,
    origin: Origin,
    precisions: Collection[Precision] = ("fp32", "int8"),
    *,
    text_model: str = "all-minilm-l6-v2",
    overwrite: bool = False,
) -> ModelSpec:
    """Write the artifact folder `output`: graphs and model.toml.

    In int8 only the dense layers are quantized: quantized convolutions would need samples of
    activations, and the dense layers hold three quarters of the weights. `text_model` is the id of
    the model that the page encoder was trained for. Raises ExportError, leaving `output` as it was,
    when a graph misses a limit, or `output` holds files and `overwrite` is false.
    """
    traced = trace(tower)
    wanted = artifact.ordered(precisions)
    with artifact.new_folder(output, overwrite=overwrite) as folder:
        parity: list[Parity] = []
        for precision in wanted:
            made = traced
            if precision != "fp32":
                made = transforms.half(traced) if precision == "fp16" else int8.quantize(traced)
            path = folder / artifact.graph_name(precision)
            storage.save(made, path)
            parity += check(path, tower, precision)
        spec = artifact.entry(
            {"vision": recipe(text_model)},
            origin,
            weights_sha256=_digest(tower),
            built=wanted,
            parity=parity,
            files=artifact.listed(folder, [artifact.graph_name(p) for p in wanted]),
            best_cpu=("int8", "fp32", "fp16"),
        )
        (folder / "model.toml").write_text(artifact.document(spec), "utf-8")
    return spec


def recipe(text_model: str) -> Vision:
    """How a page becomes the graph's input, and what its outputs are."""
    image = ImageSpec(
        size=CELL,
        resize="fit",
        longest=LONGEST,
        least_pixels=0,
        most_pixels=0,
        resample="bicubic",
        alpha="white",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        tokens=0,
        letters=LETTERS,
    )
    return Vision(
        vectors="patches",
        pooling="graph",
        output="vectors",
        keep="keep",
        dimension=DIMENSION,
        image=image,
        prompt=None,
        query=None,
        text_model=text_model,
        tile_graph=None,
        token_graph=None,
        text_graph=None,
    )


def restored(path: Path) -> PageEncoder:
    """The page encoder of an int8 graph that an earlier version of this module wrote.

    Its convolutions are exact, its dense layers as the 8-bit weights of the graph have them: what
    is left of a model whose checkpoint nobody kept. Raises ExportError for another graph.
    """
    graph_proto = onnx.load(path).graph
    values = {item.name: numpy_helper.to_array(item) for item in graph_proto.initializer}
    # The tracer names the matrices of page_model.Conv by numbers, in the order of their use.
    unnamed = iter([value for name, value in values.items() if name.startswith("onnx::Conv_")])
    tower, weights = PageEncoder(), {}
    try:
        for name, value in tower.state_dict().items():
            rounded = f"{name}_Transposed_quantized"
            if name in values:
                found = values[name]
            elif rounded in values:
                scale = values[f"{name}_Transposed_scale"]
                found = (values[rounded].astype(np.float32) * scale).T
            elif name.endswith("num_batches_tracked"):
                continue
            else:
                found = next(unnamed)
            weights[name] = torch.from_numpy(np.array(found)).reshape(value.shape)
        tower.load_state_dict(weights, strict=False)
    except (StopIteration, KeyError, RuntimeError) as error:
        raise ExportError(f"{path} is not an int8 graph of a page encoder") from error
    return tower


def _digest(tower: PageEncoder) -> str:
    """The hash of the weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _pixels(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Made-up pages of a shape (n, h, w), as the graph takes them."""
    count, height, width = shape
    lexicon = page_text.lexicon(2000, 500)
    images = np.full((count, height, width), 255, np.uint8)
    for n in range(count):
        drawn = synthetic_pages.page(5, n, lexicon).image[:height, :width]
        images[n, : drawn.shape[0], : drawn.shape[1]] = drawn
    values = images.astype(np.float32) / 127.5 - 1
    return np.repeat(values[:, None], 3, axis=1)


def main() -> None:
    """The command line: a checkpoint of training.pages becomes an artifact."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="of training.pages")
    source.add_argument("--graph", type=Path, help="int8 graph of an artifact, see restored()")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--id", default="tessera-page-mini")
    parser.add_argument("--source", default="tessera_export.training.pages, seed 0")
    parser.add_argument("--licence", default="apache-2.0")
    parser.add_argument(
        "--precision", action="append", choices=list(LIMITS), help="default: fp32 and int8"
    )
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args()
    if options.graph:
        tower = restored(options.graph)
    else:
        tower = PageEncoder()
        tower.load_state_dict(torch.load(options.checkpoint, weights_only=True)["tower"])
    origin = Origin(id=options.id, source=options.source, licence=options.licence)
    wanted = options.precision or ["fp32", "int8"]
    spec = export(tower, options.output, origin, wanted, overwrite=options.overwrite)
    for file in spec.files:
        print(f"{file.name}: {file.size:,} bytes")
    for row in spec.export.parity if spec.export else ():
        print(f"{row.precision} {row.metric} {row.value:.6f}")


if __name__ == "__main__":
    main()

"""Export an image model: read its facts, trace each part, compare with torch, write the folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from tessera_export import artifact
from tessera_export.files import Weights, read_weights
from tessera_export.graph import int4, int8, storage, tracing, transforms
from tessera_export.images import gate, torch_modules
from tessera_export.images import recipe as recipes
from tessera_export.images.recipe import VECTORS
from tessera_export.images.torch_modules import EMBEDS, FEATURES, TEXT_VECTORS
from tessera_onnx.models.foreign.tokenizer_file import TokenizerFile
from tessera_onnx.models.spec import (
    UNPINNED,
    File,
    ModelSpec,
    Parity,
    Precision,
    TokenizerSpec,
)
from tessera_onnx.models.spec_media import ImageQuery, SubGraph, Vision

KIND = "vision"
# File names without precision. A page model is three graphs: two whole graphs would hold the
# language model twice, and a query would need pixels. An image and a text encoder are two graphs.
STEMS = {"tile_graph": "tiles", "token_graph": "tokens", "graph": "model", "text_graph": "texts"}
LENGTHS = ((2, 9), (1, 1), (3, 33))  # batch and tokens: the traced shape, then others


@dataclass(frozen=True, slots=True)
class Facts:
    """A folder of an image model."""

    folder: Path
    kind: str  # model_type of its config.json
    hidden: int  # of the language model
    weights: Weights
    tokenizer: TokenizerFile
    text: TokenizerSpec
    recipe: Vision  # without its graphs


@dataclass(frozen=True, slots=True)
class Traced:
    """One part to trace: the module, its output, examples in the order of its arguments."""

    module: nn.Module
    output: str
    examples: Sequence[tracing.Feeds]
    produced: tuple[str, ...]  # names of the output's leading dimensions that vary


def read(folder: Path, query: ImageQuery | str | None = None) -> Facts:
    """The facts of a ColPali, ColSmol, ColModernVBERT, CLIP or SigLIP folder.

    `query` is what stands around a query, or the text before it, where the folder does not say.
    Raises ExportError naming the fact that is missing or that no graph can compute.
    """
    settings = recipes.config(folder)
    kind = recipes.kind_of(settings.model_type)
    weights = read_weights(folder)
    found = recipes.tokenizer(folder, settings)
    if kind in recipes.PAIRS:
        dimension = recipes.pair_dimension(settings)
    else:
        dimension = torch_modules.projection(weights).out_features
    recipe, text = recipes.recipe(folder, settings, found, dimension, query)
    found = dataclasses.replace(found, text=text)
    gate.check_tokenizer(folder, found, recipe)
    gate.check_pixels(recipes.processor(folder), recipe.image)
    hidden = settings.get_text_config().hidden_size
    return Facts(folder, kind, hidden, weights, found, text, recipe)


def export(
    facts: Facts,
    output: Path,
    origin: artifact.Origin,
    precisions: Collection[Precision] = artifact.USUAL,
    *,
    int8_exclude: Sequence[str] = (),
    overwrite: bool = False,
) -> ModelSpec:
    """Trace, convert, compare with upstream and write the artifact folder `output`.

    `int8_exclude` are patterns of node names that int8 leaves alone, in the graphs that have such
    nodes. Raises ExportError, leaving `output` as it was, when a graph misses a parity limit, or
    `output` holds files and `overwrite` is false.
    """
    wanted = artifact.ordered(precisions)
    pair = facts.kind in recipes.PAIRS
    stems = ("graph", "text_graph") if pair else ("tile_graph", "token_graph", "graph")
    names = [name(stem, precision) for precision in wanted for stem in stems]
    names.append(facts.text.tokenizer)
    # Before the work of minutes: is this a valid entry, whatever the graphs will measure?
    artifact.document(_entry(facts, origin, wanted, [], [File(n, UNPINNED, 0) for n in names]))
    with artifact.new_folder(output, overwrite=overwrite) as folder:
        known: Any = _known(facts)  # upstream's answers; then its model is dropped from memory
        files = _graphs(facts, folder, wanted, int8_exclude)
        parity: list[Parity] = []
        for precision in wanted:
            paths = {stem: folder / name(stem, precision) for stem in stems}
            if pair:
                parity += gate.check_pairs(paths, precision, known, facts.text)
            else:
                parity += gate.check_pages(paths, precision, known, _image_id(facts))
        (folder / facts.text.tokenizer).write_text(facts.tokenizer.json, "utf-8", newline="")
        files.append(facts.text.tokenizer)
        spec = _entry(facts, origin, wanted, parity, artifact.listed(folder, files))
        (folder / "model.toml").write_text(artifact.document(spec), "utf-8")
    return spec


def name(stem: str, precision: Precision) -> str:
    """File name of a part's graph."""
    return f"{STEMS[stem]}.{precision}.onnx"


def _image_id(facts: Facts) -> int:
    prompt = facts.recipe.prompt
    return -1 if prompt is None else facts.tokenizer.id_of(prompt.token, "the image's token")


def _known(facts: Facts) -> Any:
    model = torch_modules.load(facts.folder, facts.kind, None)
    if facts.kind in recipes.PAIRS:
        return gate.pictures_and_texts(model, facts.recipe, facts.tokenizer)
    projection = torch_modules.projection(facts.weights)
    return gate.pages_and_queries(model, projection, facts.recipe, facts.tokenizer)


def _graphs(
    facts: Facts, folder: Path, wanted: Sequence[Precision], exclude: Sequence[str]
) -> list[str]:
    """Write every part in every precision, one part in memory at a time; the files' names."""
    parts = _parts(facts, torch_modules.load(facts.folder, facts.kind, "eager"))
    made: list[str] = []
    for stem in list(parts):
        part = parts.pop(stem)
        traced = tracing.trace(part.module, part.output, part.examples, part.produced)
        del part
        for precision in wanted:
            made += storage.save(_at(traced, precision, exclude), folder / name(stem, precision))
    return made


def _at(traced: onnx.ModelProto, precision: Precision, exclude: Sequence[str]) -> onnx.ModelProto:
    if precision == "fp16":
        return transforms.half(traced)
    if precision == "int4":
        return int4.quantize(traced)
    return int8.quantize(traced, (), exclude) if precision == "int8" else traced


def _parts(facts: Facts, model: Any) -> dict[str, Traced]:
    """The modules by their place in the entry, with inputs to trace and to probe."""
    rng = torch.Generator().manual_seed(0)
    qwen = facts.kind in recipes.QWEN
    size = facts.recipe.image.size
    # Of Qwen2-VL `size` is a cell, and images are of any number of them.
    grids = ((4, 6), (3, 5), (2, 2)) if qwen else ((1, 1),) * 3
    pixels = [
        {"pixel_values": torch.randn(n, 3, size * down, size * across, generator=rng)}
        for n, (down, across) in zip((2, 1, 3), grids, strict=True)
    ]
    fixed, most = facts.text.fixed_length, facts.text.max_positions
    lengths = [(batch, fixed or min(length, most)) for batch, length in LENGTHS]
    ids = [{"input_ids": torch.randint(3, 10, shape, generator=rng)} for shape in lengths]
    masks = [{"attention_mask": _mask(*shape)} for shape in lengths]
    batch, tokens = ("batch",), ("batch", "sequence")
    if facts.kind in recipes.PAIRS:
        texts = ids if fixed else _together(ids, masks)
        return {
            "graph": Traced(torch_modules.Pictures(model), VECTORS, pixels, ("tiles",)),
            "text_graph": Traced(torch_modules.Texts(model), TEXT_VECTORS, texts, batch),
        }
    embeds = [
        {"inputs_embeds": torch.randn(*shape, facts.hidden, generator=rng)} for shape in lengths
    ]
    inputs = _together(embeds, masks)
    tiles: nn.Module = torch_modules.QwenTiles(model) if qwen else torch_modules.Tiles(model)
    if qwen:
        places = [torch.randint(0, n, (3, batch, n), generator=rng) for batch, n in lengths]
        inputs = _together(inputs, [{"position_ids": each} for each in places])
    language = torch_modules.Language(model, torch_modules.projection(facts.weights))
    made = ("tiles", "tokens") if qwen else ("tiles",)
    return {
        "tile_graph": Traced(tiles, FEATURES, pixels, made),
        "token_graph": Traced(torch_modules.Tokens(model), EMBEDS, ids, tokens),
        "graph": Traced(language, VECTORS, inputs, tokens),
    }


def _mask(batch: int, length: int) -> torch.Tensor:
    """Ones, but for the end of the last row."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, max(1, length - 2) :] = 0
    return mask


def _together(
    first: Sequence[tracing.Feeds], second: Sequence[tracing.Feeds]
) -> list[Mapping[str, torch.Tensor]]:
    return [{**a, **b} for a, b in zip(first, second, strict=True)]


def _entry(
    facts: Facts,
    origin: artifact.Origin,
    built: list[Precision],
    parity: list[Parity],
    files: list[File],
) -> ModelSpec:
    if facts.kind in recipes.PAIRS:
        recipe = dataclasses.replace(
            facts.recipe, text_graph=_part("text_graph", TEXT_VECTORS, built)
        )
    else:
        recipe = dataclasses.replace(
            facts.recipe,
            tile_graph=_part("tile_graph", FEATURES, built),
            token_graph=_part("token_graph", EMBEDS, built),
        )
    return artifact.entry(
        {"text": facts.text, "vision": recipe},
        origin,
        weights_sha256=facts.weights.sha256,
        built=built,
        parity=parity,
        files=files,
        best_cpu=("int8", "fp32", "fp16"),
    )


def _part(stem: str, output: str, built: Collection[Precision]) -> SubGraph:
    files: dict[Any, str] = dict.fromkeys(artifact.USUAL, "")
    return SubGraph(output, **files | {precision: name(stem, precision) for precision in built})

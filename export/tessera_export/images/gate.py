"""Compare the graphs of an image model with torch, one by one and in sequence.

The reference is upstream's whole model with its own attention, on one page or query at a time; the
projection is computed here in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoTokenizer

from tessera_export.errors import ExportError
from tessera_export.graph import storage
from tessera_export.images.recipe import VECTORS
from tessera_export.images.torch_modules import EMBEDS, FEATURES, TEXT_VECTORS
from tessera_export.parity import LIMITS, Shape, batches, figure, measure
from tessera_export.texts import samples, token_check
from tessera_onnx.images import preprocess, prompt_ids
from tessera_onnx.models.foreign.tokenizer_file import TokenizerFile
from tessera_onnx.models.spec import Parity, Precision, TokenizerSpec
from tessera_onnx.models.spec_media import ImageQuery, ImageSpec, Vision

Array = NDArray[Any]
Pairs = list[tuple[Array, Array]]
GRIDS = ((1, 1), (1, 2), (3, 2))  # rows and columns of tiles
PAGES, PICTURES = 2, 5
SIZES = ((640, 480), (300, 900), (97, 41))  # of images whose pixels are compared
PIXEL = 1.01 / 255
BATCHES = (2, 1, 4, 3)  # neither the traced sizes nor those of tiles in a page
QUERIES = 20


@dataclass(frozen=True, slots=True)
class Sample:
    """A page (tiles float32 (n, 3, size, size)) or a query (no tiles), and upstream's answers."""

    ids: Array  # (n,) int64
    tiles: Array
    features: Array  # (image tokens, hidden)
    embeddings: Array  # (n, hidden), of the ids alone
    vectors: Array  # (n, dimension), unit length
    positions: Array  # (3, n), for graphs that take such


def query_text(query: ImageQuery, text: str) -> str:
    """What the tokenizer reads: with a text between them, the ends may become other tokens."""
    return query.prefix + text + query.suffix


def pages_and_queries(
    model: Any, projection: nn.Linear, recipe: Vision, found: TokenizerFile
) -> list[Sample]:
    """The inputs of a model of page vectors and what torch makes of them.

    `model` reads images among tokens (PaliGemmaModel and such), with upstream's own attention.
    """
    if recipe.prompt is None or recipe.query is None:
        raise ExportError("a model of page vectors has a prompt and a query")
    rng = np.random.default_rng(0)
    inputs = []
    image = prompt_ids.image_id(recipe.prompt, found.ids)
    whole = recipe.image.resize == "dynamic"  # one tile, of any number of cells
    for rows, columns in GRIDS if recipe.image.resize != "stretch" else GRIDS[:1] * PAGES:
        grid = (1, 1) if whole else (rows, columns)
        cells = (rows * 2, columns * 3) if whole else (1, 1)
        count = math.prod(grid) + (math.prod(grid) > 1)
        tiles = pictures(rng, recipe.image, count, cells)
        n_tokens = math.prod(cells) if whole else recipe.image.tokens
        ids = prompt_ids.document_ids(recipe.prompt, n_tokens, *grid, found.ids)
        inputs.append((ids, tiles, prompt_ids.positions(ids, image, *cells)))
    for text in samples.texts()[:QUERIES]:
        ids = np.array(found.ids(query_text(recipe.query, text)), np.int64)
        inputs.append((ids, tiles[:0], prompt_ids.positions(ids, image, 0, 0)))
    return [_sample(model, projection, *each) for each in inputs]


def pictures(
    rng: np.random.Generator, recipe: ImageSpec, count: int, cells: tuple[int, int] = (1, 1)
) -> NDArray[np.float32]:
    """Normalised pixels (count, 3, h, w) of so many squares down and across.

    Blocks of colour under a little noise.
    """
    coarse = rng.integers(0, 256, (count, 3, 7, 7))
    down, across = (np.arange(recipe.size * n) * 7 // (recipe.size * n) for n in cells)
    values = coarse[:, :, down][:, :, :, across] * 0.9
    values += rng.uniform(0, 25, values.shape)
    mean, std = (np.array(each)[:, None, None] for each in (recipe.mean, recipe.std))
    pixels: NDArray[np.float32] = ((values / 255 - mean) / std).astype(np.float32)
    return pixels


def _sample(
    model: Any, projection: nn.Linear, ids: Array, tiles: Array, positions: Array
) -> Sample:
    kind = model.config.model_type
    inputs = {"input_ids": torch.from_numpy(ids)[None]}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if kind == "paligemma":  # as upstream's processor: all may see all
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    pixels = torch.from_numpy(tiles)
    if len(tiles) and kind == "qwen2_vl":
        height, width = (side // model.config.vision_config.patch_size for side in tiles.shape[2:])
        inputs["pixel_values"] = torch.from_numpy(qwen_patches(tiles[0]))
        inputs["image_grid_thw"] = torch.tensor([[1, height, width]])
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
    elif len(tiles):  # others than PaliGemma take (pages, tiles, 3, size, size)
        inputs["pixel_values"] = pixels if kind == "paligemma" else pixels[None]
    features = np.zeros((0, projection.in_features), np.float32)
    with torch.no_grad():
        result = model(**inputs)
        embeddings = model.get_input_embeddings()(inputs["input_ids"] % _words(model))[0]
        if len(tiles):
            features = _features(model, inputs, result)
        states = result.last_hidden_state[0].double()
        rows = states @ projection.weight.double().T + projection.bias.double()
    vectors = nn.functional.normalize(rows, dim=-1).numpy()
    return Sample(ids, tiles, features, embeddings.numpy(), vectors, positions)


def _features(model: Any, inputs: Mapping[str, torch.Tensor], result: Any) -> Array:
    """What upstream put in the places of the image's tokens."""
    if "image_grid_thw" in inputs:
        seen = model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
        parts = [seen.pooler_output]
    else:
        parts = list(result.image_hidden_states)
    features: Array = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts]).numpy()
    return features


def _words(model: Any) -> int:
    words: int = model.get_input_embeddings().num_embeddings
    return words


def check_pages(
    paths: Mapping[str, Path], precision: Precision, known: Sequence[Sample], image_id: int
) -> list[Parity]:
    """The figures of three graphs, "tile_graph", "token_graph" and "graph", one after the other.

    `image_id` is the token whose places a page's features take. Raises ExportError naming the
    output that misses its limit.
    """
    session = storage.session(paths["tile_graph"])
    joined: list[Array] = []
    features: Pairs = []
    for sample in known:
        rows = np.zeros_like(sample.features)
        if len(sample.tiles):
            (found,) = session.run([FEATURES], {"pixel_values": sample.tiles})
            rows = found.reshape(-1, found.shape[-1])
            features.append((rows, sample.features))
        joined.append(rows)
    session = storage.session(paths["token_graph"])
    embeddings: Pairs = []
    for index, sample in enumerate(known):
        (found,) = session.run([EMBEDS], {"input_ids": sample.ids[None]})
        words = sample.ids != image_id
        embeddings.append((found[0][words], sample.embeddings[words]))
        rows = found[0].copy()
        rows[~words] = joined[index]
        joined[index] = rows
    session = storage.session(paths["graph"])
    vectors: Pairs = []
    for batch in batches(len(known), BATCHES):
        lengths = [len(joined[index]) for index in batch]
        embeds = np.zeros((len(batch), max(lengths), joined[0].shape[1]), np.float32)
        mask = np.zeros(embeds.shape[:2], np.int64)
        for row, (index, length) in enumerate(zip(batch, lengths, strict=True)):
            embeds[row, :length], mask[row, :length] = joined[index], 1
        feeds = {"inputs_embeds": embeds, "attention_mask": mask}
        if "position_ids" in {item.name for item in session.get_inputs()}:
            feeds["position_ids"] = np.zeros((3, *mask.shape), np.int64)
            for row, (index, length) in enumerate(zip(batch, lengths, strict=True)):
                feeds["position_ids"][:, row, :length] = known[index].positions
        (found,) = session.run([VECTORS], feeds)
        for row, index in enumerate(batch):
            vectors.append((found[row, : lengths[row]], known[index].vectors))
    outputs = {FEATURES: features, EMBEDS: embeddings, VECTORS: vectors}
    return [each for name in outputs for each in _figures(precision, name, "tokens", outputs[name])]


def _figures(precision: Precision, output: str, shape: Shape, pairs: Pairs) -> list[Parity]:
    return [
        figure(precision, output, metric, measure(metric, pairs), limit)
        for metric, limit in LIMITS[precision, shape].items()
    ]


@dataclass(frozen=True, slots=True)
class ImagesAndTexts:
    """Images and texts, and upstream's unit vectors for them."""

    pixels: NDArray[np.float32]  # (n, 3, size, size)
    texts: list[list[int]]  # ids, special tokens included
    image_vectors: Array  # (n, dimension)
    text_vectors: Array


def pictures_and_texts(model: Any, recipe: Vision, found: TokenizerFile) -> ImagesAndTexts:
    """The inputs of an image and a text encoder, and what torch makes of them, one by one.

    `model` is a CLIPModel or SiglipModel with upstream's own attention.
    """
    pixels = pictures(np.random.default_rng(0), recipe.image, PICTURES)
    facts = found.text
    rows = [[*facts.prefix_ids, *found.ids(t), *facts.suffix_ids] for t in samples.texts()]
    longest = facts.fixed_length or facts.max_positions
    texts = [row for row in rows if len(row) <= longest]
    fill = [facts.pad_id] * facts.fixed_length
    padded = [row + fill[len(row) :] for row in texts]
    with torch.no_grad():
        seen = [model.get_image_features(p[None]) for p in torch.from_numpy(pixels)]
        read = [model.get_text_features(torch.tensor([row])) for row in padded]
    return ImagesAndTexts(pixels, texts, _unit(seen), _unit(read))


def _unit(results: Sequence[Any]) -> Array:
    pooled = torch.cat([each.pooler_output for each in results]).double()
    unit: Array = nn.functional.normalize(pooled, dim=-1).numpy()
    return unit


def check_pairs(
    paths: Mapping[str, Path], precision: Precision, known: ImagesAndTexts, text: TokenizerSpec
) -> list[Parity]:
    """The figures of two graphs, "graph" and "text_graph".

    Raises ExportError naming the output that misses its limit.
    """
    session = storage.session(paths["graph"])
    seen: Pairs = []
    for batch in batches(len(known.pixels), BATCHES):
        (found,) = session.run([VECTORS], {"pixel_values": known.pixels[batch]})
        seen.append((found, known.image_vectors[batch]))
    session = storage.session(paths["text_graph"])
    names = {item.name for item in session.get_inputs()}
    texts: Pairs = []
    for batch in batches(len(known.texts), BATCHES):
        rows = [known.texts[index] for index in batch]
        length = text.fixed_length or max(map(len, rows))
        ids = np.full((len(rows), length), text.pad_id, np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)], mask[number, : len(row)] = row, 1
        feeds = {"input_ids": ids, "attention_mask": mask}
        (found,) = session.run([TEXT_VECTORS], {name: feeds[name] for name in names})
        texts.append((found, known.text_vectors[batch]))
    return [
        *_figures(precision, VECTORS, "pooled", seen),
        *_figures(precision, TEXT_VECTORS, "pooled", texts),
    ]


def check_tokenizer(folder: Path, found: TokenizerFile, recipe: Vision) -> None:
    """Raises ExportError when transformers makes other ids of prompts, queries and texts."""
    try:
        upstream = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ExportError(f"transformers cannot load the tokenizer: {error}") from error

    def theirs(text: str) -> list[int]:
        return list(upstream(text, add_special_tokens=False, verbose=False)["input_ids"])

    texts = [*samples.texts(), *(text for _, text in token_check.texts(found))]
    if recipe.query is not None:
        texts = [query_text(recipe.query, text) for text in texts]
    same = all(found.ids(text) == theirs(text) for text in texts)
    if recipe.prompt is not None:
        facts, count = recipe.prompt, recipe.image.tokens or 1
        for grid in GRIDS:
            ours, other = (
                prompt_ids.document_ids(facts, count, *grid, encode)
                for encode in (found.ids, theirs)
            )
            same = same and np.array_equal(ours, other)
    if not same:
        raise ExportError(
            "tokenizer.json and transformers make different ids of the same text: save the "
            "tokenizer with transformers again"
        )


def check_pixels(upstream: Any, recipe: ImageSpec) -> None:
    """Raises ExportError when `upstream`, an image processor, makes other pixels of a picture."""
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        levels = rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
        picture = PIL.Image.fromarray(levels).resize((width, height))
        ours = preprocess.pixels(picture, recipe).tiles
        theirs = upstream(images=[[picture]] if recipe.resize == "tiles" else picture)
        if recipe.resize == "dynamic":
            ours = qwen_patches(ours[0])
        truth = np.array(theirs["pixel_values"], np.float32).reshape(-1, *ours.shape[1:])
        # Written so that NaN is refused.
        same = truth.shape == ours.shape
        if not (same and np.abs(truth - ours).max() <= PIXEL / min(recipe.std)):
            raise ExportError(
                f"transformers' {type(upstream).__name__} makes other pixels of an image of "
                f"{width} x {height} than the recipe: {recipe}"
            )


def qwen_patches(
    tile: NDArray[np.float32], *, patch: int = 14, merge: int = 2
) -> NDArray[np.float32]:
    """One tile (3, h, w) as Qwen2-VL's image processor gives it: (n, 3 * 2 * patch * patch).

    Row by row of squares of merge x merge patches, in a square row by row again; each patch twice,
    for the encoder reads pairs of frames.
    """
    channels, height, width = tile.shape
    down, across = height // (patch * merge), width // (patch * merge)
    parts = tile.reshape(channels, down, merge, patch, across, merge, patch)
    parts = parts.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    pairs = np.broadcast_to(parts, (*parts.shape[:5], 2, *parts.shape[6:]))
    return pairs.reshape(down * across * merge * merge, -1)

"""Parity of an image model: each graph, and pages and queries through all of them, with torch.

The reference is upstream's whole model, one page or query at a time, with upstream's own attention;
the projection is computed here in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoTokenizer

from tessera_export import samples, storage
from tessera_export.errors import ExportError
from tessera_export.gate import LIMITS, Shape, figure, measure
from tessera_export.tokens import TokenizerFile
from tessera_export.vision_towers import EMBEDS, FEATURES, TEXT_VECTORS, VECTORS
from tessera_onnx.schema import Image, Parity, Precision, Prompt, Query, Text, Vision

Array = NDArray[Any]
Pairs = list[tuple[Array, Array]]
GRIDS = ((1, 1), (1, 2), (3, 2))  # rows and columns of tiles
PICTURES = 5
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


def page_text(prompt: Prompt, n_tokens: int, rows: int, columns: int) -> str:
    """What upstream's processors put around an image: the prompt with the image token repeated."""
    image = prompt.token * n_tokens
    if not prompt.tile:
        return prompt.text.replace("{image}", image)
    whole = prompt.whole + image + prompt.end
    if (rows, columns) == (1, 1):  # the line break before it ends a line of tiles
        return prompt.text.replace("{image}", whole.lstrip("\n"))
    lines = [
        "".join(prompt.tile.format(row=r, column=c) + image for c in range(1, columns + 1))
        + prompt.row_end
        for r in range(1, rows + 1)
    ]
    return prompt.text.replace("{image}", "".join(lines) + whole)


def query_text(query: Query, text: str) -> str:
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
    for rows, columns in GRIDS:
        count = 1 if recipe.image.resize != "tiles" else rows * columns + (rows * columns > 1)
        tiles = pictures(rng, recipe.image, count)
        text = page_text(recipe.prompt, recipe.image.tokens, rows, columns)
        inputs.append((found.ids(text), tiles))
    size = recipe.image.size
    for text in samples.texts()[:QUERIES]:
        none = np.zeros((0, 3, size, size), np.float32)
        inputs.append((found.ids(query_text(recipe.query, text)), none))
    return [_sample(model, projection, np.array(ids, np.int64), tiles) for ids, tiles in inputs]


def pictures(rng: np.random.Generator, recipe: Image, count: int) -> NDArray[np.float32]:
    """Normalised pixels (count, 3, size, size): blocks of colour under a little noise."""
    coarse = rng.integers(0, 256, (count, 3, 7, 7))
    places = np.arange(recipe.size) * 7 // recipe.size
    values = coarse[:, :, places][:, :, :, places] * 0.9
    values += rng.uniform(0, 25, values.shape)
    mean, std = (np.array(each)[:, None, None] for each in (recipe.mean, recipe.std))
    pixels: NDArray[np.float32] = ((values / 255 - mean) / std).astype(np.float32)
    return pixels


def _sample(model: Any, projection: nn.Linear, ids: Array, tiles: Array) -> Sample:
    inputs = {"input_ids": torch.from_numpy(ids)[None]}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    features = np.zeros((0, projection.in_features), np.float32)
    if model.config.model_type == "paligemma":  # as upstream's processor: all may see all
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    if len(tiles):
        inputs["pixel_values"] = torch.from_numpy(tiles)
        if model.config.model_type != "paligemma":  # (pages, tiles, 3, size, size)
            inputs["pixel_values"] = inputs["pixel_values"][None]
    with torch.no_grad():
        result = model(**inputs)
        embeddings = model.get_input_embeddings()(inputs["input_ids"] % _words(model))[0]
        if len(tiles):
            seen = result.image_hidden_states
            features = torch.cat([part.reshape(-1, part.shape[-1]) for part in seen]).numpy()
        states = result.last_hidden_state[0].double()
        rows = states @ projection.weight.double().T + projection.bias.double()
    vectors = nn.functional.normalize(rows, dim=-1).numpy()
    return Sample(ids, tiles, features, embeddings.numpy(), vectors)


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
    for batch in _batches(len(known)):
        lengths = [len(joined[index]) for index in batch]
        embeds = np.zeros((len(batch), max(lengths), joined[0].shape[1]), np.float32)
        mask = np.zeros(embeds.shape[:2], np.int64)
        for row, (index, length) in enumerate(zip(batch, lengths, strict=True)):
            embeds[row, :length], mask[row, :length] = joined[index], 1
        feeds = {"inputs_embeds": embeds, "attention_mask": mask}
        (found,) = session.run([VECTORS], feeds)
        for row, index in enumerate(batch):
            vectors.append((found[row, : lengths[row]], known[index].vectors))
    outputs = {FEATURES: features, EMBEDS: embeddings, VECTORS: vectors}
    return [each for name in outputs for each in _figures(precision, name, "tokens", outputs[name])]


def _batches(count: int) -> Iterator[list[int]]:
    """All indices in a fixed mixed order, so that pages and queries pad each other."""
    order = np.random.default_rng(0).permutation(count).tolist()
    start, number = 0, 0
    while start < count:
        size = BATCHES[number % len(BATCHES)]
        yield order[start : start + size]
        start, number = start + size, number + 1


def _figures(precision: Precision, output: str, shape: Shape, pairs: Pairs) -> list[Parity]:
    return [
        figure(precision, output, metric, measure(metric, pairs), limit)
        for metric, limit in LIMITS[precision, shape].items()
    ]


@dataclass(frozen=True, slots=True)
class Towers:
    """Pictures and texts, and upstream's unit vectors for them."""

    pixels: NDArray[np.float32]  # (n, 3, size, size)
    texts: list[list[int]]  # ids, special tokens included
    image_vectors: Array  # (n, dimension)
    text_vectors: Array


def pictures_and_texts(model: Any, recipe: Vision, found: TokenizerFile) -> Towers:
    """The inputs of a pair of towers and what torch makes of them, one by one.

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
        images = [model.get_image_features(p[None]) for p in torch.from_numpy(pixels)]
        vectors = [model.get_text_features(torch.tensor([row])) for row in padded]
    return Towers(pixels, texts, _unit(images), _unit(vectors))


def _unit(results: Sequence[Any]) -> Array:
    pooled = torch.cat([each.pooler_output for each in results]).double()
    unit: Array = nn.functional.normalize(pooled, dim=-1).numpy()
    return unit


def check_towers(
    paths: Mapping[str, Path], precision: Precision, known: Towers, text: Text
) -> list[Parity]:
    """The figures of two graphs, "graph" and "text_graph".

    Raises ExportError naming the output that misses its limit.
    """
    session = storage.session(paths["graph"])
    images: Pairs = []
    for batch in _batches(len(known.pixels)):
        (found,) = session.run([VECTORS], {"pixel_values": known.pixels[batch]})
        images.append((found, known.image_vectors[batch]))
    session = storage.session(paths["text_graph"])
    names = {item.name for item in session.get_inputs()}
    texts: Pairs = []
    for batch in _batches(len(known.texts)):
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
        *_figures(precision, VECTORS, "pooled", images),
        *_figures(precision, TEXT_VECTORS, "pooled", texts),
    ]


def check_tokenizer(folder: Path, found: TokenizerFile, recipe: Vision) -> None:
    """Raises ExportError when transformers makes other ids of prompts, queries and texts."""
    texts = samples.texts()
    if recipe.prompt is not None and recipe.query is not None:
        texts = [query_text(recipe.query, text) for text in texts]
        count = recipe.image.tokens
        texts += [page_text(recipe.prompt, count, *grid) for grid in GRIDS]
    try:
        upstream = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ExportError(f"transformers cannot load the tokenizer: {error}") from error
    around = (found.text.prefix_ids, found.text.suffix_ids)
    for index, text in enumerate(texts):
        ours = [*around[0], *found.ids(text), *around[1]]
        options = {"add_special_tokens": any(around), "truncation": False, "verbose": False}
        if list(upstream(text, **options)["input_ids"]) != ours:
            raise ExportError(
                f"tokenizer.json and transformers make different ids of sample {index}: save the "
                "tokenizer with transformers again"
            )

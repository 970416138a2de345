"""Find where an image answers the tokens of a query: similarity maps, boxes and drawings."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import files
from tessera_onnx.errors import ConfigError
from tessera_onnx.images.resize import Box
from tessera_onnx.vectors import bounds

if TYPE_CHECKING:
    from PIL import Image

    from tessera_onnx.images.encoder import Located
    from tessera_onnx.images.page_text import Word

Float = NDArray[np.float32]

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
LONGEST = 1600  # pixels of the drawing's longest edge: letters can be read, files stay small
OPACITY = 0.65
SHARED = 0.25  # a word is in a region if they share this part of the smaller of their boxes
# Colours from the lowest similarity to the highest: blue over green and yellow to red.
STOPS = np.array([[49, 54, 149], [116, 196, 118], [255, 237, 80], [215, 25, 28]], np.float32)


def check_file(file: str | os.PathLike[str]) -> None:
    """Raises TypeError unless it is a path, ConfigError unless it ends in one of SUFFIXES."""
    if not isinstance(file, str | os.PathLike):
        raise TypeError(f"file must be a path, got {type(file).__name__}")
    if Path(file).suffix.lower() not in SUFFIXES:
        raise ConfigError(f"the file of a map must end in {', '.join(SUFFIXES)}")


def token_map(cells: Float, token: int | None) -> Float:
    """The map (rows, cols) of one query token, or for None the mean of all tokens.

    Raises ConfigError for a number outside the map (n, rows, cols).
    """
    if token is None:
        return np.asarray(cells.mean(axis=0), dtype=np.float32)
    if isinstance(token, bool) or not isinstance(token, int):
        raise TypeError(f"token must be int or None, got {type(token).__name__}")
    if not 0 <= token < len(cells):
        raise ConfigError(f"token must lie in 0..{len(cells) - 1}, got {token}")
    return np.asarray(cells[token], dtype=np.float32)


def draw_map(
    image: Image.Image, cells: Float, box: tuple[float, float, float, float]
) -> Image.Image:
    """Draw the cells (rows, cols) in colours over the image, shrunk to at most 1600 pixels.

    `box` is the part of the image that the cells cover: left, top, right, bottom in its pixels,
    beyond its edges where it was padded. Colours go from the lowest to the highest value; lower
    cells are more transparent, and a cell that is NaN is not coloured.
    """
    from PIL import Image

    scale = min(1.0, LONGEST / max(image.size))
    size = tuple(max(1, round(edge * scale)) for edge in image.size)
    page = image.convert("RGB").resize((size[0], size[1]))
    known = np.isfinite(cells)
    if not known.any():
        return page
    low, high = cells[known].min(), cells[known].max()
    heat = np.where(known, (cells - low) / max(high - low, np.float32(1e-12)), 0)
    layers = [_stretched(layer, box, image.size, page.size) for layer in (heat, known)]
    heat = np.clip(layers[0], 0, 1)
    places = np.linspace(0, 1, len(STOPS))
    colour = np.stack([np.interp(heat, places, stop) for stop in STOPS.T], axis=-1)
    opacity = (OPACITY * heat * layers[1])[..., None]
    mixed = np.asarray(page, dtype=np.float32) * (1 - opacity) + colour * opacity
    return Image.fromarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))


def save_map(answer: Answer, token: int | None, file: str | os.PathLike[str]) -> None:
    """Draw the map of one query token, or the mean of all, over its image, and write it."""
    write_drawing(draw_map(answer.image, token_map(answer.map, token), answer.box), file)


def write_drawing(drawing: Image.Image, file: str | os.PathLike[str]) -> None:
    """Write a drawing, whole or not at all. Raises FileError."""
    with files.replacing(Path(file)) as stream:
        drawing.save(stream, format=SUFFIXES[Path(file).suffix.lower()])


def _stretched(
    layer: NDArray[np.generic],
    box: tuple[float, float, float, float],
    page: tuple[int, int],
    size: tuple[int, int],
) -> Float:
    """Spread the values of cells over the pixels of the drawing: (height, width), 0 outside."""
    rows, cols = layer.shape
    x, y = (
        (np.arange(n) + 0.5) * whole / n for n, whole in zip(size, page, strict=True)
    )  # centres of the drawing's pixels, in pixels of the page
    left, top, right, bottom = box
    column = np.floor((x - left) / (right - left) * cols).astype(int)
    row = np.floor((y - top) / (bottom - top) * rows).astype(int)
    found: Float = np.asarray(layer, dtype=np.float32)[np.clip(row, 0, rows - 1)][
        :, np.clip(column, 0, cols - 1)
    ]
    found[(row < 0) | (row >= rows)] = 0
    found[:, (column < 0) | (column >= cols)] = 0
    return found


@dataclass(frozen=True, slots=True)
class Region:
    """The part of an image that answers one token of a query best."""

    index: int  # the row of the query's vectors
    token: str  # its vocabulary entry; "" for a query of vectors
    score: float  # dot product of the two vectors, in [-1, 1] for unit vectors
    box: tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the upright image
    words: tuple[str, ...]  # words of the PDF page inside the box
    row: int  # of the similarity map, from 0
    column: int


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A similarity map, the regions of its tokens, and the image that they lie on.

    `map` is (n_tokens, rows, cols) float32, NaN where a cell has no vector; its cells divide `box`
    evenly, which is in pixels of the image and may reach beyond it.
    """

    image: Image.Image
    map: Float
    box: Box
    regions: tuple[Region, ...]


def answer(
    query: Float,
    names: Sequence[str],
    image: Image.Image,
    found: Located,
    words: Sequence[Word],
    *,
    given: object = None,
) -> Answer:
    """Compare the rows of a query (n, dim), with their names, with the vectors of an image.

    A token has no region where no cell of the image has a vector. `given` is the query as the
    caller gave it: its dtype decides how far rounding may lift a dot product above 1.
    """
    cells = cell_map(query, found.vectors, found.cells, given)
    regions = []
    for index, products in enumerate(cells):
        if not np.isfinite(products).any():
            continue
        row, column = divmod(int(np.nanargmax(products)), products.shape[1])
        # In a coarser view of a long image, one vector covers several cells.
        layers = found.cells.reshape(-1, *products.shape)
        named = layers[:, row, column]
        best = named[named >= 0]
        vector = best[int(np.argmax(found.vectors[best] @ query[index]))]
        box = _box((layers == vector).any(axis=0), found.box, image.size)
        inside = tuple(word.text for word in words if _shared(word.box, box) >= SHARED)
        score, name = float(products[row, column]), names[index] if names else ""
        regions.append(Region(index, name, score, box, inside, row, column))
    return Answer(image, cells, found.box, tuple(regions))


def _box(cells: NDArray[np.bool_], box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The pixels around the marked cells of a grid that divides `box`, within the image."""
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    x = (box[2] - box[0]) / cells.shape[1]
    y = (box[3] - box[1]) / cells.shape[0]
    left, top = math.floor(box[0] + columns[0] * x), math.floor(box[1] + rows[0] * y)
    right = math.ceil(box[0] + (columns[-1] + 1) * x - 1e-6)
    bottom = math.ceil(box[1] + (rows[-1] + 1) * y - 1e-6)
    left, top = min(max(0, left), size[0] - 1), min(max(0, top), size[1] - 1)
    return left, top, min(max(left + 1, right), size[0]), min(max(top + 1, bottom), size[1])


def _shared(one: Box, other: Box) -> float:
    """The area that two boxes share, as a part of the smaller box."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    least = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(0.0, width) * max(0.0, height) / least if least > 0 else 0.0


def cell_map(query: Float, vectors: Float, cells: NDArray[np.int64], given: object = None) -> Float:
    """Dot products of each query row with the vector of each cell: (n, rows, cols) float32.

    query (n, dim), vectors (m, dim), cells (rows, cols) rows of `vectors`; NaN where a cell is -1.
    Of cells (layers, rows, cols) the highest of all layers counts. Products of unit rows lie in
    [-1, 1]; `given` is the query as the caller gave it.
    """
    products = np.full((len(query), len(vectors) + 1), np.nan, dtype=np.float32)
    scores = query @ vectors.T
    bounds.limit(scores, query, vectors, (given, None))
    products[:, :-1] = scores
    found: Float = products[:, cells]
    return found if cells.ndim == 2 else np.fmax.reduce(found, axis=1)

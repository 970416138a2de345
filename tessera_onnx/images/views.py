"""Long images, such as screenshots, receipts and strips, are read in views that overlap.

A model that shrinks an image to what it reads makes nothing of 520 x 12000 pixels. Such an image is
cut along its length, and read as a whole too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import EncodingError
from tessera_onnx.images.resize import Box
from tessera_onnx.models.spec import ImageSpec as Recipe

# An image is long when it is more than so many times as long as wide: no page, slide or photograph
# is, but screens of telephones and receipts are.
LONG = 2.0
# A long image is cut when its model would shrink it to less than this part of its size.
LEAST_SCALE = 0.8
OVERLAP = 8  # a view shares at least this part of its length with the next: several lines
MOST_VIEWS = 256
LAYERS = 3  # of a level: a view never overlaps the third after it
# "fit" reads an image at its own size, where the letters of a scan may be too large for a model
# that was trained on small ones: it reads long images at half, a quarter and an eighth too.
SMALLEST = 8

Cells = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class View:
    """A part of an image: left, top, right, bottom in whole pixels."""

    box: tuple[int, int, int, int]
    level: int  # 0 for the most detailed reading


def is_long(width: float, height: float) -> bool:
    """Whether the image is a strip, of which a model that reads pages makes little."""
    return max(width, height) > LONG * min(width, height)


def longest(width: float, height: float, recipe: Recipe) -> float:
    """The pixels of the longer edge that the recipe reads of an image of these proportions."""
    if recipe.resize == "dynamic":
        return math.sqrt(recipe.most_pixels * max(width, height) / min(width, height))
    return recipe.longest or recipe.size


def most_length(recipe: Recipe) -> float:
    """Pixels of the longest image that is cut into no more than MOST_VIEWS, about."""
    return MOST_VIEWS / 4 * (recipe.longest or max(recipe.size, math.sqrt(recipe.most_pixels)))


def cut(size: tuple[int, int], recipe: Recipe) -> list[View]:
    """The views of a long image that the recipe would shrink, in order; [] for all others.

    A view is as long as the recipe reads without shrinking, but at least as long as wide. The last
    views are those of the coarsest reading, mostly of the whole image. Raises EncodingError for an
    image of more than MOST_VIEWS views.
    """
    width, height = size
    edge, short = max(size), min(size)
    if not is_long(width, height) or longest(width, height, recipe) >= LEAST_SCALE * edge:
        return []
    reads = recipe.most_pixels // short if recipe.resize == "dynamic" else recipe.longest
    length = max(short, reads or recipe.size)
    lengths = [min(edge, length << level) for level in range(SMALLEST.bit_length())]
    if recipe.resize != "fit":
        lengths = [length, edge]
    found = []
    for level, each in enumerate(dict.fromkeys(lengths)):
        count = 1 + math.ceil((edge - each) / (each - each // OVERLAP))
        if count > MOST_VIEWS:
            raise EncodingError(
                f"{width} x {height} pixels are more than {MOST_VIEWS} views of what this model "
                "reads: cut the image into parts"
            )
        for place in np.linspace(0, edge - each, count).round().astype(int).tolist():
            box = (0, place, width, place + each)
            found.append(View(box if height > width else (place, 0, place + each, height), level))
    return found


def joined(
    size: tuple[int, int], parts: list[tuple[View, Cells, Box]]
) -> tuple[NDArray[np.int64], Box]:
    """The cells of all views on one grid over the image, (layers, rows, cols), and the grid's box.

    Each part is a view, its cells as rows of all vectors, and the box of these in the view's own
    pixels. The grid's cells are those of the first view. No two views of a layer overlap.
    """
    view, cells, box = parts[0]
    down = size[1] > size[0]
    across = box[2] - box[0], box[3] - box[1]
    steps = across[0] / cells.shape[1], across[1] / cells.shape[0]
    rows = math.ceil(size[1] / steps[1] - 1e-6) if down else cells.shape[0]
    cols = cells.shape[1] if down else math.ceil(size[0] / steps[0] - 1e-6)
    grid = (box[0], box[1], box[0] + cols * steps[0], box[1] + rows * steps[1])
    y = grid[1] + (np.arange(rows) + 0.5) * steps[1]
    x = grid[0] + (np.arange(cols) + 0.5) * steps[0]
    n_layers = LAYERS * (1 + max(view.level for view, _, _ in parts))
    layers = np.full((n_layers, rows, cols), -1, dtype=np.int64)
    for number, (view, cells, box) in enumerate(parts):
        left, top = view.box[:2]
        row = np.floor((y - top - box[1]) / (box[3] - box[1]) * cells.shape[0]).astype(int)
        col = np.floor((x - left - box[0]) / (box[2] - box[0]) * cells.shape[1]).astype(int)
        known = np.ix_((row >= 0) & (row < cells.shape[0]), (col >= 0) & (col < cells.shape[1]))
        layer = layers[LAYERS * view.level + number % LAYERS]
        layer[known] = cells[np.ix_(row[known[0].ravel()], col[known[1].ravel()])]
    return layers, grid

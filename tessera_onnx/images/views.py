"""Cut long images, such as screenshots and receipts, into views that overlap.

A model that shrinks an image of 520 x 12000 pixels to its own size can read nothing of it. So a
long image is cut along its length, and is read as a whole too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import EncodingError
from tessera_onnx.images.resize import Box
from tessera_onnx.models.spec_media import ImageSpec as Recipe

# An image is long when its length is more than this many times its width. Pages, slides and
# photographs are not long; screens of telephones and receipts are.
LONG = 2.0
# A long image is cut when its model would shrink it to less than this part of its size.
LEAST_SCALE = 0.8
OVERLAP = 8  # neighbouring views share at least 1/8 of their length: several lines of text
MOST_VIEWS = 256
LAYERS = 3  # layers of cells for each level: a view never overlaps the third view after it
# "fit" reads an image at its own size, where the letters of a scan may be too large for a model
# that was trained on small ones. So it reads long images at half, a quarter and an eighth too.
SMALLEST = 8

Cells = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class View:
    """A part of an image: left, top, right, bottom in whole pixels."""

    box: tuple[int, int, int, int]
    level: int  # 0 for the most detailed views


def is_long(width: float, height: float) -> bool:
    """Whether an image of this size is long."""
    return max(width, height) > LONG * min(width, height)


def longest(width: float, height: float, recipe: Recipe) -> float:
    """The length in pixels to which a model resizes an image of these proportions."""
    if recipe.resize == "dynamic":
        return math.sqrt(recipe.most_pixels * max(width, height) / min(width, height))
    return recipe.longest or recipe.size


def most_length(recipe: Recipe) -> float:
    """About the length in pixels of the longest image that needs no more than MOST_VIEWS views."""
    return MOST_VIEWS / 4 * (recipe.longest or max(recipe.size, math.sqrt(recipe.most_pixels)))


def cut(size: tuple[int, int], recipe: Recipe) -> list[View]:
    """Cut a long image that the model would shrink into views, in order; [] for other images.

    A view is as long as the model reads without shrinking, but at least as long as wide. The last
    level is the coarsest: mostly one view of the whole image. Raises EncodingError for an image of
    more than MOST_VIEWS views.
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
                f"{width} x {height} pixels need more than {MOST_VIEWS} views of the size that "
                "this model reads: cut the image into parts"
            )
        for place in np.linspace(0, edge - each, count).round().astype(int).tolist():
            box = (0, place, width, place + each)
            found.append(View(box if height > width else (place, 0, place + each, height), level))
    return found


def joined(
    size: tuple[int, int], parts: list[tuple[View, Cells, Box]]
) -> tuple[NDArray[np.int64], Box]:
    """Join the cells of all views to one grid over the image: (layers, rows, cols), and its box.

    Each part is a view, its cells (numbers of rows among the vectors of all views), and the box of
    these cells in the view's pixels. Cells of the grid have the size of the first view's. The views
    of a layer do not overlap.
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

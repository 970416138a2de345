"""Where on an image the tokens of a query are answered: a map of cells, and boxes in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.images import similarity_map
from tessera_onnx.images.resize import Box

if TYPE_CHECKING:
    from PIL import Image

    from tessera_onnx.images.encoder import Located
    from tessera_onnx.images.page_text import Word

Float = NDArray[np.float32]
SHARED = 0.25  # of the smaller of two boxes: a word stands in a region from there on


@dataclass(frozen=True, slots=True)
class Region:
    """The part of an image that answers one token of a query best."""

    index: int  # the row of the query's vectors
    token: str  # its vocabulary entry; "" for a query of vectors
    score: float  # dot product of the two vectors, in [-1, 1] for unit vectors
    box: tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the upright image
    words: tuple[str, ...]  # of the text layer of a PDF page that stand in the box
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
    form: Any = None,
) -> Answer:
    """Query rows (n, dim) and their names, looked for among the vectors of an image.

    A token has no region where no cell of the image has a vector. `form` is that in which the query
    was given.
    """
    cells = similarity_map.cell_map(query, found.vectors, found.cells, form)
    regions = []
    for index, products in enumerate(cells):
        if not np.isfinite(products).any():
            continue
        row, column = divmod(int(np.nanargmax(products)), products.shape[1])
        # One vector stands for several cells where a coarser view of a long image counts.
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
    """The part of the smaller of two boxes that both hold."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    least = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(0.0, width) * max(0.0, height) / least if least > 0 else 0.0

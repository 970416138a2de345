"""Resize, tile and normalise an image as its model's processor does."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.images.resize import Box, Levels, resized
from tessera_onnx.models.spec_media import ImageSpec as Recipe

if typing.TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True)
class Pixels:
    """An image in the form that the graphs read."""

    tiles: NDArray[np.float32]  # (n, 3, h, w): rows x columns, row by row, then the whole view
    rows: int  # of tiles; 1 where the image is not cut, and then there is no whole view
    columns: int  # of tiles
    cells: tuple[int, int]  # vectors of one tile: down, across
    size: tuple[int, int]  # of the upright image: width, height
    # The part of the image that the tiles show, in its own pixels: left, top, right, bottom.
    # Smaller than the image where its edges were cut off ("crop"), larger where it was padded
    # ("fit"). The tiles' cells divide it evenly, rows * cells[0] down, columns * cells[1] across.
    box: Box


def pixels(image: Image.Image, recipe: Recipe) -> Pixels:
    """Resize, tile and normalise an RGB image as the recipe says: float32.

    Raises EncodingError for an image too narrow for "crop" or "dynamic".
    """
    edge = recipe.size
    found = resized(image, recipe)
    levels, whole = found.levels, found.whole
    down, across = levels.shape[:2]
    rows, columns = (1, 1) if whole is None else (down // edge, across // edge)
    down, across = down // rows, across // columns
    tiles = np.empty((rows * columns + (whole is not None), 3, down, across), dtype=np.float32)
    for number in range(rows * columns):
        top, left = number // columns * down, number % columns * across
        _normalise(levels[top : top + down, left : left + across], recipe, tiles[number])
    if whole is not None:
        _normalise(whole, recipe, tiles[-1])
    side = math.isqrt(recipe.tokens)
    cells = (side, side) if side else (down // edge, across // edge)
    return Pixels(tiles, rows, columns, cells, image.size, found.box)


def _normalise(levels: Levels, recipe: Recipe, out: NDArray[np.float32]) -> None:
    """(h, w, 3) levels into (3, h, w) numbers.

    In float32 and in upstream's order of steps; equal to its float64 for all 256 levels.
    """
    for channel in range(3):
        plane = out[channel]
        np.divide(levels[..., channel], np.float32(255), out=plane)
        plane -= np.float32(recipe.mean[channel])
        plane /= np.float32(recipe.std[channel])

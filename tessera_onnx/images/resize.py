"""Resize an image to the size that its model reads, with Pillow and in upstream's steps."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import EncodingError
from tessera_onnx.models.spec_media import ImageSpec as Recipe

if typing.TYPE_CHECKING:
    from PIL import Image

Levels = NDArray[np.uint8]
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the image

MAX_ASPECT = 200  # length by width, of "crop" and "dynamic": the limit of Qwen2-VL


@dataclass(frozen=True, slots=True)
class Resized:
    """The levels 0 to 255 of a resized image."""

    levels: Levels  # (h, w, 3)
    box: Box  # the part of the image that they show
    whole: Levels | None = None  # (size, size, 3): the whole view, beside tiles


def resized(image: Image.Image, recipe: Recipe) -> Resized:
    """Resize an RGB image in the way that the recipe's `resize` names.

    Four ways equal classes of transformers: "stretch" SiglipImageProcessor, "crop"
    CLIPImageProcessor, "tiles" Idefics3ImageProcessor, "dynamic" Qwen2VLImageProcessor. "fit" is
    this project's own: it never enlarges, and pads with white. Raises EncodingError for an image
    too narrow for "crop" or "dynamic".
    """
    ways = {"stretch": _stretch, "crop": _crop, "tiles": _tiles, "dynamic": _dynamic, "fit": _fit}
    return ways[recipe.resize](image, recipe)


def _stretch(image: Image.Image, recipe: Recipe) -> Resized:
    size = (recipe.size, recipe.size)
    return Resized(np.asarray(_resize(image, size, recipe)), _all(image))


def _crop(image: Image.Image, recipe: Recipe) -> Resized:
    """Resize the shortest edge to `size`, and keep the centre."""
    width, height = image.size
    _check_aspect(width, height)
    size = recipe.size
    longest = int(size * max(width, height) / min(width, height))
    across, down = (size, longest) if width <= height else (longest, size)
    levels = np.asarray(_resize(image, (across, down), recipe))
    top, left = (down - size) // 2, (across - size) // 2
    x, y = width / across, height / down
    box = (left * x, top * y, (left + size) * x, (top + size) * y)
    return Resized(levels[top : top + size, left : left + size], box)


def _tiles(image: Image.Image, recipe: Recipe) -> Resized:
    """Resize the longest edge to `longest`, up or down, then both edges to whole tiles.

    Upstream resamples twice, and a third time for the whole view, with rounding in between; so the
    steps cannot be joined.
    """
    edge = recipe.size
    large = _resize(image, _longest_edge(*image.size, recipe.longest), recipe)
    width, height = large.size
    aspect = width / height
    if width >= height:
        width = math.ceil(width / edge) * edge
        height = math.ceil(int(width / aspect) / edge) * edge
    else:
        height = math.ceil(height / edge) * edge
        width = math.ceil(int(height * aspect) / edge) * edge
    large = _resize(large, (width, height), recipe)
    cut = max(width, height) > edge
    whole = np.asarray(_resize(large, (edge, edge), recipe)) if cut else None
    return Resized(np.asarray(large), _all(image), whole)


def _longest_edge(width: int, height: int, longest: int) -> tuple[int, int]:
    """(width, height) with that longest edge; the other edge is even, or 1."""
    aspect = width / height
    short = int(longest / aspect if width >= height else longest * aspect)
    short = max(short + short % 2, 1)
    return (longest, short) if width >= height else (short, longest)


def _dynamic(image: Image.Image, recipe: Recipe) -> Resized:
    """Resize both edges to whole cells, with `least_pixels` to `most_pixels` in all."""
    width, height = image.size
    _check_aspect(width, height)
    size = recipe.size
    across, down = (round(edge / size) * size for edge in (width, height))
    if across * down > recipe.most_pixels:
        shrink = math.sqrt(width * height / recipe.most_pixels)
        across, down = (max(size, math.floor(e / shrink / size) * size) for e in (width, height))
    elif across * down < recipe.least_pixels:
        grow = math.sqrt(recipe.least_pixels / (width * height))
        across, down = (math.ceil(e * grow / size) * size for e in (width, height))
    return Resized(np.asarray(_resize(image, (across, down), recipe)), _all(image))


def _fit(image: Image.Image, recipe: Recipe) -> Resized:
    """Shrink the image to at most `longest`, and pad with white on the right and below."""
    width, height = image.size
    scale = min(1.0, recipe.longest / max(width, height))
    across, down = (max(1, round(edge * scale)) for edge in (width, height))
    wide, high = (math.ceil(edge / recipe.size) * recipe.size for edge in (across, down))
    levels = np.full((high, wide, 3), 255, dtype=np.uint8)
    levels[:down, :across] = np.asarray(_resize(image, (across, down), recipe))
    return Resized(levels, (0.0, 0.0, wide * width / across, high * height / down))


def _all(image: Image.Image) -> Box:
    return (0.0, 0.0, float(image.width), float(image.height))


def _check_aspect(width: int, height: int) -> None:
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise EncodingError(
            f"{width} x {height} pixels: this model reads no image more than {MAX_ASPECT} times "
            "as long as wide, cut it into parts"
        )


def _resize(image: Image.Image, size: tuple[int, int], recipe: Recipe) -> Image.Image:
    from PIL import Image

    return image.resize(size, Image.Resampling[recipe.resample.upper()])

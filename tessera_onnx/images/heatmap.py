"""A similarity map, drawn over its page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import files
from tessera_onnx.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

    from tessera_onnx.images.regions import Answer

Float = NDArray[np.float32]

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
LONGEST = 1600  # pixels of the drawing's longest edge: letters can be read, files stay small
OPACITY = 0.65
# Colours from the lowest similarity to the highest: blue over green and yellow to red.
STOPS = np.array([[49, 54, 149], [116, 196, 118], [255, 237, 80], [215, 25, 28]], np.float32)


def check_file(file: str | os.PathLike[str]) -> None:
    """Raises TypeError for what is no path, ConfigError for one that ends in none of SUFFIXES."""
    if not isinstance(file, str | os.PathLike):
        raise TypeError(f"file must be a path, got {type(file).__name__}")
    if Path(file).suffix.lower() not in SUFFIXES:
        raise ConfigError(f"the file of a map must end in {', '.join(SUFFIXES)}")


def of_token(cells: Float, token: int | None) -> Float:
    """The map (rows, cols) of one query token, or for None the mean of those of all.

    Raises ConfigError for a token that the map (n, rows, cols) does not have.
    """
    if token is None:
        return np.asarray(cells.mean(axis=0), dtype=np.float32)
    if isinstance(token, bool) or not isinstance(token, int):
        raise TypeError(f"token must be int or None, got {type(token).__name__}")
    if not 0 <= token < len(cells):
        raise ConfigError(f"token must lie in 0..{len(cells) - 1}, got {token}")
    return np.asarray(cells[token], dtype=np.float32)


def draw(image: Image.Image, cells: Float, box: tuple[float, float, float, float]) -> Image.Image:
    """The image, at most 1600 pixels long, under colours of the cells (rows, cols).

    `box` is the part of the image that the cells cover: left, top, right, bottom in its pixels,
    beyond its edges where it was padded. A cell that is NaN stays clear, and the lower its value
    among the others, the clearer a cell is. The values are spread between the lowest and highest.
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


def save(answer: Answer, token: int | None, file: str | os.PathLike[str]) -> None:
    """Draw the map of one query token, or the mean of all, over its image, and write it."""
    write(draw(answer.image, of_token(answer.map, token), answer.box), file)


def write(drawing: Image.Image, file: str | os.PathLike[str]) -> None:
    """Write a drawing, whole or not at all. Raises FileError."""
    with files.replacing(Path(file)) as stream:
        drawing.save(stream, format=SUFFIXES[Path(file).suffix.lower()])


def _stretched(
    layer: NDArray[np.generic],
    box: tuple[float, float, float, float],
    page: tuple[int, int],
    size: tuple[int, int],
) -> Float:
    """Values of cells as values of the drawing's pixels, 0 outside the box: (height, width)."""
    rows, cols = layer.shape
    x, y = (
        (np.arange(n) + 0.5) * whole / n for n, whole in zip(size, page, strict=True)
    )  # middles of the drawing's pixels, in pixels of the page
    left, top, right, bottom = box
    column = np.floor((x - left) / (right - left) * cols).astype(int)
    row = np.floor((y - top) / (bottom - top) * rows).astype(int)
    found: Float = np.asarray(layer, dtype=np.float32)[np.clip(row, 0, rows - 1)][
        :, np.clip(column, 0, cols - 1)
    ]
    found[(row < 0) | (row >= rows)] = 0
    found[:, (column < 0) | (column >= cols)] = 0
    return found

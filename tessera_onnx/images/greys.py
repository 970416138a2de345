"""Levels of 16 bits as levels of 8: full range, or the 10, 12 or 14 bits that a camera filled."""

from __future__ import annotations

import typing
from typing import Any

import numpy as np
from numpy.typing import NDArray

if typing.TYPE_CHECKING:
    from PIL import Image

# The ranges that levels stored in 16 bits come in: the smallest that holds all of an image is
# taken for its own.
RANGES = (255, 1023, 4095, 16383, 65535)
FULL = RANGES[-1]
BEYOND = 8  # a filter that sharpens leaves a range by less than this part of it, and is cut there
BITS_PER_SAMPLE, PHOTOMETRIC, MAX_SAMPLE_VALUE = 258, 262, 281  # tags of a TIFF


def eight_bits(levels: NDArray[Any], top: int | None = None) -> NDArray[np.uint8]:
    """Levels 0 to `top` as 0 to 255; without `top` the smallest of RANGES that holds them all.

    Of a range of whole bits the upper eight are kept, which is how Pillow reads colours of 16 bits.
    Alpha is not among the levels: its range may be another.
    """
    highest = int(levels.max(initial=0))
    if top is None or top < highest:
        top = next(each for each in RANGES if highest <= each + each // BEYOND)
    if (top + 1) & top == 0:
        within: NDArray[Any] = np.minimum(levels, top)
        return (within >> max(0, top.bit_length() - 8)).astype(np.uint8)
    return np.rint(levels.astype(np.float64) * (255 / top)).astype(np.uint8)


def of_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Greys (h, w), or colours (h, w, 3) with or without alpha (h, w, 4), as levels of 8 bits."""
    if array.ndim == 2 or array.shape[2] == 3:
        return eight_bits(array)
    return np.concatenate([eight_bits(array[..., :3]), eight_bits(array[..., 3:])], axis=-1)


def is_stretched(image: Image.Image) -> bool:
    """Whether Pillow will stretch the greys of an image that is not loaded to 16 bits: PPM says
    how high they may be. 65535 says nothing, as 16 bits do in other formats.
    """
    if image.format != "PPM" or not getattr(image, "tile", None):
        return False
    stated = image.tile[0][3]  # type: ignore[attr-defined]
    return isinstance(stated, tuple) and stated[-1] != FULL


def of_image(image: Image.Image, *, stretched: bool = False) -> NDArray[np.uint8] | None:
    """The levels of a loaded PIL image whose greys have up to 16 bits; None for all others.

    A TIFF says its range in MaxSampleValue, or by bits a sample other than 16; greys that Pillow
    `stretched` have all 16.
    """
    tags = _tags(image)
    bits = _first(tags.get(BITS_PER_SAMPLE))
    # PPM's greys of 16 bits come in a mode of 32, as do signed ones, and before Pillow 11 PNG's.
    wide = image.mode == "I" and (image.format in {"PNG", "PPM"} or 0 < bits <= 16)
    if not wide and not image.mode.startswith("I;16"):
        return None
    levels: NDArray[Any] = np.asarray(image)
    if levels.min(initial=0) < 0:
        return None
    if stretched:
        return eight_bits(levels, FULL)
    stated = _first(tags.get(MAX_SAMPLE_VALUE))
    if not 255 < stated < FULL:
        stated = (1 << bits) - 1 if 8 < bits < 16 else 0
    found = eight_bits(levels, stated or None)
    white_is_zero = tags.get(PHOTOMETRIC) == 0
    return 255 - found if white_is_zero else found


def is_deep(image: Image.Image) -> bool:
    """Whether an image that is not loaded yet has colours of 16 bits, of which Pillow keeps 8."""
    if image.mode.startswith(("I", "F")):
        return False
    if _first(_tags(image).get(BITS_PER_SAMPLE)) == 16:
        return True
    tile = getattr(image, "tile", None) or [("", (), 0, "")]
    if image.format == "PPM":
        return isinstance(tile[0][3], tuple) and tile[0][3][-1] == FULL
    return image.format == "PNG" and "16B" in str(tile[0][3])


def brightened(image: Image.Image) -> Image.Image:
    """An image of the upper 8 of 16 bits, stretched where only 14, 12 or 10 of them were filled.

    Alpha, if there, may be of another range than the colours.
    """
    if image.mode == "CMYK":
        return image
    bands = image.getbands()
    highs = [int(image.getchannel(band).getextrema()[1]) for band in bands]  # type: ignore[arg-type]
    colours = max(high for band, high in zip(bands, highs, strict=True) if band != "A")
    tops = [
        _filled(high if band == "A" else colours) for band, high in zip(bands, highs, strict=True)
    ]
    if set(tops) == {255}:
        return image
    return image.point([min(255, level * 255 // top) for top in tops for level in range(256)])


def _filled(highest: int) -> int:
    """The highest level of the range that an image fills, of 16 bits of which 8 are kept."""
    tops = (3, 15, 63, 255) if highest else (255,)
    return next(each for each in tops if highest <= each + each // BEYOND)


def _tags(image: Image.Image) -> Any:
    return getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}


def _first(value: Any) -> int:
    """A number, or the first of several; 0 for nothing."""
    value = value[0] if isinstance(value, tuple) and value else value
    return int(value) if isinstance(value, int | float) else 0

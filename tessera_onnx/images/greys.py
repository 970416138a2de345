"""Reduce levels of 16 bits to 8: of the full range, or of the 10, 12 or 14 bits of a camera."""

from __future__ import annotations

import typing
from typing import Any

import numpy as np
from numpy.typing import NDArray

if typing.TYPE_CHECKING:
    from PIL import Image

# The ranges of levels that are stored in 16 bits. The smallest that holds all levels of an image is
# taken as the range of the image.
RANGES = (255, 1023, 4095, 16383, 65535)
FULL = RANGES[-1]
BEYOND = 8  # a sharpening filter may exceed a range by 1/8, and is clipped there
BITS_PER_SAMPLE, PHOTOMETRIC, MAX_SAMPLE_VALUE = 258, 262, 281  # tags of a TIFF


def eight_bits(levels: NDArray[Any], top: int | None = None) -> NDArray[np.uint8]:
    """Reduce levels 0 to `top` to 0 to 255; None takes the smallest of RANGES that holds them.

    Of a range of whole bits the upper eight bits are kept, as Pillow does for colours of 16 bits.
    Pass alpha separately, since its range may differ.
    """
    highest = int(levels.max(initial=0))
    if top is None or top < highest:
        top = next(each for each in RANGES if highest <= each + each // BEYOND)
    if (top + 1) & top == 0:
        within: NDArray[Any] = np.minimum(levels, top)
        return (within >> max(0, top.bit_length() - 8)).astype(np.uint8)
    return np.rint(levels.astype(np.float64) * (255 / top)).astype(np.uint8)


def of_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Reduce greys (h, w), colours (h, w, 3), or colours with alpha (h, w, 4) to 8 bits."""
    if array.ndim == 2 or array.shape[2] == 3:
        return eight_bits(array)
    return np.concatenate([eight_bits(array[..., :3]), eight_bits(array[..., 3:])], axis=-1)


def is_stretched(image: Image.Image) -> bool:
    """Whether Pillow will stretch the greys of an image to 16 bits when it loads it.

    It does so for a PPM that states a highest level below 65535.
    """
    if image.format != "PPM" or not getattr(image, "tile", None):
        return False
    stated = image.tile[0][3]  # type: ignore[attr-defined]
    return isinstance(stated, tuple) and stated[-1] != FULL


def of_image(image: Image.Image, *, stretched: bool = False) -> NDArray[np.uint8] | None:
    """Reduce the greys of a loaded PIL image with up to 16 bits; None for other images.

    A TIFF states its range in MaxSampleValue, or by a number of bits other than 16. Greys that
    Pillow `stretched` have the full range.
    """
    tags = _tags(image)
    bits = _first(tags.get(BITS_PER_SAMPLE))
    # Pillow reads 16-bit greys of PPM, signed ones, and before version 11 those of PNG, as 32 bits.
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
    """Whether a PIL image that is not loaded yet has colours of 16 bits: Pillow keeps 8."""
    if image.mode.startswith(("I", "F")):
        return False
    if _first(_tags(image).get(BITS_PER_SAMPLE)) == 16:
        return True
    tile = getattr(image, "tile", None) or [("", (), 0, "")]
    if image.format == "PPM":
        return isinstance(tile[0][3], tuple) and tile[0][3][-1] == FULL
    return image.format == "PNG" and "16B" in str(tile[0][3])


def brightened(image: Image.Image) -> Image.Image:
    """Stretch an image that holds the upper 8 of 16 bits where only 14, 12 or 10 were in use.

    The range of alpha may differ from that of the colours.
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
    """The top of the range that an image uses, by its highest level; both are in 8 bits."""
    tops = (3, 15, 63, 255) if highest else (255,)
    return next(each for each in tops if highest <= each + each // BEYOND)


def _tags(image: Image.Image) -> Any:
    return getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}


def _first(value: Any) -> int:
    """A number, or the first of a tuple; 0 for anything else."""
    value = value[0] if isinstance(value, tuple) and value else value
    return int(value) if isinstance(value, int | float) else 0

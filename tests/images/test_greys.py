"""Levels of 16 bits: full range, or the 8, 10, 12 or 14 bits that a scanner or camera filled."""

import io
import struct

import numpy as np
import pytest
from image_cases import encoded
from PIL import Image, features
from test_decode import levels, png

from tessera_onnx import EncodingError
from tessera_onnx.images import greys

RNG = np.random.default_rng(3)


def filled(bits, shape=(24, 40)):
    """Levels of so many bits, the whole range among them, and what they are in 8."""
    found = RNG.integers(0, 1 << bits, shape).astype(np.uint16)
    found.flat[:2] = 0, (1 << bits) - 1
    return found, (found >> (bits - 8)).astype(np.uint8)


def tiff(rows, bits, shape, photometric=1, tags=()):
    """A TIFF of one strip of raw bytes, little-endian."""
    height, width = shape
    entries = [
        (256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric),
        (273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, len(rows)), *tags,
    ]  # fmt: skip
    table = struct.pack("<H", len(entries))
    for tag, kind, value in sorted(entries):
        table += struct.pack("<HHII", tag, kind, 1, value)
    return b"II*\0" + struct.pack("<I", 8 + len(rows)) + rows + table + bytes(4)


def packed(array):
    """Pairs of levels of 12 bits in three bytes, as TIFF has them."""
    pairs = array.reshape(-1, 2).astype(np.uint32)
    joined = pairs[:, 0] << 12 | pairs[:, 1]
    return np.stack([joined >> 16, joined >> 8 & 255, joined & 255], axis=1).astype("u1").tobytes()


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_greys_of_every_width_in_every_form(bits):
    grey, eight = filled(bits)
    expected = np.stack([eight] * 3, axis=-1)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in grey)
    image = Image.fromarray(grey)
    assert image.mode == "I;16"
    for source in (
        grey,
        grey[..., None],
        grey.astype(">u2"),
        np.asfortranarray(grey),
        image,
        png(40, 24, 16, 0, rows),
        Image.open(io.BytesIO(png(40, 24, 16, 0, rows))),
        encoded(image, "TIFF"),
        encoded(Image.frombytes("I;16B", (40, 24), grey.astype(">u2").tobytes()), "TIFF"),
        tiff(grey.astype("<u2").tobytes(), 16, grey.shape),
    ):
        np.testing.assert_array_equal(levels(source), expected)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_colours_in_arrays_of_sixteen_bits(bits):
    colour, eight = filled(bits, (9, 7, 3))
    np.testing.assert_array_equal(levels(colour), eight)
    clear = np.dstack([colour, np.full((9, 7), (1 << bits) - 1, np.uint16)])
    np.testing.assert_array_equal(levels(clear), eight)


@pytest.mark.parametrize(("bits", "kept"), [(12, 4), (14, 6), (16, 8)])
def test_colours_in_files_of_sixteen_bits_keep_what_pillow_does(bits, kept):
    """Of 12 bits Pillow hands out the upper 4: they are spread over all levels, not left black."""
    colour, _ = filled(bits, (24, 40, 3))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)
    expected = (colour >> 8).astype(int) * 255 // ((1 << kept) - 1)
    content = png(40, 24, 16, 2, rows)
    np.testing.assert_array_equal(levels(content), expected)
    np.testing.assert_array_equal(levels(Image.open(io.BytesIO(content))), expected)


def test_a_black_image_of_sixteen_bits_stays_black():
    rows = b"".join(b"\0" + bytes(2 * 3 * 5) for _ in range(4))
    assert not levels(png(5, 4, 16, 2, rows)).any()
    assert not levels(np.zeros((4, 5), np.uint16)).any()


def test_a_tiff_says_its_range():
    grey, eight = filled(12)
    dark, _ = filled(10)
    expected = np.stack([eight] * 3, axis=-1)
    np.testing.assert_array_equal(levels(tiff(packed(grey), 12, grey.shape)), expected)
    # 12 bits by its tags, however dark the image is.
    expected = np.stack([dark >> 4] * 3, axis=-1)
    np.testing.assert_array_equal(levels(tiff(packed(dark), 12, dark.shape)), expected)
    stated = tiff(dark.astype("<u2").tobytes(), 16, dark.shape, tags=[(281, 3, 4095)])
    np.testing.assert_array_equal(levels(stated), expected)
    odd = tiff(dark.astype("<u2").tobytes(), 16, dark.shape, tags=[(281, 3, 2000)])
    expected = np.stack([np.rint(dark.astype(float) * (255 / 2000))] * 3, axis=-1)
    np.testing.assert_array_equal(levels(odd), expected)
    # Of a range that its own levels leave, nothing is believed.
    wrong = tiff(grey.astype("<u2").tobytes(), 16, grey.shape, tags=[(281, 3, 1000)])
    np.testing.assert_array_equal(levels(wrong), np.stack([eight] * 3, axis=-1))


def test_a_tiff_whose_white_is_zero():
    grey, eight = filled(12)
    content = tiff(grey.astype("<u2").tobytes(), 16, grey.shape, photometric=0)
    np.testing.assert_array_equal(levels(content), np.stack([255 - eight] * 3, axis=-1))


def test_signed_greys_of_a_tiff():
    grey, eight = filled(12)
    content = tiff(grey.astype("<u2").tobytes(), 16, grey.shape, tags=[(339, 3, 2)])
    np.testing.assert_array_equal(levels(content), np.stack([eight] * 3, axis=-1))
    below = tiff((grey.astype("<i2") - 1).tobytes(), 16, grey.shape, tags=[(339, 3, 2)])
    with pytest.raises(EncodingError, match="below 0, whose range is not known"):
        levels(below)


def test_a_ppm_says_its_range_but_for_sixteen_bits():
    """Pillow stretches what PPM says, so that dark ones are dark; 65535 may stand for any range."""
    dark, _ = filled(10)
    content = b"P5 40 24 4095\n" + dark.astype(">u2").tobytes()
    np.testing.assert_allclose(levels(content)[..., 0], dark.astype(float) * 255 / 4095, atol=1)
    grey, eight = filled(12)
    content = b"P5 40 24 65535\n" + grey.astype(">u2").tobytes()
    np.testing.assert_array_equal(levels(content)[..., 0], eight)
    text = "P2 40 24 65535\n" + " ".join(map(str, grey.ravel()))
    np.testing.assert_array_equal(levels(text.encode())[..., 0], eight)
    colour = np.stack([grey] * 3, axis=-1)
    content = b"P6 40 24 65535\n" + colour.astype(">u2").tobytes()
    np.testing.assert_allclose(levels(content), colour * (255 / 4095), atol=26)  # 4 bits are left


@pytest.mark.skipif(not features.check_codec("jpg_2000"), reason="Pillow without JPEG 2000")
@pytest.mark.parametrize("bits", [12, 16])
def test_greys_of_jpeg_2000(bits):
    grey, eight = filled(bits)
    content = encoded(Image.fromarray(grey), "JPEG2000")
    np.testing.assert_array_equal(levels(content)[..., 0], eight)


@pytest.mark.parametrize("clear", [4095, 65535])
def test_alpha_may_be_of_another_range(clear):
    """Twelve bits under a full alpha of sixteen: no reason to leave the colours black."""
    grey, eight = filled(12)
    whole = np.full_like(grey, clear)
    expected = np.stack([eight] * 3, axis=-1)
    colours = np.dstack([grey] * 3 + [whole])
    np.testing.assert_array_equal(levels(colours), expected)
    for kind, content in ((4, np.dstack([grey, whole])), (6, colours)):
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in content)
        np.testing.assert_allclose(levels(png(40, 24, 16, kind, rows)), expected, atol=17)


def test_what_a_filter_adds_beyond_the_range_is_cut():
    """A sharpening filter takes white of 4095 to some 4300: that is white, and no 14 bits."""
    grey, eight = filled(12)
    sharp = grey.copy()
    sharp.flat[5] = 4300
    eight.flat[5] = 255
    expected = np.stack([eight] * 3, axis=-1)
    for source in (sharp, Image.fromarray(sharp), encoded(Image.fromarray(sharp), "TIFF")):
        np.testing.assert_array_equal(levels(source), expected)


def test_eight_bits_by_hand():
    assert greys.eight_bits(np.array([0, 255])).tolist() == [0, 255]
    assert greys.eight_bits(np.array([0, 256, 1023])).tolist() == [0, 64, 255]
    assert greys.eight_bits(np.array([0, 16, 4095])).tolist() == [0, 1, 255]
    assert greys.eight_bits(np.array([0, 16, 4095]), 65535).tolist() == [0, 0, 15]
    assert greys.eight_bits(np.zeros(0, np.uint16)).tolist() == []

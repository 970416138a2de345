"""Pictures in, pixels out: against upstream's own values, by hand, and with broken files."""

import dataclasses
import io
import os
import pickle
import struct
import zlib
from pathlib import Path

import image_cases as cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tessera_onnx.errors import (
    ConfigError,
    EncodingError,
    FileError,
    LoadError,
    TesseraError,
)
from tessera_onnx.images import decode, preprocess, prompt_ids

GOLDEN = dict(np.load(cases.GOLDEN))


def recipe(model_id="colpali-v1.2", **changes):
    return dataclasses.replace(cases.spec(model_id).vision.image, **changes)


FIT = recipe(size=16, resize="fit", longest=64, tokens=0, resample="bilinear")


def open_image(source, **options):
    return decode.open_image(source, **{"where": "images[3]", "alpha": "white", **options})


def levels(source, **options):
    return np.asarray(open_image(source, **options))


# ---------------------------------------------------------------- equal to upstream


def check(model_id, source, alpha, golden):
    used = recipe(model_id, alpha=alpha)
    found = preprocess.pixels(open_image(source, alpha=alpha), used)
    assert found.tiles.dtype == np.float32
    assert found.tiles.flags.c_contiguous
    tensor = cases.qwen_patches(found.tiles[0]) if used.resize == "dynamic" else found.tiles
    assert tensor.shape == tuple(golden[: tensor.ndim].astype(int))
    # A level of 255: more than this platform's compiler may round differently.
    level = 1 / 255 / min(used.std) + 1e-6
    np.testing.assert_allclose(tensor[cases.places(tensor.shape)], golden[4:], atol=level, rtol=0)


@pytest.mark.parametrize("model_id", cases.MODELS)
def test_pixels_are_those_of_transformers(model_id, tmp_path):
    for content, golden in zip(cases.files().values(), GOLDEN[f"{model_id} dropped"], strict=True):
        check(model_id, content, "dropped", golden)
    for name, golden in zip(cases.CLEAR, GOLDEN[f"{model_id} white"], strict=True):
        check(model_id, cases.files()[name], "white", golden)


@pytest.mark.parametrize("model_id", cases.MODELS)
def test_pixels_of_real_pages(model_id):
    if not cases.PAGES.exists():
        pytest.skip("the document pages of ../shared/data are not here")
    for name, golden in zip(cases.PAGE_NAMES, GOLDEN[f"{model_id} pages"], strict=True):
        check(model_id, cases.PAGES / f"{name}.png", "dropped", golden)


@pytest.mark.parametrize("model_id", cases.PROMPTED)
def test_ids_are_those_of_transformers(model_id):
    encode = cases.encode(cases.tokenizer())
    used = cases.spec(model_id).vision
    for width, height in cases.SIZES:
        found = preprocess.pixels(Image.new("RGB", (width, height)), used.image)
        tokens = found.cells[0] * found.cells[1]
        ids = prompt_ids.document_ids(used.prompt, tokens, found.rows, found.columns, encode)
        assert ids.dtype == np.int64
        np.testing.assert_array_equal(ids, GOLDEN[f"{model_id} ids {width} x {height}"])
        n_image = (ids == prompt_ids.image_id(used.prompt, encode)).sum()
        assert n_image == len(found.tiles) * tokens


def test_a_prompt_whose_image_token_the_tokenizer_does_not_know():
    prompt = cases.spec("colpali-v1.2").vision.prompt
    encode = cases.encode(cases.tokenizer())
    with pytest.raises(LoadError, match="is 3 tokens and not one"):
        prompt_ids.document_ids(dataclasses.replace(prompt, token="<i>"), 4, 1, 1, encode)
    twice = dataclasses.replace(prompt, end="<image>")
    with pytest.raises(LoadError, match="5 image tokens, expected 4"):
        prompt_ids.document_ids(twice, 4, 1, 1, encode)


# ---------------------------------------------------------------- the form of the pixels


@pytest.mark.parametrize(
    ("size", "cells", "covered"),
    [
        ((30, 20), (2, 2), (32, 32)),  # never enlarged
        ((64, 16), (1, 4), (64, 16)),
        ((128, 64), (2, 4), (128, 64)),  # halved
        ((100, 30), (2, 4), (100, 32 * 30 / 19)),  # 64 x 19, padded to 64 x 32
        ((1, 10_000), (4, 1), (16, 10_000)),  # no narrower than a pixel
        ((1, 1), (1, 1), (16, 16)),
    ],
)
def test_fit_by_hand(size, cells, covered):
    image = Image.fromarray(cases.picture(*size))
    found = preprocess.pixels(image, FIT)
    assert (found.rows, found.columns, found.cells) == (1, 1, cells)
    assert found.tiles.shape == (1, 3, cells[0] * 16, cells[1] * 16)
    assert found.size == size
    assert found.box == pytest.approx((0, 0, *covered))
    scale = min(1, 64 / max(size))
    width, height = (max(1, round(edge * scale)) for edge in size)
    assert (found.tiles[0, :, height:] == 1).all()  # white
    assert (found.tiles[0, :, :, width:] == 1).all()
    if scale == 1:
        expected = np.asarray(image).transpose(2, 0, 1) / 127.5 - 1
        np.testing.assert_allclose(found.tiles[0, :, :height, :width], expected, atol=1e-6)


def test_crop_by_hand():
    found = preprocess.pixels(Image.new("RGB", (448, 224)), recipe("clip-vit-b-32"))
    assert found.box == (112, 0, 336, 224)
    found = preprocess.pixels(Image.new("RGB", (100, 900)), recipe("clip-vit-b-32"))
    # 224 x 2016, of which the rows from 896 to 1120.
    assert found.box == pytest.approx((0, 400, 100, 500))


@pytest.mark.parametrize("model_id", ["colpali-v1.2", "colsmol-256m", "colqwen2-v1.0", "fit"])
@pytest.mark.parametrize("size", [(850, 1100), (1400, 850), (301, 77)])
def test_a_cell_lies_where_the_box_says(model_id, size):
    """A black spot on a white page darkens the cell that the box puts there, and no other more."""
    used = recipe(size=14, resize="fit", longest=640, tokens=0) if model_id == "fit" else None
    used = used or recipe(model_id)
    blank = preprocess.pixels(Image.new("RGB", size, "white"), used)
    down, across = blank.rows * blank.cells[0], blank.columns * blank.cells[1]
    left, top, right, bottom = blank.box
    for row, column in ((0, 0), (down // 3, across // 2), (down // 2, across - 2)):
        x, y = (right - left) / across, (bottom - top) / down
        spot = (left + column * x, top + row * y, left + (column + 1) * x, top + (row + 1) * y)
        image = Image.new("RGB", size, "white")
        image.paste("black", tuple(round(edge) for edge in spot))
        found = preprocess.pixels(image, used)
        tiles = found.tiles[: found.rows * found.columns, 0]
        tiles = tiles.reshape(found.rows, found.columns, *tiles.shape[1:])
        whole = np.concatenate([np.concatenate(list(line), axis=1) for line in tiles])
        means = whole.reshape(down, whole.shape[0] // down, across, -1).mean(axis=(1, 3))
        assert np.unravel_index(means.argmin(), means.shape) == (row, column)


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1)])
def test_lines_and_points(size):
    image = Image.new("RGB", size, (255, 0, 0))
    for model_id in ("colpali-v1.2", "siglip2-base-patch16-224", "colsmol-256m"):
        found = preprocess.pixels(image, recipe(model_id)).tiles
        assert (found[:, 0] == 1).all()
        assert (found[:, 1:] == -1).all()
    for model_id in ("clip-vit-b-32", "colqwen2-v1.0"):
        if size == (1, 1):
            assert preprocess.pixels(image, recipe(model_id)).size == (1, 1)
            continue
        with pytest.raises(EncodingError, match=r"no image more than 200 times as long as wide"):
            preprocess.pixels(image, recipe(model_id))


# ---------------------------------------------------------------- sources


def test_every_source_of_one_image(tmp_path):
    array = cases.picture(30, 20)
    path = tmp_path / "a page.png"
    Image.fromarray(array).save(path)
    content = path.read_bytes()
    for source in (path, str(path), content, bytearray(content), Image.open(path), array):
        np.testing.assert_array_equal(levels(source), array)
    read_only = array[::-1, ::2]  # negative and wide strides
    read_only.flags.writeable = False
    np.testing.assert_array_equal(levels(read_only), read_only)
    grey = array[..., 0]
    for source in (grey, grey[..., None]):
        np.testing.assert_array_equal(levels(source), np.stack([grey] * 3, axis=-1))
    clear = np.dstack([array, np.zeros_like(grey)])
    assert (levels(clear) == 255).all()
    np.testing.assert_array_equal(levels(clear, alpha="dropped"), array)


def test_memory_views():
    array = cases.picture(30, 20)
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    content = np.frombuffer(file.getvalue(), np.uint8)
    for view in (memoryview(content), memoryview(content.repeat(2))[::2]):
        np.testing.assert_array_equal(levels(view), array)
    view.release()
    with pytest.raises(ConfigError, match=r"images\[3\] is a memoryview that was released"):
        open_image(view)


def test_a_masked_array_is_refused_where_it_masks():
    array = np.ma.masked_array(cases.picture(30, 20))
    np.testing.assert_array_equal(levels(array), array.data)
    array[0, 0] = np.ma.masked
    with pytest.raises(ConfigError, match=r"images\[3\] must have no masked values"):
        open_image(array)


def test_the_source_stays_as_it_was():
    image = Image.open(io.BytesIO(cases.files()["palette, one colour clear"]))
    result = open_image(image)
    assert (image.mode, image.info["transparency"]) == ("P", 3)
    plain = Image.new("RGB", (4, 4))
    result = open_image(plain)
    result.paste("white", (0, 0, 4, 4))
    assert plain.getpixel((0, 0)) == (0, 0, 0)
    array = np.zeros((4, 4, 3), dtype=np.uint8)
    open_image(array).paste("white", (0, 0, 4, 4))
    assert not array.any()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WebP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(orientation, kind):
    content = cases.rotated(orientation, kind)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    assert expected.size == ((60, 90) if orientation > 4 else (90, 60))
    np.testing.assert_array_equal(levels(content), np.asarray(expected))
    np.testing.assert_array_equal(levels(Image.open(io.BytesIO(content))), np.asarray(expected))


def test_metadata_that_cannot_be_read_says_nothing():
    image = Image.fromarray(cases.picture(9, 6))
    for exif in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", b""):
        content = cases.encoded(image, exif=exif)
        np.testing.assert_array_equal(levels(content), np.asarray(image))


def png(width, height, depth, colour, rows=b""):
    """A PNG of raw rows; with none, a header alone."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_greys_of_sixteen_bits_are_scaled_as_colours_of_sixteen_bits_are():
    grey = np.arange(0, 65536, 37, dtype=">u2")[:1764].reshape(42, 42)
    colour = np.repeat(grey[..., None], 3, axis=2)
    rows = b"".join(b"\0" + row.tobytes() for row in colour)
    # Pillow's own reading of 16 bits a colour.
    expected = np.asarray(Image.open(io.BytesIO(png(42, 42, 16, 2, rows))))
    assert expected.max() > 250
    rows = b"".join(b"\0" + row.tobytes() for row in grey)
    np.testing.assert_array_equal(levels(png(42, 42, 16, 0, rows)), expected)
    np.testing.assert_array_equal(levels(b"P5 42 42 65535\n" + grey.tobytes()), expected)
    little = Image.fromarray(grey.astype("<u2"))
    np.testing.assert_array_equal(levels(little), expected)
    np.testing.assert_array_equal(levels(cases.encoded(little, "TIFF")), expected)


def test_greys_without_a_known_range():
    for array in (np.ones((3, 4), dtype=np.int32), np.ones((3, 4), dtype=np.float32)):
        with pytest.raises(EncodingError, match=r"images\[3\] has greys of 32 bits"):
            open_image(Image.fromarray(array))


def test_modes_that_only_a_pil_image_has():
    image = Image.fromarray(cases.picture(9, 6))
    expected = np.asarray(image.convert("YCbCr").convert("RGB"))
    np.testing.assert_array_equal(levels(image.convert("YCbCr")), expected)
    clear = Image.fromarray(cases.picture(9, 6, 4))
    premultiplied = clear.convert("RGBa")
    expected = np.asarray(premultiplied.convert("RGBA").convert("RGB"))
    np.testing.assert_array_equal(levels(premultiplied, alpha="dropped"), expected)
    flat = Image.alpha_composite(Image.new("RGBA", (9, 6), "white"), premultiplied.convert("RGBA"))
    np.testing.assert_array_equal(levels(premultiplied), np.asarray(flat.convert("RGB")))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WebP", "TIFF"])
def test_of_an_animation_the_first_frame(kind):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WebP" else {}
    content = cases.encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (levels(content) == (255, 0, 0)).all()
    image = Image.open(io.BytesIO(content))
    image.seek(1)  # a PIL image gives the frame that it stands at
    assert (levels(image) == (0, 0, 255)).all()


# ---------------------------------------------------------------- bad input


def header(kind, width=60_000, height=60_000):
    """A file whose header claims a size and that holds next to nothing else."""
    if kind == "PNG":
        return png(width, height, 8, 2)
    if kind == "PPM":
        return b"P6 %d %d 255\n" % (width, height)
    content = bytearray(cases.encoded(Image.new("RGB", (16, 16)), kind))
    if kind == "BMP":
        content[18:26] = struct.pack("<II", width, height)
    elif kind == "GIF":
        content[6:10] = struct.pack("<HH", width, height)
    elif kind == "JPEG":
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = struct.pack(">HH", height, width)
    elif kind == "TIFF":
        for tag, size in ((256, width), (257, height)):
            place = content.index(struct.pack("<HHI", tag, 4, 1)) + 8
            content[place : place + 4] = struct.pack("<I", size)
    return bytes(content)


@pytest.mark.parametrize("kind", ["PNG", "PPM", "BMP", "GIF", "JPEG", "TIFF"])
def test_a_header_that_claims_a_huge_image(kind, tmp_path):
    path = tmp_path / "huge"
    path.write_bytes(header(kind))
    limit = rf"{path} has 60000 x 60000 pixels, the limit is 178956970: .* larger max_pixels"
    with pytest.raises(FileError, match=limit):
        open_image(path)
    with pytest.raises(EncodingError, match=r"images\[3\] has 60000 x 60000 pixels"):
        open_image(header(kind))


def test_the_limit_is_the_callers(monkeypatch):
    content = cases.files()["rgb"]  # 300 x 200
    assert open_image(content, max_pixels=60_000).size == (300, 200)
    # Whatever Pillow's own limit is, of which it would warn and which it would then enforce.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert open_image(content, max_pixels=60_000).size == (300, 200)
    lazy = Image.new("RGB", (300, 200))
    for source in (content, lazy, np.asarray(lazy)):
        with pytest.raises(EncodingError, match=r"300 x 200 pixels, the limit is 59999"):
            open_image(source, max_pixels=59_999)
    # Its plugin for WebP asks for that limit before it gives the size, in newer versions.
    with pytest.raises(EncodingError, match=r"than the limit of Pillow|limit is 59999"):
        open_image(cases.files()["webp"], max_pixels=59_999)
    with pytest.raises(ConfigError, match="max_pixels must be at least 1, got 0"):
        open_image(content, max_pixels=0)
    for wrong in (1e6, True, "9"):
        with pytest.raises(TypeError, match="max_pixels must be int"):
            open_image(content, max_pixels=wrong)


def test_a_pil_image_that_is_too_large_is_not_decoded(tmp_path):
    path = tmp_path / "huge.png"
    path.write_bytes(png(60_000, 2_000, 8, 2))  # below the limit at which Pillow refuses
    with pytest.warns(Image.DecompressionBombWarning), Image.open(path) as image:
        with pytest.raises(EncodingError, match=r"the limit is 1000"):
            open_image(image, max_pixels=1000)


JPEG = cases.encoded(Image.fromarray(cases.picture(64, 64)), "JPEG")
NOT_IMAGES = {
    "text.png": (b"Dear reader, this is a letter.", "is no PNG, .* image: .* another format"),
    "drawing.svg": (b"<?xml version='1.0'?><svg/>", "SVG drawing, render it to PNG"),
    "page.pdf": (b"%PDF-1.7", "a PDF, whose pages are read with encode_pages"),
    "page.eps": (b"%!PS-Adobe-3.0 EPSF-3.0", "convert it to PNG"),
    "photo.heic": (b"\0\0\0\x18ftypheic", "convert it to PNG"),
    "icon.ico": (b"\0\0\1\0\1\0", "another format"),
    "riff.webp": (b"RIFF\x10\0\0\0WAVEfmt ", "cannot be decoded"),
    "letter.ppm": (b"P3 reader, this is a letter.", "cannot be decoded: ValueError"),
    "cut.jpg": (JPEG[:-200], "cannot be decoded: .*truncated"),
    "head.jpg": (JPEG[:30], "cannot be decoded"),
    "cut.png": (cases.files()["rgb"][:900], "cannot be decoded"),
    "cut.gif": (cases.files()["gif"][:500], "cannot be decoded"),
    "cut.webp": (cases.files()["webp"][:500], "cannot be decoded"),
    "cut.tif": (cases.files()["cmyk"][:500], "cannot be decoded"),
    "cut.bmp": (cases.files()["bmp"][:500], "cannot be decoded"),
    "cut.ppm": (cases.files()["ppm"][:500], "cannot be decoded"),
}


@pytest.mark.parametrize("name", NOT_IMAGES)
def test_files_that_are_no_images(name, tmp_path):
    content, reason = NOT_IMAGES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FileError, match=f"{path} .*{reason}") as caught:
        open_image(path)
    assert "reader" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(EncodingError, match=rf"^images\[3\] .*{reason}"):
        open_image(content)


@pytest.mark.posix
def test_paths_that_cannot_be_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty.png").touch()
    for path, reason in (
        (tmp_path, "cannot be read: it is a folder"),
        (tmp_path / "missing.png", "cannot be read: No such file"),
        (tmp_path / "empty.png", "cannot be read: it is empty"),
        (tmp_path / "pipe", "cannot be read: it is a pipe or a device"),
        ("/dev/zero", "cannot be read: it is a pipe or a device"),
        ("https://example.org/a.png", "addresses are not fetched, download it"),
    ):
        with pytest.raises(FileError, match=reason) as caught:
            open_image(path)
        assert str(path) in str(caught.value)
    for path, reason in (
        (tmp_path / ("x" * 300), "characters cannot be read: File name too long"),
        ("a\0b.png", "a name of 7 characters cannot be read: .*null"),
    ):
        with pytest.raises(FileError, match=reason) as caught:
            open_image(path)
        assert str(path) not in str(caught.value)
    with pytest.raises(EncodingError, match=r"images\[3\] is no .*: it is empty"):
        open_image(b"")


@pytest.mark.posix
def test_a_file_without_permission(tmp_path):
    path = tmp_path / "closed.png"
    path.write_bytes(cases.files()["rgb"])
    path.chmod(0)
    root = os.geteuid() == 0
    if root:  # who may read all files
        os.seteuid(54321)
    try:
        with pytest.raises(FileError, match=f"{path} cannot be read: Permission denied"):
            open_image(path)
    finally:
        if root:
            os.seteuid(0)


def test_a_disk_that_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(cases.files()["rgb"])

    class Failing(io.BytesIO):
        def read(self, *_):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", lambda *_: Failing())
    with pytest.raises(FileError, match=f"{path} cannot be read: Input/output error"):
        open_image(path)


def test_wrong_types_and_shapes():
    for source in (None, 3, [b""], {"image": 1}, {}, io.BytesIO, {"bytes": b"", "x": 1}):
        with pytest.raises(TypeError, match=r"images\[3\] must be a path, the bytes"):
            open_image(source)
    for array in (
        np.zeros((4, 4, 3)),
        np.zeros((4, 4), dtype=np.int16),
        np.zeros((4, 4), np.uint32),
    ):
        with pytest.raises(TypeError, match=r"images\[3\] must be a uint8 array, .*got"):
            open_image(array)
    for shape in ((4,), (3, 40, 50), (4, 4, 2), (1, 4, 4, 3), (0, 5), (5, 0, 3)):
        with pytest.raises(ConfigError, match=r"images\[3\] .*shape"):
            open_image(np.zeros(shape, dtype=np.uint8))
    with pytest.raises(EncodingError, match="has no pixels: its size is 0 x 4"):
        open_image(Image.new("RGB", (0, 4)))
    closed = Image.open(io.BytesIO(JPEG))
    closed.close()
    with pytest.raises(EncodingError, match=r"images\[3\] cannot be decoded: .*closed"):
        open_image(closed)


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(["rgb", "palette, alpha each", "cmyk", "gif", "bmp", "ppm", "webp", "JPEG"]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 4000),
)
def test_damaged_files_give_an_image_or_an_error_of_ours(name, changes, cut):
    content = bytearray(JPEG if name == "JPEG" else cases.files()[name])
    for place, value in changes:
        content[place % len(content)] = value
    try:
        image = open_image(bytes(content[: cut or None]), max_pixels=1_000_000)
    except TesseraError as error:
        assert str(error).startswith("images[3] ")
    else:
        assert image.mode == "RGB"

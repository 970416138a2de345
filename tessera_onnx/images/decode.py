"""Read an image from any source with Pillow: upright, RGB, and within limits.

The pixels equal those of the Pillow processors in Hugging Face's transformers with the same version
of Pillow, except for greys of 16 bits, which those clip to white.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import typing
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from io import BytesIO
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError, EncodingError, FileError
from tessera_onnx.images import greys, sources
from tessera_onnx.images.sources import LOCKS, Source

if typing.TYPE_CHECKING:
    from PIL import Image
from tessera_onnx.checks import check_limit

MAX_PIXELS = 178_956_970  # 716 MB of memory; Pillow itself refuses larger images

# The plugins of Pillow that may run, by the first bytes of a file. Others stay out: some start
# other programs (EPS: Ghostscript), most are seldom used and little tested.
PLUGINS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "Png"),
    (b"\xff\xd8\xff", "Jpeg"),
    (b"RIFF", "WebP"),
    (b"II*\0", "Tiff"),
    (b"MM\0*", "Tiff"),
    (b"BM", "Bmp"),
    (b"GIF8", "Gif"),
    *((b"P%d" % number, "Ppm") for number in range(1, 7)),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "Jpeg2K"),
    (b"\xff\x4f\xff\x51", "Jpeg2K"),
)
FORMATS = "PNG, JPEG, WebP, TIFF, BMP, GIF, PPM, AVIF or JPEG 2000"
# Plugins that a build of Pillow may lack, and the names of their formats.
OPTIONAL = {"Avif": "AVIF", "Jpeg2K": "JPEG 2000", "WebP": "WebP"}

# The member of PIL.Image.Transpose that undoes each EXIF orientation.
UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
ORIENTATION = 0x0112


def open_image(
    source: Source,
    *,
    where: str,
    alpha: Literal["dropped", "white"],
    max_pixels: int = MAX_PIXELS,
    on_frames: Callable[[int], None] | None = None,
) -> Image.Image:
    """Read an image as RGB, turned upright by its EXIF orientation.

    source: a path, the bytes of a file, an open binary file, {"bytes": ..., "path": ...}, a data:
    URI, a PIL image, or a uint8 or uint16 array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), RGB or
    RGBA. Levels of 16 bits are reduced to eight (see greys).

    Of an animation, and of a TIFF with several pages, the first frame is read, and `on_frames` is
    called with their number. Of a PIL image the current frame is read, and `on_frames` is called if
    that is the first of several. Messages call a source that is no file by the name `where`.

    The result shares no memory with the source. Raises FileError for a file, EncodingError for any
    other source, that is missing, no image, damaged, or larger than `max_pixels` (its size is known
    from the header before any decoding); TypeError and ConfigError for another type or shape.
    """
    check_limit(max_pixels, "max_pixels")
    from PIL import Image

    source = sources.resolved(source, where)
    opening = _Opening(where, EncodingError, max_pixels)
    if isinstance(source, str | os.PathLike | bytes | bytearray):
        with _file(source, where, max_pixels) as (opening, file):
            count = frame_count(file)
            image = opening.rgb(file, alpha)
        if count > 1 and on_frames is not None:
            on_frames(count)
        return image
    if isinstance(source, np.ndarray):
        array = _levels(source, where)
        opening.check_size(array.shape[1], array.shape[0])
        return opening.rgb(Image.fromarray(array), alpha)
    if isinstance(source, Image.Image):
        with LOCKS["pil"]:
            if on_frames is not None and not source.tell() and (count := frame_count(source)) > 1:
                on_frames(count)
            return opening.rgb(source, alpha)
    raise TypeError(f"{where} must be {sources.IMAGES}, got {type(source).__name__}")


def frames(
    source: str | os.PathLike[str] | bytes | bytearray | Image.Image,
    *,
    where: str,
    alpha: Literal["dropped", "white"],
    max_pixels: int = MAX_PIXELS,
    max_frames: int,
    chosen: Callable[[int], list[int]] = lambda count: list(range(count)),
) -> Iterator[tuple[int, Image.Image]]:
    """Read the frames of a file, such as the pages of a TIFF, with their numbers from 0.

    `chosen` gets the number of frames and returns the numbers of those to read. After each frame a
    PIL image is back at the frame where it was before. Raises as `open_image` does, and for more
    than `max_frames` frames; `index` of an error about a frame is its place among those chosen.
    """
    with _file(source, where, max_pixels) as (opening, file):
        wanted = chosen(frame_count(file))
        if len(wanted) > max_frames:
            raise opening.error(
                f"{opening.name} has {len(wanted)} frames, the limit is {max_frames}: split it, or "
                "pass a larger max_pages"
            )
        for place, number in enumerate(wanted):
            opening.name, opening.index = f"{opening.file}, page {number + 1}", place
            with LOCKS["pil"]:
                before = file.tell()
                with opening.decoding():
                    file.seek(number)
                image = opening.rgb(file, alpha)
                if file is source:
                    with opening.decoding():  # in some animations Pillow cannot go back
                        file.seek(before)
            yield number, image


@contextlib.contextmanager
def _file(
    source: str | os.PathLike[str] | bytes | bytearray | Image.Image, where: str, max_pixels: int
) -> Iterator[tuple[_Opening, Image.Image]]:
    """Open a file, by its path or its bytes, as a PIL image that is not decoded yet."""
    opening = _Opening(where, EncodingError, max_pixels)
    if isinstance(source, bytes | bytearray):
        with opening.opened(BytesIO(source)) as image:
            yield opening, image
    elif not isinstance(source, str | os.PathLike):
        yield opening, source
    else:
        with sources.opened(source) as stream:
            opening = _Opening(sources.named(source), FileError, max_pixels)
            opening.path = sources.error_path(source)
            with opening.opened(stream) as image:
                yield opening, image


def count_pages(path: str | os.PathLike[str] | bytes) -> int:
    """The number of pages of a TIFF, by its path or its bytes; 1 for any other file.

    No page is decoded.
    """
    with contextlib.suppress(EncodingError, FileError), _file(path, "", MAX_PIXELS) as (_, image):
        return frame_count(image) if image.format == "TIFF" else 1
    return 1


def plugin_of(head: bytes) -> str | None:
    """The plugin of Pillow for a file with these first bytes; None if it is not read."""
    if head[4:8] == b"ftyp" and {b"avif", b"avis"} & {head[8:12], head[16:20], head[20:24]}:
        return "Avif"
    return next((name for magic, name in PLUGINS if head.startswith(magic)), None)


def frame_count(image: Image.Image) -> int:
    """The number of pages of a TIFF or frames of an animation; 1 where it cannot be read."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # the first frame may be fine though a later one is damaged
        return 1


class _Opening:
    """Opens and decodes one image, and makes its errors."""

    def __init__(self, name: str, error: type[EncodingError | FileError], max_pixels: int) -> None:
        self.file = self.name = name  # in messages
        self.path: str | None = None
        self.index: int | None = None
        self.max_pixels = max_pixels
        self._error = error
        self._is_text = False  # then Pillow's messages may quote the file, which ours must not

    def error(self, message: str) -> EncodingError | FileError:
        """An error about this image."""
        return self._error(message, path=self.path, index=self.index)

    @contextlib.contextmanager
    def opened(self, stream: BinaryIO) -> Iterator[Image.Image]:
        """Open a file as a PIL image; only its header is read."""
        head = stream.read(512)
        stream.seek(0)
        plugin = plugin_of(head)
        if plugin is None:
            raise self.error(f"{self.name} is no {FORMATS} image: {_what(head)}")
        if not _is_built(plugin):
            raise self.error(
                f"{self.name} is {OPTIONAL[plugin]}, which this build of Pillow does not read: "
                "install a build that does, or convert it to PNG"
            )
        self._is_text = plugin == "Ppm"
        # Not Image.open: it has a limit of its own, warns below it, and knows nothing of a limit
        # that the caller raised.
        module = importlib.import_module(f"PIL.{plugin}ImagePlugin")
        with self.decoding():
            image = getattr(module, f"{plugin}ImageFile")(stream)
        with image:
            yield image

    def rgb(self, image: Image.Image, alpha: str) -> Image.Image:
        """Make an upright RGB image from a PIL image of any mode."""
        from PIL import Image

        self.check_size(*image.size)
        with self.decoding():
            deep, stretched = greys.is_deep(image), greys.is_stretched(image)
            image.load()
            # Asked after load(), which turns a TIFF upright by itself.
            method = UPRIGHT.get(_orientation(image))
            levels = greys.of_image(image, stretched=stretched)
            if levels is not None:
                result = Image.fromarray(levels).convert("RGB")
            else:
                result = self.converted(greys.brightened(image) if deep else image, alpha)
            return result.transpose(Image.Transpose[method]) if method else result

    def check_size(self, width: int, height: int) -> None:
        if width < 1 or height < 1:
            raise self.error(f"{self.name} has no pixels: its size is {width} x {height}")
        if width * height > self.max_pixels:
            raise self.error(
                f"{self.name} has {width} x {height} pixels, the limit is {self.max_pixels}: "
                "make it smaller, or pass a larger max_pixels"
            )

    @contextlib.contextmanager
    def decoding(self) -> Iterator[None]:
        """Turn what Pillow raises into an error about this image."""
        from PIL import Image

        try:
            yield
        except (EncodingError, FileError, MemoryError):
            raise
        except Image.DecompressionBombError as error:  # only Pillow's WebP plugin raises it here
            raise self.error(
                f"{self.name} has more pixels than the limit of Pillow: make it smaller, or set "
                "PIL.Image.MAX_IMAGE_PIXELS to half as many as it may have"
            ) from error
        except Exception as error:  # plugins raise OSError, SyntaxError, struct.error, ...
            reason = "" if self._is_text else str(error)[:200]
            reason = reason or type(error).__name__
            cause = None if self._is_text else error
            raise self.error(f"{self.name} cannot be decoded: {reason}") from cause

    def converted(self, image: Image.Image, alpha: str) -> Image.Image:
        from PIL import Image

        if image.mode in {"I", "F"}:
            raise self.error(
                f"{self.name} has greys of 32 bits or below 0, whose range is not known: "
                "scale them to 0..255 first"
            )
        clear = image.info.get("transparency")
        if alpha == "dropped":
            if isinstance(clear, bytes) or "a" in image.getbands():
                image = image.convert("RGBA")  # the direct way warns, or is missing in Pillow
            image = image.convert("RGB")  # one transparent colour stays, and becomes white below
            clear = image.info.get("transparency")
        if clear is None and not {"A", "a"} & set(image.getbands()):
            return image if alpha == "dropped" else image.convert("RGB")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")


def _is_built(plugin: str) -> bool:
    """Whether this build of Pillow holds the decoder of that plugin."""
    from PIL import features

    if plugin == "Jpeg2K":
        return bool(features.check_codec("jpg_2000"))
    return plugin not in OPTIONAL or find_spec(f"PIL._{plugin.lower()}") is not None


def _what(head: bytes) -> str:
    """What a file that is no image seems to be by its first bytes, and what to do with it."""
    if not head:
        return "it is empty"
    if head.startswith(b"%PDF"):
        return "it is a PDF, whose pages are read with encode_pages"
    if b"<svg" in head:
        return "it is an SVG drawing, render it to PNG first"
    if head[4:8] == b"ftyp" or head.startswith(b"%!PS"):
        return "convert it to PNG first, or pass it as a PIL image"
    return "its first bytes are those of another format"


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # the pixels may be fine though the metadata is damaged
        return 1


def _levels(array: NDArray[Any], where: str) -> NDArray[np.uint8]:
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise TypeError(
            f"{where} must be a uint8 array, levels 0 to 255, or a uint16 array, got {array.dtype}"
        )
    if np.ma.is_masked(array):
        raise ConfigError(f"{where} must have no masked values: fill or drop them")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in {3, 4}):
        raise ConfigError(
            f"{where} must have shape (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), got {array.shape}"
        )
    if not array.size:
        raise ConfigError(f"{where} has no pixels: its shape is {array.shape}")
    return np.ascontiguousarray(array if array.dtype == np.uint8 else greys.of_array(array))

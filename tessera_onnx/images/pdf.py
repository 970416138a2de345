"""Draw the pages of a PDF as images with pypdfium2, one at a time; read those of a TIFF."""

from __future__ import annotations

import contextlib
import functools
import math
import numbers
import os
import re
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera_onnx import checks
from tessera_onnx.checks import check_items
from tessera_onnx.errors import ConfigError, EncodingError, FileError, about_item, install_hint
from tessera_onnx.images import decode, page_text, sources, views
from tessera_onnx.images.page_text import Word
from tessera_onnx.models.spec_media import ImageSpec as Recipe

if typing.TYPE_CHECKING:
    from PIL import Image

# The longest edge of a page in pixels, where neither `dpi` nor a recipe decides. A file may claim
# any size in points; a fixed edge in pixels bounds the memory.
LONGEST = 2048
MAX_PAGES = 500
TYPE = 10.0  # points: the assumed font size of a page without a text layer
# A model that shrinks a page to a square gets twice the square's edge, so that letters stay even.
OVERSAMPLED = 2

Content: typing.TypeAlias = "str | os.PathLike[str] | bytes | bytearray | Image.Image"


@dataclass(frozen=True, slots=True)
class Page:
    """A page as an image, with the words of its text layer if they were asked for."""

    number: int  # from 1
    image: Image.Image | None  # None: the page has no size
    words: tuple[Word, ...] = ()  # their boxes are in pixels of the image
    of: int = 1  # the number of pages of the document


@dataclass(frozen=True, slots=True)
class Options:
    """The checked arguments of `read_pages`."""

    dpi: float | None
    recipe: Recipe | None
    pages: tuple[int, ...] | None  # from 1; None = all
    password: str | None
    max_pages: int
    max_pixels: int
    words: bool


def read_pages(
    source: sources.Source,
    *,
    dpi: float | None = None,
    recipe: Recipe | None = None,
    pages: Iterable[int] | str | None = None,
    password: str | None = None,
    max_pages: int = MAX_PAGES,
    max_pixels: int = decode.MAX_PIXELS,
    words: bool = False,
) -> Iterator[Page]:
    """Draw the pages of a PDF as RGB images, in order, each when the iterator reaches it.

    Filled forms and annotations are drawn. A page without size has no image. The file is closed
    after the last page, and when the iterator is closed or dropped.

    Args:
        source: a path, the bytes of a file, an open binary file, {"bytes": ..., "path": ...} or a
            data: URI; or a file of images or a PIL image, whose frames are the pages.
        dpi: pixels an inch (72 points). None draws a page as large as the model of `recipe` reads
            it; without a recipe its longest edge has 2048 pixels.
        recipe: the image table of a model.
        pages: numbers from 1, in the order wanted, or a str such as "1-3,7"; None takes all.
        password: opens an encrypted PDF.
        max_pages: a document of which more pages are wanted is refused.
        max_pixels: a larger page is refused.
        words: whether to read the words of the text layer.

    Raises:
        FileError, or EncodingError where `source` is no path: it is no PDF, damaged beyond repair,
            encrypted with another password, without pages, or above a limit. An error about a page
            says its number, and its `index` is the place of the page among those wanted; the pages
            before it are given out.
        ImportError: pypdfium2 is not installed (the extra `pdf`).
        TypeError, ConfigError: an argument is wrong.
    """
    if not sources.is_source(source) or isinstance(source, np.ndarray):
        raise TypeError(
            f"source must be {sources.FORMS} or a PIL image, got {type(source).__name__}"
        )
    if dpi is not None:
        if isinstance(dpi, bool) or not isinstance(dpi, numbers.Real):  # NumPy's are Real too
            raise TypeError(f"dpi must be a number or None, got {type(dpi).__name__}")
        try:
            dpi = float(dpi)
        except OverflowError:  # a whole number of hundreds of digits
            dpi = math.inf
        if not (dpi > 0 and math.isfinite(dpi)):
            raise ConfigError(f"dpi must be above 0 and finite, got {dpi:g}")
    if password is not None and not isinstance(password, str):
        raise TypeError(f"password must be str or None, got {type(password).__name__}")
    checks.check_limit(max_pages, "max_pages")
    checks.check_limit(max_pixels, "max_pixels")
    numbers_of_pages = None if pages is None else page_numbers(pages)
    options = Options(dpi, recipe, numbers_of_pages, password, max_pages, max_pixels, words)
    content = sources.resolved(source, "the PDF")
    if _is_image(content):
        if dpi is not None:
            raise ConfigError(
                f"{_name(content)} is an image, with pixels of its own: dpi is for PDFs"
            )
        return _frames(content, options)
    _need_pdfium()
    return _read(content, options)


def is_pdf(content: object) -> bool:
    """Whether a file, by its path or its bytes, begins like a PDF; False if it is unreadable."""
    head = _head(content)
    return b"%PDF-" in head and decode.plugin_of(head) is None


def _head(content: object) -> bytes:
    """The first bytes of a file, by its path or its bytes; b"" if it cannot be read."""
    if isinstance(content, bytes | bytearray):
        return bytes(content[:1024])
    if isinstance(content, str | os.PathLike):
        with contextlib.suppress(FileError), sources.opened(content) as stream:
            return stream.read(1024)
    return b""


def _is_picture(content: object) -> bool:
    from PIL import Image

    return isinstance(content, Image.Image)


def _is_image(content: Content) -> bool:
    """Whether it is a PIL image or a file that begins like an image."""
    return _is_picture(content) or decode.plugin_of(_head(content)) is not None


def _name(content: Content) -> str:
    if isinstance(content, str | os.PathLike):
        return sources.named(content)
    return "the file" if isinstance(content, bytes | bytearray) else "the image"


def _frames(content: Content, options: Options) -> Iterator[Page]:
    alpha = options.recipe.alpha if options.recipe is not None else "white"
    name = _name(content)
    found = decode.frames(
        content, where=name, alpha=alpha, max_pixels=options.max_pixels,
        max_frames=options.max_pages, chosen=lambda count: _chosen(options.pages, count, name),
    )  # fmt: skip
    return (Page(number + 1, image) for number, image in found)


def page_numbers(pages: Iterable[int] | str) -> tuple[int, ...]:
    """Read page numbers, such as [1, 3] or "1-3,7".

    Raises TypeError and ConfigError; `index` is the place of a wrong number in a list.
    """
    if isinstance(pages, str):
        found: list[int] = []
        for part in pages.split(","):
            match = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
            if not 1 <= first <= last or last - first > 1_000_000:
                raise ConfigError('pages must be numbers from 1, such as "1-3,7"')
            found += range(first, last + 1)
        return tuple(found)
    check_items(pages, "pages", "numbers")
    if not isinstance(pages, Iterable):
        raise TypeError(
            f'pages must be a list of numbers or a str such as "1-3,7", got {type(pages).__name__}'
        )
    listed = list(pages)
    for i, number in enumerate(listed):
        with about_item(i):
            if isinstance(number, bool) or not isinstance(number, numbers.Integral):
                raise TypeError(f"pages must hold numbers, got {type(number).__name__}")
            if number < 1:
                raise ConfigError("pages are numbered from 1")
    if not listed:
        raise ConfigError("pages is empty: None takes all of them")
    return tuple(int(number) for number in listed)


def _chosen(pages: tuple[int, ...] | None, count: int, name: str) -> list[int]:
    """The numbers from 0 of the pages wanted, of `count`.

    Raises ConfigError for a page that is not there; its `index` is the place of the number.
    """
    if pages is None:
        return list(range(count))
    for i, number in enumerate(pages):
        if number > count:
            raise ConfigError(f"{name} has no page {number}: it has {count}", index=i)
    return [number - 1 for number in pages]


def _read(content: str | os.PathLike[str] | bytes | bytearray, options: Options) -> Iterator[Page]:
    with _opened(content, options.password) as (document, name, error):
        with sources.LOCKS["pdfium"]:
            wanted = _chosen(options.pages, len(document), name)
        if len(wanted) > options.max_pages:
            raise error(
                f"{name} has {len(wanted)} pages, the limit is {options.max_pages}: split it, or "
                "pass a larger max_pages"
            )
        for place, number in enumerate(wanted):
            try:
                with sources.LOCKS["pdfium"]:
                    page = _page(document, number, options)
            except (ValueError, RuntimeError) as reason:  # PDFium raises RuntimeErrors
                hint = "" if isinstance(reason, ValueError) else " Leave it out with `pages=`."
                message = f"{name}, page {number + 1}: {reason}{hint}"
                raise error(message, index=place) from reason
            yield page


def read_texts(path: str | os.PathLike[str], *, password: str | None = None) -> Iterator[str]:
    """The text layer of each page of a PDF, in order; "" for a page without one, such as a scan.

    Raises FileError as `read_pages` does, ImportError where pypdfium2 is missing.
    """
    _need_pdfium()
    with _opened(path, password) as (document, name, error):
        for number in range(len(document)):
            try:
                with sources.LOCKS["pdfium"]:
                    text = page_text.text(document, number)
            except (ValueError, RuntimeError) as reason:
                raise error(f"{name}, page {number + 1}: {reason}", index=number) from reason
            yield text


def _need_pdfium() -> None:
    """Raises ImportError where pypdfium2 is missing: now, not at the first page."""
    try:
        import pypdfium2  # noqa: F401
    except ImportError as error:
        raise ImportError(f"PDF pages need pypdfium2: {install_hint('pdf')}") from error


@contextlib.contextmanager
def _opened(
    content: str | os.PathLike[str] | bytes | bytearray, password: str | None
) -> Iterator[tuple[Any, str, Callable[..., EncodingError | FileError]]]:
    """An open document, its name in messages, and the class of errors about it."""
    if isinstance(content, bytes | bytearray):
        content = bytes(content)
        head, name = content[:1024], "the PDF"
        error: Callable[..., EncodingError | FileError] = EncodingError
    else:
        name = sources.named(content)
        error = functools.partial(FileError, path=sources.error_path(content))
        with sources.opened(content) as stream:
            head = stream.read(1024)
    if b"%PDF-" not in head:  # readers look for it in the first 1024 bytes
        raise error(f"{name} is no PDF: it does not begin as one")
    with sources.LOCKS["pdfium"]:
        try:
            document = _open(content, password)
        except (ValueError, RuntimeError) as reason:
            raise error(f"{name} cannot be read: {reason}") from None
    try:
        yield document, name, error
    finally:
        _close(document)


def _open(source: str | os.PathLike[str] | bytes, password: str | None) -> Any:
    """Open a document. Raises ValueError that says what is wrong with it.

    It calls PDFium itself: for a document without pages, pypdfium2 leaves the document open and
    reports the reason of an earlier failure.
    """
    import pypdfium2
    from pypdfium2 import raw

    key = None if password is None else password.encode("utf-8", "surrogatepass") + b"\0"
    if isinstance(source, bytes):
        handle = raw.FPDF_LoadMemDocument64(source, len(source), key)
    else:
        handle = raw.FPDF_LoadDocument(os.fsencode(source) + b"\0", key)
    if not handle:
        code = raw.FPDF_GetLastError()
        if code == raw.FPDF_ERR_PASSWORD:
            raise ValueError(
                "it is encrypted, pass its `password=`"
                if password is None
                else "it is encrypted with another password"
            )
        raise ValueError(
            "it is encrypted by an unknown method, save it without a password first"
            if code == raw.FPDF_ERR_SECURITY
            else "it is damaged beyond repair"
        )
    document = pypdfium2.PdfDocument(handle)
    document.init_forms()  # before any page is loaded, else filled forms are not drawn
    if not len(document):
        document.close()
        raise ValueError("it has no pages")
    return document


def _close(document: Any) -> None:
    with sources.LOCKS["pdfium"]:
        document.close()


def _page(document: Any, number: int, options: Options) -> Page:
    """Draw one page. Raises ValueError that says what is wrong with it."""
    page = document[number]
    try:
        size = page.get_size()
        if not (min(size) > 0 and max(size) < math.inf):
            return Page(number + 1, None, of=len(document))
        scale = options.dpi / 72 if options.dpi is not None else _scale(page, size, options.recipe)
        # As floats: with a senseless dpi they may be 0 or infinite.
        width, height = (float(np.ceil(points * scale)) for points in size)
        asked = "the default" if options.dpi is None else f"{options.dpi:g}"
        if width * height > options.max_pixels:
            raise ValueError(
                f"it has {width:.9g} x {height:.9g} pixels at {asked} dpi, the limit is "
                f"{options.max_pixels}: pass a smaller dpi, or a larger max_pixels"
            )
        if not width * height > 0:
            raise ValueError(f"it has no pixels at {asked} dpi: pass a larger one")
        bitmap = page.render(scale=scale)
        try:
            image = typing.cast("Image.Image", bitmap.to_pil().convert("RGB"))
        finally:
            bitmap.close()
        words = page_text.words(page, image.size) if options.words else ()
        return Page(number + 1, image, words, len(document))
    finally:
        page.close()


def _scale(page: Any, size: tuple[float, float], recipe: Recipe | None) -> float:
    """Pixels a point: as large as the model of the recipe reads the page.

    Where the recipe says a height of letters, the letters of the page are made no higher. Their
    font size is that of most letters of the text layer, else TYPE points.
    """
    edge, short = max(size), min(size)
    if recipe is None:
        return (LONGEST - 0.5) / edge  # PDFium rounds up, so that 2048 would become 2049
    square = recipe.resize in {"stretch", "crop"}
    if square or views.is_long(*size):
        # As wide as an A4 page; a long page is then read in views.
        ratio = math.sqrt(2)
        most = OVERSAMPLED * recipe.size if square else views.longest(1, ratio, recipe) / ratio
        room = math.sqrt(decode.MAX_PIXELS / 4 / (edge * short))
        scale = min((most - 0.5) / short, views.most_length(recipe) / edge, room)
    else:
        scale = (views.longest(*size, recipe) - 0.5) / edge
    if recipe.letters is None:
        return scale
    high = page_text.letters(page) or TYPE
    return min(scale, recipe.letters / high)

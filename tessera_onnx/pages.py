"""The pages of a PDF become images, one at a time, through pypdfium2."""

from __future__ import annotations

import contextlib
import math
import numbers
import os
import typing
from collections.abc import Iterator
from typing import Any

import numpy as np

from tessera_onnx import images
from tessera_onnx.errors import ConfigError, EncodingError, FileError, install_hint

if typing.TYPE_CHECKING:
    from PIL import Image

# The longest edge of a page, in pixels, unless a resolution is asked for. The models that cut a
# page into tiles read 2048 (A4 at 175 dpi); those of a fixed square read less and shrink it.
# A page of any size in points, which a file may claim at will, takes the same memory.
LONGEST = 2048
MAX_PAGES = 500


def render(
    source: str | os.PathLike[str] | bytes,
    *,
    dpi: float | None = None,
    max_pages: int = MAX_PAGES,
    max_pixels: int = images.MAX_PIXELS,
) -> Iterator[Image.Image]:
    """RGB images of the pages of a PDF, in order, each made when it is asked for.

    source: a path, or the bytes of a file. dpi: pixels an inch of 72 points; None = as many as
    make the longest edge of each page 2048 pixels. Filled forms and annotations are drawn. The
    file is closed after the last page, and when the iterator is closed or dropped.

    Raises FileError for a file, EncodingError for bytes, that is no PDF, damaged beyond repair,
    encrypted, without pages, of more than `max_pages`, or with a page of more than `max_pixels`,
    whose number the message holds (from 1; pages before it are given out). Raises ImportError
    without pypdfium2 (the extra `pdf`), TypeError and ConfigError for arguments.
    """
    if not isinstance(source, str | os.PathLike | bytes):
        raise TypeError(f"source must be a path or bytes, got {type(source).__name__}")
    if dpi is not None:
        if isinstance(dpi, bool) or not isinstance(dpi, numbers.Real):  # NumPy's are Real too
            raise TypeError(f"dpi must be a number or None, got {type(dpi).__name__}")
        try:
            dpi = float(dpi)
        except OverflowError:  # a whole number of hundreds of digits
            dpi = math.inf
        if not (dpi > 0 and math.isfinite(dpi)):
            raise ConfigError(f"dpi must be above 0 and finite, got {dpi:g}")
    images.check_limit(max_pages, "max_pages")
    images.check_limit(max_pixels, "max_pixels")
    try:
        import pypdfium2  # noqa: F401 (missing now, not at the first page)
    except ImportError as error:
        raise ImportError(f"PDF pages need pypdfium2: {install_hint('pdf')}") from error
    return _render(source, dpi, max_pages, max_pixels)


def _render(
    source: str | os.PathLike[str] | bytes, dpi: float | None, max_pages: int, max_pixels: int
) -> Iterator[Image.Image]:
    error: type[EncodingError | FileError] = EncodingError
    name = "the PDF"
    if isinstance(source, bytes):
        head = source[:1024]
    else:
        name, error = str(source), FileError
        with images.opened(source) as stream:
            head = stream.read(1024)
    if b"%PDF-" not in head:  # where readers look for it
        raise error(f"{name} is no PDF: it does not begin as one")
    with contextlib.ExitStack() as stack:
        with images.LOCKS["pdfium"]:
            try:
                document = _open(source)
            except (ValueError, RuntimeError) as reason:
                raise error(f"{name} cannot be read: {reason}") from None
            stack.callback(_close, document)
            n_pages = len(document)
        if n_pages > max_pages:
            raise error(
                f"{name} has {n_pages} pages, the limit is {max_pages}: split it, or pass a "
                "larger max_pages"
            )
        for number in range(n_pages):
            try:
                with images.LOCKS["pdfium"]:
                    page = _page(document, number, dpi, max_pixels)
            except (ValueError, RuntimeError) as reason:  # PDFium's own are of the latter
                raise error(f"{name}, page {number + 1}: {reason}") from reason
            yield page


def _open(source: str | os.PathLike[str] | bytes) -> Any:
    """The document. Raises ValueError with what is wrong with it.

    By PDFium's own calls: pypdfium2's keep a document without pages open, and give the reason of
    an earlier failure for it.
    """
    import pypdfium2
    from pypdfium2 import raw

    if isinstance(source, bytes):
        handle = raw.FPDF_LoadMemDocument64(source, len(source), None)
    else:
        handle = raw.FPDF_LoadDocument(os.fsencode(source) + b"\0", None)
    if not handle:
        code = raw.FPDF_GetLastError()
        locked = code in {raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY}
        raise ValueError(
            "it is encrypted, save it without a password first"
            if locked
            else "it is damaged beyond repair"
        )
    document = pypdfium2.PdfDocument(handle)
    document.init_forms()  # before any page is loaded, or what is filled in stays out
    if not len(document):
        document.close()
        raise ValueError("it has no pages")
    return document


def _close(document: Any) -> None:
    with images.LOCKS["pdfium"]:
        document.close()


def _page(document: Any, number: int, dpi: float | None, max_pixels: int) -> Image.Image:
    """One page. Raises ValueError with what is wrong with it."""
    page = document[number]
    try:
        longest = max(page.get_size())
        if not 0 < longest < math.inf:
            raise ValueError("it has no size")
        # PDFium rounds up, which must not make 2049 of 2048.
        scale = (LONGEST - 0.5) / longest if dpi is None else dpi / 72
        # Of floats, for a dpi without sense: those may be 0, and infinite.
        width, height = (float(np.ceil(points * scale)) for points in page.get_size())
        asked = "the default" if dpi is None else f"{dpi:g}"
        if width * height > max_pixels:
            raise ValueError(
                f"it has {width:.9g} x {height:.9g} pixels at {asked} dpi, the limit is "
                f"{max_pixels}: pass a smaller dpi, or a larger max_pixels"
            )
        if not width * height > 0:
            raise ValueError(f"it has no pixels at {asked} dpi: pass a larger one")
        bitmap = page.render(scale=scale)
        try:
            return typing.cast("Image.Image", bitmap.to_pil().convert("RGB"))
        finally:
            bitmap.close()
    finally:
        page.close()

"""Read the one image or page on which the answer to a query is located."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tessera_onnx.errors import (
    ConfigError,
    EncodingError,
    TesseraError,
    TruncationWarning,
    tell,
)
from tessera_onnx.images import pdf, sources
from tessera_onnx.images.page_text import Word
from tessera_onnx.images.sources import Source
from tessera_onnx.models.spec_media import ImageSpec

if TYPE_CHECKING:
    from PIL import Image


def read_page(
    document: Source,
    page: int | None,
    read_image: Callable[[Any, str], Image.Image],
    *,
    recipe: ImageSpec,
    dpi: float | None,
    password: str | None,
    max_pixels: int,
) -> tuple[Image.Image, Sequence[Word]]:
    """Read an image, or one page of a PDF or TIFF with the words of its text layer.

    `page` counts from 1; None takes the first, with a TruncationWarning where a PDF has more.
    `read_image` reads what is no PDF. Raises ConfigError for a page that is not there and for `dpi`
    of an image, EncodingError for a page without size; and what reading raises.
    """
    content = sources.resolved(document, "document")
    (number,) = pdf.page_numbers([1 if page is None else page])
    is_array = isinstance(content, np.ndarray)
    if is_array and number > 1:
        raise ConfigError(f"document has no page {number}: an array is one page")
    if is_array or (page is None and not pdf.is_pdf(content)):
        if dpi is not None:
            raise ConfigError("dpi is for PDFs: an image has its own pixels")
        return read_image(content, "document"), ()
    try:
        (found,) = pdf.read_pages(
            content, dpi=dpi, recipe=recipe, pages=[number],
            password=password, max_pixels=max_pixels, words=True,
        )  # fmt: skip
    except TesseraError as error:
        error.index = None  # it is the place in `pages`, and the caller gave no list
        raise
    if page is None and found.of > 1:
        tell(
            f"document has {found.of} pages; only the first was read: `page=` takes another",
            TruncationWarning,
        )
    if found.image is None:
        raise EncodingError(f"document: page {found.number} has no size")
    return found.image, found.words

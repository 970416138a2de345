"""Read the text layer of a PDF page: the size of its letters, and its words with their boxes."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

FEW = 20  # with fewer letters beside an image they may be a stamp on a scan
SAMPLE = 2000  # about as many letters are measured


@dataclass(frozen=True, slots=True)
class Word:
    """A word and its box: left, top, right, bottom in pixels of the page's image."""

    text: str
    box: tuple[float, float, float, float]


def letters(page: Any) -> float | None:
    """The median font size of a pypdfium2 page in points, as it appears on the page.

    None where the page has no letters, or few letters beside images.
    """
    from pypdfium2 import raw

    layer = page.get_textpage()
    try:
        count = raw.FPDFText_CountChars(layer)
        matrix = raw.FS_MATRIX()
        found = []
        for i in range(0, count, max(1, count // SAMPLE)):
            code = raw.FPDFText_GetUnicode(layer, i)
            if not chr(code).strip() or raw.FPDFText_IsGenerated(layer, i) == 1:
                continue
            size = raw.FPDFText_GetFontSize(layer, i)
            if raw.FPDFText_GetMatrix(layer, i, ctypes.byref(matrix)):
                size *= math.sqrt(abs(matrix.a * matrix.d - matrix.b * matrix.c))
            if size > 0 and math.isfinite(size):
                found.append(size)
    finally:
        layer.close()
    if not found or (len(found) < FEW and _has_images(page)):
        return None
    return float(np.median(found))


def _has_images(page: Any) -> bool:
    from pypdfium2 import raw

    return next(page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=3), None) is not None


def text(document: Any, number: int) -> str:
    """The text layer of a page of a pypdfium2 document, "" where it has none.

    Ends of lines are \\n, and a word that a hyphen breaks at the end of a line is whole again.
    """
    page = document[number]
    try:
        layer = page.get_textpage()
        try:
            found: str = layer.get_text_bounded(errors="replace")
        finally:
            layer.close()
    finally:
        page.close()
    for mark in ("\ufffe", "\x02"):  # what PDFium gives for such a hyphen
        found = found.replace(f"{mark}\r\n", "").replace(mark, "")
    return found.replace("\r\n", "\n").replace("\0", "")


def words(page: Any, size: tuple[int, int]) -> tuple[Word, ...]:
    """The words of a pypdfium2 page drawn in `size` pixels, in the order of the text layer."""
    from pypdfium2 import raw

    layer = page.get_textpage()
    try:
        edge = raw.FS_RECTF()
        found: list[Word] = []
        text, boxes = "", []
        for i in range(raw.FPDFText_CountChars(layer) + 1):
            code = raw.FPDFText_GetUnicode(layer, i)  # 0 past the end
            character = chr(code) if code not in {0, 0xFFFE, 0xFFFF} else ""
            if character.strip():
                text += character
                # The box of the line, not of the ink, so that a region at its edge has the word.
                if raw.FPDFText_GetLooseCharBox(layer, i, ctypes.byref(edge)):
                    boxes.append(_placed(page, size, edge.left, edge.top))
                    boxes.append(_placed(page, size, edge.right, edge.bottom))
            elif code not in {0xFFFE, 0xFFFF}:  # a hyphen at a line's end joins two parts
                if text and boxes:
                    x, y = zip(*boxes, strict=True)
                    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
                    box = (min(x), min(y), max(x), max(y))
                    if box[0] < size[0] and box[1] < size[1] and box[2] > 0 and box[3] > 0:
                        found.append(Word(text, box))
                text, boxes = "", []
    finally:
        layer.close()
    return tuple(found)


def _placed(page: Any, size: tuple[int, int], x: float, y: float) -> tuple[float, float]:
    """Convert a point of the page to pixels of its image, for any rotation and crop."""
    from pypdfium2 import raw

    fine = 64  # PDFium gives whole pixels, so ask it for an image 64 times as large
    across, down = ctypes.c_int(), ctypes.c_int()
    raw.FPDF_PageToDevice(
        page,
        0,
        0,
        size[0] * fine,
        size[1] * fine,
        0,
        x,
        y,
        ctypes.byref(across),
        ctypes.byref(down),
    )
    return across.value / fine, down.value / fine

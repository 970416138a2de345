"""The text layer of a PDF page: how large its letters are, and where its words stand."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

FEW = 20  # letters beside an image: a stamp or a page number says nothing of what is scanned
SAMPLE = 2000  # letters that are measured


@dataclass(frozen=True, slots=True)
class Word:
    """A word, and its left, top, right and bottom in pixels of the page's image."""

    text: str
    box: tuple[float, float, float, float]


def letters(page: Any) -> float | None:
    """The font size of most letters of a pypdfium2 page, in points; None where it has none,
    and where it has few beside images.

    What is turned or scaled is measured as it stands on the page.
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


def words(page: Any, size: tuple[int, int]) -> tuple[Word, ...]:
    """The words of a pypdfium2 page that is drawn in so many pixels, in the layer's order."""
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
                # Of the line, not of the ink: a region on a word's upper edge is on the word.
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
    """A point of the page in pixels of its image, whatever its rotation and crop are."""
    from pypdfium2 import raw

    fine = 64  # PDFium gives whole pixels: of an image that many times as large
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

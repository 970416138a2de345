"""Draw the example page of `tessera demo --web`: tessera_onnx/server/web/page.png.

    python tests/make_example_page.py

The words were written for this package. Pillow's own font is used, so no font has to be installed.
"""

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FILE = Path(__file__).parents[1] / "tessera_onnx" / "server" / "web" / "page.png"
SIZE = (600, 620)
MARGIN = 44
WIDTH = 76  # letters of a line
INK, GREY, LINE = (32, 33, 36), (95, 99, 104), (200, 204, 209)
YEAR = (
    "The mill ground 412 tons of wheat this year, a tenth more than last year. Rain in June "
    "delayed the harvest by nine days, and two fields near the river were flooded."
)
BREAD = (
    "Bread sold best on Saturdays. The new oven burns less wood and bakes forty loaves at a time. "
    "Rye bread keeps fresh for a week when it is wrapped in linen."
)
TABLE = (
    ("Month", "Wheat", "Visitors", "Income"),
    ("June", "58 t", "310", "4,120"),
    ("July", "96 t", "745", "9,870"),
    ("August", "131 t", "890", "11,460"),
    ("September", "127 t", "520", "8,040"),
)
LAST = (
    "Next spring we repair the roof of the barn and plant eighty apple trees. A school class will "
    "visit the bees in May. Volunteers meet every Thursday evening at the gate."
)


def draw():
    """The page as a Pillow image."""
    page = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(page)
    fonts = {size: ImageFont.load_default(size) for size in (15, 17, 28)}
    pen.text((MARGIN, 36), "Riverside Mill", INK, fonts[28])
    pen.text((MARGIN, 74), "Report of the year", GREY, fonts[17])
    pen.line((MARGIN, 108, SIZE[0] - MARGIN, 108), LINE, 2)
    top = 130
    for text in (YEAR, BREAD):
        top = _paragraph(pen, text, top, fonts[15])
    top += 10
    for i, row in enumerate(TABLE):
        for column, cell in enumerate(row):
            pen.text((MARGIN + column * 132, top), cell, GREY if i == 0 else INK, fonts[15])
        top += 30
        pen.line((MARGIN, top - 7, SIZE[0] - MARGIN, top - 7), LINE, 1)
    _paragraph(pen, LAST, top + 20, fonts[15])
    return page


def _paragraph(pen, text, top, font):
    """Draw some lines; the place below them."""
    for line in textwrap.wrap(text, WIDTH):
        pen.text((MARGIN, top), line, INK, font)
        top += 25
    return top + 16


if __name__ == "__main__":
    draw().convert("P", palette=Image.Palette.ADAPTIVE, colors=16).save(FILE, optimize=True)

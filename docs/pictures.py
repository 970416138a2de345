"""Draw the pictures of the pages with the starter's models: `python docs/pictures.py [FOLDER]`.

page.png shows where a page answers a query, forecast.svg a forecast beside what came.
tests/test_pictures.py compares what is drawn with what the models answer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tessera_onnx import TesseraTimeSeries, TesseraVision
from tessera_onnx.images.similarity_map import Answer, draw_map

STATIC = Path(__file__).resolve().parent / "_static"
QUERY = "flooded bridges"
TITLE = "Annual report of the valley"
PARAGRAPHS = (
    (
        "Water",
        "Heavy rain fell in the middle of March. The river rose",
        "by two metres in a night, and the flood closed two",
        "bridges for nine days. Both were open again in April.",
    ),
    (
        "Money",
        "The council agreed on lower taxes for small shops and",
        "on more money for schools. A loan of six years pays",
        "for the new library beside the station.",
    ),
    ("Harvest", "Apples were late and few. The wheat was brought in dry."),
)
LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
AHEAD = 24
# Sea surface temperatures off Peru, 1950 to 2010 (NOAA, public domain: NOTICE).
SERIES = np.loadtxt(
    STATIC.parent / "notebooks/data/elnino.csv", delimiter=",", skiprows=1, usecols=range(1, 13)
).ravel()
FIRST_YEAR = 1950
LINE = 30  # from line to line: there is room for a label between two
ZOOM = 2  # of the drawing, to the page that is read
SHADES = ("#dbe7f5", "#bdd3ec", "#97b9e0", "#6f9dd2")  # of the widest interval to the narrowest
BLUE, INK, TRUTH = "#1f5fa8", "#1b2733", "#b3261e"


def draw_page(zoom: int = 1) -> Image.Image:
    """A page of a report; at zoom 1 its letters have the height that the page model reads."""
    page = Image.new("RGB", (470 * zoom, 396 * zoom), "white")
    draw = ImageDraw.Draw(page)

    def write(y: int, text: str, size: int) -> None:
        draw.text((24 * zoom, y * zoom), text, "black", ImageFont.load_default(size * zoom))

    write(18, TITLE, 22)
    top = 58
    for heading, *lines in PARAGRAPHS:
        write(top, heading, 18)
        for number, line in enumerate(lines):
            write(top + 32 + LINE * number, line, 16)
        top += 32 + LINE * len(lines) + 8
    return page


def heat_map(answer: Answer) -> Image.Image:
    """The page, coloured by its best similarity to a word of the query, and each word's best place.

    The first and the last token of the query are no words and are left out.
    """
    left, top, right, bottom = (ZOOM * edge for edge in answer.box)
    best = answer.map[1:-1].max(axis=0)
    page = draw_map(draw_page(ZOOM), best, (left, top, right, bottom))
    draw, small = ImageDraw.Draw(page), ImageFont.load_default(13 * ZOOM)
    for word in answer.regions[1:-1]:
        x0, y0, x1, y1 = (ZOOM * edge for edge in word.box)
        draw.rectangle((x0 - 3, y0 - 3, x1 + 3, y1 + 3), outline=TRUTH, width=ZOOM)
        text = f"{word.token} {word.score:.2f}"
        draw.text((x0 - 3, y0 - 10), text, TRUTH, small, anchor="lb")
    band = 34 * ZOOM
    whole = Image.new("RGB", (page.width, page.height + band), INK)
    whole.paste(page, (0, band))
    font = ImageFont.load_default(16 * ZOOM)
    ImageDraw.Draw(whole).text((24 * ZOOM, band // 2), f"query: {QUERY}", "white", font, "lm")
    return whole.quantize(64)


def forecast(model: TesseraTimeSeries) -> NDArray[np.float32]:
    """The last two years from all before: quantiles (AHEAD, len(LEVELS))."""
    found: NDArray[np.float32] = model.forecast_quantiles(SERIES[:-AHEAD], AHEAD, LEVELS)[0]
    return found


def fan_chart(quantiles: NDArray[np.float32]) -> Figure:
    """Bands from the outer quantiles to the inner ones, the median, and the values that came."""
    figure = Figure(figsize=(7.2, 3.3), layout="constrained")
    axes = figure.subplots()
    years = FIRST_YEAR + np.arange(len(SERIES)) / 12
    ahead, first = years[-AHEAD:], len(years) - AHEAD
    for low in range(len(LEVELS) // 2):
        high = len(LEVELS) - 1 - low
        label = f"{100 * (LEVELS[high] - LEVELS[low]):.0f} % interval"
        axes.fill_between(
            ahead,
            quantiles[:, low],
            quantiles[:, high],
            color=SHADES[low],
            linewidth=0,
            label=label,
        )
    past = slice(first - 60, first)
    axes.plot(years[past], SERIES[past], color=INK, linewidth=1.3, label="known")
    median = quantiles[:, LEVELS.index(0.5)]
    axes.plot(ahead, median, color=BLUE, linewidth=1.8, label="median of the forecast")
    axes.plot(ahead, SERIES[first:], ".", color=TRUTH, markersize=5, label="what came")
    axes.axvline(float(years[first]) - 1 / 24, color=INK, linewidth=0.8, linestyle=":")
    axes.set_title(
        "Temperature of the sea off Peru, °C, monthly", fontsize=11, loc="left", color=INK
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    return figure


def main(folder: Path) -> None:
    """Write both pictures into a folder."""
    with TesseraVision("tessera-page-mini") as model:
        page = heat_map(model.locate(QUERY, draw_page()))
    with TesseraTimeSeries("tessera-bolt-mini") as series:
        chart = fan_chart(forecast(series))
    page.save(folder / "page.png", optimize=True)
    # The same file at each run: no date, and names of clips that do not change.
    with rc_context({"svg.hashsalt": "tessera", "svg.fonttype": "none"}):
        chart.savefig(folder / "forecast.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else STATIC)

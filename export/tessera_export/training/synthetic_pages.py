"""Draw synthetic text pages to train a page model on, with the place of every letter and word.

A page is a piece of 256 x 512 pixels that looks like a report at 100 dpi: paragraphs, columns,
tables and rules in free fonts, with blur, noise and few grey levels. Page i of a seed is the same
in any order, on one version of Pillow and FreeType.
"""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tessera_export.training import page_fonts
from tessera_export.training.page_canvas import Canvas, Page
from tessera_export.training.page_fonts import Pen
from tessera_export.training.page_text import Lexicon

HEIGHT, WIDTH = 256, 512
LARGEST = 24.0  # pixels

# What stands before and after a word, up to a share of the draws: the first way of ending it so
# often, else the second. Numbers and words beyond have a dollar sign and a question mark.
MARKS = (
    (0.80, "", ("", ""), 1.0),
    (0.87, "", (",", ""), 1.0),
    (0.91, "", (".", ""), 1.0),
    (0.93, "(", (")", ""), 0.5),
    (0.94, "\N{LEFT DOUBLE QUOTATION MARK}", ("\N{RIGHT DOUBLE QUOTATION MARK}", ""), 1.0),
    (0.96, "", (":", ";"), 0.6),
    (0.98, "", ("-", "/"), 0.7),
)


def page(seed: int, index: int, lexicon: Lexicon) -> Page:
    """Page `index` of a seed."""
    return Layout(np.random.default_rng([seed, index]), lexicon).finished()


class Layout:
    """Puts text on a canvas until it is full."""

    def __init__(
        self, rng: np.random.Generator, lexicon: Lexicon, height: int = HEIGHT, width: int = WIDTH
    ) -> None:
        self.rng = rng
        self.lexicon = lexicon
        self.height, self.width = height, width
        paper = int(rng.integers(225, 256)) if rng.random() < 0.4 else 255
        self.canvas = Canvas(height, width, paper)
        self.stock: list[int] = []

    def finished(self) -> Page:
        """Fill the page and spoil it as printing and scanning do."""
        kind = self.rng.random()
        if kind < 0.3:
            self.paragraphs(0, self.width)
        elif kind < 0.55:
            middle = int(self.width * self.rng.uniform(0.35, 0.65))
            self.paragraphs(0, middle - 6)
            self.paragraphs(middle + 6, self.width)
        elif kind < 0.9:
            self.tables()
        else:
            self.chart()
        return self.canvas.page(self._spoiled())

    def paragraphs(self, left: float, right: float) -> None:
        """Blocks of lines between two edges, from top to bottom, each in a font of its own."""
        y = self.rng.uniform(2, 14)
        while y < self.height - 8:
            pen = page_fonts.pen(self.rng, LARGEST)
            pitch = pen.size * self.rng.uniform(1.02, 1.4)
            indent = self.rng.choice([0, 0, 4, 12, 30])
            style = self.rng.random()
            for _ in range(int(self.rng.integers(1, 4 if pen.size > 17 else 14))):
                y += pitch
                if y > self.height - 3:
                    return
                first = left + 3 + indent + (self.rng.uniform(0, 60) if style > 0.93 else 0)
                self._line(pen, (first, right - 2), y, style)
            y += self.rng.uniform(0, 14)
            if self.rng.random() < 0.15:
                self._rule(left, y + 3, right, y + 3)
                y += 4

    def tables(self) -> None:
        """Rows of a label, dots perhaps, and numbers in columns, with rules or without."""
        y = self.rng.uniform(2, 10)
        while y < self.height - 20:
            pen = page_fonts.pen(self.rng, 16)
            pitch = pen.size * self.rng.uniform(1.05, 1.7)
            stub = self.rng.uniform(70, 240)
            columns = int(self.rng.integers(2, 9))
            edges = np.linspace(stub, self.width - 4, columns + 1)
            top = y + 3
            ruled, shaded, dotted = self.rng.random(3) < (0.3, 0.15, 0.25)
            left_bound = self.rng.random() < 0.25
            for row in range(int(self.rng.integers(3, 14))):
                y += pitch
                if y > self.height - 4:
                    break
                if shaded and row % 2:
                    grey = int(self.rng.integers(200, 245))
                    self.canvas.box(0, y - pitch * 0.75, self.width, y + pitch * 0.25, grey=grey)
                style = 0.2 if row else 0.85
                end = self._line(pen, (4, stub - 6), y, style, int(self.rng.integers(1, 7)))
                if dotted and end < stub - 12:
                    dot = ". " if self.rng.random() < 0.6 else "."
                    dots = dot * int((stub - 4 - end - 3) / pen.width(dot))
                    self.canvas.write(pen, end + 3, y, dots)
                for start, stop in itertools.pairwise(edges):
                    self._entry(pen, (start + 3, stop - 3), y, left_bound=left_bound, head=not row)
                if ruled:
                    self._rule(0, y + pitch * 0.27, self.width, y + pitch * 0.27)
            if ruled:
                for edge in edges:
                    self._rule(edge, top, edge, y + pitch * 0.27)
            y += self.rng.uniform(4, 20)

    def chart(self) -> None:
        """Bars, lines and rings with a few words among them, some of them light on dark."""
        for _ in range(int(self.rng.integers(3, 12))):
            x, y = self.rng.uniform(0, self.width), self.rng.uniform(0, self.height)
            corners = x, y, x + self.rng.uniform(4, 150), y + self.rng.uniform(4, 90)
            grey = int(self.rng.integers(0, 230))
            kind = self.rng.random()
            if kind < 0.5:
                self.canvas.box(*corners, grey=grey)
            elif kind < 0.75:
                self.canvas.ring(*corners, grey=grey, width=int(self.rng.integers(1, 9)))
            else:
                self.canvas.line(*corners, grey=grey, width=int(self.rng.integers(1, 9)))
        y = self.rng.uniform(2, 20)
        while y < self.height - 30:
            pen = page_fonts.pen(self.rng, LARGEST)
            y += pen.size * 1.1
            x = self.rng.uniform(0, 60)
            while x < self.width - 60 and y < self.height - 3:
                reach = self.rng.uniform(60, 200)
                dark = self.rng.random() < 0.2
                fill = int(self.rng.integers(0, 90)) if dark else self.canvas.paper
                top, bottom = y - pen.size * 0.9, y + pen.size * 0.3
                self.canvas.box(x - 4, top, x + reach, bottom, grey=fill)
                light = Pen(pen.font, pen.size, 255 if dark else pen.ink)
                self._line(light, (x, x + reach), y, self.rng.random())
                x += reach + self.rng.uniform(20, 120)
            y += self.rng.uniform(3, 40)

    def _term(self) -> int:
        if not self.stock:
            self.stock = self.lexicon.draw(self.rng, 512)
        return self.stock.pop()

    def _line(
        self, pen: Pen, edges: tuple[float, float], y: float, style: float, most: int = 99
    ) -> float:
        """Words between two edges on a baseline, as many as fit. Where the last one ends."""
        end, right = edges
        space = pen.width(" ") * self.rng.uniform(0.85, 1.7)
        x, first = end, True
        for _ in range(most):
            term = self._term()
            text = _cased(self.lexicon.terms[term], style, first=first)
            before, after = self._marks(text)
            width = pen.width(before + text + after)
            if x + width > right:
                break
            self.canvas.word(pen, x, y, (before, text, after), term)
            end = x + width
            x = end + (0 if after in {"-", "/"} else space)
            first = after in {".", "?"}
        return end

    def _entry(
        self, pen: Pen, edges: tuple[float, float], y: float, *, left_bound: bool, head: bool
    ) -> None:
        """One number, or in a head one word, between two edges: at the right one or the left."""
        for _ in range(3):
            term = self._term()
            numeric = self.lexicon.terms[term][0].isdigit()
            if numeric != head or self.rng.random() < 0.1:
                break
        text = _cased(self.lexicon.terms[term], 0.85 if head else 0.5, first=True)
        before = "$" if self.rng.random() < 0.08 else ""
        after = "%" if numeric and self.rng.random() < 0.1 else ""
        width = pen.width(before + text + after)
        left, right = edges
        if width <= right - left:
            x = left if left_bound else right - width
            self.canvas.word(pen, x, y, (before, text, after), term)

    def _marks(self, text: str) -> tuple[str, str]:
        """What stands before and after a word."""
        draw = self.rng.random()
        for share, before, (after, other), often in MARKS:
            if draw < share:
                second = often < 1 and self.rng.random() >= often
                return before, other if second else after
        return ("$", "") if text[0].isdigit() else ("", "?")

    def _rule(self, *ends: float) -> None:
        self.canvas.line(*ends, width=int(self.rng.integers(1, 7)))

    def _spoiled(self) -> NDArray[np.uint8]:
        """The page at its own size, blurred, faded, noisy, short of greys or compressed."""
        rng = self.rng
        small = self.canvas.image.resize((self.width, self.height), Image.Resampling.BOX)
        if rng.random() < 0.4:
            small = small.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.75)))
        values: NDArray[np.floating[Any]] = np.asarray(small, np.float32)
        if rng.random() < 0.25:
            values = 255 - (255 - values) * rng.uniform(0.5, 1.0)
        if rng.random() < 0.3:
            values = values + rng.normal(0, rng.uniform(1, 14), values.shape)
        if rng.random() < 0.4:
            step = 255 / rng.integers(7, 40)
            values = np.round(values / step) * step
        image: NDArray[np.uint8] = np.clip(values, 0, 255).astype(np.uint8)
        if rng.random() < 0.15:
            with io.BytesIO() as buffer:
                Image.fromarray(image).save(buffer, "JPEG", quality=int(rng.integers(40, 90)))
                image = np.asarray(Image.open(buffer))
        return image


def _cased(term: str, style: float, *, first: bool) -> str:
    """A term as its line writes it: mostly lower case, titles, capitals."""
    if style > 0.94:
        return term.upper()
    if style > 0.8 or first:
        return term[0].upper() + term[1:]
    return term

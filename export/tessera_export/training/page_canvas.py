"""Draw text on a synthetic page, and record where each letter and word is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tessera_export.training.page_fonts import SCALE, Pen

CELL = 8  # pixels, both ways: lines are 11 or more apart, words 9
STRIP = 2  # pixels in width that share a letter
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789.,'"
NO_LETTER = len(ALPHABET)
PLACES = 16  # letters beyond share the last place
IGNORED = 255
SURE = 2.0  # pixels: a middle line so near a row's edge may be read in either row


@dataclass(frozen=True, slots=True)
class Page:
    """A drawn piece and what stands where. h, w = its size; r, c = h // 8, w // 8.

    `image` (h, w) uint8. `letters` and `places` (r, w // 2) uint8: the letter's number in
    `ALPHABET` and its place in its word; 39 for none, 255 where nobody says. `starts` (r, w // 2)
    float32: where the letter's word begins, in pixels. `cells` (r, c) uint8: 1 where a word
    begins, 255 where nobody says. `words` (n, 3) int32: row, column and term of each word to be
    read, and `offsets` (n,) float32: where in its cell it begins, in pixels.
    """

    image: NDArray[np.uint8]
    letters: NDArray[np.uint8]
    places: NDArray[np.uint8]
    starts: NDArray[np.float32]
    cells: NDArray[np.uint8]
    words: NDArray[np.int32]
    offsets: NDArray[np.float32]


class Canvas:
    """White or grey paper that remembers its words. Positions are in pixels of the finished page.

    A line belongs to the row of cells that holds the middle of its small letters.
    """

    def __init__(self, height: int, width: int, paper: int) -> None:
        rows, strips, columns = height // CELL, width // STRIP, width // CELL
        self.height, self.width, self.paper = height, width, paper
        self.letters = np.full((rows, strips), IGNORED, np.uint8)
        self.places = np.full((rows, strips), IGNORED, np.uint8)
        self.starts = np.zeros((rows, strips), np.float32)
        self.cells = np.zeros((rows, columns), np.uint8)
        self.words: dict[tuple[int, int], tuple[int, float, int]] = {}
        self.image = Image.new("L", (width * SCALE, height * SCALE), paper)
        self.drawing = ImageDraw.Draw(self.image)

    def page(self, image: NDArray[np.uint8]) -> Page:
        """What was drawn, with the image that came of it."""
        rows = sorted(self.words.items())
        words = np.array([(r, c, term) for (r, c), (term, _, _) in rows], np.int32).reshape(-1, 3)
        offsets = np.array([offset for _, (_, offset, _) in rows], np.float32)
        return Page(image, self.letters, self.places, self.starts, self.cells, words, offsets)

    def write(self, pen: Pen, x: float, y: float, text: str) -> None:
        """Ink alone: the text from x on, on a baseline at y."""
        self.drawing.text((x * SCALE, y * SCALE), text, font=pen.font, fill=pen.ink, anchor="ls")

    def line(self, *ends: float, grey: int = 0, width: int = 1) -> None:
        """From x, y to x, y; the width is in thirds of a pixel."""
        self.drawing.line([SCALE * value for value in ends], fill=grey, width=width)

    def box(self, *corners: float, grey: int) -> None:
        """A filled rectangle from x, y to x, y."""
        self.drawing.rectangle([SCALE * value for value in corners], fill=grey)

    def ring(self, *corners: float, grey: int, width: int) -> None:
        """An ellipse inside x, y to x, y; the width is in thirds of a pixel."""
        self.drawing.ellipse([SCALE * value for value in corners], outline=grey, width=width)

    def word(self, pen: Pen, x: float, y: float, parts: tuple[str, str, str], term: int) -> None:
        """Write a word with what stands before and after it, and note where its letters are.

        `parts` are the text before, the word and the text after; of a term's letters in `parts`
        only the word's are its letters.
        """
        before, text, after = parts
        whole = before + text + after
        self.write(pen, x, y, whole)
        ends = [pen.width(whole[: n + 1]) for n in range(len(whole))]
        middle = y - pen.rise() / 2
        main = int(middle // CELL)
        nearby = middle - main * CELL
        rows = [main]
        if nearby < SURE:
            rows.append(main - 1)
        elif nearby > CELL - SURE:
            rows.append(main + 1)
        begin = x + (ends[len(before) - 1] if before else 0.0)
        if begin < 0 or not 0 <= main < len(self.cells) or x + ends[-1] > self.width:
            return
        edges = x + np.array([0.0, *ends])
        for row in rows:
            if 0 <= row < len(self.cells):
                self._letters(row, edges, len(before), text)
        column = int(begin // CELL)
        offset = begin - column * CELL
        held = self.words.get((main, column))
        if held is None or held[2] < len(text):  # two words in one cell: the longer one
            self.words[main, column] = (term, offset, len(text))
            self._mark(rows, column, offset)

    def _letters(self, row: int, edges: NDArray[np.float64], before: int, text: str) -> None:
        """`edges`: where each character of the word and its surroundings begins, and the end."""
        first = max(int((edges[0] - 5) / STRIP), 0)
        last = min(int((edges[-1] + 5) / STRIP) + 1, self.letters.shape[1])
        around = self.letters[row, first:last]
        around[around == IGNORED] = NO_LETTER
        bounds = np.ceil(edges / STRIP - 0.5)  # a strip counts by its middle
        bounds = np.clip(bounds, 0, self.letters.shape[1]).astype(int)
        for place, letter in enumerate(text):
            strips = slice(bounds[before + place], bounds[before + place + 1])
            self.letters[row, strips] = ALPHABET.find(letter.lower())
            self.places[row, strips] = min(place, PLACES - 1)
            self.starts[row, strips] = edges[before]

    def _mark(self, rows: list[int], column: int, offset: float) -> None:
        """A word begins in this cell; a neighbour that it nearly falls into may say so too."""
        columns = [column]
        if offset < SURE:
            columns.append(column - 1)
        elif offset > CELL - SURE:
            columns.append(column + 1)
        for row in rows:
            for near in columns:
                inside = 0 <= row < self.cells.shape[0] and 0 <= near < self.cells.shape[1]
                if inside and self.cells[row, near] != 1:
                    self.cells[row, near] = IGNORED
        self.cells[rows[0], column] = 1

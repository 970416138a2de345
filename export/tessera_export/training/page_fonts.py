"""Choose fonts for synthetic pages: free fonts of the package index, each with a frequency."""

from __future__ import annotations

import functools
import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ImageFont

SCALE = 3  # drawn larger and averaged: no hinting to the pixel grid, as in a rendered PDF

# Distributions with free fonts, the files to take and their odds: Helvetica's and Times's likes
# come first in reports.
FONTS = (
    ("rinoh-typeface-texgyreheros", r"heros-", 0.17),
    ("rinoh-typeface-texgyreheros", r"heroscn-", 0.05),
    ("fontpkg-arimo", r".", 0.13),
    ("rinoh-typeface-texgyretermes", r".", 0.2),
    ("matplotlib", r"STIXGeneral(Bol|Italic|)\.ttf", 0.03),
    ("matplotlib", r"DejaVuSans(-Bold|)\.ttf", 0.06),
    ("rinoh-typeface-texgyrecursor", r"-(regular|bold)\.", 0.04),
    ("rinoh-typeface-texgyrepagella", r".", 0.03),
    ("rinoh-typeface-texgyrebonum", r".", 0.02),
    ("rinoh-typeface-texgyreschola", r".", 0.03),
    ("rinoh-typeface-texgyreadventor", r".", 0.01),
    ("font-caladea", r".", 0.03),
    ("fontpkg-roboto", r".", 0.02),
    ("fontpkg-roboto-condensed", r".", 0.02),
    ("fontpkg-archivo-narrow", r".", 0.02),
    ("fontpkg-open-sans", r".", 0.02),
    ("fontpkg-lato", r"-(Regular|Bold|Italic)\.", 0.02),
    ("fontpkg-source-sans-3", r".", 0.02),
    ("fontpkg-libre-franklin", r".", 0.02),
    ("fontpkg-pt-sans", r".", 0.01),
    ("fontpkg-pt-serif", r".", 0.01),
    ("fontpkg-noto-serif", r".", 0.01),
    ("fontpkg-source-serif-4", r".", 0.01),
    ("fontpkg-eb-garamond", r".", 0.01),
    ("fontpkg-crimson-text", r".", 0.01),
)


@dataclass(frozen=True, slots=True)
class Face:
    """A font file and, for a variable font, its weight; or None."""

    path: str
    weight: int | None
    odds: float


@dataclass(frozen=True, slots=True)
class Pen:
    """A face at a size, in pixels of the finished page, and its ink: 0 black to 255 white."""

    font: ImageFont.FreeTypeFont
    size: float
    ink: int

    def width(self, text: str) -> float:
        """How far a text reaches."""
        return float(self.font.getlength(text)) / SCALE

    def rise(self) -> float:
        """The height of small letters."""
        return float(-self.font.getbbox("x", anchor="ls")[1]) / SCALE


@functools.cache
def faces() -> tuple[Face, ...]:
    """Every face of FONTS. Upright and regular ones are likelier. Raises where none is found."""
    found: list[Face] = []
    for package, pattern, odds in FONTS:
        listed = importlib.metadata.files(package) or []
        paths = [Path(str(file.locate())) for file in listed]
        paths = [path for path in paths if path.suffix in {".ttf", ".otf"}]
        paths = sorted(path for path in paths if re.search(pattern, path.name))
        if not paths:
            raise FileNotFoundError(f"{package} holds no font that matches {pattern!r}")
        group = []
        for path in paths:
            slanted = 0.3 if re.search("ital|obli", path.name.lower()) else 1.0
            for weight in (400, 700) if "wght" in path.name else (None,):
                bold = weight == 700 or "bold" in path.name.lower()
                group.append((str(path), weight, slanted * (0.5 if bold else 1.0)))
        total = sum(share for _, _, share in group)
        found += [Face(path, weight, odds * share / total) for path, weight, share in group]
    return tuple(found)


def pen(rng: np.random.Generator, largest: float) -> Pen:
    """A face by its odds, some 8.5 to `largest` pixels high, black more often than grey."""
    odds = np.array([face.odds for face in faces()])
    edges = np.cumsum(odds / odds.sum())
    face = faces()[int(np.searchsorted(edges, rng.random(), side="right"))]
    size = float(np.exp(rng.normal(np.log(12.6), 0.24)))
    quarters = round(4 * min(max(size, 8.5), largest))
    ink = int(rng.integers(0, 110)) if rng.random() < 0.35 else 0
    return Pen(_font(face.path, face.weight, quarters), quarters / 4, ink)


@functools.lru_cache(maxsize=4096)
def _font(path: str, weight: int | None, quarters: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(path, size=quarters / 4 * SCALE, layout_engine=ImageFont.Layout.BASIC)
    if weight is not None:
        axes = font.get_variation_axes()
        wanted = [
            float(weight if "eight" in str(axis["name"]) else axis["default"] or 0) for axis in axes
        ]
        font.set_variation_by_axes(wanted)
    return font

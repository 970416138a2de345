"""Choose what is printed on synthetic pages: English words and numbers, with probabilities."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import numpy as np
import wordfreq
from numpy.typing import NDArray

WORDS = 60_000
NUMBERS = 30_000
NUMBER_SHARE = 0.16  # of what a page holds; tables are mostly numbers
PLAIN = re.compile(r"[a-z]{1,20}(?:'[a-z]{1,2})?")
ABBREVIATIONS = ("u.s", "u.k", "u.n", "d.c", "e.g", "i.e", "a.m", "p.m")
FLATTENING = 0.45  # words are drawn by rank ** -0.45: half of running text is otherwise 100 words


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Terms in lower case, words by falling frequency and then numbers, and the odds of each.

    `terms` and `odds` are of one length; `odds` sum to 1.
    """

    terms: tuple[str, ...]
    odds: NDArray[np.float64]

    def draw(self, rng: np.random.Generator, count: int) -> list[int]:
        """Places of `count` terms in `terms`."""
        edges = np.cumsum(self.odds)
        places = np.searchsorted(edges, rng.random(count) * edges[-1], side="right")
        return [int(place) for place in places]


@functools.cache
def lexicon(words: int = WORDS, numbers: int = NUMBERS) -> Lexicon:
    """The most frequent English words of `wordfreq` and numbers from a fixed seed."""
    listed = wordfreq.top_n_list("en", words * 2, wordlist="large")
    plain = [word for word in listed if PLAIN.fullmatch(word)][:words]
    plain[2000:2000] = ABBREVIATIONS
    made = sorted(_numbers(np.random.default_rng(7), numbers) - set(plain))
    rank = np.arange(len(plain)) + 30.0
    frequent = rank**-FLATTENING
    short = np.array([0.4 if len(number) <= 2 else 1.0 for number in made])
    odds = np.concatenate(
        [frequent / frequent.sum() * (1 - NUMBER_SHARE), short / short.sum() * NUMBER_SHARE]
    )
    return Lexicon(tuple(plain) + tuple(made), odds)


def _numbers(rng: np.random.Generator, count: int) -> set[str]:
    """About `count` numbers as reports print them: small, years, decimals, with commas."""
    made = {str(value) for value in range(200)} | {str(year) for year in range(1900, 2035)}
    while len(made) < count:
        size = int(rng.integers(1, 8))
        value = int(rng.integers(10 ** (size - 1), 10**size))
        form = rng.random()
        if form < 0.3 and size <= 5:
            made.add(f"{value / 10 ** int(rng.integers(1, 3)):.{int(rng.integers(1, 3))}f}")
        elif form < 0.4:
            made.add(f"{value:,}.{int(rng.integers(0, 10))}")
        elif form < 0.85:
            made.add(f"{value:,}")
        elif size <= 6:
            made.add(str(value))
    return made

"""The rows of a table in order of time, series by series: the same for data frames and files."""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError
from tessera_onnx.series import frequency, timestamps
from tessera_onnx.series.frequency import Stamps
from tessera_onnx.series.time_numbers import NoTimeError

MOST_NAMES = 8  # of series, in a message
# Texts that repeat and tell no series apart.
FLAGS = {"true", "false", "yes", "no", "y", "n", "t", "f", "ja", "nein", "on", "off"}
CALENDAR = {
    name.lower()
    for names in (calendar.day_name, calendar.day_abbr, timestamps.NAMES)
    for name in names
} | {name[:3] for name in timestamps.NAMES}

THINGS = {"store", "shop", "sku", "item", "product", "sensor", "station", "series"}


class Order(NamedTuple):
    """The rows of a table, series after series, each series ascending in time."""

    rows: NDArray[np.intp]
    lengths: NDArray[np.int64]
    moved: list[int]  # numbers of the series whose rows were not in order

    @property
    def lasts(self) -> NDArray[np.intp]:
        """The place in `rows` of the last row of each series."""
        return np.cumsum(self.lengths) - 1

    def said(self) -> str:
        """What a person should know of rows that changed places, empty where none did."""
        return of_moved(self.moved) if self.moved else ""


def names(rows: Sequence[Any]) -> str:
    """Numbers of series for a message, the first few."""
    shown = ", ".join(map(str, rows[:MOST_NAMES]))
    return shown + (f" and {len(rows) - MOST_NAMES} more" if len(rows) > MOST_NAMES else "")


def of_moved(rows: Sequence[int]) -> str:
    """What a person should know of series whose rows changed places."""
    return f"the rows of series {names(rows)} were not in order of time and have been sorted"


class TwiceError(Exception):
    """Two rows of a series have the same time."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(first, second)
        self.first, self.second = first, second


def in_file_order(codes: NDArray[np.int64]) -> Order:
    """Rows without times; `codes` numbers the series of each row from 0."""
    return Order(np.argsort(codes, kind="stable"), np.bincount(codes), [])


def ordered(codes: NDArray[np.int64], elapsed: Stamps) -> Order:
    """Rows by series and time. Raises TwiceError where a series has a time twice."""
    rows = np.lexsort((elapsed, codes))
    same = (codes[rows][1:] == codes[rows][:-1]) & (elapsed[rows][1:] == elapsed[rows][:-1])
    if same.any():
        place = int(same.argmax())
        raise TwiceError(int(rows[place]), int(rows[place + 1]))
    lengths = np.bincount(codes)
    backward = np.flatnonzero(np.diff(rows) < 0)
    inside = codes[rows[backward]] == codes[rows[backward + 1]]
    return Order(rows, lengths, np.unique(codes[rows[backward[inside]]]).tolist())


def step_of(order: Order, wall: Stamps, elapsed: Stamps) -> frequency.Step:
    """The step of ordered rows. Raises ConfigError as frequency.infer does."""
    try:
        return frequency.infer(wall[order.rows], elapsed[order.rows], order.lengths)
    except ConfigError as error:
        note = " (its rows are counted in order of time)" if order.moved else ""
        raise ConfigError(f"{error}{note}") from None


def regular(codes: NDArray[np.int64]) -> Callable[[Stamps], bool]:
    """Whether timestamps, one a row of these series, have one step when they are in order."""

    def is_regular(stamps: Stamps) -> bool:
        try:
            step_of(ordered(codes, stamps), stamps, stamps)
        except (TwiceError, ConfigError):
            return False
        return True

    return is_regular


def of_labels(texts: Sequence[str], name: str) -> Stamps | None:
    """The times of labels of rows: dates, or months and days by their digits; None for others."""
    if not texts or not (timestamps.is_like_time(texts[0]) or texts[0].isdecimal()):
        return None
    try:
        stamps = timestamps.of_texts(texts, name, regular(np.zeros(len(texts), np.int64))).stamps
    except NoTimeError:
        return None
    return stamps if stamps.dtype.kind == "M" else None


def is_count(codes: NDArray[np.int64], stamps: Stamps, *, first: bool) -> bool:
    """Whether no number comes twice in a series, and elsewhere than first, all rise or all fall."""
    try:
        ordered(codes, stamps)
    except TwiceError:
        return False
    rows = in_file_order(codes).rows
    between = np.diff(stamps[rows])[np.diff(codes[rows]) == 0]
    return first or bool((between > 0).all() or (between < 0).all())


def tells_apart(columns: Iterable[tuple[str, Sequence[str]]]) -> str | None:
    """The first column that seems to tell series apart, None where there is none.

    Its texts, or the whole numbers of a column named as an id, repeat, in every row, and are no
    times, numbers, flags, days of the week or months.
    """
    for name, texts in columns:
        kinds = set(texts)
        if not 2 <= len(kinds) <= len(texts) // 2 or "" in kinds:
            continue
        lowered = {kind.lower() for kind in kinds}
        if lowered <= FLAGS or lowered <= CALENDAR:
            continue
        if not is_id(name) and any(map(_is_number_or_time, kinds)):
            continue
        return name
    return None


def is_id(name: str) -> bool:
    """Whether a column's name says that it names things."""
    words = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])I[dD]$", "_id", name).lower())
    return words[-1] in {"id", "ids", "uuid", "guid"} or name.lower() in THINGS


def are_row_numbers(values: NDArray[np.float64]) -> bool:
    """Whether values count rows: 0, 1, 2 … or 1, 2, 3 …"""
    return bool(values[0] in (0, 1) and all(b == a + 1 for a, b in pairwise(values.tolist())))


def _is_number_or_time(text: str) -> bool:
    return not re.search("[^\\W\\d_]", text) or timestamps.is_like_time(text)

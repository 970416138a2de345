"""Sort the rows of a table by series and time, for data frames and CSV files alike."""

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
# Texts that repeat in a column without naming series.
FLAGS = {"true", "false", "yes", "no", "y", "n", "t", "f", "ja", "nein", "on", "off"}
CALENDAR = {
    name.lower()
    for names in (calendar.day_name, calendar.day_abbr, timestamps.NAMES)
    for name in names
} | {name[:3] for name in timestamps.NAMES}

THINGS = {"store", "shop", "sku", "item", "product", "sensor", "station", "series"}


class Order(NamedTuple):
    """The rows of a table, one series after the other, each ascending in time."""

    rows: NDArray[np.intp]
    lengths: NDArray[np.int64]  # rows of each series
    moved: list[int]  # numbers of the series whose rows were not in order

    @property
    def lasts(self) -> NDArray[np.intp]:
        """The place in `rows` of the last row of each series."""
        return np.cumsum(self.lengths) - 1

    def said(self) -> str:
        """The warning about rows that changed places; "" where none did."""
        return moved_message(self.moved) if self.moved else ""


def names(rows: Sequence[Any]) -> str:
    """The first few numbers of series, for a message."""
    shown = ", ".join(map(str, rows[:MOST_NAMES]))
    return shown + (f" and {len(rows) - MOST_NAMES} more" if len(rows) > MOST_NAMES else "")


def moved_message(rows: Sequence[int]) -> str:
    """The warning about series whose rows changed places."""
    return f"the rows of series {names(rows)} were not in order of time and have been sorted"


class TwiceError(Exception):
    """Two rows of a series have the same time."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(first, second)
        self.first, self.second = first, second


def in_file_order(codes: NDArray[np.int64]) -> Order:
    """The order of rows without times; `codes` is the number of each row's series, from 0."""
    return Order(np.argsort(codes, kind="stable"), np.bincount(codes), [])


def ordered(codes: NDArray[np.int64], elapsed: Stamps) -> Order:
    """Sort rows by series and time. Raises TwiceError where a series has a time twice."""
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
    """Infer the step of ordered rows. Raises ConfigError as frequency.infer does."""
    try:
        return frequency.infer(wall[order.rows], elapsed[order.rows], order.lengths)
    except ConfigError as error:
        note = " (its rows are counted in order of time)" if order.moved else ""
        raise ConfigError(f"{error}{note}", index=error.index) from None


def regular(codes: NDArray[np.int64]) -> Callable[[Stamps], bool]:
    """Make a function that says whether timestamps, one a row, have one step when sorted."""

    def is_regular(stamps: Stamps) -> bool:
        try:
            step_of(ordered(codes, stamps), stamps, stamps)
        except (TwiceError, ConfigError):
            return False
        return True

    return is_regular


def of_labels(texts: Sequence[str], name: str) -> Stamps | None:
    """Read row labels as times: dates, or months and days such as 202401; None for others."""
    if not texts or not (timestamps.is_like_time(texts[0]) or texts[0].isdecimal()):
        return None
    try:
        stamps = timestamps.of_texts(texts, name, regular(np.zeros(len(texts), np.int64))).stamps
    except NoTimeError:
        return None
    return stamps if stamps.dtype.kind == "M" else None


def is_count(codes: NDArray[np.int64], stamps: Stamps, *, first: bool) -> bool:
    """Whether a column of numbers counts the rows of each series.

    No number may come twice in a series. Unless the column is the `first`, the numbers must also
    all rise or all fall.
    """
    try:
        ordered(codes, stamps)
    except TwiceError:
        return False
    rows = in_file_order(codes).rows
    between = np.diff(stamps[rows])[np.diff(codes[rows]) == 0]
    return first or bool((between > 0).all() or (between < 0).all())


def tells_apart(columns: Iterable[tuple[str, Sequence[str]]]) -> str | None:
    """The name of the first column that seems to tell series apart; None where there is none.

    Every row of it has a text, or a whole number in a column named as an id. These repeat, and are
    no times, numbers, flags, days of the week or months.
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
    """Whether a column's name says that it holds ids, such as store_id or sku."""
    words = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])I[dD]$", "_id", name).lower())
    return words[-1] in {"id", "ids", "uuid", "guid"} or name.lower() in THINGS


def are_row_numbers(values: NDArray[np.float64]) -> bool:
    """Whether values are 0, 1, 2 … or 1, 2, 3 …"""
    return bool(values[0] in (0, 1) and all(b == a + 1 for a, b in pairwise(values.tolist())))


def _is_number_or_time(text: str) -> bool:
    return not re.search("[^\\W\\d_]", text) or timestamps.is_like_time(text)

"""Read columns of whole numbers as times: calendar dates, seconds of an epoch, counted steps.

Columns of texts share the names of time columns and the type of a column of times with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.series.frequency import Stamps

NOT_A_DATE = "a date that does not exist"
NO_CENTURY = (
    "whole numbers that may be dates by other digits than YYYYMM and YYYYMMDD: write them as "
    "2024-01 or 2024-01-31, or number the rows from 1"
)
Regular = Callable[[Stamps], bool]  # whether timestamps, one a row, have one step
# Calendar dates by their number of digits. Not weeks, days of the year and quarters: short columns
# of them may also be counted steps.
COMPACT = {6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
# Other orders of digits are not read, because a leading zero may be lost.
LAST_YEARS = ["%d%m%y", "%m%d%y"]
OTHER_DIGITS = {4: ["%y%m"], 6: ["%y%m%d", "%m%Y"], 8: ["%d%m%Y", "%m%d%Y"]}
DECIMAL = re.compile(r"[+-]?\d{1,12}(?:[.,]\d{1,9})?")
FIRST_YEAR, LAST_YEAR = 1700, 2199
EPOCHS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
EPOCH_START, EPOCH_END = 10**8, 42 * 10**8  # seconds: 1973 to 2103
# Names of columns that hold times, and parts of dates, in English and German.
TIMES = {"t", "ds", "time", "timestamp", "datetime", "date", "datum", "zeit", "zeitpunkt"}
PARTS = {
    "year": {"year", "years", "yr", "jahr"},
    "quarter": {"quarter", "qtr", "quartal"},
    "month": {"month", "months", "monat"},
    "week": {"week", "weeks", "woche", "kw", "yearweek"},
    "day": {"day", "days", "tag", "yearday", "doy"},
    "hour": {"hour", "stunde"},
    "minute": {"minute"},
    "second": {"second"},
    "step": {"step", "period", "epoch"},
}

LIMITS = {
    "year": (FIRST_YEAR, LAST_YEAR), "quarter": (1, 4), "month": (1, 12), "week": (1, 53),
    "day": (1, 366), "hour": (0, 24), "minute": (0, 59), "second": (0, 59),
}  # fmt: skip


class NoTimeError(Exception):
    """A row of a column is no timestamp; `row` is None where the whole column is at fault."""

    def __init__(self, row: int | None, what: str) -> None:
        super().__init__(what)
        self.row, self.what = row, what


class Times(NamedTuple):
    """A column of times."""

    stamps: Stamps  # datetime64, or int64 for counted steps
    write: Callable[[Stamps], list[Any]]  # later times in the form of the column
    note: str = ""  # a warning about how the column was read


def says(name: str, part: str | None = None) -> bool:
    """Whether a column's name contains a word for times, or for one part of a date."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    parts = [PARTS[part]] if part else [TIMES, *PARTS.values()]
    return any(words & each for each in parts)


def is_named(name: str) -> bool:
    """Whether a column's name is one word for times or for a part of a date."""
    return any(name.lower() in each for each in (TIMES, *PARTS.values()))


def part_of_time(name: str, values: NDArray[np.float64]) -> str | None:
    """The part of a date, such as "month", that a column holds by its name and its numbers.

    None for other names, and where a number is out of range.
    """
    known = values[~np.isnan(values)]
    for part, (low, high) in LIMITS.items():
        if name.lower() in PARTS[part] and len(known):
            fits = (known == np.rint(known)) & (known >= low) & (known <= high)
            return part if fits.all() else None
    return None


def are_like_times(values: NDArray[np.int64], name: str, regular: Regular, *, first: bool) -> bool:
    """Whether whole numbers in a column that the user did not name are times and not a series.

    Calendar dates are times in the first column, under a name for times, or with a regular step.
    Years and epochs need a regular step or a name of one word for times. Other whole numbers need
    a regular step and a name for times.
    """
    named = says(name)
    if len(values) < 2 or (values == values[0]).all():
        return False
    compact = _compact(values)
    if compact is not None or not (first or named):
        return compact is not None and (
            first or named or (len(values) > 2 and regular(compact.stamps))
        )
    unusual = (("week", _weeks), ("day", _year_days), ("quarter", _quarters))
    if (
        _wrong_date(values) is not None
        or (says(name, "year") and _are_years(values))
        or any(says(name, part) and read(values) is not None for part, read in unusual)
    ):
        return True
    if _are_years(values) or _epoch(values) is not None:
        return is_named(name) or _is_regular_epoch(values, regular)
    return named and (_has_other_digits(values, name, regular) or regular(values))


def are_of_calendar(values: NDArray[np.int64]) -> bool:
    """Whether all numbers are years, or calendar dates by their digits."""
    return _are_years(values) or _compact(values) is not None


def of_numbers(values: NDArray[np.int64], name: str, regular: Regular) -> Times:
    """Read whole numbers as calendar dates, as seconds of an epoch, or as counted steps.

    Raises NoTimeError where the numbers have two meanings, or are no dates of the calendar.
    """
    is_part = part_of_time(name, values.astype(np.float64)) in {"month", "quarter"}
    note = "has no years: its numbers are counted on" if is_part else ""
    plain = Times(values, lambda stamps: stamps.tolist(), note)
    weeks, days, quarters = _weeks(values), _year_days(values), _quarters(values)
    if _has_other_digits(values, name, regular):
        raise NoTimeError(None, NO_CENTURY)
    wrong = _wrong_date(values) if weeks is None else None
    if wrong is not None:
        raise NoTimeError(wrong, NOT_A_DATE)
    if weeks is not None and says(name, "week"):
        return weeks
    compact = _compact(values)
    if compact is not None:
        # Months of one year may also be weeks or counted steps.
        is_clear = weeks is None or says(name, "month") or values.min() // 100 < values.max() // 100
        return compact if is_clear else compact._replace(note="is read as months, YYYYMM")
    for found, part, form in (
        (weeks, "week", "2024-W01"),
        (days, "day", "2024-01-01"),
        (quarters, "quarter", "2024-Q1"),
    ):
        if found is None or not (says(name, part) or regular(found.stamps)):
            continue
        if not says(name, part) and regular(values):
            raise NoTimeError(
                None,
                f"whole numbers that may be a year and its {part}s, or counted steps: write "
                f"{form}, or number the rows from 1",
            )
        return found
    epoch = _epoch(values)
    return epoch if epoch and not regular(values) and regular(epoch.stamps) else plain


def of_decimals(texts: Sequence[str]) -> Times | None:
    """Read decimals, such as seconds 0.1 and 0.2, as counts of the last digit; None for others."""
    marks = {mark for mark in ".," for text in texts if mark in text}
    if len(marks) > 1 or not all(DECIMAL.fullmatch(text) for text in texts):
        return None
    points = [text.replace(",", ".") for text in texts]
    digits = max(len(text.partition(".")[2]) for text in points)
    scaled = [int(Decimal(text).scaleb(digits)) for text in points]
    if max(map(abs, scaled)) >= 1 << 63:
        return None

    def write(stamps: Stamps) -> list[Any]:
        found = [float(Decimal(stamp).scaleb(-digits)) for stamp in stamps.tolist()]
        return [str(number).replace(".", ",") for number in found] if "," in marks else found

    return Times(np.array(scaled, np.int64), write)


def _wrong_date(values: NDArray[np.int64]) -> int | None:
    """The first row that is no calendar date in a column where most rows are; None for others."""
    form = COMPACT.get(_digits(values))
    if form is None or _compact(values) is not None:
        return None
    wrong = [_by_digits(values[i : i + 1], form) is None for i in range(len(values))]
    return wrong.index(True) if sum(wrong) * 2 < len(wrong) else None


def _has_other_digits(values: NDArray[np.int64], name: str, regular: Regular) -> bool:
    """Whether numbers under a name for dates may be dates whose order of digits is not read."""
    if not any(says(name, part) for part in ("month", "day")) and name.lower() not in TIMES:
        return False
    is_year = _are_years(values) and not says(name, "month")
    if len(values) < 2 or is_year or _compact(values) is not None:
        return False
    digits = len(str(values.max()))
    digits += digits % 2
    forms = OTHER_DIGITS.get(digits, [])
    if digits == 6 and (len(np.unique(values % 100)) <= 3 or not regular(values)):
        forms = forms + LAST_YEARS  # with many different years they are counted steps
    kinds = np.unique(values).tolist()
    return values.min() >= 0 and any(
        all(_reads(f"{value:0{digits}}", form) for value in kinds) for form in forms
    )


def _reads(text: str, form: str) -> bool:
    try:
        year = datetime.strptime(text, form).year  # noqa: DTZ007
    except ValueError:
        return False
    return FIRST_YEAR <= year <= LAST_YEAR


def _by_digits(values: NDArray[np.int64], form: str) -> Times | None:
    """Read numbers by a format of strptime; None where one is no date from 1700 to 2199."""
    moments = []
    kinds, inverse = np.unique(values, return_inverse=True)
    for value in kinds.tolist():
        try:
            moment = datetime.strptime(str(value), form)  # noqa: DTZ007
        except ValueError:
            return None
        if not FIRST_YEAR <= moment.year <= LAST_YEAR:
            return None
        moments.append(moment)

    def write(stamps: Stamps) -> list[Any]:
        return [int(moment.strftime(form)) for moment in stamps.astype("M8[us]").tolist()]

    return Times(np.array(moments, "M8[us]")[inverse], write)


def _digits(values: NDArray[np.int64]) -> int:
    """The number of digits that all values have; 0 where they differ or one is negative."""
    low, high = int(values.min()), int(values.max())
    return len(str(low)) if low >= 0 and len(str(low)) == len(str(high)) else 0


def _compact(values: NDArray[np.int64]) -> Times | None:
    """Read calendar dates by their digits; None for others."""
    form = COMPACT.get(_digits(values))
    return None if form is None else _by_digits(values, form)


def _weeks(values: NDArray[np.int64]) -> Times | None:
    """Read years with weeks, 202401 to 202452; None for others."""
    return _of_years(values, 6, lambda year, week: date.fromisocalendar(year, week, 1), _week)


def _year_days(values: NDArray[np.int64]) -> Times | None:
    """Read years with days, 2024001 to 2024366; None for others."""

    def day(year: int, number: int) -> date:
        found = date(year, 1, 1) + timedelta(days=number - 1)
        if number < 1 or found.year != year:
            raise ValueError
        return found

    return _of_years(values, 7, day, lambda at: at.year * 1000 + at.timetuple().tm_yday)


def _quarters(values: NDArray[np.int64]) -> Times | None:
    """Read years with quarters, 20241 to 20244; None for others."""
    return _of_years(
        values,
        5,
        lambda year, quarter: date(year, 3 * quarter - 2, 1),
        lambda at: at.year * 10 + (at.month + 2) // 3,
    )


def _week(at: date) -> int:
    year, week, _ = at.isocalendar()
    return year * 100 + week


def _of_years(
    values: NDArray[np.int64],
    digits: int,
    read: Callable[[int, int], date],
    written: Callable[[date], int],
) -> Times | None:
    """Read numbers of `digits` digits: a year of four digits, then a part of the year."""
    if _digits(values) != digits:
        return None
    days = []
    kinds, inverse = np.unique(values, return_inverse=True)
    for value in kinds.tolist():
        year, part = divmod(value, 10 ** (digits - 4))
        try:
            days.append(read(year, part))
        except ValueError:
            return None
        if not FIRST_YEAR <= year <= LAST_YEAR:
            return None
    return Times(
        np.array(days, "M8[us]")[inverse],
        lambda stamps: [written(at) for at in stamps.astype("M8[D]").tolist()],
    )


def _are_years(values: NDArray[np.int64]) -> bool:
    return bool(values.min() >= FIRST_YEAR and values.max() <= LAST_YEAR)


def _epoch(values: NDArray[np.int64]) -> Times | None:
    """Read seconds, milli-, micro- or nanoseconds since 1970; None for others."""
    low, high = values.min(), values.max()
    fits = (u for u, n in EPOCHS.items() if EPOCH_START * n <= low and high <= EPOCH_END * n)
    unit = next(fits, None)
    if unit is None:
        return None
    return Times(
        values.astype(f"M8[{unit}]"),
        lambda stamps: stamps.astype(f"M8[{unit}]").astype(np.int64).tolist(),
    )


def _is_regular_epoch(values: NDArray[np.int64], regular: Regular) -> bool:
    epoch = _epoch(values)
    return regular(values) or (epoch is not None and regular(epoch.stamps))

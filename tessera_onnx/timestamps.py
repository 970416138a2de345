"""Texts and whole numbers that stand for times are read, and later times written in their form.

A form is read where every value of a column has it. Where a column has two meanings, days before
months or months before days, the one that gives a regular step is taken, and there is an error
where both do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.frequency import Stamps

Regular = Callable[[Stamps], bool]  # whether timestamps, one a row, have one step
EXPECTED = (
    "no timestamp: expected YYYY-MM-DD, with HH:MM:SS behind, or YYYY-MM, or another form with a "
    "year of four digits, the same in every row, or integers throughout"
)
NOT_A_DATE = "a date that does not exist"
ISO = re.compile(
    r"(\d{4}-\d\d(?:-\d\d(?:([T ])\d\d:\d\d(?::\d\d(?:\.(\d{1,6}))?)?)?)?)(Z|[+-]\d\d:?\d\d)?"
)
UNITS = {7: "M", 10: "D", 16: "m", 19: "s"}  # of an ISO timestamp, by its length
WHOLE = re.compile(r"([+-]?\d{1,18})(?:\.0*)?")
MONTHS = "january february march april may june july august september october november december"
NAMES = MONTHS.split()
MONTH = rf"(?P<b>{'|'.join(name[:3] for name in NAMES)})[a-z]*\.?"
DAY, NUMBER, YEAR, SIGN = r"(?P<d>\d{1,2})", r"(?P<m>\d{1,2})", r"(?P<y>\d{4})", "(?P<s>[-/.])"
CLOCK = r"(?:[T ](?P<H>\d{1,2}):(?P<M>\d\d)(?::(?P<S>\d\d)(?:\.(?P<f>\d{1,6}))?)?)?"
DAY_FIRST = re.compile(f"{DAY}{SIGN}{NUMBER}(?P=s){YEAR}{CLOCK}")
MONTH_FIRST = re.compile(f"{NUMBER}{SIGN}{DAY}(?P=s){YEAR}{CLOCK}")
FORMS = [
    DAY_FIRST,
    MONTH_FIRST,
    *(
        re.compile(form, re.IGNORECASE)
        for form in (
            f"{YEAR}{SIGN}{NUMBER}(?P=s){DAY}{CLOCK}",
            f"{YEAR}[-/.]{NUMBER}",
            f"{NUMBER}[-/.]{YEAR}",
            f"{YEAR}[- ]?Q(?P<q>[1-4])",
            f"Q(?P<q>[1-4])[-/ ]?{YEAR}",
            f"{YEAR}[- ]?W(?P<w>\\d{{1,2}})",
            f"{DAY}[-. ]+{MONTH}[-, ]+{YEAR}",
            f"{MONTH}[- ]+{DAY},? +{YEAR}",
            f"{MONTH}[- ]+{YEAR}",
            f"{YEAR}[- ]+{MONTH}",
        )
    ),
]
# Whole numbers by their digits. Of weeks, days of the year and quarters a short run may be a count.
COMPACT = {6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
FIRST_YEAR, LAST_YEAR = 1700, 2199
EPOCHS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
EPOCH_START, EPOCH_END = 10**8, 42 * 10**8  # seconds: 1973 to 2103
# Names of columns that say what their whole numbers are; English and German.
TIMES = {"t", "ds", "time", "timestamp", "datetime", "date", "datum", "zeit", "zeitpunkt"}
PARTS = {
    "year": {"year", "years", "yr", "jahr"},
    "quarter": {"quarter", "qtr", "quartal"},
    "month": {"month", "months", "monat"},
    "week": {"week", "weeks", "woche", "kw", "yearweek"},
    "day": {"day", "days", "tag", "yearday", "doy"},
    "step": {"step", "period", "epoch", "hour", "minute", "second"},
}


class NoTimeError(Exception):
    """A row of a column is no timestamp; `row` is None where it is the column as a whole."""

    def __init__(self, row: int | None, what: str) -> None:
        super().__init__(what)
        self.row, self.what = row, what


class Times(NamedTuple):
    """A column of times: datetime64 or, for plain numbers, int64; and how the column writes."""

    stamps: Stamps
    write: Callable[[Stamps], list[Any]]
    note: str = ""  # what a person should know of the reading


def says(name: str, part: str | None = None) -> bool:
    """Whether a column's name says that it holds times, or that part of them."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    parts = [PARTS[part]] if part else [TIMES, *PARTS.values()]
    return any(words & each for each in parts)


def is_like_time(text: str) -> bool:
    """Whether a text has the form of a time, and is no number."""
    if re.fullmatch(r"[\d.]*", text) and text.count(".") < 2:
        return False
    return bool(ISO.fullmatch(text)) or any(form.fullmatch(text) for form in FORMS)


def are_like_times(values: NDArray[np.int64], name: str, regular: Regular, *, first: bool) -> bool:
    """Whether whole numbers of a column that nobody named are times rather than a series.

    A calendar's numbers are times in the first column or under a name that says so. Years and
    epochs need a regular step too, any other whole numbers both the name and the step.
    """
    named = says(name)
    if not (first or named) or len(values) < 2 or (values == values[0]).all():
        return False
    if _compact(values) is not None:
        return True
    if says(name, "year") and _are_years(values):
        return True
    unusual = (("week", _weeks), ("day", _year_days), ("quarter", _quarters))
    if any(says(name, part) and read(values) is not None for part, read in unusual):
        return True
    if _are_years(values) or _epoch(values) is not None:
        return _is_regular_epoch(values, regular)
    return named and regular(values)


def are_of_calendar(values: NDArray[np.int64]) -> bool:
    """Whether all whole numbers are years, or months or days by their digits."""
    return _are_years(values) or _compact(values) is not None


def of_texts(texts: Sequence[str], name: str, regular: Regular) -> Times:
    """The times of texts. Raises NoTimeError, never with what a text holds."""
    whole = [WHOLE.fullmatch(text) for text in texts]
    if all(whole):
        numbers = np.array([int(found[1]) for found in whole if found], np.int64)
        return of_numbers(numbers, name, regular)
    if ISO.fullmatch(texts[0]) or not any(form.fullmatch(texts[0]) for form in FORMS):
        return _iso(texts)
    return _other(texts, regular)


def of_numbers(values: NDArray[np.int64], name: str, regular: Regular) -> Times:
    """The times of whole numbers: of a calendar, of an epoch, or counted steps."""
    plain = Times(values, lambda stamps: stamps.tolist())
    weeks, days, quarters = _weeks(values), _year_days(values), _quarters(values)
    if weeks is not None and says(name, "week"):
        return weeks
    compact = _compact(values)
    if compact is not None:
        # Months of one year may be weeks or a count just as well.
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


def _iso(texts: Sequence[str]) -> Times:
    """Times in the form of the longest one.

    Not of the last one: programs leave out zeros, such as the microseconds of a whole second.
    """
    matches = []
    for row, text in enumerate(texts):
        match = ISO.fullmatch(text)
        if match is None:
            raise NoTimeError(row, EXPECTED)
        matches.append(match)
        if (match[4] or "") != (matches[0][4] or ""):
            raise NoTimeError(row, "another UTC offset than the rows above: write UTC")
        try:
            np.datetime64(match[1])
        except ValueError:
            raise NoTimeError(row, NOT_A_DATE) from None
    longest = max(matches, key=lambda match: len(match[1]))
    unit = UNITS.get(len(longest[1]), "ms" if len(longest[3] or "") <= 3 else "us")
    separator, offset = longest[2] or "T", longest[4] or ""

    def write(stamps: Stamps) -> list[Any]:
        written = np.datetime_as_string(stamps, unit=unit)  # type: ignore[call-overload]
        return [text.replace("T", separator) + offset for text in written.tolist()]

    return Times(np.array([match[1] for match in matches], "M8[us]"), write)


def _other(texts: Sequence[str], regular: Regular) -> Times:
    """Times in another form than ISO."""
    form = next(form for form in FORMS if form.fullmatch(texts[0]))
    for row, text in enumerate(texts):
        if form.fullmatch(text) is None:
            raise NoTimeError(row, EXPECTED)
    if form is not DAY_FIRST:
        return _of_form(form, texts)
    read: list[Times] = []
    error = NoTimeError(None, EXPECTED)
    for order in (MONTH_FIRST, DAY_FIRST):
        try:
            read.append(_of_form(order, texts))
        except NoTimeError as found:
            # Of a column in which no order reads all, the row that the better one fails at.
            error = max(error, found, key=lambda each: -1 if each.row is None else each.row)
    if not read:
        raise error
    if len(read) == 2 and "." not in texts[0]:  # nobody writes a month, a point and a day
        read = [times for times in read if regular(times.stamps)]
        if len(read) != 1:
            raise NoTimeError(
                None, "days and months that cannot be told apart: write YYYY-MM-DD, as 2024-01-31"
            )
    return read[-1]


def _of_form(form: re.Pattern[str], texts: Sequence[str]) -> Times:
    found: list[dict[str, Any]] = []
    matches, moments = [], []
    for row, text in enumerate(texts):
        match = form.fullmatch(text)
        if match is None:
            raise NoTimeError(row, EXPECTED)
        matches.append(match)
        found.append(match.groupdict())
        try:
            moments.append(_moment(found[-1], match[0]))
        except ValueError:
            raise NoTimeError(row, NOT_A_DATE) from None
    fullest = max(
        range(len(found)), key=lambda row: sum(v is not None for v in found[row].values())
    )
    sample = matches[fullest]
    short = {key for each in found for key, value in each.items() if value and len(value) == 1}
    long_names = any(len(word) > 4 for text in texts for word in re.findall("[a-zA-Z]+", text))

    def write(stamps: Stamps) -> list[Any]:
        return [
            _written(sample, moment, short, long_names=long_names)
            for moment in stamps.astype("M8[us]").tolist()
        ]

    return Times(np.array(moments, "M8[us]"), write)


def _moment(fields: dict[str, Any], text: str) -> datetime:
    """The time that the groups of a match tell. Raises ValueError."""
    year = int(fields["y"])
    hour, minute, second = (int(fields.get(part) or 0) for part in "HMS")
    micro = int((fields.get("f") or "0").ljust(6, "0"))
    if fields.get("w"):
        monday = date.fromisocalendar(year, int(fields["w"]), 1)
        return datetime(monday.year, monday.month, monday.day)  # noqa: DTZ001 (times of a wall)
    if fields.get("q"):
        month = 3 * int(fields["q"]) - 2
    elif fields.get("b"):
        word = next(w.lower() for w in re.findall("[a-zA-Z]+", text))
        month = next(i for i, name in enumerate(NAMES, 1) if name[:3] == word[:3])
        if word not in (NAMES[month - 1], NAMES[month - 1][:3], "sept"):
            raise ValueError
    else:
        month = int(fields["m"])
    day = int(fields.get("d") or 1)
    return datetime(year, month, day, hour, minute, second, micro)  # noqa: DTZ001


def _written(sample: re.Match[str], moment: datetime, short: set[str], *, long_names: bool) -> str:
    """A time in the form of a sample, whose other characters stay; `short` fields have no 0."""
    week = moment.isocalendar()
    numbers = {
        "y": week.year if "w" in sample.groupdict() else moment.year,
        "m": moment.month, "d": moment.day, "w": week.week, "q": (moment.month + 2) // 3,
        "H": moment.hour, "M": moment.minute, "S": moment.second,
    }  # fmt: skip
    text, end = "", 0
    for key in sorted(
        (key for key in sample.groupdict() if sample[key] and key != "s"), key=sample.start
    ):
        text += sample.string[end : sample.start(key)]
        end = sample.end(key)
        if key == "b":
            end += len(re.match("[a-z]*", sample.string[end:], re.IGNORECASE)[0])  # type: ignore[index]
            name = NAMES[moment.month - 1]
            name = name if long_names else name[:3]
            text += (
                name.upper()
                if sample[key].isupper()
                else (name if sample[key].islower() else name.title())
            )
        elif key == "f":
            text += f"{moment.microsecond:06}"[: max(3, len(sample[key]))]
        else:
            width = 4 if key == "y" else 1 if key in short | {"q"} else 2
            text += f"{numbers[key]:0{width}}"
    return text + sample.string[end:]


def _by_digits(values: NDArray[np.int64], form: str) -> Times | None:
    """Whole numbers as `form` of strptime, None where one is none in the years of a calendar."""
    moments = []
    for value in values.tolist():
        try:
            moment = datetime.strptime(str(value), form)  # noqa: DTZ007
        except ValueError:
            return None
        if not FIRST_YEAR <= moment.year <= LAST_YEAR:
            return None
        moments.append(moment)

    def write(stamps: Stamps) -> list[Any]:
        return [int(moment.strftime(form)) for moment in stamps.astype("M8[us]").tolist()]

    return Times(np.array(moments, "M8[us]"), write)


def _digits(values: NDArray[np.int64]) -> int:
    """How many digits all values have, 0 where they differ or one is negative."""
    low, high = int(values.min()), int(values.max())
    return len(str(low)) if low >= 0 and len(str(low)) == len(str(high)) else 0


def _compact(values: NDArray[np.int64]) -> Times | None:
    """Months, days and times of day by their digits."""
    form = COMPACT.get(_digits(values))
    return None if form is None else _by_digits(values, form)


def _weeks(values: NDArray[np.int64]) -> Times | None:
    """A year and its week, 202401 to 202452."""
    return _of_years(values, 6, lambda year, week: date.fromisocalendar(year, week, 1), _week)


def _year_days(values: NDArray[np.int64]) -> Times | None:
    """A year and its day, 2024001 to 2024366."""

    def day(year: int, number: int) -> date:
        found = date(year, 1, 1) + timedelta(days=number - 1)
        if number < 1 or found.year != year:
            raise ValueError
        return found

    return _of_years(values, 7, day, lambda at: at.year * 1000 + at.timetuple().tm_yday)


def _quarters(values: NDArray[np.int64]) -> Times | None:
    """A year and its quarter, 20241 to 20244."""
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
    """Whole numbers of that many digits, a year of four and a part of it."""
    if _digits(values) != digits:
        return None
    days = []
    for value in values.tolist():
        year, part = divmod(value, 10 ** (digits - 4))
        try:
            days.append(read(year, part))
        except ValueError:
            return None
        if not FIRST_YEAR <= year <= LAST_YEAR:
            return None
    return Times(
        np.array(days, "M8[us]"),
        lambda stamps: [written(at) for at in stamps.astype("M8[D]").tolist()],
    )


def _are_years(values: NDArray[np.int64]) -> bool:
    return bool(values.min() >= FIRST_YEAR and values.max() <= LAST_YEAR)


def _epoch(values: NDArray[np.int64]) -> Times | None:
    """Seconds since 1970 or their thousandths, millionths or billionths."""
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

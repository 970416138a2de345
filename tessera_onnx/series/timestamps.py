"""Read columns of texts as times, and write later times in the same form.

Every text of a column must have the same form. Where day and month may be in either order, the
order that gives a regular step is taken; it is an error where both do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.series import time_numbers
from tessera_onnx.series.frequency import Stamps
from tessera_onnx.series.numbers import MISSING
from tessera_onnx.series.time_numbers import NOT_A_DATE, NoTimeError, Regular, Times

EXPECTED = (
    "no timestamp: expected YYYY-MM-DD, YYYY-MM-DD HH:MM:SS, YYYY-MM or another form with a year "
    "of four digits, the same in every row, or integers in every row"
)
ISO = re.compile(
    r"(\d{4}-\d\d(?:-\d\d(?:([T ])\d\d:\d\d(?::\d\d(?:\.(\d{1,6}))?)?)?)?)(Z|[+-]\d\d:?\d\d)?"
)
UNITS = {7: "M", 10: "D", 16: "m", 19: "s"}  # of an ISO timestamp, by its length
LIMIT = 1 << 63
WHOLE = re.compile(r"([+-]?\d{1,19})(?:\.0*)?")
MONTHS = "january february march april may june july august september october november december"
NAMES = MONTHS.split()
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
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

# Texts that are recognised as dates, though some of them are not read, such as 12/31/24.
SEEMING = re.compile(
    r"^(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d\d))(?:[T ,].*)?$"
    rf"|\b{MONTH}\b.*\b\d{{4}}\b",
    re.IGNORECASE,
)


def is_like_time(text: str) -> bool:
    """Whether a text has a form of times that is read, and is no number."""
    if re.fullmatch(r"[\d.]*", text) and text.count(".") < 2:
        return False
    return bool(ISO.fullmatch(text)) or any(form.fullmatch(text) for form in FORMS)


def seems_time(text: str) -> bool:
    """Whether a text looks like a time, also in a form that is not read."""
    return is_like_time(text) or SEEMING.search(text) is not None


def whole_numbers(texts: Sequence[str]) -> NDArray[np.int64] | None:
    """Read texts as whole numbers, 5.0 too; None where one is no whole number, or beyond int64."""
    if not texts or WHOLE.fullmatch(texts[0]) is None:  # nearly always all are, or none is
        return None
    found = [match and int(match[1]) for match in map(WHOLE.fullmatch, texts)]
    numbers = [number for number in found if number is not None and -LIMIT <= number < LIMIT]
    return np.array(numbers, np.int64) if len(numbers) == len(texts) else None


def of_texts(texts: Sequence[str], name: str, regular: Regular) -> Times:
    """Read texts as times. Raises NoTimeError, whose message never holds a text."""
    for row, text in enumerate(texts):
        if text.lower() in MISSING:
            raise NoTimeError(row, "no timestamp: drop the row, or write its time")
    if _are_seasons(texts):
        raise NoTimeError(None, "pairs of years, as 2023/24: write the first year alone")
    numbers = whole_numbers(texts)
    if numbers is not None:
        return time_numbers.of_numbers(numbers, name, regular)
    decimals = time_numbers.of_decimals(texts)
    if decimals is not None:  # 01.1949 and 1949.01 are months if their step is regular
        by_month = all(re.fullmatch(r"\d\d\.\d{4}|\d{4}\.\d\d", text) for text in texts)
        months = _other_or_none(texts, regular) if by_month else None
        return months if months is not None and regular(months.stamps) else decimals
    if ISO.fullmatch(texts[0]) or not any(form.fullmatch(texts[0]) for form in FORMS):
        return _iso(texts)
    return _other(texts, regular)


def _are_seasons(texts: Sequence[str]) -> bool:
    """Whether texts are pairs of years, such as 2023/24, which may look like months."""
    found = [re.fullmatch(r"(\d\d(\d\d))[-/](\d\d)", text) for text in texts]
    return len({match[1] for match in found if match}) > 1 and all(
        match and (int(match[2]) + 1) % 100 == int(match[3]) for match in found
    )


def falls(texts: Sequence[str]) -> bool:
    """Whether names of months or weekdays, or texts with one number each, go back row by row."""
    lowered = [text.lower().rstrip(".") for text in texts]
    for names in (NAMES, list(DAYS)):
        places = {name: i for i, name in enumerate(names)}
        places |= {name[:3]: i for name, i in places.items()}
        if all(text in places for text in lowered):
            steps = np.diff([places[text] for text in lowered]) % len(names)
            return len(steps) > 1 and bool((steps == len(names) - 1).all())
    found = [re.findall(r"\d{1,18}", text) for text in lowered]
    if len(found) < 3 or any(len(each) != 1 for each in found):
        return False
    numbers = np.array([int(each[0]) for each in found])
    is_month = numbers.min() >= 1 and numbers.max() <= 12
    back = (np.diff(numbers) % 12 == 11) if is_month else (np.diff(numbers) < 0)
    return bool(back.all())


def _iso(texts: Sequence[str]) -> Times:
    """Read ISO times; later times are written in the form of the longest text.

    Not of the last text: programs leave out zeros, such as the microseconds of a whole second.
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


def _other_or_none(texts: Sequence[str], regular: Regular) -> Times | None:
    try:
        return _other(texts, regular)
    except NoTimeError:
        return None


def _other(texts: Sequence[str], regular: Regular) -> Times:
    """Read times in another form than ISO. Raises NoTimeError."""
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
            # If no order reads all rows, report the row at which the better order fails.
            error = max(error, found, key=lambda each: -1 if each.row is None else each.row)
    if not read:
        raise error
    if len(read) == 2 and "." not in texts[0]:  # with points the day always comes first
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
    """Make the time from the groups of a match. Raises ValueError for a date that is none."""
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
    """Write a time in the form of a sample; fields in `short` have no leading zero."""
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

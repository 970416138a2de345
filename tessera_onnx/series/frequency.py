"""Infer the step between the timestamps of series, and continue them.

Calendar steps (months, days, business days) follow local time, all others follow elapsed time:
daily values stay at midnight through a change of daylight saving time, hourly values stay an hour
apart. Pure NumPy; without a time zone local time and elapsed time are the same.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError

Stamps = NDArray[Any]  # datetime64 or int64
LAST_DAY = 31
REGULAR = (
    "give every step a row, with an empty target where nothing was measured, or number the rows "
    "in an integer column and use that"
)


class Step(NamedTuple):
    """A step of `count` months, days or business days, or of time units ("elapsed").

    `day` is the day of the month of monthly steps; in a shorter month its last day is taken.
    """

    unit: Literal["months", "days", "business days", "elapsed"]
    count: Any
    day: int = 0


def infer(wall: Stamps, elapsed: Stamps, lengths: NDArray[np.int64]) -> Step:
    """Infer the common step of series that follow each other, with `lengths` timestamps each.

    `wall` holds local times and `elapsed` the same instants in UTC, both (n,) datetime64; integers
    are given twice. Each series ascends, as table.ordered makes it. A step is a number of months
    (so quarters, years) on one day of the month or on its last, of whole days, one business day
    (Monday to Friday), or any fixed time. Some series must have three timestamps.

    Raises ConfigError where timestamps are irregular, with the number of the series as `index`, or
    where series have different steps.
    """
    ends = np.cumsum(lengths)
    inside = np.ones(max(len(wall) - 1, 0), bool)
    inside[ends[:-1] - 1] = False  # no step from one series to the next
    before = np.flatnonzero(inside)
    if lengths.max(initial=0) < 3:
        raise ConfigError(
            "too few timestamps to infer their step: at least one series needs 3, the longest has "
            f"{lengths.max(initial=0)}"
        )
    step = _step(wall, elapsed, before)
    if step is None:
        raise _no_step(wall, elapsed, ends)
    return step


def following(wall: Stamps, elapsed: Stamps, step: Step, horizon: int) -> Stamps:
    """Continue each of (n,) timestamps by `horizon` steps: (n, horizon).

    The result is in local time, but in UTC for the unit "elapsed". Raises ConfigError where it
    leaves the range of the timestamps' type.
    """
    ahead = np.arange(1, horizon + 1)
    if step.unit == "elapsed":
        found = elapsed[:, None] + step.count * ahead
        last = elapsed
    else:
        last = wall
        days = wall.astype("M8[D]")
        if step.unit == "months":
            months = wall.astype("M8[M]")[:, None] + step.count * ahead
            dates = months.astype("M8[D]") + (np.minimum(step.day, _days_in(months)) - 1)
        elif step.unit == "days":
            dates = days[:, None] + step.count * ahead
        else:
            dates = np.busday_offset(days[:, None], ahead)
        found = dates.astype(wall.dtype) + (wall - days.astype(wall.dtype))[:, None]
    before = np.concatenate([last[:, None], found[:, :-1]], axis=1)
    if (found <= before).any():
        raise ConfigError("the horizon leads beyond the last time that its type can hold")
    return np.asarray(found)


def _step(wall: Stamps, elapsed: Stamps, before: NDArray[np.intp]) -> Step | None:
    """The step from each row of `before` to the row after it; None where steps differ."""
    if wall.dtype.kind == "M":
        days = wall.astype("M8[D]")
        time_of_day = wall - days
        if (time_of_day[before] == time_of_day[before + 1]).all():
            found = _months(days, before) or _days(days, before)
            if found is not None:
                return found
    between = elapsed[before + 1] - elapsed[before]
    return Step("elapsed", between[0]) if (between == between[0]).all() else None


def _months(days: Stamps, before: NDArray[np.intp]) -> Step | None:
    months = days.astype("M8[M]")
    between = (months[before + 1] - months[before]).astype(np.int64)
    if between[0] < 1 or (between != between[0]).any():
        return None
    day = (days - months.astype("M8[D]")).astype(np.int64) + 1
    last = _days_in(months)
    usual = LAST_DAY if (day == last).all() else int(day.max())
    if (day != np.minimum(usual, last)).any():
        return None
    return Step("months", int(between[0]), usual)


def _days(days: Stamps, before: NDArray[np.intp]) -> Step | None:
    between = (days[before + 1] - days[before]).astype(np.int64)
    if (between == between[0]).all():
        return Step("days", int(between[0]))
    working = np.is_busday(days).all()
    if working and (np.busday_count(days[before], days[before + 1]) == 1).all():
        return Step("business days", 1)
    return None


def _days_in(months: Stamps) -> NDArray[np.int64]:
    n_days = (months + 1).astype("M8[D]") - months.astype("M8[D]")
    return np.asarray(n_days.astype(np.int64))


def _no_step(wall: Stamps, elapsed: Stamps, ends: NDArray[np.int64]) -> ConfigError:
    """The error that says why the series have no common step."""
    for series, (start, end) in enumerate(pairwise([0, *ends.tolist()])):
        before = np.arange(end - start - 1)
        if before.size and _step(wall[start:end], elapsed[start:end], before) is None:
            between = np.diff(elapsed[start:end])
            kinds, counts = np.unique(between, return_counts=True)
            row = int(np.flatnonzero(between != kinds[counts.argmax()])[0])
            return ConfigError(
                f"the timestamps of series {series} are irregular, see its rows {row} and "
                f"{row + 1}: {REGULAR}",
                index=series,
            )
    return ConfigError(
        "the series have timestamps of different steps: forecast those of one step at a time"
    )

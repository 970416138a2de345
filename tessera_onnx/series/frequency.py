"""The step between the timestamps of a series, and the timestamps that come next.

Calendar steps (months, days, business days) go by the wall clock, everything else by elapsed
time, so that daily values stay at midnight through a change of daylight saving time and hourly
values stay an hour apart. Pure NumPy; without a time zone both clocks are the same.
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
    """A step of `count` months, days, business days, or units of the timestamps ("elapsed").

    `day` is the day of the month of monthly steps; a shorter month takes its last day.
    """

    unit: Literal["months", "days", "business days", "elapsed"]
    count: Any
    day: int = 0


def infer(wall: Stamps, elapsed: Stamps, lengths: NDArray[np.int64]) -> Step:
    """The one step of all series, which follow each other with `lengths` timestamps each.

    `wall` holds local times and `elapsed` the same instants in UTC, both (n,) datetime64; integers
    are given twice. Each series ascends, as table.ordered has it. Steps of months (quarters,
    years) on the same day or at the end of the month, whole days, business days Monday to Friday,
    or any fixed time; two steps of one series are needed to tell. Raises ConfigError, naming series
    by their order, for timestamps that are irregular, or step differently from series to series.
    """
    ends = np.cumsum(lengths)
    inside = np.ones(max(len(wall) - 1, 0), bool)
    inside[ends[:-1] - 1] = False  # no step from one series to the next
    before = np.flatnonzero(inside)
    if lengths.max(initial=0) < 3:
        raise ConfigError(
            "too few timestamps to infer their step: some series needs 3, the longest has "
            f"{lengths.max(initial=0)}"
        )
    step = _step(wall, elapsed, before)
    if step is None:
        raise ConfigError(_why(wall, elapsed, ends))
    return step


def following(wall: Stamps, elapsed: Stamps, step: Step, horizon: int) -> Stamps:
    """The next timestamps after each of (n,), as (n, horizon).

    They are local times, for steps of unit "elapsed" UTC. Raises ConfigError when they leave the
    range of the timestamps' type.
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
        raise ConfigError("the horizon leads beyond the last time that the timestamps can hold")
    return np.asarray(found)


def _step(wall: Stamps, elapsed: Stamps, before: NDArray[np.intp]) -> Step | None:
    """The step from each row of `before` to the next row, None where they are not one."""
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


def _why(wall: Stamps, elapsed: Stamps, ends: NDArray[np.int64]) -> str:
    """What keeps the series from having one step."""
    for series, (start, end) in enumerate(pairwise([0, *ends.tolist()])):
        before = np.arange(end - start - 1)
        if before.size and _step(wall[start:end], elapsed[start:end], before) is None:
            between = np.diff(elapsed[start:end])
            kinds, counts = np.unique(between, return_counts=True)
            row = int(np.flatnonzero(between != kinds[counts.argmax()])[0])
            return (
                f"the timestamps of series {series} are irregular, see its rows {row} and "
                f"{row + 1}: {REGULAR}"
            )
    return "the series have timestamps of different steps: forecast those of one step at a time"

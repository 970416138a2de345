"""Steps between timestamps, against pandas' own calendars and by hand."""

import numpy as np
import pandas as pd
import pytest

from tessera_onnx.errors import ConfigError
from tessera_onnx.series.frequency import following, infer


def one(values):
    values = np.asarray(values)
    return infer(values, values, np.array([len(values)]))


def stamps(*texts):
    return np.array(texts, "M8[us]")


FREQUENCIES = ["YS", "YE", "YE-JUN", "QS", "QE", "QE-JAN", "MS", "ME", "2ME", "W", "W-WED", "2W"]
FREQUENCIES += ["D", "3D", "B", "12h", "h", "15min", "s", "36h"]


@pytest.mark.parametrize("freq", FREQUENCIES)
@pytest.mark.parametrize("start", ["2019-01-01", "2020-02-28", "2023-12-29 06:30"])
def test_pandas_calendars_go_on(freq, start):
    """Every step is recognised from the first 8 and leads to the same 40 timestamps."""
    whole = pd.date_range(start, periods=48, freq=freq).to_numpy().astype("M8[ns]")
    known = whole[:8]
    if freq == "B":
        assert one(known).unit == "business days"
    np.testing.assert_array_equal(following(known[-1:], known[-1:], one(known), 40)[0], whole[8:])


def test_days_that_short_months_lack():
    known = stamps("2023-01-30", "2023-02-28", "2023-03-30")
    assert one(known) == ("months", 1, 30)
    want = stamps("2023-04-30", "2023-05-30", "2023-06-30")
    assert (following(known[-1:], known[-1:], one(known), 3) == want).all()
    leap = following(known[-1:], known[-1:], one(known), 11)[0, -1]
    assert leap == stamps("2024-02-29")[0]


def test_months_of_31_days_in_a_row_are_months():
    assert one(stamps("2023-07-01", "2023-08-01", "2023-09-01")).unit == "months"


def test_a_working_week_alone_is_daily():
    assert one(stamps("2024-01-01", "2024-01-02", "2024-01-03")) == ("days", 1, 0)


def test_integers():
    assert one([3, 5, 7]) == ("elapsed", 2, 0)
    assert following(np.array([7]), np.array([7]), one([3, 5, 7]), 3).tolist() == [[9, 11, 13]]


def test_short_series_take_the_step_of_the_others():
    values = np.concatenate(
        [stamps("2024-03-31"), stamps("2024-01-31", "2024-02-29", "2024-03-31")]
    )
    step = infer(values, values, np.array([1, 3]))
    assert step == ("months", 1, 31)


@pytest.mark.parametrize(
    ("texts", "lengths", "message"),
    [
        (["2024-01-01", "2024-01-02"], [2], "the longest has 2"),
        (["2024-01-01"] * 4, [1, 1, 1, 1], "the longest has 1"),
        (["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-05"], [4], "rows 2 and 3: give every"),
        (["2024-01-01", "2024-01-31", "2024-03-01", "2024-04-02"], [4], "irregular"),
        (
            ["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-01", "2024-02-01", "2024-03-01"],
            [3, 3],
            "different steps",
        ),
        # A Saturday among series of business days.
        (["2024-01-06", "2024-01-04", "2024-01-05", "2024-01-08"], [1, 3], "different|irregular"),
    ],
)
def test_bad_timestamps(texts, lengths, message):
    values = stamps(*texts)
    with pytest.raises(ConfigError, match=message) as caught:
        infer(values, values, np.array(lengths))
    assert "2024" not in str(caught.value)


def test_the_end_of_time():
    values = np.array([2**63 - 5, 2**63 - 4, 2**63 - 3])
    with pytest.raises(ConfigError, match="beyond the last time"):
        following(values[-1:], values[-1:], one(values), 5)
    values = np.array(["2262-01-01", "2262-02-01", "2262-03-01"], "M8[ns]")
    with pytest.raises(ConfigError, match="beyond the last time"):
        following(values[-1:], values[-1:], one(values), 2000)

"""Texts and whole numbers that are times, against pandas' own calendars and by hand."""

import numpy as np
import pandas as pd
import pytest

from tessera_onnx.series import frequency, table, time_numbers, timestamps


def ahead(texts, horizon, name="x"):
    """The next times of one series in the form of its own, and the note."""
    codes = np.zeros(len(texts), np.int64)
    times = timestamps.of_texts(texts, name, table.regular(codes))
    order = table.ordered(codes, times.stamps)
    step = table.step_of(order, times.stamps, times.stamps)
    last = times.stamps[order.rows[order.lasts]]
    return times.write(frequency.following(last, last, step, horizon)[0]), times.note


FORMS = ["%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y",
         "%m-%d-%Y", "%d %b %Y", "%d-%b-%Y", "%B %d, %Y", "%b %d %Y", "%d. %B %Y"]  # fmt: skip
CLOCKS = ["", " %H:%M", " %H:%M:%S", "T%H:%M:%S"]


@pytest.mark.parametrize("form", [*FORMS, *(f + c for f in FORMS[:8] for c in CLOCKS[1:])])
@pytest.mark.parametrize(("freq", "n"), [("D", 40), ("W-WED", 30), ("MS", 30), ("ME", 30)])
def test_dates_go_on_as_they_are_written(form, freq, n):
    whole = pd.date_range("2023-01-28 13:05", periods=n + 9, freq=freq).strftime(form).tolist()
    assert ahead(whole[:n], 9) == (whole[n:], "")
    assert ahead(whole[:n][::-1], 9) == (whole[n:], "")


@pytest.mark.parametrize(
    "form", ["%Y-%m", "%Y/%m", "%m/%Y", "%m.%Y", "%Y.%m", "%b %Y", "%B %Y", "%b-%Y", "%Y %b"]
)
def test_months_go_on_as_they_are_written(form):
    whole = pd.date_range("1949-01-01", periods=40, freq="MS").strftime(form).tolist()
    assert ahead(whole[:20], 20) == (whole[20:], "")


def test_quarters_and_weeks():
    assert ahead(["2023Q3", "2023Q4", "2024Q1"], 2)[0] == ["2024Q2", "2024Q3"]
    assert ahead(["Q3 2023", "Q4 2023", "Q1 2024"], 2)[0] == ["Q2 2024", "Q3 2024"]
    assert ahead(["2020-W51", "2020-W52", "2020-W53"], 2)[0] == ["2021-W01", "2021-W02"]


def test_padding_and_case_stay():
    assert ahead(["8.1.2024", "9.1.2024", "10.1.2024"], 1)[0] == ["11.1.2024"]
    assert ahead(["1 JAN 2024", "1 FEB 2024", "1 MAR 2024"], 1)[0] == ["1 APR 2024"]
    assert ahead(["1/15/2024 9:00", "1/15/2024 10:00", "1/15/2024 11:00"], 1)[0] == [
        "1/15/2024 12:00"
    ]


@pytest.mark.parametrize(
    ("form", "freq", "start"),
    [("%Y%m", "MS", "2023-11-01"), ("%Y%m%d", "D", "2024-02-20"), ("%Y%m%d", "B", "2024-02-20"),
     ("%Y%m%d%H", "h", "2024-02-28 20:00"), ("%Y%m%d%H%M", "15min", "2024-02-28 20:00"),
     ("%Y%m%d%H%M%S", "30s", "2024-02-28 23:55"), ("%Y%m", "QS", "2023-10-01")],
)  # fmt: skip
def test_whole_numbers_of_a_calendar(form, freq, start):
    whole = [int(t) for t in pd.date_range(start, periods=60, freq=freq).strftime(form)]
    assert ahead(list(map(str, whole[:20])), 40) == (whole[20:], "")


def test_months_of_one_year_are_told():
    months = [f"2024{month:02}" for month in range(1, 12)]
    assert ahead(months, 3) == ([202412, 202501, 202502], "is read as months, YYYYMM")
    assert ahead(months, 3, "Sales month") == ([202412, 202501, 202502], "")
    assert ahead(months, 3, "week") == ([202412, 202413, 202414], "")


def test_weeks_days_and_quarters_of_a_year():
    weeks = [f"{year}{week:02}" for year, n in ((2020, 53), (2021, 4)) for week in range(40, n + 1)]
    assert ahead([*weeks, "202101", "202102"], 2)[0] == [202103, 202104]
    assert ahead(["2023364", "2023365", "2024001"], 2)[0] == [2024002, 2024003]
    assert ahead(["20233", "20234", "20241"], 2)[0] == [20242, 20243]
    assert ahead(["202450", "202451", "202452"], 2, "kw")[0] == [202501, 202502]
    for texts, part in (
        (["202410", "202411", "202412", "202413"], "weeks"),
        (["2024001", "2024002", "2024003"], "days"),
        (["20241", "20242", "20243", "20244"], "quarters"),
    ):
        with pytest.raises(time_numbers.NoTimeError, match=f"a year and its {part}, or counted"):
            ahead(texts, 1)


def test_counts_and_epochs():
    assert ahead(["3", "5", "7"], 2)[0] == [9, 11]
    assert ahead(["2001", "2002", "2003"], 2)[0] == [2004, 2005]
    assert ahead(["120001", "120002", "120003"], 1)[0] == [120004]  # no year has a century 12
    for unit in ("s", "ms", "us", "ns"):
        whole = pd.date_range("2023-01-01", periods=20, freq="MS").astype(f"M8[{unit}]")
        numbers = whole.astype(np.int64).tolist()
        assert ahead(list(map(str, numbers[:9])), 11)[0] == numbers[9:]
    assert ahead(["1704067200.0", "1704067260.0", "1704067320.0"], 1)[0] == [1704067380]


def test_decimals_of_time():
    assert ahead(["0.1", "0.2", "0.3"], 3)[0] == [0.4, 0.5, 0.6]
    assert ahead(["2023.25", "2023.5", "2023.75"], 2)[0] == [2024.0, 2024.25]


@pytest.mark.parametrize(
    ("texts", "row", "message"),
    [
        (["01/02/2024", "01/03/2024", "01/04/2024"], None, "days and months that cannot be told"),
        (["1/2/2024", "5/9/2024", "9/1/2024"], None, "days and months that cannot be told"),
        (["2024-01-01", "", "2024-01-03"], 1, "no timestamp"),
        (["2024-01-01", "2024-01-32"], 1, "does not exist"),
        (["31.01.2024", "30.02.2024"], 1, "does not exist"),
        (["31.01.2024", "2024-02-28"], 1, "no timestamp"),
        (["1 Foo 2024"], 0, "no timestamp"),
        (["1 Marmalade 2024"], 0, "does not exist"),
        (["01/02/24"], 0, "no timestamp"),
        (["20240130", "20240131", "20240132"], 2, "does not exist"),
        (["202310", "202311", "202312", "202313", "202400"], 3, "does not exist"),
        (["2024-01-01T00:00Z", "2024-01-01T00:00+01:00"], 1, "another UTC offset"),
        (["Monday", "Tuesday"], 0, "no timestamp"),
    ],
)
def test_no_timestamps(texts, row, message):
    regular = table.regular(np.zeros(len(texts), np.int64))
    with pytest.raises(time_numbers.NoTimeError, match=message) as caught:
        timestamps.of_texts(texts, "x", regular)
    assert caught.value.row == row


def test_rows_in_order():
    codes = np.array([0, 1, 0, 1, 0])
    order = table.ordered(codes, np.array([3, 1, 2, 2, 1]))
    assert order.rows.tolist() == [4, 2, 0, 1, 3]
    assert (order.lengths.tolist(), order.moved) == ([3, 2], [0])
    assert order.said().startswith("the rows of series 0 were not in order of time")
    assert table.ordered(codes, np.array([1, 1, 2, 2, 3])).said() == ""
    with pytest.raises(table.TwiceError) as caught:
        table.ordered(codes, np.array([3, 1, 2, 1, 1]))
    assert (caught.value.first, caught.value.second) == (1, 3)
    many = np.repeat(np.arange(20), 2)
    moved = table.ordered(many, np.tile([1, 0], 20))
    assert "0, 1, 2, 3, 4, 5, 6, 7 and 12 more were" in moved.said()


@pytest.mark.parametrize(
    ("name", "texts", "tells"),
    [
        ("shop", ["a", "a", "b", "b"], True),
        ("store_id", ["1", "1", "2", "2"], True),
        ("storeId", ["1", "1", "2", "2"], True),
        ("count", ["1", "1", "2", "2"], False),
        ("shop", ["a", "a", "a", "a"], False),
        ("note", ["a", "b", "c", "d"], False),
        ("note", ["a", "", "a", ""], False),
        ("weekday", ["Mon", "Tue", "Mon", "Tue"], False),
        ("holiday", ["yes", "no", "no", "no"], False),
        ("other", ["2024-01-01", "2024-01-01", "2024-01-02", "2024-01-02"], False),
    ],
)
def test_columns_that_tell_series_apart(name, texts, tells):
    found = table.tells_apart([("first", ["x"] * 4), (name, texts)])
    assert found == (name if tells else None)

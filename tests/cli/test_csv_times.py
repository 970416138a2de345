"""Columns of times that nobody named: sorted by, or refused as what they are, never forecast."""

import numpy as np
import pandas as pd
import pytest
from artifact_tools import ARTIFACTS

from tessera_onnx import ConfigError, FileError, TesseraTimeSeries
from tessera_onnx.cli import csv_series

DAYS = pd.date_range("2024-01-01", periods=40)
MONTHS = pd.date_range("2021-01-01", periods=40, freq="MS")
UP = list(range(5, 45))
JITTER = np.random.default_rng(0).integers(0, 600, 40)
EPOCH = 1_704_067_200 + 86_400 * np.arange(40) + JITTER
GAP = [i for i in range(41) if i != 20]


@pytest.fixture
def read(tmp_path):
    def write_and_read(header, *columns, **options):
        path = tmp_path / "sales.csv"
        rows = zip(*columns, strict=True)
        path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
        return csv_series.read_csv(str(path), **options)

    return write_and_read


def values(table):
    return {series.target: list(series.values) for series in table.series}


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("timestamp", EPOCH),
        ("t", EPOCH * 1000 + 7),
        ("time", EPOCH + 0.25),
        ("year", [1970 + i for i in GAP]),
        ("period", [1970 + i for i in GAP]),
        ("step", GAP),
        ("date", [45292 + i for i in GAP]),
        ("year", [round(1990 + i / 12, 3) for i in range(40)]),
    ],
)
def test_times_without_a_step_are_no_series_and_sort_the_rows(read, name, times):
    table = read(f"{name},sold", times[::-1], UP[::-1])
    assert values(table) == {"sold": UP}
    assert table.clock is None
    moved, numbered = table.warnings
    assert "have been sorted" in moved
    assert "steps are numbered" in numbered


def test_times_without_a_step_series_by_series(read):
    ids = ["b"] * 40 + ["a"] * 40
    table = read("id,time,sold", ids, [*EPOCH[::-1]] * 2, [*UP[::-1], *UP], id="id")
    assert [(s.id, list(s.values)) for s in table.series] == [("b", UP), ("a", UP[::-1])]


def test_months_in_a_later_column_under_any_name(read):
    table = read("sold,x", UP[::-1], [f"{t:%Y%m}" for t in MONTHS[::-1]])
    assert values(table) == {"sold": UP}
    assert table.clock.following(2) == [[202405, 202406]]


def test_seconds_with_decimals_go_on(read):
    seconds = 1_704_067_200.25 + np.arange(40)
    table = read("time,sold", seconds[::-1], UP[::-1])
    assert values(table) == {"sold": UP}
    assert table.clock.following(2) == [[1_704_067_240.25, 1_704_067_241.25]]


def test_seconds_with_decimal_commas(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text(
        "Zeit;Wert\n" + "".join(f"{i // 10},{i % 10};{i},5\n" for i in range(38, 8, -1))
    )
    table = csv_series.read_csv(str(path))
    assert values(table) == {"Wert": [i + 0.5 for i in range(9, 39)]}
    assert table.clock.following(2) == [["3,9", "4,0"]]


@pytest.mark.parametrize(
    ("name", "form", "at"),
    [
        ("month", "%y%m", MONTHS[:11]),
        ("month", "%m%Y", MONTHS[9:12]),
        ("date", "%y%m%d", DAYS[:30]),
        ("date", "%d%m%Y", DAYS),
        ("date", "%m%d%Y", DAYS),
        ("day", "%d%m%y", DAYS[:20]),
    ],
)
def test_digits_in_another_order_do_not_go_on(read, name, form, at):
    """Else 2312 is followed by 2313, and 310124 by 320124."""
    for options in ({}, {"timestamp": name}):
        with pytest.raises(FileError, match="may be dates by other digits"):
            read(f"{name},sold", [f"{t:{form}}" for t in at], UP[: len(at)], **options)


@pytest.mark.parametrize("name", ["time", "t", "step", "x"])
@pytest.mark.parametrize("start", [1, 2101, 11000, 45292, 100101])
def test_counts_are_no_dates(read, name, start):
    times = range(start, start + 40)
    table = read(f"{name},sold", times, UP, timestamp=name)
    assert table.clock.following(1) == [[start + 40]]
    assert not table.warnings


def test_years_are_no_months_of_a_short_year(read):
    table = read("date,sold", range(2001, 2013), UP[:12])
    assert table.clock.following(2) == [[2013, 2014]]


@pytest.mark.parametrize(("separator", "name"), [("/", "season"), ("-", "date")])
def test_seasons_are_no_months(read, separator, name):
    seasons = [f"{2000 + i}{separator}{i + 1:02}" for i in range(11)]
    with pytest.raises(FileError, match="pairs of years"):
        read(f"{name},goals", seasons, UP[:11])


@pytest.mark.parametrize("missing", ["", "NA", "-"])
def test_a_month_that_is_missing_is_named(read, missing):
    months = [f"{t:%Y%m}" for t in MONTHS]
    months[20] = missing
    with pytest.raises(FileError, match="line 22: column 'month' holds no timestamp: drop the row"):
        read("month,sold", months, UP)


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("year", [f"FY{1980 + i}" for i in range(39, -1, -1)]),
        (
            "month",
            ["Dec", "Nov", "Oct", "Sep", "Aug", "Jul", "Jun", "May", "Apr", "Mar", "Feb", "Jan"],
        ),
        ("week", [f"W{i}" for i in range(40, 0, -1)]),
        ("month", [12 - i % 12 for i in range(40)]),
        ("time", [f"{e:.9e}" for e in EPOCH[::-1]]),
    ],
)
def test_texts_that_go_back_are_refused(read, name, times):
    with pytest.raises((FileError, ConfigError), match=f"column '{name}'"):
        read(f"{name},sold", times, UP[: len(times)])


def test_names_that_go_on_are_left_out(read):
    names = ["Nov", "Dec", "Jan", "Feb", "Mar"]
    table = read("month,sold", names, UP[:5])
    assert values(table) == {"sold": UP[:5]}
    assert "column 'month' holds no number" in table.warnings[0]


def test_dates_go_before_parts_of_them(read):
    days = pd.bdate_range("2024-01-01", periods=20)[::-1]
    dates = [f"{t:%Y-%m-%d}" for t in days]
    table = read("day,date,sold", [t.day for t in days], dates, UP[:20][::-1])
    assert table.timestamp == "date"
    assert table.clock.following(1) == [["2024-01-29"]]
    assert values(table) == {"sold": UP[:20]}


def test_hours_of_the_day_are_no_series(read):
    table = read("hour,sold", [i % 24 for i in range(40)], UP)
    assert values(table) == {"sold": UP}
    assert "holds a part of the time" in table.warnings[0]


def test_months_without_years_are_told(read):
    table = read("month,sold", range(1, 12), UP[:11])
    assert table.clock.following(2) == [[12, 13]]
    assert "has no years: its numbers are counted on" in table.warnings[0]


@pytest.mark.parametrize("name", ["Unnamed: 0.1", "Unnamed: 0_level_1", "row_nr", "row_index"])
def test_row_numbers_of_a_file_that_was_saved_again(read, name):
    table = read(f",{name},date,sold", range(40), range(40), [f"{t:%Y-%m-%d}" for t in DAYS], UP)
    assert values(table) == {"sold": UP}
    assert len(table.warnings) == 2


@pytest.mark.parametrize("name", ["", "index"])
def test_row_numbers_in_another_order_are_told(read, name):
    table = read(f"{name},sold", range(39, -1, -1), UP[::-1])
    assert values(table) == {"sold": UP[::-1]}
    assert "numbers the rows in another order" in table.warnings[0]
    assert values(read(f"{name},sold", range(39, -1, -1), UP[::-1], timestamp=name)) == {"sold": UP}


@pytest.mark.parametrize("form", ["%m/%d/%y", "%m/%d/%Y %I:%M %p"])
def test_a_file_without_names_whose_dates_are_not_read(read, form):
    with pytest.raises(FileError, match="line 1: it holds values, not the names") as caught:
        read("04/29/24,4", [f"{t:{form}}" for t in DAYS], UP)
    assert "04/29/24" not in str(caught.value)


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "s.parquet"
    path.write_bytes(b"PAR1" + bytes(300))
    with pytest.raises(FileError, match="is no CSV file of UTF-8 text"):
        csv_series.read_csv(str(path))


@pytest.fixture(scope="module")
def model():
    with TesseraTimeSeries(path=ARTIFACTS / "bolt") as opened:
        yield opened


@pytest.mark.parametrize(
    "index",
    [
        [f"{t:%Y-%m-%d}" for t in DAYS],
        [f"{t:%d.%m.%Y}" for t in DAYS],
        [f"{t:%m/%d/%Y}" for t in DAYS],
        [t.date() for t in DAYS],
        [int(f"{t:%Y%m}") for t in MONTHS],
        DAYS.tz_localize("Europe/Berlin").astype(object),
        pd.MultiIndex.from_product([["a"], DAYS]),
    ],
    ids=["iso", "german", "american", "dates", "months", "objects", "levels"],
)
def test_a_pandas_series_is_sorted_by_any_times(model, index):
    series = pd.Series(np.array(UP, float), index=index)
    expected = model.forecast(series, 3)
    with pytest.warns(UserWarning, match="series 0 were not in order of time"):
        found = model.forecast(series[::-1], 3)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("index", [range(40), [f"r{i}" for i in range(40)], np.arange(40) / 2])
def test_other_labels_say_nothing_of_the_order(model, index):
    backward = pd.Series(np.array(UP, float), index=index)[::-1]
    np.testing.assert_array_equal(model.forecast(backward, 3), model.forecast(UP[::-1], 3))


@pytest.mark.parametrize(
    "index",
    [
        pd.MultiIndex.from_product([["a", "b"], DAYS[:20]]),
        [f"{t:%Y-%m-%d}" for t in DAYS[:20]] * 2,
        pd.Index([pd.NaT, *(t.date() for t in DAYS[1:])], dtype=object),
    ],
    ids=["levels", "texts", "missing"],
)
def test_a_pandas_series_of_several_series_is_an_error(model, index):
    with pytest.raises(
        ConfigError, match="series 0 has a time twice in its index, or a missing time"
    ):
        model.forecast(pd.Series(UP, index=index), 3)


@pytest.mark.parametrize("unit", [1e-30, 1e-200, 1e-300])
def test_tiny_numbers_are_not_zero(model, unit):
    waves = np.where(np.arange(70) % 7 < 5, 10.0, 0.0)
    expected = model.forecast(waves, 3).astype(float)
    np.testing.assert_allclose(model.forecast(waves * unit, 3) / unit, expected, rtol=1e-4)


def test_float64_that_lost_the_changes_is_told(model):
    waves = np.where(np.arange(70) % 7 < 5, 10.0, 0.0)
    with pytest.warns(UserWarning, match="float64 values round .*subtract an offset"):
        model.forecast(waves + 1e17, 3)
    model.forecast([waves + 1e14, np.full(9, 1e18), 1e18 + 1e17 * waves], 3)

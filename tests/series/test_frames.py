"""Frames of pandas, polars and PyArrow give what forecast_quantiles gives, at the next times."""

import datetime as dt
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
from artifact_tools import ARTIFACTS

from tessera_onnx import ConfigError, ForecastWarning, TesseraTimeSeries

SALES = np.sin(np.arange(40) / 3) * 5 + np.arange(40)
VISITS = np.cos(np.arange(30) / 2) * 9
LEVELS = [f"{i / 10:g}" for i in range(1, 10)]


@pytest.fixture(scope="module")
def model():
    with TesseraTimeSeries(path=ARTIFACTS / "bolt") as opened:
        yield opened


def long(library, start="2023-01-31", freq="ME", tz=None):
    """Two series whose rows take turns; the second one's id comes first in the alphabet."""
    times = pd.date_range(start, periods=40, freq=freq, tz=tz)
    frame = pd.concat(
        [
            pd.DataFrame({"shop": "north", "when": times, "sold": SALES}),
            pd.DataFrame({"shop": "east", "when": times[:30], "sold": VISITS}),
        ]
    ).sort_values("when", kind="stable")
    return frame if library is pd else pl.from_pandas(frame)


def ask(model, frame, horizon=5, **options):
    columns = {"id": "shop", "timestamp": "when", "target": "sold", **options}
    return model.forecast_frame(frame, horizon=horizon, **columns)


def values(frame, names):
    return np.stack([np.asarray(frame[name]) for name in names], axis=-1)


@pytest.mark.parametrize("library", [pd, pl])
def test_a_frame_of_two_series(model, library):
    found = ask(model, long(library))
    assert type(found) is library.DataFrame
    assert list(found.columns) == ["shop", "when", "forecast", *LEVELS]
    assert list(found["shop"]) == ["north"] * 5 + ["east"] * 5
    ends = pd.date_range("2023-01-31", periods=45, freq="ME")
    assert list(found["when"]) == [*ends[40:45], *ends[30:35]]
    truth = model.forecast_quantiles([SALES, VISITS], 5)
    np.testing.assert_array_equal(values(found, LEVELS), truth.reshape(10, 9))
    np.testing.assert_array_equal(found["forecast"], truth[..., 4].reshape(10))
    assert np.asarray(found["forecast"]).dtype == np.float32


def test_pandas_types_and_index(model):
    frame = long(pd)
    frame["shop"] = frame["shop"].astype("category")
    found = ask(model, frame)
    assert found["shop"].dtype == frame["shop"].dtype
    assert found["when"].dtype == frame["when"].dtype
    assert list(found.index) == list(range(10))


def test_pyarrow(model):
    pa = pytest.importorskip("pyarrow")
    found = ask(model, pa.Table.from_pandas(long(pd), preserve_index=False))
    assert isinstance(found, pa.Table)
    assert found["when"].to_pylist() == ask(model, long(pd))["when"].tolist()


def test_levels_and_names(model):
    found = ask(model, long(pl), levels=[0.9, 0.15, 0.25])
    assert found.columns == ["shop", "when", "forecast", "0.9", "0.15", "0.25"]
    truth = model.forecast_quantiles([SALES, VISITS], 5, [0.9, 0.15, 0.25, 0.5])
    np.testing.assert_array_equal(
        values(found, ["0.9", "0.15", "0.25", "forecast"]), truth.reshape(10, 4)
    )


@pytest.mark.parametrize("library", [pd, pl])
def test_levels_outside_the_trained_are_marked(model, library):
    with pytest.warns(ForecastWarning, match=r"levels 0.025, 0.975 lie outside") as caught:
        found = ask(model, long(library), levels=[0.025, 0.5, 0.975])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert list(found.columns)[2:] == ["forecast", "0.025", "0.5", "0.975", "outside_trained"]
    assert list(found["outside_trained"]) == ["0.025,0.975"] * 10
    truth = model.forecast_quantiles([SALES, VISITS], 5, [0.1, 0.5, 0.9]).reshape(10, 3)
    np.testing.assert_array_equal(values(found, ["0.025", "0.5", "0.975"]), truth)


def test_tails_of_a_frame(model):
    levels = [0.025, 0.5, 0.975]
    found = ask(model, long(pl), levels=levels, extrapolate="tails")
    truth = model.forecast_quantiles([SALES, VISITS], 5, levels, extrapolate="tails")
    np.testing.assert_array_equal(values(found, ["0.025", "0.5", "0.975"]), truth.reshape(10, 3))
    assert found["outside_trained"].to_list() == ["0.025,0.975"] * 10


@pytest.mark.parametrize("library", [pd, pl])
def test_rows_of_any_order_are_sorted_by_time(model, library):
    truth = ask(model, long(library))
    whole = long(pd).reset_index(drop=True)
    newest_first, shuffled = whole[::-1], whole.sample(frac=1, random_state=3)
    for frame in (newest_first, shuffled):
        given = frame if library is pd else pl.from_pandas(frame)
        with pytest.warns(ForecastWarning, match="rows of series 0, 1 were not in order") as told:
            found = ask(model, given)
        assert told[0].filename == __file__
        for shop in ("north", "east"):
            for name in ("when", "forecast", *LEVELS):
                a, b = (
                    list(f[name][list(np.asarray(f["shop"]) == shop)])
                    if library is pd
                    else f.filter(pl.col("shop") == shop)[name].to_list()
                    for f in (found, truth)
                )
                assert a == b, (shop, name)
    only_east = pd.concat([whole[whole["shop"] == "north"], whole[whole["shop"] == "east"][::-1]])
    with pytest.warns(ForecastWarning, match="rows of series 1 were not"):
        ask(model, only_east)
    one = pd.DataFrame({"timestamp": [5, 3, 4, 2, 1], "target": [50.0, 30, 40, 20, 10]})
    with pytest.warns(ForecastWarning, match="rows of series 0 were not"):
        found = model.forecast_frame(one, horizon=2)
    np.testing.assert_array_equal(found["forecast"], model.forecast([10, 20, 30, 40, 50], 2)[0])
    assert found["timestamp"].tolist() == [6, 7]


@pytest.mark.parametrize("library", [pd, pl])
def test_several_series_are_not_joined(model, library):
    days = pd.date_range("2024-01-01", periods=40)
    joined = pd.DataFrame({"when": days, "sold": SALES, "shop": ["a"] * 20 + ["b"] * 20})
    given = (lambda f: f) if library is pd else pl.from_pandas
    for frame in (joined, joined.astype({"shop": "category"}),
                  joined.assign(store_id=[7] * 20 + [9] * 20).drop(columns="shop")):  # fmt: skip
        with pytest.raises(ConfigError, match="'(shop|store_id)' repeats its values.* id='s"):
            model.forecast_frame(given(frame), timestamp="when", target="sold")
    both = joined.assign(when=[*days[:20], *days[:20]])
    with pytest.raises(ConfigError, match="series 0 has a .* twice, in rows 0 and 20.*id='shop'"):
        model.forecast_frame(given(both), timestamp="when", target="sold")
    with pytest.raises(ConfigError, match="rows 0 and 20 of the frame: name the column .* id="):
        model.forecast_frame(given(both[["when", "sold"]]), timestamp="when", target="sold")
    found = model.forecast_frame(given(both), id="shop", timestamp="when", target="sold", horizon=1)
    truth = model.forecast([SALES[:20], SALES[20:]], 1)
    np.testing.assert_array_equal(found["forecast"], truth[:, 0])
    for kind in (days.day_name(), ["yes", "no"] * 20, [f"note {i}" for i in range(40)], ["x"] * 40):
        frame = given(joined.assign(shop=kind))
        model.forecast_frame(frame, timestamp="when", target="sold", horizon=1)


@pytest.mark.parametrize(
    ("form", "following"),
    [
        ("%Y-%m-%d", ["2024-02-10", "2024-02-11"]),
        ("%d.%m.%Y", ["10.02.2024", "11.02.2024"]),
        ("%d/%m/%Y", ["10/02/2024", "11/02/2024"]),
        ("%m/%d/%Y", ["02/10/2024", "02/11/2024"]),
        ("%Y-%m-%dT%H:%M:%SZ", ["2024-02-10T00:00:00Z", "2024-02-11T00:00:00Z"]),
        ("%d %b %Y", ["10 Feb 2024", "11 Feb 2024"]),
        ("%Y%m%d", ["20240210", "20240211"]),
    ],
)
@pytest.mark.parametrize("library", [pd, pl])
def test_texts_and_whole_numbers_are_dates(model, library, form, following):
    days = pd.date_range("2024-01-01", periods=40).strftime(form)
    frame = pd.DataFrame({"timestamp": days, "target": SALES})
    truth = model.forecast(SALES, 2)[0]
    found = model.forecast_frame(frame if library is pd else pl.from_pandas(frame), horizon=2)
    assert list(found["timestamp"]) == following
    np.testing.assert_array_equal(found["forecast"], truth)
    if form == "%Y%m%d":
        frame["timestamp"] = frame["timestamp"].astype(int)
        found = model.forecast_frame(frame if library is pd else pl.from_pandas(frame), horizon=2)
        assert list(found["timestamp"]) == [20240210, 20240211]


def test_months_as_whole_numbers(model):
    months = [202400 + i for i in range(1, 13)]
    frame = pd.DataFrame({"month": months[:11], "target": SALES[:11]})
    found = model.forecast_frame(frame, timestamp="month", horizon=3)
    assert found["month"].tolist() == [202412, 202501, 202502]
    assert found["month"].dtype == np.int64
    frame = frame.rename(columns={"month": "timestamp"})
    with pytest.warns(ForecastWarning, match="'timestamp' is read as months, YYYYMM"):
        found = model.forecast_frame(frame, horizon=3)
    assert found["timestamp"].tolist() == [202412, 202501, 202502]


def test_dates_that_cannot_be_read(model):
    for texts, message in (
        (["01/02/2024", "01/03/2024", "01/04/2024"], "days and months that cannot be told apart"),
        (["2024-01-01", "secret", "2024-01-03"], "row 1: no timestamp"),
        (["2024-01-01", "2024-01-32", "2024-01-03"], "row 1: a date that does not exist"),
    ):
        with pytest.raises(ConfigError, match=f"'timestamp': {message}") as caught:
            model.forecast_frame(pd.DataFrame({"timestamp": texts, "target": [1, 2, 3]}))
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("library", [pd, pl])
def test_a_dead_sensor_and_a_high_level_in_a_frame(model, library):
    days = pd.date_range("2024-01-01", periods=40)
    frame = pd.concat(
        pd.DataFrame({"shop": shop, "when": days, "sold": sold})
        for shop, sold in (("a", SALES + 1e9), ("b", np.full(40, np.nan)), ("c", SALES))
    )
    given = frame if library is pd else pl.from_pandas(frame)
    with pytest.warns(ForecastWarning, match="series 1: all values") as caught:
        found = ask(model, given)
    assert (len(caught), caught[0].filename) == (1, __file__)
    forecast = np.asarray(found["forecast"])
    assert forecast.dtype == np.float64
    truth = model.forecast(SALES, 5)[0]
    np.testing.assert_allclose(forecast[:5] - 1e9, truth, atol=1e-4)
    assert np.isnan(forecast[5:10]).all()
    np.testing.assert_allclose(forecast[10:], truth, rtol=1e-6)
    nothing = pl.DataFrame({"timestamp": range(9), "target": [None] * 9})
    with pytest.warns(ForecastWarning, match="series 0: all values"):
        assert np.isnan(model.forecast_frame(nothing, horizon=2)["forecast"].to_numpy()).all()


def test_large_whole_numbers_and_decimals_in_a_frame(model):
    counts = (np.arange(40) % 7).tolist()
    truth = model.forecast(counts, 3)[0]
    for level, dtype in ((3 * 10**9, pl.Int64), (10**12, pl.UInt64), (0, pl.Decimal(38, 2))):
        values = pl.Series([count + level for count in counts]).cast(dtype)
        frame = pl.DataFrame({"timestamp": range(40), "target": values})
        found = model.forecast_frame(frame, horizon=3)["forecast"].to_numpy()
        np.testing.assert_allclose(found - level, truth, atol=1e-3)
    for dtype in (pl.Int64, pl.Decimal(38, 0)):
        values = pl.Series([count + 2**62 for count in counts]).cast(dtype)
        frame = pl.DataFrame({"timestamp": range(40), "target": values})
        with pytest.raises(ConfigError, match="'target': series 0 holds numbers so large"):
            model.forecast_frame(frame)


@pytest.mark.parametrize("dtype", [pl.Int128, pl.Int8, pl.UInt64])
def test_whole_numbers_of_any_width_are_timestamps(model, dtype):
    frame = NUMBERS.with_columns(pl.col("timestamp").cast(dtype))
    found = model.forecast_frame(frame, horizon=5)
    assert found["timestamp"].to_list() == [4, 5, 6, 7, 8]
    assert found["timestamp"].dtype == pl.Int64


def test_one_series_and_the_default_horizon(model):
    days = [dt.date(2024, 1, 1) + dt.timedelta(days=i) for i in range(40)]
    found = model.forecast_frame(pl.DataFrame({"timestamp": days, "target": SALES}))
    assert found.columns == ["timestamp", "forecast", *LEVELS]
    assert len(found) == model.prediction_length()
    assert found["timestamp"].dtype == pl.Date
    assert found["timestamp"][0] == dt.date(2024, 2, 10)


@pytest.mark.parametrize("kind", ["numpy", "nullable", "polars"])
def test_null_is_a_gap(model, kind):
    gappy = SALES.round()
    gappy[[3, 39]] = np.nan
    frame = pd.DataFrame({"timestamp": np.arange(40), "target": gappy})
    if kind == "nullable":
        frame = frame.convert_dtypes()
        assert frame["target"].dtype == "Int64"
    if kind == "polars":
        frame = pl.from_pandas(frame)
        assert frame["target"].null_count() == 2
    found = model.forecast_frame(frame, horizon=4)
    np.testing.assert_array_equal(found["forecast"], model.forecast(gappy, 4)[0])
    assert list(found["timestamp"]) == [40, 41, 42, 43]


@pytest.mark.parametrize("library", [pd, pl])
def test_days_keep_their_local_time_and_hours_their_distance(model, library):
    """Berlin's clocks go forward on 2024-03-31: 40 days on, and 10 hours on."""
    found = ask(model, long(library, "2024-02-20", "D", "Europe/Berlin"), horizon=3)
    assert "Europe/Berlin" in str(found["when"].dtype)
    assert [str(moment) for moment in list(found["when"])[:3]] == [
        "2024-03-31 00:00:00+01:00",
        "2024-04-01 00:00:00+02:00",
        "2024-04-02 00:00:00+02:00",
    ]
    found = ask(model, long(library, "2024-03-29 10:00", "h", "Europe/Berlin"), horizon=3)
    assert [str(moment) for moment in list(found["when"])[:3]] == [
        "2024-03-31 03:00:00+02:00",
        "2024-03-31 04:00:00+02:00",
        "2024-03-31 05:00:00+02:00",
    ]


@pytest.mark.parametrize("zone", ["America/New_York", "Etc/GMT+5", "America/Port-au-Prince"])
@pytest.mark.parametrize("freq", ["D", "h", "ME"])
@pytest.mark.parametrize("unit", ["s", "ns"])
def test_zones_whose_names_are_more_than_letters(model, zone, freq, unit):
    """narwhals takes pandas' types of these for unknown; 2024-03-10 is a change in two of them."""
    whole = pd.date_range("2024-02-09", periods=45, freq=freq, tz=zone).as_unit(unit)
    frame = pd.DataFrame({"timestamp": whole[:40], "target": SALES})
    found = model.forecast_frame(frame, horizon=5)
    assert found["timestamp"].dtype == whole.dtype
    assert found["timestamp"].tolist() == whole[40:].tolist()


def test_a_fixed_offset(model):
    times = pd.date_range("2024-01-01", periods=40, freq="MS", tz="UTC+03:00")
    found = model.forecast_frame(pd.DataFrame({"timestamp": times, "target": SALES}), horizon=1)
    assert found["timestamp"][0] == times[-1] + pd.DateOffset(months=1)
    assert found["timestamp"].dtype == times.dtype


def test_midnights_that_do_not_exist_or_come_twice(model):
    """Havana's clocks go from 0 to 1 o'clock on 2024-03-10, and back on 2024-11-03."""
    for start, want in (
        ("2024-01-31", ["2024-03-10 01:00:00-04:00", "2024-03-11 00:00:00-04:00"]),
        ("2024-09-25", ["2024-11-03 00:00:00-04:00", "2024-11-04 00:00:00-05:00"]),
    ):
        times = pd.date_range(start, periods=39, freq="D", tz="America/Havana")
        frame = pd.DataFrame({"timestamp": times, "target": SALES[:39]})
        found = model.forecast_frame(frame, horizon=2)["timestamp"]
        assert [str(moment) for moment in found] == want


NUMBERS = pl.DataFrame({"timestamp": [1, 2, 3], "target": [1.0, 2.0, 3.0], "key": ["secret"] * 3})


@pytest.mark.parametrize(
    ("frame", "options", "error", "message"),
    [
        (NUMBERS.lazy(), {}, TypeError, "eager frames.*got LazyFrame"),
        ({"timestamp": [1]}, {}, TypeError, "got dict"),
        (NUMBERS, {"target": 3}, TypeError, "target must be a column name, got int"),
        (NUMBERS, {"target": "y"}, ConfigError, "target='y' is no column.*'timestamp', 'target'"),
        (NUMBERS, {"id": "k"}, ConfigError, "id='k' is no column"),
        (NUMBERS, {"id": "target"}, ConfigError, "columns of their own"),
        (NUMBERS, {"target": "key"}, ConfigError, "'key' has the type String: a target is numbers"),
        (NUMBERS, {"timestamp": "key"}, ConfigError, "'key': row 0: no timestamp"),
        (NUMBERS, {"horizon": 0}, ConfigError, "horizon must be at least 1"),
        (NUMBERS, {"levels": [0.1, 1.5]}, ConfigError, r"levels\[1\]"),
        (NUMBERS, {"levels": [0.1, 0.1]}, ConfigError, "give each level once"),
        (NUMBERS.rename({"key": "0.1"}), {"id": "0.1"}, ConfigError, "rename an id"),
        (NUMBERS[:0], {}, ConfigError, "no rows"),
        (NUMBERS.with_columns(key=pl.lit([1])), {"id": "key"}, ConfigError, "'key' has the type L"),
        (
            pd.DataFrame([[1, 2, 3]], columns=["timestamp", "target", "target"]),
            {},
            ConfigError,
            "a column name twice",
        ),
        (
            pl.DataFrame({"timestamp": [2**63 + 1, 2**63 + 2, 2**63 + 3], "target": [1, 2, 3]}),
            {},
            ConfigError,
            "'timestamp' holds integers beyond int64",
        ),
        *(
            (
                pl.DataFrame(
                    {"timestamp": [offset, offset + 1, offset + 2], "target": [1, 2, 3]},
                    schema_overrides={"timestamp": pl.Int128},
                ),
                {},
                ConfigError,
                "'timestamp' holds integers beyond int64",
            )
            for offset in (2**70, -(2**70))
        ),
        (
            pd.DataFrame(
                {
                    "timestamp": pd.DatetimeIndex(
                        np.array(["9997-01-01", "9998-01-01", "9999-01-01"], "M8[s]"), tz="UTC"
                    ),
                    "target": [1, 2, 3],
                }
            ),
            {},
            ConfigError,
            "years 2 to 9998",
        ),
        (NUMBERS[:2], {}, ConfigError, "'timestamp': too few timestamps.*the longest has 2"),
        (
            NUMBERS.with_columns(timestamp=pl.lit(0.5)),
            {},
            ConfigError,
            "Float64: timestamps are datetimes, dates, integers or texts",
        ),
        (
            NUMBERS[[0, 1, 1]],
            {"id": "key"},
            ConfigError,
            "0 has a timestamp twice, in rows 1 and 2.*: id='key' does not tell",
        ),
        (
            pl.DataFrame({"timestamp": [1, 2, 4], "target": [1, 2, 3]}),
            {},
            ConfigError,
            "irregular, see its rows 1 and 2: give every step a row",
        ),
        (
            pl.DataFrame({"timestamp": [1, None, 4], "target": [1, 2, 3]}),
            {},
            ConfigError,
            "'timestamp' has no value in row 1",
        ),
        (NUMBERS.with_columns(key=pl.lit(None)), {"id": "key"}, ConfigError, "no value in row 0"),
        (
            NUMBERS.with_columns(key=pl.Series([1.0, np.nan, np.nan])),
            {"id": "key"},
            ConfigError,
            "no value in row 1",
        ),
        (
            pl.DataFrame({"timestamp": [1, 2, 3], "target": [1.0, np.inf, 3.0]}),
            {},
            ConfigError,
            r"context\[0\]|series 0",
        ),
    ],
)
def test_bad_frames(model, frame, options, error, message):
    with pytest.raises(error, match=message) as caught:
        model.forecast_frame(frame, **options)
    assert "secret" not in str(caught.value)


def test_without_narwhals():
    code = (
        "import sys; sys.modules['narwhals'] = None\n"
        "from tessera_onnx import TesseraTimeSeries\n"
        f"with TesseraTimeSeries(path={str(ARTIFACTS / 'bolt')!r}) as model:\n"
        "    try:\n"
        "        model.forecast_frame([])\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "PATH[frames]" in done.stdout


@pytest.mark.parametrize("library", [pd, pl])
def test_a_target_that_float32_rounded_is_told(model, library):
    rounded = (SALES + 1e8).astype(np.float32)
    frame = library.DataFrame({"timestamp": np.arange(40), "target": rounded})
    with pytest.warns(ForecastWarning, match="series 0: float32 values round"):
        model.forecast_frame(frame, horizon=2)

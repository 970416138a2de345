"""`index` and `indices` of errors say which series, label, level or row is wrong."""

import pickle
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from tessera_onnx import ConfigError, EncodingError, TesseraTimeSeries

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
FORM = np.sin(np.arange(200) / 5)


@pytest.fixture(scope="module")
def model():
    with TesseraTimeSeries(path=ARTIFACTS / "bolt") as opened:
        yield opened


@pytest.fixture(scope="module")
def grouped():
    with TesseraTimeSeries(path=ARTIFACTS / "chronos2") as opened:
        yield opened


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ([], ConfigError),
        ([1.0, np.inf], ConfigError),
        ([Decimal(10**30), Decimal(10**30 + 1)], ConfigError),
        (pd.DataFrame({"a": [1.0], "b": [2.0]}), ConfigError),
        (pd.Series([1.0, 2.0], index=pd.to_datetime(["2024-01-01", "2024-01-01"])), ConfigError),
        (["a", "b"], TypeError),
        (None, TypeError),
    ],
)
def test_a_series(model, wrong, error):
    for method in (model.forecast, model.forecast_quantiles):
        with pytest.raises(error) as caught:
            method([FORM, FORM, wrong, FORM], 3)
        assert caught.value.index == 2
    assert pickle.loads(pickle.dumps(caught.value)).index == 2


def test_a_row_of_an_array(model):
    rows = np.stack([FORM, FORM, FORM])
    rows[1, 5] = np.inf
    with pytest.raises(ConfigError) as caught:
        model.forecast(rows, 3)
    assert caught.value.index == 1


def test_a_level_and_a_label(model, grouped):
    with pytest.raises(ConfigError) as caught:
        model.forecast_quantiles(FORM, 3, [0.5, 0.1, 1.5])
    assert caught.value.index == 2
    with pytest.raises(TypeError) as caught:
        model.forecast_quantiles(FORM, 3, [0.5, "0.1"])
    assert caught.value.index == 1
    for label, error in ((float("nan"), ConfigError), ([], TypeError)):
        with pytest.raises(error) as caught:
            grouped.forecast([FORM] * 4, 3, groups=["a", "b", "a", label])
        assert caught.value.index == 3


def test_a_group_that_is_too_large(grouped, monkeypatch):
    monkeypatch.setattr("tessera_onnx.series.rollout.MOST_PAIRS", 100)
    with pytest.raises(ConfigError, match="the group of series 1 has 3 series") as caught:
        grouped.forecast([FORM] * 4, 3, groups=["b", "a", "a", "a"])
    assert caught.value.indices == (1, 2, 3)
    assert caught.value.index == 1


def test_a_batch_that_fails(model, monkeypatch):
    def broken(*_, **__):
        raise EncodingError("broken")

    monkeypatch.setattr(model._session, "run", broken)
    with pytest.raises(EncodingError, match="series 0, 1, 2: broken") as caught:
        model.forecast([FORM, FORM, FORM], 3)
    assert caught.value.indices == (0, 1, 2)
    assert caught.value.index == 0


@pytest.fixture
def frame():
    """Three series of 20 days, of which the second begins in row 20."""
    days = pd.date_range("2024-01-01", periods=20)
    parts = [pd.DataFrame({"shop": shop, "day": days, "sold": FORM[:20]}) for shop in "abc"]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("library", [pd, pl])
def test_a_row_of_a_frame(model, frame, library):
    """Also where the error is about a series as a whole: then the first row that it has."""

    def fails(changed):
        given = changed if library is pd else pl.from_pandas(changed)
        with pytest.raises(ConfigError) as caught:
            model.forecast_frame(given, id="shop", timestamp="day", target="sold", horizon=2)
        return caught.value

    no_day = frame.copy()
    no_day.loc[33, "day"] = None
    assert fails(no_day).index == 33
    twice = frame.copy()
    twice.loc[47, "day"] = twice.loc[46, "day"]
    assert fails(twice).indices == (46, 47)
    irregular = frame.drop(index=25).reset_index(drop=True)
    assert fails(irregular).index == 20
    infinite = frame.copy()
    infinite.loc[44, "sold"] = np.inf
    assert fails(infinite).index == 40
    texts = frame.assign(day=frame["day"].dt.strftime("%Y-%m-%d"))
    texts.loc[7, "day"] = "soon"
    assert fails(texts).index == 7

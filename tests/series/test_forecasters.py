"""TinyTimeMixer and TiRex: forecasts of upstream's code and procedure (tests/make_artifacts.py)."""

import pickle
import re
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
from artifact_tools import ARTIFACTS, copy, golden, replace
from click.testing import CliRunner

import tessera_onnx
from tessera_onnx import ConfigError, EncodingError, ForecastWarning, LoadError, TesseraTimeSeries
from tessera_onnx.cli import demo
from tessera_onnx.cli.main import main
from tessera_onnx.kinds import KINDS
from tessera_onnx.models import catalogue
from tessera_onnx.series import patching

TTM, TIREX = golden("ttm"), golden("tirex")
CONTEXTS = [TTM[f"context_{i}"] for i in range(10)]
FORM = np.sin(np.arange(300) / 5) + 2
quiet = pytest.mark.filterwarnings("ignore:.*fewer than the 100:tessera_onnx.ForecastWarning")
both = pytest.mark.parametrize("name", ["mixer", "tirex"])


@pytest.fixture(scope="module")
def mixer():
    with TesseraTimeSeries(path=ARTIFACTS / "ttm") as opened:
        yield opened


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as the authors of TiRex publish it: the graph and a card."""
    place = tmp_path_factory.mktemp("hub") / "TiRex"
    place.mkdir()
    shutil.copy(ARTIFACTS / "tirex" / "tirex.onnx", place)
    card = "---\nlicense: other\nlicense_name: nxai-community\n---\n"
    (place / "README.md").write_text(card)
    return place


@pytest.fixture(scope="module")
def tirex(place):
    with TesseraTimeSeries(path=place) as opened:
        yield opened


@pytest.fixture
def each(request, name):
    return request.getfixturevalue(name)


def close(found, truth, context, tolerance=1e-4):
    """Within `tolerance` of the size of the series' forecast or of its own values."""
    assert found.shape == truth.shape
    size = max(np.abs(truth).max(), np.nanmax(np.abs(context)))
    np.testing.assert_allclose(found, truth, rtol=0, atol=tolerance * size)


@quiet
@pytest.mark.parametrize("horizon", [1, 24, 25, 60])
def test_forecasts_of_a_window_equal_upstream(mixer, horizon):
    """Gaps, short series, extreme scales and a constant; three passes."""
    found = mixer.forecast(CONTEXTS, horizon)
    assert found.dtype == np.float32
    for i, context in enumerate(CONTEXTS):
        close(found[i], TTM["far"][i, :horizon], context)
        # Upstream pads a short series itself, with zeros that its mask leaves out.
        close(found[i, :24], TTM["short"][i, :horizon], context)


@quiet
def test_a_window_alone_equals_itself_in_a_batch(mixer):
    together = mixer.forecast(CONTEXTS, 60)
    for context, row in zip(CONTEXTS, together, strict=True):
        close(mixer.forecast(context, 60)[0], row, context, 1e-5)


def test_a_window_by_hand():
    """Mean 2 and variance 2/3 of the known values 1, 2 and 3; missing ones are 0 before."""
    context = np.array([[np.nan, 1.0, 2.0, 3.0], [np.nan] * 4, [5.0] * 4])
    scaled, _, loc, scale = patching.window(context)
    np.testing.assert_allclose(loc[:, 0], [2, 0, 5])
    np.testing.assert_allclose(scale[:, 0] ** 2, [2 / 3 + 1e-5, 1e-5, 1e-5])
    np.testing.assert_allclose(scaled[0] * scale[0], [-2, -1, 0, 1], rtol=1e-6)
    assert not scaled[1:].any()


def test_a_model_of_one_value_a_step_has_no_quantiles(mixer):
    assert (mixer.quantiles(), mixer.prediction_length(), mixer.context_length()) == ((), 24, 100)
    assert mixer.spec.time_series.point == "mean"
    for levels in (None, [0.5], [0.1, 0.9]):
        with pytest.raises(ConfigError, match="'test-ttm' forecasts one value a step, its mean"):
            mixer.forecast_quantiles(FORM, 3, levels)
    with pytest.raises(ConfigError, match="leave groups out"):
        mixer.forecast([FORM, FORM], groups=[0, 0])


def test_a_frame_of_one_value_a_step(mixer):
    days = pd.date_range("2024-01-01", periods=300)
    df = pd.DataFrame({"timestamp": days, "target": FORM})
    found = mixer.forecast_frame(df, horizon=30)
    assert list(found.columns) == ["timestamp", "forecast"]
    np.testing.assert_allclose(found["forecast"], mixer.forecast(FORM, 30)[0])
    for options in ({"levels": [0.5]}, {"extrapolate": "tails"}):
        with pytest.raises(ConfigError, match="no quantiles"):
            mixer.forecast_frame(df, **options)


def test_the_command_forecasts_one_value_a_step(mixer, tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("a\n" + "".join(f"{value}\n" for value in FORM))

    def run(*args):
        return CliRunner().invoke(
            main, ["forecast", str(path), "-m", str(ARTIFACTS / "ttm"), *args]
        )

    truth = mixer.forecast(FORM, 3)[0]
    lines = run("--horizon", "3").stdout.splitlines()
    assert lines[2].split() == ["step", "forecast"]
    np.testing.assert_allclose([float(line.split()[1]) for line in lines[3:6]], truth, rtol=1e-5)
    assert run("--horizon", "3", "-o", "-").stdout.startswith("step,forecast\n1,")
    refused = run("--levels", "0.1,0.9")
    assert refused.exit_code == 1
    assert "forecasts one value a step, its mean, and no quantiles" in refused.stderr
    assert run("--extrapolate", "tails").exit_code == 1


@quiet
def test_the_demo_forecasts_one_value_a_step(mixer):
    shown = demo._show(mixer, KINDS["time-series"])
    assert shown["levels"] == []
    np.testing.assert_allclose(
        np.array(shown["forecast"])[:, 0], mixer.forecast(demo.SERIES, 12)[0]
    )
    first, _, row = demo._lines(KINDS["time-series"], shown)
    assert first == "time-series, test-ttm: the next year of a series"
    assert row.split()[0] == "forecast"


def test_zeros_for_missing_values_are_told(mixer):
    gap = FORM.copy()
    gap[-50] = np.nan
    said = "series 1, 2: fewer than the 100 known values"
    with pytest.warns(ForecastWarning, match=said) as caught:
        found = mixer.forecast([FORM, gap, FORM[:99]], 3)
    assert (len(caught), caught[0].filename) == (1, __file__)
    np.testing.assert_array_equal(found[:1], mixer.forecast(FORM, 3))  # without a warning


def test_a_window_on_a_high_level(mixer):
    truth = mixer.forecast(FORM, 60)
    found = mixer.forecast(FORM + 1e9, 60)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found - 1e9, truth, atol=1e-4)


@pytest.mark.parametrize("horizon", [1, 32, 33, 70])
def test_forecasts_of_a_published_graph_equal_its_procedure(tirex, horizon):
    found = tirex.forecast_quantiles(CONTEXTS, horizon)
    assert found.shape == (10, horizon, 9)
    for i, context in enumerate(CONTEXTS):
        truth = TIREX["quantiles"][i, :horizon]
        close(found[i], np.sort(truth), context)
        ours = tirex._rollout.quantiles(
            [context[-2048:]], np.zeros(1, int), horizon, parallel=False
        )
        close(ours[0].T, truth, context)  # in the order of the graph
    np.testing.assert_array_equal(tirex.forecast(CONTEXTS, horizon), found[..., 4])


def test_the_facts_of_a_published_graph(tirex, place):
    assert tirex.quantiles() == tuple(i / 10 for i in range(1, 10))
    assert (tirex.prediction_length(), tirex.context_length()) == (32, 2048)
    assert (
        tirex.spec.time_series
        == next(e for e in catalogue.catalogue() if e.id == "tirex").time_series
    )
    assert (tirex.spec.licence, tirex.spec.kinds) == ("nxai-community", ("time-series",))
    with tessera_onnx.Tessera(path=place) as opened:
        assert type(opened) is TesseraTimeSeries
    with pytest.raises(LoadError, match="is a model of kind time-series, not dense"):
        tessera_onnx.TesseraDense(path=place)
    with pytest.raises(ConfigError, match="leave pooling out"):
        tessera_onnx.TesseraDense(path=place, pooling="mean")


def test_a_graph_that_only_has_the_name(tmp_path):
    shutil.copy(ARTIFACTS / "bolt" / "model.fp32.onnx", tmp_path / "tirex.onnx")
    with pytest.raises(
        LoadError, match="not the published graph of that name, which takes context"
    ):
        TesseraTimeSeries(path=tmp_path)


def test_a_horizon_beyond_what_the_graph_remembers(tirex):
    """Past 2,048 forecast steps the graph would read nothing but missing values."""
    assert np.isfinite(tirex.forecast(FORM, 2048)).all()
    late = np.concatenate([FORM, np.full(64, np.nan)])
    assert np.isfinite(tirex.forecast(late, 1984)).all()
    for wrong, most in ((0, 2048), (1, 1984)):
        with pytest.raises(ConfigError, match=rf"series {wrong}: .* after {most} steps") as caught:
            tirex.forecast([FORM, late], most + 1)
        assert caught.value.index == wrong


def test_values_that_float32_does_not_hold(tirex):
    for series in (FORM + 1e8, np.full(9, 2**24 + 1)):
        with pytest.raises(ConfigError, match="series 1: float32, .* subtract an offset") as caught:
            tirex.forecast([FORM, series])
        assert caught.value.index == 1


@quiet
@both
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ([], ConfigError),
        ([1.0, np.inf], ConfigError),
        ([1.0, 1e39], ConfigError),
        (np.zeros((2, 3)), ConfigError),
        (["a", "b"], TypeError),
        (None, TypeError),
    ],
)
def test_wrong_series(each, wrong, error):
    with pytest.raises(error) as caught:
        each.forecast([FORM, wrong], 3)
    assert caught.value.index == 1
    assert pickle.loads(pickle.dumps(caught.value)).index == 1


@quiet
@both
@pytest.mark.parametrize("horizon", [3, 70])
def test_series_of_all_sorts_in_one_call(each, horizon):
    dead, constant, single = np.full(200, np.nan), np.full(200, 7.0), [3.0]
    early = np.concatenate([[5.0], np.full(each.context_length(), np.nan)])
    with pytest.warns(ForecastWarning, match="series 0, 4: all values"):
        found = each.forecast([dead, FORM, constant, single, early], horizon)
    assert np.isnan(found[[0, 4]]).all()
    assert np.isfinite(found[1:4]).all()
    np.testing.assert_allclose(found[1], each.forecast(FORM, horizon)[0], rtol=1e-5)
    assert each.forecast([], horizon).shape == (0, horizon)
    with np.errstate(all="raise"):  # a program that looks for errors of its own
        each.forecast([FORM * 1e-40, [1e-40] * 20], horizon)


@quiet
@both
def test_wrong_horizons(each):
    for horizon in (0, -1, 65537):
        with pytest.raises(ConfigError, match="horizon must be"):
            each.forecast(FORM, horizon)
    for horizon in (1.0, "3", True):
        with pytest.raises(TypeError, match="horizon must be int or None"):
            each.forecast(FORM, horizon)


@quiet
@both
def test_a_forecast_beyond_float32_is_no_infinity(each):
    row = np.where(np.arange(200) % 2, 3e38, -3e38)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = each.forecast([FORM, row])
        except EncodingError as error:
            assert re.search("range of float32|holds NaN or infinity", str(error))
        else:
            assert np.isfinite(found).all()


@both
def test_pickling_and_closing(each):
    rebuilt = pickle.loads(pickle.dumps(each))
    np.testing.assert_array_equal(rebuilt.forecast(FORM, 80), each.forecast(FORM, 80))
    rebuilt.close()
    with pytest.raises(EncodingError, match="closed"):
        rebuilt.forecast(FORM)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('point = "mean"\n', "", "rise strictly"),
        ('reads = "window"', 'reads = "all"', "reads is 'all', expected one of"),
        ('reads = "window"\n', "", "whole numbers of patches"),
        ("quantiles = []\narcsinh", "quantiles = [0.5]\narcsinh", "a point has no quantiles"),
        ("time_scale = -1", "time_scale = 100", "are for patches"),
        ("context_length = 100", "context_length = 0", "whole numbers of patches"),
        ("length = 24", "length = 48", "covers?|future_patches|output patches"),
    ],
)
def test_recipes_that_cannot_be(tmp_path, old, new, message):
    with pytest.raises(LoadError, match=message):
        TesseraTimeSeries(path=copy("ttm", tmp_path / "ttm", replace((old, new))))


@pytest.mark.parametrize(
    ("reads", "wanted"),
    [("", "patches and attention_mask"), ('reads = "context"\n', "context")],
)
def test_a_graph_that_reads_something_else(tmp_path, reads, wanted):
    edit = replace(
        ('reads = "window"\n', reads), ("context_length = 100", "context_length = 112"),
        ("patch_size = 24", "patch_size = 32"), ("n_length = 24", "n_length = 32"),
    )  # fmt: skip
    message = f"takes the inputs past_values: a graph that forecasts takes {wanted}"
    with pytest.raises(LoadError, match=message):
        TesseraTimeSeries(path=copy("ttm", tmp_path / "ttm", edit))


def test_a_window_of_another_length(tmp_path):
    edit = replace(("context_length = 100", "context_length = 50"))
    with pytest.raises(LoadError, match="past_values"):
        TesseraTimeSeries(path=copy("ttm", tmp_path / "ttm", edit))

"""Forecasts against chronos-forecasting on the same weights (tests/make_artifacts.py)."""

import json
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
from artifact_tools import ARTIFACTS, copy, golden, replace
from click.testing import CliRunner

import tessera_onnx
from tessera_onnx import ConfigError, EncodingError, ForecastWarning, LoadError, TesseraTimeSeries
from tessera_onnx.cli.main import main

STORED = golden("bolt")
# The last one has no observed value: upstream invents its forecast, here it is NaN.
CONTEXTS = [STORED[f"context_{i}"] for i in range(10)]
TRAINED = STORED["trained"][:10]  # (series, level, step), as upstream orders them
quiet = pytest.mark.filterwarnings("ignore::tessera_onnx.ForecastWarning")
ALONE = np.zeros(1, np.int64)  # the group of one series
LEVELS = tuple(i / 10 for i in range(1, 10))
FORM = np.sin(np.arange(300) / 5).astype(np.float32) + 2


@pytest.fixture(scope="module")
def model():
    with TesseraTimeSeries(path=ARTIFACTS / "bolt") as opened:
        yield opened


def close(found, truth, tolerance=1e-4):
    """Within `tolerance` of each series' largest value."""
    assert found.shape == truth.shape
    for i, (ours, theirs) in enumerate(zip(found, truth, strict=True)):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max() + 0,
                                   err_msg=f"series {i}")  # fmt: skip


@pytest.mark.parametrize("horizon", [1, 15, 64, 65, 70])
def test_quantiles_equal_upstream(model, horizon):
    truth = np.sort(TRAINED[..., :horizon].swapaxes(1, 2))
    found = model.forecast_quantiles(CONTEXTS, horizon)
    assert found.dtype == np.float32
    close(found, truth)
    close(model.forecast(CONTEXTS, horizon), truth[..., 4])


@quiet
def test_other_levels_equal_upstream_where_its_trained_ones_do_not_cross(model):
    found = model.forecast_quantiles(CONTEXTS, 70, STORED["levels"].tolist())
    truth = STORED["interpolated"][:10]
    risen = (np.diff(TRAINED[..., :70], axis=1) >= 0).all(axis=1)
    assert 0.5 < risen[:, :64].mean() < 1
    assert risen[:, 64:].all()  # pooled
    scale = np.abs(truth).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose((found / scale)[risen], (truth / scale)[risen], rtol=0, atol=1e-4)


def test_the_order_of_the_graph_equals_upstream(model):
    """Before the levels are sorted: levels and steps are not confused, paths keep their level."""
    for i, context in enumerate(CONTEXTS):
        found = model._rollout.quantiles([context[-2048:]], ALONE, 135, parallel=False)
        close(found, TRAINED[i : i + 1])


@quiet
def test_levels_within_and_around_the_trained_ones(model):
    risen = (
        np.diff(model._rollout.quantiles([FORM], ALONE, 64, parallel=False)[0], axis=0) >= 0
    ).all(axis=0)
    assert risen.sum() > 20
    trained = model.forecast_quantiles(FORM)[:, risen]
    found = model.forecast_quantiles(FORM, None, [0.999, 0.3, 0.01, 0.35, 0.3])[:, risen]
    np.testing.assert_array_equal(found[..., 0], trained[..., 8])
    np.testing.assert_array_equal(found[..., 1], trained[..., 2])
    np.testing.assert_array_equal(found[..., 2], trained[..., 0])
    np.testing.assert_allclose(found[..., 3], trained[..., 2:4].mean(-1), rtol=1e-5)
    np.testing.assert_array_equal(found[..., 4], found[..., 1])


@quiet
def test_quantiles_never_cross(model):
    levels = np.linspace(0.001, 0.999, 97)
    found = model.forecast_quantiles(CONTEXTS, 130, levels)
    assert (np.diff(TRAINED, axis=1) < 0).any()  # upstream's do on these weights
    assert (np.diff(found, axis=2) >= 0).all()


def test_a_series_alone_equals_itself_in_a_ragged_batch(model):
    together = model.forecast_quantiles(CONTEXTS, 80)
    alone = np.concatenate([model.forecast_quantiles(context, 80) for context in CONTEXTS])
    close(together, alone, 1e-5)


def test_the_last_values_count(model):
    long = CONTEXTS[6]
    assert len(long) == 2049
    np.testing.assert_array_equal(model.forecast(long), model.forecast(long[1:]))
    assert not np.allclose(model.forecast(long), model.forecast(long[:-1]))
    assert not np.allclose(model.forecast(long[-2048:]), model.forecast(long[-2047:]))


def test_shift_and_scale_carry_over(model):
    """The recipe standardises: the forecast of a x + b is a times that of x, plus b."""
    base = model.forecast_quantiles(FORM, 70)
    close(model.forecast_quantiles(FORM * 64 + 128, 70), base * 64 + 128, 1e-4)


def test_missing_values_are_not_zeros(model):
    gaps = FORM.copy()
    gaps[50:60] = np.nan
    filled = np.nan_to_num(gaps)
    assert not np.allclose(model.forecast(gaps), model.forecast(filled), rtol=1e-2)
    # Missing values before the first one say nothing.
    led = np.concatenate([np.full(37, np.nan), FORM])
    close(model.forecast(led), model.forecast(FORM), 1e-5)


@pytest.mark.parametrize(
    "series",
    [
        FORM,
        FORM.astype(np.float64),
        FORM.tolist(),
        tuple(FORM.tolist()),
        FORM[None],
        [FORM],
        [FORM.tolist()],
        np.asfortranarray(np.stack([FORM, FORM]).T)[:, 1],
        np.ma.masked_array(FORM),
        pd.Series(FORM),
        pd.Series(FORM, dtype="Float32"),
        pl.Series(FORM),
        [pl.Series(FORM)],
    ],
    ids=repr,
)
def test_a_series_in_every_form(model, series):
    np.testing.assert_array_equal(model.forecast(series, 7), model.forecast(FORM, 7))


COUNTS = np.arange(40) % 7
HOLES = [float("nan") if i in (3, 20) else float(i % 7) for i in range(40)]
WITH_NULLS = [None if value != value else int(value) for value in HOLES]


@pytest.mark.parametrize(
    "series",
    [
        COUNTS.astype(np.uint8),
        COUNTS.astype(np.float16),
        COUNTS.tolist(),
        pd.Series(COUNTS),
        pd.Series(COUNTS, dtype="Int64"),
        pl.Series(COUNTS),
    ],
    ids=lambda series: str(getattr(series, "dtype", type(series))),
)
def test_whole_numbers(model, series):
    np.testing.assert_array_equal(model.forecast(series), model.forecast(COUNTS.astype(float)))


@pytest.mark.parametrize(
    "series",
    [
        pd.Series(WITH_NULLS),
        pd.Series(WITH_NULLS, dtype="Int64"),
        pd.Series(HOLES, dtype="Float64"),
        pl.Series(WITH_NULLS),
        pl.Series(WITH_NULLS, dtype=pl.Float32),
        np.ma.masked_array(COUNTS, mask=[value is None for value in WITH_NULLS]),
    ],
    ids=lambda series: f"{type(series).__module__} {series.dtype}",
)
def test_nulls_are_missing_values(model, series):
    np.testing.assert_array_equal(model.forecast(series), model.forecast(HOLES))


def test_nulls_of_pyarrow_are_missing_values(model):
    pa = pytest.importorskip("pyarrow")
    for kind in (pa.int64(), pa.float32()):
        for series in (pa.array(WITH_NULLS, kind), pa.chunked_array([pa.array(WITH_NULLS, kind)])):
            np.testing.assert_array_equal(model.forecast(series), model.forecast(HOLES))


def test_no_series_at_all(model):
    assert model.forecast_quantiles([], 5, [0.5, 0.9]).shape == (0, 5, 2)
    assert model.forecast(np.empty((0, 9))).shape == (0, 64)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, 1e39])
def test_infinity_names_the_series(model, bad):
    row = FORM.astype(np.float64)
    row[5] = bad
    with pytest.raises(ConfigError, match=r"series 2 holds infinity"):
        model.forecast([FORM, FORM, row])
    with pytest.raises(ConfigError, match=r"series 1 holds infinity"):
        model.forecast(np.stack([FORM, row]))
    with pytest.raises(ConfigError, match=r"series 0 holds infinity"):  # also where it is not read
        model.forecast(np.concatenate([[bad], np.tile(FORM, 8)]))


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (np.array([]), "series 0 is empty"),
        ([FORM, []], "series 1 is empty"),
        (np.empty((3, 0)), "series 0 is empty"),
        (np.zeros((2, 3, 4)), "one dimension, got 3"),
        (np.float32(3), "one dimension, got 0"),
        ([np.zeros((2, 3))], r"context\[0\] must have one dimension"),
        (pd.DataFrame({"a": FORM}), "one dimension, got 2"),
    ],
)
def test_shapes_that_are_no_series(model, context, message):
    with pytest.raises(ConfigError, match=message):
        model.forecast(context)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (None, "context must be a series of numbers .*, got NoneType"),
        ("12", "got str"),
        ({"a": FORM}, "got dict"),
        (FORM.astype(object), "got an array of object"),
        ([FORM, FORM.astype(object)], r"context\[1\] must be a series .* object"),
        ([FORM, ["1", "2"]], r"context\[1\] must be"),
        ([[1.0, None]], r"context\[0\] must be"),
        ([[1.0, [2.0, 3.0]]], r"context\[0\] must be .*, got list"),
        (FORM > 1, "got an array of bool"),
        (FORM.astype(complex), "complex"),
        (np.ma.masked_array(["secret"]), "got an array of <U6"),
        (np.ma.masked_array(FORM.astype(complex)), "complex"),
        (np.ma.masked_array(FORM > 1), "got an array of bool"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "datetime64"),
        (pd.Series(["1", "2"]), "context must be"),
        (pl.Series([True]), "bool"),
        (iter([FORM]), "got list_iterator"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_types_that_are_no_series(model, context, message):
    with pytest.raises(TypeError, match=message):
        model.forecast(context)


@pytest.mark.parametrize("horizon", [0, -1])
def test_horizons_below_1(model, horizon):
    with pytest.raises(ConfigError, match=rf"horizon must be at least 1, got {horizon}"):
        model.forecast(FORM, horizon)


@pytest.mark.parametrize("horizon", [65537, 999_999_999, 2**70, np.int64(2**62)])
def test_horizons_that_would_take_all_memory(model, horizon):
    with pytest.raises(ConfigError, match="horizon must be at most 65536"):
        model.forecast(FORM, horizon)


@pytest.mark.parametrize("horizon", [1.0, "3", True])
def test_horizons_of_a_wrong_type(model, horizon):
    with pytest.raises(TypeError, match="horizon must be int or None"):
        model.forecast(FORM, horizon)


@pytest.mark.parametrize("level", [0, 1, -0.1, 1.5, float("nan")])
def test_levels_outside(model, level):
    with pytest.raises(ConfigError, match=r"levels\[1\] must lie between 0 and 1"):
        model.forecast_quantiles(FORM, levels=[0.5, level])


def test_levels_of_a_wrong_form(model):
    with pytest.raises(ConfigError, match="levels is empty"):
        model.forecast_quantiles(FORM, levels=[])
    for levels, message in [
        (0.5, "levels must be"),
        ("0.5", "levels must"),
        (np.array(0.5), "levels must be a list of numbers, got ndarray"),
        ({0.9, 0.1}, "levels must be a list of numbers, got set"),
        ({0.9: 0.1}, "levels must be a list of numbers, got dict"),
        ([True], r"levels\[0"),
    ]:
        with pytest.raises(TypeError, match=message):
            model.forecast_quantiles(FORM, levels=levels)


@quiet  # of float32 numbers that are rounded
@pytest.mark.parametrize("scale", [1e-40, 1e-44, 1e-60])
def test_no_warning_of_numpy_where_values_are_tiny(model, grouped, scale):
    """As np.seterr(all="raise") has it, in which a program looks for errors of its own."""
    rows = [FORM.astype(np.float64) * scale, np.where(FORM > 2, FORM * scale, np.nan), [scale] * 20]
    for each in (model, grouped):
        with np.errstate(all="raise"):
            found = each.forecast_quantiles(rows, 80, [0.3, 0.5])
        assert np.isfinite(found).all()


def test_a_forecast_beyond_float32_is_no_infinity(model):
    row = np.where(np.arange(100) % 2, 3e38, -3e38)
    with pytest.raises(EncodingError, match="series 0, 1: .*range of float32"):
        model.forecast([FORM, row])


def test_the_facts(model):
    assert (model.prediction_length(), model.context_length()) == (64, 2048)
    assert model.quantiles() == LEVELS
    assert repr(model) == str(model) == "TesseraTimeSeries(model='test-bolt', prediction_length=64)"
    assert (model.model(), model.device, model.precision) == ("test-bolt", "cpu", "fp32")
    assert model.spec.kinds == ("time-series",)


def test_opened_by_kind_and_listed(tmp_path, monkeypatch):
    copy("bolt", tmp_path / "bolt")
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path))
    with tessera_onnx.Tessera("test-bolt") as model:
        assert type(model) is TesseraTimeSeries
    with TesseraTimeSeries() as model:
        assert model.model() == "tessera-bolt-mini"  # the starter's comes first
    names = tessera_onnx.list_models("time-series", installed=True)
    assert names == ["tessera-bolt-mini", "test-bolt"]
    with pytest.raises(LoadError, match="is of kind time-series, not dense"):
        tessera_onnx.TesseraDense("test-bolt")


def test_pickling_closing_and_threads(model):
    rebuilt = pickle.loads(pickle.dumps(model))
    truth = model.forecast(CONTEXTS, 70)
    np.testing.assert_array_equal(rebuilt.forecast(CONTEXTS, 70), truth)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: model.forecast(CONTEXTS, 70), range(8)):
            np.testing.assert_allclose(found, truth, rtol=1e-5)
    rebuilt.close()
    with pytest.raises(EncodingError, match="closed"):
        rebuilt.forecast(FORM)


def test_a_failing_batch_names_its_series(model, monkeypatch):
    def broken(*_, **__):
        raise EncodingError("out of memory")

    monkeypatch.setattr(model._session, "run", broken)
    with pytest.raises(EncodingError, match="series 0, 1: out of memory"):
        model.forecast([FORM, FORM])
    with pytest.raises(EncodingError, match="series 0, 1, 2, 3, 4, 5, 6, 7 and 12 more: out of"):
        model.forecast([[1.0]] * 20)


def test_a_graph_of_another_shape_is_a_load_error(tmp_path):
    edit = replace(
        ("output_patch_size = 64", "output_patch_size = 32"),
        ("prediction_length = 64", "prediction_length = 32"),
    )
    with pytest.raises(LoadError, match=r"by the model's facts it is \(1, 9, 32\)"):
        TesseraTimeSeries(path=copy("bolt", tmp_path / "bolt", edit))
    with pytest.raises(LoadError, match=r"by the model's facts it is \(1, 8, 64\)"):
        TesseraTimeSeries(path=copy("bolt", tmp_path / "fewer", replace(("    0.9,\n", ""))))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    0.1,\n    0.2,", "    0.2,\n    0.1,", "rise strictly"),
        ("    0.5,\n", "", "hold 0.5"),
        ("context_length = 2048", "context_length = 2047", "whole numbers of patches"),
        ("patch_size = 16\noutput", "patch_size = 0\noutput", "at least 1"),
        ("prediction_length = 64", "prediction_length = 96", "what the output patches cover"),
        ("prediction_length = 64", "prediction_length = 128", "has no input future_patches"),
        ("time_scale = -1", "time_scale = 0", "time_scale"),
        ("time_scale = -1\n", "", "time_scale is missing"),
    ],
)
def test_recipes_that_cannot_be(tmp_path, old, new, message):
    with pytest.raises(LoadError, match=message):
        TesseraTimeSeries(path=copy("bolt", tmp_path / "bolt", replace((old, new))))


def test_the_command_shows_it_and_reads_it_no_text(tmp_path, monkeypatch):
    copy("bolt", tmp_path / "bolt")
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path))

    def run(*args):
        return CliRunner().invoke(main, args)

    info = run("info", "test-bolt").output
    for fact in ("time_series.patch_size          16", "time_series.context_length      2048"):
        assert " ".join(fact.split()) in " ".join(info.split())
    assert "time-series  64         2048" in run("models", "--kind", "time-series").output
    report = json.loads(run("doctor", "--json").output)
    (tried,) = [model for model in report["models"] if model["id"] == "test-bolt"]
    assert [probe["result"] for probe in tried["probes"]] == ["works"]
    refused = run("encode", "--text", "a", "--model", "test-bolt")
    assert refused.exit_code == 2
    assert "test-bolt forecasts series, it reads no text" in refused.output


@pytest.fixture(scope="module")
def grouped():
    with TesseraTimeSeries(path=ARTIFACTS / "chronos2") as opened:
        yield opened


def test_chronos2_equals_upstream(grouped):
    """arcsinh, the time channel, 21 levels, 32 steps a pass, pooled by weight past them."""
    truth = golden("chronos2")["trained"][:10]
    for i, context in enumerate(CONTEXTS):
        close(
            grouped._rollout.quantiles([context[-512:]], ALONE, 70, parallel=False),
            truth[i : i + 1],
        )
    found = grouped.forecast_quantiles(CONTEXTS, 70)
    assert found.shape == (10, 70, 21)
    close(found[:, 32:], truth[:, :, 32:].swapaxes(1, 2))  # pooled, so upstream's do not cross
    assert (np.diff(found, axis=2) >= 0).all()
    assert grouped.forecast(CONTEXTS).shape == (10, 32)
    for steps in (1, 16, 17):  # a horizon that needs fewer patches is not the start of a longer one
        assert grouped.forecast(CONTEXTS, steps).shape == (10, steps)


def test_series_of_a_group_see_each_other(grouped):
    contexts = [context[-40:] for context in CONTEXTS[4:7]]
    truth = golden("chronos2")["together"]
    close(grouped._rollout.quantiles(contexts, np.zeros(3, np.int64), 40, parallel=False), truth)
    mixed = [CONTEXTS[0], contexts[0], contexts[1], CONTEXTS[8], contexts[2]]
    found = grouped.forecast_quantiles(mixed, 40, groups=["x", "a", "a", "y", "a"])
    close(found[[1, 2, 4], 32:], truth[:, :, 32:].swapaxes(1, 2))
    alone = grouped.forecast_quantiles(mixed, 40)
    close(found[[0, 3]], alone[[0, 3]], 1e-5)
    assert not np.allclose(found[1], alone[1], rtol=1e-2)


def test_groups_that_cannot_be(model, grouped):
    with pytest.raises(ConfigError, match="reads every series alone: leave groups out"):
        model.forecast([FORM, FORM], groups=[0, 0])
    with pytest.raises(ConfigError, match="one label a series: 1 for 2 series"):
        grouped.forecast([FORM, FORM], groups=[0])
    for groups in ("ab", b"ab", 3, {0, 1}, {0: 1, 1: 1}, np.array(3)):
        with pytest.raises(TypeError, match="groups must be a list of labels"):
            grouped.forecast([FORM, FORM], groups=groups)
    with pytest.raises(TypeError, match=r"groups\[1\] must be a label .*, got list"):
        grouped.forecast([FORM, FORM], groups=["a", ["a"]])
    for missing in (float("nan"), np.float32("nan"), np.datetime64("NaT"), pd.NaT):
        with pytest.raises(ConfigError, match=r"groups\[1\] is NaN"):
            grouped.forecast([FORM, FORM], groups=[1.0, missing])


WAVES = np.where(np.arange(70) % 7 < 5, 10, 0)


def forms_of_whole_numbers(values):
    """Lists, arrays and columns of large whole numbers."""
    whole = [int(value) for value in values]
    yield whole
    yield [Decimal(value) for value in whole]
    yield np.array(whole, np.int64)
    yield np.array(whole, np.uint64)
    yield np.array(whole, np.float64)
    yield np.array([whole, whole])[:1]
    yield np.ma.masked_array(np.array(whole))
    yield pd.Series(whole)
    yield pd.Series(whole, dtype="UInt64")
    yield pd.Series([Decimal(value) for value in whole])
    yield pl.Series(whole)
    yield pl.Series([Decimal(value) for value in whole])


@pytest.mark.parametrize("level", [0, 10**6, 10**8, 3 * 10**9, 10**12])
@pytest.mark.parametrize("horizon", [7, 70])
def test_waves_on_a_high_level(model, grouped, level, horizon):
    """The forecast of the waves, and the level: by the float64 of the series without it."""
    for each in (model, grouped):
        truth = each.forecast_quantiles(WAVES, horizon).astype(np.float64)
        for series in forms_of_whole_numbers(WAVES + level):
            found = each.forecast_quantiles(series, horizon)
            assert found.dtype == (np.float64 if level else np.float32)
            tolerance = 1e-5 * np.abs(truth).max() + 1e-9 * level
            np.testing.assert_allclose(found - float(level), truth, rtol=0, atol=tolerance)
            median = each.forecast(series, horizon)
            assert median.dtype == found.dtype


def test_a_high_level_in_a_group_and_beside_others(grouped):
    rows = [WAVES, FORM, WAVES[::-1]]
    truth = grouped.forecast_quantiles(rows, 20, groups=["a", "b", "a"])
    found = grouped.forecast_quantiles(
        [WAVES + 10**9, FORM, WAVES[::-1] - 10**9], 20, groups=["a", "b", "a"]
    )
    assert (truth.dtype, found.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(found[0] - 1e9, truth[0], atol=1e-3)
    np.testing.assert_allclose(found[1], truth[1], atol=1e-5)
    np.testing.assert_allclose(found[2] + 1e9, truth[2], atol=1e-3)


def test_float32_is_enough_where_it_holds_the_form(model):
    for series in (FORM, FORM * 1e30, FORM + 1000, np.full(9, 0.1), np.full(9, 1e6), [3.0],
                   np.arange(300) * 1e7, np.full(9, np.float32(1e30))):  # fmt: skip
        assert model.forecast(series, 3).dtype == np.float32
    for constant in (3_000_000_001, 16_777_217, 2**53 + 2):
        found = model.forecast([constant] * 9, 3)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, constant, rtol=0, atol=1e-3)


def test_changes_that_float64_does_not_hold(model):
    for series in forms_of_whole_numbers(WAVES + 2**62):
        if isinstance(series, np.ndarray) and series.dtype == np.float64:
            continue  # rounded by the caller
        with pytest.raises(ConfigError, match="series 0 holds numbers so large.*an offset before"):
            model.forecast(series, 7)
    # A counter of nanoseconds that rises by seconds is held well.
    clock = 1_700_000_000_000_000_000 + np.arange(70) * 10**9
    found = model.forecast(clock, 7)[0]
    base = model.forecast(np.arange(70.0), 7)[0]
    np.testing.assert_allclose((found - clock[0]) / 1e9, base, atol=1e-3 * np.abs(base).max())
    with pytest.raises(ConfigError, match="series 1 holds"):
        model.forecast([FORM, pd.Series([2**62 + 1, None, 2**62 + 5], dtype="Int64")])
    with pytest.raises(ConfigError, match="series 0 holds"):
        model.forecast(np.ma.masked_array([2**62, 2**62 + 1, 0], mask=[0, 0, 1]))


def test_decimals(model):
    truth = model.forecast(HOLES)
    for series in (
        pd.Series([None if v != v else Decimal(str(v)) for v in HOLES]),
        pl.Series([None if v != v else Decimal(str(v)) for v in HOLES]),
        [Decimal(str(v)) for v in HOLES],
    ):
        np.testing.assert_array_equal(model.forecast(series), truth)
    with pytest.raises(TypeError, match="context must be|array of object"):
        model.forecast([Decimal(1), None])
    with pytest.raises(ConfigError, match="infinity"):
        model.forecast([Decimal(1), Decimal("Infinity")])


@pytest.mark.parametrize("horizon", [3, 70])
def test_a_dead_sensor_has_no_forecast(model, grouped, horizon):
    for each in (model, grouped):
        truth = each.forecast_quantiles([FORM, WAVES], horizon)
        dead = np.full(200, np.nan)
        early = np.concatenate([[5.0], np.full(each.context_length(), np.nan)])
        with pytest.warns(ForecastWarning, match="series 0, 2, 4: all values .* is NaN") as caught:
            found = each.forecast_quantiles([dead, FORM, [np.nan], WAVES, early], horizon)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert np.isnan(found[[0, 2, 4]]).all()
        np.testing.assert_allclose(found[[1, 3]], truth, rtol=1e-6)
    groups = [0, 0, 1, 0, 1]
    truth = grouped.forecast_quantiles([FORM, WAVES], horizon, groups=[0, 0])
    with pytest.warns(ForecastWarning, match="series 0, 2, 4: "):
        found = grouped.forecast_quantiles([dead, FORM, dead, WAVES, dead], horizon, groups=groups)
    np.testing.assert_allclose(found[[1, 3]], truth, rtol=1e-6)
    assert np.isnan(found[[0, 2, 4]]).all()


@pytest.mark.parametrize(
    "nothing",
    [np.full(9, np.nan), np.full((2, 9), np.nan), [[np.nan]] * 20, pl.Series([None] * 4),
     pd.Series([None] * 4, dtype="Int64"), np.ma.masked_array([1, 2], mask=True),
     pl.Series([None] * 4, dtype=pl.Int32)],
)  # fmt: skip
def test_nothing_but_missing_values(model, nothing):
    with pytest.warns(ForecastWarning, match="series 0"):
        found = model.forecast(nothing, 5)
    assert (found.dtype, found.shape[1]) == (np.float32, 5)
    assert np.isnan(found).all()


def test_levels_outside_the_trained_are_told(model, grouped):
    for each, low, high in ((model, "0.1", "0.9"), (grouped, "0.01", "0.99")):
        said = f"levels 0.005, 0.995 lie outside the trained ones, {low} to {high}: "
        with pytest.warns(ForecastWarning, match=said) as caught:
            found = each.forecast_quantiles([FORM, WAVES], 3, [0.005, 0.5, 0.995])
        assert len(caught) == 1
        assert caught[0].filename == __file__
        trained = each.quantiles()
        edges = each.forecast_quantiles([FORM, WAVES], 3, [trained[0], 0.5, trained[-1]])
        np.testing.assert_array_equal(found, edges)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            each.forecast_quantiles(FORM, 3, [trained[0] - 1e-12, 0.35, trained[-1] + 1e-12])
            each.forecast_quantiles(FORM, 3, np.linspace(0.1, 0.9, 9))
    with pytest.warns(ForecastWarning, match="levels 0.05 lie"):  # between 0.01 and 0.1
        model.forecast_quantiles(FORM, 3, [0.05])


def test_a_failure_goes_before_a_warning(model):
    row = np.where(np.arange(100) % 2, 3e38, -3e38)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(EncodingError, match="range of float32"):
            model.forecast_quantiles([row, [np.nan]], None, [0.01])


def test_a_pandas_series_is_sorted_by_its_times(model):
    days = pd.date_range("2024-01-01", periods=40)
    rising = pd.Series(np.arange(40.0), index=days)
    truth = model.forecast(rising, 5)
    np.testing.assert_array_equal(truth, model.forecast(np.arange(40.0), 5))
    utc = rising.tz_localize("UTC")
    for series in (rising[::-1], rising.sample(frac=1, random_state=1), utc[::-1],
                   rising.to_period("D")[::-1]):  # fmt: skip
        with pytest.warns(ForecastWarning, match="rows of series 1 were not in order") as caught:
            found = model.forecast([FORM, series], 5)
        assert caught[0].filename == __file__
        np.testing.assert_array_equal(found[1:], truth)
    with pytest.raises(ConfigError, match="series 1 has a time twice in its index"):
        model.forecast([FORM, pd.concat([rising, rising[:1]])])
    # Numbers and names of rows are no times.
    turned = rising.reset_index(drop=True)[::-1]
    np.testing.assert_array_equal(model.forecast(turned), model.forecast(turned.to_numpy()))


def test_tails(model, grouped):
    for each in (model, grouped):
        trained = np.array(each.quantiles())
        inner = each.forecast_quantiles([FORM, WAVES + 1e8], 80)
        levels = [trained[0] / 4, 0.5, 1 - (1 - trained[-1]) / 4]
        found = each.forecast_quantiles([FORM, WAVES + 1e8], 80, levels, extrapolate="tails")
        low, high = trained[1] / trained[0], (1 - trained[-2]) / (1 - trained[-1])
        want = (
            inner[..., 0] - (inner[..., 1] - inner[..., 0]) * np.log(4) / np.log(low),
            inner[..., -1] + (inner[..., -1] - inner[..., -2]) * np.log(4) / np.log(high),
        )
        np.testing.assert_allclose(found[..., 0], want[0], rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(found[..., 2], want[1], rtol=1e-6, atol=1e-5)
        same = each.forecast_quantiles([FORM], 80, extrapolate="tails")
        np.testing.assert_allclose(same, inner[:1], rtol=1e-6)
    with pytest.raises(ConfigError, match='extrapolate must be "tails" or None'):
        model.forecast_quantiles(FORM, extrapolate="secret")
    large = np.where(np.arange(100) % 2, 1.0, -1.0) * 5e37
    model.forecast_quantiles(large, 5)
    with pytest.raises(EncodingError, match="series 0: the forecast leaves the range of float32"):
        model.forecast_quantiles(large, 5, [1e-300], extrapolate="tails")


def test_what_the_caller_rounded_is_told(model):
    level = (WAVES + 1e8).astype(np.float32)
    nullable = pd.Series(level, dtype="Float32")
    for series in (level, pd.Series(level), nullable, pl.Series(level)):
        context = [FORM, series]
        with pytest.warns(ForecastWarning, match="series 1: float32.* give float64") as caught:
            found = model.forecast(context, 3)
        assert (len(caught), caught[0].filename, found.dtype) == (1, __file__, np.float64)
    model.forecast([FORM + np.float32(1000), np.full(9, 1e8, np.float32), level[:1]], 3)

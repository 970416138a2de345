"""TinyTimeMixer: random weights of the true class, exported, against granite-tsfm."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tsfm_public.models.tinytimemixer import TinyTimeMixerConfig, TinyTimeMixerForPrediction
from tsfm_public.toolkit.recursive_predictor import RecursivePredictor, RecursivePredictorConfig

from tessera_export import artifact, cli
from tessera_export.errors import ExportError
from tessera_export.series import timeseries
from tessera_onnx import TesseraTimeSeries
from tessera_onnx.models import catalogue

pytestmark = [
    pytest.mark.export,
    pytest.mark.filterwarnings("ignore::tessera_onnx.ForecastWarning"),  # of short series
]


def save(place, **changes):
    """The published shape of granite-timeseries-ttm-r2, revision main, with random weights."""
    torch.manual_seed(5)
    settings = {
        "context_length": 512,
        "prediction_length": 96,
        "patch_length": 64,
        "patch_stride": 64,
        "d_model": 192,
        "num_layers": 2,
        "adaptive_patching_levels": 3,
        "decoder_d_model": 128,
        "decoder_num_layers": 2,
        "head_dropout": 0.7,
    }
    config = TinyTimeMixerConfig(**(settings | changes))
    TinyTimeMixerForPrediction(config).save_pretrained(place)
    return place


def rows():
    rng = np.random.default_rng(3)
    made = [1 + np.cos(np.arange(n) / 3) + rng.normal(0, 0.3, n) for n in (40, 511, 512, 900, 600)]
    made[3][700:725] = np.nan
    made[4] *= 1e5
    return [row.astype(np.float32) for row in [*made, np.full(512, 7.0)]]


def opened(place, target):
    timeseries.export(timeseries.read(place), target, artifact.Origin("test"), ("fp32",))
    return TesseraTimeSeries(path=target)


def truth(place, context):
    """Upstream's forecast of a series of any length, with its missing values masked."""
    model = TinyTimeMixerForPrediction.from_pretrained(place).eval()
    values = torch.from_numpy(context)[None, :, None]
    with torch.no_grad():
        found = model(past_values=torch.nan_to_num(values), past_observed_mask=~values.isnan())
    return found.prediction_outputs[0, :, 0].numpy()


def test_the_published_shape(tmp_path):
    place = save(tmp_path / "model")
    shape = TinyTimeMixerForPrediction.from_pretrained(place)
    assert sum(each.numel() for each in shape.parameters()) == 805_280  # published as 3.24 MB
    with opened(place, tmp_path / "out") as model:
        entries = {entry.id: entry.time_series for entry in catalogue.catalogue()}
        assert model.spec.time_series == entries["granite-timeseries-ttm-r2"]
        for context, found in zip(rows(), model.forecast(rows()), strict=True):
            want = truth(place, context)
            size = max(np.abs(want).max(), np.nanmax(np.abs(context)))
            np.testing.assert_allclose(found, want, rtol=0, atol=1e-4 * size)


def test_a_longer_horizon_is_rolled_as_upstream(tmp_path):
    place = save(tmp_path / "model")
    upstream = TinyTimeMixerForPrediction.from_pretrained(place).eval()
    recursive = RecursivePredictor(RecursivePredictorConfig(upstream, 250, 96, "mse"))
    context = rows()[3][-512:]
    values = torch.from_numpy(context)[None, :, None]
    with torch.no_grad():
        want = recursive(
            past_values=torch.nan_to_num(values),
            past_observed_mask=~values.isnan(),
            future_observed_mask=torch.ones(1, 288, 1, dtype=torch.bool),
        ).prediction_outputs[0, :250, 0]
    with opened(place, tmp_path / "out") as model:
        np.testing.assert_allclose(model.forecast(context, 250)[0], want, rtol=0, atol=3e-4)


def test_channels_are_forecast_alone(tmp_path):
    """Pretrained models mix no channels: several channels of upstream are several series here."""
    place = save(tmp_path / "model", num_input_channels=3)
    channels = np.stack([rows()[2], rows()[5], rows()[3][-512:]])
    channels[2] = np.nan_to_num(channels[2])
    model = TinyTimeMixerForPrediction.from_pretrained(place).eval()
    with torch.no_grad():
        want = model(past_values=torch.from_numpy(channels.T)[None]).prediction_outputs[0].T
    with opened(place, tmp_path / "out") as exported:
        np.testing.assert_allclose(exported.forecast(channels), want, rtol=0, atol=1e-4 * 7)


@pytest.mark.parametrize(
    "changes",
    [
        {"context_length": 90, "prediction_length": 30, "patch_length": 16, "patch_stride": 16},
        {"adaptive_patching_levels": 0, "decoder_d_model": 192, "gated_attn": False},
        {"use_decoder": False, "norm_mlp": "BatchNorm"},
        {"decoder_raw_residual": True, "self_attn": True, "self_attn_heads": 2},
        {"use_positional_encoding": True, "loss": "mae"},
        {"prediction_filter_length": 40},
    ],
    ids=str,
)
def test_other_configurations_equal_upstream(tmp_path, changes):
    place = save(tmp_path / "model", **changes)
    with opened(place, tmp_path / "out") as model:
        assert model.spec.time_series.point == ("median" if "loss" in changes else "mean")
        for context, found in zip(rows(), model.forecast(rows()), strict=True):
            want = truth(place, context)
            size = max(np.abs(want).max(), np.nanmax(np.abs(context)))
            np.testing.assert_allclose(found, want, rtol=0, atol=1e-4 * size)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("scaling", "mean", "scaling is 'mean', only 'std' or True is exported"),
        ("loss", "huber", "loss is 'huber', only 'mse' or 'mae'"),
        ("resolution_prefix_tuning", True, "resolution_prefix_tuning is True, only False"),
        ("decoder_mode", "mix_channel", "only 'common_channel' is exported"),
        ("multi_quantile_head", True, "only False is exported"),
        ("exogenous_channel_indices", [1], "only None is exported"),
        ("context_length", None, "has no 'context_length'$"),
        ("prediction_length", None, "has no 'prediction_length'$"),
    ],
)
def test_what_the_graph_does_not_compute_is_refused(tmp_path, key, value, message):
    place = save(tmp_path)
    config = json.loads((place / "config.json").read_text())
    if value is None:
        del config[key]
    else:
        config[key] = value
    (place / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match=message):
        timeseries.read(place)


def test_the_command_exports_it(tmp_path):
    place = save(tmp_path / "model")
    result = CliRunner().invoke(
        cli.main, [str(place), "--kind", "time-series", "--output", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    with TesseraTimeSeries(path=tmp_path / "out", precision="int8") as model:
        assert np.isfinite(model.forecast(rows()[2], 200)).all()

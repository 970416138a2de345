"""Chronos-2: random weights of the true class, exported, against Chronos2Pipeline."""

import numpy as np
import pytest
import torch
from chronos.chronos2 import Chronos2Model, Chronos2Pipeline
from chronos.chronos2.config import Chronos2CoreConfig

from tessera_export import artifact
from tessera_export.errors import ExportError
from tessera_export.series import timeseries
from tessera_onnx import ConfigError, TesseraTimeSeries
from tessera_onnx.models import catalogue

pytestmark = [
    pytest.mark.export,
    pytest.mark.filterwarnings("ignore:We recommend keeping prediction length"),
]

# Of autogluon/chronos-2-small and -synth (models.toml).
FEWER = [0.01, 0.05, *(i / 10 for i in range(1, 10)), 0.95, 0.99]
TRAINED = [0.01, *(i / 20 for i in range(1, 20)), 0.99]
ALONE = np.zeros(1, np.int64)


def save(place, d_model=32, d_ff=64, heads=2, layers=2, d_kv=16, factor=0.6, **changes):
    """A folder as upstream's, random weights; `changes` are of chronos_config."""
    torch.manual_seed(4)
    settings = {
        "context_length": 8192,
        "input_patch_size": 16,
        "input_patch_stride": 16,
        "output_patch_size": 16,
        "max_output_patches": 64,
        "quantiles": TRAINED,
        "use_arcsinh": True,
        "use_reg_token": True,
    }
    config = Chronos2CoreConfig(
        d_model=d_model,
        d_kv=d_kv,
        d_ff=d_ff,
        num_layers=layers,
        num_heads=heads,
        initializer_factor=factor,
        chronos_config=settings | changes,
        architectures=["Chronos2Model"],
    )
    Chronos2Model(config).save_pretrained(place)
    return place


def rows():
    rng = np.random.default_rng(3)
    made = [1 + np.cos(np.arange(n) / 3) + rng.normal(0, 0.3, n) for n in (40, 33, 90, 90, 200, 5)]
    made[1][4:25] = np.nan
    made[2] *= 1e-6
    made[3] *= 1e9
    return [row.astype(np.float32) for row in [*made, np.full(40, 7.0)]]


def close(found, truth, tolerance=1e-4):
    assert found.shape == truth.shape
    scale = np.abs(truth).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(found / scale, truth / scale, rtol=0, atol=tolerance)


def raw(model, contexts, horizon, groups=None):
    """As the graph orders them: upstream's trained levels may cross on random weights."""
    if groups is not None:
        return model._rollout.quantiles(contexts, np.array(groups), horizon, parallel=False)
    found = [model._rollout.quantiles([row], ALONE, horizon, parallel=False) for row in contexts]
    return np.concatenate(found)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The pipeline and the exported model, of passes of 64 steps."""
    place = tmp_path_factory.mktemp("chronos2")
    save(place / "model", max_output_patches=4)
    timeseries.export(
        timeseries.read(place / "model"), place / "out", artifact.Origin("test"), ("fp32",)
    )
    with TesseraTimeSeries(path=place / "out") as model:
        yield Chronos2Pipeline.from_pretrained(place / "model"), model


@pytest.mark.parametrize("horizon", [1, 16, 17, 64, 65, 150])
@pytest.mark.filterwarnings("ignore::tessera_onnx.ForecastWarning")  # levels outside the trained
def test_forecasts_equal_upstream(opened, horizon):
    upstream, model = opened
    contexts = rows()
    truth = upstream.predict([torch.from_numpy(row) for row in contexts], horizon)
    close(raw(model, contexts, horizon), torch.cat(truth).numpy())
    # Past one pass upstream pools, and what it pools does not cross.
    if horizon > 64:
        levels = [0.5, 0.03, 0.37, 0.995]
        found = upstream.predict_quantiles(
            [torch.from_numpy(row) for row in contexts], horizon, levels
        )
        # Random weights send each pass through sinh, which multiplies rounding: torch itself is
        # 4.5e-5 off when it forecasts the series one by one, and on a processor with AVX2 alone
        # this is 1.3e-4 off.
        close(
            model.forecast_quantiles(contexts, horizon, levels)[:, 64:],
            torch.cat(found[0]).numpy()[:, 64:],
            3e-4,
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"use_arcsinh": False},
        {"time_encoding_scale": 100, "context_length": 48},
        {"input_patch_size": 8, "input_patch_stride": 8, "output_patch_size": 8},
    ],
    ids=str,
)
def test_other_configurations_equal_upstream(tmp_path, changes):
    place = save(tmp_path / "model", max_output_patches=4, **changes)
    timeseries.export(
        timeseries.read(place), tmp_path / "artifact", artifact.Origin("test"), ("fp32",)
    )
    upstream = Chronos2Pipeline.from_pretrained(place)
    contexts = rows()
    with TesseraTimeSeries(path=tmp_path / "artifact") as model:
        length = model.context_length()
        found = raw(model, [row[-length:] for row in contexts], 40)
    truth = upstream.predict([torch.from_numpy(row) for row in contexts], 40)
    close(found, torch.cat(truth).numpy())


def test_what_upstream_cannot_run_is_refused(tmp_path):
    place = save(tmp_path / "model", use_reg_token=False)
    with pytest.raises(ExportError, match="use_reg_token is not set"):
        timeseries.read(place)


def test_groups_equal_upstream(opened):
    upstream, model = opened
    contexts = [row[-33:] for row in rows()[:5]]
    tasks = [np.stack(contexts[:2]), np.stack(contexts[2:3]), np.stack(contexts[3:])]
    for horizon in (20, 100):
        truth = upstream.predict([torch.from_numpy(task) for task in tasks], horizon)
        close(
            raw(model, contexts, horizon, [0, 0, 1, 2, 2]),
            torch.cat(truth).numpy(),
        )
        together = upstream.predict(
            [torch.from_numpy(row) for row in contexts], horizon, cross_learning=True
        )
        close(raw(model, contexts, horizon, [0] * 5), torch.cat(together).numpy())


def test_groups_of_the_public_method(opened):
    _, model = opened
    contexts = rows()
    labels = ["a", "b", "a", "c", "b", "c", "d"]
    found = model.forecast_quantiles(contexts, 70, groups=labels)
    alone = model.forecast_quantiles(contexts, 70)
    close(found[6:], alone[6:])  # the only one of its group
    assert not np.allclose(found[0], alone[0], rtol=1e-2)
    for label in "abc":
        own = [i for i, name in enumerate(labels) if name == label]
        close(model.forecast_quantiles([contexts[i] for i in own], 70, groups=[0] * len(own)),
              found[own])  # fmt: skip
    with pytest.raises(ConfigError, match="one label a series: 2 for 7 series"):
        model.forecast(contexts, groups=["a", "b"])
    with pytest.raises(TypeError, match="groups must be a list of labels, got int"):
        model.forecast(contexts, groups=1)


def test_the_longest_pass_and_context(tmp_path):
    place = save(tmp_path / "model", heads=1, layers=1)
    spec = timeseries.export(
        timeseries.read(place),
        tmp_path / "artifact",
        artifact.Origin("test"),
        ("fp32", "fp16", "int8"),
    )
    recipe = spec.time_series
    assert (recipe.context_length, recipe.prediction_length) == (8192, 1024)
    assert (len(recipe.quantiles), recipe.arcsinh, recipe.time_scale) == (21, True, 8192)
    upstream = Chronos2Pipeline.from_pretrained(place)
    long = np.sin(np.arange(8200) / 9).astype(np.float32) + 1
    with TesseraTimeSeries(path=tmp_path / "artifact") as model:
        assert model.forecast(long).shape == (1, 1024)
        (truth,) = upstream.predict([torch.from_numpy(long)], 1024)
        close(raw(model, [long[-8192:]], 1024), truth.numpy())


def test_the_shape_of_the_small_model(tmp_path):
    """chronos-2-small: its published size of 27.9 million parameters, 13 levels, six layers."""
    place = save(
        tmp_path / "model", 512, 2048, heads=8, layers=6, d_kv=64, factor=0.05, quantiles=FEWER
    )
    upstream = Chronos2Pipeline.from_pretrained(place)
    assert round(sum(each.numel() for each in upstream.model.parameters()) / 1e5) == 279
    facts = timeseries.read(place)
    spec = timeseries.export(facts, tmp_path / "artifact", artifact.Origin("test"), ("fp32",))
    entries = {entry.id: entry.time_series for entry in catalogue.catalogue()}
    assert spec.time_series == entries["chronos-2-small"]
    contexts = rows()
    with TesseraTimeSeries(path=tmp_path / "artifact") as model:
        found = raw(model, contexts, 40)
    truth = upstream.predict([torch.from_numpy(row) for row in contexts], 40)
    close(found, torch.cat(truth).numpy())

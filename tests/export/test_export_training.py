"""Training: the windows, the loss against upstream's own, and a checkpoint that upstream loads."""

import json

import numpy as np
import pytest
import torch
from chronos import BaseChronosPipeline
from safetensors.torch import load_file

from tessera_export.training import bolt, synthetic_series

pytestmark = pytest.mark.export


@pytest.fixture(scope="module")
def pool():
    return synthetic_series.series(5, 512)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return bolt.fresh().eval()


def test_a_target_continues_its_context():
    """On lines of slope 1 the standardised values still rise by one same step everywhere."""
    line = np.tile(np.arange(synthetic_series.LENGTH, dtype=np.float32), (4, 1))
    windows = bolt.Windows(line, seed=0)
    context, target = windows._cut(50, 64)
    assert context.shape == (50, 64)
    assert target.shape == (50, bolt.HORIZON)
    both = np.concatenate([context, target], axis=1)
    steps = np.diff(both, axis=1)
    deviation = np.nanstd(context, axis=1)
    np.testing.assert_allclose(deviation, 1, rtol=1e-4)
    slope = np.nanmean(steps, axis=1, keepdims=True)
    assert (slope > 0).all()
    np.testing.assert_allclose(np.where(np.isnan(steps), slope, steps) / slope, 1, rtol=1e-3)


def test_windows_are_seeded_standardised_and_bounded(pool):
    one, other = (bolt.Windows(pool, seed=2) for _ in range(2))
    context, target = one.batch(256, 256)
    for a, b in zip((context, target), other.batch(256, 256), strict=True):
        np.testing.assert_array_equal(a, b)
    assert context.dtype == target.dtype == np.float32
    known = np.isfinite(context).sum(axis=1)
    assert (known < 256).mean() > 0.4  # half of them are cut short
    full = np.nanstd(context[known > 8].astype(float), axis=1)
    assert (np.isclose(full, 1, atol=1e-3) | (full < 1e-4)).all()
    assert np.nanmax(np.abs(target)) <= bolt.FARTHEST
    assert np.isfinite(target).mean() > 0.85


def test_the_loss_is_upstreams_under_the_weights(model, pool):
    """Upstream sums over the horizon and averages over quantiles: row by row, then weighted."""
    context, target = bolt.Windows(pool, seed=3).batch(12, 128)
    expected, plain = [], []
    with torch.no_grad():
        for past, wanted in zip(context, target, strict=True):
            row = torch.from_numpy(past)[None]
            out = model(context=row, target=torch.from_numpy(wanted)[None])
            _, (_, scale) = model.instance_norm(row)
            width = (out.quantile_preds[0, -1] - out.quantile_preds[0, 0]).abs().mean() / scale
            pinball = out.loss / bolt.HORIZON
            expected.append(float(pinball / (width + 0.25)))
            plain.append(float(pinball))
        weighted, value = bolt.loss(model, context, target, 0.25)
    # The encoder runs in bfloat16.
    assert float(weighted) == pytest.approx(np.mean(expected), rel=0.01)
    assert value == pytest.approx(np.mean(plain), rel=0.01)


def test_the_rate_rises_stays_and_falls_to_nothing():
    stage = bolt.Stage(100, 0.5, 10, 0.4, 0.1)
    assert stage.share(0) == pytest.approx(0.05)
    assert [stage.share(step) for step in (9, 30, 60)] == [0.5, 0.5, 0.5]
    assert stage.share(80) == pytest.approx(0.25)
    assert stage.share(99) == pytest.approx(0.0125)


@pytest.fixture
def _quick(monkeypatch):
    monkeypatch.setattr(bolt, "BATCHES", ((64, 0.5, 48), (128, 0.5, 32)))


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
def test_a_seed_and_its_steps_give_the_same_weights(tmp_path):
    recipe = [bolt.Stage(2, *stage) for stage in ((1, 1, 0.5, 0.25), (0.4, 1, 1, 0.08))]
    for name in "ab":
        bolt.train(tmp_path / name, seed=1, recipe=recipe, pool=256)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
def test_training_learns_and_upstream_loads_the_result(tmp_path, pool):
    losses = []

    def note(_step, value, _model):
        losses.append(value)

    recipe = [bolt.Stage(40, 1.0, 5, 0.3, 0.25)]
    model = bolt.train(tmp_path, seed=1, recipe=recipe, pool=512, report=note)
    assert len(losses) == 40
    torch.manual_seed(1)
    fresh = bolt.fresh()
    context, target = bolt.Windows(pool, seed=9).batch(256, 128)
    errors = []
    with torch.no_grad():
        for one in (fresh, model):
            wanted = torch.from_numpy(target.copy())
            errors.append(float(one(context=torch.from_numpy(context), target=wanted).loss))
    assert errors[1] < 0.85 * errors[0]

    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["ChronosBoltModelForForecasting"]
    assert config["chronos_config"]["prediction_length"] == bolt.HORIZON
    pipeline = BaseChronosPipeline.from_pretrained(tmp_path)
    series = torch.sin(torch.arange(200) / 5)
    levels, median = pipeline.predict_quantiles(series, prediction_length=24)
    with torch.no_grad():
        direct = model(context=series[None]).quantile_preds[:, :, :24]
    assert levels.shape == (1, 24, 9)
    np.testing.assert_allclose(levels, direct.transpose(1, 2), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(median, levels[..., 4])

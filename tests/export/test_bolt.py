"""Chronos-Bolt: random weights of the true class, exported, against ChronosBoltPipeline."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from chronos.chronos_bolt import ChronosBoltModelForForecasting, ChronosBoltPipeline
from click.testing import CliRunner
from transformers import T5Config

from tessera_export import artifact, cli
from tessera_export.errors import ExportError
from tessera_export.series import timeseries
from tessera_onnx import TesseraTimeSeries
from tessera_onnx.models import catalogue

pytestmark = [
    pytest.mark.export,
    pytest.mark.filterwarnings("ignore:We recommend keeping prediction length"),
]

ALONE = np.zeros(1, np.int64)
TRAINED = [i / 10 for i in range(1, 10)]
# d_model, d_ff, heads and layers; of the published layers of small (6) and base (12), two.
SHAPES = {
    "tiny": (256, 1024, 4, 4),
    "mini": (384, 1536, 8, 4),
    "small": (512, 2048, 8, 2),
    "base": (768, 3072, 12, 2),
}


def save(place, d_model=32, d_ff=48, heads=2, layers=2, seed=0, **changes):
    """A folder as upstream's, random weights; `changes` are of chronos_config."""
    torch.manual_seed(seed)
    settings = {
        "context_length": 2048,
        "prediction_length": 64,
        "input_patch_size": 16,
        "input_patch_stride": 16,
        "quantiles": TRAINED,
        "use_reg_token": True,
    }
    config = T5Config(
        d_model=d_model,
        d_ff=d_ff,
        d_kv=64,
        num_heads=heads,
        num_layers=layers,
        num_decoder_layers=layers,
        feed_forward_proj="relu",
        decoder_start_token_id=0,
        pad_token_id=0,
        initializer_factor=0.5,
        chronos_config=settings | changes,
    )
    ChronosBoltModelForForecasting(config).save_pretrained(place)
    return place


def contexts():
    rng = np.random.default_rng(3)
    rows = [
        2 + np.cos(np.arange(n) / 3) + rng.normal(0, 0.3, n) for n in (5, 16, 33, 90, 90, 200, 2060)
    ]
    rows[2][4:25] = np.nan
    rows[3] *= 1e-6
    rows[4] *= 1e9
    return [row.astype(np.float32) for row in [*rows, np.full(40, 7.0)]]


def close(found, truth, tolerance=1e-4):
    assert found.shape == truth.shape
    scale = np.abs(truth).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(found / scale, truth / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "shape",
    ["mini", *(pytest.param(shape, marks=pytest.mark.slow) for shape in ("tiny", "small", "base"))],
)
@pytest.mark.filterwarnings("ignore::tessera_onnx.ForecastWarning")  # levels outside the trained
def test_forecasts_equal_upstream(tmp_path, shape):
    place = save(tmp_path / "model", *SHAPES[shape])
    spec = timeseries.export(
        timeseries.read(place), tmp_path / "artifact", artifact.Origin("test"), ("fp32",)
    )
    assert [row.metric for row in spec.export.parity] == ["max_relative"]
    upstream = ChronosBoltPipeline.from_pretrained(place)
    rows = contexts() if shape == "tiny" else contexts()[:5]
    tensors = [torch.from_numpy(row) for row in rows]
    levels = [*TRAINED, 0.02, 0.37, 0.95]
    with TesseraTimeSeries(path=tmp_path / "artifact") as model:
        for horizon in (1, 64, 65, 200) if shape == "tiny" else (65, 200):
            trained = upstream.predict(tensors, horizon).numpy().swapaxes(1, 2)
            close(model.forecast_quantiles(rows, horizon), np.sort(trained))
            truth = upstream.predict_quantiles(tensors, horizon, levels)[0].numpy()
            found = model.forecast_quantiles(rows, horizon, levels)
            risen = (np.diff(trained) >= 0).all(axis=2)  # for crossing ones see patching.at_levels
            scale = np.abs(truth).max(axis=(1, 2), keepdims=True)
            np.testing.assert_allclose((found / scale)[risen], (truth / scale)[risen], atol=1e-4)
        np.testing.assert_array_equal(
            model.forecast(rows, 200), model.forecast_quantiles(rows, 200, levels)[..., 4]
        )
        # Trained levels alone upstream hands out as they come from the network, crossing.
        truth = upstream.predict(tensors, 64).numpy()
        found = [model._rollout.quantiles([row[-2048:]], ALONE, 64, parallel=False) for row in rows]
        close(np.concatenate(found), truth)
        assert (np.diff(truth, axis=1) < 0).any()
        assert (np.diff(model.forecast_quantiles(rows, 64), axis=2) >= 0).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"use_reg_token": False},
        {"context_length": 512, "prediction_length": 32},
        {"input_patch_size": 8, "input_patch_stride": 8},
        {"quantiles": [0.25, 0.5, 0.75]},
    ],
    ids=str,
)
def test_other_configurations_equal_upstream(tmp_path, changes):
    place = save(tmp_path / "model", **changes)
    timeseries.export(
        timeseries.read(place), tmp_path / "artifact", artifact.Origin("test"), ("fp32",)
    )
    upstream = ChronosBoltPipeline.from_pretrained(place)
    rows = contexts()
    with TesseraTimeSeries(path=tmp_path / "artifact") as model:
        length = model.context_length()
        found = [
            model._rollout.quantiles([row[-length:]], ALONE, 70, parallel=False) for row in rows
        ]
    close(np.concatenate(found), upstream.predict([torch.from_numpy(r) for r in rows], 70).numpy())


def test_int4_is_refused(tmp_path):
    place = save(tmp_path / "bolt", *SHAPES["tiny"])
    with pytest.raises(ExportError, match="no forecast was measured in int4: leave it out"):
        timeseries.export(
            timeseries.read(place), tmp_path / "artifact", artifact.Origin("test"), ("fp32", "int4")
        )
    assert not (tmp_path / "artifact").exists()


def test_the_command_and_every_precision(tmp_path):
    place = save(tmp_path / "Bolt", *SHAPES["tiny"])
    (place / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    target = tmp_path / "artifact"
    args = [str(place), "--kind", "time-series", "--output", str(target)]
    result = CliRunner().invoke(cli.main, args)
    assert result.exit_code == 0, result.output
    for line in ("fp32  quantiles  max_relative", "fp16  quantiles  min_cosine",
                 "int8  quantiles  mean_cosine"):  # fmt: skip
        assert line in result.output
    (spec,) = catalogue.read_catalogue(target / "model.toml")
    assert (spec.id, spec.licence, spec.kinds) == ("bolt", "apache-2.0", ("time-series",))
    assert (spec.graph.best_cpu, spec.graph.best_cuda) == ("fp32", "fp16")
    sizes = {p: spec.file(f"model.{p}.onnx").size for p in ("fp32", "fp16", "int8")}
    assert sizes["fp32"] > 1.8 * sizes["fp16"] > 1.8 * 1.5 * sizes["int8"]
    upstream = ChronosBoltPipeline.from_pretrained(place)
    rows = contexts()
    truth = upstream.predict([torch.from_numpy(row) for row in rows], 64).numpy()
    for precision, limit in (("fp16", 0.02), ("int8", 0.2)):
        with TesseraTimeSeries(path=target, precision=precision) as model:
            found = [
                model._rollout.quantiles([row[-2048:]], ALONE, 64, parallel=False) for row in rows
            ]
            close(np.concatenate(found), truth, limit)


def test_the_graph_takes_any_batch_and_patch_count(tmp_path):
    place = save(tmp_path / "model")
    target = tmp_path / "artifact"
    timeseries.export(timeseries.read(place), target, artifact.Origin("test"), ("fp32",))
    session = onnxruntime.InferenceSession(target / "model.fp32.onnx")
    shapes = {item.name: item.shape for item in session.get_inputs()}
    assert shapes == {"patches": ["batch", "patches", 32], "attention_mask": ["batch", "patches"]}
    for n, patches in ((1, 1), (7, 3), (1, 128), (3, 200)):
        values = np.zeros((n, patches, 32), np.float32)
        (found,) = session.run(
            None, {"patches": values, "attention_mask": np.ones((n, patches), int)}
        )
        assert found.shape == (n, 9, 64)


def test_a_wrong_graph_does_not_pass_the_gate(tmp_path, monkeypatch):
    place = save(tmp_path / "model")
    facts = timeseries.read(place)
    right = facts.family.Core.forward

    def wrong(core, patches, attention_mask):  # steps and levels confused
        return right(core, patches, attention_mask).flatten(1).view(-1, 64, 9).transpose(1, 2)

    monkeypatch.setattr(facts.family.Core, "forward", wrong)
    with pytest.raises(ExportError, match="max_relative .* against torch"):
        timeseries.export(facts, tmp_path / "artifact", artifact.Origin("test"), ("fp32",))
    assert not (tmp_path / "artifact").exists()


def test_folders_that_are_no_forecasting_model(tmp_path):
    place = save(tmp_path / "model", d_ff=40)
    config = json.loads((place / "config.json").read_text())

    def refused(message, **changes):
        (place / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(ExportError, match=message):
            timeseries.export(
                timeseries.read(place), tmp_path / "out", artifact.Origin("test"), ("fp32",)
            )
        assert not (tmp_path / "out").exists()

    refused("known forecasting models are Chronos", architectures=["BertModel"])
    for malformed in (None, [], config["chronos_config"] | {"quantiles": None}):
        refused("chronos_config in config.json is malformed", chronos_config=malformed)
    refused("has no 'input_patch_stride'", chronos_config={"quantiles": TRAINED})
    refused("input_patch_stride differs",
            chronos_config=config["chronos_config"] | {"input_patch_stride": 8})  # fmt: skip
    refused("rise strictly", chronos_config=config["chronos_config"] | {"quantiles": [0.5, 0.1]})
    with pytest.raises(ExportError, match="no config.json"):
        timeseries.read(tmp_path)
    from safetensors.torch import load_file, save_file

    weights = load_file(place / "model.safetensors")
    del weights["input_patch_embedding.hidden_layer.weight"]  # upstream would fill it at random
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    refused("do not fill the tensor 'input_patch_embedding.hidden_layer.weight'")


def test_options_of_texts_are_refused(tmp_path):
    place = save(tmp_path / "model")
    for extra, message in (
        (["--max-length", "5"], "--max-length is for models of texts"),
        (["--kind", "dense"], "serves no other kind"),
    ):
        args = [str(place), "--kind", "time-series", "--output", str(tmp_path / "out"), *extra]
        result = CliRunner().invoke(cli.main, args)
        assert result.exit_code == 1
        assert message in result.output

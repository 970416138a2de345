"""Series a second of TesseraTimeSeries against chronos-forecasting on torch, same weights.

    python benchmarks/forecast_speed.py [--chronos TORCH_FOLDER] [--folder ARTIFACT]
        [--precision P] [--contexts 512 2048] [--batches 1 64] [--rounds N]

Without --chronos the weights are random in the shape of chronos-bolt-tiny; without --folder they
are exported with tessera-export first. Horizon 64, nine levels, equal threads for both. Forecasts
are compared before anything is timed. Both take turns with a pause before each, as the other's
threads may spin on for a moment; a turn is as many calls as take the slower one a third of a
second. The table has each one's median and the ratio round by round: median, least and most.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from chronos import ChronosBoltPipeline
from chronos.chronos_bolt import ChronosBoltModelForForecasting
from transformers import T5Config

from tessera_onnx import TesseraTimeSeries
from tessera_onnx.runtime.cpu import cpu_threads, physical_summary

LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
HORIZON = 64
TURN = 0.3  # seconds
PAUSE = 0.05


def random_tiny(folder: Path) -> None:
    """The shape of amazon/chronos-bolt-tiny with random weights."""
    torch.manual_seed(0)
    settings = {
        "context_length": 2048,
        "prediction_length": HORIZON,
        "input_patch_size": 16,
        "input_patch_stride": 16,
        "quantiles": LEVELS,
        "use_reg_token": True,
    }
    config = T5Config(
        vocab_size=2,
        d_model=256,
        d_ff=1024,
        d_kv=64,
        num_layers=4,
        num_decoder_layers=4,
        num_heads=4,
        feed_forward_proj="relu",
        dropout_rate=0.1,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        reg_token_id=1,
        chronos_config=settings,
        architectures=["ChronosBoltModelForForecasting"],
    )
    ChronosBoltModelForForecasting(config).save_pretrained(folder)


def exported(folder: Path, output: Path, precision: str) -> Path:
    command = [sys.executable, "-m", "tessera_export", folder, "--kind", "time-series"]
    command += ["--precision", precision, "--output", output]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return output


def series(n: int, length: int) -> np.ndarray:
    """Seasons, a trend and noise of different size: (n, length) float32."""
    rng = np.random.default_rng(0)
    steps = np.arange(length)
    season = np.sin(2 * np.pi * steps / rng.integers(6, 48, (n, 1)))
    return (season + rng.normal(0, 0.003, (n, 1)) * steps + rng.normal(0, 0.2, (n, length))).astype(
        np.float32
    )


def seconds(call: Callable[[], object], times: int) -> float:
    time.sleep(PAUSE)
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def measure(
    model: TesseraTimeSeries, pipeline: ChronosBoltPipeline, batch: int, length: int, rounds: int
) -> None:
    context = series(batch, length)
    tensor = torch.from_numpy(context)

    def ours() -> np.ndarray:
        return model.forecast_quantiles(context, HORIZON, LEVELS)

    def theirs() -> np.ndarray:
        found, _ = pipeline.predict_quantiles(
            tensor, prediction_length=HORIZON, quantile_levels=LEVELS
        )
        return found.numpy()

    truth = np.sort(theirs())  # upstream leaves quantiles that cross as they are
    error = np.abs(ours() - truth).max() / np.abs(truth).max()
    if model.precision == "fp32" and error > 1e-4:
        raise SystemExit(f"the forecasts differ: {error:.1e} of the largest value")
    times = max(1, round(TURN / max(seconds(theirs, 1), 1e-6)))
    pairs = [(seconds(theirs, times), seconds(ours, times)) for _ in range(rounds)]
    ratios = [torch_time / our_time for torch_time, our_time in pairs]
    torch_rate, our_rate = (
        batch / statistics.median(column) for column in zip(*pairs, strict=True)
    )
    middle = statistics.median(ratios)
    print(
        f"{length:7} {batch:5} {torch_rate:12.1f} {our_rate:12.1f} {middle:7.2f}x "
        f"{min(ratios):5.2f}x to {max(ratios):5.2f}x {error:10.1e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chronos", type=Path, help="a Chronos-Bolt torch folder")
    parser.add_argument("--folder", type=Path, help="the artifact of the same weights")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if options.folder and not options.chronos:
        parser.error("--folder needs --chronos, the torch folder of the same weights")
    torch.set_num_threads(cpu_threads())
    with tempfile.TemporaryDirectory() as work:
        source = options.chronos
        if source is None:
            source = Path(work) / "random-bolt-tiny"
            random_tiny(source)
        folder = options.folder or exported(source, Path(work) / "artifact", options.precision)
        pipeline = ChronosBoltPipeline.from_pretrained(str(source))
        with TesseraTimeSeries(path=folder, precision=options.precision) as model:
            print(f"{model.model()} {model.precision}, {cpu_threads()} threads each")
            print(physical_summary())
            print(
                f"{'context':>7} {'batch':>5} {'torch':>12} {'tessera':>12} {'ratio':>8} "
                f"{'least to most':>16} {'difference':>10}"
            )
            for length in options.contexts:
                for batch in options.batches:
                    measure(model, pipeline, batch, length, options.rounds)


if __name__ == "__main__":
    main()

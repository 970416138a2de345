"""Train a small Chronos-Bolt on synthetic series: `python -m tessera_export.training.bolt`.

The model class is upstream's (`chronos.chronos_bolt`), so software for Chronos-Bolt can run this
model too. The result depends on the seed and the recipe alone, up to the rounding of a machine.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from chronos.chronos_bolt import ChronosBoltModelForForecasting
from numpy.typing import NDArray
from transformers import T5Config

from tessera_export.training import synthetic_series

Float32 = NDArray[np.float32]

CONTEXT = 1024
HORIZON = 96
PATCH = 16
QUANTILES = tuple(level / 10 for level in range(1, 10))
# Context of a batch, its share of the steps and its rows: about the same work in every step.
BATCHES = ((128, 0.2, 384), (256, 0.25, 256), (512, 0.35, 144), (1024, 0.2, 72))
LEAST_CONTEXT = 16
LEAST_TARGET = 24  # windows near the end of a series have no more to learn from
MIXED = 0.25  # share of windows that are sums of two
FLIPPED = 0.15  # share turned upside down
FARTHEST = 15.0  # targets beyond so many deviations of their context are not learned from
SERIES = 98_304
RATE = 2e-3
BIAS_RATE = 2e-2  # attention biases are a few units wide, not hundredths
NEARNESS = (0.0, 0.5, 1.0, 1.5, 2.5, 4.0)  # of each head: bias lost per doubling of distance
FLAT = 1e-4  # a smaller deviation of a window of a standardised series is none


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the training with optimizers of its own.

    The share of the full rate rises over `warm_up` steps to `peak` and falls straight to 0 over
    the last `fall` of the steps. A context whose forecast is narrow counts more, as it does in
    errors relative to a naive forecast: the loss is divided by the forecast's width plus
    `narrowest` deviations. The weight looks at the context alone, so the best quantiles stay the
    true ones.
    """

    steps: int
    peak: float
    warm_up: int
    fall: float
    narrowest: float

    def share(self, step: int) -> float:
        """What part of the full rate a step takes."""
        rising = min((step + 1) / self.warm_up, 1.0)
        return self.peak * rising * min((self.steps - step) / (self.fall * self.steps), 1.0)


# Most of the gain over a naive forecast comes while the rate falls. The second stage is for
# series that repeat almost exactly.
RECIPE = (Stage(4400, 1.0, 50, 0.3, 0.25), Stage(700, 0.4, 20, 1.0, 0.08))

Report = Callable[[int, float, ChronosBoltModelForForecasting], None]


def config() -> T5Config:
    """The architecture: 2.7 M parameters, patches of 16, 1024 points in, 96 out."""
    facts: dict[str, Any] = {
        "d_model": 192,
        "d_ff": 384,
        "d_kv": 32,
        "num_heads": 6,
        "num_layers": 4,
        "num_decoder_layers": 2,
        "dropout_rate": 0.0,  # few windows are seen twice
        "feed_forward_proj": "relu",
        "vocab_size": 2,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "reg_token_id": 1,
        "use_cache": False,
        "architectures": ["ChronosBoltModelForForecasting"],
        "chronos_pipeline_class": "ChronosBoltPipeline",
        "chronos_config": {
            "context_length": CONTEXT,
            "prediction_length": HORIZON,
            "input_patch_size": PATCH,
            "input_patch_stride": PATCH,
            "quantiles": list(QUANTILES),
            "use_reg_token": True,
        },
    }
    return T5Config(**facts)


def fresh() -> ChronosBoltModelForForecasting:
    """An untrained model from torch's generator.

    Upstream's own rule for the first and last layers does not take hold under transformers 5: the
    linear layers inside count as initialised by then, with deviation 1. Trained from there, the
    model still ignored its context after 300 steps. The attention starts with heads that look
    near and heads that look far: the last values matter most, and T5 has no other sense of place.
    """
    model = ChronosBoltModelForForecasting(config())
    for block, factor in ((model.input_patch_embedding, 1.0), (model.output_patch_embedding, 0.3)):
        for layer in (block.hidden_layer, block.output_layer, block.residual_layer):
            torch.nn.init.normal_(layer.weight, std=factor * layer.in_features**-0.5)
            torch.nn.init.zeros_(layer.bias)
    bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    near = torch.arange(8.0)  # T5's buckets of one direction: distances 0 to 7, then 8 to 128
    distance = torch.cat([near, 8 * 16 ** (near / 8)]).repeat(2)
    with torch.no_grad():
        bias.copy_(-torch.log2(1 + distance)[:, None] * torch.tensor(NEARNESS))
    return model


class Windows:
    """Endless windows of a pool of series (n, 1536), NaN where there is nothing."""

    def __init__(self, pool: Float32, seed: int, stage: int = 1) -> None:
        self.rng = np.random.default_rng([seed, stage])
        self.first = np.isfinite(pool).argmax(axis=1)
        self.pool = pool

    def batch(self, rows: int, length: int) -> tuple[Float32, Float32]:
        """Contexts (rows, length) and targets (rows, 96), each context of deviation about 1."""
        context, target = self._cut(rows, length)
        other, beyond = self._cut(rows, length)
        share = np.where(self.rng.random((rows, 1)) < MIXED, self.rng.beta(1, 1, (rows, 1)), 0)
        mixed = share > 0
        context = np.where(mixed, (1 - share) * context + share * other, context)
        target = np.where(mixed, (1 - share) * target + share * beyond, target)
        kept = np.exp(self.rng.uniform(math.log(LEAST_CONTEXT), math.log(length), (rows, 1)))
        kept = np.where(self.rng.random((rows, 1)) < 0.5, kept, length)
        context[np.arange(length) < length - kept] = np.nan
        sign = np.where(self.rng.random((rows, 1)) < FLIPPED, -1, 1)
        context, target = _standard(context * sign, target * sign)
        target[np.abs(target) > FARTHEST] = np.nan
        return context.astype(np.float32), target.astype(np.float32)

    def _cut(self, rows: int, length: int) -> tuple[Float32, Float32]:
        row = self.rng.integers(0, len(self.pool), rows)
        earliest = self.first[row] + LEAST_CONTEXT
        end = self.rng.integers(earliest, synthetic_series.LENGTH - LEAST_TARGET + 1)
        column = end[:, None] + np.arange(-length, HORIZON)
        values = self.pool[row[:, None], np.clip(column, 0, synthetic_series.LENGTH - 1)]
        values[(column < 0) | (column >= synthetic_series.LENGTH)] = np.nan
        return _standard(values[:, :length], values[:, length:])


def _standard(context: Float32, target: Float32) -> tuple[Float32, Float32]:
    """Both minus the mean and over the deviation of the context's known values.

    A context without deviation becomes 0 and keeps the targets that equal it: upstream divides
    by its own guess of a scale there, and one such target would outweigh the batch.
    """
    known = np.isfinite(context)
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)
    mean = np.where(known, context, 0).sum(axis=1, keepdims=True) / count
    square = np.where(known, context - mean, 0) ** 2
    scale = np.sqrt(square.sum(axis=1, keepdims=True) / count)
    flat = scale < FLAT
    context = np.where(flat & known, 0, (context - mean) / np.maximum(scale, FLAT))
    target = (target - mean) / np.maximum(scale, FLAT)
    target[flat & (np.abs(target) < 1)] = 0
    target[flat & (target != 0)] = np.nan
    return context, target


def loss(
    model: ChronosBoltModelForForecasting, context: Float32, target: Float32, narrowest: float
) -> tuple[torch.Tensor, float]:
    """Upstream's quantile loss per point on normalised targets: weighted, and plain to report.

    The weighted one is what to step on (`Stage`). A calibrated forecast of any width scores
    about 0.2 by it, so only the plain one shows progress.
    """
    wanted = torch.from_numpy(target)
    past = torch.from_numpy(context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden, (loc, scale), embedded, mask = model.encode(context=past)
        decoded = model.decode(embedded, mask, hidden)
    forecast = model.output_patch_embedding(decoded.float())
    forecast = forecast.view(len(past), len(QUANTILES), HORIZON)
    wanted = ((wanted - loc) / scale).unsqueeze(1)
    known = ~torch.isnan(wanted)
    error = torch.where(known, wanted, 0.0) - forecast
    level = model.quantiles.view(1, -1, 1)
    pinball = (2 * torch.maximum(level * error, (level - 1) * error) * known).mean(dim=(1, 2))
    width = (forecast[:, -1] - forecast[:, 0]).detach().abs().mean(dim=1)
    return (pinball / (width + narrowest)).mean(), float(pinball.detach().mean())


def train(
    output: Path,
    *,
    seed: int = 0,
    recipe: Sequence[Stage] = RECIPE,
    pool: int = SERIES,
    report: Report | None = None,
) -> ChronosBoltModelForForecasting:
    """Train on `pool` made-up series and write config.json and model.safetensors to `output`.

    `report` is called after every step with its number over all stages, the plain loss and the
    model.
    """
    torch.manual_seed(seed)
    model = fresh()
    model.train()
    series = synthetic_series.series(seed, pool)
    done = 0
    for number, stage in enumerate(recipe, start=1):
        for value in _steps(model, Windows(series, seed, number), stage):
            if report:
                report(done, value, model)
            done += 1
    model.eval()
    model.save_pretrained(output)
    return model


def _steps(
    model: ChronosBoltModelForForecasting, windows: Windows, stage: Stage
) -> Iterator[float]:
    """Take the steps of a stage, one for each plain loss drawn from it."""
    optimizers = _optimizers(model)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    rates = [group["lr"] for group in groups]
    odds = [share for _, share, _ in BATCHES]
    for step in range(stage.steps):
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * stage.share(step)
        length, _, rows = BATCHES[windows.rng.choice(len(BATCHES), p=odds)]
        weighted, plain = loss(model, *windows.batch(rows, length), stage.narrowest)
        torch.autograd.backward(weighted)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        yield plain


def _optimizers(model: ChronosBoltModelForForecasting) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices inside the blocks, AdamW for the rest."""
    matrices, biases, others = [], [], []
    for name, parameter in model.named_parameters():
        if "relative_attention_bias" in name:
            biases.append(parameter)
        elif parameter.ndim == 2 and ".block." in name:
            matrices.append(parameter)
        else:
            others.append(parameter)
    tables: list[dict[str, Any]] = [{"params": others}, {"params": biases, "lr": BIAS_RATE}]
    return (
        torch.optim.Muon(matrices, lr=RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(tables, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0),
    )


def main() -> None:
    """The command line: trains on the CPU and prints the mean loss of every hundred steps."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--steps", type=int, nargs=len(RECIPE), default=[stage.steps for stage in RECIPE]
    )
    parser.add_argument("--series", type=int, default=SERIES, help="made-up series to train on")
    options = parser.parse_args()
    losses: list[float] = []

    def show(step: int, value: float, _: ChronosBoltModelForForecasting) -> None:
        losses.append(value)
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: loss {np.mean(losses[-100:]):.4f}", flush=True)

    recipe = [replace(stage, steps=n) for stage, n in zip(RECIPE, options.steps, strict=True)]
    train(options.output, seed=options.seed, recipe=recipe, pool=options.series, report=show)


if __name__ == "__main__":
    main()

"""Export a forecasting model: read its facts, trace, compare with torch, write the artifact."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from tessera_export import artifact, refused
from tessera_export.errors import ExportError, install
from tessera_export.files import Weights, read_table, read_weights
from tessera_export.graph import int8, storage, tracing, transforms
from tessera_export.parity import Metric, figure, measure
from tessera_export.series import bolt, chronos2, ttm
from tessera_onnx.models.spec import UNPINNED, File, ModelSpec, Parity, Precision
from tessera_onnx.models.spec_media import TimeSeries
from tessera_onnx.series import forms, patching

Array = NDArray[Any]
KIND = "time-series"
# By the class that config.json names: a module with recipe, model_class, Core and upstream.
FAMILIES: dict[str, ModuleType] = {family.ARCHITECTURE: family for family in (bolt, chronos2, ttm)}
LIMITS: dict[Precision, dict[Metric, float]] = {
    "fp32": {"max_relative": 1e-4},
    "fp16": {"min_cosine": 0.9999},
    "int8": {"mean_cosine": 0.95},  # a trained model at 0.97 scored as in fp32
}
AXES = {
    "past_values": {0: "batch"},
    "patches": {0: "batch", 1: "patches"},
    "attention_mask": {0: "batch", 1: "patches"},
    "future_patches": {0: "batch", 1: "future"},
    "group_ids": {0: "batch"},
}
# Lengths of the compared series, a batch each: around a patch, ragged, alone. None was traced.
BATCHES = ((1,), (15, 16, 17), (100, 333, 48, 5, 700), (2000, 64))


@dataclass(frozen=True, slots=True)
class Facts:
    """A folder of a forecasting model."""

    folder: Path
    family: ModuleType
    weights: Weights
    recipe: TimeSeries


def read(folder: Path) -> Facts:
    """The facts of a folder of a forecasting model, read without torch's weights.

    Raises ExportError naming the fact that is missing or that no graph can compute.
    """
    refused.check(folder, [KIND])
    config = read_table(folder / "config.json")
    family = next(FAMILIES[name] for name in config["architectures"] if name in FAMILIES)
    place = family.SETTINGS
    within, whole = (f" in {place}", f"{place} in config.json") if place else ("", "config.json")
    try:
        recipe = family.recipe(config[place] if place else config)
    except KeyError as error:
        raise ExportError(f"config.json has no {error.args[0]!r}{within}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ExportError(f"{whole} is malformed: {error}") from error
    return Facts(folder, family, read_weights(folder), recipe)


def load(facts: Facts, attention: str | None) -> Any:
    """Upstream's model in fp32 with its own weights, in eval mode; None = its own attention.

    Raises ExportError when upstream's package is not installed or the weights lack a tensor.
    """
    try:
        cls = facts.family.model_class()
    except ImportError as error:
        raise ExportError(
            f"the export of {facts.family.ARCHITECTURE} needs {facts.family.PACKAGE} ({error}): "
            f"{install(facts.family.EXTRA)}"
        ) from error
    options = {} if attention is None else {"attn_implementation": attention}
    try:
        model = cls.from_pretrained(
            facts.folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            **options,
        )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AssertionError) as error:
        raise ExportError(f"{facts.folder} cannot be loaded: {error}") from error
    # Upstream's class is silent about missing patch embeddings and fills them at random.
    tied = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    missing = sorted({name for name, _ in model.named_parameters()} - set(facts.weights.shapes))
    missing = [name for name in missing if name not in tied]
    if missing:
        raise ExportError(
            f"the weights in {facts.folder} do not fill the tensor {missing[0]!r} "
            f"({len(missing)} in all)"
        )
    return model.eval()


def export(
    facts: Facts,
    output: Path,
    origin: artifact.Origin,
    precisions: Collection[Precision] = artifact.USUAL,
    *,
    int8_exclude: Sequence[str] = (),
    overwrite: bool = False,
) -> ModelSpec:
    """Trace, convert, compare with upstream and write the artifact folder `output`.

    `int8_exclude` are patterns of node names that int8 leaves alone. Raises ExportError, leaving
    `output` as it was, when the graph misses a parity limit, or `output` holds files and
    `overwrite` is false.
    """
    wanted = artifact.ordered(precisions)
    if "int4" in wanted:
        raise ExportError("no forecast was measured in int4: leave it out of --precision")
    names = [artifact.graph_name(precision) for precision in wanted]
    # Before the work of minutes: is this a valid entry, whatever the graphs will measure?
    artifact.document(_entry(facts, origin, wanted, [], [File(n, UNPINNED, 0) for n in names]))
    with artifact.new_folder(output, overwrite=overwrite) as folder:
        traced = trace(facts)
        model = load(facts, None)
        samples = list(_samples(facts.recipe, model, facts.family))
        parity: list[Parity] = []
        for precision, name in zip(wanted, names, strict=True):
            made = traced
            if precision != "fp32":
                half = precision == "fp16"
                made = transforms.half(traced) if half else int8.quantize(traced, (), int8_exclude)
            storage.save(made, folder / name)
            parity += check(folder / name, precision, facts.recipe, samples)
        spec = _entry(facts, origin, wanted, parity, artifact.listed(folder, names))
        (folder / "model.toml").write_text(artifact.document(spec), "utf-8")
    return spec


def trace(facts: Facts) -> onnx.ModelProto:
    """The fp32 graph of the family's core; every batch and patch count is dynamic."""
    core = facts.family.Core(load(facts, "eager"))
    inputs, output = facts.family.INPUTS, facts.recipe.output
    produced = {0: "batch"} | ({2: "steps"} if "future_patches" in inputs else {})
    examples = dict(zip(inputs, core.example(), strict=True))
    axes = {name: AXES[name] for name in inputs} | {output: produced}
    return tracing.trace_legacy(core, examples, [output], axes)


@dataclass(frozen=True, slots=True)
class Sample:
    """A batch of series, NaN before shorter ones, and upstream's scaled quantiles for it."""

    patched: patching.Patches
    feeds: dict[str, Array]
    expected: Array


def check(
    path: Path, precision: Precision, recipe: TimeSeries, samples: Collection[Sample]
) -> list[Parity]:
    """The figures of the ONNX file at `path`. Raises ExportError when a limit is missed."""
    session = storage.session(path)
    pairs = []
    for sample in samples:
        (scaled,) = session.run([recipe.output], sample.feeds)
        ours = forms.unscale(recipe, scaled, sample.patched)
        pairs.append((_rows(ours, sample.patched), sample.expected))
    return [
        figure(precision, recipe.output, metric, measure(metric, pairs), limit)
        for metric, limit in LIMITS[precision].items()
    ]


def _samples(recipe: TimeSeries, model: Any, family: ModuleType) -> Iterator[Sample]:
    rng = np.random.default_rng(0)
    for lengths in BATCHES:
        series = [_series(rng, length) for length in lengths]
        if lengths == (1,):
            # Its scale is 1e-5, of which the float32 steps around 3 are percents.
            series[0][:] = 0
        if len(series) > 3:
            series[0][20:60] = np.nan
            series[1][::3] = np.nan
            series[2][:] = 0  # constant
            series[3][:] = np.nan
        context = forms.pad(recipe, series)[:, -recipe.context_length :]
        patched = forms.make_patches(recipe, context)
        groups = np.arange(len(series)) // 2
        n_patches = min(3, recipe.prediction_length // recipe.output_patch_size)
        with torch.no_grad():
            truth = family.upstream(
                model,
                torch.from_numpy(context.astype(np.float32)),
                n_patches,
                torch.from_numpy(groups),
            )
        known = forms.known_inputs(recipe, patched, n_patches, groups)
        yield Sample(
            patched,
            {name: known[name] for name in family.INPUTS},
            _rows(truth.numpy(), patched),
        )


def _series(rng: np.random.Generator, length: int) -> NDArray[np.float32]:
    """A season, a random walk and noise, of about its own size away from 0."""
    steps = np.arange(length)
    walk = rng.normal(0, 0.2, length).cumsum()
    values = 3 + np.sin(2 * np.pi * steps / 24) + walk + rng.normal(0, 0.1, length)
    return values.astype(np.float32)


def _rows(quantiles: Array, patched: patching.Patches) -> Array:
    """Quantiles in units of the series' own scale, (n, quantiles x steps): no series outweighs."""
    scaled: Array = (quantiles - patched.loc[:, None]) / patched.scale[:, None]
    return scaled.reshape(len(scaled), -1)


def _entry(
    facts: Facts,
    origin: artifact.Origin,
    built: list[Precision],
    parity: list[Parity],
    files: list[File],
) -> ModelSpec:
    return artifact.entry(
        {"time_series": facts.recipe},
        origin,
        weights_sha256=facts.weights.sha256,
        built=built,
        parity=parity,
        files=files,
        best_cpu=("fp32", "int8", "fp16"),  # an int8 forecast is off by percents
    )

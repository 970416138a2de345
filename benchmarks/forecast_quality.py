"""Forecast quality on six public sets, as one table: tessera against what else is installed.

    python benchmarks/forecast_quality.py [--data ../shared/data] [--model ID_OR_FOLDER]
        [--precision P] [--chronos FOLDER] [--run NAME] [--set NAME] [--limit N] [--tails MODEL]

Sets: AirPassengers and milk (24 months), sunspots (48 months), ETTh1 (rows 11520 to 14399, 24 and
96 hours, column OT alone and all seven), exchange rates (last fifth, 30 days), M4 hourly (all 414,
48 hours). ETTh1's windows start every 96 hours; the exchange rates' follow each other without
overlap. Columns are forecast one by one, from all that comes before the window.

WQL: weighted quantile loss, the pinball losses of all points times 2 by the sum of all |y|, mean
over the levels 0.1 to 0.9. MASE: the mean absolute error of the median by the mean
|y_t - y_(t-season)| of the training part, mean over windows. Cover: the share of points inside the
interval from level 0.1 to 0.9, 0.8 is ideal. The last lines are geometric means of WQL and MASE
relative to seasonal naive; the OT rows are part of the seven columns and do not count twice.

Seasonal naive gives its point forecast at every level, as in the papers on these metrics, so its
WQL is its weighted absolute error and it has no coverage. AutoETS (statsforecast) sees the last 14
seasons, at least 336 points: all of its history takes hours. Its quantiles are its prediction
intervals of 20, 40, 60 and 80 %. fracast and Chronos-Bolt run on torch, by their own packages.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import importlib.util
import json
import math
import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tessera_onnx import ForecastWarning, TesseraTimeSeries, list_models
from tessera_onnx.runtime.cpu import cpu_threads

DATA = Path(__file__).parents[2] / "shared" / "data"
LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
WIDE = [0.9, 0.95, 0.98]  # intervals outside of these levels, for --tails
ETT_TRAIN, ETT_TEST, ETT_END = 8640, 11520, 14400  # the standard split; later rows are unused
ETT_STRIDE = 96  # all windows of 24 hours take AutoETS and fracast four times as long
ETS_SEASONS, ETS_POINTS = 14, 336
BATCH = 32


class Window(NamedTuple):
    history: np.ndarray
    future: np.ndarray
    scale: float  # of MASE


class Task(NamedTuple):
    name: str
    season: int
    horizon: int
    windows: list[Window]
    counts: bool = True  # in the geometric means


# (histories, horizon, season) -> (windows, horizon, levels)
Forecaster = Callable[[list[np.ndarray], int, int], np.ndarray]


def seasonal_scale(train: np.ndarray, season: int) -> float:
    """The mean absolute error of the seasonal naive forecast one step ahead in the train part."""
    return float(np.abs(train[season:] - train[:-season]).mean())


def weighted_quantile_loss(future: np.ndarray, quantiles: np.ndarray, levels: list[float]) -> float:
    """Of future (..., h) and quantiles (..., h, levels): all points weigh alike."""
    error = future[..., None] - quantiles
    pinball = np.maximum(np.array(levels) * error, (np.array(levels) - 1) * error)
    totals = 2 * pinball.reshape(-1, len(levels)).sum(axis=0)
    return float((totals / np.abs(future).sum()).mean())


def mase(future: np.ndarray, forecast: np.ndarray, scale: np.ndarray) -> float:
    """Of (n, h) futures and forecasts and the (n,) scales."""
    return float((np.abs(future - forecast).mean(axis=1) / scale).mean())


def coverage(future: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    return float(((low <= future) & (future <= high)).mean())


def columns(path: Path, names: list[str]) -> list[np.ndarray]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [np.array([float(row[name]) for row in rows]) for name in names]


def wide(path: Path) -> dict[str, np.ndarray]:
    """The rows of an M4 file by their ids; short rows are padded with empty cells."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        _, *rows = csv.reader(stream)
    return {row[0]: np.array([float(cell) for cell in row[1:] if cell]) for row in rows}


def rolling(
    values: np.ndarray, train: int, start: int, horizon: int, season: int, *, stride: int = 0
) -> Iterator[Window]:
    """Windows every `stride` points from `start` on; 0: every horizon."""
    scale = seasonal_scale(values[:train], season)
    for at in range(start, len(values) - horizon + 1, stride or horizon):
        yield Window(values[:at], values[at : at + horizon], scale)


def tasks(data: Path) -> Iterator[Task]:
    folder = data / "timeseries"
    for entry in json.loads((folder / "series.json").read_text(encoding="utf-8")):
        name, season, horizon = entry["name"], entry["season"], entry["horizon"]
        path = folder / entry["file"]
        if name == "m4_hourly":
            rests = wide(folder / entry["test_file"])
            windows = [
                Window(history, rests[key], seasonal_scale(history, season))
                for key, history in wide(path).items()
            ]
            yield Task(name, season, horizon, windows)
            continue
        series = columns(path, entry["values"])
        if name == "ETTh1":
            for steps in (24, 96):
                parts = [
                    list(
                        rolling(
                            values[:ETT_END], ETT_TRAIN, ETT_TEST, steps, season, stride=ETT_STRIDE
                        )
                    )
                    for values in series
                ]
                alone = parts[entry["values"].index("OT")]
                yield Task(f"{name} OT {steps}", season, steps, alone, counts=False)
                yield Task(f"{name} {steps}", season, steps, [w for part in parts for w in part])
        elif name == "exchange_rate":
            n = len(series[0])
            parts = [
                list(rolling(values, n * 7 // 10, n * 8 // 10, horizon, season))
                for values in series
            ]
            yield Task(name, season, horizon, [w for part in parts for w in part])
        else:
            (values,) = series
            start = len(values) - horizon
            yield Task(name, season, horizon, list(rolling(values, start, start, horizon, season)))


def seasonal_naive(histories: list[np.ndarray], horizon: int, season: int) -> np.ndarray:
    points = np.stack([history[-season:][np.arange(horizon) % season] for history in histories])
    return np.repeat(points[:, :, None], len(LEVELS), axis=2)


def one_ets(history: np.ndarray, horizon: int, season: int) -> np.ndarray:
    from statsforecast.models import AutoETS

    found = AutoETS(season_length=season).forecast(y=history, h=horizon, level=[20, 40, 60, 80])
    low = [found[f"lo-{width}"] for width in (80, 60, 40, 20)]
    high = [found[f"hi-{width}"] for width in (20, 40, 60, 80)]
    return np.stack([*low, found["mean"], *high], axis=1)


def auto_ets(histories: list[np.ndarray], horizon: int, season: int) -> np.ndarray:
    kept = [history[-max(ETS_SEASONS * season, ETS_POINTS) :] for history in histories]
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with torch in it may hang
    with ProcessPoolExecutor(min(len(kept), cpu_threads()), spawn) as pool:
        return np.stack(list(pool.map(one_ets, kept, repeat(horizon), repeat(season), chunksize=8)))


def fracast() -> Forecaster:
    from fracast import FracastModel

    model = FracastModel.from_pretrained(weights="fp32")
    if model.quantiles != LEVELS:
        raise SystemExit(f"fracast has other levels now: {model.quantiles}")

    def forecast(histories: list[np.ndarray], horizon: int, _: int) -> np.ndarray:
        rows = np.full((len(histories), model.context_length), np.nan, np.float32)
        for row, history in zip(rows, histories, strict=True):
            kept = history[-len(row) :]
            row[len(row) - len(kept) :] = kept
        parts = range(0, len(rows), BATCH)
        return np.concatenate(
            [model.forecast_batch(rows[i : i + BATCH], horizon=horizon) for i in parts]
        )

    return forecast


def chronos(folder: Path) -> Forecaster:
    import torch
    from chronos import ChronosBoltPipeline

    pipeline = ChronosBoltPipeline.from_pretrained(str(folder))

    def forecast(histories: list[np.ndarray], horizon: int, _: int) -> np.ndarray:
        rows = [torch.tensor(history, dtype=torch.float32) for history in histories]
        parts = range(0, len(rows), BATCH)
        found = [
            pipeline.predict_quantiles(
                rows[i : i + BATCH], prediction_length=horizon, quantile_levels=LEVELS
            )[0]
            for i in parts
        ]
        return torch.cat(found).numpy()

    return forecast


def tessera(target: str, precision: str | None) -> tuple[str, Forecaster]:
    where = "path" if Path(target).is_dir() else "model_id"
    model = TesseraTimeSeries(**{where: target}, precision=precision)
    return (
        f"{model.model()} {model.precision}",
        lambda histories, horizon, _: model.forecast_quantiles(histories, horizon, LEVELS),
    )


def evaluate(task: Task, forecaster: Forecaster) -> tuple[float, float, float]:
    """WQL, MASE and coverage of the 80 % interval."""
    found = forecaster([window.history for window in task.windows], task.horizon, task.season)
    future = np.stack([window.future for window in task.windows])
    if found.shape != (*future.shape, len(LEVELS)) or not np.isfinite(found).all():
        raise SystemExit(f"{task.name}: not a forecast: shape {found.shape}, or not finite")
    scale = np.array([window.scale for window in task.windows])
    return (
        weighted_quantile_loss(future, found, LEVELS),
        mase(future, found[:, :, LEVELS.index(0.5)], scale),
        coverage(future, found[:, :, 0], found[:, :, -1]),
    )


def report_tails(chosen: list[Task], target: str) -> None:
    """Coverage of intervals wider than the trained levels, held and with exponential tails."""
    model = TesseraTimeSeries(**{"path" if Path(target).is_dir() else "model_id": target})
    warnings.simplefilter("ignore", ForecastWarning)
    print(f"{'set':18} {'windows':>7} " + " ".join(f"{w:.2f} held tails" for w in WIDE))
    for task in chosen:
        future = np.stack([window.future for window in task.windows])
        histories = [window.history for window in task.windows]
        shown = []
        for width in WIDE:
            levels = [(1 - width) / 2, (1 + width) / 2]
            for how in (None, "tails"):
                found = model.forecast_quantiles(histories, task.horizon, levels, extrapolate=how)
                shown.append(f"{coverage(future, found[..., 0], found[..., 1]):.3f}")
        print(f"{task.name:18} {len(task.windows):7}      " + "      ".join(shown), flush=True)


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def forecasters(options: argparse.Namespace) -> dict[str, Forecaster]:
    """Seasonal naive first, then those that are installed; says which are not."""
    makers: dict[str, Callable[[], tuple[str, Forecaster]]] = {
        "naive": lambda: ("seasonal naive", seasonal_naive),
        "ets": lambda: ("AutoETS", auto_ets),
        "fracast": lambda: ("fracast fp32", fracast()),
    }
    needs = {"ets": "statsforecast", "fracast": "fracast"}
    for i, folder in enumerate(options.chronos):
        makers[f"chronos{i}"] = lambda at=folder: (f"chronos torch {at.name}", chronos(at))
        needs[f"chronos{i}"] = "chronos"
    targets = options.model or list_models("time-series", installed=True)
    if not targets:
        print("left out: tessera, no time-series model is installed, see --model")
    for i, target in enumerate(targets):
        makers[f"tessera{i}"] = lambda at=target: tessera(at, options.precision)
    found = {}
    for key, maker in makers.items():
        if options.run and key != "naive" and key.rstrip("0123456789") not in options.run:
            continue
        if key in needs and importlib.util.find_spec(needs[key]) is None:
            print(f"left out: {key}, the package {needs[key]} is not installed")
            continue
        name, forecaster = maker()
        found[name] = forecaster
    return found


def report(chosen: list[Task], running: dict[str, Forecaster]) -> None:
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
    width = max(map(len, running))
    head = f"{'windows':>7} {'WQL':>7} {'MASE':>7} {'cover':>6} {'s':>6}"
    print(f"{'set':18} {'forecaster':{width}} {head}")
    for task in chosen:
        for name, forecaster in running.items():
            start = time.perf_counter()
            wql, error, cover = evaluate(task, forecaster)
            seconds = time.perf_counter() - start
            if task.counts:
                scores[name].append((wql, error))
            shown = "-" if forecaster is seasonal_naive else f"{cover:.3f}"
            print(
                f"{task.name:18} {name:{width}} {len(task.windows):7} {wql:7.4f} {error:7.3f} "
                f"{shown:>6} {seconds:6.1f}",
                flush=True,
            )
    base = np.array(scores["seasonal naive"])
    for name, values in scores.items():
        if values:
            wql, error = (geometric_mean(list(c)) for c in (np.array(values) / base).T)
            print(f"{'geometric mean':18} {name:{width}} {len(values):7} {wql:7.4f} {error:7.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument(
        "--model", action="append", help="id or folder for tessera; default: all installed"
    )
    parser.add_argument("--precision")
    parser.add_argument(
        "--chronos", type=Path, action="append", default=[], help="a Chronos-Bolt torch folder"
    )
    parser.add_argument(
        "--run", action="append", choices=["ets", "fracast", "chronos", "tessera"], help="only it"
    )
    parser.add_argument("--set", dest="sets", action="append", help="only it; default: all")
    parser.add_argument("--limit", type=int, help="the first windows of each set alone")
    parser.add_argument(
        "--tails", metavar="MODEL", help="coverage of intervals wider than its trained levels"
    )
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.exit(1, f"{options.data} is not there: nothing to measure\n")
    chosen = [
        task._replace(windows=task.windows[: options.limit])
        for task in tasks(options.data)
        if not options.sets or task.name in options.sets
    ]
    if not chosen:
        parser.exit(1, f"sets: {', '.join(task.name for task in tasks(options.data))}\n")
    if options.tails:
        report_tails(chosen, options.tails)
    else:
        report(chosen, forecasters(options))


if __name__ == "__main__":
    main()

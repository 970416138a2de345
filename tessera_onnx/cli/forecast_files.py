"""Write forecasts as .csv and .jsonl files, and draw them as charts."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.cli.csv_series import Table
from tessera_onnx.cli.output import STDOUT
from tessera_onnx.cli.vector_files import opened
from tessera_onnx.errors import ConfigError, install_hint
from tessera_onnx.files import replacing
from tessera_onnx.series.inputs import check_horizon, outside

SUFFIXES = (".csv", ".jsonl")
CHARTS = (".png", ".svg", ".pdf")
MOST_CHARTS = 12
FORECAST = "forecast"
OUTSIDE = "outside_trained"


class Forecast(NamedTuple):
    """The forecast of one series: (horizon,) medians and (horizon, levels) quantiles.

    The medians of a model without quantiles are the one value a step that it gives.
    """

    id: str | None
    target: str
    history: NDArray[np.float64]
    times: list[Any]
    median: NDArray[Any]
    quantiles: NDArray[Any]
    outside: list[float]  # levels outside the trained ones

    def title(self) -> str:
        """The name of the series, for people."""
        return self.target if self.id is None else f"{self.id} {self.target}"


def of(
    table: Table,
    model: Any,
    horizon: int | None,
    levels: Sequence[float],
    extrapolate: str | None = None,
) -> list[Forecast]:
    """Forecast all series of a table, without quantiles where there are no levels.

    Raises what the model's forecast_quantiles raises.
    """
    steps = check_horizon(horizon, model.prediction_length())
    if table.clock is None:
        ahead: list[list[Any]] = [list(range(1, steps + 1))] * len(table.series)
    else:
        ahead = table.clock.following(steps)
    histories = [series.values for series in table.series]
    if levels:
        values = model.forecast_quantiles(histories, steps, [*levels, 0.5], extrapolate=extrapolate)
    else:
        values = model.forecast(histories, steps)[..., None]
    beyond = outside(levels, model.quantiles())
    return [
        Forecast(s.id, s.target, s.values, ahead[s.group], found[:, -1], found[:, :-1], beyond)
        for s, found in zip(table.series, values, strict=True)
    ]


def check(output: str | None, plot: str | None) -> None:
    """Raises ConfigError for a file of another suffix, and for a chart without matplotlib."""
    if output not in {None, STDOUT} and Path(str(output)).suffix not in SUFFIXES:
        raise ConfigError(f"the output file must end in {' or '.join(SUFFIXES)}, or be {STDOUT}")
    if plot is not None:
        if Path(plot).suffix not in CHARTS:
            raise ConfigError(f"the chart must end in {', '.join(CHARTS)}")
        _figure()


def header(table: Table, levels: Sequence[float]) -> list[str]:
    """Names of the columns of a .csv file, with "target" where the table has several targets.

    `as_csv` adds a column "outside_trained" where levels lie outside the trained ones.
    Raises ConfigError where a column of the table has the name of another column.
    """
    ids = [] if table.id is None else [table.id]
    targets = ["target"] if _several(table) else []
    names = [*ids, *targets, time_name(table), FORECAST, *_names(levels)]
    twice = next((name for name in names if [*names, OUTSIDE].count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"the output would have two columns {twice!r}: rename the column of the input, or "
            "write a .jsonl file"
        )
    return names


def time_name(table: Table) -> str:
    """The name of the column of times."""
    return "step" if table.timestamp is None else table.timestamp or "timestamp"


def objects(found: Sequence[Forecast], levels: Sequence[float]) -> Iterator[dict[str, Any]]:
    """One JSON object a series; unknown values are null."""
    for forecast in found:
        columns = zip(_names(levels), forecast.quantiles.T, strict=True)
        marked = {OUTSIDE: forecast.outside} if forecast.outside else {}
        yield {
            "id": forecast.id,
            "target": forecast.target,
            "times": forecast.times,
            FORECAST: _plain(forecast.median),
            "quantiles": {name: _plain(values) for name, values in columns},
            **marked,
        }


def write(path: Path, table: Table, found: Sequence[Forecast], levels: Sequence[float]) -> None:
    """Write a .csv file with a row a step, or a .jsonl file with an object a series.

    The file is written whole or not at all. "-" is stdout, which gets CSV. Raises FileError.
    """
    with opened(path) as stream:
        if path.suffix == ".jsonl":
            lines = (json.dumps(item) for item in objects(found, levels))
            stream.writelines(line.encode() + b"\n" for line in lines)
            return
        stream.write(as_csv(table, found, levels).encode())


def as_csv(table: Table, found: Sequence[Forecast], levels: Sequence[float]) -> str:
    """A row a step. Unknown values are empty cells; a last column may mark levels (`header`)."""
    beyond = [",".join(_names(found[0].outside))] if found[0].outside else []
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header(table, levels), *([OUTSIDE] if beyond else [])])
    for forecast in found:
        ids = [] if table.id is None else [forecast.id]
        targets = [forecast.target] if _several(table) else []
        for time, median, row in zip(
            forecast.times, _plain(forecast.median), forecast.quantiles, strict=True
        ):
            writer.writerow([*ids, *targets, time, median, *_plain(row), *beyond])
    return text.getvalue()


def draw(
    path: Path, found: Sequence[Forecast], titles: Sequence[str], levels: Sequence[float]
) -> int:
    """Draw a chart a series, at most MOST_CHARTS, below each other in one image; count them.

    A chart shows the last values, up to four horizons of them, then the median, and bands from the
    lowest level to the highest, from the second lowest to the second highest, and so on.
    Raises ConfigError without matplotlib, FileError.
    """
    shown = list(zip(found, titles, strict=True))[:MOST_CHARTS]
    figure = _figure()(figsize=(9, 2.6 * len(shown)), layout="constrained")
    places = figure.subplots(len(shown), squeeze=False)[:, 0]
    for axes, (forecast, title) in zip(places, shown, strict=True):
        horizon = len(forecast.median)
        past = forecast.history[-max(4 * horizon, 48) :]
        ahead = np.arange(horizon)
        axes.plot(np.arange(-len(past), 0), past, color="black", linewidth=1)
        ordered = np.argsort(levels)
        for low, high in zip(ordered, ordered[::-1], strict=True):
            if levels[low] < 0.5 < levels[high]:
                band = forecast.quantiles[:, low], forecast.quantiles[:, high]
                label = f"{levels[low]:g} to {levels[high]:g}"
                if {levels[low], levels[high]} & set(forecast.outside):
                    label += " (outside the trained levels)"
                axes.fill_between(
                    ahead, *band, color="tab:blue", alpha=0.2, linewidth=0, label=label
                )
        label = "median" if len(levels) else FORECAST
        axes.plot(ahead, forecast.median, color="tab:blue", linewidth=1.5, label=label)
        axes.legend(loc="upper left", fontsize="small")
        axes.set_title(title, fontsize="medium", loc="left", parse_math=False)
        axes.set_xlabel(f"steps from {forecast.times[0]}")
    with replacing(path) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about characters that a font lacks
        figure.savefig(stream, format=path.suffix[1:])
    return len(shown)


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(f"a chart needs matplotlib: {install_hint('plot')}") from error
    except Exception as error:  # matplotlib refuses a setting of the user, such as MPLBACKEND
        raise ConfigError(
            f"matplotlib cannot be used, its import fails with {type(error).__name__}: see its "
            "settings, MPLBACKEND and matplotlibrc"
        ) from None
    return Figure


def _several(table: Table) -> bool:
    return len({series.target for series in table.series}) > 1


def _names(levels: Sequence[float]) -> list[str]:
    return [f"{level:g}" for level in levels]


def _plain(values: NDArray[Any]) -> list[float | None]:
    """Floats with as many digits as give the same float again, nine for float32; NaN is None."""
    digits = 9 if values.dtype == np.float32 else 17
    return [None if value != value else float(f"{value:.{digits}g}") for value in values.tolist()]  # noqa: PLR0124

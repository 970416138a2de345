"""`tessera forecast`: read series from a CSV file, forecast them, write quantiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from tessera_onnx.cli import csv_series, forecast_files, vector_files
from tessera_onnx.cli.forecast_files import Forecast
from tessera_onnx.cli.options import (
    AT_LEAST_1,
    CACHE,
    DEVICE,
    FILE,
    JSON,
    MODEL,
    PRECISION,
    SERVER,
    THREADS,
    open_as,
)
from tessera_onnx.cli.output import (
    SPARKS,
    STDOUT,
    one_line,
    print_json,
    print_lines,
    say,
    shown_place,
    sparkline,
    table,
)
from tessera_onnx.series import numbers

LEVELS = [0.1, 0.5, 0.9]


def _levels(_: click.Context, __: click.Parameter, text: str | None) -> list[float] | None:
    """The numbers of a list with commas. The model checks that they are levels."""
    if text is None:
        return None
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter("expected numbers between commas, such as 0.1,0.5,0.9") from None
    if len({f"{level:g}" for level in levels}) < len(levels):  # as columns and keys are named
        raise click.BadParameter("a level comes twice")
    return levels


def _wanted(model: Any, levels: list[float] | None, extrapolate: str | None) -> list[float]:
    """The levels asked for, else LEVELS; none for a model that has no quantiles."""
    if levels is None:
        levels = LEVELS if model.quantiles() or extrapolate is not None else []
    return levels


@click.command(short_help="Forecast the series of a CSV file: quantiles of each step.")
@click.argument("source", metavar="FILE.csv")
@click.option(
    "--horizon", type=AT_LEAST_1, help="Steps ahead. Default: those of one pass of the model."
)
@click.option(
    "--levels",
    callback=_levels,
    help="Levels of the quantiles. Default: 0.1,0.5,0.9, and none for a model that forecasts one "
    "value a step. Outside the levels that the model was trained for (`tessera "
    "info`), its outermost quantiles are used, with a warning and a field or column "
    "outside_trained.",
)
@click.option(
    "--extrapolate",
    type=click.Choice(["tails"]),
    help="Estimate levels outside the trained ones from the outermost two.",
)
@click.option("--target", metavar="COL", help="Column of values. Default: every column of numbers.")
@click.option(
    "--timestamp", metavar="COL", help="Column of times. Default: the first column of times."
)
@click.option("--id", metavar="COL", help="Column whose values tell series apart.")
@click.option(
    "--one-series",
    is_flag=True,
    help="The file holds one series, also where a column of texts repeats its values.",
)
@click.option(
    "--decimal",
    type=click.Choice([".", ","]),
    help="Decimal mark. Default: the mark that the cells have.",
)
@click.option("-o", "--output", metavar="OUT", help="File to write: .csv or .jsonl; - writes CSV.")
@click.option("--plot", metavar="IMAGE", help="Chart to write: .png, .svg or .pdf.")
@MODEL
@FILE
@PRECISION
@DEVICE
@THREADS
@CACHE
@SERVER
@JSON
def forecast(
    *,
    source: str,
    horizon: int | None,
    levels: list[float] | None,
    extrapolate: str | None,
    output: str | None,
    plot: str | None,
    model: str | None,
    cache_dir: str | None,
    server: str | None,
    as_json: bool,
    target: str | None,
    timestamp: str | None,
    id: str | None,  # noqa: A002 (the option's name)
    one_series: bool,
    decimal: numbers.Mark | None,
    **options: Any,
) -> None:
    """Forecast the series of a CSV file: the quantiles of each step ahead, or one value a step.

    FILE.csv, or FILE.csv.gz, has the names of the columns in its first line and one row a step; -
    is stdin. Every column of numbers is a series. With --id the rows of each of its values are a
    series. Rows are sorted by time; without a column of times the last row must be the latest.
    Empty cells, NA and - are missing values; a series without any value has no forecast. OUT and
    IMAGE are written whole or not at all.

    Times are written as 2024-12-31, 2024-12, 31.12.2024, 12/31/2024, 202412, 2024Q4 or Dec 2024,
    with a year of four digits. The forecast continues them in the same form.

    \b
    Example: tessera forecast sales.csv --horizon 12 --timestamp month --output next.csv
    """
    forecast_files.check(output, plot)
    if source and output and vector_files.is_same(source, output):
        raise click.UsageError("--output is FILE.csv itself")
    data = csv_series.read_csv(
        source,
        target=target,
        timestamp=timestamp,
        id=id,
        decimal=decimal,
        one_series=one_series,
    )
    for warning in data.warnings:
        click.echo(f"Warning: {warning}", err=True)
    if output is not None and not output.endswith(".jsonl"):
        forecast_files.header(data, levels or LEVELS)
    with open_as("time-series", model, cache_dir, server, **options) as opened:
        levels = _wanted(opened, levels, extrapolate)
        found = forecast_files.of(data, opened, horizon, levels, extrapolate)
    if output is not None:
        forecast_files.write(Path(output), data, found, levels)
    if plot is not None:
        titles = [one_line(series.title()) for series in found]
        shown = forecast_files.draw(Path(plot), found, titles, levels)
        if shown < len(found):
            click.echo(f"Warning: the first {shown} of {len(found)} series are drawn", err=True)
    if as_json:
        facts = {"model": opened.model(), "horizon": len(found[0].median), "levels": levels}
        if found[0].outside:
            facts[forecast_files.OUTSIDE] = found[0].outside
        series = len(found) if output is not None else list(forecast_files.objects(found, levels))
        report = {**facts, "output": output, "plot": plot, "series": series}
        print_json(report, err=output == STDOUT)
    elif output is None:
        print_lines(_lines(found, levels, forecast_files.time_name(data)))
    else:
        steps = len(found[0].median)
        tell = say if output == STDOUT else click.echo
        tell(f"{len(found)} series, {steps} steps each, in {shown_place(output)}")


def _lines(found: Iterable[Forecast], levels: Sequence[float], time: str) -> Iterator[str]:
    """Each series as a small chart of its past and its median, and its steps as a table."""
    for series in found:
        past = series.history[-SPARKS:]
        line = sparkline(np.concatenate([past, series.median[:SPARKS]]))
        yield f"{one_line(series.title())}: {len(series.history)} values"
        yield f"{line[: len(past)]}│{line[len(past) :]}"
        shown = series.quantiles if levels else series.median[:, None]
        rows = zip(series.times, shown, strict=True)
        digits = 6 if shown.dtype == np.float32 else 15
        names = [f"{v:g}{' (outside the trained)' if v in series.outside else ''}" for v in levels]
        yield from table(
            [
                [time, *(names or [forecast_files.FORECAST])],
                *([str(at), *(f"{value:.{digits}g}" for value in row)] for at, row in rows),
            ]
        )
        yield ""

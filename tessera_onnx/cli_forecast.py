"""`tessera forecast`: series of a CSV file in, quantiles of the next steps out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tessera_onnx import csv_series, forecasts, layout, writing
from tessera_onnx.cli_options import (
    AT_LEAST_1,
    CACHE,
    DEVICE,
    JSON,
    MODEL,
    PRECISION,
    THREADS,
    ProgramCommand,
    location,
    print_json,
    print_lines,
    say,
    shown_place,
)
from tessera_onnx.timeseries import TesseraTimeSeries


def _levels(_: click.Context, __: click.Parameter, text: str) -> list[float]:
    """The numbers of a list with commas; the model checks that they are levels."""
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter("expected numbers between commas, such as 0.1,0.5,0.9") from None
    if len({f"{level:g}" for level in levels}) < len(levels):  # as columns and keys are named
        raise click.BadParameter("a level comes twice")
    return levels


@click.command(
    cls=ProgramCommand, short_help="Forecast the series of a CSV file: quantiles of each step."
)
@click.argument("source", metavar="FILE.csv")
@click.option("--horizon", type=AT_LEAST_1, help="Steps ahead, else as many as the model's pass.")
@click.option("--levels", callback=_levels, default="0.1,0.5,0.9", show_default=True)
@click.option("--target", metavar="COL", help="Column of values, else every column of numbers.")
@click.option("--timestamp", metavar="COL", help="Column of times, else the first of dates.")
@click.option("--id", metavar="COL", help="Column that tells series apart.")
@click.option("-o", "--output", metavar="OUT", help="File to write: .csv or .jsonl; - writes CSV.")
@click.option("--plot", metavar="IMAGE", help="Chart to write: .png, .svg or .pdf.")
@MODEL
@PRECISION
@DEVICE
@THREADS
@CACHE
@JSON
def forecast(
    *,
    source: str,
    horizon: int | None,
    levels: list[float],
    output: str | None,
    plot: str | None,
    model: str | None,
    cache_dir: str | None,
    as_json: bool,
    target: str | None,
    timestamp: str | None,
    id: str | None,  # noqa: A002 (the option's name)
    **options: Any,
) -> None:
    """Forecast the series of a CSV file: the quantiles of each step ahead.

    FILE.csv has the column names in its first line and a row a step, the latest last; - is stdin.
    Every column of numbers is a series of its own, and with --id every value of that column starts
    one. Empty cells are gaps. OUT and IMAGE are written whole or not at all.

    \b
    Example: tessera forecast sales.csv --horizon 12 --timestamp month --output next.csv
    """
    forecasts.check(output, plot)
    if source and output and writing.is_same(source, output):
        raise click.UsageError("--output is FILE.csv itself")
    table = csv_series.read(source, target=target, timestamp=timestamp, id=id)
    for warning in table.warnings:
        click.echo(f"Warning: {warning}", err=True)
    if output == writing.STDOUT or str(output).endswith(".csv"):
        forecasts.header(table, levels)
    with TesseraTimeSeries(**location(model, cache_dir), **options) as opened:
        found = forecasts.of(table, opened, horizon, levels)
    if output is not None:
        forecasts.write(Path(output), table, found, levels)
    if plot is not None:
        titles = [layout.one_line(series.title()) for series in found]
        shown = forecasts.draw(Path(plot), found, titles, levels)
        if shown < len(found):
            click.echo(f"Warning: the first {shown} of {len(found)} series are drawn", err=True)
    if as_json:
        facts = {"model": opened.model(), "horizon": len(found[0].median), "levels": levels}
        series = len(found) if output is not None else list(forecasts.objects(found, levels))
        report = {**facts, "output": output, "plot": plot, "series": series}
        print_json(report, err=output == writing.STDOUT)
    elif output is None:
        print_lines(layout.forecast(found, levels, table.timestamp or "step"))
    else:
        steps = len(found[0].median)
        tell = say if output == writing.STDOUT else click.echo
        tell(f"{len(found)} series, {steps} steps each, in {shown_place(output)}")

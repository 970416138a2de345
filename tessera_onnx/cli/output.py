"""Print results: tables, lines and JSON on stdout, notes on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from tessera_onnx.progress import Stderr

STDOUT = "-"  # what --output calls it
SPARKS = 48  # values of the past, and steps ahead, in a line
# Arguments of the library that are options of the command.
OPTIONS = {
    "path": "--model",
    "file": "--model-file",
    "pooling": "--pooling",
    "device": "--device",
    "precision": "--precision",
    "on_long": "--on-long",
    "threads": "--threads",
    "dimension": "--dimension",
    "max_length": "--max-length",
    "extrapolate": "--extrapolate",
    "password": "--password",
    "pages": "--pages",
    "page": "--page",
}
METHODS = {
    "encode_pages reads all of them": "`tessera encode` and `tessera rank` read all of a TIFF",
    "read with encode_pages": "read by `tessera encode`, `rank` and `explain`",
}


def print_json(value: Any, *, err: bool = False) -> None:
    """Print one line of JSON, with `err` on stderr."""
    (say if err else click.echo)(json.dumps(value))


def print_lines(lines: Iterable[str]) -> None:
    """Print each line as it comes."""
    for line in lines:
        click.echo(line)


def say(message: str) -> None:
    """Print a line on stderr. Where stderr is closed, the line is lost and the work goes on."""
    Stderr().write(f"{message}\n")
    Stderr().flush()


def shown_place(output: str) -> str:
    """The name of an output in a report."""
    return "stdout" if output == STDOUT else click.format_filename(output)


def as_options(message: str) -> str:
    """The library's advice in the words of the command: `path=DIR` becomes `--model=DIR`."""
    for method, command in METHODS.items():
        message = message.replace(method, command)
    for argument, option in OPTIONS.items():
        message = message.replace(f"`{argument}=`", f"`{option}`")
        for before in (" ", "`"):
            message = message.replace(f"{before}{argument}=", f"{before}{option}=")
    return message


def table(rows: Iterable[Sequence[str]], indent: str = "") -> Iterator[str]:
    """Rows as lines with aligned columns."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"{indent}{'  '.join(cells)}".rstrip()


def printable(text: str) -> str:
    """A text without control characters, which could steer the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def one_line(text: str, width: int = 72) -> str:
    """A text as one short printable line."""
    line = printable(" ".join(text[: 8 * width].split()))
    return line if len(line) <= width else line[: width - 1] + "…"


def vector(facts: dict[str, Any]) -> Iterator[str]:
    """The facts of one vector, and of its arrays the shape and the first and last values."""
    for name, value in facts.items():
        if isinstance(value, list):
            array = np.array(value)
            shown = np.array2string(array, precision=4, threshold=16, separator=", ")
            yield f"{name} {array.shape}\n{shown}"
        else:
            yield f"{name}: {value}"


def sparkline(values: NDArray[np.float64]) -> str:
    """A chart of one character a value, low to high; a missing value is a space."""
    marks = "▁▂▃▄▅▆▇█"
    known = np.isfinite(values)
    if not known.any():
        return " " * len(values)
    low, high = values[known].min(), values[known].max()
    places = np.where(known, values - low, 0) / (high - low or 1) * (len(marks) - 1)
    heights = zip(np.rint(places).astype(int).tolist(), known.tolist(), strict=True)
    return "".join(marks[height] if shown else " " for height, shown in heights)

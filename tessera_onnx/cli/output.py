"""What the command found, as lines of plain text for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.cli.forecast_files import Forecast
from tessera_onnx.models.spec import Kind

SPARKS = 48  # values of the past, and steps ahead, in a line


def table(rows: Iterable[Sequence[str]], indent: str = "") -> Iterator[str]:
    """Rows with their columns aligned."""
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


def as_options(message: str) -> str:
    """The library's advice in the words of the command line: path=DIR becomes --model DIR."""

    def option(match: re.Match[str]) -> str:
        name = "model" if match[1] == "path" else match[1].replace("_", "-")
        return f"--{name} {match[2]}".rstrip()

    names = "path|device|precision|on_long|threads|dimension|max_length|extrapolate"
    names += "|password|pages|page"
    message = message.replace(
        "encode_pages reads all of them", "`tessera encode` and `tessera rank` read all of a TIFF"
    ).replace("read with encode_pages", "read by `tessera encode`, `rank` and `explain`")
    return re.sub(rf"(?<=[\s`])({names})=[\"']?([\w:-]*)[\"']?", option, message)


def models(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The table of reports.summary rows."""
    cells = (
        [", ".join(map(str, value)) if isinstance(value, list) else value for value in row.values()]
        for row in rows
    )
    return table([["ID", "KINDS", "DIMENSION", "MAX LENGTH", "LICENCE", "WHERE"], *cells])


def vector(facts: dict[str, Any]) -> Iterator[str]:
    """One text's vector: what it is, its shape, its first and last values."""
    for name, value in facts.items():
        if isinstance(value, list):
            array = np.array(value)
            shown = np.array2string(array, precision=4, threshold=16, separator=", ")
            yield f"{name} {array.shape}\n{shown}"
        else:
            yield f"{name}: {value}"


def demo(kind: Kind, shown: dict[str, Any]) -> Iterator[str]:
    """What reports.demo found."""
    if kind == "time-series":
        yield f"{kind}, {shown['model']}: the next year of a series, at three levels"
        by_level = np.array(shown["forecast"]).T
        past = shown["series"][-48:]
        line = sparkline(np.concatenate([past, by_level[1]]))
        yield f"  {line[:48]}│{line[48:]}"
        levels = zip(shown["levels"], by_level, strict=True)
        yield from table(
            ([f"{level}", *(f"{value:.1f}" for value in row[::2])] for level, row in levels), "  "
        )
        return
    scores = {"dense": "cosine", "multi-vector": "MaxSim", "vision": "MaxSim"}
    what = "pictures of texts" if kind == "vision" else "documents"
    yield f"{kind}, {shown['model']}: {what} by {scores.get(kind, 'dot product')}"
    yield f"  {shown['query']}"
    yield from table(
        ((f"{item['score']:.3f}", item["document"]) for item in shown["ranking"]), "  "
    )
    if kind == "multi-vector":
        yield "  each query token, and the token of the first document that answers it best"
        matches = [tuple(match.values()) for match in shown["matches"]]
        yield from table(((query, best, f"{score:.3f}") for query, best, score in matches), "  ")
    if kind == "sparse":
        start = shown["text"].split(" to ")[0]
        yield f"  heaviest terms of a text, + marks those it lacks: {start} ..."
        terms = [
            f"{term['weight']:.3f} {term['token']}{'' if term['in_text'] else ' +'}"
            for term in shown["terms"]
        ]
        yield from table(zip_longest(terms[0::3], terms[1::3], terms[2::3], fillvalue=""), "  ")
    yield ""


def forecast(found: Iterable[Forecast], levels: Sequence[float], time: str) -> Iterator[str]:
    """Each series in small, past and median, and its steps as a table."""
    for series in found:
        past = series.history[-SPARKS:]
        line = sparkline(np.concatenate([past, series.median[:SPARKS]]))
        yield f"{one_line(series.title())}: {len(series.history)} values"
        yield f"{line[: len(past)]}│{line[len(past) :]}"
        rows = zip(series.times, series.quantiles, strict=True)
        digits = 6 if series.quantiles.dtype == np.float32 else 15
        names = [f"{v:g}{' (outside the trained)' if v in series.outside else ''}" for v in levels]
        yield from table(
            [
                [time, *names],
                *([str(at), *(f"{value:.{digits}g}" for value in row)] for at, row in rows),
            ]
        )
        yield ""


def sparkline(values: NDArray[np.float64]) -> str:
    """A character a value, low to high; a space where it is missing."""
    marks = "▁▂▃▄▅▆▇█"
    known = np.isfinite(values)
    if not known.any():
        return " " * len(values)
    low, high = values[known].min(), values[known].max()
    places = np.where(known, values - low, 0) / (high - low or 1) * (len(marks) - 1)
    heights = zip(np.rint(places).astype(int).tolist(), known.tolist(), strict=True)
    return "".join(marks[height] if shown else " " for height, shown in heights)


def doctor(report: dict[str, Any]) -> Iterator[str]:
    """What reports.doctor found."""
    sources = [
        f"{name.replace('cgroup_', 'cgroup ')} {value or 'none'}"
        for name, value in report["threads_from"].items()
    ]
    yield from table(
        [
            ("python", report["python"]),
            *report["packages"].items(),
            ("packs", ", ".join(map(" ".join, report["packs"].items())) or "none"),
            ("providers", ", ".join(report["providers"]) or "none"),
            ("telemetry", report["telemetry"]),
            ("threads", f"{report['threads']} ({', '.join(sources)})"),
            ("processor", report["processor"]),
        ]
    )
    for model in report["models"]:
        note = "; int8 saturates on x86 without VNNI" if model["saturating"] else ""
        yield f"\n{model['id']} ({model['where']}): files {model['files']}{note}"
        names = ("kind", "device", "precision", "result")
        yield from table(([probe[name] for name in names] for probe in model["probes"]), "  ")
    yield ""
    yield from (f"Problem: {problem}" for problem in report["problems"])
    if not report["problems"]:
        yield "Everything works." if report["models"] else "No model is installed."

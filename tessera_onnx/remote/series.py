"""Forecast series at a server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from tessera_onnx.errors import EncodingError, TesseraError
from tessera_onnx.remote.base import RemoteModel
from tessera_onnx.runtime.workers import Event, Limit
from tessera_onnx.series.inputs import (
    Context,
    Float,
    Labels,
    check_extrapolate,
    check_horizon,
    group_numbers,
    read_series,
    tell,
)
from tessera_onnx.series.timeseries import Forecast, TesseraTimeSeries

NUMBER = 26  # bytes of a number in JSON, at most


class RemoteTimeSeries(RemoteModel, TesseraTimeSeries):
    """A forecaster at a server."""

    _closed = False

    def _start(self, **more: Any) -> None:
        if more:
            raise TypeError(f"{next(iter(more))} is no option of a forecaster at a server")

    def close(self) -> None:
        """Later calls raise EncodingError."""
        self._closed = True

    def _run(
        self,
        context: Context,
        horizon: int | None,
        wanted: Sequence[float],
        *,
        groups: Labels | None = None,
        extrapolate: Literal["tails"] | None = None,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Forecast:
        """As the local class."""
        limit = Limit(timeout, cancel)
        steps = check_horizon(horizon, self._recipe.prediction_length)
        has_one = self._recipe.point is not None
        check_extrapolate(extrapolate)
        series = read_series(context, self._recipe.context_length)
        if self._closed:
            raise EncodingError("this model is closed: make a new object")
        labels = group_numbers(groups, len(series))
        body = {
            "model": self._server_name,
            "horizon": steps,
            "levels": None if has_one else list(wanted),
            "groups": None if groups is None else labels.tolist(),
            "extrapolate": extrapolate,
        }
        parts = [slice(0, len(series))]
        if groups is None:  # series of a group are read together
            sizes = [len(values) * NUMBER for values in series]
            parts = list(
                self._link.parts(sizes, [len(values) // 16 + 1 for values in series], texts=False)
            )
        found: list[Forecast] = []
        told: dict[str, None] = {}
        for part in parts:
            for dtype, rows in _by_dtype(series, part, alone=groups is None):
                given = {**body, "series": [_listed(series[i]) for i in rows], "dtype": dtype}
                with _numbered(rows):
                    arrays, facts = self._link.arrays("/v1/forecast", given, limit)
                found.append(arrays["quantiles"])
                told |= dict.fromkeys(facts["warnings"])
        for message in told:
            tell(message)
        if not found:
            return np.empty((0, steps, 1 if has_one else len(wanted)), np.float32)
        return np.concatenate(found)


def _by_dtype(series: list[Float], part: slice, *, alone: bool) -> list[tuple[str, range]]:
    """Runs of series of one dtype; those of groups are sent at once, as float64 if they differ."""
    rows = range(*part.indices(len(series)))
    if not alone:
        small = all(series[i].dtype == np.float32 for i in rows)
        return [("float32" if small else "float64", rows)]
    runs: list[tuple[str, range]] = []
    for i in rows:
        name = series[i].dtype.name
        if runs and runs[-1][0] == name:
            runs[-1] = (name, range(runs[-1][1].start, i + 1))
        else:
            runs.append((name, range(i, i + 1)))
    return runs


def _listed(values: Float) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]  # noqa: PLR0124 (NaN)


@contextlib.contextmanager
def _numbered(rows: range) -> Iterator[None]:
    """Give an error about a series its number in the whole call."""
    try:
        yield
    except (TesseraError, TypeError) as error:
        index = getattr(error, "index", None)
        if index is not None:
            error.index = index + rows.start  # type: ignore[union-attr]
        raise

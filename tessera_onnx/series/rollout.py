"""Run a forecasting graph over batches of series, as many passes as the horizon needs.

A graph forecasts a fixed number of steps in one pass. What is appended to the context past them is
the model's own:

- Chronos-Bolt and Chronos-2: the path of each quantile, and the forecasts of all paths are pooled
  into quantiles (amazon-science/chronos-forecasting, `predict_quantiles`);
- TinyTimeMixer: its one forecast (ibm-granite/granite-tsfm, `RecursivePredictor`);
- TiRex: missing values, as many as it has forecast (NX-AI/tirex, `_forecast_tensor`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError, EncodingError
from tessera_onnx.models.spec_media import TimeSeries
from tessera_onnx.runtime import batching, workers
from tessera_onnx.runtime.session import Session
from tessera_onnx.series import forms, patching
from tessera_onnx.series.exact import LARGEST, Float

# Limit on the pairs of series that attention over a group compares at each position. A pair takes
# 16 bytes a head (measured), so this is 6 GB for the 12 heads of Chronos-2.
MOST_PAIRS = 1 << 25


class Rollout:
    """The passes of one open model. Threads may share it."""

    def __init__(self, recipe: TimeSeries, session: Session) -> None:
        """`session` runs the graph that `recipe` describes."""
        self._recipe = recipe
        self._session = session
        # The rows of the output whose paths are appended; for a model without quantiles, its one
        # row. Without any, what is appended is missing.
        levels = recipe.rollout_quantiles
        self._rows = (
            [recipe.quantiles.index(level) for level in levels] if recipe.quantiles else [0]
        )

    def plan(
        self,
        series: Sequence[Float],
        groups: NDArray[np.int64],
        forecast: NDArray[np.intp],
        horizon: int,
    ) -> list[NDArray[np.intp]]:
        """Split the series numbered `forecast` into batches of like size that cut no group.

        `groups` (n,) holds the number of each series' group. Raises ConfigError for a group that
        needs too much memory.
        """
        recipe = self._recipe
        paths = len(self._rows) or 1 if horizon > recipe.prediction_length else 1
        # Beside whole patches of the context: a partial patch, the graph's own token, and the
        # patches of one pass.
        more = 2 + -(-min(horizon, recipe.prediction_length) // recipe.output_patch_size)
        is_whole = forms.FORMS[recipe.reads].is_whole
        lengths = [recipe.context_length if is_whole else len(values) for values in series]
        positions = np.array([length // recipe.patch_size + more for length in lengths])
        order = forecast[np.argsort(groups[forecast], kind="stable")]
        members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
        if not len(order):
            return []
        for rows in members:
            most = math.isqrt(MOST_PAIRS // int(positions[rows].max())) // paths
            if len(rows) > max(1, most):
                raise ConfigError(
                    f"groups: the group of series {rows[0]} has {len(rows)} series, and memory "
                    f"grows with the square of their number: give at most {most} series of this "
                    "length and horizon one label",
                    indices=rows.tolist(),
                )
        costs = [len(rows) * int(positions[rows].max()) * paths for rows in members]
        return [
            np.concatenate([members[i] for i in picked]) for picked in batching.plan_batches(costs)
        ]

    def check_horizon(self, series: Sequence[Float], horizon: int) -> None:
        """Raises ConfigError where missing values would push every known one out of the context.

        That can be only for a model that goes on with missing values. Such a pass would forecast
        from nothing.
        """
        recipe = self._recipe
        if self._rows or horizon <= recipe.output_patch_size:
            return
        size = recipe.output_patch_size
        for i, values in enumerate(series):
            known = np.flatnonzero(~np.isnan(values))
            if not len(known):
                continue
            passes = (recipe.context_length - len(values) + int(known[-1])) // size
            if horizon > (passes + 1) * size:
                raise ConfigError(
                    f"horizon {horizon} is too long for series {i}: this model reads its own "
                    f"forecasts as missing values, and has forgotten the series after "
                    f"{(passes + 1) * size} steps",
                    index=i,
                )

    def quantiles(
        self,
        series: Sequence[Float],
        groups: NDArray[np.int64],
        horizon: int,
        *,
        parallel: bool,
        failure: workers.Failure | None = None,
        limit: workers.Limit = workers.ENDLESS,
    ) -> Float:
        """Forecast one batch: the trained quantiles, (n, quantiles, horizon), in trained order.

        Series of one number in `groups` (n,) are read together. The call ends between two passes
        when `failure` says that it is stopped, or `limit` does.
        """
        recipe = self._recipe
        context = forms.pad(recipe, series)
        blocks = [self._one_pass(context, groups, horizon, parallel=parallel)]
        left = horizon - blocks[0].shape[2]
        n, paths = len(series), len(self._rows) or 1
        context = np.repeat(context[:, None], paths, axis=1)
        # A path is grouped with the paths of the same level of the other series of its group.
        groups = (groups[:, None] * paths + np.arange(paths)).ravel()
        while left > 0:
            if failure is not None and failure.stopped:
                raise EncodingError("interrupted")  # the caller raises what stopped the call
            limit.check()
            last = blocks[-1]
            ahead = last[:, self._rows] if self._rows else np.full_like(last[:, :1], np.nan)
            context = np.concatenate([context, ahead], axis=2)[:, :, -recipe.context_length :]
            flat = context.reshape(n * paths, -1)
            samples = self._one_pass(flat, groups, left, parallel=parallel)
            blocks.append(self._pool(samples.reshape(n, -1, samples.shape[2])))
            left -= samples.shape[2]
        return np.concatenate(blocks, axis=2)[:, :, :horizon]

    def _pool(self, samples: Float) -> Float:
        """Pool forecasts of all paths, (n, paths x quantiles, steps), into trained quantiles."""
        recipe = self._recipe
        if not recipe.rollout_quantiles:  # one path
            return samples
        if recipe.rollout_weights == "equal":
            return patching.pool(samples, recipe.quantiles)
        of_paths = patching.masses(recipe.rollout_quantiles)
        weights = np.outer(of_paths, patching.masses(recipe.quantiles)).ravel()
        return patching.pool_weighted(samples, weights, recipe.quantiles)

    def _one_pass(
        self, context: Float, groups: NDArray[np.int64], horizon: int, *, parallel: bool
    ) -> Float:
        """Run the graph on (n, t), t a multiple of the patch size: (n, quantiles, its steps)."""
        recipe = self._recipe
        patched = forms.make_patches(recipe, context)
        n_patches = -(-min(horizon, recipe.prediction_length) // recipe.output_patch_size)
        inputs = forms.feeds(recipe, self._session.inputs, patched, n_patches, groups)
        (scaled,) = self._session.run(inputs, parallel=parallel)
        return check_range(forms.unscale(recipe, scaled, patched))


def check_range(values: Float) -> Float:
    """The values themselves. Raises EncodingError where one is NaN or beyond float32."""
    if not (np.abs(values) <= LARGEST).all():
        raise EncodingError("the forecast leaves the range of float32: scale the series down")
    return values

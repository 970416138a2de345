"""Run a forecasting graph over batches of series, as many passes as the horizon needs.

Chronos-Bolt and Chronos-2 forecast a fixed number of steps in one pass. Past them, the path of each
quantile is appended to the context and forecast again, and the forecasts of all paths are pooled
into quantiles (amazon-science/chronos-forecasting, `predict_quantiles`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError, EncodingError, LoadError
from tessera_onnx.models.spec_media import TimeSeries
from tessera_onnx.runtime import batching, workers
from tessera_onnx.runtime.session import Array, Port, Session, select
from tessera_onnx.series import patching
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
        paths = len(recipe.rollout_quantiles) if horizon > recipe.prediction_length else 1
        # Beside whole patches of the context: a partial patch, the graph's own token, and the
        # patches of one pass.
        more = 2 + -(-min(horizon, recipe.prediction_length) // recipe.output_patch_size)
        positions = np.array([len(values) // recipe.patch_size + more for values in series])
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
        context = patching.left_pad(series, recipe.patch_size)
        blocks = [self._one_pass(context, groups, horizon, parallel=parallel)]
        left = horizon - blocks[0].shape[2]
        n, paths = len(series), len(recipe.rollout_quantiles)
        rows = [recipe.quantiles.index(level) for level in recipe.rollout_quantiles]
        context = np.repeat(context[:, None], paths, axis=1)
        # A path is grouped with the paths of the same level of the other series of its group.
        groups = (groups[:, None] * paths + np.arange(paths)).ravel()
        while left > 0:
            if failure is not None and failure.stopped:
                raise EncodingError("interrupted")  # the caller raises what stopped the call
            limit.check()
            context = np.concatenate([context, blocks[-1][:, rows]], axis=2)
            context = context[:, :, -recipe.context_length :]
            flat = context.reshape(n * paths, -1)
            samples = self._one_pass(flat, groups, left, parallel=parallel)
            blocks.append(self._pool(samples.reshape(n, -1, samples.shape[2])))
            left -= samples.shape[2]
        return np.concatenate(blocks, axis=2)[:, :, :horizon]

    def _pool(self, samples: Float) -> Float:
        """Pool forecasts of all paths, (n, paths x quantiles, steps), into trained quantiles."""
        recipe = self._recipe
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
        patched = make_patches(recipe, context)
        n_patches = -(-min(horizon, recipe.prediction_length) // recipe.output_patch_size)
        inputs = feeds(recipe, self._session.inputs, patched, n_patches, groups)
        (scaled,) = self._session.run(inputs, parallel=parallel)
        return check_range(patching.unscale(scaled, patched, arcsinh=recipe.arcsinh))


def make_patches(recipe: TimeSeries, context: Float) -> patching.Patches:
    """Cut (n, t) into the patches of a model; t is a multiple of its patch size, NaN = missing."""
    return patching.patches(
        context, recipe.patch_size, arcsinh=recipe.arcsinh, time_scale=recipe.time_scale
    )


def feeds(
    recipe: TimeSeries,
    inputs: Mapping[str, Port],
    patched: patching.Patches,
    n_patches: int,
    groups: NDArray[np.int64],
) -> dict[str, Array]:
    """The inputs that a graph takes out of `known_inputs`, in its own dtypes."""
    return select(known_inputs(recipe, patched, n_patches, groups), inputs, "the graph")


def known_inputs(
    recipe: TimeSeries, patched: patching.Patches, n_patches: int, groups: NDArray[np.int64]
) -> dict[str, Array]:
    """Every input that a graph may take, by name.

    `n_patches` is the number of patches to forecast, `groups` (n,) the group of each series.
    """
    future = patching.future_patches(len(groups), n_patches, recipe.patch_size, recipe.time_scale)
    return {
        "patches": patched.values,
        "attention_mask": patched.attention,
        "future_patches": future,
        "group_ids": groups,
    }


def check_inputs(recipe: TimeSeries, inputs: Mapping[str, Port], name: str) -> None:
    """Raises LoadError for a graph that is none of this recipe."""
    if not {"patches", "attention_mask"} <= inputs.keys():
        raise LoadError(
            f"{name} takes the inputs {', '.join(inputs)!s:.300}: a graph that forecasts takes "
            "patches and attention_mask"
        )
    if recipe.prediction_length > recipe.output_patch_size and "future_patches" not in inputs:
        raise LoadError(
            f"{name} has no input future_patches, so one pass forecasts {recipe.output_patch_size} "
            f"steps, not the prediction_length {recipe.prediction_length}"
        )


def check_range(values: Float) -> Float:
    """The values themselves. Raises EncodingError where one is NaN or beyond float32."""
    if not (np.abs(values) <= LARGEST).all():
        raise EncodingError("the forecast leaves the range of float32: scale the series down")
    return values

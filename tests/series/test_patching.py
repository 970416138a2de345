"""The recipe around the graph: cases computed by hand, and laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tessera_onnx.series import patching

NAN = np.nan
TENTHS = [i / 10 for i in range(1, 10)]


def made(*series, size=4, arcsinh=False, time_scale=-1):
    context = patching.left_pad([np.array(s, np.float32) for s in series], size)
    return patching.patches(context, size, arcsinh=arcsinh, time_scale=time_scale)


def test_ragged_series_end_together():
    padded = patching.left_pad([np.float32([1, 2, 3, 4, 5]), np.float32([6])], 4)
    np.testing.assert_array_equal(padded, [[NAN] * 3 + [1, 2, 3, 4, 5], [NAN] * 7 + [6]])
    assert padded.dtype == np.float64
    assert patching.left_pad([np.zeros(8, np.float32)], 4).shape == (1, 8)


def test_the_scale_is_the_population_standard_deviation():
    loc, scale, _ = patching.standardise(np.float32([[2, NAN, 4, 6, 8]]))
    assert loc == 5
    assert scale == np.sqrt(5)  # of (9 + 1 + 1 + 9) / 4; the sample's would be sqrt(20 / 3)


def test_series_without_a_scale():
    context = np.float32([[NAN] * 4, [NAN, 7, NAN, NAN], [0.1] * 4])
    loc, scale, _ = patching.standardise(context)
    np.testing.assert_array_equal(loc[:, 0], [0, 7, np.float32(0.1)])
    np.testing.assert_array_equal(scale[:, 0], [1, 1e-5, 1e-5])


def test_levels_and_deviations_are_not_rounded_away():
    waves = np.where(np.arange(70) % 7 < 5, 10.0, 0.0)
    _, scale, _ = patching.standardise(waves[None])
    for level in (1e8, 3e9, 1e12, -1e12, 2.0**40):
        loc, found, _ = patching.standardise(waves[None] + level)
        assert loc[0, 0] - level == pytest.approx(50 / 7, abs=1e-3)
        np.testing.assert_array_equal(found, scale)
    for tiny in (1e-60, 1e-200, 1e-300):
        loc, found, _ = patching.standardise(waves[None] * tiny)
        np.testing.assert_allclose(found / tiny, scale)
    for constant in (0.1, 1e8 + 0.1, 1e-300, -3e38):  # whose sums round, in float64 too
        loc, found, _ = patching.standardise(np.full((1, 70), constant))
        assert (loc[0, 0], found[0, 0]) == (constant, patching.CONSTANT)


def test_a_patch_is_its_values_then_its_mask():
    found = made([1, NAN, 3, 1, 3, 1], [NAN, 5])
    assert (found.loc[0], found.scale[0]) == (1.8, pytest.approx(np.sqrt(0.96)))
    low, high = -0.8 / np.sqrt(0.96), 1.2 / np.sqrt(0.96)
    np.testing.assert_allclose(
        found.values[0],
        [[0, 0, low, 0, 0, 0, 1, 0], [high, low, high, low, 1, 1, 1, 1]],
        rtol=1e-6,
    )
    np.testing.assert_array_equal(found.values[1], [[0] * 8, [0] * 7 + [1]])
    np.testing.assert_array_equal(found.attention, [[1, 1], [0, 1]])
    assert (found.values.dtype, found.attention.dtype) == (np.float32, np.int64)


def test_the_time_channel_counts_up_to_the_end():
    found = made([1, 3, 1, 3, 1, 3], arcsinh=True, time_scale=8)
    np.testing.assert_array_equal(found.values[0, :, :4].ravel() * 8, np.arange(-8, 0))
    np.testing.assert_allclose(found.values[0, 1, 4:8], np.arcsinh([-1, 1, -1, 1]), rtol=1e-6)
    future = patching.future_patches(2, 3, 4, 8)
    assert future.shape == (2, 3, 12)
    np.testing.assert_array_equal(future[1, :, :4].ravel() * 8, np.arange(12))
    assert not future[:, :, 4:].any()


def test_unscaling_is_per_series():
    patched = made([0, 2], [10, 30])
    forecast = np.float32([[[0, 1]], [[0, 1]]])
    np.testing.assert_array_equal(
        patching.unscale(forecast, patched, arcsinh=False), [[[1, 2]], [[20, 30]]]
    )
    wide = patching.unscale(np.arcsinh(forecast), patched, arcsinh=True)
    np.testing.assert_allclose(wide, [[[1, 2]], [[20, 30]]], rtol=1e-6)


def test_levels_between_and_outside():
    values = np.float32([10, 20, 30, 40, 50, 60, 70, 80, 90])
    found = patching.at_levels(values, TENTHS, [0.5, 0.05, 0.25, 0.99, 0.9, 0.1])
    np.testing.assert_allclose(found, [50, 10, 25, 90, 90, 10], rtol=1e-6)
    # Values that cross change places, and none is lost.
    np.testing.assert_array_equal(patching.at_levels(values[::-1], TENTHS, TENTHS), values)
    # Levels need not be evenly spaced.
    found = patching.at_levels(np.float32([0, 10, 20]), [0.1, 0.5, 0.6], [0.3, 0.55, 0.8])
    np.testing.assert_allclose(found, [5, 15, 20], rtol=1e-6)


def test_exponential_tails():
    """Quantiles of a Laplace distribution of scale 3 around 10 are found from its inner ones."""

    def truth(level):
        return 10 + 3 * np.where(level < 0.5, np.log(2 * level), -np.log(2 - 2 * level))

    levels = np.array([1e-9, 0.001, 0.025, 0.1, 0.35, 0.9, 0.95, 0.999])
    found = patching.at_levels(truth(np.array(TENTHS)), TENTHS, levels, tails=True)
    inner = (levels >= 0.1) & (levels <= 0.9)
    np.testing.assert_allclose(found[~inner], truth(levels[~inner]), rtol=1e-9)
    held = patching.at_levels(truth(np.array(TENTHS)), TENTHS, levels)
    np.testing.assert_array_equal(found[inner], held[inner])
    flat = patching.at_levels(np.full((2, 9), 5.0), TENTHS, levels, tails=True)
    np.testing.assert_array_equal(flat, np.full((2, 8), 5.0))
    uneven = [0.02, 0.05, 0.5, 0.9, 0.99]
    found = patching.at_levels(truth(np.array(uneven)), uneven, [0.01, 0.995], tails=True)
    np.testing.assert_allclose(found, truth(np.array([0.01, 0.995])), rtol=1e-9)


def test_pooling_is_over_the_paths_at_each_step():
    samples = np.stack([np.arange(81), np.arange(81)[::-1] * 2], axis=1)[None].astype(np.float32)
    found = patching.pool(samples, TENTHS)
    assert found.shape == (1, 9, 2)
    np.testing.assert_allclose(found[0, :, 0], np.arange(8, 73, 8), rtol=1e-6)
    np.testing.assert_allclose(found[0, :, 1], 2 * np.arange(8, 73, 8), rtol=1e-6)


@settings(deadline=None)
@given(arrays(np.float32, (2, 9, 3), elements=st.integers(-99, 99)), st.floats(0.001, 0.999))
def test_pooling_is_numpys_linear_quantile(samples, level):
    found = patching.pool(samples, [0.5, level])
    truth = np.quantile(samples.astype(np.float64), [0.5, level], axis=1)
    np.testing.assert_allclose(found, np.moveaxis(truth, 0, 1), rtol=1e-5, atol=1e-5)


WHOLE = st.integers(-1000, 1000).map(float)
SERIES = arrays(np.float32, st.integers(1, 70), elements=st.one_of(WHOLE, st.just(NAN)))


@settings(deadline=None)
@given(SERIES, st.integers(-3, 3), st.integers(-100, 100))
def test_scaled_patches_know_neither_unit_nor_origin(series, power, shift):
    """Powers of two and whole numbers are exact in float32: what differs is the recipe."""
    factor = 2.0**power
    base, changed = made(series), made(series * factor + shift * factor)
    np.testing.assert_array_equal(base.attention, changed.attention)
    if (base.scale == patching.CONSTANT).all():
        return
    np.testing.assert_allclose(base.values, changed.values, atol=1e-5)


@settings(deadline=None)
@given(SERIES, st.integers(0, 40))
def test_missing_values_in_front_change_nothing(series, n):
    base, padded = made(series), made(np.concatenate([np.full(n, NAN, np.float32), series]))
    n_patches = base.values.shape[1]
    np.testing.assert_array_equal(padded.values[:, -n_patches:], base.values)
    assert not padded.attention[:, :-n_patches].any()
    np.testing.assert_allclose(padded.loc, base.loc)
    np.testing.assert_allclose(padded.scale, base.scale)


@settings(deadline=None)
@given(arrays(np.float32, (3, 9), elements=WHOLE), st.lists(st.floats(0.001, 0.999), min_size=1))
def test_quantiles_rise_with_the_level_and_stay_within(values, levels):
    found = patching.at_levels(values, TENTHS, sorted(levels))
    assert (np.diff(found, axis=1) >= 0).all()
    assert (found >= values.min(axis=1, keepdims=True)).all()
    assert (found <= values.max(axis=1, keepdims=True)).all()


def test_pooling_by_weight():
    """By hand: samples 1, 2, 3 of weight 1, 2, 1 stand at 0.25, 0.75 and 1."""
    samples = np.float32([[[3], [2], [1]]])
    found = patching.pool_weighted(samples, np.array([1, 2, 1]), [0.1, 0.25, 0.5, 0.75, 0.875, 0.9])
    np.testing.assert_allclose(found[0, :, 0], [1, 1, 1.5, 2, 2.5, 2.6], rtol=1e-6)
    np.testing.assert_allclose(patching.masses([0.1, 0.5, 0.9]), np.array([5, 8, 5]) / 18)

"""The made-up series: reproducible, finite, and of the statistics that their names promise."""

import numpy as np
import pytest

from tessera_export.training import draws, synthetic_series

pytestmark = pytest.mark.export


def rng():
    return np.random.default_rng(7)


def test_a_block_depends_on_seed_and_index_alone():
    whole = synthetic_series.series(3, 2 * synthetic_series.BLOCK + 10)
    assert whole.shape == (2 * synthetic_series.BLOCK + 10, synthetic_series.LENGTH)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole[synthetic_series.BLOCK : -10], synthetic_series.block(3, 1))
    np.testing.assert_array_equal(whole[-10:], synthetic_series.block(3, 2)[:10])
    assert not np.array_equal(
        synthetic_series.block(4, 1), synthetic_series.block(3, 1), equal_nan=True
    )


@pytest.mark.parametrize("length", [192, 1536])
@pytest.mark.parametrize("family", [family for family, _ in synthetic_series.FAMILIES])
def test_every_family_is_finite_and_its_rows_differ(family, length):
    rows = family(rng(), 64, length)
    assert rows.shape == (64, length)
    assert np.isfinite(rows).all()
    assert len(np.unique(rows.round(12), axis=0)) > 55  # constants may meet


def test_rows_are_standardised_before_the_damage_and_gaps_are_few():
    rows = synthetic_series.series(1, 12 * synthetic_series.BLOCK).astype(float)
    first = np.isfinite(rows).argmax(axis=1)
    inside = np.arange(synthetic_series.LENGTH) >= first[:, None]
    assert 0.001 < np.isnan(rows[inside]).mean() < 0.03
    assert set((synthetic_series.LENGTH - first) // 8 * 8) & {192, 320, 640, 1536}
    assert abs(np.nanmedian(np.nanmean(rows, axis=1))) < 0.05
    assert np.median(np.nanstd(rows, axis=1)) == pytest.approx(1, abs=0.05)


def test_the_recursion_against_its_definition():
    steps = rng().standard_normal((2, 5))
    one, two = np.array([0.5, -0.3]), np.array([0.2, 0.1])
    expected = np.zeros((2, 5))
    for row in range(2):
        for t in range(5):
            expected[row, t] = steps[row, t]
            expected[row, t] += one[row] * expected[row, t - 1] if t > 0 else 0
            expected[row, t] += two[row] * expected[row, t - 2] if t > 1 else 0
    np.testing.assert_allclose(draws.recursion(steps, one, two), expected, atol=1e-15)


def test_a_coloured_row_has_the_covariance_of_its_spectrum():
    """Wiener-Khinchin: squared amplitudes exp(-(2 pi f s)^2 / 2) give exp(-lag^2 / (2 s^2))."""
    length, scale, lag = 512, 10.0, 12
    frequency = np.fft.rfftfreq(2 * length)
    amplitude = np.exp(-((2 * np.pi * frequency * scale) ** 2) / 4)
    rows = draws._coloured(rng(), length, np.tile(amplitude, (4000, 1)))
    mean_lost = 0.75 * amplitude[0] ** 2 / (amplitude**2).sum()  # frequency 0 is drawn once, real
    assert (rows**2).mean() == pytest.approx(1 - mean_lost, abs=0.015)
    product = (rows[:, :-lag] * rows[:, lag:]).mean()
    expected = np.exp(-(lag**2) / (2 * scale**2)) - mean_lost
    assert product == pytest.approx(expected, abs=0.015)


def test_seasons_repeat_exactly_after_a_whole_period():
    period = np.array([4.0, 7.0, 12.0, 24.0, 168.0] * 20)
    rows = draws.season(rng(), 100, 1000, period)
    for row, size in zip(rows, period.astype(int), strict=True):
        np.testing.assert_allclose(row[size:], row[:-size], atol=1e-9)
    np.testing.assert_allclose(rows.std(axis=1), 1, atol=1e-9)


def test_counts_are_counts_and_often_zero():
    rows = synthetic_series.counts(rng(), 256, 640)
    np.testing.assert_array_equal(rows, np.round(rows))
    assert rows.min() == 0
    assert 0.2 < ((rows == 0).mean(axis=1) > 0.5).mean() < 0.8


def test_walks_spread_with_the_square_root_of_time():
    """Most rows are walks: steps over 64 points are about 8 times those over one point."""
    rows = synthetic_series.walks(rng(), 256, 1536)
    ratio = [(row[64:] - row[:-64]).std() / (row[1:] - row[:-1]).std() for row in rows]
    assert np.quantile(ratio, 0.75) == pytest.approx(8, rel=0.35)


def test_periods_leave_room_for_three_turns():
    one, two = draws.periods(rng(), 5000, 192)
    assert one.min() > 2
    assert one.max() <= 64
    assert ((two == 0) | (two <= 96)).all()

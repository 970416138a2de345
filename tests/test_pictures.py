"""The pictures of the pages show what the starter's models answer, and are small."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tessera_onnx import TesseraTimeSeries, TesseraVision

DOCS = Path(__file__).parents[1] / "docs"
sys.path.append(str(DOCS))  # behind tests, which has another reference.py
import pictures  # noqa: E402


@pytest.mark.parametrize("name", ["page.png", "forecast.svg"])
def test_the_pictures_are_made_anew_and_small(name, tmp_path):
    pictures.main(tmp_path)
    stored = DOCS / "_static" / name
    for file in (tmp_path / name, stored):
        assert 5_000 < file.stat().st_size < 60_000
    assert (tmp_path / name).read_bytes()[:8] == stored.read_bytes()[:8]


def test_the_chart_has_the_models_quantiles_and_what_came():
    with TesseraTimeSeries("tessera-bolt-mini") as model:
        found = pictures.forecast(model)
        known = pictures.SERIES[: -pictures.AHEAD]
        want = model.forecast_quantiles(known, pictures.AHEAD, pictures.LEVELS)[0]
    np.testing.assert_array_equal(found, want)
    axes = pictures.fan_chart(found).axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_array_equal(lines["known"], known[-60:])
    np.testing.assert_array_equal(lines["median of the forecast"], want[:, 4])
    np.testing.assert_array_equal(lines["what came"], pictures.SERIES[-pictures.AHEAD :])
    widest = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert set(want[:, 0]) | set(want[:, -1]) <= set(widest.astype(np.float32))


def test_the_page_is_coloured_where_the_model_finds_the_words():
    with TesseraVision("tessera-page-mini") as model:
        answer = model.locate(pictures.QUERY, pictures.draw_page())
    assert [region.token for region in answer.regions[1:-1]] == pictures.QUERY.split()
    drawn = np.asarray(pictures.heat_map(answer).convert("RGB"), dtype=int)
    drawn = drawn[-pictures.draw_page(pictures.ZOOM).height :]  # below the band of the query
    best = answer.map[1:-1].max(axis=0)
    rows, columns = best.shape
    height = pictures.ZOOM * answer.box[3] / rows
    width = pictures.ZOOM * answer.box[2] / columns

    def red(row, column):
        """How red a cell is: letters are black, the page is white."""
        top, left = round(row * height), round(column * width)
        cell = drawn[top : top + round(height), left : left + round(width)]
        return float((cell[..., 0] - cell[..., 2]).mean())

    for region in answer.regions[1:-1]:
        assert red(region.row, region.column) > 60
    with_vectors = np.where(np.isfinite(best), best, np.inf)
    lowest = np.unravel_index(with_vectors.argmin(), best.shape)
    assert red(*lowest) < 20

"""The speed benchmark runs against upstream, on random weights that it exports itself."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.export
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "forecast_speed.py"


@pytest.mark.slow
def test_runs():
    options = ("--contexts", "64", "--batches", "1", "3", "--rounds", "1")
    done = subprocess.run(
        [sys.executable, BENCHMARK, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[-2:]]
    assert [row[:2] for row in rows] == [["64", "1"], ["64", "3"]]
    assert all(float(row[-1]) < 1e-4 for row in rows)  # it checks that, and ends otherwise

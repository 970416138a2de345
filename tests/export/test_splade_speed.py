"""The speed benchmark runs against SparseEncoder, on an artifact that it exports itself."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.export
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "splade.py"


def test_runs(splade):
    options = ("--weights", splade, "--texts", "3", "--tokens", "12", "--rounds", "1")
    done = subprocess.run(
        [sys.executable, BENCHMARK, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr  # it compares the vectors, and ends otherwise
    rows = [line.split() for line in done.stdout.splitlines()[-4:]]
    assert [row[:2] for row in rows][:2] == [["TesseraSparse", "fp32"], ["TesseraSparse", "int8"]]
    assert all(float(row[-2]) > 0.99 and float(row[-1]) > 0 for row in rows)

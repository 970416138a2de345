"""The peak of a job does not grow with its rows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.linux
def test_token_vectors_of_many_rows_take_no_more_memory():
    """16 kB a row: 10,000 more rows are 160 MB more of results."""
    peaks = []
    for rows in (4000, 14000):
        model = ROOT / "tests" / "artifacts" / "colbert"
        command = [sys.executable, ROOT / "benchmarks" / "batch.py", "--path", model]
        done = subprocess.run(
            [*command, "--rows", str(rows)], capture_output=True, text=True, check=True
        )
        peaks.append(int(re.search(r"(\d+) MB peak", done.stdout)[1]))
    assert peaks[1] < peaks[0] + 60
    assert peaks[1] < 500

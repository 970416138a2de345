"""A few hundred changed inputs a target; .ci/nightly and people run more (see run.py)."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TARGETS = (
    "description",
    "graph_names",
    "graph_io",
    "graph",
    "tokenizer",
    "jsonl",
    "lines",
    "table",
)
TARGETS += ("image", "pdf", "pack", "sparse_pack", "server")


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_found_in_two_seconds(name, tmp_path):
    done = subprocess.run(
        [sys.executable, HERE / "run.py", "--target", name, "--seconds", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "nothing found" in done.stdout
    assert list(tmp_path.iterdir()) == []

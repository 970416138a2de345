"""The server under chaos for some seconds; CI by night and docs/reliability.md have minutes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.faults, pytest.mark.linux, pytest.mark.nightly]


def test_every_request_has_its_answer():
    program = Path(__file__).with_name("chaos.py")
    done = subprocess.run(
        [sys.executable, program, "--minutes", "0.4"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    figures = dict(re.findall(r"(\w+) = (\S+)", done.stdout))
    assert figures["faults"] == "0"
    for name in ("answered_with_right_vectors", "oversized_413", "wrong_400", "clients_that_died"):
        assert int(figures[name]) > 0

"""Run a notebook of docs/notebooks anew, and compare its text with what is stored."""

import json
import re
import subprocess
import sys
from pathlib import Path

import test_docs

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
TINY = re.compile(r"\d\.\d+e-\d+")  # rounding: another processor, another figure


def cells(path):
    return json.loads(path.read_text("utf-8"))["cells"]


def text(cell):
    """What a cell of code printed; an empty string for one that only draws."""
    return "".join(
        line for output in cell["outputs"] if "text" in output for line in output["text"]
    )


def assert_runs_as_stored(name, folder):
    """Run a notebook and write it into `folder`; numbers may differ as much as in the pages."""
    command = [sys.executable, str(FOLDER / "make.py"), "--to", str(folder), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    stored, found = cells(FOLDER / name), cells(folder / name)
    assert [cell["source"] for cell in found] == [cell["source"] for cell in stored]
    for number, (want, got) in enumerate(zip(stored, found, strict=True), 1):
        if want["cell_type"] == "markdown":
            continue
        kinds = [[output["output_type"] for output in cell["outputs"]] for cell in (want, got)]
        assert kinds[0] == kinds[1], number
        printed = (TINY.sub("0.0", text(cell)) for cell in (want, got))
        assert test_docs.alike(*printed), f"cell {number} printed:\n{text(got)}"

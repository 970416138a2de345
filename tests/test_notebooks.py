"""The notebooks as they are stored. Tests of tests/integrations and tests/export run them."""

import base64
import re
from pathlib import Path

import pytest
from notebook_output import FOLDER, cells

NAMES = sorted(path.name for path in FOLDER.glob("*.ipynb"))
ROOT = Path(__file__).parents[1]


def drawn(cell):
    return [output for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})]


def test_a_test_runs_each_and_the_site_shows_each():
    assert len(NAMES) == 6
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    assert sorted(re.findall(r"<notebooks/(.*)>$", index, re.MULTILINE)) == [
        name.removesuffix(".ipynb") for name in NAMES
    ]
    run = (ROOT / "tests" / "integrations" / "test_notebook_runs.py").read_text("utf-8")
    run += (ROOT / "tests" / "export" / "test_export_notebook.py").read_text("utf-8")
    assert all(f'"{name}"' in run for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_stored_as_its_maker_writes_it(name):
    """All cells ran in order in one kernel, without warnings; no times, no widths of a window."""
    found = cells(FOLDER / name)
    assert 10 <= len(found) <= 40
    first = "".join(found[0]["source"])
    assert re.match(r"# .*\n\nYou learn ", first), first
    code = [cell for cell in found if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert any(map(drawn, code))
    for cell in found:
        assert set(cell["metadata"]) <= {"mystnb"}
        for output in cell.get("outputs", ()):
            assert output["output_type"] == "display_data" or output.get("name") == "stdout"


@pytest.mark.parametrize("name", NAMES)
def test_every_plot_is_small_and_described(name):
    size = 0
    for cell in cells(FOLDER / name):
        if plots := drawn(cell):
            assert len(cell["metadata"]["mystnb"]["image"]["alt"]) > 30, cell["source"]
        size += sum(len(base64.b64decode(plot["data"]["image/png"])) for plot in plots)
    assert size < 250_000


def test_the_data_are_small_and_named_in_the_notice():
    notice = (ROOT / "NOTICE").read_text("utf-8")
    data = [path for path in (FOLDER / "data").iterdir() if path.name != "questions.jsonl"]
    assert len(data) == 2
    assert all(f"  {path.name}\n" in notice and path.stat().st_size < 250_000 for path in data)

"""docs/layouts.md is what the recorded rows of test runs make."""

import json

import make_layout_table
import pytest

ROW = {"kind": "dense", "model": "a, b", "way": "hub", "result": "equal"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run((row, outcome), ...): the page after a run with these rows, and the exit status."""
    monkeypatch.setattr(make_layout_table, "PAGE", tmp_path / "layouts.md")

    def make(*cases):
        lines = []
        for row, outcome in cases:
            said = json.dumps(row).replace('"', "&quot;")
            inner = f'<properties><property name="layout" value="{said}"/></properties>{outcome}'
            lines.append(f"<testcase>{inner}</testcase>")
        report = tmp_path / "r.xml"
        report.write_text(f"<testsuites><testsuite>{''.join(lines)}</testsuite></testsuites>")
        monkeypatch.setattr(make_layout_table.sys, "argv", ["make_layout_table.py", str(report)])
        with pytest.raises(SystemExit) as ended:
            make_layout_table.main()
        return make_layout_table.PAGE.read_text("utf-8"), bool(ended.value.code)

    return make


def test_rows_of_several_runs_come_together(run):
    page, lost = run((ROW, ""))
    assert "| a, b | dense | - | - | equal | - | - |\n" in page
    assert not lost
    page, _ = run(
        (ROW | {"way": "upstream"}, ""), (ROW | {"model": "c", "result": "refused: x"}, "")
    )
    assert "| a, b | dense | equal | - | equal | - | - |\n" in page
    assert page.index("## Refused: 1") < page.index("| c | dense | - | - | refused: x | - | - |")
    assert run() == (page, False)


@pytest.mark.parametrize("outcome", ["<failure/>", "<error/>", "<skipped/>"])
def test_a_test_that_did_not_pass_takes_its_rows_away(run, outcome):
    run((ROW, ""))
    page, lost = run((ROW, outcome))
    assert "a, b" not in page
    assert lost


def test_the_page_is_in_its_own_form():
    rows = make_layout_table.read_page()
    assert make_layout_table.PAGE.read_text("utf-8") == make_layout_table.page(rows)
    assert len(rows) > 60
    for row in rows:
        assert "-" not in row.results[1:], row
        assert (row.results[0] == "equal") == ("equal" in row.results[1:]), row

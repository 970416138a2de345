"""docs/models.md is what models.toml and tests/checks.toml say, and the checks are real tests."""

import ast
from pathlib import Path

import make_choice_table
import make_model_table
import pytest

from tessera_onnx.models import catalogue

ROOT = Path(__file__).parents[1]
CHECKS = make_model_table.read_checks()


def test_the_page_is_up_to_date():
    assert make_model_table.PAGE.read_text("utf-8") == make_model_table.page()


def test_the_page_of_published_scores_is_up_to_date():
    assert make_choice_table.PAGE.read_text("utf-8") == make_choice_table.page()


def test_every_published_score_is_of_a_model_of_that_kind_and_has_one_source():
    specs = {spec.id: spec for spec in catalogue.catalogue()}
    for table in make_choice_table.read_published()["table"]:
        names = [name for source in table["source"] for name in source["scores"]]
        assert len(set(names)) == len(names)
        assert all(table["kind"] in specs[name].kinds for name in names)
        assert all(source["url"].startswith("https://github.com/") for source in table["source"])
    assert all(
        "dense" in specs[n].kinds for n in make_choice_table.read_published()["several_languages"]
    )


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check["test"].split("::")[1])
def test_a_check_names_a_test_and_models_that_exist(check):
    path, name = check["test"].split("::")
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert set(check["models"]) <= {spec.id for spec in catalogue.catalogue()}
    assert len(set(check["models"])) == len(check["models"])


def test_every_model_has_a_row():
    page = make_model_table.page()
    for spec in catalogue.catalogue():
        assert f"| {spec.id} | {spec.source} | {spec.licence} |" in page


@pytest.mark.parametrize("left_out", [set(), {CHECKS[1]["test"]}], ids=["all", "but one"])
def test_without_reports_the_marks_stay(left_out, tmp_path, monkeypatch, capsys):
    """As models.toml says to run it: facts are made anew, marks are taken from the page."""
    good = make_model_table.page({check["test"] for check in CHECKS} - left_out)
    page = tmp_path / "models.md"
    page.write_text(good.replace("Xenova/bge-small-en-v1.5", "elsewhere/it-was"), "utf-8")
    monkeypatch.setattr(make_model_table, "PAGE", page)
    monkeypatch.setattr(make_model_table.sys, "argv", ["make_model_table.py"])
    with pytest.raises(SystemExit) as ended:
        make_model_table.main()
    assert page.read_text("utf-8") == good
    assert ended.value.code == bool(left_out)
    assert capsys.readouterr().err.count("has not passed yet") == len(left_out)


def test_a_check_that_did_not_pass_is_not_claimed(tmp_path):
    report = tmp_path / "r.xml"
    first, second, third, *_ = (check["test"] for check in CHECKS)
    cases = [
        (first, ""),
        (second + "[a]", ""),
        (second + "[b]", "<failure/>"),
        (third, "<skipped/>"),
    ]
    lines = []
    for test, outcome in cases:
        path, name = test.split("::")
        classname = path.removesuffix(".py").replace("/", ".")
        lines.append(f'<testcase classname="{classname}" name="{name}">{outcome}</testcase>')
    report.write_text(f"<testsuites><testsuite>{''.join(lines)}</testsuite></testsuites>")
    passed = make_model_table.tests_passed([report])
    assert passed == {first}
    page = make_model_table.page(passed)
    assert "| A | " in page
    assert "| B | " not in page
    assert (
        "bge-small-en-v1.5 | BAAI/bge-small-en-v1.5 | mit | Xenova/bge-small-en-v1.5 "
        "(fp32, int8) | - |" in page
    )

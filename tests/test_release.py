"""A release: one version in all places, and workflows that run what is pinned and nothing more."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import tessera_onnx

ROOT = Path(__file__).parents[1]
FOLDERS = {"tessera-onnx": ".", "tessera-onnx-starter": "starter", "tessera-onnx-export": "export"}
WORKFLOWS = ROOT / ".github" / "workflows"
pytestmark = pytest.mark.skipif(not (ROOT / "starter").is_dir(), reason="reads a checkout")


def project(name):
    return tomllib.loads((ROOT / FOLDERS[name] / "pyproject.toml").read_text())["project"]


def read(name):
    return yaml.safe_load((ROOT / name).read_text())


def test_one_version_in_all_places():
    version = tessera_onnx.__version__
    assert {project(name)["version"] for name in FOLDERS} == {version}
    exporter = (ROOT / "export" / "tessera_export" / "__init__.py").read_text()
    assert re.findall(r'^__version__ = "(.*)"$', exporter, re.MULTILINE) == [version]
    changes = re.findall(
        r"^## \[(.*?)\](?: - (.*))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert changes[0] == ("Unreleased", "")
    citation = read("CITATION.cff")
    assert (citation["version"], str(citation["date-released"])) == changes[1]
    assert changes[1][0] == version


def test_the_exporter_takes_this_minor_version_and_no_other():
    (needed,) = (
        requirement
        for requirement in map(Requirement, project("tessera-onnx-export")["dependencies"])
        if requirement.name == "tessera-onnx"
    )
    major, minor, *_ = Version(tessera_onnx.__version__).release
    assert tessera_onnx.__version__ in needed.specifier
    assert f"{major}.{minor}.999" in needed.specifier
    assert f"{major}.{minor + 1}.0" not in needed.specifier
    assert f"{major}.{minor - 1}.999" not in needed.specifier
    assert f"\n| {major}.{minor} | yes |\n" in (ROOT / "SECURITY.md").read_text()


def test_ci_runs_each_python_that_the_metadata_names():
    classifiers = project("tessera-onnx")["classifiers"]
    named = {each.rpartition(" ")[2] for each in classifiers if "Python :: 3." in each}
    matrix = read(".github/workflows/ci.yml")["jobs"]["matrix"]["strategy"]["matrix"]
    assert named <= set(matrix["python"])
    assert f">={min(named, key=Version)}" == project("tessera-onnx")["requires-python"]


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path):
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used
    for action in used:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_a_release_publishes_the_files_that_were_checked_and_holds_no_secret():
    workflow = read(".github/workflows/release.yml")
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML reads the key `on` so
    assert workflow["permissions"] == {}
    jobs = workflow["jobs"]
    build, publish = jobs["build"]["steps"], jobs["publish"]
    assert [step["run"] for step in build if "run" in step][1:] == [
        ".ci/audit",
        "make dist PYTHON=python",
    ]
    uploaded = {step["with"]["name"] for step in build if "upload" in step.get("uses", "")}
    assert set(publish["strategy"]["matrix"]["project"]) == set(FOLDERS) <= uploaded
    assert publish["needs"] == "build"
    assert publish["environment"]["name"] == "${{ matrix.project }}"
    may = {name: set(job["permissions"].items()) for name, job in jobs.items()}
    assert may == {
        "build": {("contents", "read")},
        "publish": {("id-token", "write")},
        "page": {("contents", "write")},
    }
    (*_, upload) = publish["steps"]
    assert upload["uses"].startswith("pypa/gh-action-pypi-publish@")
    assert upload["with"] == {"attestations": True, "print-hash": True}
    text = (WORKFLOWS / "release.yml").read_text()
    assert "secrets." not in text
    assert all("checkout" not in step.get("uses", "") for step in publish["steps"])

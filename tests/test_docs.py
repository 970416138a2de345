"""Every command and snippet of the README and of docs/ runs and prints what is printed there.

```python blocks are doctests, ```console blocks are commands behind `$ ` with their output.
```bash blocks are run by .ci/run, in a fresh environment, or by .ci/nightly. int8 graphs differ a
little from processor to processor, so a printed number holds to one unit in its last place or to
0.03, whichever is more.
"""

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NUMBER = re.compile(r"-?\d+\.\d+")


def blocks(language):
    return list(_blocks(language))


def _blocks(language):
    for page in PAGES:
        found = re.findall(
            rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
        )
        for number, text in enumerate(found, 1):
            yield pytest.param(text, id=f"{page.name}-{number}")


def alike(want, got):
    """The same words, and numbers that are close."""
    if " ".join(NUMBER.sub("#", want).split()) != " ".join(NUMBER.sub("#", got).split()):
        return False
    pairs = zip(NUMBER.findall(want), NUMBER.findall(got), strict=True)
    units = ((a, b, 1.01 * 10.0 ** -len(a.split(".")[1])) for a, b in pairs)
    return all(abs(float(a) - float(b)) <= max(unit, 0.03) for a, b, unit in units)


class Checker(doctest.OutputChecker):
    def check_output(self, want, got, optionflags):
        return alike(want, got) or super().check_output(want, got, optionflags)


@pytest.mark.parametrize("text", blocks("python"))
def test_python(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest(text, {}, "snippet", None, 0)
    assert test.examples, "a python block must be a doctest"
    report = []
    runner = doctest.DocTestRunner(Checker(), optionflags=doctest.ELLIPSIS)
    runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("text", blocks("console"))
def test_console(text, tmp_path):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, want = part.split("\n", 1)
        done = subprocess.run(
            shlex.split(command),
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert alike(want, done.stdout), done.stdout


def test_every_block_is_of_a_kind_that_is_run():
    """test_formats.py parses the blocks of TOML."""
    for page in PAGES:
        languages = set(re.findall(r"^```(\w*)\n", page.read_text(), re.MULTILINE)) - {""}
        # tests/test_formats.py parses what is TOML.
        parsed = {"toml"} if page.name == "formats.md" else set()
        assert languages <= {"python", "console", "bash"} | parsed, page
    assert not re.search(r"@[A-Z_]+@", (ROOT / "README.md").read_text())


CI = "".join((ROOT / ".ci" / name).read_text() for name in ("run", "nightly"))


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_ci_runs_every_bash_block(page):
    """By its number on the page."""
    count = len(re.findall(r"^```bash\n", (ROOT / page).read_text(), re.MULTILINE))
    run = re.findall(rf"\(block {re.escape(page)} (\d)\)", CI)
    assert sorted(set(run)) == [str(number) for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("marks", "is_run"), [((), True), (("-m", "faults"), True), (("-m", "slow"), False)]
)
def test_a_file_that_is_named_runs_whole_unless_marks_are_chosen(marks, is_run):
    """In an environment without the options of this run: -q twice prints no last line."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/faults/test_providers.py", *marks],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1]
    assert ("no tests collected" not in last) == is_run, last


def test_ci_runs_every_target_of_the_makefile():
    """`lint` is a part of `check`, `test` the README's own command, `nightly` is .ci/nightly."""
    makefile, contributing = ((ROOT / name).read_text() for name in ("Makefile", "CONTRIBUTING.md"))
    targets = re.findall(r"^([\w-]+):(?!=)", makefile, re.MULTILINE)
    assert re.findall(r"^\| `make ([\w-]+)` \|", contributing, re.MULTILINE) == targets
    commands = CI + "".join(block.values[0] for block in blocks("bash"))
    run = set(re.findall(r"\bmake ([\w-]+)", commands))
    assert set(targets) == run | {"lint", "test", "nightly"}
    assert "\ncheck: lint\n" in makefile
    assert "/pytest -n auto\n" in commands
    assert " pytest -n auto\n" in makefile


def test_every_test_that_a_page_names_is_there():
    named = [
        name
        for page in PAGES
        for name in re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", page.read_text())
    ]
    assert len(named) > 60
    for name in named:
        path, _, test = name.partition("::")
        content = (ROOT / path).read_text()
        assert not test or f"def {test}(" in content, name

"""Every command and snippet of the README and of docs/ runs and prints what is printed there.

```python blocks are doctests, ```console blocks are commands behind `$ ` with their output.
```bash blocks are run by .ci/run, in a fresh environment, or by .ci/nightly. Blocks that need an
engine are run by tests/integrations. int8 graphs differ a
little from processor to processor, so a printed number holds to one unit in its last place or to
0.03, whichever is more.
"""

import contextlib
import doctest
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tessera_onnx import Client, LoadError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
STORES = ROOT / "docs" / "stores.md"  # run by tests/integrations/test_stores_page.py
# Run by the tests of the frameworks, section by section.
FRAMEWORKS = ROOT / "docs" / "frameworks.md"
EXPORTED = ROOT / "docs" / "own-models.md"  # run by tests/export/test_pages.py
NUMBER = re.compile(r"-?\d+\.\d+")


# Blocks with one of these words need that package and are run by tests/integrations and
# tests/export; those that need a hub are run by tests/models/test_air_gapped.py.
ELSEWHERE = {
    "hub": re.compile(r"OWNER/NAME"),
    "server": re.compile(r"--store (qdrant|pgvector)"),
    "index": re.compile(r"\bCollection\b|tessera index"),
    "fastembed": re.compile(r"from fastembed import\b"),
    "torch": re.compile(r"import SentenceTransformer\b|from chronos import\b"),
    "daft": re.compile(r"import daft\b"),
    "lance": re.compile(r"import lance\b"),
    "ray": re.compile(r"import ray\b|integrations\.ray\b|--engine ray\b"),
    "spark": re.compile(r"import SparkSession\b"),
}


def blocks(language, package=None):
    """The blocks with the need of that name in ELSEWHERE, or those without any."""

    def needed(text):
        return next((name for name, words in ELSEWHERE.items() if words.search(text)), None)

    return [block for block in _blocks(language) if needed(block.values[0]) == package]


def _blocks(language):
    for page in PAGES:
        if page in {STORES, FRAMEWORKS, EXPORTED}:
            continue
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
    def __init__(self, noise):
        self._noise = re.compile(noise, re.MULTILINE)

    def check_output(self, want, got, optionflags):
        got = self._noise.sub("", got)
        return alike(want, got) or super().check_output(want, got, optionflags)


SERVED = ("all-minilm-l6-v2", "splade-tiny", "tessera-bolt-mini")
ADDRESS = "127.0.0.1:8080"  # of the server in the pages


@pytest.fixture(scope="session")
def server():
    """The address of a server of the starter's models, for blocks that name ADDRESS."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    code = "from tessera_onnx.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", *SERVED, "--port", port]
    process = subprocess.Popen([*command, "--log-level", "error"])
    try:
        client, end = Client(f"http://127.0.0.1:{port}"), time.monotonic() + 90
        while time.monotonic() < end:
            with contextlib.suppress(LoadError):
                if len(client.models()) == len(SERVED):
                    break
            assert process.poll() is None
            time.sleep(0.1)
        client.close()
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def placed(request):
    """The text of a block, with the address of a server that runs."""

    def place(text):
        if ADDRESS not in text:
            return text
        return text.replace(ADDRESS, request.getfixturevalue("server"))

    return place


@pytest.mark.parametrize("text", blocks("python"))
def test_python(text, tmp_path, monkeypatch, placed):
    monkeypatch.chdir(tmp_path)
    run_python(placed(text))


def run_python(text, noise="(?!)"):
    """Run a python block in this folder; what matches `noise` is no output of it."""
    test = doctest.DocTestParser().get_doctest(text, {}, "snippet", None, 0)
    assert test.examples, "a python block must be a doctest"
    report = []
    runner = doctest.DocTestRunner(Checker(noise), optionflags=doctest.ELLIPSIS)
    runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("text", blocks("console"))
def test_console(text, tmp_path, placed):
    run_console(placed(text), tmp_path)


def run_console(text, folder):
    """Run the commands of a console block in a folder."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, want = part.split("\n", 1)
        done = subprocess.run(
            shlex.split(command),
            cwd=folder,
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


def test_the_site_begins_with_the_command_of_the_readme():
    first = next(text.values[0] for text in blocks("bash"))  # of README.md
    assert f"    {first}" in (ROOT / "docs" / "get-started.md").read_text()


def test_a_test_runs_every_section_of_the_page_of_frameworks():
    sections = re.split(r"^## ", FRAMEWORKS.read_text(), flags=re.MULTILINE)
    titles = {each.partition("\n")[0] for each in sections if "```python" in each}
    tests = (ROOT / "tests" / "integrations").glob("test_*_adapter.py")
    run = {re.search(r'run_section\("(.*)"\)', test.read_text())[1] for test in tests}
    assert run == titles
    assert "```console" not in FRAMEWORKS.read_text()


def test_the_table_by_processor_has_figures_of_the_sections_below_it():
    page = (ROOT / "docs" / "speed.md").read_text()
    head, _, sections = page.partition("\n## ")
    rows = [line.split("|")[1:-1] for line in head.splitlines() if line.startswith("| ")]
    assert len({len(row) for row in rows}) == 1
    cells = [cell for row in rows[3:] for cell in row[1:]]
    figures = re.findall(r"\d+(?:\.\d+)?x?", " ".join(cells))
    assert len(figures) > 20
    for figure in figures:
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", sections), figure


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

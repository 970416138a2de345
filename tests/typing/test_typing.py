"""A type checker reads code of users: right uses pass, and each wrong use is an error.

The other files of this folder are what a user of tessera_onnx may write. They are checked by
`mypy --strict` and never run. A line that must be an error ends with `# E: ` and the codes of
mypy's errors, separated by commas; every other line must have none.
"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
CACHE = FOLDER.parents[1] / ".mypy_cache" / "typing"
EXPECTED = re.compile(r"# E: ([a-z\-]+(?:, [a-z\-]+)*)$")
REPORTED = re.compile(r"^([^:]+):(\d+): error: (.*)\[([a-z\-]+)\]$")
Errors = dict[str, set[str]]  # "file:line" to the codes of its errors


def user_files() -> list[Path]:
    return sorted(path for path in FOLDER.glob("*.py") if path != Path(__file__))


def expected_errors(files: list[Path]) -> Errors:
    found: Errors = {}
    for path in files:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            mark = EXPECTED.search(line)
            assert mark or "# E:" not in line, f"{path.name}:{number}: write `# E: code, code`"
            if mark:
                found[f"{path.name}:{number}"] = set(mark[1].split(", "))
    return found


def reported_errors(files: list[Path]) -> tuple[Errors, str]:
    """What one run of mypy reports, and its output."""
    options = ["--strict", "--no-error-summary", "--hide-error-context", "--no-pretty"]
    command = [sys.executable, "-m", "mypy", *options, "--config-file=", f"--cache-dir={CACHE}"]
    run = subprocess.run(
        [*command, *(path.name for path in files)],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    output = run.stdout + run.stderr
    assert run.returncode in (0, 1), output  # 2: mypy itself failed
    found: Errors = {}
    for line in run.stdout.splitlines():
        if ": note: " not in line:
            error = REPORTED.match(line)
            assert error, output
            found.setdefault(f"{error[1]}:{error[2]}", set()).add(error[4])
    return found, output


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("mypy"), reason="mypy is not installed")
def test_user_code_has_the_errors_it_marks_and_no_others():
    files = user_files()
    expected = expected_errors(files)
    assert expected  # else nothing shows that a wrong use is found
    reported, output = reported_errors(files)
    assert reported == expected, output

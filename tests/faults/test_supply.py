"""What this package is made of and brings along: pinned, hashed, the same bytes twice."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import tessera_onnx

ROOT = Path(__file__).parents[2]
LOCK = Path(__file__).parents[1] / "requirements.lock"


def locked():
    """Name to version of each package of the lock, all of whose files have a sha256."""
    entries = re.split(r"^(?=[a-z0-9])", LOCK.read_text(), flags=re.MULTILINE)[1:]
    found = {}
    for entry in entries:
        name, version = re.match(r"([\w.-]+)==([\w.]+) \\$", entry, re.MULTILINE).groups()
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), name
        assert "@" not in entry  # no address: what has the hash may come from any mirror
        found[name] = version
    return found


def test_the_lock_holds_what_the_tests_need():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    versions = locked()
    for text in [*project["dependencies"], *extras["cpu"], *extras["dev"]]:
        requirement = Requirement(text)
        assert versions[requirement.name.lower()] in requirement.specifier, text


def test_the_lock_brings_nothing_that_calls_home():
    names = set(locked())
    assert not names & {"posthog", "sentry-sdk", "segment-analytics-python", "opentelemetry-sdk"}
    assert not names & {"torch", "transformers", "onnx", "optimum"}


def test_the_source_never_names_what_would_send_or_run():
    """Beside the hub, which asks for a model by name, nothing opens a connection or runs code."""
    modules = sorted(Path(tessera_onnx.__file__).parent.glob("*.py"))
    assert len(modules) > 20
    for path in modules:
        text = path.read_text()
        for word in ("register_custom_ops", "import pickle", "allow_pickle=True", "eval(", "exec(",
                     "os.system", "import subprocess", "import socket", "import requests",
                     "urlopen", "trust_remote_code"):  # fmt: skip
            assert word not in text, (path.name, word)


@pytest.mark.slow
def test_a_wheel_is_the_same_bytes_twice(tmp_path):
    for name in ("one", "two"):
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
        subprocess.run(
            [*command, tmp_path / name, ROOT, ROOT / "starter"],
            check=True,
            env={"SOURCE_DATE_EPOCH": "1767225600", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        )
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert [path.name for path in first] == [path.name for path in second]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]

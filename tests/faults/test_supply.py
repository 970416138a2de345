"""What this package is made of and brings along: pinned, hashed, the same bytes twice."""

import platform
import re
import signal
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


# Linux ends the process that asks it for a socket of the internet, Python's or a library's. Its
# filter is a program of (code, jump if so, jump if not, value): 32 loads, 21 compares, 6 returns.
SOCKET = {"x86_64": 41, "aarch64": 198}  # the number of the system call
NO_INTERNET = """
import ctypes, struct
steps = [(32, 0, 0, 0), (21, 0, 3, {number}), (32, 0, 0, 16), (21, 2, 0, 2), (21, 1, 0, 10),
         (6, 0, 0, 0x7FFF0000), (6, 0, 0, 0x80000000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
header = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(program))
prctl = ctypes.CDLL(None, use_errno=True).prctl
word = ctypes.c_ulong
assert prctl(38, word(1), word(0), word(0), word(0)) == 0  # PR_SET_NO_NEW_PRIVS
assert prctl(22, word(2), header, word(0), word(0)) == 0  # PR_SET_SECCOMP
"""
EVERY_KIND = """
import numpy as np
import tessera_onnx as t
print(len(t.list_models()))
for name in ("TesseraDense", "TesseraMultiVector", "TesseraSparse"):
    with getattr(t, name)() as model:
        print(len(model.encode_batch(["cat", "dog"])), len(model.rank("cat", ["dog"])))
with t.TesseraVision("tessera-page-mini") as model:
    print(len(model.rank("cat", [np.zeros((30, 40, 3), np.uint8)])))
with t.TesseraTimeSeries("tessera-bolt-mini") as model:
    print(len(model.forecast(np.arange(40.0), 8)))
print(len(t.PackedTokens([np.eye(4, dtype=np.float32)]).score(np.eye(4, dtype=np.float32))), "ok")
"""
REFUSED = """
import socket
def refuse(*_, **__): raise OSError("no network")
socket.socket = socket.create_connection = socket.getaddrinfo = refuse
"""


def test_no_kind_needs_or_tries_a_connection():
    """From import to result: Python's sockets raise, and where Linux can tell, it sees none."""
    number = SOCKET.get(platform.machine()) if sys.platform == "linux" else None
    before = NO_INTERNET.format(number=number) if number else ""
    code = REFUSED + before + EVERY_KIND
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" ok\n")
    if number:  # the filter does what it says
        code = before + "import socket\nsocket.socket()"
        done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
        assert done.returncode == -signal.SIGSYS


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

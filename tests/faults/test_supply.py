"""What this package is made of and brings along: pinned, hashed, the same bytes twice."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnxruntime
import pytest
from packaging.requirements import Requirement

import tessera_onnx

ROOT = Path(__file__).parents[2]
LOCK = Path(__file__).parents[1] / "requirements.lock"
CLIENTS = LOCK.parent / "server" / "clients.lock"


def locked(lock=LOCK):
    """Name to version of each package of a lock, all of whose files have a sha256."""
    entries = re.split(r"^(?=[a-z0-9])", lock.read_text(), flags=re.MULTILINE)[1:]
    found = {}
    for entry in entries:
        first = re.match(r"([\w.-]+)==([\w.]+)(?: ; .*)? \\$", entry, re.MULTILINE)
        name, version = first.groups()
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


def test_the_lock_of_the_clients_holds_them_and_what_a_server_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    clients = [
        line
        for line in CLIENTS.with_suffix(".txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    versions = locked(CLIENTS)
    for text in [*project["dependencies"], *extras["cpu"], *extras["serve"], *clients]:
        requirement = Requirement(text)
        assert versions[requirement.name.lower()] in requirement.specifier, text
    assert "torch" not in versions


@pytest.mark.skipif(not (ROOT / "starter").is_dir(), reason="a release is made of a checkout")
def test_the_lock_of_a_release_holds_its_tools_and_what_builds():
    lock = ROOT / ".ci" / "release.lock"
    tools = [line for line in lock.with_suffix(".txt").read_text().splitlines() if line[0] != "#"]
    versions = locked(lock)
    for folder in ("", "starter", "export"):
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())
        tools += project["build-system"]["requires"]
    for text in tools:
        requirement = Requirement(text)
        assert versions[requirement.name] in requirement.specifier, text


def test_the_lock_brings_nothing_that_calls_home():
    names = set(locked())
    assert not names & {"posthog", "sentry-sdk", "segment-analytics-python", "opentelemetry-sdk"}
    assert not names & {"torch", "transformers", "onnx", "optimum"}


def test_the_source_never_names_what_would_send_or_run():
    """Nothing opens a connection or runs code, beside the hub, a server, and a client of one."""
    modules = sorted(Path(tessera_onnx.__file__).parent.rglob("*.py"))
    assert len(modules) > 20
    # What listens, and what asks a server or cluster of the user's.
    of_a_server = {"protocol.py", "link.py", "ray.py"}
    for path in modules:
        text = path.read_text()
        if path.name in of_a_server:
            text = text.replace("import socket", "")
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
    """From import to result: Python's sockets raise, and where Linux can tell, it sees none.

    ONNX Runtime's telemetry calls later than this process lives: test_nothing_is_sent waits for it.
    """
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


# ---------------------------------------------------------------- telemetry

OPENED = {
    "dense": "t.TesseraDense().encode('x')",
    "multi-vector": "t.TesseraMultiVector().encode('x')",
    "sparse": "t.TesseraSparse().encode('x')",
    "vision": "t.TesseraVision('tessera-page-mini').encode_query('x')",
    "time-series": "t.TesseraTimeSeries('tessera-bolt-mini').forecast([1.0, 2.0, 3.0])",
}
ALONE = Path(__file__).parent / "alone.py"
PROGRAM = "from tessera_onnx.cli.main import main; main()"
CALLER_FIRST = "import onnxruntime\n"
# Wheels of Linux that are known to hold it; of others the control runs tell nothing.
KNOWN = (1, 29) <= tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) <= (1, 32)
KNOWN = KNOWN and sys.platform == "linux"


# Where one of these is set, ONNX Runtime takes itself to be tested and its telemetry keeps still:
# a run of CI would see nothing, whatever users see.
TESTERS = {
    "CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "TRAVIS", "JENKINS_URL",
    "CODEBUILD_BUILD_ID", "BUILDKITE", "TEAMCITY_VERSION", "APPVEYOR", "BITBUCKET_BUILD_NUMBER",
}  # fmt: skip


def environment(home, setting=None):
    """This one with a fresh home, as a user has it, and ORT_DISABLE_TELEMETRY as `setting` has."""
    own = {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "TESSERA_CACHE", "HF_HUB_CACHE", *TESTERS}
    names = {name: value for name, value in os.environ.items() if name not in own}
    if setting is not None:
        names["ORT_DISABLE_TELEMETRY"] = setting
    home.mkdir(exist_ok=True)
    return {**names, "HOME": str(home), "USERPROFILE": str(home), "LOCALAPPDATA": str(home)}


def left_in_home(home, arguments, setting=None):
    """The names of what a run of Python leaves in a fresh home; it works there too."""
    subprocess.run([sys.executable, *arguments], check=True, env=environment(home, setting),
                   cwd=home, capture_output=True)  # fmt: skip
    return {str(path.relative_to(home)) for path in home.rglob("*")}


@pytest.mark.parametrize("setting", [None, "", "1", "true"])
@pytest.mark.parametrize("kind", OPENED)
def test_a_fresh_home_stays_empty(kind, setting, tmp_path):
    if setting and kind != "dense":
        return
    code = f"import tessera_onnx as t\n{OPENED[kind]}"
    assert left_in_home(tmp_path / "home", ["-c", code], setting) == set()


@pytest.mark.parametrize(
    "arguments",
    [
        [PROGRAM, "demo"],
        [PROGRAM, "doctor"],
        [PROGRAM, "encode", "--text", "x"],
        ["import tessera_onnx, onnxruntime"],
    ],
)
def test_a_fresh_home_stays_empty_after_a_command(arguments, tmp_path):
    assert left_in_home(tmp_path / "home", ["-c", *arguments]) == set()


@pytest.mark.skipif(not KNOWN, reason="this onnxruntime is not known to hold telemetry")
def test_a_home_does_not_stay_empty_where_the_telemetry_is_on(tmp_path):
    """What shows that the tests above would see it."""
    dense = f"import tessera_onnx as t\n{OPENED['dense']}"
    for name, code, setting in (
        ("alone", CALLER_FIRST, None),
        ("first", CALLER_FIRST + dense, None),
        ("asked for", dense, "0"),
    ):
        assert any(
            "deviceid" in file for file in left_in_home(tmp_path / name, ["-c", code], setting)
        )


@pytest.mark.nightly
def test_an_import_that_came_first_is_said(tmp_path):
    """By one line of the log, and by doctor; what the user asked for is no problem."""
    code = """
import json, logging, sys
logging.basicConfig(stream=sys.stderr, format="%(message)s")
import tessera_onnx as t
from tessera_onnx.cli import doctor
t.TesseraDense().close()
t.TesseraSparse().close()
report = doctor.examine(None)
print(json.dumps([report["telemetry"], [p for p in report["problems"] if "telemetry" in p]]))
"""
    found = {}
    for name, first, setting in (
        ("plain", "", None),
        ("first", CALLER_FIRST, None),
        ("first, empty", CALLER_FIRST, ""),
        ("first, set", CALLER_FIRST, "1"),
        ("asked for", "", "0"),
    ):
        done = subprocess.run([sys.executable, "-c", first + code], check=True, text=True,
                              env=environment(tmp_path, setting), capture_output=True)  # fmt: skip
        found[name] = (*json.loads(done.stdout), done.stderr.count("was imported before"))
    if not KNOWN and all(state.startswith("none in") for state, *_ in found.values()):
        return
    assert found["plain"] == found["first, set"] == ("off", [], 0)
    assert found["asked for"] == ("on: ORT_DISABLE_TELEMETRY is set, and not to 1", [], 0)
    for name in ("first", "first, empty"):
        state, (problem,), logged = found[name]
        assert state == "on: onnxruntime was imported before tessera_onnx"
        assert "import tessera_onnx first, or set ORT_DISABLE_TELEMETRY=1" in problem
        assert logged == 1


def sent(home, code, setting=None):
    """What a process sends in a network of its own: see alone.py."""
    done = subprocess.run(
        [sys.executable, ALONE, "120", sys.executable, "-c", code],
        check=False, capture_output=True, text=True, env=environment(home, setting),
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["status"] == 0, found["said"]
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_nothing_is_sent(tmp_path):
    """Every kind, the demo, and 20 seconds more: no question, no connection, no packet.

    ONNX Runtime first calls some eight seconds after its import. Runs with the telemetry on, and
    one with two calls of Python's own, show that this network would hear it.
    """
    wait = "\nimport time; time.sleep(20)"
    demo = "\nfrom tessera_onnx.cli.main import main\nmain(['demo'], standalone_mode=False)"
    calls = """
import socket
for host in ("example.org", "192.0.2.7"):
    try: socket.create_connection((host, 443), 1)
    except OSError: pass
"""
    runs = {
        "all": (EVERY_KIND + demo + wait, None),
        "calls": (calls, None),
        "first": (CALLER_FIRST + EVERY_KIND + wait, None),
        "asked for": (EVERY_KIND + wait, "0"),
    }
    with ThreadPoolExecutor() as pool:
        tasks = {
            name: pool.submit(sent, tmp_path / name, code, setting)
            for name, (code, setting) in runs.items()
        }
    found = {name: task.result() for name, task in tasks.items()}
    silent = found["all"]
    assert (silent["names"], silent["connections"], silent["packets"]) == ([], [], [])
    assert "splade" in silent["said"]
    heard = found["calls"]
    assert set(heard["names"]) == {"example.org"}
    assert heard["connections"] == ["127.0.0.9:443"]
    assert "192.0.2.7, protocol 6" in heard["packets"]
    if KNOWN:
        for name in ("first", "asked for"):
            assert any(host.endswith(".microsoft.com") for host in found[name]["names"]), name
            assert "127.0.0.9:443" in found[name]["connections"]


@pytest.mark.nightly
@pytest.mark.skipif(not (ROOT / "starter").is_dir(), reason="builds wheels of a checkout")
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
    (package,) = (path for path in first if path.name.startswith("tessera_onnx-"))
    with zipfile.ZipFile(package) as wheel:
        files = {name for name in wheel.namelist() if name.startswith("tessera_onnx/")}
    here = (ROOT / "tessera_onnx").rglob("*")
    sources = (path.relative_to(ROOT) for path in here if path.is_file())
    names = {path.as_posix() for path in sources if "__pycache__" not in path.parts}
    assert files == names | {"tessera_onnx/models.toml"}

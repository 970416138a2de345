"""The files of docker/: the steps of the Dockerfile run in order in a clean folder.

No image is built: there is no registry of images here. FROM is a new virtual environment of this
Python, and the absolute paths of the file lie below the test's folder.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from command import run

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
pytestmark = [
    pytest.mark.posix,
    pytest.mark.skipif(not DOCKER.exists(), reason="these files are in a checkout, not in a wheel"),
]


def instructions():
    """The (name, rest) of each instruction."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


class Image:
    """A folder in place of an image: what each instruction does to it."""

    def __init__(self, root):
        self.root = self.work = root
        self.found = {}
        kept = ("PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONFIG_FILE", "PIP_EXTRA_INDEX_URL")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ}
        self.environment |= {"PATH": f"{root}/venv/bin:/usr/bin:/bin", "HOME": str(root)}

    def placed(self, text):
        """The text with the absolute paths of the image below the folder."""
        return re.sub(r"(?<![\w./])/(app|data)\b", rf"{self.root}/\1", text)

    def step(self, name, rest):
        method = getattr(self, name.lower(), None)
        if method is None:
            self.found[name] = rest
        else:
            method(rest)

    def from_(self, rest):
        assert rest.startswith("python:3.")
        subprocess.run([sys.executable, "-m", "venv", self.root / "venv"], check=True)

    def workdir(self, rest):
        self.work = Path(self.placed(rest))
        self.work.mkdir()

    def copy(self, rest):
        *sources, target = rest.split()
        copy = shutil.copytree if (ROOT / sources[0]).is_dir() else shutil.copy
        for source in sources:
            copy(ROOT / source, self.placed(target))

    def run(self, rest):
        command = ["bash", "-euo", "pipefail", "-c", self.placed(rest)]
        subprocess.run(command, check=True, cwd=self.work, env=self.environment, timeout=600)

    def env(self, rest):
        pairs = (pair.split("=", 1) for pair in shlex.split(rest))
        self.environment |= {key: self.placed(value) for key, value in pairs}

    arg = env


@pytest.mark.nightly
def test_the_steps_of_the_dockerfile_make_a_server(tmp_path):
    image = Image(tmp_path)
    for name, rest in instructions():
        image.step(name.replace("FROM", "FROM_"), rest)
    found, environment, root, work = image.found, image.environment, image.root, image.work
    assert found["USER"] == "65532:65532"
    assert found["EXPOSE"] == environment["TESSERA_PORT"] == "8080"
    # A free port in place of the image's, and this machine only.
    command = [*json.loads(found["ENTRYPOINT"]), *json.loads(found["CMD"])]
    environment |= {"TESSERA_PORT": "8977", "TESSERA_HOST": "127.0.0.1"}
    process = subprocess.Popen(
        command, cwd=work, env=environment, executable=root / "venv" / "bin" / "tessera"
    )
    try:
        end = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen("http://127.0.0.1:8977/readyz") as answer:
                    assert answer.status == 200
                break
            except OSError:
                assert time.monotonic() < end
                assert process.poll() is None
                time.sleep(0.2)
        body = json.dumps({"input": "hello"}).encode()
        url = "http://127.0.0.1:8977/v1/embeddings"
        with urllib.request.urlopen(urllib.request.Request(url, body)) as answer:
            assert len(json.load(answer)["data"][0]["embedding"]) == 384
    finally:
        process.terminate()
        assert process.wait(60) == 0


def test_the_files_name_options_and_paths_that_exist():
    options = set(re.findall(r"--[\w-]+", run("serve", "--help").stdout))
    for name in ("compose.yaml", "tessera.service", "kubernetes.yaml"):
        text = (DOCKER / name).read_text()
        lines = [line for line in text.splitlines() if re.search(r"serve|command:|args:", line)]
        used = {word for line in lines for word in re.findall(r'(?<=[\s"])--[\w-]+', line)}
        assert used
        assert used <= options
        assert "all-minilm-l6-v2" in text
    manifest = (DOCKER / "kubernetes.yaml").read_text()
    assert {"/livez", "/readyz"} <= set(re.findall(r"/\w+z", manifest))
    # What waits for the end is shorter than what kills.
    drain = int(re.search(r'"--drain", "(\d+)"', manifest)[1])
    grace = int(re.search(r"terminationGracePeriodSeconds: (\d+)", manifest)[1])
    assert drain + 5 < grace
    unit = (DOCKER / "tessera.service").read_text()
    seconds = re.search(r"TimeoutStopSec=(\d+)", unit)[1]
    assert int(re.search(r"--drain (\d+)", unit)[1]) < int(seconds)

"""`tessera serve` and `tessera demo --web` as processes of their own, for tests."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2

MINILM = "all-minilm-l6-v2"
ARTIFACTS = Path(__file__).parent / "artifacts"
# A model of each kind, for the dialects.
FIELD = (
    MINILM,
    "splade-tiny",
    "tessera-page-mini",
    *(str(ARTIFACTS / name) for name in ("reranker", "m3", "clip", "states", "prompts")),
)


def wait_until_ready(client, seconds=60):
    """Wait until all models are open."""
    end = time.monotonic() + seconds
    while (answer := client.get("/readyz")).status_code != 200:
        assert time.monotonic() < end, answer.text
        time.sleep(0.05)


class Process:
    """A running `tessera serve`, or another command; `lines` is its log so far."""

    def __init__(self, *arguments, command="serve", ready=True, **environment):
        code = "from tessera_onnx.cli.main import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, command, "--port", "0", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.lines = []
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            assert self._listening.wait(60), self.lines
            assert self.process.poll() is None, self.lines
            self.url = re.search(r'listening at ([^\s"]+)', "".join(self.lines))[1]
            if ready:
                with httpx2.Client(base_url=self.url, trust_env=False) as client:
                    wait_until_ready(client)
        except BaseException:
            self.kill()
            raise

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            if "listening at" in line:
                self._listening.set()
        self._listening.set()

    @property
    def port(self):
        return int(self.url.rpartition(":")[2])

    def stop(self, number=signal.SIGTERM, seconds=30):
        """Send a signal; the exit code and the log."""
        self.process.send_signal(number)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self._end()
        return code, "".join(self.lines)

    def kill(self):
        """End it at once."""
        self.process.kill()
        self.process.wait()
        self._end()

    def _end(self):
        self._reader.join()
        self.process.stderr.close()

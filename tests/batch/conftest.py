"""Tables and files of rows."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

WORDS = ("fresh", "bread", "rain", "storm", "letter", "ledger", "mill", "river", "clay", "lamp")


@pytest.fixture(scope="session")
def sentences():
    """Make n texts of 1 to 40 words, each another one."""

    def make(n, first=0):
        rows = range(first, first + n)
        return [
            f"{' '.join(WORDS[(i * 7 + k) % 10] for k in range(1 + i * 13 % 40))} {i}" for i in rows
        ]

    return make


@pytest.fixture
def write():
    """Write rows, as the ending of the name says."""

    def make(path, table, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        table = table if isinstance(table, pa.Table) else pa.table(table)
        lines = (
            "".join(json.dumps(row) + "\n" for row in table.to_pylist())
            if "jsonl" in path.name
            else ""
        )
        if path.name.endswith(".gz"):
            path.write_bytes(gzip.compress(lines.encode()))
        elif path.suffix == ".jsonl":
            path.write_text(lines)
        elif path.suffix == ".arrow":
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table, **options)
        else:
            pq.write_table(table, path, **options)
        return path

    return make


class Run:
    """`tessera batch` as a process of its own."""

    def __init__(self, *arguments):
        code = "import sys; from tessera_onnx.cli.main import main; main()"
        command = [sys.executable, "-c", code, "batch", *map(str, arguments), "--progress"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def wait(self, code=0):
        stdout, stderr = self.process.communicate()
        assert self.process.returncode == code, stderr
        return stdout


@pytest.fixture
def start():
    """Start `tessera batch` with some arguments."""
    return Run

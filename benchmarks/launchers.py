"""The servers of serving.py: how each is started, and its process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from load import Pool, Request, Result
from loaders import environment

HERE = Path(__file__).resolve().parent
START = 180.0  # seconds in which a server must answer
INFINITY = "import os, sys; from infinity_emb.cli import cli; sys.argv[0] = 'infinity_emb'; "
GRAPH = "from loaders import token_graph; os.chdir(token_graph({'work': os.environ['WORK']})); "


def tessera(precision: str) -> Callable[[Path, int], list[str]]:
    start = "from tessera_onnx.cli.main import main; main()"
    return lambda work, port: [
        *("-c", start, "serve", str(work / "artifact"), "--alias", f"model={work / 'artifact'}"),
        *("--precision", precision, "--port", str(port)),
    ]


def infinity(engine: str) -> Callable[[Path, int], list[str]]:
    begin = INFINITY + (GRAPH if engine == "optimum" else "") + "cli()"
    return lambda work, port: [
        *("-c", begin, "v2", "--engine", engine, "--device", "cpu", "--port", str(port)),
        *("--model-id", "." if engine == "optimum" else str(work / "torch")),
        *("--served-model-name", "model", "--url-prefix", "/v1", "--pooling-method", "mean"),
        "--no-bettertransformer",  # transformers has it no more
        "--no-model-warmup",  # with texts of 512 tokens, which would be the peak of its memory
    ]


def fastapi(name: str) -> Callable[[Path, int], list[str]]:
    place = str(HERE / "servers")
    return lambda _, port: ["-m", "uvicorn", "--app-dir", place, f"{name}:app", "--port", str(port)]


# Name: environment, packages that it needs, arguments of the interpreter, folder of the model.
SERVERS = {
    "infinity torch": ("infinity-emb", "infinity-emb torch", infinity("torch"), "torch"),
    "infinity optimum": (
        *("infinity-emb", "infinity-emb optimum-onnx onnxruntime", infinity("optimum"), "torch"),
    ),
    "tessera fp32": ("tessera-onnx", "tessera-onnx onnxruntime", tessera("fp32"), "fp32"),
    "tessera int8": ("tessera-onnx", "tessera-onnx onnxruntime", tessera("int8"), "int8"),
    "FastAPI + sentence-transformers": (
        *("sentence-transformers", "fastapi sentence-transformers torch", fastapi("fastapi_st")),
        "torch",
    ),
    "FastAPI + fastembed": (
        *("fastembed", "fastapi fastembed onnxruntime", fastapi("fastapi_fastembed")),
        "fp32",
    ),
}
VERSIONS = (
    "import sys, importlib.metadata as m; "
    "print(*[f'{name} {m.version(name)}' for name in sys.argv[1:]], sep=', ')"
)


@dataclass
class Server:
    """A running server and what was measured of it."""

    name: str
    process: subprocess.Popen
    port: int
    log: Path
    start: float = 0.0  # seconds until it answered
    cosine: float = 0.0
    queries: Result = field(default_factory=Result)  # at saturation, as bulk
    bulk: Result = field(default_factory=Result)
    # Of queries and of the bulk client, by share, whose saturation that is of, and whether there
    # was a bulk client.
    loads: dict[tuple[float, str, bool], tuple[Result, Result]] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Queries a second at saturation."""
        return max(1, self.queries.texts) / self.queries.seconds

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:150] if lines else ""

    def end(self) -> None:
        """Ask the process to end, and kill it after 20 s."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def peak(self) -> float:
        """Megabytes; not getrusage, which counts the memory of the process before exec too."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(name: str, python: str, work: Path, threads: int) -> Server:
    """Raises RuntimeError where the interpreter lacks what the server needs."""
    _, packages, arguments, folder = SERVERS[name]
    variables = environment(work, threads) | {"PYTHONPATH": str(HERE), "WORK": str(work)}
    variables |= {"MODEL": str(work / folder), "THREADS": str(threads)}
    if "PYTHONPATH" in os.environ:
        variables["PYTHONPATH"] += os.pathsep + os.environ["PYTHONPATH"]
    tried = [python, "-c", VERSIONS, *packages.split()]
    done = subprocess.run(tried, capture_output=True, text=True, check=False, env=variables)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1][:150])
    print(f"{name}: {done.stdout.strip()}", flush=True)
    port = free_port()
    log = work / f"{name}.log"
    command = [python, *arguments(work, port)]
    with log.open("w") as out:
        process = subprocess.Popen(command, env=variables, stdout=out, stderr=out)
    return Server(name, process, port, log)


async def ask(server: Server, asked: Request) -> bytes:
    """The answer, by a connection of its own."""
    pool = Pool(server.port)
    try:
        return await pool.post(asked.raw)
    finally:
        pool.close()


async def ready(server: Server, asked: Request) -> None:
    """Wait until it answers. Raises RuntimeError."""
    start = time.monotonic()
    while server.process.poll() is None and time.monotonic() < start + START:
        with contextlib.suppress(OSError, RuntimeError, EOFError):
            await ask(server, asked)
            server.start = time.monotonic() - start
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"it did not start: {server.last_words()}")

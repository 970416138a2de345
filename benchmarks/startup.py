"""Import, load, first vector, memory and installed size of a cold process.

    python benchmarks/startup.py [--rounds 9] [--weights FOLDER] [--model ARTIFACT]
                                 [--python NAME=PATH ...] [--size FOLDER]

Each figure is the median over fresh processes, which take turns. fastembed and
sentence-transformers are measured where `--python fastembed=/venv/bin/python` names an interpreter
that has them; they load the same weights (see peers.py for the two folders). `--size` itemises the
site-packages of an environment; by default that of this interpreter is left out, since it usually
holds the tools of development too.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TIMED = """
import time
t0 = time.perf_counter()
{imports}
t1 = time.perf_counter()
{load}
t2 = time.perf_counter()
{encode}
t3 = time.perf_counter()
import resource
steady = [l for l in open('/proc/self/status') if l.startswith('VmRSS')][0].split()[1]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print('RESULT', t1 - t0, t2 - t1, t3 - t2, int(steady) / 1024, peak / 1024)
"""
PEER = "import sys; sys.path.insert(0, {here!r}); import peers; import {module}"
LOAD = "encode = peers.PEERS[{name!r}][1]({{'model': {model!r}, 'weights': {weights!r}}})"
OURS = "import tessera_onnx; from tessera_onnx import TesseraDense"


def codes(model: str | None, weights: str | None) -> dict[str, tuple[str, str, str, str]]:
    """name: (environment, imports, load, encode)."""
    found = {
        "import numpy": ("", "import numpy", "", ""),
        "import tessera_onnx": ("", "import tessera_onnx", "", ""),
        "import its classes": ("", "from tessera_onnx import *", "", ""),
        "tessera-onnx, the starter": ("", OURS, "m = TesseraDense()", "m.encode('hello')"),
    }
    if model is None or weights is None:
        return found
    load = f"m = TesseraDense(path={model!r}, precision='fp32')"
    found["tessera-onnx fp32"] = ("", OURS, load, "m.encode('hello')")
    for name, module in (("fastembed", "fastembed"), ("sentence-transformers sorted", "torch")):
        where = {"here": str(HERE), "module": module, "name": name}
        where |= {"model": model, "weights": weights}
        imports, load = PEER.format(**where), LOAD.format(**where)
        found[name] = (name.split(" ", maxsplit=1)[0], imports, load, "encode(['hello'], None)")
    return found


def sizes(folder: Path) -> dict[str, float]:
    """Megabytes of each top-level entry, as files say: no file counts twice."""

    def of(path: Path) -> int:
        files = path.rglob("*") if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files if file.is_file())

    return {path.name: of(path) / 1e6 for path in folder.iterdir()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model")
    parser.add_argument("--weights")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--size", type=Path, help="a site-packages folder")
    options = parser.parse_args()
    pythons = dict(item.split("=", 1) for item in options.python)
    found: dict[str, list[list[float]]] = {}
    wanted = codes(options.model, options.weights)
    wanted = {k: v for k, v in wanted.items() if not v[0] or v[0] in pythons}
    for _ in range(options.rounds):
        for name, (where, imports, load, encode) in wanted.items():
            code = TIMED.format(imports=imports, load=load, encode=encode)
            command = [pythons.get(where, sys.executable), "-c", code]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            line = next(row for row in done.stdout.splitlines() if row.startswith("RESULT"))
            found.setdefault(name, []).append([float(part) for part in line.split()[1:]])
    print(f"{'':30} {'import s':>9} {'load s':>7} {'first s':>8} {'RSS MB':>7} {'peak MB':>8}")
    for name, rows in found.items():
        seconds = [statistics.median(column) for column in zip(*rows, strict=True)]
        print("{:30} {:9.3f} {:7.3f} {:8.3f} {:7.0f} {:8.0f}".format(name, *seconds))
    imports = {name: [row[0] for row in rows] for name, rows in found.items()}
    for name in ("import tessera_onnx", "import its classes"):
        pairs = zip(imports["import numpy"], imports[name], strict=True)
        print(f"{name} beyond numpy: {1000 * statistics.median(b - a for a, b in pairs):.1f} ms")
    if options.size:
        rows = sorted(sizes(options.size).items(), key=lambda row: -row[1])
        for name, size in rows[:12]:
            print(f"{size:8.1f} MB {name}")
        print(f"{sum(size for _, size in rows):8.1f} MB in all")


if __name__ == "__main__":
    main()

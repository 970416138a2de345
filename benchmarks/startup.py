"""Import, load, first vector, memory and installed size of a cold process.

    python benchmarks/startup.py [--rounds 9] [--weights FOLDER --model ARTIFACT]
                                 [--python NAME=PATH ...] [--size FOLDER]

Each figure is the median over fresh processes, which take turns; files are warm, but for the first
round. fastembed and sentence-transformers are measured where `--python fastembed=/venv/bin/python`
names an interpreter that has them; they load the same weights, laid out for them before (see
peers.py for the two folders). Memory is that of the process after the first vector, and the most
that it ever had (Linux). Installed size is that of a distribution and all that it requires, as its
environment has them, whatever else is installed there; ours with the wheel of the extra "cpu".
`--size` itemises a site-packages folder instead of the requirements of tessera-onnx.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from loaders import ST, environment, prepare

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
# Not getrusage, which counts the memory of the process before exec too.
rows = dict(line.split(':', 1) for line in open('/proc/self/status'))
steady, peak = (int(rows[name].split()[0]) / 1024 for name in ('VmRSS', 'VmHWM'))
print('RESULT', t1 - t0, t2 - t1, t3 - t2, steady, peak)
"""
LOAD = """
import sys
sys.path.insert(0, {here!r})
import loaders
encode = loaders.PEERS[{name!r}].load({options!r})
"""
OURS = "import tessera_onnx; from tessera_onnx import TesseraDense"
# Megabytes of each distribution that the named ones lead to, by its files' sizes.
SIZES = """
import json, re, sys
from importlib import metadata, util
from pathlib import Path
names, found = sys.argv[1:], {}
while names:
    name = re.sub('[-_.]+', '-', names.pop()).lower()
    try:
        one = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        continue  # for another system or Python
    if name in found:
        continue
    files = {one.locate_file(file).resolve() for file in one.files or ()}
    if name == 'tessera-onnx':  # installed as a link to the sources: these are what a wheel holds
        files |= set(Path(util.find_spec('tessera_onnx').origin).parent.rglob('*'))
    found[name] = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
    wanted = [row for row in one.requires or () if 'extra ==' not in row]
    names += [re.match('[A-Za-z0-9._-]+', row)[0] for row in wanted]
print(json.dumps(found))
"""
DISTRIBUTIONS = {
    "tessera-onnx": ("tessera-onnx", "onnxruntime"),
    "fastembed": ("fastembed",),
    ST: (ST,),
}


def codes(work: str, model: Path | None) -> dict[str, tuple[str, str, str, str]]:
    """name: (environment, imports, load, encode)."""
    found = {
        "import numpy": ("", "import numpy", "", ""),
        "import tessera_onnx": ("", "import tessera_onnx", "", ""),
        "import its classes": ("", "from tessera_onnx import *", "", ""),
        "tessera-onnx, the starter": ("", OURS, "m = TesseraDense()", "m.encode('hello')"),
    }
    if model is None:
        return found
    for precision in ("fp32", "int8"):
        load = f"m = TesseraDense(path={str(model)!r}, precision={precision!r})"
        found[f"tessera-onnx {precision}"] = ("", OURS, load, "m.encode('hello')")
    options = {"work": work, "threads": len(os.sched_getaffinity(0))}
    for name in ("fastembed", "fastembed int8 sorted", f"{ST} sorted"):
        where = name.split(" ", maxsplit=1)[0]
        load = LOAD.format(here=str(HERE), name=name, options=options)
        imports = f"import {where.replace('-', '_')}"
        row = name.removesuffix(" sorted")  # one text has no order
        found[row] = (where, imports, load, "encode(['hello'], None)")
    return found


def measured(
    wanted: dict[str, tuple[str, str, str, str]], pythons: dict[str, str], work: str, rounds: int
) -> dict[str, list[list[float]]]:
    """name: the figures of each round."""
    found: dict[str, list[list[float]]] = {}
    variables = environment(Path(work), len(os.sched_getaffinity(0)))
    for _ in range(rounds):
        for name, (where, imports, load, encode) in wanted.items():
            code = TIMED.format(imports=imports, load=load, encode=encode)
            command = [pythons.get(where, sys.executable), "-c", code]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=variables
            )
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
            line = next(row for row in done.stdout.splitlines() if row.startswith("RESULT"))
            found.setdefault(name, []).append([float(part) for part in line.split()[1:]])
    return found


def installed(python: str, names: tuple[str, ...]) -> dict[str, float]:
    """Megabytes of each distribution."""
    command = [python, "-c", SIZES, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def sizes(folder: Path) -> dict[str, float]:
    """Megabytes of each top-level entry, as files say: no file counts twice."""

    def of(path: Path) -> int:
        files = path.rglob("*") if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files if file.is_file())

    return {path.name: of(path) / 1e6 for path in folder.iterdir()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--size", type=Path, help="a site-packages folder")
    options = parser.parse_args()
    if (options.model is None) != (options.weights is None):
        parser.error("--model and --weights belong together")
    pythons = dict(item.split("=", 1) for item in options.python)
    if unknown := pythons.keys() - DISTRIBUTIONS.keys():
        parser.error(f"--python knows {sorted(DISTRIBUTIONS)}, not {sorted(unknown)}")
    with tempfile.TemporaryDirectory(prefix="startup-") as work:
        if options.model:
            prepare(Path(work), options.model, options.weights)
        wanted = codes(work, options.model)
        wanted = {k: v for k, v in wanted.items() if not v[0] or v[0] in pythons}
        found = measured(wanted, pythons, work, options.rounds)
    print(f"{'':30} {'import s':>9} {'load s':>7} {'first s':>8} {'RSS MB':>7} {'peak MB':>8}")
    for name, rows in found.items():
        seconds = [statistics.median(column) for column in zip(*rows, strict=True)]
        print("{:30} {:9.3f} {:7.3f} {:8.3f} {:7.0f} {:8.0f}".format(name, *seconds))
    imports = {name: [row[0] for row in rows] for name, rows in found.items()}
    for name in ("import tessera_onnx", "import its classes"):
        pairs = zip(imports["import numpy"], imports[name], strict=True)
        print(f"{name} beyond numpy: {1000 * statistics.median(b - a for a, b in pairs):.1f} ms")
    totals = {name: installed(python, DISTRIBUTIONS[name]) for name, python in pythons.items()}
    totals |= {"tessera-onnx": installed(sys.executable, DISTRIBUTIONS["tessera-onnx"])}
    items = sizes(options.size) if options.size else totals["tessera-onnx"]
    for name, size in sorted(items.items(), key=lambda row: -row[1])[:12]:
        print(f"{size:8.1f} MB {name}")
    if options.size:
        totals[str(options.size)] = items
    for name, rows in totals.items():
        print(f"{sum(rows.values()):8.1f} MB in all, {len(rows)} parts: {name}")


if __name__ == "__main__":
    main()

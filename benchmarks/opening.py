"""What it costs to open a model: function calls and milliseconds, with few and many installed.

    python benchmarks/opening.py [--python INTERPRETER] [--rounds 5] [--copies 196]

INTERPRETER is that of an environment with tessera-onnx, of any version, and the starter's models.
Measured are `TesseraDense("all-minilm-l6-v2")` and the command `tessera similarity a b`, where only
the starter's models are installed, and where `--copies` artifacts more lie in the local cache, or
in a pack. The copies are the test artifacts of this tree under other ids.

Each figure is of fresh processes, with TESSERA_THREADS=1. "calls" are calls of Python functions and
of built-in ones as cProfile counts them, and in brackets those of functions of tessera_onnx. "ms"
is processor time without a profiler, the best and the median of the rounds: on an idle machine it
is about the time that a user waits, and a busy machine changes it less. "with imports" counts from
the first import on, and for the command's ms the whole process. "without imports" is the same after
all modules that it loads were imported; nothing was read or opened before. "again" is a second
object in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ARTIFACTS = Path(__file__).resolve().parents[1] / "tests" / "artifacts"
TARGETS = {"dense": 'TesseraDense("all-minilm-l6-v2")', "command": "tessera similarity a b"}
# Runs in the measured process: what to do, what to import before, whether calls are counted.
CHILD = """
import sys
from time import process_time
target, before, profiled = sys.argv.pop(1), sys.argv.pop(1).split(), sys.argv.pop(1) == "calls"
for name in before:
    try:
        __import__(name)
    except Exception:
        pass
if target == "dense":
    def run():
        from tessera_onnx import TesseraDense
        TesseraDense("all-minilm-l6-v2")
else:
    def run():
        from importlib.metadata import entry_points
        (command,) = entry_points(group="console_scripts", name="tessera")
        sys.argv[0] = "tessera"
        try:
            command.load()()
        except SystemExit as end:
            assert not end.code, end.code
found = []
for _ in range(2 if target == "dense" else 1):
    if profiled:
        from cProfile import Profile
        profile = Profile()
        profile.runcall(run)
        rows = [(row.callcount, getattr(row.code, "co_filename", "")) for row in profile.getstats()]
        own = sum(count for count, file in rows if "/tessera_onnx/" in file)
        found.append(f"{sum(count for count, _ in rows):,} ({own:,})")
    else:
        start = process_time()
        run()
        found.append(1000 * (process_time() - start))
whole = 1000 * process_time()
import json
print("\\nRESULT " + json.dumps([found, list(sys.modules), whole]))
"""


def install(folder: Path, copies: int) -> None:
    """Copies of the small artifacts, each with an id of its own and no alias."""
    originals = sorted(path.parent for path in ARTIFACTS.glob("*/model.toml"))
    for number in range(copies):
        original = originals[number % len(originals)]
        target = folder / f"copy-{number:03}"
        shutil.copytree(original, target, ignore=lambda *_: {"golden.npz"})
        facts = (target / "model.toml").read_text()
        facts = re.sub(r'(?m)^id = ".*"', f'id = "copy-{number:03}"', facts, count=1)
        facts = re.sub(r"(?m)^aliases = \[[^]]*\]", "aliases = []", facts)
        (target / "model.toml").write_text(facts)


def make_pack(site: Path, copies: int) -> None:
    """An installed distribution of many artifacts, as PYTHONPATH finds it."""
    install(site / "many_models", copies)
    facts = site / "many_models-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: many-models\nVersion: 1\n")
    (facts / "entry_points.txt").write_text("[tessera_onnx.models]\nmany = many_models\n")


def measure(python: str, variables: dict[str, str], target: str, before: str, what: str) -> list:
    """What the process found, the modules that it loaded, and its milliseconds as a whole."""
    arguments = ["similarity", "a", "b"] if target == "command" else []
    command = [python, "-P", "-c", CHILD, target, before, what, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.rpartition("RESULT ")[2])


def row(python: str, variables: dict[str, str], target: str, rounds: int) -> list[str]:
    """Cells: calls and ms with imports, without, and again."""
    cells, ready = [], " ".join(measure(python, variables, target, "", "ms")[1])
    calls = {b: measure(python, variables, target, b, "calls")[0] for b in ("", ready)}
    times = {b: [measure(python, variables, target, b, "ms") for _ in range(rounds)] for b in calls}
    for before, place in (("", 0), (ready, 0), (ready, 1)):
        if place == len(calls[before]):
            return [*cells, "", ""]
        is_whole = target == "command" and not before
        found = [run[2] if is_whole else run[0][place] for run in times[before]]
        cells += [calls[before][place], f"{min(found):.1f} / {statistics.median(found):.1f}"]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, metavar="INTERPRETER")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--copies", type=int, default=196)
    options = parser.parse_args()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TESSERA_", "PYTHON"))}
    with tempfile.TemporaryDirectory(prefix="opening-") as work:
        base = kept | {"HF_HUB_CACHE": f"{work}/hub", "HF_HUB_OFFLINE": "1", "TESSERA_THREADS": "1"}
        few = base | {"TESSERA_CACHE": f"{work}/empty"}
        install(Path(work, "cache"), options.copies)
        make_pack(Path(work, "site"), options.copies)
        places = {
            "starter alone": few,
            f"and {options.copies} in the cache": base | {"TESSERA_CACHE": f"{work}/cache"},
            f"and {options.copies} in a pack": few | {"PYTHONPATH": f"{work}/site"},
        }
        heads = ("with imports", "without imports", "again")
        print("| | installed |", " | ".join(f"calls {h} | ms {h}" for h in heads), "|")
        print("| --- | --- |" + " ---: |" * 6)
        for target, title in TARGETS.items():
            for place, variables in places.items():
                cells = row(options.python, variables, target, options.rounds)
                print(f"| `{title}` | {place} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()

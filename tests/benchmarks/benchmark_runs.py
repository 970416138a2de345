"""Run a benchmark in a process of its own, and give a model a second precision."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ARTIFACTS = Path(__file__).parents[1] / "artifacts"


def run_benchmark(name, *options):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / name, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def two_precisions(model, own, other):
    """Give the graph of one precision to another one too."""
    shutil.copy(model / f"model.{own}.onnx", model / f"model.{other}.onnx")
    facts = (model / "model.toml").read_text()
    entry = re.search(rf"\[\[model.files]]\nname = .model.{own}.onnx.*?\n\n", facts, re.DOTALL)[0]
    facts = facts.replace(entry, entry + entry.replace(own, other))
    facts = facts.replace(f'{other} = ""', f'{other} = "model.{other}.onnx"')
    (model / "model.toml").write_text(facts)

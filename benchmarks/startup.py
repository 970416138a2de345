"""Cost of the import beyond NumPy's, and of the first vector in a cold process.

    python benchmarks/startup.py [--rounds 9]

Each figure is the median over fresh processes; the two imports take turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

TIMED = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
CODES = {
    "import numpy": TIMED.format("import numpy"),
    "import tessera_onnx": TIMED.format("import tessera_onnx"),
    "import and first vector": TIMED.format(
        "import tessera_onnx; tessera_onnx.TesseraDense().encode('hello')"
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in CODES}
    for _ in range(rounds):
        for name, code in CODES.items():
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            seconds[name].append(float(done.stdout))
    for name, values in seconds.items():
        print(f"{name:26} median {statistics.median(values):.3f} s   least {min(values):.3f} s")
    beyond = statistics.median(
        b - a for a, b in zip(seconds["import numpy"], seconds["import tessera_onnx"], strict=True)
    )
    print(f"tessera_onnx beyond numpy  median {beyond:.3f} s")


if __name__ == "__main__":
    main()

"""Change real inputs at random and read them: bounded, with a seed, no coverage needed.

    python tests/fuzz/run.py --seconds 120
    python tests/fuzz/run.py --target graph --seconds 3600 --seed 7

Each target runs in a process of its own, so that a crash inside of C++ is seen. The input at work
lies in fuzz-TARGET.bin, which stays when something was found; exit code 1 then.
`tests/fuzz/guided.py` does the same led by coverage, where atheris is installed.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from targets import TARGETS

MEMORY = 4 << 30
SECONDS = 30  # for one input
WORDS = [b"\0", b"\xff" * 8, b"-1", b"9" * 30, b"[" * 50, b"{", b'"', b"\n", b"..", b"../", b"nan",
         b"location", b"\x80" * 10, b"\xed\xa0\x80", b"\x7f" * 5, b"true", b"\\u0000"]  # fmt: skip


def mutations(corpus: list[bytes], seed: int) -> Iterator[bytes]:
    """The inputs themselves, then without end what one to six changes make of them."""
    yield from corpus
    chance = random.Random(seed)
    while True:
        data = bytearray(chance.choice(corpus))
        for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
            at = chance.randrange(len(data) + 1)
            to = min(len(data), at + chance.choice((1, 1, 2, 8, 64, 512)))
            kind = chance.randrange(8)
            if kind == 0 and data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            elif kind == 1 and data:
                data[at % len(data)] = chance.randrange(256)
            elif kind == 2:
                del data[at:to]
            elif kind == 3:
                data[at:at] = data[at:to] * chance.choice((1, 2, 20))
            elif kind == 4:
                data[at:at] = chance.choice(WORDS)
            elif kind == 5:
                data[at:to] = chance.choice(WORDS)
            elif kind == 6:
                other = chance.choice(corpus)
                start = chance.randrange(len(other) + 1)
                data[at:to] = other[start : start + 64]
            else:
                del data[at:]
        yield bytes(data)


def fuzz(name: str, seconds: float, seed: int, most: int | None = None) -> int:
    """Run a target in this process; the number of inputs. A finding is an exception, or worse."""
    call, corpus = TARGETS[name]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    kept = Path(f"fuzz-{name}.bin")
    end = time.monotonic() + seconds
    count = 0
    for count, data in enumerate(mutations(corpus, seed), 1):
        kept.write_bytes(data)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        call(data)
        faulthandler.cancel_dump_traceback_later()
        if count == most or time.monotonic() > end:
            break
    kept.unlink()
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz what reads files of strangers.")
    parser.add_argument("--target", choices=TARGETS, help="one, in this process; else all")
    parser.add_argument("--seconds", type=float, default=120, help="for all targets together")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.target:
        count = fuzz(options.target, options.seconds, options.seed)
        print(f"{options.target:12} {count:8,} inputs, nothing found")  # noqa: T201
        return
    failed = False
    for name in TARGETS:
        command = [sys.executable, __file__, "--target", name, "--seed", str(options.seed)]
        seconds = str(options.seconds / len(TARGETS))
        failed |= subprocess.run([*command, "--seconds", seconds], check=False).returncode != 0
    sys.exit(failed)


if __name__ == "__main__":
    main()

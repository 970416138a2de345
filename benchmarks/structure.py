"""Files, folders, floors and arrows of a package: how many rooms a reader has to know.

    python benchmarks/structure.py tessera_onnx [--tests tests]
    python benchmarks/structure.py export/tessera_export --tests tests/export

Nothing is imported: the imports are read from the syntax trees, those inside functions and those
for type checkers only too. An arrow is a pair of rooms of which the first imports the second.
Floors are the longest chain of arrows, counted in rooms; rooms that import each other in a circle
share a floor, and the arrows between them are the upward ones, since no order of the rooms has all
of them point down.

The first row counts each file as a room, the second each folder directly in the package and each
file beside them. An empty file is none. Below the table stand the upward arrows, the lines of the
package and of its tests, and the files of more than 400 lines.
"""

from __future__ import annotations

import argparse
import ast
import functools
import os
from pathlib import Path

MOST_LINES = 400

Arrows = set[tuple[str, str]]


def modules(package: Path) -> dict[str, Path]:
    """dotted name: file, of every module; that of a folder is its `__init__.py`."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path) -> set[str]:
    """Dotted names that a module may import, also a name of another module, which is none."""
    found = set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *base.split(".")]).rstrip(".")
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def module_of(name: str, known: dict[str, Path]) -> str | None:
    """The longest part of a dotted name that is a module of the package."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def arrows_of(known: dict[str, Path]) -> Arrows:
    """(importing, imported) modules, without those whose file is empty."""
    found = set()
    for name, path in known.items():
        targets = {module_of(target, known) for target in imports(name, path)}
        found |= {(name, target) for target in targets if target not in (None, name)}
    return {(a, b) for a, b in found if known[a].stat().st_size and known[b].stat().st_size}


def reachable(arrows: Arrows) -> dict[str, set[str]]:
    """For each room, all rooms that a chain of arrows leads to."""
    following: dict[str, set[str]] = {}
    for a, b in arrows:
        following.setdefault(a, set()).add(b)
    found = {}
    for start in following:
        seen: set[str] = set()
        waiting = {start}
        while waiting:
            new = following.get(waiting.pop(), set()) - seen
            seen |= new
            waiting |= new
        found[start] = seen
    return found


def upward(arrows: Arrows) -> Arrows:
    """Arrows between rooms that lead to each other."""
    reach = reachable(arrows)
    return {(a, b) for a, b in arrows if a in reach.get(b, ())}


def floors(rooms: set[str], arrows: Arrows) -> int:
    """Rooms in the longest chain; those of a circle share a floor."""
    reach = reachable(arrows)
    circle = {room: {room} for room in rooms}
    for a, b in upward(arrows):
        circle[a] |= {b} | {room for room in reach[b] if a in reach.get(room, ())}

    @functools.cache
    def height(room: str) -> int:
        below = {b for a, b in arrows if a in circle[room]} - circle[room]
        return 1 + max(map(height, below), default=0)

    return max(map(height, rooms), default=0)


def lines(paths: list[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path, help="its folder")
    parser.add_argument("--tests", type=Path, help="the folder of its tests")
    options = parser.parse_args()
    package = options.package.resolve()
    known = modules(package)
    if not known:
        parser.error(f"{options.package} holds no Python file")
    files = {name for name, path in known.items() if path.stat().st_size}
    room = {name: ".".join(name.split(".")[:2]) for name in files}
    between = arrows_of(known)
    by_folder = {(room[a], room[b]) for a, b in between if room[a] != room[b]}
    print("| rooms are | rooms | floors | arrows | upward |")
    print("| --- | ---: | ---: | ---: | ---: |")
    kinds = {"files": (files, between), "folders, and files": (set(room.values()), by_folder)}
    for title, (rooms, arrows) in kinds.items():
        counts = len(rooms), floors(rooms, arrows), len(arrows), len(upward(arrows))
        print("| {} | {} | {} | {} | {} |".format(title, *counts))
    print(f"\nfolders that hold code: {len({known[name].parent for name in files})}")
    for a, b in sorted(upward(between) | upward(by_folder)):
        print(f"upward: {a} -> {b}")
    paths = [known[name] for name in sorted(files)]
    print(f"package: {lines(paths)} lines in {len(paths)} files")
    if options.tests:
        tests = sorted(options.tests.rglob("*.py"))
        print(f"tests: {lines(tests)} lines in {len(tests)} files")
        paths += tests
    long = [(lines([path]), os.path.relpath(path)) for path in paths if lines([path]) > MOST_LINES]
    print(f"files of more than {MOST_LINES} lines: {len(long)}")
    for count, path in sorted(long, reverse=True):
        print(f"{count:6} {path}")


if __name__ == "__main__":
    main()

"""Which file imports what, for the tests of layers; read from the source, without running it."""

import ast
import sys


def imports(path):
    """The dotted name of everything that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def faults(root, rows, places):
    """(file, import) of each import that the tables do not allow, in the package at `root`.

    A file imports its own folder and those in earlier `rows`; those in one row do not know each
    other. `places` has the files and folders in which a package from elsewhere may be imported.
    """
    row_of = {name: row for row, names in enumerate(rows) for name in names.split()}
    for path in sorted(root.rglob("*.py")):
        here = path.relative_to(root)
        home = here.parts[0].removesuffix(".py")
        for name in imports(path):
            first, _, rest = name.partition(".")
            if first == root.name:
                package = rest.split(".")[0]
                allowed = package in {home, "__version__"} or row_of[package] < row_of[home]
            else:
                known = [places[part] for part in places if f"{name}.".startswith(f"{part}.")]
                allowed = first in sys.stdlib_module_names or any(
                    here.as_posix().startswith(tuple(place.split()) or "") for place in known
                )
            if not allowed:
                yield here.as_posix(), name

"""Read the licence that a model's README.md declares."""

from __future__ import annotations

import re
from pathlib import Path


def licence(folder: Path) -> str:
    """The `license` of the front matter of README.md, or "" where it does not say one.

    A licence of its own ("other") is given by its `license_name`.
    """
    try:
        with (folder / "README.md").open(encoding="utf-8") as stream:
            text = stream.read(1 << 20)
    except (OSError, UnicodeDecodeError):
        return ""
    front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    found = _line(front[1], "license") if front else ""
    return (_line(front[1], "license_name") if front and found == "other" else "") or found


def _line(front: str, key: str) -> str:
    found = re.search(
        rf"^{key}:[ \t]*(?:\n[ \t]*-[ \t]*)?([^\s#\[\]]+)[ \t]*$", front, re.MULTILINE
    )
    return found[1].strip("'\"")[:100] if found else ""

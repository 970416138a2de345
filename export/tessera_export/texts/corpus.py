"""Collect English prose that every machine has: Python's documentation (PSF licence)."""

from __future__ import annotations

import ast
import os
import re
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "turtledemo", "ensurepip"}
SKIPPED |= {"__pycache__", "_vendor", "_distutils"}


def passages(count_tokens: Callable[[str], int], size: int) -> list[str]:
    """Paragraphs of running text in source order, joined to passages of up to `size` tokens.

    Deterministic for a given version of Python: the topics of `help()`, then the standard
    library's docstrings by file name and line (PSF licence); a repeated paragraph counts once.
    """
    found: list[str] = []
    current: list[str] = []
    total = 0
    for paragraph in _paragraphs():
        tokens = count_tokens(paragraph)
        if current and total + tokens > size:
            found.append(" ".join(current))
            current, total = [], 0
        current.append(paragraph)
        total += tokens
    return [*found, " ".join(current)] if current else found


@cache  # seconds of parsing, and always the same
def _paragraphs() -> tuple[str, ...]:
    """Each once, in source order."""
    parts = (part for text in _docstrings() for part in re.split(r"\n\s*\n", text))
    paragraphs = (" ".join(part.split()) for part in parts)
    return tuple(dict.fromkeys(paragraph for paragraph in paragraphs if _is_prose(paragraph)))


def _is_prose(text: str) -> bool:
    """Eight words or more that end as a sentence does: no examples, tables or field lists."""
    if len(text.split()) < 8 or text[-1] not in ".!?":
        return False
    if text.startswith(("..", "*", "- ", ":", "@", "|", "+")):
        return False
    if any(mark in text for mark in (">>>", "---", "===", "::")):
        return False
    return sum(c.isalpha() or c.isspace() for c in text) >= 0.9 * len(text)


def _docstrings() -> Iterator[str]:
    from pydoc_data import topics

    for name in sorted(topics.topics):
        yield topics.topics[name]
    for path in _modules(Path(sysconfig.get_paths()["stdlib"])):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        owners = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        nodes = [node for node in ast.walk(tree) if isinstance(node, owners)]
        for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring


def _modules(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(set(folders) - SKIPPED)
        for name in sorted(files):
            if name.endswith(".py"):
                yield Path(folder, name)

"""Change a copy of a test artifact: tests of recipes and of damaged folders share it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

ARTIFACTS = Path(__file__).parent / "artifacts"
# Seconds after which what is waited for is taken to hang, on the busiest machine; what has to be
# fast is measured in processor time.
HANG = 600
TEXTS: list[str] = json.loads((ARTIFACTS / "texts.json").read_text())


def golden(name: str) -> dict[str, np.ndarray]:
    """The upstream values that tests/make_artifacts.py recorded."""
    with np.load(ARTIFACTS / name / "golden.npz", allow_pickle=False) as stored:
        return dict(stored)


def copy(name: str, target: Path, edit: Callable[[str], str] = str) -> Path:
    """A copy of the artifact whose model.toml went through `edit`."""
    shutil.copytree(ARTIFACTS / name, target)
    path = target / "model.toml"
    changed = edit(path.read_text())
    path.write_text(changed)
    return target


def replace(*pairs: tuple[str, str]) -> Callable[[str], str]:
    """An edit that replaces texts, each of which must be there."""

    def edit(text: str) -> str:
        for old, new in pairs:
            assert old in text, old
            text = text.replace(old, new)
        return text

    return edit


def relist(folder: Path, name: str, content: bytes) -> None:
    """Write `content` over a file and list it truthfully: only its meaning may be wrong."""
    old = (folder / name).read_bytes()
    (folder / name).write_bytes(content)
    toml = folder / "model.toml"
    pairs = (
        (hashlib.sha256(old).hexdigest(), hashlib.sha256(content).hexdigest()),
        (f"size = {len(old)}", f"size = {len(content)}"),
    )
    toml.write_text(replace(*pairs)(toml.read_text()))


def add_file(folder: Path, name: str, content: bytes) -> None:
    """Write a file and list it in model.toml."""
    (folder / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    toml = folder / "model.toml"
    entry = f'\n[[model.files]]\nname = "{name}"\nsha256 = "{digest}"\nsize = {len(content)}\n'
    toml.write_text(toml.read_text() + entry)

"""Fixtures: the starter models, the small test artifacts, the measurement collections."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from tessera_onnx import TesseraDense, TesseraMultiVector, TesseraSparse

settings.register_profile("loaded", deadline=None)  # a busy machine takes its time
settings.load_profile("loaded")

ARTIFACTS = Path(__file__).parent / "artifacts"
SYSTEMS = {"posix": os.name == "posix", "linux": sys.platform == "linux"}


def pytest_configure(config: pytest.Config) -> None:
    """Run a file or folder that is named on the command line whole, and not its quick tests."""
    is_named = config.args_source is pytest.Config.ArgsSource.ARGS
    has_marks = any(arg.startswith("-m") for arg in config.invocation_params.args)
    if is_named and not has_marks and not hasattr(config, "workerinput"):
        config.option.markexpr = "not (export or gpu or network or clients or integrations)"


@pytest.hookimpl(tryfirst=True)  # before pytest looks at -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in faults/ and fuzz/, and skip what this system cannot run."""
    for item in items:
        for folder in ("faults", "fuzz"):
            if ARTIFACTS.with_name(folder) in item.path.parents:
                item.add_marker(folder)
        for system, here in SYSTEMS.items():
            if not here and item.get_closest_marker(system):
                item.add_marker(pytest.mark.skip(reason=f"needs a {system} system"))


@pytest.fixture(autouse=True)
def _no_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see the installed packs only, never this user's caches, catalogue or network."""
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("TESSERA_MODELS", raising=False)
    monkeypatch.delenv("TESSERA_THREADS", raising=False)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def dense() -> Iterator[TesseraDense]:
    with TesseraDense("all-minilm-l6-v2") as model:
        yield model


@pytest.fixture(scope="session")
def multi() -> Iterator[TesseraMultiVector]:
    with TesseraMultiVector("all-minilm-l6-v2") as model:
        yield model


@pytest.fixture(scope="session")
def sparse() -> Iterator[TesseraSparse]:
    with TesseraSparse("splade-tiny") as model:
        yield model

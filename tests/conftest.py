"""Fixtures: the starter models, the small test artifacts, the measurement collections."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tessera_onnx import TesseraDense, TesseraMultiVector, TesseraSparse

ARTIFACTS = Path(__file__).parent / "artifacts"


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

"""The scoring graphs that tessera_onnx ships are the ones that this distribution makes."""

from pathlib import Path

import pytest

import tessera_onnx
from tessera_export.graph import maxsim

pytestmark = pytest.mark.export


def test_the_shipped_graphs_are_these():
    folder = Path(tessera_onnx.__file__).parent / "search"
    shipped = {path.name: path.read_bytes() for path in folder.glob("*.onnx")}
    assert maxsim.graphs() == shipped

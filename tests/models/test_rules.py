"""What types alone cannot say of an image model's entry."""

import re
from pathlib import Path

import pytest

from tessera_onnx.errors import LoadError
from tessera_onnx.models import catalogue

PACKAGE = Path(catalogue.__file__).parents[1]
PLACES = (PACKAGE / "models.toml", PACKAGE.parent / "models.toml")  # of a wheel, of a source tree
SHIPPED = next(path for path in PLACES if path.exists()).read_text(encoding="utf-8")


def entry(model_id, *edits):
    found = next(
        part for part in SHIPPED.split("[[model]]\n") if part.startswith(f'id = "{model_id}"')
    )
    for old, new in edits:
        assert old in found
        found = found.replace(old, new, 1)
    return catalogue.parse(f"schema = 1\n[[model]]\n{found}", "test")


@pytest.mark.parametrize(
    ("model_id", "edits", "message"),
    [
        ("colsmol-256m", [("tokens = 64", "tokens = 60")], "tokens must be a square number"),
        ("colsmol-256m", [("tokens = 64", "tokens = -1")], "tokens must be a square number"),
        ("colsmol-256m", [("tokens = 64", "tokens = 0")], "tokens is 0 with dynamic and fit"),
        ("colqwen2-v1.0", [("tokens = 0", "tokens = 4")], "tokens is 0 with dynamic and fit"),
        ("colsmol-256m", [("longest = 2048", "longest = 8192")], "is at most 4096"),
        ("colsmol-256m", [("longest = 2048", "longest = 0")], "longest goes with tiles and fit"),
        ("colpali-v1.2", [("size = 448", "size = 0")], "size must lie in 1..4096"),
        ("colpali-v1.2", [("std = [0.5,", "std = [0,")], "std in 0.000001"),
        ("colpali-v1.2", [('tile = ""', 'tile = "<t>"')], "tile goes with images that are cut"),
        ("colpali-v1.2", [('row_end = ""', 'row_end = "x"')], "row_end and grid_end go with tile"),
        ("colpali-v1.2", [('grid_end = ""', 'grid_end = "x"')], "row_end and grid_end go with"),
        ("colpali-v1.2", [('token = "<image>"', 'token = ""')], "token must not be empty"),
        ("colpali-v1.2", [("{image}", "{image}{image}")], "text must hold {image} once"),
        ("colpali-v1.2", [("{image}<bos>", "<bos>")], "text must hold {image} once"),
    ],
)
def test_entries_that_cannot_be(model_id, edits, message):
    with pytest.raises(LoadError, match=re.escape(message)):
        entry(model_id, *edits)
    assert entry(model_id)

"""What types alone cannot say of an image model's or a lexical model's entry."""

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
        ("bm25", [("k = 1.2", "k = nan")], "k lies in 0..1000000"),
        ("bm25", [("b = 0.75", "b = 1.5")], "b in 0..1"),
        ("bm25", [("average_length = 256.0", "average_length = 0")], "average_length in"),
        ("bm25", [("longest_word = 40", "longest_word = 0")], "longest_word must lie in 1.."),
        ("bm25", [('name = "german"', 'name = "english"')], "at least one, and none twice"),
        ("bm25", [('name = "german"', 'name = "klingon"')], "expected one of 'arabic', 'danish'"),
        ("bm25", [("vocab_size = 2147483648", "vocab_size = 9")], "vocab_size 2147483648"),
        ("bm25", [('query_weights = "ones"', 'query_weights = "model"')], 'query_weights "ones"'),
        ("bm25", [("zero_ids = []", "zero_ids = [1]")], "zero_ids []"),
        ("bm25", [("max_length = 0", "max_length = 512")], "no prompts, and max_length is 0"),
        ("bm25", [('prompt = ""', 'prompt = "q: "')], "no prompts, and max_length is 0"),
        ("bm25", [("[model.lexical]", "[model.lexicon]")], "unknown key 'lexicon'"),
    ],
)
def test_entries_that_cannot_be(model_id, edits, message):
    with pytest.raises(LoadError, match=re.escape(message)):
        entry(model_id, *edits)
    assert entry(model_id)

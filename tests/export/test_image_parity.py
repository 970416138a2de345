"""Pixels and prompt ids against transformers' and colpali-engine's processors, whole tensors."""

import dataclasses
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from tessera_onnx.images import decode, preprocess, prompt_ids

sys.path.insert(0, str(Path(__file__).parents[1]))
import image_cases as cases
import upstream_images as upstream
from page_models import engine

pytestmark = pytest.mark.export
NAMES = list(cases.files())
ENGINES = {
    "colpali-v1.2": "ColPaliProcessor",
    "colsmol-256m": "ColIdefics3Processor",
    "colmodernvbert": "ColModernVBertProcessor",
}


def mine(model_id, source, alpha):
    recipe = dataclasses.replace(cases.spec(model_id).vision.image, alpha=alpha)
    image = decode.open_image(source, where="image", alpha=alpha)
    found = preprocess.pixels(image, recipe)
    return cases.qwen_patches(found.tiles[0]) if recipe.resize == "dynamic" else found.tiles


@pytest.fixture(params=NAMES, ids=lambda name: name.replace(" ", "-"))
def content(request):
    return cases.files()[request.param]


@pytest.mark.slow
@pytest.mark.parametrize("model_id", cases.MODELS)
def test_files_with_alpha_dropped(model_id, content, tmp_path):
    """As transformers opens a path: upright, converted to RGB."""
    path = tmp_path / "image"
    path.write_bytes(content)
    expected = upstream.pixels(model_id, str(path))
    np.testing.assert_array_equal(mine(model_id, path, "dropped"), expected)


@pytest.mark.parametrize("model_id", cases.MODELS)
def test_images_on_white(model_id, content):
    expected = upstream.pixels(model_id, upstream.upright(content))
    np.testing.assert_array_equal(mine(model_id, content, "white"), expected)


@pytest.mark.parametrize("model_id", cases.MODELS)
@pytest.mark.parametrize("name", cases.PAGE_NAMES)
def test_real_pages(model_id, name):
    path = cases.PAGES / f"{name}.png"
    if not path.exists():
        pytest.skip("the document pages of ../shared/data are not here")
    expected = upstream.pixels(model_id, str(path))
    np.testing.assert_array_equal(mine(model_id, path, "dropped"), expected)


def test_a_tile_that_is_not_cut():
    """Idefics3 of a longest edge of one tile: no grid, no second view, no line end."""
    recipe = dataclasses.replace(cases.spec("colsmol-256m").vision.image, longest=512)
    image = Image.fromarray(cases.picture(300, 200))
    found = preprocess.pixels(image, recipe)
    processor = upstream.Idefics3ImageProcessorPil(
        size={"longest_edge": 512}, max_image_size={"longest_edge": 512}
    )
    expected = processor(image, return_tensors="np")["pixel_values"][0]
    assert (found.rows, found.columns) == (1, 1)
    np.testing.assert_array_equal(found.tiles, expected)
    spec = cases.spec("colsmol-256m").vision
    ids = prompt_ids.document_ids(spec.prompt, 64, 1, 1, cases.encode(cases.tokenizer()))
    expected = upstream.document_ids("colsmol-256m", (300, 200), longest=512)
    np.testing.assert_array_equal(ids, expected)


def ids(model_id, size):
    recipe = cases.spec(model_id).vision
    found = preprocess.pixels(Image.new("RGB", size, "white"), recipe.image)
    tokens = found.cells[0] * found.cells[1]
    encode = cases.encode(cases.tokenizer())
    return prompt_ids.document_ids(recipe.prompt, tokens, found.rows, found.columns, encode)


@pytest.mark.parametrize("size", cases.SIZES)
@pytest.mark.parametrize("model_id", cases.PROMPTED)
def test_prompt_ids(model_id, size):
    np.testing.assert_array_equal(ids(model_id, size), upstream.document_ids(model_id, size))


# PaliGemmaProcessor makes an array of its BatchFeature's tensors, of which NumPy 2.4 warns.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("size", cases.SIZES)
@pytest.mark.parametrize("model_id", ENGINES)
def test_colpali_engine(model_id, size):
    """The reference of ColSmol and of the first ColPali: ids, and pixels with alpha dropped."""
    processor = engine(ENGINES[model_id])
    backend = PreTrainedTokenizerFast(
        tokenizer_object=cases.tokenizer(), bos_token="<bos>", pad_token="<pad>"
    )
    image = upstream.PROCESSORS["colsmol-256m" if model_id != "colpali-v1.2" else model_id]
    batch = processor(image, backend).process_images([Image.new("RGB", size, "white")])
    expected = batch["input_ids"].numpy()[0]
    if model_id == "colpali-v1.2":
        # Its <bos> meets the one that PaliGemmaProcessor puts there. The engine of that model's
        # time wrote one, as ColPaliProcessor of transformers does.
        assert expected[1024] == expected[1025] == backend.bos_token_id
        expected = np.delete(expected, 1024)
    np.testing.assert_array_equal(ids(model_id, size), expected)
    clear = Image.open(io.BytesIO(cases.files()["rgba"]))
    batch = processor(image, backend).process_images([clear])
    found = mine(model_id, clear, "dropped")
    np.testing.assert_array_equal(found, batch["pixel_values"].numpy().reshape(found.shape))

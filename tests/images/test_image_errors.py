"""`index` of errors says which image, document or page is wrong, `path` which file."""

import io
import pickle

import numpy as np
import pdf_files as pdf
import pytest
from artifact_tools import ARTIFACTS
from PIL import Image

from tessera_onnx import (
    ConfigError,
    DimensionMismatch,
    EncodingError,
    FileError,
    TesseraVision,
)

PAGE = np.full((40, 60, 3), 255, np.uint8)


@pytest.fixture(scope="module")
def model():
    with TesseraVision("test-page", cache_dir=ARTIFACTS) as opened:
        yield opened


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (b"no image", EncodingError),
        (np.zeros((0, 5, 3), np.uint8), ConfigError),
        ("missing.png", FileError),
        (3, TypeError),
        (None, TypeError),
    ],
)
def test_an_image_among_others(model, wrong, error):
    items = [PAGE, PAGE, wrong, PAGE]
    with pytest.raises(error) as caught:
        model.encode_documents(items)
    assert caught.value.index == 2
    assert pickle.loads(pickle.dumps(caught.value)).index == 2
    with pytest.raises(error) as caught:
        list(model.encode_iter(iter(items)))
    assert caught.value.index == 2
    if isinstance(wrong, str):
        assert caught.value.path == wrong


def test_a_document_among_vectors(model):
    """The place in the list that was scored, not among its images."""
    vectors = model.encode_document(PAGE)
    for wrong, error in (
        (b"no image", EncodingError),
        (vectors[:, :5], DimensionMismatch),
        (np.full((1, 128), np.nan, np.float32), ConfigError),
    ):
        with pytest.raises(error) as caught:
            model.score("a text", [vectors, PAGE, vectors, wrong, PAGE])
        assert caught.value.index == 3
        with pytest.raises(error) as caught:
            model.search("a text", wrong)
        assert caught.value.index == 0


def test_an_image_alone_has_no_index(model, tmp_path):
    path = tmp_path / "text.png"
    path.write_text("no image")
    for source, error in ((b"no image", EncodingError), (path, FileError)):
        with pytest.raises(error) as caught:
            model.encode_document(source)
        assert caught.value.index is None
        assert caught.value.path == (None if source is not path else str(path))
        with pytest.raises(error) as caught:
            model.similarity_map("a text", source, page=1)
        assert caught.value.index is None


def test_what_may_be_content_is_no_path(model):
    text = "a key that was meant for another argument"
    with pytest.raises(FileError) as caught:
        model.encode_document(text)
    assert caught.value.path is None


@pytest.fixture
def file(tmp_path):
    """A PDF whose second page is too large."""
    path = tmp_path / "pages.pdf"
    path.write_bytes(pdf.build([pdf.page(100, 50), pdf.page(100, 5000), pdf.page(100, 50)]))
    return path


@pytest.mark.parametrize(
    ("pages", "index"), [(None, 1), ([3, 1, 2], 2), ("3,2", 1), ([2], 0), (np.array([1, 2]), 1)]
)
def test_a_page_that_fails(file, pages, index):
    """Its place among the results, whatever its number is."""
    with TesseraVision("test-page", cache_dir=ARTIFACTS, max_pixels=100_000) as model:
        found = []
        with pytest.raises(FileError, match="page 2: ") as caught:
            found.extend(model.encode_pages(file, pages=pages, dpi=72))
        assert caught.value.index == index == len(found)
        assert caught.value.path == str(file)
        with pytest.raises(EncodingError, match="page 2: ") as caught:
            list(model.encode_pages(file.read_bytes(), pages=pages, dpi=72))
        assert (caught.value.index, caught.value.path) == (index, None)
        with pytest.raises(FileError, match="page 2: ") as caught:
            model.locate("a text", file, page=2, dpi=72)
        assert caught.value.index is None


@pytest.mark.parametrize(
    ("pages", "index", "error"),
    [
        ([1, 9], 1, ConfigError),
        ("1-3,4", 3, ConfigError),
        ([1, 2, 0], 2, ConfigError),
        ([1, "2"], 1, TypeError),
        ("x", None, ConfigError),
        ([], None, ConfigError),
    ],
)
def test_a_page_that_is_not_there(model, file, pages, index, error):
    with pytest.raises(error) as caught:
        list(model.encode_pages(file, pages=pages))
    assert caught.value.index == index


def test_a_frame_that_fails(model, tmp_path):
    """A TIFF of two pages, of which the second is cut off in the file."""
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (2, 30, 30, 3), np.uint8)
    first, last = (Image.fromarray(array) for array in noise)
    first.save(content, "TIFF", save_all=True, append_images=[last])
    path = tmp_path / "pages.tiff"
    path.write_bytes(content.getvalue()[:-1500])
    with pytest.raises(FileError, match="page 2") as caught:
        list(model.encode_pages(path, pages=[1, 1, 2]))
    assert caught.value.index == 2
    assert caught.value.path == str(path)

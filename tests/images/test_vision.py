"""Page images through TesseraVision, on a graph whose values are known by hand (make_page).

Its vectors are the mean colours of 8 x 8 pixels, as unit vectors; white cells have none.
"""

import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, copy, replace
from PIL import Image, ImageSequence

from tessera_onnx import (
    BinaryTokens,
    ConfigError,
    DimensionMismatch,
    EncodingError,
    FileError,
    Int8Vectors,
    LoadError,
    ModelNotFound,
    PackedTokens,
    Tessera,
    TesseraMultiVector,
    TesseraVision,
    maxsim,
)
from tessera_onnx.vectors import quantization

WHITE = np.full((40, 60, 3), 255, np.uint8)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def page(**cells):
    """40 x 60 pixels, 5 x 7.5 cells: white but for cells "r1c2" and their colours."""
    image = WHITE.copy()
    for name, colour in cells.items():
        row, column = (int(number) for number in name[1:].split("c"))
        image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = colour
    return image


def pixels_of(file):
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def unit(*colour):
    """The vector of a cell of one colour: levels 0..255 are -1..1."""
    vector = np.zeros(128, np.float32)
    vector[:3] = np.array(colour) / 127.5 - 1
    return vector / np.linalg.norm(vector)


@pytest.fixture(scope="module")
def model():
    with TesseraVision("test-page", cache_dir=ARTIFACTS) as opened:
        yield opened


def test_kept_cells_are_rows_in_page_order(model):
    found = model.encode_document(page(r1c2=RED, r0c4=BLUE, r4c0=GREEN))
    assert found.dtype == np.float32
    expected = np.stack([unit(*BLUE), unit(*RED), unit(*GREEN)])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_every_form_of_an_image_gives_the_same(model, tmp_path):
    image = page(r1c2=RED, r2c2=(10, 200, 30))
    path = tmp_path / "page.png"
    Image.fromarray(image).save(path)
    truth = model.encode_document(image)
    for source in (path, str(path), path.read_bytes(), Image.fromarray(image)):
        np.testing.assert_array_equal(model.encode_document(source), truth)
    turned = np.ascontiguousarray(image.swapaxes(0, 1))  # transposed: another size, other cells
    assert len(model.encode_document(turned)) == 2


def test_an_image_never_depends_on_its_neighbours(model):
    images = [page(r1c2=RED), WHITE[:16, :16], page(r0c0=(1, 2, 3)), page(r2c2=BLUE)[:30]]
    together = model.encode_documents(images)
    for image, found in zip(images, together, strict=True):
        np.testing.assert_array_equal(found, model.encode_document(image))
    assert model.encode_documents([]) == []
    for found, truth in zip(model.encode_iter(iter(images), progress=True), together, strict=True):
        np.testing.assert_array_equal(found, truth)


def refilled(images):
    """A reader of video frames: one buffer, filled again for every image."""
    buffer = np.empty_like(images[0])
    for image in images:
        buffer[:] = image
        yield buffer


def animation(images):
    file = io.BytesIO()
    first, *others = map(Image.fromarray, images)
    first.save(file, "WebP", save_all=True, append_images=others, lossless=True)
    return ImageSequence.Iterator(Image.open(file))


def from_one_file(images):
    """Bytes of one size, in the same place."""
    buffer = bytearray()
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "BMP")
        buffer[:] = file.getvalue()
        yield buffer


@pytest.mark.parametrize("source", [refilled, animation, from_one_file])
def test_a_stream_may_give_one_object_again_and_again(source):
    images = [page(r1c2=RED), page(r0c0=GREEN), page(r2c2=BLUE), page(r3c1=RED, r0c5=BLUE)]
    with TesseraVision("test-page", cache_dir=ARTIFACTS, threads=2) as model:
        for found, image in zip(model.encode_iter(source(images)), images, strict=True):
            np.testing.assert_array_equal(found, model.encode_document(image))


def test_one_image_that_is_not_loaded_yet_may_be_used_by_many():
    large = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(large).save(file, "PNG")
    with TesseraVision("test-page", cache_dir=ARTIFACTS, threads=2) as model:
        truth = model.encode_document(large)
        for _ in range(3):
            image = Image.open(file)
            for found in model.encode_documents([image, image]):
                np.testing.assert_array_equal(found, truth)
            image = Image.open(file)
            with ThreadPoolExecutor(4) as pool:
                for found in pool.map(model.encode_document, [image] * 4):
                    np.testing.assert_array_equal(found, truth)


def test_an_image_that_cannot_be_loaded_comes_after_those_before_it():
    file = io.BytesIO()
    Image.fromarray(page(r1c2=RED)).save(file, "PNG")
    broken = Image.open(io.BytesIO(file.getvalue()[:-60]))
    with TesseraVision("test-page", cache_dir=ARTIFACTS, threads=2) as model:
        for first in (1, 2):
            found = model.encode_iter([page(r1c2=RED)] * first + [broken, WHITE])
            for _ in range(first):
                assert len(next(found)) == 1
            with pytest.raises(EncodingError, match=rf"images\[{first}\] cannot be decoded"):
                next(found)


def test_queries_are_those_of_the_text_model(model):
    with TesseraMultiVector(path=ARTIFACTS / "colbert") as texts:
        truth = texts.encode_query(["the cat", "new york"])
        names = texts.tokens("the cat", role="query")
    np.testing.assert_array_equal(model.encode_query("the cat"), truth[0])
    for found, each in zip(model.encode_query(["the cat", "new york"]), truth, strict=True):
        np.testing.assert_allclose(found, each, atol=1e-5)
    assert model.query_tokens("the cat") == names
    assert names[:5] == ["[CLS]", "[unused0]", "the", "cat", "[SEP]"]
    assert model.encode_query([]) == []


def test_scores_are_maxsim_whatever_is_given(model, tmp_path):
    image = page(r1c2=RED, r0c4=BLUE)
    path = tmp_path / "page.png"
    Image.fromarray(image).save(path)
    query, vectors = model.encode_query("cat"), model.encode_document(image)
    truth = maxsim(query, vectors)
    for left in ("cat", query):
        for right in (image, path, vectors):
            assert model.search(left, right) == pytest.approx(truth, abs=1e-5)
    assert model.search_document("cat", path) == pytest.approx(truth, abs=1e-5)


def test_a_page_without_vectors_comes_last(model):
    assert model.encode_document(WHITE).shape == (0, 128)
    # Two query rows, each the opposite of the page's only colour: the worst that a page can score.
    query = -np.stack([unit(*RED), unit(*RED)])
    found = model.rank(query, [WHITE, page(r0c0=RED), page(r0c0=GREEN)])
    assert [each.index for each in found] == [2, 0, 1]
    assert found[1].score == found[2].score == pytest.approx(-2)
    assert model.rank(query, [WHITE], 1)[0].score == -2


def test_long_lists_of_images_and_vectors_mixed(model):
    """More than are scored at a time; each place has the score of its own document."""
    colours = [(7 * i % 256, 255 - 3 * i, 11 * i % 200) for i in range(80)]
    images = [page(r1c1=colour) for colour in colours]
    query = np.stack([unit(*RED), unit(*GREEN)])
    truth = np.array([query @ unit(*colour) for colour in colours]).sum(axis=1)
    mixed = [image if i % 3 else model.encode_document(image) for i, image in enumerate(images)]
    np.testing.assert_allclose(model.score(query, mixed), truth, atol=1e-5)
    ranked = model.rank(query, mixed, top_k=5)
    assert [each.index for each in ranked] == np.argsort(-truth, kind="stable")[:5].tolist()
    assert len(model.score(query, [])) == 0


def test_small_forms_score_like_the_vectors(model, rng):
    """A trained model's vectors have no axis of their own, so a random rotation stands for them."""
    rotation = np.linalg.qr(rng.normal(size=(128, 128)))[0].astype(np.float32)
    vectors = np.stack([unit(*colour) for colour in (RED, GREEN, (200, 180, 10))]) @ rotation
    query = np.stack([unit(*RED), unit(0, 128, 255)]) @ rotation
    truth = maxsim(query, vectors)
    assert model.search(query, quantization.int8(vectors)) == pytest.approx(truth, abs=0.02)
    bits = np.where(vectors > 0, 1, -1) / np.sqrt(128)
    found = model.search(query, quantization.binary(vectors))
    assert found == pytest.approx((query @ bits.T).max(axis=1).sum(), abs=1e-5)
    assert found == pytest.approx(truth * np.sqrt(2 / np.pi), abs=0.25)


BITS, CODES, ONE = np.zeros((2, 16), np.uint8), np.zeros((2, 128), np.int8), np.ones((2, 1), "f4")


@pytest.mark.parametrize(
    ("vectors", "error", "message"),
    [
        (BinaryTokens(BITS[:, :8], 128), ConfigError, r"\(2, 8\) bytes do not hold 128 bits"),
        (BinaryTokens(BITS[0], 128), ConfigError, r"must have shape \(n, 128\), got \(128,\)"),
        (BinaryTokens(BITS.astype("f4"), 128), ConfigError, "do not hold 128 bits"),
        (BinaryTokens(BITS.tolist(), 128), TypeError, "must hold an array of bits"),
        (BinaryTokens(BITS, 128.0), TypeError, "a whole number of dimensions"),
        (Int8Vectors(CODES, ONE[:0], ONE), ConfigError, r"got \(2, 128\), \(0, 1\), \(2, 1\)"),
        (Int8Vectors(CODES, np.ones(5, "f4"), ONE), ConfigError, "a scale and an offset"),
        (Int8Vectors(CODES[:1], ONE, ONE), ConfigError, "a scale and an offset"),
        (Int8Vectors(CODES.tolist(), ONE, ONE), TypeError, "an array of int8 codes"),
        (Int8Vectors(CODES.astype(int), ONE, ONE), TypeError, "an array of int8 codes"),
        (Int8Vectors(CODES + np.int8(1), ONE * np.inf, ONE), ConfigError, "NaN or infinity"),
        (np.ma.masked_equal(np.ones((2, 128)), 1), ConfigError, "must have no masked values"),
    ],
)
def test_malformed_vectors_are_named(model, vectors, error, message):
    query = np.ones((1, 128), np.float32)
    with pytest.raises(error, match=rf"documents\[1\].* {message}"):
        model.score(query, [query, vectors])
    with pytest.raises(error, match=f"query.* {message}"):
        model.score(vectors, [query])


def test_packed_pages(model):
    images = [page(r1c2=RED), page(r0c0=BLUE, r2c2=GREEN)]
    pack = PackedTokens(model.encode_iter(images))
    np.testing.assert_allclose(model.score("cat", pack), model.score("cat", images), atol=1e-5)
    assert model.rank("cat", pack, 1)[0].index == model.rank("cat", images, 1)[0].index


def test_forms_and_pooling_of_a_document(model):
    image = page(
        r0c0=RED, r0c1=(250, 0, 0), r0c2=(255, 5, 0), r3c3=BLUE, r3c4=(0, 4, 250), r4c4=BLUE
    )
    whole = model.encode_document(image)
    assert whole.shape == (6, 128)
    pooled = model.encode_document(image, pool_factor=3)
    means = np.stack([whole[:3].mean(axis=0), whole[3:].mean(axis=0)])
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(pooled, expected, atol=1e-6)
    assert isinstance(model.encode_document(image, output_dtype="int8"), Int8Vectors)
    bits = model.encode_documents([image, WHITE], output_dtype="binary", pool_factor=3)
    assert [type(each) for each in bits] == [BinaryTokens] * 2
    assert [each.bits.shape for each in bits] == [(2, 16), (0, 16)]
    assert model.rank("cat", bits)[1].index == 1
    with pytest.raises(ConfigError, match="pool_factor"):
        model.encode_documents([image], pool_factor=0)
    with pytest.raises(ConfigError, match="output_dtype"):
        model.encode_query("cat", output_dtype="bits")


def test_similarity_map_by_hand(model):
    """Cells of 8 pixels, of a page that is padded to 48 x 64: 6 x 8 cells."""
    query = np.stack([unit(*RED), unit(*GREEN)])
    found = model.similarity_map(query, page(r1c2=RED, r4c0=(255, 255, 0)))
    expected = np.full((2, 6, 8), np.nan)
    expected[:, 1, 2] = 1, -1 / 3
    expected[:, 4, 0] = 1 / 3, 1 / 3
    # The last column of the page is half a cell wide, its other half is padding: still white.
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert model.similarity_map("cat", WHITE).shape == (32, 6, 8)
    assert np.isnan(model.similarity_map("cat", WHITE)).all()


def test_a_map_is_drawn_where_the_cells_are(model, tmp_path):
    image = page(r1c2=RED, r4c0=GREEN)
    query = np.stack([unit(*RED), unit(*GREEN)])
    file = tmp_path / "map.png"
    for token, hot, cold in ((0, (12, 20), (36, 4)), (1, (36, 4), (12, 20))):
        found = model.save_similarity_map(query, image, file, token=token)
        np.testing.assert_array_equal(found, model.similarity_map(query, image))
        drawn = pixels_of(file).astype(int)
        assert drawn.shape == image.shape
        changed = np.abs(drawn - image).sum(axis=2)
        assert changed[hot] > 20  # red over the cell's own colour
        assert changed[cold] == 0  # the lowest is clear
        assert changed[20, 40] == 0  # no vector there
    model.save_similarity_map(query, WHITE, file)
    np.testing.assert_array_equal(pixels_of(file), WHITE)


def test_maps_are_written_whole_or_not_at_all(model, tmp_path):
    file = tmp_path / "map.png"
    file.write_text("before")
    image = page(r1c2=RED)
    for token, error in ((32, ConfigError), (-1, ConfigError), ("a", TypeError)):
        with pytest.raises(error, match="token"):
            model.save_similarity_map("cat", image, file, token=token)
    with pytest.raises(ConfigError, match=r"\.png"):
        model.save_similarity_map("cat", image, tmp_path / "map.svg")
    with pytest.raises(FileError, match="no-folder"):
        model.save_similarity_map("cat", image, tmp_path / "no-folder" / "map.png")
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]


def test_bad_images_name_their_place(model, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    good = page(r1c2=RED)
    with pytest.raises(FileError, match="bad.png"):
        model.encode_documents([good, bad])
    with pytest.raises(EncodingError, match=r"images\[1\]"):
        model.encode_documents([good, b"no image", good])
    with pytest.raises(TypeError, match=r"images\[2\] must be a path"):
        model.encode_documents([good, good, 3])
    for call in (model.encode_documents, model.encode_iter):
        for one in ("page.png", bad, b"no image", 3, np.array(3.0)):
            with pytest.raises(TypeError, match="images must be a list"):
                call(one)
    with pytest.raises(TypeError, match=r"documents\[1\]"):
        model.rank("cat", [good, None])
    with pytest.raises(EncodingError, match=r"documents\[2\]"):
        model.rank("cat", [model.encode_document(good), good, b"no image"])
    with pytest.raises(DimensionMismatch, match=r"documents\[1\] has 3 dims"):
        model.rank("cat", [good, np.ones((4, 3), np.float32)])
    with pytest.raises(ConfigError, match=r"documents\[0\] must have shape"):
        model.rank("cat", [np.ones((4, 4, 3), np.float32)])
    with pytest.raises(ConfigError, match=r"documents\[0\] holds NaN"):
        model.rank("cat", [np.full((2, 128), np.nan, np.float32)])
    with pytest.raises(TypeError, match="documents must be a list of images or vectors, got nd"):
        model.rank("cat", np.array(3.0))
    with pytest.raises(TypeError, match="query must be"):
        model.search(3, good)
    with pytest.raises(ConfigError, match="top_k"):
        model.rank("cat", [good], 0)


def test_a_stream_hands_out_what_came_before_the_failure(model):
    stream = model.encode_iter([page(r1c2=RED), page(r0c0=BLUE), b"no image", page(r0c0=RED)])
    assert len(next(stream)) == len(next(stream)) == 1
    with pytest.raises(EncodingError, match=r"images\[2\]"):
        next(stream)

    def failing():
        yield page(r1c2=RED)
        raise KeyError("source")

    stream = model.encode_iter(failing())
    assert len(next(stream)) == 1
    with pytest.raises(KeyError):
        next(stream)


def test_the_limit_of_pixels_is_settable():
    with TesseraVision("test-page", cache_dir=ARTIFACTS, max_pixels=2399) as model:
        with pytest.raises(EncodingError, match="the limit is 2399"):
            model.encode_document(WHITE)
        assert model.encode_document(WHITE[:39]).shape == (0, 128)


def test_threads_share_a_model(model):
    images = [page(r1c2=(10 * i, 0, 255 - 10 * i)) for i in range(20)]
    truth = model.encode_documents(images)
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(model.encode_document, images), truth, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_the_object_itself(tmp_path):
    with Tessera("test-page", cache_dir=ARTIFACTS) as model:
        assert repr(model) == str(model) == "TesseraVision(model='test-page', embedding_dim=128)"
        assert (model.model(), model.device, model.precision) == ("test-page", "cpu", "fp32")
        assert (model.embedding_dim(), model.num_patches()) == (128, None)
        image = page(r1c2=RED)
        copied = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(copied.encode_document(image), model.encode_document(image))
        copied.close()
        copied.close()
        for call in (copied.encode_document, copied.encode_query):
            with pytest.raises(EncodingError, match="closed"):
                call(image if call == copied.encode_document else "cat")
        assert len(model.encode_document(image)) == 1
    with pytest.raises(TypeError, match="image_only"):
        TesseraVision("test-page", cache_dir=ARTIFACTS, image_only=1)
    with pytest.raises(ConfigError, match="fp16"):
        TesseraVision("test-page", cache_dir=ARTIFACTS, precision="fp16")
    with pytest.raises(ModelNotFound, match="test-colbert"):
        TesseraVision(path=ARTIFACTS / "page", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("pair", "match"),
    [
        (("dimension = 128", "dimension = 64"), "by the model's facts it is"),
        (('keep = "keep"', 'keep = "kept"'), "no output 'kept'"),
        (('vectors = "patches"', 'vectors = "one"'), "by the model's facts it is"),
        (('text_model = "test-colbert"', 'text_model = ""'), "texts are read by"),
    ],
)
def test_a_recipe_that_does_not_fit_its_graph(tmp_path, pair, match):
    folder = copy("page", tmp_path / "page", replace(pair))
    with pytest.raises(LoadError, match=match):
        TesseraVision(path=folder, cache_dir=ARTIFACTS)

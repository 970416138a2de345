"""Image models of every family by TesseraVision, against upstream on the same weights.

The goldens are of transformers' and colpali-engine's classes and processors, one page or query at
a time (tests/make_vision_artifacts.py).
"""

import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, copy, golden, relist, replace
from PIL import Image

from tessera_onnx import (
    ConfigError,
    EncodingError,
    InputTooLong,
    LoadError,
    TesseraDense,
    TesseraVision,
    TruncationWarning,
)
from tessera_onnx.images import preprocess
from tessera_onnx.images.graphs import PixelEncoder

LATE = ("colpali", "colsmol", "colqwen2")
PAIRS = ("clip", "siglip2")
STORED = {name: golden(name) for name in (*LATE, *PAIRS)}
PAGES = [STORED["clip"][f"page_{i}"] for i in range(3)]
QUERIES = STORED["clip"]["queries"].tolist()
COLPALI_EDGE, TILE_EDGE = 4, 2  # cells of an image, and of a tile, in these small models
quiet = pytest.mark.filterwarnings("ignore::tessera_onnx.TruncationWarning")


@pytest.fixture(scope="module")
def opened():
    models = {name: TesseraVision(path=ARTIFACTS / name) for name in (*LATE, *PAIRS)}
    yield models
    for model in models.values():
        model.close()


def close(found, truth, tolerance=1e-5):
    assert found.shape == truth.shape
    np.testing.assert_allclose(found, truth, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", LATE)
def test_pages_equal_upstream(opened, name):
    for i, found in enumerate(opened[name].encode_documents(PAGES)):
        close(found, STORED[name][f"page_vectors_{i}"])


@pytest.mark.parametrize("name", LATE)
def test_queries_equal_upstream(opened, name):
    """In one batch, so padded, although upstream's were alone (and ColSmol pads on the left)."""
    for i, found in enumerate(opened[name].encode_query(QUERIES)):
        close(found, STORED[name][f"query_vectors_{i}"])
        close(opened[name].encode_query(QUERIES[i]), STORED[name][f"query_vectors_{i}"])


@quiet  # the longest query is longer than these towers read, upstream cuts it too
@pytest.mark.parametrize("name", PAIRS)
def test_pairs_equal_upstream(opened, name):
    model = opened[name]
    found = model.encode_documents(PAGES)
    assert [each.shape for each in found] == [(1, model.embedding_dim())] * 3
    close(np.concatenate(found), STORED[name]["pages"])
    close(np.concatenate(model.encode_query(QUERIES)), STORED[name]["texts"])
    assert model.encode_query("rain").shape == (1, model.embedding_dim())
    cosines = STORED[name]["texts"] @ STORED[name]["pages"].T
    for query, scores in zip(QUERIES, cosines, strict=True):
        np.testing.assert_allclose(model.score(query, PAGES), scores, atol=1e-5)
        assert [each.index for each in model.rank(query, PAGES)] == np.argsort(-scores).tolist()


@pytest.mark.parametrize("name", LATE)
def test_scores_are_maxsim_of_upstreams_vectors(opened, name):
    stored = STORED[name]
    for i, query in enumerate(QUERIES):
        left = stored[f"query_vectors_{i}"]
        truth = [(left @ stored[f"page_vectors_{j}"].T).max(axis=1).sum() for j in range(3)]
        np.testing.assert_allclose(opened[name].score(query, PAGES), truth, atol=1e-4)
        assert opened[name].search(query, PAGES[1]) == pytest.approx(truth[1], abs=1e-4)


def image_rows(name, i):
    """Upstream's vectors at the places of image tokens, in the order of the prompt."""
    ids = STORED[name][f"page_ids_{i}"]
    values, counts = np.unique(ids, return_counts=True)
    token = values[counts.argmax()]
    return STORED[name][f"page_vectors_{i}"][ids == token]


@pytest.mark.parametrize("name", LATE)
def test_image_rows_alone(name):
    with TesseraVision(path=ARTIFACTS / name, image_only=True) as model:
        for i, page in enumerate(PAGES):
            found = model.encode_document(page)
            close(found, image_rows(name, i))
            assert len(found) < len(STORED[name][f"page_vectors_{i}"])
        assert pickle.loads(pickle.dumps(model)).encode_document(PAGES[0]).shape == (
            image_rows(name, 0).shape
        )


@pytest.mark.parametrize("image_only", [False, True])
def test_the_map_of_a_square_is_its_patches(image_only):
    with TesseraVision(path=ARTIFACTS / "colpali", image_only=image_only) as model:
        found = model.similarity_map(QUERIES[0], PAGES[0])
        assert model.num_patches() == COLPALI_EDGE**2
    products = STORED["colpali"]["query_vectors_0"] @ image_rows("colpali", 0).T
    close(found, products.reshape(-1, COLPALI_EDGE, COLPALI_EDGE))


@pytest.mark.parametrize(
    ("page", "rows", "columns"),
    [(0, 3, 4), (1, 4, 3), (2, 4, 4)],  # 96 x 64, 70 x 100 and 33 x 32 pixels
)
@pytest.mark.parametrize("image_only", [False, True])
def test_the_map_of_tiles_is_in_the_order_of_the_page(page, rows, columns, image_only):
    """Tile after tile in the prompt; row after row of the whole page in the map."""
    with TesseraVision(path=ARTIFACTS / "colsmol", image_only=image_only) as model:
        found = model.similarity_map(QUERIES[0], PAGES[page])
        assert model.num_patches() is None
    vectors = image_rows("colsmol", page)
    per_tile = TILE_EDGE**2
    assert len(vectors) == (rows * columns + 1) * per_tile  # the whole view comes last
    expected = np.empty((rows * TILE_EDGE, columns * TILE_EDGE, 128), np.float32)
    for tile in range(rows * columns):
        for cell in range(per_tile):
            y = tile // columns * TILE_EDGE + cell // TILE_EDGE
            x = tile % columns * TILE_EDGE + cell % TILE_EDGE
            expected[y, x] = vectors[tile * per_tile + cell]
    truth = np.einsum("qd,yxd->qyx", STORED["colsmol"]["query_vectors_0"], expected)
    close(found, truth)


@pytest.mark.parametrize("page", range(3))
def test_the_map_of_an_image_of_any_size_is_its_cells(page):
    with TesseraVision(path=ARTIFACTS / "colqwen2") as model:
        found = model.similarity_map(QUERIES[0], PAGES[page])
        assert model.num_patches() is None
    _, down, across = STORED["colqwen2"][f"grid_{page}"]  # patches, of which four are a cell
    assert down != across  # or the two could be confused
    vectors = image_rows("colqwen2", page).reshape(down // 2, across // 2, -1)
    close(found, np.einsum("qd,yxd->qyx", STORED["colqwen2"]["query_vectors_0"], vectors))


def test_a_pair_has_no_map(opened, tmp_path):
    with pytest.raises(ConfigError, match="one vector per image"):
        opened["clip"].similarity_map("rain", PAGES[0])
    with pytest.raises(ConfigError, match="one vector per image"):
        opened["clip"].save_similarity_map("rain", PAGES[0], tmp_path / "map.png")
    with pytest.raises(ConfigError, match="one vector per text"):
        opened["clip"].query_tokens("rain")
    assert opened["clip"].num_patches() == 1


@pytest.mark.parametrize("name", LATE)
def test_tokens_of_a_query(opened, name):
    names = opened[name].query_tokens("rain")
    assert len(names) == len(STORED[name]["query_vectors_1"])
    buffer = {"colpali": "<pad>", "colsmol": "<end_of_utterance>", "colqwen2": "<|endoftext|>"}
    assert names.count(buffer[name]) == 10


@pytest.mark.parametrize("name", LATE)
def test_a_long_query_is_cut_before_its_suffix(tmp_path, name):
    edit = replace(("max_length = 512", "max_length = 20"))
    folder = copy(name, tmp_path / name, edit)
    long = "rain in spain falls " * 9
    with TesseraVision(path=folder) as model:
        with pytest.warns(TruncationWarning, match="1 of 2 texts were cut to 20 tokens"):
            short, cut = model.encode_query(["rain", long])
        close(short, STORED[name]["query_vectors_1"])
        assert len(cut) == 20
    with TesseraVision(path=folder, on_long="truncate") as model:
        names = model.query_tokens(long)
        assert len(names) == 20
        whole = TesseraVision(path=ARTIFACTS / name).query_tokens(long)
        kept = next(i for i, (a, b) in enumerate(zip(names, whole, strict=False)) if a != b)
        assert names[kept:] == whole[-(20 - kept) :]
        assert 20 - kept >= 10
    with TesseraVision(path=folder, on_long="error") as model:
        with pytest.raises(InputTooLong, match="text 1 has"):
            model.encode_query(["rain", long])


@pytest.mark.parametrize("name", LATE)
def test_threads_share_a_model(opened, name):
    def work(i):
        return opened[name].encode_document(PAGES[i % 3]), opened[name].encode_query(QUERIES[i % 3])

    with ThreadPoolExecutor(4) as pool:
        for i, (page, query) in enumerate(pool.map(work, range(12))):
            close(page, STORED[name][f"page_vectors_{i % 3}"])
            close(query, STORED[name][f"query_vectors_{i % 3}"])


def test_closing_closes_every_graph():
    model = TesseraVision(path=ARTIFACTS / "colsmol")
    model.close()
    with pytest.raises(EncodingError, match="closed"):
        model.encode_document(PAGES[0])
    with pytest.raises(EncodingError, match="closed"):
        model.encode_query("rain")
    assert all(not session._sessions for session in model._sessions)


@pytest.mark.parametrize(
    ("pair", "match"),
    [
        (("tokens = 4", "tokens = 9"), "by the model's facts it is"),
        (('prefix = ""', 'prefix = "<bos>"'), "prefix spells the token <bos>"),
        (('token = "<image>"', 'token = "<picture>"'), "image token '<picture>'"),
        (('row_end = "\\n"', 'row_end = "<row_end>"'), "row_end spells the token <row_end>"),
        (('prefix = ""', 'prefix = "rain in"'), "no room"),
    ],
)
def test_a_tokenizer_that_is_not_that_of_the_recipe(tmp_path, pair, match):
    edit = replace(pair, ("max_length = 512", "max_length = 12"))
    with pytest.raises(LoadError, match=match):
        TesseraVision(path=copy("colsmol", tmp_path / "colsmol", edit))


def test_a_damaged_part_names_its_file(tmp_path):
    folder = copy("colpali", tmp_path / "colpali")
    relist(folder, "tiles.fp32.onnx", b"no graph")
    with pytest.raises(LoadError, match="tiles.fp32.onnx"):
        TesseraVision(path=folder)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_pair_whose_texts_a_dense_model_reads(tmp_path, layer_norm):
    """As nomic's: with the layer norm of its Matryoshka rule although nothing is cut."""
    edit = replace(
        ("matryoshka_layer_norm = false", f"matryoshka_layer_norm = {layer_norm}".lower())
    )
    copy("prompts", tmp_path / "texts", edit)

    def without_texts(toml):
        for start, end in (
            ("[model.text]", "[model.vision]"),
            ("[model.vision.query]", "[model.exp"),
        ):
            first = toml.index(start)
            toml = toml[:first] + toml[toml.index(end, first) :]
        return toml.replace('text_model = ""', 'text_model = "test-prompts"')

    folder = copy("siglip2", tmp_path / "images", without_texts)
    with TesseraDense(path=tmp_path / "texts") as texts:
        truth = texts.encode_query(["rain", "the cat"])
    if layer_norm:
        truth = truth - truth.mean(axis=1, keepdims=True)
        truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    with TesseraVision(path=folder, cache_dir=tmp_path) as model:
        close(np.concatenate(model.encode_query(["rain", "the cat"])), truth)
        close(model.encode_query("rain"), truth[:1])
        close(model.encode_document(PAGES[0]), STORED["siglip2"]["pages"][:1])
        found = model.score("rain", PAGES)
        np.testing.assert_allclose(found, STORED["siglip2"]["pages"] @ truth[0], atol=1e-5)
        with pytest.raises(ConfigError, match="one vector per text"):
            model.query_tokens("rain")


def test_the_first_state_of_a_tower_that_does_not_pool():
    with TesseraVision("test-page", cache_dir=ARTIFACTS) as model:
        recipe = dataclasses.replace(model.spec.vision, vectors="one", pooling="cls", keep="")
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[:8, :8] = 255, 0, 255
        prepared = preprocess.pixels(Image.fromarray(pixels), recipe.image)
        tower = PixelEncoder(model._session, recipe, None)
        found = tower.encode(prepared, image_only=False, parallel=False).vectors
    expected = np.zeros((1, 128), np.float32)
    expected[0, :3] = np.array([1, -1, 1]) / np.sqrt(3)
    close(found, expected)

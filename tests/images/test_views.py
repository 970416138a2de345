"""Long images: which are cut, where the views lie, and that their vectors and cells are right."""

import dataclasses
import itertools
import json
import math
import warnings

import image_cases as cases
import numpy as np
import pytest
from artifact_tools import ARTIFACTS
from click.testing import CliRunner
from PIL import Image, ImageDraw, ImageFont
from test_decode import FIT

from tessera_onnx import EncodingError, TesseraVision, TruncationWarning
from tessera_onnx.cli.main import main
from tessera_onnx.images import views

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
LINES = ["The river flood closed two bridges", "Repairs will take until autumn"]


def recipe(model_id):
    return FIT if model_id == "fit" else cases.spec(model_id).vision.image


LATE = ["fit", "colpali-v1.2", "colsmol-256m", "colqwen2-v1.0"]


@pytest.mark.parametrize("model_id", LATE)
@pytest.mark.parametrize(
    "size",
    [
        (595, 842), (842, 595), (1654, 2339), (2480, 3508), (8000, 6000),  # paper and photographs
        (1920, 1080), (1280, 720), (3840, 2160), (750, 1334),  # screens
        (612, 1008), (1, 1), (7, 5), (400, 800), (800, 400),
    ],
)  # fmt: skip
def test_pages_slides_and_screens_are_read_whole(size, model_id):
    assert views.cut(size, recipe(model_id)) == []


@pytest.mark.parametrize("size", [(80, 1), (60, 20), (64, 16), (80, 9)])
def test_what_is_not_shrunk_is_read_whole(size):
    assert views.cut(size, FIT) == views.cut(size[::-1], FIT) == []


@pytest.mark.parametrize("model_id", LATE)
@pytest.mark.parametrize(
    "size", [(520, 12_000), (12_000, 520), (900, 6_000), (3000, 9001), (5160, 2160)]
)
def test_views_overlap_and_leave_nothing_out(size, model_id):
    used = recipe(model_id)
    found = views.cut(size, used)
    along = 1 if size[1] > size[0] else 0
    levels = sorted({view.level for view in found})
    assert levels == list(range(len(levels)))
    for level in levels:
        spans = [(v.box[along], v.box[along + 2]) for v in found if v.level == level]
        assert spans[0][0] == 0
        assert spans[-1][1] == max(size)
        length = spans[0][1]
        assert all(end - start == length for start, end in spans)
        for (_, end), (start, _) in itertools.pairwise(spans):
            assert length > end - start >= length // views.OVERLAP - 1
        for (_, end), (start, _) in zip(spans, spans[3:], strict=False):
            assert start >= end  # of which joined() takes one layer
    for view in found:
        assert (view.box[1 - along], view.box[3 - along]) == (0, min(size))
    # At the first level nothing is shrunk but what is wider than the model reads.
    across, down = found[0].box[2] - found[0].box[0], found[0].box[3] - found[0].box[1]
    widest = views.longest(across, down, used)
    assert max(across, down) <= max(widest + 1, min(size))


def test_how_many_views_by_hand():
    """A recipe of 64 pixels: 64, 128 and 256 long, each an eighth of itself over the next."""
    found = views.cut((20, 300), FIT)
    places = [[v.box[1] for v in found if v.level == level] for level in range(4)]
    assert places == [[0, 47, 94, 142, 189, 236], [0, 86, 172], [0, 44], [0]]
    assert [len(views.cut((20, length), FIT)) for length in (79, 80, 81)] == [0, 0, 3]
    with pytest.raises(EncodingError, match="more than 256 views .*: cut the image into parts"):
        views.cut((20, 15_000), FIT)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["page", "colpali", "colsmol", "colqwen2"])
@pytest.mark.parametrize("flat", [False, True])
def test_a_long_image_has_the_vectors_of_its_views(name, flat):
    options = {"cache_dir": ARTIFACTS} if name == "page" else {}
    with TesseraVision(path=ARTIFACTS / name, **options) as model:
        size = (900, 200) if flat else (200, 900)
        image = Image.fromarray(cases.picture(*size))
        parts = views.cut(size, model.spec.vision.image)
        assert len(parts) > 2
        truth = [model.encode_document(image.crop(view.box)) for view in parts]
        # A view is not itself long, but for the last, which is the image or near to it.
        truth = [
            found if not views.cut(image.crop(view.box).size, model.spec.vision.image) else None
            for found, view in zip(truth, parts, strict=True)
        ]
        found = model.encode_document(image)
        start = 0
        for expected in truth:
            if expected is not None:
                np.testing.assert_array_equal(found[start : start + len(expected)], expected)
                start += len(expected)
        assert start
        for same in (
            model.encode_documents([image, image])[1],
            next(model.encode_iter([image])),
            next(model.encode_pages(cases.encoded(image))),
        ):
            np.testing.assert_array_equal(same, found)
        assert model.search("cat", image) == pytest.approx(model.search("cat", found))


@pytest.fixture(scope="module")
def model():
    with TesseraVision("test-page", cache_dir=ARTIFACTS) as opened:
        yield opened


def unit(*colour):
    vector = np.zeros(128, np.float32)
    vector[:3] = np.array(colour) / 127.5 - 1
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("place", [0, 40, 304, 392])
def test_a_mark_on_a_strip_is_found_where_it_is(place, flat, model):
    """Cells of 8 pixels, of 32 pixels across; a mark of one cell, somewhere on 24 x 400 pixels."""
    array = np.full((400, 24, 3), 255, np.uint8)
    array[place : place + 8, 8:16] = RED
    box = (8, place, 16, place + 8)
    if flat:
        array, box = np.ascontiguousarray(array.swapaxes(0, 1)), (place, 8, place + 8, 16)
    query = unit(*RED)[None]
    (found,) = model.regions(query, array)
    best = float((model.encode_document(array) @ query[0]).max())
    assert found.score == pytest.approx(best, abs=1e-6)
    assert best > 0.5
    # Views begin at whole pixels, not at whole cells: a view's cell may hold a part of the mark.
    left, top, right, bottom = found.box
    assert left < box[2] and right > box[0] and top < box[3] and bottom > box[1]
    assert (right - left) * (bottom - top) <= 200
    cells = model.similarity_map(query, array)
    assert cells.shape == ((1, 4, 50) if flat else (1, 50, 4))
    assert np.nanmax(cells) == cells[0, found.row, found.column] == found.score
    # All that is known lies around the mark: as far as the coarsest view's cells reach.
    rows = np.flatnonzero(np.isfinite(cells[0]).any(axis=0 if flat else 1))
    assert abs(rows * 8 + 4 - (place + 4)).max() <= 64


def test_the_map_of_a_strip_is_drawn_on_it(model, tmp_path):
    array = np.full((400, 24, 3), 255, np.uint8)
    array[304:312, 8:16] = RED
    array[104:112, 8:16] = GREEN
    file = tmp_path / "map.png"
    query = np.stack([unit(*RED), unit(*GREEN)])
    for token, hot, cold in ((0, (308, 12), (108, 12)), (1, (108, 12), (308, 12))):
        model.save_similarity_map(query, array, file, token=token)
        with Image.open(file) as drawn:
            changed = np.abs(np.asarray(drawn.convert("RGB")).astype(int) - array).sum(axis=2)
        assert changed.shape == (400, 24)
        assert changed[hot] > 20
        assert changed[cold] < changed[hot] / 2
        assert changed[200, 12] == 0


def test_joined_cells_by_hand():
    """Two views of 4 cells, the second 2 cells on, and the whole in cells twice as large."""
    view = lambda top, bottom, level: views.View((0, top, 8, bottom), level)  # noqa: E731
    parts = [
        (view(0, 32, 0), np.array([[0], [1], [2], [-1]]), (0.0, 0.0, 8.0, 32.0)),
        (view(16, 48, 0), np.array([[3], [4], [5], [6]]), (0.0, 0.0, 8.0, 32.0)),
        (view(0, 48, 1), np.array([[7], [8], [9]]), (0.0, 0.0, 16.0, 48.0)),
    ]
    layers, box = views.joined((8, 48), parts)
    assert box == (0, 0, 8, 48)
    known = [column.tolist() for column in layers[:, :, 0] if (column >= 0).any()]
    assert known == [[0, 1, 2, -1, -1, -1], [-1, -1, 3, 4, 5, 6], [7, 7, 8, 8, 9, 9]]


@pytest.mark.parametrize("name", ["clip", "siglip2"])
def test_a_model_of_one_vector_warns_of_long_images(name):
    with TesseraVision(path=ARTIFACTS / name) as model:
        strip = Image.fromarray(cases.picture(20, 120))
        page = Image.fromarray(cases.picture(70, 100))
        told = r"is 20 x 120 pixels: this model has one vector for an image .*: cut it into parts"
        for where, call in {
            "image": lambda: model.encode_document(strip),
            r"images\[1\]": lambda: model.encode_documents([page, strip]),
            r"documents\[0\]": lambda: model.search("rain", strip),
            "page 1": lambda: list(model.encode_pages(cases.encoded(strip))),
        }.items():
            with pytest.warns(TruncationWarning, match=f"^{where} {told}") as caught:
                call()
            assert (len(caught), caught[0].filename) == (1, __file__)
        with pytest.warns(TruncationWarning, match="and 2 more images are as long"):
            found = model.encode_documents([strip, page, strip, strip])
        assert [each.shape for each in found] == [(1, model.embedding_dim())] * 4
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.encode_documents([page])


def drawn(size, lines, point, step=None):
    image = Image.new("RGB", size, "white")
    font = ImageFont.load_default(point)
    for number, line in enumerate(lines):
        place = (20, 20 + number * (step or 2 * point))
        ImageDraw.Draw(image).text(place, line, "black", font)
    return image


@pytest.fixture(scope="module")
def starter():
    with TesseraVision("tessera-page-mini") as opened:
        yield opened


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("size", "point"),
    [
        ((520, 8_000), 15),  # a screenshot of a web page
        ((1440, 4_000), 16),  # on a wide screen
        ((2880, 7_500), 32),  # of twice the pixels
        ((1080, 4_000), 42),  # of a telephone
        ((576, 2_500), 22),  # a receipt
        ((945, 4_000), 37),  # scanned at 300 dpi
        ((6_000, 300), 15),  # a strip
    ],
)
def test_words_on_long_images_are_found(size, point, starter):
    words = ["Bread and yeast", *LINES, "Minutes of the budget meeting"] * 2
    step = None if size[0] > size[1] else (size[1] - 100) // len(words)
    image = drawn(size, words[: 2 if step is None else None], point, step)
    if step is None:
        image.paste(drawn((700, 300), LINES, point), (5_000, 0))
    best = starter.search("flood bridges", drawn((500, 100), LINES, 15))
    assert starter.search("flood bridges", image) >= 0.9 * best
    if size[0] == 520:
        plain = drawn(size, ["Bread and yeast", "Minutes"], point, 3 * step)
        assert starter.search("flood bridges", plain) < 0.75 * best


@pytest.mark.slow
def test_the_words_of_a_screenshot_are_found_where_they_are(starter):
    image = drawn((520, 6_000), ["Bread", "Minutes", "Yeast", "flood", "Budget"], 15, 1_250)
    found = {each.token: each for each in starter.regions("flood", image)}
    left, top, right, bottom = found["flood"].box
    assert 3_765 <= top < bottom <= 3_795
    assert 15 <= left < right <= 70


@pytest.mark.nightly
def test_the_command_reads_long_images(tmp_path):
    image = drawn((520, 6_000), ["Bread", "Minutes", "Yeast", "flood", "Budget"], 15, 1_250)
    image.save(tmp_path / "a.png")
    drawn((520, 400), ["Minutes", "Yeast"], 15).save(tmp_path / "b.png")
    names = [str(tmp_path / name) for name in ("b.png", "a.png")]
    done = CliRunner().invoke(main, ["rank", "--query", "flood", *names, "--json"])
    ranking = json.loads(done.stdout)["ranking"]
    assert ranking[0]["file"] == names[1]
    done = CliRunner().invoke(main, ["explain", "flood", names[1], "--json"])
    found = json.loads(done.stdout)
    assert (found["width"], found["height"]) == image.size
    (best,) = (each for each in found["matches"] if each["token"] == "flood")
    assert 3_765 <= best["box"][1] < best["box"][3] <= 3_795


def test_every_recipe_has_a_length():
    for model_id in cases.MODELS:
        used = recipe(model_id)
        assert views.longest(3, 4, used) > 0
        assert views.most_length(used) > 10_000
    square = dataclasses.replace(FIT, resize="dynamic", longest=0, least_pixels=1, most_pixels=5000)
    assert views.longest(1, 2, square) == math.sqrt(10_000)

"""Pages of PDFs: as large as their model reads them, those wanted, locked ones, their words."""

import base64
import dataclasses
import io
import json
import warnings

import image_cases as cases
import numpy as np
import pdf_files as pdf
import pytest
from artifact_tools import ARTIFACTS, copy, replace
from click.testing import CliRunner
from PIL import Image

from tessera_onnx import (
    ConfigError,
    EncodingError,
    FileError,
    LoadError,
    TesseraVision,
    TruncationWarning,
)
from tessera_onnx.cli.main import main
from tessera_onnx.images import page_text
from tessera_onnx.images.pdf import read_pages

LINES = ["The river flood closed two bridges", "Repairs will take until autumn"] * 2
PAGE = ("-m", "test-page", "--cache-dir", str(ARTIFACTS))
NO_SIZE = pdf.page(entries="/CropBox [300 300 400 400]")  # all of it outside of the page


def rendered(source, **options):
    """The images of the pages."""
    return (page.image for page in read_pages(source, **options))


def text_page(width, height, size, lines=LINES, entries="", matrix="1 0 0 1"):
    """Lines of Helvetica from the top, by the text matrix scaled or turned."""
    font = "/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica"
    font += " >> >> >>"
    tops = [height - 2 * size - 1.5 * size * i for i in range(len(lines))]
    parts = [
        f"BT /F1 {size} Tf {matrix} {2 * size} {tops[i]} Tm ({line}) Tj ET"
        for i, line in enumerate(lines)
    ]
    box = f"/MediaBox [0 0 {width} {height}] {font} {entries}"
    return box, "\n".join(parts)


def run(*args, code=0, env=None):
    result = CliRunner().invoke(main, list(map(str, args)), env=env, catch_exceptions=False)
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
    return result


@pytest.fixture(scope="module")
def model():
    with TesseraVision("test-page", cache_dir=ARTIFACTS) as opened:
        yield opened


@pytest.fixture(scope="module")
def starter():
    with TesseraVision("tessera-page-mini") as opened:
        yield opened


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("model_id", "paper", "size"),
    [
        ("colsmol-256m", (595, 842), (1447, 2048)),  # the longest edge of its tiles
        ("colsmol-256m", (298, 420), (1453, 2048)),
        ("colsmol-256m", (960, 540), (2048, 1152)),
        ("colpali-v1.2", (595, 842), (896, 1268)),  # twice the square that it is pressed into
        ("colpali-v1.2", (842, 595), (1268, 896)),
        ("clip-vit-b-32", (595, 842), (448, 634)),
        ("siglip2-base-patch16-224", (400, 400), (448, 448)),
        ("colqwen2-v1.0", (595, 842), (652, 923)),  # 602,112 pixels
        ("colqwen2-v1.0", (842, 1191), (653, 923)),
        ("colqwen2-v1.0", (500, 500), (776, 776)),
        # Long pages are drawn as wide as an A4 page is, or as twice the square.
        ("colsmol-256m", (227, 1400), (1448, 8928)),
        ("colpali-v1.2", (227, 1400), (896, 5524)),
        ("colqwen2-v1.0", (227, 1400), (653, 4021)),
    ],
)
def test_a_page_is_as_large_as_the_model_reads_it(model_id, paper, size):
    used = cases.spec(model_id).vision.image
    (image,) = rendered(pdf.build([pdf.page(*paper)]), recipe=used)
    assert image.size == pytest.approx(size, abs=2)
    (image,) = rendered(pdf.build([pdf.page(*paper)]), recipe=used, dpi=36)
    assert image.size == (-(-paper[0] // 2), -(-paper[1] // 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("paper", "size", "dpi"),
    [
        ((298, 420), 12, 102),  # A6: 17 pixels of 12 points
        ((298, 420), 8, 153),
        ((200, 500), 9, 136),  # a ticket
        ((960, 540), 28, 43.7),  # slides
        ((720, 405), 18, 68),
        ((842, 1191), 10, 85.1),  # A3: 1408 pixels, which is what it reads
        ((595, 842), 10, 120.4),
        ((2384, 3370), 48, 25.5),
        ((227, 2000), 10, 122.4),  # a long receipt is not shrunk
    ],
)
def test_letters_are_as_high_as_the_starter_reads_them(paper, size, dpi, starter):
    used = starter.spec.vision.image
    assert (used.letters, used.longest) == (17, 1408)
    content = pdf.build([text_page(*paper, size)])
    (image,) = rendered(content, recipe=used)
    assert image.size == pytest.approx([edge * dpi / 72 for edge in paper], abs=1.5)
    best = 2.1  # of "flood bridges" where every letter is read
    assert starter.search("flood bridges", next(starter.encode_pages(content))) > 0.93 * best


@pytest.mark.parametrize(
    ("size", "matrix", "entries"),
    [
        (12, "1 0 0 1", ""),
        (1, "12 0 0 12", ""),
        (24, ".5 0 0 .5", ""),
        (12, "0 1 -1 0", ""),
        (12, "1 0 0 1", "/Rotate 90"),
        (12, "1 0 0 -1", ""),
    ],
)
def test_letters_are_measured_as_they_stand_on_the_page(size, matrix, entries):
    import pypdfium2

    document = pypdfium2.PdfDocument(pdf.build([text_page(400, 500, size, LINES, entries, matrix)]))
    assert page_text.letters(document[0]) == pytest.approx(12)
    document.close()


def test_of_headings_and_text_most_letters_count():
    import pypdfium2

    head, body = text_page(595, 842, 40, ["Flood"]), text_page(595, 842, 11)
    document = pypdfium2.PdfDocument(pdf.build([(head[0], f"{head[1]}\n{body[1]}"), pdf.page()]))
    assert page_text.letters(document[0]) == 11
    assert page_text.letters(document[1]) is None
    document.close()


def test_a_stamp_on_a_scan_says_nothing_of_its_letters():
    import pypdfium2

    box, stamp = text_page(595, 842, 60, ["DRAFT"])
    inline = "\nq 500 0 0 700 40 40 cm BI /W 1 /H 1 /CS /G /BPC 8 ID \x00 EI Q"
    document = pypdfium2.PdfDocument(pdf.build([(box, stamp + inline), (box, stamp)]))
    assert page_text.letters(document[0]) is None
    assert page_text.letters(document[1]) == 60
    document.close()


def test_letters_of_a_recipe_are_checked(tmp_path):
    for text, error in (("letters = 3", "lie in 4..512"), ("letters = 17.5", "must be int")):
        edit = replace(("tokens = 0", f"tokens = 0\n{text}"))
        with pytest.raises(LoadError, match=f"letters.*{error}|{error}"):
            TesseraVision(path=copy("page", tmp_path / text, edit), cache_dir=ARTIFACTS)
    edit = replace(("tokens = 16", "tokens = 16\nletters = 17"))
    with pytest.raises(LoadError, match="letters .* go with fit"):
        TesseraVision(path=copy("colpali", tmp_path / "colpali", edit))


@pytest.mark.slow
def test_a_long_page_is_read_in_views(starter):
    lines = ["Bread and yeast"] * 60 + LINES + ["Minutes of the meeting"] * 60
    (vectors,) = starter.encode_pages(pdf.build([text_page(300, 2300, 12, lines)]))
    assert starter.search("flood bridges", vectors) > 1.9


# ---------------------------------------------------------------- pages wanted


def numbered(count):
    return pdf.build([pdf.page(100 + 10 * i, 100) for i in range(count)])


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (None, [1, 2, 3, 4, 5]), ([2], [2]), ((5, 1), [5, 1]), (range(2, 4), [2, 3]),
        (np.array([3]), [3]), (iter([4, 4]), [4, 4]), ("2", [2]), ("1-3,5", [1, 2, 3, 5]),
        (" 4 - 5 , 1", [4, 5, 1]),
    ],
)  # fmt: skip
def test_pages_wanted(wanted, numbers, model):
    found = list(rendered(numbered(5), dpi=72, pages=wanted))
    assert [image.width for image in found] == [90 + 10 * number for number in numbers]


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        ([0], ConfigError, "numbered from 1"), ([-1], ConfigError, "numbered from 1"),
        ([], ConfigError, "pages is empty"), ("", ConfigError, '"1-3,7"'),
        ("3-1", ConfigError, '"1-3,7"'), ("a", ConfigError, '"1-3,7"'),
        ("1,,2", ConfigError, '"1-3,7"'), ("1-9999999", ConfigError, '"1-3,7"'),
        (3, TypeError, "list of numbers"), (b"1", TypeError, "list of numbers"),
        ([1.0], TypeError, "must hold numbers"), ([True], TypeError, "must hold numbers"),
        (["1"], TypeError, "must hold numbers"),
    ],
)  # fmt: skip
def test_wrong_pages_are_refused_at_the_call(wanted, error, message, model):
    with pytest.raises(error, match=message):
        model.encode_pages(numbered(5), pages=wanted)


def test_a_page_that_is_not_there(model, tmp_path):
    with pytest.raises(ConfigError, match="the PDF has no page 6: it has 5"):
        list(model.encode_pages(numbered(5), pages=[1, 6]))
    with pytest.raises(EncodingError, match="has 3 pages, the limit is 2"):
        list(model.encode_pages(numbered(5), pages=[1, 2, 3], max_pages=2))
    assert len(list(model.encode_pages(numbered(501), pages="500-501"))) == 2
    path = tmp_path / "a.pdf"
    path.write_bytes(numbered(5))
    with pytest.raises(ConfigError, match=f"{path} has no page 9: it has 5"):
        model.regions("cat", path, page=9)


def test_a_failing_page_is_named_by_its_own_number(model):
    content = pdf.build([pdf.page(), pdf.page(), pdf.page(14_400, 14_400)])
    found = model.encode_pages(content, dpi=144, pages=[2, 3])
    next(found)
    with pytest.raises(EncodingError, match="page 3: it has 28800"):
        next(found)


# ---------------------------------------------------------------- locked


def test_a_locked_file_opens_with_its_password(model, tmp_path):
    content = pdf.build([pdf.page()], password="a secret")
    path = tmp_path / "locked.pdf"
    path.write_bytes(content)
    (truth,) = model.encode_pages(pdf.build([pdf.page()]))
    for source in (content, path, io.BytesIO(content)):
        (found,) = model.encode_pages(source, password="a secret")
        np.testing.assert_array_equal(found, truth)
    assert model.regions("cat", path, password="a secret")
    np.testing.assert_array_equal(
        model.similarity_map("cat", content, password="a secret"),
        model.similarity_map("cat", pdf.build([pdf.page()])),
    )
    for password in (None, "b secret", "", "\ud800"):
        message = "pass its `password=`" if password is None else "another password"
        with pytest.raises(FileError, match=f"{path} cannot be read: it is encrypted.*{message}"):
            list(model.encode_pages(path, password=password))
        with pytest.raises(FileError, match=message) as caught:
            model.regions("cat", path, password=password)
        assert "b secret" not in str(caught.value)
    with pytest.raises(TypeError, match="password must be str or None, got int"):
        model.encode_pages(path, password=3)
    # What is not locked needs none.
    (found,) = model.encode_pages(pdf.build([pdf.page()]), password="a secret")
    np.testing.assert_array_equal(found, truth)


# ---------------------------------------------------------------- without size


def test_a_page_without_size_is_told_of_and_has_no_vectors(model, tmp_path):
    content = pdf.build([pdf.page(), NO_SIZE, pdf.page(100, 300), NO_SIZE])
    truth = list(model.encode_pages(pdf.build([pdf.page(), pdf.page(100, 300)])))
    with pytest.warns(TruncationWarning, match="^page 2, page 4 of the PDF: no size") as caught:
        found = list(model.encode_pages(content))
    assert (len(caught), caught[0].filename) == (1, __file__)
    assert [len(each) for each in found] == [len(truth[0]), 0, len(truth[1]), 0]
    assert found[1].shape == (0, 128)
    np.testing.assert_array_equal(found[2], truth[1])
    with pytest.warns(TruncationWarning, match="page 2"):
        (bits,) = model.encode_pages(content, pages=[2], output_dtype="binary", pool_factor=2)
    assert bits.bits.shape == (0, 16)
    with pytest.raises(EncodingError, match="page 2 has no size"):
        model.regions("cat", content, page=2)
    path = tmp_path / "a.pdf"
    path.write_bytes(content)
    done = run("rank", "--query", "cat", path, *PAGE, "--json")
    ranking = json.loads(done.stdout)["ranking"]
    assert sorted(each["page"] for each in ranking) == [1, 2, 3, 4]
    assert [each["page"] for each in ranking[-2:]] == [2, 4]
    assert "page 2, page 4 of the PDF: no size" in done.stderr
    done = run("encode", path, "-o", tmp_path / "o.npz", *PAGE)
    assert done.stdout.startswith("4 images")
    assert "page 2, page 4 of the PDF: no size" in done.stderr
    with np.load(tmp_path / "o.npz") as stored:
        lengths = np.diff(stored["offsets"]).tolist()
    assert lengths == [len(each) for each in found]


@pytest.mark.parametrize("box", ["[0 0 0 0]", "[0 0 200 0]", "[5 5 5 5]", "[a b]", "[]"])
def test_a_media_box_without_size_is_letter_paper_as_pdfium_has_it(box, model):
    content = pdf.build([(f"/MediaBox {box}", ""), pdf.page()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(model.encode_pages(content))) == 2
    assert next(rendered(content, dpi=72)).size == (612, 792)


# ---------------------------------------------------------------- words and regions


def words_of(content, **options):
    (page,) = read_pages(content, words=True, **options)
    return page


@pytest.mark.parametrize("entries", ["", "/Rotate 90", "/Rotate 180", "/Rotate 270",
                                     "/CropBox [10 20 290 395]"])  # fmt: skip
def test_words_stand_where_they_are_drawn(entries):
    content = pdf.build([text_page(300, 400, 12, ["The river", "flood"], entries)])
    page = words_of(content, dpi=144)
    assert sorted(word.text for word in page.words) == ["The", "flood", "river"]
    dark = np.asarray(page.image.convert("L")) < 128
    left = dark.copy()
    for word in page.words:
        x0, y0, x1, y1 = word.box
        inside = (slice(int(y0), int(y1) + 2), slice(int(x0), int(x1) + 2))
        assert dark[inside].sum() > 50
        assert (x1 - x0) * (y1 - y0) < 90 * 40
        left[inside] = False
    assert not left.any()  # no ink outside of the words


def test_words_outside_of_the_page_are_left_out():
    box, text = text_page(300, 400, 12, ["inside", "outside"])
    page = words_of(pdf.build([(f"{box} /CropBox [0 370 300 400]", text)]))
    assert [word.text for word in page.words] == ["inside"]


def test_words_of_no_text_layer_and_odd_characters():
    assert words_of(pdf.build([pdf.page()])).words == ()
    page = words_of(pdf.build([text_page(300, 100, 12, ["a-b  \\(c\\) d\\344"])]))
    assert [word.text for word in page.words] == ["a-b", "(c)", "d\u00e4"]


def test_regions_by_hand(model):
    """Cells of 8 pixels, of a page of 40 x 60 that is padded to 48 x 64."""
    image = np.full((40, 60, 3), 255, np.uint8)
    image[8:16, 16:24] = (255, 0, 0)
    image[32:40, 0:8] = (0, 255, 0)
    image[0:8, 56:60] = (0, 0, 255)
    query = np.zeros((3, 128), np.float32)
    query[:, :3] = np.array([[1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    found = model.regions(query, image)
    assert [each.index for each in found] == [0, 1, 2]
    assert [each.box for each in found] == [(16, 8, 24, 16), (0, 32, 8, 40), (56, 0, 60, 8)]
    assert [(each.row, each.column) for each in found] == [(1, 2), (4, 0), (0, 7)]
    assert [each.score for each in found[:2]] == pytest.approx([1, 1], abs=1e-5)
    assert {(each.token, each.words) for each in found} == {("", ())}
    named = model.regions("cat", image)
    assert [each.token for each in named] == model.query_tokens("cat")
    assert model.regions("cat", np.full((40, 60, 3), 255, np.uint8)) == []
    located = model.locate("cat", image)
    assert located.image.size == (60, 40)
    assert located.box == (0, 0, 64, 48)
    assert list(located.regions) == named
    np.testing.assert_array_equal(located.map, model.similarity_map("cat", image))


def test_boxes_are_in_pixels_of_the_upright_image(model):
    """Of an image that is halved to 64 pixels, and turned by its EXIF orientation."""
    array = np.full((64, 128, 3), 255, np.uint8)
    array[16:32, 96:112] = (255, 0, 0)
    query = np.zeros((1, 128), np.float32)
    query[0, :3] = np.array([1, -1, -1]) / np.sqrt(3)
    (found,) = model.regions(query, array)
    assert found.box == (96, 16, 112, 32)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = cases.encoded(Image.fromarray(array), exif=exif)
    (found,) = model.regions(query, turned)
    assert found.box == (32, 96, 48, 112)


@pytest.mark.parametrize("name", ["colpali", "colsmol", "colqwen2"])
def test_regions_of_every_family_are_cells_of_its_map(name):
    with TesseraVision(path=ARTIFACTS / name) as model:
        image = Image.fromarray(cases.picture(96, 64))
        found = model.locate("rain", image)
        rows, columns = found.map.shape[1:]
        assert len(found.regions) == len(found.map)
        for region, products in zip(found.regions, found.map, strict=True):
            assert region.score == products[region.row, region.column] == products.max()
            left, top, right, bottom = region.box
            assert left <= (region.column + 0.5) * 96 / columns <= right
            assert top <= (region.row + 0.5) * 64 / rows <= bottom
            assert right - left <= 96 / columns + 2
            assert bottom - top <= 64 / rows + 2


def test_regions_of_a_pdf_page_hold_its_words(starter, tmp_path):
    content = pdf.build([text_page(298, 420, 12, ["Bread"]), text_page(298, 420, 12, LINES[:2])])
    path = tmp_path / "leaflet.pdf"
    path.write_bytes(content)
    for source in (path, content):
        found = {each.token: each for each in starter.regions("flood bridges", source, page=2)}
        assert found["flood"].words == ("flood",)
        assert found["bridges"].words in {("two",), ("bridges",)}  # side by side
        assert min(found[word].score for word in ("flood", "bridges")) > 0.5
    with pytest.warns(TruncationWarning, match="document has 2 pages; only the first was read"):
        first = starter.regions("bread", path)
    assert {each.words for each in first if each.token == "bread"} == {("Bread",)}
    # At another resolution boxes are of that image.
    (page,) = read_pages(path, pages=[2], dpi=100, words=True)
    by_word = {word.text: word.box for word in page.words}
    for each in starter.regions("flood bridges", path, page=2, dpi=100):
        if each.token == "flood":
            left, top, right, bottom = by_word[each.token]
            assert left - 8 <= each.box[0] < each.box[2] <= right + 8
            assert top - 8 <= each.box[1] < each.box[3] <= bottom + 8
    done = run("explain", "flood bridges", path, "--page", 2, "--json")
    told = json.loads(done.stdout)
    assert (told["page"], told["plot"]) == (2, None)
    for each in told["matches"]:
        if each["token"] in {"flood", "bridges"}:
            region = found[each["token"]]
            assert (each["box"], each["words"]) == (list(region.box), list(region.words))
            assert (each["row"], each["column"]) == (region.row + 1, region.column + 1)
            assert each["score"] == pytest.approx(region.score)
    text = run("explain", "flood bridges", path, "--page", 2).stdout.splitlines()
    assert text[0].split()[:5] == ["TOKEN", "ROW", "COLUMN", "SCORE", "BOX"]
    assert any(line.startswith("flood") and line.endswith("flood") for line in text)


def test_the_page_of_an_image_is_the_first(model):
    image = np.zeros((9, 9, 3), np.uint8)
    for source in (image, Image.fromarray(image), cases.encoded(Image.fromarray(image))):
        assert model.regions("cat", source, page=1) == model.regions("cat", source)
        with pytest.raises(ConfigError, match="has no page 2"):
            model.regions("cat", source, page=2)
        for page, error in ((0, ConfigError), (1.0, TypeError), (True, TypeError)):
            with pytest.raises(error, match="pages"):
                model.regions("cat", source, page=page)


def test_a_model_of_one_vector_has_no_regions():
    with TesseraVision(path=ARTIFACTS / "clip") as model:
        with pytest.raises(ConfigError, match="one vector per image"):
            model.regions("rain", np.zeros((9, 9, 3), np.uint8))


# ---------------------------------------------------------------- the command


@pytest.fixture
def files(tmp_path):
    """A locked PDF of three pages, a TIFF of three, a TIFF of one and an image."""
    boxes = [pdf.page(100 + 50 * i, 100) for i in range(3)]
    (tmp_path / "a.pdf").write_bytes(pdf.build(boxes, password="a secret"))
    frames = [Image.fromarray(cases.picture(40, 24, seed=i)) for i in range(3)]
    frames[0].save(tmp_path / "b.tif", save_all=True, append_images=frames[1:])
    frames[1].save(tmp_path / "c.tiff")
    frames[2].save(tmp_path / "d.png")
    return [tmp_path / name for name in ("a.pdf", "b.tif", "c.tiff", "d.png")]


def test_rank_and_encode_pages_wanted(files, tmp_path, model):
    locked, scan, single, image = files
    args = ("--pages", "3,1", "--password", "a secret", *PAGE)
    done = run("rank", "--query", "cat", *files, *args, "--json")
    ranking = sorted(json.loads(done.stdout)["ranking"], key=lambda each: each["index"])
    names = [(each["file"], each.get("page")) for each in ranking]
    expected = [(locked, 3), (locked, 1), (scan, 3), (scan, 1), (single, None), (image, None)]
    assert names == [(str(name), page) for name, page in expected]
    truth = [
        *model.encode_pages(locked, pages=[3, 1], password="a secret"),
        *model.encode_pages(scan, pages=[3, 1]),
        *model.encode_documents([single, image]),
    ]
    scores = [each["score"] for each in ranking]
    np.testing.assert_allclose(scores, model.score("cat", truth), atol=1e-5)
    out = tmp_path / "out.npz"
    assert run("encode", *files, "-o", out, *args).stdout.startswith("6 images in ")
    with np.load(out) as stored:
        for found, theirs in zip(
            np.split(stored["tokens"], stored["offsets"][1:-1]), truth, strict=True
        ):
            np.testing.assert_array_equal(found, theirs)
    assert f"{scan}, page 3" in run("rank", "cat", *files, *args).stdout


def test_a_tiff_has_a_row_a_page(files, tmp_path, model):
    out = tmp_path / "out.jsonl"
    done = run("encode", files[1], files[2], "-o", out, *PAGE)
    assert (out.read_text().count("\n"), done.stderr) == (4, "")
    plain = json.loads(run("rank", "cat", files[1], *PAGE, "--json").stdout)["ranking"]
    assert sorted(each["page"] for each in plain) == [1, 2, 3]
    found = json.loads(run("explain", "cat", files[1], "--page", 3, *PAGE, "--json").stdout)
    expected = model.regions("cat", files[1], page=3)
    assert [each["box"] for each in found["matches"]] == [list(each.box) for each in expected]


@pytest.mark.slow
def test_an_animation_by_the_command_says_what_is_left_out(tmp_path):
    first, second = (Image.fromarray(cases.picture(40, 24, seed=i)) for i in range(2))
    for name in ("a.gif", "a.webp", "a.png"):
        first.save(tmp_path / name, save_all=True, append_images=[second])
        for args in (("rank", "cat"), ("similarity", "cat")):
            done = run(*args, tmp_path / name, *PAGE)
            assert f"{name}) has 2 pages or frames; only the first was read" in done.stderr
        done = run("encode", tmp_path / name, "-o", tmp_path / "o.npz", *PAGE)
        assert f"{name}) has 2 pages or frames; only the first was read" in done.stderr
        assert run("explain", "cat", tmp_path / name, "--page", 2, *PAGE).stderr == ""


def test_what_a_file_is_decides_not_its_name(files, tmp_path):
    """A PDF and a scan of several pages under other names give all of their pages too."""
    paper, scan = tmp_path / "paper", tmp_path / "scan.png"
    paper.write_bytes(pdf.build([pdf.page(), pdf.page()]))
    scan.write_bytes(files[1].read_bytes())
    out = tmp_path / "out.jsonl"
    done = run("encode", paper, scan, "-o", out, *PAGE)
    assert (out.read_text().count("\n"), done.stderr) == (5, "")
    ranked = run("rank", "cat", paper, scan, "--pages", "2", *PAGE, "--json").stdout
    found = {(each["file"], each["page"]) for each in json.loads(ranked)["ranking"]}
    assert found == {(str(paper), 2), (str(scan), 2)}
    for path, kind in ((paper, "application/pdf"), (scan, "image/tiff")):
        uri = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        told = run("rank", "cat", uri, "--pages", "2", *PAGE, "--json").stdout
        (found,) = json.loads(told)["ranking"]
        assert found["file"].startswith(f"data:{kind};base64,... (")
        assert (found["page"], len(told) < 500) == (2, True)
    error = run("similarity", "cat", paper, *PAGE, code=1).stderr
    assert "it is a PDF, whose pages are read by `tessera encode`, `rank` and `explain`" in error


def test_explain_tells_of_pages_that_are_left_out(files, tmp_path):
    password = ("--password", "a secret")
    done = run("explain", "cat", files[0], *password, *PAGE, "--json")
    assert "document has 3 pages; only the first was read: `--page` takes another" in done.stderr
    assert json.loads(done.stdout)["page"] == 1
    done = run("explain", "cat", files[1], *PAGE)
    assert f"({files[1]}) has 3 pages or frames; only the first was read" in done.stderr
    assert "encode_pages" not in done.stderr
    for file in files[:2]:
        assert run("explain", "cat", file, "--page", 1, *password, *PAGE).stderr == ""
    text = tmp_path / "text.png"
    text.write_text("a text")
    assert f"{text} is no PNG, JPEG" in run("explain", "cat", text, *PAGE, code=1).stderr


@pytest.mark.slow
def test_passwords_of_the_command(files):
    locked = files[0]
    for command in (("rank", "cat", locked), ("explain", "cat", locked, "--page", 1)):
        env = {"TESSERA_PDF_PASSWORD": "a secret"}
        assert run(*command, *PAGE, env=env).stderr == ""
        assert run(*command, *PAGE, "--password", "a secret").stderr == ""
        error = run(*command, *PAGE, code=1).stderr
        assert f"{locked} cannot be read: it is encrypted, pass its `--password`" in error
        error = run(*command, *PAGE, "--password", "b secret", code=1).stderr
        assert "it is encrypted with another password" in error
        assert "b secret" not in error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("rank", "cat", "{d}", "--pages", "1", *PAGE), 2, "--pages is for PDFs and TIFFs"),
        (("rank", "a", "b", "--pages", "1"), 2, "--pages is for PDFs and TIFFs"),
        (("encode", "{c}", "-o", "o.npz", "--pages", "1", *PAGE), 2, "--pages is for PDFs"),
        (("rank", "cat", "{b}", "--pages", "my secret", *PAGE), 1, '"1-3,7"'),
        (("rank", "cat", "{b}", "--pages", "4", *PAGE), 1, "b.tif has no page 4: it has 3"),
        (("explain", "cat", "{d}", "--page", "2", *PAGE), 1, "d.png has no page 2: it has 1"),
        (("explain", "cat", "{b}", "--page", "4", *PAGE), 1, "b.tif has no page 4: it has 3"),
    ],
)
def test_wrong_pages_by_the_command(args, code, message, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {path.name[0]: path for path in files}
    error = run(*(arg.format(**names) for arg in args), code=code).stderr
    assert message in error
    assert "my secret" not in error


def recipe_of_tiles():
    return cases.spec("colsmol-256m").vision.image


def test_the_recipe_of_every_form_of_resizing_draws_pages():
    for model_id in cases.MODELS:
        used = dataclasses.replace(cases.spec(model_id).vision.image)
        for paper in ((595, 842), (20, 14_400), (14_400, 14_400), (1, 1), (0.01, 14_400)):
            (image,) = rendered(pdf.build([pdf.page(*paper)]), recipe=used)
            assert 1 <= min(image.size) <= max(image.size) <= 140_000
    (image,) = rendered(pdf.build([pdf.page(227, 20_000)]), recipe=recipe_of_tiles())
    assert 5e6 < image.width * image.height < 5e7

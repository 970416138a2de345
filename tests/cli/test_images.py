"""`tessera rank`, `explain`, `encode` and `similarity` of images and PDFs, beside the library."""

import json

import numpy as np
import pdf_files
import pytest
from artifact_tools import ARTIFACTS
from command import run
from PIL import Image

from tessera_onnx import TesseraVision

PAGE = ("-m", "test-page", "--cache-dir", str(ARTIFACTS))
COLOURS = {"a.png": (255, 0, 0), "b.jpg": (0, 200, 40), "c.webp": (10, 20, 250)}


def size(path):
    with Image.open(path) as image:
        return image.size


@pytest.fixture
def images(tmp_path):
    """Three pages with a dark square each, in three formats."""
    for name, colour in COLOURS.items():
        pixels = np.full((40, 64, 3), 255, np.uint8)
        pixels[8:24, 16:32] = colour
        Image.fromarray(pixels).save(tmp_path / name, quality=95)
    return [tmp_path / name for name in COLOURS]


@pytest.fixture
def pdf(tmp_path):
    path = tmp_path / "report.pdf"
    path.write_bytes(pdf_files.build([pdf_files.page(), pdf_files.page(100, 200)]))
    return path


@pytest.fixture(scope="module")
def model():
    with TesseraVision("test-page", cache_dir=ARTIFACTS) as opened:
        yield opened


def test_rank_images(images, model):
    truth = model.rank("cat", images)
    found = json.loads(run("rank", "--query", "cat", *images, *PAGE, "--json").stdout)
    assert found["kind"] == "vision"
    expected = [{"index": i, "score": s, "file": str(images[i])} for i, s in truth]
    assert found["ranking"] == [
        {**each, "score": pytest.approx(each["score"])} for each in expected
    ]
    text = run("rank", "cat", *images, *PAGE, "--top-k", "2").stdout.splitlines()
    assert text[0].split() == ["RANK", "SCORE", "DOCUMENT", "FILE"]
    assert [line.split()[-1] for line in text[1:]] == [str(images[i]) for i, _ in truth[:2]]
    listed = images[0].parent / "list.txt"
    listed.write_text("".join(f"{image}\n" for image in images))
    again = json.loads(run("rank", "cat", "--file", listed, *PAGE, "--json").stdout)
    assert again == found


def test_rank_pages_of_a_pdf_among_images(images, pdf, model):
    documents = [images[0], pdf, images[1]]
    found = json.loads(run("rank", "cat", *documents, *PAGE, "--json").stdout)["ranking"]
    pages = list(model.encode_pages(pdf))
    assert len(pages) == 2
    truth = model.score("cat", [images[0], *pages, images[1]])
    scores = {each["index"]: each["score"] for each in found}
    np.testing.assert_allclose([scores[i] for i in range(4)], truth, atol=1e-5)
    places = {each["index"]: (each["file"], each.get("page")) for each in found}
    names = [str(name) for name in documents]
    assert [places[i] for i in range(4)] == [
        (names[0], None),
        (names[1], 1),
        (names[1], 2),
        (names[2], None),
    ]
    assert f"{pdf}, page 2" in run("rank", "cat", *documents, *PAGE).stdout


def test_pages_of_a_pdf_are_those_of_its_images(pdf, model):
    """The page is red below on the left and blue above on the right."""
    first, second = model.encode_pages(pdf)
    for vectors in (first, second):
        colours = np.unique(np.round(vectors[:, :3] * np.sqrt(3)), axis=0)
        assert {(-1, -1, 1), (1, -1, -1)} <= {tuple(colour) for colour in colours.tolist()}
    # 40 x 20 pixels, each quarter on six cells of 8, one of which both share; and 20 x 40.
    small = list(model.encode_pages(pdf.read_bytes(), dpi=14.4))
    assert [len(vectors) for vectors in small] == [11, 11]


def test_files_of_images_alone_make_it_a_ranking_of_images(images, tmp_path, monkeypatch):
    """Without a model: those that are files of images; what else is said is a text."""
    monkeypatch.setenv("TESSERA_CACHE", str(ARTIFACTS))
    found = json.loads(run("rank", "--query", "cat", *images, "--json").stdout)
    assert (found["kind"], len(found["ranking"])) == ("vision", 3)
    mixed = json.loads(run("rank", "--query", "cat", images[0], "a red page", "--json").stdout)
    assert mixed["kind"] == "dense"
    names = json.loads(run("rank", "cat", "no.png", "no.pdf", "--json").stdout)
    assert names["kind"] == "dense"
    gone = tmp_path / "gone.png"
    for args in (
        ("rank", "cat", images[0], gone),
        ("encode", gone, "-o", tmp_path / "o.npz"),
        ("encode", images[0], gone, "-o", tmp_path / "o.npz"),
    ):
        assert run(*args, code=1).stderr == f"Error: {gone} is not there\n"


def test_encode_images(images, pdf, tmp_path, model):
    out = tmp_path / "out.npz"
    found = json.loads(run("encode", *images, pdf, "-o", out, *PAGE, "--json").stdout)
    assert (found["images"], found["width"], found["kind"]) == (5, 128, "vision")
    truth = [*model.encode_documents(images), *model.encode_pages(pdf)]
    with np.load(out) as stored:
        rows = np.split(stored["tokens"], stored["offsets"][1:-1])
    for ours, theirs in zip(rows, truth, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    lines = tmp_path / "out.jsonl"
    run("encode", images[0], "-o", lines, *PAGE, "--output-dtype", "binary")
    (line,) = lines.read_text().splitlines()
    bits = model.encode_document(images[0], output_dtype="binary").bits
    assert json.loads(line) == {"bits": bits.tolist(), "dim": 128}


def test_encode_queries(tmp_path, model):
    found = json.loads(run("encode", "--text", "cat", "--role", "query", *PAGE, "--json").stdout)
    np.testing.assert_allclose(found["tokens"], model.encode_query("cat"), atol=1e-6)
    out = tmp_path / "out.npz"
    for name, content in (("q.txt", "cat\nnew york\n"), ("q.jsonl", '{"t": "cat"}\n{"t": "a"}\n')):
        (tmp_path / name).write_text(content)
        args = ("encode", tmp_path / name, "--field", "t", "--role", "query", "-o", out, *PAGE)
        assert run(*args).stdout.startswith("2 texts in ")
        with np.load(out) as stored:
            assert stored["offsets"].tolist() == [0, 32, 64]


def test_a_query_that_is_too_long_is_named_by_its_line(tmp_path):
    source = tmp_path / "q.txt"
    source.write_text("cat\na\n" + "cat " * 500 + "\n")
    args = ("--role", "query", "--on-long", "error", "-o", tmp_path / "o.npz", *PAGE)
    error = run("encode", source, *args, code=1).stderr
    assert error.startswith(f"Error: {source}, line 3: text 2 has ")


def test_similarity_of_a_text_and_an_image(images, model):
    found = float(run("similarity", "cat", images[0], *PAGE).stdout)
    assert found == pytest.approx(model.search("cat", images[0]), abs=1e-5)


def test_explain(images, tmp_path, model):
    plot = tmp_path / "map.png"
    found = json.loads(run("explain", "cat", images[0], *PAGE, "--plot", plot, "--json").stdout)
    cells = model.similarity_map("cat", images[0])
    assert (found["rows"], found["columns"]) == cells.shape[1:] == (6, 8)
    assert [each["token"] for each in found["matches"]] == model.query_tokens("cat")
    for each, products in zip(found["matches"], cells, strict=True):
        assert products[each["row"] - 1, each["column"] - 1] == np.nanmax(products)
        assert each["score"] == pytest.approx(np.nanmax(products))
    drawn = plot.read_bytes()
    assert size(plot) == (64, 40)
    text = run("explain", "cat", images[0], *PAGE, "--plot", plot, "--token", "3").stdout
    assert f"6 rows, 8 columns; map in {plot}" in text
    expected = tmp_path / "expected.png"
    model.save_similarity_map("cat", images[0], expected, token=2)
    assert plot.read_bytes() == expected.read_bytes()
    model.save_similarity_map("cat", images[0], expected)
    assert drawn == expected.read_bytes()


def test_explain_a_page_of_a_pdf(pdf, tmp_path):
    plot = tmp_path / "map.jpg"
    found = json.loads(
        run("explain", "cat", pdf, "--page", 2, *PAGE, "--plot", plot, "--json").stdout
    )
    assert found["rows"] > found["columns"]
    assert size(plot) == (32, 64)  # what this model reads
    assert "has no page 3" in run("explain", "cat", pdf, "--page", 3, *PAGE, code=1).stderr


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("explain", "cat", "{a}", "--plot", "map.svg"), 1, ".png"),
        (("explain", "cat", "{a}", "--plot", "{a}"), 2, "--plot is IMAGE itself"),
        (
            ("explain", "cat", "{a}", "--token", "99", "--plot", "{a}.png"),
            2,
            "--token must lie in 1..",
        ),
        (("explain", "cat", "gone.png"), 1, "gone.png"),
        (("rank", "cat", "gone.png", "--dimension", "8"), 2, "--dimension is not for vision"),
        (("rank", "cat", "{a}", "bad.png"), 1, "bad.png"),
        (("rank", "cat", "bad.pdf"), 1, "bad.pdf"),
        (("encode", "--text", "cat"), 2, "--role query"),
        (("encode", "{a}", "-o", "{a}"), 2, "--output is INPUT itself"),
        (("encode", "{a}", "-o", "out.npy"), 1, ".npz"),
        (("encode", "{a}", "bad.png", "-o", "out.npz"), 1, "bad.png"),
        (("similarity", "cat", "bad.png"), 1, "bad.png"),
    ],
)
def test_what_is_wrong_is_one_line(images, tmp_path, monkeypatch, args, code, message):
    monkeypatch.chdir(tmp_path)
    for name in ("bad.png", "bad.pdf"):
        (tmp_path / name).write_text("neither")
    before = sorted(path.name for path in tmp_path.iterdir())
    result = run(*(arg.format(a=images[0]) for arg in args), *PAGE, code=code)
    assert message in result.stderr
    assert result.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_image_that_cannot_be_encoded_is_named_by_its_file(images):
    """The library's message has the image's index; the command puts the file before it."""
    narrow = images[0].parent / "narrow.png"
    Image.new("RGB", (1, 900)).save(narrow)
    args = ("rank", "cat", images[0], narrow, "-m", ARTIFACTS / "clip")
    error = run(*args, code=1).stderr
    assert f"Error: {narrow}: " in error

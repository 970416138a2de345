"""What may stand for an image: every form at every entry point, and what messages say of others."""

import base64
import io
import json
import pickle
import re
import sys
import tempfile
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pdf_files
import pyarrow as pa
import pytest
from artifact_tools import ARTIFACTS
from click.testing import CliRunner
from image_cases import encoded, picture
from PIL import Image, features

from tessera_onnx import ConfigError, EncodingError, FileError, TesseraVision, TruncationWarning
from tessera_onnx.cli.main import main
from tessera_onnx.images import decode, sources

SMALL = Image.fromarray(picture(40, 24))
PNG = encoded(SMALL)
BASE64 = base64.b64encode(PNG).decode()
PAGES = encoded(SMALL, "TIFF", save_all=True, append_images=[Image.fromarray(picture(24, 40))])
SECRET = "zq my diary of the year"
open_files = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def model():
    with TesseraVision("test-page", cache_dir=ARTIFACTS) as opened:
        yield opened


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(PNG)
    return file


def read_on(stream):
    stream.read(7)
    return stream


class Pipe(io.RawIOBase):
    """A stream that cannot go back and gives a few bytes at a time."""

    def __init__(self, content):
        self.content = content

    def readable(self):
        return True

    def readinto(self, buffer):
        part, self.content = self.content[:100], self.content[100:]
        buffer[: len(part)] = part
        return len(part)


FORMS = {
    "BytesIO": lambda _: io.BytesIO(PNG),
    "BytesIO, read before": lambda _: read_on(io.BytesIO(PNG)),
    "an open file": lambda path: path.open("rb"),
    "a file without buffer": lambda path: path.open("rb", buffering=0),
    "a temporary file": lambda _: temporary(),
    "a pipe": lambda _: Pipe(PNG),
    "a member of a zip": lambda _: member(),
    "a dict of bytes": lambda _: {"bytes": PNG, "path": None},
    "a dict of bytes and a name": lambda _: {"bytes": PNG, "path": "elsewhere.png"},
    "a dict of a path": lambda path: {"bytes": None, "path": str(path)},
    "a dict of a Path alone": lambda path: {"path": path},
    "a data: URI": lambda _: f"data:image/png;base64,{BASE64}",
    "a data: URI in capitals": lambda _: f"DATA:;BASE64,{BASE64}",
    "a data: URI without padding": lambda _: "data:;base64," + BASE64.rstrip("="),
    "a data: URI in lines": lambda _: "data:;base64," + "\n".join([BASE64[:50], BASE64[50:]]),
    "a data: URI, quoted base64": lambda _: "data:;base64," + quote(BASE64, safe=""),
    "a data: URI without base64": lambda _: "data:image/png;a=b," + quote(PNG),
    "an Arrow scalar": lambda _: pa.array([PNG])[0],
    "an Arrow struct": lambda _: pa.array([{"bytes": PNG, "path": None}])[0],
    "bytearray": lambda _: bytearray(PNG),
    "memoryview": lambda _: memoryview(PNG),
}


def temporary():
    stream = tempfile.TemporaryFile()  # noqa: SIM115 (the test's)
    stream.write(PNG)
    return stream


def member():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("a.png", PNG)
    return zipfile.ZipFile(archive).open("a.png")


@open_files
@pytest.mark.parametrize("form", FORMS)
def test_every_form_at_every_entry_point(form, path, tmp_path, model):
    make = lambda: FORMS[form](path)  # noqa: E731
    vectors = model.encode_document(PNG)
    query = model.encode_query("cat")
    np.testing.assert_array_equal(model.encode_document(make()), vectors)
    for found in (
        model.encode_documents([make(), make()]),
        list(model.encode_iter(make() for _ in range(2))),
    ):
        np.testing.assert_array_equal(found, [vectors, vectors])
    score = model.search(query, vectors)
    assert model.search(query, make()) == score
    assert model.search_document("cat", make()) == pytest.approx(score)
    assert model.score(query, [vectors, make()]).tolist() == pytest.approx([score, score])
    assert [each.score for each in model.rank(query, [make()])] == [score]
    cells = model.similarity_map(query, PNG)
    np.testing.assert_array_equal(model.similarity_map(query, make()), cells)
    file = tmp_path / "map.png"
    np.testing.assert_array_equal(model.save_similarity_map(query, make(), file), cells)
    assert model.regions("cat", make()) == model.regions("cat", PNG)
    np.testing.assert_array_equal(list(model.encode_pages(make())), [vectors])


@open_files
def test_forms_of_a_pdf(model, tmp_path):
    content = pdf_files.build([pdf_files.page()])
    path = tmp_path / "a.pdf"
    path.write_bytes(content)
    (truth,) = model.encode_pages(path)
    data = "data:application/pdf;base64," + base64.b64encode(content).decode()
    for source in (
        content, bytearray(content), memoryview(content), io.BytesIO(content), path.open("rb"),
        {"bytes": content, "path": None}, {"path": path}, data,
    ):  # fmt: skip
        (found,) = model.encode_pages(source)
        np.testing.assert_array_equal(found, truth)


def test_one_file_may_be_given_again_and_again(model, path):
    with path.open("rb") as stream:
        for found in model.encode_iter([stream, stream, stream]):
            np.testing.assert_array_equal(found, model.encode_document(PNG))


def test_the_command_takes_a_data_uri(model):
    uri = f"data:image/png;base64,{BASE64}"
    args = ["-m", "test-page", "--cache-dir", str(ARTIFACTS)]
    done = CliRunner().invoke(main, ["similarity", "cat", uri, *args], catch_exceptions=False)
    assert float(done.stdout) == pytest.approx(model.search("cat", PNG), abs=1e-5)
    done = CliRunner().invoke(main, ["rank", "cat", uri, "--json", *args], catch_exceptions=False)
    assert f'"data:image/png;base64,... ({len(uri)} characters)"' in done.stdout
    assert BASE64[:40] not in done.stdout


def test_a_data_uri_makes_it_a_ranking_of_images(path, monkeypatch):
    monkeypatch.setenv("TESSERA_CACHE", str(ARTIFACTS))
    uri = f"data:image/png;base64,{BASE64}"
    for documents in ([uri], [uri, str(path)]):
        args = ["rank", "--query", "cat", *documents, "--json"]
        found = json.loads(CliRunner().invoke(main, args, catch_exceptions=False).stdout)
        assert (found["kind"], len(found["ranking"])) == ("vision", len(documents))


# ---------------------------------------------------------------- formats


def test_avif_and_jpeg_2000(model):
    image = Image.fromarray(np.full((32, 48, 3), (250, 10, 20), np.uint8))
    for kind, options in (
        ("AVIF", {"quality": 100}),
        ("JPEG2000", {}),
        ("JPEG2000", {"no_jp2": True}),
    ):
        content = encoded(image, kind, **options)
        found = np.asarray(decode.open_image(content, where="image", alpha="white"))
        np.testing.assert_allclose(found, np.asarray(image), atol=4)
        assert len(model.encode_document(content)) == len(model.encode_document(image))
    with pytest.raises(EncodingError, match="the limit is 99"):
        decode.open_image(content, where="image", alpha="white", max_pixels=99)
    with pytest.raises(EncodingError, match="image cannot be decoded"):
        decode.open_image(content[:100], where="image", alpha="white")


def test_jpeg_2000_of_sixteen_bits():
    grey = (np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64)
    content = encoded(Image.fromarray(grey), "JPEG2000")
    found = np.asarray(decode.open_image(content, where="image", alpha="white"))
    np.testing.assert_array_equal(found[..., 0], grey >> 8)


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "WebP"])
def test_a_pillow_without_the_decoder(kind, monkeypatch):
    content = encoded(SMALL, kind)
    monkeypatch.setattr(decode, "find_spec", lambda _: None)
    monkeypatch.setattr(features, "check_codec", lambda _: False)
    name = kind.replace("JPEG2", "JPEG 2")
    with pytest.raises(EncodingError, match=rf"images\[0\] is {name}, which this build of Pillow"):
        decode.open_image(content, where="images[0]", alpha="white")


# ---------------------------------------------------------------- wrong ones


def closed():
    stream = io.BytesIO(PNG)
    stream.close()
    return stream


def opened(path, mode):
    return Path(path).open(mode)


WRONG = {
    "a closed file": (closed, ConfigError, "is a file that was closed"),
    "text in memory": (lambda: io.StringIO(SECRET), TypeError, 'open it with mode "rb"'),
    "a file open as text": (lambda: opened(__file__, "r"), TypeError, '"rb"'),
    "a file to be written": (
        lambda: opened(tempfile.mkstemp()[1], "wb"), EncodingError, "not open for reading"),
    "an empty file": (io.BytesIO, EncodingError, "it is empty"),
    "no image": (lambda: io.BytesIO(SECRET.encode()), EncodingError, "is no PNG"),
    "an empty dict": (dict, TypeError, "must be a path"),
    "a dict of other keys": (lambda: {"image": SMALL}, TypeError, "must be a path"),
    "a dict of nothing": (
        lambda: {"bytes": None, "path": None}, ConfigError, "bytes and path are both None"),
    "a dict of a list": (lambda: {"bytes": [1]}, TypeError, "is of type list"),
    "a dict of text": (lambda: {"bytes": SECRET}, FileError, "a name of 23 characters"),
    "damaged base64": (
        lambda: f"data:image/png;base64,{BASE64}*{SECRET}", EncodingError, "base64 is damaged"),
    "a data: URI of text": (lambda: f"data:,{SECRET}", EncodingError, "is no PNG"),
    "an empty data: URI": (lambda: "data:,", EncodingError, "it is empty"),
    "an Arrow null": (lambda: pa.array([None], pa.binary())[0], TypeError, "must be a path"),
    "an Arrow number": (lambda: pa.array([3])[0], TypeError, "must be a path"),
}  # fmt: skip


@open_files
@pytest.mark.parametrize("what", WRONG)
def test_wrong_forms_name_their_place_and_no_content(what, model):
    make, error, message = WRONG[what]
    calls = {
        "image": model.encode_document,
        r"images\[1\]": lambda source: model.encode_documents([PNG, source]),
        r"documents\[1\]": lambda source: model.rank("cat", [PNG, source]),
        "document": lambda source: model.similarity_map("cat", source),
    }
    for where, call in calls.items():
        with pytest.raises(error, match=message) as caught:
            call(make())
        text = str(caught.value)
        assert error is FileError or re.match(where, text)
        assert SECRET not in text
        assert BASE64[:30] not in text
        assert len(text) < 400
        assert str(pickle.loads(pickle.dumps(caught.value))) == text


@pytest.mark.posix
def test_an_open_file_that_does_not_end(monkeypatch):
    monkeypatch.setattr(sources, "MOST_BYTES", 1 << 21)
    with Path("/dev/zero").open("rb") as stream:
        with pytest.raises(
            EncodingError, match=r"images\[3\] is an open file of more than 2097152"
        ):
            decode.open_image(stream, where="images[3]", alpha="white")


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        f"{SECRET}.",
        SECRET * 9999,
        BASE64,
        BASE64[:60],
        "/9j/4AAQ" + BASE64,
        "data:image/png;base64" + BASE64,
        "who/ever",
        "bob@example.com",
        '{"text": "a JSON line"}',
        "line\nline.png",
        "https://example.org/a.png?key=0123",
    ],
)
def test_a_text_in_place_of_a_file_is_not_repeated(text, model, tmp_path):
    for call in (
        lambda: model.encode_document(text),
        lambda: model.encode_documents([PNG, text]),
        lambda: list(model.encode_iter([text])),
        lambda: model.search("cat", text),
        lambda: model.search_document("cat", text),
        lambda: model.rank("cat", [text]),
        lambda: model.similarity_map("cat", text),
        lambda: model.regions("cat", text),
        lambda: model.regions("cat", text, page=2),
        lambda: model.save_similarity_map("cat", text, tmp_path / "a.png"),
        lambda: list(model.encode_pages(text)),
        lambda: model.encode_document({"path": text, "bytes": None}),
        lambda: model.encode_document(Path(text)),
    ):
        with pytest.raises(FileError) as caught:
            call()
        assert "a name of " in str(caught.value)
        assert text[:20] not in str(caught.value)
        assert len(str(caught.value)) < 300
    args = ["-m", "test-page", "--cache-dir", str(ARTIFACTS)]
    for given in (
        ["similarity", "cat", text],
        ["rank", "cat", text],
        ["explain", "cat", text],
        ["encode", text, "-o", str(tmp_path / "out.npz")],
    ):
        done = CliRunner().invoke(main, [*given, *args], catch_exceptions=False)
        assert done.exit_code == 1
        assert text[:20] not in done.stderr
        assert len(done.stderr) < 300


def test_names_of_files_are_told():
    for name in (
        "gone.png",
        "a folder/gone scan.TIFF",
        __file__,
        f"{Path(__file__).parents[1]}/gone",
    ):
        assert sources.named(name) == name
        assert sources.named(Path(name)) == name
    assert sources.named("gone") == "a name of 4 characters"
    assert sources.named("") == "a name of 0 characters"
    assert sources.named("\ud800.png") == "a name of 5 characters"


@pytest.mark.parametrize("make", [dict, set, frozenset])
def test_containers_whose_iteration_is_not_their_images(make, model):
    held = {"a.png": PNG} if make is dict else make([PNG])
    for call in (
        model.encode_documents,
        model.encode_iter,
        lambda given: model.rank("cat", given),
        lambda given: model.score("cat", given),
    ):
        with pytest.raises(TypeError, match="must be a list of images.*: pass its values"):
            call(held)
    with pytest.raises(TypeError, match="images must be a list of images, got BytesIO"):
        model.encode_documents(io.BytesIO(PNG))


def test_frames_and_tables(model):
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    vectors = model.encode_document(PNG)
    for frame in (pd.DataFrame({"image": [PNG]}), pl.DataFrame({"image": [PNG]}),
                  pa.table({"image": [PNG]})):  # fmt: skip
        with pytest.raises(TypeError, match="the column of images"):
            model.encode_documents(frame)
        np.testing.assert_array_equal(model.encode_documents(frame["image"])[0], vectors)


# ---------------------------------------------------------------- several pages in one image


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WebP", "AVIF"])
def test_further_frames_are_told_of(kind, model, tmp_path):
    first, second = Image.new("RGB", (20, 12), "red"), Image.new("RGB", (20, 12), "blue")
    content = encoded(first, kind, save_all=True, append_images=[second])
    path = tmp_path / f"scan.{kind.lower()}"
    path.write_bytes(content)
    told = "has 2 pages or frames; only the first was read: encode_pages reads all of them"
    for where, call in {
        "image": lambda: model.encode_document(content),
        r"images\[1\]": lambda: model.encode_documents([PNG, content]),
        r"images\[1\] ": lambda: list(model.encode_iter([PNG, io.BytesIO(content)])),
        rf"images\[0\] \({path}\)": lambda: model.encode_documents([path]),
        r"documents\[0\]": lambda: model.search("cat", content),
        r"documents\[2\]": lambda: model.rank("cat", [PNG, PNG, content]),
        "document": lambda: model.similarity_map("cat", content),
        rf"document \({path}\)": lambda: model.regions("cat", path),
    }.items():
        with pytest.warns(TruncationWarning, match=f"^{where.strip()}.*{told}") as caught:
            call()
        assert len(caught) == 1
        assert caught[0].filename == __file__
    with pytest.warns(TruncationWarning, match=r"^images\[0\] has 2 .*, and 2 more images have"):
        model.encode_documents([content] * 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TruncationWarning, match=r"images\[0\]"):
            model.encode_documents([content])
        found = list(model.encode_pages(content))
        assert len(found) == 2
        np.testing.assert_allclose(found[0], model.encode_document(first), atol=0.05)
        np.testing.assert_allclose(found[1], model.encode_document(second), atol=0.05)


def test_a_pil_image_gives_the_frame_that_it_stands_at(model):
    image = Image.open(io.BytesIO(PAGES))
    first, second = model.encode_pages(PAGES)
    with pytest.warns(TruncationWarning, match="^image has 2 pages or frames; only the first"):
        np.testing.assert_array_equal(model.encode_document(image), first)
    image.seek(1)
    np.testing.assert_array_equal(model.encode_document(image), second)
    image.seek(0)
    # A stream that moves on in it, to its start again too, leaves nothing out.
    places = iter([1, 0, 1])
    found = model.encode_iter(image for place in places if image.seek(place) is None)
    for vectors, expected in zip(found, [second, first, second], strict=True):
        np.testing.assert_array_equal(vectors, expected)
    for vectors, expected in zip(model.encode_pages(image), [first, second], strict=True):
        np.testing.assert_array_equal(vectors, expected)
    assert image.tell() == 1  # as it was
    (found,) = model.encode_pages(image, pages=[1])
    np.testing.assert_array_equal(found, first)
    (found,) = model.encode_pages(SMALL)
    np.testing.assert_array_equal(found, model.encode_document(SMALL))


def test_one_open_file_may_be_used_by_many_threads(model, path):
    truth = model.encode_document(PNG)
    with path.open("rb") as stream, ThreadPoolExecutor(4) as pool:
        for source in (stream, io.BytesIO(PNG)):
            for found in pool.map(model.encode_document, [source] * 24):
                np.testing.assert_array_equal(found, truth)


def test_pages_of_a_tiff(model, tmp_path):
    shapes = [(40, 24), (24, 40), (16, 16)]
    frames = [Image.fromarray(picture(*shape, seed=i)) for i, shape in enumerate(shapes)]
    path = tmp_path / "scan.tif"
    path.write_bytes(encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
    truth = model.encode_documents(frames)
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        for found, expected in zip(model.encode_pages(source), truth, strict=True):
            np.testing.assert_array_equal(found, expected)
    for pages in ([3, 1], "3,1"):
        third, first = model.encode_pages(path, pages=pages)
        np.testing.assert_array_equal(third, truth[2])
        np.testing.assert_array_equal(first, truth[0])
    np.testing.assert_array_equal(
        model.similarity_map("cat", path, page=2), model.similarity_map("cat", frames[1])
    )
    with pytest.raises(ConfigError, match=f"{path} has no page 4: it has 3"):
        list(model.encode_pages(path, pages=[4]))
    with Image.open(path) as image:  # it has pages as its file does
        np.testing.assert_array_equal(
            model.similarity_map("cat", image, page=3), model.similarity_map("cat", frames[2])
        )
        with pytest.raises(ConfigError, match="the image has no page 4: it has 3"):
            model.regions("cat", image, page=4)
    for numbers in ({2, 1}, {2: 1}):
        with pytest.raises(TypeError, match="pages must be a list of numbers, got (set|dict): "):
            model.encode_pages(path, pages=numbers)
    with pytest.raises(FileError, match=f"{path} has 3 frames, the limit is 2"):
        list(model.encode_pages(path, max_pages=2))
    with pytest.raises(ConfigError, match="scan.tif is an image, .*: dpi is for PDFs"):
        model.encode_pages(path, dpi=200)
    with pytest.raises(ConfigError, match="dpi is for PDFs"):
        model.regions("cat", path, dpi=200)


def test_a_damaged_page_of_a_tiff_comes_after_the_others(model):
    frames = [Image.fromarray(picture(40, 24, seed=i)) for i in range(3)]
    content = bytearray(encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:],
                                compression="tiff_deflate"))  # fmt: skip
    place = content.rindex(b"\x78\x9c")  # the last page's data
    content[place : place + 40] = bytes(40)
    found = model.encode_pages(bytes(content))
    for frame in frames[:2]:
        np.testing.assert_array_equal(next(found), model.encode_document(frame))
    with pytest.raises(EncodingError, match="page 3 cannot be decoded"):
        next(found)


@pytest.mark.skipif(sys.platform == "win32", reason="reads /proc")
def test_files_are_closed(model, path, tmp_path):
    (tmp_path / "scan.tif").write_bytes(PAGES)
    before = set(Path("/proc/self/fd").iterdir())
    list(model.encode_pages(tmp_path / "scan.tif"))
    stream = model.encode_pages(tmp_path / "scan.tif")
    next(stream)
    stream.close()
    decode.count_pages(tmp_path / "scan.tif")
    model.encode_document(path)
    assert len(list(Path("/proc/self/fd").iterdir())) <= len(before)

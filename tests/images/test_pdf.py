"""The pages of a PDF: what is drawn where, and files that are damaged, locked or too large."""

import gc
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pdf_files as pdf
import pypdfium2
import pytest

from tessera_onnx.errors import ConfigError, EncodingError, FileError
from tessera_onnx.images.pdf import read_pages

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def rendered(source, **options):
    """The images of the pages."""
    return (page.image for page in read_pages(source, **options))


def corners(image):
    """Top left, top right, bottom left, bottom right."""
    right, bottom = image.width - 1, image.height - 1
    return [image.getpixel(xy) for xy in ((0, 0), (right, 0), (0, bottom), (right, bottom))]


def test_a_page_by_hand(tmp_path):
    """Quarters of a page of 200 x 100 points: blue in the upper right, red in the lower left."""
    content = pdf.build([pdf.page(200, 100)])
    path = tmp_path / "quarters für.pdf"
    path.write_bytes(content)
    for source in (content, path, str(path)):
        (image,) = rendered(source, dpi=144)
        assert (image.mode, image.size) == ("RGB", (400, 200))
        levels = np.asarray(image)
        assert (levels[:100, 200:] == BLUE).all()
        assert (levels[100:, :200] == RED).all()
        assert (levels[:100, :200] == WHITE).all()
        assert (levels[100:, 200:] == WHITE).all()


def test_pages_turned_and_cropped():
    turned, cropped = rendered(
        pdf.build([pdf.page(entries="/Rotate 90"), pdf.page(entries="/CropBox [0 0 100 100]")]),
        dpi=72,
    )
    assert turned.size == (100, 200)
    assert corners(turned) == [RED, WHITE, WHITE, BLUE]
    assert cropped.size == (100, 100)
    assert corners(cropped) == [WHITE, WHITE, RED, RED]


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (595, 842, (1447, 2048)),  # A4
        (842, 595, (2048, 1447)),
        (14_400, 14_400, (2048, 2048)),  # the largest that the format allows
        (1e9, 5e8, (2048, 1024)),  # and what a file may claim all the same
        (20, 10, (2048, 1024)),
        (1, 100_000, (1, 2048)),
        (0, 0, (1583, 2048)),  # PDFium takes US letter for it
    ],
)
def test_the_longest_edge_is_that_of_the_models(width, height, size):
    (image,) = rendered(pdf.build([pdf.page(width, height)]))
    assert image.size == size


def test_what_is_filled_into_a_form_is_drawn():
    """The appearance of a field, a green square, is no part of the page's own content."""
    field = (
        b"<< /Type /Annot /Subtype /Widget /FT /Tx /T (a) /Rect [0 0 50 50] /F 4 /P 3 0 R "
        b"/AP << /N 6 0 R >> >>"
    )
    look = b"<< /Type /XObject /Subtype /Form /BBox [0 0 50 50] /Length 21 >>\nstream\n"
    look += b"0 1 0 rg 0 0 50 50 re f".ljust(21) + b"\nendstream"
    content = pdf.serialise(
        {
            1: b"<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [5 0 R] >> >>",
            2: b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            3: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] /Contents 4 0 R "
            b"/Annots [5 0 R] >>",
            4: b"",
            5: field,
            6: look.replace(b"/Length 21", b"/Length 23"),
        },
        contents={4},
    )
    (image,) = rendered(content, dpi=72)
    assert image.getpixel((25, 75)) == (0, 255, 0)
    assert image.getpixel((75, 25)) == WHITE


# ---------------------------------------------------------------- limits


def test_five_hundred_pages_and_one_more():
    page = pdf.page()
    many = rendered(pdf.build([page] * 500), dpi=7)
    assert sum(corners(image)[1] == BLUE for image in many) == 500
    content = pdf.build([page] * 501)
    with pytest.raises(EncodingError, match=r"501 pages, the limit is 500: .* larger max_pages"):
        next(rendered(content))
    assert len(list(rendered(content, dpi=7, max_pages=501))) == 501


def test_a_page_that_is_too_large_comes_after_the_others(tmp_path):
    path = tmp_path / "large.pdf"
    path.write_bytes(pdf.build([pdf.page(), pdf.page(14_400, 14_400)]))
    made = rendered(path, dpi=144)
    assert next(made).size == (400, 200)
    message = f"{re.escape(str(path))}, page 2: it has 28800 x 28800 pixels at 144 dpi, the limit"
    with pytest.raises(FileError, match=message):
        next(made)
    for dpi in (1e308, 1e200):
        with pytest.raises(
            FileError, match=r"page 1: it has (inf|\S*e\+200) x .* pass a smaller dpi"
        ):
            next(rendered(path, dpi=dpi))
    with pytest.raises(FileError, match="page 1: it has no pixels at .*e-324 dpi: pass a larger"):
        next(rendered(path, dpi=5e-324))
    with pytest.raises(FileError, match="page 1: .* the limit is 1000: pass a smaller dpi"):
        next(rendered(path, max_pixels=1000))


@pytest.mark.linux
def test_memory_does_not_grow_with_the_pages():
    code = (
        "import resource, pdf_files as pdf\n"
        "from tessera_onnx.images import pdf as pages\n"
        "content = pdf.build([pdf.page(595, 842)] * 500)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
        "made = pages.read_pages(content, dpi=60)\n"
        "for _ in range(5): next(made)\n"
        "early = peak()\n"
        "for image in made: pass\n"
        "print(peak() - early)"
    )
    here = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 30  # MB; a page is 1


# ---------------------------------------------------------------- bad input

ONE = pdf.build([pdf.page()])
DAMAGED = {
    "locked": (
        pdf.build([pdf.page()], password="secret"),
        "cannot be read: it is encrypted, pass its `password=`",
    ),
    "no pages": (pdf.build([]), "cannot be read: it has no pages"),
    "nonsense": (b"%PDF-1.7 and nothing else", "cannot be read: it is damaged beyond repair"),
    "cut": (ONE[:150], "cannot be read: it is damaged beyond repair"),
    "no image either": (b"GIF9 and nothing else", "is no PDF"),
    "an image": (b"\x89PNG\r\n\x1a\n", "cannot be decoded"),
    "a page that is none": (
        ONE.replace(b"/Kids [3 0 R]", b"/Kids [9 0 R]"),
        r"page 1: Failed to load page.* Leave it out with `pages=`",
    ),
    "pages only claimed": (
        pdf.build([], count=3),
        r"page 1: Failed to load page.* Leave it out with `pages=`",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(name, tmp_path):
    content, reason = DAMAGED[name]
    path = tmp_path / "a.pdf"
    path.write_bytes(content)
    with pytest.raises(FileError, match=f"^{re.escape(str(path))}.*{reason}"):
        list(rendered(path))
    with pytest.raises(EncodingError, match=f"^the (PDF|file).*{reason}"):
        list(rendered(content))


@pytest.mark.posix
def test_paths_that_cannot_be_read(tmp_path):
    (tmp_path / "empty.pdf").touch()
    for path in (tmp_path, tmp_path / "missing.pdf", tmp_path / "empty.pdf", "/dev/zero"):
        with pytest.raises(FileError, match=f"{path} cannot be read"):
            next(rendered(path))


@pytest.mark.parametrize("place", [b"startxref\n", b"xref\n0 5\n"])
def test_a_broken_table_of_contents_is_rebuilt(place):
    content = ONE.replace(place, place + b"999", 1)
    assert content != ONE
    (image,), (expected,) = rendered(content, dpi=72), rendered(ONE, dpi=72)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))


def test_an_empty_password_opens():
    (image,) = rendered(pdf.build([pdf.page()], password=""), dpi=72)
    assert corners(image) == [WHITE, BLUE, RED, WHITE]


def test_arguments_are_checked_at_the_call():
    for source in (None, 3, ["a.pdf"], np.zeros((3, 3), np.uint8)):
        with pytest.raises(TypeError, match="source must be a path, the bytes"):
            rendered(source)
    for dpi in ("200", True, [72]):
        with pytest.raises(TypeError, match="dpi must be a number or None"):
            rendered(ONE, dpi=dpi)
    for dpi in (np.float32(72), np.int64(72), np.float64(72), Fraction(72)):
        assert next(rendered(ONE, dpi=dpi)).size == next(rendered(ONE, dpi=72)).size
    for dpi in (0, -1, float("nan"), float("inf"), 10**400, np.float32("nan")):
        with pytest.raises(ConfigError, match="dpi must be above 0"):
            rendered(ONE, dpi=dpi)
    with pytest.raises(ConfigError, match="max_pages must be at least 1"):
        rendered(ONE, max_pages=0)
    with pytest.raises(TypeError, match="max_pixels must be int"):
        rendered(ONE, max_pixels=1e6)


def test_without_pypdfium2(monkeypatch):
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(ImportError, match=r'pip install "PATH\[pdf\]"'):
        rendered(ONE)


# ---------------------------------------------------------------- handles


def test_the_document_is_closed_however_it_ends(monkeypatch):
    open_documents = []
    true_init, true_close = pypdfium2.PdfDocument.__init__, pypdfium2.PdfDocument.close

    def init(self, *args):
        true_init(self, *args)
        open_documents.append(self)

    def close(self):
        open_documents.remove(self)
        true_close(self)

    monkeypatch.setattr(pypdfium2.PdfDocument, "__init__", init)
    monkeypatch.setattr(pypdfium2.PdfDocument, "close", close)
    content = pdf.build([pdf.page()] * 3)
    list(rendered(content))
    assert open_documents == []
    made = rendered(content)
    next(made)
    assert len(open_documents) == 1
    made.close()
    assert open_documents == []
    made = rendered(content)
    next(made)
    del made
    gc.collect()
    assert open_documents == []
    for broken in (content, pdf.build([]), DAMAGED["a page that is none"][0]):
        with pytest.raises(EncodingError):
            list(rendered(broken, max_pages=2))
    assert open_documents == []


def test_images_outlive_their_document():
    images = list(rendered(pdf.build([pdf.page()] * 3), dpi=72))
    gc.collect()
    assert all(corners(image) == [WHITE, BLUE, RED, WHITE] for image in images)


def test_threads_take_turns():
    """PDFium has one state for all of a process: without a lock this crashes it."""
    content = pdf.build([pdf.page()] * 10)
    start = threading.Barrier(4)

    def work(_):
        start.wait()
        return [corners(image) for image in rendered(content, dpi=72)]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, range(4)):
            assert found == [[WHITE, BLUE, RED, WHITE]] * 10

"""Images, PDFs and their queries, and what stands where they are due, at every entry point."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import image_cases
import numpy as np
import pdf_files
from artifact_tools import ARTIFACTS
from cases_text import SURROGATE, TEXTS, WRONG
from outcomes import MARKER, Case, command
from PIL import Image, ImageDraw, ImageFont

from tessera_onnx import TesseraMultiVector, TesseraVision, maxsim


def _words() -> np.ndarray:
    """Words in two lines, for a model that finds nothing else: (64, 192, 3) levels."""
    page = Image.new("RGB", (192, 64), (250, 245, 220))
    font = ImageFont.load_default(22)
    ImageDraw.Draw(page).text((6, 4), "annual rainfall\nof the islands", "darkblue", font)
    return np.asarray(page)


COLOURS = _words()
GREYS = np.asarray(Image.fromarray(COLOURS).convert("L"))
# Clear or not, nothing between: what is drawn on white then has no rounding.
CLEAR = np.where(np.arange(192) < 120, 255, 0)[None].repeat(64, axis=0).astype(np.uint8)
QUERY = "annual rainfall"
TINY = ARTIFACTS / "colqwen2"
Judge = Callable[[Any], None]


def opened(name: str, threads: int = 2) -> TesseraVision:
    if name == "colqwen2":
        return TesseraVision(path=TINY, threads=threads)
    return TesseraVision(name, threads=threads)


def cases(folder: Path) -> Iterator[Case]:
    pages = {what: _written(folder, what, content, ".pdf") for what, content in _pdfs().items()}
    for name in ("tessera-page-mini", "colqwen2"):
        model = opened(name)
        yield from _images(model, name, folder)
        yield from _wrong_images(model, name, folder)
        yield from _pages(model, name, pages)
        yield from _queries(model, name)
        yield from _vectors(model, name)
        yield from _arguments(model, name, folder)
    yield from _command(folder, pages)


def _written(folder: Path, what: str, content: bytes, suffix: str) -> Path:
    path = folder / f"{what.replace('/', '-')}{suffix}"
    path.write_bytes(content)
    return path


def _saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _right(alpha: str) -> dict[str, tuple[bytes, np.ndarray]]:
    """A file's bytes and the RGB levels that they stand for, written down before they were."""
    colour, grey = Image.fromarray(COLOURS), Image.fromarray(GREYS)
    palette = colour.quantize(32)
    levels = np.asarray(palette.convert("RGB"))
    rgba = Image.fromarray(np.dstack([COLOURS, CLEAR]))
    drawn = np.where(CLEAR[..., None] > 0, COLOURS, 255) if alpha == "white" else COLOURS
    deep = GREYS.astype(np.uint16) * 257
    moving = {"save_all": True, "append_images": [palette.rotate(90, expand=False)]}
    lines = {f"{w} x {h}": image_cases.picture(w, h) for w, h in [(1, 1), (150, 1), (1, 150)]}
    found = {
        **{what: (_saved(Image.fromarray(array)), array) for what, array in lines.items()},
        "grey": (_saved(grey), np.stack([GREYS] * 3, axis=-1)),
        "16 bits": (_saved(Image.fromarray(deep)), np.stack([GREYS] * 3, axis=-1)),
        "one colour": (_saved(Image.new("RGB", (60, 40), "navy")),
                       np.full((40, 60, 3), (0, 0, 128))),
        "palette": (_saved(palette), levels),
        "CMYK": (_saved(Image.new("CMYK", (40, 30), (255, 0, 0, 0)), "TIFF"),
                 np.full((30, 40, 3), (0, 255, 255))),
        "alpha": (_saved(rgba), drawn),
        "animated GIF": (_saved(palette, "GIF", **moving), levels),
        "animated PNG": (_saved(palette, "PNG", **moving), levels),
        "animated WebP": (_saved(colour, "WebP", lossless=True, save_all=True,
                                 append_images=[colour.rotate(180)]), COLOURS),
        "a TIFF of two pages": (_saved(colour, "TIFF", save_all=True,
                                       append_images=[colour.rotate(180)]), COLOURS),
        "BMP": (_saved(colour, "BMP"), COLOURS),
        "PPM": (_saved(colour, "PPM"), COLOURS),
        "WebP": (_saved(colour, "WebP", lossless=True), COLOURS),
    }  # fmt: skip
    # EXIF: where row 0 and column 0 of what is stored lie on the upright image.
    stored = {
        1: COLOURS, 2: COLOURS[:, ::-1], 3: COLOURS[::-1, ::-1], 4: COLOURS[::-1],
        5: COLOURS.swapaxes(0, 1), 6: np.rot90(COLOURS), 7: COLOURS[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(COLOURS, -1),
    }  # fmt: skip
    for orientation, array in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif[0x010E] = MARKER
        content = _saved(Image.fromarray(np.ascontiguousarray(array)), exif=exif)
        found[f"EXIF orientation {orientation}"] = (content, COLOURS)
    return {what: (content, array.astype(np.uint8)) for what, (content, array) in found.items()}


def _chunk(name: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def _wrong_files() -> dict[str, bytes]:
    """Bytes that are no image, or one that is damaged or too large."""
    colour = Image.fromarray(COLOURS)
    jpeg, png = _saved(colour, "JPEG", comment=MARKER.encode()), _saved(colour)
    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    gif = bytearray(_saved(colour.quantize(8), "GIF"))
    gif[6:10] = struct.pack("<HH", 60_000, 60_000)
    bmp = bytearray(_saved(colour, "BMP"))
    bmp[18:26] = struct.pack("<II", 60_000, 60_000)
    grey32 = Image.fromarray(GREYS.astype(np.int32))
    return {
        "a truncated JPEG": jpeg[:-400],
        "half a JPEG's header": jpeg[:40],
        "a truncated PNG": png[: len(png) // 2],
        "a truncated GIF": _saved(colour.quantize(32), "GIF")[:500],
        "a truncated WebP": _saved(colour, "WebP")[:300],
        "a truncated TIFF": _saved(colour, "TIFF")[:300],
        "text": f"Dear {MARKER}, this is a letter.".encode(),
        "a text that begins as a PPM": f"P3 {MARKER} {MARKER}".encode(),
        "a comment in a broken PNG": png[:33] + _chunk(b"tEXt", f"{MARKER}\0a".encode()) + b"no",
        "a PNG of 60000 x 60000": png[:8] + _chunk(b"IHDR", size) + _chunk(b"IDAT", b""),
        "a GIF of 60000 x 60000": bytes(gif),
        "a BMP of 60000 x 60000": bytes(bmp),
        "a PPM of 60000 x 60000": b"P6 60000 60000 255\n",
        "a PNG of 0 x 0": png[:8] + _chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0)),
        "greys of 32 bits": _saved(grey32, "TIFF"),
        "SVG": f"<?xml version='1.0'?><svg><text>{MARKER}</text></svg>".encode(),
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0 (" + MARKER.encode(),
        "a PDF": pdf_files.build([pdf_files.page()]),
        "an ICO": b"\0\0\1\0\1\0",
        "zeros": bytes(5000),
        "no bytes": b"",
    }


def _wrong_paths(folder: Path) -> dict[str, str]:
    pipe = folder / "pipe.png"
    os.mkfifo(pipe)
    return {
        "a missing file": "nowhere.png", "a folder": str(folder), "a pipe": str(pipe),
        "a NUL in the name": "a\0b.png", "an empty name": "", "a long name": "x" * 5000 + ".png",
        "a device": "/dev/zero", "an address": "https://example.org/a.png",
        "a file's child": f"{__file__}/a.png",
    }  # fmt: skip


WRONG_OBJECTS: dict[str, Any] = {
    "None": None,
    "a number": 3,
    "a list": [COLOURS],
    "nested lists": COLOURS.tolist(),
    "a dict": {MARKER: 1},
    "floats of three dims": COLOURS[None] / 255,
    "booleans": COLOURS > 9,
    "signed 16 bits": COLOURS.astype(np.int16),
    "32 bits": COLOURS.astype(np.uint32),
    "signed bytes": COLOURS.astype(np.int8),
    "objects": COLOURS.astype(object),
    "one dimension": COLOURS.ravel(),
    "no dimension": np.array(3, np.uint8),
    "four dimensions": COLOURS[None],
    "two channels": COLOURS[..., :2],
    "channels first": COLOURS.transpose(2, 0, 1),
    "no rows": COLOURS[:0],
    "no channels": COLOURS[..., :0],
    "a type": Image.Image,
    "greys of 32 bits": Image.fromarray(GREYS.astype(np.int32)),
    "floats in PIL": Image.fromarray(GREYS.astype(np.float32)),
    "a PIL image without pixels": Image.new("RGB", (0, 5)),
}
FORMS: dict[str, np.ndarray] = {
    "Fortran order": np.asfortranarray(COLOURS),
    "reversed strides": np.ascontiguousarray(COLOURS[::-1, ::-1])[::-1, ::-1],
    "one channel": GREYS[..., None],
    "two dims": GREYS,
    "16 bits that hold 8": COLOURS.astype(np.uint16),
    "16 bits that hold 12": COLOURS.astype(np.uint16) * 16,
    "16 bits": COLOURS.astype(">u2") * 257,
    "with alpha": np.dstack([COLOURS, np.full((64, 192), 255, np.uint8)]),
    "a part of a larger one": np.pad(COLOURS, ((5, 5), (7, 7), (0, 0)))[5:-5, 7:-7],
}


def _single(model: TesseraVision) -> dict[str, tuple[Callable[[Any], Any], str]]:
    """Entry point -> (the vectors or score of an image, the image's name in an error)."""
    query = model.encode_query(QUERY)
    return {
        "encode_document": (model.encode_document, "^image "),
        "encode_documents": (lambda i: model.encode_documents([COLOURS, i])[1], r"^images\[1\]"),
        "encode_iter": (lambda i: list(model.encode_iter([GREYS, i]))[1], r"^images\[1\]"),
        "search": (lambda i: model.search(query, i), r"^documents\[0\]"),
        "search_document": (lambda i: model.search_document(QUERY, i), r"^documents\[0\]"),
        "rank": (
            lambda i: next(r.score for r in model.rank(QUERY, [COLOURS, i]) if r.index),
            r"^documents\[1\]",
        ),
        "similarity_map": (lambda i: model.similarity_map(query, i), "^document "),
    }


def _judges(model: TesseraVision, pixels: np.ndarray) -> dict[str, Judge]:
    """What each entry point must give for an image of these RGB levels."""
    query = model.encode_query(QUERY)
    vectors = model.encode_document(pixels)
    score = maxsim(query, vectors) if len(vectors) else -len(query)
    cells = model.similarity_map(query, pixels)

    def equal(expected: Any) -> Judge:
        return lambda found: np.testing.assert_allclose(found, expected, atol=1e-4)

    def whole(found: np.ndarray) -> None:
        assert found.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        equal(vectors)(found)

    encode = dict.fromkeys(("encode_document", "encode_documents", "encode_iter"), whole)
    search = dict.fromkeys(("search", "search_document", "rank"), equal(score))
    return {**encode, **search, "similarity_map": equal(cells)}


def _images(model: TesseraVision, name: str, folder: Path) -> Iterator[Case]:
    calls = _single(model)
    alpha = model.spec.vision.image.alpha  # type: ignore[union-attr]
    for what, (content, pixels) in _right(alpha).items():
        judges = _judges(model, pixels)
        path = _written(folder, what, content, ".png")  # what the name says does not count
        for entry, (call, _) in calls.items():
            for form, source in {"bytes": content, "file": path}.items():
                run = lambda c=call, s=source: c(s)
                yield Case("images", f"{name}.{entry}, {form}", what, run, judges[entry], False)
    for what, array in FORMS.items():
        pixels = array if array.ndim == 3 and array.shape[2] > 1 else np.dstack([GREYS] * 3)
        judges = _judges(model, np.ascontiguousarray(pixels[..., :3]))
        for entry, (call, _) in calls.items():
            run = lambda c=call, s=array: c(s)
            yield Case("images", f"{name}.{entry}, array", what, run, judges[entry], error=False)


def _wrong_images(model: TesseraVision, name: str, folder: Path) -> Iterator[Case]:
    paths = {what: _written(folder, what, content, ".jpg")
             for what, content in _wrong_files().items()}  # fmt: skip
    own = folder / f"paths {name}"
    own.mkdir()
    for entry, (call, says) in _single(model).items():
        for what, content in _wrong_files().items():
            if entry == "similarity_map" and what == "a PDF":
                continue  # it reads the first page: see _pages
            run = lambda c=call, s=content: c(s)
            yield Case("images", f"{name}.{entry}, bytes", what, run, None, True, says)
            run = lambda c=call, s=paths[what]: c(s)
            named = rf"{what}\.jpg (is|has|cannot)"
            yield Case("images", f"{name}.{entry}, file", what, run, None, True, named)
        paths_too = {"a missing file": "nowhere.png", "a folder": str(own)}
        if entry == "encode_document":
            paths_too = _wrong_paths(own)
        for what, path in paths_too.items():
            run = lambda c=call, s=path: c(s)
            yield Case("images", f"{name}.{entry}, file", what, run, None, True, "cannot be read")
        for what, value in WRONG_OBJECTS.items():
            if entry in {"search", "search_document", "rank"} and what == "floats of three dims":
                value = np.full((2, 3, 4), np.nan)  # noqa: PLW2901 (floats are vectors there)
            run = lambda c=call, s=value: c(s)
            yield Case("images", f"{name}.{entry}", what, run, None, True, says)
    containers: dict[str, Any] = {
        "a str": "a.png", "bytes": _saved(Image.fromarray(COLOURS)), "None": None, "a number": 3,
        "a PIL image": Image.fromarray(COLOURS), "an image's array": COLOURS,
        "an array of greys": GREYS, "a path": Path("a.png"),
    }  # fmt: skip
    lists: dict[str, Callable[[Any], Any]] = {
        "encode_documents": model.encode_documents,
        "encode_iter": lambda images: list(model.encode_iter(images)),
        "rank": lambda images: model.rank(QUERY, images),
    }
    truth = model.encode_document(COLOURS)
    expected = maxsim(model.encode_query(QUERY), truth)

    def two(found: Any) -> None:
        assert len(found) == 2
        for each in found:
            value, wanted = (each.score, expected) if hasattr(each, "score") else (each, truth)
            np.testing.assert_allclose(value, wanted, atol=1e-4)

    for entry, many in lists.items():
        for what, value in containers.items():
            run = lambda c=many, v=value: c(v)
            named = "must be a list"
            yield Case("images", f"{name}.{entry}", f"{what} for a list", run, None, True, named)
        for what, make in {
            "a generator": lambda: (image for image in [COLOURS, COLOURS]),
            "a tuple": lambda: (COLOURS, COLOURS),
            "a stack of images": lambda: np.stack([COLOURS, COLOURS]),
        }.items():
            run = lambda c=many, m=make: c(m())
            yield Case("images", f"{name}.{entry}", what, run, two, error=False)
        run = lambda c=many: c([])
        nothing = lambda found: np.testing.assert_equal(len(found), 0)
        yield Case("images", f"{name}.{entry}", "no images", run, nothing, error=False)


def _pdfs() -> dict[str, bytes]:
    """PDFs of which each is right or wrong as a whole: see RIGHT_PDFS."""
    one = pdf_files.build([pdf_files.page()])
    return {
        "a page": one,
        "landscape, turned": pdf_files.build([pdf_files.page(entries="/Rotate 90")]),
        "a huge MediaBox": pdf_files.build([pdf_files.page(1e6, 5e5)]),
        "a broken table of contents": one.replace(b"startxref\n", b"startxref\n9"),
        "encrypted": pdf_files.build([pdf_files.page()], password=MARKER),
        "no pages": pdf_files.build([]),
        "pages only claimed": pdf_files.build([], count=3),
        "501 pages": pdf_files.build([pdf_files.page()] * 501),
        "cut": one[:150],
        "no PDF": f"%PDF-1.7 {MARKER}".encode(),
        "text": MARKER.encode() * 99,
        "an image": _saved(Image.fromarray(COLOURS)),
        "no bytes": b"",
    }


RIGHT_PDFS = {"a page", "landscape, turned", "a huge MediaBox", "a broken table of contents"}


def _drawing(*, turned: bool = False) -> np.ndarray:
    """The page of pdf_files.QUARTERS as PDFium's 72 dpi show it."""
    levels = np.full((100, 200, 3), 255, np.uint8)
    levels[50:, :100] = (255, 0, 0)
    levels[:50, 100:] = (0, 0, 255)
    return np.ascontiguousarray(np.rot90(levels, -1)) if turned else levels


def _pages(model: TesseraVision, name: str, files: dict[str, Path]) -> Iterator[Case]:
    for what, path in files.items():
        right = what in RIGHT_PDFS
        expected = model.encode_document(_drawing(turned="turned" in what))
        dpi = 72 * 200 / 1e6 if "huge" in what else 72

        def judge(found: Any, expected: np.ndarray = expected) -> None:
            (vectors,) = found
            np.testing.assert_allclose(vectors, expected, atol=1e-4)

        for form, source in {"file": path, "bytes": path.read_bytes()}.items():
            run = lambda s=source, d=dpi: list(model.encode_pages(s, dpi=d))
            says = rf"{what}\.pdf|page 1" if form == "file" else "pdf|page 1"
            yield Case("PDF", f"{name}.encode_pages, {form}", what, run,
                       judge if right else None, not right, f"(?i){says}")  # fmt: skip
        map_of = model.similarity_map(QUERY, _drawing(turned="turned" in what))

        def same(found: Any, expected: np.ndarray = map_of) -> None:
            np.testing.assert_allclose(found, expected, atol=1e-4)

        if right:
            run = lambda p=path, d=dpi: model.similarity_map(QUERY, p, dpi=d)
            yield Case("PDF", f"{name}.similarity_map, file", what, run, same, error=False)
            run = lambda p=path, d=dpi: model.locate(QUERY, p, dpi=d).map
            yield Case("PDF", f"{name}.locate, file", what, run, same, error=False)
    huge, plain = files["a huge MediaBox"], files["a page"]
    wrong: dict[str, tuple[Callable[[], Any], str]] = {
        "a huge MediaBox at 72 dpi": (
            lambda: list(model.encode_pages(huge, dpi=72)), "page 1.*limit"),
        "1e300 dpi": (lambda: list(model.encode_pages(plain, dpi=1e300)), "page 1"),
        "a missing file": (lambda: list(model.encode_pages("nowhere.pdf")), "nowhere"),
        "a folder": (lambda: list(model.encode_pages(os.sep)), "folder"),
        "a NUL in the name": (lambda: list(model.encode_pages("a\0b.pdf")), "cannot be read"),
        "a device": (lambda: list(model.encode_pages("/dev/zero")), "device"),
    }  # fmt: skip
    for argument, values in {
        "pdf": {"None": None, "a number": 3, "a list": [plain], "an array": COLOURS,
                "a dict": {MARKER: 1}, "a type": Image.Image},
        "dpi": {"0": 0, "negative": -1, "NaN": float("nan"), "a str": "72", "True": True,
                "infinity": float("inf"), "a list": [72]},
        "pages": {"0": [0], "a number": 1, "none": [], "not there": [2], "a float": [1.0],
                  "True": [True], "an odd str": "1-", "backwards": "3-1", "a word": MARKER},
        "password": {"a number": 3, "bytes": b"a"},
        "max_pages": {"0": 0, "a str": "3", "True": True, "a float": 3.0, "None": None},
        "output_dtype": {"unknown": "bits", "None": None},
        "pool_factor": {"0": 0, "a str": "2"},
    }.items():  # fmt: skip
        for what, value in values.items():
            given = {"pdf": plain, argument: value}
            called = lambda g=given: list(model.encode_pages(**g))
            says = "source|pdf" if argument == "pdf" else f"{argument}|page 2"
            wrong[f"{argument}: {what}"] = (called, says)
    for what, (run, says) in wrong.items():
        yield Case("PDF", f"{name}.encode_pages", what, run, None, True, f"(?s){says}")


def _queries(model: TesseraVision, name: str) -> Iterator[Case]:
    other = (
        TesseraMultiVector("all-minilm-l6-v2", dimension=128, threads=1) if "page" in name else None
    )
    image = model.encode_document(COLOURS)
    for what, query in TEXTS.items():
        if "megabyte" in what:
            continue

        def unit(found: np.ndarray, query: str = query) -> None:
            np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
            if other is not None:
                np.testing.assert_allclose(found, other.encode_query(query), atol=1e-5)
            else:
                assert len(model.query_tokens(query)) == len(found)

        def score(found: float, query: str = query) -> None:
            expected = maxsim(model.encode_query(query), image)
            np.testing.assert_allclose(found, expected, atol=1e-3)

        run = lambda q=query: model.encode_query(q)
        yield Case("queries", f"{name}.encode_query", what, run, unit, error=False)
        run = lambda q=query: model.encode_query(["cat", q])[1]
        yield Case("queries", f"{name}.encode_query, a list", what, run, unit, error=False)
        run = lambda q=query: model.search(q, COLOURS)
        yield Case("queries", f"{name}.search", what, run, score, error=False)
        run = lambda q=query: model.rank(q, [COLOURS])[0].score
        yield Case("queries", f"{name}.rank", what, run, score, error=False)
    wrong = {what: value for what, value in WRONG.items() if what not in {"a list", "a dict"}}
    for what, value in {**wrong, "a lone surrogate": SURROGATE, "a uint8 array": COLOURS}.items():
        for entry, (call, says) in {
            "encode_query": (lambda v: model.encode_query(v), "^(text|queries)|^texts"),
            "encode_query, a list": (lambda v: model.encode_query(["cat", v]), r"1\b"),
            "query_tokens": (lambda v: model.query_tokens(v), "text"),
            "search": (lambda v: model.search(v, COLOURS), "query|text"),
            "rank": (lambda v: model.rank(v, [COLOURS]), "query|text"),
            "similarity_map": (lambda v: model.similarity_map(v, COLOURS), "query|text"),
        }.items():
            run = lambda c=call, v=value: c(v)
            yield Case("queries", f"{name}.{entry}", what, run, None, True, says)


def _vectors(model: TesseraVision, name: str) -> Iterator[Case]:
    dim = model.embedding_dim()
    good = np.eye(3, dim, dtype=np.float32)
    wrong = {
        "one dimension": good[0], "three dimensions": good[None], "another dim": good[:, 1:],
        "NaN": good * np.float32(np.nan), "infinity": np.where(good > 0, np.inf, 0),
        "beyond float32": good.astype(float) * 1e300, "complex": good * 1j, "no dims": good[:, :0],
    }  # fmt: skip
    for what, value in wrong.items():
        run = lambda v=value: model.search(v, good)
        yield Case("queries", f"{name}.search, vectors of a query", what, run, None, True, "query")
        run = lambda v=value: model.rank(good, [good, v])
        says = r"documents\[1\]"
        yield Case("queries", f"{name}.rank, vectors of a page", what, run, None, True, says)
    for what, value in {
        "float64": good.astype(float), "float16": good.astype(np.float16),
        "big endian": good.astype(">f4"),
        "Fortran order": np.asfortranarray(good), "reversed strides": good[::-1],
    }.items():  # fmt: skip
        run = lambda v=value: model.search(v, v)
        three = lambda found: np.testing.assert_allclose(found, 3, atol=1e-3)
        yield Case("queries", f"{name}.search, vectors", what, run, three, error=False)


def _arguments(model: TesseraVision, name: str, folder: Path) -> Iterator[Case]:
    wrong: dict[str, dict[str, Any]] = {
        "image_only": {"a str": "yes", "1": 1, "None": None},
        "max_pixels": {"0": 0, "a str": "9", "True": True, "a float": 1e6, "None": None},
        "on_long": {"unknown": "cut", "None": None, "a list": ["warn"]},
        "device": {"unknown": "abacus", "None": None},
        "precision": {"unknown": "int2", "a number": 8},
        "threads": {"0": 0, "True": True, "a str": "2"},
    }
    for option, values in wrong.items():
        for what, value in values.items():
            run = lambda g={option: value}: TesseraVision(path=TINY, **g)
            if name == "colqwen2":
                yield Case("queries", name, f"{option}: {what}", run, None, True, option)
    page = COLOURS
    for what, (call, says) in {
        "output: unknown": (lambda: model.encode_document(page, output_dtype="bits"), "output"),
        "output: None": (lambda: model.encode_documents([page], output_dtype=None), "output"),
        "pool_factor: 0": (lambda: model.encode_document(page, pool_factor=0), "pool_factor"),
        "pool_factor: True": (lambda: model.encode_iter([page], pool_factor=True), "pool_factor"),
        "pool_factor: a str": (lambda: model.encode_documents([page], pool_factor="2"),
                               "pool_factor"),
        "top_k: 0": (lambda: model.rank(QUERY, [page], 0), "top_k"),
        "top_k: True": (lambda: model.rank(QUERY, [page], True), "top_k"),
        "top_k: a str": (lambda: model.rank(QUERY, [page], "1"), "top_k"),
        "map, another suffix": (lambda: model.save_similarity_map(QUERY, page, "a.txt"), "end in"),
        "map, a number for a name": (lambda: model.save_similarity_map(QUERY, page, 3), "file"),
        "map, no folder": (lambda: model.save_similarity_map(QUERY, page, "no/a.png"), "no"),
        "map, a NUL in the name": (lambda: model.save_similarity_map(QUERY, page, "a\0.png"), ""),
        "map, a long name": (lambda: model.save_similarity_map(QUERY, page, "x" * 999 + ".png"),
                             ""),
        "map, a file's child": (
            lambda: model.save_similarity_map(QUERY, page, f"{__file__}/a.png"), ""),
        "map, token: -1": (lambda: model.save_similarity_map(QUERY, page, "a.png", token=-1),
                           "token"),
        "map, token: 99": (lambda: model.save_similarity_map(QUERY, page, "a.png", token=99),
                           "token"),
        "map, token: True": (lambda: model.save_similarity_map(QUERY, page, "a.png", token=True),
                             "token"),
        "map, a folder": (lambda: model.save_similarity_map(
            QUERY, page, str(_folder(folder, name))), ""),
    }.items():  # fmt: skip
        run = lambda c=call: _leaves_nothing(folder, c)
        yield Case("queries", f"{name}'s arguments", what, run, None, True, says)


def _folder(folder: Path, name: str) -> Path:
    made = folder / f"{name}.png"
    made.mkdir(exist_ok=True)
    return made


def _leaves_nothing(folder: Path, call: Callable[[], Any]) -> Any:
    before = set(Path.cwd().iterdir()) | set(folder.iterdir())
    try:
        return call()
    finally:
        more = (set(Path.cwd().iterdir()) | set(folder.iterdir())) - before
        assert all(path.is_dir() for path in more), more


def _command(folder: Path, pages: dict[str, Path]) -> Iterator[Case]:
    model = opened("colqwen2")
    given = ["-m", TINY, "--threads", 1]
    query = model.encode_query(QUERY)
    out = folder / "out"
    out.mkdir()

    def rank(path: Any) -> float:
        printed = command("rank", "--json", *given, "--query", QUERY, "--", path)
        return float(json.loads(printed)["ranking"][0]["score"])

    def encode(path: Any) -> np.ndarray:
        command("encode", *given, "-o", out / "a.npz", "--", path)
        with np.load(out / "a.npz", allow_pickle=False) as stored:
            return stored["tokens"]

    def similarity(path: Any) -> float:
        printed = command("similarity", *given, "--json", "--", QUERY, path)
        return float(json.loads(printed)["similarity"])

    def explain(path: Any) -> float:
        printed = command("explain", *given, "--json", "--plot", out / "a.png", "--", QUERY, path)
        found = json.loads(printed)
        return float(found["matches"][0]["score"])

    def judges(image: Any, content: bytes) -> dict[str, Judge]:
        vectors = model.encode_document(image)
        cells = model.similarity_map(query, image)
        several = [vectors]  # of a TIFF all pages
        if content[:2] in {b"II", b"MM"}:
            several = list(model.encode_pages(content))
        wanted = {"rank": max(maxsim(query, page) for page in several),
                  "encode": np.concatenate(several), "explain": cells[0].max(),
                  "similarity": maxsim(query, vectors)}  # fmt: skip
        return {
            name: lambda found, w=value: np.testing.assert_allclose(found, w, atol=1e-4)
            for name, value in wanted.items()
        }

    calls = {"rank": rank, "encode": encode, "similarity": similarity, "explain": explain}
    for what, (content, pixels) in _right("dropped").items():
        if what.startswith("EXIF") and not what.endswith("6"):
            continue  # what the command adds to the class does not depend on it
        path = _written(out, what, content, ".png")
        expected = judges(pixels, content)
        for entry, call in calls.items():
            run = lambda c=call, p=path: c(p)
            yield Case("images", f"tessera {entry}", what, run, expected[entry], error=False)
    files = {w: _written(out, w, c, ".jpg") for w, c in _wrong_files().items()}
    own = folder / "paths of the command"
    own.mkdir()
    for entry, call in calls.items():
        if entry == "similarity":
            continue
        for what, path in {**files, **_wrong_paths(_cleared(own))}.items():
            if what == "a PDF":
                continue  # of what is in the file, not of its name
            run = lambda c=call, p=path: c(p)
            yield Case("images", f"tessera {entry}", what, run, None, error=True)
        for what, path in pages.items():
            run = lambda c=call, p=path: c(p)
            drawn = what in RIGHT_PDFS | {"an image"}
            drawn = drawn or (entry, what) == (
                "explain",
                "501 pages",
            )  # of which it reads the first
            yield Case("PDF", f"tessera {entry}", what, run, _finite if drawn else None, not drawn)
    page = pages["a page"]
    for what, arguments in {
        "page 0": ["explain", *given, "--page", 0, QUERY, page],
        "pages of an image": ["rank", *given, "--pages", "1", "--query", QUERY, out / "grey.png"],
        "pages of a text": ["rank", "--pages", "1", "a", "b"],
        "odd pages": ["rank", *given, "--pages", MARKER, "--query", QUERY, page],
        "page 2 of 1": ["explain", *given, "--page", 2, QUERY, page],
        "another suffix": ["explain", *given, "--plot", "a.txt", QUERY, page],
        "a plot over its image": ["explain", *given, "--plot", out / "grey.png", "q",
                                  out / "grey.png"],
        "token 99": ["explain", *given, "--plot", "a.png", "--token", 99, QUERY, page],
        "a dimension": ["rank", *given, "--dimension", 8, "--query", QUERY, page],
        "a text": ["encode", *given, "--text", MARKER],
        "too many": ["explain", *given, QUERY, page, page],
    }.items():  # fmt: skip
        run = lambda a=arguments: command(*a)
        yield Case("PDF", "tessera, arguments", what, run, None, error=True)


def _cleared(folder: Path) -> Path:
    for path in folder.iterdir():
        path.unlink()
    return folder


def _finite(found: Any) -> None:
    assert np.isfinite(found).all()

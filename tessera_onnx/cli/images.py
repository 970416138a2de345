"""Encode, rank and explain images and pages of PDFs; `tessera explain`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click
import numpy as np

from tessera_onnx.cli import output as cli_output
from tessera_onnx.cli import vector_files
from tessera_onnx.cli.options import (
    AT_LEAST_1,
    CACHE,
    DEVICE,
    FILE,
    JSON,
    MODEL,
    PASSWORD,
    PRECISION,
    THREADS,
    location,
)
from tessera_onnx.cli.output import print_json, print_lines
from tessera_onnx.cli.texts import Inputs, Texts, about_lines
from tessera_onnx.errors import EncodingError, FileError
from tessera_onnx.images import decode, similarity_map, sources
from tessera_onnx.images.pdf import is_pdf, page_numbers
from tessera_onnx.images.similarity_map import Region
from tessera_onnx.images.vision import TesseraVision
from tessera_onnx.kinds import KindRow

PDF = ".pdf"
TIFF = (".tif", ".tiff")
OTHERS: tuple[str, ...] = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".bmp",
    ".gif",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
)
OTHERS += (".apng", ".jpe", ".jfif", ".avif", ".jp2", ".jpx", ".j2k", ".j2c")
SUFFIXES = (*OTHERS, *TIFF, PDF)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which pages of every PDF and TIFF are read, and the password."""

    pages: str | None
    password: str | None

    def check(self, names: Sequence[str], row: KindRow) -> None:
        """Raises UsageError where --pages is given and no file has pages."""
        has_none = row.reads != "images" or not any(map(_has_pages, names))
        if self.pages is not None and has_none:
            raise click.UsageError("--pages is for PDFs and TIFFs")


def are_images(names: Sequence[str], *, may_be_texts: bool) -> bool:
    """Whether all names, and at least one, are files with the suffix of an image or a PDF.

    A data: URI of an image counts as such a file. Raises FileError where all suffixes are of images
    but a file is missing. With `may_be_texts` the answer is False where all files are missing.
    """
    files = [name for name in names if not _is_inline(name)]
    if not names or not all(name.lower().endswith(SUFFIXES) for name in files):
        return False
    missing = [name for name in files if not os.path.exists(name)]  # noqa: PTH110 (a Path raises for what cannot be a name)
    if not missing:
        return all(map(os.path.isfile, files))
    if may_be_texts and len(missing) == len(names):
        return False
    raise FileError(f"{missing[0]:.300} is not there", path=missing[0])


def rank(
    model: TesseraVision,
    row: KindRow,
    query: str,
    names: Sequence[str],
    top_k: int | None,
    *,
    wanted: Wanted,
    as_json: bool,
) -> None:
    """Print images, and pages of PDFs, the best for the query first."""
    vectors = model.encode_query(query)
    labels, scores = [], []
    for label, page in _encoded(model, names, wanted):
        labels.append(label)
        scores.append(model.search(vectors, page))
    order = np.argsort(-np.array(scores), kind="stable")[:top_k].tolist()
    if as_json:
        found = [{"index": i, "score": scores[i], **labels[i]} for i in order]
        print_json({"model": model.model(), "kind": row.kind, "ranking": found})
        return
    rows = [
        (str(place), f"{scores[i]:.4f}", str(i + 1), _title(labels[i]))
        for place, i in enumerate(order, 1)
    ]
    print_lines(cli_output.table([("RANK", "SCORE", "DOCUMENT", "FILE"), *rows]))


def open_inputs(
    model: TesseraVision,
    names: Sequence[str],
    text: str | None,
    *,
    role: str | None,
    field: str,
    id_field: str | None,
    wanted: Wanted,
) -> Inputs:
    """The vectors of images and of pages, or of texts as queries."""
    if role == "query":
        if len(names) > 1:
            raise click.UsageError("queries come from one INPUT")
        texts = Texts(names[0], field, id_field) if names else None
        queries = [text or ""] if texts is None else list(texts)
        with about_lines(texts):
            vectors = model.encode_query(queries)
        return Inputs(iter(vectors), "text", len(queries), role, texts)
    if id_field is not None:
        raise click.UsageError("--id-field is for texts: images have no ids")
    if text is not None:
        raise click.UsageError("a vision model reads a text as a query: add --role query")
    total = None if any(map(_has_pages, names)) else len(names)
    encoded = (vectors for _, vectors in _encoded(model, names, wanted))
    return Inputs(encoded, "image", total, role or "document")


@click.command(short_help="Show where an image or a page answers each token of QUERY.")
@click.argument("query")
@click.argument("image")
@click.option("--page", type=AT_LEAST_1, help="Page of a PDF or TIFF. Default: the first.")
@PASSWORD
@click.option(
    "--plot",
    metavar="FILE",
    help="Image file to write, with the map drawn over it: .png, .jpg or .webp.",
)
@click.option(
    "--token",
    type=AT_LEAST_1,
    help="Number of the token to draw, from 1. Default: the mean of all.",
)
@MODEL
@FILE
@PRECISION
@DEVICE
@THREADS
@CACHE
@JSON
def explain(
    *,
    query: str,
    image: str,
    page: int | None,
    password: str | None,
    plot: str | None,
    token: int | None,
    model: str | None,
    cache_dir: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show where IMAGE, or a page of a PDF, answers each token of QUERY.

    Rows and columns count the cells of the model's grid, from 1. The box is in pixels: left, top,
    right, bottom. For a PDF the words in the box are shown. FILE is written whole or not at all.

    \b
    Example: tessera explain "annual rainfall" page.png --plot map.png
    """
    if plot is not None:
        similarity_map.check_file(plot)
        if vector_files.is_same(image, plot):
            raise click.UsageError("--plot is IMAGE itself")
    with TesseraVision(**location(model, cache_dir), **options) as opened:
        tokens = opened.query_tokens(query)
        if plot is not None and token is not None and token > len(tokens):
            raise click.UsageError(f"--token must lie in 1..{len(tokens)}")
        found = opened.locate(query, image, page=page, password=password)
        if plot is not None:
            similarity_map.save_map(found, None if token is None else token - 1, plot)
    rows, columns = found.map.shape[1:]
    width, height = found.image.size
    if as_json:
        facts = {"model": opened.model(), "rows": rows, "columns": columns, "plot": plot}
        facts |= {"width": width, "height": height, "page": page or 1}
        print_json({**facts, "matches": [_match(region) for region in found.regions]})
        return
    print_lines(
        cli_output.table(
            [
                ("TOKEN", "ROW", "COLUMN", "SCORE", f"BOX IN {width} x {height}", "WORDS"),
                *(
                    (
                        each.token,
                        str(each.row + 1),
                        str(each.column + 1),
                        f"{each.score:.4f}",
                        ",".join(map(str, each.box)),
                        cli_output.one_line(" ".join(each.words)),
                    )
                    for each in found.regions
                ),
            ]
        )
    )
    click.echo(f"{rows} rows, {columns} columns" + (f"; map in {plot}" if plot else ""))


def _match(region: Region) -> dict[str, Any]:
    return {
        "token": region.token,
        "row": region.row + 1,
        "column": region.column + 1,
        "score": region.score,
        "box": list(region.box),
        "words": list(region.words),
    }


def _encoded(
    model: TesseraVision, names: Sequence[str], wanted: Wanted
) -> Iterator[tuple[dict[str, Any], Any]]:
    """The label of each image or page (its file, and the number of a page) and its vectors."""
    for has_pages, group in itertools.groupby(names, _has_pages):
        if has_pages:
            for name in group:
                yield from _pages(model, name, wanted)
        else:
            files = list(group)
            with _naming(files):
                for name, vectors in zip(files, model.encode_iter(files), strict=True):
                    yield {"file": sources.label(name)}, vectors


def _pages(model: TesseraVision, name: str, wanted: Wanted) -> Iterator[tuple[dict[str, Any], Any]]:
    """The pages of a PDF or TIFF, with their numbers in that file."""
    try:
        found = model.encode_pages(name, pages=wanted.pages, password=wanted.password)
        numbers = itertools.count(1) if wanted.pages is None else page_numbers(wanted.pages)
        for number, page in zip(numbers, found, strict=False):
            yield {"file": sources.label(name), "page": number}, page
    except EncodingError as error:
        raise _about_file(error, name) from error


@contextmanager
def _naming(files: Sequence[str]) -> Iterator[None]:
    """Put the name of the file before an error about one of several images."""
    try:
        yield
    except EncodingError as error:
        if error.index is None:
            raise
        raise _about_file(error, files[error.index]) from error


def _about_file(error: EncodingError, name: str) -> EncodingError:
    return type(error)(f"{sources.label(name)}: {error}", index=error.index, path=name)


def _is_inline(name: str) -> bool:
    """Whether a name is an image or a PDF itself, as a data: URI."""
    kinds = ("data:image/", "data:application/pdf")
    return name[:20].lower().startswith(kinds) and sources.is_data(name)


def _has_pages(name: str) -> bool:
    """Whether a file is a PDF, or a TIFF of several pages; its content counts, not its name."""
    content: str | bytes = name
    if sources.is_data(name):
        try:
            content = sources.resolved(name, "image")
        except EncodingError:
            return False  # encoding it raises the error
    elif name.lower().endswith(PDF):
        return True
    return is_pdf(content) or decode.count_pages(content) > 1


def _title(label: dict[str, Any]) -> str:
    return f"{label['file']}, page {label['page']}" if "page" in label else str(label["file"])

"""What the command does with images and pages: encode, rank and explain them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from tessera_onnx.cli import output as cli_output
from tessera_onnx.cli import vector_files
from tessera_onnx.cli.options import (
    AT_LEAST_1,
    CACHE,
    DEVICE,
    JSON,
    MODEL,
    PRECISION,
    THREADS,
    ProgramCommand,
    location,
    note_blank,
    print_json,
    print_lines,
    say,
    shown_place,
)
from tessera_onnx.cli.texts import Texts, naming_lines
from tessera_onnx.errors import EncodingError, FileError
from tessera_onnx.images import decode, similarity_map, sources
from tessera_onnx.images.pdf import is_pdf, page_numbers
from tessera_onnx.images.similarity_map import Region
from tessera_onnx.images.vision import TesseraVision
from tessera_onnx.models.spec import Kind
from tessera_onnx.progress import Stderr
from tessera_onnx.vectors.quantization import OutputDtype

VISION: Kind = "vision"
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
PAGES = click.option("--pages", metavar="LIST", help="Pages of PDFs and TIFFs, such as 1-3,7.")
PASSWORD = click.option(
    "--password",
    envvar="TESSERA_PDF_PASSWORD",
    help="Password of encrypted PDFs; as the variable TESSERA_PDF_PASSWORD no one else sees it.",
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command asks of every PDF and TIFF."""

    pages: str | None
    password: str | None

    def check(self, names: Sequence[str], kind: Kind) -> None:
        """Raises UsageError where there is nothing that has pages."""
        if self.pages is not None and (kind != VISION or not any(map(_has_pages, names))):
            raise click.UsageError("--pages is for PDFs and TIFFs")


def are_images(names: Sequence[str], *, may_be_texts: bool) -> bool:
    """Whether all of them, and at least one, are files with the suffix of an image or a PDF.

    A data: URI of an image counts as such a file.

    Raises FileError where the suffixes say so but a file is missing; with `may_be_texts` not where
    all are missing.
    """
    files = [name for name in names if not _is_inline(name)]
    if not names or not all(name.lower().endswith(SUFFIXES) for name in files):
        return False
    missing = [name for name in files if not os.path.exists(name)]  # noqa: PTH110 (a Path raises for what cannot be a name)
    if not missing:
        return all(map(os.path.isfile, files))
    if may_be_texts and len(missing) == len(names):
        return False
    raise FileError(f"{missing[0]:.300} is not there")


def rank(
    model: TesseraVision,
    query: str,
    names: Sequence[str],
    top_k: int | None,
    *,
    wanted: Wanted,
    as_json: bool,
) -> None:
    """Print images, and pages of PDFs, by how well they answer the query."""
    vectors = model.encode_query(query)
    labels, scores = [], []
    for label, page in _encoded(model, names, wanted):
        labels.append(label)
        scores.append(model.search(vectors, page))
    order = np.argsort(-np.array(scores), kind="stable")[:top_k].tolist()
    if as_json:
        found = [{"index": i, "score": scores[i], **labels[i]} for i in order]
        print_json({"model": model.model(), "kind": VISION, "ranking": found})
        return
    rows = [
        (str(place), f"{scores[i]:.4f}", str(i + 1), _title(labels[i]))
        for place, i in enumerate(order, 1)
    ]
    print_lines(cli_output.table([("RANK", "SCORE", "DOCUMENT", "FILE"), *rows]))


def encode(
    model: TesseraVision,
    names: Sequence[str],
    text: str | None,
    *,
    role: str,
    output_dtype: OutputDtype,
    output: str | None,
    hidden: bool | None,
    field: str,
    id_field: str | None,
    wanted: Wanted,
    as_json: bool,
) -> None:
    """Write the vectors of images and of pages, or of texts as queries."""
    from tqdm import tqdm

    facts = {"model": model.model(), "kind": VISION, "role": role, "output_dtype": output_dtype}
    lines, blank = None, {}
    if role == "query":
        source = names[0] if names else None
        if len(names) > 1:
            raise click.UsageError("queries come from one INPUT")
        lines = None if source is None else Texts(source, field, id_field)
        texts = [text or ""] if lines is None else list(lines)
        with naming_lines(lines):
            vectors: Iterable[Any] = model.encode_query(texts)
        blank = note_blank(lines)
        total: int | None = len(texts)
    elif id_field is not None:
        raise click.UsageError("--id-field is for texts: images have none")
    elif text is not None:
        raise click.UsageError("a vision model reads a text as a query: add --role query")
    else:
        vectors = (page for _, page in _encoded(model, names, wanted))
        total = None if any(map(_has_pages, names)) else len(names)
    if output is None:
        (vector,) = vectors
        found = {**facts, **vector_files.row(vector, output_dtype)}
        print_json(found) if as_json else print_lines(cli_output.vector(found))
        return
    unit, width = "text" if role == "query" else "image", model.embedding_dim()
    bar = tqdm(vectors, total=total, unit=unit, disable=hidden, file=Stderr())
    ids = None if lines is None or id_field is None else lambda: lines.ids or []
    written = vector_files.write(
        Path(output), bar, kind=VISION, width=width, output_dtype=output_dtype, ids=ids
    )
    to_stdout = output == vector_files.STDOUT
    if as_json:
        counts = {f"{unit}s": written, **blank}
        print_json({**facts, "output": output, **counts, "width": width}, err=to_stdout)
    else:
        where = shown_place(output)
        tell = say if to_stdout else click.echo
        tell(f"{written} {unit}s in {where}: {model!r}, {output_dtype}")


@click.command(
    cls=ProgramCommand, short_help="Show where an image or a page answers each token of QUERY."
)
@click.argument("query")
@click.argument("image")
@click.option("--page", type=AT_LEAST_1, help="Page of a PDF or TIFF, else the first.")
@PASSWORD
@click.option("--plot", metavar="FILE", help="Map to draw over the image: .png, .jpg or .webp.")
@click.option("--token", type=AT_LEAST_1, help="Number of the token to draw, else their mean.")
@MODEL
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

    Rows and columns are those of the model's grid, from 1; the box is in pixels: left, top, right,
    bottom. Of a PDF it says which words stand there. FILE is written whole or not at all.

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
    """What each image is called, a page by its number too, and its vectors, in order."""
    for has_pages, group in itertools.groupby(names, _has_pages):
        if has_pages:
            for name in group:
                yield from _pages(model, name, wanted)
        else:
            files = list(group)
            done = 0
            try:
                for vectors in model.encode_iter(files):
                    yield {"file": sources.label(files[done])}, vectors
                    done += 1
            except EncodingError as error:
                reason = str(error).removeprefix(f"images[{done}]").removeprefix(":")
                raise EncodingError(f"{sources.label(files[done])}: {reason.strip()}") from error


def _pages(model: TesseraVision, name: str, wanted: Wanted) -> Iterator[tuple[dict[str, Any], Any]]:
    """The pages of a PDF or TIFF, by the numbers that they have there."""
    try:
        found = model.encode_pages(name, pages=wanted.pages, password=wanted.password)
        numbers = itertools.count(1) if wanted.pages is None else page_numbers(wanted.pages)
        for number, page in zip(numbers, found, strict=False):
            yield {"file": sources.label(name), "page": number}, page
    except EncodingError as error:
        raise EncodingError(f"{sources.label(name)}, {error}") from error


def _is_inline(name: str) -> bool:
    """Whether it is an image or a PDF itself, as a data: URI."""
    kinds = ("data:image/", "data:application/pdf")
    return name[:20].lower().startswith(kinds) and sources.is_data(name)


def _has_pages(name: str) -> bool:
    """Whether it is a PDF, or a TIFF of several pages, whatever its name is."""
    content: str | bytes = name
    if sources.is_data(name):
        try:
            content = sources.resolved(name, "image")
        except EncodingError:
            return False  # its reading says so
    elif name.lower().endswith(PDF):
        return True
    return is_pdf(content) or decode.count_pages(content) > 1


def _title(label: dict[str, Any]) -> str:
    return f"{label['file']}, page {label['page']}" if "page" in label else str(label["file"])

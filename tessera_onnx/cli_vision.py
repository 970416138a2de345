"""What the command does with images and pages: encode, rank and explain them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from tessera_onnx import heatmap, layout, pages, reading, writing
from tessera_onnx.cli_options import (
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
from tessera_onnx.errors import EncodingError, FileError
from tessera_onnx.quantization import Output
from tessera_onnx.schema import Kind
from tessera_onnx.text import Stderr
from tessera_onnx.vision import TesseraVision

VISION: Kind = "vision"
PDF = ".pdf"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", PDF)


def are_images(names: Sequence[str], *, may_be_texts: bool) -> bool:
    """Whether all of them, and at least one, are files with the suffix of an image or a PDF.

    Raises FileError where the suffixes say so but a file is missing; with `may_be_texts` not where
    all are missing.
    """
    if not names or not all(name.lower().endswith(SUFFIXES) for name in names):
        return False
    missing = [name for name in names if not os.path.exists(name)]  # noqa: PTH110 (a Path raises for what cannot be a name)
    if not missing:
        return all(map(os.path.isfile, names))
    if may_be_texts and len(missing) == len(names):
        return False
    raise FileError(f"{missing[0]:.300} is not there")


def rank(
    model: TesseraVision, query: str, names: Sequence[str], top_k: int | None, *, as_json: bool
) -> None:
    """Print images, and pages of PDFs, by how well they answer the query."""
    vectors = model.encode_query(query)
    labels, scores = [], []
    for label, page in _encoded(model, names):
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
    print_lines(layout.table([("RANK", "SCORE", "DOCUMENT", "FILE"), *rows]))


def encode(
    model: TesseraVision,
    names: Sequence[str],
    text: str | None,
    *,
    role: str,
    form: Output,
    output: str | None,
    hidden: bool | None,
    field: str,
    id_field: str | None,
    as_json: bool,
) -> None:
    """Write the vectors of images and of pages, or of texts as queries."""
    from tqdm import tqdm

    facts = {"model": model.model(), "kind": VISION, "role": role, "format": form}
    lines, blank = None, {}
    if role == "query":
        source = names[0] if names else None
        if len(names) > 1:
            raise click.UsageError("queries come from one INPUT")
        lines = None if source is None else reading.Texts(source, field, id_field)
        texts = [text or ""] if lines is None else list(lines)
        with reading.naming_lines(lines):
            vectors: Iterable[Any] = model.encode_query(texts)
        blank = note_blank(lines)
        total: int | None = len(texts)
    elif id_field is not None:
        raise click.UsageError("--id-field is for texts: images have none")
    elif text is not None:
        raise click.UsageError("a vision model reads a text as a query: add --role query")
    else:
        vectors = (page for _, page in _encoded(model, names))
        total = None if any(map(_is_pdf, names)) else len(names)
    if output is None:
        (vector,) = vectors
        found = {**facts, **writing.row(vector, form)}
        print_json(found) if as_json else print_lines(layout.vector(found))
        return
    unit, width = "text" if role == "query" else "image", model.embedding_dim()
    bar = tqdm(vectors, total=total, unit=unit, disable=hidden, file=Stderr())
    ids = None if lines is None or id_field is None else lambda: lines.ids or []
    written = writing.write(Path(output), bar, kind=VISION, width=width, output=form, ids=ids)
    to_stdout = output == writing.STDOUT
    if as_json:
        counts = {f"{unit}s": written, **blank}
        print_json({**facts, "output": output, **counts, "width": width}, err=to_stdout)
    else:
        where = shown_place(output)
        tell = say if to_stdout else click.echo
        tell(f"{written} {unit}s in {where}: {model!r}, {form}")


@click.command(
    cls=ProgramCommand, short_help="Show where an image or a page answers each token of QUERY."
)
@click.argument("query")
@click.argument("image")
@click.option("--page", type=AT_LEAST_1, default=1, show_default=True, help="Page of a PDF.")
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
    page: int,
    plot: str | None,
    token: int | None,
    model: str | None,
    cache_dir: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show where IMAGE, or a page of a PDF, answers each token of QUERY.

    Rows and columns are those of the model's grid, from 1. FILE is written whole or not at all.

    \b
    Example: tessera explain "annual rainfall" page.png --plot map.png
    """
    if plot is not None:
        heatmap.check_file(plot)
        if writing.is_same(image, plot):
            raise click.UsageError("--plot is IMAGE itself")
    with TesseraVision(**location(model, cache_dir), **options) as opened:
        source = _page(image, page) if _is_pdf(image) else image
        tokens = opened.query_tokens(query)
        if plot is None:
            cells = opened.similarity_map(query, source)
        else:
            if token is not None and token > len(tokens):
                raise click.UsageError(f"--token must lie in 1..{len(tokens)}")
            number = None if token is None else token - 1
            cells = opened.save_similarity_map(query, source, plot, token=number)
    rows, columns = cells.shape[1:]
    best = []
    for name, each in zip(tokens, cells, strict=True):
        if np.isfinite(each).any():
            row, column = divmod(int(np.nanargmax(each)), columns)
            score = float(each[row, column])
            best.append({"token": name, "row": row + 1, "column": column + 1, "score": score})
    if as_json:
        facts = {"model": opened.model(), "rows": rows, "columns": columns, "plot": plot}
        print_json({**facts, "matches": best})
        return
    print_lines(
        layout.table(
            [
                ("TOKEN", "ROW", "COLUMN", "SCORE"),
                *((b["token"], str(b["row"]), str(b["column"]), f"{b['score']:.4f}") for b in best),
            ]
        )
    )
    click.echo(f"{rows} rows, {columns} columns" + (f"; map in {plot}" if plot else ""))


def _encoded(model: TesseraVision, names: Sequence[str]) -> Iterator[tuple[dict[str, Any], Any]]:
    """What each image is called, a page by its number too, and its vectors, in order."""
    for is_pdf, group in itertools.groupby(names, _is_pdf):
        if is_pdf:
            for name in group:
                try:
                    for number, page in enumerate(model.encode_pages(name), 1):
                        yield {"file": name, "page": number}, page
                except EncodingError as error:
                    raise EncodingError(f"{name}, {error}") from error
        else:
            files = list(group)
            done = 0
            try:
                for vectors in model.encode_iter(files):
                    yield {"file": files[done]}, vectors
                    done += 1
            except EncodingError as error:
                reason = str(error).removeprefix(f"images[{done}]: ")
                raise EncodingError(f"{files[done]}: {reason}") from error


def _is_pdf(name: str) -> bool:
    return name.lower().endswith(PDF)


def _title(label: dict[str, Any]) -> str:
    return f"{label['file']}, page {label['page']}" if "page" in label else str(label["file"])


def _page(name: str, number: int) -> Any:
    """One page of a PDF as an image."""
    rendered = pages.render(name)
    page = next(itertools.islice(rendered, number - 1, None), None)
    if page is None:
        raise FileError(f"{name} has no page {number}")
    return page

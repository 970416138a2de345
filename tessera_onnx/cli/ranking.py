"""What `tessera rank` and `rerank` share: query, documents, and the table of the ranking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from tessera_onnx.cli.options import note_blank, note_names
from tessera_onnx.cli.output import one_line, print_json, print_lines, table
from tessera_onnx.cli.texts import Texts


def query_of(query: str | None, documents: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The query and the documents among the arguments. Raises UsageError without a query."""
    if query is not None:
        return query, documents
    if not documents:
        raise click.UsageError("give QUERY, as the first argument or by --query")
    return documents[0], documents[1:]


def documents(
    given: tuple[str, ...], source: str | None, field: str, id_field: str | None
) -> tuple[Texts | None, list[str]]:
    """The file of the documents, None without one, and the documents. Raises UsageError."""
    if (source is None) == (not given):
        raise click.UsageError("give DOCUMENTS or --file, one of them")
    if source is None and id_field is not None:
        raise click.UsageError("--id-field is for --file")
    lines = None if source is None else Texts(source, field, id_field)
    return lines, list(given if lines is None else lines)


def show(
    facts: dict[str, str],
    ranked: Sequence[tuple[int, float]],
    texts: Sequence[str],
    *,
    lines: Texts | None,
    given: Sequence[str],
    as_json: bool,
) -> None:
    """Print ranked texts; `facts` are the model and its kind, `given` the documents of the call."""
    note_blank(lines)
    note_names(given, ": --file reads its lines")
    if as_json:
        ids = None if lines is None else lines.ids
        found = [
            {
                "index": i,
                **({} if ids is None else {"id": ids[i]}),
                "score": score,
                "text": texts[i],
            }
            for i, score in ranked
        ]
        print_json({**facts, "ranking": found})
    else:
        print_lines(_table(ranked, texts, lines))


def _table(
    ranked: Sequence[tuple[int, float]], texts: Sequence[str], lines: Texts | None
) -> Iterator[str]:
    """A table of ranked texts. Texts of a file have the number of their line, and their id."""
    ids = None if lines is None else lines.ids
    number = "DOCUMENT" if lines is None else "LINE"
    head = ("RANK", "SCORE", number, *([] if ids is None else ["ID"]), "TEXT")
    rows = [
        (
            str(place),
            f"{score:.4f}",
            str(i + 1 if lines is None else lines.line(i)),
            *([] if ids is None else [one_line(str(ids[i]))]),
            one_line(texts[i]),
        )
        for place, (i, score) in enumerate(ranked, 1)
    ]
    return table([head, *rows])

"""`tessera demo`: search in two steps, then encode, rank and explain with each kind of model.

`tessera demo --web` serves a page instead, on which people try the models in a browser.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import click
import numpy as np

from tessera_onnx.cli.options import CACHE, JSON
from tessera_onnx.cli.output import SPARKS, print_json, print_lines, sparkline, table
from tessera_onnx.cli.serve import check_free, check_installed
from tessera_onnx.kinds import KINDS, RERANKING, KindRow
from tessera_onnx.models import resolve
from tessera_onnx.models.artifact import Artifact
from tessera_onnx.models.installed import installed
from tessera_onnx.models.spec import Kind

# Written for this package; nobody else's text.
QUERY = "How can I keep bread fresh for longer?"
DOCUMENTS = (
    "Wrap the loaf in a linen cloth and keep it in a wooden box.",
    "The night train to Vienna leaves at a quarter past nine.",
    "Sourdough stays soft for days because its crust holds the moisture in.",
    "Turn off the water before you replace the kitchen tap.",
    "A frozen slice tastes newly baked after a minute in the toaster.",
)
FOUND = 3  # documents that the first step of a search keeps
SENTENCE = DOCUMENTS[1]
# Eight years of months: a trend and a season.
SERIES = [round(100 + i / 2 + 20 * math.sin(math.tau * i / 12), 1) for i in range(96)]
LEVELS = [0.1, 0.5, 0.9]
SPECIAL_TOKEN = re.compile(r"\[.+\]|<.+>")
HOST = "127.0.0.1"  # of the page: nobody else's browser reaches it


@click.command()
@click.option("--web", is_flag=True, help="Serve a page to try the models in a browser.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="PORT",
              help="Port of the page; default 8080, and 0 takes one that is free.")  # fmt: skip
@CACHE
@JSON
def demo(cache_dir: str | None, *, web: bool, port: int | None, as_json: bool) -> None:
    """Search in two steps, and try each kind of the models here.

    A static model finds, and a reranker or a multi-vector model ranks what was found. Of every
    kind, the first installed model is opened.

    With --web the page is at http://127.0.0.1:8080/, for this machine alone. It offers all
    installed models, and opens each at its first use. It needs the extra `serve`.

    \b
    Example: tessera demo
    """
    if port is not None and not web:
        raise click.UsageError("--port is the port of the page: add --web")
    if as_json and web:
        raise click.UsageError("choose --json or --web")
    found = installed(cache_dir)
    kinds = {kind for artifact in found for kind in artifact.spec.kinds}
    if not kinds:
        resolve.resolve(None, cache_dir=cache_dir)  # raises ModelNotFound with what to do
    if web:
        _serve_page(
            [artifact.spec.id for artifact in found], cache_dir, 8080 if port is None else port
        )
        return
    _show_all(found, kinds, cache_dir, as_json=as_json)


def _show_all(
    found: list[Artifact], kinds: set[Kind], cache_dir: str | None, *, as_json: bool
) -> None:
    """Print a search, and what each kind of the installed models does."""
    shown = _search(found)
    if not as_json:
        if any(KINDS[kind].reads != "series" for kind in kinds):
            click.echo(f"{QUERY}\n")
        if shown:
            print_lines(_search_lines(shown["search"]))
    for kind, row in KINDS.items():
        if kind in kinds:
            with row.cls(cache_dir=cache_dir) as model:
                shown[kind] = _show(model, row)
            if not as_json:
                print_lines(_lines(row, shown[kind]))
    if as_json:
        print_json(shown)


def _serve_page(models: Sequence[str], cache_dir: str | None, port: int) -> None:
    """Serve the page of the models until a signal ends it."""
    check_installed()
    from tessera_onnx.server import app, logs, protocol

    check_free(HOST, port)
    logs.set_up("text", "info")
    logging.getLogger("tessera_onnx.server.access").setLevel("WARNING")  # a line a request
    click.echo("Open the address below in a browser. Ctrl-C ends the server.")
    application = app.app(*models, lazy=True, page=True, cache_dir=cache_dir, offline=True)
    if not protocol.run(application, host=HOST, port=port, drain=5):
        raise click.exceptions.Exit(1)


def _search(found: list[Artifact]) -> dict[str, Any]:
    """The two steps of a search, if a static model and one that ranks anew are installed."""
    cheap = (a for a in found if a.spec.static is not None)
    better = (kind for kind in RERANKING if any(kind in a.spec.kinds for a in found))
    first, kind = next(cheap, None), next(better, None)
    if first is None or kind is None:
        return {}
    with KINDS[first.spec.kinds[0]].open(first) as model:
        steps = [_step(model, KINDS[first.spec.kinds[0]], DOCUMENTS, FOUND)]
    second = next(a for a in found if kind in a.spec.kinds)
    with KINDS[kind].open(second) as model:
        steps.append(_step(model, KINDS[kind], [row["document"] for row in steps[0]["ranking"]]))
    return {"search": {"query": QUERY, "steps": steps}}


def _step(
    model: Any, row: KindRow, documents: Sequence[str], top_k: int | None = None
) -> dict[str, Any]:
    """The documents as a model ranks them for QUERY, drawn as pages where it reads images."""
    read = [draw_page(text) for text in documents] if row.reads == "images" else documents
    ranked = model.rank(QUERY, read, top_k)
    ranking = [{"score": score, "document": documents[index]} for index, score in ranked]
    return {"model": model.model(), "by": row.score, "ranking": ranking}


def _search_lines(search: dict[str, Any]) -> Iterator[str]:
    """What `_search` found, as lines for people."""
    first, second = search["steps"]
    yield f"a search: {first['model']} finds, {second['model']} ranks anew"
    yield f"  place by {first['by']} → by {second['by']}"
    places = [item["document"] for item in first["ranking"]]
    for place, item in enumerate(second["ranking"], 1):
        text = item["document"]
        yield f"  {places.index(text) + 1} → {place}  {text}"
    yield ""


def draw_page(text: str) -> Any:
    """A small page with the text on it, as a Pillow image."""
    import textwrap

    from PIL import Image, ImageDraw, ImageFont

    page = Image.new("RGB", (620, 400), "white")
    font = ImageFont.load_default(24)
    ImageDraw.Draw(page).multiline_text((40, 60), textwrap.fill(text, 40), "black", font)
    return page


def _show(model: Any, row: KindRow) -> dict[str, Any]:
    """Rank DOCUMENTS and explain the ranking, or forecast the next year of SERIES."""
    if row.reads == "series":
        levels = LEVELS if model.quantiles() else []  # a model of one value a step has none
        if levels:
            found = model.forecast_quantiles(SERIES, 12, levels)
        else:
            found = model.forecast(SERIES, 12)[..., None]
        facts = {"model": model.model(), "series": SERIES, "levels": levels}
        return {**facts, "forecast": found[0].tolist()}
    step = _step(model, row, DOCUMENTS)
    return {"query": QUERY, **step, **_explain(model, row, step["ranking"][0]["document"])}


def _explain(model: Any, row: KindRow, best: str) -> dict[str, Any]:
    """The matches of QUERY with the best document, or the heaviest terms of SENTENCE."""
    if row.explains == "matches":
        matches = model.explain(QUERY, best)
        named = [m._asdict() for m in matches if not SPECIAL_TOKEN.fullmatch(m.query_token)]
        return {"matches": named}
    if row.explains == "terms":
        terms = [
            {"token": token, "weight": weight, "in_text": _stands_in(token, SENTENCE)}
            for token, weight in model.explain(model.encode(SENTENCE), 9)
        ]
        return {"text": SENTENCE, "terms": terms}
    return {}


def _stands_in(token: str, text: str) -> bool:
    """Whether a vocabulary entry is a word of the text, or a piece ("##ing") of a word."""
    text, token = text.lower(), token.lower().lstrip("▁Ġ")
    return token in re.findall(r"\w+|\S", text) or (token[:2] == "##" and token[2:] in text)


def _lines(row: KindRow, shown: dict[str, Any]) -> Iterator[str]:
    """What `_show` found, as lines for people."""
    if row.reads == "series":
        levels = [str(level) for level in shown["levels"]] or ["forecast"]
        count = f", at {len(levels)} levels" if shown["levels"] else ""
        yield f"{row.kind}, {shown['model']}: the next year of a series{count}"
        by_level = np.array(shown["forecast"]).T
        past = shown["series"][-SPARKS:]
        line = sparkline(np.concatenate([past, by_level[len(levels) // 2]]))
        yield f"  {line[:SPARKS]}│{line[SPARKS:]}"
        yield from table(
            (
                [level, *(f"{value:.1f}" for value in values[::2])]
                for level, values in zip(levels, by_level, strict=True)
            ),
            "  ",
        )
        return
    what = "pictures of texts" if row.reads == "images" else "documents"
    yield f"{row.kind}, {shown['model']}: {what} by {row.score}"
    yield from table(
        ((f"{item['score']:.3f}", item["document"]) for item in shown["ranking"]), "  "
    )
    if "matches" in shown:
        yield "  each query token, and the token of the first document that matches it best"
        matches = [tuple(match.values()) for match in shown["matches"]]
        yield from table(((query, best, f"{score:.3f}") for query, best, score in matches), "  ")
    if "terms" in shown:
        start = shown["text"].split(" to ")[0]
        yield f"  heaviest terms of a text, + marks terms not in it: {start} ..."
        terms = [
            f"{term['weight']:.3f} {term['token']}{'' if term['in_text'] else ' +'}"
            for term in shown["terms"]
        ]
        yield from table(zip_longest(terms[0::3], terms[1::3], terms[2::3], fillvalue=""), "  ")
    yield ""

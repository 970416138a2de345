"""`tessera demo`: encode, rank and explain a few sentences with each installed model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import click
import numpy as np

from tessera_onnx.cli.options import CACHE, JSON
from tessera_onnx.cli.output import SPARKS, print_json, print_lines, sparkline, table
from tessera_onnx.kinds import KINDS, KindRow
from tessera_onnx.models import resolve
from tessera_onnx.models.installed import installed

# Written for this package; nobody else's text.
QUERY = "How can I keep bread fresh for longer?"
DOCUMENTS = (
    "Wrap the loaf in a linen cloth and keep it in a wooden box.",
    "The night train to Vienna leaves at a quarter past nine.",
    "Sourdough stays soft for days because its crust holds the moisture in.",
    "Turn off the water before you replace the kitchen tap.",
    "A frozen slice tastes newly baked after a minute in the toaster.",
)
SENTENCE = DOCUMENTS[1]
# Eight years of months: a trend and a season.
SERIES = [round(100 + i / 2 + 20 * math.sin(math.tau * i / 12), 1) for i in range(96)]
LEVELS = [0.1, 0.5, 0.9]
SPECIAL_TOKEN = re.compile(r"\[.+\]|<.+>")


@click.command()
@CACHE
@JSON
def demo(cache_dir: str | None, *, as_json: bool) -> None:
    """Try each kind of model on a few sentences.

    Of every kind, the first installed model is opened.

    \b
    Example: tessera demo
    """
    kinds = {kind for artifact in installed(cache_dir) for kind in artifact.spec.kinds}
    if not kinds:
        resolve.resolve(None, cache_dir=cache_dir)  # raises ModelNotFound with what to do
    shown = {}
    for kind, row in KINDS.items():
        if kind in kinds:
            with row.cls(cache_dir=cache_dir) as model:
                shown[kind] = _show(model, row)
            if not as_json:
                print_lines(_lines(row, shown[kind]))
    if as_json:
        print_json(shown)


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
        (steps,) = model.forecast_quantiles(SERIES, 12, LEVELS).tolist()
        return {"model": model.model(), "series": SERIES, "levels": LEVELS, "forecast": steps}
    documents = [draw_page(text) for text in DOCUMENTS] if row.reads == "images" else DOCUMENTS
    ranked = model.rank(QUERY, documents)
    ranking = [{"score": score, "document": DOCUMENTS[index]} for index, score in ranked]
    explained = _explain(model, row, DOCUMENTS[ranked[0].index])
    return {"model": model.model(), "query": QUERY, "ranking": ranking, **explained}


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
        yield f"{row.kind}, {shown['model']}: the next year of a series, at three levels"
        by_level = np.array(shown["forecast"]).T
        past = shown["series"][-SPARKS:]
        line = sparkline(np.concatenate([past, by_level[1]]))
        yield f"  {line[:SPARKS]}│{line[SPARKS:]}"
        yield from table(
            (
                [f"{level}", *(f"{value:.1f}" for value in values[::2])]
                for level, values in zip(shown["levels"], by_level, strict=True)
            ),
            "  ",
        )
        return
    what = "pictures of texts" if row.reads == "images" else "documents"
    yield f"{row.kind}, {shown['model']}: {what} by {row.score}"
    yield f"  {shown['query']}"
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

"""Odd queries, documents and files at `tessera rerank` of a ColBERT model and `rank --hybrid`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from artifact_tools import ARTIFACTS
from cases_text import SURROGATE, TEMPLATES, TEXTS
from outcomes import MARKER, Case, command
from reference import MODELS, Reference
from reference_words import Bm25

DOCUMENTS = [f"the {MARKER} sat", "cats and dogs", "rain in spain falls on the mat", "a model"]
Scores = Callable[[str, list[str]], dict[int, float]]


def cases(folder: Path) -> Iterator[Case]:
    words = Bm25()
    tokens, dense = (functools.cache(Reference(kind).score) for kind in ("multi-vector", "dense"))

    def by_tokens(query: str, documents: list[str]) -> dict[int, float]:
        return {i: tokens(query, text) for i, text in enumerate(documents)}

    def by_both(query: str, documents: list[str]) -> dict[int, float]:
        """Reciprocal ranks of the vectors and, where a word is shared, of the words."""
        near = np.array([dense(query, text) for text in documents])
        shared = np.array(words.ranked(query, documents, range(len(documents))))
        found = dict.fromkeys(range(len(documents)), 0.0)
        for scores, kept in ((near, near > -np.inf), (shared, shared > 0)):
            order = [int(i) for i in np.argsort(-scores, kind="stable") if kept[i]]
            for place, i in enumerate(order, 1):
                found[i] += 1 / (60 + place)
        return found

    colbert = ["rerank", "-m", ARTIFACTS / MODELS["multi-vector"]]
    hybrid = ["rank", "-m", ARTIFACTS / MODELS["dense"], "--hybrid-with", "bm25"]
    for name, start, scores in (
        ("tessera rerank, ColBERT", colbert, by_tokens),
        ("tessera rank --hybrid-with bm25", hybrid, by_both),
    ):
        place = folder / f"{len(name)}"
        place.mkdir()
        yield from _texts(name, start, scores)
        yield from _files(name, start, scores, place)
    yield from _options(colbert, hybrid)


def _ranked(*arguments: Any, stdin: str | bytes | None = None) -> dict[int, float]:
    name, *rest = arguments
    rows = json.loads(command(name, "--json", *rest, stdin=stdin))["ranking"]
    found = [row["score"] for row in rows]
    assert found == sorted(found, reverse=True)
    return {row["index"]: row["score"] for row in rows}


def _judge(scores: Scores, query: str, documents: list[str]) -> Callable[[Any], None]:
    def judge(found: dict[int, float]) -> None:
        expected = scores(query, documents)
        assert sorted(found) == sorted(expected)
        for i in range(0, len(documents), max(1, len(documents) // 50)):
            np.testing.assert_allclose(found[i], expected[i], atol=1e-4)

    return judge


def _texts(name: str, start: list[Any], scores: Scores) -> Iterator[Case]:
    huge = {"100,000 tokens": "cat " * 100_000, "an option's name": "--hybrid"}
    for what, text in (TEXTS | TEMPLATES | huge).items():
        if "megabyte" in what:
            continue
        run = lambda t=text: _ranked(*start, "--", t, *DOCUMENTS)
        yield Case(
            "ranking", f"{name}, its query", what, run, _judge(scores, text, DOCUMENTS), False
        )
        several = [*DOCUMENTS, text]
        run = lambda s=several: _ranked(*start, "--", "the cat", *s)
        judge = _judge(scores, "the cat", several)
        yield Case("ranking", f"{name}, a document", what, run, judge, error=False)
    for what, arguments in {
        "a query with a lone surrogate": (SURROGATE, "cat"),
        "a document with a lone surrogate": ("cat", SURROGATE),
        "no documents": ("cat",),
        "nothing": (),
    }.items():
        run = lambda a=arguments: _ranked(*start, "--", *a)
        yield Case("ranking", name, what, run, None, error=True)


def _files(name: str, start: list[Any], scores: Scores, place: Path) -> Iterator[Case]:
    many = [f"cat {'dog ' * (i % 3)}" for i in range(10_000)]
    for what, lines, suffix in (
        ("10,000 documents", many, ".txt"),
        ("one document", ["the cat"], ".txt"),
        ("documents of 100,000 tokens", ["cat " * 100_000, "dog", "rain " * 100_000], ".txt"),
        ("empty documents", ["", "cat", ""], ".jsonl"),
        ("special tokens", [*TEXTS.values()][8:12], ".jsonl"),
    ):
        path = place / f"{what}{suffix}"
        written = lines if suffix == ".txt" else [json.dumps(line) for line in lines]
        path.write_text("".join(f"{line}\n" for line in written))
        texts = [line.strip() if suffix == ".txt" else line for line in lines]
        run = lambda p=path: _ranked(*start, "cat", "--file", p)
        yield Case("ranking", f"{name}, a file", what, run, _judge(scores, "cat", texts), False)
        run = lambda p=path: _ranked(*start, "cat", "--file", "-", stdin=p.read_bytes())
        if suffix == ".txt":
            judge = _judge(scores, "cat", texts)
            yield Case("ranking", f"{name}, stdin", what, run, judge, error=False)
    for what, content in {
        "bad UTF-8": b"cat\n\xff\n", "broken JSON": b'"cat"\n{"text": ', "null": b"null\n",
        "bytes": b"cat\0\x80", "a lone surrogate": b'"\\ud800"\n',
    }.items():  # fmt: skip
        path = place / f"bad {what}.jsonl"
        path.write_bytes(content)
        run = lambda p=path: _ranked(*start, "cat", "--file", p)
        yield Case("ranking", f"{name}, a file", what, run, None, error=True, says="line")
    path = place / "empty.txt"
    path.write_bytes(b"")
    run = lambda: _ranked(*start, "cat", "--file", path)
    yield Case("ranking", f"{name}, a file", "nothing in it", run, _judge(scores, "cat", []), False)


def _options(colbert: list[Any], hybrid: list[Any]) -> Iterator[Case]:
    for start, what, arguments in (
        (colbert, "an activation", ("--activation", "raw")),
        (colbert, "--top-k 0", ("--top-k", "0")),
        (colbert, "--max-length 0", ("--max-length", "0")),
        (colbert, "--precision fp16", ("--precision", "fp16")),
        (colbert[:2], "a model of vectors", (ARTIFACTS / "prompts",)),
        (colbert[:2], "a model of words", ("bm25",)),
        (colbert[:2], "a model of series", (ARTIFACTS / "bolt",)),
        (colbert[:2], "a folder without a model", (ARTIFACTS,)),
        (hybrid, "--kind time-series", ("--kind", "time-series")),
        (hybrid, "--language nothing", ("--language", "nothing")),
        (hybrid, "--pages", ("--pages", "1")),
        (hybrid, "--top-k 0", ("--top-k", "0")),
        (hybrid, "--dimension 7", ("--dimension", "7")),
        (hybrid[:-1], "an unknown model", ("no-such-model",)),
        (hybrid[:-1], "an empty name", ("",)),
        (hybrid[:-1], "a NUL", ("a\0b",)),
        (hybrid[:-1], "a reranker", (ARTIFACTS / "reranker",)),
        (hybrid[:-1], "a model of images", (ARTIFACTS / "page",)),
        (hybrid[:-1], "a model of series", (ARTIFACTS / "bolt",)),
        (hybrid[:-1], "a folder without a model", (ARTIFACTS,)),
        (hybrid[:-2], "a model without words", ("--hybrid",)),
    ):
        run = lambda s=start, a=arguments: command(*s, *a, "--", "cat", MARKER)
        yield Case("ranking", f"tessera {start[0]}", what, run, None, error=True)

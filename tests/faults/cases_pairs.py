"""Queries and documents, and what stands where they are due, at every entry point of a reranker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from artifact_tools import ARTIFACTS
from cases_text import CONTAINERS, HOLES, SURROGATE, TEMPLATES, TEXTS, WRONG
from outcomes import MARKER, Case, command
from tokenizers import Tokenizer

from tessera_onnx import TesseraReranker

FOLDER = ARTIFACTS / "reranker"
NAME = "TesseraReranker"


class Reference:
    """Pairs to scores by another way than the package's: tokenizers' own truncation and template.

    tests/faults/test_battery.py holds this to the values of CrossEncoder.
    """

    def __init__(self) -> None:
        self.tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
        self.tokenizer.enable_truncation(64, strategy="longest_first")
        self.session = ort.InferenceSession(
            FOLDER / "model.fp32.onnx", providers=["CPUExecutionProvider"]
        )

    def score(self, query: str, document: str) -> float:
        return float(1 / (1 + np.exp(-self.logit(query, document))))

    def logit(self, query: str, document: str) -> float:
        made = self.tokenizer.encode(query, document)
        feeds = {
            "input_ids": np.array([made.ids]),
            "attention_mask": np.ones((1, len(made.ids)), np.int64),
            "token_type_ids": np.array([made.type_ids]),
        }
        return float(self.session.run(None, feeds)[0][0, 0])


# Name to (call of a model and a text, the pair that it makes, the text's name in an error).
ENTRIES: dict[str, tuple[Callable[[Any, Any], Any], Callable[[str], tuple[str, str]], str]] = {
    "score, its query": (
        lambda m, t: m.score(t, ["the cat"])[0],
        lambda t: (t, "the cat"),
        "^query ",
    ),
    "score, a document": (
        lambda m, t: m.score("cat", ["dog", t])[1],
        lambda t: ("cat", t),
        r"^(documents?|text)\W+1\b",
    ),
    "score_pairs, a query": (
        lambda m, t: m.score_pairs([("a", "b"), (t, "cat")])[1],
        lambda t: (t, "cat"),
        r"^(pairs?|text)\W+1\b",
    ),
    "score_pairs, a document": (
        lambda m, t: m.score_pairs([("cat", t)])[0],
        lambda t: ("cat", t),
        r"^(pairs?|text)\W+0\b",
    ),
    "rank, its query": (
        lambda m, t: m.rank(t, ["the cat"])[0].score,
        lambda t: (t, "the cat"),
        "^query ",
    ),
    "rank, a document": (
        lambda m, t: m.rank("cat", [t])[0].score,
        lambda t: ("cat", t),
        r"^(documents?|text)\W+0\b",
    ),
}


def cases(folder: Path) -> Iterator[Case]:
    model, reference = TesseraReranker(path=FOLDER), Reference()
    yield from _texts(model, reference)
    yield from _several(model, reference)
    yield from _explained(model, reference)
    yield from _options(model)
    yield from _command(folder, reference)


def _texts(model: Any, reference: Reference) -> Iterator[Case]:
    edges = {f"{n} tokens": "cat " * n for n in (58, 59, 60, 61, 29, 30, 31)}
    huge = {"100,000 tokens": "cat " * 100_000}
    for entry, (call, pair, index) in ENTRIES.items():
        name = f"{NAME}.{entry}"
        for what, text in (TEXTS | TEMPLATES | edges | huge).items():
            if ("megabyte" in what or what in huge) and not entry.startswith("score,"):
                continue  # the same way, many times

            def judge(found: Any, p: tuple[str, str] = pair(text)) -> None:
                np.testing.assert_allclose(found, reference.score(*p), atol=1e-5)

            yield Case("pairs", name, what, lambda c=call, t=text: c(model, t), judge, error=False)
        run = lambda c=call: c(model, SURROGATE)
        yield Case("pairs", name, "a lone surrogate", run, None, True, " has a lone surrogate")
        for what, value in WRONG.items():
            run = lambda c=call, v=value: c(model, v)
            yield Case("pairs", name, what, run, None, True, index)


def _several(model: Any, reference: Reference) -> Iterator[Case]:
    good = [f"{MARKER} cat", "dog", "", "dog"]
    forms: dict[str, Callable[[], Any]] = {
        "a list": lambda: good,
        "a generator": lambda: iter(good),
        "an array of str": lambda: np.array(good),
        "10,000 documents": lambda: [f"cat {i % 7}" for i in range(10_000)],
        "no documents": lambda: [],
    }
    for what, make in forms.items():
        texts = list(make())

        def judge(found: Any, texts: list[str] = texts) -> None:
            assert found.shape == (len(texts),)
            assert found.dtype == np.float32
            picks = range(0, len(texts), max(1, len(texts) // 9))
            expected = [reference.score("cat", texts[i]) for i in picks]
            np.testing.assert_allclose(found[list(picks)], expected, atol=1e-5)

        run = lambda m=make: model.score("cat", m())
        yield Case("pairs", f"{NAME}.score", what, run, judge, error=False)
        run = lambda m=make: model.score_pairs(("cat", text) for text in m())
        yield Case("pairs", f"{NAME}.score_pairs", what, run, judge, error=False)
    for entry in ("score", "rank"):
        method = getattr(model, entry)
        for what, make in CONTAINERS.items():
            run = lambda c=method, m=make: c("cat", m())
            says = "must be a list"
            yield Case("pairs", f"{NAME}.{entry}", f"{what} for documents", run, None, True, says)
        for what, (make, place) in HOLES.items():
            run = lambda c=method, m=make: c("cat", m())
            says = rf"documents\[{place}\] must be str, got"
            yield Case("pairs", f"{NAME}.{entry}", what, run, None, True, says)
    for what, make in CONTAINERS.items():
        if what == "an array of columns":
            continue  # its two columns are queries and documents
        run = lambda m=make: model.score_pairs(m())
        yield Case("pairs", f"{NAME}.score_pairs", f"{what} for pairs", run, None, True, "pairs")
    for what, item in {
        **WRONG, "a str": MARKER, "two letters": "ab", "one text": (MARKER,),
        "three texts": (MARKER, "a", "b"), "an empty tuple": (), "None within": (MARKER, None),
        "a pair within": ((MARKER, "a"), "b"),
    }.items():  # fmt: skip
        run = lambda i=item: model.score_pairs([("a", "b"), i])
        yield Case("pairs", f"{NAME}.score_pairs", f"{what} for a pair", run, None, True, r"1\]")


def _explained(model: Any, reference: Reference) -> Iterator[Case]:
    name = f"{NAME}.explain"
    for what, text in (TEXTS | TEMPLATES).items():
        words = text.split()
        if len(words) > 64:
            run = lambda t=text: model.explain("cat", t)
            yield Case("pairs", name, what, run, None, True, r"^the document has \d+ words")
            continue

        def judge(found: Any, text: str = text, words: list[str] = words) -> None:
            assert sorted(word for word, _ in found) == sorted(words)
            assert [fall for _, fall in found] == sorted((f for _, f in found), reverse=True)
            whole = reference.logit("cat", text)
            alone = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
            falls = [whole - reference.logit("cat", rest) for rest in alone]
            np.testing.assert_allclose([f for _, f in found], sorted(falls)[::-1], atol=1e-4)

        run = lambda t=text: model.explain("cat", t, None)
        yield Case("pairs", name, what, run, judge, error=False)
        run = lambda t=text: len(model.explain(t, "the cat"))
        two = lambda found: np.testing.assert_equal(found, 2)
        yield Case("pairs", f"{name}, its query", what, run, two, error=False)
    for what, value in {**WRONG, "a lone surrogate": SURROGATE}.items():
        run = lambda v=value: model.explain("cat", v)
        yield Case("pairs", name, what, run, None, True, "^document ")
        run = lambda v=value: model.explain(v, "cat")
        yield Case("pairs", f"{name}, its query", what, run, None, True, "^query ")


def _options(model: Any) -> Iterator[Case]:
    wrong: dict[str, dict[str, Any]] = {
        "max_length": {"0": 0, "negative": -1, "too large": 65, "a str": "9", "True": True,
                       "beyond int64": 2**70, "a float": 9.0, "special tokens alone": 3},
        "threads": {"0": 0, "negative": -1, "a str": "2", "True": True},
        "device": {"unknown": "abacus", "None": None, "a number": 0},
        "precision": {"unknown": "int2", "absent": "fp16", "a list": ["fp32"]},
        "on_long": {"unknown": "cut", "None": None, "a list": ["warn"]},
        "offline": {"a str": "yes"},
    }  # fmt: skip
    for option, values in wrong.items():
        for what, value in values.items():
            run = lambda o=option, v=value: TesseraReranker(path=FOLDER, **{o: v})
            yield Case("pairs", NAME, f"{option}: {what}", run, None, error=True)
    for what, path in {
        "missing": "nowhere", "a file": __file__, "a NUL": "a\0b", "a number": 3,
        "a model of another kind": ARTIFACTS / "prompts",
    }.items():  # fmt: skip
        run = lambda p=path: TesseraReranker(path=p)
        yield Case("pairs", NAME, f"path: {what}", run, None, error=True)
    for what, value in {"unknown": "softmax", "None": None, "a list": ["raw"], "": ""}.items():
        for entry, arguments in {
            "score": ("cat", ["dog"]), "rank": ("cat", ["dog"]), "score_pairs": ([("a", "b")],),
        }.items():  # fmt: skip
            run = lambda e=entry, a=arguments, v=value: getattr(model, e)(*a, activation=v)
            entry_ = f"{NAME}.{entry}"
            yield Case("pairs", entry_, f"activation: {what}", run, None, True, "activation must")
    for what, top_k in {"0": 0, "negative": -1, "a str": "2", "True": True, "a float": 1.0}.items():
        run = lambda k=top_k: model.rank("cat", ["dog"], k)
        yield Case("pairs", f"{NAME}.rank", f"top_k: {what}", run, None, True, "top_k must be")
        run = lambda k=top_k: model.explain("cat", "dog", k)
        yield Case("pairs", f"{NAME}.explain", f"top_k: {what}", run, None, True, "top_k must be")


def _command(folder: Path, reference: Reference) -> Iterator[Case]:
    model = ["-m", FOLDER]
    lines = folder / "pairs"
    lines.mkdir()
    good = lines / "good.txt"
    good.write_text(f"{MARKER} cat\n\ndog\n")
    files = {
        "an empty file": b"", "bad UTF-8": b"cat\n\xff\n", "a folder": None,
        "broken JSON": b'"cat"\n{"text": ',
    }  # fmt: skip

    def best(found: str) -> None:
        rows = json.loads(found)["ranking"]
        assert [row["index"] for row in rows] != []
        for row in rows:
            expected = reference.score("cat", row["text"])
            np.testing.assert_allclose(row["score"], expected, atol=1e-5)

    run = lambda: command("rerank", "cat", "--file", good, *model, "--json")
    yield Case("pairs", "tessera rerank", "a file with a blank line", run, best, error=False)
    run = lambda: command("rerank", "cat", MARKER, "dog", *model, "--json")
    yield Case("pairs", "tessera rerank", "texts", run, best, error=False)
    for what, content in files.items():
        path = lines / f"{what}.jsonl" if "JSON" in what else lines / f"{what}.txt"
        if content is None:
            path = lines
        else:
            path.write_bytes(content)
        run = lambda p=path: command("rerank", "cat", "--file", p, *model)
        judge = (lambda _: None) if what == "an empty file" else None
        yield Case("pairs", "tessera rerank", what, run, judge, error=judge is None)
    for what, arguments in {
        "no documents": ["cat"], "no query": [], "--top-k 0": ["a", "b", "--top-k", "0"],
        "an unknown activation": ["a", "b", "--activation", "x"],
        "--max-length 3": ["a", "b", "--max-length", "3"],
        "texts and a file": ["a", "b", "--file", good],
        "--id-field without a file": ["a", "b", "--id-field", "x"],
        "a lone surrogate": [SURROGATE, "cat"],
    }.items():  # fmt: skip
        run = lambda a=arguments: command("rerank", *a, *model)
        yield Case("pairs", "tessera rerank", what, run, None, error=True)

"""Texts and what stands where texts are due, at every entry point of the text classes."""

from __future__ import annotations

import io
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from artifact_tools import ARTIFACTS
from outcomes import MARKER, Case, command
from reference import MODELS, Reference, plain
from reference_words import FOLD, Bm25, Bm42, Static

from tessera_onnx import TesseraDense, TesseraMultiVector, TesseraSparse


def _polars() -> Any:
    """Imported where it is used: it takes SIGINT over, and tests of that import this module."""
    import polars as pl

    return pl


class Row(NamedTuple):
    """A row of a table."""

    id: str
    text: str


FRAME = pd.DataFrame({"text": [MARKER, "cat"], "n": ["1", "2"]})
CLASSES = {"dense": TesseraDense, "multi-vector": TesseraMultiVector, "sparse": TesseraSparse}


class Subject(NamedTuple):
    """A model that the cases of its kind are made of."""

    group: str  # of the page
    name: str  # of its entry points
    kind: str
    model_id: str | None
    path: Path | None
    reference: Any

    def open(self, **options: Any) -> Any:
        return CLASSES[self.kind](self.model_id, **{"path": self.path, **options})


SMILE = "\U0001f469\u200d\U0001f680"

TEXTS = {
    "an empty text": "",
    "white space": " \t\r ",
    "one character": "x",
    "a NUL": f"{MARKER}\x00cat",
    "control characters": f"{MARKER}\x01\x1b[31m\x7f\x85cat",
    "right to left, joiners, an emoji": f"{MARKER} \u202e\u0641\u200d {SMILE} \u200f",
    "combining marks": f"{MARKER} e\u0301\u0301 a" + "\u0300" * 200,
    "a byte order mark": f"\ufeff{MARKER}",
    "the last code point": f"{MARKER} \U0010ffff \ufffe",
    "special tokens spelled out": f"[MASK] [CLS] {MARKER} [SEP] [PAD] [unused0]",
    "tokens of other models": f"<image> <bos> </s> <|endoftext|> {MARKER}",
    "punctuation alone": "?! ... --- ###",
    "a megabyte without a space": MARKER * 170_000,
    "a megabyte of words": f"{MARKER} cat " * 90_000,
    "many short words": "cat " * 3000,
}
TEMPLATES = {
    "markers of templates": (
        f"[Q] [D] [unused1] <Instruct>: {{query}} {{0}} %s <Query>: <|im_start|>user\n"
        f"search_query: passage: {MARKER}<|im_end|>"
    ),
}
AROUND = {"max - 1 tokens": -1, "max tokens": 0, "max + 1 tokens": 1}
WRONG: dict[str, Any] = {
    "None": None,
    "bytes": MARKER.encode(),
    "a number": 3,
    "NaN": float("nan"),
    "a list": [MARKER],
    "a dict": {MARKER: MARKER},
    "a type": str,
    "an array": np.zeros(3),
    "a bytearray": bytearray(b"cat"),
}
CONTAINERS: dict[str, Callable[[], Any]] = {
    "a str": lambda: MARKER,
    "bytes": lambda: MARKER.encode(),
    "None": lambda: None,
    "a number": lambda: 3,
    "a function": lambda: len,
    "a coroutine function": lambda: Case.__init__,
    "a bytearray": lambda: bytearray(MARKER.encode()),
    "a dict": lambda: {MARKER: "cat", "b": "dog"},
    "a dict of one": lambda: {MARKER: 1.0},
    "a Counter": lambda: Counter([MARKER]),
    "a set": lambda: {MARKER, "cat"},
    "a frozenset": lambda: frozenset([MARKER]),
    "a frame of pandas": lambda: FRAME,
    "a frame of one column": lambda: FRAME[["text"]],
    "a frame of polars": lambda: _polars().from_pandas(FRAME),
    "a lazy frame": lambda: _polars().from_pandas(FRAME).lazy(),
    "a table of Arrow": lambda: pa.Table.from_pandas(FRAME),
    "a record batch": lambda: pa.RecordBatch.from_pandas(FRAME),
    "a text file": lambda: io.StringIO(f"{MARKER}\ncat\n"),
    "a binary file": lambda: io.BytesIO(MARKER.encode()),
    "an array of columns": lambda: FRAME.to_numpy(),
    "an array of one column": lambda: np.array([[MARKER], ["cat"]]),
    "an array without axes": lambda: np.array(MARKER),
    "a named tuple": lambda: Row(MARKER, "cat"),
    "a null of Arrow": lambda: pa.scalar(None, pa.string()),
    "a struct of Arrow": lambda: pa.scalar({MARKER: "cat"}),
}
# What holds an item that is no text, and where.
HOLES: dict[str, tuple[Callable[[], Any], int]] = {
    "None in a list": (lambda: [MARKER, None], 1),
    "None in a generator": (lambda: iter([MARKER, "cat", None]), 2),
    "NaN in a list": (lambda: ["cat", float("nan")], 1),
    "None first": (lambda: [None, MARKER], 0),
    "a null of Arrow": (lambda: pa.array([MARKER, None]), 1),
    "a null of a chunk": (lambda: pa.chunked_array([[MARKER], ["cat", None]]), 2),
    "a null of polars": (lambda: _polars().Series([MARKER, None]), 1),
    "NA of pandas": (lambda: pd.Series([MARKER, None], dtype="string"), 1),
    "NaN of pandas": (lambda: pd.Series([MARKER, None], index=[7, 8]), 1),
    "a masked item": (lambda: np.ma.array([MARKER, "cat"], mask=[0, 1]), 1),
    "records": (lambda: [{"text": MARKER}], 0),
    "rows of a frame": (lambda: FRAME.itertuples(), 0),
    "rows of Arrow": (lambda: pa.array([{"text": MARKER}]), 0),
    "batches of Arrow": (lambda: pa.Table.from_pandas(FRAME).to_reader(), 0),
    "lists of texts": (lambda: [[MARKER], ["cat"]], 0),
    "bytes of Arrow": (lambda: pa.array([MARKER.encode()]), 0),
    "an array of bytes": (lambda: np.array([MARKER.encode()]), 0),
    "items of a dict": (lambda: {MARKER: "cat"}.items(), 0),
}
SURROGATE = f"{MARKER}\ud800{MARKER}"


class _Broken(Exception):
    """What a caller's own generator raises: it is theirs and comes through."""


def cases(folder: Path) -> Iterator[Case]:
    for kind, cls in CLASSES.items():
        place = ARTIFACTS / MODELS[kind]
        yield from _cases(Subject("text", cls.__name__, kind, None, place, Reference(kind)))
    yield from _command(folder)


def static_cases(_: Path) -> Iterator[Case]:
    yield from _cases(
        Subject("static", "TesseraDense", "dense", None, ARTIFACTS / "static", Static())
    )


def lexical_cases(_: Path) -> Iterator[Case]:
    yield from _cases(Subject("lexical", "BM25", "sparse", "bm25", None, Bm25()))
    place = ARTIFACTS / "attention"
    yield from _cases(Subject("lexical", "BM42", "sparse", None, place, Bm42()))


def _cases(subject: Subject) -> Iterator[Case]:
    model = subject.open()
    yield from _texts(subject, model)
    yield from _wrong(subject, model)
    yield from _containers(subject, model)
    yield from _options(subject, model)


def open_kind(kind: str, **options: Any) -> Any:
    return CLASSES[kind](path=ARTIFACTS / MODELS[kind], **options)


def entries(kind: str) -> dict[str, tuple[Callable[[Any, Any], Any], str, str]]:
    """Name to (call of a model and a text, what it gives, the text's name in an error)."""
    found: dict[str, tuple[Callable[[Any, Any], Any], str, str]] = {
        "encode": (lambda m, t: m.encode(t), "document", r"^text "),
        "encode_batch": (lambda m, t: m.encode_batch(["cat", t])[1], "document", r"texts?\W+1\b"),
        "encode_iter": (lambda m, t: list(m.encode_iter(["dog", t]))[1], "document", "texts?.1"),
        "encode_iter of queries": (
            lambda m, t: list(m.encode_iter([t], role="query"))[0],
            "query",
            r"texts?\W+0\b",
        ),
        "encode_query of a list": (lambda m, t: m.encode_query(["a", t])[1], "query", "texts?.1"),
        "encode_document of a list": (
            lambda m, t: m.encode_document([t, "a"])[0],
            "document",
            r"texts?\W+0\b",
        ),
        "encode_all": (lambda m, t: _part(m.encode_all(["cat", t]))[1], "document", "texts?.1"),
        "token_count": (lambda m, t: m.token_count(["cat", t])[1], "count", r"texts?\W+1\b"),
        "similarity, its query": (
            lambda m, t: m.similarity(t, "the cat"),
            "score a",
            r"^(text|a) ",
        ),
        "similarity, its document": (lambda m, t: m.similarity("cat", t), "score b", r"^(text|b) "),
        "rank, its query": (lambda m, t: m.rank(t, ["the cat"])[0].score, "rank a", r"^(text|q)"),
        "rank, its document": (lambda m, t: m.rank("cat", [t])[0].score, "rank b", r"texts?\W+0"),
    }
    if kind == "dense":
        found["encode with a prompt"] = (
            lambda m, t: m.encode("the cat", prompt=t),
            "prompt",
            "^(text|prompt) ",
        )
    if kind == "multi-vector":
        found["score"] = (lambda m, t: m.score("cat", [t])[0], "score b", r"(texts?|documents)\W+0")
        found["explain"] = (
            lambda m, t: sum(match.score for match in m.explain("cat", t)),
            "score b",
            "^(text|document) ",
        )
        found["encode_quantized"] = (
            lambda m, t: m.encode_quantized(t).unpack(),
            "signs",
            "^text ",
        )
        found["encode_batch, pooled"] = (
            lambda m, t: m.encode_batch([t], pool_factor=2)[0],
            "unit rows",
            r"texts?\W+0\b",
        )
    if kind != "sparse":
        found["encode_batch, int8"] = (
            lambda m, t: (
                m.encode_batch([t], output_dtype="int8")[0].dequantize()
                if kind == "multi-vector"
                else m.encode_batch([t], output_dtype="int8").dequantize()[0]
            ),
            "near",
            r"texts?\W+0\b",
        )
    else:
        found["explain"] = (lambda m, t: m.explain(m.encode(t)), "explained", "^text ")
    return found


def _part(embeddings: Any) -> Any:
    return next(part for part in embeddings if part is not None)


def _width(reference: Any) -> int:
    """Numbers of a sparse vector as a row; 0 for another vector."""
    return min(reference.recipe.vocab_size, FOLD) if reference.kind == "sparse" else 0


def _judge(reference: Any, gives: str, text: str) -> Callable[[Any], None]:
    """Compares what an entry point gave for a text with the reference."""
    width = _width(reference)

    def judge(found: Any) -> None:
        if gives == "count":
            assert found == reference.tokens(text, "document")
            return
        if gives == "score a":
            np.testing.assert_allclose(found, reference.score(text, "the cat"), atol=1e-4)
            return
        if gives == "score b":
            np.testing.assert_allclose(found, reference.score("cat", text), atol=1e-4)
            return
        if gives in ("rank a", "rank b"):
            pair = (text, "the cat") if gives == "rank a" else ("cat", text)
            (expected,) = reference.ranked(pair[0], [pair[1]], range(1))
            np.testing.assert_allclose(found, expected, atol=1e-4)
            return
        if gives == "prompt":
            expected = reference.vector("the cat", "document", prompt=text)
        else:
            expected = reference.vector(text, "query" if gives == "query" else "document")
        if gives == "explained":
            heaviest = np.sort(expected[expected > 0])[::-1][:10]
            np.testing.assert_allclose([weight for _, weight in found], heaviest, atol=1e-5)
        elif gives == "unit rows":
            assert len(found) == 1 + (len(expected) - 1) // 2 or len(expected) < 3
            np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        elif gives == "signs":
            clear = np.abs(expected) > 1e-5  # rounding decides the others
            np.testing.assert_array_equal((found > 0)[clear], (expected > 0)[clear])
        else:
            found = plain(found, width)
            assert found.dtype == (np.float64 if width else np.float32)
            np.testing.assert_allclose(found, expected, atol=0.02 if gives == "near" else 1e-5)

    return judge


def _texts(subject: Subject, model: Any) -> Iterator[Case]:
    group, reference = subject.group, subject.reference
    limits = {
        role: getattr(reference.recipe, role).max_length - reference.tokens("", role)
        for role in ("query", "document")
    }
    for entry, (call, gives, _) in entries(subject.kind).items():
        name = f"{subject.name}.{entry}"
        role = "query" if gives in ("query", "score a", "rank a") else "document"
        around = {what: " ".join(["cat"] * (limits[role] + n)) for what, n in AROUND.items()}
        if model.spec.text is None:
            around = {}  # words: no text is cut
        odd = TEXTS | TEMPLATES | around | {"a subclass of str": np.str_(MARKER)}
        for what, text in odd.items():
            if "megabyte" in what and entry != "encode":
                continue  # the same way, many times
            judge = _judge(reference, gives, str(text))
            yield Case(group, name, what, lambda c=call, t=text: c(model, t), judge, error=False)
        yield Case(
            group,
            name,
            "a lone surrogate",
            lambda c=call: c(model, SURROGATE),
            None,
            True,
            " has a lone surrogate",
        )


def _wrong(subject: Subject, model: Any) -> Iterator[Case]:
    for entry, (call, _, index) in entries(subject.kind).items():
        for what, value in WRONG.items():
            # What rank takes for vectors of an earlier call is judged among the arrays.
            if entry in ("rank, its query", "rank, its document", "score"):
                continue
            if (entry, what) == ("encode with a prompt", "None"):
                continue  # the model's own
            name, run = f"{subject.name}.{entry}", lambda c=call, v=value: c(model, v)
            yield Case(subject.group, name, what, run, None, True, index)


def _containers(subject: Subject, model: Any) -> Iterator[Case]:
    group, reference = subject.group, subject.reference
    width = _width(reference)
    many: dict[str, Callable[[Any, Any], Any]] = {
        "encode_batch": lambda m, t: m.encode_batch(t),
        "encode_iter": lambda m, t: list(m.encode_iter(t)),
        "encode_query": lambda m, t: m.encode_query(t),
        "encode_document": lambda m, t: m.encode_document(t),
        "encode_all": lambda m, t: _part(m.encode_all(t)),
        "token_count": lambda m, t: m.token_count(t),
        "rank": lambda m, t: m.rank("cat", t),
    }
    good = [f"{MARKER} cat", "dog", "", "dog"]
    forms: dict[str, Callable[[], Any]] = {
        "a list": lambda: good,
        "a tuple": lambda: tuple(good),
        "a generator": lambda: (text for text in good),
        "an iterator": lambda: iter(good),
        "an array of str": lambda: np.array(good),
        "an array of objects": lambda: np.array(good, dtype=object),
        "mixed lengths, over a thousand": lambda: good + ["cat " * (i % 50) for i in range(1100)],
        "an array of text of any length": lambda: np.array(good, np.dtypes.StringDType()),
        "a column of pandas": lambda: pd.Series(good, index=[3, 1, 1, 0]),
        "a string column": lambda: pd.Series(good, dtype="string"),
        "a categorical column": lambda: pd.Series(good, dtype="category"),
        "an Arrow column of pandas": lambda: pd.Series(good, dtype=pd.ArrowDtype(pa.string())),
        "an array of pandas": lambda: pd.Series(good).array,
        "an index": lambda: pd.Index(good),
        "a column of polars": lambda: _polars().Series(good),
        "an array of Arrow": lambda: pa.array(good),
        "chunks of Arrow": lambda: pa.chunked_array([good[:1], good[1:]]),
        "a dictionary of Arrow": lambda: pa.array(good).dictionary_encode(),
        "large strings of Arrow": lambda: pa.array(good, pa.large_string()),
        "views of Arrow": lambda: pa.array(good, pa.string_view()),
        "scalars of Arrow": lambda: list(pa.array(good)),
        "values of a dict": lambda: dict(enumerate(good)).values(),
        "keys of a dict": lambda: dict.fromkeys(good[:3]).keys(),
        "a deque": lambda: deque(good),
        "no texts": lambda: [],
        "an empty generator": lambda: (text for text in []),
        "10,000 documents": lambda: [f"cat {'dog ' * (i % 7)}" for i in range(10_000)],
    }

    def same(entry: str, texts: list[str]) -> Callable[[Any], None]:
        def judge(found: Any) -> None:
            assert len(found) == len(texts)
            if entry == "rank":
                scores = {item.index: item.score for item in found}
                assert sorted(scores) == list(range(len(texts)))
                picks = range(0, len(texts), 97)
                expected = reference.ranked("cat", texts, picks)
                np.testing.assert_allclose([scores[i] for i in picks], expected, atol=1e-4)
                return
            for i in range(0, len(texts), 97 if len(texts) > 100 else 1):
                if entry == "token_count":
                    assert found[i] == reference.tokens(texts[i], "document")
                    continue
                role = "query" if entry == "encode_query" else "document"
                expected = reference.vector(texts[i], role)
                np.testing.assert_allclose(plain(found[i], width), expected, atol=1e-5)

        return judge

    for entry, call in many.items():
        name = f"{subject.name}.{entry}"
        for what, make in forms.items():
            if what == "10,000 documents" and entry != "rank":
                continue  # the same way, many times
            texts = [getattr(text, "as_py", text.__str__)() for text in make()]
            run = lambda c=call, m=make: c(model, m())
            yield Case(group, name, what, run, same(entry, texts), error=False)
        for what, make in CONTAINERS.items():
            if what == "a str" and entry in ("encode_query", "encode_document"):
                continue  # one text, which they take
            run = lambda c=call, m=make: c(model, m())
            yield Case(group, name, f"{what} for texts", run, None, True, "must be a list")
        for what, (make, place) in HOLES.items():
            run = lambda c=call, m=make: c(model, m())
            yield Case(group, name, what, run, None, True, rf"texts\[{place}\] must be str, got")
        if entry not in ("rank", "token_count"):
            yield Case(
                group,
                name,
                "a generator that raises midway",
                lambda c=call: _raises_its_own(lambda: c(model, _midway())),
                lambda raised: None if raised else _fail("its exception was lost"),
                error=False,
            )


def _midway() -> Iterator[str]:
    yield "cat"
    raise _Broken


def _raises_its_own(call: Callable[[], Any]) -> bool:
    try:
        call()
    except _Broken:
        return True
    return False


def _fail(message: str) -> None:
    raise AssertionError(message)


def _options(subject: Subject, model: Any) -> Iterator[Case]:
    group, name, kind = subject.group, subject.name, subject.kind
    most = 64 if model.spec.text is None else model.spec.text.max_positions
    wrong: dict[str, dict[str, Any]] = {
        "dimension": {"0": 0, "negative": -1, "too large": 10**9, "not trained": 7, "a str": "8",
                      "True": True, "a float": 8.0, "NaN": float("nan"), "beyond int64": 2**70},
        "max_length": {"0": 0, "negative": -1, "too large": most + 1, "a str": "9", "True": True,
                       "beyond int64": 2**70, "a float": 9.0},
        "threads": {"0": 0, "negative": -1, "a str": "2", "a million": 10**6, "True": True},
        "device": {"unknown": "abacus", "None": None, "a number": 0, "cuda:-1": "cuda:-1",
                   "cuda:9999": "cuda:9999", "empty": ""},
        "precision": {"unknown": "int2", "absent": "fp16", "a number": 32, "a list": ["fp32"]},
        "on_long": {"unknown": "cut", "None": None, "a list": ["warn"]},
        "cache_dir": {"a number": 3, "bytes": b"x"},
        "offline": {"a str": "yes", "a number": 1},
    }  # fmt: skip
    for option, values in wrong.items():
        for what, value in values.items():
            run = lambda o=option, v=value: subject.open(**{o: v})
            yield Case(group, name, f"{option}: {what}", run, None, error=True)
    for what, path in {
        "missing": "nowhere", "a file": __file__, "empty": "", "a NUL": "a\0b", "a number": 3,
        "a long name": "x" * 5000, "a folder without a model": Path(__file__).parent,
        "bytes": b"x",
    }.items():  # fmt: skip
        run = lambda p=path: CLASSES[kind](path=p)
        yield Case(group, name, f"path: {what}", run, None, error=True)
    for what, model_id in {
        "unknown": "no-such-model", "empty": "", "a path": "../../etc", "a NUL": "a\0b",
        "a list": [],
        "a lone surrogate": "\ud800", "a long name": "x" * 100_000, "another kind's": "nothing",
    }.items():  # fmt: skip
        run = lambda i=model_id: CLASSES[kind](i)
        yield Case(group, name, f"model_id: {what}", run, None, error=True)
    odd_k = {"0": 0, "negative": -1, "a str": "2", "True": True, "a float": 1.0}
    for what, top_k in odd_k.items():
        run = lambda k=top_k: model.rank("cat", ["dog"], k)
        yield Case(group, f"{name}.rank", f"top_k: {what}", run, None, True, "top_k must be")
    for what, role in {"unknown": "passage", "None": None, "a list": ["query"]}.items():
        run = lambda r=role: list(model.encode_iter(["cat"], role=r))
        yield Case(group, f"{name}.encode_iter", f"role: {what}", run, None, True, "role must be")
        run = lambda r=role: model.encode_all(["cat"], role=r)
        yield Case(group, f"{name}.encode_all", f"role: {what}", run, None, True, "role must be")
    if kind == "sparse":
        return
    for what, form in {"unknown": "bits", "None": None, "a list": ["int8"]}.items():
        run = lambda f=form: model.encode_batch(["cat"], output_dtype=f)
        yield Case(
            group, f"{name}.encode_batch", f"output_dtype: {what}", run, None, True, "output_dtype"
        )
    if kind == "multi-vector":
        for what, factor in {"0": 0, "a str": "2", "True": True, "a float": 2.0}.items():
            run = lambda f=factor: model.encode_batch(["cat"], pool_factor=f)
            entry = f"{name}.encode_batch"
            yield Case(group, entry, f"pool_factor: {what}", run, None, True, "pool_factor")
    else:
        for what, task in {"unknown": "x", "a number": 3, "a list": ["x"]}.items():
            run = lambda t=task: model.encode("cat", task=t)
            yield Case(group, f"{name}.encode", f"task: {what}", run, None, True, "task")


def _command(folder: Path) -> Iterator[Case]:
    dense = Reference("dense")
    model = ["-m", ARTIFACTS / "prompts"]
    lines = folder / "lines"
    lines.mkdir()
    numbers = iter(range(10**6))

    def written(content: bytes, suffix: str) -> Path:
        path = lines / f"{next(numbers)}{suffix}"
        path.write_bytes(content)
        return path

    def encoded(path: Any, suffix: str, stdin: bytes | None = None) -> np.ndarray:
        out = lines / f"{next(numbers)}{suffix}"
        command("encode", path, "-o", out, *model, stdin=stdin)
        if suffix == ".jsonl":
            return np.array([json.loads(line)["vector"] for line in out.read_text().splitlines()])
        if suffix == ".npy":
            return np.load(out, allow_pickle=False)
        with np.load(out, allow_pickle=False) as stored:
            return stored["vectors"]

    def equal(text: str) -> Callable[[Any], None]:
        expected = dense.vector(text, "document")
        return lambda found: np.testing.assert_allclose(found, expected, atol=1e-5)

    surrogate = {"a lone surrogate": SURROGATE}
    for what, text in (TEXTS | surrogate).items():
        if "megabyte" in what:
            continue
        judge = None if what in surrogate else equal(text)
        error = judge is None
        data = {"ensure_ascii": True}
        yield Case(
            "text", "tessera encode --text", what,
            lambda t=text: json.loads(command("encode", f"--text={t}", *model, "--json"))["vector"],
            judge, error,
        )  # fmt: skip
        line = (json.dumps(text, **data) + "\n").encode()
        entry = (json.dumps({"text": text, "id": 3}, **data) + "\n").encode()
        for name, content in {"strings": line, "objects": entry}.items():
            for suffix in (".npy", ".npz", ".jsonl"):
                run = lambda c=content, s=suffix: encoded(written(c, ".jsonl"), s)[0]
                entry_point = f"tessera encode, a .jsonl of {name} to {suffix}"
                yield Case("text", entry_point, what, run, judge, error, "line 1" if error else "")
        if not error and not set("\r\n") & set(text) and not text.startswith("\ufeff"):
            raw = f"cat\n{text}\n".encode()
            of_last = judge if text.strip() else equal("cat")  # a blank line is left out
            run = lambda r=raw: encoded(written(r, ".txt"), ".npy")[-1]
            yield Case("text", "tessera encode, a .txt", what, run, of_last, error=False)
            run = lambda r=raw: encoded("-", ".npy", stdin=r)[-1]
            yield Case("text", "tessera encode, stdin", what, run, of_last, error=False)
        score = (
            None
            if error
            else lambda found, t=text: np.testing.assert_allclose(
                found, dense.score(t, "the cat"), atol=1e-4
            )
        )
        run = lambda t=text: json.loads(
            command("similarity", *model, "--json", "--", t, "the cat")
        )["similarity"]
        yield Case("text", "tessera similarity", what, run, score, error)
        run = lambda t=text: json.loads(command("rank", *model, "--json", "--", t, "the cat"))[
            "ranking"
        ][0]["score"]
        yield Case("text", "tessera rank", what, run, score, error)
    bad_lines = {
        "invalid UTF-8": b"\xff\xfe" + MARKER.encode(), "a number": b"3", "null": b"null",
        "an open string": b'"' + MARKER.encode(), "no such key": b'{"other": "zqxjkv"}',
        "a list": b'["zqxjkv"]', "deep brackets": b"[" * 100_000,
        "an escaped surrogate": b'"\\ud800"',
        "a huge number": b"9" * 100_000, "NaN": b"NaN", "a NUL": b"\0",
        "a number under the key": b'{"text": 3}',
    }  # fmt: skip
    for what, bad in bad_lines.items():
        content = b'"cat"\n' + bad + b"\n"
        run = lambda c=content: encoded(written(c, ".jsonl"), ".npy")
        yield Case("text", "tessera encode, a .jsonl", what, run, None, True, "line 2")
        run = lambda c=content: command("rank", "cat", "--file", written(c, ".jsonl"), *model)
        yield Case("text", "tessera rank --file", what, run, None, True, "line 2")
    for what, blank in {"an empty line": b"", "white space": b" \t\r"}.items():
        content = b'"cat"\n' + blank + b'\n"dog"\n'
        run = lambda c=content: encoded(written(c, ".jsonl"), ".npy")[1]
        yield Case("text", "tessera encode, a .jsonl", what, run, equal("dog"), error=False)
        run = lambda c=content: json.loads(
            command("rank", "cat", "--file", written(c, ".jsonl"), *model, "--json")
        )["ranking"]
        first = lambda found: np.testing.assert_array_equal(
            sorted(item["text"] for item in found), ["cat", "dog"]
        )
        yield Case("text", "tessera rank --file", what, run, first, error=False)
    for what, path in {
        "missing": "nowhere.txt", "a folder": lines, "another suffix": __file__, "a NUL": "a\0.txt",
        "empty": "", "a long name": "x" * 5000 + ".txt", "a folder's child": f"{__file__}/x.txt",
    }.items():  # fmt: skip
        run = lambda p=path: encoded(p, ".npy")
        yield Case("text", "tessera encode, its input", what, run, None, error=True)
        run = lambda p=path: command("rank", "cat", "--file", p, *model)
        yield Case("text", "tessera rank, its file", what, run, None, error=True)
        out = str(path).replace(".txt", ".npy")
        run = lambda o=out: command("encode", "--text", "cat", "-o", o, *model)
        if what not in ("missing", "another suffix", "a folder"):
            yield Case("text", "tessera encode, its output", what, run, None, error=True)

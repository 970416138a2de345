"""No text, cell or caption of a user in a message, a traceback, a warning or a log line.

Every public method and every command gets a marker word, where it works and where it fails, with
logging at DEBUG for all packages, and everything that is said is searched for the word.

Three things are no leaks. Names are repeated, for an error has to say which: those of models,
files, columns, tasks, and values that stand where an option has its choices or numbers (NAMES, and
the named arguments of the command). Results hold what was asked for: `rank` prints the documents,
`forecast` the ids of its series, `explain` and `tokens` the words. And wrong usage of the command
(exit code 2) shows the user's own arguments at the user's own terminal.
"""

import inspect
import json
import logging
import traceback
import warnings

import numpy as np
import pandas as pd
import pytest
from artifact_tools import ARTIFACTS, copy, relist
from cases_images import COLOURS
from cases_images import opened as open_vision
from click.testing import CliRunner
from pdf_files import build, page
from PIL import Image, PngImagePlugin

import tessera_onnx
from tessera_onnx import (
    BinaryTokens,
    Embeddings,
    Int8Vectors,
    Muvera,
    PackedDense,
    PackedSparse,
    PackedTokens,
    SparseVector,
    TesseraDense,
    TesseraMultiVector,
    TesseraReranker,
    TesseraSparse,
    TesseraTimeSeries,
    TesseraVision,
    fuse,
    maxsim,
)
from tessera_onnx.cli.main import main

MARK = "zqxjkv"
SURROGATE = f"{MARK} \ud800 {MARK}"
LONG = f"{MARK} cat " * 300


class Spoken:
    """Not a text, but what a careless message would make one of."""

    def __str__(self):
        return MARK

    __repr__ = __str__


def broken():
    yield MARK
    raise OSError(3, "the caller's own")


# What may stand where anything stands. Functions, as a generator serves once.
WRONG = [
    lambda: MARK, lambda: SURROGATE, lambda: LONG, lambda: MARK.encode(), lambda: [MARK],
    lambda: [MARK, SURROGATE], lambda: [LONG], lambda: [MARK, None], lambda: [[MARK]],
    lambda: {MARK: MARK}, lambda: {MARK}, lambda: (MARK, MARK), Spoken, lambda: [Spoken()],
    lambda: np.array([MARK]), lambda: np.array([[MARK]], object), lambda: np.str_(MARK),
    broken, lambda: iter([MARK, 3]), lambda: pd.DataFrame({"a": [MARK]}), lambda: None,
    lambda: SparseVector(MARK, [MARK]), lambda: BinaryTokens(MARK, MARK), lambda: float("nan"),
    lambda: Int8Vectors(MARK, MARK, MARK), lambda: {"text": MARK}, lambda: -1,
]  # fmt: skip
# A str in the place of an image is the name of a file.
NO_IMAGES = [
    lambda: MARK.encode(), Spoken, lambda: [MARK.encode(), Spoken()], lambda: [{MARK: MARK}],
    lambda: {"images": MARK}, lambda: np.array([[MARK]], object), lambda: [np.array([MARK])],
    lambda: pd.DataFrame({"a": [MARK]}), lambda: BinaryTokens(MARK, MARK), lambda: None,
    lambda: Int8Vectors(MARK, MARK, MARK), lambda: [BITS, MARK.encode()], lambda: -1,
]  # fmt: skip
IMAGES = {"image", "images", "document", "documents"}
# Arguments that name a thing: they may be repeated.
NAMES = {
    "model_id", "path", "cache_dir", "device", "precision", "kind", "role", "task", "output_dtype",
    "pdf", "file", "id", "timestamp", "target", "on_long", "activation",
}  # fmt: skip


def said(call, caplog, capfd):
    """All that a call says, but for what it returns."""
    caplog.clear()
    capfd.readouterr()
    parts = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = call()
            if hasattr(found, "__next__"):  # a stream works when it is read
                found = list(found)
            if not isinstance(found, tuple | list | dict | str | SparseVector | pd.DataFrame):
                parts.append(repr(found)[:2000])
        except Exception as error:
            parts += traceback.format_exception(error)
        parts += [str(warning.message) for warning in warned]
    parts += [record.getMessage() for record in caplog.records]
    parts += [str(record.exc_text) for record in caplog.records if record.exc_info]
    return "\n".join([*parts, *capfd.readouterr()])


@pytest.fixture
def silent(caplog, capfd):
    """Fails a test whose calls say the word; how many calls there were."""
    caplog.set_level(logging.DEBUG)
    leaks = []

    def check(what, call):
        text = said(call, caplog, capfd)
        if MARK in text.lower():
            at = text.lower().index(MARK)
            leaks.append(f"{what}: …{text[max(0, at - 300) : at + 60]}")

    yield check
    assert not leaks, f"{len(leaks)} leaks\n" + "\n\n".join(leaks[:20])


VECTORS = np.eye(3, 32, dtype=np.float32)
BITS = BinaryTokens(np.zeros((3, 4), np.uint8), 32)
SPARSE = SparseVector(np.array([3], np.int32), np.array([1.0], np.float32))
FRAME = pd.DataFrame(
    {
        "timestamp": pd.date_range("2024", periods=9),
        "target": np.arange(9.0),
        "id": [MARK] * 9,
        "word": [MARK] * 9,
    }
)
LENIENT = {"progress": False}
TEXTS = {
    "encode": {"text": MARK},
    "encode_batch": {"texts": [MARK, LONG], "timeout": 60.0, "cancel": None, **LENIENT},
    "encode_query": {"text": MARK},
    "encode_document": {"text": [LONG]},
    "encode_iter": {"texts": [MARK, LONG]},
    "encode_all": {"texts": [MARK], **LENIENT},
    "token_count": {"texts": [MARK]},
    "prepare": {"texts": [MARK], "prompt": MARK},
    "run_prepared": {"texts": []},
    "prompt": {"role": "query", "task": None},
    "token": {"number": 3},
    "similarity": {"a": MARK, "b": LONG},
    "rank": {"query": LONG, "documents": [MARK, LONG], "top_k": 1},
}
CALLS = {
    "dense": {
        **TEXTS,
        "encode": {"text": MARK, "prompt": MARK, "task": None},
        "encode_chunks": {"texts": [MARK, LONG], "size": 5, "overlap": 1, "late": False},
        "dimension": {},
    },
    "multi-vector": {
        **TEXTS,
        "score": {"query": MARK, "documents": [LONG]},
        "quantize": {"tokens": VECTORS},
        "encode_quantized": {"text": MARK},
        "similarity_quantized": {"a": BITS, "b": BITS},
        "explain": {"query": MARK, "document": LONG},
        "tokens": {"text": MARK},
        "dimension": {},
    },
    "sparse": {
        **TEXTS,
        "encode": {"text": MARK, "max_active_dims": 3},
        "explain": {"vector": SPARSE, "top_k": 3},
        "vocab_size": {},
    },
    "reranker": {
        "score": {"query": MARK, "documents": [LONG], "activation": "raw", "timeout": 60.0},
        "score_pairs": {"pairs": [(MARK, LONG)], "activation": "raw"},
        "rank": {"query": MARK, "documents": [LONG], "top_k": 1},
        "explain": {"query": MARK, "document": LONG, "top_k": 3},
        "prepare": {"query": MARK, "documents": [LONG], "activation": "raw"},
        "run_prepared": {"pairs": []},
        "activation": {},
        "max_length": {},
    },
    "vision": {
        "encode_document": {"image": COLOURS, "pool_factor": 1},
        "encode_documents": {"images": [COLOURS], "timeout": 60.0, "cancel": None, **LENIENT},
        "encode_iter": {"images": [COLOURS]},
        "encode_pages": {"pdf": build([page()]), "dpi": 30, "pages": "1", "password": MARK}
        | {"max_pages": 3},
        "encode_query": {"text": MARK},
        "query_tokens": {"text": MARK},
        "search": {"query": MARK, "document": COLOURS},
        "search_document": {"text": MARK, "path": COLOURS},
        "score": {"query": MARK, "documents": [COLOURS]},
        "rank": {"query": MARK, "documents": [COLOURS], "top_k": 1},
        "similarity_map": {"query": MARK, "document": COLOURS},
        "regions": {"query": MARK, "document": COLOURS, "page": 1, "dpi": None, "password": MARK},
        "locate": {"query": MARK, "document": build([page()]), "page": 1, "dpi": 30},
        "save_similarity_map": {"query": MARK, "document": COLOURS, "file": "map.png", "token": 0},
        "embedding_dim": {},
        "num_patches": {},
    },
    "time-series": {
        "forecast": {"context": [1.0, 2.0], "horizon": 3, "groups": None, "timeout": 60.0},
        "forecast_quantiles": {"context": [1.0, 2.0], "horizon": 3, "levels": [0.5]},
        "forecast_frame": {"df": FRAME, "id": "id", "horizon": 3, "levels": [0.5]},
        "prediction_length": {},
        "context_length": {},
        "quantiles": {},
    },
}
EVERY = {"model": {}, "close": {}}
PATHS = {"dense": "prompts", "multi-vector": "colbert", "sparse": "splade", "reranker": "reranker"}
CLASSES = {
    "dense": TesseraDense,
    "multi-vector": TesseraMultiVector,
    "sparse": TesseraSparse,
    "reranker": TesseraReranker,
    "vision": TesseraVision,
    "time-series": TesseraTimeSeries,
}


def opened(kind):
    if kind == "vision":
        return open_vision("colqwen2")
    return CLASSES[kind](path=ARTIFACTS / PATHS.get(kind, "bolt"), threads=2)


def public(cls):
    found = {name for name, _ in inspect.getmembers(cls, callable) if not name.startswith("_")}
    return found - {"count", "index"}  # a tuple's


def every_wrong(check, what, function, good):
    """The call as it is meant, then each argument in turn as something else."""
    check(what, lambda: function(**good))
    of_images = isinstance(getattr(function, "__self__", None), TesseraVision)
    for name in good.keys() - NAMES:
        for value in NO_IMAGES if of_images and name in IMAGES else WRONG:
            check(f"{what}, {name}", lambda n=name, v=value: function(**{**good, n: v()}))


# Options of a few words: a text in the place of such a word is not repeated.
OPTIONS = ("task", "activation", "output_dtype", "role", "on_long", "device", "precision", "kind")


def test_no_option_says_a_text(silent):
    for text in (LONG, f"{MARK} and more", f"{MARK}\n", MARK * 9, [MARK], {MARK: MARK}, Spoken()):
        for kind, calls in CALLS.items():
            with opened(kind) as model:
                for name, good in calls.items():
                    method = getattr(model, name)
                    for option in set(OPTIONS) & set(inspect.signature(method).parameters):
                        silent(f"{kind}.{name}, {option}",
                               lambda: method(**{**good, option: text}))  # fmt: skip
            folder = {"path": ARTIFACTS / PATHS.get(kind, "bolt")}
            for option in set(OPTIONS) & set(inspect.signature(CLASSES[kind]).parameters):
                silent(f"{kind}, {option}", lambda: CLASSES[kind](**folder, **{option: text}))
        silent("Tessera, kind", lambda: tessera_onnx.Tessera(kind=text))
        silent("list_models, kind", lambda: tessera_onnx.list_models(text))
        silent("PackedTokens, output", lambda: PackedTokens(output_dtype=text))
        silent("PackedTokens, device", lambda: PackedTokens(output_dtype="int8", device=text))


@pytest.mark.parametrize("kind", CALLS)
def test_no_method_says_a_text(kind, silent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = CALLS[kind]
    assert public(CLASSES[kind]) == {*calls, *EVERY}  # a new method has its place here
    with opened(kind) as model:
        for name, good in calls.items():
            every_wrong(silent, name, getattr(model, name), good)
        silent("repr", lambda: f"{model!r} {model!s}")
    for name in calls:
        silent(f"{name}, closed", lambda n=name: getattr(model, n)(**calls[n]))


def test_no_result_and_no_function_says_a_text(silent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pack, sparse = PackedTokens([VECTORS]), PackedSparse([SPARSE])
    int8 = Int8Vectors(np.zeros((2, 3), np.int8), np.ones(3, np.float32), np.ones(3, np.float32))
    tables = {
        pack: {
            "add": {"documents": [VECTORS], "ids": None},
            "score": {"query": VECTORS},
            "score_batch": {"queries": [VECTORS]},
            "rank": {"query": VECTORS, "top_k": 1, "subset": [0]},
            "search": {"queries": [VECTORS], "top_k": 1, "candidates": [[0]]},
            "remove": {"documents": [0]},
            "save": {"path": "pack"},
            "load": {"path": "pack"},
            "dimension": {},
        },
        PackedDense(VECTORS): {
            "add": {"documents": VECTORS, "ids": None},
            "score": {"query": VECTORS[0]},
            "score_batch": {"queries": VECTORS},
            "rank": {"query": VECTORS[0], "top_k": 1, "subset": [0]},
            "search": {"queries": VECTORS, "top_k": 1, "candidates": None},
            "remove": {"documents": [0]},
            "save": {"path": "dense pack"},
            "load": {"path": "dense pack"},
            "dimension": {},
        },
        sparse: {
            "add": {"documents": [SPARSE], "ids": None},
            "score": {"query": SPARSE},
            "rank": {"query": SPARSE, "top_k": 1, "subset": [0]},
            "search": {"queries": [SPARSE], "top_k": 1, "candidates": [[0]]},
            "remove": {"documents": [0]},
            "save": {"path": "sparse pack"},
            "load": {"path": "sparse pack"},
        },
        Muvera(32): {
            "encode_query": {"tokens": VECTORS},
            "encode_document": {"tokens": VECTORS},
            "dimension": {},
        },
        BITS: {"unpack": {}},
        int8: {"dequantize": {}},
    }
    for holder, calls in tables.items():
        assert public(type(holder)) == set(calls)
        for name, good in calls.items():
            every_wrong(silent, name, getattr(holder, name), good)
    assert public(SparseVector) == {"to_dict", "to_qdrant", "to_scipy"}
    assert public(Embeddings) == set()
    every_wrong(silent, "maxsim", maxsim, {"query": VECTORS, "document": VECTORS})
    every_wrong(silent, "fuse", fuse, {"rankings": [[(0, 1.0)]], "k": 1})
    every_wrong(silent, "Muvera", Muvera, {"dim": 32})
    every_wrong(silent, "PackedTokens", PackedTokens, {"documents": [VECTORS], "ids": [MARK]})
    every_wrong(silent, "PackedDense", PackedDense, {"documents": VECTORS, "ids": None})
    every_wrong(silent, "PackedSparse", PackedSparse, {"documents": [SPARSE], "ids": [MARK]})
    for named in (PackedTokens([VECTORS], ids=[MARK]), PackedSparse([SPARSE], ids=[MARK])):
        silent("an id again", lambda p=named, d=[VECTORS]: p.add(d, ids=[MARK]))
        silent("no such id", lambda p=named: p.remove([MARK, MARK + "x"]))
        silent("repr", lambda p=named: f"{p!r}")
    every_wrong(silent, "list_models", tessera_onnx.list_models, {"installed": True})
    good = {"path": ARTIFACTS / "prompts", "threads": 1, "dimension": None, "max_length": 40}
    every_wrong(silent, "Tessera", tessera_onnx.Tessera, {**good, "offline": None})


def test_no_message_says_what_an_image_or_a_frame_holds(silent, tmp_path):
    """Captions, titles, cells and ids, in good files and in damaged ones."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", MARK)
    for name, options in {
        "a.png": {"pnginfo": info},
        "a.jpg": {"comment": MARK.encode()},
        "a.gif": {"comment": MARK.encode()},
    }.items():
        Image.fromarray(COLOURS).save(tmp_path / name, **options)
    title = b"%PDF-1.7\n1 0 obj << /Title (" + MARK.encode() + b") >> endobj\n"
    contents = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    contents += [MARK.encode() * 99, f"<svg>{MARK}</svg>".encode(), b"P3\n" + MARK.encode() * 9]
    contents += [f"P3\n2 2\n255\n1 2 3 {MARK}".encode(), b"P6\n# " + MARK.encode(), title]
    with opened("vision") as model:
        for i, content in enumerate(contents):
            for part in (content, content[: len(content) // 2], content[:-9]):
                silent(f"image {i}", lambda p=part: model.encode_document(p))
                silent(f"image {i} in a list", lambda p=part: model.encode_documents([COLOURS, p]))
                silent(f"PDF {i}", lambda p=part: model.encode_pages(p))
    with opened("time-series") as model:
        words = {"target": [MARK] * 9, "timestamp": [MARK] * 9, "id": [MARK, None] + [MARK] * 7}
        dates = {"timestamp": list(FRAME.timestamp[::-1]), "target": [*range(8), np.inf]}
        for name, cells in {**words, **dates}.items():
            frame = FRAME.assign(**{name: cells})
            silent(f"a frame, {name}", lambda f=frame: model.forecast_frame(f, id="id"))


def test_a_tokenizer_that_panics_says_no_text(silent, tmp_path):
    """Rust writes its own report to stderr before Python hears of it; it names lines of its own."""
    folder = copy("prompts", tmp_path / "m")
    rules = json.loads((folder / "tokenizer.json").read_text())
    rules["pre_tokenizer"] = {"type": "FixedLength", "length": 0}
    relist(folder, "tokenizer.json", json.dumps(rules).encode())
    with TesseraDense(path=folder, threads=1) as model:
        silent("encode", lambda: model.encode(MARK))


# ---------------------------------------------------------------- the command

RUN = CliRunner()


def files(folder):
    """What the commands read, the word in all of it but for the names."""
    marked = {
        "good.txt": f"{MARK}\n{LONG}\n",
        "bad.txt": f"{MARK}\n{MARK}\udcff\n",
        "good.jsonl": json.dumps(MARK) + "\n" + json.dumps({"text": LONG, MARK: MARK}),
        "cut.jsonl": f'"{MARK}"\n{{"text": "{MARK}',
        "number.jsonl": json.dumps({"text": 3, MARK: MARK}),
        "surrogate.jsonl": json.dumps(f"{MARK}\ud800"),
        "good.csv": "day,shop,sold\n" + "".join(f"2024-01-0{i},{MARK},{i}\n" for i in range(1, 9)),
        "word.csv": f"day,sold\n2024-01-01,3\n2024-01-02,{MARK}\n",
        "date.csv": f"day,sold\n{MARK},3\n2024-01-02,4\n",
        "ragged.csv": f'day,sold\n1,2,{MARK}\n"{MARK}',
        "text.png": MARK * 30,
        "text.pdf": f"%PDF-1.4 {MARK}",
    }
    for name, content in marked.items():
        (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    Image.fromarray(COLOURS).save(folder / "page.png")
    return marked


RERANKER = str(ARTIFACTS / "reranker")
COMMANDS = {
    "similarity": [
        [MARK, LONG], [MARK], [MARK, MARK, MARK], [SURROGATE, MARK],
        [MARK, LONG, "--on-long", "error"], [MARK, "page.png", "--kind", "vision"],
        ["--max-length", "2", MARK, LONG],
    ],
    "rank": [
        [MARK], ["--query", MARK], [MARK, "--file", "bad.txt"], [MARK, "--file", "cut.jsonl"],
        [MARK, MARK, "--file", "good.txt"], ["--query", SURROGATE, MARK],
        [MARK, "text.png"], ["--kind", "vision", MARK, "text.png"], ["--query", MARK, "text.pdf"],
        ["--query", MARK, "page.png"], [MARK, "--file", "number.jsonl", "--top-k", "1"],
    ],
    "rerank": [
        [MARK, "-m", RERANKER], ["--query", MARK, "-m", RERANKER],
        [MARK, "--file", "bad.txt", "-m", RERANKER], [MARK, "--file", "cut.jsonl", "-m", RERANKER],
        [MARK, MARK, LONG, "-m", RERANKER], ["--query", SURROGATE, MARK, "-m", RERANKER],
        [MARK, LONG, "--on-long", "error", "-m", RERANKER], [MARK, LONG],
    ],
    "encode": [
        ["--text", MARK, "-o", "o.npy"], ["--text", LONG, "-o", "o.jsonl"], [MARK, "-o", "o.npy"],
        [MARK], [MARK, MARK, MARK, "-o", "o.npy"], ["--text", SURROGATE], ["--text", MARK, MARK],
        ["--text", MARK, "--prompt", SURROGATE], ["--text", MARK, "--kind", "vision"],
        *([file, "-o", "o.npz", "--kind", kind] for kind in ("dense", "sparse") for file in
          ("good.txt", "bad.txt", "good.jsonl", "cut.jsonl", "number.jsonl", "surrogate.jsonl")),
        ["good.txt", "-o", "o.npz", "--on-long", "error"], ["-", "-o", "o.npy"],
        ["text.png", "-o", "o.npz"], ["text.pdf", "-o", "o.npz"],
        ["good.txt", "-o", "o.npz", "--field", MARK, "--progress"],
        ["--kind", "vision", "--role", "query", "--text", MARK, "-o", "o.npz"],
    ],
    "forecast": [
        ["good.csv", "--id", "shop", "-o", "o.csv"], ["word.csv"], ["date.csv"], ["ragged.csv"],
        ["word.csv", "--target", "sold"], ["date.csv", "--timestamp", "day"], ["-"],
        ["good.csv", "--target", "shop"], ["good.csv", "--levels", MARK],
        ["good.csv", "--id", "day"], ["good.csv", MARK],
    ],
    "explain": [
        [MARK, "page.png", "--plot", "map.png"], [MARK, "text.png"], [MARK, "text.pdf"],
        [SURROGATE, "page.png"], [MARK], [MARK, "page.png", MARK],
        [MARK, "page.png", "--token", "99", "--plot", "map.png"],
    ],
}  # fmt: skip
# Commands that print what they were given, where they succeed.
RESULTS = {"rank", "rerank", "explain", "forecast"}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_says_a_text(command, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    marked = files(tmp_path)
    stdin = marked["word.csv" if command == "forecast" else "good.txt"]
    for options in [*COMMANDS[command], [*COMMANDS[command][0], "--json"]]:
        caplog.clear()
        done = RUN.invoke(main, [command, *options], input=stdin)
        if done.exit_code == 2:  # wrong usage: click shows the user's own words at their terminal
            continue
        text = done.stderr + "\n".join(record.getMessage() for record in caplog.records)
        if done.exit_code or command not in RESULTS:
            text += done.stdout
        if done.exception is not None:
            text += "".join(traceback.format_exception(done.exception))
        assert MARK not in text.lower(), (options, text)

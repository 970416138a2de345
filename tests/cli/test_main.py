"""The command `tessera`: what it prints and writes, its exit codes, that it never half-writes."""

import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, HANG, add_file, copy, replace
from command import run, run_json

from tessera_onnx import (
    FileError,
    LoadError,
    TesseraDense,
    TesseraMultiVector,
    TesseraSparse,
    __version__,
    files,
    fuse,
)
from tessera_onnx.cli import demo, vector_files
from tessera_onnx.cli.texts import LONGEST
from tessera_onnx.models import catalogue, installed, resolve
from tessera_onnx.models.artifact import open_folder
from tessera_onnx.vectors import quantization

PROGRAM = [
    sys.executable,
    "-c",
    "from tessera_onnx.cli.main import main; main(prog_name='tessera')",
]
SECRET = "zqxjkv"  # no part of any message
TEXTS = [
    "The lighthouse keeper wrote down the weather twice a day.",
    ".",
    "Grüße aus Köln, 你好 and a naïve café",
    "Bread",
]
SMALL = ("-m", str(ARTIFACTS / "prompts"))  # a few kilobytes: for what no model matters
MODELS = {"dense": "dense", "multi-vector": "multi", "sparse": "sparse"}  # kind: fixture


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    return path


@pytest.fixture
def model(request, kind):
    return request.getfixturevalue(MODELS[kind])


def only(folder, *names):
    """Whether nothing but `names` lies in the folder, hidden files included."""
    return sorted(path.name for path in Path(folder).iterdir()) == sorted(names)


# ---------------------------------------------------------------- the program


def test_version_and_help_name_every_command():
    assert run("--version").stdout == f"tessera {__version__}\n"
    listed = run("--help").stdout
    for name in ("demo", "doctor", "encode", "info", "models", "rank", "similarity"):
        assert name in listed
        assert f"Example: tessera {name}" in run(name, "--help").stdout


def test_the_library_never_imports_click():
    code = "import sys, tessera_onnx; sys.exit('click' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "args",
    [
        ("encode",),
        ("encode", "a.txt"),
        ("encode", "a.txt", "--text", "b", "-o", "o.npy"),
        ("encode", "a.txt", "-o", "./a.txt"),
        ("encode", "--text", "a", "--kind", "time-series"),
        ("rank",),
        ("rank", "--query", "a"),
        ("encode", "--text", "a", "--dimension", "0"),
        ("encode", "--text", "a", "--role", "passage"),
        ("similarity", "a"),
        ("rank", "a"),
        ("rank", "a", "b", "--file", "c.txt"),
        ("rank", "a", "b", "--top-k", "0"),
        ("rank", "a", "b", "--hybrid", "--kind", "dense"),
        ("rank", "a", "b", "--hybrid", "--pages", "1"),
        ("info",),
        ("models", "--nothing"),
        ("nothing",),
    ],
)
def test_wrong_usage_is_exit_code_2_and_silent_on_stdout(args):
    result = run(*args, code=2)
    assert result.stdout == ""
    assert "Error: " in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("encode", f"{SECRET} one", "-o", "out.npy"),
        ("encode", SECRET * 5000, "-o", "out.npy"),
        ("encode", "--text", f"{SECRET} " * 400, "--on-long", "error"),
        ("encode", "--text", f"{SECRET}\udc80"),
        ("similarity", SECRET, f"{SECRET}\udc80"),
        ("rank", f"{SECRET}\udc80", SECRET),
        ("rank", f"{SECRET}\udc80", SECRET, "--hybrid"),
    ],
)
def test_no_error_about_a_text_holds_it(args):
    result = run(*args, code=1)
    assert SECRET not in result.stdout + result.stderr
    assert result.stderr.count("Error: ") == 1


@pytest.mark.parametrize(
    "args",
    [
        ("encode", "--text", "a", "-m", "nothing-like-it"),
        ("encode", "--text", "a", "-m", "splade-tiny", "--kind", "dense"),
        ("encode", "--text", "a", "--device", "abacus"),
        ("encode", "--text", "a", "--precision", "fp16"),
        ("encode", "--text", "a", "--dimension", "7"),
        ("encode", "--text", "a", "--max-length", "100000"),
        ("encode", "--text", "a", "--kind", "sparse", "--output-dtype", "int8"),
        ("encode", "--text", "a", "--kind", "sparse", "-o", "out.npy"),
        ("encode", "--text", "a", "--kind", "multi-vector", "-o", "out.npy"),
        ("encode", "--text", "a", "--output-dtype", "binary", "-o", "out.npy"),
        ("encode", "--text", "a", "-o", "out.csv"),
        ("encode", "missing.txt", "-o", "out.npy"),
        ("rank", "a", "--file", "missing.jsonl"),
        ("rank", "a", "b", "--hybrid", "-m", "splade-tiny"),
        ("info", "nothing-like-it"),
    ],
)
def test_what_cannot_work_is_exit_code_1_and_one_line(args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*args, code=1)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert only(tmp_path)


def test_a_closed_pipe_ends_quietly():
    with subprocess.Popen([*PROGRAM, "models"], stdout=-1, stderr=-1) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_narrow_encoding_replaces_characters():
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    command = [*PROGRAM, "rank", "café", "naïve 你", "-m", str(ARTIFACTS / "prompts")]
    result = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert "naïve ?".encode("latin-1") in result.stdout


def test_advice_names_options_of_the_command():
    here = {artifact.spec.id for artifact in installed.installed()}
    absent = next(s.id for s in catalogue.catalogue() if s.id not in here and not s.hub)
    error = run("encode", "--text", "a", "-m", absent, code=1).stderr
    assert "open the folder with --model=DIR" in error
    assert "path=" not in error


# ---------------------------------------------------------------- demo, models, info


@pytest.mark.slow
def test_demo_is_one_screen():
    result = subprocess.run([*PROGRAM, "demo"], capture_output=True, check=True, text=True)
    lines = result.stdout.splitlines()
    assert result.stderr == ""
    assert len(lines) <= 55
    assert max(map(len, lines)) <= 80


def test_hybrid_rank_fuses_a_dense_and_a_sparse_model(dense, sparse):
    query, documents = TEXTS[3], [*TEXTS, "A loaf of bread is baked."]
    weighed = [row for row in sparse.rank(query, documents) if row.score > 0]
    assert 0 < len(weighed) < len(documents)  # the others have no rank
    expected = fuse([dense.rank(query, documents), weighed])
    found = run_json("rank", query, *documents, "--hybrid")
    assert (found["model"], found["kind"]) == ("all-minilm-l6-v2 + splade-tiny", "dense + sparse")
    assert [(row["index"], row["score"]) for row in found["ranking"]] == expected
    shown = run("rank", query, *documents, "--hybrid", "--top-k", "2").stdout.splitlines()
    assert [line.split()[2] for line in shown[1:]] == [str(row.index + 1) for row in expected[:2]]


def test_hybrid_rank_with_one_model_of_both_kinds():
    folder = ("-m", ARTIFACTS / "m3")
    found = run_json("rank", "Bread", *TEXTS, "--hybrid", *folder)
    assert found["model"] == "test-m3 + test-m3"
    assert len(found["ranking"]) == len(TEXTS)


def test_hybrid_rank_with_words(tmp_path, dense):
    """By hand: BM25 ranks the two texts with the word, 1 / (60 + rank) of each ranking adds up."""
    documents = [
        "An oven.",
        "Bread, bread and salt.",
        "The bread of a town far away",
        "Rates rose.",
    ]
    source = tmp_path / "corpus.txt"
    source.write_text("\n".join(documents))
    words = [1, 2]  # twice in four words; once in seven, of which three are no stop words
    order = [row.index for row in dense.rank("bread", documents)]
    expected = {i: 1 / (61 + order.index(i)) for i in range(4)}
    for place, i in enumerate(words):
        expected[i] += 1 / (61 + place)
    for arguments in (documents, ("--file", source), (*documents, "--device", "cpu")):
        found = run_json("rank", "--query", "bread", *arguments, "--hybrid-with", "bm25")
        assert (found["model"], found["kind"]) == ("all-minilm-l6-v2 + bm25", "dense + sparse")
        scores = {row["index"]: row["score"] for row in found["ranking"]}
        assert scores == pytest.approx(expected, rel=1e-9)
        assert list(scores) == sorted(scores, key=lambda i: -scores[i])
    found = run_json("rank", "cat", "dog", "--hybrid-with", "bm25", "--kind", "multi-vector")
    assert found["kind"] == "multi-vector + sparse"
    found = run_json("rank", "Haus", "Häuser", "--hybrid-with", "bm25", "--language", "german")
    assert found["ranking"][0]["score"] == pytest.approx(2 / 61)
    for arguments, code, message in (
        (("--hybrid-with", "bm25", "--kind", "vision"), 2, "--hybrid ranks texts, and "),
        (("--hybrid-with", "bm25", "--pages", "1"), 2, "leave out --pages"),
        (("--hybrid-with", ARTIFACTS / "reranker"), 2, "see tessera rerank"),
        (("--hybrid-with", "splade-tiny", "--language", "german"), 1, "knows no languages"),
        (("--hybrid-with", ARTIFACTS / "prompts", "--language", "german"), 2, "--language is not"),
        (("--hybrid-with", "no-such-model"), 1, "no model is named 'no-such-model'"),
    ):
        assert message in run("rank", "cat", "dog", *arguments, code=code).stderr


def test_demo_ranks_matches_and_expands():
    shown = run_json("demo")
    assert list(shown) == ["search", "dense", "multi-vector", "sparse", "vision", "time-series"]
    first, second = shown.pop("search")["steps"]
    with TesseraDense("tessera-static-mini") as static, TesseraMultiVector() as tokens:
        found = static.rank(demo.QUERY, demo.DOCUMENTS, 3)
        assert [item["score"] for item in first["ranking"]] == [row.score for row in found]
        documents = [demo.DOCUMENTS[row.index] for row in found]
        assert [item["document"] for item in first["ranking"]] == documents
        anew = [(documents[i], score) for i, score in tokens.rank(demo.QUERY, documents)]
    assert [(item["document"], item["score"]) for item in second["ranking"]] == anew
    assert documents != [text for text, _ in anew]  # the second step changes the order
    forecast = np.array(shown.pop("time-series")["forecast"])
    season = 100 + np.arange(96, 108) / 2 + 20 * np.sin(np.arange(96, 108) * np.pi / 6)
    assert np.abs(forecast[:, 1] - season).mean() < 3
    for kind in shown:
        scores = [item["score"] for item in shown[kind]["ranking"]]
        assert scores == sorted(scores, reverse=True)
        best = shown[kind]["ranking"][0]["document"]
        found = {"sparse": "toaster", "vision": "Sourdough"}  # all three answer the question
        assert found.get(kind, "loaf") in best
    pairs = {m["query_token"]: m["document_token"] for m in shown["multi-vector"]["matches"]}
    assert pairs["bread"] == "loaf"
    assert not any(token.startswith("[") for token in pairs)
    terms = {term["token"]: term["in_text"] for term in shown["sparse"]["terms"]}
    assert terms["vienna"] is True
    assert False in terms.values()
    marked = [token for token, in_text in terms.items() if not in_text]
    assert all(f"{token} +" in run("demo").stdout for token in marked[:1])


def test_without_models_demo_says_what_to_install(monkeypatch):
    monkeypatch.setattr(installed, "ENTRY_POINTS", "tessera_onnx.no_such_group")
    result = run("demo", code=1)
    assert result.stdout == ""
    assert "pip install PATH/starter" in result.stderr
    assert [row["id"] for row in run_json("models", "--installed")] == ["bm25"]
    assert "No model is installed." in run("doctor").stdout


def test_models_lists_the_installed_first_and_then_the_catalogue():
    rows = run_json("models")
    assert [row["id"] for row in rows[:6]] == [
        "all-minilm-l6-v2",
        "splade-tiny",
        "tessera-bolt-mini",
        "tessera-page-mini",
        "tessera-static-mini",
        "bm25",  # part of the package
    ]
    assert rows[0]["kinds"] == ["dense", "multi-vector"]
    assert rows[0]["dimension"] == [384]
    assert rows[1]["dimension"] == [30522]
    ids = [row["id"] for row in rows]
    assert len(ids) == len(set(ids))
    assert {spec.id for spec in catalogue.catalogue()} <= set(ids)
    assert {row["where"] for row in rows[6:]} == {"not installed"}
    text = run("models").stdout
    assert all(row["id"] in text for row in rows)
    assert len(text.splitlines()) == len(rows) + 1


def test_bm25_ranks_in_a_language_and_needs_no_model_file():
    texts = ["Das Haus der alten Stadt", "Die Häuser der Städte", "Ein Hund"]
    german = run_json("rank", "die Häuser", *texts, "--model", "bm25", "--language", "german")
    assert [row["index"] for row in german["ranking"]] == [1, 0, 2]
    assert [row["score"] > 0 for row in german["ranking"]] == [True, True, False]
    english = run_json("rank", "die Häuser", *texts, "--model", "bm25")
    assert [row["score"] > 0 for row in english["ranking"]] == [True, False, False]
    assert "language must be one of" in run("rank", "q", "d", "--model", "bm25",
                                            "--language", "x", code=1).stderr  # fmt: skip
    assert (
        "--language is not for dense models"
        in run(
            "rank", "q", "d", "--model", "all-minilm-l6-v2", "--language", "german", code=2
        ).stderr
    )
    assert (
        "knows no languages"
        in run("rank", "q", "d", "--model", "splade-tiny", "--language", "german", code=1).stderr
    )
    assert run_json("info", "bm25")["where"] == "tessera-onnx"
    assert run_json("pull", "bm25")["where"] == "tessera-onnx"
    vector = run_json("encode", "--text", "old foxes", "--model", "bm25")
    assert len(vector["indices"]) == 2


def test_models_are_chosen_by_kind_and_place():
    assert all("sparse" in row["kinds"] for row in run_json("models", "--kind", "sparse"))
    assert [row["id"] for row in run_json("models", "--kind", "sparse", "--installed")] == [
        "splade-tiny",
        "bm25",
    ]
    cached = run_json("models", "--installed", "--cache-dir", ARTIFACTS)
    assert {"test-colbert", "test-splade"} <= {r["id"] for r in cached if r["where"] == "cache"}


def test_info_holds_every_fact():
    artifact = resolve.resolve("all-minilm-l6-v2")
    shown = run_json("info", "all-minilm-l6-v2")
    assert shown.pop("folder") == str(artifact.folder)
    assert shown.pop("where") == artifact.origin
    assert shown == json.loads(json.dumps(dataclasses.asdict(artifact.spec)))
    text = run("info", "all-minilm-l6-v2").stdout
    for file in artifact.spec.files:
        assert f"{file.name}  {file.size:,} bytes  sha256 {file.sha256}" in text
    assert str(artifact.folder) in text


def test_info_of_a_folder_shows_parity_and_prompts_with_their_spaces():
    text = run("info", ARTIFACTS / "prompts").stdout
    assert "aliases" in text
    assert '"query: "' in text
    parity = open_folder(ARTIFACTS / "colbert").spec.export.parity[0]
    line = f"{parity.precision} {parity.output} {parity.metric} {parity.value:.3g}"
    assert f"{line}, limit {parity.limit:.3g}" in run("info", ARTIFACTS / "colbert").stdout


def test_info_of_the_catalogue_marks_what_nobody_checked():
    here = {artifact.spec.id for artifact in installed.installed()}
    spec = next(
        spec
        for spec in catalogue.catalogue()
        if "graph" in spec.unverified and spec.aliases and spec.id not in here
    )
    shown = run("info", spec.aliases[0]).stdout
    facts = {line.split()[0]: line for line in shown.splitlines()}
    assert facts["id"].split() == ["id", spec.id]
    assert facts["graph.fp32"].endswith("(unverified)")
    assert not facts["source"].endswith("(unverified)")
    assert facts["where"].endswith("not installed")
    assert run_json("info", spec.id)["where"] == "not installed"


def test_info_of_an_unknown_model_names_a_near_one():
    assert "all-minilm-l6-v2" in run("info", "all-minilm-l6-v3", code=1).stderr


# ---------------------------------------------------------------- encode: formats


@pytest.mark.parametrize("kind", ["dense"])
def test_npy_is_the_matrix_of_the_api(corpus, model, tmp_path):
    out = tmp_path / "out.npy"
    summary = run_json("encode", corpus, "-o", out)
    assert summary == {
        "model": "all-minilm-l6-v2",
        "kind": "dense",
        "role": "document",
        "output_dtype": "float32",
        "output": str(out),
        "texts": 4,
        "width": 384,
    }
    loaded = np.load(out)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, model.encode_batch(TEXTS))
    assert only(tmp_path, "corpus.txt", "out.npy")


@pytest.mark.parametrize("kind", ["dense", "multi-vector"])
@pytest.mark.parametrize("form", ["float32", "int8", "binary"])
def test_npz_and_jsonl_are_what_the_api_gives(kind, form, corpus, model, tmp_path):
    for name in ("out.npz", "out.jsonl"):
        run("encode", corpus, "-o", tmp_path / name, "--kind", kind, "--output-dtype", form)
    expected = model.encode_batch(TEXTS, output_dtype=form)
    if kind == "dense":
        expected = [quantization.convert(row, form) for row in model.encode_batch(TEXTS)]
    names = {"int8": ("codes", "scale", "offset"), "binary": ("bits",)}
    with np.load(tmp_path / "out.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(lines) == len(TEXTS)
    offsets = arrays.pop("offsets", np.arange(len(TEXTS) + 1))
    assert offsets.dtype == np.int64
    assert offsets[-1] == (len(TEXTS) if kind == "dense" else sum(map(len, expected)))
    if form == "binary":
        assert int(arrays.pop("dim")) == lines[0]["dim"] == 384
    plain = {"dense": ("vectors", "vector"), "multi-vector": ("tokens", "tokens")}[kind]
    assert set(arrays) == set(names.get(form, plain[:1]))
    for i, one in enumerate(expected):
        for name in names.get(form, ("",)):
            wanted = getattr(one, name) if name else one
            stored_rows = arrays[name or plain[0]][offsets[i] : offsets[i + 1]]
            stored_rows = stored_rows[0] if kind == "dense" else stored_rows
            assert stored_rows.dtype == wanted.dtype
            np.testing.assert_array_equal(stored_rows, wanted)
            read = np.array(lines[i][name or plain[1]], dtype=wanted.dtype)
            np.testing.assert_array_equal(read, wanted)


def test_encode_for_a_task_and_with_a_prompt(corpus, tmp_path):
    out = tmp_path / "out.npy"
    run("encode", corpus, "-o", out, "--model", ARTIFACTS / "tasks", "--task", "classification")
    with TesseraDense(path=ARTIFACTS / "tasks", on_long="truncate") as tasks:
        expected = tasks.encode_batch(TEXTS, task="classification")
        np.testing.assert_array_equal(np.load(out), expected)
    prompted = (
        "encode",
        corpus,
        "-o",
        out,
        "--model",
        ARTIFACTS / "prompts",
        "--prompt",
        "query: ",
    )
    run(*prompted)
    with TesseraDense(path=ARTIFACTS / "prompts", on_long="truncate") as prompts:
        np.testing.assert_array_equal(np.load(out), prompts.encode_query(TEXTS))
    bad = run("encode", "--text", "cat", "--model", ARTIFACTS / "tasks", "--task", "x", code=1)
    assert "task must be one of separation, classification" in bad.stderr
    bad = run("encode", "--text", "cat", "--kind", "sparse", "--prompt", "x", code=2)
    assert "--prompt is not for sparse models" in bad.stderr


def test_sparse_files_are_a_csr_matrix_and_pairs(corpus, sparse, tmp_path):
    for name in ("out.npz", "out.jsonl"):
        run("encode", corpus, "-o", tmp_path / name, "--kind", "sparse")
    expected = sparse.encode_batch(TEXTS)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as stored:
        csr = dict(stored)
    assert {name: array.dtype for name, array in csr.items()} == {
        "indices": np.int32,
        "indptr": np.int64,
        "values": np.float32,
        "shape": np.int64,
    }
    assert csr["shape"].tolist() == [4, 30522]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for i, (vector, line) in enumerate(zip(expected, lines, strict=True)):
        part = slice(csr["indptr"][i], csr["indptr"][i + 1])
        np.testing.assert_array_equal(csr["indices"][part], vector.indices)
        np.testing.assert_array_equal(csr["values"][part], vector.values)
        assert line["indices"] == vector.indices.tolist()
        np.testing.assert_array_equal(np.float32(line["values"]), vector.values)


@pytest.mark.parametrize("kind", ["dense", "multi-vector", "sparse"])
def test_an_empty_file_gives_no_texts_in_every_format(kind, tmp_path):
    source = tmp_path / "empty.jsonl"
    source.touch()
    out = tmp_path / "out.npz"
    assert run_json("encode", source, "-o", out, "--kind", kind)["texts"] == 0
    with np.load(out, allow_pickle=False) as stored:
        if kind == "sparse":
            assert stored["shape"].tolist() == [0, 30522]
            assert stored["indptr"].tolist() == [0]
        elif kind == "dense":
            assert stored["vectors"].shape == (0, 384)
        else:
            assert stored["tokens"].shape == (0, 384)
            assert stored["offsets"].tolist() == [0]
    run("encode", source, "-o", tmp_path / "out.jsonl", "--kind", kind)
    assert (tmp_path / "out.jsonl").read_bytes() == b""
    if kind == "dense":
        run("encode", source, "-o", tmp_path / "out.npy", "--kind", kind)
        assert np.load(tmp_path / "out.npy").shape == (0, 384)


# ---------------------------------------------------------------- encode: input


@pytest.mark.parametrize("kind", ["dense"])
def test_one_text_is_printed(model):
    shown = run_json("encode", "--text", TEXTS[0])
    np.testing.assert_array_equal(np.float32(shown["vector"]), model.encode(TEXTS[0]))
    text = run("encode", "--text", TEXTS[0]).stdout
    assert "vector (384,)" in text
    assert f"{model.encode(TEXTS[0])[0]:.4f}" in text
    assert len(text) < 500


def test_one_text_can_be_written(dense, tmp_path):
    run("encode", "--text", TEXTS[0], "-o", tmp_path / "out.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), dense.encode_batch(TEXTS[:1]))


@pytest.mark.parametrize("kind", ["dense"])
def test_the_same_texts_from_every_source(model, tmp_path):
    expected = model.encode_batch(TEXTS)
    objects = "\n".join(json.dumps({"id": 3, "body": text}) for text in TEXTS)
    strings = "".join(json.dumps(text, ensure_ascii=False) + "\r\n" for text in TEXTS)
    sources = {
        "crlf.txt": "\r\n".join(TEXTS).encode(),
        "bom.txt": b"\xef\xbb\xbf" + "\n".join(TEXTS).encode(),
        "objects.jsonl": objects.encode(),
        "strings.jsonl": strings.encode(),
    }
    out = tmp_path / "out.npy"
    for name, content in sources.items():
        (tmp_path / name).write_bytes(content)
        run("encode", tmp_path / name, "-o", out, "--field", "body")
        np.testing.assert_array_equal(np.load(out), expected, err_msg=name)
        # The tokenizer forgives what a wrong reading leaves in the texts; the texts do not.
        ranked = run_json("rank", "a", "--file", tmp_path / name, "--field", "body", *SMALL)
        read = sorted((item["index"], item["text"]) for item in ranked["ranking"])
        assert read == list(enumerate(TEXTS)), name
    run("encode", "-", "-o", out, stdin="\n".join(TEXTS).encode())
    np.testing.assert_array_equal(np.load(out), expected)


def test_lines_end_at_newlines_alone(tmp_path):
    odd = "one\u2028two\x0bthree\x85four\rfive"
    (tmp_path / "odd.txt").write_text(f"{odd}\n", encoding="utf-8", newline="")
    ranked = run_json("rank", "a", "--file", tmp_path / "odd.txt", *SMALL)["ranking"]
    assert [item["text"] for item in ranked] == [odd]


def test_queries_and_documents_differ_where_the_model_says_so(tmp_path):
    corpus = tmp_path / "short.txt"
    corpus.write_text("bread\n.\nwater")
    with TesseraDense(path=ARTIFACTS / "prompts") as model:
        texts = ["bread", ".", "water"]
        queries, documents = model.encode_query(texts), model.encode_batch(texts)
    assert not np.allclose(queries, documents)
    for role, expected in (("query", queries), ("document", documents)):
        out = tmp_path / f"{role}.npy"
        run("encode", corpus, "-o", out, "--role", role, "-m", ARTIFACTS / "prompts")
        np.testing.assert_array_equal(np.load(out), expected)


def test_the_options_of_a_model_reach_it(corpus, tmp_path):
    out = tmp_path / "out.npz"
    options = ("--dimension", 64, "--precision", "int8", "--threads", 1, "--max-length", 4)
    options += ("--device", "cpu", "--on-long", "truncate", "--kind", "multi-vector")
    assert run("encode", corpus, "-o", out, *options).stderr == ""
    with np.load(out, allow_pickle=False) as stored:
        assert stored["tokens"].shape == (4 + 3 + 4 + 3, 64)
    refused = run("encode", "--text", "a", "--precision", "fp32", code=1)
    assert "has no fp32 graph, only int8" in refused.stderr


def test_a_model_may_be_an_id_an_alias_or_a_folder(tmp_path):
    copy("prompts", tmp_path / "cäche" / "prompts")
    shown = [
        run_json("encode", "--text", "a", "-m", name, "--cache-dir", tmp_path / "cäche")
        for name in ("test-prompts", "prompts-alias", tmp_path / "cäche" / "prompts")
    ]
    assert shown[0] == shown[1] == shown[2]
    assert shown[0]["model"] == "test-prompts"


def test_unicode_paths(tmp_path):
    folder = tmp_path / "Straße 数据 \N{SNOWMAN}"
    folder.mkdir()
    (folder / "tëxts.txt").write_text("a\nb\n")
    out = folder / "öut.npy"
    assert str(out) in run("encode", folder / "tëxts.txt", "-o", out).stdout
    assert np.load(out).shape == (2, 384)
    assert only(folder, "tëxts.txt", "öut.npy")


def test_a_cut_text_is_one_plain_line_on_stderr(tmp_path):
    source = tmp_path / "long.txt"
    source.write_text("short\n" + "word " * 30 + "\n")
    common = ("encode", source, "-o", tmp_path / "out.npy", "--max-length", 8)
    warned = run(*common)
    assert warned.stderr.startswith("Warning: 1 of 2 texts were cut to 8 tokens")
    assert warned.stderr.count("\n") == 1
    assert '--on-long="truncate"' in warned.stderr
    assert run(*common, "--on-long", "truncate").stderr == ""
    failed = run(*common, "--on-long", "error", code=1).stderr
    assert failed.startswith(f"Error: {source}, line 2: text 1 has 32 tokens")


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_a_long_document_of_a_file_is_named_by_its_line_and_a_long_query_is_not(kind, tmp_path):
    source = tmp_path / "long.txt"
    source.write_text("a\n\n" + "word " * 400 + "\n")
    options = ("--kind", kind, "--max-length", 16, "--on-long", "error")
    failed = run("rank", "a", "--file", source, *options, code=1).stderr
    assert failed.startswith(f"Error: {source}, line 3: text 1 has 40")
    failed = run("rank", "word " * 400, "--file", source, *options, code=1).stderr
    assert (" tokens" in failed, str(source) in failed) == (True, False)
    failed = run("rank", "a", "b", "word " * 400, *options, code=1).stderr
    assert failed.startswith("Error: text 1 has ")


def test_a_long_query_is_named_by_its_line_beyond_the_first_window(tmp_path):
    source = tmp_path / "queries.jsonl"
    source.write_text('"a"\n' * 4100 + json.dumps("word " * 200) + "\n")
    options = ("--role", "query", "--on-long", "error", "-m", ARTIFACTS / "splade")
    failed = run("encode", source, "-o", tmp_path / "out.npz", *options, code=1)
    assert failed.stderr.startswith(f"Error: {source}, line 4101: text 4100 has ")


def test_progress_is_shown_on_request_alone(corpus, tmp_path):
    out = tmp_path / "out.npy"
    assert run("encode", corpus, "-o", out).stderr == ""
    assert "4/4" in run("encode", corpus, "-o", out, "--progress").stderr


@pytest.mark.posix
@pytest.mark.parametrize("progress", ["--progress", "--no-progress"])
def test_without_stderr_there_is_no_bar(progress, corpus, tmp_path):
    command = ["encode", str(corpus), "-o", "o.npy", *SMALL, "--on-long", "truncate", progress]
    shell = ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *PROGRAM, *command]
    subprocess.run(shell, cwd=tmp_path, env=_environment(), check=True)
    assert np.load(tmp_path / "o.npy").shape == (4, 32)


def test_a_bar_whose_reader_is_gone_loses_no_result(corpus, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = ["encode", str(corpus), "-o", "o.npy", *SMALL, "--on-long", "truncate", "--progress"]
    with start(*command, cwd=tmp_path, stderr=writer) as process:
        process.communicate()
    os.close(writer)
    assert process.returncode == 0
    assert np.load(tmp_path / "o.npy").shape == (4, 32)


@pytest.mark.linux
@pytest.mark.parametrize("command", [("--help",), ("--version",), ("rank", "--help"), ("models",)])
def test_a_full_device_is_one_line(command):
    with Path("/dev/full").open("wb") as full, start(*command, stdout=full) as process:
        _, stderr = process.communicate()
    assert process.returncode == 1
    assert stderr == b"Error: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("place", ["{long}.txt", "closed/in.txt"])
def test_a_file_that_cannot_be_looked_at_is_named(place, tmp_path):
    source = tmp_path / place.format(long="x" * 300)
    (tmp_path / "closed").write_text("a file in place of a folder")
    failed = run("encode", source, "-o", tmp_path / "o.npy", *SMALL, code=1).stderr
    assert failed.startswith(f"Error: {source} cannot be read: ")


# ---------------------------------------------------------------- encode: whole or not at all

BAD = {
    "no JSON": (".jsonl", b'{"text": "zqxjkv'),
    "a number": (".jsonl", b"12345"),
    "another field": (".jsonl", b'{"title": "zqxjkv"}'),
    "a list as text": (".jsonl", b'{"text": ["zqxjkv"]}'),
    "deep": (".jsonl", b"[" * 100_000),
    "a lone surrogate": (".jsonl", b'"zqxjkv \\ud800"'),
    "Latin-1": (".jsonl", b'"zqxjkv \xe9"'),
    "Latin-1 text": (".txt", b"zqxjkv \xe9"),
}


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".jsonl"])
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_line_leaves_the_old_file(bad, suffix, tmp_path):
    kind, line = BAD[bad]
    source, out = tmp_path / f"in{kind}", tmp_path / f"out{suffix}"
    source.write_bytes(b'"good"\n"also good"\n' + line + b'\n"good again"\n')
    out.write_bytes(b"old")
    result = run("encode", source, "-o", out, *SMALL, code=1)
    assert result.stderr.startswith(f"Error: {source}, line 3: ")
    assert SECRET not in result.stderr
    assert out.read_bytes() == b"old"
    assert only(tmp_path, source.name, out.name)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".jsonl"])
def test_a_bad_line_after_vectors_were_written_leaves_the_old_file(suffix, tmp_path):
    # stdin is read but once: 5,000 vectors are on their way when the bad line comes.
    out = tmp_path / f"out{suffix}"
    out.write_bytes(b"old")
    lines = b"good\n" * 5000 + b"\xff\xfe bad\n" + b"good\n" * 3
    result = run("encode", "-", "-o", out, *SMALL, code=1, stdin=lines)
    assert result.stderr == "Error: stdin, line 5001: not UTF-8 text\n"
    assert out.read_bytes() == b"old"
    assert only(tmp_path, out.name)


def test_binary_garbage_is_refused_by_line(tmp_path, rng):
    source = tmp_path / "garbage.txt"
    source.write_bytes(b"\xff" + rng.bytes(100_000))
    assert "line 1: not UTF-8" in run("encode", source, "-o", tmp_path / "o.npy", code=1).stderr
    assert only(tmp_path, "garbage.txt")


def test_a_folder_as_input_or_output(corpus, tmp_path):
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    read = run("encode", folder, "-o", tmp_path / "o.npy", code=1)
    assert read.stderr == f"Error: {folder} cannot be read: it is a folder\n"
    assert run("rank", "a", "--file", folder, code=1).stderr == read.stderr
    written = run("encode", corpus, "-o", folder, code=1)
    assert written.stderr == f"Error: {folder} cannot be written: it is a folder\n"
    assert only(tmp_path, "corpus.txt", "folder.jsonl")
    assert only(folder)


@pytest.mark.posix
def test_an_output_folder_that_cannot_be_written(corpus, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    if os.access(locked, os.W_OK):  # root writes everywhere but to the kernel's files
        locked = Path("/proc")
    too_long = tmp_path / ("x" * 300 + ".npy")
    for out in (locked / "o.npy", tmp_path / "missing" / "o.npy", corpus / "o.npy", too_long):
        result = run("encode", corpus, "-o", out, *SMALL, code=1)
        assert result.stderr.startswith(f"Error: {out} cannot be written: ")
    assert only(tmp_path, "corpus.txt", "locked")


@pytest.mark.posix
def test_a_full_disk_leaves_the_old_file(tmp_path):
    import resource

    source, out = tmp_path / "in.txt", tmp_path / "out.npy"
    source.write_text("a\n" * 200)
    out.write_bytes(b"old")
    result = subprocess.run(
        [*PROGRAM, "encode", str(source), "-o", str(out)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert result.returncode == 1
    assert result.stderr.startswith(f"Error: {out} cannot be written: ")
    assert "Traceback" not in result.stderr
    assert out.read_bytes() == b"old"
    assert only(tmp_path, "in.txt", "out.npy")


@pytest.mark.slow
@pytest.mark.linux
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
@pytest.mark.parametrize("source", ["in.txt", "-"])
def test_a_signal_midway_leaves_the_old_file(name, code, source, tmp_path):
    number = getattr(signal, name)
    (tmp_path / "in.txt").write_text("a sentence of some length, again and again\n" * 200_000)
    (tmp_path / "out.jsonl").write_bytes(b"old")
    command = [*PROGRAM, "encode", source, "-o", "out.jsonl"]
    with (
        (tmp_path / "in.txt").open("rb") as stdin,
        subprocess.Popen(
            command,
            cwd=tmp_path,
            stdin=stdin,
            stderr=-1,
            env=_environment(),
            # What runs the tests may ignore it.
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # noqa: PLW1509
        ) as process,
    ):
        _wait(lambda: list(tmp_path.glob(".tessera-*")))
        assert process.poll() is None
        time.sleep(0.3)
        used = _processor_seconds(process.pid)
        process.send_signal(number)
        stderr = process.stderr.read().decode()
        finished = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # still to be read
        assert finished is not None
        assert _processor_seconds(process.pid) - used < 10  # the whole file would take minutes
        assert process.wait() == code
    assert stderr == ("Interrupted\n" if number == signal.SIGINT else "")
    assert (tmp_path / "out.jsonl").read_bytes() == b"old"
    assert only(tmp_path, "in.txt", "out.jsonl")


@pytest.mark.posix
def test_nohup_is_respected(tmp_path):
    with start(
        "encode", "-", "-o", "out.jsonl", *SMALL, cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    ) as process:  # fmt: skip
        process.stdin.write(b"a\n")
        process.stdin.flush()
        _wait(lambda: list(tmp_path.glob(".tessera-*")))
        process.send_signal(signal.SIGHUP)
        _, stderr = process.communicate(b"b\n")
    assert (process.returncode, stderr) == (0, b"")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_source_that_becomes_shorter_leaves_the_old_file(tmp_path):
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("a sentence of some length, again and again\n" * 100_000)
    out.write_bytes(b"old")
    with start("encode", str(source), "-o", str(out)) as process:
        _wait(lambda: list(tmp_path.glob(".tessera-*")))
        os.truncate(source, 0)
        _, stderr = process.communicate()
    assert process.returncode == 1
    assert stderr.decode().startswith(f"Error: {source} became shorter while it was read: ")
    assert out.read_bytes() == b"old"
    assert only(tmp_path, "in.txt", "out.jsonl")


def _special(path, kind):
    """A pipe, or a device; root alone makes one."""
    if os.name != "posix":
        pytest.skip("needs a POSIX system")
    if kind == "pipe":
        os.mkfifo(path)
    elif os.getuid():
        pytest.skip("only root makes a device")
    else:
        try:
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # as /dev/zero
            path.open("rb").close()
        except PermissionError:
            pytest.skip("this system's root makes no devices that open")
    return path


@pytest.mark.parametrize("kind", ["pipe", "zero"])
@pytest.mark.parametrize(
    "command", [("encode", "{corpus}"), ("forecast", "{series}", "-m", str(ARTIFACTS / "bolt"))]
)
def test_no_output_takes_the_place_of_a_pipe_or_a_device(command, kind, corpus, tmp_path):
    (tmp_path / "in.csv").write_text("a\n1\n2\n")
    out = _special(tmp_path / "out.jsonl", kind)
    before = out.stat()
    args = [arg.format(corpus=corpus, series=tmp_path / "in.csv") for arg in command]
    result = run(*args, "-o", out, code=1)
    message = f"{out} cannot be written: it is a pipe or a device, not a regular file"
    assert result.stderr == f"Error: {message}\n"
    assert (out.stat().st_mode, out.stat().st_rdev) == (before.st_mode, before.st_rdev)
    assert only(tmp_path, "corpus.txt", "in.csv", "out.jsonl")


@pytest.mark.parametrize("name", ["in.txt", "in.csv"])
def test_no_device_is_read(name, tmp_path):
    source = _special(tmp_path / name, "zero")
    command = ("forecast",) if name == "in.csv" else ("rank", "a", "--file")
    assert run(*command, source, code=1).stderr == (
        f"Error: {source} cannot be read: it is a device\n"
    )


def test_a_pipe_with_a_name_is_read(tmp_path):
    source = _special(tmp_path / "in.txt", "pipe")
    writer = threading.Thread(target=lambda: source.write_text("a\nb\n"))
    writer.start()
    assert run_json("encode", source, "-o", tmp_path / "o.jsonl", *SMALL)["texts"] == 2
    writer.join()


def test_a_line_that_never_ends(tmp_path):
    source = tmp_path / "in.txt"
    with source.open("wb") as stream:
        stream.write(b"a\n")
        stream.truncate(LONGEST + 2)  # a file of zeros that takes no room
    assert run("rank", "a", "--file", source, code=1).stderr == (
        f"Error: {source}, line 2: longer than {LONGEST - 1} bytes\n"
    )


def test_a_result_whose_name_is_taken_at_the_end_is_kept(tmp_path):
    with pytest.raises(FileError, match="out.npz cannot be written: .*; the result is in ") as why:
        with files.replacing(tmp_path / "out.npz") as stream:
            stream.write(b"result")
            (tmp_path / "out.npz").mkdir()
    assert Path(str(why.value).partition("the result is in ")[2]).read_bytes() == b"result"


@pytest.mark.posix
def test_a_working_directory_that_is_gone(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    result = subprocess.run(
        [*PROGRAM, "encode", "--text", "a", "-o", "out.npz", *SMALL],
        cwd=gone,
        env=_environment(),
        preexec_fn=gone.rmdir,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr == "Error: out.npz cannot be written: No such file or directory\n"
    assert not vector_files.is_same("a\0", "b")


@pytest.mark.slow
@pytest.mark.linux
def test_memory_that_is_not_there_is_one_line(tmp_path):
    import resource

    source = tmp_path / "in.csv"
    with source.open("wb") as stream:
        stream.truncate(1 << 40)  # bytes that take no room
    limit = (1 << 36, 1 << 36)
    with start(
        "forecast", str(source), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit)
    ) as process:
        _, stderr = process.communicate()
    assert process.returncode == 1
    assert stderr.startswith(b"Error: not enough memory: ")
    assert stderr.count(b"\n") == 1


READERS = [
    ("encode", "-", "-o", "out.jsonl"),
    ("rank", "a", "--file", "-"),
    ("forecast", "-", "-m", str(ARTIFACTS / "bolt")),
]


@pytest.mark.slow
@pytest.mark.posix
@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
def test_stdin_that_does_not_wait_is_read_to_its_end(command, tmp_path):
    import fcntl
    import termios

    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    with start(*command, "--json", cwd=tmp_path, stdin=read_end) as process:
        os.write(write_end, b"v\n1\n")
        _wait(
            lambda: not int.from_bytes(fcntl.ioctl(read_end, termios.FIONREAD, b"1234"), "little")
        )
        time.sleep(0.2)  # another read finds nothing
        os.write(write_end, b"2\n")
        os.close(write_end)
        stdout, stderr = process.communicate()
    os.close(read_end)
    assert (process.returncode, stderr) == (0, b"")
    found = json.loads(stdout)
    read = {"encode": found.get("texts"), "rank": len(found.get("ranking", ()))}
    assert read.get(command[0], 3) == 3
    if command[0] == "forecast":
        given = run_json(*command, stdin="v\n1\n2\n")
        assert found == given


@pytest.mark.slow
@pytest.mark.posix
@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("redirection", "reason"), [("<&-", "it is closed"), ("0>junk", "Bad file descriptor")]
)
def test_stdin_that_cannot_be_read(command, redirection, reason, tmp_path):
    result = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *PROGRAM, *command],
        cwd=tmp_path,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stderr == f"Error: stdin cannot be read: {reason}\n"
    assert result.returncode == 1
    assert not (tmp_path / "out.jsonl").exists()


def start(*args, **options):
    """The command as a process of its own, fed and read by pipes."""
    pipes = {"stdin": -1, "stdout": -1, "stderr": -1, "env": _environment()}
    return subprocess.Popen([*PROGRAM, *args], **{**pipes, **options})


def _wait(condition):
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _processor_seconds(pid):
    """What all threads of a process have used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _environment():
    """This process's environment where another working directory finds the same package."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@pytest.mark.parametrize(
    ("command", "name"),
    [(("encode", "-"), "c.jsonl"), (("forecast", "-", "-m", str(ARTIFACTS / "bolt")), "c.csv")],
)
def test_stdin_is_not_replaced_by_what_is_made_of_it(command, name, tmp_path):
    (tmp_path / name).write_text("1\n2\n")
    with (tmp_path / name).open() as stdin:
        with start(*command, "-o", name, cwd=tmp_path, stdin=stdin) as process:
            _, stderr = process.communicate()
    assert (process.returncode, b"itself" in stderr) == (2, True)
    assert (tmp_path / name).read_text() == "1\n2\n"


@pytest.mark.posix
def test_a_new_file_has_the_usual_permissions_an_old_one_its_own_and_a_link_stays_one(
    corpus, tmp_path
):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.npy"
    link.symlink_to(tmp_path / "real" / "out.npy")
    old = os.umask(0o027)
    try:
        run("encode", corpus, "-o", link, *SMALL, "--on-long", "truncate")
    finally:
        os.umask(old)
    assert link.is_symlink()
    assert stat.S_IMODE(link.stat().st_mode) == 0o640
    link.chmod(0o600)  # of the file behind it
    run("encode", corpus, "-o", link, *SMALL, "--on-long", "truncate")
    assert stat.S_IMODE(link.stat().st_mode) == 0o600
    assert np.load(tmp_path / "real" / "out.npy").shape == (4, 32)


# ---------------------------------------------------------------- similarity, rank


@pytest.mark.parametrize("kind", ["dense", "multi-vector", "sparse"])
def test_similarity_is_the_number_of_the_api(kind, model):
    expected = model.similarity("fresh bread", "a new loaf")
    args = ("similarity", "fresh bread", "a new loaf", "--kind", kind)
    assert run(*args).stdout == f"{expected:.6f}\n"
    shown = run_json(*args)
    assert shown["similarity"] == pytest.approx(expected, rel=1e-6)
    assert (shown["kind"], shown["model"]) == (kind, model.model())


def test_a_text_that_begins_with_a_dash():
    assert run("similarity", "--", "--top-k", "-m").exit_code == 0


@pytest.mark.parametrize("kind", ["dense", "multi-vector", "sparse"])
def test_rank_is_the_order_of_the_api(kind, model, tmp_path):
    documents = ["The night train leaves at nine.", ".", "A new loaf of bread.", "Water taps"]
    expected = model.rank("fresh bread", documents)
    (tmp_path / "d.txt").write_text("\n".join(documents))
    given = run_json("rank", "fresh bread", *documents, "--kind", kind)
    filed = run_json("rank", "fresh bread", "--file", tmp_path / "d.txt", "--kind", kind)
    assert given == filed
    assert [item["index"] for item in given["ranking"]] == [item.index for item in expected]
    assert [item["text"] for item in given["ranking"]] == [documents[i] for i, _ in expected]
    scores = [item["score"] for item in given["ranking"]]
    np.testing.assert_allclose(scores, [score for _, score in expected], rtol=1e-5)


def test_a_ranking_for_people_counts_lines_from_one(tmp_path):
    (tmp_path / "d.jsonl").write_text(
        '{"body": "The night train"}\n{"body": "A \\u001b[31mloaf of\\nbread ' + "so " * 50 + '"}\n'
    )
    args = ("rank", "bread", "--file", tmp_path / "d.jsonl", "--field", "body", "--top-k", 1)
    header, row = run(*args).stdout.splitlines()
    assert header.split() == ["RANK", "SCORE", "LINE", "TEXT"]
    rank, score, line, text = row.split(maxsplit=3)
    assert (rank, line) == ("1", "2")
    assert 0 < float(score) < 1
    assert text.startswith("A \N{REPLACEMENT CHARACTER}[31mloaf of bread so so")
    assert text.endswith("…")
    assert len(row) < 100


def test_rank_reads_stdin_and_an_empty_file_has_no_ranking(tmp_path):
    ranked = run_json("rank", "bread", "--file", "-", stdin="a train\na loaf\n")["ranking"]
    assert [item["index"] for item in ranked] == [1, 0]
    (tmp_path / "empty.txt").touch()
    assert run_json("rank", "bread", "--file", tmp_path / "empty.txt")["ranking"] == []
    assert run("rank", "bread", "--file", tmp_path / "empty.txt").stdout.count("\n") == 1


# ---------------------------------------------------------------- doctor


@pytest.mark.slow
def test_doctor_tries_every_kind_of_every_model():
    report = run_json("doctor")
    assert report["problems"] == []
    assert report["packages"]["numpy"] == np.__version__
    assert "tessera-onnx-starter" in report["packs"]
    assert report["threads"] >= 1
    assert "CPUExecutionProvider" in report["providers"]
    tried = [
        (model["id"], p["kind"], p["result"])
        for model in report["models"]
        for p in model["probes"]
        if p["device"] == "cpu"
    ]
    assert {
        ("all-minilm-l6-v2", "dense", "works"),
        ("all-minilm-l6-v2", "multi-vector", "works"),
        ("splade-tiny", "sparse", "works"),
    } <= set(tried)
    assert run("doctor").stdout.endswith("Everything works.\n")


@pytest.mark.slow
def test_doctor_finds_a_damaged_file_and_a_broken_entry(tmp_path):
    copy("splade", tmp_path / "a")
    with (tmp_path / "a" / "model.fp32.onnx").open("r+b") as stream:
        stream.write(b"\0\0\0\0")
    # No probe runs this one: it is found by its hash alone.
    add_file(copy("states", tmp_path / "c"), "spare.json", b"{}")
    (tmp_path / "c" / "spare.json").write_bytes(b"[]")
    copy("colbert", tmp_path / "b", lambda text: text + "\nunknown = 1\n")
    report = run_json("doctor", "--cache-dir", tmp_path, code=1)
    assert len(report["problems"]) == 3
    assert any("spare.json has sha256" in problem for problem in report["problems"])
    assert any("sha256" in problem and "test-splade" in problem for problem in report["problems"])
    assert any(str(tmp_path / "b") in problem for problem in report["problems"])
    shown = run("doctor", "--cache-dir", tmp_path, code=1).stdout
    assert shown.count("Problem: ") == 3
    assert "Everything works" not in shown


@pytest.mark.slow
def test_doctor_finds_a_graph_that_does_not_open(tmp_path):
    folder = copy("splade", tmp_path / "a", replace(('output = "logits"', 'output = "other"')))
    with pytest.raises(LoadError, match="other"):
        TesseraSparse(path=folder)
    (problem,) = run_json("doctor", "--cache-dir", tmp_path, code=1)["problems"]
    assert problem.startswith("test-splade, sparse on cpu: ")


@pytest.mark.slow
def test_doctor_finds_two_runtimes_that_overwrite_each_other(tmp_path, monkeypatch):
    for name in ("onnxruntime", "onnxruntime_gpu"):
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
        fields = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n"
        (tmp_path / f"{name}-1.0.dist-info" / "METADATA").write_text(fields)
    monkeypatch.syspath_prepend(tmp_path)
    report = run_json("doctor", code=1)
    (problem,) = report["problems"]
    assert "pip uninstall onnxruntime onnxruntime-gpu" in problem
    assert '`pip install "PATH[cpu]"`, where PATH is' in problem
    assert report["packages"]["onnxruntime-gpu"] == "1.0"


def test_doctor_survives_a_missing_runtime(tmp_path):
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text("raise ImportError('no such library')")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    result = subprocess.run(
        [*PROGRAM, "doctor", "--json"],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        cwd=tmp_path,
    )
    assert (result.returncode, result.stderr) == (1, b"")
    report = json.loads(result.stdout)
    assert any('pip install "PATH[cpu]"' in problem for problem in report["problems"])
    assert all(model["files"] == "verified" for model in report["models"])


def test_doctor_finds_a_wrong_thread_setting(monkeypatch):
    monkeypatch.setenv("TESSERA_THREADS", "many")
    problems = run_json("doctor", code=1)["problems"]
    assert any(problem.startswith("TESSERA_THREADS must be") for problem in problems)

"""`tessera rerank`, and the other commands before a reranker."""

import json
import shutil

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, TEXTS, golden
from command import run

from tessera_onnx import LoadError, TesseraMultiVector, TesseraReranker

MODEL = ("--model", str(ARTIFACTS / "reranker"))
QUERY = TEXTS[0]
SCORES = golden("reranker")["default"][0]
COLBERT = ARTIFACTS / "colbert"


def maxsim(name, query):
    """MaxSim of a query with each text by hand, from the token vectors that upstream gave."""
    stored = golden(name)
    left = stored[f"query_{query}"].astype(np.float64)
    return np.array(
        [(left @ stored[f"document_{i}"].T).max(axis=1).sum() for i in range(len(TEXTS))]
    )


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = [{"id": f"d{i}", "text": text} for i, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_is_ranked(source):
    done = run("rerank", QUERY, "--file", source, "--id-field", "id", "--json", *MODEL)
    found = json.loads(done.stdout)
    assert (found["model"], found["kind"]) == ("test-reranker", "reranker")
    order = np.argsort(-SCORES, kind="stable").tolist()
    assert [row["index"] for row in found["ranking"]] == order
    assert [row["id"] for row in found["ranking"]] == [f"d{i}" for i in order]
    assert [row["score"] for row in found["ranking"]] == pytest.approx(SCORES[order], abs=1e-5)
    assert "2 of 9 documents were cut to 64 tokens" in done.stderr or "1 of 9" in done.stderr


def test_texts_are_ranked():
    done = run("rerank", QUERY, "cat", "the cat sat on the mat.", "--top-k", "1", *MODEL)
    head, row = done.stdout.splitlines()
    assert head.split() == ["RANK", "SCORE", "DOCUMENT", "TEXT"]
    best = max(SCORES[[3, 2]])
    assert float(row.split()[1]) == pytest.approx(best, abs=1e-4)
    raw = run("rerank", "--query", QUERY, "cat", "--activation", "raw", "--json", *MODEL)
    (found,) = json.loads(raw.stdout)["ranking"]
    assert found["score"] == pytest.approx(golden("reranker")["raw"][0, 3], abs=1e-5)


def test_a_multi_vector_model_ranks_by_maxsim(source, tmp_path):
    options = ("--on-long", "truncate", "--json", "--model", COLBERT)
    for query in (0, 4):
        expected = maxsim("colbert", query)
        found = json.loads(run("rerank", TEXTS[query], "--file", source, *options).stdout)
        assert (found["model"], found["kind"]) == ("test-colbert", "multi-vector")
        order = np.argsort(-expected, kind="stable").tolist()
        assert [row["index"] for row in found["ranking"]] == order
        assert [row["score"] for row in found["ranking"]] == pytest.approx(expected[order], 1e-5)
        with TesseraMultiVector(path=COLBERT, on_long="truncate") as model:
            assert model.score(TEXTS[query], TEXTS) == pytest.approx(expected, 1e-5)
    shown = json.loads(run("rerank", "cat", "dog", "--model", ARTIFACTS / "m3", "--json").stdout)
    assert shown["kind"] == "multi-vector"
    path = tmp_path / "texts.txt"
    path.write_text("cat\n\n" + "rain " * 90 + "\n")
    done = run("rerank", "cat", "--file", path, "--on-long", "error", "-m", COLBERT, code=1)
    assert "texts.txt, line 3: text 1 has" in done.stderr
    done = run("rerank", "cat " * 90, "--file", path, "--on-long", "error", "-m", COLBERT, code=1)
    assert "line" not in done.stderr


def test_a_class_for_rerankers_names_the_class_for_multi_vector_models():
    for place in (COLBERT, ARTIFACTS / "m3"):
        with pytest.raises(LoadError, match="not reranker: TesseraMultiVector scores and ranks"):
            TesseraReranker(path=place)
    with pytest.raises(LoadError, match="not reranker: TesseraMultiVector scores and ranks"):
        TesseraReranker("colbertv2.0")


def test_an_instruction():
    place = ("--model", ARTIFACTS / "answers-qwen3", "--json")
    rows = []
    for more in ((), ("--instruction", "Find the planet")):
        done = run("rerank", "Which planet is red?", "no", *place, *more, "--activation", "raw")
        rows += json.loads(done.stdout)["ranking"]
    stored = golden("answers-qwen3")
    expected = [stored["plain-600"][2], stored["told-600"][2]]  # the third document of the first
    assert [row["score"] for row in rows] == pytest.approx(expected, abs=1e-5)
    done = run("rerank", QUERY, "cat", "--instruction", "x", *MODEL, code=1)
    assert "instruction is given, but this model reads none" in done.stderr


def test_wrong_use(source):
    for arguments, message in (
        ((), "give QUERY"),
        ((QUERY,), "give DOCUMENTS or --file"),
        ((QUERY, "cat", "--file", source), "give DOCUMENTS or --file, one of them"),
        ((QUERY, "cat", "--activation", "loud"), "Invalid value for '--activation'"),
    ):
        assert message in run("rerank", *arguments, *MODEL, code=2).stderr
    done = run("rerank", QUERY, "cat", code=1)
    assert "no reranker model is installed: name a model folder with --model" in done.stderr
    assert ", or an id that `tessera models` lists; a multi-vector model reranks too" in done.stderr
    done = run("rerank", QUERY, "cat", "--model", ARTIFACTS / "prompts", code=2)
    assert "test-prompts is of kind dense, and a reranker or multi-vector model is" in done.stderr
    done = run("rerank", QUERY, "cat", "-m", COLBERT, "--activation", "raw", code=2)
    assert "--activation is not for multi-vector models" in done.stderr


def test_an_error_names_the_line(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("cat\n\n" + "rain " * 90 + "\n")
    done = run("rerank", "cat", "--file", path, "--on-long", "error", *MODEL, code=1)
    assert "texts.txt, line 3: document 1 has 94 tokens" in done.stderr


def test_commands_of_vectors_send_to_rerank(source, tmp_path):
    for arguments in (
        ("encode", "--text", "cat"),
        ("encode", source, "-o", tmp_path / "o.npy"),
        ("similarity", "cat", "dog"),
        ("rank", "cat", "dog"),
    ):
        done = run(*arguments, *MODEL, code=2)
        assert "test-reranker scores pairs of texts and makes no vectors: see tessera rerank" in (
            done.stderr
        )


def test_models_info_doctor_and_demo_show_it(tmp_path, monkeypatch):
    shutil.copytree(ARTIFACTS / "reranker", tmp_path / "cache" / "reranker")
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path / "cache"))
    (found,) = json.loads(run("models", "--kind", "reranker", "--installed", "--json").stdout)
    assert (found["id"], found["dimension"], found["max_length"]) == ("test-reranker", [1], [64])
    assert "reranker.truncation" in run("info", "test-reranker").stdout
    shown = json.loads(run("demo", "--json").stdout)["reranker"]
    assert (shown["model"], len(shown["ranking"])) == ("test-reranker", 5)
    assert "reranker, test-reranker: documents by relevance" in run("demo").stdout
    probes = [
        probe
        for model in json.loads(run("doctor", "--json").stdout)["models"]
        for probe in model["probes"]
        if probe["kind"] == "reranker"
    ]
    assert [probe["result"] for probe in probes] == ["works"]

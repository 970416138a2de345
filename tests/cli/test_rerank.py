"""`tessera rerank`, and the other commands before a reranker."""

import json

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, TEXTS, golden
from command import run

MODEL = ("--model", str(ARTIFACTS / "reranker"))
QUERY = TEXTS[0]
SCORES = golden("reranker")["default"][0]


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
    done = run("rerank", QUERY, "cat", "--model", ARTIFACTS / "prompts", code=1)
    assert "is of kind dense, not reranker" in done.stderr


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
    monkeypatch.setenv("TESSERA_CACHE", str(ARTIFACTS))
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

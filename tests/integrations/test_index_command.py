"""`tessera index` and `tessera search`: what they print, and how they end."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from command import run, run_json
from test_docs import blocks, run_console, run_python

pytestmark = pytest.mark.integrations

MODEL = ("--model", "tessera-static-mini")


@pytest.fixture
def notes(tmp_path, monkeypatch):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "bread.md").write_text("Fresh bread keeps three days.\nRye keeps a week.")
    rows = [{"body": "It rains.", "name": "Rain", "lang": "en", "year": 2020},
            {"body": "Es regnet.", "name": "Regen", "lang": "de", "year": 2021}]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return folder


FIELDS = ("--field", "name", "--field", "body", "--id-field", "name")


def test_index_and_search(notes):
    (notes / "photo.jpg").write_bytes(b"x")
    done = run("index", "notes", "--to", "c", *MODEL, *FIELDS)
    assert done.stdout == "3 documents in c: 3 new chunks, 1 file ignored\n"
    lines = run("search", "c", "how long does bread keep?", "--top-k", 2).stdout.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("1. 0.0")
    assert lines[0].endswith("  notes/bread.md  0-47")
    assert lines[1] == "   Fresh bread keeps three days. Rye keeps a week."
    report = run_json("index", "notes", "--to", "c", *FIELDS)
    assert {name: value for name, value in report.items() if value} == {
        "folder": "c", "documents": 3, "unchanged": 3, "ignored": 1
    }  # fmt: skip


def test_search_prints_json_and_filters(notes):
    run("index", notes, "--to", "c", *MODEL, *FIELDS)
    (found,) = run_json("search", "c", "rain", "--filter", "lang=de", "--filter", "year=2021")[
        "results"
    ]
    assert found["source"] == f"{notes / 'rows.jsonl'}#Regen"
    assert found["text"] == "Regen\nEs regnet."
    assert (
        found["fields"] == {"lang": "de", "year": 2021, "name": "Regen"}
        or "lang" in found["fields"]
    )
    both = run_json("search", "c", "rain", "--filter", "lang=de", "--filter", "lang=en")["results"]
    assert len(both) == 2
    assert (
        run_json("search", "c", "rain", "--filter", "lang=de", "--filter", "year=2020")["results"]
        == []
    )
    assert run("search", "c", "rain", "--filter", "lang=fr").stdout == ""
    done = run("search", "c", "rain", "--filter", "lang", code=2)
    assert "--filter takes KEY=VALUE" in done.stderr


def test_what_cannot_be_read_is_told_and_is_exit_code_1(notes):
    (notes / "latin.txt").write_bytes(b"caf\xe9")
    (notes / "binary.md").write_bytes(b"\0\1")
    done = run("index", notes, "--to", "c", *MODEL, *FIELDS, code=1)
    assert done.stdout == "3 documents in c: 3 new chunks\n"
    assert f"Error: {notes / 'latin.txt'} is not UTF-8" in done.stderr
    assert f"Error: {notes / 'binary.md'} is no text: it holds a zero byte" in done.stderr
    report = json.loads(run("index", notes, "--to", "c", *FIELDS, "--json", code=1).stdout)
    assert len(report["failed"]) == 2
    assert report["unchanged"] == 3


def test_documents_are_removed(notes):
    run("index", notes, "--to", "c", *MODEL, *FIELDS)
    assert (
        run("index", notes / "rows.jsonl", "--to", "c", "--remove").stdout
        == "2 documents removed\n"
    )
    assert run_json("index", notes, "--to", "c", "--remove") == {"removed": 1}
    assert run("search", "c", "bread").stdout == ""


def test_an_empty_folder_and_a_folder_without_a_collection(tmp_path):
    (tmp_path / "empty").mkdir()
    done = run("index", tmp_path / "empty", "--to", tmp_path / "c", *MODEL)
    assert done.stdout == "0 documents in c: 0 new chunks\n"
    assert run("search", tmp_path / "c", "bread").stdout == ""
    done = run("search", tmp_path / "empty", "bread", code=1)
    assert done.stderr.endswith("holds no collection: tessera index makes one\n")
    done = run("index", tmp_path / "gone", "--to", tmp_path / "c", code=1)
    assert done.stderr.endswith("gone is not there\n")


@pytest.mark.slow
def test_the_benchmark_prints_its_figures(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    rows = [
        {"_id": str(i), "title": f"Title {i}", "text": f"Words of {i}. Bread."} for i in range(20)
    ]
    rows[7] |= {"title": "Violins", "text": "A violin needs rosin."}
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (data / "corpus.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (data / "queries.jsonl").write_text(
        json.dumps({"_id": "q", "text": "rosin for violins"}) + "\n"
    )
    (data / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\t7\t1\n")
    program = Path(__file__).parents[2] / "benchmarks" / "index.py"
    command = [sys.executable, program, "--data", data, *MODEL]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for part in (
        "index: 20 documents in",
        "20 chunks",
        "nDCG@10 1.0000",
        "exact, whole documents: dense",
    ):
        assert part in out


@pytest.mark.parametrize("text", blocks("python", "index"))
def test_python_in_the_docs(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_python(text)


@pytest.mark.parametrize("text", blocks("console", "index"))
def test_console_in_the_docs(text, tmp_path):
    run_console(text, tmp_path)

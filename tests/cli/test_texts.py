"""What the command reads and writes: forms of files, ids, blank lines, stdout."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest
from artifact_tools import ARTIFACTS
from command import run

from tessera_onnx import FileError, TesseraDense
from tessera_onnx.cli import texts as cli_texts

MODELS = {
    "dense": ("-m", str(ARTIFACTS / "prompts")),
    "multi-vector": ("-m", str(ARTIFACTS / "colbert")),
    "sparse": ("-m", str(ARTIFACTS / "splade")),
}
SMALL = MODELS["dense"]
TEXTS = ["A cat, sat; on a mat", 'the "dog"', "Grüße, 你好", "rain"]
IDS = [7, 8, 9, 10]
QUOTED = ['"A cat, sat; on a mat"', '"the ""dog"""', '"Grüße, 你好"', "rain"]


def table(separator, *, begin="", end="\n"):
    """A row a text between two other columns; one row is blank."""
    rows = [f"{i}{separator}{text}{separator}0" for i, text in zip(IDS, QUOTED, strict=True)]
    head = f"id{separator} body {separator}other"
    return begin + "".join(line + end for line in [head, *rows[:2], "", *rows[2:]])


def objects():
    pairs = zip(IDS, TEXTS, strict=True)
    lines = [json.dumps({"id": i, "body": text}, ensure_ascii=False) for i, text in pairs]
    return "\n".join([*lines[:2], "", *lines[2:]])


FILES = {
    "a.txt": "\n".join([*TEXTS[:2], " \t", *TEXTS[2:]]),
    "a.md": "\n".join([*TEXTS[:2], "", *TEXTS[2:]]) + "\n",
    "a.jsonl": objects(),
    "comma.csv": table(","),
    "semicolon.csv": table(";", end="\r\n"),
    "tab.csv": table("\t", begin="\ufeff"),
}


@pytest.fixture(params=[*FILES, *(f"{name}.gz" for name in FILES)])
def source(request, tmp_path):
    name = request.param
    content = FILES[name.removesuffix(".gz")].encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return tmp_path / name


@pytest.mark.slow
def test_every_form_holds_the_same_texts(source, tmp_path):
    with TesseraDense(path=ARTIFACTS / "prompts") as model:
        expected = model.encode_batch(TEXTS)
    out = tmp_path / "out.npy"
    done = run("encode", source, "-o", out, "--field", "body", *SMALL)
    np.testing.assert_array_equal(np.load(out), expected)
    assert done.stderr == f"Warning: {source}: 1 blank line is left out\n"
    ranked = run("rank", "a", "--file", source, "--field", "body", "--json", *SMALL)
    read = sorted((item["index"], item["text"]) for item in json.loads(ranked.stdout)["ranking"])
    assert read == list(enumerate(TEXTS))
    assert ranked.stderr == done.stderr
    report = run("encode", source, "-o", out, "--field", "body", "--json", *SMALL).stdout
    assert (json.loads(report)["texts"], json.loads(report)["blank_lines"]) == (4, 1)


def test_a_text_is_named_by_the_line_where_it_stands(source):
    texts = cli_texts.Texts(str(source), "body")
    found = list(texts)
    assert found == list(texts) == TEXTS  # it can be read again
    begin = 2 if ".csv" in source.name else 1
    assert [texts.line(i) for i in range(4)] == [begin, begin + 1, begin + 3, begin + 4]
    long = "cat " * 500
    content = cli_texts.gzip.open(source).read() if source.suffix == ".gz" else source.read_bytes()
    changed = content.replace(b"rain", long.encode())
    source.write_bytes(gzip.compress(changed) if source.suffix == ".gz" else changed)
    args = ("rank", "a", "--file", source, "--field", "body", "--on-long", "error", *SMALL)
    assert run(*args, code=1).stderr.startswith(f"Error: {source}, line {begin + 4}: text 3 has ")


def test_a_row_of_several_lines_is_named_by_its_first(tmp_path):
    source = tmp_path / "a.csv"
    source.write_text('text,id\n"one\ntwo",1\n\n"three\n\nfour",2\n')
    texts = cli_texts.Texts(str(source), "text", "id")
    assert list(texts) == ["one\ntwo", "three\n\nfour"]
    assert (texts.ids, texts.blank, texts.line(0), texts.line(1)) == (["1", "2"], 1, 2, 5)


def test_an_empty_text_that_is_written_out_is_a_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('""\n\n{"text": ""}\n')
    (tmp_path / "a.csv").write_text('id,text\n1,\n2,""\n')
    for name in ("a.jsonl", "a.csv"):
        assert list(cli_texts.Texts(str(tmp_path / name), "text")) == ["", ""]


# ---------------------------------------------------------------- ids


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", ["a.jsonl", "comma.csv"])
def test_ids_go_into_every_file_that_has_room(kind, name, tmp_path):
    source = tmp_path / name
    source.write_text(FILES[name])
    ids = IDS if name == "a.jsonl" else [str(i) for i in IDS]
    common = ("--field", "body", "--id-field", "id", *MODELS[kind])
    run("encode", source, "-o", tmp_path / "o.npz", *common)
    with np.load(tmp_path / "o.npz", allow_pickle=False) as stored:
        assert stored["ids"].tolist() == ids
    run("encode", source, "-o", tmp_path / "o.jsonl", *common)
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ids
    run("encode", source, "-o", tmp_path / "without.jsonl", *common[:2], *MODELS[kind])
    others = [json.loads(line) for line in (tmp_path / "without.jsonl").read_text().splitlines()]
    assert others == [{k: v for k, v in line.items() if k != "id"} for line in lines]
    ranked = json.loads(run("rank", "a", "--file", source, "--json", *common).stdout)["ranking"]
    assert [item["id"] for item in ranked] == [ids[item["index"]] for item in ranked]
    shown = run("rank", "a", "--file", source, *common).stdout.splitlines()
    assert shown[0].split() == ["RANK", "SCORE", "LINE", "ID", "TEXT"]
    assert [row.split()[3] for row in shown[1:]] == [str(item["id"]) for item in ranked]


def test_ids_of_two_sorts_are_strings(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"id": "x1", "text": "a"}\n{"id": 18446744073709551617, "text": "b"}\n'
    )
    run("encode", tmp_path / "a.jsonl", "-o", tmp_path / "o.npz", "--id-field", "id", *SMALL)
    with np.load(tmp_path / "o.npz", allow_pickle=False) as stored:
        assert stored["ids"].tolist() == ["x1", "18446744073709551617"]


def test_queries_of_a_vision_model_have_ids_too(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"n": 3, "text": "a"}\n\n{"n": 4, "text": "b"}\n')
    options = ("-m", ARTIFACTS / "colpali", "--role", "query", "--id-field", "n")
    done = run("encode", tmp_path / "a.jsonl", "-o", "-", *options)
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [3, 4]
    assert "1 blank line is left out" in done.stderr


# ---------------------------------------------------------------- stdout


@pytest.mark.parametrize("kind", MODELS)
def test_the_output_may_be_stdout(kind, tmp_path):
    source, out = tmp_path / "a.txt", tmp_path / "o.jsonl"
    source.write_text("\n".join(TEXTS))
    run("encode", source, "-o", out, *MODELS[kind])
    done = run("encode", source, "-o", "-", *MODELS[kind])
    assert done.stdout == out.read_text()
    assert done.stderr.startswith("4 texts in stdout: ")
    done = run("encode", "-", "-o", "-", "--json", *MODELS[kind], stdin="\n".join(TEXTS))
    assert done.stdout == out.read_text()
    report = json.loads(done.stderr)
    assert (report["texts"], report["output"]) == (4, "-")


def test_a_forecast_may_go_to_stdout_and_come_out_of_gz(tmp_path):
    rows = "".join(f"2024-01-{i:02},{i % 7}\n" for i in range(1, 29))
    (tmp_path / "a.csv").write_text("day,sold\n" + rows)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    common = ("--horizon", 3, "-m", ARTIFACTS / "bolt")
    run("forecast", tmp_path / "a.csv", "-o", tmp_path / "o.csv", *common)
    for name in ("a.csv", "a.csv.gz"):
        done = run("forecast", tmp_path / name, "-o", "-", *common)
        assert done.stdout == (tmp_path / "o.csv").read_text()
        assert done.stderr == "1 series, 3 steps each, in stdout\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_a_stdout_that_is_full_is_an_error_and_one_that_is_left_is_none(tmp_path):
    (tmp_path / "a.txt").write_text("a\n" * 3000)
    program = "from tessera_onnx.cli.main import main; main()"
    command = [sys.executable, "-c", program, "encode", tmp_path / "a.txt", "-o", "-", *SMALL]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(command, stdout=full, stderr=-1, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: stdout cannot be written: No space left on device\n")
    with subprocess.Popen(command, stdout=-1, stderr=-1) as process:
        process.stdout.readline()
        process.stdout.close()
        stderr = process.stderr.read()
    assert b"Traceback" not in stderr
    assert b"Error" not in stderr


# ---------------------------------------------------------------- refused

SECRET = "zqxjkv"
BAD = {
    "no column": (".csv", f"id,words\n1,{SECRET}\n", (), "line 1: no column is named 'text'"),
    "no header": (".csv", f"1,{SECRET}\n2,b\n", (), "line 1: no column is named 'text'"),
    "no ids": (".csv", "text\na\n", ("--id-field", "n"), "line 1: no column is named 'n'"),
    "twice": (".csv", "text,text\na,b\n", (), "line 1: a column name comes twice"),
    "short": (".csv", f"id,text\n1,a\n\n{SECRET}\n", (), "line 4: 1 cells, the first line has 2"),
    "long": (".csv", f"text,id\n{SECRET}, b,3\n", (), "line 2: 3 cells, the first line has 2"),
    "open": (".csv", f'text,id\na,1\n"{SECRET}', (), "line 3: unexpected end of data"),
    "bytes": (".csv", f"text\na\n{SECRET}\udcff\n", (), "line 3: not UTF-8 text"),
    "an id": (
        ".jsonl",
        '{"text": "a", "n": 1.5}',
        ("--id-field", "n"),
        "line 1: no string or whole",
    ),
    "true": (".jsonl", '{"text": "a", "n": true}', ("--id-field", "n"), "line 1: no string or wh"),
    "a string": (".jsonl", '\n"a"', ("--id-field", "n"), "line 2: no string or whole number under"),
    "empty": (".csv", "n,text\n1,a\n ,b\n", ("--id-field", "n"), "line 3: no id under 'n'"),
    "no place": (".txt", "a", ("--id-field", "n"), "has no ids: give a .jsonl or .csv file"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_wrong_with_a_file_names_the_line(bad, tmp_path):
    suffix, content, options, said = BAD[bad]
    source = tmp_path / f"in{suffix}"
    source.write_bytes(content.encode("utf-8", "surrogateescape"))
    for args in (("encode", source, "-o", tmp_path / "o.npz"), ("rank", "a", "--file", source)):
        stderr = run(*args, *options, *SMALL, code=1).stderr
        assert stderr.startswith(f"Error: {source}")
        assert said in stderr
        assert SECRET not in stderr
    assert not (tmp_path / "o.npz").exists()


def test_no_gzip_file_and_half_of_one(tmp_path):
    whole = gzip.compress(b"a text\n" * 9999)
    for name, content in {
        "a.txt.gz": b"a text\n",
        "b.txt.gz": whole[:-20],
        "c.txt.gz": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
    for name in ("a.txt.gz", "b.txt.gz"):
        with pytest.raises(FileError, match="cannot be read: it is no whole gzip file"):
            list(cli_texts.Texts(str(tmp_path / name), "text"))
    assert list(cli_texts.Texts(str(tmp_path / "c.txt.gz"), "text")) == []


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("encode", "{a}", "-o", "{o}.npy", "--id-field", "id"), 1, "a .npy file holds no ids"),
        (("encode", "--text", "a", "--id-field", "id"), 2, "--id-field is for INPUT"),
        (("rank", "a", "b", "--id-field", "id"), 2, "--id-field is for --file"),
        (("encode", "{a}.pdf", "-o", "-", *SMALL), 1, "the input must be a .txt, .md, .jsonl or"),
    ],
)
def test_ids_and_files_that_have_no_place(args, code, said, tmp_path):
    (tmp_path / "a.jsonl").write_text(FILES["a.jsonl"])
    names = {"a": tmp_path / "a.jsonl", "o": tmp_path / "o"}
    assert said in run(*(arg.format(**names) for arg in args), code=code).stderr


def test_the_end_of_a_name_may_be_in_capitals(tmp_path):
    (tmp_path / "A.TXT").write_text("a loaf\nrain\n")
    (tmp_path / "B.CSV.GZ").write_bytes(gzip.compress(b"text\na loaf\nrain\n"))
    for name in ("A.TXT", "B.CSV.GZ"):
        assert list(cli_texts.Texts(str(tmp_path / name), "text")) == ["a loaf", "rain"]


def test_a_files_name_that_is_read_as_a_text_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text("a loaf\n")
    (tmp_path / "notes").write_text("a loaf\n")
    told = run("rank", *SMALL, "bread", "corpus.txt", "a loaf").stderr
    assert told == (
        "Warning: corpus.txt is a file, but its name was read as a text: --file reads its lines\n"
    )
    told = run("similarity", *SMALL, "bread", "corpus.txt").stderr
    assert told == "Warning: corpus.txt is a file, but its name was read as a text\n"
    for texts in (["notes", "a loaf"], ["other.txt", "rain"], ["a\tb", ""]):
        assert run("rank", *SMALL, "bread", *texts).stderr == ""
    assert run("rank", *SMALL, "bread", "--file", "corpus.txt").stderr == ""

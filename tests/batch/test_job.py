"""Jobs over files: every format, bad files and rows, and going on where a job was."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from artifact_tools import ARTIFACTS
from command import run, run_json

from tessera_onnx import TesseraDense
from tessera_onnx.batch.encoder import Encoder
from tessera_onnx.batch.job import Job, Progress
from tessera_onnx.batch.manifest import Counts
from tessera_onnx.errors import ConfigError, FileError
from tessera_onnx.kinds import model_facts

STATIC = "tessera-static-mini"
ADDED = ["embedding", "tokens", "truncated", "error"]


@pytest.fixture(scope="module")
def exact():
    with TesseraDense(STATIC, on_long="truncate") as model:
        yield model.encode_document


def job(inputs, output, encoder=None, **options):
    return Job(
        [str(each) for each in inputs], str(output), encoder or Encoder(STATIC, "text"), **options
    ).run()


def test_every_format_has_the_same_rows_and_vectors(tmp_path, write, sentences, exact):
    texts = sentences(700)
    table = pa.table({"n": range(700), "text": texts, "deep": [{"a": [i]} for i in range(700)]})
    folder = tmp_path / "in"
    write(folder / "a.parquet", table, row_group_size=300)
    write(folder / "b" / "c.arrow", table, max_chunksize=257)
    write(folder / "d.jsonl", table)
    write(folder / "e.jsonl.gz", table)
    with pa.ipc.new_stream(folder / "f.arrow", table.schema) as writer:
        writer.write_table(table)
    write(folder / "g.parquet", table.slice(0, 0))
    (folder / "_hidden.parquet").write_text("no Parquet")
    (folder / "notes.txt").write_text("left out")
    found = job([folder], tmp_path / "out")
    assert found.ignored == 1
    assert found.progress.counts.rows == 3500
    assert found.failed_files == []
    vectors = exact(texts)
    for name in (
        "a.parquet",
        "b/c.arrow.parquet",
        "d.jsonl.parquet",
        "e.jsonl.gz.parquet",
        "f.arrow.parquet",
    ):
        made = pq.read_table(tmp_path / "out" / name)
        assert made.select(table.column_names).to_pylist() == table.to_pylist()
        assert made.column_names == [*table.column_names, *ADDED]
        np.testing.assert_allclose(np.array(made["embedding"].to_pylist()), vectors, atol=1e-6)
    empty = pq.read_table(tmp_path / "out" / "g.parquet")
    assert (len(empty), empty.schema) == (0, made.schema)
    assert len(pq.read_table(tmp_path / "out")) == 3500  # _tessera is no part of the data
    assert list((tmp_path / "out" / "_tessera").rglob("*.arrow")) == []


def test_globs_and_several_inputs(tmp_path, write, sentences):
    for name in ("x/a1.parquet", "x/a2.parquet", "x/y/a3.parquet", "x/b.parquet"):
        write(tmp_path / name, {"text": sentences(3)})
    job([tmp_path / "x" / "a[12].parquet"], tmp_path / "one")
    assert [p.name for p in sorted((tmp_path / "one").glob("*.parquet"))] == [
        "a1.parquet",
        "a2.parquet",
    ]
    job([tmp_path / "x" / "**" / "a?.parquet"], tmp_path / "two")
    found = sorted(
        str(p.relative_to(tmp_path / "two")) for p in (tmp_path / "two").rglob("*.parquet")
    )
    assert found == ["a1.parquet", "a2.parquet", "y/a3.parquet"]
    job([tmp_path / "x" / "b.parquet", tmp_path / "x" / "y"], tmp_path / "three")
    assert len(pq.read_table(tmp_path / "three")) == 6
    write(tmp_path / "z" / "b.parquet", {"text": ["a"]})
    with pytest.raises(ConfigError, match="would both become b.parquet"):
        job([tmp_path / "x" / "b.parquet", tmp_path / "z"], tmp_path / "four")
    with pytest.raises(FileError, match="nothing.parquet is not there"):
        job([tmp_path / "nothing.parquet"], tmp_path / "four")
    with pytest.raises(FileError, match="has no file of a known format"):
        job([tmp_path / "x" / "q*"], tmp_path / "four")
    with pytest.raises(ConfigError, match="the output lies in a folder of the input"):
        job([tmp_path / "x"], tmp_path / "x" / "out")
    with pytest.raises(ConfigError, match="ending that is not known"):
        job([__file__], tmp_path / "four")
    with pytest.raises(ConfigError, match="URLs of 'nowhere' cannot be opened"):
        job(["nowhere://a/b.parquet"], tmp_path / "four")
    assert not (tmp_path / "four").exists()


def test_a_glob_whose_folder_holds_the_output_never_reads_it(tmp_path, write):
    write(tmp_path / "a.parquet", {"text": ["a"]})
    found = job([tmp_path / "**" / "*.parquet"], tmp_path / "out")
    assert found.progress.n_files == 1
    write(tmp_path / "b.parquet", {"text": ["b"]})
    found = job([tmp_path / "**" / "*.parquet"], tmp_path / "out")
    assert (found.progress.n_files, found.progress.fresh.rows) == (2, 1)


@pytest.mark.linux
def test_places_that_hold_no_rows(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(FileError, match="pipe.jsonl is neither a file nor a folder"):
        job([tmp_path / "pipe.jsonl"], tmp_path / "out")
    for place in ("", "s3://", "mock://"):
        for inputs, output in (([place], tmp_path / "out"), ([__file__[:-2] + "jsonl"], place)):
            with pytest.raises((ConfigError, FileError)):
                job(inputs, output)
    with pytest.raises(FileError, match=r"^hdfs://a/b cannot be opened: [^\n]+$"):
        job([tmp_path], "hdfs://a/b")
    (tmp_path / "named").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "named") + b"/\xff.jsonl")).write_text("{}")
    with pytest.raises(FileError, match="named holds a file whose name is not UTF-8"):
        job([tmp_path / "named"], tmp_path / "out")
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')
    with pytest.raises(FileError, match="named holds a file whose name is not UTF-8"):
        job([tmp_path / "a.jsonl"], tmp_path / "named")


def test_a_system_of_fsspec(tmp_path, sentences):
    import fsspec

    with fsspec.open("memory://rows/a.jsonl", "w") as stream:
        stream.writelines(json.dumps({"text": text}) + "\n" for text in sentences(5))
    found = job(["memory://rows/a.jsonl"], "memory://vectors")
    assert found.progress.counts.rows == 5
    with fsspec.open("memory://vectors/a.jsonl.parquet", "rb") as stream:
        assert len(pq.read_table(stream)) == 5
    assert job(["memory://rows/a.jsonl"], "memory://vectors").progress.fresh.rows == 0


def test_cells_that_are_no_texts_are_errors_with_their_row(tmp_path):
    lines = [b'{"id": "a", "text": "bread"}', b'{"id": "b", "text": 5}', b"", b'{"id": "c"}',
             b'{"id": "d", "text": "\\ud800"}', b'{"id": "e", "text": "\xff"}',
             b'{"id": "f", "text": ["x"]}']  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    found = job([tmp_path / "a.jsonl"], tmp_path / "out", id_column="id")
    assert [(row["row"], row["id"], row["error"]) for row in found.failed_rows] == [
        (1, "b", "the cell is a number and no text"),
        (2, "c", "the cell is null"),
        (3, "d", "the text is not UTF-8: invalid continuation byte at byte 0"),
        (4, "e", "the text is not UTF-8: invalid start byte at byte 0"),
        (5, "f", "the cell is a list and no text"),
    ]
    made = pq.read_table(tmp_path / "out" / "a.jsonl.parquet")
    assert made["embedding"].null_count == 5
    assert made["embedding"][0].is_valid


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no lines: leave it out"),
        ("\n \n", "has no lines: leave it out"),
        ('{"text": 3}\n{"text": [1]}\n{"text": 4}', "column 'text' has values of several types"),
        ('{"text": "a", "x": 1}\n{"text": "b", "x": "y"}', "column 'x' has values of several"),
        ('{"text": "a", "x": 1' + "0" * 30 + "}", "a whole number beyond 64 bits, up to line 1"),
        ('{"text": "a", "x": ' + "[" * 499 + "]" * 499 + "}", "a column cannot be written"),
        (
            '{"text": "a", "x": ' + "[" * 500 + "]" * 500 + "}",
            "line 1: lists and objects are nested",
        ),
        ('{"text": "a", "x": ' + '{"y": [' * 4000 + "]}" * 4000 + "}", "more than 500 deep"),
        ('{"text": "a", "x": ' + "[" * 99999 + "]" * 99999 + "}", "line 1: lists and objects are"),
    ],
)
def test_lines_that_make_no_column(tmp_path, content, said):
    (tmp_path / "a.jsonl").write_text(content)
    found = job([tmp_path / "a.jsonl"], tmp_path / "out")
    (message,) = found.failed_files
    assert message.startswith(f"{tmp_path}/a.jsonl")
    assert said in message


def test_faults_stay_with_their_block(tmp_path):
    """A batch that no longer fits into a block was read before the block is handed out."""
    cells = [i if i % 5 == 0 else f"bread {i}" for i in range(600)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": cell}) + "\n" for cell in cells))
    job([tmp_path / "a.jsonl"], tmp_path / "out", block_rows=400)
    errors = pq.read_table(tmp_path / "out" / "a.jsonl.parquet")["error"].to_pylist()
    assert [bool(error) for error in errors] == [i % 5 == 0 for i in range(600)]


def test_files_that_cannot_be_read_are_named_and_the_others_are_done(tmp_path, write, sentences):
    folder = tmp_path / "in"
    good = {"text": sentences(20)}
    write(folder / "a.parquet", good)
    (folder / "b.parquet").write_bytes(b"PAR1 and no more")
    (folder / "c.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (folder / "d.jsonl").write_text('{"text": "a", "n": 1}\n{"text": "b", "n": "x"}\n')
    (folder / "e.jsonl").write_text('{"text": "a"}\n[1]\n')
    write(folder / "f.parquet", {"body": ["a"]})
    write(folder / "g.parquet", {"text": [1, 2]})
    (folder / "h.arrow").write_bytes(b"ARROW1\0\0" + b"\0" * 100)
    write(folder / "i.parquet", {"text": ["a"], "tokens": [3]})
    write(folder / "z.parquet", good)
    found = job([folder], tmp_path / "out")
    said = dict(
        message.removeprefix(f"{folder}/").split(": ", 1) for message in found.failed_files[:4]
    )
    assert "the footer cannot be read" in said["b.parquet"]
    assert said["c.jsonl"].startswith("line 2: ")
    assert said["d.jsonl"].startswith("column 'n' has values of several types")
    assert said["e.jsonl"] == "line 2: it is no JSON object"
    f, g, h, i = found.failed_files[4:]
    assert "f.parquet has no column 'text'; its columns are: body" in f
    assert "g.parquet has the type int64, and the model reads strings" in g
    assert "h.arrow: the header cannot be read" in h
    assert "i.parquet has a column 'tokens' already" in i
    assert found.progress.n_done == 2
    assert len(pq.read_table(tmp_path / "out" / "z.parquet")) == 20
    assert "x" not in "".join(found.failed_files).split("'n'")[1].split(":")[0]


def test_a_damaged_row_group_in_the_middle_is_named_and_can_be_put_right(
    tmp_path, write, sentences
):
    texts = sentences(1000)
    path = write(
        tmp_path / "in" / "a.parquet", {"text": texts}, row_group_size=250, compression="zstd"
    )
    whole = path.read_bytes()
    start = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    path.write_bytes(whole[: start + 60] + b"\xff" * 200 + whole[start + 260 :])
    found = job([tmp_path / "in"], tmp_path / "out", block_rows=250)
    (message,) = found.failed_files
    assert message.startswith(f"{path}: row group 2, at or after row 500: ")
    assert found.progress.fresh.rows == 250  # of whole blocks: the next was not read to its end
    assert not (tmp_path / "out" / "a.parquet").exists()
    again = job([tmp_path / "in"], tmp_path / "out", block_rows=250)
    assert again.progress.fresh.rows == 0  # what was done stays done
    path.write_bytes(whole)
    assert job([tmp_path / "in"], tmp_path / "out", block_rows=250).failed_files == []
    assert pq.read_table(tmp_path / "out" / "a.parquet")["text"].to_pylist() == texts


def test_columns_that_change_between_files(tmp_path, write):
    write(tmp_path / "in" / "a.parquet", {"text": ["a"], "n": [1]})
    write(tmp_path / "in" / "b.parquet", {"m": ["x"], "text": pa.array(["b"], pa.large_string())})
    table = pa.table({"text": pa.array(["c", "d", "c"]).dictionary_encode(), "n": ["1", "2", "3"]})
    write(tmp_path / "in" / "c.arrow", table)
    job([tmp_path / "in"], tmp_path / "out")
    read = {
        name: pq.read_table(tmp_path / "out" / name)
        for name in ("a.parquet", "b.parquet", "c.arrow.parquet")
    }
    assert [each.column_names[:2] for each in read.values()] == [
        ["text", "n"],
        ["m", "text"],
        ["text", "n"],
    ]
    assert read["c.arrow.parquet"]["text"].to_pylist() == ["c", "d", "c"]


def test_kept_columns_ids_and_duplicates(tmp_path, write):
    write(tmp_path / "a.parquet", {"x": [1, 2], "id": ["k", "k"], "text": ["a", None]})
    found = job([tmp_path / "a.parquet"], tmp_path / "out", columns=["x"], id_column="id")
    made = pq.read_table(tmp_path / "out" / "a.parquet")
    assert made.column_names == ["id", "x", "text", *ADDED]
    assert made["id"].to_pylist() == ["k", "k"]
    assert found.failed_rows == [
        {
            "file": str(tmp_path / "a.parquet"),
            "row_group": 0,
            "row": 1,
            "id": "k",
            "error": "the cell is null",
        }
    ]
    found = job([tmp_path / "a.parquet"], tmp_path / "out2", id_column="key")
    assert "has no column 'key'" in found.failed_files[0]


def test_a_type_that_parquet_does_not_hold_is_said_before_the_work(tmp_path, write):
    union = pa.UnionArray.from_dense(
        pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1])]
    )
    write(tmp_path / "a.arrow", pa.table({"text": ["a"], "u": union}))
    found = job([tmp_path / "a.arrow"], tmp_path / "out")
    assert "a column cannot be written: " in found.failed_files[0]
    job([tmp_path / "a.arrow"], tmp_path / "out2", columns=["text"])
    assert len(pq.read_table(tmp_path / "out2")) == 1


@pytest.fixture
def done(tmp_path, write, sentences):
    path = write(tmp_path / "in" / "a.parquet", {"text": sentences(50), "other": sentences(50, 50)})
    job([tmp_path / "in"], tmp_path / "out")
    return path


def test_a_job_that_is_done_does_nothing_again(tmp_path, done):
    before = (tmp_path / "out" / "a.parquet").stat()
    found = job([tmp_path / "in"], tmp_path / "out")
    assert (found.progress.fresh.rows, found.progress.counts.rows) == (0, 50)
    after = (tmp_path / "out" / "a.parquet").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_new_files_are_taken_and_a_lost_output_is_made_anew(tmp_path, done, write, sentences):
    write(tmp_path / "in" / "b.parquet", {"text": sentences(5)})
    assert job([tmp_path / "in"], tmp_path / "out").progress.fresh.rows == 5
    (tmp_path / "out" / "a.parquet").unlink()
    assert job([tmp_path / "in"], tmp_path / "out").progress.fresh.rows == 50


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"column": "other"}, "another column"),
        ({"output_dtype": "int8"}, "another output_dtype"),
        ({"prompt": "query: "}, "another prompt"),
        ({"model": "all-minilm-l6-v2"}, "another model"),
    ],
)
def test_another_job_is_refused(tmp_path, done, options, said):
    given = {"model": STATIC, "column": "text"} | options
    with pytest.raises(
        ConfigError, match=rf"is the output of a job with {said} .*: choose another"
    ):
        job([tmp_path / "in"], tmp_path / "out", Encoder(**given))


def test_other_files_of_the_model_are_another_model(tmp_path, done, monkeypatch):
    facts = model_facts(Encoder(STATIC, "text").opened()[0])
    monkeypatch.setattr(
        "tessera_onnx.batch.job.model_facts", lambda *_: facts | {"model sha256": "0"}
    )
    with pytest.raises(ConfigError, match="another model sha256"):
        job([tmp_path / "in"], tmp_path / "out")


def test_the_hash_of_a_model_follows_its_files(tmp_path):
    from artifact_tools import copy, replace

    folder = copy("static", tmp_path / "a")
    before = model_facts(Encoder(None, "text", path=folder).opened()[0])
    assert before == model_facts(Encoder(None, "text", path=folder).opened()[0])
    same = copy("static", tmp_path / "b")
    assert before == model_facts(Encoder(None, "text", path=same).opened()[0])
    toml = (folder / "model.toml").read_text()
    old = next(line for line in toml.splitlines() if line.startswith("max_length"))
    other = copy("static", tmp_path / "c", replace((old, "max_length = 7")))
    assert before != model_facts(Encoder(None, "text", path=other).opened()[0])


def test_a_changed_or_lost_input_or_output_is_refused(tmp_path, done, write, sentences):
    whole = done.read_bytes()
    write(done, {"text": sentences(50, 1), "other": sentences(50)})
    with pytest.raises(ConfigError, match=r"a.parquet has changed since this job read it: put"):
        job([tmp_path / "in"], tmp_path / "out")
    done.write_bytes(whole)
    with pytest.raises(
        ConfigError, match="has changed"
    ):  # its time tells, though its bytes are back
        job([tmp_path / "in"], tmp_path / "out")
    done.rename(tmp_path / "in" / "b.parquet")
    with pytest.raises(ConfigError, match=r"input of a, .* is no longer there"):
        job([tmp_path / "in"], tmp_path / "out")


def test_an_output_that_somebody_changed_is_not_written_over(tmp_path, done):
    path = tmp_path / "out" / "a.parquet"
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(ConfigError, match="is not as this job wrote it: move it away"):
        job([tmp_path / "in"], tmp_path / "out")
    assert path.read_bytes().endswith(b"!")


def test_folders_of_others_and_damaged_states_are_refused(tmp_path, done):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.parquet").write_text("")
    with pytest.raises(ConfigError, match="holds files that no job wrote"):
        job([tmp_path / "in"], tmp_path / "full")
    for content, match in (("{", "is damaged"), ('{"format": 9}', "another version")):
        (tmp_path / "out" / "_tessera" / "manifest.json").write_text(content)
        with pytest.raises(FileError, match=match):
            job([tmp_path / "in"], tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", '{"format": 1, "job": 3}'),
        *(
            ("fragments/a.parquet.json", {"done": done})
            for done in (3, {}, {"zz": 1}, dict.fromkeys(("rows", "errors", "tokens"), 1),
                         dict.fromkeys(("rows", "errors", "tokens", "truncated"), "x"))
        ),
    ],
)  # fmt: skip
def test_a_state_of_another_form_is_damaged(tmp_path, write, name, content):
    write(tmp_path / "a.parquet", {"text": ["a"]})
    job([tmp_path / "a.parquet"], tmp_path / "out")
    path = tmp_path / "out" / "_tessera" / name
    text = (
        content
        if isinstance(content, str)
        else json.dumps({**json.loads(path.read_text()), **content})
    )
    path.write_text(text)
    with pytest.raises(FileError, match=f"{name} is damaged: choose another --output"):
        job([tmp_path / "a.parquet"], tmp_path / "out")


def test_a_job_ends_where_too_many_rows_fail_and_goes_on_with_more(tmp_path, write):
    texts = ["a" if i % 2 else None for i in range(100)]
    write(tmp_path / "a.parquet", {"text": texts})
    found = job([tmp_path / "a.parquet"], tmp_path / "out", block_rows=10, max_errors=12)
    assert found.too_many_errors
    assert (found.progress.counts.errors, found.progress.counts.rows) == (15, 30)
    found = job([tmp_path / "a.parquet"], tmp_path / "out", block_rows=10, max_errors=50)
    assert (found.too_many_errors, found.progress.counts.errors, found.progress.fresh.rows) == (
        False,
        50,
        70,
    )


def test_a_cell_of_many_megabytes(tmp_path, write):
    write(tmp_path / "a.parquet", {"text": ["a", "b" * (200 << 20), "c"]})
    found = job([tmp_path / "a.parquet"], tmp_path / "out")
    (row,) = found.failed_rows
    assert (row["row"], "209,715,200 characters" in row["error"]) == (1, True)
    assert len(pq.read_table(tmp_path / "out" / "a.parquet")["text"][1].as_py()) == 200 << 20


def test_the_command(tmp_path, write, sentences):
    write(tmp_path / "a.parquet", {"id": [7, 8], "text": ["bread", None]})
    command = ("batch", tmp_path / "a.parquet", "--output", tmp_path / "out", "--model", STATIC)
    made = run(*command, "--id-column", "id")
    assert (
        made.stdout == f"2 rows of 1 files in {tmp_path / 'out'}: 1 errors, 0 truncated, 1 tokens\n"
    )
    assert f"{tmp_path / 'a.parquet'}: row 1 (row group 0, id 8): the cell is null" in made.stderr
    report = run_json(*command, "--id-column", "id")
    assert (report["rows"], report["errors"], report["files_done"]) == (2, 1, 1)
    over = run(*command[:3], tmp_path / "out2", *command[4:], "--max-errors", 0, code=1)
    assert "Error: 1 rows failed, more than --max-errors" in over.stderr
    (tmp_path / "b.parquet").write_text("")
    bad = run(
        "batch", tmp_path / "b.parquet", *command[2:3], tmp_path / "out3", "--model", STATIC, code=1
    )
    assert "Error: " in bad.stderr
    assert "b.parquet: the footer cannot be read" in bad.stderr
    assert "another column" in run(*command, "--column", "id", code=1).stderr
    gz = gzip.compress(b"")
    (tmp_path / "c.jsonl.gz").write_bytes(gz)
    empty = run(
        "batch",
        tmp_path / "c.jsonl.gz",
        *command[2:3],
        tmp_path / "out4",
        "--model",
        STATIC,
        code=1,
    )
    assert "has no lines: leave it out" in empty.stderr


def test_the_time_that_is_left_is_estimated_by_tokens():
    """Three quarters of the bytes are left: three times the tokens, at this process's speed."""
    done = Counts(rows=100, tokens=1000)
    progress = Progress(
        counts=done, fresh=Counts(rows=50, tokens=500), bytes_done=25.0, n_bytes=100, seconds=10.0
    )
    assert progress.left() == pytest.approx(3 * 1000 / (500 / 10.0))
    assert Progress(n_bytes=100).left() is None


def test_progress_and_kinds_on_the_command_line(tmp_path, write, sentences):
    write(tmp_path / "a.parquet", {"text": sentences(30)})
    command = ("batch", tmp_path / "a.parquet", "--output", tmp_path / "out", "--progress")
    made = run(
        *command,
        "--model",
        "all-minilm-l6-v2",
        "--kind",
        "dense",
        "--kind",
        "multi-vector",
        "--output-dtype",
        "binary",
    )
    assert "100%: 30 rows, 0 errors, " in made.stderr
    assert " tokens/s, about 0:00:00 left" in made.stderr
    names = pq.read_schema(tmp_path / "out" / "a.parquet").names
    assert names == ["text", "embedding", "multi_vector", *ADDED[1:]]
    usage = run("batch", tmp_path / "a.parquet", code=2)
    assert "Missing option '-o' / '--output'" in usage.stderr


def test_plain_lists(tmp_path):
    folder = ARTIFACTS / "m3"
    (tmp_path / "a.jsonl").write_text('{"text": "bread"}\n{"text": null}\n')
    kinds = ("dense", "multi-vector", "sparse")
    read = []
    for fixed in (True, False):
        encoder = Encoder(None, "text", path=folder, kinds=kinds)
        job([tmp_path / "a.jsonl"], tmp_path / str(fixed), encoder, fixed_lists=fixed)
        read.append(pq.read_table(tmp_path / str(fixed) / "a.jsonl.parquet"))
    assert read[0].to_pylist() == read[1].to_pylist()
    types = [str(read[1].schema.field(name).type) for name in ("embedding", "multi_vector")]
    assert types == ["list<element: float>", "list<element: list<element: float>>"]

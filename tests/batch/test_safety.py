"""Two jobs on one output, ids that occur twice, and columns and files that hold the unexpected."""

import errno
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import run, run_json

from tessera_onnx import TesseraDense
from tessera_onnx.batch import ids
from tessera_onnx.batch.encoder import Encoder
from tessera_onnx.batch.job import Job
from tessera_onnx.errors import ConfigError

STATIC = "tessera-static-mini"


def job(inputs, output, **options):
    return Job([str(each) for each in inputs], str(output), Encoder(STATIC, "text"), **options)


def test_a_second_job_on_the_same_output_is_refused_while_the_first_runs(
    tmp_path, write, sentences
):
    write(tmp_path / "a.parquet", {"text": sentences(60)})
    second = job([tmp_path / "a.parquet"], tmp_path / "out", block_rows=20)
    refused = []

    def meanwhile(progress):
        if not refused:
            with pytest.raises(ConfigError, match="another job writes to .*out: wait") as caught:
                second.run()
            refused.append(caught)
            arguments = ("batch", tmp_path / "a.parquet", "--output", tmp_path / "out")
            other = run(*arguments, "--model", STATIC, "--block-rows", 20, code=1)
            assert "another job writes to" in other.stderr

    first = job([tmp_path / "a.parquet"], tmp_path / "out", block_rows=20).run(meanwhile)
    assert refused
    assert first.progress.fresh.rows == 60
    assert second.run().progress.fresh.rows == 0  # the lock is free again
    assert len(pq.read_table(tmp_path / "out")) == 60


@pytest.mark.posix
def test_a_killed_process_holds_no_lock(tmp_path, write, sentences):
    write(tmp_path / "a.parquet", {"text": sentences(60)})
    code = (
        "import os, signal, sys\n"
        "from tessera_onnx.batch.encoder import Encoder\n"
        "from tessera_onnx.batch.job import Job\n"
        "job = Job([sys.argv[1]], sys.argv[2], Encoder(sys.argv[3], 'text'), block_rows=20)\n"
        "job.run(lambda progress: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "a.parquet", tmp_path / "out", STATIC]
    assert subprocess.run(command, check=False).returncode == -9
    assert (tmp_path / "out" / "_tessera" / "lock").exists()
    assert job([tmp_path / "a.parquet"], tmp_path / "out", block_rows=20).run().failed_files == []
    assert len(pq.read_table(tmp_path / "out")) == 60


@pytest.mark.parametrize("error", [NotImplementedError(), OSError(errno.ENOTSUP, "no locks")])
def test_a_mounted_store_without_locks_takes_jobs(tmp_path, write, monkeypatch, error):
    def acquire(_):
        raise error

    monkeypatch.setattr("tessera_onnx.batch.places.FileLock.acquire", acquire)
    write(tmp_path / "a.parquet", {"text": ["bread"]})
    assert job([tmp_path / "a.parquet"], tmp_path / "out").run().progress.n_done == 1


def test_a_folder_of_others_is_left_as_it_is(tmp_path, write):
    write(tmp_path / "a.parquet", {"text": ["a"]})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("")
    with pytest.raises(ConfigError, match="holds files that no job wrote"):
        job([tmp_path / "a.parquet"], tmp_path / "out").run()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_ids_that_occur_twice_are_counted_and_named(tmp_path, write):
    write(tmp_path / "in" / "a.parquet", {"id": ["p", "q", None, "p"], "text": list("abcd")})
    write(tmp_path / "in" / "b.parquet", {"id": ["r", None, "q"], "text": list("efg")})
    found = job([tmp_path / "in"], tmp_path / "out", id_column="id").run()
    a, b = (str(tmp_path / "in" / f"{name}.parquet") for name in "ab")
    assert found.repeated_ids == 2
    assert found.repeats == [
        {"file": a, "row": 3, "id": "p", "first_file": a, "first_row": 0},
        {"file": b, "row": 2, "id": "q", "first_file": a, "first_row": 1},
    ]
    assert len(pq.read_table(tmp_path / "out")) == 7  # they are encoded all the same
    command = ("batch", tmp_path / "in", "--model", STATIC, "--id-column", "id", "--output")
    said = run(*command, tmp_path / "out2").stderr
    assert f"{b}: row 2 has the id 'q' of row 1 of {a}" in said
    assert run_json(*command, tmp_path / "out3")["repeated_ids"] == 2


def test_seen_ids_equal_a_dict_and_are_bounded(rng, monkeypatch):
    monkeypatch.setattr(ids, "FRESH", 100)
    numbers = rng.integers(0, 3000, 4000).tolist()
    for values in (numbers, [f"id-{number}" for number in numbers], [[n] for n in numbers]):
        seen, first, expected, found = ids.SeenIds(), {}, [], []
        for start in range(0, 4000, 64):
            block = values[start : start + 64]
            for row, value in enumerate(block, start):
                if str(value) in first:
                    expected.append((row, first[str(value)]))
                first.setdefault(str(value), row)
            column = pa.chunked_array([block])
            found += [(start + row, place) for row, place in seen.repeated(column, start)]
        assert found == expected
        assert not seen.is_full
    assert list(ids.SeenIds().repeated(pa.chunked_array([[-1, -2, 2**61, 1]]), 0)) == []
    monkeypatch.setattr(ids, "MOST_IDS", 500)
    seen = ids.SeenIds()
    assert list(seen.repeated(pa.chunked_array([list(range(800))]), 0)) == []
    assert seen.is_full
    again = list(seen.repeated(pa.chunked_array([list(range(800))]), 800))
    assert again == [(row, row) for row in range(500)]


def test_types_of_text_columns_in_files(tmp_path, write):
    texts = ["fresh bread", None, "rain", "fresh bread"]
    made = pa.array(texts)
    columns = {
        "dictionary": made.dictionary_encode(),
        "large": made.cast(pa.large_string()),
        "view": made.cast(pa.string_view()),
        "nulls": pa.nulls(4),
    }
    for name, column in columns.items():
        write(tmp_path / "in" / f"{name}.arrow", pa.table({"text": column}))
        if name != "view":
            write(tmp_path / "in" / f"{name}.parquet", pa.table({"text": column}))
    found = job([tmp_path / "in"], tmp_path / "out").run()
    assert found.failed_files == []
    with TesseraDense(STATIC) as model:
        exact = model.encode_document(["fresh bread", "rain"])
    for path in sorted((tmp_path / "out").glob("*.parquet")):
        table = pq.read_table(path)
        if "nulls" in path.name:
            assert table["error"].to_pylist() == ["the cell is null"] * 4
            continue
        assert table["text"].to_pylist() == texts
        vectors = table["embedding"].to_pylist()
        assert vectors[1] is None
        np.testing.assert_allclose([vectors[0], vectors[2]], exact, atol=1e-6)


def test_nested_columns_are_copied_and_never_encoded(tmp_path, write):
    rows = [{"a": ["x", None], "b": {"c": 1}}, None, {"a": [], "b": None}]
    table = pa.table({"text": ["a", "b", "c"], "deep": rows})
    write(tmp_path / "in" / "a.parquet", table)
    write(tmp_path / "in" / "b.parquet", pa.table({"text": [["a"], ["b"]]}))
    write(tmp_path / "in" / "c.parquet", pa.table({"text": [{"a": "b"}]}))
    found = job([tmp_path / "in"], tmp_path / "out").run()
    assert pq.read_table(tmp_path / "out" / "a.parquet")["deep"].to_pylist() == rows
    b, c = found.failed_files
    assert "b.parquet has the type list<" in b
    assert "c.parquet has the type struct<" in c


def test_bytes_that_are_no_utf8_in_a_file_are_an_error_of_their_row_and_copied(tmp_path, write):
    cells = [b"bread", b"\xff\xfe", b"rain"]
    column = pa.array(cells, pa.binary()).view(pa.string())
    write(tmp_path / "a.parquet", pa.table({"text": column}), row_group_size=2)
    found = job([tmp_path / "a.parquet"], tmp_path / "out").run()
    (row,) = found.failed_rows
    assert (row["row_group"], row["row"]) == (0, 1)
    assert row["error"] == "the text is not UTF-8: invalid start byte at byte 0"
    made = pq.read_table(tmp_path / "out" / "a.parquet")["text"]
    assert made.cast(pa.binary()).to_pylist() == cells


def test_files_without_rows(tmp_path, write):
    empty = pa.table({"text": pa.array([], pa.string())})
    write(tmp_path / "in" / "a.parquet", empty)
    write(tmp_path / "in" / "b.arrow", empty)
    (tmp_path / "in" / "c.jsonl").write_text("\n\n")
    write(tmp_path / "in" / "d.parquet", pa.table({"text": ["bread"]}))
    found = job([tmp_path / "in"], tmp_path / "out").run()
    assert (found.progress.counts.rows, found.progress.n_done) == (1, 3)
    (message,) = found.failed_files
    assert "c.jsonl has no lines: leave it out" in message
    assert len(pq.read_table(tmp_path / "out")) == 1


def test_a_damaged_batch_of_arrow_in_the_middle_is_named(tmp_path, write, sentences):
    table = pa.table({"text": sentences(300)})
    path = write(tmp_path / "in" / "a.arrow", table, max_chunksize=100)
    write(tmp_path / "in" / "b.arrow", table)
    whole = path.read_bytes()
    metadata = [i for i in range(len(whole) - 8) if whole[i : i + 4] == b"\xff" * 4]
    place = metadata[2] + 8  # of the second record batch; the schema is the first message
    path.write_bytes(whole[:place] + b"\xee" * 40 + whole[place + 40 :])
    found = job([tmp_path / "in"], tmp_path / "out", block_rows=100).run()
    (message,) = found.failed_files
    assert message.startswith(f"{path}: row group 1, at or after row 100: ")
    assert len(pq.read_table(tmp_path / "out" / "b.arrow.parquet")) == 300

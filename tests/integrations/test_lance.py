"""Datasets of Lance as inputs of a job: fragments, versions, kills and an object store."""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3_server
import test_docs
from command import run
from pyarrow import fs

from tessera_onnx import TesseraDense
from tessera_onnx.batch.encoder import Encoder
from tessera_onnx.batch.job import Job
from tessera_onnx.errors import ConfigError, FileError

pytestmark = pytest.mark.integrations

STATIC = "tessera-static-mini"
ADDED = ["embedding", "tokens", "truncated", "error"]
KILLS = 10


def rows(n, first=0):
    texts = [
        None if i % 50 == 7 else f"{'fresh bread ' * (i % 13)}river {i}"
        for i in range(first, first + n)
    ]
    return pa.table(
        {"id": range(first, first + n), "text": texts, "deep": [[{"a": i}] for i in range(n)]}
    )


@pytest.fixture
def corpus(tmp_path):
    """900 rows in three fragments, of which some are deleted."""
    path = tmp_path / "corpus.lance"
    lance.write_dataset(rows(1000), path, max_rows_per_file=400)
    lance.dataset(path).delete("id % 10 = 3")
    return path


def job(path, output, encoder=None, **options):
    return Job([str(path)], str(output), encoder or Encoder(STATIC, "text"), **options).run()


def union(folder):
    """The tables of the output files by name; each file is whole."""
    found = sorted((folder / "corpus.lance").glob("*.parquet"))
    return {path.name: pq.read_table(path) for path in found}


def test_each_fragment_has_an_output_with_its_live_rows(tmp_path, corpus):
    found = job(corpus, tmp_path / "out", id_column="id")
    assert (found.progress.n_done, found.failed_files, found.ignored) == (3, [], 0)
    made = union(tmp_path / "out")
    assert list(made) == ["000000.parquet", "000001.parquet", "000002.parquet"]
    assert [len(each) for each in made.values()] == [360, 360, 180]
    whole, exact = pa.concat_tables(made.values()), lance.dataset(corpus).to_table()
    assert whole.column_names == ["id", "text", "deep", *ADDED]
    assert whole.select(exact.column_names).to_pylist() == exact.to_pylist()
    texts = exact["text"].to_pylist()
    known = [i for i, text in enumerate(texts) if text is not None]
    with TesseraDense(STATIC, on_long="truncate") as model:
        vectors = model.encode_document([texts[i] for i in known])
    np.testing.assert_allclose(
        np.array([whole["embedding"][i].as_py() for i in known]), vectors, atol=1e-6
    )
    assert [i for i, each in enumerate(whole["error"].to_pylist()) if each is None] == known
    assert found.failed_rows[1] == {
        "file": f"{corpus}/0", "row_group": 0, "row": 51, "id": 57, "error": "the cell is null",
    }  # fmt: skip


def test_new_fragments_are_encoded_and_changed_ones_refused(tmp_path, corpus):
    out = tmp_path / "out"
    assert job(corpus, out).progress.fresh.rows == 900
    assert job(corpus, out).progress.fresh.rows == 0
    lance.write_dataset(rows(30, 1000), corpus, mode="append")
    assert job(corpus, out).progress.fresh.rows == 30
    assert union(out)["000003.parquet"]["id"].to_pylist() == list(range(1000, 1030))
    lance.dataset(corpus).delete("id = 500")
    with pytest.raises(ConfigError, match=r"corpus.lance/1 has changed since this job read it"):
        job(corpus, out)
    lance.dataset(corpus).optimize.compact_files()
    with pytest.raises(ConfigError, match=r"input of corpus.lance/000000, .* no longer there"):
        job(corpus, out)


def test_a_job_reads_the_version_that_it_found(tmp_path, corpus):
    """Rows that are deleted while it runs are in its output, and the next job tells of it."""
    begun = Job([str(corpus)], str(tmp_path / "out"), Encoder(STATIC, "text"))
    lance.dataset(corpus).delete("id < 300")
    assert begun.run().progress.counts.rows == 900
    with pytest.raises(ConfigError, match="has changed"):
        job(corpus, tmp_path / "out")


def test_kept_columns_blocks_and_types(tmp_path):
    path = tmp_path / "corpus.lance"
    table = pa.table(
        {
            "x": range(10),
            "kind": pa.array(["a", "b"] * 5).dictionary_encode(),
            "text": pa.array([f"rain {i}" for i in range(10)], pa.large_string()),
        }
    )
    lance.write_dataset(table, path)
    job(path, tmp_path / "out", columns=["kind"], block_rows=3)
    (made,) = union(tmp_path / "out").values()
    assert made.column_names == ["kind", "text", *ADDED]
    assert made["kind"].to_pylist() == ["a", "b"] * 5
    assert made["text"].to_pylist() == table["text"].to_pylist()
    lance.dataset(path).delete("true")
    found = job(path, tmp_path / "none", Encoder(STATIC, "text"))
    assert (found.progress.n_files, found.progress.counts.rows) == (0, 0)


def test_what_cannot_be_read_is_one_sentence(tmp_path, corpus):
    (tmp_path / "no.lance").mkdir()
    for name in ("no.lance", "nothing.lance"):
        with pytest.raises(
            FileError, match=rf"{name} cannot be read: Dataset at path .* not found"
        ):
            job(tmp_path / name, tmp_path / "out")
    with pytest.raises(ConfigError, match="the output is a folder of Parquet files"):
        job(corpus, tmp_path / "vectors.lance")
    found = job(corpus, tmp_path / "out", Encoder(STATIC, "body"))
    assert found.failed_files[0].startswith(f"{corpus}/0 has no column 'body'; its columns are: id")
    found = job(corpus, tmp_path / "out2", Encoder(STATIC, "id"))
    assert "has the type int64, and the model reads strings" in found.failed_files[0]
    gone = next((corpus / "data").iterdir())
    gone.write_bytes(b"")
    found = job(corpus, tmp_path / "out3")
    (message,) = found.failed_files
    assert message.startswith(f"{corpus}/")
    assert found.progress.n_done == 2


def test_the_command(tmp_path, corpus):
    command = ("batch", f"{corpus}/", "--output", tmp_path / "out", "--model", STATIC)
    made = run(*command)
    assert made.stdout.startswith("900 rows of 3 files in ")
    assert f"Warning: {corpus}/0: row 6 (row group 0): the cell is null" in made.stderr


@pytest.mark.slow
@pytest.mark.posix
def test_a_job_that_is_killed_again_and_again_equals_one_that_is_not(tmp_path, corpus):
    code = "from tessera_onnx.cli.main import main; main()"
    options = ["--model", "all-minilm-l6-v2", "--threads", "1", "--block-rows", "32"]
    command = [sys.executable, "-c", code, "batch", str(corpus), *options, "--output"]
    path = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [*command, str(tmp_path / "whole"), "--progress"], env=path, stderr=subprocess.PIPE,
        text=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    process.stderr.readline()
    begin = time.monotonic()
    process.communicate()
    longest = (time.monotonic() - begin) / 3  # so that machines of any speed are hit midway
    assert process.returncode == 0
    whole = union(tmp_path / "whole")
    assert sum(len(each) for each in whole.values()) == 900

    chance, out = random.Random(5), tmp_path / "out"
    kills = 0
    states = set()
    while kills < KILLS:
        process = subprocess.Popen(
            [*command, str(out), "--progress"], env=path, stderr=subprocess.PIPE, text=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        process.stderr.readline()
        time.sleep(chance.uniform(0, longest))
        if process.poll() is None:
            process.kill()
            kills += 1
            states.add((len(union(out)), len(list((out / "_tessera").rglob("*.arrow")))))
        process.communicate()
        for name, table in union(out).items():
            assert table.equals(whole[name]), name
        if process.returncode == 0:
            assert union(out) == whole
            shutil.rmtree(out)
    subprocess.run([*command, str(out)], check=True, env=path, capture_output=True)
    assert union(out) == whole
    assert len(states) > 3  # the kills hit different moments


def test_a_dataset_in_an_object_store(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    with s3_server.running() as address:
        monkeypatch.setenv("AWS_ENDPOINT", f"http://{address}")
        query = f"endpoint_override={address}&scheme=http&region=us-east-1"
        system, _ = fs.FileSystem.from_uri(f"s3://bucket?{query}&allow_bucket_creation=true")
        system.create_dir("bucket")
        lance.write_dataset(rows(100), "s3://bucket/corpus.lance", max_rows_per_file=50)
        output = f"s3://bucket/out?{query}"
        assert job("s3://bucket/corpus.lance", output).progress.fresh.rows == 100
        assert job("s3://bucket/corpus.lance", output).progress.fresh.rows == 0
        with system.open_input_file("bucket/out/corpus.lance/000001.parquet") as stream:
            assert pq.read_table(stream)["id"].to_pylist() == list(range(50, 100))
        with pytest.raises(FileError, match=r"s3://bucket/no.lance cannot be read"):
            job("s3://bucket/no.lance", output)


@pytest.mark.parametrize("text", test_docs.blocks("python", "lance"))
def test_the_page(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test_docs.run_python(text)

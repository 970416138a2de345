"""A job from and to an S3-compatible server (moto) on loopback, over HTTP and pyarrow's client."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import s3_server
from pyarrow import fs

from tessera_onnx import TesseraDense
from tessera_onnx.batch.encoder import Encoder
from tessera_onnx.batch.job import Job
from tessera_onnx.errors import ConfigError, FileError

STATIC = "tessera-static-mini"


@pytest.fixture(scope="module")
def server():
    """The query of URLs of that server, which ends with the tests."""
    with s3_server.running() as address:
        yield f"endpoint_override={address}&scheme=http&region=us-east-1"


@pytest.fixture
def bucket(server, monkeypatch, request):
    """A new bucket: its file system and name."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    name = f"bucket-{abs(hash(request.node.name))}"
    system, _ = fs.FileSystem.from_uri(f"s3://{name}?{server}&allow_bucket_creation=true")
    system.create_dir(name)
    return system, name


def put(system, path, texts):
    with system.open_output_stream(path) as stream:
        stream.write("".join(json.dumps({"text": text}) + "\n" for text in texts).encode())


def test_a_job_from_and_to_a_bucket_that_goes_on(bucket, server, sentences):
    system, name = bucket
    texts = sentences(120)
    put(system, f"{name}/in/a.jsonl", texts[:50])
    put(system, f"{name}/in/deep/b.jsonl", texts[50:])
    source, target = (f"s3://{name}/{part}?{server}" for part in ("in", "out"))

    def job(encoder=None, **options):
        encoder = encoder or Encoder(STATIC, "text")
        return Job([source], target, encoder, block_rows=20, **options)

    class Stop(Exception):
        pass

    def stop(progress):
        if progress.counts.rows >= 90:
            raise Stop

    with pytest.raises(Stop):
        job().run(stop)
    selector = fs.FileSelector(f"{name}/out", recursive=True)
    paths = [info.path for info in system.get_file_info(selector) if info.is_file]
    assert f"{name}/out/a.jsonl.parquet" in paths
    assert f"{name}/out/deep/b.jsonl.parquet" not in paths
    assert sum(path.endswith(".arrow") for path in paths) == 2

    found = job().run()
    assert (found.progress.counts.rows, found.progress.fresh.rows) == (120, 30)
    with TesseraDense(STATIC, on_long="truncate") as model:
        exact = model.encode_document(texts)
    made = [
        pq.read_table(f"{name}/out/{path}.parquet", filesystem=system)
        for path in ("a.jsonl", "deep/b.jsonl")
    ]
    assert [row for table in made for row in table["text"].to_pylist()] == texts
    vectors = np.array([row for table in made for row in table["embedding"].to_pylist()])
    np.testing.assert_allclose(vectors, exact, atol=1e-6)
    paths = [info.path for info in system.get_file_info(selector) if info.is_file]
    assert not any(path.endswith(".arrow") for path in paths)

    with pytest.raises(ConfigError, match="another output_dtype"):
        job(Encoder(STATIC, "text", output_dtype="int8")).run()
    put(system, f"{name}/in/a.jsonl", texts[1:51])
    with pytest.raises(ConfigError, match=r"in/a\.jsonl has changed since this job read it"):
        job().run()


def test_globs_and_what_is_not_there(bucket, server, sentences):
    system, name = bucket
    for part in ("a1", "a2", "b"):
        put(system, f"{name}/in/{part}.jsonl", sentences(3))
    target = f"s3://{name}/out?{server}"
    # In the URL of an object store, a question mark begins the query: * and [...] remain.
    job = Job([f"s3://{name}/in/a*.jsonl?{server}"], target, Encoder(STATIC, "text"))
    assert job.run().progress.counts.rows == 6
    for place in (f"s3://{name}/nothing.jsonl?{server}", f"s3://no-such-{name}/in?{server}"):
        with pytest.raises(FileError):
            Job([place], target, Encoder(STATIC, "text"))


def test_an_upload_that_fails_leaves_no_object(bucket, server, sentences, monkeypatch):
    """An object appears when its stream is closed, also after an error: it must not stay."""
    system, name = bucket
    put(system, f"{name}/in/a.jsonl", sentences(10))
    job = Job([f"s3://{name}/in?{server}"], f"s3://{name}/out?{server}", Encoder(STATIC, "text"))

    def broken(_, target, __):
        target.write(b"the first bytes")
        raise OSError("the line is cut")

    monkeypatch.setattr("tessera_onnx.batch.places.shutil.copyfileobj", broken)
    with pytest.raises(FileError, match="the line is cut"):
        job.run()
    monkeypatch.undo()
    selector = fs.FileSelector(f"{name}/out", recursive=True, allow_not_found=True)
    assert [info.path for info in system.get_file_info(selector) if info.is_file] == []

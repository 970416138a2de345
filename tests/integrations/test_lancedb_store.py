"""LanceDB, whose engine runs in the process."""

import subprocess
import sys
import traceback

import lancedb
import numpy as np
import pyarrow as pa
import pytest
import store_cases as cases
from artifact_tools import ARTIFACTS
from lancedb.index import FTS
from lancedb.pydantic import LanceModel, Vector

from tessera_onnx import ConfigError, StoreError, TesseraDense, TesseraReranker
from tessera_onnx.integrations.lancedb import LanceReranker, LanceStore, TesseraFunction
from tessera_onnx.integrations.rows import Rows

pytestmark = pytest.mark.integrations
IDS = [str(i) for i in range(cases.N)]


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    return lancedb.connect(tmp_path_factory.mktemp("lance"))


@pytest.fixture(scope="module")
def filled(connection):
    made = {}

    def make(*names):
        if names not in made:
            store = LanceStore(connection, "-".join(names), [cases.model(n) for n in names])
            payload = [{"even": i % 2 == 0, "none": None} for i in range(cases.N)]
            for _ in range(2):  # the second time every row is replaced
                store.write(Rows(IDS, {n: cases.vectors(n) for n in names}, payload))
            store.finish()
            made[names] = store
        return made[names]

    return make


@pytest.mark.parametrize("query", cases.QUERIES)
@pytest.mark.parametrize("name", ["embedding", "multi_vector"])
def test_the_ten_best_are_those_of_exact_search(filled, name, query):
    store = filled(name)
    assert store.count() == cases.N
    hits = store.search(query)
    cases.check(hits, cases.scores(name, query))
    assert all(hit.payload == {"even": int(hit.id) % 2 == 0} for hit in hits)


def test_vectors_per_token_score_the_dense_candidates_anew(filled):
    query = cases.QUERIES[1]
    known = np.argsort(-cases.scores("embedding", query), kind="stable")[:100]
    among = np.full(cases.N, -1e9)
    among[known] = cases.scores("multi_vector", query)[known]
    cases.check(filled("embedding", "multi_vector").search(query), among)


def test_texts_go_in_with_keys_that_come_later(connection):
    with TesseraDense("tessera-static-mini") as model:
        store = LanceStore(connection, "texts", [model])
        texts = cases.sentences()
        store.add(IDS[:500], texts[:500])
        store.add(IDS[500:], texts[500:], ({"text": text} for text in texts[500:]))
        exact = model.encode_document(texts) @ model.encode_query(cases.QUERIES[0])
        hits = store.search(cases.QUERIES[0])
        cases.check(hits, exact)
        for hit in hits:
            assert hit.payload["text"] == (texts[int(hit.id)] if int(hit.id) >= 500 else None)
        store.add(["0"], [texts[0]], [{"number": 1}])
        with pytest.raises(StoreError, match="the request failed") as error:  # whose text is quoted
            store.add(["new"], ["a text"], [{"number": "terces"[::-1]}])
        assert "secret" not in "".join(traceback.format_exception(error.value))
        assert store.count() == cases.N


def test_a_table_of_another_model_is_refused(connection, filled):
    filled("embedding")
    with TesseraDense("tessera-static-mini") as other:
        with pytest.raises(ConfigError, match="model all-minilm-l6-v2, not of tessera-static"):
            LanceStore(connection, "embedding", [other]).search("a")
    connection.create_table("theirs", pa.table({"id": ["a"]}))
    with pytest.raises(ConfigError, match="not made by tessera"):
        LanceStore(connection, "theirs", [cases.model("embedding")]).prepare()
    with pytest.raises(ConfigError, match="LanceDB keeps no sparse vectors"):
        LanceStore(connection, "sparse", [cases.model("sparse")])


REOPEN = """
import sys
import traceback
import lancedb
{}
table = lancedb.connect(sys.argv[1]).open_table("documents")
table.add([{{"text": "one more"}}])
print([row["text"] for row in table.search("who baked the bread").limit(10).to_list()])
"""


def reopen(folder, code):
    command = [sys.executable, "-c", code, folder]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """A table whose vectors LanceDB makes itself."""
    function = lancedb.embeddings.get_registry().get("tessera").create(name="all-minilm-l6-v2")
    assert isinstance(function, TesseraFunction)

    class Document(LanceModel):
        text: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()

    folder = tmp_path_factory.mktemp("documents")
    table = lancedb.connect(folder).create_table("documents", schema=Document)
    table.add([{"text": text} for text in cases.sentences()])
    return folder, table


def test_the_registered_function_makes_the_vectors(documents):
    _, table = documents
    vectors = np.array(table.to_arrow()["vector"].to_pylist(), np.float32)
    assert np.allclose(vectors, cases.vectors("embedding"), atol=1e-5)
    texts = cases.sentences()
    for query in cases.QUERIES:
        rows = table.search(query).distance_type("dot").limit(10).to_list()
        exact = cases.scores("embedding", query)
        kth = np.sort(exact)[-10]
        assert all(exact[texts.index(row["text"])] >= kth - 1e-4 for row in rows)


def test_another_process_opens_the_table_after_it_imported_the_adapter(documents):
    folder, table = documents
    code = REOPEN.format("import tessera_onnx.integrations.lancedb")
    done = reopen(folder, code)
    assert done.returncode == 0, done.stderr
    best = [row["text"] for row in table.search(cases.QUERIES[0]).limit(10).to_list()]
    assert done.stdout.strip() == str(best)
    assert "KeyError: 'tessera'" in reopen(folder, REOPEN.format("")).stderr


def test_the_function_refuses_another_model_of_the_same_name():
    function = TesseraFunction.create(name="all-minilm-l6-v2", sha256="0" * 64)
    with pytest.raises(ConfigError, match="vectors of sha256 0000"):
        function.compute_query_embeddings("a")


def test_a_hybrid_search_is_ranked_by_a_reranker(documents):
    _, table = documents
    table.create_index("text", config=FTS())
    query = cases.QUERIES[1]
    with TesseraReranker(path=ARTIFACTS / "reranker", on_long="truncate") as model:
        found = (
            table.search(query, query_type="hybrid").rerank(LanceReranker(model)).limit(10)
        ).to_list()
        wanted = model.score(query, [row["text"] for row in found])
    scores = [row["_relevance_score"] for row in found]
    assert len({row["text"] for row in found}) == len(found) == 10
    assert np.allclose(scores, wanted, atol=1e-5)
    assert scores == sorted(scores, reverse=True)

"""Chroma's own engine, in a folder."""

import subprocess
import sys

import chromadb
import numpy as np
import pytest
import store_cases as cases
from chromadb.base_types import SparseVector
from chromadb.utils.embedding_functions import sparse_known_embedding_functions

from tessera_onnx import ConfigError
from tessera_onnx.integrations.chroma import TesseraFunction, TesseraSparseFunction

pytestmark = [pytest.mark.integrations, pytest.mark.slow]
IDS = [str(i) for i in range(cases.N)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("chroma")


@pytest.fixture(scope="module")
def collection(folder):
    client = chromadb.PersistentClient(folder)
    function = TesseraFunction("all-minilm-l6-v2")
    # The graph of 1,000 documents is wide enough to find what exact search finds.
    wide = {"hnsw": {"space": "cosine", "ef_search": 1000, "ef_construction": 400}}
    found = client.create_collection("documents", embedding_function=function, configuration=wide)
    for _ in range(2):  # the second time every document is replaced
        found.upsert(ids=IDS, documents=cases.sentences())
    return found


@pytest.mark.parametrize("query", cases.QUERIES)
def test_the_ten_best_are_those_of_exact_search(collection, query):
    assert collection.count() == cases.N
    found = collection.query(query_texts=[query], n_results=10)
    exact = cases.scores("embedding", query)
    ids = [int(id_) for id_ in found["ids"][0]]
    assert len(set(ids)) == 10
    assert np.allclose(1 - np.array(found["distances"][0]), exact[ids], atol=1e-4)
    assert exact[ids].min() >= np.sort(exact)[-10] - 1e-4


REOPEN = """
import sys
import chromadb
{}
collection = chromadb.PersistentClient(sys.argv[1]).get_collection("documents")
print(collection.query(query_texts=["who baked the bread"], n_results=10)["ids"])
"""


def reopen(folder, line):
    command = [sys.executable, "-c", REOPEN.format(line), folder]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_another_process_opens_the_collection_after_it_imported_the_adapter(folder, collection):
    done = reopen(folder, "import tessera_onnx.integrations.chroma")
    assert done.returncode == 0, done.stderr
    found = collection.query(query_texts=[cases.QUERIES[0]], n_results=10)["ids"]
    assert done.stdout.strip() == str(found)
    assert "tessera not found" in reopen(folder, "").stderr


def test_settings_hold_the_sha256_and_another_model_is_refused():
    function = TesseraFunction("tessera-static-mini")
    config = function.get_config()
    assert set(config) == {"name", "precision", "sha256"}
    again = TesseraFunction.build_from_config(config)
    assert np.array_equal(again(["a text"]), function(["a text"]))
    with pytest.raises(ConfigError, match="vectors of sha256 0000"):
        TesseraFunction.build_from_config(config | {"sha256": "0" * 64})
    with pytest.raises(ConfigError, match="name of a collection cannot change"):
        function.validate_config_update(config, config | {"name": "all-minilm-l6-v2"})
    with pytest.raises(ConfigError, match="name a model"):
        function.validate_config({})


def test_vectors_of_another_dimension_are_refused_by_chroma(folder, collection):
    other = chromadb.PersistentClient(folder).get_collection(
        "documents", embedding_function=TesseraFunction("tessera-static-mini")
    )
    with pytest.raises(chromadb.errors.InvalidArgumentError, match="dimension of 384, got 256"):
        other.query(query_texts=["a"])


@pytest.mark.parametrize("name", ["sparse", "bm25"])
def test_sparse_functions_keep_roles_and_settings(name):
    model = cases.model(name)
    function = TesseraSparseFunction(model.model())
    texts = cases.sentences(5)
    again = sparse_known_embedding_functions["tessera-sparse"].build_from_config(
        function.get_config()
    )
    for made, wanted in (
        (again(texts), model.encode_document(texts)),
        (again.embed_query(texts), model.encode_query(texts)),
    ):
        for one, other in zip(made, wanted, strict=True):
            assert isinstance(one, SparseVector)
            assert dict(zip(one.indices, one.values, strict=True)) == other.to_dict()


def test_the_local_engine_has_no_sparse_index(folder):
    """When it has one, its search shall be compared with exact search here."""
    client = chromadb.PersistentClient(folder)
    schema = chromadb.Schema()
    function = TesseraSparseFunction("splade-tiny")
    index = chromadb.SparseVectorIndexConfig(
        source_key=chromadb.K.DOCUMENT, embedding_function=function
    )
    schema.create_index(config=index, key="sparse")
    with pytest.raises(chromadb.errors.InvalidArgumentError, match="not enabled in local"):
        client.create_collection("sparse", schema=schema)

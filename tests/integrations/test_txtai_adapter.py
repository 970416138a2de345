"""txtai's Embeddings index over the adapters: searched, saved, loaded, and what is wrong."""

import numpy as np
import pytest
from framework_corpus import QUERIES, check_best, dot_scores, texts
from framework_page import run_section
from server_process import ARTIFACTS
from txtai import Embeddings

from tessera_onnx import LoadError, ModelNotFound, TesseraDense

pytestmark = [
    pytest.mark.integrations,
    pytest.mark.filterwarnings("ignore"),  # of torch, transformers and faiss
    pytest.mark.filterwarnings("error::tessera_onnx.TruncationWarning"),
]

MINILM = "all-minilm-l6-v2"
PLACE = "tessera_onnx.integrations.txtai"
DENSE = f"{PLACE}.TesseraVectors"
SPARSE = {
    "path": "splade-tiny",
    "vectormethod": f"{PLACE}.TesseraSparseVectors",
    "normalize": False,
}


def test_the_index_finds_what_exact_search_finds(dense, tmp_path):
    index = Embeddings(method=DENSE, path=MINILM)
    index.index(texts())
    vectors = dense.encode_document(texts())
    index.save(str(tmp_path / "saved"))
    loaded = Embeddings()
    loaded.load(str(tmp_path / "saved"))
    for query in QUERIES:
        scores = vectors @ dense.encode_query(query)
        found = index.search(query, 10)
        check_best([number for number, _ in found], scores)
        assert [score for _, score in found] == pytest.approx(np.sort(scores)[::-1][:10], abs=1e-5)
        assert loaded.search(query, 10) == found


def test_queries_and_documents_have_the_prompts_of_the_model(tmp_path):
    where = {"path": str(ARTIFACTS / "prompts")}
    with TesseraDense(**where) as model:
        query, document = model.encode_query("a cat"), model.encode_document("a cat")
    index = Embeddings(method=DENSE, vectors=where)
    np.testing.assert_allclose(index.transform("a cat", "query"), query, atol=1e-6)
    np.testing.assert_allclose(index.transform("a cat", "data"), document, atol=1e-6)
    index = Embeddings(method=DENSE, path=where["path"], vectors={"dimension": 8})
    assert index.transform("a cat").shape == (8,)
    scores = dict(Embeddings(method=DENSE, vectors=where).similarity("a cat", ["a cat", "dog"]))
    assert scores[0] == pytest.approx(float(query @ document), abs=1e-5)


def test_an_empty_text_of_a_static_model_is_zero_and_not_nan():
    index = Embeddings(method=DENSE, path="tessera-static-mini")
    index.index(["a cat", "", "dog"])
    assert not index.transform("").any()
    assert index.search("a cat", 3)[0][0] == 0


def test_sparse_vectors_find_what_exact_search_finds(sparse, tmp_path):
    index = Embeddings(sparse=dict(SPARSE))
    index.index(texts())
    documents = sparse.encode_document(texts())
    index.save(str(tmp_path / "saved"))
    loaded = Embeddings()
    loaded.load(str(tmp_path / "saved"))
    for query in QUERIES:
        found = index.search(query, 10)
        check_best(
            [number for number, _ in found], dot_scores(sparse.encode_query(query), documents)
        )
        assert loaded.search(query, 10) == found


def test_a_hybrid_index(dense, sparse):
    index = Embeddings(method=DENSE, path=MINILM, hybrid="sparse", sparse=dict(SPARSE))
    index.index(texts()[:200])
    assert index.search(texts()[7], 1)[0][0] == 7


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"path": "all-minilm"}, ModelNotFound, "all-minilm-l6-v2"),
        ({"path": "splade-tiny"}, LoadError, "is of kind sparse"),
        ({"path": MINILM, "vectors": {"nope": 1}}, TypeError, "nope"),
    ],
)
def test_what_is_wrong_with_a_model_is_the_cause_of_txtais_error(config, error, message):
    with pytest.raises(ImportError, match="Unable to resolve") as caught:
        Embeddings(method=DENSE, **config)
    assert isinstance(caught.value.__cause__, error)
    assert message in str(caught.value.__cause__)


def test_wrong_texts():
    index = Embeddings(method=DENSE, path=MINILM)
    for wrong in (None, 3):
        with pytest.raises(TypeError, match="must be str"):
            index.transform(wrong)
    assert index.batchtransform([]).shape[0] == 0


def test_the_snippets_of_the_page():
    run_section("txtai")

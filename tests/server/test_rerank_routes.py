"""Rerank routes: the scores of the library in the form of each protocol."""

import math

import numpy as np
import pytest
from server_process import ARTIFACTS, MINILM, wait_until_ready
from starlette.testclient import TestClient

from tessera_onnx import TesseraMultiVector, TesseraReranker
from tessera_onnx.server.app import app

QUERY = "which animal says miau"
TEXTS = ["a cat", "the stock market fell", "dogs bark and cats say miau", "a cat"]
NAME = "test-reranker"


@pytest.fixture(scope="module")
def raw():
    """The numbers that the graph gives."""
    with TesseraReranker(path=ARTIFACTS / "reranker", threads=1) as model:
        return model.score(QUERY, TEXTS, activation="raw").tolist()


def post(client, path, status=200, **body):
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def ranked(scores):
    """(index, score) by falling score; equal ones in their order."""
    return sorted(enumerate(scores), key=lambda pair: (-pair[1], pair[0]))


def check(found, scores, key):
    expected = ranked(scores)[: len(found)]
    assert [row["index"] for row in found] == [index for index, _ in expected]
    np.testing.assert_allclose([row[key] for row in found], [s for _, s in expected], rtol=1e-5)


def sigmoid(scores):
    return [1 / (1 + math.exp(-score)) for score in scores]


def test_scores_are_probabilities_where_the_models_own_are_none():
    """A client of these protocols knows no logits: `raw_scores` alone gives them."""
    folder, name = ARTIFACTS / "answers-qwen2", "test-answers-qwen2"
    with TesseraReranker(path=folder, threads=1) as model:
        assert model.activation() == "identity"
        logits = model.score(QUERY, TEXTS)
    expected = 1 / (1 + np.exp(-logits))
    tensors = [
        {"name": field, "shape": [len(texts)], "datatype": "BYTES", "data": texts}
        for field, texts in (("query", [QUERY]), ("documents", TEXTS))
    ]
    with TestClient(app(str(folder), threads=1)) as client:
        wait_until_ready(client)
        check(post(client, "/rerank", query=QUERY, texts=TEXTS), expected, "score")
        for path in ("/v1/rerank", "/v2/rerank"):
            found = post(client, path, query=QUERY, documents=TEXTS, model=name)
            check(found["results"], expected, "relevance_score")
        found = post(client, "/rerank", query=QUERY, texts=TEXTS, raw_scores=True)
        check(found, logits, "score")
        for more, scores in (({}, expected), ({"parameters": {"raw_scores": True}}, logits)):
            (found,) = post(client, f"/v2/models/{name}/infer", inputs=tensors, **more)["outputs"]
            np.testing.assert_allclose(found["data"], scores, rtol=1e-5)


def test_tei(field, raw):
    found = post(field, "/rerank", query=QUERY, texts=TEXTS, return_text=True)
    check(found, sigmoid(raw), "score")
    assert [row["text"] for row in found] == [TEXTS[row["index"]] for row in found]
    found = post(field, "/", query=QUERY, texts=TEXTS, raw_scores=True, truncate=True)
    check(found, raw, "score")
    assert set(found[0]) == {"index", "score"}


@pytest.mark.parametrize("path", ["/v2/rerank", "/v1/rerank", "/rerank"])
def test_cohere_and_jina(field, raw, path):
    body = {"model": NAME, "query": QUERY, "documents": TEXTS, "top_n": 2}
    found = post(field, path, **body)
    assert len(found["results"]) == 2
    check(found["results"], sigmoid(raw), "relevance_score")
    assert set(found["results"][0]) == {"index", "relevance_score"}
    assert found["model"] == NAME
    assert found["usage"]["total_tokens"] > len(TEXTS)
    assert "scores" not in found
    body["documents"] = [{"text": text} for text in TEXTS]
    again = post(field, path, **body, return_documents=True, max_tokens_per_doc=4096)
    texts = [row.pop("document")["text"] for row in again["results"]]
    assert again["results"] == found["results"]
    assert texts == [TEXTS[row["index"]] for row in again["results"]]


def test_weaviate(field, raw):
    found = post(field, "/rerank", query=QUERY, documents=TEXTS)
    assert [row["document"] for row in found["scores"]] == TEXTS
    np.testing.assert_allclose([row["score"] for row in found["scores"]], sigmoid(raw), rtol=1e-5)


@pytest.mark.parametrize("name", [MINILM, "test-m3"])
def test_multi_vector_models_give_maxsim(field, name):
    found = post(field, "/v2/rerank", model=name, query=QUERY, documents=TEXTS)
    path = {} if name == MINILM else {"path": ARTIFACTS / "m3"}
    with TesseraMultiVector(None if path else name, threads=1, **path) as model:
        scores = model.score(QUERY, TEXTS)
    check(found["results"], scores.tolist(), "relevance_score")


SECRET = "Zanzibar"
WRONG = [
    ({"documents": [SECRET]}, "query is missing"),
    ({"query": [SECRET], "documents": [SECRET]}, "query must be a text"),
    ({"query": SECRET}, "documents is missing"),
    ({"query": SECRET, "documents": SECRET}, "documents must be a list"),
    ({"query": SECRET, "documents": [SECRET, 3]}, "documents[1] must be a text"),
    ({"query": SECRET, "documents": [{"title": SECRET}]}, "documents[0] must be a text"),
    ({"query": SECRET, "documents": [SECRET], "top_n": 0}, "top_n must be"),
    ({"query": SECRET, "documents": [SECRET], "truncate": "START"}, "cut at their ends"),
    ({"query": SECRET, "documents": [SECRET], "max_tokens_per_doc": 8}, "max_tokens_per_doc"),
    ({"query": SECRET, "documents": [SECRET], "model": "splade-tiny"}, "the ranking of documents"),
    ({"query": SECRET, "documents": ["a", f"{SECRET} " * 90], "truncate": False}, "input 1 has"),
]


@pytest.mark.parametrize(("body", "words"), WRONG)
def test_errors(field, body, words):
    for path, status in (("/v2/rerank", 400), ("/v1/rerank", 400), ("/rerank", 422)):
        answer = field.post(path, json=body)
        assert answer.status_code == status
        assert words in answer.json()["message"]
        assert SECRET not in answer.text
    assert field.post("/v2/rerank", json=body | {"model": "other"}).status_code in {400, 404}

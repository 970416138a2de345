"""Jina's fields on OpenAI's route, and its multi-vector route."""

import base64

import numpy as np
import pytest
from server_process import MINILM

from tessera_onnx import TesseraDense, TesseraMultiVector

TEXTS = ["A cat sits on the mat.", "Bücher in Köln"]


def post(client, path, status=200, **body):
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.mark.parametrize("role", ["query", "document"])
def test_multi_vector_gives_the_token_vectors_of_the_library(field, role):
    found = post(field, "/v1/multi-vector", model="test-m3", input=TEXTS, input_type=role)
    field_model = {"path": "tests/artifacts/m3"}
    with TesseraMultiVector(**field_model, threads=1) as model:
        encode = model.encode_query if role == "query" else model.encode_document
        for i, (row, text) in enumerate(zip(found["data"], TEXTS, strict=True)):
            assert row["index"] == i
            np.testing.assert_allclose(row["embeddings"], encode(text), atol=1e-5)
        assert found["usage"]["total_tokens"] == model.token_count(TEXTS, role=role).sum()


@pytest.mark.parametrize("name", ["embedding_type", "encoding_format"])
def test_multi_vector_in_base64_is_a_text_a_token(field, name):
    body = {"model": MINILM, "input": TEXTS[0]}
    (floats,) = post(field, "/v1/multi-vector", **body)["data"]
    (texts,) = post(field, "/v1/multi-vector", **body, **{name: "base64"})["data"]
    decoded = [np.frombuffer(base64.b64decode(text), "<f4") for text in texts["embeddings"]]
    np.testing.assert_array_equal(np.float32(floats["embeddings"]), decoded)


def test_embeddings_take_objects_and_embedding_types(field):
    with TesseraDense(MINILM, threads=1) as model:
        vectors = model.encode_batch(TEXTS)
    body = {"model": MINILM, "input": [{"text": text} for text in TEXTS], "late_chunking": False}
    floats = [row["embedding"] for row in post(field, "/v1/embeddings", **body)["data"]]
    np.testing.assert_allclose(floats, vectors, atol=1e-6)
    found = post(field, "/v1/embeddings", **body, embedding_type="ubinary")
    expected = np.packbits(np.array(floats) > 0, axis=1)
    np.testing.assert_array_equal([row["embedding"] for row in found["data"]], expected)
    found = post(field, "/v1/embeddings", **body, embedding_type="base64")
    decoded = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in found["data"]]
    np.testing.assert_array_equal(np.float32(floats), decoded)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/multi-vector"])
def test_late_chunking_is_refused(field, path):
    body = {"model": MINILM, "input": TEXTS, "late_chunking": True}
    answer = field.post(path, json=body)
    assert answer.status_code == 400
    assert "late_chunking is not supported" in answer.text


def test_errors(field):
    path = "/v1/multi-vector"
    body = {"input": ["Zanzibar"]}
    assert "input is missing" in post(field, path, 400)["detail"]
    found = post(field, path, 400, **body, dimensions=5)
    assert "a dimension is for the model's dense vectors" in found["detail"]
    assert "embedding_type" in post(field, path, 400, **body, embedding_type="int4")["detail"]
    assert "no model" in post(field, path, 404, **body, model="other")["detail"]
    assert (
        "does not serve vectors of tokens"
        in post(field, path, 400, **body, model="splade-tiny")["detail"]
    )
    assert "input[0]" in post(field, path, 400, input=[{"image": "Zanzibar"}])["detail"]

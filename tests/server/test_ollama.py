"""Ollama's routes: unit vectors, names with a tag, its statuses."""

import numpy as np
import pytest
from server_process import MINILM

from tessera_onnx import TesseraDense

TEXTS = ["A cat sits on the mat.", "Bücher in Köln"]


def post(client, path, status=200, **body):
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.mark.parametrize("name", [MINILM, MINILM + ":latest"])
def test_embed_gives_the_vectors_of_the_library(field, name):
    found = post(field, "/api/embed", model=name, input=TEXTS, keep_alive="5m", options={})
    with TesseraDense(MINILM, threads=1) as model:
        np.testing.assert_allclose(found["embeddings"], model.encode_batch(TEXTS), atol=1e-6)
        assert found["prompt_eval_count"] == model.token_count(TEXTS).sum()
        old = post(field, "/api/embeddings", model=name, prompt=TEXTS[0])
        np.testing.assert_allclose(old["embedding"], model.encode(TEXTS[0]), atol=1e-6)
    assert found["model"] == name
    alone = post(field, "/api/embed", model=name, input=TEXTS[0])
    np.testing.assert_allclose(alone["embeddings"], found["embeddings"][:1], atol=1e-6)


def test_vectors_of_other_lengths_become_unit_vectors():
    from tessera_onnx.server.ollama import _unit

    np.testing.assert_allclose(_unit(np.float32([3, 4])), [0.6, 0.8])
    vector = np.float32([0.6, 0.8])
    assert _unit(vector) is vector
    np.testing.assert_array_equal(_unit(np.zeros(2, np.float32)), [0, 0])


@pytest.mark.parametrize("body", [{}, {"input": []}])
def test_no_input_gives_no_vectors(field, body):
    found = post(field, "/api/embed", model=MINILM, **body)
    assert (found["embeddings"], found["prompt_eval_count"]) == ([], 0)
    assert post(field, "/api/embeddings", model=MINILM) == {"embedding": []}


def test_errors(field):
    for path in ("/api/embed", "/api/embeddings", "/api/show"):
        assert "no model" in post(field, path, 404, model="other", input="a", prompt="a")["error"]
    long = "Zanzibar " * 400
    answer = post(field, "/api/embed", 400, model=MINILM, input=["a", long], truncate=False)
    assert answer["error"].startswith("input 1 has")
    assert "Zanzibar" not in str(answer)
    assert "384" in post(field, "/api/embed", 400, model=MINILM, input="a", dimensions=7)["error"]
    assert "input[1]" in post(field, "/api/embed", 400, model=MINILM, input=["a", 3])["error"]
    assert "prompt must be" in post(field, "/api/embeddings", 400, model=MINILM, prompt=3)["error"]


def test_models_are_listed_and_shown(field):
    names = [model["name"] for model in field.get("/api/tags").json()["models"]]
    assert MINILM + ":latest" in names
    shown = post(field, "/api/show", model=names[0])
    assert shown["capabilities"] == ["embedding"]
    assert shown["model_info"]["onnx.embedding_length"] == 384
    assert field.get("/api/version").json()["version"]

"""Cohere's embed routes: every form of a vector by its definition, roles, cuts and images."""

import base64
import io
import struct

import numpy as np
import pytest
from PIL import Image
from server_process import ARTIFACTS, MINILM

from tessera_onnx import TesseraDense, TesseraVision

TEXTS = ["A cat sits on the mat.", "Bücher in Köln"]
LONG = " ".join(f"number{i}" for i in range(400))


@pytest.fixture(scope="module")
def vectors():
    with TesseraDense(MINILM, threads=1) as model:
        return model.encode_batch(TEXTS)


def post(client, path="/v2/embed", status=200, **body):
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def bits(vector):
    """Eight signs a number, the first of them its highest bit."""
    signs = ["1" if x > 0 else "0" for x in vector]
    return [int("".join(signs[i : i + 8]), 2) for i in range(0, len(signs), 8)]


def test_every_form_of_a_vector(field, vectors):
    forms = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    found = post(field, model=MINILM, texts=TEXTS, embedding_types=forms)
    assert found["response_type"] == "embeddings_by_type"
    made = found["embeddings"]
    assert set(made) == set(forms)
    for i, vector in enumerate(vectors):
        floats = made["float"][i]
        np.testing.assert_allclose(floats, vector, atol=1e-6)
        assert bits(floats) == made["ubinary"][i]
        assert [n - 128 for n in bits(floats)] == made["binary"][i]
        decoded = struct.unpack(f"<{len(floats)}f", base64.b64decode(made["base64"][i]))
        np.testing.assert_array_equal(np.float32(decoded), np.float32(floats))
        peak = max(map(abs, floats))
        exact = [127 * x / peak for x in floats]
        np.testing.assert_allclose(made["int8"][i], exact, atol=0.5001)
        assert [n + 128 for n in made["int8"][i]] == made["uint8"][i]


def test_the_first_version_gives_a_bare_list(field, vectors):
    found = post(field, "/v1/embed", texts=TEXTS)
    assert found["response_type"] == "embeddings_floats"
    assert found["texts"] == TEXTS
    np.testing.assert_allclose(found["embeddings"], vectors, atol=1e-6)
    typed = post(field, "/v1/embed", texts=TEXTS, embedding_types=["float"])
    assert typed["embeddings"] == {"float": found["embeddings"]}
    assert set(post(field, texts=TEXTS)["embeddings"]) == {"float"}
    tokens = post(field, texts=TEXTS)["meta"]["billed_units"]["input_tokens"]
    with TesseraDense(MINILM, threads=1) as model:
        assert tokens == model.token_count(TEXTS).sum()


def test_truncate_names_the_side_that_is_lost(field):
    tei = {"inputs": LONG, "truncation_direction": "left"}
    left = field.post("/embed", json=tei).json()
    right = field.post("/embed", json={"inputs": LONG}).json()
    assert left != right  # test_tei.py compares both with the tokenizers library
    assert post(field, texts=[LONG], truncate="START")["embeddings"]["float"] == left
    assert post(field, texts=[LONG], truncate="END")["embeddings"]["float"] == right
    answer = post(field, status=400, texts=["a", LONG], truncate="NONE")
    assert "input 1 has" in answer["message"]


def uri(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_images_are_data_uris(field):
    random = np.random.default_rng(3)
    images = random.integers(0, 255, (2, 40, 30, 3), np.uint8)
    uris = list(map(uri, images))
    found = post(field, model="test-clip", images=uris, input_type="image")
    with TesseraVision(path=ARTIFACTS / "clip", threads=1) as model:
        expected = [model.encode_document(image)[0] for image in images]
    np.testing.assert_allclose(found["embeddings"]["float"], expected, atol=1e-5)
    assert found["meta"]["billed_units"] == {"images": 2}


SECRET = "Zanzibar"
WRONG = [
    ({}, 400, "texts is missing"),
    ({"texts": SECRET}, 400, "texts must be a list"),
    ({"texts": [SECRET, None]}, 400, "texts[1] must be a text"),
    ({"texts": [SECRET], "embedding_types": ["float", SECRET]}, 400, "embedding_types must"),
    ({"texts": [SECRET], "embedding_types": []}, 400, "embedding_types must"),
    ({"texts": [SECRET], "input_type": SECRET}, 400, "input_type must be one of"),
    ({"texts": [SECRET], "output_dimension": 7}, 400, "384"),
    ({"texts": [SECRET], "truncate": "MIDDLE"}, 400, "truncate must be one of"),
    ({"texts": [SECRET], "model": "other"}, 404, "no model of that name"),
    ({"texts": [SECRET], "model": "test-reranker"}, 400, "does not serve dense vectors"),
    ({"inputs": [{"content": [{"type": "text", "text": SECRET}]}]}, 400, "inputs is not"),
    ({"images": [f"https://{SECRET}.example/a.png"]}, 400, "no address is fetched"),
    ({"images": [f"data:image/png;base64,%%{SECRET}"]}, 400, "images[0] is no base64"),
    ({"images": ["data:image/png;base64,AAAA"]}, 400, "image is no PNG"),
    (
        {"images": ["data:image/png;base64,AAAA"], "model": MINILM},
        400,
        "does not serve vectors of images",
    ),
]


@pytest.mark.parametrize(("body", "status", "words"), WRONG)
def test_errors(field, body, status, words):
    for path in ("/v1/embed", "/v2/embed"):
        answer = field.post(path, json=body)
        assert answer.status_code == status, answer.text
        assert set(answer.json()) == {"message"}
        assert words in answer.json()["message"]
        assert SECRET not in answer.text

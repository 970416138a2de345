"""What all protocols share: roles, cuts, one vector an input, statuses and error bodies."""

import base64
import io

import numpy as np
import orjson
import pytest
from PIL import Image
from server_process import ARTIFACTS, MINILM, wait_until_ready
from starlette.testclient import TestClient

from tessera_onnx import TesseraDense, TesseraVision
from tessera_onnx.errors import ConfigError, EncodingError, TimedOut
from tessera_onnx.server import cohere, inference, jina, ollama, openai, rerank, tei, weaviate
from tessera_onnx.server.app import MODULES, Limits, app
from tessera_onnx.server.failures import Loading, TooLarge, UnknownModel, WrongKey, failure
from tessera_onnx.server.work import Overloaded

TEXTS = ["two cats", "a dog"]
NAME = "test-prompts"
QUERIES = {
    "openai": ("/v1/embeddings", {"input": TEXTS, "input_type": "query"}),
    "jina": ("/v1/embeddings", {"input": TEXTS, "task": "retrieval.query"}),
    "nvidia": ("/v1/embeddings", {"input": TEXTS, "model": f"{NAME}-query"}),
    "prompt": ("/v1/embeddings", {"input": TEXTS, "prompt": "query: "}),
    "tei": ("/embed", {"inputs": TEXTS, "prompt_name": "query"}),
    "root": ("/", {"inputs": TEXTS, "prompt_name": "query"}),
    "cohere": ("/v2/embed", {"texts": TEXTS, "input_type": "search_query"}),
    "ollama": ("/api/embed", {"input": TEXTS, "model": f"{NAME}-query:latest"}),
}


def vectors(answer):
    """The vectors of an answer, wherever its protocol has them."""
    if isinstance(answer, list):
        return answer
    if "data" in answer:
        return [row["embedding"] for row in answer["data"]]
    found = answer["embeddings"]
    return found["float"] if isinstance(found, dict) else found


@pytest.mark.parametrize("dialect", QUERIES)
def test_roles_come_through(field, dialect):
    path, body = QUERIES[dialect]
    found = field.post(path, json={"model": NAME, **body})
    assert found.status_code == 200, found.text
    with TesseraDense(path=ARTIFACTS / "prompts", threads=1) as model:
        queries = model.encode_query(TEXTS)
        assert abs(queries - model.encode_batch(TEXTS)).max() > 1e-3
    np.testing.assert_allclose(vectors(found.json()), queries, atol=1e-5)


LONG = " ".join(f"number{i}" for i in range(400))
LONG_TEXTS = {
    "/v1/embeddings": {"input": ["a", LONG]},
    "/embed": {"inputs": ["a", LONG]},
    "/v2/embed": {"texts": ["a", LONG]},
    "/v1/embed": {"texts": ["a", LONG]},
    "/api/embed": {"input": ["a", LONG]},
}


@pytest.mark.parametrize("path", LONG_TEXTS)
def test_a_cut_is_the_same_in_every_protocol(field, path):
    body = {"model": MINILM, **LONG_TEXTS[path]}

    def post(**more):
        return field.post(path, json=body | more)

    start = post(truncate="START")
    left = vectors(post(truncation_direction="left").json())
    np.testing.assert_allclose(vectors(start.json()), left, atol=1e-6)
    assert start.headers["x-truncated"] == "1"
    end = vectors(post().json())
    np.testing.assert_allclose(vectors(post(truncate=True).json()), end, atol=1e-6)
    np.testing.assert_allclose(vectors(post(truncate="END").json()), end, atol=1e-6)
    assert abs(np.array(end[1]) - vectors(start.json())[1]).max() > 1e-3
    for none in (False, "NONE"):
        answer = post(truncate=none)
        assert answer.status_code in {400, 422}
        assert "input 1 has" in answer.text
        assert "number7" not in answer.text


def test_a_model_of_images_has_flat_vectors_for_texts(field):
    with TesseraVision(path=ARTIFACTS / "clip", threads=1) as model:
        expected = np.concatenate([model.encode_query(text) for text in TEXTS])
    for path, body in (
        ("/v1/embeddings", {"input": TEXTS}),
        ("/embed", {"inputs": TEXTS}),
        ("/v2/embed", {"texts": TEXTS}),
    ):
        found = field.post(path, json={"model": "test-clip", **body}).json()
        np.testing.assert_allclose(vectors(found), expected, atol=1e-5)


def test_several_vectors_an_image_are_refused(field):
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(file, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    answer = field.post("/v2/embed", json={"images": [uri], "model": "tessera-page-mini"})
    assert answer.status_code == 400
    assert "vectors for input 0, and this route gives one" in answer.json()["message"]


ERRORS = [
    ConfigError("words"), WrongKey("words"), UnknownModel("words"), TooLarge("words"),
    Overloaded("words", 3), EncodingError("words"), Loading("words"), TimedOut("words"),
]  # fmt: skip
USUAL = [400, 401, 404, 413, 429, 500, 503, 504]
# huggingface/text-embeddings-inference, router/src/http/server.rs: Validation is 422, Backend 424.
OF_TEI = [422, 401, 404, 413, 429, 424, 503, 504]
STATUSES = [
    (openai.OPENAI, USUAL, "error"),
    (tei.TEI, OF_TEI, "error"),
    (rerank.SHARED, OF_TEI, "message"),
    (rerank.RERANK, USUAL, "message"),
    (cohere.COHERE, USUAL, "message"),
    (jina.JINA, USUAL, "detail"),
    # ollama/ollama, server/routes.go: a full queue is 503.
    (ollama.OLLAMA, [400, 401, 404, 413, 503, 500, 503, 504], "error"),
    (inference.INFERENCE, USUAL, "error"),
    (weaviate.WEAVIATE, USUAL, "error"),
]


@pytest.mark.parametrize(("dialect", "statuses", "key"), STATUSES)
def test_statuses_and_bodies(dialect, statuses, key):
    for error, status in zip(ERRORS, statuses, strict=True):
        answer = dialect.answer(failure(error))
        assert answer.status == status, error
        found = orjson.loads(answer.body)[key]
        assert (found["message"] if isinstance(found, dict) else found) == "words"
    assert dialect.answer(failure(ERRORS[4])).headers == {"retry-after": "3"}


def test_tei_names_its_types_of_errors():
    types = [orjson.loads(tei.TEI.answer(failure(e)).body)["error_type"] for e in ERRORS]
    assert types[0] == "Validation"
    assert types[4:7] == ["Overloaded", "Backend", "Unhealthy"]


def test_limits_hold_on_every_route():
    with TestClient(app(MINILM, limits=Limits(texts=2, body=200), threads=1)) as client:
        wait_until_ready(client)
        many = ["a", "b", "c"]
        for path, body in (
            ("/embed", {"inputs": many}),
            ("/embed", {"inputs": [[1], [1], [1]]}),
            ("/embed_all", {"inputs": many}),
            ("/similarity", {"inputs": {"source_sentence": "a", "sentences": many}}),
            ("/tokenize", {"inputs": many}),
            ("/decode", {"ids": [[1], [1], [1]]}),
            ("/rerank", {"query": "a", "texts": many}),
            ("/v2/rerank", {"query": "a", "documents": many}),
            ("/v2/embed", {"texts": many}),
            ("/v1/multi-vector", {"input": many}),
            ("/api/embed", {"input": many}),
        ):
            answer = client.post(path, json=body)
            assert answer.status_code in {400, 422}, path
            assert "may have 2" in answer.text
        for module in MODULES:
            for route in module.ROUTES:
                if route.method == "POST" and route.guard == "key":
                    path = route.path.replace("{name:path}", MINILM)
                    assert client.post(path, content=b"x" * 201).status_code == 413, path

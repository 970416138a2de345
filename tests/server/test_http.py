"""Limits, keys, health, metrics and logs of the server, over HTTP."""

import asyncio
import gzip
import json
import logging
import sys
import threading
import time

import numpy as np
import pytest
from server_process import MINILM, wait_until_ready
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

import tessera_onnx
from tessera_onnx.errors import ConfigError, EncodingError
from tessera_onnx.server.app import Limits, app
from tessera_onnx.server.work import Item, Lane, Work

SECRET = "zebra marmalade"  # a text of a request, which nothing may repeat


def post(client, path="/v1/embeddings", status=200, headers=None, **body):
    answer = client.post(path, json=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer


def test_the_vectors_are_those_of_the_library(client):
    texts = ["a short text", "", "word " * 400, "ü 漢字"]
    data = post(client, input=texts, model=MINILM).json()["data"]
    with tessera_onnx.TesseraDense(MINILM, on_long="truncate") as model:
        expected = model.encode_batch(texts)
    found = np.array([row["embedding"] for row in data], np.float32)
    assert [row["index"] for row in data] == [0, 1, 2, 3]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_compressed_bodies_are_refused_in_a_sentence(client):
    body = gzip.compress(b'{"input": "a"}')
    answer = client.post("/v1/embeddings", content=body, headers={"content-encoding": "gzip"})
    assert answer.status_code == 400
    assert "compressed bodies are not read" in answer.json()["error"]["message"]
    post(client, input="a", headers={"content-encoding": "identity"})


def test_what_was_cut_is_told(client):
    answer = post(client, input=["short", "word " * 400])
    assert answer.headers["x-truncated"] == "1"
    assert answer.json()["usage"]["prompt_tokens"] == 3 + 256
    refused = post(client, input=["short", "word " * 400], truncate=False, status=400)
    message = refused.json()["error"]["message"]
    assert message.startswith("input 1 has 402 tokens, the model reads 256")


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 400, "the body is no JSON"),
        (b"[1]", 400, "the body must be a JSON object, got a list"),
        (b'{"input": "\\ud800"}', 400, "the body is no JSON"),
        (b'{"model": "x"}', 400, "input is missing"),
        (b'{"input": []}', 400, "input is an empty list"),
        (b'{"input": {"a": 1}}', 400, "input must be a text or a list of texts"),
        (b'{"input": ["a", null]}', 400, "input[1] must be a text, got null"),
        (b'{"input": [[1, 2], [3]]}', 400, "check_embedding_ctx_length=False"),
        (b'{"input": [9906]}', 400, "check_embedding_ctx_length=False"),
        (b'{"input": "a", "model": 3}', 400, "model must be a text, got a number"),
        (b'{"input": "a", "model": "nobody"}', 404, "no model of that name is served"),
        (b'{"input": "a", "dimensions": 0}', 400, "dimensions must be a whole number"),
        (b'{"input": "a", "dimensions": true}', 400, "dimensions must be a whole number"),
        (b'{"input": "a", "encoding_format": "hex"}', 400, "one of float, base64"),
        (b'{"input": "a", "input_type": "cat"}', 400, "input_type must be one of"),
    ],
)
def test_a_wrong_request_has_one_clear_sentence(client, body, status, sentence):
    answer = client.post("/v1/embeddings", content=body)
    assert answer.status_code == status
    assert sentence in answer.json()["error"]["message"]


def test_a_name_may_end_with_the_role(client):
    plain = post(client, input=SECRET, model=f"{MINILM}-query").json()
    assert plain["model"] == MINILM
    assert post(client, input=SECRET, model="text-embedding-3-small").json()["model"] == MINILM


def test_no_text_of_a_request_is_repeated(client, caplog):
    caplog.set_level(logging.DEBUG)
    texts = [SECRET, f"{SECRET} " * 400, 7]
    for body in (
        {"input": texts},
        {"input": texts[:2], "truncate": False},
        {"input": texts[:2], "model": SECRET},
        {"input": texts[:2], "input_type": SECRET},
        {"input": texts[:2], "prompt": SECRET},
        {"input": SECRET},
    ):
        answer = client.post("/v1/embeddings", json=body)
        assert SECRET not in answer.text
    assert SECRET not in client.get("/metrics").text
    assert SECRET not in caplog.text


def test_a_request_is_a_line_of_the_log(client, caplog):
    caplog.set_level(logging.INFO, "tessera_onnx.server.access")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = post(client, input=["a", "b"], headers={"traceparent": trace, "x-request-id": "me-7"})
    assert answer.headers["x-request-id"] == "me-7"
    line = caplog.records[-1].fields
    assert line["trace_id"] == trace[3:35]
    assert (line["route"], line["status"], line["request_id"]) == ("/v1/embeddings", 200, "me-7")
    assert (line["model"], line["kind"], line["inputs"], line["tokens"]) == (MINILM, "dense", 2, 6)


def test_metrics_exist_before_they_have_a_value_and_count():
    with TestClient(app(MINILM)) as client:
        wait_until_ready(client)
        series = 'tessera_requests_total{route="/v1/embeddings",model="all-minilm-l6-v2",status='
        assert f'{series}"200"}} 0' in client.get("/metrics").text
        post(client, input=["a b c", "word " * 400])
        post(client, input=["a"], dimensions=1, status=400)
        text = client.get("/metrics").text
    assert f'{series}"200"}} 1' in text
    assert 'tessera_tokens_total{model="all-minilm-l6-v2",kind="dense"} 261' in text
    assert 'tessera_truncated_total{model="all-minilm-l6-v2",kind="dense"} 1' in text
    assert "tessera_batch_tokens_sum 261" in text
    assert 'tessera_dropped_total{reason="expired"} 0' in text
    assert "tessera_queue_tokens 0" in text


def test_keys_are_asked_for_on_all_routes_but_those_of_probes():
    keys = ["first-key", "second-key"]
    with TestClient(app(MINILM, keys=keys)) as client:
        wait_until_ready(client)
        for path in ("/livez", "/readyz", "/health", "/metrics", "/"):
            assert client.get(path).status_code == 200
        for given in (None, "Bearer wrong", "Bearer ", "first-key-and-more"):
            headers = {} if given is None else {"authorization": given}
            answer = post(client, input="a", status=401, headers=headers)
            assert answer.json()["error"]["code"] == "key"
            assert answer.headers["www-authenticate"] == "Bearer"
        for key in keys:
            post(client, input="a", headers={"authorization": f"Bearer {key}"})
            post(client, input="a", headers={"api-key": key})


def test_a_model_that_cannot_be_added_is_said_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mmh3", None)
    (tmp_path / "model.toml").write_text("no model")
    headers = {"authorization": "Bearer admin"}
    with TestClient(app(MINILM, admin_keys=["admin"])) as client:
        for model, status, words in (
            (str(tmp_path), 400, "model.toml"),
            (3, 400, "model must be a text"),
            ("", 400, "model is missing"),
            ("no-such-model", 404, "no model is named"),
            ("bm25", 501, "[lexical]"),
        ):
            answer = post(client, "/admin/models", model=model, status=status, headers=headers)
            assert words in answer.json()["error"]


def test_a_model_whose_extra_is_missing_is_no_model_that_is_being_opened(monkeypatch):
    monkeypatch.setitem(sys.modules, "mmh3", None)
    with TestClient(app("bm25")) as client:
        end = time.monotonic() + 60
        while "being opened" in (answer := client.get("/readyz")).text:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert answer.status_code == 503
    assert answer.text.startswith("bm25: lexical models need")


@pytest.mark.parametrize("options", [{"key": "secret"}, {"admin_key": "a"}, {"port": 8080}])
def test_an_option_that_is_none_is_refused(options):
    """A server without keys is open to everybody: a wrong name of the option must not make one."""
    with pytest.raises(TypeError, match="no option of the server"):
        app(MINILM, **options)


def test_a_model_comes_and_goes_with_the_admin_key_only():
    with TestClient(app(MINILM, admin_keys=["admin"])) as client:
        wait_until_ready(client)
        post(client, "/admin/models", model="splade-tiny", status=401)
        headers = {"authorization": "Bearer admin"}
        added = post(client, "/admin/models", model="splade-tiny", status=201, headers=headers)
        assert added.json()["kinds"] == ["sparse"]
        names = [each["id"] for each in client.get("/v1/models").json()["data"]]
        assert names == [MINILM, "splade-tiny"]
        post(client, "/admin/models", model="splade-tiny", status=400, headers=headers)
        post(client, "/admin/models", model="no-such-model", status=404, headers=headers)
        assert client.delete("/admin/models/splade-tiny", headers=headers).status_code == 200
        assert client.get("/v1/models/splade-tiny").status_code == 404
        post(client, input="a")
        assert client.get("/readyz").status_code == 200


def test_nobody_adds_models_without_an_admin_key(client):
    post(client, "/admin/models", model="splade-tiny", status=401)


def test_limits_are_told_and_kept():
    limits = Limits(texts=3, tokens=40, body=2000, queue_tokens=50)
    with TestClient(app(MINILM, limits=limits)) as client:
        wait_until_ready(client)
        info = client.get("/info").json()
        told = [info[name] for name in ("max_client_batch_size", "max_body", "max_queue_tokens")]
        assert told == [3, 2000, 50]
        many = post(client, input=["a"] * 4, status=400).json()["error"]["message"]
        assert "input has 4 items, a request may have 3" in many
        long = post(client, input=["a " * 60], status=400).json()["error"]["message"]
        assert "the request has 62 tokens, at most 40 are taken" in long
        large = post(client, input="x" * 3000, status=413).json()["error"]["message"]
        assert "the server reads 2000" in large

        def parts():
            for _ in range(30):
                yield b"x" * 100

        streamed = client.post("/v1/embeddings", content=parts())
        assert streamed.status_code == 413


def test_a_full_queue_answers_429_at_once_and_nothing_of_the_request_runs():
    with TestClient(app(MINILM, limits=Limits(queue_tokens=30), threads=1)) as client:
        wait_until_ready(client)
        queue = client.app.state.server.queue
        go_on = threading.Event()
        lane = Lane(lambda items, *, parallel: [go_on.wait(30) for _ in items], alone=True)
        try:
            for running, waiting in ((1, 0), (1, 20)):
                queue.submit(Work([Item(None, 20, lane)]))
                end = time.monotonic() + 30
                while (queue.running, queue.tokens) != (running, waiting):
                    assert time.monotonic() < end
            refused = post(client, input="word " * 15, status=429)
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "overloaded"
            assert (queue.running, queue.tokens, len(queue)) == (1, 20, 1)
        finally:
            go_on.set()
        never = post(client, input=["word " * 20] * 2, status=400)  # no use to try again
        assert "44 tokens, at most 30 are taken" in never.json()["error"]["message"]
        assert "--max-queue-tokens" in never.json()["error"]["message"]
        post(client, input=["word " * 20])


def test_a_timeout_is_answered_in_time(client):
    texts = [f"{i} " + "word " * 200 for i in range(400)]
    start = time.monotonic()
    late = post(client, input=texts, headers={"x-timeout-ms": "50"}, status=504)
    assert time.monotonic() - start < 20
    assert late.headers["x-should-retry"] == "false"
    for wrong in ("soon", "-1", "0", "1.5", "9" * 20):
        post(client, input="a", headers={"x-timeout-ms": wrong}, status=400)
    post(client, input="a", headers={"x-priority": "first"}, status=400)
    post(client, input="a", headers={"x-priority": "bulk", "x-timeout-ms": "60000"})


def test_a_model_that_fails_makes_the_server_unready_until_it_runs_again(monkeypatch):
    with TestClient(app(MINILM), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        session = client.app.state.server.registry.all()[0].model._session
        with monkeypatch.context() as patched:

            def fails(*_, **__):
                raise EncodingError("ONNX Runtime failed")

            patched.setattr(session, "run", fails)
            assert post(client, input="a", status=500).json()["error"]["type"] == "fault"
            unready = client.get("/readyz")
            assert unready.status_code == 503
            assert "fails" in unready.text
            assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 200


def test_a_server_that_loads_says_so(monkeypatch):
    held = threading.Event()
    made = app(MINILM)
    registry = made.state.server.registry
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda: held.wait(30) and load())
    with TestClient(made) as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 503
        assert "1 of 1 models are being opened" in client.get("/readyz").text
        waiting = post(client, input="a", status=503)
        assert waiting.headers["retry-after"] == "5"
        held.set()
        wait_until_ready(client)
        post(client, input="a")


def test_an_application_needs_a_model():
    with pytest.raises(ConfigError, match="at least one model"):
        app()


def test_it_mounts_in_another_application_which_passes_no_start_on():
    """Starlette and FastAPI run no lifespan of what is mounted: the first request starts it."""
    with TestClient(Starlette(routes=[Mount("/embed-api", app(MINILM))])) as client:
        assert client.get("/embed-api/livez").status_code == 200
        end = time.monotonic() + 60
        while client.get("/embed-api/readyz").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.05)
        post(client, "/embed-api/v1/embeddings", input="a")


def test_a_client_that_leaves_is_dropped(client):
    """Its texts leave the queue, and are counted."""
    application, server = client.app, client.app.state.server
    body = json.dumps({"input": [f"{i} " + "word " * 240 for i in range(300)]}).encode()

    async def leave():
        sent = []
        messages = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": body, "more_body": False})

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/v1/embeddings", "raw_path": b"",
            "query_string": b"", "root_path": "", "scheme": "http", "headers": [],
            "client": None, "server": None, "http_version": "1.1", "asgi": {"version": "3.0"},
        }  # fmt: skip
        task = asyncio.create_task(application(scope, messages.get, send))
        end = time.monotonic() + 30
        while not len(server.queue):
            assert time.monotonic() < end
            await asyncio.sleep(0.005)
        messages.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(task, 30)
        return sent

    assert asyncio.run(leave()) == []
    assert len(server.queue) == server.queue.tokens == 0
    text = client.get("/metrics").text
    assert 'status="499"' in text
    dropped = next(
        line for line in text.splitlines() if line.startswith('tessera_dropped_total{reason="disc')
    )
    assert float(dropped.split()[-1]) > 100

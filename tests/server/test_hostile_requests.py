"""Requests that are wrong in some way: no fault, no text repeated, nothing left behind."""

import asyncio
import json
import logging
import socket
import threading
import time

import numpy as np
import orjson
import pytest
from fuzz.hostile import Target, every, request
from server_process import MINILM, wait_until_ready
from starlette.testclient import TestClient

from tessera_onnx.errors import ConfigError
from tessera_onnx.server import fields, http, protocol
from tessera_onnx.server.app import Limits, Server, app
from tessera_onnx.server.failures import WrongKey
from tessera_onnx.server.fields import BadRequest, Fields
from tessera_onnx.server.registry import Registry
from tessera_onnx.server.work import Overloaded


@pytest.fixture(scope="module")
def target():
    found = Target()
    yield found
    found.close()


def test_wrong_requests_are_answered_and_the_server_goes_on(target):
    """A part of the requests of tests/fuzz/hostile.py; the fuzzer sends all and changes them."""
    for data in every()[:1500]:
        target(data)
    target.good()


def test_a_shape_of_many_numbers_is_refused_at_once(target):
    tensor = {"name": "text", "datatype": "BYTES", "data": ["a"], "shape": [2**63 - 1] * 10_000}
    start = time.process_time()
    target(request(f"/v2/models/{MINILM}/infer", json.dumps({"inputs": [tensor]}).encode()))
    assert time.process_time() - start < 1


@pytest.mark.parametrize("header", ["00-" + "zebra" * 11, "00-" + "g" * 32 + "-" + "0" * 19, "00"])
def test_a_traceparent_that_is_none_is_not_logged(client, caplog, header):
    caplog.set_level(logging.INFO, "tessera_onnx.server.access")
    client.post("/v1/embeddings", json={"input": "a"}, headers={"traceparent": header})
    assert "trace_id" not in caplog.records[-1].fields


def test_a_request_id_is_one_word(client):
    """In a log of text it could look like other fields."""
    for wrong in ("a status=200", "x" * 129, ""):
        answer = client.get("/livez", headers={"x-request-id": wrong})
        assert answer.headers["x-request-id"] != wrong


def test_texts_that_only_the_tokenizer_would_read_are_bounded():
    """A text of 20 MB took 40 seconds and 2 GB, though 256 tokens of it were encoded."""
    with TestClient(app(MINILM, "splade-tiny", limits=Limits(tokens=1000))) as client:
        wait_until_ready(client)
        text = "ab " * 1400
        assert client.get("/info").json()["max_characters"] == 4000
        for path, body in (
            ("/v1/embeddings", {"input": text}),
            ("/embed", {"inputs": text}),
            ("/embed", {"inputs": [7] * 4001}),
            ("/embed_all", {"inputs": text}),
            ("/tokenize", {"inputs": text[:300]}),
            ("/decode", {"ids": [7] * 126}),
            ("/v1/encode", {"texts": [text]}),
            ("/v1/multi-vector", {"input": text}),
            ("/v1/score", {"query": text, "documents": ["a"]}),
            ("/rerank", {"query": "a", "texts": [text]}),
            ("/v1/explain", {"query": text, "document": "a"}),
            ("/v1/tokens", {"texts": [text]}),
            ("/v1/tokens", {"ids": [7] * 2049, "model": "splade-tiny"}),
        ):
            answer = client.post(path, json=body)
            assert answer.status_code in {400, 422}, (path, answer.text)
            assert "send several requests" in answer.text
        assert client.post("/v1/embeddings", json={"input": text[:3999]}).status_code == 200


def test_an_answer_of_too_many_numbers_is_refused_before_it_is_computed(client, monkeypatch):
    monkeypatch.setattr("tessera_onnx.server.app.NUMBERS", 384 * 5)
    for path, body in (
        ("/embed_all", {"inputs": ["a b c d"]}),
        ("/v1/multi-vector", {"input": "a b c d " * 8}),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code in {400, 422}, answer.text
        assert "numbers, at most 1920 are given" in answer.text
    assert client.post("/embed_all", json={"inputs": ["a b"]}).status_code == 200


def test_a_body_of_very_many_values_is_refused(monkeypatch):
    monkeypatch.setattr(fields, "NESTED", 10)
    monkeypatch.setattr(fields, "VALUES", 30)
    for body in (b'{"a":' + b"[" * 10 + b"]" * 10 + b"}", b'{"a":[' + b"1," * 40 + b"1]}"):
        with pytest.raises(BadRequest, match="more than 10 lists or 30 values"):
            Fields.parse(body)
    text = '[{,\\"' * 10  # marks inside of a text do not count
    assert Fields.parse(json.dumps({"input": text}).encode()).text("input") == text


def test_long_lists_are_written_in_parts_as_they_were():
    rows = np.arange(30, dtype=np.float32).reshape(10, 3) / 7
    value = {"a": rows, "b": list(rows), "c": [{"d": rows[0], "e": "\u00fc"}] * 9, "f": [[rows]]}
    whole = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    assert http.Answer.of(value).body == whole


def test_a_slash_at_the_end_of_a_path_does_not_matter(client):
    for path in ("/v1/embeddings/", "/v1/embeddings//"):
        assert client.post(path, json={"input": "a"}, follow_redirects=False).status_code == 200
    for path in ("/nobody/", "//"):
        answer = client.get(path, headers={"host": "elsewhere"}, follow_redirects=False)
        assert answer.status_code in {200, 404}
        assert "location" not in answer.headers


def made(**options):
    return Server(Registry([MINILM], {}, {}), Limits(**options), 1)


def test_bytes_count_when_they_have_come():
    """Else eight clients that promise large bodies and send none keep all others out."""
    server = made(body=1000, pending_bytes=1500)
    with server.reading({"content-length": "1000"}), server.reading({"content-length": "1000"}):
        pass
    with server.reading({"content-length": "1000"}) as count:
        count(800)
        with pytest.raises(Overloaded), server.reading({"content-length": "900"}):
            pass
        with server.reading({"transfer-encoding": "chunked"}) as other, pytest.raises(Overloaded):
            other(1800)
        with server.holding() as answer:
            answer(700)
            with pytest.raises(Overloaded), server.reading({"content-length": "1"}):
                pass
    with server.reading({"content-length": "1000"}):
        pass
    assert server.requests == 0


def test_keys_are_bytes_and_none_is_empty():
    server = app(MINILM, keys=["schl\u00fcssel"]).state.server
    right, wrong = ("schl\u00fcssel".encode(code).decode("latin-1") for code in ("utf8", "latin1"))
    for given in (f"Bearer {right}", f"bearer {right} "):
        server.check_key({"authorization": given}, "key")
    server.check_key({"authorization": "Basic eDp5", "api-key": right}, "key")
    for headers in (
        {"authorization": f"Bearer {wrong}"},
        {"authorization": f"Basic {right}"},
        {"authorization": "Bearer", "api-key": right},
        {"api-key": wrong},
        {},
    ):
        with pytest.raises(WrongKey):
            server.check_key(headers, "key")
    with pytest.raises(ConfigError, match="admin_keys holds an empty key"):
        app(MINILM, admin_keys=[""])
    with pytest.raises(TypeError, match="keys must be a list"):
        app(MINILM, keys="secret")


def test_a_model_that_is_dropped_answers_what_it_has_taken():
    with TestClient(app(MINILM, admin_keys=["a"])) as client:
        wait_until_ready(client)
        server = client.app.state.server
        texts = [f"{i} " + "word " * 200 for i in range(12)]
        answers = []

        def ask():
            answers.append(client.post("/v1/embeddings", json={"input": texts}))

        asking = threading.Thread(target=ask)
        asking.start()
        while not server.queue.running:
            assert asking.is_alive()
            time.sleep(0.001)
        headers = {"authorization": "Bearer a"}
        assert client.delete(f"/admin/models/{MINILM}", headers=headers).status_code == 200
        asking.join()
        assert answers[0].status_code == 200
        assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 404
        assert client.delete(f"/admin/models/{MINILM}", headers=headers).status_code == 404


def test_a_forecast_ends_when_its_client_has_left():
    """It is one item of the queue, and would keep a thread for minutes."""
    with TestClient(app("tessera-bolt-mini", threads=1)) as client:
        wait_until_ready(client)
        body = {"series": [[1.0, 2.0, 3.0, 4.0] * 20] * 64, "horizon": 60_000}
        late = client.post("/v1/forecast", json=body, headers={"x-timeout-ms": "100"})
        assert late.status_code == 504
        start = time.monotonic()
        assert client.post("/v1/forecast", json={"series": [[1, 2, 3]], "horizon": 2}).is_success
        assert time.monotonic() - start < 30


def test_a_loop_that_is_closed_does_not_end_the_queue():
    """An answer for a loop that is gone is dropped, and the thread goes on."""
    with TestClient(app(MINILM, threads=1)) as client:
        wait_until_ready(client)
        server = client.app.state.server
        served = server.registry.all()[0]
        call = http.Call(server, {"headers": []})

        async def leave():
            task = asyncio.ensure_future(server.run(served.texts(["word " * 200] * 10), call))
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)
            await task

        loop = asyncio.new_event_loop()
        task = loop.create_task(leave())
        with pytest.raises(RuntimeError, match="stopped before"):
            loop.run_until_complete(task)
        loop.close()
        task.get_coro().close()
        end = time.monotonic() + 60
        while server.queue.running or len(server.queue):
            assert time.monotonic() < end
            time.sleep(0.01)
        assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 200


HEAD = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\n"
BODY = b'{"input": "a"}'


def received(port, *sent, seconds=30):
    """What a server says to some bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        found = b""
        try:
            for part in sent:
                connection.sendall(part)
            while part := connection.recv(1 << 16):
                found += part
        except (BrokenPipeError, ConnectionResetError):
            pass
        return found


@pytest.mark.posix
def test_a_head_without_end_is_cut(serve):
    """The parser would keep all of it."""
    server = serve(MINILM)
    flood = [b"x: " + b"a" * 60_000 + b"\r\n"] * 20
    chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n"
    for sent in (
        [b"GET /livez HTTP/1.1\r\nx: ", b"a" * 200_000],
        [b"GET /", b"a" * 200_000],
        [b"GET /livez HTTP/1.1\r\n", *flood],
        [chunked + b"0\r\n", *flood],
    ):
        found = received(server.port, *sent)  # a reset may overtake it
        assert not found or found.endswith(b"\r\n\r\nThe head of the request is too large.")
    many = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY.ljust(100_000)) + b"0\r\n\r\n"
    last = HEAD + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n" + many
    assert received(server.port, last).startswith(b"HTTP/1.1 200 OK")
    server.stop()


@pytest.mark.posix
def test_requests_in_a_row_are_answered_and_many_are_refused(serve):
    """Without a bound one connection took a gigabyte, and others waited for seconds."""
    server = serve(MINILM)
    one = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
    last = b"GET /livez HTTP/1.1\r\nconnection: close\r\n\r\n"
    assert received(server.port, one * 19 + last).count(b"200 OK") == 20
    found = received(server.port, one * 2000 + last)
    assert found.count(b"200 OK") < 100
    code, log = server.stop()
    assert code == 0
    assert "Traceback" not in log


class Transport(asyncio.Transport):
    """A connection that keeps what is written and says whether it was cut."""

    def __init__(self):
        super().__init__()
        self.cut = self.closed = False
        self.written = b""

    def write(self, data):
        self.written += data

    def abort(self):
        self.cut = True

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed or self.cut


def test_each_header_of_a_connection_has_its_time(monkeypatch):
    """Also the second one, and what is left of a body whose answer is sent."""
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.2)
    second = b"GET /livez HTTP/1.1\r\n\r\nGET /li"
    rest = HEAD + b"content-length: 99999999999\r\n\r\n{"
    well = HEAD + b"content-length: 14\r\n\r\n" + BODY

    async def cut_after(*parts):
        import uvicorn

        async def answer(scope, receive, send):
            if scope["headers"][-1][1] == b"14":
                await asyncio.sleep(0.3)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        config = uvicorn.Config(answer, log_config=None)
        config.load()
        connection = protocol.Protocol(config, uvicorn.server.ServerState(), {})
        transport = Transport()
        connection.connection_made(transport)
        for part in parts:
            connection.data_received(part)
            await asyncio.sleep(0.12)
        await asyncio.sleep(0.35)
        found = transport.cut
        connection.connection_lost(None)
        return found

    assert asyncio.run(cut_after(b"GET /li"))
    assert asyncio.run(cut_after(second))
    assert asyncio.run(cut_after(rest, b"x", b"y"))
    assert not asyncio.run(cut_after(well))

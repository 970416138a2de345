"""`tessera serve` as a process: start, sockets, signals, and clients that misbehave."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import pytest
from command import run
from server_process import MINILM, Process

import tessera_onnx

pytestmark = pytest.mark.posix


def wait_for(server, series):
    """Wait until the metrics have a line that begins like this."""
    end = time.monotonic() + 30
    while f"\n{series}" not in (text := httpx2.get(f"{server.url}/metrics").text):
        assert time.monotonic() < end, text
        time.sleep(0.01)


def test_a_process_serves_and_ends_on_a_signal(serve):
    server = serve(MINILM, "--log-format", "json", "--alias", "mini=all-minilm-l6-v2")
    answer = httpx2.post(f"{server.url}/v1/embeddings", json={"input": "hello", "model": "mini"})
    with tessera_onnx.TesseraDense(MINILM) as model:
        expected = model.encode("hello")
    found = np.array(answer.json()["data"][0]["embedding"], np.float32)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    code, log = server.stop()
    assert code == 0
    lines = [json.loads(line) for line in log.splitlines()]
    assert {line["level"] for line in lines} == {"info"}
    request = next(line for line in lines if line.get("route") == "/v1/embeddings")
    assert (request["event"], request["status"], request["tokens"]) == ("request", 200, 3)
    assert "hello" not in log


def test_sigterm_answers_what_was_taken(serve):
    server = serve(MINILM, "--drain", "120")
    texts = [f"{i} " + "word " * 200 for i in range(8)]
    with ThreadPoolExecutor(6) as pool:
        url = f"{server.url}/v1/embeddings"
        asked = [
            pool.submit(httpx2.post, url, json={"input": texts}, timeout=180) for _ in range(6)
        ]
        wait_for(server, "tessera_requests_running 7")  # with that of the metrics
        code, _ = server.stop(seconds=180)
        answers = [each.result() for each in asked]
    assert code == 0
    assert [answer.status_code for answer in answers] == [200] * 6
    assert all(len(answer.json()["data"]) == 8 for answer in answers)


def test_draining_has_a_limit(serve):
    server = serve(MINILM, "--drain", "0.1")
    texts = ["word " * 200] * 1000

    with ThreadPoolExecutor(1) as pool:
        url = f"{server.url}/v1/embeddings"
        asked = pool.submit(httpx2.post, url, json={"input": texts}, timeout=60)
        wait_for(server, "tessera_requests_running 2")
        wait_for(server, "tessera_running_batches 2")
        start = time.monotonic()
        server.stop(seconds=30)
        assert time.monotonic() - start < 20
        assert asked.result().status_code == 503


def test_a_model_that_cannot_be_opened_ends_the_server():
    process = subprocess.run(
        [sys.executable, "-c", "from tessera_onnx.cli.main import main; main()",
         "serve", "--port", "0", "no-such-model"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert process.returncode == 1
    assert "no model is named 'no-such-model'" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_port_in_use_is_an_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("serve", "--port", port, MINILM, code=1)
    assert f"cannot listen at 127.0.0.1:{port}" in result.stderr


def test_preload_opens_and_ends():
    assert run("serve", "--preload", MINILM, "splade-tiny").exit_code == 0
    assert "no-such-model" in run("serve", "--preload", "no-such-model", code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--alias", "x"], "NAME=MODEL"),
        (["--max-texts", "0"], "--max-texts"),
        (["--keys", "/no/such/file"], "does not exist"),
        (["--port", "70000"], "--port"),
        ([], "MODEL"),
    ],
)
def test_wrong_arguments_have_one_sentence(arguments, sentence):
    models = [MINILM] if arguments else []
    assert sentence in run("serve", *arguments, *models, code=2).stderr


def test_an_empty_file_of_keys_is_no_open_door(tmp_path):
    (tmp_path / "keys").write_text("# none yet\n\n")
    result = run("serve", "--keys", tmp_path / "keys", MINILM, code=1)
    assert "holds no key" in result.stderr


def test_a_unix_socket_and_keys_of_a_file(tmp_path):
    path, keys = tmp_path / "tessera.sock", tmp_path / "keys"
    keys.write_text("# clients\none-key\n")
    server = Process(MINILM, "--unix-socket", str(path), "--keys", str(keys), ready=False)
    try:
        assert server.url == str(path)
        transport = httpx2.HTTPTransport(uds=str(path))
        with httpx2.Client(transport=transport, base_url="http://server") as client:
            end = time.monotonic() + 60
            while client.get("/readyz").status_code != 200:
                assert time.monotonic() < end
                time.sleep(0.05)
            body = {"input": "a"}
            assert client.post("/v1/embeddings", json=body).status_code == 401
            headers = {"authorization": "Bearer one-key"}
            assert client.post("/v1/embeddings", json=body, headers=headers).status_code == 200
    finally:
        server.stop()


def test_other_clients_are_served_beside_those_that_misbehave(serve):
    """Slow headers, half a body, closed halves, answers that nobody reads, and idle connections."""
    server = serve(MINILM, "--max-body", "1000000")
    place = ("127.0.0.1", server.port)
    head = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    opened = []
    try:
        for _ in range(300):
            idle = socket.create_connection(place)
            opened.append(idle)
        for _ in range(20):
            slow = socket.create_connection(place)
            slow.sendall(b"POST /v1/embeddings HTT")
            half = socket.create_connection(place)
            half.sendall(head + b'content-length: 500\r\n\r\n{"input": "a')
            shut = socket.create_connection(place)
            shut.sendall(head + b"content-length: 500\r\n\r\n{")
            shut.shutdown(socket.SHUT_WR)
            garbage = socket.create_connection(place)
            garbage.sendall(os.urandom(200) + b"\r\n\r\n")
            opened += [slow, half, shut, garbage]
        body = json.dumps({"input": ["a"] * 500}).encode()
        for _ in range(10):
            deaf = socket.create_connection(place)
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            deaf.sendall(head + f"content-length: {len(body)}\r\n\r\n".encode() + body)
            opened.append(deaf)
        url = f"{server.url}/v1/embeddings"
        for _ in range(10):
            answer = httpx2.post(url, json={"input": "still here"}, timeout=30)
            assert answer.status_code == 200
        large = socket.create_connection(place)
        large.sendall(head + b"content-length: 100000000\r\n\r\n")
        opened.append(large)
        assert b" 413 " in large.recv(4096)
        assert httpx2.get(f"{server.url}/readyz").status_code == 200
    finally:
        for each in opened:
            each.close()
    code, log = server.stop()
    assert code == 0
    assert "Traceback" not in log


def test_one_connection_serves_many_requests(serve):
    server = serve(MINILM)
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    for i in range(50):
        connection.request("POST", "/v1/embeddings", json.dumps({"input": f"text {i}"}))
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
    connection.close()
    assert server.stop(signal.SIGINT)[0] == 0

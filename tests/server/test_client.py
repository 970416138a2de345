"""The client gives what local models give: the same objects, errors and warnings."""

import asyncio
import contextlib
import itertools
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from command import run, run_json
from PIL import Image, ImageDraw

import tessera_onnx
from tessera_onnx import (
    AsyncClient,
    Cancelled,
    Client,
    ConfigError,
    EncodingError,
    ForecastWarning,
    InputTooLong,
    LoadError,
    ModelNotFound,
    TesseraDense,
    TesseraMultiVector,
    TesseraReranker,
    TesseraSparse,
    TesseraTimeSeries,
    TesseraVision,
    TimedOut,
    TruncationWarning,
    UnsupportedDimension,
)
from tessera_onnx.remote import link as links
from tessera_onnx.runtime.workers import Limit

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
STARTER = ("all-minilm-l6-v2", "splade-tiny", "bm25", "tessera-bolt-mini", "tessera-page-mini")
FOLDERS = ("m3", "reranker", "tasks", "static", "states")
MINILM = "all-minilm-l6-v2"
NEAR = 1e-6
TEXTS = ["a cat on the mat", "", "Über Straßen und Brücken", "rain " * 40, "x\u0000y \U0001f600"]


def started(*arguments):
    """A `tessera serve` of the models, whose standard error is read to its end."""
    command = "from tessera_onnx.cli.main import main; main()"
    arguments = ("serve", "--log-level", "warning", *map(str, arguments))
    command = [sys.executable, "-c", command, *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_until_ready(url, process, seconds=90):
    link = links.Link(url, None, 5)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, process.stderr.read()
        with contextlib.suppress(LoadError, TimedOut):
            link.get("/info")
            if len(link.get("/info")["models"]) == wait_until_ready.expected:
                link.close()
                return
        time.sleep(0.1)
    raise AssertionError("the server did not become ready")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A server of one real process at a socket file."""
    place = tmp_path_factory.mktemp("server") / "socket"
    models = [*STARTER, *(ARTIFACTS / name for name in FOLDERS)]
    process = started("--unix-socket", place, *models)
    found = f"unix://{place}"
    wait_until_ready.expected = len(models)
    try:
        wait_until_ready(found, process)
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=30)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def client(url):
    with Client(url) as found:
        yield found


def same(ours, theirs):
    """Whether two results are nearly equal, with equal types.

    The server makes other batches than a local model, on other threads, so rounding may differ: in
    the last bits of a float, and so in a code of int8, or in the sign of a number at zero.
    """
    assert type(ours) is type(theirs), (type(ours), type(theirs))
    if isinstance(ours, np.ndarray):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        if ours.dtype == np.uint8:
            assert np.unpackbits(ours ^ theirs).sum() <= 2
        else:
            step = 1 if ours.dtype == np.int8 else NEAR
            np.testing.assert_allclose(ours.astype(float), theirs, rtol=NEAR, atol=step)
        assert ours.flags.writeable == theirs.flags.writeable
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    elif hasattr(ours, "__dataclass_fields__"):
        for name in ours.__dataclass_fields__:
            same(getattr(ours, name), getattr(theirs, name))
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, rel=NEAR, abs=NEAR)
    else:
        assert ours == theirs


CALLS = [
    lambda m: m.encode("a cat on the mat"),
    lambda m: m.encode_batch(TEXTS),
    lambda m: m.encode_batch([]),
    lambda m: m.encode_query("what is a cat"),
    lambda m: m.encode_query(TEXTS),
    lambda m: m.encode_document(TEXTS[0]),
    lambda m: m.encode_document(TEXTS),
    lambda m: list(m.encode_iter(iter(TEXTS), role="query")),
    lambda m: m.similarity("cats", "a cat on the mat"),
    lambda m: m.rank("cats", TEXTS, top_k=3),
    lambda m: m.token_count(TEXTS, role="query"),
]
FORMS = [
    lambda m: m.encode_batch(TEXTS, output_dtype="int8"),
    lambda m: m.encode_batch(TEXTS, output_dtype="binary"),
    lambda m: m.encode_query("a", output_dtype="int8"),
    lambda m: list(m.encode_iter(TEXTS, output_dtype="binary")),
]
MANY = [
    lambda m: m.explain("cats sleep", "a cat on the mat"),
    lambda m: m.tokens("a cat!"),
    lambda m: m.encode_batch(TEXTS, pool_factor=2),
    lambda m: m.score("cats", TEXTS),
    lambda m: m.encode_quantized("a cat"),
]
SPARSE = [
    lambda m: m.encode_batch(TEXTS, max_active_dims=3),
    lambda m: m.explain(m.encode("a cat on the mat"), 4),
]
ALL = [lambda m: m.encode_all(TEXTS[:1]), lambda m: m.encode_all([])]


@pytest.mark.parametrize(
    ("model", "cls", "calls"),
    [
        ("all-minilm-l6-v2", TesseraDense, [*CALLS, *FORMS, *ALL]),
        ("all-minilm-l6-v2", TesseraMultiVector, [*CALLS, *FORMS, *MANY]),
        ("splade-tiny", TesseraSparse, [*CALLS, *SPARSE]),
        ("bm25", TesseraSparse, [*CALLS, *SPARSE]),
        ("m3", TesseraDense, [*CALLS, *FORMS, *ALL]),
        ("m3", TesseraMultiVector, [*CALLS, *FORMS, *MANY, *ALL]),
        ("m3", TesseraSparse, [*CALLS, *SPARSE, *ALL]),
        ("static", TesseraDense, [*CALLS, *FORMS]),
    ],
)
def test_texts_are_those_of_a_local_model(client, model, cls, calls):
    kind = cls._kind
    name, place = _named(model)
    with cls(**place, on_long="truncate") as local:
        remote = client.open(name, kind=kind, on_long="truncate")
        assert isinstance(remote, cls)
        assert repr(remote).split("(")[1] == repr(local).split("(")[1]
        assert remote.spec == local.spec
        assert (remote.model(), remote.precision, remote.device) == (
            (local.model(), local.precision, local.device)
        )
        for i, call in enumerate(calls):
            try:
                expected = call(local)
            except ConfigError as error:  # m3's kinds read queries differently, and the like
                with pytest.raises(type(error)) as caught:
                    call(remote)
                assert str(caught.value) == str(error), i
                continue
            same(call(remote), expected)


def _named(model):
    if (ARTIFACTS / model).is_dir():
        return f"test-{model}", {"path": ARTIFACTS / model}
    return model, {"model_id": model}


@pytest.mark.parametrize("activation", ["default", "raw", "sigmoid"])
def test_scores_are_those_of_a_local_reranker(client, activation):
    pairs = [("cats", text) for text in TEXTS] + [("rain", TEXTS[3]), ("cats", "a dog")]
    with TesseraReranker(path=ARTIFACTS / "reranker", on_long="truncate") as local:
        remote = client.open("test-reranker", on_long="truncate")
        for call in (
            lambda m: m.score("cats", TEXTS, activation=activation),
            lambda m: m.score("cats", []),
            lambda m: m.score_pairs(pairs, activation=activation),
            lambda m: m.rank("rain", TEXTS, 2, activation=activation),
            lambda m: (m.activation(), m.max_length()),
        ):
            same(call(remote), call(local))
        with pytest.raises(ConfigError, match="activation must be"):
            remote.score("a", ["b"], activation="softmax")


def test_forecasts_are_those_of_a_local_model(client):
    rng = np.random.default_rng(3)
    waves = np.sin(np.arange(200) / 7) * 5 + rng.normal(size=200)
    gaps = np.where(rng.random(90) < 0.1, np.nan, rng.normal(size=90))
    with TesseraTimeSeries("tessera-bolt-mini") as local:
        remote = client.open("tessera-bolt-mini")
        assert isinstance(remote, TesseraTimeSeries)
        for call in (
            lambda m: m.forecast(waves),
            lambda m: m.forecast_quantiles([waves, gaps], 5, [0.5, 0.25]),
            lambda m: m.forecast_quantiles(waves.astype(np.float32), 70),
            lambda m: m.forecast_quantiles([1, 2, 3, 4], 3),
            lambda m: m.forecast(1e8 + waves, 4),
            lambda m: m.forecast_quantiles([], 4),
            lambda m: m.forecast_quantiles(waves, 4, [0.01], extrapolate="tails"),
        ):
            same(call(remote), call(local))
        for call in (
            lambda m: m.forecast_quantiles(waves, 4, [0.01]),
            lambda m: m.forecast([waves, [np.nan] * 4], 4),
        ):
            with pytest.warns(ForecastWarning) as ours:
                found = call(remote)
            with pytest.warns(ForecastWarning) as theirs:
                same(found, call(local))
            assert [str(w.message) for w in ours] == [str(w.message) for w in theirs]
            assert {w.filename for w in ours} == {__file__}
        for wrong in (
            lambda m: m.forecast([waves, [1.0, np.inf]]),
            lambda m: m.forecast(waves, groups=["a"]),
            lambda m: m.forecast(waves, 0),
        ):
            with pytest.raises(ConfigError) as ours:
                wrong(remote)
            with pytest.raises(ConfigError) as theirs:
                wrong(local)
            assert (str(ours.value), ours.value.index) == (str(theirs.value), theirs.value.index)


def test_images_are_those_of_a_local_model(client):
    images = []
    for text in ("annual rainfall", "a cat", "42 figures"):
        image = Image.new("RGB", (300, 80), "white")
        ImageDraw.Draw(image).text((10, 20), text, fill="black", font_size=24)
        images.append(np.asarray(image))
    with TesseraVision("tessera-page-mini", on_long="truncate") as local:
        remote = client.open("tessera-page-mini")
        assert isinstance(remote, TesseraVision)
        assert len(local.encode_document(images[0]))
        for call in (
            lambda m: m.encode_document(images[0]),
            lambda m: m.encode_documents(images, output_dtype="int8"),
            lambda m: m.encode_documents([images[1]], pool_factor=2),
            lambda m: m.encode_query("annual rainfall"),
            lambda m: m.encode_query(["a", "b c"]),
            lambda m: m.rank("annual rainfall", images, 2),
            lambda m: m.search("rain", images[2]),
        ):
            same(call(remote), call(local))
        with pytest.raises(TypeError) as caught:
            remote.encode_documents([images[0], 3])
        assert caught.value.index == 1
        with pytest.raises(ConfigError, match="open it with TesseraVision"):
            remote.similarity_map("a", images[0])


def test_tasks_prompts_and_dimensions(client):
    with TesseraDense(path=ARTIFACTS / "tasks", on_long="truncate") as local:
        remote = client.open("test-tasks", on_long="truncate")
        (task, *_) = [known.name for known in local.spec.dense.tasks]
        for options in ({"task": task}, {"prompt": "read this: "}):
            expected = local.encode_batch(TEXTS, **options)
            same(remote.encode_batch(TEXTS, **options), expected)
            same(remote.encode_query("a b", **options), local.encode_query("a b", **options))
        for model in (local, remote):
            with pytest.raises(ConfigError, match="task must be"):
                model.encode("a", task="cooking")
    with pytest.raises(UnsupportedDimension, match="gives 384 dimensions, not 17"):
        client.open("all-minilm-l6-v2", dimension=17)


def test_wrong_texts_raise_what_a_local_model_raises(client):
    with TesseraDense("all-minilm-l6-v2", on_long="error") as local:
        remote = client.open("all-minilm-l6-v2", on_long="error")
        for wrong in (
            lambda m: m.encode(3),
            lambda m: m.encode_batch(["a", None]),
            lambda m: m.encode_batch("a"),
            lambda m: m.encode_batch(["a", "\ud800"]),
            lambda m: m.encode_batch(["a"], output_dtype="int4"),
            lambda m: m.similarity("a", [1.0, 2.0]),
            lambda m: m.rank("a", ["b"], 0),
            lambda m: m.encode_batch(["a"], timeout=-1),
        ):
            with pytest.raises((TypeError, tessera_onnx.TesseraError)) as theirs:
                wrong(local)
            with pytest.raises(type(theirs.value)) as ours:
                wrong(remote)
            assert str(ours.value) == str(theirs.value)
            assert getattr(ours.value, "index", 0) == getattr(theirs.value, "index", 0)
        with pytest.raises(InputTooLong, match="text 2 has more tokens than the 256") as caught:
            remote.encode_batch(["a", "b", "long " * 500, "c"])
        assert caught.value.index == 2
        stream = remote.encode_iter(["a", "b", "long " * 500])
        same(list(itertools.islice(stream, 2)), list(local.encode_batch(["a", "b"])))
        with pytest.raises(InputTooLong):
            next(stream)


def test_cut_texts_are_told_as_by_a_local_model(client):
    texts = ["a", "long " * 500, "longer " * 600]
    with TesseraDense("all-minilm-l6-v2") as local:
        remote = client.open("all-minilm-l6-v2")
        messages = []
        for model in (local, remote):
            with pytest.warns(TruncationWarning) as told:
                model.encode_batch(texts)
            messages.append([str(each.message) for each in told])
        assert messages[0] == messages[1]


def test_many_texts_are_sent_in_requests_that_the_server_takes(url):
    texts = [f"text {i} " + "word " * (i % 40) for i in range(300)]
    with TesseraDense(path=ARTIFACTS / "static", on_long="truncate") as local:
        expected = local.encode_batch(texts)
    with Client(url) as client:
        remote = client.open("test-static", on_long="truncate")
        link = remote._link
        sent = []
        send = link._send
        link._send = lambda method, path, body, *rest: (
            sent.append(len(body)) or send(method, path, body, *rest)
        )
        for limits in (
            links.Limits(7, 1 << 18, 1 << 20),
            links.Limits(1024, 150, 1 << 20),
            links.Limits(1024, 1 << 18, links.MARGIN + 500),
            links.Limits(1024, 1 << 18, 1 << 20, 500),
        ):
            link._limits = limits
            sent.clear()
            same(remote.encode_batch(texts), expected)
            assert len(sent) >= 300 // 7
            assert max(sent) <= limits.body
        with pytest.raises(TypeError) as caught:
            remote.encode_batch([*texts, 3])
        assert caught.value.index == 300


def test_errors_count_from_the_first_text_of_the_call(client):
    remote = client.open("all-minilm-l6-v2", on_long="error")
    remote._link._limits = links.Limits(4, 1 << 18, 1 << 20)
    with pytest.raises(InputTooLong) as caught:
        remote.encode_batch(["a"] * 10 + ["long " * 500] + ["a"] * 5)
    assert caught.value.index == 10
    remote._link._limits = None


def test_models_that_are_not_there(client):
    with pytest.raises(ModelNotFound, match="all-minilm-l6-v2"):
        client.open("no-such-model")
    with pytest.raises(ConfigError, match="kind must be one of dense, multi-vector"):
        client.open("all-minilm-l6-v2", kind="sparse")
    with pytest.raises(TypeError, match="device is no option"):
        client.open("all-minilm-l6-v2", device="cuda")
    assert {"all-minilm-l6-v2", "test-m3"} <= {model["id"] for model in client.models()}
    assert client.open().model() == "all-minilm-l6-v2"


def test_a_pickle_opens_the_model_again(client):
    remote = client.open("splade-tiny", max_active_dims=4)
    again = pickle.loads(pickle.dumps(remote))
    same(again.encode("a cat on the mat"), remote.encode("a cat on the mat"))
    assert len(again.encode("a cat on the mat").values) == 4


def test_batches_of_the_caller_are_for_models_that_are_open_here(client):
    for model in (client.open(MINILM), client.open("test-reranker")):
        with pytest.raises(ConfigError, match="open here"):
            model.prepare(["cats"])
    with TesseraDense(MINILM) as local:
        assert client.open(MINILM).token(2003) == local.token(2003) == "is"
    with pytest.raises(ConfigError, match="at the server: use token_count"):
        _ = client.open(MINILM).tokenizer


def test_the_prompt_of_a_role_or_task(client):
    with client.open("test-tasks") as ours, TesseraDense(path=ARTIFACTS / "tasks") as theirs:
        for role, task in (("query", None), ("plain", None), ("document", "classification")):
            assert ours.prompt(role, task) == theirs.prompt(role, task)
        for arguments in (("other",), ("query", "other")):
            with pytest.raises(ConfigError):
                ours.prompt(*arguments)


def test_a_closed_model_says_so(client):
    remote = client.open("all-minilm-l6-v2")
    remote.close()
    for call in (lambda: remote.encode("a"), lambda: remote.encode_batch(["a"])):
        with pytest.raises(EncodingError, match="closed"):
            call()
    assert client.open("all-minilm-l6-v2").encode("a").shape == (384,)


def test_threads_share_a_client(client):
    remote = client.open("all-minilm-l6-v2")
    expected = [remote.encode(text) for text in TEXTS]
    found = [None] * 40
    threads = [
        threading.Thread(
            target=lambda i=i: found.__setitem__(i, remote.encode(TEXTS[i % len(TEXTS)]))
        )
        for i in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, vector in enumerate(found):
        same(vector, expected[i % len(TEXTS)])


@pytest.mark.posix
def test_a_fork_has_connections_of_its_own(url):
    code = f"""
import os
from tessera_onnx import Client
model = Client({url!r}).open("all-minilm-l6-v2")
before = model.encode("a cat").tolist()
if (child := os.fork()) == 0:
    os._exit(0 if all(model.encode("a cat").tolist() == before for _ in range(20)) else 1)
same = all(model.encode("a cat").tolist() == before for _ in range(20))
print(same, os.waitpid(child, 0)[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "0"], done.stderr


def test_waiting_for_a_busy_server_can_be_cancelled():
    busy = response(429, '{"error": "full", "class": "TesseraError"}', "retry-after: 30")
    url, _ = answers(busy)
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        links.Link(url, None, 60).post("/v1/encode", {}, Limit(None, cancel))
    assert time.monotonic() - start < 25  # less than the server asks to wait


def test_async(url):
    async def main():
        async with AsyncClient(url) as client:
            model = await client.open("all-minilm-l6-v2")
            found = await asyncio.gather(*(model.encode(text) for text in TEXTS))
            streamed = [vector async for vector in model.encode_iter(TEXTS)]
            with pytest.raises(TypeError):
                await model.encode(3)
            running = asyncio.ensure_future(model.encode_batch(["word " * 200] * 3000))
            await asyncio.sleep(0.3)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            link, end = model.local._link, time.monotonic() + 60
            while b'status="499"' not in link._send("GET", "/metrics", b"", Limit(5), LoadError):
                assert time.monotonic() < end, "the server goes on with what nobody waits for"
                await asyncio.sleep(0.05)
            assert (await model.rank("cats", TEXTS, 1))[0].index == 0
            assert "all-minilm-l6-v2" in {each["id"] for each in await client.models()}
            return found, streamed

    found, streamed = asyncio.run(main())
    with TesseraDense("all-minilm-l6-v2") as local:
        for i, text in enumerate(TEXTS):
            same(found[i], local.encode(text))
            same(streamed[i], local.encode_batch(TEXTS)[i])


def test_commands_use_a_server(url, tmp_path):
    (tmp_path / "texts.txt").write_text("a cat\nrain\nsnow\n")
    texts = tmp_path / "texts.txt"
    places = [tmp_path / "local.npy", tmp_path / "remote.npy"]
    run("encode", texts, "-o", places[0], "--model", MINILM)
    run("encode", texts, "-o", places[1], "--model", MINILM, "--server", url)
    np.testing.assert_allclose(*map(np.load, places), atol=1e-6)
    for command in (
        ("similarity", "cats", "a cat", "--model", "splade-tiny"),
        ("rank", "cats", "--file", texts, "--model", MINILM, "--kind", "multi-vector"),
    ):
        local, remote = run_json(*command), run_json(*command, "--server", url)
        assert remote == approximately(local)
    command = ("rerank", "cats", "--file", texts)
    local = run_json(*command, "--model", ARTIFACTS / "reranker")
    assert run_json(*command, "--server", url) == approximately(local)
    series = tmp_path / "series.csv"
    series.write_text("value\n" + "\n".join(str(i % 7) for i in range(50)) + "\n")
    command = ("forecast", series, "--horizon", 3)
    local = run_json(*command, "--model", "tessera-bolt-mini")
    assert run_json(*command, "--server", url, "--model", "tessera-bolt-mini") == local
    refused = run("similarity", "a", "b", "--server", url, "--threads", 2, code=2)
    assert "--threads is decided where the model is" in refused.stderr
    refused = run("similarity", "a", "b", "--server", url, "--model", "nothing", code=1)
    assert "no model of that name" in refused.stderr
    refused = run("encode", "--text", "a", "--server", url, "--model", "test-reranker", code=2)
    assert "see tessera rerank" in refused.stderr


def approximately(found):
    """Numbers to 1e-5, whatever they stand in."""
    if isinstance(found, dict):
        return {key: approximately(value) for key, value in found.items()}
    if isinstance(found, list):
        return [approximately(value) for value in found]
    return pytest.approx(found, abs=1e-5) if isinstance(found, float) else found


def test_an_address_without_a_server():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(LoadError, match=f"{address} cannot be reached: ConnectionRefusedError"):
        Client(address).open("a")
    for wrong in ("127.0.0.1:80", "ftp://a", ""):
        with pytest.raises(ConfigError, match="url must be"):
            Client(wrong)
    with pytest.raises(ConfigError, match="timeout must be above 0"):
        Client(address, timeout=0)


def answers(*responses):
    """A server that gives these bytes, a connection each; its address, and what it received."""
    listening = socket.create_server(("127.0.0.1", 0))
    received = []

    def work():
        with listening:
            for response in responses:
                connection, _ = listening.accept()
                with connection:
                    received.append(connection.recv(65536))
                    connection.sendall(response)

    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    threading.Thread(target=work, daemon=True).start()
    return address, received


def response(status, body, *headers):
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", "connection: close", *headers]
    return "\r\n".join([*lines, "", body]).encode()


def test_a_busy_server_is_asked_again_until_the_timeout():
    busy = response(429, '{"error": "full", "class": "TesseraError"}', "retry-after: 0")
    url, received = answers(busy, response(503, "{}"), response(200, '{"models": []}'))
    assert Client(url, key="k").models() == []
    assert len(received) == 3
    assert all(b"\r\nauthorization: Bearer k\r\n" in each for each in received)
    assert all(b"\r\nx-timeout-ms: " in each for each in received)
    late = response(429, '{"error": "full", "class": "TesseraError"}', "retry-after: 60")
    url, _ = answers(late)
    start = time.monotonic()
    with pytest.raises(TimedOut, match="the server is busy: full"):
        Client(url, timeout=50).models()
    assert time.monotonic() - start < 40  # before its timeout, which comes before the next try


def test_answers_that_are_none_of_ours():
    for answer in (response(404, "<html>"), response(500, "[]"), response(418, '{"error": 1}')):
        url, _ = answers(answer)
        with pytest.raises(LoadError):
            Client(url).models()
    url, _ = answers(b"")
    with pytest.raises(LoadError, match="cannot be reached"):
        Client(url).models()
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(TimedOut, match=r"within 0\.3 s"):
        Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.3).models()


def test_over_tcp_with_a_key(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = started("--port", port, "--keys", keys, "splade-tiny")
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(LoadError, ModelNotFound):
                remote = Client(url, key="secret").open("splade-tiny")
                break
            time.sleep(0.1)
        with TesseraSparse("splade-tiny") as local:
            same(remote.encode_batch(TEXTS), local.encode_batch(TEXTS))
        for key in (None, "wrong"):
            with pytest.raises(ConfigError, match="the key is missing or wrong"):
                Client(url, key=key).open("splade-tiny")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=30)
        finally:
            process.kill()
    with pytest.raises(EncodingError, match="cannot be reached"):
        remote.encode("a")

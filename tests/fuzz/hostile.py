"""Requests to the server, each as bytes (head, empty line, body), and what must hold of any."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

sys.path.insert(0, str(Path(__file__).parents[1]))

from PIL import Image
from server_process import FIELD, MINILM
from starlette.testclient import TestClient

from tessera_onnx.server.app import Limits, app

SECRET = "Zebramarmalade"  # in every text; no error, log or metric may hold it
TEXT = f"{SECRET} on bread"
FAULTS = {500, 424}
TEXTS = [TEXT, f"a {TEXT}"]
WRONG: tuple[Any, ...] = (
    *(SECRET, f"{SECRET}\0\u2028", "", None, True, 0, -1, 0.5, 1e308, -(2**63), 2**64 - 1),
    *([], {}, [SECRET], [[SECRET]], [None], {SECRET: SECRET}, [[1, 2], [3]], [1e308, -1e308]),
    *([SECRET] * 70, 99_999_999),
)
RAW = (  # bodies that json.dumps does not write
    *(b"", b"{", b"[]", b"null", b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b"[" * 100_000),
    *(b'{"a":' * 5000, b'{"input":' + b"9" * 5000 + b"}", b'{"input":NaN}', b'{"input":1e999}'),
    *(b'{"input":"\\ud800","inputs":"\\ud800"}', b'{"input":"\xed\xa0\x80"}'),
    *(b'{"input":"a","input":7}', b'{"input":"\0"}', b'{"\\u0000":1}', b'{"input":[-Infinity]}'),
)
HEADERS = (
    *(b"x-request-id: a\x1b[31m", b"x-request-id: " + b"a" * 500, b"x-request-id: a status=200"),
    *(b"traceparent: 00-" + SECRET.encode() * 3 + b"0123456789", b"x-timeout-ms: 1e9"),
    *(b"x-timeout-ms: 1", b"x-timeout-ms: \xb2", b"x-priority: " + SECRET.encode()),
    *(b"content-length: 99999999999999", b"content-length: -1", b"content-length: \xb9"),
    *(b"transfer-encoding: chunked", b"authorization: Bearer \xff\xfe", b"api-key: \xe9"),
    *(b"inference-header-content-length: 5", b"inference-header-content-length: 0x10"),
    *(b"inference-header-content-length: 999999", b"content-type: multipart/form-data"),
    *(b"content-type: multipart/form-data; boundary=" + b"b" * 300, b"content-type: \xff/\xff"),
    *(b"content-type: multipart/form-data; boundary*=utf-8''%ff", b"host: " + SECRET.encode()),
    *(b"content-type: multipart/form-data; boundary*0*=x''b; boundary*1=", b"expect: 100-continue"),
)


def _file(form: str) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (60, 80), 200).save(stream, form)
    return stream.getvalue()


def _bomb() -> bytes:
    """A PNG of a few kilobytes that says that it is 60,000 x 60,000."""
    made = bytearray(_file("PNG"))
    made[16:24] = (60_000).to_bytes(4, "big") * 2
    return bytes(made)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


PICTURE = "data:image/png;base64," + _text(_file("PNG"))
PAGE = {"model": "tessera-page-mini", "encoding": "raw"}
TENSOR = {"name": "text", "datatype": "BYTES", "shape": [2], "data": TEXTS}
INFER = f"/v2/models/{MINILM}/infer"
# A good request of each route, with all of its fields.
GOOD: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/embeddings", {"input": TEXTS, "model": MINILM, "encoding_format": "base64",
                        "input_type": "query", "prompt": SECRET, "dimensions": 384,
                        "truncate": False, "embedding_type": "int8", "late_chunking": False}),
    ("/embeddings", {"input": [{"text": TEXT}], "task": "retrieval.query"}),
    ("/embed", {"inputs": TEXTS, "normalize": False, "prompt_name": "query", "truncate": True,
                "truncation_direction": "Left", "dimensions": 384, "model": MINILM}),
    ("/embed", {"inputs": [[101, 2000, 102], [101, 102]], "truncate": False}),
    ("/embed_sparse", {"inputs": TEXT, "truncate": False}),
    ("/embed_all", {"inputs": TEXTS, "model": "test-states"}),
    ("/similarity", {"inputs": {"source_sentence": TEXT, "sentences": TEXTS},
                     "parameters": {"prompt_name": "query", "truncate": False}}),
    ("/tokenize", {"inputs": TEXTS, "add_special_tokens": True, "prompt_name": "query"}),
    ("/decode", {"ids": [[101, 2000], [102]], "skip_special_tokens": False}),
    ("/", {"inputs": TEXT}),
    ("/rerank", {"query": TEXT, "texts": TEXTS, "raw_scores": True, "return_text": False,
                 "truncate": True, "truncation_direction": "Right"}),
    ("/rerank", {"query": TEXT, "documents": TEXTS}),
    ("/v2/rerank", {"query": TEXT, "documents": [{"text": TEXT}], "top_n": 1,
                    "return_documents": False, "max_tokens_per_doc": 4096, "model": MINILM}),
    ("/v2/embed", {"texts": TEXTS, "input_type": "search_query", "truncate": "NONE",
                   "embedding_types": ["float", "ubinary"], "output_dimension": 384}),
    ("/v1/embed", {"images": [PICTURE], "model": "test-clip", "input_type": "image"}),
    ("/v1/multi-vector", {"input": TEXTS, "embedding_type": "base64", "model": MINILM}),
    ("/api/embed", {"model": f"{MINILM}:latest", "input": TEXTS, "truncate": False,
                    "dimensions": 384, "keep_alive": -1, "options": {}}),
    ("/api/embeddings", {"model": MINILM, "prompt": TEXT}),
    ("/api/show", {"model": MINILM}),
    ("/vectors", {"text": TEXT, "config": {"task_type": "query", "dimensions": 384}}),
    ("/v1/encode", {"texts": TEXTS, "model": "test-m3", "kinds": ["dense", "sparse"],
                    "role": "query", "task": None, "prompt": SECRET, "dimensions": None,
                    "truncate": False, "output_dtype": "float16", "pool_factor": 2,
                    "max_active_dims": 3, "encoding": "base64"}),
    ("/v1/encode", {"texts": TEXTS, "output_dtype": "int8", "encoding": "raw"}),
    ("/v1/encode", {**PAGE, "images": [PICTURE]}),
    ("/v1/encode", {**PAGE, "document": _text(_file("PDF")), "pages": "1", "dpi": 20,
                    "password": SECRET}),
    ("/v1/score", {"query": TEXT, "documents": TEXTS, "activation": "raw", "encoding": "raw",
                   "truncate": True}),
    ("/v1/score", {"pairs": [[TEXT, TEXT], [TEXT, SECRET]], "model": "test-reranker"}),
    ("/v1/forecast", {"series": [[1, 2.5, None, 4] * 8, [7] * 30], "horizon": 3,
                      "levels": [0.1, 0.5], "groups": ["a", SECRET], "extrapolate": "tails",
                      "dtype": "float32", "encoding": "base64"}),
    ("/v1/explain", {"query": TEXT, "document": TEXT, "truncate": True, "role": "query"}),
    ("/v1/explain", {"text": TEXT, "top_k": 3, "model": "splade-tiny"}),
    ("/v1/tokens", {"texts": TEXTS, "role": "query", "rows": True, "model": MINILM}),
    ("/v1/tokens", {"ids": [1, 2], "model": "splade-tiny"}),
    (INFER, {"id": "7", "inputs": [TENSOR], "outputs": [{"name": "embeddings"}],
             "parameters": {"input_type": "query", "truncate": False}}),
    ("/v2/models/test-reranker/infer", {"inputs": [{**TENSOR, "name": "documents"},
         {"name": "query", "datatype": "BYTES", "shape": [1], "data": [TEXT]}]}),
    ("/admin/models", {"model": "../../../etc"}),
)  # fmt: skip
READ = (
    *("/livez", "/readyz", "/metrics", "/info", "/v1/models", "/models/nobody", "/openapi.json"),
    *(f"/v1/models/{MINILM}", f"/v1/describe/{MINILM}", "/v1/describe/%ff%00..%2f..%2fetc"),
    *("/api/tags", "/api/version", "/meta", "/.well-known/ready", "/v2", "/v2/models/a/ready"),
    *(f"/v2/models/{MINILM}", f"/v1/models/{SECRET}", "//v1//embeddings", "/v1/embeddings/", "/%"),
)


def request(path: str, body: bytes, *headers: bytes, method: str = "POST") -> bytes:
    """The bytes of a request."""
    return b"\r\n".join([f"{method} {path}".encode(), *headers, b"", body])


def _written(values: Any) -> bytes:
    return json.dumps(values).encode()


def _replaced(value: Any, wrong: Any) -> Iterator[Any]:
    """The value with one of its parts replaced, for every part."""
    yield wrong
    if isinstance(value, dict):
        for name, each in value.items():
            for changed in _replaced(each, wrong):
                yield {**value, name: changed}
    elif isinstance(value, list):
        for i, each in enumerate(value[:2]):
            for changed in _replaced(each, wrong):
                yield [*value[:i], changed, *value[i + 1 :]]


def _binary() -> Iterator[bytes]:
    """Tensors in the binary form, right and wrong."""
    sized = {"name": "text", "datatype": "BYTES", "parameters": {"binary_data_size": 18}}
    content = len(SECRET).to_bytes(4, "little") + SECRET.encode()
    for shape in ([1], [2], [0], [-1], [2**63 - 1] * 2000, [1.5], [SECRET], None):
        head = _written({"inputs": [{**sized, "shape": shape}]})
        for rest in (content, content[:9], content[:2], b"\xff" * 18, content * 2, b""):
            yield request(INFER, head + rest, b"inference-header-content-length: %d" % len(head))


def _forms() -> Iterator[bytes]:
    """Files in multipart bodies, and damaged ones in JSON."""
    kind = b"content-type: multipart/form-data; boundary=bbb"
    for name, file in (("images", _file("PNG")), ("document", _file("PDF")), ("images", _bomb())):
        part = b'--bbb\r\ncontent-disposition: form-data; name="%s"\r\n\r\n'
        body = part % b"request" + _written(PAGE) + b"\r\n" + part % name.encode() + file
        yield request("/v1/encode", body + b"\r\n--bbb--\r\n", kind)
        yield request("/v1/encode", body, kind)
        yield request("/v1/encode", body[:60] + b"\r\n--bbb--", kind)
        for content in (file[:40], file[:-30], file[30:], b"", b"%PDF-1.7\n" + b"<<" * 3000):
            given = _text(content) if name == "document" else [_text(content)]
            yield request("/v1/encode", _written({**PAGE, name: given}))
        yield request("/v1/encode", _written({**PAGE, name: [_text(file)[:-1]]}))
        yield request("/v1/encode", _written({**PAGE, name: [f"https://{SECRET}/x.png"]}))


def every() -> list[bytes]:
    """All requests, in an order that is mixed and always the same."""
    found = [request(path, _written(values)) for path, values in GOOD]
    found += [request(path, b"", method="GET") for path in READ]
    found += [request(path, b"", method="DELETE") for path in READ]
    found += [*_binary(), *_forms()]
    for path, values in GOOD:
        found += [request(path, body) for body in RAW]
        for header in HEADERS:
            found.append(request(path, _written(values), header))
        for wrong in WRONG:
            found += [request(path, _written(each)) for each in _replaced(values, wrong)]
    random.Random(0).shuffle(found)
    return found


class _Kept(logging.Handler):
    """What was logged, with the fields of requests."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message and the traceback."""
        line = record.getMessage() + str(getattr(record, "fields", ""))
        self.lines.append(line + (logging.Formatter().formatException(record.exc_info)
                                  if record.exc_info else ""))  # fmt: skip


class Target:
    """A server of many models in this process, which answers one request after the other."""

    def __init__(self) -> None:
        """Open the models; `client` is for other questions."""
        limits = Limits(texts=64, tokens=4096, body=1 << 20, queue_tokens=8192, timeout=30)
        models = (*FIELD, "tessera-bolt-mini")
        made = app(*models, threads=1, limits=limits, admin_keys=["admin"])
        self.client = TestClient(made).__enter__()
        self.server = made.state.server
        self.log = _Kept()
        logger = logging.getLogger("tessera_onnx")
        logger.addHandler(self.log)
        logger.setLevel(logging.INFO)
        while not self.server.state()[0]:
            time.sleep(0.05)

    def close(self) -> None:
        """End the server."""
        logging.getLogger("tessera_onnx").removeHandler(self.log)
        self.client.__exit__()

    def __call__(self, data: bytes) -> None:
        """Send a request, and look at the answer, the log, the queue, and at a good request."""
        head, _, body = data.partition(b"\r\n\r\n")
        first, *headers = head.split(b"\r\n")
        method, _, path = first.partition(b" ")
        pairs = [(name.strip().lower(), value.strip())
                 for name, _, value in (each.partition(b":") for each in headers)]  # fmt: skip
        status, answer = asyncio.run(self._sent(method, path, pairs, body))
        self.log.lines, lines = [], self.log.lines
        told = "\n".join(lines)
        assert status not in FAULTS, (status, answer[:300], told[-3000:])
        assert SECRET not in told, told[:3000]
        if status >= 400:
            assert SECRET.encode() not in answer, answer[:1000]
        assert not len(self.server.queue), "something is left in the queue"
        assert not self.server.queue.tokens
        assert not self.server.requests, "a request counts as running for ever"

    def good(self) -> None:
        """A good request has its answer, and the metrics hold no text."""
        answer = self.client.post("/v1/embeddings", json={"input": TEXT, "model": MINILM})
        assert answer.status_code == 200
        assert SECRET not in self.client.get("/metrics").text
        self.log.lines.clear()

    async def _sent(
        self, method: bytes, path: bytes, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> tuple[int, bytes]:
        path, _, query = path.partition(b"?")
        scope = {
            "type": "http", "method": method.decode("latin-1"), "raw_path": path,
            "path": "/" + unquote_to_bytes(path).decode("utf-8", "replace").lstrip("/"),
            "query_string": query, "root_path": "", "scheme": "http", "headers": headers,
            "client": None, "server": ("x", 80), "http_version": "1.1", "asgi": {"version": "3.0"},
        }  # fmt: skip
        messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": body, "more_body": False})
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)
            if message["type"] == "http.response.start":
                for pair in message["headers"]:
                    for each in pair:
                        assert not set(b"\r\n\0") & set(each), message["headers"]

        await asyncio.wait_for(self.client.app(scope, messages.get, send), 60)
        return sent[0]["status"], b"".join(each["body"] for each in sent[1:])

"""Requests to a server: connections that are kept, limits, retries, and errors as exceptions.

Only the standard library is used: which HTTP client huggingface_hub brings differs between its
versions. Proxies of the environment are not used.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import __version__, errors
from tessera_onnx.errors import Cancelled, ConfigError, EncodingError, TesseraError, TimedOut
from tessera_onnx.runtime.workers import ENDLESS, Limit
from tessera_onnx.vectors import tensors

Arrays = dict[str, NDArray[Any]]
BUSY = {429, 503}  # answers after which a request is sent again
LEAST_WAIT = 0.1  # seconds
MARGIN = 1 << 12  # bytes of a body beside its texts
MOST_TEXTS = 1024  # of a request, so that a call shows its progress and can be cancelled


class Ending:
    """Ends the requests of a call from another thread."""

    def __init__(self) -> None:
        self.ended = False
        self.connections: list[http.client.HTTPConnection] = []

    def end(self) -> None:
        """Close the connections, so that their requests fail at once, and are not sent again."""
        self.ended = True
        for connection in list(self.connections):
            with contextlib.suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def check(self) -> None:
        """Raises Cancelled after `end`."""
        if self.ended:
            raise Cancelled("the call was cancelled")


# Of the call that runs in this context.
ending: ContextVar[Ending] = ContextVar("ending")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server takes in one request."""

    texts: int
    tokens: int
    body: int  # bytes
    characters: int = sys.maxsize  # of texts


class _UnixConnection(http.client.HTTPConnection):
    """A connection to a socket file."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the file."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Link:
    """The way to one server. Threads may share it; each request has a connection of its own."""

    def __init__(self, url: str, key: str | None, timeout: float) -> None:
        """Check the arguments; nothing is sent. Raises TypeError or ConfigError."""
        if not isinstance(url, str):
            raise TypeError(f"url must be str, got {type(url).__name__}")
        self.arguments = (url, key, timeout)
        Limit(timeout)  # checks it
        if timeout <= 0:
            raise ConfigError("timeout must be above 0 seconds")
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https", "unix"} or not (parts.hostname or parts.path):
            raise ConfigError("url must be http://HOST:PORT, https://HOST or unix:///PATH")
        self.timeout = timeout
        self._parts = parts
        self._prefix = "" if parts.scheme == "unix" else parts.path.rstrip("/")
        self._headers = {"user-agent": f"tessera-onnx/{__version__}"}
        if key is not None:
            self._headers["authorization"] = f"Bearer {key}"
        self._idle: list[http.client.HTTPConnection] = []
        self._pid = os.getpid()
        weakref.finalize(self, _close, self._idle)
        self._lock = threading.Lock()
        self._limits: Limits | None = None

    def close(self) -> None:
        """Close the connections that no request uses."""
        with self._lock:
            _close(self._idle)

    def limits(self) -> Limits:
        """What the server takes, asked once. Raises as `get`."""
        if self._limits is None:
            info = self.get("/info")
            texts, tokens = info["max_client_batch_size"], info["max_batch_tokens"]
            body, characters = info["max_body"], info["max_characters"]
            self._limits = Limits(min(texts, MOST_TEXTS), tokens, body, characters)
        return self._limits

    def describe(self, model: str | None, kind: str | None = None) -> dict[str, Any]:
        """What the server tells of a model; without a name of its first, or first of a kind.

        Raises ModelNotFound.
        """
        if model is None:
            models = self.get("/info")["models"]
            known = (each["id"] for each in models if kind is None or kind in each["kinds"])
            model = next(known, None)
            if model is None:
                what = "model" if kind is None else f"{kind} model"
                raise errors.ModelNotFound(f"the server has no {what} open")
        found: dict[str, Any] = self.get(f"/v1/describe/{quote(model, safe='')}")
        return found

    def get(self, path: str) -> Any:
        """The JSON of a path. Raises LoadError where the server cannot be reached."""
        return json.loads(self._send("GET", path, b"", ENDLESS, errors.LoadError))

    def post(self, path: str, body: Mapping[str, Any], limit: Limit = ENDLESS) -> Any:
        """The JSON that answers a JSON body. Raises the errors that the server tells."""
        return json.loads(self._send("POST", path, _json(body), limit, EncodingError))

    def arrays(
        self, path: str, body: Mapping[str, Any], limit: Limit = ENDLESS
    ) -> tuple[Arrays, dict[str, Any]]:
        """The arrays that answer a JSON body, and the facts beside them."""
        sent = _json({**body, "encoding": "raw"})
        content = self._send("POST", path, sent, limit, EncodingError)
        found, metadata = tensors.arrays(content, "the answer")
        return found, {name: json.loads(value) for name, value in metadata.items()}

    def parts(
        self, sizes: Sequence[int], tokens: Sequence[int], *, texts: bool = True
    ) -> Iterator[slice]:
        """Which items go into one request: by their bytes in JSON, and most tokens."""
        limits = self.limits()
        most = limits.body - MARGIN
        most = min(most, limits.characters) if texts else most
        start = n_bytes = n_tokens = 0
        for i, (size, count) in enumerate(zip(sizes, tokens, strict=True)):
            n_bytes += size + 2
            n_tokens += count
            full = i - start >= limits.texts or n_tokens > limits.tokens
            if i > start and (full or n_bytes > most):
                yield slice(start, i)
                start, n_bytes, n_tokens = i, size + 2, count
        if start < len(sizes):
            yield slice(start, len(sizes))

    def _send(
        self, method: str, path: str, body: bytes, limit: Limit, lost: type[TesseraError]
    ) -> bytes:
        """The body of the answer. A busy server is asked again until the timeout is over."""
        limit.check()
        left = limit.left()
        end = time.monotonic() + (self.timeout if left is None else min(left, self.timeout))
        while True:
            seconds = end - time.monotonic()
            if seconds <= 0:
                limit.check()
                raise TimedOut(f"the server gave no answer within {self.timeout:g} s")
            try:
                status, headers, content = self._once(method, path, body, seconds)
            except TimeoutError:
                continue
            except (OSError, http.client.HTTPException) as error:
                name = type(error).__name__
                raise lost(f"the server at {self._place()} cannot be reached: {name}") from error
            if status < 300:
                return content
            wait = max(LEAST_WAIT, _seconds(headers.get("retry-after")))
            if status not in BUSY or time.monotonic() + wait > end:
                raise _error(status, content, lost)
            _pause(wait, limit)

    def _once(
        self, method: str, path: str, body: bytes, seconds: float
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Send a request; again on a new connection where one that was kept is closed."""
        headers = {
            **self._headers,
            "x-timeout-ms": str(min(max(1, int(seconds * 1000)), 999_999_999)),
        }
        if body:
            headers["content-type"] = "application/json"
        while True:
            with self._lock:
                if self._pid != os.getpid():  # in a fork: these are the parent's
                    _close(self._idle)
                    self._pid = os.getpid()
                kept = self._idle.pop() if self._idle else None
            connection = kept or self._connect(seconds)
            connection.timeout = seconds
            if connection.sock is not None:
                connection.sock.settimeout(seconds)
            watched = ending.get(None) or Ending()
            watched.connections.append(connection)
            try:
                watched.check()
                connection.request(method, self._prefix + path, body or None, headers)
                answer = connection.getresponse()
                content = answer.read()
            except BaseException as error:
                connection.close()
                again = (http.client.RemoteDisconnected, ConnectionError)
                watched.check()
                if kept is not None and isinstance(error, again):
                    continue
                raise
            finally:
                watched.connections.remove(connection)
            if answer.will_close:
                connection.close()
            else:
                with self._lock:
                    self._idle.append(connection)
            return answer.status, answer.headers, content

    def _connect(self, seconds: float) -> http.client.HTTPConnection:
        parts = self._parts
        if parts.scheme == "unix":
            return _UnixConnection(unquote(parts.netloc + parts.path), seconds)
        host = parts.hostname or ""
        if parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, parts.port, timeout=seconds, context=context)
        return http.client.HTTPConnection(host, parts.port, timeout=seconds)

    def _place(self) -> str:
        """The address without a user's name or password."""
        parts = self._parts
        port = "" if parts.scheme == "unix" or parts.port is None else f":{parts.port}"
        return f"{parts.scheme}://{parts.hostname or ''}{port}{self._prefix or ''}"


def _pause(seconds: float, limit: Limit) -> None:
    """Wait, until the call must end. Raises Cancelled or TimedOut."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, LEAST_WAIT))
        limit.check()
        if (mine := ending.get(None)) is not None:
            mine.check()


def _close(connections: list[http.client.HTTPConnection]) -> None:
    while connections:
        connections.pop().close()


def _json(body: Mapping[str, Any]) -> bytes:
    given = {name: value for name, value in body.items() if value is not None}
    return json.dumps(given, ensure_ascii=False, allow_nan=False).encode()


def json_size(text: str) -> int:
    """The bytes of a text in a body."""
    return len(json.dumps(text, ensure_ascii=False).encode())


def _seconds(retry_after: str | None) -> float:
    with contextlib.suppress(TypeError, ValueError):
        return float(retry_after or 0)
    return 1.0


def _error(status: int, content: bytes, other: type[TesseraError]) -> Exception:
    """The exception of an answer: of the class that a local model would raise."""
    try:
        found = json.loads(content)
        message, name, index = str(found["error"]), found.get("class"), found.get("index")
    except (ValueError, KeyError, TypeError, AttributeError):
        return other(f"the server answered with the status {status}, which no tessera server does")
    if status in BUSY:
        return TimedOut(f"the server is busy: {message}")
    known = getattr(errors, name, None) if isinstance(name, str) else None
    if name == "TypeError":
        made: Any = TypeError(message)
        made.index = index
        return made  # type: ignore[no-any-return]
    if not (isinstance(known, type) and issubclass(known, TesseraError)):
        known = other
    return (other if known is TesseraError else known)(message, index=index)


def rows(arrays: Arrays, kind: str, n: int) -> list[Any]:
    """The array of each of n inputs, or its (indices, values) for the kind "sparse"."""
    ends = np.cumsum(arrays[f"{kind}.rows"])[:-1] if n else np.zeros(0, np.int64)
    if kind == "sparse":
        parts = (arrays["sparse.indices"], arrays["sparse.values"]) if n else ()
        split = [np.split(part, ends) for part in parts]
        return [tuple(part.copy() for part in pair) for pair in zip(*split, strict=True)]
    return [part.copy() for part in np.split(arrays[kind], ends)] if n else []

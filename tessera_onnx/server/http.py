"""From ASGI messages to a Call, and from an Answer to ASGI messages, with limits and logs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import orjson

from tessera_onnx.server.failures import Failure, Sort, TooLarge, failure
from tessera_onnx.server.fields import BadRequest, Fields
from tessera_onnx.server.registry import Opening
from tessera_onnx.server.schemas import Schema
from tessera_onnx.server.work import Closing, Priority

if TYPE_CHECKING:
    from tessera_onnx.server.app import Server

logger = logging.getLogger("tessera_onnx.server")
access = logging.getLogger("tessera_onnx.server.access")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
JSON = "application/json"
GONE = 499  # the status in logs and metrics for a client that left
ITEMS = 8  # of a list that is written in parts
PART = 1 << 16  # bytes of an answer that are sent at a time
BODY_SECONDS = 60.0  # in which a body must arrive
TRACE = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C traceparent
REQUEST_ID = re.compile(r"[!-~]{1,128}")  # what can stand in a header and as a word of a log


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    body: bytes
    status: int = 200
    media_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any, status: int = 200, **headers: str) -> Answer:
        """An answer in JSON; arrays are lists of numbers. Underscores of headers become dashes."""
        body = _json(_in_parts(value))
        return cls(body, status, JSON, {name.replace("_", "-"): v for name, v in headers.items()})


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _in_parts(value: Any) -> Any:
    """The value with the items of its long lists written, one by one.

    orjson holds the interpreter while it writes; between two items other threads have their turn.
    """
    if isinstance(value, dict):
        return {name: _in_parts(each) for name, each in value.items()}
    if isinstance(value, list) and len(value) < ITEMS:
        return [_in_parts(each) for each in value]
    if isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim > 1):
        return [orjson.Fragment(_json(each)) for each in value]
    return value


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a protocol writes an error: its body, and statuses that differ from those of STATUS."""

    name: str
    error: Callable[[Failure], Any]
    status: Mapping[Sort, int] = field(default_factory=dict)

    def answer(self, found: Failure) -> Answer:
        """The answer for a failure."""
        status = self.status.get(found.sort, found.status)
        body = orjson.dumps(self.error(found))
        return Answer(body, status, JSON, found.headers)


class Call:
    """One request that is being answered.

    Attributes:
        server: the server.
        headers: by lower-case name.
        path: the values of the path's parameters.
        body: the body.
        notes: what the log says of it: model, kind, texts, tokens, queue_ms.
    """

    def __init__(self, server: Server, scope: Scope) -> None:
        """The body is set later."""
        self.server = server
        self.scope = scope
        self.headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        self.path: Mapping[str, str] = scope.get("path_params", {})
        self.body = b""
        self.notes: dict[str, Any] = {}
        self.answer_headers: dict[str, str] = {}
        self._fields: Fields | None = None

    async def fields(self) -> Fields:
        """The JSON object of the body, parsed in a thread if it is large. Raises BadRequest."""
        if self._fields is None:
            self._fields = await self.server.beside(len(self.body), Fields.parse, self.body)
        return self._fields

    def timeout(self) -> float:
        """Seconds that the request may wait: x-timeout-ms, up to the server's own limit."""
        most = self.server.limits.timeout
        given = self.headers.get("x-timeout-ms")
        if given is None:
            return most
        if not given.isdecimal() or len(given) > 9 or not int(given):
            raise BadRequest("the header x-timeout-ms must be a whole number of milliseconds")
        return min(most, int(given) / 1000)

    def priority(self, default: Priority) -> Priority:
        """The class in the queue: the header x-priority, else `default`."""
        given = self.headers.get("x-priority")
        if given is None:
            return default
        if given not in {"query", "bulk"}:
            raise BadRequest("the header x-priority must be query or bulk")
        return cast("Priority", given)


Handler = Callable[[Call], Coroutine[Any, Any, Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """A path, its method, and the function that answers it.

    `request` and `response` are the JSON schemas of the bodies, which /openapi.json shows; without
    a `response` the answer is a text.
    """

    path: str
    handler: Handler
    dialect: Dialect
    method: Literal["GET", "POST", "DELETE"] = "POST"
    guard: Literal["key", "none", "admin"] = "key"
    summary: str = ""
    request: Schema | None = None
    response: Schema | None = None
    success: int = 200


class Endpoint:
    """The ASGI application of the routes of one path, each with its own method."""

    def __init__(self, server: Server, path: str, routes: Sequence[Route]) -> None:
        """All routes have this path."""
        self._server = server
        self._path = path
        self._routes: dict[str, Route] = {route.method: route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Every path through this function logs and counts it once."""
        start = monotonic()
        self._server.start()  # where an outer application passes no start on
        call = Call(self._server, scope)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        route = self._routes.get(method)
        dialect = (route or next(iter(self._routes.values()))).dialect
        request_id = _known(call.headers.get("x-request-id")) or secrets.token_hex(8)
        try:
            if route is None:
                answer = dialect.answer(_wrong_method(self._routes))
            else:
                answer = await self._answer(route, call, receive)
        except _Gone:
            self._log(call, GONE, start, request_id)
            return
        except asyncio.CancelledError:  # by uvicorn, when the time to drain is over
            if not self._server.draining:
                raise
            answer = dialect.answer(failure(Closing("the server stopped before it was done")))
        except Exception as error:  # every fault has an answer
            found = failure(error)
            if found.sort == "fault":
                logger.exception("request %s failed", request_id)
            answer = dialect.answer(found)
        headers = {
            "content-type": answer.media_type,
            "content-length": str(len(answer.body)),
            "x-request-id": request_id,
            **call.answer_headers,
            **answer.headers,
        }
        if scope["method"] == "HEAD":
            answer = Answer(b"", answer.status)
        self._log(call, answer.status, start, request_id)
        with self._server.holding() as count:
            count(len(answer.body))
            await _send(send, answer, headers)

    async def _answer(self, route: Route, call: Call, receive: Receive) -> Answer:
        self._server.check_key(call.headers, route.guard)
        if call.headers.get("content-encoding", "identity").lower() != "identity":
            raise BadRequest(
                "compressed bodies are not read: send it as it is, without content-encoding"
            )
        with self._server.reading(call.headers) as count:
            call.body = await _read_body(receive, self._server.limits.body, count)
            return await _watched(_handled(route, call), receive)

    def _log(self, call: Call, status: int, start: float, request_id: str) -> None:
        seconds = monotonic() - start
        model = call.notes.get("model", "")
        metrics = self._server.metrics
        metrics.requests.add(self._path, model, str(status))
        metrics.latency.add(self._path, model, value=seconds)
        if not access.isEnabledFor(logging.INFO):
            return
        line = {
            "route": self._path,
            "status": status,
            "ms": round(seconds * 1000, 2),
            "request_id": request_id,
            **call.notes,
        }
        if trace := TRACE.fullmatch(call.headers.get("traceparent", "")):
            line["trace_id"] = trace[1]
        shown = " ".join(f"{name}={value}" for name, value in line.items())
        access.info("request %s", shown, extra={"fields": line})


async def not_found(dialect: Dialect, scope: Scope, send: Send) -> None:
    """Answer a request for a path that is none of the routes; a websocket is closed."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
        return
    message = "no such path: /openapi.json lists what there is"
    answer = dialect.answer(Failure("unknown", message, 404))
    await _send(send, answer, {"content-type": JSON, "content-length": str(len(answer.body))})


class _Gone(Exception):
    """The client has closed the connection."""


async def _read_body(receive: Receive, most: int, count: Callable[[int], None]) -> bytes:
    """The body of a request; its bytes are counted as they come.

    Raises TooLarge, BadRequest where it does not arrive in time.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Gone
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                count(len(parts[-1]))
                if size > most:
                    raise TooLarge(
                        f"the body has more than {most} bytes: send several requests, or start the "
                        "server with a larger --max-body"
                    )
                if not message.get("more_body"):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError:
        raise BadRequest(f"the body did not arrive within {BODY_SECONDS:.0f} s") from None


async def _handled(route: Route, call: Call) -> Answer:
    """The answer of a handler, which begins anew when a model that it needs has been opened."""
    while True:
        try:
            return await route.handler(call)
        except Opening as needed:  # shielded, since other requests may wait for the model too
            await asyncio.shield(asyncio.wrap_future(needed.model))


async def _watched(work: Coroutine[Any, Any, Answer], receive: Receive) -> Answer:
    """The answer of a handler, which is cancelled when the client leaves. Raises _Gone."""
    answering = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise _Gone
    finally:
        for task in (answering, leaving):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, answer: Answer, headers: Mapping[str, str]) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    body = memoryview(answer.body)
    for start in range(0, max(1, len(body)), PART):
        more = start + PART < len(body)
        part = bytes(body[start : start + PART])
        await send({"type": "http.response.body", "body": part, "more_body": more})


def _wrong_method(routes: Mapping[str, Route]) -> Failure:
    allowed = ", ".join(routes)
    return Failure("method", f"this path takes {allowed}", 405, headers={"allow": allowed})


def _known(request_id: str | None) -> str | None:
    """A request id of the client's, if it is one word."""
    return request_id if request_id and REQUEST_ID.fullmatch(request_id) else None

"""The server as an ASGI application: `app(...)` runs alone or inside another application."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import hmac
import logging
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import starlette.routing
from starlette.applications import Starlette

from tessera_onnx.errors import ConfigError, TimedOut
from tessera_onnx.kinds import AnyOptions
from tessera_onnx.runtime import cpu
from tessera_onnx.server import (
    cohere,
    describe,
    encode,
    forecasts,
    inference,
    jina,
    ollama,
    openai,
    openapi,
    operations,
    rerank,
    tei,
    weaviate,
    web,
)
from tessera_onnx.server.failures import TooLarge, WrongKey, failure
from tessera_onnx.server.http import Call, Endpoint, Receive, Route, Scope, Send, not_found
from tessera_onnx.server.metrics import Metrics
from tessera_onnx.server.queue import Queue
from tessera_onnx.server.registry import Registry
from tessera_onnx.server.served import Job, Served
from tessera_onnx.server.work import Overloaded, Priority, Work

logger = logging.getLogger("tessera_onnx.server")
T = TypeVar("T")
MODULES = (
    *(operations, encode, forecasts, describe, openai, tei, cohere, jina, rerank, ollama),
    *(inference, weaviate, openapi),
)
ROUTES: tuple[Route, ...] = tuple(route for module in MODULES for route in module.ROUTES)
# Work of so many characters or numbers takes less time than handing it to a thread.
SMALL = 2000
# Of texts for each token that a request may have. A character takes the tokenizer some 100 bytes.
CHARACTERS = 4
NUMBERS = 1 << 28  # in an answer: 1 GB of float32
# Requests of at most so many texts and tokens are queries, if the client does not say what they
# are: somebody waits for them.
QUERY_TEXTS = 4
QUERY_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes; /info tells it."""

    texts: int = 2048  # in a request
    tokens: int = 1 << 20  # in a request
    body: int = 64 << 20  # bytes
    queue_tokens: int = 1 << 21  # that wait
    pending_bytes: int = 512 << 20  # bodies that are being read or answered
    timeout: float = 60.0  # seconds that a request may take

    @property
    def in_request(self) -> int:
        """Most tokens of a request: a larger one would wait for a place in the queue forever."""
        return min(self.tokens, self.queue_tokens)

    @property
    def characters(self) -> int:
        """Of the texts of a request: the tokenizer reads all of a text, also what is cut then."""
        return CHARACTERS * self.tokens


class Server:
    """The models, the queue and the limits behind the routes."""

    def __init__(self, registry: Registry, limits: Limits, threads: int | None) -> None:
        """`threads` None takes those of the machine."""
        self.registry = registry
        self.limits = limits
        self.threads = cpu.cpu_threads(threads)
        self.metrics = Metrics()
        self.queue = Queue(self.threads, limits.queue_tokens, self.metrics)
        self.draining = False
        self.document = b""  # of /openapi.json
        self.keys: list[bytes] = []
        self.admin_keys: list[bytes] = []
        self.requests = 0  # that are being read or answered
        self._pending_bytes = 0
        self._beside = ThreadPoolExecutor(self.threads, "tessera-beside")
        self._loading: threading.Thread | None = None
        logger.info(
            "%d threads; at most %d tokens wait, in bodies of at most %d MB together",
            *(self.threads, limits.queue_tokens, limits.pending_bytes >> 20),
        )
        registry.on_open = self._opened
        watch = self.metrics.watch
        watch("tessera_requests_running", "Requests in flight.", lambda: self.requests)
        watch("tessera_queue_items", "Items that wait.", lambda: len(self.queue))
        watch("tessera_queue_tokens", "Tokens that wait.", lambda: self.queue.tokens)
        watch("tessera_running_batches", "Batches that run.", lambda: self.queue.running)
        watch("tessera_models", "Models that are open.", lambda: len(registry.all()))
        watch("tessera_ready", "1 if the server is ready.", lambda: float(self.state()[0]))

    def start(self) -> None:
        """Begin to open the models, in a thread; later calls do nothing."""
        if self._loading is None:
            self._loading = threading.Thread(target=self.registry.load, name="tessera-load")
            self._loading.daemon = True
            self._loading.start()

    def state(self) -> tuple[bool, str]:
        """Whether requests are answered, and in words why not."""
        return (False, "the server is about to stop") if self.draining else self.registry.state()

    def close(self, timeout: float) -> None:
        """Finish what was taken, for up to `timeout` seconds, and close the models."""
        self.draining = True
        if not self.queue.close(timeout):
            logger.warning("the requests that were taken were not finished in %g s", timeout)
        for served in self.registry.all():
            served.model.close()
        self._beside.shutdown(wait=False)

    def check_key(self, headers: Mapping[str, str], guard: str) -> None:
        """Raises WrongKey. All keys are compared, in a time that does not depend on them."""
        keys = {"none": [], "key": self.keys, "admin": self.admin_keys}[guard]
        if not keys and guard != "admin":
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.casefold() != "bearer":
            given = headers.get("api-key", "")
        digest = hashlib.sha256(given.strip().encode("latin-1")).digest()  # the bytes as they came
        if not any([hmac.compare_digest(digest, key) for key in keys]):  # noqa: C419 (compare all)
            raise WrongKey("the key is missing or wrong: send it as Authorization: Bearer KEY")

    @contextlib.contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """Count bytes of a body or an answer as they come to be kept, until they are let go."""
        held = 0

        def count(size: int) -> None:
            nonlocal held
            held += size
            self._pending_bytes += size

        try:
            yield count
        finally:
            self._pending_bytes -= held

    @contextlib.contextmanager
    def reading(self, headers: Mapping[str, str]) -> Iterator[Callable[[int], None]]:
        """Count a request and its body until it is answered. Raises TooLarge or Overloaded.

        Bytes count when they have come: what a header promises costs its client nothing.
        """
        length = headers.get("content-length", "")
        most = self.limits.body
        size = int(length) if length.isdecimal() and len(length) < 16 else 0
        if size > most:
            raise TooLarge(
                f"the body has {size} bytes, the server reads {most}: send several requests, or "
                "start the server with a larger --max-body"
            )
        if self._pending_bytes and self._pending_bytes + size > self.limits.pending_bytes:
            raise Overloaded("bodies and answers of other requests fill the server's memory", 1)
        self.requests += 1
        try:
            with self.holding() as count:
                yield functools.partial(self._count_body, count)
        finally:
            self.requests -= 1

    def _count_body(self, count: Callable[[int], None], size: int) -> None:
        """Count some of a body. Raises Overloaded where others have filled the memory since."""
        count(size)
        if self._pending_bytes > self.limits.pending_bytes + self.limits.body:
            raise Overloaded("bodies and answers of other requests fill the server's memory", 1)

    async def read(self, size: int, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function that tokenizes `size` characters, as `beside` does.

        Raises ConfigError for more characters than are taken.
        """
        most = self.limits.characters
        if size > most:
            raise ConfigError(
                f"the request has {size} characters or token ids, at most {most} are read: send "
                "several requests, or start the server with a larger --max-tokens"
            )
        return await self.beside(size, function, *args, **kwargs)

    async def beside(self, size: int, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function, in a thread if it takes long: `size` is in characters or numbers."""
        if size <= SMALL:
            return function(*args, **kwargs)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._beside, functools.partial(function, *args, **kwargs)
        )

    async def run(self, job: Job, call: Call, *, query: bool | None = None) -> Any:
        """The results of a job, as `Job.finish` gives them.

        `query` says whether somebody waits for it; None decides by its size. Raises Overloaded,
        TimedOut, ConfigError for too many tokens, and what the model raises.
        """
        tokens = job.size
        if tokens > self.limits.in_request:
            name = "tokens" if self.limits.in_request == self.limits.tokens else "queue-tokens"
            raise ConfigError(
                f"the request has {tokens} tokens, at most {self.limits.in_request} are taken: "
                f"send several requests, or start the server with a larger --max-{name}"
            )
        if job.numbers > NUMBERS:
            raise ConfigError(
                f"the answer would hold {job.numbers} numbers, at most {NUMBERS} are given: send "
                "several requests"
            )
        if query is None:
            query = len(job.items) <= QUERY_TEXTS and tokens <= QUERY_TOKENS
        default: Priority = "query" if query else "bulk"
        work = Work(job.items, priority=call.priority(default), timeout=call.timeout())
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not answered.done():
                answered.set_result(None)

        def done() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(settle)

        work.done = done
        self.queue.submit(work)
        job.model.requests += 1
        try:
            async with asyncio.timeout(work.timeout):
                await answered
        except TimeoutError:
            self.queue.cancel(work)
            raise TimedOut(
                f"the request took longer than its timeout of {work.timeout:g} s"
            ) from None
        except asyncio.CancelledError:
            self.queue.cancel(work)
            raise
        finally:
            job.model.requests -= 1
            job.left.set()
        self._note(job, work, call)
        if work.error is not None:
            job.model.is_suspect |= failure(work.error).sort == "fault"
            raise work.error
        return await self.beside(len(job.items) * 32, job.finish, work.results)

    def _note(self, job: Job, work: Work, call: Call) -> None:
        name, cut = job.model.name, job.cut
        call.notes |= {
            "model": name,
            "kind": job.kind,
            "inputs": len(job.items),
            "tokens": job.size,
            "queue_ms": round(work.queue_seconds * 1000, 2),
        }
        call.answer_headers["x-queue-time"] = f"{work.queue_seconds * 1000:.2f}"
        call.answer_headers["x-compute-tokens"] = str(job.size)
        self.metrics.queue_seconds.add(name, job.kind, value=work.queue_seconds)
        self.metrics.tokens.add(name, job.kind, amount=job.size)
        if cut:
            call.notes["truncated"] = len(cut)
            call.answer_headers["x-truncated"] = ",".join(map(str, cut[:100]))
            self.metrics.truncated.add(name, job.kind, amount=len(cut))

    def _opened(self, served: Served) -> None:
        """Let the series of the model exist."""
        paths = {route.path for route in ROUTES if route.guard == "key"}
        self.metrics.expect(paths, [(served.name, kind) for kind in served.kinds])


def app(
    *models: str,
    aliases: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    keys: Sequence[str] = (),
    admin_keys: Sequence[str] = (),
    threads: int | None = None,
    drain: float = 30.0,
    lazy: bool = False,
    page: bool = False,
    **options: Any,
) -> Starlette:
    """The server of some models as an ASGI application.

    The models are opened in a thread when the application starts, or at the first request where an
    outer application does not pass the start on; until then requests get 503, unless `lazy`.

    Args:
        *models: ids, folders or repositories.
        aliases: further names of models, such as {"text-embedding-3-small": "minilm"}.
        limits: what is taken; None takes the defaults.
        keys: the keys of clients; without any, everybody is served.
        admin_keys: the keys that may add and drop models; without any, nobody may.
        threads: CPU threads; None takes TESSERA_THREADS, else the affinity and cgroup quota.
        drain: seconds for which the end of the application waits for requests that were taken.
        lazy: open a model when a request asks for it, which waits until then. /info lists those
            that are not open as `closed`.
        page: serve the page for people at `/`.
        **options: of every model: device, precision, cache_dir, offline.

    Raises:
        ConfigError: no model is named, or a key is empty.
        TypeError: `keys` or `admin_keys` is a str, or an option is unknown.
    """
    if not models:
        raise ConfigError("name at least one model to serve")
    for name, given in (("keys", keys), ("admin_keys", admin_keys)):
        if isinstance(given, str):
            raise TypeError(f"{name} must be a list of keys, got one str")
        if not all(given):
            raise ConfigError(f"{name} holds an empty key: anybody has it")
    if unknown := sorted(options.keys() - AnyOptions.__annotations__):  # such as `key` for `keys`
        raise TypeError(f"{unknown[0]} is no option of the server or of a model")
    options = {"on_long": "truncate", "threads": threads, **options}
    registry = Registry(models, aliases or {}, options, lazy=lazy)
    server = Server(registry, limits or Limits(), threads)
    server.keys = [hashlib.sha256(key.encode()).digest() for key in keys]
    server.admin_keys = [hashlib.sha256(key.encode()).digest() for key in admin_keys]

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        server.start()
        yield
        await asyncio.get_running_loop().run_in_executor(None, server.close, drain)

    added = web.routes() if page else ()
    known = {(route.path, route.method): route for route in (*ROUTES, *added)}
    paths: dict[str, list[Route]] = defaultdict(list)
    for route in known.values():
        paths[route.path].append(route)
    found = Starlette(
        routes=[
            starlette.routing.Route(path, Endpoint(server, path, routes), methods=None)
            for path, routes in paths.items()
        ],
        lifespan=lifespan,
    )
    found.router.redirect_slashes = False  # curl and most SDKs follow no redirect
    found.router.default = functools.partial(_nowhere, found.router)
    found.state.server = server
    server.document = openapi.document(tuple(known.values()))
    return found


async def _nowhere(
    router: starlette.routing.Router, scope: Scope, receive: Receive, send: Send
) -> None:
    """A path that is no route's, as it is: one more slash at its end does not matter."""
    path = scope["path"].rstrip("/")
    if path and path != scope["path"]:
        await router({**scope, "path": path}, receive, send)
    else:
        await not_found(operations.OWN, scope, send)

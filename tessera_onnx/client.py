"""Use the models of a server by the methods of local models.

>>> from tessera_onnx import Client
>>> with Client("http://127.0.0.1:8080") as client:
...     model = client.open("all-minilm-l6-v2")
...     vectors = model.encode_batch(["a text", "another"])
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Literal, Self, overload

from tessera_onnx.models.spec import Kind
from tessera_onnx.remote import base
from tessera_onnx.remote.link import Ending, Link, ending
from tessera_onnx.series.timeseries import TesseraTimeSeries
from tessera_onnx.text.dense import TesseraDense
from tessera_onnx.text.multi_vector import TesseraMultiVector
from tessera_onnx.text.reranker import TesseraReranker
from tessera_onnx.text.sparse import TesseraSparse

THREADS = 16  # requests of an AsyncClient at the same time
_END = object()


class Client:
    """A server of `tessera serve`. Threads may share it; its models keep its connections.

    The pickle of a model holds the address and the key.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout: float = 60.0) -> None:
        """Nothing is sent until a model is opened.

        Args:
            url: "http://HOST:PORT", "https://HOST/PREFIX", or "unix:///PATH" for a socket file.
            key: the key that the server asks for.
            timeout: seconds that a request may take, with the waits for a busy server.

        Raises TypeError or ConfigError for a wrong argument.
        """
        self._link = Link(url, key, timeout)

    @overload
    def open(
        self, model_id: str | None = ..., *, kind: Literal["dense"], **options: Any
    ) -> TesseraDense: ...

    @overload
    def open(
        self, model_id: str | None = ..., *, kind: Literal["multi-vector"], **options: Any
    ) -> TesseraMultiVector: ...

    @overload
    def open(
        self, model_id: str | None = ..., *, kind: Literal["sparse"], **options: Any
    ) -> TesseraSparse: ...

    @overload
    def open(
        self, model_id: str | None = ..., *, kind: Literal["reranker"], **options: Any
    ) -> TesseraReranker: ...

    @overload
    def open(
        self, model_id: str | None = ..., *, kind: Literal["time-series"], **options: Any
    ) -> TesseraTimeSeries: ...

    @overload
    def open(
        self, model_id: str | None = ..., *, kind: Kind | None = ..., **options: Any
    ) -> Any: ...

    def open(self, model_id: str | None = None, *, kind: Kind | None = None, **options: Any) -> Any:
        """A model of the server: an object of the class that `Tessera(model_id)` gives.

        Its methods have the results of a local model, to the bit on equal processors. Cut texts,
        warnings and errors are those of a local model too; where the server cannot be reached they
        raise EncodingError, and TimedOut where it is busy or slow.

        Args:
            model_id: id or alias; None takes the server's first.
            kind: the kind that a model of several kinds is used as; None takes the first.
            **options: dimension, on_long and max_active_dims of the class. What concerns files,
                devices and threads is the server's.

        Raises:
            LoadError: the server cannot be reached, or is no server of tessera.
            ModelNotFound: it has no model of that name.
            ConfigError, TypeError: an argument cannot work.
        """
        return base.opened(self._link, model_id, kind, options)

    def models(self) -> list[dict[str, Any]]:
        """What the server tells of its models: id, aliases, kinds, precision, device and more."""
        found: list[dict[str, Any]] = self._link.get("/info")["models"]
        return found

    def close(self) -> None:
        """Close the connections. Models that are used later open new ones."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """As Client, for asyncio: `open` gives a model whose methods are awaited.

    Requests run on threads of the client. A task that is cancelled closes its connection, so that
    the server drops its work.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout: float = 60.0) -> None:
        """Arguments and errors are those of Client."""
        self._client = Client(url, key, timeout=timeout)
        self._threads = ThreadPoolExecutor(THREADS, "tessera-client")

    async def open(
        self, model_id: str | None = None, *, kind: Kind | None = None, **options: Any
    ) -> AsyncModel:
        """A model of the server; arguments and errors are those of `Client.open`."""
        return AsyncModel(
            await _run(self._threads, self._client.open, model_id, kind=kind, **options),
            self._threads,
        )

    async def models(self) -> list[dict[str, Any]]:
        """As `Client.models`."""
        found: list[dict[str, Any]] = await _run(self._threads, self._client.models)
        return found

    async def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._threads.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncModel:
    """A model of a server whose methods are awaited; `encode_iter` is for `async for`.

    Methods that need no server, such as `dimension`, are awaited too. `local` is the object of the
    local class, without a wait.
    """

    def __init__(self, model: Any, threads: ThreadPoolExecutor) -> None:
        """`model` is what `Client.open` gives."""
        self.local = model
        self._threads = threads

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """The method of that name, as a coroutine function."""
        method = getattr(self.local, name)
        if name.startswith("_") or not inspect.ismethod(method):
            raise AttributeError(f"{name} is no method of a model")
        if name in {"encode_iter", "encode_pages"}:
            return functools.partial(self._stream, method)
        return functools.partial(_run, self._threads, method)

    async def _stream(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        found = await _run(self._threads, method, *args, **options)
        async for each in self._over(found):
            yield each

    async def _over(self, found: Any) -> AsyncIterator[Any]:
        while (each := await _run(self._threads, next, found, _END)) is not _END:
            yield each

    def __repr__(self) -> str:
        return f"AsyncModel({self.local!r})"


async def _run(
    threads: ThreadPoolExecutor, function: Callable[..., Any], *args: Any, **options: Any
) -> Any:
    """Call a function on a thread; a cancelled task ends the request that it waits for."""
    mine = Ending()

    def call() -> Any:
        ending.set(mine)
        return function(*args, **options)

    context = copy_context()
    running = asyncio.get_running_loop().run_in_executor(threads, context.run, call)
    try:
        return await running
    except asyncio.CancelledError:
        mine.end()
        raise

"""Run an application under uvicorn, with limits on clients that are slow to send or to read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from starlette.applications import Starlette

logger = logging.getLogger("tessera_onnx.server")

HEADER_SECONDS = 30.0  # in which the header of a request must be complete
HEAD_BYTES = 1 << 16  # of a request beside its body
PIPELINED = 32  # requests of a connection that wait for the answer of another
CHUNK = 8  # bytes that a byte of the body may have around it, in chunks
READ_SECONDS = 60.0  # in which a client must read some of an answer that fills its buffers
KEEP_ALIVE = 75  # seconds that a connection may stay open between two requests


class Protocol(HttpToolsProtocol):
    """A connection that is cut when its client sends no header or reads no answer for too long.

    So is one whose headers, or what lies around the chunks of a body, have no end.
    """

    _late: asyncio.TimerHandle | None = None
    _around: int = 0  # bytes of the request that are not its body
    _whole: bool = True  # whether the request has been received to its end
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the header."""
        super().connection_made(transport)
        self._expect()

    def _expect(self) -> None:
        """Cut the connection unless something comes in time."""
        self._expect_no_more()
        self._late = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def _expect_no_more(self) -> None:
        if self._late is not None:
            self._late.cancel()

    def data_received(self, data: bytes) -> None:
        """Refuse a request whose head has no end: the parser would keep all of it."""
        self._around += len(data)
        super().data_received(data)
        if self._around > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        """A request begins, the first or a later one."""
        self._around, self._whole = 0, False
        self._expect()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The header is there. Requests that pile up behind one that is not answered end it all."""
        if len(self.pipeline) >= PIPELINED:
            raise BufferError("too many requests at once")  # uvicorn answers 400
        self._expect_no_more()
        super().on_headers_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: a client may ask for another protocol, and is answered in this one."""

    def on_body(self, body: bytes) -> None:
        """Some of a body."""
        self._around = max(0, self._around - CHUNK * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        self._whole = True
        self._expect_no_more()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is sent; what is left of a body that was refused must come in time."""
        super().on_response_complete()
        if not self._whole and not self.transport.is_closing():
            self._expect()

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        super().pause_writing()
        self._unread = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        if self._unread is not None:
            self._unread.cancel()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the timers go."""
        for timer in (self._late, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)


class Program(uvicorn.Server):
    """uvicorn, which tells the application at once that the process is to end."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and log where: port 0 is one that is free."""
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                name = listening.getsockname()
                place = f"http://{name[0]}:{name[1]}" if isinstance(name, tuple) else name
                logger.info("listening at %s", place)

    def handle_exit(self, sig: int, frame: Any) -> None:  # noqa: ARG002
        """A signal: /readyz is false from now on, and the requests in flight are answered."""
        application: Any = self.config.app
        application.state.server.draining = True
        logger.info("draining: %d items wait", len(application.state.server.queue))
        # Not as uvicorn, which raises the signal again at the end: a server that was told to stop
        # and has answered everything has done well.
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def run(
    application: Starlette,
    *,
    host: str,
    port: int,
    unix_socket: str | None = None,
    drain: float,
) -> bool:
    """Serve until a signal ends it; False when the application could not start or failed.

    `drain` is the number of seconds for which requests in flight are awaited.
    """
    raise_file_limit()
    config = uvicorn.Config(
        application,
        host=host,
        port=port,
        uds=unix_socket,
        http=Protocol,
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(drain)),
        lifespan="on",
    )
    program = Program(config)
    server = application.state.server

    def stop() -> None:
        program.should_exit = True

    server.registry.on_fail = stop
    program.run()
    return program.started and server.registry.failed is None


def raise_file_limit() -> None:
    """Allow as many open connections as the system lets this process have."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def is_free(host: str, port: int) -> bool:
    """Whether the address can be listened at; uvicorn itself says only that it failed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True

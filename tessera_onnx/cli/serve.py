"""`tessera serve`: models behind HTTP, for the clients of OpenAI, TEI, Cohere, Jina and Ollama."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tessera_onnx.cli.options import CACHE, DEVICE, PRECISION, THREADS, Command
from tessera_onnx.errors import install_hint

LEVELS = ("debug", "info", "warning", "error")


def _limit(name: str, default: int, text: str) -> Callable[[Command], Command]:
    return click.option(
        name, type=click.IntRange(min=1), default=default, show_default=True, help=text
    )


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, envvar="TESSERA_HOST",
              help="Address to listen at; 0.0.0.0 is all of this machine.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True,
              envvar="TESSERA_PORT", help="Port to listen at.")  # fmt: skip
@click.option("--unix-socket", metavar="PATH", help="Listen at a socket file instead.")
@click.option("--alias", "aliases", metavar="NAME=MODEL", multiple=True,
              help="A further name of a model.")  # fmt: skip
@click.option("--preload", is_flag=True,
              help="Open all models, run each once, and end: a check, or a download.")  # fmt: skip
@_limit("--max-texts", 2048, "Most texts of a request.")
@_limit("--max-tokens", 1 << 20, "Most tokens of a request.")
@_limit("--max-body", 64 << 20, "Most bytes of a request.")
@_limit("--max-queue-tokens", 1 << 21, "Most tokens that wait; more is answered with 429.")
@click.option("--timeout", type=click.FloatRange(min=0.001), default=60.0, show_default=True,
              help="Most seconds of a request; x-timeout-ms may say less.")  # fmt: skip
@click.option("--drain", type=click.FloatRange(min=0), default=30.0, show_default=True,
              help="Seconds for which the end waits for requests that were taken.")  # fmt: skip
@click.option("--keys", "key_file", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
              envvar="TESSERA_KEYS", help="Keys of clients, a line each.")  # fmt: skip
@click.option("--admin-keys", "admin_file", type=click.Path(exists=True, dir_okay=False),
              metavar="FILE", envvar="TESSERA_ADMIN_KEYS",
              help="Keys that may add and drop models. Default: nobody may.")  # fmt: skip
@click.option("--web", is_flag=True, help="Serve a page to try the models in a browser, at /.")
@click.option("--offline", is_flag=True, help="Open only models that are on this machine.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text",
              show_default=True, envvar="TESSERA_LOG_FORMAT")  # fmt: skip
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True,
              help="From info up, each request is a line.")  # fmt: skip
@DEVICE
@PRECISION
@THREADS
@CACHE
def serve(
    *,
    models: tuple[str, ...],
    host: str,
    port: int,
    unix_socket: str | None,
    aliases: tuple[str, ...],
    preload: bool,
    max_texts: int,
    max_tokens: int,
    max_body: int,
    max_queue_tokens: int,
    timeout: float,
    drain: float,
    key_file: str | None,
    admin_file: str | None,
    web: bool,
    offline: bool,
    log_format: Any,
    log_level: str,
    **options: Any,
) -> None:
    """Serve models over HTTP.

    The server listens at once and opens its models then: /readyz tells when they have run. It ends
    with exit code 1 where a model cannot be opened.

    \b
    Example: tessera serve all-minilm-l6-v2 --alias text-embedding-3-small=all-minilm-l6-v2
    """
    check_installed()
    from tessera_onnx.server import app, logs, protocol, registry

    logs.set_up(log_format, log_level)
    given = {name: value for name, value in options.items() if value is not None}
    given |= {"offline": True} if offline else {}
    names = dict(_alias(each) for each in aliases)
    if preload:
        for name in models:
            found = registry.Registry([name], {}, {"on_long": "truncate", **given}).add(name)
            found.model.close()
        return
    if unix_socket is None:
        check_free(host, port)
    application = app.app(
        *models,
        aliases=names,
        limits=app.Limits(
            texts=max_texts,
            tokens=max_tokens,
            body=max_body,
            queue_tokens=max_queue_tokens,
            timeout=timeout,
        ),
        keys=_keys(key_file),
        admin_keys=_keys(admin_file),
        drain=drain,
        page=web,
        **given,
    )
    well = protocol.run(application, host=host, port=port, unix_socket=unix_socket, drain=drain)
    if not well:
        raise click.exceptions.Exit(1)


def check_installed() -> None:
    """Raises ClickException where the extra `serve` is not installed."""
    try:
        from tessera_onnx.server import app, protocol  # noqa: F401 (they import all that it holds)
    except ImportError as error:
        raise click.ClickException(
            f"{error.name} is not installed: {install_hint('serve')}"
        ) from None


def check_free(host: str, port: int) -> None:
    """Raises ClickException where the address cannot be listened at."""
    from tessera_onnx.server import protocol

    if not protocol.is_free(host, port):
        raise click.ClickException(f"cannot listen at {host}:{port}: choose another --port")


def _alias(text: str) -> tuple[str, str]:
    name, _, model = text.partition("=")
    if not name or not model:
        raise click.BadParameter("give NAME=MODEL", param_hint="--alias")
    return name, model


def _keys(file: str | None) -> list[str]:
    """The keys of a file, one a line. Blank lines and lines that begin with # are left out."""
    if file is None:
        return []
    lines = (line.strip() for line in Path(file).read_text("utf-8").splitlines())
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise click.ClickException(f"{file} holds no key")
    return keys

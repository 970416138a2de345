"""The command `tessera`: its commands, its exit codes, and errors as one line on stderr."""

from __future__ import annotations

import importlib
import io
import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from tessera_onnx import __version__
from tessera_onnx.cli.output import as_options, say
from tessera_onnx.errors import TesseraError

# Each command and its module, which is imported when the command runs or help lists it.
COMMANDS = {
    "adopt": "adopt",
    "batch": "batch",
    "completion": "completion",
    "demo": "demo",
    "doctor": "doctor",
    "encode": "embed",
    "explain": "images",
    "forecast": "forecast",
    "index": "index",
    "info": "models",
    "load": "load",
    "models": "models",
    "pin": "pull",
    "pull": "pull",
    "rank": "embed",
    "rerank": "rerank",
    "search": "search",
    "serve": "serve",
    "similarity": "embed",
    "verify-catalogue": "verify_catalogue",
}


class Program(click.Group):
    """A group that turns what the package raises into one line on stderr and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click passes it)
        """The names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (click passes it)
        """A command of COMMANDS, None for another name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"tessera_onnx.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line. An OSError while click prints help or the version is one line."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:  # click itself ends quietly where a pipe was closed
            click.echo(f"Error: {error}", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. Errors of the package and of the system become one line and exit code 1.

        Ctrl-C is exit code 130. Other exceptions are faults of this program: they keep their
        traceback.
        """
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a narrow terminal is no reason to fail
        try:
            with _prepared():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted", err=True)
            raise click.exceptions.Exit(130) from None
        except BrokenPipeError:
            raise  # click ends quietly
        except MemoryError:
            raise click.ClickException("not enough memory: give a smaller input or model") from None
        except (TesseraError, OSError, TypeError, ImportError) as error:
            raise click.ClickException(as_options(str(error))) from error


@contextmanager
def _prepared() -> Iterator[None]:
    """Print warnings and log lines on stderr; let signals unwind, so that no half file stays."""
    logger, handler = logging.getLogger("tessera_onnx"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("Warning: %(message)s"))
    logger.addHandler(handler)
    previous = {
        number: signal.signal(number, _unwind)
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", None))  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None)  # nohup
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _show_warning
            yield
    finally:
        for number, handler_before in previous.items():
            signal.signal(number, handler_before)
        logger.removeHandler(handler)


def _unwind(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    say(f"Warning: {as_options(str(message))}")


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tessera", message="%(prog)s %(version)s")
def main() -> None:
    """Embed, compare and rank texts and page images, and forecast series, on ONNX Runtime.

    Put `--` before a text that begins with a dash.
    """

"""The program itself: errors and warnings as lines on stderr, signals that unwind."""

from __future__ import annotations

import difflib
import io
import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from tessera_onnx.cli import output
from tessera_onnx.cli.options import ProgramCommand, say, unrepeated, without_content
from tessera_onnx.errors import TesseraError

GIVEN = "tessera_onnx.given"  # the arguments, in click's notes of a call


class Program(click.Group):
    """Turns what the package raises into one line on stderr and an exit code."""

    command_class = ProgramCommand

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse unknown options without naming them."""
        ctx.meta[GIVEN] = list(args)
        with unrepeated(ctx):
            return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse an unknown command without naming it: it may be a text."""
        if args[0] not in self.commands:
            near = difflib.get_close_matches(args[0][:40], self.commands, n=1)
            hint = f"did you mean {near[0]}?" if near else "`tessera --help` lists them"
            ctx.fail(f"no such command: {hint}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """One line also where help and version cannot be printed, before any command begins."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:  # a pipe that was closed ends in click itself
            click.echo(f"Error: {error}", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what is raised on purpose becomes one line, without long values."""
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
        except click.UsageError as error:
            said = error.format_message()
            message = without_content(said, ctx.meta[GIVEN])
            if message == said:
                raise
            raise click.UsageError(message, error.ctx) from None
        except MemoryError:
            raise click.ClickException("not enough memory: give a smaller input or model") from None
        except (TesseraError, OSError, TypeError, ImportError) as error:
            message = output.as_options(without_content(str(error), ctx.meta[GIVEN]))
            raise click.ClickException(message) from error


@contextmanager
def _prepared() -> Iterator[None]:
    """Warnings and log lines plainly on stderr; signals unwind, and so leave no file behind."""
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
    say(f"Warning: {output.as_options(str(message))}")

"""What the command's modules share: options, where the model is looked for, how results print."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from tessera_onnx.cli import texts as cli_texts
from tessera_onnx.cli import vector_files
from tessera_onnx.errors import LONGEST_NAME, named
from tessera_onnx.models import spec
from tessera_onnx.models.spec import Kind
from tessera_onnx.progress import Stderr

LONGEST_OPTION = 30
SERIES: Kind = "time-series"
MODEL = click.option(
    "-m", "--model", metavar="ID_OR_FOLDER", help="Model id or folder, else the installed default."
)
CACHE = click.option(
    "--cache-dir",
    metavar="DIR",
    help="Folder of local models, else TESSERA_CACHE, else the user's cache folder.",
)
DEVICE = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or coreml."
)
PRECISION = click.option("--precision", type=click.Choice(spec.PRECISIONS), help="Graph to run.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
AT_LEAST_1 = click.IntRange(min=1)
THREADS = click.option("--threads", type=AT_LEAST_1, help="CPU threads.")


OPTION = re.compile(r"--?[A-Za-z][A-Za-z0-9]*([_-][A-Za-z0-9]+){0,4}")


@contextlib.contextmanager
def unrepeated(ctx: click.Context) -> Iterator[None]:
    """Name an unknown option only where it can be no text: one short word, or words with dashes."""
    try:
        yield
    except click.NoSuchOption as error:
        name = error.option_name
        is_word = len(name) <= LONGEST_OPTION and OPTION.fullmatch(name)
        near = difflib.get_close_matches(name[:LONGEST_OPTION], _options(ctx), n=1)
        shown = f" {name}" if is_word else ""
        hint = f": did you mean {near[0]}?" if near else ";"
        message = f"no such option{shown}{hint} a text that begins with a dash goes after `--`"
    else:
        return
    ctx.fail(message)  # out of reach of click's error, which a traceback would show


def _options(ctx: click.Context) -> list[str]:
    return [name for param in ctx.command.get_params(ctx) for name in param.opts if name[0] == "-"]


def without_content(message: str, args: Sequence[str]) -> str:
    """A message, which may be click's, with the length in place of every long value of `args`."""
    given = set(args)
    for arg in args:
        if arg[:1] == "-":  # --name=VALUE, -nVALUE
            given |= {arg[2:], arg.partition("=")[2]}
    for value in sorted(given, key=len, reverse=True):
        if len(value) > LONGEST_NAME and (short := named(value)) != value:
            for form in (value, repr(value)[1:-1], json.dumps(value)[1:-1]):
                message = message.replace(form, short)
    return message


class ProgramCommand(click.Command):
    """A command that does not repeat what was given."""

    allow_extra_args = True  # so that no message of click's repeats a text given without quotes

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse unknown options and more arguments than there are, without naming them."""
        with unrepeated(ctx):
            rest = super().parse_args(ctx, args)
        if rest:
            ctx.fail("too many arguments: a text with spaces needs quotes")
        return rest


def location(model: str | None, cache_dir: str | None) -> dict[str, Any]:
    """Where to look: in the folder that MODEL is, else for the model of that id."""
    if model is not None and os.path.isfile(os.path.join(model, "model.toml")):  # noqa: PTH113, PTH118 (a Path raises for what cannot be a name)
        return {"model_id": None, "path": model}
    if model is not None and model.endswith(".toml") and os.path.isfile(model):  # noqa: PTH113 (the same)
        return {"model_id": None, "path": model}
    return {"model_id": model, "cache_dir": cache_dir}


def print_json(value: Any, *, err: bool = False) -> None:
    """One line of JSON, with `err` on stderr."""
    (say if err else click.echo)(json.dumps(value))


def say(message: str) -> None:
    """A line on stderr; where its reader is gone, or there is none, it is lost and work goes on."""
    Stderr().write(f"{message}\n")
    Stderr().flush()


def note_blank(texts: cli_texts.Texts | None) -> dict[str, int]:
    """Say on stderr how many blank lines of a file were left out; the same for a report."""
    if texts is None or not texts.blank:
        return {}
    lines = "1 blank line is" if texts.blank == 1 else f"{texts.blank} blank lines are"
    say(f"Warning: {cli_texts.name(texts.source)}: {lines} left out")
    return {"blank_lines": texts.blank}


def note_names(texts: Iterable[str], hint: str) -> None:
    """Say on stderr that a file's name was read as a text, and what to do."""
    names = [cli_texts.name(text) for text in texts if cli_texts.is_readable(text)]
    if names:
        say(f"Warning: {names[0]} is a file, whose name was read as a text{hint}")


def shown_place(output: str) -> str:
    """What reports call the output."""
    return "stdout" if output == vector_files.STDOUT else click.format_filename(output)


def print_lines(lines: Iterable[str]) -> None:
    """Each line as it comes."""
    for line in lines:
        click.echo(line)

"""What the command's modules share: options, where the model is looked for, how results print."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import click

from tessera_onnx import schema
from tessera_onnx.schema import Kind

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
PRECISION = click.option("--precision", type=click.Choice(schema.PRECISIONS), help="Graph to run.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
AT_LEAST_1 = click.IntRange(min=1)
THREADS = click.option("--threads", type=AT_LEAST_1, help="CPU threads.")


@contextlib.contextmanager
def unrepeated(ctx: click.Context) -> Iterator[None]:
    """Name no unknown option, which may be a text, as click's own error does."""
    try:
        yield
    except click.NoSuchOption as error:
        near = f": did you mean {error.possibilities[0]}?" if error.possibilities else ";"
        message = f"no such option{near} a text that begins with a dash goes after `--`"
    else:
        return
    ctx.fail(message)  # out of reach of click's error, which a traceback would show


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
    return {"model_id": model, "cache_dir": cache_dir}


def print_json(value: Any) -> None:
    """One line of JSON."""
    click.echo(json.dumps(value))


def print_lines(lines: Iterable[str]) -> None:
    """Each line as it comes."""
    for line in lines:
        click.echo(line)

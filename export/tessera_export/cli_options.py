"""Read options of the command, and say which of them a kind does not take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from tessera_export import artifact
from tessera_export.errors import ExportError
from tessera_onnx.models.spec import PRECISIONS, Precision


class DefaultGroup(click.Group):
    """A group whose unknown first argument belongs to the command `model`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert the default command where none is named."""
        if args and args[0] not in {*self.commands, "--help", "--version"}:
            args = ["model", *args]
        return super().parse_args(ctx, args)


def precisions(_ctx: click.Context, _param: click.Parameter, value: str) -> list[Precision]:
    """The precisions of a list with commas, in the order of PRECISIONS."""
    wanted = [name.strip() for name in value.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in PRECISIONS]
    if unknown or not wanted:
        raise click.BadParameter(f"one or more of {', '.join(PRECISIONS)}, separated by commas")
    return [name for name in PRECISIONS if name in wanted]


def sizes(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[int, ...]:
    """The whole numbers of a list with commas."""
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise click.BadParameter("whole numbers separated by commas")
    return tuple(int(part) for part in parts)


def check_options(
    kind: str, kinds: Sequence[str], options: Mapping[str, Any], backend: artifact.Backend
) -> None:
    """Raises ExportError for what only a model of texts can have."""
    if len(set(kinds)) > 1:
        raise ExportError(f"a {kind} model serves no other kind")
    if backend != "torch":
        raise ExportError(f"the backend {backend} is for models of texts")
    for name, value in options.items():
        if value not in (None, (), "graph", False):  # click's defaults of those options
            raise ExportError(f"--{name.replace('_', '-')} is for models of texts")

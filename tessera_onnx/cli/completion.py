"""tessera completion: the script that makes a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that completes commands and options.

    \b
    bash: tessera completion bash > ~/.local/share/bash-completion/completions/tessera
    zsh:  tessera completion zsh > DIR/_tessera, with DIR in fpath
    fish: tessera completion fish > ~/.config/fish/completions/tessera.fish
    """
    made = get_completion_class(shell)
    assert made is not None
    root = ctx.find_root()
    click.echo(made(root.command, {}, "tessera", "_TESSERA_COMPLETE").source())

"""Options that commands share, and the model that they name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, get_args

import click
from click.shell_completion import CompletionItem

from tessera_onnx.cli import texts as cli_texts
from tessera_onnx.cli.output import say
from tessera_onnx.collection.settings import DATABASES
from tessera_onnx.kinds import KINDS, list_models
from tessera_onnx.models.spec import PRECISIONS, Kind, Pooling
from tessera_onnx.text.tokenizer import OnLong

Command = TypeVar("Command", bound=Callable[..., Any])
AT_LEAST_1 = click.IntRange(min=1)


def model_ids(_: click.Context, __: click.Parameter, start: str) -> list[CompletionItem]:
    """Ids of models for a shell's completion, or folders."""
    found = [CompletionItem(name) for name in list_models() if name.startswith(start)]
    return found or [CompletionItem(start, type="dir")]


MODEL = click.option(
    "-m",
    "--model",
    shell_complete=model_ids,
    metavar="ID_OR_FOLDER",
    help="Id or folder of a model, or OWNER/NAME of a repository of the hub. Without it the first "
    "installed model is used.",
)
CACHE = click.option(
    "--cache-dir",
    metavar="DIR",
    help="Folder of local models. Default: TESSERA_CACHE, else the user's cache folder.",
)
DEVICE = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or coreml."
)


def store_url(store: str | None, url: str | None) -> str | None:
    """The URL of a store, from the variable where the command has none."""
    found = url or (os.environ.get("TESSERA_STORE_URL") if store else None)
    if bool(store) != bool(found):
        raise click.UsageError("--store takes --url, or the variable TESSERA_STORE_URL, and no "
                               "collection in a folder has a --url")  # fmt: skip
    return found


def _graph_option(*names: str) -> Callable[[Command], Command]:
    return click.option(
        *names,
        "file",
        metavar="NAME",
        help="Graph to use of a folder or repository without a description, such as "
        "onnx/model_O3.onnx.",
    )


# What a server decides for its models.
OF_THE_SERVER = (
    *("cache_dir", "device", "file", "language", "max_length"),
    *("pooling", "precision", "threads"),
)


FILE = _graph_option("--file", "--model-file")
MODEL_FILE = _graph_option("--model-file")  # of a command whose --file is its input
POOLING = click.option(
    "--pooling",
    type=click.Choice(get_args(Pooling)),
    help="Pooling of a dense model whose files name none.",
)
PRECISION = click.option("--precision", type=click.Choice(PRECISIONS), help="Graph to run.")
THREADS = click.option("--threads", type=AT_LEAST_1, help="Number of CPU threads.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
TEXT_KIND = click.option(
    "--kind",
    type=click.Choice([kind for kind, row in KINDS.items() if row.reads in {"texts", "images"}]),
    help="Kind of embedding. Default: the first kind of the model.",
)
ON_LONG = click.option(
    "--on-long",
    type=click.Choice(get_args(OnLong)),
    help="What to do with a text that is longer than the model reads. Default: warn.",
)
FIELD = click.option(
    "--field",
    metavar="NAME",
    default="text",
    show_default=True,
    help="Key of the text in .jsonl objects; column of the text in .csv files.",
)
ID_FIELD = click.option(
    "--id-field",
    metavar="NAME",
    help="Key or column of an id, which is written beside each result.",
)
SERVER = click.option(
    "--server",
    metavar="URL",
    help="Use a model of a server (tessera serve): http://HOST:PORT or unix:///PATH. Its key, if "
    "it asks for one, stands in the variable TESSERA_KEY.",
)
STORE = click.option(
    "--store",
    type=click.Choice(DATABASES),
    help="Keep the collection in this server of vectors, in place of a folder.",
)
STORE_URL = click.option(
    "--url",
    help="Where the store is: http://HOST:PORT or postgresql://HOST/DATABASE. A password is better "
    "put in the variable TESSERA_STORE_URL than here, and the key of Qdrant in QDRANT_API_KEY.",
)
PAGES = click.option("--pages", metavar="LIST", help="Pages of PDFs and TIFFs, such as 1-3,7.")
PASSWORD = click.option(
    "--password",
    envvar="TESSERA_PDF_PASSWORD",
    help="Password of encrypted PDFs. Other users may see an option; they do not see the variable "
    "TESSERA_PDF_PASSWORD, which is read as well.",
)


def model_options(command: Command, graph: Callable[[Command], Command] = FILE) -> Command:
    """Add the options of every command that opens a model for texts or images."""
    for option in (
        SERVER,
        CACHE,
        ON_LONG,
        click.option("--max-length", type=AT_LEAST_1, help="Most tokens read of a text."),
        THREADS,
        DEVICE,
        PRECISION,
        POOLING,
        graph,
        click.option(
            "--dimension", type=AT_LEAST_1, help="Cut vectors to this dimension (Matryoshka)."
        ),
        click.option("--language", help="Language of a lexical model. Default: english."),
        TEXT_KIND,
        MODEL,
    ):
        command = option(command)
    return command


def location(model: str | None, cache_dir: str | None) -> dict[str, Any]:
    """Where to look for MODEL: in the folder or catalogue of that name, else by its id."""
    if model is not None and os.path.isfile(os.path.join(model, "model.toml")):  # noqa: PTH113, PTH118 (a Path raises for what cannot be a name)
        return {"model_id": None, "path": model}
    if model is not None and model.endswith(".toml") and os.path.isfile(model):  # noqa: PTH113 (the same)
        return {"model_id": None, "path": model}
    return {"model_id": model, "cache_dir": cache_dir}


def at_server(server: str, model: str | None, kind: Kind | None, **options: Any) -> Any:
    """The model of a server, for the options that were given; those about files are refused."""
    from tessera_onnx.client import Client

    given = {name: value for name, value in options.items() if value not in (None, "auto")}
    for name in OF_THE_SERVER:
        if name in given:
            shown = name.replace("_", "-")
            raise click.UsageError(f"--{shown} is decided where the model is: leave it out")
    try:
        return Client(server, os.environ.get("TESSERA_KEY")).open(model, kind=kind, **given)
    except TypeError as error:
        raise click.UsageError(str(error)) from None


def open_as(
    kind: Kind, model: str | None, cache_dir: str | None, server: str | None, **options: Any
) -> Any:
    """The open model of a command for one kind, here or at a server."""
    if server is not None:
        return at_server(server, model, kind, cache_dir=cache_dir, **options)
    return KINDS[kind].cls(**location(model, cache_dir), **options)


def note_blank(texts: cli_texts.Texts | None) -> dict[str, int]:
    """Say on stderr how many blank lines of a file were left out. The same number for a report."""
    if texts is None or not texts.blank:
        return {}
    lines = "1 blank line is" if texts.blank == 1 else f"{texts.blank} blank lines are"
    say(f"Warning: {cli_texts.name(texts.source)}: {lines} left out")
    return {"blank_lines": texts.blank}


def note_names(texts: Iterable[str], hint: str) -> None:
    """Say on stderr that the name of a file was read as a text, and what to do."""
    names = [cli_texts.name(text) for text in texts if cli_texts.is_readable(text)]
    if names:
        say(f"Warning: {names[0]} is a file, but its name was read as a text{hint}")

"""Write the reference of the site: Python from the public names, commands from the command tree,
routes from the OpenAPI document. Sphinx calls it; the pages are not kept in the repository.
"""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import click

import tessera_onnx
from tessera_onnx.cli.main import main
from tessera_onnx.server.app import ROUTES
from tessera_onnx.server.openapi import document

MODELS = "The classes of models, and the function that opens a model with the class of its kind."
RESULTS = "What methods return, indexes over many documents, and functions over results."
CLIENTS = "Models behind a server of `tessera serve`, with the methods of local ones."
ERRORS = """\
The package raises these errors on purpose; all others are Python's own or faults. A message says
what was wrong, what was expected and what to do. "Bases" names the errors that an `except` may
catch in its place.
"""


def write(folder: Path) -> None:
    """Write all pages of the reference into a folder."""
    folder.mkdir(exist_ok=True)
    pages = {**python_pages(), "commands": command_page(), "http": http_page()}
    for name, text in pages.items():
        target = folder / f"{name}.md"
        if not target.exists() or target.read_text("utf-8") != text:
            target.write_text(text, "utf-8")


def python_pages() -> dict[str, str]:
    """A page for each sort of public names; every name is on one of them."""
    public = {name: getattr(tessera_onnx, name) for name in tessera_onnx.__all__}
    errors = [n for n, o in public.items() if isinstance(o, type) and issubclass(o, Exception)]
    models = ["Tessera", "list_models", *(n for n in public if n.startswith("Tessera"))]
    models = list(dict.fromkeys(n for n in models if n not in errors))
    clients = ["Client", "AsyncClient"]
    others = [n for n in public if n not in {*errors, *models, *clients}]
    return {
        "models": _python("Models", MODELS, models),
        "results": _python("Results and search", RESULTS, others),
        "clients": _python("Clients", CLIENTS, clients),
        "errors": _errors(errors),
    }


def _errors(names: list[str]) -> str:
    """The base first; without the arguments of constructors, which no user calls."""
    lines = ["# Errors and warnings", "", ERRORS]
    for name in sorted(names, key=lambda name: name != "TesseraError"):
        lines += [f"## {name}", "", "```{eval-rst}", f".. autoclass:: tessera_onnx.{name}()"]
        lines += ["   :members:", "   :show-inheritance:", "```", ""]
    return "\n".join(lines)


def _python(title: str, intro: str, names: list[str]) -> str:
    lines = [f"# {title}", "", intro, ""]
    for name in names:
        is_class = inspect.isclass(getattr(tessera_onnx, name))
        lines += [f"## {name}", "", "```{eval-rst}"]
        lines += [f".. auto{'class' if is_class else 'function'}:: tessera_onnx.{name}"]
        if is_class:
            lines += ["   :members:", "   :inherited-members:"]
        lines += ["```", ""]
    return "\n".join(lines)


def command_page() -> str:
    """Every command with its arguments and options, as `--help` says them."""
    lines = ["# Commands", "", "What `--help` says, for every command.", ""]
    for name, command in _commands(main, "tessera"):
        context = click.Context(command, info_name=name, max_content_width=100)
        lines += [f"## {name}", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(lines)


def _commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for each in command.list_commands(context):
            yield from _commands(command.get_command(context, each), f"{name} {each}")


def http_page() -> str:
    """Every route, by dialect: what it is for and the fields of its body."""
    found = json.loads(document(ROUTES))
    lines = ["# HTTP", "", "A server gives this as a document at `/openapi.json`.", ""]
    dialects: dict[str, list[str]] = {}
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            dialects.setdefault(operation["tags"][0], []).extend(
                _route(f"{method.upper()} {path}", operation)
            )
    for dialect, routes in sorted(dialects.items()):
        lines += [f"## {dialect}", "", *routes]
    return "\n".join(lines)


def _route(title: str, operation: dict) -> list[str]:
    lines = [f"### {title}", "", f"{operation['summary']}.", ""]
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    fields = schema.get("properties", {})
    if fields:
        lines += ["| field | type | |", "| --- | --- | --- |"]
        must = schema.get("required", ())
        for name, field in fields.items():
            about = field.get("description", "") + (" Required." if name in must else "")
            lines += [f"| `{name}` | {_type(field)} | {about.strip()} |"]
        lines += [""]
    statuses = ", ".join(sorted(operation["responses"]))
    return [*lines, f"Statuses: {statuses}.", ""]


def _type(field: dict) -> str:
    """The type of a field in words."""
    if "enum" in field:
        return " or ".join(f"`{json.dumps(each)}`" for each in field["enum"])
    options = field.get("oneOf") or field.get("anyOf")
    if options:
        return " or ".join(dict.fromkeys(_type(each) for each in options))
    kind = field.get("type", "any")
    if kind == "array":
        return f"list of {_type(field.get('items', {}))}"
    return re.sub(r"[\[\]']", "", str(kind)).replace(", ", " or ")

"""Read the prompts that sentence-transformers puts before queries, documents and other texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera_export.errors import ExportError
from tessera_export.files import SETTINGS, read_table
from tessera_onnx.models.spec import Task

# The names that encode_document of sentence-transformers looks for, in this order.
DOCUMENTS = ("document", "passage", "corpus")


@dataclass(frozen=True, slots=True)
class Prompts:
    """What stands before a text. `default` is for a text of neither role; None = the folder
    chooses none, and `encode` reads a document. `name` is upstream's name of it.
    """

    query: str
    document: str
    default: str | None
    name: str
    tasks: tuple[Task, ...]  # for other purposes than search, which callers ask for by name

    @property
    def any(self) -> bool:
        """Whether there is one at all."""
        found = [self.query, self.document, self.default, *(task.prompt for task in self.tasks)]
        return any(found)


def read(
    folder: Path,
    query: str | None = None,
    document: str | None = None,
    documents: Sequence[str] = DOCUMENTS,
) -> Prompts:
    """The prompts of a folder; `query` and `document` take the place of its own.

    The document's is the first of the names `documents` that the folder has.
    Raises ExportError for prompts of other names alone, and for a default_prompt_name that names
    none, as sentence-transformers does.
    """
    path = folder / SETTINGS
    settings = read_table(path)
    known = _known(path, settings)
    # Without one of the names sentence-transformers puts nothing before the text.
    names = [name for name in documents if name in known]
    roles = {"query": query, "document": document}
    said = {
        "query": known.get("query") if query is None else query,
        "document": known[names[0]] if document is None and names else document,
    }
    default = settings.get("default_prompt_name")
    if default is None and said == {"query": None, "document": None} and any(known.values()):
        raise ExportError(
            f"the prompts are {', '.join(known)}, none for queries or documents: "
            "give --query-prompt and --document-prompt"
        )
    text = None
    if default is not None:
        if not isinstance(default, str) or default not in {*known, *roles}:
            raise ExportError(
                f"{path} has the default_prompt_name {default!r:.100}, which is none of its "
                f"prompts ({', '.join(known) or 'there are none'}): name one of them, or null"
            )
        role = "document" if default in names[:1] else default
        text = said[role] if roles.get(role) is not None else known.get(default, "")
    return Prompts(
        query=said["query"] or "",
        document=said["document"] or "",
        default=text,
        name=default or "",
        tasks=tuple(
            Task(name, prompt)
            for name, prompt in known.items()
            if name not in {"query", *DOCUMENTS}
        ),
    )


def _known(path: Path, settings: dict[str, Any]) -> dict[str, str]:
    prompts = settings.get("prompts") or {}
    wanted = isinstance(prompts, dict) and all(
        prompt is None or isinstance(prompt, str) for prompt in prompts.values()
    )
    if not wanted:
        raise ExportError(f"{path} must hold prompts as an object of names and texts")
    return {name: prompt or "" for name, prompt in prompts.items()}

"""Read the prompts that sentence-transformers puts before queries, documents and other texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tessera_onnx.errors import LoadError
from tessera_onnx.models.foreign.files import SETTINGS, read_table
from tessera_onnx.models.spec import Task

# The names that encode_document of sentence-transformers looks for, in this order.
DOCUMENTS = ("document", "passage", "corpus")


@dataclass(frozen=True, slots=True)
class Prompts:
    """What stands before a text. `default` is for a text of neither role; None = the folder
    chooses none, and `encode` reads a document. `name` is upstream's name of it. `keys` tells the
    key of the file that each of the three comes from, by "query", "document" and "plain".
    """

    query: str
    document: str
    default: str | None
    name: str
    tasks: tuple[Task, ...]  # for other purposes than search, which callers ask for by name
    keys: dict[str, str] = field(default_factory=dict)

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
    *,
    ask: bool = False,
) -> Prompts:
    """The prompts of a folder; `query` and `document` take the place of its own.

    The document's is the first of the names `documents` that the folder has. A role without a
    prompt has nothing before it, as in sentence-transformers, whose encode_document takes only the
    name "document" where an older one took "passage" too. With `ask`, prompts of other names alone
    are an error, because the caller can say which of them is whose. Raises LoadError for those,
    and for a default_prompt_name that names none, as sentence-transformers does.
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
    unsaid = default is None and said == {"query": None, "document": None}
    if ask and unsaid and any(known.values()):
        raise LoadError(
            f"{path}: the prompts are {', '.join(known)}, none for queries or documents: "
            "give query_prompt= and document_prompt=",
            path=str(path),
        )
    text = None
    if default is not None:
        if not isinstance(default, str) or default not in {*known, *roles}:
            raise LoadError(
                f"{path} has the default_prompt_name {default!r:.100}, which is none of its "
                f"prompts ({', '.join(known) or 'there are none'}): name one of them, or null",
                path=str(path),
            )
        role = "document" if default in names[:1] else default
        text = said[role] if roles.get(role) is not None else known.get(default, "")
    keys = {"query": f"{SETTINGS}: prompts.query"} if "query" in known else {}
    if names:
        keys["document"] = f"{SETTINGS}: prompts.{names[0]}"
    if default is not None:
        keys["plain"] = f"{SETTINGS}: default_prompt_name"
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
        keys=keys,
    )


def _known(path: Path, settings: dict[str, Any]) -> dict[str, str]:
    prompts = settings.get("prompts") or {}
    wanted = isinstance(prompts, dict) and all(
        prompt is None or isinstance(prompt, str) for prompt in prompts.values()
    )
    if not wanted:
        raise LoadError(f"{path} must hold prompts as an object of names and texts", path=str(path))
    return {name: prompt or "" for name, prompt in prompts.items()}

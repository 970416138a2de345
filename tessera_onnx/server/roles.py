"""How a request wants its texts read: the role, task and prompt, by the words of every protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tessera_onnx.errors import ConfigError
from tessera_onnx.server.fields import Fields
from tessera_onnx.server.served import Served
from tessera_onnx.text.reading import RoleName

# Words for a role in input_type (Cohere, Voyage, NVIDIA), prompt_name (TEI, sentence-transformers)
# and task (Jina). "plain" reads a text as `encode` does.
ROLES: dict[str, RoleName] = {
    "query": "query",
    "search_query": "query",
    "retrieval.query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
    "retrieval.passage": "document",
    "plain": "plain",
}
# Purposes that models without such tasks read as plain texts.
TASKS = {"classification", "clustering", "image", "text-matching", "separation"}


@dataclass(frozen=True, slots=True)
class Reading:
    """How the texts of a request are read."""

    role: RoleName
    task: str | None
    prompt: str | None
    dimension: int | None
    truncate: bool
    keep_end: bool  # whether a text that is too long loses its start
    query: bool | None  # whether somebody waits for the result; None: the size decides

    def options(self) -> dict[str, Any]:
        """The arguments of `Served.texts`."""
        return {
            "role": self.role,
            "task": self.task,
            "prompt": self.prompt,
            "dimension": self.dimension,
            "truncate": self.truncate,
            "keep_end": self.keep_end,
        }


def reading(
    fields: Fields,
    served: Served,
    role: RoleName | None = None,
    *,
    dimension: str = "dimensions",
) -> Reading:
    """What the fields say; `role` is that at the end of the model's name.

    Without any word for it a text is read as `encode` reads it: as a document, in nearly all
    models. Raises BadRequest, ConfigError for a task or prompt that the model does not have.
    """
    recipe = served.model.spec.dense
    tasks = {task.name for task in recipe.tasks} if recipe is not None else set()
    task = None
    found: RoleName = role or "plain"
    for name in ("input_type", "prompt_name", "task"):
        word = fields.text(name)
        if word is None:
            continue
        if word in tasks:
            task = word
        elif word in ROLES:
            found = ROLES[word]
        elif word not in TASKS:
            known = ", ".join(sorted({"query", "document", *tasks}))
            raise ConfigError(f"{name} must be one of {known} for this model")
    truncate, keep_end = truncation(fields)
    return Reading(
        role=found,
        task=task,
        prompt=fields.text("prompt"),
        dimension=fields.whole(dimension),
        truncate=truncate,
        keep_end=keep_end,
        query=True if found == "query" and role is None else None,
    )


def truncation(fields: Fields) -> tuple[bool, bool]:
    """Whether a text that is too long is cut, and whether it then loses its start.

    `truncate` is true or false, or a word of Cohere and NVIDIA: NONE refuses such a text, START
    cuts its start and END its end. TEI has `truncation_direction` beside it, left or right.
    """
    left = fields.word("truncation_direction", ("right", "left", "Right", "Left"), "right")
    word = fields.get("truncate")
    if not isinstance(word, str):
        return fields.flag("truncate", default=True), left.casefold() == "left"
    chosen = fields.word("truncate", ("NONE", "START", "END"), "END")
    return chosen != "NONE", chosen == "START"

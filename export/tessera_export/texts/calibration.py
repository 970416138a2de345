"""Choose the texts that int8's scales are measured on: those of a file, or built-in ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_export.errors import ExportError
from tessera_export.texts import corpus, sample_groups, samples, text_file
from tessera_export.texts.folder import Facts
from tessera_onnx.models.spec import Role, TokenRole, roles_of

Array = NDArray[Any]

PASSAGES = ((200, 40), (1, 160))  # (tokens that a passage is filled to, how many of them)
MOST = 512  # texts of a file, and tokens of a text


def read(source: str) -> list[str]:
    """The texts of a file, or of stdin for "-"; of more than MOST some from all over the file.

    Raises ExportError for a file that cannot be read, with the line, and for one without texts.
    """
    found = text_file.read(source)
    if not found:
        raise ExportError(
            f"{'stdin' if source == '-' else source} holds no text to calibrate int8 on"
        )
    return _spread(found, min(MOST, len(found)))


def built_in(facts: Facts) -> list[str]:
    """The export's samples, texts of other sorts and passages of Python's documentation.

    Passages from one paragraph to two hundred tokens, from all over the corpus.
    """
    found = [*samples.texts(), *sample_groups.measured()]
    for size, count in PASSAGES:
        passages = corpus.passages(lambda text: len(facts.tokenizer.ids(text)), size)
        found += _spread(passages, count)
    return found


def feeds(facts: Facts, measured: Sequence[str]) -> list[dict[str, Array]]:
    """The inputs of the texts, one by one, as queries and documents of the model in turn."""
    recipes = [facts.dense, facts.sparse, facts.multi_vector]
    roles = [role for r in recipes if r is not None for role in roles_of(r)]
    ways = list({_way(role): role for role in roles}.values())
    made = []
    for number, text in enumerate(measured):
        item = _item(facts, ways[number % len(ways)], text)
        feed = {"input_ids": item.ids[None], "attention_mask": item.mask[None]}
        made.append(feed | {"token_type_ids": np.zeros_like(feed["input_ids"])})
    return made


def _way(role: Role | TokenRole) -> tuple[object, ...]:
    """What makes the ids of one role others than those of another, their number apart."""
    return role.prompt, getattr(role, "marker_ids", ()), getattr(role, "expansion", "none")


def _item(facts: Facts, role: Role | TokenRole, text: str) -> samples.Item:
    around, body = facts.tokenizer.text, facts.tokenizer.ids(role.prompt + text)
    before = around.prefix_ids
    if isinstance(role, TokenRole):
        if role.expansion != "none":
            return samples.expanded(facts, role, body)
        before += role.marker_ids
    room = min(role.max_length, MOST) - len(before) - len(around.suffix_ids)
    ids = np.array([*before, *body[:room], *around.suffix_ids], np.int64)
    return samples.Item(ids, np.ones_like(ids), expanded=False)


def _spread(found: Sequence[str], count: int) -> list[str]:
    """`count` of them at even distances."""
    return [found[i] for i in np.linspace(0, len(found) - 1, count).astype(int)]

"""Make the inputs that a graph is compared on: texts of many sorts, and ids of maximum length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_export.texts import sample_groups, token_check
from tessera_export.texts.folder import Facts
from tessera_onnx.models.spec import TokenRole, roles_of

Array = NDArray[Any]

TEXTS = (
    "Yes",
    "Hello, world!",
    "What is machine learning?",
    "how do vaccines work",
    "A ship's bell rang twice in the fog.",
    "The cell membrane controls which molecules enter and leave the cell.",
    "In 1969, Apollo 11 landed on the Moon; about 600 million people watched it on television.",
    "Rain is expected across the north-west tonight, clearing by mid-morning with light winds.",
    "def mean(values): return sum(values) / len(values)  # raises ZeroDivisionError when empty",
    "Der Zug nach Köln fährt um 7:45 Uhr von Gleis 3 ab.",
    "La bibliothèque est fermée le lundi, sauf pendant les vacances d'été.",
    "東京は日本の首都です。",
    "Contact the maintainers at maintainers@example.org or visit https://example.org/docs?page=2#top.",
    "UPPER CASE HEADLINES ARE HARDER TO READ THAN SENTENCE CASE!!!",
    "The recipe needs 250 g of flour, 2 eggs, 1/2 teaspoon of salt and 30 ml of olive oil.",
    "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer.",
    "Photosynthesis turns carbon dioxide and water into sugar and oxygen, using energy from light.",
    "Interest rates rose by a quarter of a percentage point, the third increase this year.",
    "pneumonoultramicroscopicsilicovolcanoconiosis",
    "The committee, which had met four times since March, could not agree on a date for the vote.",
)
WORDS = (24, 48, 90, 160, 280, 400)  # lengths of the texts that are put together
# Attention of longer inputs does not fit into the memory of an ordinary machine in fp32.
LONGEST = 4096
EXPANDED = 8  # texts that are tried as expanded queries


@dataclass(frozen=True, slots=True)
class Item:
    """One input: ids and mask (n,) int64. `expanded`: only its token vectors are compared."""

    ids: Array
    mask: Array
    expanded: bool


def texts() -> list[str]:
    """Twenty texts as they stand and six longer ones made of them, always the same."""
    words = " ".join(TEXTS).split()
    longer = [
        " ".join(islice(cycle(words), 11 * number, 11 * number + count))
        for number, count in enumerate(WORDS)
    ]
    return [*TEXTS, *longer]


def items(facts: Facts) -> Iterator[Item]:
    """The inputs for a model: all texts, one token, the maximum length, expanded queries.

    Raises ExportError when transformers makes other ids of texts than the runtime does.
    """
    text = facts.tokenizer.text
    recipes = [facts.dense, facts.sparse, facts.multi_vector]
    roles = [role for r in recipes if r is not None for role in roles_of(r)]
    longest = min(max(role.max_length for role in roles), LONGEST)
    bodies = [facts.tokenizer.ids(sample) for sample in texts()]
    odd = [facts.tokenizer.ids(sample) for _, sample in sample_groups.judged()]
    token_check.check(facts, texts())
    room = longest - len(text.prefix_ids) - len(text.suffix_ids)
    long = [number for body in bodies for number in body]
    bodies.append((long * (room // len(long) + 1))[:room])  # exactly the maximum length
    bodies += [bodies[0][:1], *odd]
    markers = {role.marker_ids for role in roles if isinstance(role, TokenRole)} or {()}
    for number, body in enumerate(bodies):
        marker = sorted(markers)[number % len(markers)]
        ids = [*text.prefix_ids, *marker, *body[: room - len(marker)], *text.suffix_ids]
        yield Item(np.array(ids, np.int64), np.ones(len(ids), np.int64), expanded=False)
    for role in roles:
        if isinstance(role, TokenRole) and role.expansion != "none":
            for body in bodies[:EXPANDED]:
                yield expanded(facts, role, body)


def expanded(facts: Facts, role: TokenRole, body: list[int]) -> Item:
    """The ids of a query, cut and filled with mask tokens to the length of all queries."""
    text = facts.tokenizer.text
    around = [*text.prefix_ids, *role.marker_ids]
    body = body[: role.max_length - len(around) - len(text.suffix_ids)]
    real = [*around, *body, *text.suffix_ids]
    ids = np.full(role.max_length, text.mask_id, np.int64)
    ids[: len(real)] = real
    mask = np.ones(role.max_length, np.int64)
    if role.expansion == "unattended":
        mask[len(real) :] = 0
    return Item(ids, mask, expanded=True)

"""Compare the graph of a reranker with torch; an export that misses a limit writes nothing.

The reference runs the model as upstream does (its default attention), on one pair at a time without
padding, and computes the steps after an encoder here in float64, apart from the traced module. The
ids are those of the runtime, which must be transformers' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from tessera_export import tensors
from tessera_export.errors import ExportError
from tessera_export.graph import storage
from tessera_export.pairs.facts import OUTPUT, PairFacts, pair_tokenizer
from tessera_export.pairs.torch_modules import EPSILON
from tessera_export.parity import LIMITS, batches, figure, measure
from tessera_export.texts import gate as text_gate
from tessera_export.texts import sample_pairs, token_check
from tessera_onnx.models.spec import Parity, Precision
from tessera_onnx.text.pairs import Pair, Query
from tessera_onnx.text.templates import TemplateTokenizer
from tessera_onnx.text.tokenizer import Row, padded

Array = NDArray[Any]
LONGEST = 2048  # tokens of a pair; attention of longer ones needs more memory than most have


def rows(facts: PairFacts, pairs: Sequence[tuple[str, str]]) -> list[Row]:
    """The ids and types of pairs, as the runtime makes them."""
    tokenizer = pair_tokenizer(facts)
    length = min(facts.recipe.max_length, LONGEST)
    role = tokenizer.role(None, length, facts.tokenizer.text.max_positions)
    made, _ = tokenizer.rows([Pair(Query(query), text) for query, text in pairs], role)
    return made


def feeds(facts: PairFacts, batch: Sequence[Row]) -> dict[str, Array]:
    """The inputs of a batch of pairs."""
    made = padded(batch, facts.tokenizer.text)
    known = {"input_ids": made.ids, "attention_mask": made.attention}
    if facts.typed and made.types is not None:
        known["token_type_ids"] = made.types
    return known


class Gate:
    """The pairs of one model and what torch makes of them."""

    def __init__(self, model: PreTrainedModel, facts: PairFacts) -> None:
        """`model` is the folder's, not the one that was traced. Raises ExportError for other ids
        than those that transformers makes of a pair.
        """
        self._facts = facts
        pairs = sample_pairs.judged()
        made = rows(facts, pairs)
        # A model without a template may have nothing to read in the pair of two empty texts.
        pairs = [pair for pair, row in zip(pairs, made, strict=True) if len(row.ids)]
        self._rows = [row for row in made if len(row.ids)]
        if facts.recipe.template is None:
            _check_ids(facts, pairs, self._rows)
        else:
            _check_parts(facts, pairs)
        self._expected = np.stack([_reference(model, facts, row) for row in self._rows])

    def check(self, path: Path, precision: Precision) -> list[Parity]:
        """The figures of the ONNX file at `path`.

        Raises ExportError naming precision, metric, value and limit when one is missed.
        """
        session = storage.session(path)
        ours = np.empty_like(self._expected)
        for batch in batches(len(self._rows)):
            given = feeds(self._facts, [self._rows[i] for i in batch])
            (ours[batch],) = session.run([OUTPUT], given)
        figures = []
        column = max(self._facts.recipe.column, 0)
        compared = [(ours[:, column][:, None], self._expected[:, column][:, None])]
        for metric, limit in LIMITS[precision, "scores"].items():
            value = measure(metric, compared)
            figures.append(figure(precision, OUTPUT, metric, value, limit))
        return figures


def _check_ids(facts: PairFacts, pairs: Sequence[tuple[str, str]], made: Sequence[Row]) -> None:
    """Raises ExportError where transformers makes other ids or types of a pair."""
    upstream = token_check.load_upstream(facts.folder, trust_remote_code=False)
    queries, documents = (list(texts) for texts in zip(*pairs, strict=True))
    theirs = upstream(
        queries,
        documents,
        truncation=facts.recipe.truncation,
        max_length=min(facts.recipe.max_length, LONGEST),
        verbose=False,
    )
    types = theirs.get("token_type_ids") or [[0] * len(ids) for ids in theirs["input_ids"]]
    wrong = [
        i
        for i, row in enumerate(made)
        if row.ids.tolist() != theirs["input_ids"][i]
        or (facts.typed and row.types is not None and row.types.tolist() != types[i])
    ]
    if wrong:
        raise ExportError(
            f"tokenizer.json gives other ids or types than transformers makes of a pair, for "
            f"{len(wrong)} of {len(pairs)} pairs: save the tokenizer with transformers again"
        )


def _check_parts(facts: PairFacts, pairs: Sequence[tuple[str, str]]) -> None:
    """Raises ExportError where transformers makes other ids of the texts that a template spells."""
    upstream = token_check.load_upstream(facts.folder, trust_remote_code=False)
    ours = pair_tokenizer(facts)
    texts = (
        ours.spelled([Pair(Query(query), text) for query, text in pairs])
        if isinstance(ours, TemplateTokenizer)
        else []
    )
    theirs = upstream(texts, add_special_tokens=False, verbose=False)["input_ids"]
    mine = [ids.tolist() for ids in ours.ids(texts)]
    wrong = sum(a != list(b) for a, b in zip(mine, theirs, strict=True))
    if wrong:
        raise ExportError(
            f"tokenizer.json gives other ids than transformers makes of the texts of a pair, for "
            f"{wrong} of {len(texts)} texts: save the tokenizer with transformers again"
        )


def _reference(model: PreTrainedModel, facts: PairFacts, row: Row) -> Array:
    """The columns (labels,) of one pair."""
    given = {name: torch.from_numpy(value) for name, value in feeds(facts, [row]).items()}
    try:
        with torch.no_grad():
            result = model(**given)
    except (IndexError, RuntimeError) as error:
        raise ExportError(
            f"the torch model fails on a pair of {len(row.ids)} tokens: {str(error)[:200]}"
        ) from error
    if facts.answers:
        last: Array = result.logits[0, -1, list(facts.answers)].double().numpy()
        return last[:1] - last[1:] if len(last) > 1 else last
    if not facts.pooling:
        logits: Array = result.logits[0].double().numpy()
        return logits
    states = result.last_hidden_state[0].double()
    x = {"cls": states[0], "mean": states.mean(0), "last": states[-1]}[facts.pooling]
    for step, file in facts.steps:
        if step.layer is not None:
            x = text_gate.apply_layers(x, [step.layer])
        elif step.type == "layer-norm":
            weight, bias = (
                tensors.load(file, f"norm.{name}").double() for name in ("weight", "bias")
            )
            x = (x - x.mean()) / torch.sqrt(x.var(correction=0) + EPSILON) * weight + bias
        elif step.type == "normalize":
            x = x / x.norm()
    return np.asarray(x.numpy())

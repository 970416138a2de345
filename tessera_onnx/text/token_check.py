"""Compare the token ids of a recipe with the tokenizer, when a model is opened.

Ids that are those of another tokenizer would give vectors of nonsense without an error.
"""

from __future__ import annotations

from tessera_onnx.errors import LoadError
from tessera_onnx.models.spec import ModelSpec, MultiVector, roles_of
from tessera_onnx.text.tokenizer import Tokenizer


def check_ids(tokenizer: Tokenizer, spec: ModelSpec) -> None:
    """Raises LoadError for ids that the vocabulary does not hold or the tokenizer contradicts."""
    facts, where = tokenizer.facts, f"model {spec.id!r}"
    ids = {
        "prefix_ids": facts.prefix_ids,
        "suffix_ids": facts.suffix_ids,
        "pad_id": (facts.pad_id,),
    }
    if facts.mask_id >= 0:
        ids["mask_id"] = (facts.mask_id,)
    for recipe in spec.text_recipes().values():
        if isinstance(recipe, MultiVector):
            for role in roles_of(recipe):
                ids |= {"marker_ids": role.marker_ids, "skip_ids": role.skip_ids}  # type: ignore[union-attr]
                _check_known(tokenizer, ids, where)
    _check_known(tokenizer, ids, where)
    given = (tuple(facts.prefix_ids), tuple(facts.suffix_ids))
    around = tokenizer.around()
    if around is not None and around != given:
        raise LoadError(
            f"{where}: {facts.tokenizer} puts the ids {_listed(around)} around a text, the model's "
            f"facts say {_listed(given)}: they belong to two models"
        )
    special = tokenizer.special_ids()
    for name in ("pad_id", "mask_id"):
        (number,) = ids.get(name, (-1,))
        if special and number >= 0 and number not in special:
            raise LoadError(
                f"{where}: {name} is {number}, which {facts.tokenizer} reads as the word "
                f"{tokenizer.token(number)!r:.40} and not as a special token"
            )


def _check_known(tokenizer: Tokenizer, ids: dict[str, tuple[int, ...]], where: str) -> None:
    for name, numbers in ids.items():
        unknown = next((number for number in numbers if not tokenizer.token(number)), None)
        if unknown is not None:
            raise LoadError(
                f"{where}: {name} holds {unknown}, which is no id of {tokenizer.facts.tokenizer}: "
                "the file belongs to another model"
            )


def _listed(around: tuple[tuple[int, ...], tuple[int, ...]]) -> str:
    return " and ".join(str(list(part)) for part in around)

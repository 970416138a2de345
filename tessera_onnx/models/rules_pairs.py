"""Check which facts of a reranker go together (see rules.py)."""

from __future__ import annotations

from tessera_onnx.errors import LoadError
from tessera_onnx.models.spec import ModelSpec, Reranker
from tessera_onnx.models.spec_pairs import DOCUMENT, INSTRUCTION, QUERY, PairTemplate

MAX_COLUMNS = 1 << 24


def check_reranker(spec: ModelSpec, recipe: Reranker, where: str) -> None:
    """Raises LoadError, which begins with `where`, unless the facts of a reranker go together."""
    if len(spec.kinds) > 1:
        raise LoadError(f"{where}: its graph serves no other kind")
    ids = (*recipe.prefix_ids, *recipe.middle_ids, *recipe.suffix_ids)
    if len(recipe.type_ids) != 5 or min(*recipe.type_ids, *ids, 0) < 0:
        raise LoadError(f"{where}: type_ids are five numbers, and no id or type is negative")
    most = spec.text.max_positions if spec.text is not None else recipe.max_length
    if not len(ids) + 2 <= recipe.max_length <= most:
        raise LoadError(
            f"{where}: max_length {recipe.max_length} must lie in {len(ids) + 2}..{most}"
        )
    if not -1 <= recipe.column < MAX_COLUMNS:
        raise LoadError(f"{where}: column is the number of a column, or -1 for the only one")
    if (recipe.pooling == "graph") != (recipe.modules is None):
        raise LoadError(f"{where}: modules go with a pooling, and only there")
    if recipe.modules is not None:
        columns = recipe.modules[-1].dimension if recipe.modules else 0
        if not (columns == 1 if recipe.column < 0 else recipe.column < columns):
            raise LoadError(
                f"{where}: the modules give {columns} columns, and column is {recipe.column}"
            )
    _check_answers(recipe, where)
    if recipe.template is not None:
        _check_template(recipe, recipe.template, f"{where}.template")
    elif recipe.truncation == "end":
        raise LoadError(f'{where}: the truncation "end" goes with a template')


def _check_answers(recipe: Reranker, where: str) -> None:
    answers = recipe.answers
    if answers is None:
        return
    if len(answers) not in (1, 2) or len(set(answers)) != len(answers) or not all(answers):
        raise LoadError(f"{where}: answers are one token, or two that differ")
    if recipe.pooling != "graph" or recipe.column != -1:
        raise LoadError(f'{where}: with answers, pooling is "graph" and column -1')


def _check_template(recipe: Reranker, table: PairTemplate, where: str) -> None:
    if recipe.prefix_ids or recipe.middle_ids or recipe.suffix_ids or any(recipe.type_ids):
        raise LoadError(
            f"{where}: with a template, prefix_ids, middle_ids and suffix_ids are [] and type_ids 0"
        )
    if recipe.truncation == "longest_first":
        raise LoadError(f'{where}: with a template, truncation is "only_second" or "end"')
    if not all(table.after):
        raise LoadError(f"{where}: the texts of after are not empty")
    if not 0 < table.query_share <= 1:
        raise LoadError(f"{where}: query_share lies above 0 and at most at 1")
    if recipe.truncation == "end" and (table.query_share != 1 or table.limits != "pair"):
        raise LoadError(f'{where}: with the truncation "end", query_share is 1 and limits "pair"')
    _check_places(table, where)


def _check_places(table: PairTemplate, where: str) -> None:
    """Every text holds its places and no others."""
    texts = {
        "before": table.before, "query": table.query, "between": table.between,
        "document": table.document, "after": "".join(table.after),
    }  # fmt: skip
    for place, home in ((QUERY, "query"), (DOCUMENT, "document")):
        found = {name: text.count(place) for name, text in texts.items()}
        if found.pop(home) != 1 or any(found.values()):
            raise LoadError(f"{where}: {place} stands once, in {home}")
    counts = {name: text.count(INSTRUCTION) for name, text in texts.items()}
    told = counts.pop("query") + counts.pop("after")
    if told > 1 or any(counts.values()):
        raise LoadError(f"{where}: {INSTRUCTION} stands at most once, in query or after")
    if table.instructed.count(INSTRUCTION) != told or bool(table.instructed) != bool(told):
        raise LoadError(
            f'{where}: instructed holds {INSTRUCTION} once where query or after does, else it is ""'
        )
    if table.instruction and not told:
        raise LoadError(f"{where}: instruction has no place {INSTRUCTION}")

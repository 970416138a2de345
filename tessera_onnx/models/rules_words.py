"""Check which facts go together of models that weigh words: BM25, BM42, miniCOIL (see rules.py)."""

from __future__ import annotations

from tessera_onnx.errors import LoadError
from tessera_onnx.models.spec import ModelSpec, Role, roles_of
from tessera_onnx.models.spec_words import HASHED, MAX_LETTERS, Lexical, MiniCoil


def check(spec: ModelSpec, where: str) -> None:
    """Raises LoadError, which begins with `where`, unless the facts about words go together."""
    head = "" if spec.sparse is None else spec.sparse.head
    if spec.attention is not None or head == "attention":
        _check_attention(spec, where)
    if spec.minicoil is not None or head == "states":
        _check_minicoil(spec, where)
    if spec.lexical is not None:
        _check_lexical(spec, spec.lexical, where)


def _check_lexical(spec: ModelSpec, table: Lexical, where: str) -> None:
    recipe = spec.sparse
    others = (spec.graph, spec.static, spec.text)
    if any(other is not None for other in others) or spec.kinds != ("sparse",) or recipe is None:
        raise LoadError(
            f"{where}: lexical goes with the kind sparse alone, and takes the place of a graph and "
            "of a tokenizer"
        )
    fixed = (recipe.output, recipe.head, recipe.activation, recipe.zero_ids, recipe.idf)
    weights = (recipe.query_weights, recipe.vocab_size)
    if fixed != ("", "graph", "relu", (), "") or weights != ("ones", HASHED):
        raise LoadError(
            f'{where}.sparse: a lexical model has the output "", head "graph", activation "relu", '
            f'vocab_size {HASHED}, zero_ids [], query_weights "ones" and idf ""'
        )
    if any(role != Role("", 0) for role in roles_of(recipe)):
        raise LoadError(f"{where}.sparse: a lexical model has no prompts, and max_length is 0")
    names = [language.name for language in table.languages]
    if not names or len(set(names)) != len(names):
        raise LoadError(f"{where}.lexical: languages holds at least one, and none twice")
    if not 1 <= table.longest_word <= MAX_LETTERS:
        raise LoadError(f"{where}.lexical: longest_word must lie in 1..{MAX_LETTERS}")
    _check_frequency(table, f"{where}.lexical")


def _check_frequency(table: Lexical | MiniCoil, where: str) -> None:
    if not (0 <= table.k <= 1e6 and 0 <= table.b <= 1 and 1e-6 <= table.average_length <= 1e9):
        raise LoadError(
            f"{where}: k lies in 0..1000000, b in 0..1 and average_length in 0.000001..1000000000"
        )


def _check_minicoil(spec: ModelSpec, where: str) -> None:
    recipe, table = spec.sparse, spec.minicoil
    if table is None or recipe is None or recipe.head != "states" or len(spec.kinds) > 1:
        raise LoadError(
            f'{where}: the table minicoil and the sparse head "states" go together, and with the '
            "kind sparse alone"
        )
    fixed = (recipe.activation, recipe.zero_ids, recipe.query_weights, recipe.vocab_size)
    if fixed != ("relu", (), "model", HASHED):
        raise LoadError(
            f'{where}.sparse: with minicoil, activation is "relu", zero_ids [], query_weights '
            f'"model" and vocab_size {HASHED}'
        )
    if not (table.stop_words and table.vocabulary and table.weights):
        raise LoadError(f"{where}.minicoil: stop_words, vocabulary and weights name files")
    _check_frequency(table, f"{where}.minicoil")


def _check_attention(spec: ModelSpec, where: str) -> None:
    recipe, table = spec.sparse, spec.attention
    if table is None or recipe is None or recipe.head != "attention" or len(spec.kinds) > 1:
        raise LoadError(
            f'{where}: the table attention and the sparse head "attention" go together, and with '
            "the kind sparse alone"
        )
    fixed = (recipe.activation, recipe.zero_ids, recipe.query_weights, recipe.vocab_size)
    if not recipe.output or fixed != ("relu", (), "ones", HASHED):
        raise LoadError(
            f'{where}.sparse: with attention, output is named, activation is "relu", zero_ids [], '
            f'query_weights "ones" and vocab_size {HASHED}'
        )
    if not table.stop_words or not 0 < table.alpha <= 100:
        raise LoadError(f"{where}.attention: stop_words names a file, and alpha lies in 0..100")

"""Read every fact of a reranker's folder without torch; a missing fact is an ExportError.

The rules are those of the runtime's reader of foreign folders.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tessera_export.errors import ExportError, as_export_error
from tessera_export.files import Weights, read_weights
from tessera_export.pairs import language
from tessera_onnx import ConfigError
from tessera_onnx.models.foreign import files, layers, opened, pooled, reranker, tokenizer_file
from tessera_onnx.models.foreign import transformer as transformers_module
from tessera_onnx.models.foreign.files import MODULES, SETTINGS, read_list, read_table
from tessera_onnx.models.foreign.found import Folder
from tessera_onnx.models.foreign.pooled import Step
from tessera_onnx.models.foreign.tokenizer_file import TokenizerFile
from tessera_onnx.models.spec import Graph, Reranker
from tessera_onnx.text.pairs import PairTokenizer
from tessera_onnx.text.templates import TemplateTokenizer

OUTPUT = "logits"
POOLINGS = ("cls", "mean", "last")  # what the graphs of an export compute


@dataclass(frozen=True, slots=True)
class PairFacts:
    """A reranker's folder: its weights, its tokenizer and its recipe.

    `folder` is that of the transformer. Without `pooling` it is a sequence classifier; with it an
    encoder, and `steps` make the score of its pooled states, each with its safetensors file. With
    `answers`, ids of one token or two, it is a language model.
    """

    folder: Path
    config: dict[str, Any]
    weights: Weights
    tokenizer: TokenizerFile
    recipe: Reranker
    pooling: str
    steps: tuple[tuple[Step, Path], ...]
    answers: tuple[int, ...] = ()

    @property
    def typed(self) -> bool:
        """Whether the graph takes token types: the model knows some, and a pair has two."""
        known = self.config.get("type_vocab_size")
        return any(self.recipe.type_ids) and isinstance(known, int) and known > 1


@as_export_error()
def read(folder: Path, max_length: int | None = None, known: Reranker | None = None) -> PairFacts:
    """The facts of `folder`; `max_length` takes the place of what it says.

    `known` is the recipe of the catalogue whose template spells the pairs. Raises ExportError for a
    folder of another model, and for what the graphs cannot compute.
    """
    if known is None and not reranker.is_reranker(folder):
        raise reranker.other(folder)
    modules = read_list(folder / MODULES)
    layers.check_types(folder, modules)
    transformers_module.check_requirements(folder)
    place = files.module_folder(folder, modules[0]) if modules else folder
    config = read_table(place / "config.json")
    weights = read_weights(place)
    tokenizer = tokenizer_file.read(place, config, [folder])
    name = (place / "config.json").relative_to(folder).as_posix()
    found = Folder(
        folder,
        opened.Files(
            folder,
            files.list_files(folder),
            Graph("", "", "", "fp32", "fp32", "fp32", static=False),
            name="",
            io=None,
            data=(),
            places=(place, folder),
            config=config,
            config_name=name,
        ),
        tokenizer,
        modules,
        read_table(folder / SETTINGS),
        {},
    )
    if language.is_language_model(found):
        recipe = language.read(found, folder, known)
    else:
        recipe = language.spelled(reranker.read(found)[0], known)
    if recipe.pooling not in ("graph", *POOLINGS):
        raise ExportError(
            f"{folder} pools by {recipe.pooling}; exported are one of {', '.join(POOLINGS)}"
        )
    if known is not None and max_length is None:
        max_length = known.max_length
    length = tokenizer_file.max_length(tokenizer, max_length)
    made = PairFacts(
        folder=place,
        config=config,
        weights=weights,
        tokenizer=tokenizer,
        recipe=replace(recipe, output=OUTPUT, pooling="graph", modules=None, max_length=length),
        pooling="" if recipe.pooling == "graph" else recipe.pooling,
        steps=() if recipe.pooling == "graph" else _steps(folder, modules, found),
        answers=_answers(recipe, tokenizer),
    )
    try:
        pair_tokenizer(made).role(None, length, tokenizer.text.max_positions)
    except ConfigError as error:
        raise ExportError(f"{folder}: {error}") from None
    return made


def pair_tokenizer(facts: PairFacts) -> PairTokenizer:
    """The runtime's tokenizer of pairs. Raises LoadError for a template of another vocabulary."""
    content, text = facts.tokenizer.json.encode(), facts.tokenizer.text
    template = facts.recipe.template
    if template is None:
        return PairTokenizer(content, text, facts.recipe)
    made = TemplateTokenizer(content, text, facts.recipe, template)
    made.check(str(facts.folder))
    return made


def _answers(recipe: Reranker, tokenizer: TokenizerFile) -> tuple[int, ...]:
    found = {token: tokenizer.tokenizer.token_to_id(token) for token in recipe.answers or ()}
    for token, number in found.items():
        if number is None:
            raise ExportError(f"{tokenizer.path} does not have the answer {token!r:.60}")
    return tuple(found.values())


def _steps(
    folder: Path, modules: list[dict[str, Any]], found: Folder
) -> tuple[tuple[Step, Path], ...]:
    size = pooled.pooled_size(folder, modules) or found.hidden or 0
    steps = pooled.read_steps(folder, modules, size, last=reranker.SCORES)
    places = [files.module_folder(folder, step.module) for step in steps]
    return tuple(
        (step, place / "model.safetensors") for step, place in zip(steps, places, strict=True)
    )

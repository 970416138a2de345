"""Find the recipe of a reranker that is a language model: a template's, or the folder's own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from tessera_export import source as sources
from tessera_export.errors import ExportError
from tessera_export.pairs import chat
from tessera_onnx.models.foreign import answers, reranker, tokenizer_file
from tessera_onnx.models.foreign.found import Folder
from tessera_onnx.models.spec import ModelSpec, Reranker


def chosen(
    template: str | None, entry: ModelSpec | None, kinds: Collection[str]
) -> Reranker | None:
    """The recipe whose template spells the pairs: that of the catalogue's model `template`, or that
    of the model itself. None where neither has one.

    Raises ExportError for a `template` that names no reranker with a template.
    """
    if template is None:
        own = entry.reranker if entry is not None else None
        return own if own is not None and own.template is not None else None
    named = sources.known(template)
    if "reranker" not in kinds or named is None or named.reranker is None:
        raise ExportError(f"--template {template!r:.100} is for rerankers, and names one")
    if named.reranker.template is None:
        raise ExportError(f"--template {template!r:.100}: that model has no template")
    return named.reranker


def is_language_model(found: Folder) -> bool:
    """Whether the weights are those of a language model."""
    names = found.files.config.get("architectures")
    return bool(isinstance(names, list) and names and answers.WRITER.search(str(names[0])))


def read(found: Folder, folder: Path, known: Reranker | None) -> Reranker:
    """The recipe of a language model's folder; `known` has a template and goes first.

    Raises ExportError for a class whose logits are computed in another way, and where nothing says
    how a pair is spelled.
    """
    name = str(found.files.config["architectures"][0])
    if name not in answers.PLAIN:
        raise ExportError(
            f"{folder} is a language model of the class {name:.80}; exported are "
            f"{', '.join(answers.PLAIN)}"
        )
    if known is not None:
        if known.answers is None:
            raise ExportError(
                f"{folder} is a language model, and the template is that of a classifier's pairs, "
                "with no answers"
            )
        return known
    if not answers.is_answering(found):
        raise reranker.other(folder)
    if not chat.is_spoken(found):
        return reranker.read(found)[0]
    return Reranker(
        output="",
        pooling="graph",
        column=-1,
        activation=reranker.activation(found, 1),
        prefix_ids=(),
        middle_ids=(),
        suffix_ids=(),
        type_ids=(0,) * 5,
        max_length=tokenizer_file.max_length(found.tokenizer),
        truncation="end",
        answers=answers.tokens(found),
        template=chat.derive(found, folder),
    )


def spelled(recipe: Reranker, known: Reranker | None) -> Reranker:
    """A classifier's recipe with the template that its pairs are spelled by."""
    if known is None:
        return recipe
    return replace(
        recipe,
        prefix_ids=(),
        middle_ids=(),
        suffix_ids=(),
        type_ids=(0,) * 5,
        truncation=known.truncation,
        template=known.template,
    )

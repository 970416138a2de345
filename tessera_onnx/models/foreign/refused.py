"""Refuse folders that do not hold an embedder, with a message that says what they hold.

Only the configuration files and the header of the weights are read. An encoder would load the
weights of a classifier or of a text generator without an error, and its vectors would mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from tessera_onnx.errors import LoadError
from tessera_onnx.models.foreign.answers import PLAIN, SCORE
from tessera_onnx.models.foreign.files import (
    MODULES,
    SETTINGS,
    class_of,
    headers,
    module_folder,
    read_list,
    read_table,
)

ADAPTER = "adapter_config.json"
RERANKER = (
    "is a reranker or another classifier ({}): it gives scores or classes of texts and no "
    "vectors; a reranker is opened by TesseraReranker, and exported with kind reranker"
)
CLASSIFIER = "ForSequenceClassification"
OTHER_RERANKER = (
    "is a reranker or another classifier ({}) of a sort that is not computed here: known are "
    "sequence classifiers of one score, and CrossEncoders of sentence-transformers"
)
NO_EMBEDDER = "({}): it is no embedder"
# By the class that config.json names under architectures.
CLASSES = (
    (r"ForSequenceClassification$|For\w*Rank|Rerank|CrossEncoder|Reward(Model)?$", RERANKER),
    (r"ForTokenClassification$", f"marks the tokens of a text, such as names {NO_EMBEDDER}"),
    (r"ForQuestionAnswering$", f"finds the answer to a question within a text {NO_EMBEDDER}"),
    (r"ForMultipleChoice$", f"picks one of several answers {NO_EMBEDDER}"),
    (r"ForNextSentencePrediction$", f"tells whether a sentence follows another {NO_EMBEDDER}"),
    (r"For\w*(Classification|Detection|Segmentation)$", f"is a classifier {NO_EMBEDDER}"),
)
WRITERS_ALWAYS = r"(ForCausalLM|LMHeadModel)$"
WRITERS = rf"ForConditionalGeneration$|{WRITERS_ALWAYS}"  # the first may read images
VECTORS = {"Pooling", "SpladePooling", "Dense", "MultiVectorMask"}
TABLES = ("StaticEmbedding", "WordEmbeddings", "BoW")  # of sentence-transformers
# The first parts of the tensors that such classes put on an encoder.
HEADS = ("classifier.", "classification_head.", "score.", "qa_outputs.")
# What adapters of peft make that is no vector; and its methods that put trained tokens before a
# text, of which no weights can be merged.
TASKS_OF_OTHERS = {"SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"}
UNMERGED = {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT"}
MINICOIL = "minicoil.triplet.model.npy"
SERIES, VISION = "time-series", "vision"
FORECASTERS = ("ChronosBoltModelForForecasting", "Chronos2Model", "TinyTimeMixerForPrediction")


def check(folder: Path, kinds: Collection[str] = (), *, known: bool = False) -> None:
    """Raises LoadError for a folder of something that the kinds do not serve, saying what it is.

    Without kinds it is what none serves. `known`: the catalogue says that it makes vectors.
    """
    check_content(folder, kinds, known=known)
    if not (folder / MODULES).is_file() and not (folder / "config.json").is_file():
        made = (folder / "model.toml").is_file()
        hint = (
            "it is an artifact, which tessera-onnx opens as it is"
            if made
            else "it has no config.json"
        )
        raise LoadError(f"{folder} is not a model folder: {hint}")
    config = read_table(folder / "config.json")
    if SERIES in kinds and not {*_architectures(config)} & {*FORECASTERS}:
        raise LoadError(
            f"config.json names the architectures {_architectures(config)}; known forecasting "
            f"models are {', '.join(FORECASTERS)}"
        )


def check_content(folder: Path, kinds: Collection[str] = (), *, known: bool = False) -> None:
    """As `check`, for a folder that may lack a configuration."""
    if not folder.is_dir():
        raise LoadError(f"{folder} is not a model folder: there is no folder of that name")
    modules = read_list(folder / MODULES)
    _check_adapter(folder)
    if "reranker" not in kinds:
        _check_modules(folder, modules)
    config = read_table(folder / "config.json")
    if config.get("model_type") == "model2vec" or "StaticModel" in _architectures(config):
        raise LoadError(_static(folder, "model2vec"))
    if not modules and not config:
        _check_table(folder)
    # What follows the encoder says that its authors made an embedder of it (gte-multilingual-base).
    declared = VECTORS & {class_of(module) for module in modules}
    for name in _architectures(config):
        scores = "reranker" in kinds and name.endswith(CLASSIFIER)
        for pattern, reason in CLASSES:
            if re.search(pattern, name) and not declared and not scores:
                other = "reranker" in kinds and reason == RERANKER
                raise LoadError(f"{folder} {(OTHER_RERANKER if other else reason).format(name)}")
        texts = not known and not modules and not {SERIES, VISION, "reranker"} & set(kinds)
        spoken = {class_of(module) for module in modules} & {SCORE} or name in PLAIN
        if "reranker" in kinds and re.search(WRITERS, name) and not spoken:
            raise LoadError(
                f"{folder} is a language model ({name:.80}) of a sort that is not computed here: "
                f"known rerankers of this kind are {', '.join(PLAIN)}, and CrossEncoders of "
                f"sentence-transformers with {SCORE}; take its version for sequence "
                "classification, where there is one"
            )
        if texts and re.search(WRITERS if kinds else WRITERS_ALWAYS, name):
            raise LoadError(
                f"{folder} is a model that writes text ({name}), or a reranker that answers yes or "
                "no, and no modules.json of sentence-transformers says how it makes vectors: "
                "export it from the folder of an embedder, with its modules.json"
            )


def check_files(folder: Path, names: Collection[str]) -> None:
    """Raises LoadError where a file says that the encoder is only a part of the model."""
    if MINICOIL in names:
        raise LoadError(
            f"{folder} is miniCOIL ({MINICOIL}), and no file in it says the whole recipe: open it "
            'by its id, TesseraSparse("minicoil-v1"), or put a model.toml with the table minicoil '
            "beside the files"
        )


def check_tensors(folder: Path, names: Iterable[str]) -> None:
    """Raises LoadError for weights with a classifier's head, whatever config.json says."""
    if (folder / "modules.json").is_file():
        return
    head = next((name for name in sorted(names) if name.startswith(HEADS)), None)
    if head is not None:
        raise LoadError(f"{folder} {RERANKER.format(f'its weights hold {head}')}")


def _architectures(config: dict[str, Any]) -> list[str]:
    names = config.get("architectures") or []
    return [str(name) for name in names] if isinstance(names, list) else [str(names)]


def _check_modules(folder: Path, modules: list[dict[str, Any]]) -> None:
    names = [class_of(module) for module in modules]
    settings = read_table(folder / SETTINGS)
    task = read_table(folder / "sentence_bert_config.json").get("transformer_task")
    if SCORE in names:
        raise LoadError(f"{folder} {RERANKER.format(f'{SCORE} of sentence-transformers')}")
    if settings.get("model_type") == "CrossEncoder" or task == "sequence-classification":
        raise LoadError(f"{folder} {RERANKER.format('CrossEncoder of sentence-transformers')}")
    tables = [name for name in names if name in TABLES]
    if tables:
        raise LoadError(_static(folder, tables[0]))


def _check_table(folder: Path) -> None:
    """Raises LoadError for a folder of one matrix of token vectors and no graph, as wordllama's."""
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1 or any(folder.glob("**/*.onnx")):
        return
    shapes = headers(found).shapes
    if len(shapes) == 1 and all(len(shape) == 2 for shape in shapes.values()):
        raise LoadError(_static(folder, f"{found[0].name}: {next(iter(shapes))}"))


def _static(folder: Path, name: str) -> str:
    fix = "run it with sentence-transformers, or take another model"
    if name in {"StaticEmbedding", "model2vec"}:
        fix = "TesseraDense opens the folder as it lies, and there is nothing to export"
    return f"{folder} is a static model, a table of token vectors ({name}) without a graph: {fix}"


def find_adapter(folder: Path) -> Path | None:
    """The folder of an adapter of peft: `folder` or that of one of its modules."""
    modules = read_list(folder / MODULES)
    places = [folder, *(module_folder(folder, module) for module in modules)]
    return next((place for place in places if (place / ADAPTER).is_file()), None)


def _check_adapter(folder: Path) -> None:
    """Raises LoadError for an adapter of peft, which is no whole model."""
    place = find_adapter(folder)
    if place is None:
        return
    config = read_table(place / ADAPTER)
    base = str(config.get("base_model_name_or_path") or "BASE")[:300]
    if str(config.get("task_type")) in TASKS_OF_OTHERS:
        what = f"an adapter of {base!r} for the task {config['task_type']}"
        raise LoadError(f"{place} {RERANKER.format(what)}")
    if str(config.get("peft_type")) in UNMERGED:
        raise LoadError(
            f"{place} holds trained tokens ({config['peft_type']}) for {base!r} that stand before "
            "every text; they cannot be merged into weights"
        )
    raise LoadError(
        f"{place} is a LoRA adapter ({ADAPTER}) and no model: merge it into its base model {base!r}"
        " with peft's merge_and_unload(), and export that"
    )

"""Read a reranker's folder: a sequence classifier, or a CrossEncoder of sentence-transformers.

Source of the rules: sentence_transformers/cross_encoder/model.py. A pair is laid out as the
post-processor of tokenizer.json lays it out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from tessera_onnx.errors import LoadError, named
from tessera_onnx.models.foreign import (
    answers,
    dense,
    files,
    pooled,
    tokenizer_check,
    tokenizer_file,
    transformer,
)
from tessera_onnx.models.foreign.files import MODULES, SETTINGS, class_of, read_list, read_table
from tessera_onnx.models.foreign.found import Folder
from tessera_onnx.models.spec import Module, Pooling, Reranker

CLASSIFIER = "ForSequenceClassification"
TASK = "sequence-classification"
# Modules that make vectors. Their authors made an embedder of a classifier's weights
# (gte-multilingual-base), unless the folder says that it is a CrossEncoder.
VECTORS = {"Pooling", "SpladePooling", "Dense", "MultiVectorMask"}
ACTIVATIONS: dict[str, Literal["identity", "sigmoid"]] = {
    "Identity": "identity", "Sigmoid": "sigmoid",
}  # fmt: skip
SCORES = "scores"
LABELS = "id2label"
# Names of two labels of which the second is the score, in lower-case letters.
NOT_RELEVANT = {"notrelevant", "nonrelevant", "irrelevant", "unrelated", "no", "false"}
RELEVANT = {"relevant", "related", "yes", "true"}
# Tokenizers of transformers whose model_input_names have token_type_ids, or have not; and models
# whose tokenizer is one of the first where no class is named (auto/tokenization_auto.py).
TYPED = {"BertTokenizer", "DebertaTokenizer", "DebertaV2Tokenizer", "ElectraTokenizer"}
TYPED_MODELS = {"bert", "deberta", "deberta-v2", "electra", "nomic_bert"}
UNTYPED = {
    "TokenizersBackend", "DistilBertTokenizer", "MPNetTokenizer", "RobertaTokenizer",
    "XLMRobertaTokenizer",
}  # fmt: skip
PROBES = (("two and two", "three"), ("a b", "the quick brown fox"))


def is_reranker(folder: Path) -> bool:
    """Whether the folder says that it scores pairs, or holds a sequence classifier alone."""
    modules = [class_of(module) for module in read_list(folder / MODULES)]
    if read_table(folder / SETTINGS).get("model_type") == "CrossEncoder":
        return True
    task = tokenizer_file.transformer_settings(folder)[0].get("transformer_task")
    if task == TASK or answers.SCORE in modules:
        return True
    names = read_table(folder / "config.json").get("architectures")
    last = str(names[0]) if isinstance(names, list) and names else ""
    return last.endswith(CLASSIFIER) and not VECTORS & set(modules)


def other(folder: Path) -> LoadError:
    """The error for a folder that is no reranker."""
    names = read_table(folder / "config.json").get("architectures")
    last = str(names[0]) if isinstance(names, list) and names else ""
    if answers.WRITER.search(last):
        return LoadError(
            f"{named(folder)} is a language model ({last:.80}), and none of its files says how a "
            "pair is spelled for it: export it with `tessera-export FOLDER --kind reranker "
            "--template ID --output DIR`, where ID is the model of the catalogue whose template it "
            "was trained with",
            path=str(folder),
        )
    return LoadError(
        f"{named(folder)} is no reranker: its config.json names no class ...{CLASSIFIER}, and no "
        f"{SETTINGS} says CrossEncoder; a ColBERT model scores documents in TesseraMultiVector",
        path=str(folder),
    )


def read(found: Folder) -> tuple[Reranker, tuple[str, ...]]:
    """The recipe of a score a pair, and the files of its modules.

    Raises LoadError for a classifier of more than two labels, for two labels of which none says
    that it is the score, and for what is not computed here.
    """
    _check_prompt(found)
    pooling: Literal["graph"] | Pooling = "graph"
    modules: tuple[Module, ...] | None = None
    spoken: tuple[str, ...] | None = None
    if answers.is_answering(found):
        answers.check(found)
        spoken, columns = answers.tokens(found), 1
    elif len(found.modules) > 1:
        pooling, modules = _listed(found)
        columns = 1
    else:
        columns = _columns(found)
    layout = _layout(found)
    source: dict[str, str] = {}
    length = tokenizer_file.max_length(found.tokenizer, sources=source)
    found.sources["reranker.max_length"] = source["max_length"]
    found.sources["reranker.prefix_ids"] = f"{tokenizer_file.FILE_NAME}: post_processor"
    recipe = Reranker(
        output="",
        pooling=pooling,
        column=-1 if columns == 1 else 1,
        activation=activation(found, columns),
        max_length=length,
        truncation="longest_first",
        modules=modules,
        answers=spoken,
        **layout,
    )
    return recipe, tuple(module.file for module in modules or () if module.file)


def _check_prompt(found: Folder) -> None:
    """Raises LoadError for what upstream puts before a pair or does to it."""
    if found.settings.get("default_prompt_name") is not None:
        raise found.error(
            f"puts the prompt {found.settings['default_prompt_name']!s:.80} before every pair "
            "(default_prompt_name), which is not done here",
            SETTINGS,
        )
    if answers.is_answering(found):
        return
    settings, path = tokenizer_file.transformer_settings(found.tokenizer.places[0])
    task = settings.get(
        "transformer_task", TASK if len(found.modules) < 2 else "feature-extraction"
    )
    if task == "feature-extraction":
        transformer.check(found.tokenizer.places[0])
        return
    if task != TASK:
        raise found.error(f"has the transformer_task {task!s:.60}, known is {TASK}", path.name)
    transformer.check_processing(settings, path)
    modalities = settings.get("modality_config")
    wanted = {"text": {"method": "forward", "method_output_name": "logits"}}
    if modalities is not None and modalities != wanted:
        raise found.error(
            f"reads pairs by {modalities!s:.200} (modality_config), known is {wanted}", path.name
        )


def _columns(found: Folder) -> int:
    """The number of labels, 1 or 2. Raises LoadError unless it is clear which one is the score."""
    config = found.files.config
    name = found.files.config_name or "config.json"
    architectures = [str(each) for each in config.get("architectures") or []]
    if not any(each.endswith(CLASSIFIER) for each in architectures):
        raise found.error(
            f"has the architectures {', '.join(architectures)!s:.200}, and a reranker's is "
            f"...{CLASSIFIER}: its weights would lack the layer that gives the score",
            name,
        )
    labels = config.get(LABELS)
    count = len(labels) if isinstance(labels, Mapping) else config.get("num_labels", 2)
    found.sources["reranker.column"] = f"{name}: {LABELS}"
    for port in found.files.outputs():
        size = port.dims[-1] if len(port.dims) == 2 else None
        if port.name == "logits" and isinstance(size, int) and size != count:
            raise found.error(
                f"gives {size} logits, but {name} says {count} labels: these are files of two "
                "models",
                found.files.name,
            )
    if count == 1:
        return 1
    said = [_letters(labels.get(str(i))) for i in range(2)] if isinstance(labels, Mapping) else []
    if count == 2 and said and said[0] in NOT_RELEVANT and said[1] in RELEVANT:
        return 2
    raise found.error(
        f"says {count!s:.20} labels ({LABELS}), and a reranker has one"
        + (
            ", or two of which the second is named relevant: write a model.toml that says the "
            "column of the score"
            if count == 2
            else ": it is a classifier of texts"
        ),
        name,
    )


def _letters(label: Any) -> str:
    return re.sub(r"[^a-z]", "", str(label).lower())


def _listed(found: Folder) -> tuple[Pooling, tuple[Module, ...]]:
    """The pooling and the modules after it, of which the last gives the score (Ettin's head)."""
    if not pooled.is_dense(found.modules):
        names = ", ".join(map(class_of, found.modules))
        raise found.error(
            f"lists {names:.300}; a reranker of several modules is a Transformer, Pooling and what "
            "follows",
            MODULES,
        )
    modes = pooled.read_modes(found.path, found.modules)
    found.sources["reranker.pooling"] = "modules.json: Pooling"
    size = pooled.pooled_size(found.path, found.modules) or found.hidden
    if len(modes) != 1 or size is None:
        raise found.error("pools in several ways or does not say the size of states", MODULES)
    if found.hidden is not None and size != found.hidden:
        raise found.error(
            f"pools states of {size} numbers, but config.json says the hidden size {found.hidden}: "
            "these are files of two models",
            MODULES,
        )
    last = files.module_folder(found.path, found.modules[-1]) / "config.json"
    if read_table(last).get("module_output_name") != SCORES:
        raise found.error(f"has no last module that gives the {SCORES}", MODULES)
    steps = pooled.read_steps(found.path, found.modules, size, last=SCORES)
    if not steps or steps[-1].type != "dense" or steps[-1].dimension != 1:
        raise found.error("ends in no Dense module that gives one score", MODULES)
    modules = []
    for step in steps:
        if step.type == "normalize":
            modules.append(Module("normalize", "", "identity", residual=False, dimension=size))
        elif step.type != "dropout":
            modules.append(dense.weighted(found, step))
        size = step.dimension
    found.sources["reranker.modules"] = "modules.json"
    return modes[0], tuple(modules)


def activation(found: Folder, columns: int) -> Literal["identity", "sigmoid"]:
    """The function on the score: the first place that says one (get_default_activation_fn).

    Upstream passes over a class that is not torch's own, since it would have to run foreign code.
    """
    config, name = found.files.config, found.files.config_name or "config.json"
    nested = config.get("sentence_transformers")
    own = found.settings.get("activation_fn")
    if isinstance(own, str) and own.startswith("torch."):
        return _named(found, own, SETTINGS, "activation_fn")
    if isinstance(nested, dict) and "activation_fn" in nested:
        said, key = nested["activation_fn"], "sentence_transformers.activation_fn"
    else:
        key = "sbert_ce_default_activation_function"
        said = config.get(key)
    if isinstance(said, str) and said.startswith("torch."):
        return _named(found, said, name, key)
    found.sources["reranker.activation"] = f"{name}: {LABELS}"
    return "sigmoid" if columns == 1 else "identity"


def _named(found: Folder, said: str, file: str, key: str) -> Literal["identity", "sigmoid"]:
    name = said.rsplit(".", 1)[-1]
    if name not in ACTIVATIONS or not re.fullmatch(r"torch\.nn\.(modules\.\w+\.)?\w+", said):
        raise found.error(
            f"has the activation {said!r:.100} ({key}); known are torch.nn's "
            f"{', '.join(ACTIVATIONS)}",
            file,
        )
    found.sources["reranker.activation"] = f"{file}: {key}"
    return ACTIVATIONS[name]


def _layout(found: Folder) -> dict[str, Any]:
    """The ids around query and document and the token types, as tokenizer.json makes them."""
    tokenizer, places = found.tokenizer.tokenizer, found.tokenizer.places
    path = tokenizer_file.check_file(*places)
    layouts = {_around(tokenizer, *probe) for probe in PROBES}
    layout = layouts.pop()
    if layouts or layout is None:
        raise LoadError(
            f"{path}: this tokenizer does more than put fixed ids before, between and after a "
            "query and a document, each of one token type",
            path=str(path),
        )
    prefix, middle, suffix, types = layout
    if any(types) and not _takes_types(found):
        types = (0,) * 5  # the model itself takes 0 for types that it is not given
    return {
        "prefix_ids": prefix, "middle_ids": middle, "suffix_ids": suffix, "type_ids": types,
    }  # fmt: skip


def _takes_types(found: Folder) -> bool:
    """Whether transformers gives the model the token types. Raises LoadError where none says it."""
    places = found.tokenizer.places
    names, _ = tokenizer_check.configured(places, "model_input_names")
    if isinstance(names, list):
        return "token_type_ids" in names
    said, path = tokenizer_check.configured(places, "tokenizer_class")
    name = str(said or "").removesuffix("Fast")
    config = found.files.config
    if name in TYPED or (not name and config.get("model_type") in TYPED_MODELS):
        return True
    types = config.get("type_vocab_size")
    if types is None and config.get("model_type") not in TYPED_MODELS:
        types = 0  # the model knows none
    if name in UNTYPED or types in (0, 1):
        return False
    raise found.error(
        f"has the class {name or None!s:.80}, and only its version of transformers says whether "
        "the model is given token types: write model_input_names into it",
        found.files.name_of(path) if path is not None else tokenizer_check.CONFIG,
    )


Layout = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _around(tokenizer: Tokenizer, query: str, document: str) -> Layout | None:
    """prefix, middle, suffix and the types of the five parts; None for another layout."""
    bare = [tokenizer.encode(text, add_special_tokens=False).ids for text in (query, document)]
    whole = tokenizer.encode(query, document, add_special_tokens=True)
    parts: list[list[tuple[int, int]]] = [[] for _ in range(5)]
    place = 0
    for token, kind, part in zip(whole.ids, whole.type_ids, whole.sequence_ids, strict=True):
        # A special token ends a text.
        wanted = place + place % 2 if part is None else 1 + 2 * part
        if wanted < place:
            return None
        place = wanted
        parts[place].append((token, kind))
    ids = [tuple(token for token, _ in part) for part in parts]
    kinds = [{kind for _, kind in part} for part in parts]
    if [list(ids[1]), list(ids[3])] != bare or any(len(found) > 1 for found in kinds):
        return None
    return ids[0], ids[2], ids[4], tuple(next(iter(found), 0) for found in kinds)

"""Refuse folders that do not hold an embedder, with a message that says what they hold."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from tessera_export.errors import ExportError, as_export_error
from tessera_onnx.models.foreign import files, refused
from tessera_onnx.models.foreign.refused import (
    ADAPTER,
    FORECASTERS,
    RERANKER,
    SERIES,
    TASKS_OF_OTHERS,
    UNMERGED,
    VISION,
)

# colpali-engine's classes, by a part of their base models' names.
COLPALI = {
    "colqwen2": "ColQwen2", "pali": "ColPali", "smol": "ColIdefics3", "idefics": "ColIdefics3",
}  # fmt: skip

__all__ = ["FORECASTERS", "check", "check_name", "check_tensors"]


@as_export_error()
def check(folder: Path, kinds: Collection[str] = (), *, known: bool = False) -> None:
    """Raises ExportError for a folder of something that the kinds do not serve, saying what it is.

    Without kinds it is what none serves. `known`: the catalogue says that it makes vectors.
    """
    if folder.is_dir():
        _check_adapter(folder, kinds)
    refused.check(folder, kinds, known=known)


def check_name(model: str, kinds: Collection[str] = ()) -> None:
    """Raises ExportError for a repository that by its name is a reranker, where the kinds do not
    ask for one, before any download.
    """
    if "reranker" not in kinds and re.search(r"cross-?encoder|rerank", model, re.IGNORECASE):
        raise ExportError(
            f"{model!r:.100} {RERANKER.format('by its name')}; if it is an embedder all the same, "
            "download it and give its folder"
        )


@as_export_error()
def check_tensors(folder: Path, names: Iterable[str]) -> None:
    """Raises ExportError for weights with a classifier's head, whatever config.json says."""
    refused.check_tensors(folder, names)


def _check_adapter(folder: Path, kinds: Collection[str]) -> None:
    """Raises ExportError for an adapter of peft, with the steps that make a model of it."""
    place = refused.find_adapter(folder)
    if place is None:
        return
    config = files.read_table(place / ADAPTER)
    if {str(config.get("task_type"))} & TASKS_OF_OTHERS or str(config.get("peft_type")) in UNMERGED:
        return  # which no steps merge: refused below
    base = str(config.get("base_model_name_or_path") or "BASE")[:300]
    raise ExportError(
        f"{place} is a LoRA adapter: load it on its base model {base!r} with peft, call "
        "merge_and_unload() and save it to a folder, which is, after `pip install peft`, "
        f"`{_merging(place, config, base, kinds)}`; {_beside(folder, place, kinds)}, and export "
        "MERGED"
    )


def _merging(place: Path, config: dict[str, Any], base: str, kinds: Collection[str]) -> str:
    """The statements that merge an adapter and save it to MERGED."""
    here = str(place)
    if SERIES in kinds:
        return (
            "from chronos import Chronos2Pipeline; "
            f"Chronos2Pipeline.from_pretrained({here!r}).save_pretrained('MERGED')"
        )
    named = config.get("auto_mapping")
    named = named if isinstance(named, dict) else {}
    module, name = (named.get(key) for key in ("parent_library", "base_model_class"))
    if not all(isinstance(text, str) and re.fullmatch(r"[\w.]+", text) for text in (module, name)):
        module = "transformers"
        name = "AutoModelForMaskedLM" if "sparse" in kinds else "AutoModel"
        found = [name for part, name in COLPALI.items() if part in base.lower()]
        if VISION in kinds and found:
            module, name = "colpali_engine.models", found[0]
    second = "AutoProcessor" if VISION in kinds else "AutoTokenizer"
    files = ("tokenizer.json", "tokenizer_config.json", "processor_config.json")
    texts = here if any((place / name).is_file() for name in files) else base
    return (
        f"from peft import PeftModel; from {module} import {name}; from transformers import "
        f"{second}; PeftModel.from_pretrained({name}.from_pretrained({base!r}), {here!r})"
        f".merge_and_unload().save_pretrained('MERGED'); "
        f"{second}.from_pretrained({texts!r}).save_pretrained('MERGED')"
    )


def _beside(folder: Path, place: Path, kinds: Collection[str]) -> str:
    """What of the folder belongs beside the merged weights."""
    if {SERIES, VISION} & set(kinds):
        return "leave the adapter's own files out"
    if place != folder:
        return (
            f"put MERGED in the place of {place.name} in a copy of {folder}, and call that MERGED"
        )
    return (
        "copy modules.json, the folders that it names and every *sentence*.json, from this folder "
        "or, where it has none, from the base model's, to MERGED"
    )
